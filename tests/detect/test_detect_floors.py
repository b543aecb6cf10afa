from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

sys.path.insert(0, str(Path(__file__).parent))
from detect_worlds import START, STEP, daily, windows

from forecastle.detect.engine import Detection
from forecastle.settings import DetectSettings
from forecastle.types import AnomalyKind, SeriesKey

SLOTS = 2400
NO_COUNTS = DetectSettings(min_count=0)


def one(values, metric="queue", settings=None, mask=None):
    """The kinds that one series has at its newest slot."""
    shown = windows(
        np.asarray(values, np.float32)[None], None if mask is None else mask[None], names=(SeriesKey("w", metric, ()),)
    )
    return [a.kind for a in Detection(settings or DetectSettings(), STEP).detect(shown, None)]


def ever(values, settings, ticks=90, metric="queue"):
    """Kinds seen at every third of the newest ``ticks``."""
    engine, kinds = Detection(settings, STEP), set()
    for k in range((ticks - 1) % 3, ticks, 3):
        part = np.asarray(values[k : len(values) - ticks + k + 1], np.float32)[None]
        shown = windows(part.copy(), names=(SeriesKey("w", metric, ()),), end=START + k * STEP)
        kinds |= {a.kind for a in engine.detect(shown, None)}
    return kinds


def steps(before, after, last=1):
    values = np.full(SLOTS, float(before))
    values[-last:] = after
    return values


@pytest.mark.parametrize(("before", "after"), [(2, 3), (0, 1), (2, 4), (3, 1)])
def test_a_small_count_that_moves_a_little_is_no_incident(before, after):
    assert one(steps(before, after), settings=NO_COUNTS), "by its statistics alone it is one"
    assert one(steps(before, after)) == []
    lasting = steps(before, after, last=60)
    assert AnomalyKind.LEVEL_SHIFT in ever(lasting, NO_COUNTS)
    assert ever(lasting, DetectSettings()) == set()


def test_a_quiet_counter_that_begins_to_flicker_is_no_incident():
    values = steps(0, 0)
    values[-50:] = np.random.default_rng(1).random(50) < 0.5
    assert ever(values, NO_COUNTS)
    assert ever(values, DetectSettings()) == set()


@pytest.mark.parametrize(
    ("before", "after", "kind"), [(2, 5, AnomalyKind.SPIKE), (0, 3, AnomalyKind.SPIKE), (9, 5, AnomalyKind.DIP)]
)
def test_a_small_count_that_moves_more_is_told(before, after, kind):
    assert one(steps(before, after)) == [kind]


def test_how_much_a_count_must_move_is_a_setting():
    assert one(steps(2, 5), settings=DetectSettings(min_count=3)) == []
    assert one(steps(2, 6), settings=DetectSettings(min_count=3)) == [AnomalyKind.SPIKE]


@pytest.mark.parametrize("before", [1, 2])
def test_a_fall_to_nothing_is_told_however_little_it_was(before):
    assert one(steps(before, 0)) == [AnomalyKind.DIP]


def test_larger_and_broken_numbers_are_no_small_counts():
    assert one(steps(40, 42)) == [AnomalyKind.SPIKE]
    assert one(steps(0, 0.4)) == [AnomalyKind.SPIKE]
    measured = 2 + np.random.default_rng(0).normal(0, 0.01, SLOTS)
    measured[-1] = 3
    assert one(measured) == [AnomalyKind.SPIKE]


@pytest.mark.parametrize("metric", ["http_error_ratio", "cpu_utilization", "iam_new_principal_total"])
def test_ratios_and_new_principals_are_told_from_nothing_to_one(metric):
    assert one(steps(0, 1), metric) == [AnomalyKind.SPIKE]


