"""The stand-in that always answers: the newest level carried along yesterday's shape, with the errors that rule made lately.

Pure seasonal naive repeats yesterday and ignores that today is busier. Here a handful of rules (the level at three widths,
held flat or following the shape of one season ago, and the season itself) compete per series on the forecasts they would have
made lately. The one with the least absolute error answers, and its own errors are the quantiles. Where a season is missing or
masked the shape is flat, which leaves the last value. Pure numpy over [n, L]; no state, no model file.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forecastle.types import Floats, Floats32, Ints, Mask

QUANTILES = (0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
WIDTHS = (1, 4, 12)
"""Slots whose mean is the level: from the one that reacts at once to the steadiest."""
TARGETS = 32
"""Recent slots that the rules are judged on."""
ANCHORS = 5
"""Horizons they are judged at, spaced geometrically; errors at others are interpolated."""
LEAST = 8
"""Judged forecasts below which a series' own errors say too little and `UNKNOWN` stands in."""
STEEPEST = 5.0
"""Ratio of change beyond which yesterday's shape is not believed."""
UNKNOWN = 0.1
"""Relative error assumed at one step, growing with the root of the horizon, before errors are known."""
BLOCK = 256
"""Rows worked on at once, so that intermediate arrays stay in cache."""
LARGEST = float(np.finfo(np.float32).max) / 4


@dataclass(frozen=True, slots=True)
class _Recent:
    """The newest R slots of n series: ``now`` [n, R] without gaps, ``known`` where observed, first at column ``since`` [n].

    ``ago`` [n, R + horizon] is one season before, NaN where unknown; ``now_sum`` and ``ago_sum`` are running sums from 0.
    """

    now: Floats
    known: Mask
    since: Ints
    ago: Floats
    now_sum: Floats
    ago_sum: Floats


def naive(values: Floats32, mask: Mask, *, season: int, horizon: int, quantiles: tuple[float, ...] = QUANTILES) -> Floats32:
    """Quantile forecasts float32[n, horizon, q] of windows float32[n, L]; ``season`` in slots.

    Finite for every input, non-decreasing along q, and non-negative where the window is. Rows never observed are zero.
    """
    answer = np.zeros((len(values), horizon, len(quantiles)), np.float32)
    levels = np.asarray(quantiles, np.float64)
    for first in range(0, len(values), BLOCK):
        rows = slice(first, first + BLOCK)
        answer[rows] = _block(values[rows], mask[rows], season, horizon, levels)
    return answer


