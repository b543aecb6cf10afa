"""Who may touch a target, and how often: leases with fencing epochs, and budgets as durable token buckets.

Neither is history, so neither is in the chain; both are in the same database as the intents, because a check that can
disagree with what it protects protects nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, bindparam, insert, select, update

from forecastle.errors import Conflict
from forecastle.ledger.database import inserting
from forecastle.ledger.journal import Journal
from forecastle.ledger.schema import buckets, leases

HOUR_MS = 3_600_000


class Leases(Journal):
    """Leases and budgets."""

    def lease(self, target: str, holder: str, ttl_s: float) -> int:
        """Hold ``target`` for ``ttl_s`` seconds. Returns a new epoch, larger than any before it.

        It fences earlier holders, the same holder's former self included. Raises Conflict while somebody else holds it.
        """
        found = self.lease_all([target], holder, ttl_s)[target]
        if isinstance(found, Conflict):
            raise found
        return found

    def lease_all(self, targets: Sequence[str], holder: str, ttl_s: float) -> dict[str, int | Conflict]:
        """`lease` for many targets at once: the new epoch of each, or the Conflict that one of them alone would have raised."""
        if not targets:
            return {}
        with self.writing(durable=False) as entries:
            conn, now = entries.conn, entries.now
            new = inserting(conn, leases)
            taken = new.on_conflict_do_update(
                index_elements=["target"],
                set_={"holder": new.excluded.holder, "epoch": leases.c.epoch + 1, "expires_at": new.excluded.expires_at},
                where=(leases.c.expires_at <= now) | (leases.c.holder == new.excluded.holder),
            )
            wanted = dict.fromkeys(targets)
            row = {"holder": holder, "epoch": 1, "expires_at": now + int(ttl_s * 1000)}
            rows = conn.execute(taken.returning(leases.c.target, leases.c.epoch), [{"target": t, **row} for t in wanted])
            found: dict[str, int | Conflict] = {target: int(epoch) for target, epoch in rows}
            others = [target for target in wanted if target not in found]
            for one in conn.execute(select(leases).where(leases.c.target.in_(others))) if others else ():
                found[one.target] = Conflict(f"{one.target} is leased to {one.holder} until {one.expires_at}")
            return found

    def hand_back(self, target: str, epoch: int) -> None:
        """End the lease if ``epoch`` is still the one that holds; the epoch itself is never reused."""
        with self.writing(durable=False) as entries:
            end(entries.conn, [(target, epoch)])

    def fenced(self, target: str, epoch: int) -> bool:
        """True when ``epoch`` no longer holds ``target``: somebody newer does, or the lease ran out."""
        with self.database.read() as conn:
            return not holding(conn, {target: epoch}, self.clock.now())

    def allow(self, name: str, capacity: float, per_hour: float) -> None:
        """Give the budget ``name`` a rule. A new bucket is full; a changed rule keeps what was spent."""
        with self.database.read() as conn:
            row = conn.execute(select(buckets).where(buckets.c.name == name)).one_or_none()
        if row is not None and (row.capacity, row.per_hour) == (capacity, per_hour):
            return
        with self.writing() as entries:
            conn, now = entries.conn, entries.now
            row = conn.execute(select(buckets).where(buckets.c.name == name).with_for_update()).one_or_none()
            rule = {"capacity": capacity, "per_hour": per_hour}
            if row is None:
                conn.execute(insert(buckets), {"name": name, "tokens": capacity, "at": now, **rule})
            else:
                spent = row.capacity - _filled(row.capacity, row.per_hour, row.tokens, row.at, now)
                left = max(0.0, capacity - spent)
                conn.execute(update(buckets).where(buckets.c.name == name).values(tokens=left, at=max(now, row.at), **rule))
            entries.add("budget", {"name": name, **rule})

    def take(self, names: str | Sequence[str], n: float = 1.0) -> str:
        """Take ``n`` from every named budget, or from none. Returns '' or the name of the one that has too little.

        A budget without a rule has nothing: a missing rule means deny.
        """
        wanted = [names] if isinstance(names, str) else list(names)
        with self.writing() as entries:
            conn, now, left = entries.conn, entries.now, {}
            for name in wanted:
                row = conn.execute(select(buckets).where(buckets.c.name == name)).one_or_none()
                if row is None:
                    return name
                tokens = _filled(row.capacity, row.per_hour, row.tokens, row.at, now)
                if tokens + 1e-9 < n:
                    return name
                left[name] = tokens - n, max(now, row.at)
            for name, (tokens, at) in left.items():
                conn.execute(update(buckets).where(buckets.c.name == name).values(tokens=tokens, at=at))
            return ""


def _filled(capacity: float, per_hour: float, tokens: float, at: int, now: int) -> float:
    """Tokens at ``now``; a clock that steps back refills nothing, and one that leaps ahead fills the bucket once."""
    return min(capacity, tokens + max(0, now - at) * per_hour / HOUR_MS)


def holding(conn: Connection, epochs: Mapping[str, int], now: int) -> set[str]:
    """The targets whose newest epoch is the one given and has not run out."""
    query = select(leases.c.target, leases.c.epoch).where(leases.c.target.in_(epochs), leases.c.expires_at > now)
    return {row.target for row in conn.execute(query) if row.epoch == epochs[row.target]}


def end(conn: Connection, epochs: Sequence[tuple[str, int]]) -> None:
    """Let the leases of these targets run out now, where the epoch still holds them."""
    mine = (leases.c.target == bindparam("of")) & (leases.c.epoch == bindparam("held"))
    conn.execute(update(leases).where(mine).values(expires_at=0), [{"of": target, "held": epoch} for target, epoch in epochs])