def test_a_gap_and_a_flat_line_of_a_small_count_are_told():
    values = np.random.default_rng(2).poisson(1.5, SLOTS).astype(float)
    mask = np.ones(SLOTS, bool)
    mask[-5:] = False
    assert one(values, mask=mask) == [AnomalyKind.DROPOUT]
    values[-80:] = 1
    assert one(values) == [AnomalyKind.FLAT_LINE]


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        ("spike", AnomalyKind.SPIKE),
        ("dip", AnomalyKind.DIP),
        ("level", AnomalyKind.LEVEL_SHIFT),
        ("leak", AnomalyKind.TREND),
        ("ramp", AnomalyKind.TREND),
        ("noise", AnomalyKind.VARIANCE),
    ],
)
def test_a_floor_strikes_every_departure_up_to_it_and_none_beyond(shape, kind):
    values = (500 + np.random.default_rng(7).normal(0, 3, SLOTS)).astype(np.float32)
    at = SLOTS - 61
    if shape in ("spike", "dip"):
        values[at] += 60 if shape == "spike" else -60
    elif shape == "level":
        values[at:] += 60
    elif shape == "leak":
        values[-600:] += np.linspace(0, 90, 600, dtype=np.float32)
    elif shape == "ramp":
        values[at:] += np.minimum(2 * np.arange(61), 70)
    else:
        values[at:] += np.random.default_rng(8).normal(0, 25, 61)
    assert kind in ever(values, DetectSettings())
    floors = {"mem*": 1000.0, "*": 0.0}
    assert ever(values, DetectSettings(floors=floors), metric="Memory") == set()
    assert kind in ever(values, DetectSettings(floors={"mem*": 1.0}), metric="memory")
    assert kind in ever(values, DetectSettings(floors=floors), metric="latency")


def test_the_first_glob_that_matches_counts():
    values = daily(1, SLOTS)[0]
    values[-1] += 60
    assert one(values, "cpu", DetectSettings(floors={"c*": 100.0, "cpu": 0.0})) == []
    assert one(values, "cpu", DetectSettings(floors={"cpu": 0.0, "c*": 100.0})) == [AnomalyKind.SPIKE]


def test_a_floor_of_nothing_takes_a_count_out_of_the_default():
    assert one(steps(2, 3), "queue", DetectSettings(floors={"queue": 0.0})) == [AnomalyKind.SPIKE]


def test_what_is_struck_is_no_witness_in_the_evidence_of_what_is_told():
    values = steps(100, 100) + np.random.default_rng(3).normal(0, 0.5, SLOTS)
    values[-12:] += 30
    shown = windows(values.astype(np.float32)[None], names=(SeriesKey("w", "m", ()),))
    (anomaly,) = Detection(DetectSettings(floors={"m": 20.0}), STEP).detect(shown, None)
    assert anomaly.kind is AnomalyKind.LEVEL_SHIFT
    (plain,) = Detection(DetectSettings(), STEP).detect(shown, None)
    assert set(anomaly.evidence["families"]) < set(plain.evidence["families"])


def test_a_trend_is_measured_by_its_newest_block_not_by_one_slot():
    values = 500 + np.random.default_rng(1).normal(0, 3, SLOTS)
    values[-600:] += np.linspace(0, 120, 600)
    values[-1] = 500
    shown = windows(values.astype(np.float32)[None], names=(SeriesKey("w", "m", ()),))
    (anomaly,) = Detection(DetectSettings(floors={"m": 90.0}), STEP).detect(shown, None)
    assert "trend" in anomaly.evidence["families"]


def shaped(shape, sign):
    """A series in which ``shape`` goes up (``sign`` 1) or down (-1), and the kind that it is."""
    values = (500 + np.random.default_rng(7).normal(0, 3, SLOTS)).astype(np.float32)
    change = {
        "spike": np.repeat([0.0, 60.0], [SLOTS - 1, 1]),
        "level": np.repeat([0.0, 60.0], [SLOTS - 30, 30]),
        "leak": np.concatenate([np.zeros(SLOTS - 600), np.linspace(0, 90, 600)]),
        "excursion": np.repeat([0.0, 60.0, 0.0], [SLOTS - 50, 30, 20]),
    }
    kinds = {"level": AnomalyKind.LEVEL_SHIFT, "leak": AnomalyKind.TREND}
    return values + sign * change[shape], kinds.get(shape, AnomalyKind.SPIKE if sign > 0 else AnomalyKind.DIP)


