"""Brakes that bound how far a pool may be scaled. Each answers with the replica count it can live with.

Those on growth only ever lower it, not below what there is; those on shrinking only ever raise it, not above. Hence their
order cannot change the result, and judging a result again changes nothing.
"""

from __future__ import annotations

import math

from forecastle.guards.context import GuardContext, grows, shrinks, urgent
from forecastle.guards.gates import Objection
from forecastle.types import Action, Kind, Outcome, Pool

COVERED = 0.8
"""Share of the stabilization window that recommendations must span before anything is removed."""
_EPS = 1e-9
_UNLIMITED = 1 << 30


def tolerance(action: Action, ctx: GuardContext) -> Objection | None:
    """What is wanted must differ from what is ordered by more than this share; a ratio of exactly 1 + tolerance holds.

    The ratio is the workload's, not the pool's: step limits cut a large change into small ones. What the reactive floor or a
    minimum justifies is never too small, nor is leaving a forbidden place, coming back under a maximum or a missing site, nor
    anything while replicas are amiss.
    """
    if action.kind is not Kind.SCALE or ctx.view.amiss:
        return None
    total = ctx.ordered(action.workload)
    if abs(ctx.view.wanted - total) > ctx.settings.tolerance * total + _EPS:
        return None
    why = f"{ctx.view.wanted} wanted, {total} ordered: within {ctx.settings.tolerance:.0%}"
    current, pool = ctx.current(action), ctx.pool(action)
    if grows(action, ctx):
        missing_site = current == 0 and len(_sites(action, ctx)) < ctx.workload(action).min_sites
        return _lower(action, max(current, urgent(action, ctx), 1 if missing_site else 0), why)
    leaving = current > min(pool.max, pool.quota) or not ctx.serves(action.pool)
    return None if leaving else _raise(action, current, why)


def veto(action: Action, ctx: GuardContext) -> Objection | None:
    """One signal never scales down: latency or errors above their limit say that the load is not what it seems."""
    return Objection(ctx.view.vetoed, ctx.current(action)) if ctx.view.vetoed and shrinks(action, ctx) else None


def stabilization(action: Action, ctx: GuardContext) -> Objection | None:
    """Scale-in obeys the largest recommendation of the window, scale-out (off by default) the smallest.

    Recommendations that span less than `COVERED` of the window are no memory to remove anything by.
    """
    down_s, up_s = ctx.settings.stabilization_down_s, ctx.settings.stabilization_up_s
    current = ctx.current(action)
    if shrinks(action, ctx):
        recent = _recent(action, ctx, down_s)
        if ctx.age_s(recent[0][0]) < COVERED * down_s if recent else True:
            return Objection(f"recommendations do not span the last {down_s:g} s yet", current)
        largest = max(replicas for _, replicas in recent)
        return _raise(action, _least(action, ctx, largest), f"{largest} were wanted within the last {down_s:g} s")
    if grows(action, ctx) and up_s > 0:
        smallest = min((replicas for _, replicas in _recent(action, ctx, up_s)), default=ctx.view.wanted)
        elsewhere = sum(replicas for _, replicas, _ in ctx.others(action))
        allowed = max(current, urgent(action, ctx), smallest - elsewhere)
        return _lower(action, allowed, f"only {smallest} were wanted throughout the last {up_s:g} s")
    return None


def cool_down(action: Action, ctx: GuardContext) -> Objection | None:
    """Time between two scalings of one pool in one direction; the reactive floor does not wait for it."""
    current = ctx.current(action)
    if grows(action, ctx):
        age = min((ctx.age_s(o.at) for o in _changes(action, ctx) if _delta(o, current) >= 0), default=math.inf)
        left = ctx.settings.cooldown_up_s - age
        allowed = max(current, urgent(action, ctx))
        return _lower(action, allowed, f"grew {age:g} s ago; next in {left:g} s") if left > 0 else None
    if shrinks(action, ctx):
        age = min((ctx.age_s(o.at) for o in _changes(action, ctx) if _delta(o, current) <= 0), default=math.inf)
        left = ctx.settings.cooldown_down_s - age
        return Objection(f"shrank {age:g} s ago; next in {left:g} s", current) if left > 0 else None
    return None


def floor(action: Action, ctx: GuardContext) -> Objection | None:
    """What is ready after a scale-in covers what the reactive rule asks for, and the forecast, and the workload's minimum."""
    if not shrinks(action, ctx):
        return None
    needed = max(ctx.view.floor, ctx.view.wanted, ctx.workload(action).min)
    names = {
        ctx.view.floor: "the reactive floor",
        ctx.view.wanted: "floor and forecast",
        ctx.workload(action).min: "the minimum",
    }
    return _raise(action, _least(action, ctx, needed), f"{names[needed]} asks for {needed} ready replicas")


def spread(action: Action, ctx: GuardContext) -> Objection | None:
    """The workload stays at ``min_sites`` sites."""
    if not shrinks(action, ctx) or int(action.desired) > 0 or not ctx.serves(action.pool):
        return None
    left, least = len(_sites(action, ctx)), ctx.workload(action).min_sites
    return Objection(f"only {left} of at least {least} sites would be left", 1) if left < least else None


def step_up(action: Action, ctx: GuardContext) -> Objection | None:
    """Growth per period is ramped, for whatever reason it is asked: a surge of new replicas is an outage of its own."""
    if not grows(action, ctx):
        return None
    s, current = ctx.settings, ctx.current(action)
    added = sum(max(0, _delta(o, current)) for o in _changes(action, ctx, s.step_up_s))
    step = max(s.step_up_replicas, _share(s.step_up_fraction, current - added))
    allowed = current + max(0, step - added)
    return _lower(action, allowed, f"at most {step} more per {s.step_up_s:g} s, {added} were added")


