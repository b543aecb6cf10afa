"""How good an exported model is on the newest part of the history, which no candidate has learned from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from forecastle.detect.groups import gather, grouped
from forecastle.types import Floats32, SeriesKey
from models.pinball import pinball_score
from models.windows import Batch, Panel

MOST_WINDOWS = 4096
_CHUNK = 256
_CLIP = 20.0


def forecaster_metrics(
    path: Path,
    manifest: Mapping[str, Any],
    values: Floats32,
    end_minute: int,
    tail: int,
    *,
    known: Sequence[Floats32] | None = None,
    static: Floats32 | None = None,
) -> dict[str, float]:
    """Errors of the model at ``path`` over the last ``tail`` slots of ``values`` float32[n, t].

    ``known`` and ``static`` are as in training; a model that takes them and is given none is told nothing.
    ``tail_pinball`` is in units of each series' usual change over half a horizon; ``tail_mase_last`` and
    ``tail_mase_season`` are the median's absolute error over that of the last value and of the value a day before (below
    1: better); ``tail_cover_90`` is the share of targets between the quantiles 0.05 and 0.95.
    """
    step_ms, horizon = int(manifest["step_ms"]), int(manifest["horizon"])
    shape = int(manifest["look_back"]), horizon, step_ms
    if manifest.get("known") and known is None:
        known = [np.zeros((0, len(manifest["known"])), np.float32)] * len(values)
    if manifest.get("static") and static is None:
        static = np.zeros((len(values), len(manifest["static"])), np.float32)
    panel = Panel.of(list(values), [end_minute] * len(values), *shape, known=known, static=static)
    batch = _origins(panel, tail)
    answer = _run(path, list(batch.inputs.values()), list(manifest["inputs"]))[0]
    levels = [float(q) for q in manifest["quantiles"]]
    scale, middle = batch.scale[:, None], levels.index(0.5)
    error = np.abs(answer[:, :, middle] - batch.target) / scale
    metrics = {"tail_pinball": pinball_score(answer / scale[..., None], batch.target / scale, levels)}
    for name, naive in (("last", _last(batch)), ("season", _season(batch, horizon, 86_400_000 // step_ms))):
        both = np.isfinite(error) & np.isfinite(naive)
        base = np.abs(naive - batch.target) / scale
        if both.any():
            metrics[f"tail_mase_{name}"] = float(error[both].mean() / max(float(base[both].mean()), 1e-12))
    came = np.isfinite(batch.target)
    if 0.05 in levels and 0.95 in levels and came.any():
        low, high = answer[:, :, levels.index(0.05)], answer[:, :, levels.index(0.95)]
        metrics["tail_cover_90"] = float(((low <= batch.target) & (batch.target <= high))[came].mean())
    return metrics


def detector_metrics(
    path: Path, manifest: Mapping[str, Any], keys: Sequence[SeriesKey], values: Floats32, tail: int
) -> dict[str, float]:
    """``tail_loss``: mean Laplace negative log-likelihood, in the metrics' units, of the last ``tail`` slots of ``values``."""
    length = int(manifest["look_back"])
    rows = grouped(keys, int(manifest["channels"]))
    known = np.isfinite(values)
    table, mask = gather(values, rows), gather(known.astype(np.float32), rows)
    first = max(values.shape[1] - tail, length - 1)
    ends = np.arange(first, values.shape[1])
    places = np.stack(np.meshgrid(np.arange(len(rows)), ends, indexing="ij"), axis=-1).reshape(-1, 2)
    groups, ends = _thinned(places).T
    at = ends[:, None] + np.arange(1 - length, 1)
    window, seen = table[groups[:, None], at], mask[groups[:, None], at]
    score, expected = _run(path, [window, seen], list(manifest["inputs"]))
    error = np.abs(window[:, -1] - expected)
    there = (seen[:, -1] > 0) & (score > 0) & (error > 0)
    loss = np.minimum(score[there], _CLIP) + np.log(error[there] / score[there])
    return {"tail_loss": float(loss.mean()) if there.any() else float("nan")}


def _origins(panel: Panel, tail: int) -> Batch:
    """Windows of every series, ends half a horizon apart, targets within the tail; thinned to `MOST_WINDOWS`."""
    ends = np.arange(panel.end - tail, panel.end - panel.horizon + 1, max(panel.horizon // 2, 1))
    usable = ends[None] >= panel.first[:, None]
    rows, columns = _thinned(np.argwhere(usable)).T
    return panel.at(rows, ends[columns])


def _thinned(places: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    if len(places) <= MOST_WINDOWS:
        return places
    return places[np.random.default_rng(0).choice(len(places), MOST_WINDOWS, replace=False)]


def _run(path: Path, parts: Sequence[npt.NDArray[Any]], names: Sequence[str]) -> list[Floats32]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    answers = [
        session.run(None, {name: part[i : i + _CHUNK] for name, part in zip(names, parts, strict=True)})
        for i in range(0, len(parts[0]), _CHUNK)
    ]
    return [np.concatenate(columns) for columns in zip(*answers, strict=True)]


def _last(batch: Batch) -> Floats32:
    """The newest observed value of each window at every step [n, h]."""
    newest = np.where(batch.mask > 0, np.arange(batch.mask.shape[1]), 0).max(1)
    last = batch.values[np.arange(len(newest)), newest]
    return np.broadcast_to(last[:, None], batch.target.shape)


def _season(batch: Batch, horizon: int, season: int) -> Floats32:
    """What was observed ``season`` slots before each step [n, h]; NaN where nothing was or the window is shorter."""
    start = batch.values.shape[1] - season
    if start < 0:
        return np.full(batch.target.shape, np.nan, np.float32)
    past = slice(start, start + horizon)
    return np.where(batch.mask[:, past] > 0, batch.values[:, past], np.float32(np.nan))
