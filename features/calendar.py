"""Where a window's end lies in the day and in the week; the forecaster computes the same inside its graph."""

from __future__ import annotations

import numpy as np

from features.plan import feature
from forecastle.types import Floats32, Ints, Mask

DAY = 1440
"""Minutes."""
THURSDAY = 3
"""The epoch's weekday; Monday is 0."""


@feature(look_back=0)
def day_phase(values: Floats32, mask: Mask, end_minute: Ints) -> Floats32:  # noqa: ARG001 - the signature of a feature
    """Sine and cosine of the time of day (UTC), first and second harmonic: float32[n, 4]."""
    angle = (end_minute % DAY) * (2 * np.pi / DAY)
    return np.stack([np.sin(angle), np.cos(angle), np.sin(2 * angle), np.cos(2 * angle)], axis=1).astype(np.float32)


@feature(look_back=0)
def week_day(values: Floats32, mask: Mask, end_minute: Ints) -> Floats32:  # noqa: ARG001 - the signature of a feature
    """The day of the week (UTC) as seven indicators, Monday first: float32[n, 7]."""
    day = (end_minute // DAY + THURSDAY) % 7
    return np.asarray(day[:, None] == np.arange(7), np.float32)
