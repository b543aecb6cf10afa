"""Drift of the fleet a model serves: found soon, never without change, the same after a restart, blind to gaps and to a few."""

from __future__ import annotations

import logging
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecastle.predict.drift import Drifts, departures, memory
from forecastle.predict.engine import Predictor
from forecastle.settings import PredictSettings
from forecastle.types import Drift, SeriesKey, Windows

sys.path.insert(0, str(Path(__file__).parent))
import forecaster_worlds as worlds

ROWS, DAY, LOOK_BACK, DAYS = 40, 96, 192, 11
ANCHORS = (1, 2, 3, 6)
SETTINGS = PredictSettings(model="", season=DAY, horizon=6, drift_window=24, drift_hold=8)
WITHIN = SETTINGS.drift_window * 3 // 2 + SETTINGS.drift_hold
"""Ticks after a change in which drift must be raised: the window has turned, every series had its turn, and it held."""
START, CHANGE = 7 * DAY, 9 * DAY
KEYS = tuple(SeriesKey(f"w{i:02d}", "rps") for i in range(ROWS))


def pattern(ticks: int = DAYS * DAY, shift: float = 0.0, weekend: float = 0.6) -> np.ndarray:
    """What a model has learned of ``ROWS`` series of many sizes: a daily cycle, lower on every sixth and seventh day."""
    at, rng = np.arange(ticks), np.random.default_rng(5)
    size, phase = 10.0 ** rng.uniform(0, 4, (ROWS, 1)), rng.uniform(-0.1, 0.1, (ROWS, 1))
    day = 1 + 0.5 * np.sin(2 * np.pi * (at / DAY + phase + shift))
    return size * day * np.where(at // DAY % 7 >= 5, weekend, 1.0)


def noisy(values: np.ndarray, sigma: float = 0.05, seed: int = 0) -> np.ndarray:
    return (values * np.random.default_rng(seed).lognormal(0, sigma, values.shape)).astype(np.float32)


def window(values: np.ndarray, tick: int, keys: tuple[SeriesKey, ...] = KEYS) -> Windows:
    """What the store would show at ``tick``; unobserved slots hold NaN."""
    seen = values[:, max(0, tick + 1 - LOOK_BACK) : tick + 1]
    return worlds.windows(seen, end=worlds.END + tick * worlds.STEP, keys=keys[: len(values)])


def played(values: np.ndarray, said: np.ndarray, first: int = START, drifts: Drifts | None = None) -> list[tuple[Drift, ...]]:
    """Every tick's drift from ``first`` on, of a model that says ``said`` about a slot however long before."""
    state = drifts or Drifts(SETTINGS, worlds.STEP)
    answers = []
    for tick in range(first, values.shape[1]):
        due = [(steps, said[:, tick].astype(np.float32)) for steps in ANCHORS if tick - steps >= first]
        answers.append(state.observe(window(values, tick), due))
    return answers


def raised(answers: list[tuple[Drift, ...]], kind: str) -> list[int]:
    """Ticks at which it is, were `START` the first."""
    return [tick for tick, told in enumerate(answers, START) for one in told if one.kind == kind and one.raised]


@pytest.mark.parametrize("seed", [0, 1])
def test_the_same_fleet_over_two_weeks_never_drifts(seed: int) -> None:
    known = pattern(15 * DAY)
    answers = played(noisy(known, seed=seed), known, first=0)
    assert raised(answers, "error") == raised(answers, "input") == []
    told = answers[-1]
    assert [one.kind for one in told] == ["error", "input"]
    assert all(one.judged == ROWS for one in told), "warmed up: everybody is judged"
    assert 0.3 < told[0].score < 1.5, "the worst series of a model that is better than a naive rule"


@pytest.mark.parametrize("factor", [3.0, 0.05])
def test_a_new_level_is_error_and_input_drift_within_the_stated_ticks(factor: float) -> None:
    known = pattern()
    values = known.copy()
    values[:, CHANGE:] *= factor
    answers = played(noisy(values), known)
    kinds = ("error", "input") if factor > 1 else ("error",)
    for kind in kinds:
        ticks = raised(answers, kind)
        assert ticks, kind
        assert CHANGE + SETTINGS.drift_hold <= ticks[0] <= CHANGE + WITHIN + DAY // 2 * (kind == "input"), kind


def test_flat_series_of_a_new_level_drift_within_the_stated_ticks() -> None:
    values = np.full((ROWS, DAYS * DAY), 100.0)
    values[:, CHANGE:] = 160.0
    ticks = raised(played(noisy(values), values), "input")
    assert ticks
    assert CHANGE + SETTINGS.drift_hold <= ticks[0] <= CHANGE + WITHIN


def test_a_new_season_is_error_drift_within_the_stated_ticks() -> None:
    known, turned = pattern(), pattern(shift=0.5)
    values = np.where(np.arange(known.shape[1]) < CHANGE, known, turned)
    ticks = raised(played(noisy(values), known), "error")
    assert ticks
    assert CHANGE + SETTINGS.drift_hold <= ticks[0] <= CHANGE + WITHIN


def test_rougher_input_is_input_drift() -> None:
    rng = np.random.default_rng(2)
    values = np.full((ROWS, DAYS * DAY), 100.0)
    values += rng.normal(0, np.where(np.arange(DAYS * DAY) < CHANGE, 5.0, 60.0), values.shape)
    ticks = raised(played(values.astype(np.float32), values), "input")
    assert ticks
    assert ticks[0] >= CHANGE


def test_noise_that_naive_rules_suffer_from_too_is_no_error_drift() -> None:
    known = pattern()
    sigma = np.where(np.arange(known.shape[1]) < CHANGE, 0.03, 0.12)
    rng = np.random.default_rng(4)
    values = (known * np.exp(rng.normal(0, 1, known.shape) * sigma)).astype(np.float32)
    assert raised(played(values, known), "error") == []


@pytest.mark.parametrize(("movers", "expected"), [(ROWS // 4, False), (ROWS // 4 + 2, True)])
def test_a_few_series_are_no_drift_of_the_fleet(movers: int, expected: bool) -> None:
    known = pattern()
    values = known.copy()
    values[:movers, CHANGE:] *= 4.0
    answers = played(noisy(values), known)
    assert bool(raised(answers, "error")) is expected
    assert bool(raised(answers, "input")) is expected
    share = max(told[0].share for told in answers)
    assert share == pytest.approx(movers / ROWS)


def test_it_is_raised_once_and_is_over_when_the_window_has_got_used_to_it() -> None:
    values = np.full((ROWS, 14 * DAY), 100.0)
    values[:, CHANGE:] = 200.0
    ticks = raised(played(noisy(values), values), "input")
    assert ticks == list(range(ticks[0], ticks[-1] + 1)), "no flapping"
    assert ticks[-1] < CHANGE + LOOK_BACK + WITHIN


def test_what_does_not_hold_is_no_drift() -> None:
    known = pattern()
    values = known.copy()
    values[:, CHANGE : CHANGE + SETTINGS.drift_hold] *= 3.0
    answers = played(noisy(values), known)
    assert raised(answers, "input") == []


def test_nothing_is_said_before_a_season_is_known() -> None:
    values = noisy(np.full((ROWS, DAY + 2 * SETTINGS.drift_window), 100.0))
    answers = played(values, values, first=0)
    first = [next(t for t, told in enumerate(answers) if told[k].judged) for k in (0, 1)]
    assert first[0] >= SETTINGS.drift_window // 2 - 1, "errors: half a window"
    assert first[1] >= DAY + SETTINGS.drift_window - 1, "input: a season before the newest window"


@settings(max_examples=8, deadline=None)
@given(start=st.integers(START, CHANGE + DAY // 2))
def test_a_restart_that_repeats_its_memory_says_the_same(start: int) -> None:
    known, values = changed()
    whole = answers_of_whole()
    again = played(values, known, first=start)
    late = memory(SETTINGS.model_copy(update={"model": "forecaster"}))
    assert again[late:] == whole[start - START + late :]


def changed() -> tuple[np.ndarray, np.ndarray]:
    known = pattern()
    values = known.copy()
    values[:, CHANGE:] *= 3.0
    return known, noisy(values)


_WHOLE: list[list[tuple[Drift, ...]]] = []


def answers_of_whole() -> list[tuple[Drift, ...]]:
    """Played once."""
    if not _WHOLE:
        known, values = changed()
        _WHOLE.append(played(values, known))
    return _WHOLE[0]


def test_a_restart_that_repeats_less_does_not_know_what_is_raised() -> None:
    known, values = changed()
    start, end = CHANGE + WITHIN, CHANGE + WITHIN + SETTINGS.drift_hold
    again, whole = played(values[:, :end], known, first=start)[-1], answers_of_whole()[end - 1 - START]
    assert (again[0].raised, whole[0].raised) == (False, True)


def test_gaps_and_nan_raise_nothing() -> None:
    known = pattern()
    values, rng = noisy(known), np.random.default_rng(3)
    values[rng.random(values.shape) < 0.3] = np.nan
    values[:, CHANGE : CHANGE + 40] = np.nan
    values[::2, CHANGE + 100 : CHANGE + 150] = np.nan
    said = known.copy()
    said[:, ::7] = np.nan
    answers = played(values, said)
    assert raised(answers, "error") == raised(answers, "input") == []
    assert answers[CHANGE - START + 39][0].judged == 0, "a dark fleet is not judged"


def test_rows_of_the_stand_in_are_not_the_models_errors() -> None:
    known, values = changed()
    said = known.copy()
    said[: ROWS - 4] = np.nan
    told = played(values, said)[-1][0]
    assert (told.judged, told.share, told.raised) == (0, 0.0, False), "the model answers for too few"


def test_what_is_not_to_be_trusted_is_not_judged() -> None:
    known, values = changed()
    drifts = Drifts(SETTINGS, worlds.STEP)
    told: tuple[Drift, ...] = ()
    for tick in range(CHANGE - DAY, CHANGE + WITHIN):
        now = replace(window(values, tick), suspect=np.full(ROWS, tick >= CHANGE))
        told = drifts.observe(now, [(1, known[:, tick].astype(np.float32))])
    assert not any(one.raised for one in told)


@pytest.mark.parametrize("fill", [np.inf, -np.inf, 3e38, -3e38])
def test_absurd_values_are_survived(fill: float) -> None:
    values = noisy(pattern(4 * DAY))
    values[::3, ::11] = fill
    for told in played(values, np.full(values.shape, fill), first=2 * DAY):
        assert all(np.isfinite(one.share) for one in told)


def test_rows_follow_their_series() -> None:
    known, values = changed()
    end = CHANGE + WITHIN
    drifts = Drifts(SETTINGS, worlds.STEP)
    before = played(values[:, :end], known, first=CHANGE - DAY, drifts=drifts)[-1]
    turned = window(values[::-1], end, KEYS[::-1])
    after = drifts.observe(turned, [(1, known[::-1, end].astype(np.float32))])
    assert [one.raised for one in before] == [one.raised for one in after] == [True, True]
    assert after[0].worst == before[0].worst
    fresh = window(np.vstack([values, values]), end + 1, KEYS + tuple(SeriesKey(f"new{i}", "rps") for i in range(ROWS)))
    nobody = np.full(2 * ROWS, np.nan, np.float32)
    assert drifts.observe(fresh, [(1, nobody)])[0].judged == ROWS, "newcomers have no errors yet"
    assert drifts.observe(window(values[:0], end + 2, ()), [])[0].judged == 0


def test_it_is_said_in_words_and_logged_when_it_begins_and_ends(caplog: pytest.LogCaptureFixture) -> None:
    values = np.full((4, 14 * DAY), 100.0)
    values[:, CHANGE:] = 200.0
    drifts = Drifts(SETTINGS, worlds.STEP)
    drifts.reset("mixer@1")
    with caplog.at_level(logging.INFO):
        answers = played(noisy(values), values, drifts=drifts)
    told = next(one for told in answers for one in told if one.raised)
    text = str(told)
    assert re.fullmatch(r"input drift: \d+% of 4 series are beyond 4 \(limit 25%\), worst w0\d:rps at [\d.]+", text)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert caplog.messages[0] == f"mixer@1 has {text}"
    assert caplog.messages[1].startswith("mixer@1 no longer has input drift: ")


def test_idle_constant_and_bursty_series_are_calm() -> None:
    at = np.arange(LOOK_BACK)
    rows = np.stack([0.0 * at, 7.0 + 0 * at, np.where(at % 48 < 3, 50.0, 0.0), np.where(at == LOOK_BACK - 1, 9e9, 5.0)])
    found = departures(rows.astype(np.float32), np.ones(rows.shape, bool), window=24, season=DAY)
    assert np.isnan(found[[0, 2]]).all(), "its usual level is zero: nothing to measure by"
    assert found[[1, 3]].tolist() == [0, 0], "one value counts for nothing"


# --- in the engine ---


def served(tmp_path: Path, level: float, table: np.ndarray | None = None) -> list[tuple[Drift, ...]]:
    """What the predictor tells of a model while the fleet's level goes to ``level`` times what it was."""
    worlds.put(tmp_path, worlds.model(table=table))
    predictor = Predictor(
        SETTINGS.model_copy(update={"model": "forecaster", "cache": str(tmp_path), "timeout_s": 60.0}),
        worlds.STEP,
        clock=lambda: 0.0,
    )
    values = np.full((8, 4 * DAY), 100.0)
    values[:, 3 * DAY :] *= level
    seen = noisy(values)
    told = [predictor.forecast(window(seen, tick)) for tick in range(DAY, seen.shape[1])]
    assert all(one.model.startswith("forecaster@") for one in told)
    return [one.drift for one in told]


def test_the_engine_tells_of_the_model_that_serves(tmp_path: Path) -> None:
    """The model says the largest value it has seen: a little too much for flat noise, as good as any rule a step later."""
    calm = served(tmp_path / "calm", 1.0)
    assert raised(calm, "input") == []
    moved = served(tmp_path / "moved", 2.0)
    assert START + 2 * DAY < raised(moved, "input")[0] <= START + 2 * DAY + WITHIN
    wrong = served(tmp_path / "wrong", 1.0, np.tile(worlds.SPREAD * 3, (worlds.HORIZON, 1)))
    assert raised(wrong, "error")


def test_without_a_model_nothing_drifts() -> None:
    predictor = Predictor(SETTINGS, worlds.STEP)
    values = noisy(np.full((4, 60), 100.0))
    assert [predictor.forecast(window(values, tick)).drift for tick in range(50, 60)] == [()] * 10
