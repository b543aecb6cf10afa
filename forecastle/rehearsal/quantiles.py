"""A forecast learned from the first part of a history: quantiles of the demand to come, by the same trees as our policy.

A what-if needs the forecast that a workload would have had. Where its model is not at hand, this one stands for it: a plain
forecast, which is given, times what the trees make of the same `features`. They minimize the pinball loss (Koenker and Bassett
1978, "Regression quantiles") of the logarithm, which has the same quantiles as the demand itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from forecastle.errors import ConfigError
from forecastle.rehearsal.boost import Boost, Shape, binned, edges_of, fit
from forecastle.rehearsal.features import Rows, rows_of
from forecastle.rehearsal.trace import STEP_S, Demand
from forecastle.types import Floats, Floats32, Ints

_DAY = 86_400 // STEP_S
ANCHORS = 6
"""Horizons that are learned, spaced geometrically; between them the logarithms are interpolated."""
ROWS, DRAWS = 12_000, 4
"""Decisions that are learned from, and pairs of a horizon and a quantile that each is looked at under."""
SHAPE = Shape(120)

Plain = Callable[[Ints], Floats]
"""The plain forecast float64[n, horizon] of the slots that begin at some steps int64[n], in the demand's unit."""


@dataclass(frozen=True, slots=True)
class Pinball:
    """The pinball loss of n targets ``y`` float64[n] at the quantiles ``q`` float64[n]."""

    y: Floats
    q: Floats

    def value(self, at: Floats) -> Floats:
        """Loss float64[n]."""
        short = self.y - at
        return np.asarray(np.maximum(self.q * short, (self.q - 1.0) * short))

    def slope(self, at: Floats) -> Floats:
        """Its derivative float64[n]."""
        return np.asarray(np.where(self.y > at, -self.q, 1.0 - self.q))

    def part(self, rows: Ints) -> Pinball:
        """The loss of some rows."""
        return Pinball(self.y[rows], self.q[rows])


@dataclass(frozen=True, slots=True)
class Ahead:
    """What was learned: the ``start`` float64[A, Q] at the horizons ``anchors`` int64[A], and the trees on it."""

    plain: Plain
    rows: Rows
    edges: list[Floats32]
    anchors: Ints
    start: Floats
    trees: Boost

    def at(self, ticks: Ints) -> Floats32:
        """Quantiles float32[n, horizon, Q] of the slots that begin at the steps ``ticks`` int64[n], in the demand's unit."""
        seen = np.concatenate([binned(self.rows.x[:, ticks], self.edges), np.zeros((2, len(ticks)), np.uint8)])
        logs = np.empty((len(self.anchors), self.start.shape[1], len(ticks)))
        for a, q in np.ndindex(self.start.shape):
            seen[-2:] = [[a], [q]]
            logs[a, q] = self.start[a, q] + self.trees.predict(seen)
        logs = np.sort(logs, axis=1)
        plain = self.plain(ticks) + self.rows.tiny
        steps = np.arange(1, plain.shape[1] + 1)
        right = np.clip(np.searchsorted(self.anchors, steps), min(1, len(self.anchors) - 1), len(self.anchors) - 1)
        left = np.maximum(right - 1, 0)
        share = (steps - self.anchors[left]) / np.maximum(self.anchors[right] - self.anchors[left], 1)
        between = logs[left] + (logs[right] - logs[left]) * share[:, None, None]
        values = plain[:, :, None] * np.exp(between.transpose(2, 0, 1)) - self.rows.tiny
        return np.asarray(np.maximum(values, 0.0), np.float32)


def learn_ahead(demand: Demand, step: int, horizon: int, quantiles: tuple[float, ...], plain: Plain) -> Ahead:
    """What the steps before ``demand.first`` teach, and no other, about the next ``horizon`` slots of ``step`` steps.

    Raises ConfigError unless they are a day and twice the horizon: less shows no rhythm.
    """
    first, least = demand.first, max(_DAY, 2 * horizon * step)
    if first < least:
        raise ConfigError(
            f"the first part of the history is {first / _DAY:.2g} days; at least {least / _DAY:.2g} are needed to learn from it"
        )
    draw = np.random.default_rng(0)
    rows = rows_of(demand, min(horizon * step, _DAY) // 2)
    anchors = np.unique(np.geomspace(1, horizon, ANCHORS).round().astype(np.int64))
    log, known = _slots(demand, rows.tiny, step)
    at = np.arange(first % step, first - horizon * step, step)
    at = np.sort(draw.choice(at[at >= first // 4], min(ROWS, int((at >= first // 4).sum())), replace=False))
    base = np.log(plain(at) + rows.tiny)
    row = np.repeat(np.arange(len(at)), DRAWS)
    a, q = draw.integers(0, len(anchors), len(row)), draw.integers(0, len(quantiles), len(row))
    kept = known[at[row] + (anchors[a] - 1) * step]
    row, a, q = row[kept], a[kept], q[kept]
    ahead, levels = anchors[a] - 1, np.asarray(quantiles)
    ratio = log[at[row] + ahead * step] - base[row, ahead]
    start = np.stack([_quantiles(ratio[a == k], levels) for k in range(len(anchors))])
    edges = edges_of(rows.x[:, :first:7])
    cells = np.concatenate([binned(rows.x[:, at[row]], edges), a[None].astype(np.uint8), q[None].astype(np.uint8)])
    return Ahead(plain, rows, edges, anchors, start, fit(cells, Pinball(ratio, levels[q]), start[a, q], SHAPE))


def _quantiles(x: Floats, levels: Floats) -> Floats:
    return np.asarray(np.quantile(x, levels) if len(x) else np.zeros(len(levels)))


def _slots(demand: Demand, tiny: float, step: int) -> tuple[Floats, np.ndarray]:
    """Log of the mean demand, plus ``tiny``, of the ``step`` steps from each on, float64[T], and whether all are known."""
    total = np.concatenate([[0.0], np.cumsum(demand.value)])
    there = np.concatenate([[0], np.cumsum(demand.known)])
    upto = np.minimum(np.arange(len(demand)) + step, len(demand))
    begin = np.arange(len(demand))
    mean = (total[upto] - total[begin]) / (upto - begin)
    return np.log(np.maximum(mean, 0.0) + tiny), (there[upto] - there[begin]) == step
