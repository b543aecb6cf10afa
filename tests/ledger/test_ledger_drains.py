"""What a failover took away is remembered until it is given back, however long that takes; who reported a loss is named."""

from __future__ import annotations

import pytest

from forecastle.ledger.store import SqlLedger
from forecastle.types import Action, Drained, Kind, Observed, Outcome, Status, Traffic

DAY = 86_400_000


def seen(weight: int | None, kind: Kind = Kind.SHIFT) -> Observed:
    return Observed("web-fra", 2, 0, 0, f"v{weight}", traffic=None if weight is None else Traffic(weight, kind))


def ended(
    ledger: SqlLedger,
    tick: int,
    before: int | None,
    after: int | None,
    *,
    base: int | None = 80,
    kind: Kind = Kind.SHIFT,
    status: Status = Status.APPLIED,
) -> None:
    """An action on the share is intended and ends."""
    action = Action(kind, "shop", "web-fra", 0, "v", tick, tick + 300_000, base=base)
    epoch = ledger.lease(action.target, "w", 60.0)
    assert ledger.intend(action, epoch=epoch, before=seen(before))
    last = seen(after) if after is not None else None
    ledger.conclude(Outcome(action.id, status, tick, "web-fra", kind, "shop", seen(before), last, "", base), epoch=epoch)


def drained(ledger: SqlLedger, later: int = 0) -> dict[str, Drained]:
    return dict(ledger.snapshot(ledger.clock.now() + later, {}).drained)


def test_what_was_taken_away_is_known_for_as_long_as_it_is_gone(ledger: SqlLedger) -> None:
    assert drained(ledger) == {}
    ended(ledger, 1, 80, 0)
    assert drained(ledger) == drained(ledger, 400 * DAY) == {"web-fra": Drained(80, 0)}


def test_a_ramp_moves_what_is_left_and_ends_where_it_began(ledger: SqlLedger) -> None:
    for tick, (before, after) in enumerate([(80, 55), (55, 30), (30, 5), (5, 0), (0, 25), (25, 50), (50, 75)]):
        ended(ledger, tick, before, after)
        assert drained(ledger) == {"web-fra": Drained(80, after)}
    ended(ledger, 9, 75, 80)
    assert drained(ledger) == {}


@pytest.mark.parametrize("status", [Status.REFUSED, Status.FAILED, Status.DRY_RUN])
def test_what_did_not_happen_took_nothing_away(ledger: SqlLedger, status: Status) -> None:
    ended(ledger, 1, 80, 80, status=status)
    assert drained(ledger) == {}


def test_what_could_not_be_read_back_is_remembered_as_that(ledger: SqlLedger) -> None:
    ended(ledger, 1, 80, None, status=Status.UNVERIFIED)
    assert drained(ledger) == {"web-fra": Drained(80, None)}
    ended(ledger, 2, 80, 30)
    ended(ledger, 3, 30, None, status=Status.UNVERIFIED)
    assert drained(ledger) == {"web-fra": Drained(80, 30)}, "and says nothing new"


@pytest.mark.parametrize("kind", [Kind.DRAIN, Kind.SHIFT])
def test_who_else_changes_the_weight_takes_it_over(ledger: SqlLedger, kind: Kind) -> None:
    ended(ledger, 1, 80, 0)
    ended(ledger, 2, 0, 0, base=None, kind=kind)
    assert drained(ledger) == {}


def test_other_actions_change_nothing_about_it(ledger: SqlLedger) -> None:
    ended(ledger, 1, 80, 0)
    ended(ledger, 2, 0, 0, base=None, kind=Kind.CORDON)
    assert drained(ledger) == {"web-fra": Drained(80, 0)}


def test_what_is_settled_is_forgotten_and_on_record(ledger: SqlLedger) -> None:
    ended(ledger, 1, 80, 0)
    ledger.note_given_back(["web-fra", "other"])
    assert drained(ledger) == {}
    ledger.verify()


def test_a_report_has_its_person_and_reason(ledger: SqlLedger) -> None:
    ledger.hold("shop", "release", "bob")
    ledger.report_down("fra", "fire", "ann")
    fleet = ledger.snapshot(0, {})
    assert (fleet.down, fleet.held, fleet.reports) == ({"fra"}, {"shop"}, {"fra": "ann: fire"})
    ledger.kill("storm", "ann")
    assert ledger.snapshot(0, {}).held == {"shop"}, "the kill switch is no hold of a target"
    ledger.report_up("fra", "bob")
    assert ledger.snapshot(0, {}).reports == {}
