"""What speaks against a candidate: the one rule by which `promote` decides for a person and `train` for itself.

A candidate must be better than the champion by a margin, on slots that it has not learned from and, where one is asked for, in
its shadow; and it may change what it says beyond no bounds: a forecaster its quantiles and the capacity that they ask for, a
detector how often it alarms and of what.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flows.findings import Findings, compared, together
from flows.history import History, read_history
from flows.opponents import Opponents, opponents
from forecastle.errors import BrokerUnavailable, ConfigError
from forecastle.ports import Artifact, Registry
from forecastle.runtime.workshop import registry
from forecastle.settings import Settings

TAIL = 0.2


def judged(settings: Settings, candidate: Artifact, present: Artifact | None, file: str, limit: float) -> Findings:
    """Of a published candidate, see `flows.promote`. ``file`` is a history; when '' the Kafka topics are asked for one.

    Raises ModelRefused when the candidate may not serve, and BrokerUnavailable when its shadow is in topics out of reach.
    """
    both = opponents(settings, candidate, present, limit)
    if both is None or present is None:
        return Findings()
    shadowed = settings.train.shadow_h > 0
    history, why = _history(settings, file, needed=shadowed)
    if history is None:
        return both.without(_recorded(registry(settings), candidate, present, settings.train.margin), why)
    if not shadowed:
        return _frozen(history, (candidate, present), both)
    slots = _shadow_slots(candidate, history)
    try:
        frozen = _frozen(history.before(max(slots, 0)), (candidate, present), both)
    except ConfigError:
        frozen = _recorded(registry(settings), candidate, present, settings.train.margin)
    return together(frozen, _shadowed(settings, history, candidate, both))


def _history(settings: Settings, file: str, *, needed: bool) -> tuple[History | None, str]:
    """What to compare on, else why there is nothing. Raises when it is ``needed``."""
    if file or needed:
        return read_history(settings, file or None), ""
    if not settings.fleet.workloads:
        return None, "the settings name no workloads, so no topics were read; give a history"
    try:
        return read_history(settings, None), ""
    except (BrokerUnavailable, ConfigError) as error:
        return None, f"{error}; give a history"


def _frozen(history: History, artifacts: tuple[Artifact, Artifact], both: Opponents) -> Findings:
    """On the newest slots that neither has learned from; on the history's tail, which is said, when there are too few."""
    ends = [end for one in artifacts if isinstance(end := (one.manifest.get("train") or {}).get("end"), int)]
    columns = history.values.shape[1]
    unseen = (history.end - max(ends, default=history.end)) // history.step_ms
    fresh = unseen > both.least
    found = both.on(history, tail=min(TAIL, unseen / columns) if fresh else TAIL, where="on the history's tail")
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


def _shadowed(settings: Settings, history: History, candidate: Artifact, both: Opponents) -> Findings:
    """Both on what was measured since the candidate was trained and chosen; errors are named ``shadow_...``."""
    if not isinstance((candidate.manifest.get("train") or {}).get("end"), int):
        return Findings(("it does not say when its training ended, so it has no shadow; train it again, or force",))
    slots = _shadow_slots(candidate, history)
    hours = max(slots, 0) * history.step_ms / 3_600_000
    if hours < settings.train.shadow_h or slots <= both.least:
        least = max(settings.train.shadow_h, (both.least + 1) * history.step_ms / 3_600_000)
        return Findings((f"its shadow is {hours:.1f} h long, of {least:.1f} h; wait until it is longer, or force",))
    if not history.mask[:, -slots:].any():
        return Findings(("nothing was measured in its shadow; look at the history's end, or force",))
    share = slots / history.values.shape[1]
    found = both.on(history, tail=share, where=f"in its shadow of {hours:.1f} h")
    return replace(found, errors={f"shadow_{metric}": told for metric, told in found.errors.items()})


def _recorded(store: Registry, candidate: Artifact, present: Artifact, margin: float) -> Findings:
    rows = {str(row["version"]): row["metrics"] for row in store.versions(candidate.name)}
    if _measured_on(candidate) != _measured_on(present):
        return Findings(("the two were measured on different histories; give one to compare them on, or force",))
    return compared(rows.get(candidate.version, {}), rows.get(present.version, {}), "as published", margin)


def _measured_on(artifact: Artifact) -> list[Any]:
    """What names the frozen tail on which a model was measured when it was published."""
    trained = artifact.manifest.get("train") or {}
    return [trained.get(key) for key in ("series", "slots", "end")]
