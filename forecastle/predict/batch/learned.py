"""The learned member: one network over all series of a file, trained on windows drawn from their training span."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from forecastle.predict.batch.lags import View, between, inputs, scale
from forecastle.predict.batch.net import Net
from forecastle.predict.batch.panel import QUANTILES, Panel
from forecastle.types import Floats, Floats32, Ints

_BATCH = 512
_CHUNK = 8192
_FASTEST = 1e-3
_WARMUP = 50
_ANONYMOUS = 0.1
_FEWEST = 200
PRETRAINED = Path(__file__).with_name("pretrained.npz")


@dataclass(frozen=True, slots=True)
class Drawn:
    """Windows that can be learned from: ``series`` and ``at`` int64[b]."""

    series: Ints
    at: Ints


def drawable(panel: Panel, seen: View, end: int, horizon: int) -> Drawn:
    """Every origin whose targets lie before column ``end`` and are measured by half at least, and that is not stale."""
    last = end - horizon
    if last < 1:
        return Drawn(np.zeros(0, np.int64), np.zeros(0, np.int64))
    count = np.concatenate([np.zeros((len(panel.seen), 1), np.int64), np.cumsum(panel.seen[:, :end], axis=1)], axis=1)
    ahead = count[:, 1 + horizon : end + 1] - count[:, 1 : end + 1 - horizon]
    columns = np.arange(last)
    good = (2 * ahead >= horizon) & (seen.age[:, :last] <= 12) & (columns >= seen.first[:, None] + 4)
    series, at = np.nonzero(good)
    return Drawn(series, at)


def snapshots(panel: Panel, seen: View, end: int, horizon: int, stops: tuple[int, ...], *, seed: int = 0) -> Iterator[Net]:
    """The shipped network, then as fitted to the windows before column ``end`` after each of ``stops`` batches.

    Weights are averaged along the way, so a snapshot needs no slower rate before it. Too few windows: the first only.
    """
    net = Net.load(PRETRAINED, len(panel.values))
    yield net
    drawn = drawable(panel, seen, end, horizon)
    if len(drawn.at) < _FEWEST:
        return
    rng = np.random.default_rng(seed)
    steps_between = between(horizon)
    done = 0
    for stop in stops:
        while done < stop:
            count = min(_CHUNK // _BATCH, stop - done)
            pick = rng.integers(len(drawn.at), size=count * _BATCH)
            series, at = drawn.series[pick], drawn.at[pick]
            x, (target, weight) = inputs(seen, series, at, horizon), targets(panel, seen, series, at, horizon)
            who = np.where(rng.random(len(pick)) < _ANONYMOUS, len(panel.values), series)
            for low in range(0, len(pick), _BATCH):
                part = slice(low, low + _BATCH)
                rate = _FASTEST * min(1.0, (done + 1) / _WARMUP)
                net.learn(x[part], who[part], target[part], weight[part], between=steps_between, rate=rate)
                done += 1
        yield net


def predict(net: Net, seen: View, origins: Ints, horizon: int) -> Floats:
    """Quantiles float64[n, o, horizon, 9] of every series at the columns ``origins``."""
    n = len(seen.values)
    series = np.repeat(np.arange(n), len(origins))
    at = np.tile(origins, n)
    steps_between = between(horizon)
    out = np.empty((len(at), horizon, len(QUANTILES)))
    for low in range(0, len(at), _CHUNK):
        s, a = series[low : low + _CHUNK], at[low : low + _CHUNK]
        unit = scale(seen, s, a)[:, None, None]
        out[low : low + _CHUNK] = seen.values[s, a][:, None, None] + unit * net.predict(
            inputs(seen, s, a, horizon), s, steps_between
        )
    out[at < seen.first[series]] = np.nan
    return out.reshape(n, len(origins), horizon, len(QUANTILES))


def targets(panel: Panel, seen: View, series: Ints, at: Ints, horizon: int) -> tuple[Floats32, Floats32]:
    """Targets [b, horizon] in window units, and how much a unit weighs in the loss."""
    unit = scale(seen, series, at)
    future = panel.values[series[:, None], at[:, None] + np.arange(1, horizon + 1)]
    target = (future - seen.values[series, at][:, None]) / unit[:, None]
    weight = np.minimum(unit / seen.size[series], 20.0)
    return target.astype(np.float32), weight.astype(np.float32)
