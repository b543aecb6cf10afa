"""The whole of a batch forecast: fit on a training span, weigh on its last part, forecast from later origins.

1. Members are fitted to the training span without its last quarter and forecast that quarter: weights by pinball loss.
2. The members that count are fitted again, to the whole training span, and forecast the origins.
3. Bands are calibrated with what came true of earlier forecasts: those of the last quarter, then those since.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from forecastle.predict.batch import blend, calibrate, learned, naive
from forecastle.predict.batch.lags import View, view
from forecastle.predict.batch.panel import Panel, pinball
from forecastle.types import Floats, Floats32, Ints

STOPS = (100, 300, 900, 1800)
_VALIDATION = 0.25
_CELLS = 6_000_000
_FEW, _MANY = 24, 600
_WORSE = 1.05
_COUNTS = 0.02
_NETWORK = "network"


class Batch(NamedTuple):
    """``quantiles`` float64[n, o, h, 9], NaN where nothing was known by the origin; ``model``: each series' leading member."""

    quantiles: Floats
    model: list[str]


class Stage(NamedTuple):
    """Members fitted to the first ``train`` columns of ``panel``, to forecast from later ones; ``seen`` is its view."""

    panel: Panel
    seen: View
    train: int
    horizon: int


def forecast_panel(panel: Panel, train: int, horizon: int, origins: Ints) -> Batch:
    """Forecast ``horizon`` steps from each column of ``origins`` int64[o], learning from the first ``train`` columns.

    The forecast of an origin reads no column after it. Same panel, same bytes.
    """
    past = panel.until(train)
    inside = inner_origins(past, horizon)
    names, stack = _judged(Stage(past, view(past, int(inside[0]) + 1), int(inside[0]) + 1, horizon), inside)
    truth = past.targets(inside, horizon)
    handicap = [1.0 if name.startswith(_NETWORK) else blend.HANDICAP for name in names]
    losses = np.asarray([pinball(q, truth) * more for q, more in zip(stack, handicap, strict=True)])
    weight = blend.weights(losses, blend.horizon_buckets(horizon))
    keep = [k for k in range(len(names)) if weight[k].mean() >= _COUNTS]
    names, weight = [names[k] for k in keep], weight[keep]
    before = blend.mix(stack[keep], weight)
    later = _between(train, int(origins[-1]), len(inside))
    columns = np.concatenate([origins, later])
    after = blend.mix(_refitted(Stage(panel, view(panel, train), train, horizon), names, columns), weight)
    quantiles = calibrate.stretched(
        after[:, : len(origins)],
        origins,
        np.concatenate([before, after[:, len(origins) :]], axis=1),
        np.concatenate([inside, later]),
        np.concatenate([truth, panel.targets(later, horizon)], axis=1),
    )
    leader = weight.mean(axis=2).argmax(axis=0)
    quantiles = np.maximum(np.sort(quantiles, axis=-1), _floor(past)[:, None, None, None])
    return Batch(quantiles, [names[k] for k in leader])


def inner_origins(past: Panel, horizon: int) -> Ints:
    """Columns in the last quarter of the training span from which ``horizon`` steps still fit into it."""
    n, train = past.values.shape
    most = int(np.clip(_CELLS / (n * horizon * 9), _FEW, _MANY))
    first, last = int(train * (1 - _VALIDATION)), train - 1 - horizon
    return np.unique(np.linspace(min(first, last), last, most).astype(np.int64))


def _floor(past: Panel) -> Floats:
    """0 for series that were never negative, else -inf: float64[n]."""
    known = np.where(past.seen, past.values, np.inf).min(axis=1)
    return np.where((known >= 0) & np.isfinite(known), 0.0, -np.inf)


def _between(train: int, last: int, most: int) -> Ints:
    """Columns from the training span's end to ``last``, some of whose outcomes are known by then: they calibrate."""
    if last <= train:
        return np.zeros(0, np.int64)
    return np.unique(np.linspace(train, last - 1, min(most, last - train)).astype(np.int64))


def _judged(stage: Stage, inside: Ints) -> tuple[list[str], Floats32]:
    """Names and forecasts float32[m, n, o, h, 9] of all members; training ends once it has stopped paying."""
    found = dict(_naive(stage, inside))
    truth = stage.panel.targets(inside, stage.horizon)
    best = np.inf
    for stop, net in zip(
        (0, *STOPS), learned.snapshots(stage.panel, stage.seen, stage.train, stage.horizon, STOPS), strict=False
    ):
        quantiles = learned.predict(net, stage.seen, inside, stage.horizon)
        loss = float(np.nanmean(pinball(quantiles, truth) / stage.seen.size[:, None, None]))
        found[_name(stop)] = quantiles
        best = min(best, loss)
        if loss > _WORSE * best:
            break
    return list(found), np.asarray(list(found.values()), np.float32)


def _refitted(stage: Stage, names: list[str], columns: Ints) -> Floats32:
    """Forecasts float32[m, n, o, h, 9] of the members ``names``, fitted to the whole training span."""
    found = {name: quantiles for name, quantiles in _naive(stage, columns) if name in names}
    stops = tuple(stop for stop in STOPS if any(_name(later) in names for later in STOPS if later >= stop))
    nets = learned.snapshots(stage.panel, stage.seen, stage.train, stage.horizon, stops)
    for stop, net in zip((0, *stops), nets, strict=False):
        if _name(stop) in names:
            found[_name(stop)] = learned.predict(net, stage.seen, columns, stage.horizon)
    return np.asarray([found[name] for name in names], np.float32)


def _naive(stage: Stage, columns: Ints) -> Iterator[tuple[str, Floats]]:
    """The naive members' quantiles at ``columns``, their errors measured inside the stage's training span."""
    last = stage.train - 1 - stage.horizon
    origins = np.unique(np.linspace(stage.train // 4, max(last, 0), 200).astype(np.int64))
    past = stage.panel.until(stage.train)
    truth = past.targets(origins, stage.horizon)
    for name, path in naive.members(past).items():
        errors = truth - path(past, origins, stage.horizon)
        spread = naive.error_quantiles(errors, naive.usual_size(errors))
        yield name, path(stage.panel, columns, stage.horizon)[..., None] + spread[:, None]


def _name(stop: int) -> str:
    return f"{_NETWORK}-{stop}" if stop else _NETWORK
