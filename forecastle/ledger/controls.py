"""Human control: modes, holds, the kill switch and approvals. "Off" is durable state that nothing but a person turns on.

The kill switch has three independent hands: a row in the database (command line, API), a file, and the environment
variable FORECASTLE_KILL. Any of them stops every effect, none expires, and one that cannot be read counts as thrown.
"""

from __future__ import annotations

import os
from pathlib import Path

from sqlalchemy import Connection, Row, Table, delete, func, insert, select

from forecastle.errors import Denied, NotFound
from forecastle.ledger.codec import plan_hash
from forecastle.ledger.journal import Entries, Journal
from forecastle.ledger.schema import approvals, holds, modes, plans, requests
from forecastle.types import Mode, Plan

EVERYTHING = "*"
DOWN = "down:"
"""A hold with this before the name of a site says that people know it to be down."""
STRICTEST = 2


class Controls(Journal):
    """What people decided, and who."""

    def promote_mode(self, workload: str, mode: Mode, who: str) -> None:
        """Set how far ``workload`` trusts us, overriding the configuration."""
        _named(workload, who)
        with self.writing() as entries:
            _replace(
                entries.conn,
                modes,
                "workload",
                {"workload": workload, "mode": mode.value, "who": who, "at": entries.now},
            )
            entries.add("mode", {"workload": workload, "mode": mode.value, "who": who})

    def mode(self, workload: str) -> Mode | None:
        """Promoted mode of ``workload``, None when never changed."""
        with self.database.read() as conn:
            found = conn.execute(select(modes.c.mode).where(modes.c.workload == workload)).scalar_one_or_none()
        return Mode(found) if found is not None else None

    def hold(self, target: str, reason: str, who: str) -> None:
        """Stop every action on ``target`` (a workload, a pool or a failure domain) until a person releases it."""
        _named(target, who)
        with self.writing() as entries:
            _replace(entries.conn, holds, "target", {"target": target, "reason": reason, "who": who, "at": entries.now})
            entries.add("hold", {"target": target, "reason": reason, "who": who})

    def release(self, target: str, who: str) -> None:
        """End a hold. Raises NotFound when there is none."""
        with self.writing() as entries:
            if not entries.conn.execute(delete(holds).where(holds.c.target == target)).rowcount:
                raise NotFound(f"nothing holds {target!r}")
            entries.add("release", {"target": target, "who": who})

    def report_down(self, site: str, reason: str, who: str) -> None:
        """A person knows that ``site`` is down: its load is placed elsewhere until `report_up`."""
        _named(site, who)
        self.hold(f"{DOWN}{site}", reason, who)

    def report_up(self, site: str, who: str) -> None:
        """The site is back. Raises NotFound when nobody reported it down."""
        self.release(f"{DOWN}{site}", who)

    def held(self, *names: str) -> str:
        """Why one of ``names`` is held, '' when none is."""
        with self.database.read() as conn:
            row = conn.execute(select(holds).where(holds.c.target.in_(names)).order_by(holds.c.target)).first()
        return f"{row.target} is held by {row.who}: {row.reason}" if row is not None else ""

    def kill(self, reason: str, who: str) -> None:
        """Stop every effect everywhere. Stays until `unkill`, over restarts; reason and owner are kept."""
        self.hold(EVERYTHING, reason, who)

    def unkill(self, who: str) -> None:
        """Allow effects again; does nothing when the switch was not thrown here. A kill file or variable stays."""
        try:
            self.release(EVERYTHING, who)
        except NotFound:
            return

    def killed(self) -> str:
        """Reason of the kill switch, '' when off. Read at every effect: environment, file, database."""
        variable = os.environ.get("FORECASTLE_KILL", "")
        if variable not in ("", "0", "false"):
            return f"FORECASTLE_KILL is set: {variable}"
        if self.settings.kill_file and (file := _kill_file(Path(self.settings.kill_file))):
            return file
        with self.database.read() as conn:
            return killed_row(conn)

    def request(self, plan: Plan, requester: str, people: int) -> None:
        """Ask ``people`` distinct persons, none of them ``requester``, to approve ``plan``. Asking again changes nothing."""
        bound = plan_hash(plan)
        with self.database.read() as conn:
            if conn.execute(select(requests.c.at).where(requests.c.plan_hash == bound)).one_or_none() is not None:
                return
        with self.writing() as entries:
            if entries.conn.execute(select(requests.c.at).where(requests.c.plan_hash == bound)).one_or_none() is not None:
                return
            row = {"plan_hash": bound, "plan_id": plan.id, "requester": requester, "people": people, "at": entries.now}
            entries.conn.execute(insert(requests), row)
            entries.add("request", row)

    def approve(self, plan_id: str, by: str) -> int:
        """``by`` approves the recorded plan with this id or unique prefix. Returns how many distinct people have now.

        Raises NotFound (no or several such plans) and Denied (expired, or ``by`` asked for it). Twice by one person is once.
        """
        with self.writing() as entries:
            plan = find_plan_row(entries.conn, plan_id)
            if plan is None:
                raise NotFound(f"plan {plan_id}: no recorded plan, or more than one, has this id; see 'forecastle plan'")
            if plan.expires_at <= entries.now:
                raise Denied(f"plan {plan.id} expired at {plan.expires_at}: approve a newer one")
            asked = entries.conn.execute(select(requests).where(requests.c.plan_hash == plan.hash)).one_or_none()
            if not by.strip() or (asked is not None and asked.requester == by):
                raise Denied(f"plan {plan.id}: {by!r} asked for it, so somebody else must approve it")
            return _approve(entries, plan, by)

    def approved(self, plan: Plan) -> bool:
        """True when enough distinct people approved exactly this plan and neither it nor their word has expired.

        How many are enough was said in the request; a plan nobody asked about needs the strictest number.
        """
        bound, now = plan_hash(plan), self.clock.now()
        if plan.expires_at <= now:
            return False
        with self.database.read() as conn:
            asked = conn.execute(select(requests).where(requests.c.plan_hash == bound)).one_or_none()
            valid = (approvals.c.plan_hash == bound) & (approvals.c.expires_at > now)
            if asked is not None:
                valid &= approvals.c.person != asked.requester
            count = conn.execute(select(func.count()).select_from(approvals).where(valid)).scalar_one()
        return bool(count >= (max(1, asked.people) if asked is not None else STRICTEST))


