"""Predictive HPA (jthomperoo/predictive-horizontal-pod-autoscaler): the HPA, or what its own replica counts foretell.

It stores the replica counts that the HPA asked for, predicts the next sync's count from them by Holt-Winters with additive
trend and season, and takes the maximum (by default) of the two. The smoothing weights are those of its documentation's example.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from forecastle.rehearsal.hpa import TARGETS, WINDOWS_S, Hpa
from forecastle.rehearsal.simulate import Controller, PoolModel
from forecastle.rehearsal.trace import STEP_S, Demand
from forecastle.types import Floats, Ints

_DAY = 86_400 // STEP_S
_DECIDE: dict[str, Callable[[Ints, Ints], Ints]] = {
    "maximum": np.maximum,
    "minimum": np.minimum,
    "mean": lambda a, b: np.ceil((a + b) / 2).astype(np.int64),
    "median": lambda a, b: np.ceil((a + b) / 2).astype(np.int64),
}


@dataclass(frozen=True, slots=True)
class Phpa:
    """Predictive HPA on a request rate. The knob is ``target/scale-down window`` of the HPA inside."""

    targets: tuple[float, ...] = TARGETS
    windows_s: tuple[int, ...] = WINDOWS_S
    decision: str = "maximum"
    alpha: float = 0.9
    beta: float = 0.9
    gamma: float = 0.9
    name: str = "phpa"
    notes: tuple[str, ...] = ()

    @property
    def knobs(self) -> tuple[str, ...]:
        """Every target with every window."""
        return Hpa(self.targets, self.windows_s).knobs

    def prepare(self, demand: Demand, pool: PoolModel) -> Controller:
        """Run the HPA over the last two days before the test, to fill the season."""
        inner = Hpa(self.targets, self.windows_s).prepare(demand, pool)
        begin = max(demand.first - 2 * _DAY, 0)
        ordered = np.full(len(self.knobs), pool.need(demand.value[begin : begin + 1])[0])
        counts = np.empty((demand.first - begin, len(ordered)), np.int64)
        for i in range(begin, demand.first):
            ordered = inner.step(i, ordered, ordered)
            counts[i - begin] = ordered
        return PredictedCounts(inner, HoltWinters(counts, self.alpha, self.beta, self.gamma), _DECIDE[self.decision])


class PredictedCounts:
    """The HPA and the prediction side by side."""

    def __init__(self, inner: Controller, model: HoltWinters, decide: Callable[[Ints, Ints], Ints]) -> None:
        self._inner, self._model, self._decide = inner, model, decide

    def step(self, i: int, ordered: Ints, ready: Ints) -> Ints:
        """The HPA's count goes into the history; the prediction is of the next sync's."""
        reactive = self._inner.step(i, ordered, ready)
        predicted = np.ceil(self._model.advance(reactive) - 1e-9).astype(np.int64)
        return self._decide(reactive, predicted)


class HoltWinters:
    """Additive Holt-Winters over K series of counts with a season of a day of syncs (less, when less is known)."""

    def __init__(self, counts: Ints, alpha: float, beta: float, gamma: float) -> None:
        self._weights = alpha, beta, gamma
        self._period = max(min(_DAY, len(counts) // 2), 1)
        first = counts[: self._period].astype(np.float64)
        k = counts.shape[1]
        self._level = first.mean(axis=0) if len(first) else np.zeros(k)
        self._trend = np.zeros(k)
        self._season = first - self._level if len(first) else np.zeros((1, k))
        self._at = 0
        for row in counts[self._period :]:
            self.advance(row)

    def advance(self, count: Ints) -> Floats:
        """Take in one sync's counts int64[K], predict the next one's."""
        alpha, beta, gamma = self._weights
        slot = self._at % self._period
        season = self._season[slot].copy()
        before = self._level + self._trend
        level = alpha * (count - season) + (1 - alpha) * before
        self._trend = beta * (level - self._level) + (1 - beta) * self._trend
        self._season[slot] = gamma * (count - level) + (1 - gamma) * season
        self._level = level
        self._at += 1
        return np.asarray(self._level + self._trend + self._season[self._at % self._period])
