"""Windows made comparable: gaps filled, every series centred and measured in shares of its own usual range.

All detectors read these columns, so that a score, a threshold and the smallest effect worth a word share one unit and a
fleet of bytes, percents and requests needs no tuning per metric. Everything is a function of the window alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forecastle.settings import DetectSettings
from forecastle.types import Floats32, Mask, Windows

GRAIN = 5
"""Slots summed together where a detector need not see every slot of the past."""
LAGS = 5
"""Order of the autoregression; a slot is judged by it only when this many slots before it were observed."""
STILL = 1e-6
"""Change between slots, as a share of the usual range, that is none."""
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True, slots=True)
class Columns:
    """n series x L slots. ``y`` is ``(value - centre) / spread`` with gaps filled; ``spread`` the 5%-95% range.

    ``seen`` marks observed slots, ``sound`` those whose `LAGS` predecessors were observed too. ``judged`` bool[n]: old
    enough, observed enough, and observed now. ``age`` int[n] slots since the first observation, ``excused`` int[n] of them
    under maintenance. ``lenience`` float32[n] is what people's words multiply a series' thresholds by, 1 where they said
    nothing. ``coarse`` are the `grains` of ``y``.
    """

    y: Floats32
    coarse: Floats32
    seen: Mask
    sound: Mask
    judged: Mask
    age: np.ndarray
    excused: np.ndarray
    centre: Floats32
    spread: Floats32
    lenience: Floats32

    def value(self, y: Floats32) -> Floats32:
        """Back to the unit of the metric; ``y`` float32[n]."""
        return y * self.spread + self.centre


def columns(
    windows: Windows,
    rows: slice | np.ndarray,
    settings: DetectSettings,
    length: int | None = None,
    covered: Mask | None = None,
) -> Columns:
    """The last ``length`` slots (None: ``look_back``) of the rows, prepared.

    Slots before a young series began repeat it in reverse. Those under maintenance, ``covered`` bool as the windows' mask, are
    not held against the rows' coverage.
    """
    length = min(length or settings.look_back, windows.values.shape[1])
    seen = windows.mask[rows, -length:] & np.isfinite(windows.values[rows, -length:])
    values = windows.values[rows, -length:]
    observed = seen.sum(axis=1)
    first = np.where(observed > 0, seen.argmax(axis=1), length)
    age = length - first
    excused = np.zeros_like(age)
    if covered is not None:
        excused = (covered[rows, -length:] & (np.arange(length) >= first[:, None])).sum(axis=1)
    judged = (age - excused >= settings.warmup) & (observed >= settings.min_coverage * (age - excused)) & seen[:, -1]
    y = filled(values, seen, first)
    low, q25, centre, q75, high = _quantiles(y)
    spread = np.maximum(np.maximum(high - low, q75 - q25), np.maximum(0.02 * np.abs(centre), np.float32(1e-6)))
    y -= centre[:, None]
    y /= spread[:, None]
    lenience = np.ones(len(y), np.float32)
    return Columns(y, grains(y), seen, _sound(seen), judged, age, excused, centre, spread.astype(np.float32), lenience)


def filled(values: Floats32, seen: Mask, first: np.ndarray) -> Floats32:
    """A copy with the value before in every gap; slots before ``first`` int[n] mirror those after it."""
    out = np.array(values, np.float32, order="C")
    length = out.shape[1]
    flat = out.reshape(-1)
    missing = np.flatnonzero(~seen)
    begins = np.ones(len(missing), bool)
    begins[1:] = (np.diff(missing) != 1) | (missing[1:] % length == 0)
    source = missing[begins][np.cumsum(begins) - 1] - 1 if len(missing) else missing
    flat[missing] = np.where(source >= 0, flat[source], 0.0)
    young = np.flatnonzero((first > 0) & (first < length))
    if len(young):
        slots, start = np.arange(length), first[young][:, None]
        mirrored = np.minimum(start + (start - slots) % (length - start), length - 1)
        out[young] = np.take_along_axis(out[young], np.where(slots < start, mirrored, slots), axis=1)
    out[first >= length] = 0.0
    return out


def _quantiles(filled: Floats32) -> Floats32:
    """Five quantiles of every row, from each third slot: float32[5, n]."""
    sample = filled[:, ::-3]
    at = [round(q * (sample.shape[1] - 1)) for q in _QUANTILES]
    return np.ascontiguousarray(np.partition(sample, at, axis=1)[:, at].T)


def _sound(seen: Mask) -> Mask:
    if seen.all():
        sound = seen.copy()
    else:
        missing = np.cumsum(~seen, axis=1, dtype=np.int32)
        sound = seen.copy()
        sound[:, LAGS + 1 :] &= missing[:, LAGS + 1 :] == missing[:, : -LAGS - 1]
    sound[:, : LAGS + 1] = False
    return sound


def grains(y: Floats32) -> Floats32:
    """Sums over `GRAIN` slots, the last ending with the newest: float32[n, L // GRAIN]."""
    tail = y[:, y.shape[1] % GRAIN :]
    total = tail[:, ::GRAIN] + tail[:, 1::GRAIN]
    for k in range(2, GRAIN):
        total += tail[:, k::GRAIN]
    return total
