"""What speaks against a candidate: the one rule by which `promote` decides for a person and `train` for itself.

A candidate must be better than the champion by a margin, on slots that it has not learned from and, where one is asked for, in
its shadow; and it may change neither its quantiles nor the capacity that they ask for beyond bounds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, TypeAlias

import numpy as np

from flows import rolling
from flows.capacity import capacity_reasons, recommended
from flows.champion import admitted
from flows.history import History, read_history
from forecastle.detect.trial import attempt
from forecastle.errors import BrokerUnavailable, ConfigError, ModelRefused
from forecastle.ports import Artifact, Registry
from forecastle.predict.naive import QUANTILES
from forecastle.runtime.workshop import registry
from forecastle.settings import Settings
from forecastle.types import Floats, Floats32, SeriesKey, Windows
from models.tail import detector_metrics

METRICS = ("crps", "wql", "mase", "tail_pinball", "tail_loss")
"""Errors by which models are compared, the best first; what both recorded when they were published counts."""
MAX_CHANGE = 0.5
"""95th percentile of the relative difference between the two models' quantiles on the same windows."""
ORIGINS, TAIL, SHOWN = 24, 0.2, 5
Pair: TypeAlias = tuple[rolling.Answer, rolling.Answer]


@dataclass(frozen=True, slots=True)
class Findings:
    """``reasons`` against a candidate. ``errors``: metric -> (candidate, champion); ``notes`` say what was not looked at."""

    reasons: tuple[str, ...] = ()
    errors: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    change: float | None = None
    notes: tuple[str, ...] = ()


def judged(settings: Settings, candidate: Artifact, present: Artifact | None, file: str, limit: float) -> Findings:
    """Of a published candidate, see `flows.promote`. ``file`` is a history; when '' the Kafka topics are asked for one.

    Raises ModelRefused when the candidate may not serve, and BrokerUnavailable when its shadow is in topics out of reach.
    """
    if candidate.manifest.get("kind") == "detector":
        attempt(candidate)
        return Findings() if present is None else _detectors(settings, candidate, present, file)
    pair = opponents(settings, candidate, present)
    if pair is None or present is None:
        return Findings()
    shadowed = settings.train.shadow_h > 0
    history, notes = _history(settings, file, needed=shadowed)
    if history is None:
        recorded = _recorded(registry(settings), candidate, present, settings.train.margin)
        return replace(_plain(settings, recorded, pair, limit), notes=notes)
    if not shadowed:
        return _frozen(settings, history, (candidate, present), pair, limit)
    slots = _shadow_slots(candidate, history)
    try:
        frozen = _frozen(settings, history.before(max(slots, 0)), (candidate, present), pair, limit)
    except ConfigError:
        frozen = _recorded(registry(settings), candidate, present, settings.train.margin)
    return _together(frozen, _shadowed(settings, history, candidate, pair, limit))


def opponents(settings: Settings, candidate: Artifact, present: Artifact | None) -> Pair | None:
    """Both forecasters as a worker would serve them; None when nothing that may serve holds the place.

    Raises ModelRefused when the candidate may not serve.
    """
    challenger = admitted(settings, candidate).infer
    try:
        return None if present is None else (challenger, admitted(settings, present).infer)
    except ModelRefused:
        return None


def compared(mine: Mapping[str, float], theirs: Mapping[str, float], where: str, margin: float) -> Findings:
    """The first metric both have decides; all that both have are shown."""
    errors = {metric: (mine[metric], theirs[metric]) for metric in METRICS if metric in mine and metric in theirs}
    if not errors:
        return Findings((f"no error that both models have {where}; give a history to compare them on, or force",))
    metric, (own, other) = next(iter(errors.items()))
    if own <= other - margin * abs(other):
        return Findings(errors=errors)
    word = "is not enough beside" if own <= other else "is worse than"
    asked = f", which it must beat by {margin:.1%}" if margin > 0 else f" by more than {-margin:.1%}" if margin < 0 else ""
    return Findings((f"{metric} {own:.4g} {where} {word} the champion's {other:.4g}{asked}",), errors)


