"""The newcomer against the champion: measured on the frozen tail, published, and judged by the rule of `flows.verdict`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from flows.beside import of_manifest
from flows.champion import admitted, stand_in
from flows.findings import Findings, compared
from flows.history import History
from flows.leaderboard import CHALLENGER, CHAMPION, LAST, SEASONAL, Leaderboard, last_value, leaderboard
from flows.opponents import opponents
from flows.recipes import Recipe
from flows.rolling import Answer
from flows.tracking import RunRecord, log_run
from forecastle.errors import ConfigError, ModelRefused, NotFound
from forecastle.ports import Artifact
from forecastle.predict.artifacts import sha256
from forecastle.predict.known import Almanac
from forecastle.runtime.workshop import registry
from forecastle.settings import Settings
from forecastle.types import Foreknown
from models.tail import detector_metrics, forecaster_metrics

log = logging.getLogger(__name__)
Measure: TypeAlias = Callable[[Path, Mapping[str, Any]], tuple[float, dict[str, float]]]


@dataclass(frozen=True, slots=True)
class Fitted:
    """A trained model in memory: ``write`` exports it to a path and returns its manifest.

    ``rivals`` are rows about the configurations that were trained beside it. ``known`` is what it has learned of its known
    inputs.
    """

    name: str
    write: Callable[[Path], dict[str, Any]]
    recipe: Recipe
    metrics: Mapping[str, float] = field(default_factory=dict)
    curve: Sequence[tuple[int, float, float]] = ()
    rivals: Sequence[Mapping[str, Any]] = ()
    known: tuple[Foreknown, ...] = ()


@dataclass(frozen=True, slots=True)
class Exported:
    """A model on disk. ``measure`` gives any such model's loss on the frozen tail (smaller is better) and its metrics.

    ``about`` and ``tables`` (name -> rows) tell of the history that it learned from.
    """

    fitted: Fitted
    path: Path
    manifest: Mapping[str, Any]
    measure: Measure
    history: History
    tail: int
    about: Mapping[str, float] = field(default_factory=dict)
    tables: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)


def enter(settings: Settings, made: Exported, cache: Path) -> dict[str, Any]:
    """Measure, log, publish; point the alias at it when there is no champion or nothing speaks against it.

    Where ``train.shadow_h`` asks for a shadow, only `promote` may take the champion's place.

    Returns version, ``promoted`` with the ``reasons`` against it and ``notes`` of what was not looked at, ``loss`` and the
    metrics, and the champion's version and loss. Raises RegistryUnavailable.
    """
    store, alias, name = registry(settings), settings.predict.alias, made.fitted.name
    loss, metrics = made.measure(made.path, made.manifest)
    artifact = incumbent(store, name, alias, made.manifest, cache)
    before = (artifact.version, made.measure(artifact.path, artifact.manifest)[0]) if artifact is not None else None
    board = _board(settings, made, artifact) if made.manifest.get("kind") == "forecaster" else None
    metrics = {**metrics, **(board.metrics() if board else {})}
    if "://" in settings.predict.registry:
        everything = {**made.about, **made.fitted.metrics, **metrics, "parity": float(made.manifest["parity"])}
        trained = made.manifest.get("train", {})
        named = {key: trained[key] for key in ("data", "code", "seed") if key in trained}
        given = {**made.fitted.recipe.parameters, **named, "feature_hash": made.manifest.get("feature_hash", "")}
        told = {**made.tables, "variants": made.fitted.rivals, "leaderboard": board.table() if board else ()}
        tables = {table: rows for table, rows in told.items() if rows}
        pages = {"leaderboard": board.page()} if board else {}
        log_run(settings.predict.registry, name, RunRecord(given, everything, made.fitted.curve, tables, pages))
    version = store.publish(name, made.path, dict(made.manifest), metrics)
    found = _against(settings, made, artifact, version, (loss, before[1] if before else loss))
    if not found.reasons:
        store.promote(name, version, alias)
    row = {"version": version, "promoted": not found.reasons, "reasons": list(found.reasons), "notes": list(found.notes)}
    row = {**row, "loss": loss, **metrics, "parity": made.manifest["parity"]}
    return {**row, "champion": before[0], "champion_loss": before[1]} if before else row


def _against(
    settings: Settings, made: Exported, present: Artifact | None, version: str, losses: tuple[float, float]
) -> Findings:
    """What speaks against the newcomer; ``losses`` are its own and the champion's on the frozen tail."""
    name, kind = made.fitted.name, made.manifest.get("kind")
    candidate = Artifact(name, version, made.path, sha256(made.path), dict(made.manifest))
    try:
        both = opponents(settings, candidate, present)
    except ModelRefused as error:
        return Findings((str(error),))
    if both is None:
        return Findings()
    pinball = {"tail_pinball": losses[0]}, {"tail_pinball": losses[1]}
    known = compared(*pinball, "on the frozen tail", settings.train.margin) if kind == "forecaster" else None
    share = made.tail / made.history.values.shape[1]
    try:
        found = both.on(made.history, tail=share, where="on the frozen tail", found=known)
    except ConfigError as error:
        found = known or Findings()
        found = replace(found, reasons=(*found.reasons, f"it cannot be compared with the champion: {error}"))
    if settings.train.shadow_h > 0:
        later = f"it waits for its shadow (train.shadow_h); after that: forecastle models promote {name} {version}"
        found = replace(found, reasons=(*found.reasons, later))
    return found


