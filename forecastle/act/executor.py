"""Plans to outcomes: think again on fresh state, record the intents, act once, look, record the ends.

Each action passes the same gate, in this order: a fresh observation; kill switch, holds, deadline and the guards once more; a
lease on the target; the budget for healing; the durable intent; the effect, whose token is the action's id; our own read-back;
the outcome. Actions that do not depend on each other share the transaction of their intents, and that of their outcomes. Dying
between any two steps leaves at most open intents, which whoever executes the plan again, or `Executor.recover`, brings to an
end without a second effect.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Protocol

from forecastle.act.gate import Case, Gate
from forecastle.act.hand import Begun, Hand
from forecastle.act.parcels import parcels
from forecastle.act.readback import observe, untouched
from forecastle.act.retry import Retried, Retry
from forecastle.errors import Conflict
from forecastle.guards.context import Facts, View, heals
from forecastle.ports import Approvals, Clock, Cloud, Leases, Ledger
from forecastle.settings import ActSettings, GuardSettings
from forecastle.types import Action, Fleet, Inventory, Kind, Observed, Outcome, Plan, Situation, Status

REQUESTER = "forecastle"
HEALS = "heals"


class Book(Ledger, Leases, Protocol):
    """The ledger as the executor needs it: intents and the leases and budgets that protect them, in one store."""

    def together(self) -> AbstractContextManager[None]:
        """What is recorded inside is recorded durably at its end, or none of it; refused calls have written nothing."""

    def watching(self) -> AbstractContextManager[None]:
        """For many reads in a row, each of which sees what others have committed until then."""

    def endings(self, action_ids: Sequence[str]) -> dict[str, Outcome]:
        """`ended` for many actions, by id; those that have not ended are left out."""

    def lease_all(self, targets: Sequence[str], holder: str, ttl_s: float) -> dict[str, int | Conflict]:
        """`lease` for many targets: the new epoch of each, or the Conflict it alone would have raised."""

    def intend_all(self, wanted: Sequence[tuple[Action, int, Observed | None]]) -> dict[str, bool | Conflict]:
        """`intend` for many (action, epoch, before): its answer by action id, or the Conflict it would have raised."""

    def conclude_all(self, ends: Sequence[tuple[Outcome, int | None]]) -> None:
        """`conclude` for many outcomes, each with its epoch."""


class Executor:
    """See the module. Raises StoreUnavailable when the ledger does: then nothing was begun that it does not know of.

    ``holder`` names this worker in leases; it must be the same after a restart, so that a worker need not wait for itself.
    ``uniform`` draws from 0 to 1 what is added to waits, by default from a sequence of the ``holder``. ``parallel`` says of
    adapters, by name, how many effects may be told at once.
    """

    def __init__(
        self,
        ledger: Book,
        approvals: Approvals,
        clouds: Mapping[str, Cloud],
        inventory: Inventory,
        *,
        act: ActSettings,
        guards: GuardSettings,
        clock: Clock,
        holder: str = "executor",
        sleep: Callable[[float], None] = time.sleep,
        uniform: Callable[[], float] | None = None,
        parallel: Mapping[str, int] | None = None,
    ) -> None:
        self._ledger = ledger
        self._approvals = approvals
        draw = uniform or random.Random(holder).random  # noqa: S311 - waits, not secrets
        retry = Retry(act.attempts, act.timeout_s, sleep=sleep, uniform=draw)
        self._clouds = {
            name: Retried(cloud, retry, within_s=act.timeout_s, monotonic=clock.monotonic) for name, cloud in clouds.items()
        }
        self._inventory = inventory
        self._act = act
        self._guards = guards
        self._clock = clock
        self._holder = holder
        self._gate = Gate(approvals, clouds, inventory, guards, clock)
        self._hand = Hand(
            ledger,
            self._gate,
            self._clouds,
            inventory,
            act=act,
            clock=clock,
            retry=retry,
            holder=holder,
            parallel=parallel or {},
        )

    def execute(self, plan: Plan, situation: Situation | None) -> tuple[Outcome, ...]:
        """Carry out every action of ``plan``, in order; one outcome each, none when people must approve it first.

        ``situation`` is what the plan was decided from, None when it comes from the ledger later. Executing again what has
        ended returns how it ended.
        """
        if not plan.actions:
            return ()
        if plan.approvals and not self._approvals.approved(plan):
            if self._clock.now() < plan.expires_at:
                self._approvals.request(plan, REQUESTER, plan.approvals)
            return ()
        fleet = self._survey(situation)
        outcomes: list[Outcome] = []
        for parcel in parcels(plan.actions, self._act.parcel):
            fleet = self._refresh(fleet, parcel)
            ended, began = self._begin(plan, parcel, fleet)
            ended |= self._hand.carry_out(began)
            outcomes += (ended[action.id] for action in parcel)
            fleet = replace(fleet, outcomes=(*fleet.outcomes, *ended.values()))
        return tuple(outcomes)

    def recover(self) -> tuple[Outcome, ...]:
        """End the intents that dead workers left open, by what can be seen; no new effect. Those of the living are theirs."""
        stop = "recovered: its worker died before the effect; plan again"
        with self._ledger.together():
            began, _ = self._take([Begun(one.action, one.before, True, stop) for one in self._ledger.unfinished()])
        return tuple(self._hand.carry_out(began).values())

    # --- before the effect ------------------------------------------------------------------------------------------

    def _survey(self, situation: Situation | None) -> Fleet:
        """The ledger's snapshot now, over what the decision saw or, without one, over everything there is."""
        now = self._clock.now()
        if situation is not None:
            fleet = self._ledger.snapshot(now, dict(situation.fleet.observed))
            return replace(fleet, down=fleet.down | situation.fleet.down, started_at=situation.fleet.started_at)
        seen = {name: self._observe(name) for name in self._inventory.pools}
        return self._ledger.snapshot(now, {name: found for name, found in seen.items() if found is not None})

    def _refresh(self, fleet: Fleet, parcel: Sequence[Action]) -> Fleet:
        """``fleet`` with every pool of the actions' workloads observed again."""
        observed = dict(fleet.observed)
        loads = [self._inventory.workloads[a.workload] for a in parcel if a.workload in self._inventory.workloads]
        for name in dict.fromkeys(pool for load in loads for pool in (*load.pools, *load.traffic)):
            found = self._observe(name)
            observed.pop(name, None)
            if found is not None:
                observed[name] = found
        return replace(fleet, at=self._clock.now(), observed=observed)

    def _observe(self, name: str) -> Observed | None:
        pool = self._inventory.pools[name]
        return observe(self._clouds[pool.adapter], pool)

    def _begin(self, plan: Plan, parcel: Sequence[Action], fleet: Fleet) -> tuple[dict[str, Outcome], list[Begun]]:
        """Judge every action and record the intents and refusals together. The outcomes of those that have ended, by id."""
        facts, spent = Facts.of(fleet, self._inventory, self._guards), 0.0
        wanted: list[Begun] = []
        why: dict[str, str] = {}
        with self._ledger.together():
            ended = self._ledger.endings([action.id for action in parcel])
            unfinished = {intent.action.id: intent for intent in self._ledger.unfinished()}
            calm = self._gate.calm(parcel)
            for action in (action for action in parcel if action.id not in ended):
                view, intent = View.of(plan.evidence.get(action.workload)), unfinished.get(action.id)
                case = Case(action, view, fleet, facts, plan.approvals, spent, intent, calm)
                reason = self._gate.objection(case) if _to_judge(case) else ""
                if reason and intent is None:
                    why[action.id] = reason
                else:
                    wanted.append(Begun(action, intent.before if intent else case.seen, intent is not None, reason))
                    spent += self._growth(action, fleet)
            began, prevented = self._take(wanted)
            why |= prevented
            refused = {action.id: self._refusal(action, fleet, why[action.id]) for action in parcel if action.id in why}
            self._ledger.conclude_all([(outcome, None) for name, outcome in refused.items() if name not in unfinished])
        return ended | refused, began

    def _take(self, wanted: Sequence[Begun]) -> tuple[list[Begun], dict[str, str]]:
        """Lease, budget, intent for each: what has begun, and by action id why the others have not."""
        why: dict[str, str] = {}
        leased: list[Begun] = []
        epochs = self._ledger.lease_all([one.action.target for one in wanted], self._holder, self._act.lease_s)
        for one in wanted:
            epoch = epochs[one.action.target]
            if isinstance(epoch, Conflict):
                why[one.action.id] = f"lease: {epoch}"
            elif not one.reopened and heals(one.action) and (spent := self._spend(one.action)):
                self._ledger.hand_back(one.action.target, epoch)
                why[one.action.id] = f"budget: '{spent}' has no heal left this hour"
            else:
                leased.append(replace(one, epoch=epoch))
        begun = self._ledger.intend_all([(one.action, one.epoch, one.before) for one in leased])
        for one in leased:
            if (found := begun[one.action.id]) is not True:
                self._ledger.hand_back(one.action.target, one.epoch)
                why[one.action.id] = f"in flight: {found}" if found else "ended by another worker"
        return [one for one in leased if begun[one.action.id] is True], why

    def _growth(self, action: Action, fleet: Fleet) -> float:
        """Money per hour of the replicas that the action adds."""
        seen = fleet.observed.get(action.pool)
        if action.kind is not Kind.SCALE or seen is None:
            return 0.0
        pool = self._inventory.pools[action.pool]
        return max(0.0, pool.cost(int(action.desired)) - pool.cost(seen.replicas))

    def _spend(self, action: Action) -> str:
        """Take one heal from the domain's and the fleet's budget; the name of the empty one, '' when both had one."""
        here = f"{HEALS}/{self._inventory.domain(action.pool)}"
        for name, per_hour in ((here, self._guards.heals_per_domain_h), (HEALS, self._guards.heals_global_h)):
            self._ledger.allow(name, per_hour, per_hour)
        return self._ledger.take((here, HEALS))

    def _refusal(self, action: Action, fleet: Fleet, why: str) -> Outcome:
        """That nothing was done, and why. It is recorded unless somebody's open intent stays open."""
        seen, at = fleet.observed.get(action.pool), self._clock.now()
        return Outcome(action.id, Status.REFUSED, at, action.pool, action.kind, action.workload, seen, seen, why)


def _to_judge(case: Case) -> bool:
    """A new action, or one whose effect did not happen before its worker died: it is judged like a new one."""
    unseen = case.seen is not None and untouched(case.action, case.seen) and case.action.kind is not Kind.NOTIFY
    return case.intent is None or unseen
