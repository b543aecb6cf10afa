"""The promote flow: a candidate takes the champion's place only when it is no worse and no stranger.

A model that may not serve is never promoted. What else speaks against a candidate stops it unless a human says ``force``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from prefect import flow, get_run_logger, task
from prefect.artifacts import acreate_markdown_artifact
from prefect.cache_policies import NO_CACHE

from flows import rolling
from flows.capacity import capacity_reasons, recommended
from flows.champion import admitted, champion
from flows.history import History, read_history
from forecastle.detect.trial import attempt
from forecastle.errors import ConfigError, ModelRefused, NotFound
from forecastle.ports import Artifact, Registry
from forecastle.predict.naive import QUANTILES
from forecastle.runtime.workshop import registry, settings_of
from forecastle.settings import Settings
from forecastle.types import Floats, Floats32, SeriesKey, Windows

METRICS = ("crps", "wql", "mase", "tail_pinball", "tail_loss")
"""Errors by which models are compared, the best first; what both recorded when they were published counts."""
MAX_CHANGE = 0.5
"""95th percentile of the relative difference between the two models' quantiles on the same windows."""
ORIGINS, TAIL = 24, 0.2
Pair: TypeAlias = tuple[rolling.Answer, rolling.Answer]


@dataclass(frozen=True, slots=True)
class Decision:
    """``promoted`` or not, with the ``reasons`` against it. ``errors``: metric -> (candidate, champion). Versions may be ''."""

    name: str
    version: str
    champion: str
    promoted: bool
    forced: bool = False
    reasons: tuple[str, ...] = ()
    errors: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    change: float | None = None

    def markdown(self) -> str:
        """For the artifact in Prefect."""
        verdict = "promoted, forced" if self.forced else "promoted" if self.promoted else "refused"
        lines = [f"# {self.name} {self.version}: {verdict}", f"Champion before: {self.champion or 'none'}"]
        lines += [f"- against it: {reason}" for reason in self.reasons]
        lines += [f"- {metric}: {mine:.4g}, champion {other:.4g}" for metric, (mine, other) in self.errors.items()]
        return "\n\n".join([*lines, *([] if self.change is None else [f"Change of outputs: {self.change:.3f}"])])


@dataclass(frozen=True, slots=True)
class Findings:
    """What the comparison came to; see `Decision`."""

    reasons: tuple[str, ...]
    errors: Mapping[str, tuple[float, float]]
    change: float | None = None


@task(name="judge-candidate", cache_policy=NO_CACHE)
async def judge(settings: Settings, candidate: Artifact, present: Artifact | None, history: str, limit: float) -> Findings:
    """Compare the two. With a ``history`` both are rolled over its tail, else the errors they were published with count.

    Raises ModelRefused when the candidate may not serve.
    """
    return await asyncio.to_thread(_judged, settings, candidate, present, history, limit)


def _judged(settings: Settings, candidate: Artifact, present: Artifact | None, history: str, limit: float) -> Findings:
    if candidate.manifest.get("kind") == "detector":
        attempt(candidate)
        margin = settings.train.margin
        return Findings((), {}) if present is None else _recorded(registry(settings), candidate, present, margin)
    challenger = admitted(settings, candidate).infer
    if present is None:
        return Findings((), {})
    try:
        holder = admitted(settings, present).infer
    except ModelRefused:
        return Findings((), {})
    if settings.train.shadow_h > 0:
        return _shadowed(settings, history, candidate, (challenger, holder), limit)
    if history:
        return _rolled(settings, read_history(settings, history), (challenger, holder), limit)
    recorded = _recorded(registry(settings), candidate, present, settings.train.margin)
    windows = _ordinary(settings)
    size = np.maximum(np.nanstd(windows.values, axis=1), 1e-9).astype(np.float64)
    return _bounded(recorded, holder(windows)[None], challenger(windows)[None], size, limit)


def _rolled(
    settings: Settings, history: History, pair: Pair, limit: float, *, tail: float = TAIL, where: str = "on the history's tail"
) -> Findings:
    """Challenger and holder on the same windows of a history's tail."""
    horizon = settings.predict.horizon
    at = rolling.origins(history, horizon, tail=tail, count=ORIGINS)
    actual, size = rolling.actuals(history, at, horizon), rolling.scale(history, int(at[0]), settings.predict.season)
    said = [rolling.roll(history, at, answer, settings.window.look_back) for answer in pair]
    mine, theirs = (rolling.score(one[:, :, :horizon], actual, size, QUANTILES).metrics() for one in said)
    found = _bounded(_compared(mine, theirs, where, settings.train.margin), said[1], said[0], size, limit)
    ordered = [recommended(settings, history.keys, one, QUANTILES) for one in said]
    strange = capacity_reasons(ordered[1], ordered[0], settings.train.max_capacity_change)
    return replace(found, reasons=found.reasons + strange)


