"""How many people must agree before an action takes effect."""

from __future__ import annotations

from forecastle.guards.context import GuardContext, gives_back
from forecastle.guards.gates import Objection, current_mode
from forecastle.types import DISRUPTIVE, Action, Kind, Mode

CLASSES = ("A", "B", "C")
"""Approval classes in order: reversible, disruptive, failover. The index is the number of people."""
FAILOVER = frozenset({Kind.SHIFT, Kind.DRAIN})
REMOVING = FAILOVER | {Kind.CORDON, Kind.QUARANTINE}
"""Kinds that take their whole target out of service at once; the others go through it replica by replica."""


def approval_class(action: Action, ctx: GuardContext) -> str:
    """A, B or C: what the playbook asks for, otherwise what the kind is; C when much capacity goes at once."""
    if action.kind not in DISRUPTIVE:
        return "A"
    asked = action.approval or ("C" if action.kind in FAILOVER else "B")
    return "C" if _removed_share(action, ctx) > ctx.settings.large_fraction else asked


def people_needed(action: Action, ctx: GuardContext) -> int:
    """0 for class A, 1 for B, 2 for C; at least one in advise mode, none for a page."""
    if action.kind is Kind.NOTIFY:
        return 0
    people = CLASSES.index(approval_class(action, ctx))
    return max(people, 1) if current_mode(ctx.workload(action), ctx) is Mode.ADVISE else people


def approval(action: Action, ctx: GuardContext) -> Objection | None:
    """At the effect enough distinct people must have agreed. While planning nobody can have been asked yet."""
    if ctx.granted is None:
        return None
    needed = people_needed(action, ctx)
    if ctx.granted >= needed:
        return None
    return Objection(f"class {approval_class(action, ctx)}: {ctx.granted} of {needed} people approved")


def _removed_share(action: Action, ctx: GuardContext) -> float:
    """Share of the workload's ready replicas that leave service at once; one replica alone is never a large share.

    A site that a person reported down has left service. Of one that only was detected, what its cloud calls ready counts.
    """
    if action.kind not in REMOVING or action.replica or gives_back(action):
        return 0.0
    seen = ctx.observed(action)
    here = seen.ready if seen and ctx.pool(action).site not in ctx.fleet.down else 0
    total = here + sum(ready for _, _, ready in ctx.others(action))
    return here / total if here > 1 else 0.0
