"""Incidents to remedies: the first playbook that matches says what is done, on the pools where the incident is.

A remedy is given time to show. It is proposed again only if the incident has newer anomalies than that; how often in all,
the guards know.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from forecastle.decide.sights import Tick
from forecastle.guards.gates import EMPTYING
from forecastle.types import Action, Incident, Kind, Observed, Outcome, Playbook, Severity, Status

_SEVERITIES = tuple(Severity)
_DONE = frozenset({Status.APPLIED, Status.ALREADY, Status.UNVERIFIED, Status.FAILED})
_PER_REPLICA = frozenset({Kind.RESTART, Kind.REPLACE})
_WEIGHTED = frozenset({Kind.SHIFT, Kind.DRAIN})


@dataclass(frozen=True, slots=True)
class Remedy:
    """What a playbook answers an incident with: actions to be judged, or in words why a human must be told instead."""

    incident: Incident
    playbook: Playbook
    actions: tuple[Action, ...]
    page: str = ""


def match(incident: Incident, playbooks: tuple[Playbook, ...]) -> Playbook | None:
    """The first playbook with the incident's severity or a lesser one, and one anomaly of its metric and kind.

    An incident of a whole site is answered by telling people or by emptying it: nothing that runs there can be healed. One
    with a threat among its evidence is answered by telling people or by a quarantine that somebody approves.
    """
    threat = _threat(incident)
    for book in playbooks:
        if _SEVERITIES.index(incident.severity) < _SEVERITIES.index(book.severity):
            continue
        if incident.workload == "*" and book.action not in {Kind.NOTIFY, *EMPTYING}:
            continue
        if threat and book.action not in {Kind.NOTIFY, Kind.QUARANTINE}:
            continue
        if any(fnmatchcase(a.key.metric, book.metric) and (not book.kinds or a.kind in book.kinds) for a in incident.anomalies):
            return book
    return None


def _threat(incident: Incident) -> bool:
    return any(a.evidence.get("threat") for a in incident.anomalies)


def remedies(tick: Tick) -> Iterator[Remedy]:
    """A `Remedy` for every open incident of this worker's workloads that a playbook matches, most severe first."""
    for incident in sorted(tick.situation.incidents, key=lambda i: (-_SEVERITIES.index(i.severity), i.opened_at, i.id)):
        book = None if incident.closed else match(incident, tick.inventory.playbooks)
        if book is not None and (pools := pools_of(incident, tick, traffic=book.action in _WEIGHTED)):
            yield _remedy(incident, book, pools, tick)


def pools_of(incident: Incident, tick: Tick, *, traffic: bool = False) -> tuple[str, ...]:
    """Pools the incident is about: of its workload (``*``: of all), at its site if it has one; with their ``traffic``."""
    names = list(tick.sights) if incident.workload == "*" else [incident.workload]
    loads = [tick.inventory.workloads[name] for name in names if name in tick.sights]
    pools = [tick.inventory.pools[p] for load in loads for p in (*load.pools, *(load.traffic if traffic else ()))]
    return tuple(p.name for p in pools if incident.site in {"", p.site})


def _remedy(incident: Incident, book: Playbook, pools: tuple[str, ...], tick: Tick) -> Remedy:
    where = " ".join(word for word in (incident.severity, incident.workload, incident.site) if word)
    text = f"{book.name}: {where}: {incident.cause}"
    if book.action is Kind.NOTIFY:
        return Remedy(incident, book, (), text)
    observed = tick.situation.fleet.observed
    seen = [observed[pool] for pool in pools if pool in observed and _due(incident, book, pool, tick)]
    if incident.workload == "*" and book.action in _WEIGHTED:
        seen = [state for state in seen if state.traffic is None]  # the others are emptied by failover
    asked = [(state, _desired(book.action, state, tick, text)) for state in seen]
    unknown = [state.pool for state, desired in asked if desired is None]
    page = f"{text}; no earlier release of {', '.join(unknown)} is known to roll back to" if unknown else ""
    actions = [a for state, desired in asked if desired is not None for a in _actions(incident, book, state, desired, tick)]
    return Remedy(incident, book, tuple(replace(action, reason=text) for action in actions), page)


def _due(incident: Incident, book: Playbook, pool: str, tick: Tick) -> bool:
    """Whether the remedy was not tried on ``pool`` for this incident, or was and had its time and the trouble went on."""
    tried = [
        o
        for o in tick.situation.fleet.outcomes
        if o.pool == pool and o.kind is book.action and o.status in _DONE and o.at >= incident.opened_at
    ]
    if not tried:
        return True
    settled_at = tried[-1].at + int((tick.settings.heal_settle_s + tick.inventory.pools[pool].startup_s) * 1000)
    return any(a.at > settled_at for a in incident.anomalies)


def _desired(kind: Kind, seen: Observed, tick: Tick, text: str) -> str | int | None:
    if kind in _PER_REPLICA:
        return str(tick.at)
    if kind in _WEIGHTED:
        return 0
    return _earlier_release(seen, tick.situation.fleet.outcomes) if kind is Kind.ROLLBACK else text


def _earlier_release(seen: Observed, outcomes: tuple[Outcome, ...]) -> str | None:
    """The newest release the pool is known to have run before the present one; None when nothing recorded another.

    "The previous one" would be relative: told twice, it would go back twice. What a rollback left was bad: nothing goes there.
    """
    mine = [o for o in outcomes if o.pool == seen.pool]
    left = {o.before.release for o in mine if o.kind is Kind.ROLLBACK and o.status in _DONE and o.before}
    past = (state.release for o in reversed(mine) for state in (o.after, o.before) if state)
    return next((release for release in past if release and release != seen.release and release not in left), None)


def _actions(incident: Incident, book: Playbook, seen: Observed, desired: str | int, tick: Tick) -> Iterator[Action]:
    """On the replicas the cloud calls unhealthy where there are any, otherwise on the pool.

    The cloud's word is one more signal, independent of the metrics.
    """
    workload = tick.inventory.pools[seen.pool].workload
    for replica in (seen.unhealthy if book.action in _PER_REPLICA else ()) or ("",):
        yield Action(
            book.action,
            workload,
            seen.pool,
            desired,
            seen.version,
            tick.at,
            tick.deadline,
            replica,
            signals=incident.signals + (1 if replica and incident.signals else 0),
            approval="B" if book.approval == "A" and _threat(incident) else book.approval,
        )
