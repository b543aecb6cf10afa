"""The Kubernetes HPA in the loop, all its targets side by side.

`hpa` is the strongest one there is: it scales on the request rate itself (External, AverageValue), which does not saturate
when replicas are full. `hpa-cpu` is the usual one: utilization, which cannot pass the limit, so that a large
shortfall looks like a small one. Both set ``behavior`` with its default rates. The arithmetic is `hpa_calculator`'s, written
over arrays; a test holds the two together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forecastle.rehearsal.simulate import Controller, PoolModel
from forecastle.rehearsal.trace import STEP_S, Demand
from forecastle.types import Floats, Ints

TARGETS = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
WINDOWS_S = (60, 300)
DELAY_STEPS = 1
"""A metric is seen one sync after it was true (metrics-server's default resolution is 15 s); prometheus adapters are slower."""
_TOLERANCE = 0.1


@dataclass(frozen=True, slots=True)
class Hpa:
    """HPA on a request rate. The knob is ``target/scale-down window``: share of a replica's capacity, seconds."""

    targets: tuple[float, ...] = TARGETS
    windows_s: tuple[int, ...] = WINDOWS_S
    name: str = "hpa"
    notes: tuple[str, ...] = ()

    @property
    def knobs(self) -> tuple[str, ...]:
        """Every target with every window."""
        return tuple(f"{target:g}/{window}s" for target in self.targets for window in self.windows_s)

    def prepare(self, demand: Demand, pool: PoolModel) -> Controller:
        """Nothing to learn."""
        targets = np.repeat(np.array(self.targets), len(self.windows_s))
        windows = np.tile(np.array(self.windows_s), len(self.targets))
        return RateHpa(demand, pool, targets * pool.capacity, Stabilizer(windows, pool))


@dataclass(frozen=True, slots=True)
class HpaCpu:
    """HPA on CPU utilization. The knob is ``target/scale-down window``, the target as a share of the request.

    The request is a replica's capacity; usage saturates at the limit, ``limit`` times the request.
    """

    targets: tuple[float, ...] = TARGETS
    windows_s: tuple[int, ...] = WINDOWS_S
    limit: float = 1.0
    name: str = "hpa-cpu"
    notes: tuple[str, ...] = ()

    @property
    def knobs(self) -> tuple[str, ...]:
        """Every target with every window."""
        return Hpa(self.targets, self.windows_s).knobs

    def prepare(self, demand: Demand, pool: PoolModel) -> Controller:
        """Nothing to learn."""
        targets = np.repeat(np.array(self.targets), len(self.windows_s)) * 100.0
        windows = np.tile(np.array(self.windows_s), len(self.targets))
        return CpuHpa(demand, pool, targets, self.limit, Stabilizer(windows, pool))


class Stabilizer:
    """`hpa_calculator.behave` with the default rates for K controllers whose syncs are one step apart."""

    def __init__(self, windows_s: Ints, pool: PoolModel) -> None:
        steps = np.maximum(np.ceil(windows_s / STEP_S).astype(np.int64), 1)
        self._size, self._limits = int(steps.max()), (pool.min, pool.max)
        self._ring = np.zeros((self._size, len(steps)), np.int64)
        self._at = 0
        self._groups = [(int(size), np.flatnonzero(steps == size)) for size in np.unique(steps)]
        self._ages = np.arange(self._size)

    def settle(self, current: Ints, desired: Ints) -> Ints:
        """Replicas after the down-window (none up) and the default rates."""
        self._ring[self._at % self._size] = desired
        highest = np.empty_like(desired)
        for size, columns in self._groups:
            rows = slice(None) if size == self._size else (self._at - self._ages[:size]) % self._size
            highest[columns] = self._ring[rows].max(axis=0)[columns]
        self._at += 1
        stable = np.minimum(np.maximum(current, desired), highest)
        limited = np.minimum(stable, np.maximum(current + 4, 2 * current))
        return np.minimum(np.maximum(limited, self._limits[0]), self._limits[1])


class RateHpa:
    """External metric with AverageValue: ``targets`` float64[K] in demand per replica."""

    def __init__(self, demand: Demand, pool: PoolModel, targets: Floats, stabilizer: Stabilizer) -> None:
        self._demand, self._known = demand, demand.known.tolist()
        self._targets, self._stabilizer = targets, stabilizer
        self._pool = pool

    def step(self, i: int, ordered: Ints, ready: Ints) -> Ints:  # noqa: ARG002
        """One sync. Without a metric the HPA changes nothing."""
        seen = max(i - DELAY_STEPS, 0)
        if not self._known[seen]:
            return ordered
        return self._stabilizer.settle(ordered, self.recommend(self._demand.read(seen), ordered))

    def recommend(self, value: float | Floats, ordered: Ints) -> Ints:
        """`hpa_calculator.average_value_replicas` for every target."""
        wanted = value / self._targets
        ratio = value / (self._targets * np.maximum(ordered, 1))
        hold = (ratio >= 1.0 - _TOLERANCE) & (ratio <= 1.0 + _TOLERANCE) & (ordered > 0)
        return np.where(hold, ordered, np.ceil(wanted)).astype(np.int64)


class CpuHpa:
    """Resource metric with averageUtilization: ``targets`` float64[K] in percent of the request.

    Ready replicas share the demand evenly and have samples; replicas that are still starting have none yet: Pending pods.
    """

    def __init__(self, demand: Demand, pool: PoolModel, targets: Floats, limit: float, stabilizer: Stabilizer) -> None:
        self._demand, self._known = demand, demand.known.tolist()
        self._targets, self._limit, self._stabilizer = targets, limit, stabilizer
        self._pool = pool
        self._ready_then: Ints | None = None

    def step(self, i: int, ordered: Ints, ready: Ints) -> Ints:
        """One sync on the usage of one sync ago, which the replicas then ready had."""
        then = ready if self._ready_then is None else self._ready_then
        self._ready_then = ready
        seen = max(i - DELAY_STEPS, 0)
        if not self._known[seen]:
            return ordered
        use = self._demand.read(seen)
        return self._stabilizer.settle(ordered, self.recommend(use, ordered, np.minimum(ready, ordered), then))

    def recommend(self, value: float | Floats, ordered: Ints, ready: Ints, then: Ints) -> Ints:
        """`hpa_calculator.utilization_replicas` for every target."""
        use = np.minimum(value / self._pool.capacity / np.maximum(then, 1), self._limit)
        ratio = np.floor(100.0 * use + 1e-9) / self._targets
        starting = ordered - ready
        # with pods that are still starting and r > 1, they count as using nothing: recompute over all of them
        spread = np.floor(100.0 * use * ready / np.maximum(ordered, 1) + 1e-9) / self._targets
        fill = (starting > 0) & (ratio > 1.0)
        final = np.where(fill, spread, ratio)
        wanted = np.ceil(final * np.where(fill, ordered, ready)).astype(np.int64)
        hold = (final >= 1.0 - _TOLERANCE) & (final <= 1.0 + _TOLERANCE) | (fill & (final < 1.0))
        return np.where(hold, ordered, wanted)
