from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from forecastle.predict.calibrate import FACTORS, Calibrator
from forecastle.predict.naive import QUANTILES

sys.path.insert(0, str(Path(__file__).parent))
import forecaster_worlds as worlds

HORIZON, WINDOW = 12, 100
NORMAL = np.array([-2.326, -1.645, -1.282, -0.842, -0.524, 0, 0.524, 0.842, 1.282, 1.645, 2.326])
HIGH, LOW = QUANTILES.index(0.9), QUANTILES.index(0.1)


def world(rows=50, ticks=200, sigma=10.0, seed=0, level=1000.0):
    return (level + sigma * np.random.default_rng(seed).normal(size=(rows, ticks))).astype(np.float32)


def claimed(rows, sigma, level=1000.0):
    """Quantiles of a forecaster that believes in ``sigma``."""
    return np.tile(level + sigma * NORMAL, (rows, HORIZON, 1)).astype(np.float32)


def stream(calibrator, values, raw, first=0, scored=None, suspect=None):
    """Every tick of ``values`` through the calibrator; yields (tick, calibrated)."""
    rows = len(values)
    scored = np.ones(rows, bool) if scored is None else scored
    for tick in range(first, values.shape[1]):
        window = worlds.windows(values[:, max(0, tick - 59) : tick + 1], end=worlds.END + tick * worlds.STEP)
        window = window if suspect is None else replace(window, suspect=suspect)
        calibrator.observe(window)
        yield tick, calibrator.stretch(raw, window, scored)


def last(*args, **kwargs):
    return list(stream(*args, **kwargs))[-1][1]


def fresh():
    return Calibrator(QUANTILES, HORIZON, WINDOW, worlds.STEP)


@pytest.mark.parametrize("believed", [1.0, 4.0, 10.0])
def test_coverage_is_restored_when_spread_was_too_small(believed):
    values = world(sigma=10)
    answer = last(fresh(), values, claimed(50, believed))
    future = world(sigma=10, seed=9)[:, None, None, :]
    covered = ((future >= answer[:, :, LOW, None]) & (future <= answer[:, :, HIGH, None])).mean()
    raw = claimed(50, believed)
    before = ((future >= raw[:, :, LOW, None]) & (future <= raw[:, :, HIGH, None])).mean()
    assert covered == pytest.approx(0.8, abs=0.08)
    assert covered >= before - 0.03


@pytest.mark.parametrize("believed", [6.0, 8.0, 10.0, 12.5, 20.0])
def test_coverage_is_neither_less_nor_more_than_promised_wherever_in_a_bin_the_factor_lies(believed):
    answer = last(fresh(), world(rows=400, sigma=10), claimed(400, believed))[:, 0]
    future = world(rows=400, sigma=10, seed=9)
    assert (future > answer[:, HIGH, None]).mean() == pytest.approx(0.1, abs=0.015)
    assert (future < answer[:, LOW, None]).mean() == pytest.approx(0.1, abs=0.015)


def test_scores_of_far_steps_count_as_fewer_and_leave_more_room():
    answer = last(fresh(), world(rows=400, sigma=10), claimed(400, 10.0))
    width = (answer[:, :, HIGH] - answer[:, :, LOW]).mean(axis=0)
    assert width[-1] > 1.03 * width[0]
    assert width[-1] < 1.2 * width[0]


def test_spread_that_was_too_wide_narrows_no_further_than_the_least_factor():
    answer = last(fresh(), world(sigma=1), claimed(50, 50.0))
    width = (answer[:, 0, HIGH] - answer[:, 0, LOW]) / (2 * 1.282 * 50)
    assert width.min() >= FACTORS[0]
    assert width.mean() < 0.85


def test_order_is_never_broken_whatever_the_stretch():
    rng = np.random.default_rng(3)
    raw = np.sort(rng.lognormal(3, 2, (50, HORIZON, len(QUANTILES))), axis=2).astype(np.float32)
    raw[0] = raw[0, :, :1]
    for _, answer in stream(fresh(), world(sigma=300), raw):
        assert (np.diff(answer, axis=2) >= 0).all()
        assert np.array_equal(answer[:, :, 5], raw[:, :, 5]), "the median is the model's"


def test_no_spread_at_all_is_widened_too():
    answer = last(fresh(), world(sigma=20), claimed(50, 0.0))
    assert ((answer[:, :, HIGH] - answer[:, :, LOW]) > 20).mean() > 0.9


def test_each_side_learns_for_itself():
    values = world(sigma=1)
    values[:, ::4] += 100
    answer = last(fresh(), values, claimed(50, 5.0))
    up, down = answer[:, 0, HIGH] - answer[:, 0, 5], answer[:, 0, 5] - answer[:, 0, LOW]
    assert up.mean() > 4 * down.mean()