def rolled(
    settings: Settings, history: History, pair: Pair, limit: float, *, tail: float, where: str, found: Findings | None = None
) -> Findings:
    """Challenger and holder on the same windows of the last ``tail`` of a history.

    ``found`` is what is known of their errors already. Raises ConfigError when the tail is too short.
    """
    horizon = settings.predict.horizon
    at = rolling.origins(history, horizon, tail=tail, count=ORIGINS)
    actual, size = rolling.actuals(history, at, horizon), rolling.scale(history, int(at[0]), settings.predict.season)
    said = [rolling.roll(history, at, answer, settings.window.look_back) for answer in pair]
    mine, theirs = (rolling.score(one[:, :, :horizon], actual, size, QUANTILES).metrics() for one in said)
    known = compared(mine, theirs, where, settings.train.margin) if found is None else found
    bounded = _bounded(known, said[1], said[0], size, limit)
    ordered = [recommended(settings, history.keys, one, QUANTILES) for one in said]
    strange = capacity_reasons(ordered[1], ordered[0], settings.train.max_capacity_change)
    unseen = _unseen(settings, ordered[0])
    return replace(bounded, reasons=bounded.reasons + tuple(f"{where} {one}" for one in strange), notes=unseen)


def _history(settings: Settings, file: str, *, needed: bool) -> tuple[History | None, tuple[str, ...]]:
    """What to compare on, else why recommended capacity is not compared. Raises when it is ``needed``."""
    if file or needed:
        return read_history(settings, file or None), ()
    if not settings.fleet.workloads:
        return None, _unseen(settings, {})
    try:
        return read_history(settings, None), ()
    except (BrokerUnavailable, ConfigError) as error:
        return None, (_unchecked(f"{error}; give a history"),)


def _unseen(settings: Settings, ordered: Mapping[str, float]) -> tuple[str, ...]:
    """A note when some workload's capacity could not be compared."""
    names = [load.name for load in settings.fleet.workloads if load.name not in ordered]
    if names:
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        return (_unchecked(f"the history holds no demand of {', '.join(names[:SHOWN])}{more}"),)
    return () if ordered else (_unchecked("the settings name no workloads"),)


def _unchecked(why: str) -> str:
    return f"the change of recommended capacity was not checked: {why}"


def _frozen(settings: Settings, history: History, artifacts: tuple[Artifact, Artifact], pair: Pair, limit: float) -> Findings:
    """On the newest slots that neither has learned from; on the history's tail, which is said, when there are too few."""
    ends = [end for one in artifacts if isinstance(end := (one.manifest.get("train") or {}).get("end"), int)]
    columns = history.values.shape[1]
    unseen = (history.end - max(ends, default=history.end)) // history.step_ms
    fresh = unseen > settings.predict.horizon
    tail = min(TAIL, unseen / columns) if fresh else TAIL
    found = rolled(settings, history, pair, limit, tail=tail, where="on the history's tail")
    doubt = () if fresh or not ends else ("a model may have learned from the history's tail, on which the two were compared",)
    return replace(found, notes=found.notes + doubt)


def _shadow_slots(candidate: Artifact, history: History) -> int:
    """Slots measured since the candidate was trained and chosen; 0 when it does not say."""
    trained = candidate.manifest.get("train") or {}
    end = trained.get("end")
    if not isinstance(end, int):
        return 0
    step_ms = candidate.manifest.get("step_ms", 0)
    slots = (history.end - end - trained.get("tail", 0) * step_ms) // history.step_ms
    return int(min(slots, history.values.shape[1] - 2))


