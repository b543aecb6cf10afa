"""What the ledger remembers of decisions and effects, on both databases."""

from __future__ import annotations

import pytest
from ledger_worlds import HOUR, MINUTE, START, action, observed, outcome, plan

from forecastle.errors import ConfigError, Conflict
from forecastle.ledger.store import SqlLedger
from forecastle.runtime.clocks import EventClock
from forecastle.settings import LedgerSettings
from forecastle.types import Intent, Kind, Mode, Recommendation, Status


def test_recorded_plans_come_back_as_they_were(ledger: SqlLedger) -> None:
    first, second = plan(action(), guards=("floor",)), plan(domain="gcp/europe-west4/", id="other")
    ledger.record(START, "w", [first, second])
    assert ledger.plans(START, "w") == (first, second)
    assert ledger.plans(START, "x") is None
    assert ledger.plans(START + MINUTE, "w") is None
    assert ledger.last_tick("w") == START
    assert ledger.last_tick("x") is None


def test_a_tick_without_plans_is_decided_all_the_same(ledger: SqlLedger) -> None:
    ledger.record(START, "w", [])
    assert ledger.plans(START, "w") == ()


def test_a_tick_is_decided_once_per_scope(ledger: SqlLedger) -> None:
    ledger.record(START, "w", [plan(action())])
    before = ledger.verify()
    with pytest.raises(Conflict, match="decided already"):
        ledger.record(START, "w", [plan(action(desired=9))])
    ledger.record(START, "x", [])
    assert ledger.plans(START, "w") == (plan(action()),)
    assert ledger.verify() == before + 1, "the refused record left no entry"


def test_plans_are_found_by_unique_prefix_newest_first(ledger: SqlLedger) -> None:
    for minute in range(4):
        tick = START + minute * MINUTE
        ledger.record(tick, "w", [plan(action(tick=tick), tick=tick, id=f"abc{minute}"), plan(tick=tick, id=f"b_d{minute}")])
    newest = [p.id for p in ledger.recent_plans(3)]
    assert newest[0][-1] == "3"
    assert len(newest) == 3
    found = ledger.find_plan("abc2")
    assert found is not None
    assert found.tick == START + 2 * MINUTE
    assert ledger.find_plan("abc") is None, "ambiguous"
    assert ledger.find_plan("") is None
    assert ledger.find_plan("%") is None, "no wildcard"
    assert ledger.find_plan("bxd1") is None, "an underscore is a letter"


def test_the_fingerprint_dates_the_first_decision_made_with_it(ledger: SqlLedger) -> None:
    assert ledger.effective_since("w", "config/model", START) == START
    assert ledger.effective_since("w", "config/model", START + HOUR) == START
    assert ledger.effective_since("w", "config/other", START + HOUR) == START + HOUR
    assert ledger.effective_since("x", "config/model", START + HOUR) == START + HOUR


def test_an_intent_needs_a_lease_and_happens_once(ledger: SqlLedger) -> None:
    wanted = action()
    with pytest.raises(Conflict, match="epoch"):
        ledger.intend(wanted, epoch=1)
    epoch = ledger.lease(wanted.target, "w", 60)
    assert ledger.intend(wanted, epoch=epoch, before=observed())
    assert ledger.unfinished() == (Intent(wanted, epoch, START, observed()),)
    assert ledger.ended(wanted.id) is None
    ledger.conclude(outcome(wanted, before=observed(), after=observed(5)))
    assert ledger.unfinished() == ()
    ended = ledger.ended(wanted.id)
    assert ended == outcome(wanted, before=observed(), after=observed(5))
    assert not ledger.intend(wanted, epoch=ledger.lease(wanted.target, "w", 60))


def test_a_target_has_one_intent_in_flight(ledger: SqlLedger) -> None:
    first, second = action(), action(tick=START + MINUTE)
    epoch = ledger.lease("shop-fra", "w", 60)
    ledger.intend(first, epoch=epoch)
    with pytest.raises(Conflict, match="in flight"):
        ledger.intend(second, epoch=epoch)
    assert [intent.action for intent in ledger.unfinished()] == [first]
    other = action(pool="shop-ams")
    assert ledger.intend(other, epoch=ledger.lease("shop-ams", "w", 60)), "another target is free"


def test_a_newer_worker_takes_the_intent_over_and_alone_concludes_it(ledger: SqlLedger, clock: EventClock) -> None:
    wanted = action()
    stale = ledger.lease(wanted.target, "old", 60)
    ledger.intend(wanted, epoch=stale, before=observed())
    clock.advance(START + 2 * MINUTE)
    fresh = ledger.lease(wanted.target, "new", 60)
    assert ledger.intend(wanted, epoch=fresh)
    assert ledger.unfinished(wanted.id)[0].before == observed(), "what it looked like at first is kept"
    ledger.conclude(outcome(wanted, Status.REFUSED), epoch=stale)
    assert ledger.ended(wanted.id) is None
    ledger.conclude(outcome(wanted), epoch=fresh)
    ledger.conclude(outcome(wanted, Status.FAILED), epoch=fresh)
    ended = ledger.ended(wanted.id)
    assert ended is not None
    assert ended.status is Status.APPLIED, "an ended intent stays as it ended"
    kinds = [entry.kind for entry in reversed(ledger.history())]
    assert kinds == ["intent", "takeover", "outcome"]