def _shadowed(settings: Settings, file: str, candidate: Artifact, pair: Pair, limit: float) -> Findings:
    """Both on what was measured since the candidate was trained and chosen: in ``file``, else in the Kafka topics."""
    trained = candidate.manifest.get("train") or {}
    end, tail, step_ms = trained.get("end"), trained.get("tail", 0), candidate.manifest.get("step_ms", 0)
    if not isinstance(end, int):
        return Findings(("it does not say when its training ended, so it has no shadow; train it again, or force",), {})
    history = read_history(settings, file or None)
    slots = min((history.end - end - tail * step_ms) // history.step_ms, history.values.shape[1] - 2)
    hours = max(slots, 0) * history.step_ms / 3_600_000
    if hours < settings.train.shadow_h or slots <= settings.predict.horizon:
        least = max(settings.train.shadow_h, (settings.predict.horizon + 1) * history.step_ms / 3_600_000)
        return Findings((f"its shadow is {hours:.1f} h long, of {least:.1f} h; wait until it is longer, or force",), {})
    if not history.mask[:, -slots:].any():
        return Findings(("nothing was measured in its shadow; look at the history's end, or force",), {})
    share = slots / history.values.shape[1]
    return _rolled(settings, history, pair, limit, tail=share, where=f"in its shadow of {hours:.1f} h")


def _recorded(store: Registry, candidate: Artifact, present: Artifact, margin: float) -> Findings:
    rows = {str(row["version"]): row["metrics"] for row in store.versions(candidate.name)}
    if _measured_on(candidate) != _measured_on(present):
        return Findings(("the two were measured on different histories; give one to compare them on, or force",), {})
    return _compared(rows.get(candidate.version, {}), rows.get(present.version, {}), "as published", margin)


def _measured_on(artifact: Artifact) -> list[Any]:
    """What names the frozen tail on which a model was measured when it was published."""
    trained = artifact.manifest.get("train") or {}
    return [trained.get(key) for key in ("series", "slots", "end")]


def _compared(mine: Mapping[str, float], theirs: Mapping[str, float], where: str, margin: float) -> Findings:
    """The first metric both have decides; all that both have are shown."""
    errors = {metric: (mine[metric], theirs[metric]) for metric in METRICS if metric in mine and metric in theirs}
    if not errors:
        return Findings((f"no error that both models have {where}; give a history to compare them on, or force",), {})
    metric, (own, other) = next(iter(errors.items()))
    if own <= other + margin * abs(other):
        return Findings((), errors)
    asked = f", which it must beat by {-margin:.1%}" if margin < 0 else ""
    word = "is not enough beside" if margin < 0 and own <= other else "is worse than"
    return Findings((f"{metric} {own:.4g} {where} {word} the champion's {other:.4g}{asked}",), errors)


def _bounded(found: Findings, before: Floats32, after: Floats32, size: Floats, limit: float) -> Findings:
    change = rolling.change(before, after, size)
    reasons = found.reasons
    if not change <= limit:
        reasons += (f"its quantiles differ from the champion's by {change:.0%}, more than {limit:.0%}, on the same windows",)
    return Findings(reasons, found.errors, change)


def _ordinary(settings: Settings) -> Windows:
    """Made-up demand of 64 series: a daily wave of many sizes with noise, the same each time."""
    rng, look_back, step_ms = np.random.default_rng(0), settings.window.look_back, round(settings.window.step_s * 1000)
    phase = 2 * np.pi * (np.arange(look_back) / settings.predict.season + rng.random((64, 1)))
    values = np.geomspace(1, 1e4, 64)[:, None] * (1 + 0.5 * np.sin(phase)) * rng.lognormal(0, 0.05, (64, look_back))
    keys = tuple(SeriesKey(f"w{i}", "demand") for i in range(64))
    flags = np.zeros(64, np.bool_)
    return Windows(keys, 0, step_ms, values.astype(np.float32), np.ones(values.shape, np.bool_), flags, flags)


def _present(settings: Settings, store: Registry, name: str) -> tuple[str, Artifact | None]:
    """The champion's version and artifact; no artifact when there is no champion, or none that is what was published."""
    try:
        found = champion(settings, store, name)
    except ModelRefused:
        return store.resolve(name, settings.predict.alias), None
    return (found.version, found) if found else ("", None)


async def _decide(settings: Settings, name: str, version: str, *, history: str, force: bool, max_change: float) -> Decision:
    if name not in {settings.predict.model, settings.detect.model}:
        raise ConfigError(f"{name!r}: is neither predict.model nor detect.model; promote {settings.predict.model!r}")
    store = registry(settings)
    now, present = _present(settings, store, name)
    if now == version:
        return Decision(name, version, now, promoted=False, reasons=("it is the champion already",))
    try:
        candidate = store.pull(name, version, Path(settings.predict.cache))
        found = await judge(settings, candidate, present, history, max_change)
    except (ModelRefused, NotFound) as error:
        return Decision(name, version, now, promoted=False, reasons=(str(error),))
    promoted = force or not found.reasons
    if promoted:
        store.promote(name, version, settings.predict.alias)
    forced = promoted and bool(found.reasons)
    return Decision(name, version, now, promoted, forced, found.reasons, found.errors, found.change)


@flow(name="promote", validate_parameters=False)
async def promote(
    name: str,
    version: str,
    settings: dict[str, Any] | None = None,
    *,
    configs: Sequence[str] = ("configs",),
    flags: Sequence[str] = (),
    history: str = "",
    force: bool = False,
    max_change: float = MAX_CHANGE,
) -> dict[str, Any]:
    """Point the serving alias at ``version`` of ``name`` if it may take the champion's place; ``force`` overrides comparisons.

    ``settings`` wins over ``configs`` and ``flags``. Returns the decision (see `Decision`) and keeps it as an artifact.
    """
    known = settings_of(settings, configs, flags)
    decision = await _decide(known, name, str(version), history=history, force=force, max_change=max_change)
    get_run_logger().info("%s", decision)
    await acreate_markdown_artifact(key="forecastle-promotion", markdown=decision.markdown())
    return asdict(decision)
