"""What became of a departure: it stayed, it came back, or it was never sudden. Only then is its type settled.

The first slot of a new level looks like a spike, and a long spike like a new level. `RECENT` slots later, and again at its
return, the window tells them apart; the newest anomaly about a departure names it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from forecastle.detect.columns import GRAIN, STILL, Columns
from forecastle.detect.moves import BEFORE, RECENT, difference_of_means
from forecastle.types import Floats, Floats32, Mask

LONGEST = 240
"""Slots after which a departure that comes back is no excursion any more but two levels."""
BACK = 35
"""Slots in which a return is looked for."""
NEARLY = 0.8
"""Share of its threshold that an older surprise must reach: it is itself in the tail by now."""
_LASTING = 4
_WIDE, _NARROW = 10, 3
_SPAN, _STEEP = 45, 0.5
_LIKE, _CANCEL, _CLEAR = 0.6, 0.45, 2.0
_TURNS, _LEAST_TURN = 3.0, 0.25
HALF = 0.6 * NEARLY
"""Share of its threshold that the newest slots must reach where a departure may be coming back."""
LASTED = RECENT + _LASTING
"""Slots that `surprised` reads of every series."""
REACH = LONGEST + 3 * RECENT + BEFORE
"""Slots in which `turned` and `surprised` look for the beginning of what ends now."""


class Course(NamedTuple):
    """``fired`` bool[n], ``score``, ``expected`` and ``actual`` float[n] in shares of the range, slots ``since`` it began."""

    fired: Mask
    score: Floats | Floats32
    expected: Floats | Floats32
    actual: Floats | Floats32
    since: npt.NDArray[np.intp]


def surprised(error: Floats32, threshold: Floats32) -> Mask:
    """Series bool[n] with a surprise `RECENT` slots ago, or with half a one just now and a whole one within `LONGEST` slots."""
    limit = NEARLY * threshold[:, None]
    lasted = np.asarray((np.abs(error[:, -LASTED:-RECENT]) > limit).any(axis=1))
    moved = np.flatnonzero((np.abs(error[:, -2 * _NARROW :]) > HALF * threshold[:, None]).any(axis=1) & ~lasted)
    lasted[moved] = (np.abs(error[moved, -LONGEST:-RECENT]) > limit[moved]).any(axis=1)
    return lasted


def turned(coarse: Floats32, limit: Floats32 | None = None) -> Mask:
    """Series bool[n] whose level moves now by more than ``limit``, and moved so the other way within `LONGEST` slots.

    ``limit`` float32[n]; None: the `turn_limit` of ``coarse``, of which `REACH` slots matter beside it.
    """
    tail = difference_of_means(coarse[:, -(RECENT + BEFORE) // GRAIN :])[:, -1]
    out = np.zeros(len(coarse), bool)
    rows = np.flatnonzero(np.abs(tail) > (_LEAST_TURN if limit is None else limit))
    shift = difference_of_means(coarse[rows])
    limit = turn_limit(shift) if limit is None else limit[rows]
    now = shift[:, -1]
    before = -np.sign(now)[:, None] * shift[:, -(LONGEST + 2 * RECENT) // GRAIN : -2]
    out[rows] = (np.abs(now) > limit) & (before > limit[:, None]).any(axis=1)
    return out


def turn_limit(shift: Floats32) -> Floats32:
    """How far the level must move to turn, float32[n], of a series whose differences of means are ``shift``."""
    return np.asarray(np.maximum(_TURNS * np.median(np.abs(shift), axis=1), _LEAST_TURN), np.float32)


def jumps(y: Floats32, span: int, width: int) -> Floats:
    """At each of the newest ``span`` slots: mean of it and up to ``width`` - 1 after it, minus the ``width`` before it."""
    total = _sums(y)
    end = y.shape[1]
    at = np.arange(end - span, end)
    stop = np.minimum(at + width, end)
    after = (total[:, stop] - total[:, at]) / (stop - at)
    return np.asarray(after - (total[:, at] - total[:, at - width]) / width, np.float64)


def gradual(y: Floats32) -> Mask:
    """Whether the change over the last `_SPAN` slots came little by little: no `_NARROW` neighbours hold most of it."""
    end = y.shape[1]
    now, before, earlier = (y[:, end - k * _SPAN - 5 : end - k * _SPAN].mean(axis=1) for k in range(3))
    total = np.minimum(np.abs(now - before), np.abs(now - 2 * before + earlier))
    steepest = np.abs(jumps(y, _SPAN, _NARROW)[:, : 1 - _NARROW]).max(axis=1)
    return np.asarray(steepest < _STEEP * total)


def stayed(c: Columns, error: Floats32, threshold: Floats32, floor: float) -> Course:
    """Surprises above ``threshold`` `RECENT` slots ago whose level is still there."""
    size, end = np.abs(error), error.shape[1]
    onset = end - RECENT - _LASTING + size[:, -RECENT - _LASTING : -RECENT].argmax(axis=1)
    score = size[np.arange(len(size)), onset]
    recent = c.y[:, -RECENT:]
    before = np.median(c.y[:, -RECENT - _LASTING - 25 : -RECENT - _LASTING], axis=1)
    after = np.median(recent, axis=1)
    step = after - before
    away = (np.sign(step)[:, None] * (recent - before[:, None]) > 0.5 * np.abs(step)[:, None]).mean(axis=1) >= 0.8
    fired = c.judged & (score > threshold) & away & (np.abs(step) > np.maximum(floor, 0.4 * score))
    return Course(fired, score, before, after, end - onset)


def returned(c: Columns, floor: float) -> tuple[Course, Mask]:
    """Levels that came back to what was before within `LONGEST` slots, and whether they did so just now."""
    y, n = c.y, len(c.y)
    rows, end, span = np.arange(n), c.y.shape[1], LONGEST + BACK
    if end < span + 2 * _WIDE:
        none, zero = np.zeros(n, bool), np.zeros(n)
        return Course(none, zero, zero, zero, np.zeros(n, np.intp)), none
    jump = jumps(y, span, _WIDE)[:, : 1 - _NARROW]
    size = np.abs(jump[:, -BACK:])
    back = _crest(np.abs(jump), jump.shape[1] - 1 - (size >= _LIKE * size.max(axis=1, keepdims=True))[:, ::-1].argmax(axis=1))
    came = jump[rows, back]
    against = -np.sign(came)[:, None] * jump
    opposite = (against >= _LIKE * np.abs(came)[:, None]) & (np.arange(jump.shape[1]) < back[:, None] - 2)
    begin = _crest(against, jump.shape[1] - 1 - opposite[:, ::-1].argmax(axis=1))
    went = jump[rows, begin]
    since, ago = span - begin, span - back
    total = _sums(y)
    before = (total[rows, end - since] - total[rows, end - since - _WIDE]) / _WIDE
    apart = (total[rows, end - ago] - total[rows, end - since]) / np.maximum(since - ago, 1)
    now = (total[:, end] - total[rows, end - ago]) / ago
    usual = np.median(y[:, -3 * LONGEST :], axis=1)
    noise = 1.4826 * np.median(np.abs(jump), axis=1)
    fired = c.judged & opposite.any(axis=1) & (np.abs(now - usual) < np.abs(apart - usual))
    fired &= (np.abs(went + came) < _CANCEL * np.abs(went)) & (np.abs(went) > floor)
    fired &= np.minimum(np.abs(went), np.abs(came)) > _CLEAR * noise
    fired &= _moving(y, end - since, end - ago)
    return Course(fired, np.abs(went), before, before + went, since), ago <= 2 * RECENT


def _moving(y: Floats32, first: npt.NDArray[np.intp], last: npt.NDArray[np.intp]) -> Mask:
    """Whether most of the slots ``first`` ... ``last`` - 1 differ from the one before: what stands still is a flat line."""
    moved = _sums((np.abs(np.diff(y, axis=1)) > STILL).astype(np.float32))
    rows = np.arange(len(y))
    return np.asarray(moved[rows, last - 1] - moved[rows, first] > 0.5 * (last - 1 - first))


def _crest(size: Floats, at: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """Where ``size`` [n, k] is largest in the `_WIDE` slots up to ``at`` [n]."""
    near = np.clip(at[:, None] - np.arange(_WIDE), 0, size.shape[1] - 1)
    return np.asarray(at - np.take_along_axis(size, near, axis=1).argmax(axis=1)).clip(0)


def _sums(y: Floats32) -> Floats:
    total = np.zeros((len(y), y.shape[1] + 1))
    np.cumsum(y, axis=1, dtype=np.float64, out=total[:, 1:])
    return total
