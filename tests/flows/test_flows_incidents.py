"""Incidents come from files of several forms, and what they concern is hidden from training, no more and no less."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from flows.history import History
from flows.incidents import IncidentSpan, healed, hidden, masked, read_incidents
from forecastle.errors import ConfigError
from forecastle.outlets.events import CLOSED, OPENED, incident_event
from forecastle.types import Incident, Kind, Outcome, SeriesKey, Severity, Status

STEP = 60_000
END = 100 * STEP
KEYS = (
    SeriesKey("cart", "rps"),
    SeriesKey("shop", "rps", (("site", "ams"),)),
    SeriesKey("shop", "rps", (("site", "fra"),)),
)


def history() -> History:
    values = np.arange(60, dtype=np.float32).reshape(3, 20) + 1
    return History(KEYS, values, END, STEP)


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n", "utf-8")
    else:
        path.write_text(json.dumps(rows), "utf-8")
    return path


@pytest.mark.parametrize("name", ["i.json", "i.jsonl", "i.parquet"])
def test_every_form_of_file_says_the_same(tmp_path: Path, name: str) -> None:
    rows = [
        {"start": 2000, "end": 5000, "workload": "shop", "site": "fra"},
        {"start": 1000, "end": 3000, "workload": None, "site": None},
    ]
    spans = read_incidents(written(tmp_path / name, rows))
    assert spans == (IncidentSpan(1000, 3000), IncidentSpan(2000, 5000, "shop", "fra"))


@pytest.mark.parametrize(
    "start",
    [1_700_000_000_000, "2023-11-14T22:13:20Z", "2023-11-14T23:13:20+01:00", "2023-11-14 22:13:20", 1_700_000_000_000.0],
)
def test_times_may_be_written_in_many_ways(tmp_path: Path, start: object) -> None:
    path = written(tmp_path / "i.json", [{"start": start, "end": 1_700_000_060_000}])
    assert read_incidents(path) == (IncidentSpan(1_700_000_000_000, 1_700_000_060_000),)


def test_timestamps_of_parquet_are_utc(tmp_path: Path) -> None:
    at = pa.array([1_700_000_000_000], pa.timestamp("ms", "UTC"))
    parquet.write_table(pa.table({"start": at, "end": at}), tmp_path / "i.parquet")
    assert read_incidents(tmp_path / "i.parquet") == (IncidentSpan(1_700_000_000_000, 1_700_000_000_000),)


def test_the_outlets_events_are_understood_and_the_widest_of_an_incident_counts(tmp_path: Path) -> None:
    incident = Incident("inc-1", "shop", "fra", Severity.CRITICAL, opened_at=10 * STEP, at=12 * STEP, anomalies=(), signals=2)
    later = Incident("inc-1", "shop", "fra", Severity.CRITICAL, opened_at=10 * STEP, at=15 * STEP, anomalies=(), signals=2)
    told = [incident_event(incident, OPENED, 10 * STEP), incident_event(later, CLOSED, 16 * STEP)]
    path = written(tmp_path / "events.jsonl", [{"type": event.type, "data": dict(event.data)} for event in told])
    assert read_incidents(path) == (IncidentSpan(10 * STEP, 15 * STEP, "shop", "fra"),)


@pytest.mark.parametrize(
    ("label", "kept"), [("false_alarm", 0), ("False Alarm", 0), ("normal", 0), ("outage", 1), ("", 1), (None, 1)]
)
def test_what_a_person_calls_a_false_alarm_is_learned_from(tmp_path: Path, label: object, kept: int) -> None:
    path = written(tmp_path / "i.json", [{"id": "a", "start": 1, "end": 2, "label": label}])
    assert len(read_incidents(path)) == kept


def test_a_later_label_takes_an_earlier_incident_back(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "start": 1, "end": 2},
        {"id": "b", "start": 3, "end": 4},
        {"id": "a", "start": 1, "end": 2, "label": "normal"},
    ]
    assert read_incidents(written(tmp_path / "i.jsonl", rows)) == (IncidentSpan(3, 4),)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "cannot be read as incidents"),
        ("[1]", "row 1 is 1; write an object"),
        ('[{"start": 1}]', "row 1 has no time end or at or closed_at"),
        ('[{"start": 1, "end": 2}, {"start": true, "end": 2}]', "row 2 has no time start or opened_at"),
        ('[{"start": "soon", "end": 2}]', "has no time start"),
        ('[{"start": 3, "end": 2}]', "row 1 ends before it starts"),
    ],
)
def test_what_is_no_incident_is_named_with_its_row(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "i.json"
    path.write_text(text, "utf-8")
    with pytest.raises(ConfigError, match=says):
        read_incidents(path)


def test_a_missing_file_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        read_incidents(tmp_path / "nowhere.parquet")


@pytest.mark.parametrize(
    ("span", "rows"),
    [
        (IncidentSpan(90 * STEP, 93 * STEP), [0, 1, 2]),
        (IncidentSpan(90 * STEP, 93 * STEP, "shop"), [1, 2]),
        (IncidentSpan(90 * STEP, 93 * STEP, "shop", "fra"), [2]),
        (IncidentSpan(90 * STEP, 93 * STEP, "", "ams"), [1]),
        (IncidentSpan(90 * STEP, 93 * STEP, "other"), []),
    ],
)
def test_only_what_it_concerns_is_hidden(span: IncidentSpan, rows: list[int]) -> None:
    whole = history()
    after = masked(whole, [span])
    gone = whole.mask & ~after.mask
    assert np.flatnonzero(gone.any(1)).tolist() == rows
    for row in rows:
        assert np.flatnonzero(gone[row]).tolist() == [10, 11, 12], "the slots that end in minutes 91 to 93"
    assert hidden(whole, after) == pytest.approx(len(rows) * 3 / 60)
    assert whole.mask.all(), "the history itself stays"


def test_a_moment_hides_the_slot_it_is_in() -> None:
    assert np.flatnonzero(~masked(history(), [IncidentSpan(95 * STEP + 1, 95 * STEP + 1)]).mask[0]).tolist() == [15]


@given(st.integers(70, 110), st.integers(0, 30))
def test_a_slot_is_hidden_exactly_when_it_overlaps(start: int, length: int) -> None:
    span = IncidentSpan(start * STEP, (start + length) * STEP + 1)
    gone = ~masked(history(), [span]).mask[0]
    for column in range(20):
        end = END - (19 - column) * STEP
        assert gone[column] == (end > span.start and end - STEP < span.end)


def test_remedies_of_the_ledger_mark_what_was_before_and_after_them() -> None:
    def outcome(kind: Kind, status: Status) -> Outcome:
        return Outcome(f"{kind}-{status}", status, 50 * STEP, "shop-fra", kind)

    told = [outcome(Kind.SCALE, Status.APPLIED), outcome(Kind.RESTART, Status.REFUSED), outcome(Kind.RESTART, Status.APPLIED)]
    spans = healed(told, {"shop-fra": ("shop", "fra")}, before_ms=10 * STEP, after_ms=5 * STEP)
    assert spans == (IncidentSpan(40 * STEP, 55 * STEP, "shop", "fra"),), "neither scaling nor a refusal is an incident"
    assert healed(told, {}, before_ms=1, after_ms=1) == (), "a pool that is no more concerns no series"
