"""The two bounds every policy lies between: paying for the peak all the time, and knowing the future.

Both pay the same start-up lag and the same bill as everyone else. The oracle that leaves nothing unmet is the unit of
every cost figure; with a price on unmet demand it gives the least cost that any policy could have reached.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import maximum_filter1d

from forecastle.rehearsal.simulate import Controller, PoolModel, at_start
from forecastle.rehearsal.trace import Demand
from forecastle.types import Floats, Ints


@dataclass(frozen=True, slots=True)
class Given:
    """A controller whose wishes are known beforehand: ``plan`` int64[T, K], one row per step of the demand."""

    plan: Ints

    def step(self, i: int, ordered: Ints, ready: Ints) -> Ints:  # noqa: ARG002
        """Row ``i``."""
        return np.asarray(self.plan[i], np.int64)


@dataclass(frozen=True, slots=True)
class StaticPeak:
    """The largest need of the whole test span, all the time; the knob is the share of that peak."""

    shares: tuple[float, ...] = (1.0,)
    name: str = "static-peak"
    notes: tuple[str, ...] = ()

    @property
    def knobs(self) -> tuple[str, ...]:
        """Shares of the peak."""
        return tuple(f"{share:g}" for share in self.shares)

    def prepare(self, demand: Demand, pool: PoolModel) -> Controller:
        """Look at the whole test span."""
        peak = float(demand.value[demand.first :].max())
        row = pool.need(peak * np.array(self.shares))
        return Given(np.tile(row, (len(demand), 1)))


@dataclass(frozen=True, slots=True)
class Oracle:
    """Knows the future. The knob is the price of unmet demand, in replica prices per replica short; inf: none is left."""

    prices: tuple[float, ...] = (float("inf"),)
    name: str = "oracle"
    notes: tuple[str, ...] = ()

    @property
    def knobs(self) -> tuple[str, ...]:
        """Prices."""
        return tuple(f"{price:g}" for price in self.prices)

    def prepare(self, demand: Demand, pool: PoolModel) -> Controller:
        """Look at everything."""
        value = np.where(demand.known, demand.value, 0.0)[demand.first :]
        plan = np.zeros((len(demand), len(self.prices)), np.int64)
        for k, price in enumerate(self.prices):
            best = full_cover(value, pool) if np.isinf(price) else priced_cover(value, pool, price)
            plan[demand.first :, k] = np.maximum(best, pool.min)
        return Given(plan)


def full_cover(demand: Floats, pool: PoolModel) -> Ints:
    """Least orders int64[T] that serve all of ``demand`` float64[T]: the largest need within the next lead time."""
    n = pool.lead_steps + 1
    need = pool.need(demand)
    return np.asarray(maximum_filter1d(need, n, origin=-(n // 2), mode="nearest"), np.int64)


def priced_cover(demand: Floats, pool: PoolModel, price: float) -> Ints:
    """Orders int64[T] of least ``replicas + price * unmet / capacity``, exactly.

    The problem falls apart by replica: the l-th one is worth the demand between l - 1 and l capacities while it is ready, and
    the sets nest because that worth falls with l. Each is a two-state shortest path (off; on, entered one lead time ago).
    """
    n = pool.lead_steps
    top = int(min(np.ceil(demand.max() / pool.capacity), pool.max)) if len(demand) else 0
    levels = np.arange(top) * pool.capacity
    start = at_start(demand, pool)
    off = np.zeros((len(demand) + 1, top))
    on = np.where(np.arange(top) < start, 0.0, -np.inf)
    entered = np.zeros((len(demand), top), bool)
    left = np.zeros((len(demand), top), bool)
    for s, value in enumerate(demand.tolist()):
        gain = price * np.clip(value / pool.capacity - levels / pool.capacity, 0.0, 1.0) - 1.0
        fresh = off[s - n] - n if s >= n else np.full(top, -np.inf)
        entered[s] = fresh > on
        on = np.where(entered[s], fresh, on) + gain
        left[s] = on > off[s]
        off[s + 1] = np.where(left[s], on, off[s])
    return _walk_back(entered, left, n)


def _walk_back(entered: np.ndarray, left: np.ndarray, n: int) -> Ints:
    """Orders per step from the decisions of the shortest paths, newest first."""
    total = np.zeros(len(left) + 1, np.int64)
    for level in range(left.shape[1]):
        leaves, enters = np.flatnonzero(left[:, level]), np.flatnonzero(entered[:, level])
        s = len(left)
        while True:
            i = int(np.searchsorted(leaves, s)) - 1
            if i < 0:
                break
            end = int(leaves[i])
            j = int(np.searchsorted(enters, end, side="right")) - 1
            begin = int(enters[j]) - n if j >= 0 else 0
            total[begin] += 1
            total[end + 1] -= 1
            if j < 0:
                break
            s = begin
    return np.cumsum(total[:-1])
