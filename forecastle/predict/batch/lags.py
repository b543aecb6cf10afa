"""What the network sees of a series at an origin: the newest values, their past in ever coarser blocks, and the clock.

Everything is relative to the newest value and in units of how much the series moved lately, so one network serves a
fleet of any size and unit. No input reads a column after its origin.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from forecastle.predict.batch.panel import Panel
from forecastle.types import Floats, Floats32, Ints

NEWEST = 32
KNOTS = 12
_BLOCKS = 14
_SPANS = (6, 12, 48, 288)
_DAYS = 7


@dataclass(frozen=True, slots=True)
class View:
    """A panel ready to be looked at: ``values`` has no NaN, ``total`` and ``square`` are its running sums [n, t + 1].

    ``size`` [n]: what a usual move of each series is, from its training span; the unit of the loss.
    """

    values: Floats
    total: Floats
    square: Floats
    moves: Floats
    age: npt.NDArray[np.int32]
    first: Ints
    size: Floats
    typical: Floats
    day: int
    start_ms: int
    step_ms: int
    train: int


def view(panel: Panel, train: int) -> View:
    """The view of ``panel`` whose units come from its first ``train`` columns (a series absent there: from its first value)."""
    width = panel.values.shape[1]
    first = np.where(panel.seen.any(axis=1), panel.seen.argmax(axis=1), width).astype(np.int64)
    start = panel.filled[np.arange(len(first)), np.minimum(first, width - 1)]
    values = np.where(np.isfinite(panel.filled), panel.filled, np.where(np.isfinite(start), start, 0.0)[:, None])
    columns = np.arange(width)
    age = columns - np.maximum.accumulate(np.where(panel.seen, columns, -1), axis=1)
    typical = np.median(values[:, :train], axis=1)
    day = panel.day if 1 < panel.day < train - 1 else 0
    return View(
        values=values,
        total=_running(values - typical[:, None]),
        square=_running((values - typical[:, None]) ** 2),
        moves=_running(np.abs(np.diff(values, axis=1, prepend=values[:, :1]))),
        age=age.astype(np.int32),
        first=first,
        size=series_size(panel.until(train), day),
        typical=typical,
        day=day,
        start_ms=panel.start_ms,
        step_ms=panel.step_ms,
        train=train,
    )


def series_size(past: Panel, day: int) -> Floats:
    """Mean absolute change float64[n] over ``day`` steps (a quarter of the span, without a day), never 0."""
    lag = day or max(1, past.values.shape[1] // 4)
    with np.errstate(invalid="ignore"):
        change = np.abs(past.values[:, lag:] - past.values[:, :-lag])
    count = np.isfinite(change).sum(axis=1)
    size = np.nansum(change, axis=1) / np.maximum(count, 1)
    magnitude = np.nanmax(np.abs(np.where(past.seen, past.values, 0.0)), axis=1)
    floor = 1e-4 * magnitude + 1e-9
    return np.asarray(np.where(size > floor, size, floor))


def knots(horizon: int) -> Ints:
    """The 12 steps int64[12] that the network forecasts, denser near the origin; the rest lies between them."""
    even = np.arange(1, KNOTS + 1)
    return np.maximum(even, np.round(horizon * (even / KNOTS) ** 1.5)).astype(np.int64)


def between(horizon: int) -> Floats32:
    """Matrix float32[12, horizon] that interpolates every step from the knots."""
    steps = np.arange(1, horizon + 1)
    rows = [np.interp(steps, knots(horizon), unit) for unit in np.eye(KNOTS)]
    return np.asarray(rows, np.float32)


def scale(seen: View, series: Ints, at: Ints) -> Floats:
    """Unit float64[b] of a window: its recent deviation from the newest value, a part of the series' own size at least."""
    now = seen.values[series, at]
    out = np.zeros(len(series))
    for span in (24, 96):
        low = np.maximum(at + 1 - span, 0)
        count = at + 1 - low
        offset = now - seen.typical[series]
        total = seen.total[series, at + 1] - seen.total[series, low]
        square = seen.square[series, at + 1] - seen.square[series, low]
        out += np.sqrt(np.maximum(square / count - 2 * offset * total / count + offset**2, 0.0))
    return np.asarray(0.5 * out + 0.1 * seen.size[series])


