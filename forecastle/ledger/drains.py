"""What failovers took away and have to give back: remembered for as long as a site is gone, which may be longer than a day."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, delete, insert, select

from forecastle.ledger.journal import Entries
from forecastle.ledger.schema import drained
from forecastle.types import Drained, Kind, Outcome, Status

_WEIGHTED = frozenset({Kind.DRAIN, Kind.SHIFT})
_DONE = frozenset({Status.APPLIED, Status.ALREADY, Status.UNVERIFIED})


def remember(entries: Entries, ended: Sequence[Outcome]) -> None:
    """Note what these outcomes left pools with. Whoever else changes a pool's weight has taken it over."""
    for outcome in ended:
        if outcome.kind not in _WEIGHTED or outcome.status not in _DONE:
            continue
        known = recall(entries.conn, outcome.pool).get(outcome.pool)
        after = outcome.after.traffic if outcome.after else None
        if outcome.base is None or (after is not None and after.weight == outcome.base):
            forget(entries.conn, [outcome.pool])
        elif after is not None or known is None:
            row = {"pool": outcome.pool, "base": outcome.base, "left": after.weight if after else None}
            forget(entries.conn, [outcome.pool])
            entries.conn.execute(insert(drained), row)


def recall(conn: Connection, *pools: str) -> dict[str, Drained]:
    """What is to be given back, by pool: of all, or of those given."""
    query = select(drained).order_by(drained.c.pool)
    rows = conn.execute(query.where(drained.c.pool.in_(pools)) if pools else query)
    return {row.pool: Drained(row.base, row.left) for row in rows}


def forget(conn: Connection, pools: Iterable[str]) -> None:
    """Nothing is to be given back to these pools any more."""
    conn.execute(delete(drained).where(drained.c.pool.in_(list(pools))))