def _block(values: Floats32, mask: Mask, season: int, horizon: int, quantiles: Floats) -> Floats:
    stride = max(1, season // 288)
    reach = min(values.shape[1], (TARGETS - 1) * stride + horizon + max(WIDTHS))
    recent = _recent(values, mask, season, horizon, reach)
    targets = np.unique(np.maximum(reach - 1 - stride * np.arange(TARGETS), 0))
    anchors = np.unique(np.geomspace(1, min(horizon, season), ANCHORS).round().astype(np.int64))
    origins = targets - anchors[:, None]
    judged = recent.known[:, targets][:, None] & (origins >= recent.since[:, None, None])
    errors = _errors(recent, targets, anchors)
    cost = np.where(judged, np.abs(errors), 0.0).sum(axis=(2, 3))
    best = np.argmin(cost, axis=0)
    rows = np.arange(len(values))
    steps = np.arange(1, horizon + 1)
    point = _forecasts(recent, np.full((1, 1), reach - 1), steps[None])[best, rows, 0]
    assumed = UNKNOWN * np.abs(recent.now[:, -1:]) * np.sqrt(steps)
    answer: Floats = np.sort(point[:, :, None] + spread(errors[best, rows], judged, anchors, quantiles, assumed), axis=2)
    unsigned = np.min(values, axis=1, where=mask & np.isfinite(values), initial=0.0) >= 0
    answer[unsigned] = np.maximum(answer[unsigned], 0.0)
    return np.clip(answer, -LARGEST, LARGEST, out=answer)


def _recent(values: Floats32, mask: Mask, season: int, horizon: int, reach: int) -> _Recent:
    n, length = values.shape
    now, known = _filled(values[:, length - reach :], mask[:, length - reach :])
    since = np.where(known.any(axis=1), np.argmax(known, axis=1), reach)
    blank = np.flatnonzero(since == reach)
    if len(blank):
        now[blank] = _filled(values[blank], mask[blank])[0][:, -1:]
    start = np.take_along_axis(now, np.minimum(since, reach - 1)[:, None], 1)
    now = np.where(np.isnan(now), np.nan_to_num(start), now)
    ago = np.full((n, reach + horizon), np.nan)
    first, stop = length - reach - season, min(length, length - season + horizon)
    if stop > 0:
        part, _ = _filled(values[:, max(first, 0) : stop], mask[:, max(first, 0) : stop])
        column = max(-first, 0)
        ago[:, column : column + part.shape[1]] = _smooth(part, max(1, season // 288))
    for column in range(reach + season, reach + horizon):
        ago[:, column] = ago[:, column - season]
    return _Recent(now, known, since, ago, _running(now), _running(ago))


def _filled(values: Floats32, mask: Mask) -> tuple[Floats, Mask]:
    """Gaps hold the last observed value, NaN before the first; and where there was an observation."""
    known = mask & np.isfinite(values)
    at = np.maximum.accumulate(np.where(known, np.arange(values.shape[1]), -1), axis=1)
    filled = np.take_along_axis(values, np.maximum(at, 0), axis=1).astype(np.float64)
    filled[at < 0] = np.nan
    return np.clip(filled, -LARGEST, LARGEST, out=filled), known


def _smooth(x: Floats, width: int) -> Floats:
    """Centred mean over ``width`` slots, narrower at the ends; NaN stays where it was."""
    at = np.arange(x.shape[1])
    left, right = np.maximum(at - width // 2, 0), np.minimum(at + width // 2 + 1, x.shape[1])
    total, there = _running(x), _running(np.where(np.isnan(x), np.nan, 1.0))
    count = there[:, right] - there[:, left]
    return np.where(np.isnan(x), np.nan, (total[:, right] - total[:, left]) / np.maximum(count, 1.0))


def _running(x: Floats) -> Floats:
    total = np.zeros((x.shape[0], x.shape[1] + 1))
    np.cumsum(np.nan_to_num(x), axis=1, out=total[:, 1:])
    return total


def _errors(recent: _Recent, targets: Ints, anchors: Ints) -> Floats:
    """Actual minus forecast [rule, n, anchor, target], each forecast made ``anchor`` slots before its target."""
    origins = np.maximum(targets - anchors[:, None], 0)
    return recent.now[:, targets][None, :, None] - _forecasts(recent, origins, np.broadcast_to(anchors[:, None], origins.shape))


def _forecasts(recent: _Recent, origins: Ints, steps: Ints) -> Floats:
    """What every rule says at ``origins`` [a, k] about ``steps`` [a, k] ahead: float64[rule, n, a, k]."""
    origins = np.broadcast_to(origins, steps.shape)
    ahead = recent.ago[:, np.maximum(origins + steps, 0)]
    answers: list[Floats] = []
    for width in WIDTHS:
        left = np.maximum(origins + 1 - width, 0)
        size = origins + 1 - left
        level = (recent.now_sum[:, origins + 1] - recent.now_sum[:, left]) / size
        before = (recent.ago_sum[:, origins + 1] - recent.ago_sum[:, left]) / size
        before = np.where(np.isnan(recent.ago[:, left]), np.nan, before)
        answers += [level, _shaped(level, before, ahead)]
    answers.append(np.where(np.isnan(ahead), recent.now[:, origins], ahead))
    return np.stack(answers)


def _shaped(level: Floats, before: Floats, ahead: Floats) -> Floats:
    """``level`` changed as the season before did from ``before`` to ``ahead``: in proportion, by difference around zero."""
    known = ~(np.isnan(before) | np.isnan(ahead))
    grows = known & (before > 0) & (ahead > 0)
    ratio = np.divide(ahead, before, out=np.ones_like(ahead), where=grows)
    shift = np.where(known & ~grows, ahead - before, 0.0)
    shaped: Floats = level * np.clip(ratio, 1 / STEEPEST, STEEPEST) + shift
    return shaped


def spread(errors: Floats, judged: Mask, anchors: Ints, quantiles: Floats, assumed: Floats) -> Floats:
    """Offsets [n, h, q] of the quantiles from the forecast, from ``errors`` [n, a, k] where ``judged``.

    The size of errors is taken per horizon, their distribution (which may lean to one side) over all horizons. Rows with too
    few errors take ``assumed`` [n, h] as the size and Laplace's distribution.
    """
    steps = np.arange(1, assumed.shape[1] + 1)
    count = np.count_nonzero(judged, axis=2)
    size = np.where(judged, np.abs(errors), 0.0).sum(axis=2) / np.maximum(count, 1)
    size = np.maximum.accumulate(size, axis=1)
    shape = np.divide(errors, size[:, :, None], out=np.zeros_like(errors), where=size[:, :, None] > 0)
    pooled = np.sort(np.where(judged, shape, np.inf).reshape(len(errors), -1), axis=1)
    total = count.sum(axis=1)
    at = quantiles * np.maximum(total[:, None] - 1, 0)
    low = np.floor(at).astype(np.int64)
    high = np.minimum(low + 1, np.maximum(total[:, None] - 1, 0))
    few = total < LEAST
    pooled[few] = 0.0
    a, b = np.take_along_axis(pooled, low, 1), np.take_along_axis(pooled, high, 1)
    leaning = a + (b - a) * (at - low)
    scale = np.stack([np.interp(steps, anchors, row) for row in size])
    leaning[few] = np.sign(quantiles - 0.5) * -np.log(2 * np.minimum(quantiles, 1 - quantiles))
    scale[few] = assumed[few]
    offsets: Floats = scale[:, :, None] * leaning[:, None, :]
    return offsets
