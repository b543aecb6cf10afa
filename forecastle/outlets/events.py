"""From turns of the loop to events: plans, outcomes, incidents and anomalies, each with an id that a repeat carries again.

State is a function of the log, and so are the events. After a restart the turns that rebuild it are told again from the
tick that the receivers have (`Courier`); their plans come from the ledger, and outcomes from the fleet that a decision saw,
which also holds those of other processes. Programs are told of every incident, people of one for each fault (`pages`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from forecastle.outlets.cloudevents import Event
from forecastle.outlets.pages import Page, Pages
from forecastle.outlets.turn import Turn
from forecastle.types import Anomaly, Incident, Outcome, Plan, digest

PLAN, OUTCOME, ANOMALY = "forecastle.plan.made", "forecastle.action.concluded", "forecastle.anomaly.found"
OPENED, CHANGED, CLOSED = (f"forecastle.incident.{what}" for what in ("opened", "changed", "closed"))
TYPES = (PLAN, OUTCOME, ANOMALY, OPENED, CHANGED, CLOSED)
FLEET = "*"


class Told(NamedTuple):
    """The events of a turn, as programs read them (``records``) and as people do (``pages``)."""

    records: tuple[Event, ...] = ()
    pages: tuple[Event, ...] = ()


class Teller:
    """Makes the events of each turn. ``since`` (ms) is the tick up to which everything was told.

    ``recorded`` gives the plans that the ledger holds for a tick, for turns of before the restart.
    """

    def __init__(self, since: int, recorded: Callable[[int], tuple[Plan, ...] | None]) -> None:
        self._since, self._recorded = since, recorded
        self._open: dict[str, Incident] = {}
        self._paged: dict[str, Page] = {}
        self._pages = Pages()
        self._told: dict[str, int] | None = None

    def events(self, turn: Turn) -> Told:
        """What is to be told of ``turn``, empty when it was told before. What ``recorded`` raises leaves nothing changed."""
        tick = turn.closed.tick
        history = turn.rebuilt and turn.situation is None and tick > self._since
        plans = self._recorded(tick) or () if history else turn.plans
        incidents, pages = tuple(self._incidents(turn)), tuple(self._page_events(turn))
        if tick <= self._since:
            return Told()
        made = [event for plan in plans for event in plan_events(plan)]
        found = [anomaly_event(anomaly) for anomaly in turn.closed.anomalies]
        others = (*made, *self._outcomes(turn))
        return Told((*found, *incidents, *others), (*found, *pages, *others))

    def _incidents(self, turn: Turn) -> Iterator[Event]:
        before, self._open = self._open, {incident.id: incident for incident in turn.closed.incidents}
        for kind, incident in _turning(before, self._open):
            yield incident_event(incident, kind, incident.opened_at if kind == OPENED else turn.closed.tick)

    def _page_events(self, turn: Turn) -> Iterator[Event]:
        """Those of the open pages. The page of an incident that another one's page tells of from now on is closed."""
        before = self._paged
        self._paged = {page.incident.id: page for page in self._pages.of(turn.closed.incidents)}
        shown = [{name: page.incident for name, page in pages.items()} for pages in (before, self._paged)]
        for kind, told in _turning(*shown):
            now = self._open.get(told.id) if kind == CLOSED else None
            words = f"{told.cause}; told with incident {now.root} from now on" if now is not None else told.cause
            others = (before if kind == CLOSED else self._paged)[told.id].others
            yield page_event(Page(replace(now or told, cause=words), others), kind, turn.closed.tick)

    def _outcomes(self, turn: Turn) -> Iterator[Event]:
        if turn.situation is None:
            return
        recent = {o.action_id + o.status: o for o in (*turn.situation.fleet.outcomes, *turn.outcomes)}
        if self._told is None:
            self._told = {name: outcome.at for name, outcome in recent.items() if outcome.at <= self._since}
        yield from (outcome_event(outcome) for name, outcome in recent.items() if name not in self._told)
        ahead = {name: at for name, at in self._told.items() if at > turn.closed.tick}  # not in the fleet's past yet
        self._told = ahead | {name: outcome.at for name, outcome in recent.items()}