def killed_row(conn: Connection) -> str:
    """The database's own kill switch: its reason and owner, '' when off."""
    row = conn.execute(select(holds).where(holds.c.target == EVERYTHING)).one_or_none()
    return f"{row.reason} ({row.who})" if row is not None else ""


def find_plan_row(conn: Connection, prefix: str) -> Row[tuple[object, ...]] | None:
    """The plan whose id is or uniquely begins with ``prefix``; of several records of one id the newest."""
    literal = prefix.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    query = select(plans).where(plans.c.id.like(f"{literal}%", escape="\\")).order_by(plans.c.seq.desc()).limit(50)
    rows = conn.execute(query).all()
    exact = [row for row in rows if row.id == prefix]
    if exact:
        return exact[0]
    return rows[0] if prefix and len({row.id for row in rows}) == 1 else None


def _approve(entries: Entries, plan: Row[tuple[object, ...]], by: str) -> int:
    key = (approvals.c.plan_hash == plan.hash) & (approvals.c.person == by)
    if entries.conn.execute(select(approvals.c.at).where(key)).one_or_none() is None:
        row = {"plan_hash": plan.hash, "person": by, "at": entries.now, "expires_at": plan.expires_at}
        entries.conn.execute(insert(approvals), row)
        entries.add("approval", {"plan_id": plan.id, **row})
    count = select(func.count()).select_from(approvals).where(approvals.c.plan_hash == plan.hash)
    return int(entries.conn.execute(count).scalar_one())


def _replace(conn: Connection, table: Table, key: str, row: dict[str, object]) -> None:
    conn.execute(delete(table).where(table.c[key] == row[key]))
    conn.execute(insert(table), row)


def _named(target: str, who: str) -> None:
    if not target.strip() or not who.strip():
        raise Denied("a target and the name of the person are needed: an empty target is never 'everything'")


def _kill_file(path: Path) -> str:
    try:
        return f"{path} exists: {path.read_text(encoding='utf-8', errors='replace').strip()[:200]}"
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"{path} cannot be read ({error}): taken as thrown"
