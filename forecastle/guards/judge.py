"""All brakes on one action, in one fixed order.

Who wins when guards disagree, strongest first:

1. identity and human will: an unknown target, a passed deadline, the kill switch, a hold, a closed change window;
2. the state of the world: unobservable, changed by others, in flight, a frozen or dead domain, residency;
3. trust in the data: missing or suspect demand; for heals quorum, panic, budgets and escalation, for failovers their own;
4. hard limits: minimum, maximum, quota, money. They bind even when the reactive floor asks for more;
5. step limits: removals and growth are ramped even for the floor;
6. the reactive floor, with the forecast where capacity is removed;
7. soft brakes (tolerance, stabilization, cool-down): they yield to the floor;
8. warm-up, mode and approval come last, so that what is only recommended has passed everything else.

Guards 1 to 3 and 8 say no and end it. The others only move ``desired`` towards what there is; an action that arrives there
is struck. The same function runs in decide and again at the effect, on fresh state.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

from forecastle.guards import approvals, failovers, gates, healing, limits, windows
from forecastle.guards.context import GuardContext
from forecastle.guards.gates import Objection
from forecastle.types import Action, Kind, Refusal

Guard: TypeAlias = Callable[[Action, GuardContext], Objection | None]

ORDER: tuple[Guard, ...] = (
    gates.target,
    gates.deadline,
    gates.kill_switch,
    gates.hold,
    windows.change_window,
    gates.unknown_state,
    gates.external_change,
    gates.in_flight,
    gates.inventory_jump,
    gates.site_down,
    gates.residency,
    gates.missing_data,
    gates.suspect_data,
    healing.quorum,
    healing.panic,
    healing.panic_clear,
    healing.one_domain,
    healing.ejection,
    healing.heal_budget,
    healing.escalation,
    failovers.failover,
    limits.tolerance,
    limits.veto,
    limits.stabilization,
    limits.cool_down,
    limits.floor,
    limits.spread,
    limits.step_down,
    limits.step_up,
    limits.limits,
    limits.money,
    gates.warm_up,
    gates.mode,
    approvals.approval,
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is left of an action, None when it was struck, and every guard that objected."""

    action: Action | None
    refusals: tuple[Refusal, ...] = ()


def judge(action: Action, ctx: GuardContext) -> Verdict:
    """Put ``action`` before every guard. Judging what is left of it again in the same context changes nothing."""
    refusals: list[Refusal] = []
    for guard in ORDER:
        objection = guard(action, ctx)
        if objection is None:
            continue
        refusals.append(Refusal(guard.__name__, objection.why, action.pool, action.workload))
        if objection.desired is None or objection.desired == ctx.current(action):
            return Verdict(None, tuple(refusals))
        action = replace(action, desired=objection.desired)
    if action.kind is Kind.SCALE and action.desired == ctx.current(action):
        return Verdict(None, tuple(refusals))
    return Verdict(action, tuple(refusals))
