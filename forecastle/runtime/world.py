"""The demo's world, closed loop: people ask, the sim cloud's ready replicas serve, and the metrics tell what came of it.

The engine never sees this: it sees messages, and the sim cloud. One step is one tick of event time; capacity is looked at
every `SUB_MS` within it, because replicas become ready between ticks, and it counts `SUB_MS` after the cloud shows it: what is
decided about a tick is decided a little after its end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from forecastle.clouds.sim_world import PoolState, SimWorld
from forecastle.runtime.world_demand import DemandTable
from forecastle.runtime.world_history import HEADROOM, replicas, split
from forecastle.runtime.world_metrics import (
    Traits,
    error_share,
    gc_pause,
    jitter,
    latency_p99,
    measured_errors,
    memory,
    traits,
)
from forecastle.runtime.world_scenario import Event, Scenario, Trouble, affected, leaked_mib
from forecastle.runtime.world_series import FRONT, PER_SITE, Layout, layouts
from forecastle.types import Floats, Inventory

SUB_MS = 15_000
GOOD, BAD = "r1", "r2-broken"
FAULTY = 0.12
"""Share of requests a bad release fails."""
SLOW = 3.0
"""How much longer a bad release serves."""
FRESH_MS, WAIT_MS = 15 * 60_000, 180 * 60_000


@dataclass(frozen=True, slots=True)
class Lived:
    """One workload in one tick: mean ``demand`` and ``unmet`` (the demand's unit), replicas ``ordered`` and mean ``ready``.

    ``capacity`` in the demand's unit; ``cost`` in money for the tick; ``by_pool`` replicas ordered.
    """

    demand: float
    capacity: float
    unmet: float
    ordered: int
    ready: float
    cost: float
    by_pool: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class _Moment:
    """One tick of the cloud: ready replicas by pool at each look, every pool's state at the end, and the tick's chance."""

    tick: int
    looks: Sequence[Mapping[str, int]]
    states: Mapping[str, PoolState]
    rng: np.random.Generator

    def shares(self, pools: Sequence[str]) -> dict[str, float]:
        """Share of the traffic each pool served: that of the ready replicas."""
        ready = {pool: float(np.mean([look.get(pool, 0) for look in self.looks])) for pool in pools}
        total = max(sum(ready.values()), 1e-9)
        return {pool: n / total for pool, n in ready.items()}


@dataclass(slots=True)
class World:
    """A fleet in play: ``table`` covers the play, ``sim`` is the side door to the sim cloud. `begin` once, then `step`."""

    stock: Inventory
    table: DemandTable
    scenario: Scenario
    sim: SimWorld
    seed: int
    layouts: tuple[Layout, ...] = ()
    released: dict[str, tuple[str, int]] = field(default_factory=dict)
    _traits: dict[str, Traits] = field(default_factory=dict)
    _failed: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.layouts = layouts(self.stock)
        self._traits = {name: traits(name, self.seed) for name in self.stock.workloads}

    def begin(self, born: int) -> None:
        """Provision every pool as the history left it, its replicas ``born`` (ms) long before."""
        for i, name in enumerate(self.table.workloads):
            load = self.stock.workloads[name]
            total = int(replicas(self.table.counted[i, :30], load, HEADROOM)[0])
            for pool, n in split(load, self.stock, total).items():
                self.sim.provision(self.stock.pools[pool], n, born, GOOD)

    def step(self, tick: int) -> tuple[dict[str, Lived], dict[str, Floats]]:
        """Live through the tick that ends at ``tick`` (ms): what came of each workload, and its series float64[rows]."""
        begins = tick - self.table.step_ms
        self._happen(begins)
        looks = [self.sim.ready(at - SUB_MS) for at in range(begins + SUB_MS, tick + 1, SUB_MS)]
        column = self.table.column(tick)
        rng = np.random.default_rng([self.seed, tick // self.table.step_ms, 3])
        moment = _Moment(tick, looks, self.sim.states(tick), rng)
        lived: dict[str, Lived] = {}
        series: dict[str, Floats] = {}
        for layout in self.layouts:
            name = layout.workload
            lived[name] = self._live(name, float(self.table.counted[self.table.workloads.index(name), column]), moment)
            series[name] = self._measure(layout, lived[name], moment)
        return lived, series

    # --- what happens -----------------------------------------------------------------------------------------------

    def _happen(self, at: int) -> None:
        """Outages and releases that are due at ``at``."""
        for event in self.scenario.of(Trouble.OUTAGE):
            pools = [p.name for p in self.stock.pools.values() if p.site == event.site]
            if event.starts <= at < event.ends and event.site not in self._failed:
                self.sim.fail_site(pools, at)
                self._failed.add(event.site)
            elif at >= event.ends and event.site in self._failed:
                self.sim.restore_site(pools, at)
                self._failed.discard(event.site)
        for event in self.scenario.of(Trouble.REGRESSION):
            for name in event.workloads:
                if at >= event.starts and name not in self.released:
                    self._release(event, name, at)

    def _release(self, event: Event, name: str, at: int) -> None:
        """A bad release goes to the workload's largest pool, just after it grew; after three hours of waiting, anyway."""
        states = self.sim.states(at)
        pool = max(self.stock.workloads[name].pools, key=lambda p: (states[p].ready, p))
        grown = max(states[pool].started, default=0)
        if at - grown <= FRESH_MS or at - event.starts >= WAIT_MS:
            self.sim.deploy(pool, BAD, at)
            self.released[name] = pool, at

    # --- what comes of it -------------------------------------------------------------------------------------------

    def _live(self, name: str, demand: float, moment: _Moment) -> Lived:
        load = self.stock.workloads[name]
        per_replica = load.demands[0].per_replica
        ready = np.array([sum(look.get(pool, 0) for pool in load.pools) for look in moment.looks], np.float64)
        unmet = float(np.maximum(demand - ready * per_replica, 0.0).mean())
        ordered = {pool: moment.states[pool].ordered for pool in load.pools}
        hours = self.table.step_ms / 3_600_000
        cost = sum(self.stock.pools[pool].cost(n) for pool, n in ordered.items()) * hours
        mean = float(ready.mean())
        return Lived(demand, mean * per_replica, unmet, sum(ordered.values()), mean, cost, ordered)

    def _measure(self, layout: Layout, lived: Lived, moment: _Moment) -> Floats:
        """The workload's series at the tick; NaN where nobody runs to send it."""
        name, rng = layout.workload, moment.rng
        of = self._traits[name]
        pools = self.stock.workloads[name].pools
        shares = moment.shares(pools)
        bad = {pool: moment.states[pool].release == BAD for pool in pools}
        sick = sum(shares[pool] for pool in pools if bad[pool])
        demand, capacity, ready = np.asarray(lived.demand), np.asarray(lived.capacity), np.asarray(lived.ready)

        def seen(faulty: float, slower: float, served: float, noise: float) -> tuple[Floats, Floats]:
            """Errors and latency as one observer counts them."""
            share = error_share(demand, capacity, np.asarray(faulty))
            late = latency_p99(demand, capacity, ready, np.asarray(of.service_ms * slower))
            return measured_errors(share, np.asarray(served), self.table.step_ms, rng), jitter(late, noise, rng)

        out = np.full(len(layout.keys), np.nan)
        out[0] = lived.demand
        out[2], out[1] = seen(FAULTY * sick, 1.0 + (SLOW - 1.0) * sick, lived.demand, 0.06)
        for i, pool in enumerate(pools):
            if self.stock.pools[pool].site not in self._failed and moment.states[pool].ready:
                mine = (FAULTY, SLOW) if bad[pool] else (0.0, 1.0)
                errors, latency = seen(*mine, lived.demand * shares[pool], 0.08)
                used, pauses = self._process(name, pool, lived, moment)
                first = len(FRONT) + len(PER_SITE) * i
                out[first : first + len(PER_SITE)] = errors, latency, used, pauses
        return out

    def _process(self, name: str, pool: str, lived: Lived, moment: _Moment) -> tuple[Floats, Floats]:
        """Mean memory and collection pause of a pool's processes."""
        of, use = self._traits[name], np.asarray(lived.demand / max(lived.capacity, 1e-9))
        leak = affected(self.scenario).get(name)
        leaked = leaked_mib(moment.tick, moment.states[pool].started, leak, of.leak_mib_min)
        used = memory(np.asarray(of.memory_mib), use, np.asarray(leaked), moment.rng)
        return used, gc_pause(used, use, moment.rng)