def test_concluding_ends_the_lease(ledger: SqlLedger) -> None:
    wanted = action()
    epoch = ledger.lease(wanted.target, "w", 60)
    ledger.intend(wanted, epoch=epoch)
    ledger.conclude(outcome(wanted), epoch=epoch)
    assert ledger.fenced(wanted.target, epoch)
    assert ledger.lease(wanted.target, "somebody else", 60) == epoch + 1


def test_a_refusal_without_intent_may_be_tried_again(ledger: SqlLedger) -> None:
    wanted = action()
    ledger.conclude(outcome(wanted, Status.REFUSED, detail="first"))
    ledger.conclude(outcome(wanted, Status.REFUSED, detail="second"))
    assert ledger.ended(wanted.id) is None
    assert [o.detail for o in ledger.outcomes()] == ["second"]
    assert len(ledger.history(kinds=["outcome"])) == 2, "the chain keeps both"
    assert ledger.intend(wanted, epoch=ledger.lease(wanted.target, "w", 60))


def test_the_snapshot_tells_the_recent_past(ledger: SqlLedger, clock: EventClock) -> None:
    old, new = action(tick=START - 2 * HOUR), action(tick=START - MINUTE)
    heal = action(tick=START - 3 * HOUR, kind=Kind.RESTART, desired="g1", expected="v1")
    for done in (old, new, heal):
        ledger.conclude(outcome(done))
    ledger.record(START - 2 * HOUR, "w", [plan(tick=START - 2 * HOUR)])
    ledger.record(START - MINUTE, "w", [plan(tick=START - MINUTE, recommended={"shop": 7})])
    ledger.intend(action(pool="shop-ams"), epoch=ledger.lease("shop-ams", "w", 60))
    ledger.hold("search", "debugging", "ann")
    ledger.promote_mode("shop", Mode.AUTO, "ann")
    fleet = ledger.snapshot(START, {"shop-fra": observed()})
    assert [o.action_id for o in fleet.outcomes] == [heal.id, new.id], "an hour, and a day of what disrupts"
    assert fleet.recommendations == (Recommendation("shop", START - MINUTE, 7),)
    assert fleet.in_flight == {"shop-ams"}
    assert fleet.held == {"search"}
    assert fleet.modes == {"shop": Mode.AUTO}
    assert fleet.observed == {"shop-fra": observed()}
    assert (fleet.at, fleet.killed, fleet.panicked_at) == (START, "", 0)


def test_the_snapshot_knows_nothing_of_the_future(ledger: SqlLedger) -> None:
    later = action(tick=START + MINUTE)
    ledger.conclude(outcome(later))
    ledger.record(START + MINUTE, "w", [plan(tick=START + MINUTE, guards=("panic",))])
    fleet = ledger.snapshot(START, {})
    assert (fleet.outcomes, fleet.recommendations, fleet.panicked_at) == ((), (), 0)


def test_the_snapshot_tells_the_newest_panic(ledger: SqlLedger) -> None:
    for minute, guards in enumerate((("panic",), ("panic", "floor"), ("floor",))):
        tick = START + minute * MINUTE
        ledger.record(tick, "w", [plan(tick=tick, guards=guards)])
    assert ledger.snapshot(START + HOUR, {}).panicked_at == START + MINUTE


def test_old_recommendations_are_forgotten_but_their_plans_are_not(ledger: SqlLedger) -> None:
    for hour in range(3):
        tick = START + hour * HOUR
        ledger.record(tick, "w", [plan(tick=tick)])
    with ledger.database.read() as conn:
        kept = conn.exec_driver_sql("select count(*) from recommendations").scalar_one()
    assert kept == 2
    assert ledger.plans(START, "w") == (plan(),)


def test_history_filters(ledger: SqlLedger, clock: EventClock) -> None:
    ledger.record(START, "w", [plan(action())])
    clock.advance(START + HOUR)
    ledger.hold("shop", "looking into 100%_odd things", "ann")
    assert [e.kind for e in ledger.history()] == ["hold", "tick"]
    assert [e.kind for e in ledger.history(until_ms=START + HOUR)] == ["tick"]
    assert [e.kind for e in ledger.history(mentions="100%_odd")] == ["hold"]
    assert ledger.history(mentions="1000_odd") == []


@pytest.mark.parametrize("wrong", ["", "no url", "mysql://somewhere/x"])
def test_a_wrong_url_says_what_to_write(wrong: str) -> None:
    with pytest.raises(ConfigError, match="sqlite"):
        SqlLedger(LedgerSettings(url=wrong), EventClock())


def test_a_ledger_in_memory_serves_experiments() -> None:
    ledger = SqlLedger(LedgerSettings(url="sqlite://", kill_file=""), EventClock(START))
    ledger.record(START, "w", [])
    assert ledger.last_tick("w") == START
    ledger.close()
