"""Human control: what a person decided holds until a person decides otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest
from ledger_worlds import MINUTE, START, action, plan

from forecastle.errors import Denied, NotFound
from forecastle.ledger.store import SqlLedger
from forecastle.runtime.clocks import EventClock
from forecastle.types import Mode


def test_the_kill_row_stops_everything_until_a_person_lifts_it(ledger: SqlLedger, open_ledger) -> None:
    assert ledger.killed() == ""
    ledger.kill("the dashboards lie", "ann")
    again = open_ledger()
    assert again.killed() == "the dashboards lie (ann)"
    assert again.snapshot(START, {}).killed == again.killed()
    assert again.snapshot(START, {}).held == frozenset(), "the switch is no hold of one target"
    again.unkill("bob")
    assert ledger.killed() == ""
    ledger.unkill("bob")
    assert [e.kind for e in ledger.history()] == ["release", "hold"], "lifting nothing is nothing"


def test_the_kill_file_stops_everything_while_it_is_there(ledger: SqlLedger, tmp_path: Path) -> None:
    (tmp_path / "KILL").write_text("maintenance until noon\n")
    assert ledger.killed() == f"{tmp_path}/KILL exists: maintenance until noon"
    ledger.unkill("ann")
    assert ledger.killed(), "only removing the file lifts it"
    (tmp_path / "KILL").unlink()
    assert ledger.killed() == ""


def test_a_kill_file_that_cannot_be_read_counts_as_thrown(ledger: SqlLedger, tmp_path: Path) -> None:
    (tmp_path / "KILL").mkdir()
    assert "taken as thrown" in ledger.killed()


@pytest.mark.parametrize(
    ("value", "thrown"), [("1", True), ("deploy freeze", True), ("0", False), ("false", False), ("", False)]
)
def test_the_environment_stops_everything(ledger: SqlLedger, monkeypatch: pytest.MonkeyPatch, value: str, thrown: bool) -> None:
    monkeypatch.setenv("FORECASTLE_KILL", value)
    assert bool(ledger.killed()) is thrown


def test_modes_are_promoted_by_name_and_kept(ledger: SqlLedger, open_ledger) -> None:
    assert ledger.mode("shop") is None
    ledger.promote_mode("shop", Mode.ADVISE, "ann")
    ledger.promote_mode("shop", Mode.AUTO, "bob")
    again = open_ledger()
    assert again.mode("shop") is Mode.AUTO
    assert [e.body["who"] for e in again.history(kinds=["mode"])] == ["bob", "ann"]
    with pytest.raises(Denied):
        ledger.promote_mode("shop", Mode.SHADOW, " ")


def test_holds_name_their_owner_and_are_released_once(ledger: SqlLedger) -> None:
    ledger.hold("shop-fra", "debugging a leak", "ann")
    assert ledger.held("shop", "shop-fra") == "shop-fra is held by ann: debugging a leak"
    assert ledger.held("shop", "shop-ams") == ""
    assert ledger.held() == ""
    ledger.release("shop-fra", "bob")
    assert ledger.held("shop-fra") == ""
    with pytest.raises(NotFound):
        ledger.release("shop-fra", "bob")


@pytest.mark.parametrize(("target", "who"), [("", "ann"), ("  ", "ann"), ("shop", "")])
def test_an_empty_target_is_never_everything(ledger: SqlLedger, target: str, who: str) -> None:
    with pytest.raises(Denied):
        ledger.hold(target, "why", who)
    assert ledger.history() == []


def test_approvals_count_distinct_people_other_than_the_requester(ledger: SqlLedger) -> None:
    wanted = plan(action(), approvals=2)
    ledger.record(START, "w", [wanted])
    ledger.request(wanted, "forecastle", 2)
    assert not ledger.approved(wanted)
    with pytest.raises(Denied, match="somebody else"):
        ledger.approve(wanted.id, "forecastle")
    assert ledger.approve(wanted.id, "ann") == 1
    assert ledger.approve(wanted.id, "ann") == 1, "twice by one person is once"
    assert not ledger.approved(wanted)
    assert ledger.approve(wanted.id, "bob") == 2
    assert ledger.approved(wanted)
    assert [e.kind for e in reversed(ledger.history())] == ["tick", "request", "approval", "approval"]


def test_an_approval_is_bound_to_exactly_this_plan(ledger: SqlLedger) -> None:
    wanted = plan(action(), approvals=1)
    ledger.record(START, "w", [wanted])
    ledger.request(wanted, "forecastle", 1)
    ledger.approve(wanted.id, "ann")
    assert ledger.approved(wanted)
    for changed in (
        plan(action(desired=50), approvals=1),
        plan(action(), approvals=1, reason="another"),
        plan(action(), approvals=1, evidence={"shop": {"floor": 6}}),
    ):
        assert not ledger.approved(changed)


def test_approvals_expire_with_their_plan(ledger: SqlLedger, clock: EventClock) -> None:
    wanted = plan(action(), approvals=1)
    ledger.record(START, "w", [wanted])
    ledger.request(wanted, "forecastle", 1)
    ledger.approve(wanted.id, "ann")
    clock.advance(wanted.expires_at - 1)
    assert ledger.approved(wanted)
    clock.advance(wanted.expires_at)
    assert not ledger.approved(wanted)
    with pytest.raises(Denied, match="expired"):
        ledger.approve(wanted.id, "bob")


def test_a_plan_nobody_asked_about_needs_two(ledger: SqlLedger) -> None:
    wanted = plan(action())
    ledger.record(START, "w", [wanted])
    ledger.approve(wanted.id, "ann")
    assert not ledger.approved(wanted)
    ledger.approve(wanted.id, "bob")
    assert ledger.approved(wanted)


def test_asking_again_changes_nothing(ledger: SqlLedger) -> None:
    wanted = plan(action(), approvals=2)
    ledger.record(START, "w", [wanted])
    ledger.request(wanted, "forecastle", 2)
    ledger.request(wanted, "ann", 1)
    ledger.approve(wanted.id, "ann")
    assert not ledger.approved(wanted)
    assert len(ledger.history(kinds=["request"])) == 1


def test_approving_needs_one_recorded_plan_and_a_name(ledger: SqlLedger) -> None:
    ledger.record(START, "w", [plan(id="aa1"), plan(id="aa2")])
    with pytest.raises(NotFound):
        ledger.approve("aa", "ann")
    with pytest.raises(NotFound):
        ledger.approve("zz", "ann")
    with pytest.raises(Denied):
        ledger.approve("aa1", " ")
    assert ledger.approve("aa1", "ann") == 1


def test_of_two_records_of_one_plan_the_newest_is_approved(ledger: SqlLedger) -> None:
    first, second = plan(action()), plan(action(), reason="seen by another worker")
    ledger.record(START, "w", [first])
    ledger.record(START, "x", [second])
    ledger.request(second, "forecastle", 1)
    ledger.approve(second.id, "ann")
    assert ledger.approved(second)
    assert not ledger.approved(first)
    assert first.expires_at == START + 5 * MINUTE
