"""The backtest flow: the champion and its peers rolled over a history's tail, by series and cohort, as numbers and one page.

The peers are seasonal naive, which serves when no model does, the last value, and exponential smoothing or Theta by series.
Those of a detector are in `flows.backtest_detectors`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from prefect import flow, task
from prefect.artifacts import acreate_table_artifact
from prefect.cache_policies import NO_CACHE

from flows import backtest_detectors, rolling
from flows.champion import admitted, champion, stand_in
from flows.history import History, read_history
from flows.leaderboard import LAST, SEASONAL, last_value
from flows.tracking import RunRecord, log_run
from forecastle.errors import ConfigError
from forecastle.outlets.page import Page
from forecastle.predict.members import Members
from forecastle.predict.naive import QUANTILES
from forecastle.runtime.workshop import registry, settings_of
from forecastle.settings import Settings
from forecastle.types import Floats, Floats32, Ints, Windows
from models.statistical import shared

ORIGINS = 48
TAIL = 0.2
STATISTICAL = "ETS or Theta"
SHOWN = 50
"""Rows of a table on the page; metrics.json has them all."""
SIZES = ("small", "medium", "large")
SHOWN_IN_PREFECT = {"forecaster": ("crps", "wql", "mase"), "detector": ("vus_pr", "found", "delay_s", "false_alarms")}
Told: TypeAlias = tuple[dict[str, Any], Page]
"""Metrics and a page about them."""


@dataclass(frozen=True, slots=True)
class Rolled:
    """``forecasts`` float32[o, n, h, q] of each model at the columns ``at`` of the history, ``actual`` [o, n, h], scores.

    ``size`` [n] is what errors are divided by.
    """

    history: History
    at: Ints
    actual: Floats32
    size: Floats
    forecasts: Mapping[str, Floats32]
    scores: Mapping[str, rolling.Score]
    series: Mapping[str, rolling.BySeries]


def rolled(settings: Settings, history: History, answers: Mapping[str, rolling.Answer], *, tail: float, count: int) -> Rolled:
    """Every one of ``answers`` at the same origins. Raises ConfigError when the history is too short."""
    horizon = settings.predict.horizon
    at = rolling.origins(history, horizon, tail=tail, count=count)
    actual = rolling.actuals(history, at, horizon)
    size = rolling.scale(history, int(at[0]), settings.predict.season)
    forecasts = {name: rolling.roll(history, at, answer, settings.window.look_back) for name, answer in answers.items()}
    scores = {name: rolling.score(said[:, :, :horizon], actual, size, QUANTILES) for name, said in forecasts.items()}
    series = {name: rolling.by_series(said[:, :, :horizon], actual, size, QUANTILES) for name, said in forecasts.items()}
    return Rolled(history, at, actual, size, forecasts, scores, series)


def cohorts(result: Rolled) -> list[dict[str, Any]]:
    """A row for each metric, workload and third of the series by size, with the mean errors of each model over its series."""
    keys, values = result.history.keys, result.history.values[:, : int(result.at[0]) + 1]
    known = np.isfinite(values)
    level = np.where(known, np.abs(values), 0.0).sum(1) / np.maximum(known.sum(1), 1)
    third = np.empty(len(keys), np.int64)
    third[np.argsort(level, kind="stable")] = np.arange(len(keys)) * len(SIZES) // max(len(keys), 1)
    names = {"metric": [key.metric for key in keys], "workload": [key.workload for key in keys]}
    names["size"] = [SIZES[i] for i in third.tolist()]
    rows = []
    for by, told in names.items():
        for cohort in sorted(set(told), key=SIZES.index if by == "size" else None):
            of = np.flatnonzero([name == cohort for name in told])
            models = {model: one.of(of) for model, one in result.series.items()}
            rows.append({"by": by, "cohort": cohort, "series": len(of), "models": models})
    return rows


def statistical(past: History, horizon: int) -> rolling.Answer:
    """Exponential smoothing or Theta, whichever of a grid erred least in ``past``; the last value where it says nothing."""
    rows = np.flatnonzero(past.mask.any(axis=1))
    keys = [past.keys[i] for i in rows]
    members = Members([one.told() for one in shared(keys, past.values[rows].astype(np.float64), past.mask[rows], horizon)])

    def answer(windows: Windows) -> Floats32:
        said = last_value(windows, horizon)
        members.replace(said, windows, QUANTILES)
        return said

    return answer


@task(name="roll-models", cache_policy=NO_CACHE)
async def roll(settings: Settings, history: str, tail: float, count: int) -> Told:
    """The champion, when there is one, and its peers over the history's tail."""

    def told() -> Told:
        result = _roll(settings, history, tail, count)
        return metrics(result), report(result)

    return await asyncio.to_thread(told)


@task(name="watch-history", cache_policy=NO_CACHE)
async def watch(settings: Settings, history: str, labels: str, tail: float) -> Told:
    """The detector that serves, when there is one, and its peers over the history's tail."""

    def told() -> Told:
        result = backtest_detectors.watched(settings, history, labels, tail)
        figures = backtest_detectors.metrics(result)
        return figures, backtest_detectors.report(result, figures)

    return await asyncio.to_thread(told)


def _roll(settings: Settings, file: str, tail: float, count: int) -> Rolled:
    history, horizon = read_history(settings, file), settings.predict.horizon
    answers: dict[str, rolling.Answer] = {}
    if settings.predict.registry and settings.predict.model:
        found = champion(settings, registry(settings), settings.predict.model)
        if found is not None:
            answers[f"{found.name} {found.version}"] = admitted(settings, found).infer
    first = int(rolling.origins(history, horizon, tail=tail, count=count)[0])
    answers |= {
        SEASONAL: partial(stand_in, settings),
        LAST: partial(last_value, horizon=horizon),
        STATISTICAL: statistical(history.before(history.values.shape[1] - 1 - first), horizon),
    }
    return rolled(settings, history, answers, tail=tail, count=count)


