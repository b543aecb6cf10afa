"""KEDA: the HPA, with a door to zero replicas and a stand-in for a metric that fails.

Between one replica and the maximum the HPA decides on the metric that KEDA hands it (asked for at each sync), and never goes
to zero by itself; KEDA polls every 30 s, activates strictly above the activation threshold, and goes to zero when the trigger
was inactive for a cool-down of 300 s. A failed poll neither wakes nor sends to sleep; after three of them the fallback, where
there is one, hands the HPA ``target * replicas``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from forecastle.rehearsal.hpa import DELAY_STEPS, TARGETS, WINDOWS_S, Hpa, RateHpa, Stabilizer
from forecastle.rehearsal.simulate import Controller, PoolModel
from forecastle.rehearsal.trace import STEP_S, Demand
from forecastle.types import Floats, Ints

POLL_STEPS = 30 // STEP_S
COOLDOWN_STEPS = 300 // STEP_S
FAILURES = 3


class Fallback(StrEnum):
    """How many replicas a failing trigger stands for."""

    STATIC = "static"
    CURRENT = "currentReplicas"
    CURRENT_IF_HIGHER = "currentReplicasIfHigher"
    CURRENT_IF_LOWER = "currentReplicasIfLower"

    def replicas(self, given: int, current: Ints) -> Ints:
        """Replicas to report for ``current`` int64[K], with ``given`` configured ones."""
        if self is Fallback.STATIC:
            return np.full_like(current, given)
        if self is Fallback.CURRENT:
            return current
        return np.maximum(current, given) if self is Fallback.CURRENT_IF_HIGHER else np.minimum(current, given)


@dataclass(frozen=True, slots=True)
class Keda:
    """KEDA on a request rate. The knob is ``target/scale-down window`` as for `Hpa`; ``fallback`` None is KEDA's default."""

    targets: tuple[float, ...] = TARGETS
    windows_s: tuple[int, ...] = WINDOWS_S
    activation: float = 0.0
    fallback: Fallback | None = None
    fallback_replicas: int = 1
    name: str = "keda"
    notes: tuple[str, ...] = (
        "Pools that are rehearsed never sleep: they keep one replica, as KEDA does with a minimum of one.",
    )

    @property
    def knobs(self) -> tuple[str, ...]:
        """Every target with every window."""
        return Hpa(self.targets, self.windows_s).knobs

    def prepare(self, demand: Demand, pool: PoolModel) -> Controller:
        """Nothing to learn."""
        targets = np.repeat(np.array(self.targets), len(self.windows_s)) * pool.capacity
        windows = np.tile(np.array(self.windows_s), len(self.targets))
        awake = replace(pool, min=max(pool.min, 1))
        return ScaledObject(self, demand, awake, targets, Stabilizer(windows, awake))


class ScaledObject:
    """KEDA at work: ``targets`` float64[K] in demand per replica."""

    def __init__(self, rules: Keda, demand: Demand, pool: PoolModel, targets: Floats, stabilizer: Stabilizer) -> None:
        self._rules, self._demand, self._targets, self._stabilizer = rules, demand, targets, stabilizer
        self._hpa = RateHpa(demand, pool, targets, stabilizer)
        self._failed, self._active_at, self._zero = 0, demand.first, False

    def step(self, i: int, ordered: Ints, ready: Ints) -> Ints:
        """A poll when one is due, then the HPA unless the workload sleeps."""
        seen = max(i - DELAY_STEPS, 0)
        known = bool(self._demand.known[seen])
        if i % POLL_STEPS == 0:
            self._poll(i, seen, known=known)
        if self._zero:
            return np.zeros_like(ordered)
        awake = np.maximum(ordered, 1)
        if not known and self._rules.fallback is not None and self._failed >= FAILURES:
            wanted = self._rules.fallback.replicas(self._rules.fallback_replicas, awake)
            return self._stabilizer.settle(awake, np.where(self._held(wanted, awake), awake, wanted))
        return self._hpa.step(i, awake, ready)

    def _poll(self, i: int, seen: int, *, known: bool) -> None:
        self._failed = 0 if known else self._failed + 1
        if not known:
            self._zero &= self._rules.fallback is None or self._failed < FAILURES
        elif self._demand.value[seen] > self._rules.activation:
            self._active_at, self._zero = i, False
        elif i - self._active_at >= COOLDOWN_STEPS:
            self._zero = True

    @staticmethod
    def _held(wanted: Ints, current: Ints) -> np.ndarray:
        ratio = wanted / current
        return (ratio >= 0.9) & (ratio <= 1.1)
