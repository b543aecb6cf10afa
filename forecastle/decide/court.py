"""One tick before the judge: actions are heard one after the other, and what was granted weighs on what follows."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace

from forecastle.decide.sights import Tick
from forecastle.guards.approvals import people_needed
from forecastle.guards.context import heals
from forecastle.guards.judge import judge
from forecastle.types import DISRUPTIVE, Action, Kind, Refusal


@dataclass(slots=True)
class Court:
    """Hears the actions of one tick. ``granted`` holds (action, people who must approve it); ``refusals`` every objection."""

    tick: Tick
    granted: list[tuple[Action, int]] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    spent: float = 0.0
    _of: dict[str, list[Action]] = field(default_factory=lambda: defaultdict(list))

    def hear(self, action: Action) -> bool:
        """Judge ``action`` and keep what is left of it. False when it was struck."""
        sight = self.tick.sights[action.workload]
        others = [a for a, _ in self.granted if a.kind in DISRUPTIVE and a.workload != action.workload]
        context = replace(sight.context, accepted=(*self._of[action.workload], *others), spent=self.spent)
        verdict = judge(action, context)
        self.refusals += verdict.refusals
        if verdict.action is None:
            return False
        self.granted.append((verdict.action, people_needed(verdict.action, context)))
        self._of[action.workload].append(verdict.action)
        if verdict.action.kind is Kind.SCALE:
            pool = self.tick.inventory.pools[action.pool]
            self.spent += max(0.0, pool.cost(int(verdict.action.desired)) - pool.cost(context.current(action)))
        return True

    def refuse(self, guard: str, why: str, action: Action) -> None:
        """Turn ``action`` down for a reason that only the whole tick knows."""
        self.refusals.append(Refusal(guard, why, action.pool, action.workload))

    def disrupted(self) -> str:
        """The failure domain that this tick's heals are in, '' when there are none."""
        return next((self.tick.inventory.domain(a.pool) for a, _ in self.granted if heals(a)), "")
