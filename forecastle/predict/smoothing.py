"""Statistical members as one recursion over all series at once: exponential smoothing, its damped trend, and Theta.

Each row of a batch has parameters of its own, fitted in the workshop or picked from `GRID`. A slot without a measurement
moves the state on and corrects nothing. In the innovations form of Hyndman et al., "Forecasting with Exponential Smoothing"
(2008); Theta as in Hyndman and Billah, "Unmasking the Theta method" (2003).
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np

from forecastle.types import Floats, Ints, Mask

_CELLS = 4_000_000


class Rules(NamedTuple):
    """Of n rows, float64[n] each. ``alpha`` corrects the level, ``beta`` the trend by each error, ``phi`` damps the trend.

    ``theta`` is the weight of the straight line through all that was seen: 0 without, 0.5 for the Theta method.
    """

    alpha: Floats
    beta: Floats
    phi: Floats
    theta: Floats

    @classmethod
    def of(cls, rows: list[tuple[float, float, float, float]]) -> Rules:
        """Row by row."""
        return cls(*np.asarray(rows, np.float64).reshape(-1, 4).T)

    def take(self, rows: Ints) -> Rules:
        """Of the ``rows`` alone."""
        return Rules(*(part[rows] for part in self))


GRID = Rules.of(
    [
        *((alpha, 0.0, 1.0, theta) for alpha, theta in product((0.05, 0.1, 0.2, 0.35, 0.6, 0.9), (0.0, 0.5))),
        *((alpha, share * alpha, 0.95, 0.0) for alpha, share in product((0.1, 0.3, 0.6, 0.9), (0.05, 0.2))),
    ]
)
"""What a series without parameters of its own chooses from."""


class States(NamedTuple):
    """At a origins: ``level``, ``trend`` and ``drift`` float64[n, a], NaN before a row's first measurement."""

    level: Floats
    trend: Floats
    drift: Floats

    def take(self, places: Ints) -> States:
        """At the origins ``places`` alone, which may repeat."""
        return States(*(part[:, places] for part in self))

    def ahead(self, rules: Rules, steps: Ints) -> Floats:
        """Forecasts float64[n, a, k] of the ``steps`` [k] after each origin."""
        phi = rules.phi[:, None]
        longest = np.cumsum(phi ** np.arange(1, int(steps.max()) + 1), axis=1)
        damped = longest[:, steps - 1][:, None]
        line = rules.theta[:, None, None] * self.drift[..., None] * (steps - 1)
        told: Floats = self.level[..., None] + self.trend[..., None] * damped + line
        return told


def states(values: Floats, known: Mask, rules: Rules, at: Ints) -> States:
    """The recursion over ``values`` [n, t] where ``known``, as it stood after the columns ``at`` (rising) [a].

    The level begins at the first measurement, the trend at 0. The level of a row with ``theta`` holds what the line adds
    by the first step.
    """
    first = np.where(known.any(axis=1), known.argmax(axis=1), values.shape[1])
    start = np.where(first < values.shape[1], values[np.arange(len(values)), np.minimum(first, values.shape[1] - 1)], np.nan)
    level, trend = _recursion(np.where(known, values, 0.0), known, rules, start, at)
    count, slope = _line(values, known, at)
    grown = (1 - (1 - rules.alpha[:, None]) ** count) / rules.alpha[:, None]
    level = level + rules.theta[:, None] * slope * grown
    return States(np.where(at >= first[:, None], level, np.nan), trend, slope)


def chosen(values: Floats, known: Mask, origins: Ints, steps: Ints) -> Rules:
    """Of `GRID`, what would have erred least at ``steps`` after ``origins`` (rising columns): one rule for each row."""
    actual = _after(values, known, origins, steps)
    grid, count = len(GRID.alpha), len(values)
    best = np.zeros(count, np.int64)
    block = max(1, _CELLS // (grid * values.shape[1]))
    for low in range(0, count, block):
        rows = slice(low, low + block)
        part = np.repeat(np.arange(count)[rows], grid)
        rules = GRID.take(np.tile(np.arange(grid), len(part) // grid))
        errors = actual[part] - states(values[part], known[part], rules, origins).ahead(rules, steps)
        there = np.isfinite(errors)
        cost = np.where(there, np.abs(errors), 0.0).sum(axis=(1, 2)) / np.maximum(there.sum(axis=(1, 2)), 1)
        best[rows] = cost.reshape(-1, grid).argmin(axis=1)
    return GRID.take(best)


def _after(values: Floats, known: Mask, origins: Ints, steps: Ints) -> Floats:
    """What was measured ``steps`` after ``origins``: [n, a, k], NaN where nothing was."""
    columns = origins[:, None] + steps
    inside = columns < values.shape[1]
    columns = np.minimum(columns, values.shape[1] - 1)
    return np.where(inside & known[:, columns], values[:, columns], np.nan)


def _recursion(values: Floats, known: Mask, rules: Rules, start: Floats, at: Ints) -> tuple[Floats, Floats]:
    """Level and trend [n, a] after the columns ``at``."""
    levels, trends = np.empty((2, len(at), len(values)))
    level, trend, place = start.copy(), np.zeros(len(values)), 0
    columns, seen = np.ascontiguousarray(values.T), np.ascontiguousarray(known.T)
    for column in range(int(at[-1]) + 1 if len(at) else 0):
        trend = rules.phi * trend
        level = level + trend
        error = (columns[column] - level) * seen[column]
        level = level + rules.alpha * error
        trend = trend + rules.beta * error
        while place < len(at) and at[place] == column:
            levels[place], trends[place] = level, trend
            place += 1
    return levels.T, trends.T


def _line(values: Floats, known: Mask, at: Ints) -> tuple[Floats, Floats]:
    """Number of measurements and slope of the least-squares line through them, up to each of the columns ``at`` [n, a]."""
    time = np.arange(values.shape[1], dtype=np.float64)
    there = known.astype(np.float64)
    level = np.where(known, values, 0.0).sum(axis=1, keepdims=True) / np.maximum(there.sum(axis=1, keepdims=True), 1)
    height = np.where(known, values - level, 0.0)
    n, x, xx, y, xy = (np.cumsum(part, axis=1)[:, at] for part in (there, there * time, there * time**2, height, height * time))
    width = n * xx - x * x
    slope = np.divide(n * xy - x * y, width, out=np.zeros_like(width), where=width > 0)
    return n, slope
