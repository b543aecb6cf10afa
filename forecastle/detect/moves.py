"""Detectors of movement: surprise against the series' own autoregression, steps, levels, spread.

Each looks at every slot of the window at once and compares the newest with the tail of the older ones; what passes the
cheap screen is confirmed with medians and, where the window reaches back a season, against the same hours then.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forecastle.detect.columns import GRAIN, LAGS, Columns, grains
from forecastle.detect.tails import tail_threshold
from forecastle.types import Floats32, Mask

RECENT, BEFORE = 10, 60
"""Slots of the two windows of the level test."""
LEAST = 2 * (RECENT + BEFORE)
"""Slots of a look-back under which nothing is said of levels and habits."""
SPAN = 30
"""Slots over which spread is measured."""
STEP = 5
"""Slots of the rate of change."""


@dataclass(frozen=True, slots=True)
class Found:
    """One family's verdict on n series: ``score`` above ``threshold`` where ``fired``, in shares of the usual range.

    ``expected`` and ``actual`` float32[n]; ``since`` int[n] counts the slots it has lasted.
    """

    family: str
    fired: Mask
    score: Floats32
    threshold: Floats32
    expected: Floats32
    actual: Floats32
    since: np.ndarray


def autoregression(c: Columns) -> Floats32:
    """Weights float32[n, LAGS] of the slots before, newest first: Yule-Walker on clipped values, ridge 2%."""
    clipped = np.clip(c.y, -2.0, 2.0)
    lags = [np.einsum("nl,nl->n", clipped[:, k:], clipped[:, : clipped.shape[1] - k]) for k in range(LAGS + 1)]
    r = np.stack(lags, axis=1).astype(np.float64)
    r[:, 0] = r[:, 0] * 1.02 + 1e-3
    toeplitz = r[:, np.abs(np.subtract.outer(np.arange(LAGS), np.arange(LAGS)))]
    return np.linalg.solve(toeplitz, r[:, 1:, None])[:, :, 0].astype(np.float32)


def residuals(c: Columns, weights: Floats32 | None = None) -> Floats32:
    """One-step residuals float32[n, L] of the `autoregression`, 0 where not sound."""
    weights = autoregression(c) if weights is None else weights
    error = c.y.copy()
    for k in range(1, LAGS + 1):
        error[:, k:] -= weights[:, k - 1, None] * c.y[:, :-k]
    error *= c.sound
    return error


def surprise(c: Columns, error: Floats32, rate: float, floor: float) -> Found:
    """The newest slot against its autoregression and, lest a spike echo, against the median of the slots before it."""
    size = np.abs(error)
    threshold = np.maximum(tail_threshold(size[:, LAGS:-1], rate), np.float32(floor)) * c.lenience
    usual = np.median(c.y[:, -9:-1], axis=1)
    departure = np.abs(c.y[:, -1] - usual)
    fired = c.judged & (size[:, -1] > threshold) & (departure > floor)
    expected = c.y[:, -1] - error[:, -1]
    return Found("residual", fired, size[:, -1], threshold, expected, c.y[:, -1], np.ones(len(c.y), np.int64))


def rate_of_change(c: Columns, rate: float, floor: float) -> Found:
    """The change over `STEP` slots against the changes of the window."""
    change = changes(c)
    threshold = np.maximum(tail_threshold(change[:, : -STEP - 1], rate), np.float32(2 * floor)) * c.lenience
    usual = np.median(c.y[:, -2 * STEP - 8 : -STEP], axis=1)
    fired = c.judged & (change[:, -1] > threshold) & (np.abs(c.y[:, -1] - usual) > floor)
    return Found("rate", fired, change[:, -1], threshold, c.y[:, -1 - STEP], c.y[:, -1], np.full(len(c.y), STEP, np.int64))


def changes(c: Columns) -> Floats32:
    """Size of the change over `STEP` slots, 0 across gaps: float32[n, L - STEP]."""
    return np.asarray(np.abs(c.y[:, STEP:] - c.y[:, :-STEP]) * (c.sound[:, STEP:] & c.seen[:, :-STEP]), np.float32)


def level(c: Columns, rate: float, floor: float, seasonal: Floats32 | None) -> Found:
    """Mean of the last `RECENT` slots against the `BEFORE` before them; medians confirm.

    ``seasonal`` float32[n] is the same difference one season ago (NaN unknown): a shift that repeats it is the cycle.
    """
    n, length = c.y.shape
    if length < LEAST:
        return nothing("level", n)
    shift = difference_of_means(c.coarse)
    history = np.abs(shift[:, : -(RECENT + BEFORE) // GRAIN])
    threshold = np.maximum(tail_threshold(history, rate), np.float32(1.5 * floor)) * c.lenience
    now = shift[:, -1]
    fired = c.judged & (np.abs(now) > threshold)
    fired &= c.seen[:, -RECENT - BEFORE :].mean(axis=1) > 0.8
    recent, before = c.y[:, -RECENT:], c.y[:, -RECENT - BEFORE : -RECENT]
    expected, actual = np.median(before, axis=1), np.median(recent, axis=1)
    fired &= np.abs(actual - expected) > floor
    fired &= (np.sign(now)[:, None] * (recent - expected[:, None]) > 0.5 * np.abs(now)[:, None]).mean(axis=1) >= 0.8
    if seasonal is not None:
        fired &= ~(np.abs(now - seasonal) < 0.5 * np.abs(now))
    return Found("level", fired, np.abs(now), threshold, expected, actual, np.full(n, RECENT, np.int64))


def difference_of_means(coarse: Floats32) -> Floats32:
    """Mean of `RECENT` slots minus mean of the `BEFORE` before them, at each `GRAIN`-th slot, the newest last."""
    recent = sliding_sum(coarse, RECENT // GRAIN)
    before = sliding_sum(coarse, BEFORE // GRAIN)[:, : -RECENT // GRAIN]
    return recent[:, -before.shape[1] :] / np.float32(RECENT) - before / np.float32(BEFORE)


def sliding_sum(values: Floats32, width: int) -> Floats32:
    """Sum of each ``width`` neighbours: float32[n, L - width + 1]."""
    total = np.zeros((len(values), values.shape[1] + 1), np.float32)
    np.cumsum(values, axis=1, out=total[:, 1:])
    return total[:, width:] - total[:, :-width]


def spread(c: Columns, error: Floats32, rate: float, floor: float) -> Found:
    """Root mean square residual of the last `SPAN` slots against the window's; single spikes are clipped away."""
    n, length = error.shape
    if length < 4 * SPAN:
        return nothing("variance", n)
    size = spreads(error)
    history = size[:, : -SPAN // GRAIN]
    typical = np.median(history, axis=1)
    threshold = np.maximum(tail_threshold(history, rate), np.maximum(2 * typical, np.float32(0.5 * floor))) * c.lenience
    busy = (np.abs(error[:, -SPAN:]) > 2 * typical[:, None]).mean(axis=1) > 0.2
    fired = c.judged & (size[:, -1] > threshold) & busy
    return Found("variance", fired, size[:, -1], threshold, typical, size[:, -1], np.full(n, SPAN, np.int64))


def spreads(error: Floats32) -> Floats32:
    """Root mean square of ``error`` over `SPAN` slots, single ones clipped at three deviations, at each `GRAIN`-th slot."""
    power = np.square(error)
    usual = 9 * power.mean(axis=1, keepdims=True) + np.float32(1e-9)
    return np.sqrt(np.maximum(sliding_sum(grains(np.minimum(power, usual)), SPAN // GRAIN), 0.0) / SPAN)


def nothing(family: str, n: int) -> Found:
    """A family that cannot judge these windows yet."""
    score, threshold, expected, actual = np.zeros((4, n), np.float32)
    threshold += np.float32(np.inf)
    return Found(family, np.zeros(n, bool), score, threshold, expected, actual, np.zeros(n, np.int64))
