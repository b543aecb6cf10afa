"""The forecast learned from the first part of a history: what it learns, and that it reads nothing of the rest."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecastle.errors import ConfigError
from forecastle.predict.naive import QUANTILES
from forecastle.rehearsal import quantiles
from forecastle.rehearsal.boost import Shape
from forecastle.rehearsal.quantiles import Pinball, learn_ahead
from forecastle.rehearsal.trace import STEP_S, Demand

DAY = 86_400 // STEP_S
STEP, HORIZON = 4, 20


def plain_of(demand, horizon=HORIZON, season=False):
    """The last slot again, or the slots of a day ago."""
    value = np.concatenate([[0.0], np.cumsum(demand.value)])

    def plain(ticks):
        begin = np.maximum(ticks[:, None] + STEP * (np.arange(horizon) - 1440 if season else np.full(horizon, -1)), 0)
        return (value[begin + STEP] - value[begin]) / STEP

    return plain


def learn(demand, horizon=HORIZON, **more):
    return learn_ahead(demand, STEP, horizon, QUANTILES, plain_of(demand, horizon, **more))


def rhythm(days=4, seed=0):
    """Demand with a daily rhythm, a ramp at every full hour and noise that grows with the level."""
    draw = np.random.default_rng(seed)
    at = np.arange(days * DAY)
    calm = 300 + 200 * np.sin(2 * np.pi * at / DAY) + 150 * np.clip(at % 240 / 40.0, 0, 1) * (at % 240 < 120)
    value = np.maximum(calm * (1 + draw.normal(0, 0.05, len(at))), 1.0)
    return Demand(1_760_000_400_000 + at * STEP_S * 1000, value, np.ones(len(at), bool), 3 * DAY, 60.0)


@pytest.fixture(scope="module")
def learned():
    demand = rhythm()
    return demand, learn(demand)


def truth(demand, ticks):
    """Mean demand of each of the next slots, float64[n, horizon], slot by slot."""
    return np.array([[demand.value[t + h * STEP : t + (h + 1) * STEP].mean() for h in range(HORIZON)] for t in ticks])


def pinball(actual, said):
    short = actual[:, :, None] - said
    return np.maximum(np.array(QUANTILES) * short, (np.array(QUANTILES) - 1) * short).mean()


def test_it_beats_what_it_was_given_and_its_errors(learned):
    demand, ahead = learned
    ticks = np.arange(demand.first, len(demand) - HORIZON * STEP, 9 * STEP)
    actual = truth(demand, ticks)
    past = np.arange(DAY, demand.first - HORIZON * STEP, 9 * STEP)
    ratio = np.quantile(truth(demand, past) / plain_of(demand)(past), QUANTILES, axis=0)
    as_ever = plain_of(demand)(ticks)[:, :, None] * ratio.T
    assert pinball(actual, ahead.at(ticks)) < 0.7 * pinball(actual, as_ever)


def test_a_good_plain_forecast_stays_good():
    demand = rhythm()
    ahead = learn(demand, season=True)
    ticks = np.arange(demand.first, len(demand) - HORIZON * STEP, 9 * STEP)
    actual, plain = truth(demand, ticks), plain_of(demand, season=True)(ticks)
    middle = ahead.at(ticks)[:, :, QUANTILES.index(0.5)]
    assert np.abs(actual - middle).mean() < 1.25 * np.abs(actual - plain).mean()  # it was a bad one on the first of three days


def test_a_quantile_is_exceeded_as_often_as_it_says(learned):
    demand, ahead = learned
    ticks = np.arange(demand.first, len(demand) - HORIZON * STEP, 11)
    actual, said = truth(demand, ticks), ahead.at(ticks)
    for level in (0.1, 0.5, 0.9):
        share = (actual <= said[:, :, QUANTILES.index(level)]).mean()
        assert abs(share - level) < 0.1


def test_quantiles_do_not_cross_and_are_never_negative(learned):
    demand, ahead = learned
    said = ahead.at(np.arange(demand.first, len(demand), 97))
    assert said.dtype == np.float32
    assert said.shape[1:] == (HORIZON, len(QUANTILES))
    assert (np.diff(said, axis=2) >= -1e-3).all()
    assert (said >= 0).all()


def test_nothing_after_the_tick_is_read(learned, monkeypatch):
    demand, _ = learned
    tick = demand.first + 500
    value = demand.value.copy()
    value[tick:] *= 9
    monkeypatch.setattr(quantiles, "SHAPE", Shape(3))
    monkeypatch.setattr(quantiles, "ROWS", 2000)
    one, two = (learn(replace(demand, value=v)) for v in (demand.value, value))
    np.testing.assert_array_equal(one.at(np.array([tick - 3, tick])), two.at(np.array([tick - 3, tick])))
    assert (one.at(np.array([tick + 9])) != two.at(np.array([tick + 9]))).any()


def test_nothing_is_learned_from_a_hole(monkeypatch):
    monkeypatch.setattr(quantiles, "SHAPE", Shape(3))
    monkeypatch.setattr(quantiles, "ROWS", 2000)
    demand = rhythm()
    known = demand.known.copy()
    known[DAY : 2 * DAY] = False
    made = [rhythm().value.copy() for _ in range(2)]
    made[1][DAY + 60 : 2 * DAY - 60] = made[0][DAY + 60]
    flat = learn(replace(demand, value=made[1], known=known))
    assert np.isfinite(flat.start).all()
    middle = flat.start[:, QUANTILES.index(0.5)]
    # had the flat day been learned from, a third of all ratios would be 0 and the upper quantiles far lower
    unknown = learn(replace(demand, value=made[1]))
    assert (flat.start[:, -3] > unknown.start[:, -3]).all()
    assert np.abs(middle).max() < 0.5


@pytest.mark.parametrize(("first", "horizon"), [(DAY - 1, 20), (2 * DAY, 5000)])
def test_too_short_a_first_part_is_refused(first, horizon):
    with pytest.raises(ConfigError, match=r"first part of the history is .* days; at least"):
        learn(replace(rhythm(), first=first), horizon)


def test_a_horizon_of_one_slot_is_one_anchor(monkeypatch):
    monkeypatch.setattr(quantiles, "SHAPE", Shape(2))
    demand = rhythm()
    assert learn(demand, 1).at(np.array([demand.first])).shape == (1, 1, len(QUANTILES))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(0.01, 0.99), st.floats(-5, 5)), min_size=1, max_size=20))
def test_the_slope_is_that_of_the_loss_and_parts_are_parts(rows):
    y, q, at = (np.array(column) for column in zip(*rows, strict=True))
    loss, tiny = Pinball(y, q), 1e-6
    away = np.abs(y - at) > 1e-3
    slope = (loss.value(at + tiny) - loss.value(at - tiny)) / (2 * tiny)
    np.testing.assert_allclose(slope[away], loss.slope(at)[away], atol=1e-4)
    some = np.arange(0, len(y), 2)
    np.testing.assert_array_equal(loss.part(some).value(at[some]), loss.value(at)[some])
