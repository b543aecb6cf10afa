"""The play: history first, then tick by tick the world, the engine and the world again, with everything noted down."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from forecastle.ledger.store import SqlLedger
from forecastle.runtime.demo_engine import Decided, Engine
from forecastle.runtime.demo_settings import WORKER
from forecastle.runtime.world import Lived, World
from forecastle.runtime.world_demand import DemandTable
from forecastle.runtime.world_history import history
from forecastle.runtime.world_series import CLOCK, clock_message, joined
from forecastle.types import Floats, Inventory, Outcome, Plan, Status

FRESH_MS = 15 * 60_000
"""How long a forecast is shown: plans tell of it only when there is something to do."""


@dataclass(frozen=True, slots=True)
class Told:
    """What the engine last said of a workload: replicas ``wanted``, expected and insured demand at lead time, the last act.

    ``at`` (ms) is when it last told of its forecast.
    """

    wanted: int = 0
    median: float | None = None
    peak: float | None = None
    last: str = ""
    at: int = 0


@dataclass(slots=True)
class Incident:
    """An incident as the engine told it: when it opened (ms), its newest line, and when it was last open."""

    opened_at: int
    line: str
    last_at: int


@dataclass(slots=True)
class Diary:
    """Everything that happened in a play, column by column: float64[n, t] by workload row and tick."""

    stock: Inventory
    at: np.ndarray
    demand: Floats
    capacity: Floats
    unmet: Floats
    ordered: Floats
    ready: Floats
    cost: Floats
    wanted: Floats
    outcomes: list[Outcome] = field(default_factory=list)
    refusals: Counter[str] = field(default_factory=Counter)
    incidents: dict[str, Incident] = field(default_factory=dict)
    models: Counter[str] = field(default_factory=Counter)
    told: dict[str, Told] = field(default_factory=dict)
    ticks: int = 0
    samples: int = 0
    wall_s: float = 0.0

    @classmethod
    def blank(cls, stock: Inventory, at: np.ndarray) -> Diary:
        """A diary for the ticks ``at`` int64[t] (ms)."""
        n, t = len(stock.workloads), len(at)
        told = {name: Told() for name in stock.workloads}

        def page() -> Floats:
            return np.zeros((n, t))

        return cls(stock, at, page(), page(), page(), page(), page(), page(), page(), told=told)

    @property
    def per_replica(self) -> Floats:
        """What a replica of each workload carries, float64[n, 1]."""
        return np.array([[load.demands[0].per_replica] for load in self.stock.workloads.values()])

    @property
    def workloads(self) -> tuple[str, ...]:
        """Row names."""
        return tuple(self.stock.workloads)

    def until_now(self) -> slice:
        """The columns that are filled."""
        return slice(0, self.ticks)

    def note(self, lived: Mapping[str, Lived], decided: Decided, plans: tuple[Plan, ...], outcomes: list[Outcome]) -> None:
        """Write one tick down."""
        k = self.ticks
        for row, name in enumerate(self.workloads):
            one = lived[name]
            self.demand[row, k], self.capacity[row, k], self.unmet[row, k] = one.demand, one.capacity, one.unmet
            self.ordered[row, k], self.ready[row, k], self.cost[row, k] = one.ordered, one.ready, one.cost
        for plan in plans:
            self.refusals.update(refusal.guard for refusal in plan.refusals)
            for name, replicas in plan.recommended.items():
                evidence: Mapping[str, Any] = plan.evidence.get(name, {})
                was = self.told[name]
                if "median" in evidence:
                    self.told[name] = Told(replicas, evidence["median"], evidence["peak"], was.last, decided.tick)
                elif decided.tick - was.at <= FRESH_MS:
                    self.told[name] = replace(was, wanted=replicas)
                else:
                    self.told[name] = Told(replicas, last=was.last)
        for row, name in enumerate(self.workloads):
            self.wanted[row, k] = self.told[name].wanted
        for outcome in outcomes:
            self._act(outcome, decided.tick)
        for identity, line in decided.incidents.items():
            known = self.incidents.setdefault(identity, Incident(decided.tick, line, decided.tick))
            known.line, known.last_at = line, decided.tick
        self.models[decided.model] += 1
        self.ticks += 1

    def _act(self, outcome: Outcome, tick: int) -> None:
        self.outcomes.append(outcome)
        if outcome.status is not Status.APPLIED or outcome.workload not in self.told:
            return
        was = self.told[outcome.workload]
        before, after = outcome.before, outcome.after
        change = f" {before.replicas}\N{RIGHTWARDS ARROW}{after.replicas}" if before and after and before != after else ""
        word = f"{time.strftime('%H:%M', time.gmtime(tick / 1000))} {outcome.kind} {outcome.pool}{change}"
        self.told[outcome.workload] = replace(was, last=word)


def past(world: World, table: DemandTable, seed: int) -> Iterator[tuple[str, int, bytes]]:
    """Messages of the history ``table``, each a few ticks of the whole fleet, and the mark that closes it."""
    fleet = joined(world.layouts)
    values = np.concatenate([history(world.stock, table, one, world.scenario, seed) for one in world.layouts])
    for at, body in fleet.messages(table.at, values):
        yield fleet.workload, at, body
    yield CLOCK.workload, int(table.at[-1]) + 1, clock_message(int(table.at[-1]))


def play(
    world: World,
    engine: Engine,
    ledger: SqlLedger,
    watch: Callable[[Diary], None],
) -> Diary:
    """Play every tick of the world's table; ``watch`` is called after each."""
    diary = Diary.blank(world.stock, world.table.at)
    began = time.monotonic()
    for tick in world.table.at.tolist():
        lived, series = world.step(tick)
        messages = [(one.workload, tick, one.message(tick, series[one.workload])) for one in world.layouts]
        messages.append((CLOCK.workload, tick + 1, clock_message(tick)))
        decided = engine.tick(tick, messages)
        diary.samples += sum(int(np.isfinite(values).sum()) for values in series.values()) + 1
        diary.wall_s = time.monotonic() - began
        diary.note(lived, decided, ledger.plans(tick, WORKER) or (), ledger.outcomes(tick))
        watch(diary)
    return diary
