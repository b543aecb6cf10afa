"""Which series need no judgement now: nothing in their newest slots comes near what would be an alarm.

Most of a fleet is calm at most ticks. So every series is judged in full once in `EVERY` ticks, at its turn, and then leaves its
norms: how it moves and what would be too much. Until its next turn it is judged again whenever a look at its newest `TAIL`
slots finds `NEAR` of any of them; only what is calm by that measure is passed over.
"""

from __future__ import annotations

import zlib

import numpy as np

from forecastle.detect import courses, moves
from forecastle.detect.columns import LAGS, STILL, Columns, filled, grains
from forecastle.detect.drifts import LEAST_FLAT, NEAR, standing, trailing_run
from forecastle.detect.foresight import take_rows
from forecastle.detect.moves import BEFORE, RECENT, SPAN, STEP, Found
from forecastle.types import Floats32, Ints, Mask, SeriesKey, Windows

EVERY = 60
"""Ticks from one full judgement of a series to the next at the latest."""
TAIL = RECENT + BEFORE + LAGS
"""Newest slots that the look reads; `LEAST` of series in which something may be ending."""
LEAST = courses.REACH + LAGS
"""Slots that windows must have for a look."""
LEAST_GAP = 3
"""Slots without a sample from which a series may have dropped out."""
_SELDOM = 0.02
"""Share of slots that move under which a standing value is no flat line before the next turn."""
_COUNT = 10 + LAGS
_UNKNOWN = np.iinfo(np.int64).max
_SHIFT = np.repeat(np.array([-1 / BEFORE, 1 / RECENT], np.float32), [BEFORE, RECENT])


class Norms:
    """What the last turn of every series left, row by row of the windows it is shown; NaN where it must be judged."""

    def __init__(self) -> None:
        self._keys: tuple[SeriesKey, ...] = ()
        self._kept = np.full((0, _COUNT), np.nan, np.float32)
        self._at: Ints = np.zeros(0, np.int64)
        self._turn: Ints = np.zeros(0, np.int64)

    def due(self, keys: tuple[SeriesKey, ...], tick: int) -> Mask:
        """Whose turn it is at ``tick`` (numbered by step), or whose norms are unknown, too old, or of the future: bool[n]."""
        self._follow(keys)
        age = tick - self._at
        return np.asarray(self.turn(tick) | (age >= EVERY) | (age < 1))

    def turn(self, tick: int) -> Mask:
        """Whose turn it is by the clock alone, of the keys last asked for: a worker that starts over takes the same."""
        return np.asarray((tick + self._turn) % EVERY == 0)

    def keep(self, rows: Ints, tick: int, norms: Floats32, seen: Mask) -> None:
        """Remember ``norms`` of ``rows``, whose turn was at ``tick``; unless ``seen`` then, the next tick is their turn too."""
        self._kept[rows], self._at[rows] = norms, np.where(seen, tick, _UNKNOWN)

    def near(self, windows: Windows, rows: Ints, lenience: Floats32) -> Mask:
        """Which of ``rows`` might alarm at the windows' end; ``lenience`` float32[k] multiplies their thresholds."""
        kept = self._kept[rows]
        known = np.isfinite(kept[:, 0])
        out = ~known
        out[known] = _near(windows, rows[known], np.ascontiguousarray(kept[known].T), lenience[known])
        return out

    def _follow(self, keys: tuple[SeriesKey, ...]) -> None:
        if keys is self._keys:
            return
        if keys != self._keys:
            at = dict(zip(self._keys, self._at.tolist(), strict=True))
            self._kept = take_rows(self._kept, self._keys, keys)
            self._at = np.array([at.get(key, _UNKNOWN) for key in keys], np.int64)
            self._turn = np.array([zlib.crc32(str(key).encode()) % EVERY for key in keys], np.int64)
        self._keys = keys


