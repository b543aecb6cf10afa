"""How good is a forecaster on what it has not seen? Rolled over the tail of a history, as it would have served there.

Errors are divided by what repeating the season would have cost before the tail, so that large series do not drown small ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from flows.history import History
from forecastle.errors import ConfigError
from forecastle.types import Floats, Floats32, Ints, Mask, Windows

Answer = Callable[[Windows], Floats32]
"""Windows to quantiles float32[n, h, q]."""


def windows(history: History, column: int, look_back: int) -> Windows:
    """What a worker would have seen when slot ``column`` had just ended."""
    values = history.values[:, max(column + 1 - look_back, 0) : column + 1]
    values = np.pad(values, ((0, 0), (look_back - values.shape[1], 0)), constant_values=np.nan)
    end = history.end - (history.values.shape[1] - 1 - column) * history.step_ms
    flags = np.zeros(len(history.keys), np.bool_)
    return Windows(history.keys, end, history.step_ms, values, np.isfinite(values), flags, flags)


def origins(history: History, horizon: int, *, tail: float, count: int) -> Ints:
    """Up to ``count`` columns, evenly spaced over the last ``tail`` of the history, each with ``horizon`` steps after it.

    Raises ConfigError when the tail is too short for one.
    """
    columns = history.values.shape[1]
    first, last = max(int(columns * (1 - tail)), 1) - 1, columns - 1 - horizon
    if last < first or first < 1:
        raise ConfigError(f"the history has {columns} steps; its last {tail:.0%} must hold more than the horizon of {horizon}")
    return np.unique(np.linspace(first, last, count).round().astype(np.int64))


def roll(history: History, at: Ints, answer: Answer, look_back: int) -> Floats32:
    """Quantiles float32[o, n, h, q] that ``answer`` gives at the columns ``at``."""
    return np.stack([answer(windows(history, int(column), look_back)) for column in at])


def actuals(history: History, at: Ints, horizon: int) -> Floats32:
    """What came: float32[o, n, h], NaN where unknown."""
    columns = at[:, None] + np.arange(1, horizon + 1)
    return np.asarray(history.values[:, columns].transpose(1, 0, 2))


def scale(history: History, until: int, season: int) -> Floats:
    """Mean absolute change over a season before column ``until`` (over one step where no season is known): float64[n], > 0."""
    past = history.values[:, : until + 1].astype(np.float64)
    size = np.ones(len(past))
    for lag in (1, season):
        change = np.abs(past[:, lag:] - past[:, :-lag])
        known = np.isfinite(change)
        mean = np.where(known, change, 0.0).sum(1) / np.maximum(known.sum(1), 1)
        size = np.where(mean > 0, mean, size)
    return size


@dataclass(frozen=True, slots=True)
class Score:
    """Of one forecaster. ``crps`` and ``mase`` are in units of `scale`; below 1 beats repeating the season.

    ``crps`` integrates twice the pinball loss over the levels; ``wql`` is the same in raw units over the sum of the demand.
    ``pinball`` and ``coverage`` (share of what came at or below the quantile) are per level, ``mase_by_step`` per step ahead.
    """

    crps: float
    mase: float
    wql: float
    pinball: tuple[float, ...]
    coverage: tuple[float, ...]
    mase_by_step: tuple[float, ...]

    def metrics(self) -> dict[str, float]:
        """The numbers that a registry keeps."""
        return {"crps": self.crps, "mase": self.mase, "wql": self.wql}


def score(forecast: Floats32, actual: Floats32, size: Floats, levels: tuple[float, ...]) -> Score:
    """``forecast`` [o, n, h, q] judged by ``actual`` [o, n, h], in units of ``size`` [n]. Raises ConfigError when none came."""
    known = np.isfinite(actual)
    if not known.any():
        raise ConfigError("nothing was measured in the history's tail; give a longer history")
    q, unit = np.asarray(levels), np.broadcast_to(size[None, :, None], actual.shape)[known]
    came, said = actual[known].astype(np.float64), forecast[known].astype(np.float64)
    error = came[:, None] - said
    loss = np.maximum(q * error, (q - 1) * error)
    middle = np.abs(error[:, int(np.argmin(np.abs(q - 0.5)))]) / unit
    step = np.broadcast_to(np.arange(actual.shape[2]), actual.shape)[known]
    by_step = np.bincount(step, middle, actual.shape[2]) / np.maximum(np.bincount(step, minlength=actual.shape[2]), 1)
    return Score(
        crps=float(_integrated((loss / unit[:, None]).mean(0), q)),
        mase=float(middle.mean()),
        wql=float(_integrated(loss.sum(0), q)) / max(float(np.abs(came).sum()), 1e-12),
        pinball=tuple((loss / unit[:, None]).mean(0).tolist()),
        coverage=tuple((error <= 0).mean(0).tolist()),
        mase_by_step=tuple(by_step.tolist()),
    )


@dataclass(frozen=True, slots=True)
class BySeries:
    """Of one forecaster, float64[n] each, NaN where nothing was measured: errors as in `Score`.

    ``cover_90`` is the share of what came that lay between the quantiles 0.05 and 0.95.
    """

    crps: Floats
    mase: Floats
    cover_90: Floats

    def of(self, rows: Ints) -> dict[str, float | None]:
        """Means over the series ``rows``; None where nothing was measured in any of them."""
        told: dict[str, float | None] = {}
        for name in ("crps", "mase", "cover_90"):
            values = getattr(self, name)[rows]
            known = values[np.isfinite(values)]
            told[name] = float(known.mean()) if len(known) else None
        return told


def by_series(forecast: Floats32, actual: Floats32, size: Floats, levels: tuple[float, ...]) -> BySeries:
    """`score` for each series of ``forecast`` [o, n, h, q] alone."""
    known = np.isfinite(actual)
    count = known.sum((0, 2)).astype(np.float64)
    came = np.where(known, actual, 0.0).astype(np.float64)

    def mean(values: Floats | Mask) -> Floats:
        total = np.where(known, values, 0.0).sum((0, 2))
        return np.asarray(np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0))

    loss = np.empty((len(count), len(levels)))
    for i, level in enumerate(levels):
        error = came - forecast[..., i]
        loss[:, i] = mean(np.maximum(level * error, (level - 1) * error))
    middle = int(np.argmin(np.abs(np.asarray(levels) - 0.5)))
    low, high = (forecast[..., levels.index(level)] for level in (0.05, 0.95))
    within = mean((low <= came) & (came <= high))
    return BySeries(_integrated(loss, np.asarray(levels)) / size, mean(np.abs(came - forecast[..., middle])) / size, within)


def _integrated(loss: Floats, q: Floats) -> Floats:
    """Twice the integral of ``loss`` [..., q] over the levels 0 to 1; the loss vanishes at both ends."""
    ends = [(0, 0)] * (loss.ndim - 1) + [(1, 1)]
    return np.asarray(2 * np.trapezoid(np.pad(loss, ends), np.concatenate([[0.0], q, [1.0]]), axis=-1))


def change(before: Floats32, after: Floats32, size: Floats) -> float:
    """How differently two forecasters [o, n, h, q] see the same windows: the 95th percentile of the relative difference.

    Relative to the larger of the quantile and the series' ``size`` [n].
    """
    unit = np.maximum(np.abs(before), size[None, :, None, None])
    return float(np.quantile(np.abs(after.astype(np.float64) - before) / unit, 0.95))