def inputs(seen: View, series: Ints, at: Ints, horizon: int) -> Floats32:
    """Input float32[b, f] for series ``series`` int64[b] at columns ``at`` int64[b]."""
    now = seen.values[series, at]
    unit = scale(seen, series, at)
    relative = [
        seen.values[series[:, None], np.maximum(at[:, None] - np.arange(1, NEWEST), 0)],
        _block_means(seen, series, at),
        _seasons(seen, series, at, horizon),
    ]
    shape = np.concatenate([np.arcsinh((part - now[:, None]) / unit[:, None]) for part in relative], axis=1)
    spread = np.log(_spreads(seen, series, at) / unit[:, None] + 0.01)
    size = seen.size[series]
    alone = np.column_stack(
        [
            np.log(unit / size),
            np.arcsinh((now - seen.typical[series]) / size),
            np.arcsinh(now / size),
            np.log1p(np.minimum(seen.age[series, at], 1000)),
            now == 0.0,
        ]
    )
    return np.concatenate([shape, spread, alone, _clock(seen, at, horizon)], axis=1).astype(np.float32)


def _block_means(seen: View, series: Ints, at: Ints) -> Floats:
    """Means of blocks that grow backwards from the newest values."""
    edges = np.unique(np.round(NEWEST * 0.25 * 1.6 ** np.arange(_BLOCKS)).astype(np.int64))
    edges = np.concatenate([[0], edges])
    columns = np.clip(at[:, None] + 1 - edges, 0, None)
    sums = seen.total[series[:, None], columns]
    count = np.maximum(columns[:, :-1] - columns[:, 1:], 1)
    fallback = seen.values[series, at][:, None]
    mean = seen.typical[series][:, None] + (sums[:, :-1] - sums[:, 1:]) / count
    return np.asarray(np.where(columns[:, :-1] > columns[:, 1:], mean, fallback))


def _spreads(seen: View, series: Ints, at: Ints) -> Floats:
    """Mean absolute one-step change over several recent spans."""
    parts = []
    for span in _SPANS:
        low = np.maximum(at + 1 - span, 0)
        parts.append((seen.moves[series, at + 1] - seen.moves[series, low]) / np.maximum(at + 1 - low, 1))
    return np.column_stack(parts)


def _seasons(seen: View, series: Ints, at: Ints, horizon: int) -> Floats:
    """The same time of day yesterday, on average and a week ago: now and before each knot; the newest value if unknown."""
    now = np.repeat(seen.values[series, at][:, None], KNOTS + 1, axis=1)
    if not seen.day:
        return np.concatenate([now, now, now], axis=1)
    edges = np.concatenate([[-3, 0], knots(horizon)])
    days, there = [], []
    for back in range(1, _DAYS + 1):
        base = at - back * seen.day
        columns = np.clip(base[:, None] + 1 + edges, 0, (at + 1)[:, None])
        sums = seen.total[series[:, None], columns]
        days.append((sums[:, 1:] - sums[:, :-1]) / np.maximum(columns[:, 1:] - columns[:, :-1], 1))
        there.append(base - 3 >= seen.first[series])
    stack, known = np.asarray(days) + seen.typical[series][:, None], np.asarray(there)
    count = known.sum(axis=0)[:, None]
    mean = np.where(count > 0, np.einsum("dbk,db->bk", stack, known) / np.maximum(count, 1), now)
    yesterday = np.where(known[0][:, None], stack[0], now)
    week = np.where(known[-1][:, None], stack[-1], mean)
    return np.concatenate([yesterday, mean, week], axis=1)


def _clock(seen: View, at: Ints, horizon: int) -> Floats:
    """Sine and cosine of the time of the hour, whether days are known, and how long step, horizon and history are.

    The time of day is left to `_seasons`: given it as a number, a network learns a short file by heart.
    """
    angle = 2 * np.pi * ((seen.start_ms + at * seen.step_ms) % 3_600_000) / 3_600_000
    alone = [float(seen.day > 0), np.log(seen.step_ms / 60_000), np.log(horizon)]
    return np.column_stack([np.sin(angle), np.cos(angle), *(np.full(len(at), value) for value in alone)])


def _running(values: Floats) -> Floats:
    return np.concatenate([np.zeros((len(values), 1)), np.cumsum(values, axis=1)], axis=1)
