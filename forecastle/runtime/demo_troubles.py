"""Every trouble that was planted: when the engine found it, when it was healed, and what it cost in the meantime."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from forecastle.runtime.demo_play import Diary
from forecastle.runtime.world import World
from forecastle.runtime.world_scenario import MINUTE_MS, Event, Trouble
from forecastle.types import Kind, Outcome, Status

REMEDIES = {Trouble.LEAK: Kind.RESTART, Trouble.REGRESSION: Kind.ROLLBACK}
SYMPTOMS = {
    Trouble.LEAK: ("memory_bytes", "gc_pause_ms"),
    Trouble.REGRESSION: ("error_rate", "latency"),
    Trouble.CROWD: ("requests_per_second", "latency", "error_rate"),
}


def troubles(world: World, diary: Diary) -> list[dict[str, Any]]:
    """One row an event, JSON-able; ``found_min`` and ``healed_min`` count minutes from its beginning, None: never."""
    return [_row(world, diary, event) for event in world.scenario.events if began(world, event) <= int(diary.at[-1])]


def began(world: World, event: Event) -> int:
    """When (ms) it began: a release waits for its moment."""
    if event.trouble is not Trouble.REGRESSION:
        return event.starts
    return min((at for name, (_, at) in world.released.items() if name in event.workloads), default=1 << 62)


def planted(world: World, diary: Diary) -> int:
    """How many of the incidents are about what was planted."""
    events = [(event, began(world, event)) for event in world.scenario.events]
    return sum(any(_about(event, i.line) and i.last_at > at for event, at in events) for i in diary.incidents.values())


def _row(world: World, diary: Diary, event: Event) -> dict[str, Any]:
    start = began(world, event)
    rows = _rows(world, event)
    found = min(
        (max(i.opened_at, start) for i in diary.incidents.values() if _tells(event, i.line, i.last_at, start)), default=None
    )
    healed = _remedied(world, diary, event, start) if event.trouble in REMEDIES else _served(diary, event, rows)
    until = event.ends if healed is None else healed
    span = (diary.at > start) & (diary.at <= max(until, start + MINUTE_MS))
    asked = diary.demand[rows][:, span].sum()
    return {
        "trouble": str(event),
        "began": time.strftime("%a %H:%M", time.gmtime(start / 1000)),
        "found_min": None if found is None else (found - start) / MINUTE_MS,
        "healed_min": None if healed is None else (healed - start) / MINUTE_MS,
        "unmet": float(diary.unmet[rows][:, span].sum() / max(asked, 1e-9)),
    }


def _rows(world: World, event: Event) -> list[int]:
    names = list(world.stock.workloads)
    if event.site:
        return sorted({names.index(p.workload) for p in world.stock.pools.values() if p.site == event.site})
    return [names.index(name) for name in event.workloads]


def _tells(event: Event, line: str, last_at: int, start: int) -> bool:
    return last_at > start and _about(event, line)


def _about(event: Event, line: str) -> bool:
    """Whether an incident's line (``severity who: cause``) tells of the event."""
    _, _, rest = line.partition(" ")
    who, _, cause = rest.partition(": ")
    if event.site:
        return who == "*" and cause.startswith(f"site {event.site}:")
    return who in event.workloads and cause.startswith(SYMPTOMS[event.trouble])


def _remedied(world: World, diary: Diary, event: Event, start: int) -> int | None:
    """When (ms) the last of the pools concerned had its remedy for the first time; None while one has not."""
    released = {pool for name, (pool, _) in world.released.items() if name in event.workloads}
    leaking = {pool for name in event.workloads for pool in world.stock.workloads[name].pools}
    concerned = released if event.trouble is Trouble.REGRESSION else leaking
    firsts: dict[str, int] = {}
    for outcome in _applied(diary, event, start):
        firsts.setdefault(outcome.pool, outcome.at)
    return max(firsts[pool] for pool in concerned) if concerned and concerned <= set(firsts) else None


def _applied(diary: Diary, event: Event, start: int) -> Iterator[Outcome]:
    kind = REMEDIES[event.trouble]
    return (o for o in diary.outcomes if o.kind is kind and o.status is Status.APPLIED and o.at >= start)


def _served(diary: Diary, event: Event, rows: list[int]) -> int | None:
    """When (ms) all demand was served again, and stayed so while it lasted; None when it was not."""
    span = np.flatnonzero((diary.at > event.starts) & (diary.at <= event.ends))
    short = span[(diary.unmet[rows][:, span] > 0).any(axis=0)]
    if not len(short):
        return event.starts
    return None if short[-1] == span[-1] else int(diary.at[short[-1] + 1])
