"""The slow and the silent: trends that do not turn (leaks), lines that stopped moving, series that stopped coming.

A trend is a Theil-Sen slope over block means, so hours of minutes become a few dozen numbers; a morning's rise is told
from a leak by the same hours one season ago. A gap is its own event: nothing here or elsewhere takes one for a dip.
"""

from __future__ import annotations

import numpy as np

from forecastle.detect.columns import GRAIN, LAGS, STILL, Columns, grains
from forecastle.detect.moves import BEFORE, RECENT, Found, nothing
from forecastle.types import Floats32, Mask

BLOCKS = 24
"""Blocks of the trend test, over the whole look-back."""
NEAR = 0.8
"""Share of a threshold from which a series is near an alarm: thresholds move a little between two judgements."""
_Z = 4.5
"""Mann-Kendall statistic of a trend: 24 blocks in perfect order give 6.8."""
_STRAIGHT = 0.03
_STEP = 0.5
LEAST_FLAT = 8
"""Fewest slots that stand still in a flat line."""
_LEAST_HISTORY = 30


def trend(c: Columns, floor: float, seasonal: Floats32 | None) -> tuple[Found, Mask]:
    """Theil-Sen slope with the Mann-Kendall test over `BLOCKS` block means; score: rise over the look-back.

    ``seasonal`` float32[n, BLOCKS] are the block means one season ago in the same unit (NaN unknown). Where they are
    known the trend must remain after subtracting them; where not, it must be straight: a cycle's flank bends. Beside it
    the series bool[n] that meet `NEAR` of every condition.
    """
    found, near = nothing("trend", len(c.y)), np.zeros(len(c.y), bool)
    size = block_size(c.y.shape[1])
    if not size:
        return found, near
    means = block_means(c.coarse, size, BLOCKS)
    order = np.abs(_mann_kendall(means))
    rows = np.flatnonzero(c.judged & (c.age >= size * BLOCKS) & (order > NEAR * _Z))
    if not len(rows):
        return found, near
    means, order = means[rows], order[rows]
    season = np.full_like(means, np.nan) if seasonal is None else seasonal[rows]
    known: Mask = np.asarray(np.isfinite(season).all(axis=1))
    slope, noise, bend = _theil_sen(means)
    rise = np.abs(slope) * np.float32(BLOCKS - 1)
    rest = means - np.where(known[:, None], season, 0.0).astype(np.float32)
    rest_slope = _theil_sen(rest)[0] * np.sign(slope)
    rest_order, steepest = np.abs(_mann_kendall(rest)), np.abs(np.diff(rest, axis=1)).max(axis=1)
    least = np.maximum(3 * floor, 4 * noise) * c.lenience[rows]

    def certain(ease: float) -> Mask:
        remains = (rest_order > ease * _Z) & (rest_slope > 0.5 * ease * np.abs(slope))
        shaped = (known & remains) | (~known & (ease * bend < _STRAIGHT))
        return np.asarray((order > ease * _Z) & (rise > ease * least) & shaped & (ease * steepest < _STEP * rise))

    found.fired[rows], near[rows] = certain(1.0), certain(NEAR)
    found.score[rows] = rise
    found.threshold[rows] = 3 * floor * c.lenience[rows]
    found.expected[rows] = means[:, :3].mean(axis=1)
    found.actual[rows] = means[:, -1]
    found.since[rows] = size * BLOCKS
    return found, near


def block_size(look_back: int) -> int:
    """Slots of each of the `BLOCKS` of a look-back; 0 where it is too short."""
    return look_back // BLOCKS // GRAIN * GRAIN


def compared(look_back: int) -> int:
    """Slots of a look-back that are compared with those one season before."""
    return max(RECENT + BEFORE, block_size(look_back) * BLOCKS)


def blocks(y: Floats32, size: int) -> Floats32:
    """Means of the last `BLOCKS` blocks of ``size`` slots (a multiple of `GRAIN`): float32[n, BLOCKS]."""
    return block_means(grains(y[:, -size * BLOCKS :]), size, BLOCKS)


