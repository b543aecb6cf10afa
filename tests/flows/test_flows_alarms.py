"""Detectors run over a history as a worker would run them, and what they find in it is counted right."""

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "predict"))
import tiny_models

from flows import alarms
from flows.alarms import LABELLED, Event, Heard
from flows.history import History
from flows.incidents import IncidentSpan
from forecastle.detect.injections import KINDS
from forecastle.errors import ConfigError
from forecastle.ports import Artifact
from forecastle.predict.artifacts import sha256
from forecastle.settings import Settings
from forecastle.types import SeriesKey

STEP, SLOTS, FIRST = 60_000, 500, 400
SETTINGS = Settings.model_validate(
    {"window": {"look_back": 150}, "detect": {"look_back": 100, "warmup": 60, "season": 0, "close_s": 300}}
)


def history(series: int = 4, slots: int = SLOTS) -> History:
    values = 100 + np.random.default_rng(0).normal(0, 1, (series, slots))
    keys = tuple(SeriesKey(f"w{i // 2}", f"m{i % 2}") for i in range(series))
    return History(keys, values.astype(np.float32), slots * STEP, STEP)


def made(path: Path, gain: float) -> Artifact:
    manifest = tiny_models.detector(path, gain=gain)
    return Artifact("detector", "1", path, sha256(path), manifest)


def heard(fired: np.ndarray, score: np.ndarray | None = None) -> Heard:
    return Heard(fired.astype(float) if score is None else score, fired, np.zeros_like(fired))


def test_what_is_made_up_lies_in_the_tail_and_is_of_every_kind() -> None:
    some = history()
    changed, events = alarms.made_up(some, FIRST)
    again, _ = alarms.made_up(some, FIRST)
    assert np.array_equal(changed.values, again.values)
    told = len(changed.keys) // len(some.keys)
    assert len(set(changed.keys)) == told * len(some.keys) > len(some.keys), "a small history is told more than once"
    whole = np.tile(some.values, (told, 1))
    assert np.array_equal(changed.values[:, :FIRST], whole[:, :FIRST])
    assert min(Counter(event.kind for event in events).values()) >= 3
    assert {event.kind for event in events} == set(KINDS)
    marked = np.zeros((len(changed.keys), SLOTS - FIRST), bool)
    for event in events:
        assert event.first < event.end <= event.until <= SLOTS - FIRST
        marked[list(event.rows), event.first : event.end] = True
    differs = changed.values[:, FIRST:] != whole[:, FIRST:]
    assert differs.any()
    assert not (differs & ~marked).any(), "nothing is changed that is not told"


@pytest.mark.parametrize("peer", ["model", "built-in", "z-score", "chance"])
def test_no_detector_knows_the_future(tmp_path: Path, peer: str) -> None:
    watch = {
        "model": lambda: alarms.served(SETTINGS, made(tmp_path / "model.onnx", 1.0)),
        "built-in": lambda: alarms.served(SETTINGS, None),
        "z-score": lambda: alarms.z_score(SETTINGS),
        "chance": lambda: alarms.chance(SETTINGS),
    }[peer]()
    some, cut = history(), 40
    values = some.values.copy()
    values[:, FIRST + cut :] += 1e4
    one, other = watch(some, FIRST), watch(replace(some, values=values), FIRST)
    assert np.array_equal(one.fired[:, :cut], other.fired[:, :cut])
    assert one.score[:, :cut] == pytest.approx(other.score[:, :cut], abs=1e-6)
    if peer != "chance":
        assert (other.score[:, cut] > one.score[:, cut]).all()
        assert other.fired[:, cut].all()
    assert bool(other.own.any()) is (peer == "model"), "only a model speaks for itself"


def test_a_found_event_has_a_delay_and_one_that_was_alarmed_before_is_not_found() -> None:
    fired = np.zeros((2, 100), bool)
    fired[0, 13:15] = fired[1, 38:45] = True
    events = [Event("spike", (0,), 10, 20, 35), Event("dip", (1,), 40, 44, 59), Event("leak", (0, 1), 80, 90, 95)]
    told = alarms.finds(heard(fired), events, STEP)
    assert (told.events, told.found, told.delay_s) == (3, pytest.approx(1 / 3), 180.0)
    late = np.zeros((2, 100), bool)
    late[0, 34] = True
    assert alarms.finds(heard(late), events[:1], STEP).found == 1.0
    assert alarms.finds(heard(np.roll(late, 1, axis=1)), events[:1], STEP).found == 0.0, "too late"
    assert alarms.finds(heard(fired), [], STEP) == alarms.Finds(0, None, None, None)


def test_the_area_is_that_of_the_score_and_other_events_do_not_count_against_it() -> None:
    score = np.zeros((1, 200))
    score[0, 50:60], score[0, 120:140] = 1.0, 2.0
    quiet = heard(np.zeros((1, 200), bool), score)
    own, other = Event("spike", (0,), 50, 60, 75), Event("leak", (0,), 120, 140, 155)
    alone = alarms.finds(quiet, [own], STEP).vus_pr
    fair = alarms.finds(quiet, [own], STEP, [other]).vus_pr
    assert alone is not None
    assert fair is not None
    assert fair > 0.9 > 0.5 > alone


def test_alarms_are_counted_once_until_it_was_quiet_and_not_where_people_confirmed_an_incident() -> None:
    fired = np.zeros((2, 100), bool)
    fired[0, [10, 12, 15, 30, 60]] = fired[1, [50]] = True
    told = alarms.alarms(SETTINGS, heard(fired), [Event(LABELLED, (0,), 28, 40, 55)], STEP)
    assert [np.flatnonzero(row).tolist() for row in told] == [[10, 60], [50]]
    some = history(series=2)
    some.values[0, -50:] = np.nan
    assert alarms.days(some, FIRST) == pytest.approx(150 / 1440)
    assert alarms.days(some, FIRST, 0) == pytest.approx(50 / 1440)


def test_two_detectors_agree_on_alarms_near_each_other() -> None:
    one, other = np.zeros((2, 2, 100), bool)
    one[0, [10, 50]], other[0, [20, 90]] = True, True
    other[1, 50] = True
    assert alarms.agreement(one, other) == pytest.approx(2 / 5), "another series' alarm is no agreement"
    assert alarms.agreement(one, one) == 1.0
    assert alarms.agreement(one & False, one & False) is None


def test_confirmed_incidents_are_those_of_the_workload_that_touch_the_tail() -> None:
    some = history()
    begin = FIRST * STEP
    spans = [
        IncidentSpan(begin + 10 * STEP, begin + 20 * STEP, "w1"),
        IncidentSpan(begin - 5 * STEP, begin + 5 * STEP),
        IncidentSpan(0, begin - STEP),
        IncidentSpan(begin, begin + STEP, "nobody"),
    ]
    told = alarms.confirmed(some, FIRST, spans)
    assert [(one.kind, one.rows, one.first, one.end) for one in told] == [
        (LABELLED, (2, 3), 10, 20),
        (LABELLED, (0, 1, 2, 3), 0, 5),
    ]


@pytest.mark.parametrize(("slots", "tail"), [(340, 0.2), (100, 0.8)])
def test_too_short_a_tail_or_past_says_what_is_needed(slots: int, tail: float) -> None:
    with pytest.raises(ConfigError, match="must hold 72 of them and the rest 60"):
        alarms.tail_of(SETTINGS, history(slots=slots), tail)
    assert alarms.tail_of(SETTINGS, history(slots=500), 0.2) == 400
