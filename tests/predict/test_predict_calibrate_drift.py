"""Streams whose errors grow, shrink or lean: promised coverage is found again, the same way in every replay."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecastle.predict.calibrate import FACTORS, Calibrator
from forecastle.predict.naive import QUANTILES
from forecastle.types import Windows

sys.path.insert(0, str(Path(__file__).parent))
import forecaster_worlds as worlds

ROWS, WINDOW, LEVEL = 40, 120, 1000.0
NORMAL = np.array([-2.326, -1.645, -1.282, -0.842, -0.524, 0, 0.524, 0.842, 1.282, 1.645, 2.326])
LOW, MIDDLE, HIGH = (QUANTILES.index(level) for level in (0.1, 0.5, 0.9))


def window(values: np.ndarray, tick: int) -> Windows:
    return worlds.windows(values[:, max(0, tick - 59) : tick + 1], end=worlds.END + tick * worlds.STEP)


def raw(rows: int, horizon: int, sigma: float = 10.0) -> np.ndarray:
    return np.tile(LEVEL + sigma * NORMAL, (rows, horizon, 1)).astype(np.float32)


def served(values: np.ndarray, horizon: int = 1, coverage_window: int = WINDOW) -> np.ndarray:
    """Calibrated forecasts float32[tick, n, h, q] of a model that always believes in sigma 10 around 1000."""
    calibrator, answers = Calibrator(QUANTILES, horizon, coverage_window, worlds.STEP), []
    for tick in range(values.shape[1]):
        now = window(values, tick)
        calibrator.observe(now)
        answers.append(calibrator.stretch(raw(len(values), horizon), now, np.ones(len(values), bool)))
    return np.asarray(answers)


def covered(values: np.ndarray, answers: np.ndarray, ticks: range) -> tuple[float, float, float]:
    """Shares of outcomes one step ahead (inside, above, below) the promised 80 %, over ``ticks`` of issue."""
    issued = answers[ticks.start : ticks.stop, :, 0]
    came = values[:, ticks.start + 1 : ticks.stop + 1].T
    above, below = float((came > issued[..., HIGH]).mean()), float((came < issued[..., LOW]).mean())
    return 1 - above - below, above, below


def drifting(sigma: Callable[[int], float], ticks: int = 520, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(ROWS, ticks))
    return (LEVEL + noise * [sigma(tick) for tick in range(ticks)]).astype(np.float32)


@pytest.mark.parametrize(("before", "after"), [(10, 30), (10, 80), (30, 10), (80, 12)])
def test_coverage_reaches_its_level_after_errors_grow_or_shrink(before: float, after: float) -> None:
    values = drifting(lambda tick: before if tick < 250 else after)
    answers = served(values)
    for ticks in (range(150, 249), range(250 + WINDOW, 518)):
        assert 0.77 < covered(values, answers, ticks)[0] < 0.83


def test_right_after_errors_grew_coverage_is_lost_and_right_after_they_shrank_there_is_too_much() -> None:
    grown, shrunk = (drifting(lambda tick, a=a, b=b: a if tick < 250 else b) for a, b in ((10, 40), (40, 10)))
    assert covered(grown, served(grown), range(250, 260))[0] < 0.5
    assert covered(shrunk, served(shrunk), range(250, 260))[0] > 0.95


def test_errors_that_grow_steadily_are_followed() -> None:
    values = drifting(lambda tick: 10 * 1.004**tick)
    inside, _, _ = covered(values, served(values), range(200, 518))
    fixed, _, _ = covered(values, np.tile(raw(ROWS, 1), (520, 1, 1, 1)), range(200, 518))
    assert fixed < 0.5
    assert inside > 0.65, "half a window behind: errors are a fifth larger than they were"


@pytest.mark.parametrize("lean", [25.0, -25.0])
def test_a_model_that_is_always_wrong_on_one_side_is_widened_there_only(lean: float) -> None:
    values = drifting(lambda _: 5.0) + np.float32(lean)
    answers = served(values)
    inside, above, below = covered(values, answers, range(200, 518))
    assert inside > 0.75
    assert max(above, below) < 0.2
    up, down = answers[-1, :, 0, HIGH] - LEVEL, LEVEL - answers[-1, :, 0, LOW]
    assert ((up > 2 * down) if lean > 0 else (down > 2 * up)).mean() > 0.95


def test_each_side_keeps_its_own_tenth() -> None:
    noise = np.random.default_rng(3).exponential(size=(ROWS, 520)) * np.where(
        np.random.default_rng(4).random((ROWS, 520)) < 0.5, 40, -15
    )
    values = (LEVEL + noise).astype(np.float32)
    inside, above, below = covered(values, served(values), range(200, 518))
    assert inside == pytest.approx(0.8, abs=0.05)
    assert (above, below) == (pytest.approx(0.1, abs=0.03), pytest.approx(0.1, abs=0.03))


@settings(max_examples=25, deadline=None)
@given(
    sigma=st.floats(0, 1e6),
    shift=st.floats(-1e6, 1e6),
    horizon=st.integers(1, 9),
    seed=st.integers(0, 2**32 - 1),
    blank=st.floats(0, 1),
)
def test_quantiles_never_cross_and_stay_finite_whatever_came(
    sigma: float, shift: float, horizon: int, seed: int, blank: float
) -> None:
    rng = np.random.default_rng(seed)
    values = (shift + sigma * rng.standard_normal((3, 30))).astype(np.float32)
    values[rng.random(values.shape) < blank] = np.nan
    calibrator = Calibrator(QUANTILES, horizon, 20, worlds.STEP)
    for tick in range(30):
        now = window(values, tick)
        claim = np.sort(shift + rng.lognormal(0, 3, (3, horizon, len(QUANTILES))), axis=2).astype(np.float32)
        calibrator.observe(now)
        answer = calibrator.stretch(claim, now, np.ones(3, bool))
        assert np.isfinite(answer).all()
        assert (np.diff(answer, axis=2) >= 0).all()
        assert np.array_equal(answer[:, :, MIDDLE], claim[:, :, MIDDLE])


def test_a_replay_gives_the_same_bytes_and_factors() -> None:
    values = drifting(lambda tick: 5 + tick / 10, ticks=200)
    one, two = served(values, horizon=6), served(values, horizon=6)
    assert one.tobytes() == two.tobytes()


@pytest.mark.parametrize("start", [60, 139])
def test_a_restart_joins_the_stream_once_it_has_seen_a_window(start: int) -> None:
    values = drifting(lambda tick: 10 if tick < 130 else 60, ticks=280)
    whole = served(values, horizon=4, coverage_window=80)
    calibrator = Calibrator(QUANTILES, 4, 80, worlds.STEP)
    for tick in range(start, 280):
        now = window(values, tick)
        calibrator.observe(now)
        answer = calibrator.stretch(raw(ROWS, 4), now, np.ones(ROWS, bool))
        if tick >= start + 80:
            assert np.array_equal(answer, whole[tick]), f"tick {tick} differs"


def test_factors_stay_within_their_choices_and_are_read_without_being_changed() -> None:
    values = drifting(lambda _: 1e5)
    calibrator = Calibrator(QUANTILES, 8, WINDOW, worlds.STEP)
    for tick in range(200):
        now = window(values, tick)
        calibrator.observe(now)
        calibrator.stretch(raw(ROWS, 8), now, np.ones(ROWS, bool))
    first, again = calibrator.factors(), calibrator.factors()
    for one, two in zip(first, again, strict=True):
        assert np.array_equal(one, two)
        assert one.min() >= FACTORS[0]
        assert one.max() <= FACTORS[-1]
    assert first[0].max() > 8


def test_a_missed_tick_is_no_score_and_no_error() -> None:
    values = drifting(lambda _: 50.0, ticks=200)
    calibrator, seen = Calibrator(QUANTILES, 3, WINDOW, worlds.STEP), []
    for tick in range(200):
        if tick % 7 in (3, 4):
            continue
        now = window(values, tick)
        calibrator.observe(now)
        seen.append(calibrator.stretch(raw(ROWS, 3), now, np.ones(ROWS, bool)))
    width = seen[-1][:, 0, HIGH] - seen[-1][:, 0, LOW]
    assert np.median(width) == pytest.approx(2 * 1.282 * 50, rel=0.25)


def test_a_suspect_tick_does_not_teach_but_the_ticks_around_it_do() -> None:
    values = drifting(lambda _: 10.0, ticks=200)
    bad = values.copy()
    bad[:, 100:120] = 0.0
    plain, guarded, fooled = (Calibrator(QUANTILES, 1, WINDOW, worlds.STEP) for _ in range(3))
    for tick in range(200):
        for calibrator, source, suspect in ((plain, values, False), (guarded, bad, 100 <= tick < 120), (fooled, bad, False)):
            now = replace(window(source, tick), suspect=np.full(ROWS, suspect))
            calibrator.observe(now)
            calibrator.stretch(raw(ROWS, 1), now, np.ones(ROWS, bool))
    down, down_guarded, down_fooled = (one.factors()[1].mean() for one in (plain, guarded, fooled))
    assert down_guarded == pytest.approx(down, rel=0.1)
    assert down_fooled > 3 * down
