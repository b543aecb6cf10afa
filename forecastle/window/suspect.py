"""Data that must not be trusted as demand: sudden zero, flat line, counter reset, more than tenfold in one step.

Google once cut a quota because usage was *reported* as zero. These tests look at the last slots of every series at once and
never alter a value: they only raise the flag that the guards treat as missing data.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from forecastle.types import Floats32, Mask

RARE = 0.05  # share of zeros up to which a zero is news
HISTORY = 8  # the tests look back this many times the length of a flat line
ENOUGH = 5  # observed slots needed before anything is judged


def suspects(values: Floats32, mask: Mask, counter: Mask, *, jump: float, flat_slots: int) -> Mask:
    """bool[n]: which series look wrong in their last observed slot. ``values`` float32[n, w], ``mask`` bool[n, w], newest last.

    ``counter`` bool[n] marks cumulative counters (metrics named ``*_total``): of these only a fall is suspect.
    """
    n, width = values.shape
    if not n or width < 2:
        return np.zeros(n, np.bool_)
    rows = np.arange(n)
    last = width - 1 - np.argmax(mask[:, ::-1], axis=1)
    earlier = mask.copy()
    earlier[rows, last] = False
    previous = width - 1 - np.argmax(earlier[:, ::-1], axis=1)
    observed = earlier.sum(axis=1)
    known = mask[rows, last] & (observed > 0)
    now, before = values[rows, last], values[rows, previous]
    reset = known & counter & (now < before)
    size = np.where(earlier, np.abs(values), 0)
    typical = size.sum(axis=1, dtype=np.float64) / np.maximum(observed, 1)
    judged = known & ~counter & (observed >= ENOUGH)
    was, is_ = np.abs(before), np.abs(now)
    up = is_ > jump * np.maximum(was, typical)
    down = (was > jump * is_) & (was >= typical / jump) & (is_ > 0)
    zero = _sudden_zero(values, mask, typical, jump)
    flat = _flat_line(values, mask, flat_slots)
    result: Mask = reset | (judged & (up | down | zero | flat))
    return result


def candidates(values: Floats32, mask: Mask, counter: Mask, *, jump: float) -> Mask:
    """bool[n]: which series `suspects` may find wrong, told by their newest two slots; all others it finds right.

    ``values`` float32[n, 2], ``mask`` bool[n, 2], newest last. Each test there implies one here, whatever came before; a series
    with a gap in either slot may always be wrong.
    """
    before, now = values[:, 0], values[:, 1]
    was, is_ = np.abs(before), np.abs(now)
    up = is_ > jump * was.astype(np.float64)  # the level before can only raise this bar, which is of 64 bits there
    down = was > jump * is_
    odd = np.where(counter, now < before, up | down | (now == 0) | (now == before))
    result: Mask = odd | ~mask.all(axis=1)
    return result


def _sudden_zero(values: Floats32, mask: Mask, typical: npt.NDArray[np.float64], jump: float) -> Mask:
    """Zeros at the end, entered from a usual level, in a series where zeros are rare. Stands as long as the zeros do."""
    zero = mask & (values == 0)
    alive = mask & ~zero
    end = values.shape[1] - 1 - np.argmax(alive[:, ::-1], axis=1)
    level = np.abs(values[np.arange(len(values)), end])
    inside = np.arange(values.shape[1]) <= end[:, None]
    zeros_before = (zero & inside).sum(axis=1)
    alive_count = alive.sum(axis=1)
    rare = zeros_before <= RARE * (alive_count + zeros_before)
    ends_in_zero = (zero & ~inside).any(axis=1)
    result: Mask = ends_in_zero & (alive_count >= ENOUGH) & rare & (level >= typical / jump)
    return result


def _flat_line(values: Floats32, mask: Mask, slots: int) -> Mask:
    """The last ``slots`` observed and identical, in a series that moved in most of the steps before."""
    n, width = values.shape
    if width < 2 * slots:
        return np.zeros(n, np.bool_)
    tail, seen = values[:, -slots:], mask[:, -slots:].all(axis=1)
    same = seen & (tail == tail[:, :1]).all(axis=1)
    pairs = mask[:, 1:-slots] & mask[:, : -slots - 1]
    moved = (values[:, 1:-slots] != values[:, : -slots - 1]) & pairs
    result: Mask = same & (pairs.sum(axis=1) >= slots) & (2 * moved.sum(axis=1) > pairs.sum(axis=1))
    return result