def incumbent(store: Any, name: str, alias: str, manifest: Mapping[str, Any], cache: Path) -> Artifact | None:
    """What the alias points at; None when nothing does, or what does cannot serve where a model of ``manifest`` can."""
    try:
        artifact: Artifact = store.pull(name, store.resolve(name, alias), cache)
    except (NotFound, ModelRefused):
        return None
    must = ("kind", "step_ms", "quantiles")
    if any(artifact.manifest.get(key) != manifest.get(key) for key in must):
        return None
    return artifact


def _board(settings: Settings, made: Exported, champion: Artifact | None) -> Leaderboard | None:
    """None when the tail is too short, or the newcomer may not serve; publishing goes on and `promote` says so."""
    horizon = settings.predict.horizon
    entrants = {CHALLENGER: Artifact(made.fitted.name, "", made.path, sha256(made.path), dict(made.manifest))}
    entrants |= {CHAMPION: champion} if champion is not None else {}
    try:
        answers: dict[str, Answer] = {name: admitted(settings, one).infer for name, one in entrants.items()}
        answers |= {SEASONAL: partial(stand_in, settings), LAST: partial(last_value, horizon=horizon)}
        season, look_back = settings.predict.season, settings.window.look_back
        return leaderboard(made.history, answers, tail=made.tail, horizon=horizon, season=season, look_back=look_back)
    except (ConfigError, ModelRefused) as error:
        log.warning("%s: no leaderboard: %s", made.fitted.name, error)
        return None


def measure(kind: str, history: History, tail: int, almanac: Almanac) -> Measure:
    """How models of ``kind`` (forecaster, detector) are measured on the last ``tail`` slots."""
    return partial(_detector, history, tail) if kind == "detector" else partial(_forecaster, history, tail, almanac)


def _forecaster(
    history: History, tail: int, almanac: Almanac, path: Path, manifest: Mapping[str, Any]
) -> tuple[float, dict[str, float]]:
    told = of_manifest(almanac, manifest, history)
    metrics = forecaster_metrics(path, manifest, history.values, history.end // 60_000, tail, **told)
    return metrics["tail_pinball"], metrics


def _detector(history: History, tail: int, path: Path, manifest: Mapping[str, Any]) -> tuple[float, dict[str, float]]:
    metrics = detector_metrics(path, manifest, history.keys, history.values, tail)
    return metrics["tail_loss"], metrics
