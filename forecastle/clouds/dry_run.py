"""Rehearsing on the real fleet: everything is looked at and checked, nothing is changed."""

from __future__ import annotations

from forecastle.clouds.layer import Layer
from forecastle.errors import Conflict, QuotaExceeded, Unsupported
from forecastle.types import Action, Kind, Observed, Pool, Receipt


class DryRun(Layer):
    """Observes through ``inner`` and never has it apply anything; the receipt says what would have happened.

    What can be known without asking for the effect is refused as an adapter would refuse it: Unsupported for a kind that is
    no capability, NotFound for a pool that is not there, Conflict for a broken ``expected``, QuotaExceeded.
    """

    def apply(self, action: Action, pool: Pool, *, token: str) -> Receipt:  # noqa: ARG002 - nothing happens under it
        """What would have happened, as a receipt with ``dry_run``; ``already`` when there is nothing to do."""
        if action.kind not in self.capabilities:
            raise Unsupported(f"{self.name} cannot {action.kind}")
        seen = self.observe(pool)
        change = self.preview(action, seen)
        if not change.noop:
            _refuse(action, pool, seen)
        detail = f"dry run: {action.kind} {action.target} {change.before} -> {change.after}"
        return Receipt(action.id, already=change.noop, detail=detail, dry_run=True)


def _refuse(action: Action, pool: Pool, seen: Observed) -> None:
    found = seen.replicas if action.kind is Kind.SCALE else seen.version
    if action.kind is not Kind.NOTIFY and found != action.expected:
        raise Conflict(f"{action.target}: expected {action.expected}, found {found}; observe and plan again")
    if action.kind is Kind.SCALE and isinstance(action.desired, int) and action.desired > pool.quota:
        raise QuotaExceeded(f"{pool.name}: {action.desired} replicas asked for, the quota is {pool.quota}")