@pytest.mark.parametrize("shape", ["spike", "level", "leak", "excursion"])
@pytest.mark.parametrize(("sign", "watched", "other"), [(1, "up", "down"), (-1, "down", "up")])
def test_only_departures_on_the_watched_side_are_told(shape, sign, watched, other):
    values, kind = shaped(shape, sign)
    both = ever(values, DetectSettings())
    assert kind in both
    assert kind in ever(values, DetectSettings(sides={"Q*": watched, "*": other}))
    assert kind not in ever(values, DetectSettings(sides={"queue": other}))
    assert ever(values, DetectSettings(sides={"latency": other})) == both


@pytest.mark.parametrize("sign", [1, -1])
def test_the_way_back_from_an_unwatched_departure_is_no_departure(sign):
    settings = DetectSettings(sides={"*": "down" if sign > 0 else "up"})
    for lasted in (30, 120):
        values = 500 + np.random.default_rng(7).normal(0, 3, SLOTS)
        values[-40 - lasted : -40] += 60 * sign
        assert ever(values, DetectSettings())
        assert ever(values, settings) == set()
        values[-20] -= 150 * sign
        assert one(values[:-19], settings=settings), "what passes the old level is one"


@pytest.mark.parametrize("side", ["up", "down"])
def test_gaps_flat_lines_and_growing_noise_have_no_side(side):
    rng, settings = np.random.default_rng(2), DetectSettings(sides={"*": side})
    values, mask = 500 + rng.normal(0, 3, SLOTS), np.ones(SLOTS, bool)
    mask[-5:] = False
    assert one(values, settings=settings, mask=mask) == [AnomalyKind.DROPOUT]
    values[-80:] = 499
    assert one(values, settings=settings) == [AnomalyKind.FLAT_LINE]
    values[-80:] = 500 + rng.normal(0, 25, 80)
    assert AnomalyKind.VARIANCE in ever(values, settings)


def test_a_side_that_is_none_is_refused():
    with pytest.raises(ValidationError, match="'up', 'down' or 'both'"):
        DetectSettings(sides={"cpu": "left"})


@pytest.mark.parametrize("given", [{"floors": {"cpu": -1.0}}, {"min_count": -1.0}])
def test_negative_amounts_are_refused(given):
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        DetectSettings(**given)


def test_the_calm_pass_over_nobody_who_would_be_told():
    """Counts, some of which move more than the floor: as when everybody is judged at every tick."""

    class Everybody(Detection):
        def _near(self, windows, rows, lenience):
            return np.ones(len(rows), bool)

    ticks, n = 70, 12
    rng = np.random.default_rng(5)
    values = rng.poisson(np.linspace(0.02, 6, n)[:, None], (n, SLOTS + ticks)).astype(np.float32)
    values[:4] = np.arange(4)[:, None]
    at = SLOTS + rng.integers(5, ticks - 20, n)
    for row, begin in enumerate(at):
        values[row, begin : begin + (1 if row % 2 else 15)] += 1 + 2 * (row % 4)
    names = tuple(SeriesKey(f"w{i}", "queue" if i % 3 else "depth", ()) for i in range(n))
    settings = DetectSettings(floors={"depth": 4.0})
    some, every, told = Detection(settings, STEP), Everybody(settings, STEP), 0
    for k in range(ticks):
        shown = windows(values[:, k : k + SLOTS].copy(), names=names, end=START + k * STEP)
        found = some.detect(shown, None)
        assert found == every.detect(shown, None)
        told += len(found)
    assert told > 5
