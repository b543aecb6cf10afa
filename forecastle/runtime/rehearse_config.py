"""One configuration played on a recorded demand: the decisions of `decide` itself, guards and all, tick by tick.

What a changed setting is worth can only be said by what decides in production. So nothing is modelled here but the world
around it: replicas that serve their pool's start-up time after the order, and the bill of each pool. The forecast is what
the configuration names, or stands for it (`rehearse_forecast`). The workload acts by itself, whatever its mode.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from forecastle.decide.planner import decide
from forecastle.errors import ConfigError
from forecastle.rehearsal.trace import STEP_S, Demand
from forecastle.runtime.inventory import inventory
from forecastle.runtime.rehearse_forecast import Source, StandIn, sliding, slots
from forecastle.settings import Settings
from forecastle.types import (
    Fleet,
    Floats,
    Forecasts,
    Ints,
    Inventory,
    Kind,
    Mask,
    Mode,
    Observed,
    Outcome,
    Plan,
    Pool,
    Recommendation,
    Situation,
    Status,
    Windows,
    Workload,
)

_SEEN = 30
"""Slots of the window that `decide` is shown: it reads the newest value and how long there has been none."""
_BLOCK = 256


@dataclass(frozen=True, slots=True)
class Configured:
    """One workload of a configuration, made ready to be played: its only demand is the trace, and it acts by itself."""

    name: str
    settings: Settings
    stock: Inventory
    load: Workload
    notes: tuple[str, ...] = ()

    @property
    def pools(self) -> tuple[Pool, ...]:
        """Its pools in the order of their names in the workload."""
        return tuple(self.stock.pools[name] for name in self.load.pools)

    @property
    def capacity(self) -> float:
        """Demand one replica carries."""
        return self.load.demands[0].per_replica

    @property
    def step(self) -> int:
        """Simulator steps from one decision to the next."""
        return round(self.settings.window.step_s / STEP_S)


@dataclass(frozen=True, slots=True)
class Played:
    """What a configuration did on T steps: ``ordered``, ``ready`` int64[T], ``cost`` float64[T] in money, ``unmet`` float64[T].

    ``unmet`` is in the demand's unit. ``actions`` counts scalings, ``refusals`` how often each guard said no or less.
    ``forecast`` names what was played as the forecast, ``notes`` say why when the configuration names another.
    """

    configured: Configured
    at: Ints
    demand: Floats
    known: Mask
    ordered: Ints
    ready: Ints
    cost: Floats
    unmet: Floats
    actions: int
    refusals: dict[str, int]
    forecast: str = ""
    notes: tuple[str, ...] = ()


def configured(name: str, settings: Settings, workload: str = "", per_replica: float | None = None) -> Configured:
    """The ``workload`` (may be empty when there is one) of ``settings``, which messages call ``name``.

    ``per_replica`` is what a replica carries, in the trace's unit; by default what the configuration says. Raises ConfigError.
    """
    stock = inventory(settings)
    load = _chosen(name, stock, workload)
    step_s = settings.window.step_s
    if step_s % STEP_S:
        raise ConfigError(f"{name}: window.step_s is {step_s:g}; the simulator ticks every {STEP_S} s: write a multiple")
    notes = [f"its demand {other.key.metric} is not in the trace: left out" for other in load.demands[1:]]
    notes += [f"its veto on {key.metric} is not in the trace: left out" for key, _ in load.vetoes]
    first = replace(load.demands[0], per_replica=per_replica or load.demands[0].per_replica, usage=None)
    load = replace(load, demands=(first,), vetoes=(), mode=Mode.AUTO)
    pools = {pool: stock.pools[pool] for pool in load.pools}
    stock = replace(stock, pools=pools, workloads={load.name: load}, playbooks=())
    return Configured(name, settings, stock, load, tuple(notes))


def _chosen(name: str, stock: Inventory, workload: str) -> Workload:
    there = ", ".join(sorted(stock.workloads))
    if not there:
        raise ConfigError(f"{name}: has no workload; add one under fleet.workloads, or name the folder that holds fleet/")
    if not workload and len(stock.workloads) > 1:
        raise ConfigError(f"{name}: has {len(stock.workloads)} workloads; choose one with --workload: {there}")
    chosen = workload or there
    if chosen not in stock.workloads:
        raise ConfigError(f"{name}: has no workload '{chosen}'; choose one of: {there}")
    return stock.workloads[chosen]


def play(conf: Configured, demand: Demand, source: Source | None = None) -> Played:
    """Decide at every tick from ``demand.first`` on, and serve what was ordered; by default the forecast is the stand-in."""
    source = source or StandIn(conf.settings.predict)
    world = _World.of(conf, demand)
    for tick, (windows, forecasts) in zip(world.ticks, sights(conf, demand, world.ticks, source), strict=True):
        world.turn(int(tick), windows, forecasts)
    return replace(world.played(), forecast=source.name, notes=source.notes)


def sights(conf: Configured, demand: Demand, ticks: Ints, source: Source) -> Iterator[tuple[Windows, Forecasts]]:
    """What is known at each of ``ticks`` (steps of the demand): the window that has just closed, and its forecast."""
    settings, key = conf.settings, conf.load.demands[0].key
    step_ms, look_back = round(settings.window.step_s * 1000), settings.window.look_back
    quiet = max(round(settings.window.stale_s * 1000 / step_ms), 1)
    values, mask = slots(demand, conf.step, int(ticks[0]) % conf.step)
    rows, seen = sliding(values, look_back), sliding(mask, look_back)

    def window(tick: int) -> Windows:
        row = slice(tick // conf.step, tick // conf.step + 1)
        late = np.array([not seen[row, -quiet:].any()])
        return Windows((key,), int(demand.at[tick]), step_ms, rows[row], seen[row], late, np.zeros(1, bool))

    if source.warm:
        warm = int(ticks[0]) - conf.step * np.arange(source.warm, 0, -1)
        source.forecasts([window(tick) for tick in warm[warm >= 0].tolist()])
    for begin in range(0, len(ticks), _BLOCK):
        shown = [window(tick) for tick in ticks[begin : begin + _BLOCK].tolist()]
        for one, forecasts in zip(shown, source.forecasts(shown), strict=True):
            yield replace(one, values=one.values[:, -_SEEN:], mask=one.mask[:, -_SEEN:]), forecasts


@dataclass(slots=True)
class _World:
    """The pools in the loop, and the memory that decisions are made from."""

    conf: Configured
    demand: Demand
    ticks: Ints
    orders: dict[str, Ints]
    outcomes: list[Outcome] = field(default_factory=list)
    recommended: list[Recommendation] = field(default_factory=list)
    refusals: Counter[str] = field(default_factory=Counter)
    actions: int = 0

    @classmethod
    def of(cls, conf: Configured, demand: Demand) -> _World:
        ticks = np.arange(demand.first, len(demand), conf.step)
        steps = len(demand) - demand.first
        begin = _split(conf, demand)
        return cls(conf, demand, ticks, {pool.name: np.full(steps, begin[pool.name]) for pool in conf.pools})

    def turn(self, step: int, windows: Windows, forecasts: Forecasts) -> None:
        """One decision at ``step``, its effects, and what is remembered of it."""
        at, settings = windows.end, self.conf.settings
        observed = {pool.name: self._observed(pool, step, at) for pool in self.conf.pools}
        fleet = Fleet(at, observed, tuple(self.outcomes), tuple(self.recommended))
        situation = Situation(at, windows, forecasts, (), fleet)
        self._remember(at)
        for plan in decide(situation, self.conf.stock, settings.decide, settings.guards):
            self._apply(plan, step, observed)

    def _observed(self, pool: Pool, step: int, at: int) -> Observed:
        now = step - self.demand.first
        history = self.orders[pool.name][max(now - _lead_steps(pool), 0) : now + 1]
        return Observed(pool.name, int(history[-1]), int(history.min()), at, str(len(self.outcomes)))

    def _apply(self, plan: Plan, step: int, observed: dict[str, Observed]) -> None:
        self.refusals.update(refusal.guard for refusal in plan.refusals)
        self.recommended += [Recommendation(name, plan.tick, replicas) for name, replicas in plan.recommended.items()]
        for action in plan.actions:
            if action.kind is not Kind.SCALE:
                continue
            before = observed[action.pool]
            after = replace(before, replicas=int(action.desired))
            self.orders[action.pool][step - self.demand.first :] = int(action.desired)
            self.actions += 1
            self.outcomes.append(
                Outcome(action.id, Status.APPLIED, plan.tick, action.pool, action.kind, action.workload, before, after)
            )

    def _remember(self, at: int) -> None:
        """Forget what no guard asks for any more."""
        guards = self.conf.settings.guards
        span = 1000 * max(
            guards.step_up_s,
            guards.step_down_s,
            guards.stabilization_down_s,
            guards.stabilization_up_s,
            guards.cooldown_up_s,
            guards.cooldown_down_s,
            guards.escalation_s,
        )
        self.outcomes = [one for one in self.outcomes if one.at >= at - span]
        self.recommended = [one for one in self.recommended if one.at >= at - span]

    def played(self) -> Played:
        """The books of the whole span."""
        span = slice(self.demand.first, None)
        known, value = self.demand.known[span], self.demand.value[span]
        ready, cost = np.zeros(len(value), np.int64), np.zeros(len(value))
        for pool in self.conf.pools:
            ready += serving(self.orders[pool.name], _lead_steps(pool))
            beyond = np.maximum(self.orders[pool.name] - pool.committed, 0) * pool.unit_price
            cost += (pool.sunk + beyond + self.orders[pool.name] * pool.egress_h) * (STEP_S / 3600.0)
        unmet = np.maximum(value - ready * self.conf.capacity, 0.0)
        return Played(
            self.conf,
            self.demand.at[span],
            value,
            known,
            np.sum(list(self.orders.values()), axis=0),
            ready,
            np.where(known, cost, 0.0),
            np.where(known, unmet, 0.0),
            self.actions,
            dict(self.refusals.most_common()),
        )


def _lead_steps(pool: Pool) -> int:
    return math.ceil(pool.startup_s / STEP_S - 1e-9)


def serving(ordered: Ints, lead_steps: int) -> Ints:
    """Ready replicas int64[T] of ``ordered`` int64[T]: the least that was ordered over the last lead time."""
    before = np.concatenate([np.full(lead_steps, ordered[0]), ordered])
    return np.asarray(np.lib.stride_tricks.sliding_window_view(before, lead_steps + 1).min(axis=1), np.int64)


def _split(conf: Configured, demand: Demand) -> dict[str, int]:
    """Replicas ready at the beginning, by pool: what the first lead time needs, the cheapest pools first."""
    longest = max(_lead_steps(pool) for pool in conf.pools)
    peak = float(demand.value[demand.first : demand.first + longest + 1].max())
    left = max(math.ceil(peak / (conf.capacity * conf.load.target_utilization) - 1e-9), conf.load.min)
    out = {pool.name: pool.min for pool in conf.pools}
    left -= sum(out.values())
    for pool in sorted(conf.pools, key=lambda one: one.unit_price):
        more = max(min(left, min(pool.max, pool.quota) - out[pool.name]), 0)
        out[pool.name] += more
        left -= more
    return out
