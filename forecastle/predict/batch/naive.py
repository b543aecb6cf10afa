"""Members that need no training: what came last, what came a day or a week ago, and what lies between.

Each is a point path; how far it errs at each step ahead is measured on origins inside the training span and becomes
its quantiles. On infrastructure metrics the last value is hard to beat within the hour, so everything starts here.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from forecastle.predict.batch.panel import QUANTILES, Panel
from forecastle.types import Floats, Ints

Path = Callable[[Panel, Ints, int], Floats]


def last_value(panel: Panel, origins: Ints, horizon: int) -> Floats:
    """float64[n, o, horizon]: the newest measurement, repeated."""
    return np.repeat(panel.filled[:, origins][:, :, None], horizon, axis=2)


def level(span: int) -> Path:
    """The median of the newest ``span`` values, repeated."""

    def path(panel: Panel, origins: Ints, horizon: int) -> Floats:
        columns = np.maximum(origins[:, None] - np.arange(span), 0)
        middle = np.median(panel.filled[:, columns], axis=2)
        return np.repeat(middle[:, :, None], horizon, axis=2)

    return path


def seasonal(period: int) -> Path:
    """What was measured ``period`` steps before each target (whole periods: never after the origin)."""

    def path(panel: Panel, origins: Ints, horizon: int) -> Floats:
        return _before(panel, origins, horizon, period)

    return path


def shifted(period: int) -> Path:
    """The newest value moved as the series moved ``period`` steps before, half believed."""

    def path(panel: Panel, origins: Ints, horizon: int) -> Floats:
        now = panel.filled[:, origins][:, :, None]
        then = panel.filled[:, np.maximum(origins - period, 0)][:, :, None]
        return np.asarray(now + 0.5 * (_before(panel, origins, horizon, period) - then))

    return path


def members(panel: Panel) -> dict[str, Path]:
    """The naive members that a training span of ``panel``'s length can judge."""
    found: dict[str, Path] = {"last-value": last_value, "level": level(12)}
    for name, period in (("daily", panel.day), ("weekly", 7 * panel.day)):
        if period > 1 and panel.values.shape[1] >= 2 * period + 2:
            found |= {f"seasonal-{name}": seasonal(period), f"shifted-{name}": shifted(period)}
    return found


def error_quantiles(errors: Floats, usual: Floats) -> Floats:
    """Quantiles float64[n, h, 9] of ``errors`` [n, o, h], each series' drawn towards the pooled ones where it has few.

    ``usual`` [n]: the size of errors that is usual for a series, in which the pool is expressed.
    """
    levels = np.asarray(QUANTILES)
    with np.errstate(invalid="ignore"):
        scaled = errors / usual[:, None, None]
    n, _, horizon = errors.shape
    own = np.full((n, horizon, len(levels)), np.nan)
    enough = np.isfinite(scaled).sum(axis=(1, 2)) > 0
    if not enough.any():
        return np.zeros_like(own)
    pooled = np.nanquantile(scaled[enough].reshape(-1, horizon), levels, axis=0).T
    pooled = np.where(np.isfinite(pooled), pooled, 0.0)
    count = np.isfinite(scaled).sum(axis=1)[..., None]
    usable = count[..., 0] > 0
    safe = np.where(usable[:, None, :], scaled, 0.0)
    own = np.moveaxis(np.nanquantile(safe, levels, axis=1), 0, -1)
    trust = count / (count + 20.0)
    return np.asarray((trust * own + (1 - trust) * pooled) * usual[:, None, None])


def usual_size(errors: Floats) -> Floats:
    """Mean absolute error float64[n] over origins and steps; a tiny positive number where it is 0 or unknown."""
    count = np.isfinite(errors).sum(axis=(1, 2))
    size = np.nansum(np.abs(errors), axis=(1, 2)) / np.maximum(count, 1)
    return np.where(size > 0, size, 1e-12)


def _before(panel: Panel, origins: Ints, horizon: int, period: int) -> Floats:
    ahead = np.arange(1, horizon + 1)
    back = period * -(-ahead // period)
    return np.asarray(panel.filled[:, np.maximum(origins[:, None] + ahead - back, 0)])
