"""Brakes that say yes or no: may this target be touched at all, now, by us?"""

from __future__ import annotations

from typing import NamedTuple

from forecastle.guards.context import GuardContext, grows, heals, resident, urgent
from forecastle.types import Action, Kind, Mode, Workload

EMPTYING = frozenset({Kind.SHIFT, Kind.DRAIN, Kind.CORDON})
"""Kinds that only keep work away from their target."""


class Objection(NamedTuple):
    """A guard's no. ``desired`` is the replica count it can live with, None when there is none."""

    why: str
    desired: int | None = None


def target(action: Action, ctx: GuardContext) -> Objection | None:
    """An empty, match-all or unknown target is an error, never "everything"."""
    pool = ctx.inventory.pools.get(action.pool)
    if pool is None or action.workload not in ctx.inventory.workloads:
        return Objection(f"'{action.pool}' of workload '{action.workload}' is not one known pool")
    if pool.workload != action.workload:
        return Objection(f"pool {pool.name} belongs to {pool.workload}, not to {action.workload}")
    if pool.site not in ctx.inventory.sites:
        return Objection(f"site '{pool.site}' of pool {pool.name} is unknown")
    loose = [name for name, value in pool.target.items() if not value.strip() or set(value) & set("*?")]
    if loose or set(action.replica) & set("*?"):
        return Objection(f"the target of {action.target} is empty or matches everything: {', '.join(loose) or action.replica}")
    if action.kind is Kind.SCALE and (type(action.desired) is not int or action.desired < 0 or action.replica):
        return Objection(f"scale needs a replica count of a pool, not {action.desired!r} of {action.target}")
    return None


def deadline(action: Action, ctx: GuardContext) -> Objection | None:
    """A plan that comes too late is stale: the world it was made for is gone."""
    if ctx.now > action.deadline:
        return Objection(f"deadline passed {(ctx.now - action.deadline) / 1000:g} s ago; plan again")
    return None


def kill_switch(_action: Action, ctx: GuardContext) -> Objection | None:
    """Off means off, for everything, until a human turns it on again."""
    return Objection(f"kill switch: {ctx.fleet.killed}") if ctx.fleet.killed else None


def hold(action: Action, ctx: GuardContext) -> Objection | None:
    """A human holds the workload, the pool, its site or its failure domain. Paging stays possible."""
    if action.kind is Kind.NOTIFY:
        return None
    names = {action.workload, action.pool, ctx.pool(action).site, ctx.inventory.domain(action.pool)}
    held = names & ctx.fleet.held
    return Objection(f"held by a human: {', '.join(sorted(held))}") if held else None


def unknown_state(action: Action, ctx: GuardContext) -> Objection | None:
    """What cannot be observed is not touched."""
    if action.kind is not Kind.NOTIFY and ctx.observed(action) is None:
        return Objection(f"{action.pool} cannot be observed")
    return None


def external_change(action: Action, ctx: GuardContext) -> Objection | None:
    """The state the action presumes must still hold: yield to whoever changed it."""
    seen = ctx.observed(action)
    if action.kind is Kind.NOTIFY or seen is None:
        return None
    actual = seen.replicas if action.kind is Kind.SCALE else seen.version
    if actual != action.expected:
        return Objection(f"expected {action.expected}, found {actual}: changed by someone else")
    return None


def in_flight(action: Action, ctx: GuardContext) -> Objection | None:
    """One action per target at a time."""
    if action.kind is Kind.NOTIFY:
        return None
    if action.pool in ctx.fleet.in_flight:
        return Objection(f"{action.pool} has an unfinished action")
    same = [a for a in ctx.accepted if a.pool == action.pool and a.kind is not Kind.NOTIFY]
    if any(not a.replica or not action.replica or a.replica == action.replica for a in same):
        return Objection(f"{action.pool} already has an action in this tick")
    return None


def inventory_jump(action: Action, ctx: GuardContext) -> Objection | None:
    """Replicas that vanish in bulk mean a broken inventory: freeze the domain rather than act on it."""
    domain = ctx.inventory.domain(action.pool)
    lost = ctx.facts.lost.get(domain, 0.0)
    if action.kind is Kind.NOTIFY or ctx.down(action.pool) or lost <= ctx.settings.inventory_jump_fraction:
        return None
    return Objection(f"{lost:.0%} of the replicas in {domain} vanished; the domain is frozen until that is understood")


def residency(action: Action, ctx: GuardContext) -> Objection | None:
    """Nothing grows or is sent outside the allowed regions; leaving them is always allowed."""
    workload, pool = ctx.workload(action), ctx.pool(action)
    moves_in = grows(action, ctx) or (action.kind in {Kind.SHIFT, Kind.DRAIN} and action.desired not in (0, "0"))
    if moves_in and not resident(workload, pool, ctx.inventory):
        return Objection(f"site {pool.site} is outside the residency {sorted(workload.residency)}")
    return None


def site_down(action: Action, ctx: GuardContext) -> Objection | None:
    """At a site that is down nothing is scaled or healed; it can only be emptied.

    Growth would not serve, shrinking would hurt when it returns, and a restart cannot bring a site back.
    """
    if action.kind not in EMPTYING and action.kind is not Kind.NOTIFY and ctx.down(action.pool):
        return Objection(f"site {ctx.pool(action).site} is down")
    return None


def current_mode(workload: Workload, ctx: GuardContext) -> Mode:
    """The promoted mode if there is one, otherwise the configured one."""
    return ctx.fleet.modes.get(workload.name, workload.mode)


def mode(action: Action, ctx: GuardContext) -> Objection | None:
    """In shadow a workload only gets recommendations."""
    if action.kind is Kind.NOTIFY or current_mode(ctx.workload(action), ctx) is not Mode.SHADOW:
        return None
    return Objection(f"shadow: would {action.kind} {action.target} {action.expected} -> {action.desired}")


def warm_up(action: Action, ctx: GuardContext) -> Objection | None:
    """After a start, a new configuration or a new model: recommend for a full window before acting."""
    left = ctx.settings.warmup_s - ctx.age_s(ctx.fleet.started_at)
    if action.kind is Kind.NOTIFY or left <= 0:
        return None
    return Objection(
        f"warm-up for another {left:g} s: would {action.kind} {action.target} {action.expected} -> {action.desired}"
    )


def missing_data(action: Action, ctx: GuardContext) -> Objection | None:
    """Late or missing demand: no scale-in, no healing; scale-out only from a second source."""
    return _untrusted(action, ctx, "late or missing") if ctx.view.late else None


def suspect_data(action: Action, ctx: GuardContext) -> Objection | None:
    """A sudden zero, a flat line, a counter reset or a tenfold jump is treated like missing data."""
    return _untrusted(action, ctx, "suspect") if ctx.view.suspect else None


def _untrusted(action: Action, ctx: GuardContext, what: str) -> Objection | None:
    if heals(action):
        return Objection(f"demand data is {what}: no healing")
    if action.kind is not Kind.SCALE:
        return None
    if not grows(action, ctx):
        return Objection(f"demand data is {what}: no scale-in")
    if ctx.view.sources:
        return None
    allowed = urgent(action, ctx)
    if int(action.desired) <= allowed:
        return None
    return Objection(f"demand data is {what} and there is no second source: no scale-out", max(allowed, ctx.current(action)))
