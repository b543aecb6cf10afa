"""The backtest flow: the champion and the stand-in rolled over a history's tail, as numbers and as one page."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from prefect import flow, task
from prefect.artifacts import acreate_table_artifact
from prefect.cache_policies import NO_CACHE

from flows import rolling
from flows.champion import admitted, champion, stand_in
from flows.history import History, read_history
from forecastle.outlets.page import Page
from forecastle.predict.naive import QUANTILES
from forecastle.runtime.workshop import registry, settings_of
from forecastle.settings import Settings
from forecastle.types import Floats32, Ints

ORIGINS = 48
TAIL = 0.2
STAND_IN = "seasonal naive"


@dataclass(frozen=True, slots=True)
class Rolled:
    """``forecasts`` float32[o, n, h, q] of each model at the columns ``at`` of the history, ``actual`` [o, n, h], scores."""

    history: History
    at: Ints
    actual: Floats32
    forecasts: Mapping[str, Floats32]
    scores: Mapping[str, rolling.Score]


def rolled(settings: Settings, history: History, answers: Mapping[str, rolling.Answer], *, tail: float, count: int) -> Rolled:
    """Every one of ``answers`` at the same origins. Raises ConfigError when the history is too short."""
    horizon = settings.predict.horizon
    at = rolling.origins(history, horizon, tail=tail, count=count)
    actual = rolling.actuals(history, at, horizon)
    size = rolling.scale(history, int(at[0]), settings.predict.season)
    forecasts = {name: rolling.roll(history, at, answer, settings.window.look_back) for name, answer in answers.items()}
    scores = {name: rolling.score(said, actual, size, QUANTILES) for name, said in forecasts.items()}
    return Rolled(history, at, actual, forecasts, scores)


@task(name="roll-models", cache_policy=NO_CACHE)
async def roll(settings: Settings, history: str, tail: float, count: int) -> Rolled:
    """The champion, when there is one, and the stand-in over the history's tail."""
    return await asyncio.to_thread(_roll, settings, history, tail, count)


def _roll(settings: Settings, history: str, tail: float, count: int) -> Rolled:
    answers: dict[str, rolling.Answer] = {STAND_IN: partial(stand_in, settings)}
    if settings.predict.registry and settings.predict.model:
        found = champion(settings, registry(settings), settings.predict.model)
        if found is not None:
            answers = {f"{found.name} {found.version}": admitted(settings, found).infer, **answers}
    return rolled(settings, read_history(settings, history), answers, tail=tail, count=count)


@task(name="write-backtest", cache_policy=NO_CACHE)
async def write(result: Rolled, out: str) -> dict[str, Any]:
    """metrics.json and report.html in the folder ``out``; returns the metrics."""
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    metrics = {
        "series": len(result.history.keys),
        "origins": len(result.at),
        "quantiles": list(QUANTILES),
        "models": {name: asdict(score) for name, score in result.scores.items()},
    }
    text = json.dumps(metrics, indent=1)
    (folder / "metrics.json").write_text(text, "utf-8")
    report(result).save(folder / "report.html")
    told: dict[str, Any] = json.loads(text)
    return told


def report(result: Rolled) -> Page:
    """Errors, calibration, error by step ahead, and the series that was forecast worst."""
    models, steps = list(result.scores), np.arange(1, result.actual.shape[2] + 1)
    page = Page("Backtest", f"{len(result.history.keys)} series from {len(result.at)} origins, {len(steps)} steps ahead")
    page.figures({f"CRPS, {name}": score.crps for name, score in result.scores.items()})
    page.text("CRPS and MASE are in units of repeating the season: below 1 is better than that. WQL is a share of the demand.")
    page.heading("Errors")
    page.table(["model", "CRPS", "MASE", "WQL"], [[name, s.crps, s.mase, s.wql] for name, s in result.scores.items()])
    page.heading("Calibration")
    page.text("Share of measurements at or below each quantile. On the diagonal a forecast means what it says.")
    curves = {name: (list(QUANTILES), list(score.coverage)) for name, score in result.scores.items()}
    page.curves("Coverage", {"ideal": ([0.0, 1.0], [0.0, 1.0]), **curves}, "quantile", "share at or below")
    rows = [[q, *(result.scores[name].coverage[i] for name in models)] for i, q in enumerate(QUANTILES)]
    page.table(["quantile", *models], rows)
    page.heading("Error by step ahead")
    page.curves("MASE", {n: (steps.tolist(), list(s.mase_by_step)) for n, s in result.scores.items()}, "steps ahead", "MASE")
    _worst(page, result, models[0])
    return page


def _worst(page: Page, result: Rolled, model: str) -> None:
    """The series with the largest median error, one step ahead of each origin."""
    middle = QUANTILES.index(0.5)
    said, came = result.forecasts[model][:, :, 0], result.actual[:, :, 0]
    error = np.abs(came - said[..., middle])
    known = np.isfinite(error)
    if not known.any():
        return
    mean = np.where(known, error, 0.0).sum(0) / np.maximum(known.sum(0), 1)
    row = int(np.argmax(mean))
    end = result.history.end - (result.history.values.shape[1] - 2 - result.at) * result.history.step_ms
    lines = {"measured": came[:, row].astype(np.float64), "median": said[:, row, middle].astype(np.float64)}
    edges = said[:, row, QUANTILES.index(0.05)], said[:, row, QUANTILES.index(0.95)]
    page.heading("The hardest series")
    page.plot(str(result.history.keys[row]), end.tolist(), lines, band=(edges[0].tolist(), edges[1].tolist()))


@flow(name="backtest", validate_parameters=False)
async def backtest(
    settings: dict[str, Any] | None = None,
    history: str = "",
    out: str = "out/backtest",
    *,
    configs: Sequence[str] = ("configs",),
    flags: Sequence[str] = (),
    tail: float = TAIL,
    count: int = ORIGINS,
) -> dict[str, Any]:
    """Roll the champion over the last ``tail`` of ``history`` (a file) from ``count`` origins.

    ``settings`` wins over ``configs`` and ``flags``. Writes metrics.json and report.html to ``out`` and returns the metrics.
    """
    known = settings_of(settings, configs, flags)
    metrics = await write(await roll(known, history, tail, count), out)
    rows = [{"model": name, **{k: round(m[k], 4) for k in ("crps", "mase", "wql")}} for name, m in metrics["models"].items()]
    await acreate_table_artifact(key="forecastle-backtest", table=rows, description=f"{history}; report in {out}")
    return metrics
