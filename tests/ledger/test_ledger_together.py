"""Many records in one transaction: all or nothing, refusals spoil nothing, and many at once are as each alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from ledger_worlds import MINUTE, START, action, observed, outcome

from forecastle.errors import Conflict
from forecastle.ledger.store import SqlLedger
from forecastle.runtime.clocks import EventClock
from forecastle.types import Status


def kinds(ledger: SqlLedger) -> list[str]:
    return [entry.kind for entry in reversed(ledger.history())]


def test_what_is_recorded_together_is_recorded(ledger: SqlLedger) -> None:
    with ledger.together():
        epoch = ledger.lease("shop-fra", "w", 60)
        ledger.intend(action(), epoch=epoch)
        ledger.hold("shop", "looking", "ann")
        assert ledger.held("shop").startswith("shop is held"), "it is seen inside"
    assert kinds(ledger) == ["intent", "hold"]
    assert ledger.verify() == 2
    assert not ledger.fenced("shop-fra", epoch)


def test_an_error_takes_all_of_it_back(ledger: SqlLedger) -> None:
    before = ledger.lease("shop-fra", "w", 60)

    def broken() -> None:
        with ledger.together():
            ledger.intend(action(), epoch=ledger.lease("shop-fra", "w", 60))
            ledger.allow("heals", 3, 3)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken()
    assert (ledger.unfinished(), kinds(ledger), ledger.verify()) == ((), [], 0)
    assert not ledger.fenced("shop-fra", before)
    assert ledger.take("heals") == "heals", "the budget has no rule"
    ledger.hold("shop", "afterwards", "ann")
    assert ledger.verify() == 1


def test_a_refusal_inside_spoils_nothing(ledger: SqlLedger) -> None:
    ledger.lease("taken", "other", 60)
    with ledger.together():
        epoch = ledger.lease("shop-fra", "w", 60)
        with pytest.raises(Conflict):
            ledger.lease("taken", "w", 60)
        with pytest.raises(Conflict):
            ledger.intend(action("shop-ams"), epoch=7)
        ledger.intend(action(), epoch=epoch)
        with pytest.raises(Conflict):
            ledger.intend(action(tick=START + MINUTE), epoch=epoch)
    assert [intent.action for intent in ledger.unfinished()] == [action()]
    assert ledger.verify() == 1


def test_another_process_sees_it_at_the_end_only(open_ledger: Callable[..., SqlLedger]) -> None:
    mine, other = open_ledger(), open_ledger()
    with mine.together():
        mine.kill("drill", "ann")
        assert mine.killed()
        assert other.killed() == ""
    assert other.killed() == "drill (ann)"


def test_the_witness_learns_the_last_head_of_all(open_ledger: Callable[..., SqlLedger], tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    ledger = open_ledger(witness=str(witness))
    with ledger.together():
        for target in ("a", "b", "c"):
            ledger.hold(target, "looking", "ann")
    assert [line.split()[0] for line in witness.read_text().splitlines()] == ["3"]
    assert ledger.verify() == 3


def test_watching_sees_what_others_commit_meanwhile(open_ledger: Callable[..., SqlLedger]) -> None:
    mine, other = open_ledger(), open_ledger()
    epoch = mine.lease("shop-fra", "w", 60)
    with mine.watching():
        assert (mine.killed(), mine.held("shop"), mine.fenced("shop-fra", epoch)) == ("", "", False)
        other.kill("drill", "ann")
        other.hold("shop", "looking", "ann")
        other.hand_back("shop-fra", epoch)
        assert mine.killed() == "drill (ann)"
        assert mine.held("shop")
        assert mine.fenced("shop-fra", epoch)
        mine.release("shop", "ann")
        assert mine.held("shop") == "", "one's own writes as well"


# --- many at once -----------------------------------------------------------------------------------------------------


def test_many_leases_are_each_granted_or_refused(ledger: SqlLedger, clock: EventClock) -> None:
    ledger.lease("taken", "other", 60)
    old = ledger.lease("over", "other", 1)
    mine = ledger.lease("mine", "w", 60)
    clock.advance(START + 2_000)
    found = ledger.lease_all(["taken", "over", "mine", "new"], "w", 60)
    assert isinstance(found.pop("taken"), Conflict)
    assert found == {"over": old + 1, "mine": mine + 1, "new": 1}
    assert ledger.fenced("mine", mine)
    assert not any(ledger.fenced(target, int(epoch)) for target, epoch in found.items() if isinstance(epoch, int))
    assert ledger.lease_all([], "w", 60) == {}


def test_many_intents_are_each_begun_or_refused(ledger: SqlLedger) -> None:
    names = ("new", "again", "ended", "busy", "fenced")
    epochs = {name: ledger.lease(name, "w", 60) for name in names}
    ledger.intend(action("again"), epoch=epochs["again"])
    ledger.intend(action("ended"), epoch=epochs["ended"])
    ledger.conclude(outcome(action("ended")))
    ledger.intend(action("busy", tick=START - MINUTE), epoch=epochs["busy"])
    epochs |= {name: ledger.lease(name, "w", 60) for name in ("again", "ended", "busy")}
    wanted = [(action(name), epochs[name] + (name == "fenced"), observed(pool=name)) for name in names]
    found = ledger.intend_all(wanted)
    answers = {name: found[action(name).id] for name in names}
    assert (answers["new"], answers["again"], answers["ended"]) == (True, True, False)
    assert "in flight" in str(answers["busy"])
    assert "another controller took over" in str(answers["fenced"])
    open_now = {intent.action.pool: intent for intent in ledger.unfinished()}
    assert set(open_now) == {"new", "again", "busy"}
    assert open_now["again"].epoch == epochs["again"]
    assert open_now["new"].before == observed(pool="new")
    assert open_now["busy"].action.tick == START - MINUTE
    assert ledger.intend_all([]) == {}


def test_of_two_intents_for_one_target_the_first_begins(ledger: SqlLedger) -> None:
    epoch = ledger.lease("shop-fra", "w", 60)
    first, second = action(), action(tick=START + MINUTE)
    found = ledger.intend_all([(first, epoch, None), (second, epoch, None)])
    assert found[first.id] is True
    assert isinstance(found[second.id], Conflict)
    assert ledger.verify() == 1


def test_many_ends_are_each_recorded_once_by_whom_they_belong_to(ledger: SqlLedger) -> None:
    epochs = {name: ledger.lease(name, "w", 60) for name in ("mine", "theirs", "done")}
    ledger.intend_all([(action(name), epoch, None) for name, epoch in epochs.items()])
    ledger.conclude(outcome(action("done"), Status.APPLIED), epoch=epochs["done"])
    taken = ledger.lease("theirs", "w", 60)
    ledger.intend(action("theirs"), epoch=taken)
    ledger.conclude_all(
        [
            (outcome(action("mine"), Status.APPLIED), epochs["mine"]),
            (outcome(action("theirs"), Status.FAILED), epochs["theirs"]),
            (outcome(action("done"), Status.FAILED), epochs["done"]),
            (outcome(action("refused"), Status.REFUSED), None),
        ]
    )
    ids = {name: action(name).id for name in ("mine", "theirs", "done", "refused")}
    ended = ledger.endings(list(ids.values()))
    assert {name: ended[i].status for name, i in ids.items() if i in ended} == {"mine": Status.APPLIED, "done": Status.APPLIED}
    assert [intent.action.pool for intent in ledger.unfinished()] == ["theirs"]
    assert ledger.fenced("mine", epochs["mine"])
    assert not ledger.fenced("theirs", taken)
    ledger.conclude_all([])
    assert kinds(ledger).count("outcome") == 3
    ledger.verify()
