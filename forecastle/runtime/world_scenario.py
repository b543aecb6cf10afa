"""What goes wrong during a play, and when: drawn from one seed, so that two runs can be compared.

Crowds are part of the demand. The other troubles happen to the sim cloud and to the processes, and only the metrics tell of
them: nothing here speaks to the engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from forecastle.runtime.world_demand import HOUR_MS, DemandTable, count, crowd
from forecastle.types import Floats, Inventory

MINUTE_MS = 60_000
LEAK_LEAD_MS = 3 * HOUR_MS
"""A leak needs hours to show: in a short play it has begun before the play does."""
LONG_MS = 12 * HOUR_MS


class Trouble(StrEnum):
    """Kinds of trouble."""

    CROWD = "flash crowd"
    LEAK = "slow leak"
    REGRESSION = "deploy regression"
    OUTAGE = "zone outage"


@dataclass(frozen=True, slots=True)
class Event:
    """One trouble from ``starts`` to ``ends`` (ms): of ``workloads``, or of a whole ``site``. ``size`` is a crowd's share."""

    trouble: Trouble
    starts: int
    ends: int
    workloads: tuple[str, ...] = ()
    site: str = ""
    size: float = 0.0

    def __str__(self) -> str:
        return f"{self.trouble} at {self.site}" if self.site else f"{self.trouble} of {', '.join(self.workloads)}"


@dataclass(frozen=True, slots=True)
class Scenario:
    """The troubles of one play, by start."""

    events: tuple[Event, ...] = ()

    def of(self, trouble: Trouble) -> tuple[Event, ...]:
        """The events of one kind."""
        return tuple(event for event in self.events if event.trouble is trouble)


def draw(stock: Inventory, first: int, last: int, seed: int) -> Scenario:
    """Troubles for a play of ``stock`` from tick ``first`` to ``last`` (ms): crowds, a leak, a bad release, an outage."""
    rng = np.random.default_rng([seed, 11])
    span = last - first

    def at(share: float) -> int:
        moment = first + (share + float(rng.uniform(-0.02, 0.02))) * span
        return int(moment) // MINUTE_MS * MINUTE_MS

    busy = sorted(stock.workloads, key=lambda name: (-stock.workloads[name].priority, name))
    calm = "sessions" if "sessions" in stock.workloads else busy[0]
    leak = at(0.08) if span >= LONG_MS else first - LEAK_LEAD_MS
    crowds = [
        Event(Trouble.CROWD, start, start + HOUR_MS, tuple(sorted(set(names) & set(busy))), size=size)
        for start, names, size in (
            (at(0.24), ("video", "images"), 0.6),
            (at(0.90), ("storefront", "search", "checkout", "payments"), 0.5),
        )
    ]
    return Scenario(
        tuple(
            sorted(
                (
                    Event(Trouble.LEAK, leak, last, (calm,)),
                    Event(Trouble.REGRESSION, at(0.40), last, ("search" if "search" in busy else busy[-1],)),
                    Event(Trouble.OUTAGE, *_outage(at(0.62), span), site=_outage_site(stock)),
                    *(event for event in crowds if event.workloads),
                ),
                key=lambda event: event.starts,
            )
        )
    )


def _outage(start: int, span: int) -> tuple[int, int]:
    return start, start + min(45 * MINUTE_MS, max(span // 6, 8 * MINUTE_MS)) // MINUTE_MS * MINUTE_MS


def _outage_site(stock: Inventory) -> str:
    """The zone with the most workloads that all have another site to go to; ties go to the first by name."""
    safe: dict[str, int] = {}
    for pool in stock.pools.values():
        others = {stock.pools[name].site for name in stock.workloads[pool.workload].pools} - {pool.site}
        if others:
            safe[pool.site] = safe.get(pool.site, 0) + 1
    wanted = "aws-fra-b" if "aws-fra-b" in safe else ""
    return wanted or min(safe, key=lambda site: (-safe[site], site))


def with_crowds(table: DemandTable, scenario: Scenario, seed: int) -> DemandTable:
    """``table`` with the scenario's crowds on top, counted again."""
    rate = table.rate.copy()
    for event in scenario.of(Trouble.CROWD):
        for name in event.workloads:
            rate[table.workloads.index(name)] *= 1.0 + crowd(table.at, event.starts, event.size)
    return replace(table, rate=rate, counted=count(rate, table.step_ms, seed))


def leaked_mib(at: int, started: Sequence[int], leak: Event | None, mib_min: float) -> float:
    """Mean MiB leaked per replica at ``at`` by replicas that ``started`` (ms) then."""
    if leak is None or not started or at <= leak.starts:
        return 0.0
    ages = np.clip(at - np.maximum(np.asarray(started, np.float64), leak.starts), 0.0, None)
    return float(ages.mean()) / MINUTE_MS * mib_min


def history_leak(at: Floats, leak: Event | None, mib_min: float) -> Floats:
    """MiB leaked at each of ``at`` (ms) by replicas older than the leak."""
    since = np.clip(at - leak.starts, 0.0, None) if leak else np.zeros(len(at))
    return np.asarray(since / MINUTE_MS * mib_min)


def affected(scenario: Scenario) -> Mapping[str, Event]:
    """Workload -> its leak."""
    return {name: event for event in scenario.of(Trouble.LEAK) for name in event.workloads}
