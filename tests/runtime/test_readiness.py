"""Growth that becomes ready: seen once, timed by its order, and kept by the ledger."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from forecastle.ledger.store import LAG_MS, SqlLedger
from forecastle.runtime.clocks import EventClock
from forecastle.runtime.readiness import newly_ready
from forecastle.settings import LedgerSettings
from forecastle.types import Fleet, Kind, Observed, Outcome, Readiness, Status

MINUTE = 60_000
NOW = 1_760_000_040_000 // MINUTE * MINUTE


def at(replicas: int, ready: int, when: int = NOW, pool: str = "fra") -> Observed:
    return Observed(pool, replicas, ready, when, "v")


def scaled(before: int, after: int, minutes_ago: float, status: Status = Status.APPLIED, kind: Kind = Kind.SCALE) -> Outcome:
    when = NOW - int(minutes_ago * MINUTE)
    return Outcome(f"a{minutes_ago}", status, when, "fra", kind, "shop", at(before, before, when), at(after, before, when))


def fleet(seen: Observed, *outcomes: Outcome, readied: tuple[Readiness, ...] = ()) -> Fleet:
    return Fleet(NOW, {seen.pool: seen}, tuple(sorted(outcomes, key=lambda o: o.at)), readied=readied)


def lags(found: Fleet) -> list[float]:
    return [one.lag_s for one in newly_ready(found, NOW)]


def test_an_order_ends_with_the_first_tick_that_sees_it_ready() -> None:
    assert newly_ready(fleet(at(7, 7), scaled(5, 7, 2)), NOW) == (Readiness("a2", "fra", NOW, 120.0),)


@pytest.mark.parametrize("status", [Status.APPLIED, Status.UNVERIFIED])
def test_what_happened_or_may_have_counts(status: Status) -> None:
    assert lags(fleet(at(7, 7), scaled(5, 7, 3, status))) == [180.0]


@pytest.mark.parametrize("status", [Status.ALREADY, Status.DRY_RUN, Status.REFUSED, Status.FAILED])
def test_what_did_not_happen_does_not(status: Status) -> None:
    assert lags(fleet(at(7, 7), scaled(5, 7, 3, status))) == []


def test_replicas_that_are_not_ready_yet_are_waited_for() -> None:
    assert lags(fleet(at(7, 6), scaled(5, 7, 3))) == []
    assert lags(fleet(at(9, 8), scaled(5, 7, 3), scaled(7, 9, 1))) == [180.0], "the first order is through, the second is not"


def test_shrinking_and_other_kinds_teach_nothing() -> None:
    assert lags(fleet(at(5, 5), scaled(7, 5, 3))) == []
    assert lags(fleet(at(7, 7), scaled(5, 7, 3, kind=Kind.RESTART))) == []


def test_growth_that_was_taken_back_says_nothing() -> None:
    assert lags(fleet(at(5, 5), scaled(5, 9, 5), scaled(9, 5, 2))) == []
    assert lags(fleet(at(9, 9), scaled(5, 9, 5), scaled(9, 5, 4), scaled(5, 9, 1))) == [60.0], "only the last was seen through"


def test_a_pool_that_cannot_be_observed_is_waited_for() -> None:
    assert lags(fleet(at(7, 7, pool="ams"), scaled(5, 7, 3))) == []


def test_it_is_timed_by_the_clouds_clock_and_never_negative() -> None:
    assert lags(fleet(at(7, 7, NOW - 30_000), scaled(5, 7, 2))) == [90.0]
    assert lags(fleet(at(7, 7, NOW - 3 * MINUTE), scaled(5, 7, 2))) == [0.0]


def test_what_is_known_is_not_told_again() -> None:
    found = fleet(at(7, 7), scaled(5, 7, 2))
    assert newly_ready(Fleet(NOW, found.observed, found.outcomes, readied=newly_ready(found, NOW)), NOW + MINUTE) == ()


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[SqlLedger]:
    clock = EventClock()
    clock.advance(NOW)
    settings = LedgerSettings(url=f"sqlite:///{tmp_path}/ledger.db", witness="", kill_file=str(tmp_path / "KILL"))
    found = SqlLedger(settings, clock)
    yield found
    found.close()


def ready(number: int, when: int) -> Readiness:
    return Readiness(f"a{number}", "fra", when, 10.0 * number)


def test_the_ledger_keeps_them_in_its_chain_and_gives_them_back_in_order(ledger: SqlLedger) -> None:
    ledger.note_ready([ready(2, NOW), ready(1, NOW - MINUTE)])
    assert ledger.snapshot(NOW, {}).readied == (ready(1, NOW - MINUTE), ready(2, NOW))
    assert [entry.kind for entry in ledger.history()] == ["ready", "ready"]
    assert ledger.verify() == 2


def test_the_first_record_of_an_order_stays(ledger: SqlLedger) -> None:
    ledger.note_ready([ready(1, NOW)])
    ledger.note_ready([Readiness("a1", "fra", NOW + MINUTE, 999.0)])
    assert ledger.snapshot(NOW + MINUTE, {}).readied == (ready(1, NOW),)
    assert ledger.verify() == 1


def test_a_snapshot_of_the_past_does_not_know_the_future(ledger: SqlLedger) -> None:
    ledger.note_ready([ready(1, NOW), ready(2, NOW + MINUTE)])
    assert ledger.snapshot(NOW, {}).readied == (ready(1, NOW),)


def test_a_week_old_order_is_forgotten(ledger: SqlLedger) -> None:
    ledger.note_ready([ready(1, NOW)])
    assert ledger.snapshot(NOW + LAG_MS - 1, {}).readied
    assert ledger.snapshot(NOW + LAG_MS, {}).readied == ()
    ledger.note_ready([ready(2, NOW + LAG_MS + 1)])
    assert ledger.snapshot(NOW, {}).readied == (), "and its row is gone, its entry is not"
    assert ledger.verify() == 2


def test_nothing_new_writes_nothing(ledger: SqlLedger) -> None:
    ledger.note_ready([])
    assert ledger.history() == []
