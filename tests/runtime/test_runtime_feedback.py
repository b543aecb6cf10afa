"""People's words about incidents: into the ledger, out as thresholds at a known tick, out as labels for training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from flows.incidents import read_incidents
from forecastle.cli import app
from forecastle.errors import Denied, NotFound, StoreUnavailable
from forecastle.ledger.store import SqlLedger
from forecastle.runtime.clocks import EventClock
from forecastle.runtime.feedback import FEEDBACK, INCIDENT, Words, incident_keeper, say, write_labels
from forecastle.runtime.loop import Closed, Turned
from forecastle.settings import LedgerSettings
from forecastle.types import Anomaly, AnomalyKind, Forecasts, Incident, SeriesKey, Severity, Windows

STEP = 60_000
START = 1_760_000_040_000 // STEP * STEP
LATENCY = SeriesKey("shop", "latency", (("pod", "a"), ("site", "eu")))
ERRORS = SeriesKey("shop", "errors", (("site", "eu"),))


@pytest.fixture
def clock() -> EventClock:
    return EventClock(START)


@pytest.fixture
def ledger(tmp_path: Path, clock: EventClock):
    opened = SqlLedger(LedgerSettings(url=f"sqlite:///{tmp_path}/ledger.db", kill_file=""), clock)
    yield opened
    opened.close()


def incident(name: str = "abc123", *keys: SeriesKey, opened: int = START, at: int = START) -> Incident:
    anomalies = tuple(Anomaly(key, at, 9.0, 3.0, AnomalyKind.SPIKE) for key in keys or (LATENCY,))
    return Incident(name, "shop", "eu", Severity.WARNING, opened, at, anomalies, 1, "latency spike")


def turned(*incidents: Incident, tick: int = START, rebuilt: bool = False) -> Turned:
    empty, none = np.zeros((0, 1), np.float32), np.zeros(0, bool)
    windows = Windows((), tick, STEP, empty, empty.astype(bool), none, none)
    forecasts = Forecasts((), tick, STEP, (0.5,), np.zeros((0, 1, 1), np.float32), "none", none)
    return Turned(Closed(tick, windows, forecasts, (), incidents), rebuilt=rebuilt)


def judged(ledger: SqlLedger, *verdicts: bool, name: str = "abc123") -> None:
    for i, real in enumerate(verdicts):
        incident_keeper(ledger)(turned(incident(f"{name}-{i}")))
        say(ledger, f"{name}-{i}", real=real, who="ann")


# --- incidents in the ledger ---


def test_an_incident_is_recorded_once_however_long_it_lasts(ledger: SqlLedger) -> None:
    keep = incident_keeper(ledger)
    for minute in range(5):
        keep(turned(incident(at=START + minute * STEP), tick=START + minute * STEP))
    (entry,) = ledger.history(kinds=[INCIDENT])
    assert entry.body["id"] == "abc123"
    assert entry.body["series"] == [["shop", "latency", {"pod": "a", "site": "eu"}]]


def test_series_that_join_are_recorded(ledger: SqlLedger) -> None:
    keep = incident_keeper(ledger)
    keep(turned(incident()))
    keep(turned(incident("abc123", ERRORS), tick=START + STEP))
    newest, first = ledger.history(kinds=[INCIDENT])
    assert (len(first.body["series"]), len(newest.body["series"])) == (1, 2)


def test_the_end_is_recorded_with_its_last_moment(ledger: SqlLedger) -> None:
    keep = incident_keeper(ledger)
    keep(turned(incident()))
    keep(turned(incident(at=START + STEP), tick=START + STEP))
    keep(turned(tick=START + 2 * STEP))
    keep(turned(tick=START + 3 * STEP))
    newest, first = ledger.history(kinds=[INCIDENT])
    assert (first.body["at"], newest.body["at"]) == (START, START + STEP)


def test_history_repeated_after_a_restart_records_nothing(ledger: SqlLedger) -> None:
    incident_keeper(ledger)(turned(incident()))
    again = incident_keeper(ledger)
    again(turned(incident(), rebuilt=True))
    again(turned(incident(at=START + STEP), tick=START + STEP))
    assert len(ledger.history(kinds=[INCIDENT])) == 1


def test_a_store_that_was_down_is_told_later(ledger: SqlLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    keep = incident_keeper(ledger)

    def down(**_: object) -> None:
        raise StoreUnavailable("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(ledger, "writing", down)
        keep(turned(incident()))
    assert ledger.history(kinds=[INCIDENT]) == []
    keep(turned(incident(at=START + STEP), tick=START + STEP))
    assert len(ledger.history(kinds=[INCIDENT])) == 1


# --- what people say ---


def test_a_word_is_a_link_of_the_chain(ledger: SqlLedger) -> None:
    incident_keeper(ledger)(turned(incident("abc123", LATENCY, ERRORS)))
    before = ledger.verify()
    said = say(ledger, "abc", real=False, who="ann")
    assert (said["id"], said["who"], said["real"], len(said["series"])) == ("abc123", "ann", False, 2)
    assert ledger.verify() == before + 1
    assert ledger.history(kinds=[FEEDBACK])[0].body == said


@pytest.mark.parametrize(
    ("name", "why"), [("zzz", "none has"), ("", "none has"), ("ab", "more than one has"), ("c123", "none has")]
)
def test_an_unknown_incident_is_refused(ledger: SqlLedger, name: str, why: str) -> None:
    for known in ("abc123", "abd999"):
        incident_keeper(ledger)(turned(incident(known)))
    with pytest.raises(NotFound, match=why):
        say(ledger, name, real=True, who="ann")
    assert ledger.history(kinds=[FEEDBACK]) == []


def test_nobody_says_nothing(ledger: SqlLedger) -> None:
    incident_keeper(ledger)(turned(incident()))
    with pytest.raises(Denied, match="--by NAME"):
        say(ledger, "abc123", real=True, who=" ")


# --- when it takes effect ---


def test_a_word_waits_for_a_tick_that_nobody_has_decided(ledger: SqlLedger) -> None:
    judged(ledger, False)
    words = Words(ledger, STEP)
    assert words.lenience(START) == {}
    assert words.lenience(START + STEP) == {}
    assert words.lenience(START + 2 * STEP) == {LATENCY: 1.25}


def test_a_dismissal_is_heard_with_the_words_and_not_before(ledger: SqlLedger) -> None:
    judged(ledger, False)
    words = Words(ledger, STEP)
    heard = []
    for tick in (START + STEP, START + 2 * STEP, START + STEP):
        words.lenience(tick)
        heard.append(dict(words.dismissed(tick)))
    assert heard == [{}, {LATENCY: START}, {}]


def test_words_add_up_as_they_come(ledger: SqlLedger, clock: EventClock) -> None:
    words, seen = Words(ledger, STEP), []
    for i in range(6):
        clock.advance(START + i * STEP)
        judged(ledger, False, name=f"i{i}")
        seen.append(words.lenience(START + (i + 1) * STEP).get(LATENCY, 1.0))
    assert seen == pytest.approx([1.0, 1.25, 1.5625, 1.953125, 2.0, 2.0])


def test_a_replay_hears_the_same(ledger: SqlLedger, clock: EventClock) -> None:
    live, ticks = Words(ledger, STEP), [START + i * STEP for i in range(1, 9)]
    heard = []
    for i, tick in enumerate(ticks):
        clock.advance(tick)
        heard.append(dict(live.lenience(tick)))
        judged(ledger, i % 3 == 0, name=f"i{i}")
    again = Words(ledger, STEP)
    assert [dict(again.lenience(tick)) for tick in ticks] == heard
    assert [dict(again.lenience(tick)) for tick in ticks[:5]] == heard[:5], "an earlier tick is answered as it was"
    assert Words(ledger, STEP).lenience(ticks[-1]) == heard[-1], "so is a worker that starts in the middle"
    assert len({str(one) for one in heard}) > 4


def test_a_store_that_is_down_changes_no_threshold(ledger: SqlLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    judged(ledger, False)
    words = Words(ledger, STEP)
    before = dict(words.lenience(START + 2 * STEP))

    def down(**_: object) -> None:
        raise StoreUnavailable("gone")

    with monkeypatch.context() as patched:
        patched.setattr(ledger, "history", down)
        assert words.lenience(START + 3 * STEP) == before
    assert words.lenience(START + 4 * STEP) == before


# --- labels for training ---


def test_labels_are_read_by_training(ledger: SqlLedger, tmp_path: Path) -> None:
    keep = incident_keeper(ledger)
    keep(turned(incident("real1"), incident("false1", opened=START - STEP)))
    keep(turned(tick=START + STEP))
    say(ledger, "real1", real=True, who="ann")
    say(ledger, "false1", real=False, who="bob")
    out = tmp_path / "labels.jsonl"
    assert write_labels(ledger, out) == 2
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["id"], row["label"], row["by"]) for row in rows] == [
        ("false1", "false_alarm", "bob"),
        ("real1", "incident", "ann"),
    ]
    (span,) = read_incidents(out)
    assert (span.start, span.end, span.workload, span.site) == (START, START, "shop", "eu")


def test_a_word_said_at_once_labels_all_that_followed(ledger: SqlLedger, tmp_path: Path) -> None:
    keep, out = incident_keeper(ledger), tmp_path / "labels.jsonl"
    keep(turned(incident()))
    say(ledger, "abc123", real=True, who="ann")
    last = START + 180 * STEP
    keep(turned(incident("abc123", LATENCY, ERRORS, at=START + 90 * STEP), tick=START + 90 * STEP))
    keep(turned(incident(at=last), tick=last))
    keep(turned(tick=last + STEP))
    assert write_labels(ledger, out) == 1
    (span,) = read_incidents(out)
    assert (span.start, span.end) == (START, last)
    again = say(ledger, "abc123", real=False, who="bob")
    assert (again["at"], [metric for _, metric, _ in again["series"]]) == (last, ["errors", "latency"])


def test_what_others_lasted_lengthens_no_label(ledger: SqlLedger, tmp_path: Path) -> None:
    keep, out = incident_keeper(ledger), tmp_path / "labels.jsonl"
    keep(turned(incident("short"), incident("long")))
    say(ledger, "short", real=True, who="ann")
    keep(turned(incident("long", at=START + 60 * STEP), tick=START + 60 * STEP))
    keep(turned(tick=START + 61 * STEP))
    assert write_labels(ledger, out) == 1
    assert [span.end for span in read_incidents(out)] == [START]


def test_a_label_begins_with_the_trouble_not_with_its_discovery(ledger: SqlLedger, tmp_path: Path) -> None:
    found = incident(at=START + STEP, opened=START + STEP)
    slow = replace(found.anomalies[0], evidence={"onset": START - 10 * STEP})
    keep, out = incident_keeper(ledger), tmp_path / "labels.jsonl"
    keep(turned(replace(found, anomalies=(slow,)), tick=START + STEP))
    say(ledger, "abc123", real=True, who="ann")
    keep(turned(tick=START + 2 * STEP))
    write_labels(ledger, out)
    assert [(span.start, span.end) for span in read_incidents(out)] == [(START - 10 * STEP, START + STEP)]


def test_of_one_incident_the_last_word_is_the_label(ledger: SqlLedger, tmp_path: Path) -> None:
    incident_keeper(ledger)(turned(incident()))
    for real in (True, False, True):
        say(ledger, "abc123", real=real, who="ann")
    assert write_labels(ledger, tmp_path / "labels.jsonl") == 1
    assert len(read_incidents(tmp_path / "labels.jsonl")) == 1


def test_nothing_said_is_an_empty_file(ledger: SqlLedger, tmp_path: Path) -> None:
    assert write_labels(ledger, tmp_path / "labels.jsonl") == 0
    assert (tmp_path / "labels.jsonl").read_text() == ""


# --- the command ---


def run(tmp_path: Path, *words: str):
    ledger = ["--set", f"ledger.url=sqlite:///{tmp_path}/ledger.db"]
    config = ["--config", str(Path(__file__).parents[2] / "configs/base.yaml")]
    return CliRunner().invoke(app, ["feedback", *words, *config, *ledger])


def test_the_command_records_and_exports(ledger: SqlLedger, tmp_path: Path) -> None:
    incident_keeper(ledger)(turned(incident()))
    out = tmp_path / "labels.jsonl"
    done = run(tmp_path, "abc", "false", "--by", "ann", "--labels", str(out))
    assert done.exit_code == 0, done.output
    assert "abc123: false, 1 series, says ann" in done.output
    assert json.loads(out.read_text())["label"] == "false_alarm"
    assert ledger.history(kinds=[FEEDBACK])[0].body["who"] == "ann"


@pytest.mark.parametrize("words", [(), ("abc123",), ("abc123", "maybe", "--by", "ann")])
def test_the_command_wants_real_or_false(ledger: SqlLedger, tmp_path: Path, words: tuple[str, ...]) -> None:
    assert run(tmp_path, *words).exit_code == 2
    assert ledger.history(kinds=[FEEDBACK]) == []