def block_means(coarse: Floats32, size: int, count: int) -> Floats32:
    """Means of the last ``count`` blocks of ``size`` slots of what ``coarse`` are the `grains` of: float32[n, count]."""
    summed = coarse[:, -size * count // GRAIN :].reshape(len(coarse), count, size // GRAIN)
    return np.asarray(summed.sum(axis=2) / np.float32(size), np.float32)


def _mann_kendall(means: Floats32) -> Floats32:
    """Normal score of "later is larger" over all pairs: float32[n]."""
    k = means.shape[1]
    columns = np.ascontiguousarray(means.T)
    order = np.zeros(len(means), np.float32)
    for gap in range(1, k):
        order += np.sign(columns[gap:] - columns[:-gap]).sum(axis=0)
    return order / np.float32(np.sqrt(k * (k - 1) * (2 * k + 5) / 18.0))


def _theil_sen(means: Floats32) -> tuple[Floats32, Floats32, Floats32]:
    """Slope per block, noise about the line, and how far it bends as a share of the rise."""
    k = means.shape[1]
    i, j = np.triu_indices(k, 1)
    slope = np.asarray(np.median((means[:, j] - means[:, i]) / (j - i), axis=1), np.float32)
    rest = means - slope[:, None] * (np.arange(k, dtype=np.float32) - (k - 1) / 2)
    noise = 1.4826 * np.median(np.abs(np.diff(rest, axis=1)), axis=1)
    smooth = rest.reshape(len(rest), k // 3, 3).mean(axis=2)
    bend = np.ptp(smooth, axis=1) / np.maximum(np.abs(slope) * (k - 1), np.float32(1e-9))
    return slope, np.asarray(noise, np.float32), np.asarray(bend, np.float32)


def flat_line(c: Columns, rate: float) -> Found:
    """The newest values identical longer than the series' own habit makes likely, and half as long again as ever."""
    found = nothing("flat", len(c.y))
    same = np.abs(c.y[:, -LEAST_FLAT:] - c.y[:, -1:]).max(axis=1) < STILL
    rows = np.flatnonzero(c.judged & same)
    if not len(rows):
        return found
    run, threshold, share = standing(c.y[rows], c.seen[rows], c.age[rows], rate)
    threshold *= c.lenience[rows]
    found.fired[rows] = (run > threshold) & (share > 0.1)
    found.score[rows], found.threshold[rows], found.since[rows] = run, threshold, run
    found.expected[rows] = 0.0
    found.actual[rows] = c.y[rows, -1]
    return found


def released(c: Columns, rate: float) -> Mask:
    """Series bool[n] that moved again at most `LAGS` slots ago after what a flat line is: its step tells of the sensor."""
    out = np.zeros(len(c.y), bool)
    for ago in range(1, LAGS + 1):
        end = c.y.shape[1] - ago
        still = np.abs(c.y[:, end - LEAST_FLAT : end] - c.y[:, end - 1 : end]).max(axis=1) < STILL
        rows = np.flatnonzero(still & ~out)
        if len(rows):
            run, threshold, share = standing(c.y[rows, :end], c.seen[rows, :end], c.age[rows] - ago, rate)
            out[rows] = (run > threshold) & (share > 0.1)
    return out


def standing(y: Floats32, seen: Mask, age: np.ndarray, rate: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How long the newest value has stood, how long it may, and the share of slots that moved before."""
    length = y.shape[1]
    both = seen[:, 1:] & seen[:, :-1]
    moved = (np.abs(np.diff(y, axis=1)) > STILL) & both
    run = trailing_run(~moved & both)
    share = moved.sum(axis=1) / np.maximum(age - 1 - run, 1)
    longest = _longest_before(moved | ~both, length - 1 - run)
    likely = np.log(rate) / np.log1p(-np.clip(share, 0.01, 0.98))
    return run, np.maximum(np.maximum(likely, 1.5 * longest + 1), LEAST_FLAT), share


def dropout(c: Columns, late: Mask, least: int, coverage: float) -> Found:
    """No sample for at least ``least`` slots and longer than ever in the window, of a series that used to come."""
    found = nothing("dropout", len(c.y))
    rows = np.flatnonzero(~c.seen[:, -least:].any(axis=1) & c.seen.any(axis=1))
    if not len(rows):
        return found
    seen = c.seen[rows]
    length = seen.shape[1]
    run = trailing_run(~seen)
    longest = _longest_before(seen, length - run)
    came = seen.sum(axis=1) / np.maximum(c.age[rows] - c.excused[rows] - run, 1)
    threshold = np.maximum(np.where(late[rows], 0, 1.5 * longest), least - 1)
    found.fired[rows] = (run > threshold) & (came >= coverage) & (c.age[rows] - run >= _LEAST_HISTORY)
    found.score[rows], found.threshold[rows], found.since[rows] = run, threshold, run
    found.expected[rows] = c.y[rows, length - 1 - run]
    found.actual[rows] = np.nan
    return found


def _longest_before(breaks: Mask, end: np.ndarray) -> np.ndarray:
    """Longest stretch between breaks in the columns before ``end`` int[n], the stretch before the first excepted."""
    slots = np.arange(1, breaks.shape[1] + 1)
    last = np.maximum.accumulate(np.where(breaks, slots, 0), axis=1)
    return np.asarray(np.where((slots <= end[:, None]) & (last > 0), slots - last, 0).max(axis=1))


def trailing_run(flags: Mask) -> np.ndarray:
    """How many of the newest slots are all true: int[n]."""
    backwards = ~flags[:, ::-1]
    return np.asarray(np.where(backwards.any(axis=1), backwards.argmax(axis=1), flags.shape[1]))
