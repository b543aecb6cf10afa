"""The pretrain flow: a forecaster for a fleet without history, from generated series, and recorded ones if there are any.

Anyone can run it again on a CPU or a GPU: equal seeds and steps give equal series and, on one kind of machine, equal weights.
What it leaves serves where nothing else does, and is what later trainings may start from (``init`` in the model's file).
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE

from flows.champion import admitted
from flows.contest import incumbent
from flows.history import History, gridded, read_measured
from flows.leaderboard import code_version
from flows.quality import QualityLimits, cleared, learnable, on_time
from flows.recipes import Recipe, check, recipe
from flows.tracking import RunRecord, log_run
from flows.train import TAIL, transient
from forecastle.errors import ConfigError
from forecastle.ports import Artifact
from forecastle.predict.artifacts import MANIFEST, MODEL, replace_text, sha256
from forecastle.runtime.inventory import resolve
from forecastle.runtime.workshop import registry, settings_of
from forecastle.settings import Settings
from forecastle.types import Floats32
from models.generated import Grid, series
from models.tail import forecaster_metrics
from models.weights import write_weights

WEIGHTS = "weights.npz"
LOOK_BACKS = 8
"""Length of a generated series in look-backs: with a day's look-back a week and its weekend."""
JUDGED = 256
"""Generated series of another seed that the model is judged on."""
CHECKS = 60
"""Looks at the held-out loss in the given number of steps."""


@dataclass(frozen=True, slots=True)
class Lessons:
    """What is learned from: series float32[t] of different lengths, the minute each ends at, and how often each is seen."""

    series: list[Floats32]
    end_minutes: list[int]
    weights: list[float]
    recorded: int


@task(name="gather-series", cache_policy=NO_CACHE)
async def gather(settings: Settings, grid: Grid, count: int, seed: int, history: Sequence[str]) -> Lessons:
    """``count`` generated series, and those of the files, which are half of what is seen when there are any."""
    return await asyncio.to_thread(lessons_of, settings, grid, count, seed, history)


