"""Statistical members answer for the series that a manifest lists, and for no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import forecaster_worlds as worlds
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecastle.errors import ModelRefused
from forecastle.predict import arima
from forecastle.predict.arima import MOST_LAGS, Arima, Arimas
from forecastle.predict.engine import Predictor
from forecastle.predict.members import Member, Members, quantiles_of
from forecastle.predict.naive import QUANTILES
from forecastle.predict.smoothing import Rules, states
from forecastle.settings import PredictSettings
from forecastle.types import SeriesKey

LEVELS = np.asarray(QUANTILES)
KEY = SeriesKey("w0001", "m")
STEPS = np.arange(1, worlds.HORIZON + 1)
RULES: dict[str, tuple[float, float, float] | Arima] = {
    "ets": (0.3, 0.1, 0.9),
    "theta": (0.3, 0.0, 1.0),
    "stl_ets": (0.3, 0.1, 0.9),
    "sarimax": Arima((0.5, 0.2), (-0.4,), 1),
}


def member(key: SeriesKey = KEY, **changes: Any) -> dict[str, Any]:
    return Member(key, "ets", (0.3, 0.1, 0.9)).told() | changes


def shocks(**changes: Any) -> dict[str, Any]:
    return Member(KEY, "sarimax", RULES["sarimax"]).told() | changes


def asked(kind: str, values: np.ndarray, season: tuple[float, ...] = (), slot: int = 7) -> np.ndarray:
    one = Member(KEY, kind, RULES[kind], season)
    known = np.isfinite(values)
    return quantiles_of([one] * len(values), values, known, slot=slot, horizon=worlds.HORIZON, levels=LEVELS)


@pytest.mark.parametrize(("kind", "rule"), [("ets", (0.3, 0.1, 0.9, 0.0)), ("theta", (0.3, 0.0, 1.0, 0.5))])
def test_the_path_is_that_of_the_recursion_and_the_spread_lies_around_it(kind: str, rule: tuple[float, ...]) -> None:
    values = worlds.waves(5)
    rules = Rules.of([rule] * 5)  # type: ignore[list-item]
    told = states(values.astype(float), np.isfinite(values), rules, np.array([199])).ahead(rules, STEPS)[:, 0]
    answer = asked(kind, values)
    assert (np.diff(answer, axis=2) >= 0).all()
    assert (answer[:, :, 0] < told).all()
    assert (answer[:, :, -1] > told).all()
    assert np.abs(answer[:, :, 5] - told).max() < np.abs(answer[:, :, -1] - told).max()


def test_the_path_of_sarimax_is_that_of_the_filter_beside_its_level() -> None:
    values, still = worlds.waves(5), Arima((0.8,), (0.3,), 0)
    level = float(values.mean())
    one = Member(KEY, "sarimax", still, (level,))
    known, rules = np.isfinite(values), Arimas.of([still] * 5)
    told = level + arima.states(values - level, known, rules, np.array([199])).ahead(rules, STEPS)[:, 0]
    answer = quantiles_of([one] * 5, values, known, slot=7, horizon=worlds.HORIZON, levels=LEVELS)
    assert (answer[:, :, 0] < told).all()
    assert (answer[:, :, -1] > told).all()
    assert np.abs(answer[:, :, 5] - told).max() < np.abs(answer[:, :, -1] - told).max()


def test_a_season_is_taken_out_before_and_put_back_after() -> None:
    rng = np.random.default_rng(0)
    season = tuple((20 * np.sin(np.arange(24) / 24 * 2 * np.pi)).tolist())
    slots = 1000 + np.arange(-199, 1)
    values = (100 + np.take(season, slots, mode="wrap") + rng.normal(0, 1, 200)).astype(np.float32)[None]
    coming = 100 + np.take(season, 1000 + STEPS, mode="wrap")
    known = asked("stl_ets", values, season, slot=1000)[0]
    assert np.abs(known[:, 5] - coming).max() < 4
    assert np.abs(asked("stl_ets", values, season, slot=1012)[0][:, 5] - coming).max() > 15
    assert np.ptp(known[:, [0, -1]], axis=1).mean() < 0.3 * np.ptp(asked("ets", values)[0][:, [0, -1]], axis=1).mean()


@pytest.mark.timeout(20)
def test_a_season_of_one_slot_costs_no_more_than_another() -> None:
    values = np.repeat(worlds.waves(1), 20, axis=0)
    ours = asked("stl_ets", values, (3.0,), slot=30_000_000)
    np.testing.assert_allclose(ours, asked("stl_ets", values, (3.0,) * 24, slot=30_000_000))


@pytest.mark.parametrize("kind", ["ets", "sarimax"])
def test_eight_of_ten_outcomes_lie_in_the_middle_eighty_percent(kind: str) -> None:
    rng = np.random.default_rng(1)
    values = (100 + np.cumsum(rng.normal(0, 1, (400, 300)), axis=1)).astype(np.float32)
    answer = asked(kind, values[:, : -worlds.HORIZON])
    came = values[:, -worlds.HORIZON :]
    inside = (answer[:, :, 2] <= came) & (came <= answer[:, :, 8])
    assert 0.7 < inside.mean() < 0.9


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.one_of(st.floats(-(2.0**126), 2.0**126, width=32), st.just(float("nan"))), min_size=20, max_size=40),
    st.sampled_from(list(RULES)),
)
def test_any_window_gets_finite_quantiles_in_order(values: list[float], kind: str) -> None:
    window = np.asarray([[*values, 1.0]], np.float32)
    answer = asked(kind, window, (1.0, 2.0) if kind == "stl_ets" else ())
    assert np.isfinite(answer).all()
    assert (np.diff(answer, axis=2) >= 0).all()
    if np.nanmin(window) >= 0:
        assert (answer >= 0).all()


def test_listed_series_are_answered_by_their_member_and_the_others_by_the_network(tmp_path: Path) -> None:
    values = worlds.waves(4)
    worlds.put(tmp_path, worlds.model(), members=[member(), member(SeriesKey("elsewhere", "m"))])
    predictor = Predictor(PredictSettings(cache=str(tmp_path), horizon=worlds.HORIZON), worlds.STEP)
    told = predictor.forecast(worlds.windows(values))
    assert not told.fallback.any()
    plain = values[:, -worlds.LOOK_BACK :].max(axis=1)[:, None, None] * worlds.SPREAD
    np.testing.assert_allclose(told.values[[0, 2, 3]], np.broadcast_to(plain, told.values.shape)[[0, 2, 3]], rtol=1e-5)
    np.testing.assert_allclose(told.values[1], asked("ets", values[1:2], slot=worlds.END // worlds.STEP)[0], rtol=1e-5)


def test_members_of_every_kind_answer_in_one_batch_as_each_alone() -> None:
    values = worlds.waves(4)
    listed = [Member(SeriesKey(f"w{i:04d}", "m"), kind, rule) for i, (kind, rule) in enumerate(RULES.items())]
    answer = np.zeros((4, worlds.HORIZON, len(LEVELS)), np.float32)
    Members([one.told() for one in listed[::-1]]).replace(answer, worlds.windows(values), QUANTILES)
    slot = worlds.END // worlds.STEP
    for i, kind in enumerate(RULES):
        np.testing.assert_allclose(answer[i], asked(kind, values[i : i + 1], slot=slot)[0], rtol=1e-5)


def test_the_most_lags_on_the_edge_of_running_away_are_answered_with_finite_quantiles() -> None:
    largest = float(np.finfo(np.float32).max) / 8
    edge = Member(KEY, "sarimax", Arima((0.0,) * (MOST_LAGS - 1) + (0.9999999,), (0.0,) * (MOST_LAGS - 1) + (0.999,), 1))
    assert Member.read(edge.told()) == edge
    values = largest * np.sign(np.random.default_rng(0).normal(0, 1, (1, 200))).astype(np.float32)
    answer = quantiles_of([edge], values, np.isfinite(values), slot=7, horizon=worlds.HORIZON, levels=LEVELS)
    assert np.isfinite(answer).all()


def test_a_window_that_was_hardly_observed_is_the_networks() -> None:
    values = worlds.waves(3)
    mask = np.ones(values.shape, bool)
    mask[1, :-10] = False
    answer = np.full((3, worlds.HORIZON, len(LEVELS)), 5.0, np.float32)
    Members([member(), member(SeriesKey("w0002", "m"))]).replace(answer, worlds.windows(values, mask), QUANTILES)
    assert (answer[:2] == 5.0).all()
    assert (answer[2] != 5.0).all()


@pytest.mark.parametrize("kind", RULES)
def test_what_is_told_is_read_again(kind: str) -> None:
    one = Member(SeriesKey("w", "m", (("pod", "a"), ("site", "b"))), kind, RULES[kind], (1.0, -1.0))
    assert Member.read(one.told()) == one
    assert len(Members([one.told()])) == 1


@pytest.mark.parametrize(
    "told",
    [
        7,
        [7],
        [{}],
        {"w": 1},
        [member(alpha=0)],
        [member(alpha=float("nan"))],
        [member(beta=0.5)],
        [member(phi=1.5)],
        [member(member="arma")],
        [member(member="sarimax")],
        [shocks(ar=[1.0])],
        [shocks(ar=[0.5, float("nan")])],
        [shocks(ar=[0.0] * (MOST_LAGS + 1))],
        [shocks(ar=0.5)],
        [shocks(ma=[-1.0])],
        [shocks(ma=["much"])],
        [shocks(difference=2)],
        [shocks(difference=None)],
        [shocks(season=[float("nan")])],
        [{name: value for name, value in shocks().items() if name != "ma"}],
        [member(labels=[1])],
        [member(season=[float("inf")])],
        [member(season=[0.0] * 100_001)],
        [member(season=3)],
    ],
)
def test_a_hostile_list_refuses_the_model(told: Any) -> None:
    with pytest.raises(ModelRefused, match="members cannot be read"):
        Members(told)
