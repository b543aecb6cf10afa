"""Tampering shows: in the chain when entries change, in the witness when the whole chain is rewritten."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from ledger_worlds import MINUTE, START, action, plan

from forecastle.errors import LedgerCorrupt, StoreUnavailable
from forecastle.ledger.codec import entry_hash, plan_hash
from forecastle.ledger.store import SqlLedger
from forecastle.runtime.clocks import EventClock


def filled(ledger: SqlLedger, ticks: int = 5) -> SqlLedger:
    for minute in range(ticks):
        tick = START + minute * MINUTE
        ledger.record(tick, "w", [plan(action(tick=tick), tick=tick)])
    return ledger


def sql(ledger: SqlLedger, statement: str) -> None:
    with ledger.database.write() as conn:
        conn.exec_driver_sql(statement)


def rewrite(ledger: SqlLedger) -> None:
    """What someone with the whole database can do: change an entry and compute every later hash anew."""
    with ledger.database.write() as conn:
        previous = "0" * 64
        for row in conn.exec_driver_sql("select seq, at, kind, body from entries order by seq").all():
            body = row.body.replace("more load is coming", "nobody was here") if row.seq == 2 else row.body
            new = entry_hash(previous, row.seq, row.at, row.kind, body)
            quoted = body.replace("'", "''").replace("%", "%%")
            conn.exec_driver_sql(
                f"update entries set body = '{quoted}', prev = '{previous}', hash = '{new}' where seq = {row.seq}"
            )
            previous = new


def test_an_untouched_chain_verifies(ledger: SqlLedger) -> None:
    assert ledger.verify() == 0
    assert filled(ledger).verify() == 5


@pytest.mark.parametrize(
    ("tamper", "names"),
    [
        ("update entries set body = replace(body, 'more load', 'less load') where seq = 2", "entry 2 was changed"),
        ("update entries set at = at + 1 where seq = 3", "entry 3 was changed"),
        ("update entries set kind = 'outcome' where seq = 4", "entry 4 was changed"),
        ("update entries set hash = prev where seq = 5", "entry 5 was changed"),
        ("delete from entries where seq = 3", "entry 3 is missing"),
        ("delete from entries where seq = 1", "entry 1 is missing"),
        ("update entries set seq = 9 where seq = 5", "entry 5 is missing"),
    ],
)
def test_changing_or_removing_an_entry_shows(ledger: SqlLedger, tamper: str, names: str) -> None:
    sql(filled(ledger), tamper)
    with pytest.raises(LedgerCorrupt, match=names):
        ledger.verify()


def test_cutting_the_end_off_shows_only_to_the_witness(open_ledger: Callable[..., SqlLedger], tmp_path: Path) -> None:
    watched = filled(open_ledger(witness=str(tmp_path / "witness")))
    sql(watched, "delete from entries where seq = 5")
    assert open_ledger().verify() == 4
    with pytest.raises(LedgerCorrupt, match="saw entry 5 but the ledger ends at 4"):
        watched.verify()


def test_rewriting_the_whole_chain_shows_only_to_the_witness(open_ledger: Callable[..., SqlLedger], tmp_path: Path) -> None:
    watched = filled(open_ledger(witness=str(tmp_path / "witness")))
    rewrite(watched)
    assert open_ledger().verify() == 5
    with pytest.raises(LedgerCorrupt, match="entry 2 is not the one the witness saw"):
        watched.verify()


def test_a_rewritten_chain_that_goes_on_gives_two_heads_for_one_entry(
    open_ledger: Callable[..., SqlLedger], tmp_path: Path
) -> None:
    watched = filled(open_ledger(witness=str(tmp_path / "witness")))
    sql(watched, "delete from entries where seq = 5")
    watched.hold("shop", "why", "mallory")
    with pytest.raises(LedgerCorrupt, match="two different entries 5"):
        watched.verify()


def test_the_witness_survives_a_line_torn_by_a_crash(open_ledger: Callable[..., SqlLedger], tmp_path: Path) -> None:
    path = tmp_path / "deep" / "witness"
    watched = filled(open_ledger(witness=str(path)), 2)
    with path.open("a") as file:
        file.write("3 0123456789ab")
    watched.hold("shop", "why", "ann")
    assert watched.verify() == 3
    assert [line.split()[0] for line in path.read_text().splitlines()] == ["1", "2", "3", "3"]


def test_without_its_witness_the_ledger_does_not_act(open_ledger: Callable[..., SqlLedger], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    blind = open_ledger(witness=str(tmp_path / "file" / "witness"))
    epoch = blind.lease("shop-fra", "w", 60)
    with pytest.raises(StoreUnavailable, match="witness"):
        blind.intend(action(), epoch=epoch)


def test_equal_plans_have_equal_hashes_whatever_their_order(ledger: SqlLedger, clock: EventClock) -> None:
    one = plan(action(), evidence={"a": {"x": 1, "y": 2.5}, "b": {}})
    two = plan(action(), evidence={"b": {}, "a": {"y": 2.5, "x": 1}})
    assert plan_hash(one) == plan_hash(two)
    ledger.record(START, "w", [one])
    recorded = ledger.plans(START, "w")
    assert recorded is not None
    assert plan_hash(recorded[0]) == plan_hash(one)
    assert plan_hash(plan(action(), cost=0.6)) != plan_hash(plan(action()))
