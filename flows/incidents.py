"""When things went wrong, so that a model does not learn it as normal.

A file of incidents is JSON (an array, or one object a line) or parquet. An object is a row with ``start`` and ``end``, and
optionally ``workload``, ``site`` and ``label``, or an event as the outlets send it: a CloudEvent ``*.incident.*`` whose data
tells ``opened_at`` and ``at``. Times are ms since the epoch or ISO 8601.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from flows.history import History
from forecastle.errors import ConfigError
from forecastle.types import DISRUPTIVE, Outcome, SeriesKey, Status

FALSE_ALARM = frozenset({"false_alarm", "false-alarm", "false alarm", "normal"})
"""What a person calls an incident that was none: what happened then may be learned from."""

_DONE = frozenset({Status.APPLIED, Status.ALREADY, Status.UNVERIFIED})


@dataclass(frozen=True, slots=True)
class IncidentSpan:
    """``[start, end)`` in ms, of one ``workload`` at one ``site``; an empty name means all of them."""

    start: int
    end: int
    workload: str = ""
    site: str = ""

    def concerns(self, key: SeriesKey) -> bool:
        """Whether the series may have been poisoned by it."""
        return self.workload in {"", key.workload} and self.site in {"", key.label("site")}


def read_incidents(path: Path) -> tuple[IncidentSpan, ...]:
    """All spans of a file, by start; of an incident told several times the widest, and none that a person calls false.

    Raises ConfigError naming the row that cannot be understood.
    """
    told: dict[str, dict[str, Any]] = {}
    for number, row in enumerate(_rows(path), 1):
        fields = _fields(path, number, row)
        known = told.setdefault(str(fields["id"] or number), fields)
        known.update(start=min(known["start"], fields["start"]), end=max(known["end"], fields["end"]))
        known["label"] = fields["label"] or known["label"]
    spans = (
        IncidentSpan(one["start"], one["end"], one["workload"], one["site"])
        for one in told.values()
        if one["label"] not in FALSE_ALARM
    )
    return tuple(sorted(spans, key=lambda span: (span.start, span.end, span.workload, span.site)))


def healed(
    outcomes: Iterable[Outcome], pools: Mapping[str, tuple[str, str]], *, before_ms: int, after_ms: int
) -> tuple[IncidentSpan, ...]:
    """A span around each remedy that the ledger says took place; ``pools`` maps a pool to its (workload, site)."""
    return tuple(
        IncidentSpan(one.at - before_ms, one.at + after_ms, *pools[one.pool])
        for one in outcomes
        if one.kind in DISRUPTIVE and one.status in _DONE and one.pool in pools
    )


def masked(history: History, spans: Iterable[IncidentSpan]) -> History:
    """``history`` with gaps in every slot of every series that a span concerns."""
    ends = history.end - history.step_ms * np.arange(history.values.shape[1] - 1, -1, -1, dtype=np.int64)
    values = history.values.copy()
    for span in spans:
        rows = np.array([span.concerns(key) for key in history.keys], np.bool_)
        columns = (ends > span.start) & (ends - history.step_ms < max(span.end, span.start + 1))
        values[np.ix_(rows, columns)] = np.nan
    return replace(history, values=values)


def hidden(before: History, after: History) -> float:
    """Share of the observed slots of ``before`` that ``after`` does not show."""
    known = np.count_nonzero(before.mask)
    return float(np.count_nonzero(before.mask & ~after.mask) / known) if known else 0.0


def _rows(path: Path) -> Sequence[Any]:
    try:
        if path.suffix == ".parquet":
            from pyarrow import parquet

            return list(parquet.read_table(path).to_pylist())
        text = path.read_text("utf-8").strip()
        if text.startswith("["):
            found: list[Any] = json.loads(text)
            return found
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path}: cannot be read as incidents ({error}); write JSON or parquet rows of start and end"
        ) from error


def _fields(path: Path, number: int, row: Any) -> dict[str, Any]:
    if not isinstance(row, Mapping):
        raise ConfigError(f"{path}: row {number} is {row!r}; write an object with start and end")
    event = row.get("data") if isinstance(row.get("data"), Mapping) else None
    told: Mapping[str, Any] = event if event is not None else row
    start, end = (_time(path, number, told, names) for names in (("start", "opened_at"), ("end", "at", "closed_at")))
    if end < start:
        raise ConfigError(f"{path}: row {number} ends before it starts; write start and end in ms or ISO 8601")
    text = {name: str(told.get(name) or "") for name in ("id", "workload", "site", "label")}
    return {**text, "start": start, "end": end, "label": text["label"].lower()}


def _time(path: Path, number: int, row: Mapping[str, Any], names: Sequence[str]) -> int:
    value = next((row[name] for name in names if row.get(name) is not None), None)
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            value = None
    if isinstance(value, datetime):
        return int((value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp() * 1000)
    if isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value):
        return int(value)
    raise ConfigError(f"{path}: row {number} has no time {' or '.join(names)}; write ms since the epoch or ISO 8601")
