"""Telling humans: one page per subject, not one per tick.

A page is a NOTIFY whose ``replica`` field names its subject (an incident's id, ``data_dark``), so that subjects of one pool are
told apart. Whether a subject was told already is read from the outcomes: an action's id follows from subject and tick.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from forecastle.decide.court import Court
from forecastle.decide.heal import Remedy, pools_of
from forecastle.decide.place import Placement
from forecastle.decide.sights import Tick
from forecastle.types import Action, Kind, Status

REPEAT_S = 3600.0
"""A condition that has no incident is told again after so long."""
_TOLD = frozenset({Status.APPLIED, Status.ALREADY, Status.DRY_RUN})
_HUMAN_NEEDED = frozenset({"escalation", "failover", "panic", "heal_budget", "inventory_jump"})
"""Guards whose refusal means that a human must look."""
_LIMITS = {
    "limits": "a larger max",
    "money": "a larger budget_per_hour, its own or the fleet's",
    "max_moves": "a larger decide.max_moves",
}
"""Guards that only a setting moves, and which."""


@dataclass(frozen=True, slots=True)
class Page:
    """What to tell about ``pool``: ``subject`` is stable while it lasts, ``since`` (ms) when a page about it became due."""

    pool: str
    subject: str
    text: str
    since: int


def pages(tick: Tick, remedies: Sequence[Remedy], court: Court, placed: Placement) -> Iterator[Page]:
    """Everything a human should hear about this tick, told before or not."""
    hourly = tick.at - int(REPEAT_S * 1000)
    for name, sight in tick.sights.items():
        if sight.dark_s > tick.guards.dark_s:
            yield Page(sight.load.pools[0], "data_dark", f"DATA_DARK: no demand of {name} for {sight.dark_s:g} s", hourly)
    for remedy in _one_a_fault(tick, remedies):
        if remedy.page:
            pool = pools_of(remedy.incident, tick)[0]
            yield Page(pool, remedy.incident.id, remedy.page, remedy.incident.opened_at)
    for refusal in court.refusals:
        if refusal.guard in _HUMAN_NEEDED and refusal.pool:
            yield Page(refusal.pool, refusal.guard, f"{refusal.guard}: {refusal.why}", hourly)
    yield from _unplaced(tick, court, placed, hourly)


def _unplaced(tick: Tick, court: Court, placed: Placement, since: int) -> Iterator[Page]:
    """What money cuts of the reactive floor, what the placement gave up, and what cannot be had back where a rule is broken."""
    for name in sorted({r.workload for r in court.refusals if r.guard == "money"}):
        sight = tick.sights[name]
        paid = sight.ordered + sum(int(a.desired) - int(a.expected) for a, _ in court.granted if _grows(a, name))
        if paid < sight.view.floor:
            text = f"the budget pays for {paid} replicas of {name}, and the reactive rule asks for {sight.view.floor}"
            yield Page(sight.load.pools[0], "money", f"{text} (what would change that: {_LIMITS['money']})", since)
    for name, sight in tick.sights.items():
        mine = [note for note in placed.notes if note.partition(":")[0] == name]
        if mine:
            yield Page(sight.load.pools[0], "not_placed", "not placed: " + "; ".join(mine), since)
    for name, pace in placed.paces.items():
        if pace.amiss and (stands := _stuck(name, tick, court)):
            pool, text = tick.sights[name].load.pools[0], f"{pace.says(name)}, and none can start elsewhere: {stands}"
            yield Page(pool, "not_restored", f"not restored: {text}", since)


def _grows(action: Action, workload: str) -> bool:
    return action.kind is Kind.SCALE and action.workload == workload and int(action.desired) > int(action.expected)


def _stuck(name: str, tick: Tick, court: Court) -> str:
    """What keeps a workload from starting what is to make up for replicas that are amiss; '' while anything moves.

    Surplus that is still to leave makes way by itself, and so do other workloads' moves once they are done.
    """
    sight = tick.sights[name]
    if sight.ordered > sight.size.wanted or any(a.kind is Kind.SCALE and a.workload == name for a, _ in court.granted):
        return ""
    found = {r.guard: r.why for r in court.refusals if r.workload == name and r.guard in _LIMITS}
    if tick.settings.max_moves:
        found.pop("max_moves", None)
    return "; ".join(f"{why} (what would change that: {_LIMITS[guard]})" for guard, why in found.items())


def _one_a_fault(tick: Tick, remedies: Sequence[Remedy]) -> Iterator[Remedy]:
    """Of the incidents of one fault whose playbook tells people, the one where it likely began, or else the first.

    The others go untold also when that one is over and people know of it.
    """
    telling = [r.incident for r in remedies if r.playbook.action is Kind.NOTIFY and r.incident.group]
    chosen = {i.group: i.id for i in reversed(telling)} | {i.group: i.id for i in telling if i.id == i.root}
    pools = {o.pool for o in tick.situation.fleet.outcomes if o.kind is Kind.NOTIFY}
    for remedy in remedies:
        one = remedy.incident
        explained = remedy.playbook.action is Kind.NOTIFY and one.group and one.id != one.root
        known = explained and any(_told(Page(pool, one.root, "", 0), tick) for pool in pools)
        if not explained or (chosen[one.group] == one.id and not known):
            yield remedy


def notices(tick: Tick, found: Iterable[Page]) -> list[Action]:
    """A NOTIFY for every subject that was not told since it became due."""
    due = {(page.pool, page.subject): page for page in found if not _told(page, tick)}
    return [
        Action(
            Kind.NOTIFY,
            tick.inventory.pools[pool].workload,
            pool,
            due[pool, subject].text,
            "",
            tick.at,
            tick.deadline,
            subject,
            due[pool, subject].text,
        )
        for pool, subject in sorted(due)
    ]


def _told(page: Page, tick: Tick) -> bool:
    """Whether an outcome is of this subject's page. Its tick is the outcome's own or at most a plan's life before it."""
    step, ttl = tick.situation.windows.step_ms, tick.deadline - tick.at
    for o in tick.situation.fleet.outcomes:
        if o.kind is Kind.NOTIFY and o.pool == page.pool and o.status in _TOLD and o.at >= page.since:
            newest = o.at - (o.at - tick.at) % step
            ticks = range(newest, newest - ttl - step, -step)
            if any(Action(Kind.NOTIFY, "", page.pool, "", "", at, 0, page.subject).id == o.action_id for at in ticks):
                return True
    return False
