"""Adaptive conformal calibration: bands widen or shrink, per series, until they have lately covered what they promise.

Networks promise too much on a file that drifts. At each origin the forecasts whose outcome is known by then are looked
at, newer ones counting more, and both sides of the band are stretched to the level they should have had.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from forecastle.predict.batch.panel import QUANTILES
from forecastle.types import Floats, Ints

_PRIOR = 1000.0
_MEMORY = 0.05
_WIDEST = 3.0


def stretched(quantiles: Floats, origins: Ints, past: Floats, at: Ints, actual: Floats) -> Floats:
    """``quantiles`` float64[n, o, h, 9] of ``origins`` [o], each calibrated by what came true up to its origin.

    ``past`` [n, c, h, 9] are forecasts made at the columns ``at`` [c] and ``actual`` [n, c, h] what came true (NaN:
    unknown); of these, an origin uses the steps that lie at or before it.
    """
    out = quantiles.copy()
    middle = len(QUANTILES) // 2
    ahead = np.arange(1, quantiles.shape[2] + 1)
    sides = [_Side.of(_ratios(past, actual, side, middle)) for side in (0, -1)]
    for k, origin in enumerate(origins.tolist()):
        known = at[:, None] + ahead <= origin
        age = (origin - at) / max(origin * _MEMORY, 1.0)
        weight = np.where(known, np.exp(-age)[:, None], 0.0)
        for side, levels in ((0, slice(0, middle)), (-1, slice(middle + 1, None))):
            factor = _factors(sides[side], weight)
            center = quantiles[:, k, :, middle, None]
            out[:, k, :, levels] = center + (quantiles[:, k, :, levels] - center) * factor[:, None, None]
    return out


def _ratios(past: Floats, actual: Floats, side: int, middle: int) -> Floats:
    """How far the outcome lay on one side, in units of the band's outermost quantile there: float64[n, c, h]."""
    center, edge = past[..., middle], past[..., side]
    reach = np.abs(edge - center)
    tiny = 1e-6 * np.nanmean(reach) + 1e-12
    sign = -1.0 if side == 0 else 1.0
    return np.asarray(sign * (actual - center) / np.maximum(reach, tiny))


class _Side(NamedTuple):
    """Ratios of one side in rising order: of each series [n, k] and of all [1, n * k], with the order that made them so."""

    own: Floats
    own_order: Ints
    shared: Floats
    shared_order: Ints

    @classmethod
    def of(cls, ratios: Floats) -> _Side:
        flat = ratios.reshape(len(ratios), -1)
        own, shared = np.argsort(flat, axis=1), np.argsort(flat.reshape(1, -1), axis=1)
        return cls(np.take_along_axis(flat, own, axis=1), own, flat.reshape(1, -1)[:, shared[0]], shared)


def _factors(side: _Side, weight: Floats) -> Floats:
    """Stretch float64[n] of one side: the weighted 0.9 quantile of each series' ratios, drawn towards the file's.

    ``weight`` [c, h] of the forecasts; ratios that are NaN, as their outcome is not known, count nothing.
    """
    n = len(side.own)
    own_weight = np.where(np.isfinite(side.own), weight.ravel()[side.own_order], 0.0)
    shared_weight = np.where(np.isfinite(side.shared), weight.ravel()[side.shared_order % weight.size], 0.0)
    if not shared_weight.any():
        return np.ones(n)
    own, shared = _quantile(side.own, own_weight), _quantile(side.shared, shared_weight)
    effective = own_weight.sum(axis=1)
    trust = effective / (effective + _PRIOR)
    logs = [np.log(np.clip(np.nan_to_num(part, nan=1.0), 1 / _WIDEST, _WIDEST)) for part in (own, shared)]
    return np.asarray(np.exp(trust * logs[0] + (1 - trust) * logs[1]))


def _quantile(values: Floats, weight: Floats) -> Floats:
    """Weighted 0.9 quantile [n] of rising ``values`` [n, k]."""
    total = np.cumsum(weight, axis=1)
    position = (total < QUANTILES[-1] * total[:, -1:]).sum(axis=1)
    return np.asarray(np.take_along_axis(values, np.minimum(position, values.shape[1] - 1)[:, None], axis=1)[:, 0])