def _shadowed(settings: Settings, history: History, candidate: Artifact, pair: Pair, limit: float) -> Findings:
    """Both on what was measured since the candidate was trained and chosen; errors are named ``shadow_...``."""
    if not isinstance((candidate.manifest.get("train") or {}).get("end"), int):
        return Findings(("it does not say when its training ended, so it has no shadow; train it again, or force",))
    slots = _shadow_slots(candidate, history)
    hours = max(slots, 0) * history.step_ms / 3_600_000
    if hours < settings.train.shadow_h or slots <= settings.predict.horizon:
        least = max(settings.train.shadow_h, (settings.predict.horizon + 1) * history.step_ms / 3_600_000)
        return Findings((f"its shadow is {hours:.1f} h long, of {least:.1f} h; wait until it is longer, or force",))
    if not history.mask[:, -slots:].any():
        return Findings(("nothing was measured in its shadow; look at the history's end, or force",))
    share = slots / history.values.shape[1]
    found = rolled(settings, history, pair, limit, tail=share, where=f"in its shadow of {hours:.1f} h")
    return replace(found, errors={f"shadow_{metric}": told for metric, told in found.errors.items()})


def _together(one: Findings, other: Findings) -> Findings:
    change = max((c for c in (one.change, other.change) if c is not None), default=None)
    notes = tuple(dict.fromkeys(chain(one.notes, other.notes)))
    return Findings(one.reasons + other.reasons, {**one.errors, **other.errors}, change, notes)


def _detectors(settings: Settings, candidate: Artifact, present: Artifact, file: str) -> Findings:
    margin = settings.train.margin
    if not file:
        return _recorded(registry(settings), candidate, present, margin)
    history = read_history(settings, file)
    tail = max(round(TAIL * history.values.shape[1]), 2)
    mine, theirs = (detector_metrics(a.path, a.manifest, history.keys, history.values, tail) for a in (candidate, present))
    return compared(mine, theirs, "on the history's tail", margin)


def _recorded(store: Registry, candidate: Artifact, present: Artifact, margin: float) -> Findings:
    rows = {str(row["version"]): row["metrics"] for row in store.versions(candidate.name)}
    if _measured_on(candidate) != _measured_on(present):
        return Findings(("the two were measured on different histories; give one to compare them on, or force",))
    return compared(rows.get(candidate.version, {}), rows.get(present.version, {}), "as published", margin)


def _measured_on(artifact: Artifact) -> list[Any]:
    """What names the frozen tail on which a model was measured when it was published."""
    trained = artifact.manifest.get("train") or {}
    return [trained.get(key) for key in ("series", "slots", "end")]


def _plain(settings: Settings, found: Findings, pair: Pair, limit: float) -> Findings:
    """Bounds the change on made-up demand."""
    windows = _ordinary(settings)
    size = np.maximum(np.nanstd(windows.values, axis=1), 1e-9).astype(np.float64)
    challenger, holder = pair
    return _bounded(found, holder(windows)[None], challenger(windows)[None], size, limit)


def _bounded(found: Findings, before: Floats32, after: Floats32, size: Floats, limit: float) -> Findings:
    change = rolling.change(before, after, size)
    reasons = found.reasons
    if not change <= limit:
        reasons += (f"its quantiles differ from the champion's by {change:.0%}, more than {limit:.0%}, on the same windows",)
    return replace(found, reasons=reasons, change=change)


def _ordinary(settings: Settings) -> Windows:
    """Made-up demand of 64 series: a daily wave of many sizes with noise, the same each time."""
    rng, look_back, step_ms = np.random.default_rng(0), settings.window.look_back, round(settings.window.step_s * 1000)
    phase = 2 * np.pi * (np.arange(look_back) / settings.predict.season + rng.random((64, 1)))
    values = np.geomspace(1, 1e4, 64)[:, None] * (1 + 0.5 * np.sin(phase)) * rng.lognormal(0, 0.05, (64, look_back))
    keys = tuple(SeriesKey(f"w{i}", "demand") for i in range(64))
    flags = np.zeros(64, np.bool_)
    return Windows(keys, 0, step_ms, values.astype(np.float32), np.ones(values.shape, np.bool_), flags, flags)