def step_down(action: Action, ctx: GuardContext) -> Objection | None:
    """Removals per period are few: floor(10%), at least 1 only in a pool of 3 or more. Additions are no credit."""
    if not shrinks(action, ctx):
        return None
    s, current = ctx.settings, ctx.current(action)
    removed = sum(max(0, -_delta(o, current)) for o in _changes(action, ctx, s.step_down_s))
    base = current + removed
    step = max(_share(s.step_down_fraction, base), 1 if base >= s.step_down_min_pool else 0)
    least = current - max(0, step - removed)
    return _raise(action, least, f"at most {step} of {base} fewer per {s.step_down_s:g} s, {removed} were removed")


def limits(action: Action, ctx: GuardContext) -> Objection | None:
    """Keep min <= desired <= max <= quota of the pool, and the workload's maximum over all its pools.

    A pool already outside its limits moves towards them as fast as the step limits let it.
    """
    if action.kind is not Kind.SCALE:
        return None
    pool, load, current = ctx.pool(action), ctx.workload(action), ctx.current(action)
    if shrinks(action, ctx):
        return _raise(action, min(pool.min, current), f"the minimum of {pool.name} is {pool.min}")
    elsewhere = sum(replicas for _, replicas, _ in ctx.others(action))
    bounds = {
        f"the maximum of {pool.name} is {pool.max}": pool.max,
        f"the quota of {pool.name} is {pool.quota}": pool.quota,
        f"the maximum of {load.name} is {load.max}, {elsewhere} are elsewhere": load.max - elsewhere,
    }
    why = min(bounds, key=lambda text: bounds[text])
    return _lower(action, max(current, bounds[why]), why)


def money(action: Action, ctx: GuardContext) -> Objection | None:
    """Growth stays inside the budgets of workload and fleet; the rest is clamped off, and a person hears if the floor is cut.

    Replicas that are committed are paid already, but for their egress: only that can pass a budget.
    """
    if not grows(action, ctx):
        return None
    pool, load, current = ctx.pool(action), ctx.workload(action), ctx.current(action)
    mine = sum(other.cost(replicas) for other, replicas, _ in ctx.others(action)) + pool.cost(current)
    purses = (
        (f"budget of {load.name}", load.budget_per_hour, mine),
        ("budget of the fleet", ctx.inventory.budget_per_hour, ctx.facts.cost + ctx.spent),
    )
    afforded = [
        (current + _affordable(pool, current, budget - cost), f"{name} is {budget:g} per hour")
        for name, budget, cost in purses
        if budget is not None
    ]
    allowed, why = min(afforded, default=(int(action.desired), ""))
    return _lower(action, allowed, why)


def _affordable(pool: Pool, current: int, money: float) -> int:
    """How many more replicas ``money`` per hour pays for: committed ones cost their egress alone."""
    free, price = max(0, pool.committed - current), pool.unit_price + pool.egress_h
    if pool.egress_h > 0 and money < free * pool.egress_h - _EPS:
        return max(0, math.floor(money / pool.egress_h + _EPS))
    return free + max(0, math.floor((money - free * pool.egress_h) / price + _EPS)) if price > 0 else _UNLIMITED


def _sites(action: Action, ctx: GuardContext) -> set[str]:
    """Sites of the workload's other pools that have replicas."""
    return {pool.site for pool, replicas, _ in ctx.others(action) if replicas}


def _share(fraction: float, replicas: int) -> int:
    """Percentages round down."""
    return math.floor(fraction * replicas + _EPS)


def _lower(action: Action, allowed: int, why: str) -> Objection | None:
    return Objection(f"{why}: {action.desired} -> {allowed}", allowed) if int(action.desired) > allowed else None


def _raise(action: Action, least: int, why: str) -> Objection | None:
    return Objection(f"{why}: {action.desired} -> {least}", least) if int(action.desired) < least else None


def _least(action: Action, ctx: GuardContext, needed: int) -> int:
    """Fewest replicas of this pool that leave ``needed`` ready ones in the workload; the present number when none do.

    Replicas that are still starting do not count: what is ordered elsewhere replaces nothing before it serves.
    """
    current, seen = ctx.current(action), ctx.observed(action)
    elsewhere = sum(ready for _, _, ready in ctx.others(action))
    here = min(seen.ready, seen.replicas) if seen and ctx.serves(action.pool) else 0
    return min(current, max(0, needed - elsewhere)) if elsewhere + here >= needed else current


def _recent(action: Action, ctx: GuardContext, seconds: float) -> list[tuple[int, int]]:
    """(at, replicas) of the workload's recommendations within ``seconds``, oldest first."""
    return [(r.at, r.replicas) for r in ctx.facts.recommended.get(action.workload, ()) if ctx.age_s(r.at) <= seconds]


def _changes(action: Action, ctx: GuardContext, seconds: float = math.inf) -> list[Outcome]:
    """Scalings of the pool that happened, or may have, less than ``seconds`` ago."""
    return [o for o in ctx.facts.changed.get(action.pool, ()) if ctx.age_s(o.at) < seconds]


def _delta(outcome: Outcome, current: int) -> int:
    """Replicas a scaling added (negative: removed). What was not read back is taken from the present state."""
    if outcome.before is None:
        return 0
    return (outcome.after.replicas if outcome.after else current) - outcome.before.replicas
