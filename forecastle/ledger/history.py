"""Reading the past: the recent part a decision depends on, and single plans and entries for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from forecastle.ledger import codec
from forecastle.ledger.controls import find_plan_row
from forecastle.ledger.journal import Journal
from forecastle.ledger.schema import entries, outcomes, plans
from forecastle.types import Outcome, Plan


@dataclass(frozen=True, slots=True)
class Entry:
    """One link of the chain. ``body`` is plain JSON; ``hash`` covers everything before it too."""

    seq: int
    at: int
    kind: str
    body: Any
    hash: str


class History(Journal):
    """Queries over what was recorded. None of them changes anything."""

    def recent_plans(self, limit: int = 50) -> list[Plan]:
        """The newest plans, newest first."""
        with self.database.read() as conn:
            rows = conn.execute(select(plans.c.id, plans.c.seq).order_by(plans.c.seq.desc()).limit(limit)).all()
            found = {seq: {p.id: p for p in _recorded(conn, seq)} for seq in {row.seq for row in rows}}
        return sorted((found[row.seq][row.id] for row in rows), key=lambda plan: plan.tick, reverse=True)

    def find_plan(self, plan_id: str) -> Plan | None:
        """The plan with this id or unique prefix of one; None when there is none or several."""
        with self.database.read() as conn:
            row = find_plan_row(conn, plan_id)
            if row is None:
                return None
            return next(plan for plan in _recorded(conn, row.seq) if plan.id == row.id)

    def outcomes(self, since_ms: int = 0) -> list[Outcome]:
        """Outcomes at or after ``since_ms``, oldest first; of an action refused several times the last refusal."""
        with self.database.read() as conn:
            query = select(outcomes.c.body).where(outcomes.c.at >= since_ms).order_by(outcomes.c.at, outcomes.c.seq)
            return [codec.outcome(body) for body in conn.execute(query).scalars()]

    def history(
        self,
        *,
        kinds: Sequence[str] = (),
        since_ms: int = 0,
        until_ms: int | None = None,
        mentions: str = "",
        limit: int = 1000,
    ) -> list[Entry]:
        """Up to ``limit`` entries, newest first: of these kinds, in ``[since_ms, until_ms)``, with ``mentions`` in the body."""
        query = select(entries).where(entries.c.at >= since_ms)
        if kinds:
            query = query.where(entries.c.kind.in_(kinds))
        if until_ms is not None:
            query = query.where(entries.c.at < until_ms)
        if mentions:
            query = query.where(entries.c.body.contains(mentions, autoescape=True))
        with self.database.read() as conn:
            rows = conn.execute(query.order_by(entries.c.seq.desc()).limit(limit)).all()
        return [Entry(row.seq, row.at, row.kind, codec.decode(row.body), row.hash) for row in rows]


def _recorded(conn: Connection, seq: int) -> tuple[Plan, ...]:
    return codec.plans(conn.execute(select(entries.c.body).where(entries.c.seq == seq)).scalar_one())
