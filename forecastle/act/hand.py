"""The effects of a parcel whose intents are durable: each told, all looked at, their ends recorded together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from forecastle.act.effect import Answer, tell, verdict
from forecastle.act.gate import Gate
from forecastle.act.readback import Look, await_effects
from forecastle.act.retry import Retry
from forecastle.errors import Conflict
from forecastle.ports import Clock, Cloud
from forecastle.settings import ActSettings
from forecastle.types import Action, Inventory, Kind, Observed, Outcome, Receipt, Status

if TYPE_CHECKING:
    from forecastle.act.executor import Book


@dataclass(frozen=True, slots=True)
class Begun:
    """An action whose intent is durable under the lease ``epoch`` (0 before there is one), with the state ``before``.

    ``reopened``: the intent is of an earlier process, which may have told the cloud before it died. ``stop`` is why the effect
    must not be tried (again), '' when it may.
    """

    action: Action
    before: Observed | None
    reopened: bool = False
    stop: str = ""
    epoch: int = 0


class Hand:
    """Tells clouds and sees for itself. Raises StoreUnavailable: then what was begun stays open in the ledger."""

    def __init__(
        self,
        ledger: Book,
        gate: Gate,
        clouds: Mapping[str, Cloud],
        inventory: Inventory,
        *,
        act: ActSettings,
        clock: Clock,
        retry: Retry,
        holder: str,
        parallel: Mapping[str, int],
    ) -> None:
        self._ledger, self._gate, self._clouds, self._inventory = ledger, gate, clouds, inventory
        self._act, self._clock, self._retry = act, clock, retry
        self._holder, self._parallel = holder, parallel

    def carry_out(self, began: Sequence[Begun]) -> dict[str, Outcome]:
        """Bring everything that was begun to its end: the outcomes by action id."""
        if not began:
            return {}
        told = self._tell_all(began, self._clock.now())
        seen = await_effects([self._look(one, answer) for one, answer in told], self._act.verify_s, self._retry.sleep)
        ends = [(self._outcome(one, answer, after), one.epoch) for (one, answer), after in zip(told, seen, strict=True)]
        with self._ledger.together():
            self._ledger.conclude_all(ends)
        return {outcome.action_id: outcome for outcome, _ in ends}

    def _tell_all(self, began: Sequence[Begun], since: int) -> list[tuple[Begun, Answer]]:
        """Every effect in order, or several at once where the adapter's threads are said to be safe."""
        lanes: dict[int, list[Begun]] = {}
        for one in began:
            lanes.setdefault(self._width(one.action), []).append(one)
        told: dict[str, tuple[Begun, Answer]] = {}
        for width, lane in lanes.items():
            if width == 1:
                with self._ledger.watching():
                    answers = [self._tell(one, since) for one in lane]
            else:
                with ThreadPoolExecutor(width, "effect") as threads:
                    answers = list(threads.map(lambda one: self._tell(one, since), lane))
            told |= {one.action.id: answer for one, answer in zip(lane, answers, strict=True)}
        return [told[one.action.id] for one in began]

    def _width(self, action: Action) -> int:
        pool = self._inventory.pools.get(action.pool)
        return self._parallel.get(pool.adapter, 1) if pool is not None else 1

    def _tell(self, one: Begun, since: int) -> tuple[Begun, Answer]:
        """Tell the cloud, unless something stops it. A lease that the others' effects have half used up is renewed first."""
        if one.stop:
            return one, Answer(None, Status.REFUSED, one.stop)
        if self._clock.now() - since > self._act.lease_s * 1000 / 2:
            try:
                one = self._renewed(one)
            except Conflict as error:
                return one, Answer(None, Status.REFUSED, f"lease: {error}")
        action, epoch = one.action, one.epoch

        def forbidden() -> str:
            if reason := self._gate.forbidden(action):
                return reason
            if self._ledger.fenced(action.target, epoch):
                return f"fenced: epoch {epoch} no longer holds {action.target}"
            return self._gate.late(action)

        if action.kind is Kind.NOTIFY:
            reason = forbidden()
            return one, Answer(None if reason else Receipt(action.id, already=False), Status.REFUSED, reason)
        pool = self._inventory.pools[action.pool]
        cloud, left_s = self._clouds[pool.adapter], lambda: (action.deadline - self._clock.now()) / 1000
        return one, tell(cloud, action, pool, self._retry, left_s=left_s, forbidden=forbidden)

    def _renewed(self, one: Begun) -> Begun:
        """The same under a new epoch. Raises Conflict when another worker has taken it over."""
        with self._ledger.together():
            epoch = self._ledger.lease(one.action.target, self._holder, self._act.lease_s)
            if not self._ledger.intend(one.action, epoch=epoch):
                raise Conflict(f"{one.action.target}: another worker ended it")
        return replace(one, epoch=epoch)

    def _look(self, one: Begun, answer: Answer) -> Look | None:
        """What to look at, None when there is nothing to see. A claim is waited for, and so is an effect in doubt."""
        pool, receipt = self._inventory.pools.get(one.action.pool), answer.receipt
        if pool is None or one.action.kind is Kind.NOTIFY:
            return None
        waits = answer.doubt or (one.reopened if receipt is None else not (receipt.already or receipt.dry_run))
        return Look(self._clouds[pool.adapter], pool, one.action, waits=waits)

    def _outcome(self, one: Begun, answer: Answer, after: Observed | None) -> Outcome:
        action, (status, detail) = one.action, verdict(one.action, answer, after, reopened=one.reopened)
        at = self._clock.now()
        where = action.pool, action.kind, action.workload
        return Outcome(action.id, status, at, *where, one.before, after, detail, action.base)
