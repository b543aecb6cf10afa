"""The promote flow: a candidate takes the champion's place only when it is better by a margin and no stranger.

A model that may not serve is never promoted. What else speaks against a candidate stops it unless a human says ``force``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import acreate_markdown_artifact
from prefect.cache_policies import NO_CACHE

from flows.champion import champion
from flows.findings import Findings
from flows.opponents import MAX_CHANGE
from flows.verdict import judged
from forecastle.errors import ConfigError, ModelRefused, NotFound
from forecastle.ports import Artifact, Registry
from forecastle.runtime.workshop import registry, settings_of
from forecastle.settings import Settings


@dataclass(frozen=True, slots=True)
class Decision:
    """``promoted`` or not, with the ``reasons`` against it. ``errors``: metric -> (candidate, champion). Versions may be ''.

    ``notes`` say what the comparison did not look at.
    """

    name: str
    version: str
    champion: str
    promoted: bool
    forced: bool = False
    reasons: tuple[str, ...] = ()
    errors: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    change: float | None = None
    notes: tuple[str, ...] = ()

    def markdown(self) -> str:
        """For the artifact in Prefect."""
        verdict = "promoted, forced" if self.forced else "promoted" if self.promoted else "refused"
        lines = [f"# {self.name} {self.version}: {verdict}", f"Champion before: {self.champion or 'none'}"]
        lines += [f"- against it: {reason}" for reason in self.reasons]
        lines += [f"- note: {note}" for note in self.notes]
        lines += [f"- {metric}: {mine:.4g}, champion {other:.4g}" for metric, (mine, other) in self.errors.items()]
        return "\n\n".join([*lines, *([] if self.change is None else [f"Change of outputs: {self.change:.3f}"])])


@task(name="judge-candidate", cache_policy=NO_CACHE)
async def judge(settings: Settings, candidate: Artifact, present: Artifact | None, history: str, limit: float) -> Findings:
    """Compare the two, see `flows.verdict.judged`."""
    return await asyncio.to_thread(judged, settings, candidate, present, history, limit)


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
    return Decision(name, version, now, promoted, forced, found.reasons, found.errors, found.change, found.notes)


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

    The two are compared on ``history`` (a file), else on what the Kafka topics hold, else by what they recorded; see
    `flows.verdict`.
    ``settings`` wins over ``configs`` and ``flags``. Returns the decision (see `Decision`) and keeps it as an artifact.
    """
    known = settings_of(settings, configs, flags)
    decision = await _decide(known, name, str(version), history=history, force=force, max_change=max_change)
    get_run_logger().info("%s", decision)
    await acreate_markdown_artifact(key="forecastle-promotion", markdown=decision.markdown())
    return asdict(decision)
