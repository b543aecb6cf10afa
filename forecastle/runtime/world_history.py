"""The past of the demo's fleet, open loop: what its series were while it was run with a fixed headroom.

Models train on it and windows are filled with it. It is made of the same functions as every step of the closed loop, so
that the play continues its history without a seam.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.ndimage import maximum_filter1d

from forecastle.runtime.world_demand import DemandTable
from forecastle.runtime.world_metrics import error_share, gc_pause, jitter, latency_p99, measured_errors, memory, traits
from forecastle.runtime.world_scenario import Scenario, affected, history_leak
from forecastle.runtime.world_series import FRONT, PER_SITE, Layout
from forecastle.types import Floats, Inventory, Workload

HEADROOM = 0.7
"""Utilization that the past was run at."""
SETTLE_TICKS = 30


def split(load: Workload, stock: Inventory, total: int) -> dict[str, int]:
    """``total`` replicas over the pools as placement would: each pool's minimum, an even share at most, cheapest first."""
    pools = sorted((stock.pools[name] for name in load.pools), key=lambda p: (p.unit_price, p.name))
    share = -(-total // max(load.min_sites, 1))
    placed = {p.name: p.min for p in pools}
    for pool in pools:
        left = total - sum(placed.values())
        placed[pool.name] += max(0, min(left, share - placed[pool.name]))
    return placed


def replicas(demand: Floats, load: Workload, headroom: float = HEADROOM) -> Floats:
    """Replicas the past ran with, float64[t]: enough for the next half hour at ``headroom``."""
    peak = maximum_filter1d(demand, SETTLE_TICKS, origin=-(SETTLE_TICKS // 2), mode="nearest")
    return np.asarray(np.maximum(np.ceil(peak / load.demands[0].per_replica / headroom), load.min))


def history(stock: Inventory, table: DemandTable, layout: Layout, scenario: Scenario, seed: int) -> Floats:
    """Every series of ``layout`` at every tick of ``table``: float64[rows, t]."""
    load = stock.workloads[layout.workload]
    row = table.workloads.index(load.name)
    rng = np.random.default_rng([seed, row, 5])
    demand = table.counted[row]
    total = replicas(demand, load)
    shares = _shares(load, stock, total)
    capacity = total * load.demands[0].per_replica
    use = demand / capacity
    of = traits(load.name, seed)
    leak = history_leak(table.at.astype(np.float64), affected(scenario).get(load.name), of.leak_mib_min)
    front = (
        demand,
        jitter(latency_p99(demand, capacity, total, np.asarray(of.service_ms)), 0.06, rng),
        measured_errors(error_share(demand, capacity, np.zeros(1)), demand, table.step_ms, rng),
    )
    out = np.empty((len(layout.keys), len(demand)))
    out[: len(front)] = front
    for i, pool in enumerate(load.pools):
        first = len(FRONT) + len(PER_SITE) * i
        here = demand * shares[pool] / total
        used = memory(np.full(len(use), of.memory_mib), use, leak, rng)
        out[first : first + len(PER_SITE)] = (
            measured_errors(error_share(demand, capacity, np.zeros(1)), here, table.step_ms, rng),
            jitter(latency_p99(demand, capacity, total, np.asarray(of.service_ms)), 0.08, rng),
            used,
            gc_pause(used, use, rng),
        )
    return out


def _shares(load: Workload, stock: Inventory, total: Floats) -> Mapping[str, Floats]:
    """Replicas of each pool over time, float64[t]."""
    different = {int(n): split(load, stock, int(n)) for n in np.unique(total)}
    return {pool: np.array([different[int(n)][pool] for n in total], np.float64) for pool in load.pools}
