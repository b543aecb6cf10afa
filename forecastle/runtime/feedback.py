"""Incidents into the ledger, people's words about them after, and both out again: as thresholds and as labels for training.

A word takes effect at the first tick that ends more than one step after it was recorded: by then every worker, and every
replay, sees it. Ticks are decided after they end, so none has to be decided again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from forecastle.detect.feedback import Verdict, dismissed, lenience
from forecastle.errors import Denied, NotFound, StoreUnavailable
from forecastle.ledger.store import SqlLedger
from forecastle.runtime.loop import Turned
from forecastle.types import Incident, SeriesKey

INCIDENT, FEEDBACK = "incident", "feedback"
"""Kinds of the ledger's entries."""
FALSE_ALARM = "false_alarm"
"""What a label file calls an incident that was none."""
_ALL = 1_000_000


def incident_keeper(ledger: SqlLedger) -> Callable[[Turned], None]:
    """A loop listener that records an incident when it opens, whenever more series join it, and when it is over.

    What cannot be recorded while the store is down is recorded at the first tick after.
    """
    known: dict[str, tuple[Incident, set[SeriesKey]]] = {}

    def keep(incident: Incident, series: set[SeriesKey], tick: int) -> None:
        with ledger.writing(durable=False) as entries:
            entries.add(INCIDENT, _body(incident, series), tick)

    def follow(turned: Turned) -> None:
        for incident in turned.closed.incidents:
            before = known[incident.id][1] if incident.id in known else _recorded(ledger, incident)
            series = before | {a.key for a in incident.anomalies}
            if series != before:
                keep(incident, series, turned.closed.tick)
            known[incident.id] = incident, series
        for gone in sorted(known.keys() - {incident.id for incident in turned.closed.incidents}):
            keep(*known[gone], turned.closed.tick)
            del known[gone]

    def listen(turned: Turned) -> None:
        if not turned.rebuilt:
            with suppress(StoreUnavailable):
                follow(turned)

    return listen


def _recorded(ledger: SqlLedger, incident: Incident) -> set[SeriesKey]:
    """Series recorded by this worker before a restart."""
    found = ledger.history(kinds=[INCIDENT], since_ms=incident.opened_at, mentions=incident.id, limit=1)
    return set(_series(found[0].body)) if found else set()


def _body(incident: Incident, series: set[SeriesKey]) -> dict[str, object]:
    return {
        "id": incident.id,
        "workload": incident.workload,
        "site": incident.site,
        "opened_at": incident.opened_at,
        "since": min((int(a.evidence.get("onset", a.at)) for a in incident.anomalies), default=incident.opened_at),
        "at": incident.at,
        "cause": incident.cause,
        "series": _listed(series),
    }


def _series(body: Mapping[str, Any]) -> frozenset[SeriesKey]:
    return frozenset(SeriesKey(load, metric, tuple(sorted(labels.items()))) for load, metric, labels in body["series"])


def _whole(told: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """All that the entries of one incident say, newest first: from the earliest onset to the last moment, every series."""
    series = {key for body in told for key in _series(body)}
    return {
        **told[0],
        "since": min(body.get("since", body["opened_at"]) for body in told),
        "at": max(body["at"] for body in told),
        "series": _listed(series),
    }


def _listed(series: Iterable[SeriesKey]) -> list[list[object]]:
    return [[key.workload, key.metric, dict(key.labels)] for key in sorted(series)]


def say(ledger: SqlLedger, incident: str, *, real: bool, who: str) -> dict[str, Any]:
    """Record ``who``'s word on the recorded incident with this id or unique prefix. Returns what was recorded.

    Raises NotFound when no recorded incident, or more than one, has it, and Denied without a name.
    """
    if not who.strip():
        raise Denied("the name of the person is needed: give --by NAME")
    told = ledger.history(kinds=[INCIDENT], mentions=incident, limit=_ALL)
    found = [entry.body for entry in told if incident and entry.body["id"].startswith(incident)]
    if len({body["id"] for body in found}) != 1:
        count = "more than one has" if found else "none has"
        raise NotFound(f"incident {incident!r}: {count} this id; give the whole id that the alert tells")
    word = {**_whole(found), "real": real, "who": who}
    with ledger.writing() as entries:
        entries.add(FEEDBACK, word)
    return word


class Words:
    """What people said, read from the ledger as ticks go by; each entry is read once."""

    def __init__(self, ledger: SqlLedger, step_ms: int) -> None:
        self._ledger, self._step_ms = ledger, step_ms
        self._verdicts: list[Verdict] = []
        self._read_until = 0
        self._factors: dict[SeriesKey, float] = {}

    def lenience(self, tick: int) -> Mapping[SeriesKey, float]:
        """What thresholds are multiplied by at ``tick`` (ms). An earlier tick than before is answered as it was then.

        While the store is down (nothing is done then) what was known before goes on.
        """
        until = tick - self._step_ms
        if until < self._read_until:
            return lenience(v for v in self._verdicts if v.at < until)
        try:
            found = self._ledger.history(kinds=[FEEDBACK], since_ms=self._read_until, until_ms=until, limit=_ALL)
        except StoreUnavailable:
            return self._factors
        self._read_until = until
        if found:
            self._verdicts += [Verdict(e.body["id"], e.body["real"], e.at, _series(e.body)) for e in reversed(found)]
            self._factors = lenience(self._verdicts)
        return self._factors

    def dismissed(self, tick: int) -> Mapping[SeriesKey, int]:
        """When people last called an incident of each series none (ms), as far as `lenience` at ``tick`` (ms) has read."""
        until = tick - self._step_ms
        return dismissed(v for v in self._verdicts if v.at < until)


def write_labels(ledger: SqlLedger, out: Path) -> int:
    """One JSON line for each incident that somebody judged, as the flow that trains reads them. Returns how many.

    It lasted as long as all entries about it say, those after the word included. One that is still open ends with the newest.
    """
    last = {e.body["id"]: e.body for e in reversed(ledger.history(kinds=[FEEDBACK], limit=_ALL))}
    told: dict[str, list[dict[str, Any]]] = {name: [body] for name, body in last.items()}
    for entry in ledger.history(kinds=[INCIDENT], limit=_ALL) if last else ():
        if entry.body["id"] in told:
            told[entry.body["id"]].append(entry.body)
    rows = [
        {
            "id": body["id"],
            "start": body["since"],
            "end": max(body["at"], body["opened_at"]),
            "workload": body["workload"].replace("*", ""),
            "site": body["site"],
            "label": "incident" if body["real"] else FALSE_ALARM,
            "by": body["who"],
        }
        for body in sorted((_whole(bodies) for bodies in told.values()), key=lambda body: (body["opened_at"], body["id"]))
    ]
    out.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return len(rows)
