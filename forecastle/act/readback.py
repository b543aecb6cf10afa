"""Looking at the target ourselves: what an adapter claims is a receipt, only what can be observed is an outcome.

Whether an effect can be *seen* depends on the kind: a replica count and a release are read directly; a restart, a drain or a
cordon shows as a version other than the one the action expected.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from forecastle.ports import Cloud
from forecastle.types import Action, Kind, Observed, Pool

FIRST_WAIT_S = 0.05
LONGEST_WAIT_S = 1.0


@dataclass(frozen=True, slots=True)
class Look:
    """Where to look for an effect, and whether to wait (``waits``) until it shows."""

    cloud: Cloud
    pool: Pool
    action: Action
    waits: bool

    def missing(self, seen: Observed | None) -> bool:
        """Whether the effect is waited for and does not show."""
        return self.waits and (seen is None or not shows(self.action, seen))


def observe(cloud: Cloud, pool: Pool) -> Observed | None:
    """The pool's state now, None when it cannot be had: what is not seen is not known."""
    try:
        return cloud.observe(pool)
    except Exception:  # noqa: BLE001 - whatever the reason, and a bug in an adapter is one
        return None


def untouched(action: Action, seen: Observed) -> bool:
    """Whether the state that the action presumes still holds."""
    return (seen.replicas if action.kind is Kind.SCALE else seen.version) == action.expected


def shows(action: Action, seen: Observed) -> bool:
    """Whether what the action asks for can be seen."""
    if action.kind is Kind.SCALE:
        return seen.replicas == action.desired
    if action.kind is Kind.ROLLBACK and seen.release:
        return seen.release == action.desired
    return not untouched(action, seen)


def await_effects(looks: Sequence[Look | None], patience_s: float, sleep: Callable[[float], None]) -> list[Observed | None]:
    """Observe until everything waited for shows, or ``patience_s`` seconds have been waited. Returns what was seen last."""
    seen = [observe(look.cloud, look.pool) if look else None for look in looks]
    waited, pause = 0.0, FIRST_WAIT_S
    while waited < patience_s and (missing := [i for i, look in enumerate(looks) if look and look.missing(seen[i])]):
        pause = min(pause, patience_s - waited)
        sleep(pause)
        waited, pause = waited + pause, min(2 * pause, LONGEST_WAIT_S)
        for i in missing:
            if look := looks[i]:
                seen[i] = observe(look.cloud, look.pool) or seen[i]
    return seen


def difference(action: Action, seen: Observed | None) -> str:
    """What was asked for against what is there, in words."""
    if seen is None:
        return "the target could not be read back"
    if action.kind is Kind.SCALE:
        return f"asked for {action.desired} replicas, {seen.replicas} observed"
    return f"asked for {action.kind} {action.desired}, no change observed"
