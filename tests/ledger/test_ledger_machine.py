"""People and an intruder at the ledger, step by step: whatever they do in whatever order, the chain verifies after each step,
human control is what a few dictionaries say it is, and every change made behind the ledger's back is found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from ledger_worlds import MINUTE, START, action, plan
from sqlalchemy import Connection

from forecastle.errors import Conflict, Denied, LedgerCorrupt, NotFound
from forecastle.ledger import chain
from forecastle.ledger.codec import plan_hash
from forecastle.ledger.schema import metadata
from forecastle.ledger.store import SqlLedger
from forecastle.runtime.clocks import EventClock
from forecastle.types import Mode, Plan

PEOPLE = st.sampled_from(("ann", "bob", "cyd"))
TARGETS = st.sampled_from(("shop", "shop-fra", "aws/eu-central-1/"))
NUMBERS = st.integers(0, 2)
VARIANTS = st.integers(0, 1)
FORGERIES = (
    "update entries set body = body || ' ' where seq = {seq}",
    "update entries set at = at + 1 where seq = {seq}",
    "update entries set kind = 'release' || kind where seq = {seq}",
    "update entries set prev = replace(prev, substr(prev, 1, 1), 'x') where seq = {seq}",
    "update entries set hash = replace(hash, substr(hash, 1, 1), 'x') where seq = {seq}",
    "delete from entries where seq = {seq}",
    "update entries set seq = seq + 1000000 where seq = {seq}",
)


class RolledBackError(Exception):
    """Takes a forgery back."""


def numbered(number: int, variant: int) -> Plan:
    """One of three plans, each of which can be recorded in two variants: the same id, another content."""
    tick = START + number * MINUTE
    return plan(action(tick=tick), id=f"plan-{number}", tick=tick, cost=0.5 + variant, expires_at=START + (number + 2) * MINUTE)


class Control(RuleBasedStateMachine):
    """Two views of one ledger, as two processes have; people use either."""

    views: tuple[SqlLedger, SqlLedger]
    clock: EventClock

    def __init__(self) -> None:
        super().__init__()
        with self.views[0].database.write() as conn:
            for table in metadata.sorted_tables:
                conn.execute(table.delete())
        Path(self.views[0].settings.witness).unlink(missing_ok=True)
        self.entries, self.turn = 0, 0
        self.holds: dict[str, str] = {}
        self.modes: dict[str, Mode] = {}
        self.recorded: dict[tuple[int, int], Plan] = {}
        self.newest: dict[int, Plan] = {}
        self.asked: dict[str, tuple[str, int]] = {}
        self.approvals: dict[str, set[str]] = {}
        self.start = self.clock.now()

    @property
    def ledger(self) -> SqlLedger:
        self.turn += 1
        return self.views[self.turn % 2]

    def of(self, number: int, variant: int) -> Plan:
        """`numbered`, living from the start of this example."""
        found = numbered(number, variant)
        shift = self.start - START
        return plan(*found.actions, id=found.id, tick=found.tick, cost=found.cost, expires_at=found.expires_at + shift)

    @rule(name=TARGETS, who=PEOPLE)
    def hold(self, name: str, who: str) -> None:
        self.ledger.hold(name, "looking", who)
        self.holds[name] = who
        self.entries += 1

    @rule(name=TARGETS, who=PEOPLE)
    def release(self, name: str, who: str) -> None:
        if name not in self.holds:
            with pytest.raises(NotFound):
                self.ledger.release(name, who)
            return
        self.ledger.release(name, who)
        del self.holds[name]
        self.entries += 1

    @rule(who=PEOPLE)
    def kill(self, who: str) -> None:
        self.ledger.kill("drill", who)
        self.holds["*"] = who
        self.entries += 1

    @rule(who=PEOPLE)
    def unkill(self, who: str) -> None:
        self.ledger.unkill(who)
        self.entries += self.holds.pop("*", None) is not None

    @rule(workload=st.sampled_from(("shop", "api")), mode=st.sampled_from(tuple(Mode)), who=PEOPLE)
    def promote(self, workload: str, mode: Mode, who: str) -> None:
        self.ledger.promote_mode(workload, mode, who)
        self.modes[workload] = mode
        self.entries += 1

    @rule(number=NUMBERS, variant=VARIANTS)
    def record(self, number: int, variant: int) -> None:
        wanted = self.of(number, variant)
        if (number, variant) in self.recorded:
            with pytest.raises(Conflict):
                self.ledger.record(wanted.tick, f"w{variant}", [wanted])
            return
        self.ledger.record(wanted.tick, f"w{variant}", [wanted])
        self.recorded[number, variant] = self.newest[number] = wanted
        self.entries += 1

    @rule(number=NUMBERS, variant=VARIANTS, requester=PEOPLE, people=st.integers(0, 2))
    def request(self, number: int, variant: int, requester: str, people: int) -> None:
        wanted = self.of(number, variant)
        self.ledger.request(wanted, requester, people)
        if plan_hash(wanted) not in self.asked:
            self.asked[plan_hash(wanted)] = (requester, people)
            self.entries += 1

    @rule(number=NUMBERS, by=PEOPLE)
    def approve(self, number: int, by: str) -> None:
        wanted = self.newest.get(number)
        if wanted is None:
            with pytest.raises(NotFound):
                self.ledger.approve(f"plan-{number}", by)
            return
        bound = plan_hash(wanted)
        if wanted.expires_at <= self.clock.now() or self.asked.get(bound, ("", 0))[0] == by:
            with pytest.raises(Denied):
                self.ledger.approve(wanted.id, by)
            return
        people = self.approvals.setdefault(bound, set())
        self.entries += by not in people
        people.add(by)
        assert self.ledger.approve(wanted.id, by) == len(people)

    @rule(seconds=st.sampled_from((1, 45)))
    def wait(self, seconds: int) -> None:
        self.clock.advance(self.clock.now() + seconds * 1000)

    @precondition(lambda self: self.entries)
    @rule(data=st.data(), forgery=st.sampled_from(FORGERIES))
    def forge(self, data: Any, forgery: str) -> None:
        """An intruder changes or removes any one row: verification says which, and the row is put back."""
        seq = data.draw(st.integers(1, self.entries), label="seq")
        views = self.views

        def forged(conn: Connection) -> None:
            conn.exec_driver_sql(forgery.format(seq=seq))
            with pytest.raises(LedgerCorrupt, match=rf"entry {seq}\b"):
                chain.verify(conn, views[0].witness)
            raise RolledBackError

        with pytest.raises(RolledBackError), views[0].database.write() as conn:
            forged(conn)

    @invariant()
    def the_chain_verifies(self) -> None:
        assert self.ledger.verify() == self.entries

    @invariant()
    def people_are_obeyed(self) -> None:
        view = self.ledger
        killed = self.holds.get("*")
        assert view.killed() == (f"drill ({killed})" if killed else "")
        assert bool(view.held("shop", "shop-fra")) is bool({"shop", "shop-fra"} & self.holds.keys())
        fleet = view.snapshot(self.clock.now(), {})
        assert fleet.held == frozenset(self.holds) - {"*"}
        assert dict(fleet.modes) == self.modes
        assert bool(fleet.killed) is bool(killed)

    @invariant()
    def approvals_are_distinct_unexpired_and_bound(self) -> None:
        for number, newest in self.newest.items():
            for wanted in (newest, self.of(number, variant=1)):
                requester, people = self.asked.get(plan_hash(wanted), ("", 2))
                distinct = self.approvals.get(plan_hash(wanted), set()) - {requester}
                enough = len(distinct) >= max(1, people) and wanted.expires_at > self.clock.now()
                assert self.ledger.approved(wanted) is enough


def test_people_and_an_intruder_agree_with_a_model(
    open_ledger: Callable[..., SqlLedger], clock: EventClock, url: str, tmp_path: Path
) -> None:
    class Bound(Control):
        pass

    witness = str(tmp_path / "witness")
    Bound.views, Bound.clock = (open_ledger(witness=witness), open_ledger(witness=witness)), clock
    examples = 12 if url.startswith("sqlite") else 4
    quick = settings(
        max_examples=examples,
        stateful_step_count=25,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
        derandomize=True,
    )
    run_state_machine_as_test(Bound, settings=quick)