def metrics(result: Rolled) -> dict[str, Any]:
    """The numbers by model, cohort and series."""
    return {
        "series": len(result.history.keys),
        "origins": len(result.at),
        "quantiles": list(QUANTILES),
        "models": {name: asdict(score) for name, score in result.scores.items()},
        "cohorts": cohorts(result),
        "per_series": _per_series(result),
    }


@task(name="write-backtest", cache_policy=NO_CACHE)
async def write(settings: Settings, told: Told, out: str, about: Mapping[str, Any]) -> dict[str, Any]:
    """metrics.json and report.html in the folder ``out``, and a run in MLflow where the registry is; returns the metrics."""
    figures, page = told
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(figures, indent=1)
    (folder / "metrics.json").write_text(text, "utf-8")
    page.save(folder / "report.html")
    if "://" in settings.predict.registry:
        numbers = {
            f"{name} {model}".replace(" ", "_"): value
            for model, row in figures["models"].items()
            for name, value in row.items()
            if isinstance(value, float | int)
        }
        tables = {name: _flat(figures[name]) for name in ("cohorts", "kinds", "per_series") if figures.get(name)}
        record = RunRecord(about, numbers, tables=tables, pages={"report": page.html()})
        await asyncio.to_thread(log_run, settings.predict.registry, f"backtest {about['kind']}", record)
    told_again: dict[str, Any] = json.loads(text)
    return told_again


def _flat(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each row and model."""
    return [
        {**{key: value for key, value in row.items() if key != "models"}, "model": model, **one}
        for row in rows
        for model, one in row["models"].items()
    ]


def _per_series(result: Rolled) -> list[dict[str, Any]]:
    return [
        {"series": str(key), "models": {name: one.of(np.array([row])) for name, one in result.series.items()}}
        for row, key in enumerate(result.history.keys)
    ]


def report(result: Rolled) -> Page:
    """Errors, calibration, error by step ahead, errors by cohort and series, and the series that was forecast worst."""
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
    _tables(page, result, models[0])
    _worst(page, result, models[0])
    return page


def _tables(page: Page, result: Rolled, model: str) -> None:
    """Errors of every cohort and series, those worst forecast by ``model`` first."""

    def crps(row: dict[str, Any]) -> float:
        told = row["models"][model]["crps"]
        return -1.0 if told is None else float(told)

    def cells(row: dict[str, Any]) -> list[Any]:
        first = row["models"][model]
        return [*(told["crps"] for told in row["models"].values()), first["mase"], first["cover_90"]]

    columns = [*(f"CRPS, {name}" for name in result.series), f"MASE, {model}", f"within 90 %, {model}"]
    every = cohorts(result)
    for by in ("metric", "workload", "size"):
        rows = [row for row in every if row["by"] == by]
        page.heading(f"Errors by {by}")
        page.text("" if len(rows) <= SHOWN else f"The worst {SHOWN} of {len(rows)}; metrics.json has them all.")
        shown = rows if by == "size" else sorted(rows, key=crps, reverse=True)[:SHOWN]
        page.table([by, "series", *columns], [[row["cohort"], row["series"], *cells(row)] for row in shown])
    rows = sorted(_per_series(result), key=crps, reverse=True)
    page.heading("Errors by series")
    page.text("" if len(rows) <= SHOWN else f"The worst {SHOWN} of {len(rows)}; metrics.json has them all.")
    page.table(["series", *columns], [[row["series"], *cells(row)] for row in rows[:SHOWN]])


def _worst(page: Page, result: Rolled, model: str) -> None:
    """The series whose median erred most for its size, one step ahead of each origin."""
    middle = QUANTILES.index(0.5)
    said, came = result.forecasts[model][:, :, 0], result.actual[:, :, 0]
    error = np.abs(came - said[..., middle])
    known = np.isfinite(error)
    if not known.any():
        return
    mean = np.where(known, error, 0.0).sum(0) / np.maximum(known.sum(0), 1)
    row = int(np.argmax(mean / result.size))
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
    kind: str = "forecaster",
    labels: str = "",
    tail: float = TAIL,
    count: int = ORIGINS,
) -> dict[str, Any]:
    """Roll the champion and its peers over the last ``tail`` of ``history`` (a file), forecasters from ``count`` origins.

    ``kind`` is ``forecaster`` or ``detector``; for the latter ``labels`` is a file of incidents, or ``ledger`` for those that
    people confirmed. ``settings`` wins over ``configs`` and ``flags``. Writes metrics.json and report.html to ``out`` and
    returns the metrics. Raises ConfigError.
    """
    known = settings_of(settings, configs, flags)
    if kind not in SHOWN_IN_PREFECT:
        raise ConfigError(f"kind {kind!r}: is none of models; write {' or '.join(SHOWN_IN_PREFECT)}")
    told = await (watch(known, history, labels, tail) if kind == "detector" else roll(known, history, tail, count))
    figures = await write(known, told, out, {"kind": kind, "history": history, "labels": labels, "tail": tail})
    rows = [{"model": name, **{k: one[k] for k in SHOWN_IN_PREFECT[kind]}} for name, one in figures["models"].items()]
    rounded = [{k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()} for row in rows]
    await acreate_table_artifact(key="forecastle-backtest", table=rounded, description=f"{history}; report in {out}")
    return figures
