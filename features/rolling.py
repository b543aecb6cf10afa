"""Levels and trends of the newest slots; gaps carry no weight."""

from __future__ import annotations

import numpy as np

from features.plan import feature
from forecastle.types import Floats32, Ints, Mask

LEVEL, HOUR = 120, 60
HALF_LIFE = 3.0
FLOOR = 1e-6
"""Weight of the oldest slots, so that a window with a long gap at its end still has a level."""


@feature(look_back=LEVEL)
def level(values: Floats32, mask: Mask, end_minute: Ints) -> Floats32:  # noqa: ARG001 - the signature of a feature
    """Mean of two hours, weights halving every three slots into the past: float32[n, 1], 0 where nothing was observed."""
    weight = (0.5 ** (np.arange(LEVEL - 1, -1, -1) / HALF_LIFE) + FLOOR) * mask
    return _ratio((values * weight).sum(1), weight.sum(1))


@feature(look_back=HOUR)
def rolling_mean(values: Floats32, mask: Mask, end_minute: Ints) -> Floats32:  # noqa: ARG001 - the signature of a feature
    """Mean of the last hour's observed slots: float32[n, 1], 0 where nothing was observed."""
    return _ratio((values * mask).sum(1, dtype=np.float64), mask.sum(1))


@feature(look_back=HOUR)
def slope(values: Floats32, mask: Mask, end_minute: Ints) -> Floats32:  # noqa: ARG001 - the signature of a feature
    """Least-squares change per slot over the last hour: float32[n, 1], 0 with fewer than two observed slots."""
    seen = mask.astype(np.float64)
    count = np.maximum(seen.sum(1, keepdims=True), 1)
    time = np.arange(HOUR) - (seen * np.arange(HOUR)).sum(1, keepdims=True) / count
    centred = values - (values * seen).sum(1, keepdims=True) / count
    return _ratio((time * centred * seen).sum(1), (time * time * seen).sum(1))


def _ratio(above: np.ndarray, below: np.ndarray) -> Floats32:
    ratio = np.divide(above, below, out=np.zeros(len(above)), where=below > 0)
    return np.asarray(ratio[:, None], np.float32)
