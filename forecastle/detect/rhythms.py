"""A rhythm that broke: what came of late repeats another hour, or runs at another pace, than the season before.

That it no longer resembles the same hours a season ago could be a level, a leak or a weekend. It is a broken rhythm only when
the season before, shifted or played at twice or half its pace, explains it again: level, size and shape.
"""

from __future__ import annotations

import numpy as np

from forecastle.detect.columns import Columns
from forecastle.detect.moves import Found, nothing
from forecastle.types import Floats, Ints, Windows

BLOCKS, PART = 48, 20
"""Blocks of a season (half an hour each of a day), and those of its beginning and of its end that are compared."""
CLEAR, LOST, FOUND = 0.85, 0.0, 0.96
"""Shares of the variance that a season ago explains: at least of the beginning, at most of the end, and, moved, of the end."""
_LEAST_SEEN, _LEAST_SIZE = 0.5, 0.25
_PACES = (0.5, 1.0, 2.0)


def rhythm(windows: Windows, index: Ints, c: Columns, rows: Ints, season: int) -> Found:
    """The family `rhythm` on ``rows`` of ``c``, of which row i is row ``index[i]`` of ``windows``; nobody else is judged.

    ``score`` is the share of the variance that a season ago leaves unexplained; ``expected`` and ``actual`` are where the two
    courses lie furthest apart. Nothing where windows hold less than two seasons or a season fewer slots than `BLOCKS`.
    """
    found, size = nothing("rhythm", len(c.y)), season // BLOCKS
    if not size or windows.values.shape[1] < 2 * season or not len(rows):
        return found
    means = (_means(windows, index[rows], season, size) - c.centre[rows, None]) / c.spread[rows, None]
    ago, now = means[:, :BLOCKS], means[:, BLOCKS:]
    late, before = now[:, -PART:], ago[:, -PART:]
    score = 1 - _explained(late, before)
    lost = c.judged[rows] & (score >= 1 - LOST) & (_explained(now[:, :PART], ago[:, :PART]) >= CLEAR)
    lost &= late.var(axis=1) > _LEAST_SIZE * ago.var(axis=1)
    for i in np.flatnonzero(lost).tolist():
        row, furthest = rows[i], np.abs(late[i] - before[i]).argmax()
        found.fired[row] = _moved(late[i], ago[i])
        found.score[row], found.threshold[row] = score[i], 1 - LOST
        found.expected[row], found.actual[row], found.since[row] = before[i, furthest], late[i, furthest], PART * size
    return found


def _means(windows: Windows, rows: Ints, season: int, size: int) -> Floats:
    """Means over the blocks of the last two seasons, float64[k, 2 * `BLOCKS`]; NaN where little was observed."""
    shape, used = (len(rows), 2, season), slice(-size * BLOCKS, None)
    values = windows.values[rows, -2 * season :].reshape(shape)[:, :, used]
    seen = windows.mask[rows, -2 * season :].reshape(shape)[:, :, used] & np.isfinite(values)
    blocks = (len(rows), 2 * BLOCKS, size)
    count = seen.reshape(blocks).sum(axis=2)
    total = np.where(seen, values, 0.0).reshape(blocks).sum(axis=2, dtype=np.float64)
    return np.where(count >= _LEAST_SEEN * size, total / np.maximum(count, 1), np.nan)


def _explained(course: Floats, by: Floats) -> Floats:
    """Share of the variance of ``course`` that ``by`` explains, level and size included; NaN where one is unknown."""
    rest = np.square(course - by).sum(axis=-1)
    own = np.square(course - course.mean(axis=-1, keepdims=True)).sum(axis=-1)
    return np.asarray(1 - rest / np.maximum(own, 1e-12))


def _moved(course: Floats, season: Floats) -> bool:
    """Whether ``season`` float64[`BLOCKS`], shifted and at one of `_PACES`, explains ``course`` float64[`PART`]."""
    at, blocks = np.arange(BLOCKS)[:, None], np.arange(PART)
    moved = np.concatenate([season[(at + (pace * blocks).astype(np.int64)) % BLOCKS] for pace in _PACES])
    return bool((_explained(course, moved) >= FOUND).any())
