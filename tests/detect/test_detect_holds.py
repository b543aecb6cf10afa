"""What lasts is held against what was normal before: nothing of an outage is learned while it lasts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from detect_worlds import START, STEP, daily, keys, windows

from forecastle.detect.engine import Detection
from forecastle.detect.foresight import ScoreRing
from forecastle.detect.holds import NAMED, Holds, usual
from forecastle.detect.incidents import IncidentBook
from forecastle.settings import DetectSettings
from forecastle.types import AnomalyKind, SeriesKey

LOOK_BACK, SEASON, SLOTS, TICKS = 180, 360, 740, 470
ONSET, LASTS, ADOPTED = 20, 300, 400
"""The first tick of trouble, how many it takes (more than a look-back), and after how many its level is adopted."""
SEASONAL, NOISY, SILENT, STUCK, WELL, MOVED = range(6)
TROUBLED = (SEASONAL, NOISY, SILENT, STUCK)
KEYS = keys(6, sites=1)
SETTINGS = DetectSettings(look_back=LOOK_BACK, warmup=60, season=SEASON, adopt_s=ADOPTED * STEP / 1000)
TOLD, CLOSES = 12, 12 + int(SETTINGS.close_s * 1000 / STEP)
"""Ticks from an onset until it is told, and from its end until the incident is closed, at most."""


class Told(NamedTuple):
    """What one tick came to."""

    anomalies: tuple
    open: tuple
    closed: tuple


def newest(tick):
    return SLOTS - 1 + tick


def quiet():
    """Two seasonal, and four flat and noisy series."""
    rng = np.random.default_rng(3)
    values = 100 + rng.normal(0, 2, (len(KEYS), SLOTS + TICKS))
    values[[SEASONAL, WELL]] += 30 * np.sin(2 * np.pi * np.arange(SLOTS + TICKS) / SEASON)
    return values.astype(np.float32), np.ones(values.shape, bool)


def troubled():
    values, mask = quiet()
    begin, end = newest(ONSET), newest(ONSET + LASTS)
    values[SEASONAL, begin:end] -= 60
    values[NOISY, begin:end] += 15
    mask[SILENT, begin:end] = False
    values[STUCK, begin:end] = values[STUCK, begin]
    values[MOVED, begin:] += 20
    return values, mask


def play(world, ticks, engine=None, book=None, rows=tuple(range(6))):
    """Each of ``ticks`` by the engine and the book, which are as good as new if not given."""
    values, mask = world
    engine, book, out = engine or Detection(SETTINGS, STEP), book or IncidentBook(SETTINGS), {}
    for k in ticks:
        part, names = np.ix_(list(rows), np.arange(k, k + SLOTS)), tuple(KEYS[row] for row in rows)
        now = windows(values[part], mask[part], names=names, end=START + k * STEP)
        found = engine.detect(now, None)
        out[k] = Told(found, book.update(found, now.end, now), book.closed)
    return out


def of(told, row):
    return [a for a in told.anomalies if a.key == KEYS[row]]


def opened(out, row):
    return {i.id for told in out.values() for i in told.open if i.workload == KEYS[row].workload}


@pytest.fixture(scope="module")
def whole():
    return play(troubled(), range(TICKS))


@pytest.mark.parametrize("row", TROUBLED)
def test_an_outage_longer_than_the_look_back_is_one_incident_until_it_is_over(whole, row):
    assert LASTS > LOOK_BACK
    assert len(opened(whole, row)) == 1, "the return is no second incident"
    for k in range(ONSET + TOLD, ONSET + LASTS):
        assert any(i.workload == KEYS[row].workload for i in whole[k].open), f"closed at tick {k} though it lasts"
    closed = [k for k, told in whole.items() for i in told.closed if i.workload == KEYS[row].workload]
    assert len(closed) == 1
    assert ONSET + LASTS < closed[0] <= ONSET + LASTS + CLOSES
    assert not any(of(whole[k], row) for k in range(ONSET + LASTS + TOLD, TICKS)), "it is back to normal, and told as such"


def test_it_goes_by_the_name_and_the_onset_that_it_had(whole):
    kinds = {row: of(whole[ONSET + LASTS - 1], row)[0] for row in TROUBLED}
    assert {row: a.kind for row, a in kinds.items()} == {
        SEASONAL: AnomalyKind.LEVEL_SHIFT,
        NOISY: AnomalyKind.LEVEL_SHIFT,
        SILENT: AnomalyKind.DROPOUT,
        STUCK: AnomalyKind.FLAT_LINE,
    }
    lasting = kinds[NOISY]
    assert lasting.evidence["families"][0] == "lasting"
    assert lasting.evidence["onset"] == pytest.approx(START + (ONSET - 1) * STEP, abs=5 * STEP)
    assert lasting.evidence["duration_s"] == pytest.approx(LASTS * 60, abs=300)
    assert lasting.evidence["expected"] == pytest.approx(100, abs=2)
    assert lasting.evidence["actual"] == pytest.approx(115, abs=3)


def test_the_normal_of_a_season_goes_on_with_the_season(whole):
    for k in range(ONSET + NAMED, ONSET + LASTS, 20):
        (anomaly,) = of(whole[k], SEASONAL)
        wave = 100 + 30 * np.sin(2 * np.pi * newest(k - 5) / SEASON)
        assert anomaly.evidence["expected"] == pytest.approx(wave, abs=8)


def test_who_is_well_is_told_nothing_of(whole):
    assert not any(of(told, WELL) for told in whole.values())


def test_a_level_that_stays_is_adopted_and_the_incident_says_so(whole):
    assert len(opened(whole, MOVED)) == 1
    begun = min(k for k, told in whole.items() if of(told, MOVED))
    last = max(k for k, told in whole.items() if of(told, MOVED))
    assert ADOPTED - TOLD <= last - begun <= ADOPTED
    assert of(whole[last], MOVED)[0].evidence["adopted_s"] == ADOPTED * 60
    (closed,) = [i for told in whole.values() for i in told.closed if i.workload == KEYS[MOVED].workload]
    assert closed.cause.startswith("m0 level shift")
    assert closed.cause.endswith("not back after 6.67 h: taken for the new normal")


def test_a_restart_in_the_middle_of_an_outage_changes_nothing(whole):
    begin, restarted = 10, ONSET + LASTS - 60
    again = play(troubled(), range(begin, ONSET + LASTS + 60))
    assert any(told.open for told in again.values())
    for k in range(restarted, ONSET + LASTS + 60):
        assert again[k] == whole[k], k


def test_what_comes_after_does_not_change_what_was_told(whole):
    values, mask = troubled()
    upto = ONSET + NAMED + 30
    values[:, newest(upto) :] = 1e6
    assert play((values, mask), range(upto)) == {k: whole[k] for k in range(upto)}


def test_it_lasts_whoever_else_comes_and_goes(whole):
    middle, end = ONSET + NAMED, ONSET + NAMED + 20
    engine, book = Detection(SETTINGS, STEP), IncidentBook(SETTINGS)
    play(troubled(), range(middle), engine, book)
    out = play(troubled(), range(middle, end), engine, book, rows=(MOVED, NOISY))
    for k in range(middle, end):
        plain = [(a.key, a.score, a.evidence["onset"]) for row in (NOISY, MOVED) for a in of(whole[k], row)]
        assert sorted((a.key, a.score, a.evidence["onset"]) for a in out[k].anomalies) == plain


def test_what_people_call_no_incident_is_learned_at_once():
    said = ONSET + NAMED
    engine = Detection(SETTINGS, STEP)
    engine.dismissed = lambda tick: {KEYS[NOISY]: START + said * STEP} if tick > START + said * STEP else {}
    out = play(troubled(), range(said + 60), engine)
    assert of(out[said], NOISY)
    assert not any(of(out[k], NOISY) for k in range(said + 1, said + 60))
    assert len(opened(out, NOISY)) == 1
    assert all(of(out[k], MOVED) for k in range(said, said + 60)), "a word is about its own series"


def test_a_series_that_flaps_is_one_incident_that_ends():
    values, mask = quiet()
    for begin in range(0, 100, 40):
        values[NOISY, newest(ONSET + begin) : newest(ONSET + begin + 25)] += 20
    out = play((values, mask), range(ONSET + 180))
    assert len(opened(out, NOISY)) == 1
    assert not out[ONSET + 179].open


def test_a_spike_is_not_held():
    values, mask = quiet()
    values[NOISY, newest(ONSET)] += 60
    out = play((values, mask), range(ONSET + 40))
    assert of(out[ONSET], NOISY)
    assert not any("lasting" in a.evidence["families"] for told in out.values() for a in told.anomalies)


def test_a_spike_on_the_flank_of_a_cycle_that_is_not_known_is_not_held():
    values, mask = quiet()
    mask[NOISY, : newest(-150)] = False
    values[NOISY] += np.maximum(np.arange(SLOTS + TICKS) - newest(-150), 0) * 0.5
    values[NOISY, newest(ONSET)] += 90
    out = play((values, mask), range(ONSET + 40))
    assert AnomalyKind.SPIKE in {a.kind for told in out.values() for a in of(told, NOISY)}
    assert not any("lasting" in a.evidence["families"] for told in out.values() for a in of(told, NOISY))


def test_a_trend_is_not_held_before_a_season_is_known():
    young, engine = daily(20, 370), Detection(DetectSettings(warmup=10), STEP)
    out = [engine.detect(windows(young[:, k : k + 300].copy(), end=START + k * STEP), None) for k in range(15)]
    assert AnomalyKind.TREND in {a.kind for found in out for a in found}
    assert not any("lasting" in a.evidence["families"] for found in out for a in found)


# --- the parts ------------------------------------------------------------------------------------------------------


def test_slots_since_the_onset_are_hidden_but_the_newest_and_for_a_look_back_after():
    holds, world = Holds(SETTINGS, STEP), troubled()
    engine, hidden = Detection(SETTINGS, STEP), {}
    for k in range(ONSET + LASTS + 30):
        now = windows(world[0][:, k : k + SLOTS], world[1][:, k : k + SLOTS], names=KEYS, end=START + k * STEP)
        holds.follow(now, {})
        hidden[k] = holds.hidden(now)
        holds.hear(
            [a for a in engine.detect(now, None) if a.evidence["families"][0] != "lasting"], now, np.zeros(len(KEYS), bool)
        )
    assert hidden[ONSET + NAMED - 10] is None, "the detectors name it first"
    during = hidden[ONSET + 200]
    assert during[NOISY].sum() == pytest.approx(200, abs=4)
    assert not during[:, -1].any()
    assert not during[WELL].any()
    after = hidden[ONSET + LASTS + 29]
    assert after[NOISY].sum() == pytest.approx(LASTS, abs=8)
    assert not after[NOISY, -20:].any()


def test_normal_is_what_was_before_by_the_season_where_that_says_more():
    values, mask = quiet()
    normal = usual(values, mask, np.full(len(KEYS), 30), LOOK_BACK, SEASON)
    assert normal.seasonal.tolist() == [row in {SEASONAL, WELL} for row in range(len(KEYS))]
    assert normal.band[NOISY, 0] == pytest.approx([96, 100, 104], abs=1.5)
    assert normal.band[WELL, 1] == pytest.approx([-6, 0, 6], abs=2)
    other = values.copy()
    other[:, -30:] = 1e9
    again = usual(other, mask, np.full(len(KEYS), 30), LOOK_BACK, SEASON)
    assert np.array_equal(again.band, normal.band), "nothing since the onset counts"
    none = usual(values, np.zeros_like(mask), np.full(len(KEYS), 30), LOOK_BACK, SEASON)
    assert np.isnan(none.band).all()


def test_a_ring_forgets_the_newest_scores_of_some():
    ring, names = ScoreRing(4), (SeriesKey("a", "m"), SeriesKey("b", "m"))
    for tick in range(6):
        ring.history(names, tick)
        ring.put(tick, np.array([tick, tick], np.float32))
    history = ring.history(names, 6)
    ring.forget(np.array([1]), np.array([3]))
    assert sorted(history[0][np.isfinite(history[0])].tolist()) == [3, 4, 5]
    assert history[1][np.isfinite(history[1])].tolist() == [3]
