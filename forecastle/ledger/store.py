"""The ledger: what was intended and what happened, in one database that workers share.

An effect is possible only between two records: `SqlLedger.intend` is durable before it, `SqlLedger.conclude` follows it.
Everything else here exists so that these two can be believed: one intent in flight per target, epochs that never go
back, a chain that shows tampering, and human control that is read from the same place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select
from sqlalchemy.exc import IntegrityError

from forecastle.errors import Conflict
from forecastle.ledger import codec, drains, intentions, schema
from forecastle.ledger.controls import DOWN, EVERYTHING, Controls
from forecastle.ledger.history import History
from forecastle.ledger.leases import HOUR_MS, Leases
from forecastle.ledger.schema import fingerprints, holds, intents, modes, outcomes, panics, plans, ready, recommendations, ticks
from forecastle.types import DISRUPTIVE, Action, Fleet, Intent, Mode, Observed, Outcome, Plan, Readiness, Recommendation

MEMORY_MS = HOUR_MS
"""How far back a snapshot looks for outcomes and recommendations: the longest budget period."""

LAG_MS = 7 * 24 * HOUR_MS
"""How far back it looks for how long pools took to be ready: long enough for pools that grow once a day."""

SYMPTOM_MS = 24 * HOUR_MS
"""How far back it looks for disruptive outcomes: the third same symptom in a day goes to a human."""


class SqlLedger(Controls, Leases, History):
    """Ledger, Approvals and Leases over SQLite or PostgreSQL. Every method raises StoreUnavailable when the store does."""

    def plans(self, tick: int, scope: str) -> tuple[Plan, ...] | None:
        """Plans recorded for ``tick`` by ``scope``, or None when that tick was never decided."""
        query = select(schema.entries.c.body).join(ticks, ticks.c.seq == schema.entries.c.seq)
        with self.database.read() as conn:
            body = conn.execute(query.where(ticks.c.scope == scope, ticks.c.tick == tick)).scalar_one_or_none()
        return codec.plans(body) if body is not None else None

    def record(self, tick: int, scope: str, plans: Sequence[Plan]) -> None:
        """Record that ``tick`` was decided. Raises Conflict when it was already: two workers share a scope."""
        try:
            with self.writing(durable=False) as entries:
                seq = entries.add("tick", codec.tick_body(tick, scope, plans))
                entries.conn.execute(insert(ticks), {"scope": scope, "tick": tick, "seq": seq})
                _index_plans(entries.conn, scope, seq, plans)
        except IntegrityError as error:
            raise Conflict(f"tick {tick} of {scope} is decided already: is another worker running as {scope}?") from error

    def last_tick(self, scope: str) -> int | None:
        """The newest tick recorded by ``scope``, None before the first."""
        with self.database.read() as conn:
            found = conn.execute(select(func.max(ticks.c.tick)).where(ticks.c.scope == scope)).scalar_one()
        return None if found is None else int(found)

    def effective_since(self, scope: str, fingerprint: str, tick: int) -> int:
        """Tick at which ``scope`` first decided with this ``fingerprint``; recorded as ``tick`` if it is new."""
        key = (fingerprints.c.scope == scope) & (fingerprints.c.fingerprint == fingerprint)
        with self.database.read() as conn:
            found = conn.execute(select(fingerprints.c.tick).where(key)).scalar_one_or_none()
        if found is not None:
            return int(found)
        with self.writing(durable=False) as entries:
            row = {"scope": scope, "fingerprint": fingerprint, "tick": tick}
            entries.conn.execute(insert(fingerprints), row)
            entries.add("fingerprint", row)
        return tick

    def intend(self, action: Action, *, epoch: int, before: Observed | None = None) -> bool:
        """Durably record the intent, with what the target looked like. False: this action has ended already, do nothing.

        An intent of the same action that never ended is taken over (the effect's token is the action's id, so it still
        happens once). Raises Conflict when the target has another action in flight or ``epoch`` does not hold it.
        """
        found = self.intend_all([(action, epoch, before)])[action.id]
        if isinstance(found, Conflict):
            raise found
        return found

    def intend_all(self, wanted: Sequence[tuple[Action, int, Observed | None]]) -> dict[str, bool | Conflict]:
        """`intend` for many (action, epoch, before) at once: its answer by action id, or the Conflict it would have raised."""
        try:
            with self.writing() as entries:
                return intentions.begin(entries, wanted)
        except IntegrityError as error:
            raise Conflict("another action is in flight on one of these targets: one at a time") from error

    def conclude(self, outcome: Outcome, *, epoch: int | None = None) -> None:
        """Record the end of an intent (or a refusal without one) and end its lease. An ended intent stays as it ended.

        So does one that has left ``epoch``: the worker that took it over records its end.
        """
        self.conclude_all([(outcome, epoch)])

    def conclude_all(self, ends: Sequence[tuple[Outcome, int | None]]) -> None:
        """`conclude` for many outcomes, each with its epoch, at once."""
        with self.writing(durable=False) as entries:
            intentions.end(entries, ends)

    def note_ready(self, found: Sequence[Readiness]) -> None:
        """Record when growth was first seen ready. What is recorded of an action already stays as it is."""
        with self.writing(durable=False) as entries:
            for one in found:
                if entries.conn.execute(select(ready.c.pool).where(ready.c.action_id == one.action_id)).one_or_none() is None:
                    row = {"action_id": one.action_id, "pool": one.pool, "at": one.at, "lag_s": one.lag_s}
                    entries.conn.execute(insert(ready), row)
                    entries.add("ready", row, one.at)
                    entries.conn.execute(delete(ready).where(ready.c.at < one.at - LAG_MS))

    def note_given_back(self, pools: Sequence[str]) -> None:
        """These pools have their traffic again, or somebody else changed it: nothing is to be given back to them."""
        with self.writing(durable=False) as entries:
            drains.forget(entries.conn, pools)
            entries.add("given_back", {"pools": list(pools)})

    def ended(self, action_id: str) -> Outcome | None:
        """How the intent of this action ended; None while it has not, or was never intended (a refusal may be retried)."""
        return self.endings([action_id]).get(action_id)

    def endings(self, action_ids: Sequence[str]) -> dict[str, Outcome]:
        """`ended` for many actions, by id; those that have not ended are left out."""
        query = select(outcomes.c.action_id, outcomes.c.body).join(intents, intents.c.action_id == outcomes.c.action_id)
        done = query.where(intents.c.action_id.in_(action_ids), intents.c.state == "done")
        with self.database.read() as conn:
            return {row.action_id: codec.outcome(row.body) for row in conn.execute(done)}

    def unfinished(self, action_id: str = "") -> tuple[Intent, ...]:
        """Intents without an outcome, oldest first; of ``action_id`` alone when given."""
        query = select(intents).where(intents.c.state == "open").order_by(intents.c.at, intents.c.action_id)
        if action_id:
            query = query.where(intents.c.action_id == action_id)
        with self.database.read() as conn:
            rows = conn.execute(query).all()
        return tuple(Intent(codec.action(row.action), row.epoch, row.at, codec.observed(row.before)) for row in rows)

    def snapshot(self, now: int, observed: dict[str, Observed]) -> Fleet:
        """The fleet at ``now``: what was observed, the recent past, holds, modes and the kill switch."""
        killed = self.killed()
        with self.database.read() as conn:
            rows = conn.execute(select(holds).where(holds.c.target != EVERYTHING).order_by(holds.c.target)).all()
            reports = {r.target.removeprefix(DOWN): f"{r.who}: {r.reason}" for r in rows if r.target.startswith(DOWN)}
            held = frozenset(row.target for row in rows if not row.target.startswith(DOWN))
            promoted = {row.workload: Mode(row.mode) for row in conn.execute(select(modes))}
            in_flight = frozenset(conn.execute(select(intents.c.pool).where(intents.c.state == "open")).scalars())
            recent, wanted = _recent_outcomes(conn, now), _recommendations(conn, now)
            readied = _readied(conn, now)
            panicked = conn.execute(select(func.max(panics.c.tick)).where(panics.c.tick <= now)).scalar_one()
            taken = drains.recall(conn)
        return Fleet(
            now,
            observed,
            recent,
            wanted,
            in_flight,
            held,
            killed,
            promoted,
            frozenset(reports),
            panicked_at=panicked or 0,
            readied=readied,
            reports=reports,
            drained=taken,
        )


PANIC = "panic"
"""The guard whose refusals `Fleet.panicked_at` tells of."""


def _index_plans(conn: Connection, scope: str, seq: int, found: Sequence[Plan]) -> None:
    rows = [
        {"id": p.id, "scope": scope, "tick": p.tick, "hash": codec.plan_hash(p), "seq": seq, "expires_at": p.expires_at}
        for p in found
    ]
    if rows:
        conn.execute(insert(plans), rows)
    wanted: dict[str, dict[str, Any]] = {}
    for plan in found:
        for workload, replicas in plan.recommended.items():
            wanted[workload] = {"seq": seq, "workload": workload, "at": plan.tick, "replicas": replicas}
    if wanted:
        conn.execute(insert(recommendations), list(wanted.values()))
        oldest = min(plan.tick for plan in found) - MEMORY_MS
        conn.execute(delete(recommendations).where(recommendations.c.at < oldest))
    if any(refusal.guard == PANIC for plan in found for refusal in plan.refusals):
        conn.execute(insert(panics), {"seq": seq, "tick": max(plan.tick for plan in found)})


def _recent_outcomes(conn: Connection, now: int) -> tuple[Outcome, ...]:
    disruptive = outcomes.c.kind.in_([kind.value for kind in DISRUPTIVE]) & (outcomes.c.at > now - SYMPTOM_MS)
    recent = (outcomes.c.at > now - MEMORY_MS) | disruptive
    query = select(outcomes.c.body).where(recent, outcomes.c.at <= now).order_by(outcomes.c.at, outcomes.c.action_id)
    return tuple(codec.outcome(body) for body in conn.execute(query).scalars())


def _recommendations(conn: Connection, now: int) -> tuple[Recommendation, ...]:
    recent = (recommendations.c.at > now - MEMORY_MS) & (recommendations.c.at <= now)
    query = select(recommendations.c.workload, recommendations.c.at, recommendations.c.replicas).where(recent)
    rows = conn.execute(query.order_by(recommendations.c.at, recommendations.c.seq, recommendations.c.workload))
    return tuple(Recommendation(*row) for row in rows)


def _readied(conn: Connection, now: int) -> tuple[Readiness, ...]:
    query = select(ready.c.action_id, ready.c.pool, ready.c.at, ready.c.lag_s)
    rows = conn.execute(query.where(ready.c.at > now - LAG_MS, ready.c.at <= now).order_by(ready.c.at, ready.c.action_id))
    return tuple(Readiness(*row) for row in rows)