def norms(c: Columns, rows: Ints, weights: Floats32, found: list[Found], rate: float) -> Floats32:
    """What to keep of the full judgement ``found`` on ``rows`` of ``c``: float32[n, k], NaN for series too young."""
    by = {one.family: one for one in found}
    limits = [by[family].threshold[rows] / c.lenience[rows] for family in ("residual", "rate", "level", "variance")]
    turn = courses.turn_limit(moves.difference_of_means(c.coarse[rows]))
    _, longest, moving = standing(c.y[rows], c.seen[rows], c.age[rows], rate)
    usual = by["variance"].expected[rows]
    kept = np.column_stack([c.centre[rows], c.spread[rows], *limits, usual, turn, longest, moving, weights[rows]])
    kept[~c.judged[rows]] = np.nan
    return kept.astype(np.float32)


def _near(windows: Windows, rows: Ints, kept: Floats32, lenience: Floats32) -> Mask:
    y, seen = _tail(windows, rows, kept, TAIL)
    surprise, rate, level, variance = (NEAR * lenience * limit for limit in kept[2:6])
    usual, turn, longest = (NEAR * limit for limit in kept[6:9])
    weights, now = kept[10:], y[:, -1]
    size = _errors(y, weights, SPAN)
    near = (size[:, -1] > surprise) | (np.abs(now - y[:, -1 - STEP]) > rate)
    near |= fallen(y, -kept[0] / kept[1], NEAR)
    wide = np.flatnonzero(np.einsum("nk,nk->n", size, size) > SPAN * np.square(variance))
    near[wide] |= (size[wide] > 2 * usual[wide, None]).mean(axis=1) > 0.2 * NEAR
    shift = np.abs(np.einsum("nk,k->n", y[:, -RECENT - BEFORE :], _SHIFT))
    near |= shift > level
    still = np.flatnonzero((np.abs(y[:, -LEAST_FLAT:] - now[:, None]).max(axis=1) < STILL) & (kept[9] > _SELDOM))
    run = trailing_run(np.abs(np.diff(y[still], axis=1)) <= STILL)
    near[still] |= run >= np.minimum(longest[still] * lenience[still], TAIL - 1)
    ending = (shift > turn) | (size[:, -courses.LASTED :] > courses.HALF * surprise[:, None]).any(axis=1)
    some = np.flatnonzero(ending & ~near)
    older, _ = _tail(windows, rows[some], kept[:, some], LEAST)
    near[some] = courses.turned(grains(older), turn[some])
    near[some] |= courses.surprised(_errors(older, weights[:, some], courses.LONGEST), surprise[some])
    return np.asarray((near & seen[:, -1]) | ~seen[:, -LEAST_GAP:].any(axis=1))


def fallen(y: Floats32, zero: Floats32, ease: float = 1.0) -> Mask:
    """Series bool[n] that fell to nothing two slots ago, ``zero`` float32[n] in the unit of ``y``; less ``ease``, sooner."""
    out = np.asarray((np.abs(y[:, -2:] - zero[:, None]) < 0.02 / ease).all(axis=1))
    rows = np.flatnonzero(out)
    enough = y.shape[1] >= RECENT + BEFORE
    usual = np.median(y[rows, -RECENT - BEFORE : -RECENT], axis=1) if enough else np.zeros(len(rows), np.float32)
    out[rows] = usual - zero[rows] > 0.5 * ease
    return out


def _tail(windows: Windows, rows: Ints, kept: Floats32, length: int) -> tuple[Floats32, Mask]:
    """The newest ``length`` slots in the unit of the norms, gaps filled, and which were observed."""
    values = windows.values[rows, -length:]
    seen = windows.mask[rows, -length:] & np.isfinite(values)
    y = filled(values, seen, seen.argmax(axis=1))
    y -= kept[0][:, None]
    y /= kept[1][:, None]
    return y, seen


def _errors(y: Floats32, weights: Floats32, count: int) -> Floats32:
    """Sizes of the newest ``count`` residuals of the autoregression ``weights`` float32[LAGS, n]."""
    end = y.shape[1]
    error = y[:, -count:].copy()
    for k in range(1, LAGS + 1):
        error -= weights[k - 1][:, None] * y[:, end - count - k : end - k]
    return np.abs(error)
