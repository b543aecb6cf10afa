"""What is too small to be told, in the metric's own unit, or on a side that nobody watches, whatever its statistics say.

A series that hardly moves has next to no usual range, so by its own measure a count that goes from 2 to 3 is enormous. Verdicts
are struck after they were reached: whom the detectors pass over and what they remember does not hang on it.
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
_NO_DEPARTURE, _NO_SIDE = frozenset({"dropout", "flat"}), frozenset({"variance", "rhythm"})
_PASSED = 0.5
"""Share of a departure that must lie beyond what another one left, lest it is the way back."""
_SIDES = {"up": 1.0, "down": -1.0, "both": 0.0}
_EXACT = 1 + 1e-4
"""Departures are known to about this ratio after the way to shares of the range and back."""


class Floors:
    """Strikes what is no larger than `detect.floors` or, for small counts that no glob matches, `detect.min_count`.

    And what is on the other side than `detect.sides` says.
    """

    def __init__(self, settings: DetectSettings) -> None:
        self._settings = settings
        self._of: dict[str, tuple[float, float]] = {}

    def strike(self, found: Sequence[Found], windows: Windows, index: Ints, c: Columns) -> None:
        """Take back, in place, what ``found`` on ``c`` has too small; row i of ``c`` is row ``index[i]`` of ``windows``.

        Silence and lines that stand still depart from nothing: they stay.
        """
        departing = [one for one in found if one.family not in _NO_DEPARTURE]
        rows = np.flatnonzero(np.stack([one.fired for one in departing]).any(axis=0))
        if not len(rows):
            return
        given, side = self._given(windows, index[rows])
        counts = np.isnan(given) & _small_counts(windows, index[rows], c, rows, self._settings.look_back)
        floor = np.where(counts, self._settings.min_count, np.nan_to_num(given)) * _EXACT
        for one in departing:
            departure = (one.actual[rows] - one.expected[rows]) * c.spread[rows]
            gone = counts & (one.actual[rows] * c.spread[rows] + c.centre[rows] < 0.5) & (c.centre[rows] > 0.5)
            one.fired[rows] &= ~((np.abs(departure) <= floor) & (floor > 0)) | gone
        if side.any():
            _strike_sides(departing, rows, side)

    def _given(self, windows: Windows, index: Ints) -> tuple[Floats, Floats]:
        """The floors that globs set, NaN where none matches, and the sides: 1 up, -1 down, 0 both. Both float64[n]."""
        metrics = [windows.keys[i].metric for i in index.tolist()]
        for metric in {*metrics} - self._of.keys():
            floor, side = first(metric, self._settings.floors), first(metric, self._settings.sides)
            self._of[metric] = (np.nan if floor is None else floor, _SIDES[side or "both"])
        floors, sides = np.array([self._of[metric] for metric in metrics], np.float64).T
        return floors, sides


def first(metric: str, table: Mapping[str, T]) -> T | None:
    """What ``table`` has at the first of its globs that ``metric`` matches, in any case; None when none does."""
    return next((value for glob, value in table.items() if fnmatchcase(metric.lower(), glob.lower())), None)


def _strike_sides(found: Sequence[Found], rows: Ints, side: Floats) -> None:
    """Take back departures on the unwatched side, and those that are the way back from one.

    Of ``found``, in order of precedence, the first on the unwatched side tells what was left; what moves back to it has not
    passed it by much. ``side`` float64[k]: 1 up, -1 down, 0 both.
    """
    left = np.full(len(rows), np.nan)
    for one in found:
        expected, away = one.expected[rows], side * (one.actual[rows] - one.expected[rows])
        if one.family in _NO_SIDE:
            one.fired[rows] &= np.isnan(left)
            continue
        unwatched = away < 0
        back = side * (one.actual[rows] - left) < _PASSED * away
        left = np.where(one.fired[rows] & unwatched & np.isnan(left), expected, left)
        one.fired[rows] &= ~(unwatched | back)


def _small_counts(windows: Windows, index: Ints, c: Columns, rows: Ints, look_back: int) -> Mask:
    """Whether all that was observed in the look-back are whole numbers, `SMALL` at the median: bool[n]."""
    values = windows.values[index, -look_back:]
    seen = windows.mask[index, -look_back:] & np.isfinite(values)
    whole = ~seen | (values == np.rint(values))
    return np.asarray(whole.all(axis=1) & (np.abs(c.centre[rows]) <= SMALL))
