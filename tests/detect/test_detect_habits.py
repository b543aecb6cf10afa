"""What a series does now and then is no news, and what became of a departure names it."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from detect_worlds import START, STEP, daily, keys, windows

from forecastle.detect import courses, drifts, habits, moves
from forecastle.detect.columns import columns, grains
from forecastle.detect.engine import Detection
from forecastle.detect.habits import APART, RECENT, habitual
from forecastle.detect.tails import alarm_rate
from forecastle.settings import DetectSettings
from forecastle.types import AnomalyKind

SETTINGS = DetectSettings()
RATE = alarm_rate(SETTINGS.budget, STEP, 6)
N, SLOTS, VICTIM = 8, 2160, 3


def verdicts(values, settings=SETTINGS, mask=None):
    found = Detection(settings, STEP).detect(windows(values, mask, names=keys(len(values))), None)
    return {a.key: a for a in found}


def of_victim(values, mask=None):
    return verdicts(values, mask=mask).get(keys(len(values))[VICTIM])


def noise(slots=SLOTS + 400, seed=0):
    """Eight series about 100 with a deviation of 2: no cycle hides what is put on top."""
    return (100 + np.random.default_rng(seed).normal(0, 2, (N, slots))).astype(np.float32)


def at(values, slot):
    """The window that ends with ``slot``."""
    return values[:, slot + 1 - SLOTS : slot + 1]


def prepared(values):
    return columns(windows(values, names=keys(len(values))), np.arange(len(values)), SETTINGS, values.shape[1])


# --- habits ---------------------------------------------------------------------------------------------------------


def scores(*slots, size=400, high=5.0):
    out = np.ones((1, size), np.float32)
    out[0, [*slots, -1]] = high
    return out


def test_once_before_is_a_habit_for_a_slot_but_not_for_a_level():
    assert not habitual(scores(), most=0)[0]
    assert habitual(scores(100), most=0)[0]
    assert not habitual(scores(100))[0]
    assert habitual(scores(100, 200))[0]


def test_what_lasted_is_one_time_and_what_is_recent_is_now():
    assert not habitual(scores(*range(100, 100 + APART)))[0]
    assert habitual(scores(100, 101 + APART))[0]
    newest = 399
    assert not habitual(scores(*range(newest - RECENT + 1, newest)), most=0)[0]
    assert habitual(scores(newest - RECENT), most=0)[0]


@pytest.mark.parametrize("share", [0.3, 0.49])
def test_what_was_much_smaller_does_not_count(share):
    size = scores(100, 200, 300)
    size[0, [100, 200, 300]] *= share
    assert not habitual(size, most=0)[0]


def test_an_older_slot_is_judged_by_what_was_before_it():
    size = scores(100, 200, 300)
    assert not habitual(size, 1, np.array([200]), np.array([5.0], np.float32))[0]
    assert habitual(size, 1, np.array([300]), np.array([5.0], np.float32))[0]
    assert not habitual(size, 1, np.array([300]), np.array([11.0], np.float32))[0]


def test_spikes_that_come_now_and_then_are_told_once():
    values = daily(N, SLOTS)
    values[VICTIM, -1] += 60
    assert of_victim(values).kind is AnomalyKind.SPIKE
    values[VICTIM, -1500] += 60
    assert verdicts(values) == {}
    values[VICTIM, -1] += 120
    assert of_victim(values).kind is AnomalyKind.SPIKE, "far larger than its habit"


def test_a_trend_no_larger_than_yesterdays_is_no_news():
    c = prepared(daily(N, SLOTS, noise=0.5))
    assert habits.drifting(c, SETTINGS.look_back).all()
    leak = noise(SLOTS)
    leak[:, -700:] += np.linspace(0, 40, 700)
    assert not habits.drifting(prepared(leak), SETTINGS.look_back).any()
    assert not habits.drifting(prepared(leak[:, -600:]), SETTINGS.look_back).any(), "too short to tell"


def test_a_step_is_no_trend():
    values = noise(900)
    values[VICTIM, -400:] += 60
    assert all(a.kind is not AnomalyKind.TREND for a in verdicts(values).values())


# --- a sensor that stood still ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [10, 25, 60])
@pytest.mark.parametrize("after", [1, 2, 5])
def test_the_end_of_a_flat_line_is_no_spike(length, after):
    values = daily(N, SLOTS)
    values[VICTIM, -length - after : -after] = values[VICTIM, -length - after - 1] - 40
    assert drifts.released(prepared(values), RATE).tolist() == [i == VICTIM for i in range(N)]
    found = of_victim(values)
    assert found is None or found.kind not in {AnomalyKind.SPIKE, AnomalyKind.DIP}


def test_a_series_that_stands_still_as_a_rule_may_spike():
    values = np.full((N, SLOTS), 5.0, np.float32)
    values[VICTIM, ::50] += np.random.default_rng(0).random(len(values[0, ::50])).astype(np.float32)
    values[VICTIM, -1] += 30
    assert not drifts.released(prepared(values), RATE).any()


# --- what became of it ------------------------------------------------------------------------------------------------


def test_a_surprise_that_stayed_is_a_level_a_ramp_is_a_trend():
    values = noise()
    values[VICTIM, SLOTS:] += 40
    assert of_victim(at(values, SLOTS)).kind is AnomalyKind.SPIKE
    settled = of_victim(at(values, SLOTS + moves.RECENT + 1))
    assert settled.kind is AnomalyKind.LEVEL_SHIFT
    assert settled.evidence["actual"] - settled.evidence["expected"] == pytest.approx(40, abs=4)
    ramp = noise()
    ramp[VICTIM, SLOTS:] += np.minimum(np.arange(400), 40) * 1.5
    kinds = {found.kind for k in range(20, 40) if (found := of_victim(at(ramp, SLOTS + k)))}
    assert kinds == {AnomalyKind.TREND}


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("length", [20, 60, 200])
def test_what_came_back_is_named_for_all_the_time_it_was_away(sign, length):
    values = noise()
    values[VICTIM, SLOTS : SLOTS + length] += 30 * sign
    found = of_victim(at(values, SLOTS + length + 4))
    assert found.kind is (AnomalyKind.SPIKE if sign > 0 else AnomalyKind.DIP)
    assert "excursion" in found.evidence["families"]
    assert found.evidence["duration_s"] / 60 == pytest.approx(length + 5, abs=3)
    assert found.evidence["actual"] - found.evidence["expected"] == pytest.approx(30 * sign, abs=4)
    assert found.score > found.threshold
    assert found.evidence["onset"] == START - found.evidence["duration_s"] * 1000


def test_a_level_that_stays_or_returns_too_late_never_came_back():
    values = noise(SLOTS + 800)
    values[VICTIM, SLOTS : SLOTS + courses.LONGEST + 60] += 30
    for slot in (SLOTS + 30, SLOTS + 100, SLOTS + courses.LONGEST + 65):
        found = of_victim(at(values, slot))
        assert found is None or "excursion" not in found.evidence["families"]


def test_a_return_that_nobody_was_told_the_beginning_of_is_no_news():
    values = noise()
    c = prepared(at(values, SLOTS + 100))
    there = np.arange(N)
    told = habits.Memory(windows(at(values, SLOTS + 100)), SETTINGS, RATE).alarmed(there, np.full(N, 60), c.lenience)
    assert not told.any()
    values[VICTIM, SLOTS + 41 : SLOTS + 95] += 40
    told = habits.Memory(windows(at(values, SLOTS + 100)), SETTINGS, RATE).alarmed(there, np.full(N, 60), c.lenience)
    assert told.tolist() == [i == VICTIM for i in range(N)]


@pytest.mark.parametrize("seed", range(6))
def test_who_was_told_then_does_not_hang_on_who_is_asked_together(seed):
    values = noise(seed=seed)
    values[:, SLOTS + 41 : SLOTS + 95] += np.arange(N)[:, None] * np.float32(2.5)
    memory, rows = habits.Memory(windows(at(values, SLOTS + 100)), SETTINGS, RATE), np.arange(N)
    alone = [bool(memory.alarmed(rows[i : i + 1], np.array([60]), np.ones(1, np.float32))[0]) for i in rows]
    many = memory.alarmed(np.tile(rows, 5), np.full(5 * N, 60), np.ones(5 * N, np.float32))
    assert many.tolist() == 5 * alone
    assert not alone[0]
    assert alone[-1]


def test_jumps_are_means_after_less_means_before():
    y = np.random.default_rng(0).normal(size=(3, 200)).astype(np.float32)
    found = courses.jumps(y, 50, 10)
    for back in (50, 30, 5, 1):
        after, before = y[:, 200 - back : min(210 - back, 200)], y[:, 190 - back : 200 - back]
        assert found[:, 50 - back] == pytest.approx(after.mean(axis=1) - before.mean(axis=1), abs=1e-5)


def test_little_by_little_or_at_once():
    y = np.random.default_rng(0).normal(0, 0.02, (2, 300)).astype(np.float32)
    y[0, -20:] += 1
    y[1, -30:] += np.linspace(0, 1, 30)
    assert courses.gradual(y).tolist() == [False, True]


def test_turns_are_looked_for_among_those_that_move_now():
    y = np.random.default_rng(0).normal(0, 0.05, (3, 720)).astype(np.float32)
    y[0, -60:-10] += 1
    y[1, -10:] += 1
    assert courses.turned(grains(y)).tolist() == [True, False, False]


def test_short_windows_are_left_alone():
    values = noise(130)
    values[VICTIM, -1] += 60
    assert of_victim(values).kind is AnomalyKind.SPIKE


def test_older_slots_than_the_window_of_a_season_change_nothing():
    values = daily(N, SLOTS + 300)
    values[VICTIM, -1] += 60
    other = values.copy()
    other[:, :300] = 1e6
    assert verdicts(values) == verdicts(other)


def test_silence_is_not_asked_for_habits():
    values, mask = daily(N, SLOTS), np.ones((N, SLOTS), bool)
    mask[VICTIM, -5:] = False
    assert of_victim(values, mask).kind is AnomalyKind.DROPOUT


def test_words_of_people_hold_for_the_whole_window_too():
    values = daily(N, SLOTS)
    values[VICTIM, -1] += 25
    engine = Detection(SETTINGS, STEP)
    assert [a.key for a in engine.detect(windows(values), None)] == [keys(N)[VICTIM]]
    engine.lenience = lambda _tick: {keys(N)[VICTIM]: 2.0}
    assert engine.detect(windows(values), None) == ()


def test_nothing_is_written_to_the_windows():
    values = noise(SLOTS)
    values[VICTIM, -30:] += 30
    w = windows(values)
    before = replace(w, values=w.values.copy(), mask=w.mask.copy())
    Detection(SETTINGS, STEP).detect(w, None)
    assert np.array_equal(w.values, before.values)
    assert np.array_equal(w.mask, before.mask)