def test_only_the_series_that_needs_it_is_widened():
    values = world(rows=2, sigma=5)
    values[1] = world(rows=1, sigma=50, seed=4)
    answer = last(fresh(), values, claimed(2, 5.0))
    width = (answer[:, 0, HIGH] - answer[:, 0, LOW]) / (2 * 1.282 * 5)
    assert width[0] < 1.5
    assert width[1] > 5


def test_only_horizons_that_need_it_are_widened():
    walk = (1000 + np.random.default_rng(0).normal(0, 3, (80, 300)).cumsum(axis=1)).astype(np.float32)
    calibrator = fresh()
    for tick in range(60, 300):
        window = worlds.windows(walk[:, tick - 59 : tick + 1], end=worlds.END + tick * worlds.STEP)
        raw = (walk[:, tick, None, None] + 3 * NORMAL * np.ones((1, HORIZON, 1))).astype(np.float32)
        calibrator.observe(window)
        calibrator.stretch(raw, window, np.ones(80, bool))
    up, _ = calibrator.factors()
    assert up[:, 0].mean() < 1.3
    assert up[:, -1].mean() > 1.3 * up[:, 0].mean()
    assert (np.diff(up.mean(axis=0)) >= 0).all()


def test_a_short_history_moves_little():
    answer = last(fresh(), world(sigma=1000)[:, :4], claimed(50, 10.0))
    width = (answer[:, 0, HIGH] - answer[:, 0, LOW]) / (2 * 1.282 * 10)
    assert width.max() < FACTORS[-1] / 3, "needed is a hundred times the spread"


def test_the_state_is_a_function_of_the_last_ticks_alone():
    values, raw = world(ticks=350, sigma=30), claimed(50, 5.0)
    long, short = fresh(), fresh()
    whole = dict(stream(long, values, raw))
    replayed = dict(stream(short, values, raw, first=350 - WINDOW - 1))
    assert np.array_equal(whole[349], replayed[349])
    assert not np.array_equal(whole[349], raw)


def test_an_outburst_is_forgotten_with_its_window():
    values = world(ticks=400, sigma=5)
    values[:, 100:140:2] += 500
    answers = dict(stream(fresh(), values, claimed(50, 5.0)))
    width = {t: (a[:, 0, HIGH] - a[:, 0, 5]).mean() for t, a in answers.items() if t in (99, 150, 399)}
    assert width[150] > 3 * width[99]
    assert width[399] == pytest.approx(width[99], rel=0.2)


def test_series_keep_their_scores_when_others_come_and_go():
    values, raw = world(rows=3, ticks=150, sigma=50), claimed(3, 5.0)
    keys = worlds.windows(values).keys
    straight = fresh()
    wanted = dict(stream(straight, values, raw))[149]
    calibrator = fresh()
    for tick in range(150):
        order = np.array([0, 1, 2] if tick < 60 else [2, 0] if tick < 90 else [2, 1, 0])
        window = worlds.windows(values[order, max(0, tick - 59) : tick + 1], end=worlds.END + tick * worlds.STEP,
                                keys=tuple(keys[i] for i in order))  # fmt: skip
        calibrator.observe(window)
        answer = calibrator.stretch(raw[order], window, np.ones(len(order), bool))
    assert np.array_equal(answer[0], wanted[2])
    assert np.array_equal(answer[2], wanted[0])
    assert not np.array_equal(answer[1], wanted[1]), "its scores of before are gone"


def test_gaps_suspects_and_rows_of_the_stand_in_teach_nothing():
    raw = claimed(50, 5.0)
    values = world(sigma=100)
    holes = np.full_like(values, np.nan)
    assert np.array_equal(last(fresh(), holes, raw), raw)
    assert np.array_equal(last(fresh(), values, raw, suspect=np.ones(50, bool)), raw)
    half = np.arange(50) < 25
    answer = last(fresh(), values, raw, scored=half)
    assert np.array_equal(answer[~half], raw[~half])
    assert not np.array_equal(answer[half], raw[half])


def test_another_model_starts_anew():
    calibrator, raw = fresh(), claimed(50, 5.0)
    last(calibrator, world(sigma=100), raw)
    calibrator.reset()
    assert (calibrator.factors()[0] == 1).all()


def test_a_horizon_of_one_step():
    calibrator = Calibrator(QUANTILES, 1, 50, worlds.STEP)
    raw = claimed(5, 5.0)[:, :1]
    assert last(calibrator, world(rows=5, sigma=50), raw).shape == (5, 1, len(QUANTILES))
    assert calibrator.factors()[0].mean() > 3
