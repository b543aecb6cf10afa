"""What is too small to be told, in the metric's own unit, whatever its statistics say.

A series that hardly moves has next to no usual range, so by its own measure a count that goes from 2 to 3 is enormous. Verdicts
are therefore struck after they were reached: whom the detectors pass over and what they remember does not hang on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TypeVar

import numpy as np

from forecastle.detect.columns import Columns
from forecastle.detect.moves import Found
from forecastle.settings import DetectSettings
from forecastle.types import Floats, Ints, Mask, Windows

T = TypeVar("T")

SMALL = 10.0
"""Median up to which a series of whole numbers counts something of which there is little."""
_NO_DEPARTURE = frozenset({"dropout", "flat"})
_EXACT = 1 + 1e-4
"""Departures are known to about this ratio after the way to shares of the range and back."""


class Floors:
    """Strikes what is no larger than `detect.floors` or, for small counts that no glob matches, `detect.min_count`."""

    def __init__(self, settings: DetectSettings) -> None:
        self._settings = settings
        self._of: dict[str, float | None] = {}

    def strike(self, found: Sequence[Found], windows: Windows, index: Ints, c: Columns) -> None:
        """Take back, in place, what ``found`` on ``c`` has too small; row i of ``c`` is row ``index[i]`` of ``windows``.

        Silence and lines that stand still depart from nothing: they stay.
        """
        departing = [one for one in found if one.family not in _NO_DEPARTURE]
        rows = np.flatnonzero(np.stack([one.fired for one in departing]).any(axis=0))
        if not len(rows):
            return
        given = self._given(windows, index[rows])
        counts = np.isnan(given) & _small_counts(windows, index[rows], c, rows, self._settings.look_back)
        floor = np.where(counts, self._settings.min_count, np.nan_to_num(given)) * _EXACT
        for one in departing:
            departure = (one.actual[rows] - one.expected[rows]) * c.spread[rows]
            gone = counts & (one.actual[rows] * c.spread[rows] + c.centre[rows] < 0.5) & (c.centre[rows] > 0.5)
            one.fired[rows] &= ~((np.abs(departure) <= floor) & (floor > 0)) | gone

    def _given(self, windows: Windows, index: Ints) -> Floats:
        """The floors that globs set, float64[n]; NaN where none matches."""
        metrics = [windows.keys[i].metric for i in index.tolist()]
        for metric in {*metrics} - self._of.keys():
            self._of[metric] = first(metric, self._settings.floors)
        return np.array([self._of[metric] for metric in metrics], np.float64)


def first(metric: str, table: Mapping[str, T]) -> T | None:
    """What ``table`` has at the first of its globs that ``metric`` matches, in any case; None when none does."""
    return next((value for glob, value in table.items() if fnmatchcase(metric.lower(), glob.lower())), None)


def _small_counts(windows: Windows, index: Ints, c: Columns, rows: Ints, look_back: int) -> Mask:
    """Whether all that was observed in the look-back are whole numbers, `SMALL` at the median: bool[n]."""
    values = windows.values[index, -look_back:]
    seen = windows.mask[index, -look_back:] & np.isfinite(values)
    whole = ~seen | (values == np.rint(values))
    return np.asarray(whole.all(axis=1) & (np.abs(c.centre[rows]) <= SMALL))
