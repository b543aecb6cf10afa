"""The serving forecast as a detector: how deep in its own tail did the measurement fall?

The probability integral transform against the quantiles issued one step before needs no model of its own and is as well
calibrated as the forecaster. The trailing scores of each series are kept in a ring addressed by tick, so that replaying
as many ticks as it is long rebuilds it bit for bit.
"""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri

from forecastle.types import Floats, Floats32, Ints, SeriesKey

_STEEP = 40.0


class ScoreRing:
    """The last ``length`` scores of every series, one slot per tick; unknown is NaN."""

    def __init__(self, length: int) -> None:
        self.length = length
        self._keys: tuple[SeriesKey, ...] = ()
        self._scores = np.full((0, length), np.nan, np.float32)
        self._tick: int | None = None

    def history(self, keys: tuple[SeriesKey, ...], tick: int) -> Floats32:
        """float32[n, length] of ticks before ``tick`` (numbered by step), oldest and newest in no particular order."""
        self._follow(keys)
        if self._tick is not None:
            gone = np.arange(self._tick + 1, min(tick, self._tick + self.length) + 1) % self.length
            if tick <= self._tick:
                gone = np.arange(self.length)
            self._scores[:, gone] = np.nan
        self._tick = tick
        self._scores[:, tick % self.length] = np.nan
        return self._scores

    def put(self, tick: int, scores: Floats32) -> None:
        """Remember ``scores`` float32[n] of ``tick``, rows as in the last `history`."""
        self._scores[:, tick % self.length] = scores

    def forget(self, rows: Ints, slots: Ints) -> None:
        """What ``rows`` of the last `history` scored in the newest ``slots`` int[k], this tick's included, is unknown."""
        if not len(rows) or self._tick is None:
            return
        ago = np.arange(min(int(slots.max()), self.length))
        column = (self._tick - ago) % self.length
        kept = self._scores[np.ix_(rows, column)]
        kept[ago < slots[:, None]] = np.nan
        self._scores[np.ix_(rows, column)] = kept

    def _follow(self, keys: tuple[SeriesKey, ...]) -> None:
        if keys is self._keys:
            return
        if keys != self._keys:
            self._scores = take_rows(self._scores, self._keys, keys)
        self._keys = keys


def take_rows(rows: Floats32, have: tuple[SeriesKey, ...], want: tuple[SeriesKey, ...]) -> Floats32:
    """Rows of ``have`` in the order of ``want``; NaN where there is none."""
    where = {key: i for i, key in enumerate(have)}
    index = np.array([where.get(key, -1) for key in want], np.intp)
    taken = np.full((len(want), *rows.shape[1:]), np.nan, np.float32)
    taken[index >= 0] = rows[index[index >= 0]]
    return taken


def normal_scores(actual: Floats32, first: Floats32, quantiles: tuple[float, ...]) -> Floats32:
    """The normal score float32[n] of ``actual`` float32[n] under that step's quantiles ``first`` float32[n, q].

    Interpolated between quantiles, linear beyond the outer ones, clipped to +-40; NaN in either gives NaN.
    """
    knots = first.astype(np.float64)
    z: Floats = ndtri(np.asarray(quantiles, np.float64))
    q = knots.shape[1]
    if q < 2:
        return np.full(len(actual), np.nan, np.float32)
    x = actual.astype(np.float64)
    above = (knots < x[:, None]).sum(axis=1)
    i = np.clip(above - 1, 0, q - 2)
    low, high = np.take_along_axis(knots, i[:, None], 1)[:, 0], np.take_along_axis(knots, i[:, None] + 1, 1)[:, 0]
    inside = z[i] + (z[i + 1] - z[i]) * (x - low) / np.maximum(high - low, 1e-12)
    middle = knots[:, q // 2]
    width = 1e-9 + 1e-6 * np.abs(middle)
    up = z[-1] + (x - knots[:, -1]) * (z[-1] - z[q // 2]) / np.maximum(knots[:, -1] - middle, width)
    down = z[0] + (x - knots[:, 0]) * (z[q // 2] - z[0]) / np.maximum(middle - knots[:, 0], width)
    score = np.where(above == 0, down, np.where(above == q, up, inside))
    return np.asarray(np.clip(score, -_STEEP, _STEEP), np.float32)
