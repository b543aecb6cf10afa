"""The train flow: history in, two registered models out. A newcomer serves if it is better on the frozen tail, within bounds.

Runs on a schedule, after drift, or by hand (``forecastle train``). Nothing is promoted that was not exported, proved equal to
what was trained, and measured on slots that neither it nor the choice of its weights has seen.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE

from flows import voices
from flows.beside import beside, foreseen
from flows.contest import Exported, Fitted, enter, measure
from flows.fan_out import Training, best, table, train_all
from flows.history import History, gridded, read_measured
from flows.incidents import IncidentSpan, healed, hidden, masked, read_incidents
from flows.leaderboard import code_version, data_fingerprint
from flows.members import learn
from flows.quality import Quality, QualityLimits, cleared, learnable, on_time
from flows.recipes import Recipe, check, recipe
from flows.tracking import Table
from forecastle.detect import selector
from forecastle.detect.voices import CHOICES
from forecastle.errors import Transient
from forecastle.ports import Artifact
from forecastle.predict.artifacts import sha256
from forecastle.predict.known import Almanac
from forecastle.runtime.inventory import almanac, resolve
from forecastle.runtime.workshop import registry, settings_of
from forecastle.settings import Settings, TrainSettings
from forecastle.types import SeriesKey

TAIL = 0.1
"""Share of the history no training sees."""
DETECTOR_SHARE = 0.23
"""Of the budget; the forecaster has the rest."""
Span: TypeAlias = tuple[int, int]


def transient(_task: Any, _run: Any, state: Any) -> bool:
    """Whether a failed task may be tried again."""
    return isinstance(state.result(raise_on_failure=False), Transient)


@dataclass(frozen=True, slots=True)
class Lesson:
    """What is learned from: the history without incidents and flat lines, its quality, and the share that incidents hid."""

    history: History
    quality: Quality
    hidden: float


@task(name="load-history", cache_policy=NO_CACHE)
async def load_history(settings: Settings, history: str | None, without: Sequence[Span], incidents: str, need: int) -> Lesson:
    """Read, judge, put on the grid, and cut incidents and flat lines out."""
    return await asyncio.to_thread(_lesson, settings, history, without, incidents, need)


def _lesson(settings: Settings, file: str | None, without: Sequence[Span], incidents: str, need: int) -> Lesson:
    spans = _incidents(settings, incidents)
    measured = read_measured(settings, file)
    whole = gridded(on_time(measured), round(settings.window.step_s * 1000))
    limits = QualityLimits(need, settings.window.flat_slots, settings.intake.max_skew_s)
    clean = masked(whole.without(without), spans)
    return Lesson(*cleared(measured, clean, limits), hidden(whole, clean))


def _incidents(settings: Settings, where: str) -> tuple[IncidentSpan, ...]:
    """Those of a file, or around the remedies that the ledger remembers when ``where`` is ``ledger``."""
    if where != "ledger":
        return read_incidents(Path(where)) if where else ()
    from forecastle.ledger.store import SqlLedger
    from forecastle.runtime.clocks import WallClock

    pools = {pool.name: (load.name, pool.site) for load in settings.fleet.workloads for pool in load.pools}
    before, after = settings.detect.group_s * 1000, settings.decide.heal_settle_s * 1000
    ledger = SqlLedger(settings.ledger, WallClock())
    try:
        return healed(ledger.outcomes(), pools, before_ms=int(before), after_ms=int(after))
    finally:
        ledger.close()


@task(name="fit-forecaster", cache_policy=NO_CACHE)
async def fit_forecaster(
    name: str,
    made: Recipe,
    history: History,
    demand: Sequence[bool],
    almanac: Almanac,
    *,
    deadline_s: float | None,
    rules: TrainSettings,
) -> Fitted:
    """Train on all series; the demand series, when known, are half of what it sees. The best of its variants is kept.

    Where its parameters ask for it, it is told of the occasions in ``almanac``.
    """
    share = sum(demand)
    weight = (len(demand) - share) / share if 0 < share < len(demand) / 2 else 1.0
    weights, rivals = [weight if one else 1.0 for one in demand], made.rivals(rules.fan_out)
    learned = [foreseen(almanac, one, history) for one in rivals]
    told = [
        beside(almanac, known, one.get("static", ()), history, one.get("look_back", 0))
        for one, known in zip(rivals, learned, strict=True)
    ]
    data = history.values, history.end // 60_000, weights, deadline_s
    trainings = [
        Training(made.train, one, *data, Path(rules.work) / f"{name}-{i}.npz", told[i]) for i, one in enumerate(rivals)
    ]
    trained = await asyncio.to_thread(train_all, trainings, at_once=rules.fan_out, executor=rules.executor)
    won = best(trained)
    write = partial(resolve(made.export), won.module, cfg=won.parameters)
    metrics = {k: float(v) for k, v in won.metrics.items() if k != "curve"}
    rows = table(trained) if len(trained) > 1 else ()
    known = next(known for known, one in zip(learned, trained, strict=True) if one is won)
    return Fitted(name, write, replace(made, parameters=won.parameters), metrics, won.metrics.get("curve", ()), rows, known)


@task(name="fit-detector", cache_policy=NO_CACHE)
async def fit_detector(name: str, made: Recipe, history: History, deadline_s: float | None) -> Fitted:
    """Train on all series, grouped by workload and site."""
    fit = resolve(made.train)
    data = history.keys, history.values, history.mask, made.parameters
    module = await asyncio.to_thread(partial(fit, *data, deadline_s=deadline_s))
    return Fitted(name, partial(resolve(made.export), module), made)


@task(name="export", cache_policy=NO_CACHE)
async def export(
    fitted: Fitted, folder: Path, whole: History, tail: int, lesson: Lesson, *, almanac: Almanac, demand: Sequence[bool] = ()
) -> Exported:
    """Write the ONNX file; refuse it unless it answers as the trained module does. Raises ModelRefused.

    Where the recipe asks for statistical members, the manifest lists the series that they take over; a detector's says how it
    is to be heard for each metric. What a model has learned of its known inputs is there too.
    """
    path = folder / fitted.name / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    manifest = await asyncio.to_thread(fitted.write, path)
    history = whole.before(tail)
    trained = {
        "series": len(history.keys),
        "slots": int(history.values.shape[1]),
        "end": history.end,
        "tail": tail,
        "data": data_fingerprint(whole),
        "code": code_version(),
        "seed": int(fitted.recipe.parameters.get("seed", 0)),
        **fitted.metrics,
    }
    created = datetime.now(UTC).isoformat(timespec="seconds")
    told = {"created": created, "step_ms": history.step_ms, **manifest, "name": fitted.name, "train": trained}
    if fitted.known:
        told["known"] = [asdict(one) for one in fitted.known]
    if fitted.recipe.members is not None:
        season = int(fitted.recipe.parameters.get("season", 0))
        ask = partial(learn, demand=demand, season=season, rules=fitted.recipe.members, almanac=almanac)
        told["members"] = await asyncio.to_thread(ask, path, told, history)
    metrics = {**lesson.quality.metrics(), "incidents_hidden": lesson.hidden}
    tables: dict[str, Table] = {"quality": lesson.quality.table()}
    if told["kind"] == "detector":
        artifact = Artifact(fitted.name, "", path, sha256(path), told)
        choices = await asyncio.to_thread(voices.learn, artifact, whole, tail)
        told[CHOICES] = selector.told(choices)
        tables["voices"], metrics = voices.table(choices), {**metrics, **voices.metrics(choices)}
    judge = measure(told["kind"], whole, tail, almanac)
    return Exported(fitted, path, told, judge, whole, tail, metrics, tables)


@task(name="register", cache_policy=NO_CACHE, retries=2, retry_delay_seconds=2, retry_condition_fn=transient)
async def register(settings: Settings, made: Exported, cache: Path) -> dict[str, Any]:
    """Measure, log, publish; point the alias at it when there is no champion or nothing speaks against it."""
    return await asyncio.to_thread(enter, settings, made, cache)


@flow(name="train")
async def train(
    settings: dict[str, Any] | None = None,
    configs: Sequence[str] = ("configs",),
    flags: Sequence[str] = (),
    history: str | None = None,
    *,
    budget_s: float | None = None,
    without: Sequence[tuple[int, int]] = (),
    incidents: str = "",
    parameters: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, dict[str, Any]]:
    """Train, export and register the forecaster and the detector that the settings name; one row about each.

    Args:
        settings: the whole configuration as a mapping; when None, ``configs`` and ``flags`` are loaded.
        configs: files and folders of configuration; models/*.yaml are looked for in these folders and beside these files,
            in the last first.
        flags: ``section.field=value``.
        history: a parquet or CSV file of samples; None reads the Kafka topics from their beginning.
        budget_s: wall seconds of training, of which the detector takes about a quarter; None: until the models stop improving.
        without: spans (start, end) in ms that nothing is learned from.
        incidents: a file of incidents (see `flows.incidents`) that nothing is learned from, or ``ledger`` for the times around
            the remedies that it remembers.
        parameters: overrides of the models' parameters by file name, for example ``{"forecaster": {"steps": 100}}``.

    Raises ConfigError, ModelRefused, RegistryUnavailable or BrokerUnavailable.
    """
    chosen = settings_of(settings, configs, flags)
    registry(chosen)
    step_ms, changes = round(chosen.window.step_s * 1000), parameters or {}
    makers = {"forecaster": chosen.predict.model, "detector": chosen.detect.model}
    recipes = {
        file: recipe(configs, file, **{**({"step_ms": step_ms} if file == "forecaster" else {}), **changes.get(file, {})})
        for file, name in makers.items()
        if name
    }
    check(chosen, recipes)
    lesson = await load_history(chosen, history, without, incidents, _need(recipes))
    get_run_logger().info("history: %s; incidents hide %.1f %%", lesson.quality.text(), 100 * lesson.hidden)
    tail = max(round(TAIL * lesson.history.values.shape[1]), 2)
    rows, beforehand = dict[str, dict[str, Any]](), almanac(chosen)
    with tempfile.TemporaryDirectory(prefix="forecastle-train-") as folder:
        for file, made in recipes.items():
            share = DETECTOR_SHARE if file == "detector" else 1 - DETECTOR_SHARE * ("detector" in recipes)
            deadline_s = budget_s * share if budget_s else None
            whole = learnable(lesson.history, lesson.quality) if file == "forecaster" else lesson.history
            seen = whole.before(tail)
            demand = _demand(chosen, whole.keys)
            if file == "forecaster":
                rules = chosen.train
                fitted = await fit_forecaster(makers[file], made, seen, demand, beforehand, deadline_s=deadline_s, rules=rules)
            else:
                fitted = await fit_detector(makers[file], made, seen, deadline_s)
            exported = await export(fitted, Path(folder), whole, tail, lesson, almanac=beforehand, demand=demand)
            row = rows[makers[file]] = await register(chosen, exported, Path(folder) / "champions")
            get_run_logger().info("%s: %s", makers[file], row)
            for told in (*row["reasons"], *row["notes"]):
                get_run_logger().warning("%s %s: %s", makers[file], row["version"], told)
    return rows


def _need(recipes: Mapping[str, Recipe]) -> int:
    """Observed slots below which a series holds no window worth learning from."""
    made = recipes.get("forecaster")
    return made.parameters.get("look_back", 0) // 4 + 2 * made.parameters.get("horizon", 0) if made else 1


def _demand(settings: Settings, keys: Sequence[SeriesKey]) -> list[bool]:
    wanted = {
        (load.name, demand.metric, tuple(sorted(demand.labels.items())))
        for load in settings.fleet.workloads
        for demand in load.demands
    }
    return [tuple(key) in wanted for key in keys]
