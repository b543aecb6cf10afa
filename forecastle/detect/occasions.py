"""Campaigns and holidays that were announced are no news, as far as they do what was announced.

An occasion (`forecastle.types.Event`) says by what it multiplies a workload's demand. While it lasts, a departure between that
and no change at all is what was expected; so is the way back where it ends, and the same one season later, where what is
expected remembers the occasion. More than was announced, the other direction, silence and lines that stand still are told as
ever. Verdicts are struck after they were reached, like those under a floor (`floors`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from forecastle.detect.columns import Columns
from forecastle.detect.moves import Found
from forecastle.types import Event, Ints, SeriesKey, Windows

Known = Callable[[SeriesKey, int, int], Sequence[Event]]
"""The occasions that multiply a series within a span of ms."""

EARLY = 15
"""Slots by which a crowd may come before an occasion begins, or leave after it has ended."""
SLACK = 1.25
"""By how much a factor may be missed and still be what was announced: it is somebody's estimate, and crowds are restless."""
_NO_DEPARTURE, _NO_SIZE = frozenset({"dropout", "flat"}), frozenset({"variance", "rhythm"})


def unknown(_key: SeriesKey, _begin: int, _end: int) -> Sequence[Event]:
    """No series has an occasion."""
    return ()


def strike(found: Sequence[Found], windows: Windows, index: Ints, c: Columns, known: Known, *, season: int) -> None:
    """Take back, in place, what ``found`` on ``c`` has that was announced; row i of ``c`` is row ``index[i]`` of ``windows``.

    ``season`` is in slots, 0 when there is none.
    """
    departing = [one for one in found if one.family not in _NO_DEPARTURE]
    for row in np.flatnonzero(np.stack([one.fired for one in departing]).any(axis=0)).tolist():
        begin = windows.end - (windows.values.shape[1] + season) * windows.step_ms
        soon = windows.end + EARLY * windows.step_ms
        events = [e for e in known(windows.keys[index[row]], begin, soon) if e.factor > 0]
        if not events:
            continue
        unit, zero = float(c.spread[row]), float(c.centre[row])
        for one in departing:
            since = windows.end - max(int(one.since[row]), 1) * windows.step_ms
            expected, actual = (float(of[row]) * unit + zero for of in (one.expected, one.actual))
            sized = one.family not in _NO_SIZE
            one.fired[row] &= not any(
                announced(event, since, windows, season, (expected, actual) if sized else None) for event in events
            )


def announced(event: Event, onset: int, windows: Windows, season: int, moved: tuple[float, float] | None) -> bool:
    """Whether ``event`` explains a departure since ``onset`` (ms) from the first to the second of ``moved``.

    None: of no direction, such as a change of variance, explained whenever there is an occasion to it.
    """
    early, late = EARLY * windows.step_ms, season * windows.step_ms
    first, last = event.start - early, event.end + early
    there = first <= onset < event.end or (onset < event.end and first < windows.end <= last)
    back = event.end - early <= onset <= last or (season > 0 and first <= onset - late <= last)
    if moved is None or not (there or back):
        return there or back
    return (there and _within(*moved, event.factor)) or (back and _within(*moved, 1 / event.factor))


def _within(expected: float, actual: float, factor: float) -> bool:
    """Whether ``actual`` lies between ``expected`` and ``factor`` times that, `SLACK` allowed at both ends."""
    if expected <= 0:
        return False
    low, high = sorted((1.0, factor))
    return low / SLACK * expected <= actual <= high * SLACK * expected