def _turning(before: Mapping[str, Incident], now: Mapping[str, Incident]) -> Iterator[tuple[str, Incident]]:
    """What opened, changed in what people read of it, or closed."""
    for name, incident in now.items():
        if name not in before:
            yield OPENED, incident
        elif (before[name].severity, before[name].cause) != (incident.severity, incident.cause):
            yield CHANGED, incident
    yield from ((CLOSED, incident) for name, incident in before.items() if name not in now)


def plan_events(plan: Plan) -> Iterator[Event]:
    """One event for each workload the plan acts on or was refused to act on; nothing for those left as they are."""
    named = {a.workload for a in plan.actions} | {r.workload for r in plan.refusals if r.workload}
    every = frozenset(named | set(plan.recommended) | set(plan.evidence))  # the reason speaks of all of them
    for workload in sorted(named):
        data = {
            "plan": plan.id,
            "tick": plan.tick,
            "domain": plan.domain,
            "reason": plan.reason,
            "recommended": plan.recommended.get(workload),
            "actions": [{"id": a.id, "target": a.target, **_fields(a)} for a in plan.actions if a.workload == workload],
            "refusals": [_fields(r) for r in plan.refusals if r.workload == workload],
            "evidence": plan.evidence.get(workload, {}),
            "cost_per_hour": plan.cost,
            "approvals": plan.approvals,
            "expires_at": plan.expires_at,
        }
        yield Event(digest(plan.id, workload), PLAN, plan.tick, workload, data, every)


def outcome_event(outcome: Outcome) -> Event:
    """How an action ended. An UNVERIFIED one that is settled later is told a second time, under another id."""
    name = f"{outcome.action_id}-{outcome.status.value.lower()}"
    data = _fields(outcome) | {side: seen and _fields(seen) for side, seen in _sides(outcome).items()}
    return Event(name, OUTCOME, outcome.at, outcome.workload or FLEET, data)


def anomaly_event(anomaly: Anomaly) -> Event:
    """One series departing from what was expected."""
    name = digest("anomaly", anomaly.key, anomaly.kind.value, anomaly.at)
    return Event(name, ANOMALY, anomaly.at, anomaly.key.workload or FLEET, _anomaly(anomaly))


def incident_event(incident: Incident, kind: str, at: int) -> Event:
    """An incident at a turning point; a change is dated, the other two happen once."""
    suffix = kind.rpartition(".")[2] + (f"-{at}" if kind == CHANGED else "")
    anomalies = [_anomaly(anomaly) for anomaly in incident.anomalies]
    data = _fields(incident) | {"anomalies": anomalies, "closed": kind == CLOSED}
    every = {incident.workload or FLEET, *(anomaly.key.workload for anomaly in incident.anomalies)}
    return Event(f"{incident.id}-{suffix}", kind, at, incident.workload or FLEET, data, frozenset(every))


def page_event(page: Page, kind: str, tick: int) -> Event:
    """The page's incident at a turning point; that of a group may open and close more than once, so each is dated."""
    incident = page.incident
    if not incident.group:
        return incident_event(incident, kind, incident.opened_at if kind == OPENED else tick)
    event = incident_event(incident, kind, tick)
    every = event.workloads | {other.workload or FLEET for other in page.others}
    return replace(event, id=f"{incident.id}-{kind.rpartition('.')[2]}-{tick}", workloads=every)


def _anomaly(anomaly: Anomaly) -> dict[str, Any]:
    key = {"workload": anomaly.key.workload, "metric": anomaly.key.metric, "labels": dict(anomaly.key.labels)}
    return _fields(anomaly) | {"key": key, "evidence": dict(anomaly.evidence)}


def _sides(outcome: Outcome) -> dict[str, Any]:
    return {"before": outcome.before, "after": outcome.after}


def _fields(value: Any) -> dict[str, Any]:
    """The fields of a slotted dataclass by name, not copied."""
    return {name: getattr(value, name) for name in value.__slots__}
