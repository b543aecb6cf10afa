"""What one more replica was worth, had it been started or kept at a step, under the rest of a policy.

Replicas are interchangeable, so the loop falls apart by level: the replica whose share of the demand begins at level u is
worth ``price`` times its use in every step it serves, costs 1 a step, and needs the lead time to start. A policy is two
thresholds per step: replicas that begin below ``up`` are started, those below ``keep`` are kept. From those, going backwards in
time, the advantage of starting over waiting and of keeping over dropping follows for every step and level. A threshold is best
where the expected advantage changes its sign: this is the newsvendor's rule with the start-up bill and the option to change
one's mind in it, and its loss is what the trees are fitted to.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from forecastle.types import Floats, Ints

LEVELS = 72
"""Levels of demand, evenly spaced in the logarithm."""

Table = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Grid:
    """Levels float64[LEVELS] in log demand: ``low + width * k``."""

    low: float
    width: float

    @classmethod
    def of(cls, value: Floats, capacity: float) -> Grid:
        """From well below what is usual, or where the second replica begins, to twice the largest."""
        high = float(np.log(value.max() * 2.0))
        low = max(float(np.log(np.quantile(value, 0.01) * 0.5)), float(np.log(capacity * 0.8)), high - 7.0)
        low = min(low, high - 0.5)
        return cls(low, (high - low) / (LEVELS - 1))

    @property
    def logs(self) -> Floats:
        """The levels."""
        return np.asarray(self.low + self.width * np.arange(LEVELS), np.float64)


@dataclass(frozen=True, slots=True)
class Thresholds:
    """A policy in log demand: start below ``up`` float64[T, P], keep below ``keep``; a column a price."""

    up: Floats
    keep: Floats


@dataclass(frozen=True, slots=True)
class Terms:
    """``prices`` float64[P] of unmet demand in those of capacity, a replica's ``capacity``, the ``lead`` steps (at least 1)."""

    prices: Floats
    capacity: float
    lead: int
    grid: Grid


def advantages(value: Floats, policy: Thresholds, terms: Terms, rows: Ints) -> tuple[Table, Table]:
    """Advantage of starting and of keeping, float32[len(rows), P, LEVELS] each, for the steps ``rows`` (ascending).

    ``value`` float64[T] is positive demand.
    """
    prices, lead, up, keep = terms.prices, terms.lead, policy.up, policy.keep
    n, p = len(value), len(prices)
    levels = terms.grid.logs
    start = np.zeros((len(rows), p, LEVELS), np.float32)
    stay = np.zeros_like(start)
    on = np.zeros((lead + 1, p, LEVELS))
    off = np.zeros((p, LEVELS))
    begins, price, busy = np.exp(levels), prices[:, None], value.tolist()
    row = len(rows) - 1
    for i in range(n - 1, -1, -1):
        later, soon = on[(i + lead) % (lead + 1)], on[(i + 1) % (lead + 1)]
        begun = later - lead
        kept = price * np.clip((busy[i] - begins) / terms.capacity, 0.0, 1.0) - 1.0 + soon
        if row >= 0 and rows[row] == i:
            start[row] = begun - off
            stay[row] = kept - off
            row -= 1
        wants = up[i][:, None] > levels
        held = wants | (keep[i][:, None] > levels)
        on[i % (lead + 1)] = np.where(held, kept, off)
        off = np.where(wants, begun, off)
    return start, stay


@dataclass(frozen=True, slots=True)
class Regret:
    """The loss of a threshold per row: ``total`` float32[n, LEVELS + 1] is minus the advantage, summed over the levels below.

    Predictions are log thresholds.
    """

    total: Table
    grid: Grid

    @classmethod
    def of(cls, advantage: Table, grid: Grid) -> Regret:
        """From ``advantage`` float32[n, LEVELS]; a level counts by the capacity that it spans."""
        weight = np.exp(grid.logs) * grid.width
        total = np.zeros((len(advantage), LEVELS + 1), np.float32)
        np.cumsum(-advantage * (weight / weight.mean()), axis=1, out=total[:, 1:])
        return cls(total, grid)

    def value(self, at: Floats) -> Floats:
        """Loss float64[n], linear between levels."""
        k, share = self._cell(at)
        rows = np.arange(len(k))
        left = self.total[rows, k]
        return np.asarray(left + share * (self.total[rows, k + 1] - left), np.float64)

    def slope(self, at: Floats) -> Floats:
        """Its derivative float64[n]."""
        k, _ = self._cell(at)
        rows = np.arange(len(k))
        return np.asarray(self.total[rows, k + 1] - self.total[rows, k], np.float64)

    def part(self, rows: Ints) -> Regret:
        """The loss of some rows."""
        return Regret(self.total[rows], self.grid)

    def _cell(self, at: Floats) -> tuple[Ints, Floats]:
        place = np.clip((at - self.grid.low) / self.grid.width, 0.0, LEVELS - 1e-6)
        k = place.astype(np.int64)
        return k, place - k