def lessons_of(settings: Settings, grid: Grid, count: int, seed: int, files: Sequence[str]) -> Lessons:
    """What `gather` does. Raises ConfigError for a file that nothing can be learned from."""
    made = list(series(np.random.default_rng([seed, 0]), count, grid))
    need = grid.width // LOOK_BACKS // 4 + 2 * settings.predict.horizon
    histories = [_recorded(settings, file, need) for file in files]
    recorded = [values for history in histories for values in history.values]
    ends = [history.end // 60_000 for history in histories for _ in history.values]
    share = count * grid.width / max(sum(len(values) for values in recorded), 1)
    return Lessons([*made, *recorded], [grid.end_minute] * count + ends, [1.0] * count + [share] * len(recorded), len(recorded))


def _recorded(settings: Settings, file: str, need: int) -> History:
    """All but the newest tenth, which a later training of the same series is judged on."""
    measured = read_measured(settings, file)
    whole = gridded(on_time(measured), round(settings.window.step_s * 1000))
    limits = QualityLimits(need, settings.window.flat_slots, settings.intake.max_skew_s)
    usable = learnable(*cleared(measured, whole, limits))
    return usable.before(max(round(TAIL * usable.values.shape[1]), 2))


@task(name="pretrain-forecaster", cache_policy=NO_CACHE)
async def fit(made: Recipe, lessons: Lessons, device: str, budget_s: float | None) -> tuple[Any, dict[str, Any]]:
    """The module and its metrics. Raises what the trainer raises."""
    given = made.parameters, lessons.series, lessons.end_minutes
    how = {"device": device, "seed": int(made.parameters["seed"]), "deadline_s": budget_s, "weights": lessons.weights}
    trained: tuple[Any, dict[str, Any]] = await asyncio.to_thread(partial(resolve(made.train), *given, **how))
    return trained


@task(name="export", cache_policy=NO_CACHE)
async def export(made: Recipe, module: Any, out: Path, grid: Grid, facts: Mapping[str, Any]) -> dict[str, float]:
    """Weights, ONNX file and manifest in the folder ``out``; errors on fresh generated series. Raises ModelRefused."""
    return await asyncio.to_thread(_export, made, module, out, grid, facts)


def _export(made: Recipe, module: Any, out: Path, grid: Grid, facts: Mapping[str, Any]) -> dict[str, float]:
    """A model that is refused leaves what was in ``out`` as it was."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".pretrain-", dir=out) as folder:
        path = Path(folder) / MODEL
        manifest = {**resolve(made.export)(module, path, made.parameters), "name": made.name, "pretrained": True}
        fresh = series(np.random.default_rng([int(facts["seed"]), 1]), JUDGED, replace(grid, width=grid.width // 2))
        judged = forecaster_metrics(path, manifest, fresh, grid.end_minute, fresh.shape[1] - manifest["look_back"])
        metrics = {f"zero_shot_{key.removeprefix('tail_')}": value for key, value in judged.items()}
        told = {**manifest, "created": datetime.now(UTC).isoformat(timespec="seconds"), "train": {**facts, **metrics}}
        write_weights(out / WEIGHTS, module, {"pretrained": True, "parameters": dict(made.parameters), **facts})
        path.replace(out / MODEL)
    replace_text(out / MANIFEST, json.dumps(told, indent=1, sort_keys=True))
    return {**metrics, "parity": float(manifest["parity"])}


@task(name="offer", cache_policy=NO_CACHE, retries=2, retry_delay_seconds=2, retry_condition_fn=transient)
async def offer(settings: Settings, made: Recipe, out: Path, metrics: Mapping[str, float], curve: Any) -> dict[str, Any]:
    """Publish; point the alias at it where nothing serves. Raises RegistryUnavailable, ModelRefused for what may not serve."""
    return await asyncio.to_thread(_offer, settings, made, out, metrics, curve)


def _offer(settings: Settings, made: Recipe, out: Path, metrics: Mapping[str, float], curve: Any) -> dict[str, Any]:
    store, alias, name = registry(settings), settings.predict.alias, settings.predict.model
    manifest = json.loads((out / MANIFEST).read_bytes())
    admitted(settings, Artifact(name, "", out / MODEL, sha256(out / MODEL), manifest))
    with tempfile.TemporaryDirectory(prefix="forecastle-pretrain-") as cache:
        champion = incumbent(store, name, alias, manifest, Path(cache))
    if "://" in settings.predict.registry:
        log_run(settings.predict.registry, name, RunRecord({**made.parameters, "pretrained": True}, metrics, curve))
    version = store.publish(name, out / MODEL, manifest, metrics)
    if champion is None:
        store.promote(name, version, alias)
    return {"version": version, "promoted": champion is None, **({"champion": champion.version} if champion else {})}


@flow(name="pretrain")
async def pretrain(
    settings: dict[str, Any] | None = None,
    configs: Sequence[str] = ("configs",),
    flags: Sequence[str] = (),
    history: Sequence[str] = (),
    out: str = "out/pretrained",
    *,
    series: int = 512,
    steps: int | None = None,
    budget_s: float | None = None,
    seed: int = 0,
    device: str = "auto",
    parameters: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train the forecaster of the settings on generated series, export it, and register it where there is a registry.

    It serves at once where the alias points at nothing that can; a champion is left in its place.

    Args:
        settings: the whole configuration as a mapping; when None, ``configs`` and ``flags`` are loaded.
        configs: files and folders of configuration; models/forecaster.yaml is looked for in these folders.
        flags: ``section.field=value``.
        history: parquet or CSV files of recorded samples; all but their newest tenth is learned from too, half of the time.
        out: folder for weights.npz, model.onnx and manifest.json.
        series: how many series are generated.
        steps: of training, over which the learning rate falls; None: as the model's file says.
        budget_s: wall seconds of training; None: as many as the steps take.
        seed: of the generated series, the first weights and the windows drawn.
        device: ``auto``, ``cpu`` or ``cuda``.
        parameters: overrides of the model's parameters.

    Raises ConfigError, ModelRefused or RegistryUnavailable.
    """
    chosen = settings_of(settings, configs, flags)
    if not chosen.predict.model:
        raise ConfigError("predict.model is empty: there is no forecaster to pretrain; name one, such as forecaster")
    longer = {"steps": steps, "check_every": max(steps // CHECKS, 1)} if steps else {}
    step_ms = round(chosen.window.step_s * 1000)
    made = recipe(configs, "forecaster", **{"step_ms": step_ms, **(parameters or {}), **longer, "seed": seed})
    check(chosen, {"forecaster": made})
    look_back = made.parameters.get("look_back", chosen.window.look_back)
    grid = Grid(LOOK_BACKS * look_back, step_ms, made.parameters.get("season", chosen.predict.season))
    lessons = await gather(chosen, grid, series, seed, history)
    get_run_logger().info("pretraining on %d generated and %d recorded series", series, lessons.recorded)
    module, told = await fit(made, lessons, device, budget_s)
    figures = {key: float(value) for key, value in told.items() if key != "curve"}
    facts = {
        "generated": series,
        "recorded": lessons.recorded,
        "slots": grid.width,
        "seed": seed,
        "code": code_version(),
        **figures,
    }
    metrics = await export(replace(made, name=chosen.predict.model), module, Path(out), grid, facts)
    row: dict[str, Any] = {"out": out, "generated": series, "recorded": lessons.recorded, **figures, **metrics}
    if chosen.predict.registry:
        row |= await offer(chosen, made, Path(out), {**figures, **metrics}, told.get("curve", ()))
    get_run_logger().info("%s: %s", chosen.predict.model, row)
    return row
