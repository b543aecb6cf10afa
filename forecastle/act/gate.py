"""What an action has to pass on its way to its effect: kill switch, holds, deadline, capability and, once more, the guards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from forecastle.guards.context import Facts, GuardContext, View
from forecastle.guards.judge import judge
from forecastle.ports import Approvals, Clock, Cloud
from forecastle.settings import GuardSettings
from forecastle.types import Action, Fleet, Intent, Inventory, Kind, Observed


@dataclass(frozen=True, slots=True)
class Case:
    """One action at its effect: its workload's ``view``, the ``fleet`` as fresh as it can be had with its ``facts``.

    ``granted`` people approved the plan; ``spent`` is the money per hour of growth granted together with it; ``intent`` is its
    own, left open by an earlier attempt; ``calm`` says that nobody stops anything that it is part of.
    """

    action: Action
    view: View
    fleet: Fleet
    facts: Facts
    granted: int
    spent: float
    intent: Intent | None
    calm: bool = False

    @property
    def seen(self) -> Observed | None:
        """The action's pool as just observed."""
        return self.fleet.observed.get(self.action.pool)


class Gate:
    """Says why an action must not happen now. Everything a person may have changed is read afresh at every question."""

    def __init__(
        self, approvals: Approvals, clouds: Mapping[str, Cloud], inventory: Inventory, guards: GuardSettings, clock: Clock
    ) -> None:
        self._approvals, self._clouds, self._inventory = approvals, clouds, inventory
        self._guards, self._clock = guards, clock

    def objection(self, case: Case) -> str:
        """Why this action must not be begun, '' when it may."""
        action = case.action
        if reason := self.late(action) if case.calm else self.forbidden(action):
            return reason
        pool = self._inventory.pools.get(action.pool)
        if pool is not None and action.kind is not Kind.NOTIFY and action.kind not in self._clouds[pool.adapter].capabilities:
            return f"adapter '{pool.adapter}' cannot {action.kind}"
        ruling = judge(action, self._context(case))
        if ruling.action == action:
            return ""
        why = "; ".join(f"{refusal.guard}: {refusal.why}" for refusal in ruling.refusals)
        return why or "the guards would do something else now"

    def calm(self, actions: Sequence[Action]) -> bool:
        """Whether the kill switch is off and nobody holds anything that one of the actions is part of."""
        names = {name for action in actions for name in self._names(action)}
        return not self._approvals.killed() and not self._approvals.held(*sorted(names))

    def forbidden(self, action: Action) -> str:
        """What stops any effect at once: kill switch, a human's hold, the deadline."""
        if killed := self._approvals.killed():
            return f"kill switch: {killed}"
        if action.kind is not Kind.NOTIFY and (held := self._approvals.held(*self._names(action))):
            return f"hold: {held}"
        return self.late(action)

    def _names(self, action: Action) -> list[str]:
        names = [action.workload, action.pool]
        if action.pool in self._inventory.pools:
            names += [self._inventory.pools[action.pool].site, self._inventory.domain(action.pool)]
        return names

    def late(self, action: Action) -> str:
        """Whether the deadline has passed; asked last, since the other questions take the time that a slow store takes."""
        late_ms = self._clock.now() - action.deadline
        return f"deadline: passed {late_ms / 1000:g} s ago; plan again" if late_ms > 0 else ""

    def _context(self, case: Case) -> GuardContext:
        """What the guards judge by; the action's own open intent is no other action in flight."""
        fleet = case.fleet
        if case.intent is not None:
            fleet = replace(fleet, in_flight=fleet.in_flight - {case.action.pool})
        return GuardContext(
            self._clock.now(),
            self._inventory,
            fleet,
            case.view,
            self._guards,
            spent=case.spent,
            granted=case.granted,
            facts=case.facts,
        )
