"""Price books on disk, and the pools that name a sku: every mistake is told with its file, its line and what to write."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from price_worlds import HEAD, M6I, POOL, SITE, at, write_book, write_fleet

from forecastle.decide.prices import Commitment, Point
from forecastle.errors import ConfigError
from forecastle.runtime.config import load
from forecastle.runtime.inventory import check, inventory
from forecastle.runtime.prices import read_book, shelf
from forecastle.runtime.records import inventory_digest
from forecastle.settings import PoolSettings, Settings
from forecastle.types import Inventory

NOW = at("2026-11-20T10:00")


def priced(folder: Path, *pools: Mapping[str, Any], now: int = NOW, **more: Any) -> Settings:
    return load([write_fleet(folder, *pools, **more)], environment={}, at=now)


def stock(folder: Path, *pools: Mapping[str, Any], now: int = NOW, **more: Any) -> Inventory:
    return inventory(priced(folder, *pools, now=now, **more))


# --- books ----------------------------------------------------------------------------------------------------------


def test_a_book_is_read_with_the_lines_it_is_written_on(tmp_path: Path) -> None:
    commitment = {"count": 3, "price_h": 0.07}
    path = write_book(
        tmp_path,
        M6I | {"commitment": commitment, "egress_price": 0.09, "interruptions_h": 0.01},
        M6I | {"zone": "a", "valid_from": "2026-02-01T01:00:00+01:00"},
        as_of="2026-03-01T00:00:00Z",
        valid_until="2027-01-01T00:00:00Z",
    )
    book = read_book(path)
    assert (book.name, book.version, book.currency) == ("list", 1, "USD")
    assert (book.since, book.until, book.as_of) == (at("2026-01-01"), at("2027-01-01"), at("2026-03-01"))
    assert [row.line for row in book.prices] == [8, 9]
    assert [row.since for row in book.prices] == [book.since, at("2026-02-01")]
    assert book.prices[0].point == Point("aws", "eu-central-1", "", "m6i.large")
    assert book.prices[0].commitment == Commitment(3, 0.07)
    assert (book.prices[0].egress_price, book.prices[0].interruptions_h) == (0.09, 0.01)
    assert book.where("valid_until") == f"{path}:6"


def test_no_folder_is_an_empty_shelf(tmp_path: Path) -> None:
    assert shelf(tmp_path / "none").books == ()


def test_other_files_are_no_books(tmp_path: Path) -> None:
    write_book(tmp_path, M6I)
    (tmp_path / "notes.md").write_text("- m6i.large was 0.11 once")
    (tmp_path / ".list-2.yaml.new").write_text("torn")
    assert len(shelf(tmp_path).books) == 1


@pytest.mark.parametrize(
    ("rows", "head", "says"),
    [
        (
            [M6I | {"price_h": -0.1}],
            {},
            "list-1.yaml:6: prices.0.price_h: Input should be greater than or equal to 0 (given -0.1)",
        ),
        ([M6I | {"commitment": {"count": -1, "price_h": 1}}], {}, "list-1.yaml:6: prices.0.commitment.count: Input should be"),
        ([M6I | {"price": 1}], {}, "list-1.yaml:6: prices.0.price: unknown name; did you mean 'price_h'?"),
        ([{"provider": "aws", "region": "r", "price_h": 1}], {}, "list-1.yaml:6: prices.0.sku: is missing; add 'sku: ...'"),
        ([M6I], {"valid_from": "2026-01-01T00:00:00"}, "list-1.yaml:4: valid_from: Value error, has no time zone; write it as"),
        ([M6I], {"currency": "usd"}, "list-1.yaml:3: currency: String should match pattern '^[A-Z]{3}$' (given 'usd')"),
        ([M6I], {"version": 0}, "list-0.yaml:2: version: Input should be greater than 0"),
        ([M6I], {"valid": "2026-01-01T00:00:00Z"}, "list-1.yaml:5: valid: unknown name; did you mean 'valid_from'?"),
        ([M6I], {"book": "../list"}, "x.yaml:1: book: String should match pattern"),
        ([], {}, "list-1.yaml:5: has no prices; add a row"),
        ([M6I, M6I], {}, "list-1.yaml:7: price of m6i.large in aws/eu-central-1 is said already at"),
        (
            [M6I | {"valid_from": "2025-12-31T23:59:59Z"}],
            {},
            "list-1.yaml:6: m6i.large in aws/eu-central-1 begins before its book",
        ),
    ],
    ids=["negative", "commitment", "name", "sku", "zone", "currency", "version", "head", "book", "empty", "twice", "early"],
)
def test_a_mistake_is_told_with_file_line_and_fix(tmp_path: Path, rows: list[Any], head: dict[str, Any], says: str) -> None:
    write_book(tmp_path, *rows, name="x.yaml" if "book" in head else "", **head)
    with pytest.raises(ConfigError) as caught:
        shelf(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}/{says}"), caught.value


@pytest.mark.parametrize("number", [".nan", ".inf", "1e999"])
def test_a_price_is_a_finite_number(tmp_path: Path, number: str) -> None:
    path = write_book(tmp_path, M6I)
    path.write_text(path.read_text().replace("0.115", number))
    with pytest.raises(ConfigError, match=r"list-1.yaml:6: prices.0.price_h: Input should be a finite number"):
        shelf(tmp_path)


@pytest.mark.parametrize(
    ("text", "says"), [("prices: [", "is not YAML"), ("- 1\n", "not a mapping"), ("", "book: is missing; add")]
)
def test_a_file_that_is_no_book_is_named(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "list-1.yaml").write_text(text)
    with pytest.raises(ConfigError, match=rf"list-1.yaml.*{says}"):
        shelf(tmp_path)


def test_every_bad_book_is_told_at_once(tmp_path: Path) -> None:
    write_book(tmp_path, M6I | {"price_h": -1})
    write_book(tmp_path, M6I, version=2, currency="EURO", valid_from="2026-02-01T00:00:00Z")
    with pytest.raises(ConfigError) as caught:
        shelf(tmp_path)
    assert [line.split(": ")[0] for line in str(caught.value).splitlines()] == [
        f"{tmp_path}/list-1.yaml:6",
        f"{tmp_path}/list-2.yaml:3",
    ]


@pytest.mark.parametrize(
    ("head", "says"),
    [
        ({"version": 2}, "list-2.yaml:4: list version 2 begins no later than version 1"),
        ({"version": 1, "name": "again.yaml", "valid_from": "2026-06-01T00:00:00Z"}, "list version 1 is in .*again.yaml:2"),
        ({"book": "more"}, "price of m6i.large in aws/eu-central-1 is also said by book"),
        ({"book": "more", "currency": "EUR"}, "is in EUR, but .* in USD|is in USD, but .* in EUR"),
    ],
)
def test_books_that_contradict_each_other_are_told(tmp_path: Path, head: dict[str, Any], says: str) -> None:
    write_book(tmp_path, M6I)
    write_book(tmp_path, M6I, **head)
    with pytest.raises(ConfigError, match=says):
        shelf(tmp_path)


# --- pools that name a sku ------------------------------------------------------------------------------------------


def test_a_pool_gets_the_price_in_force_when_the_configuration_is_loaded(tmp_path: Path) -> None:
    write_book(tmp_path / "prices", M6I)
    write_book(tmp_path / "prices", M6I | {"price_h": 0.2}, version=2, valid_from="2026-11-20T10:00:00Z")
    assert stock(tmp_path, POOL, now=NOW - 1).pools["shop-fra"].unit_price == 0.115
    assert stock(tmp_path, POOL, now=NOW).pools["shop-fra"].unit_price == 0.2


def test_a_spot_pool_gets_the_spot_price_and_its_risk_of_its_zone(tmp_path: Path) -> None:
    write_book(tmp_path / "prices", M6I | {"interruptions_h": 0.01})
    spot = {"sku": "m6i.large", "provider": "aws", "region": "eu-central-1", "zone": "eu-central-1a", "interruptions_h": 0.2}
    write_book(tmp_path / "prices", spot, book="risk")
    pools = stock(tmp_path, POOL, POOL | {"name": "shop-spot", "spot": True}).pools
    assert (pools["shop-spot"].unit_price, pools["shop-spot"].interruptions_h) == (0.043, 0.2)
    assert (pools["shop-fra"].unit_price, pools["shop-fra"].interruptions_h) == (0.115, 0.0)


def test_what_a_pool_says_itself_stays(tmp_path: Path) -> None:
    write_book(tmp_path / "prices", M6I | {"commitment": {"count": 5, "price_h": 0.05}, "interruptions_h": 0.3})
    own = POOL | {"unit_price": 9.0, "committed": 0}
    spot = POOL | {"name": "shop-spot", "spot": True, "interruptions_h": 0.0}
    pools = stock(tmp_path, own, spot).pools
    assert (pools["shop-fra"].unit_price, pools["shop-fra"].committed, pools["shop-fra"].sunk) == (9.0, 0, 0.0)
    assert (pools["shop-spot"].unit_price, pools["shop-spot"].interruptions_h) == (0.043, 0.0)


def test_a_price_beside_an_unknown_sku_is_enough(tmp_path: Path) -> None:
    assert stock(tmp_path, POOL | {"sku": "nobody-knows", "unit_price": 0.3}).pools["shop-fra"].unit_price == 0.3


def test_a_commitment_is_given_to_pools_in_order_and_never_twice(tmp_path: Path) -> None:
    write_book(tmp_path / "prices", M6I | {"commitment": {"count": 7, "price_h": 0.05}})
    pools = [POOL | {"name": f"p{i}", "max": 3, "quota": 3} for i in range(3)]
    found = stock(tmp_path, POOL | {"name": "spot", "spot": True}, *pools, POOL | {"name": "p3"}).pools
    assert {name: pool.committed for name, pool in found.items()} == {"spot": 0, "p0": 3, "p1": 3, "p2": 1, "p3": 0}
    assert sum(pool.sunk for pool in found.values()) == pytest.approx(7 * 0.05)


@pytest.mark.parametrize(("own", "price"), [({}, 0.05), ({"committed_price": 0.01}, 0.01), ({"committed": 7}, 0.115)])
def test_a_commitment_costs_what_the_pool_or_the_book_says(tmp_path: Path, own: dict[str, Any], price: float) -> None:
    write_book(tmp_path / "prices", M6I | {"commitment": {"count": 7, "price_h": 0.05}})
    pool = stock(tmp_path, POOL | own).pools["shop-fra"]
    assert pool.cost(0) == pytest.approx(7 * price)
    assert pool.cost(9) == pytest.approx(7 * price + 2 * 0.115)


def test_a_site_gets_the_egress_price_unless_it_says_its_own(tmp_path: Path) -> None:
    write_book(tmp_path / "prices", M6I | {"egress_price": 0.09})
    sites = (SITE, SITE | {"name": "own", "egress_price": 0.0})
    found = stock(tmp_path, POOL, POOL | {"name": "shop-own", "site": "own"}, sites=sites).sites
    assert (found["fra"].egress_price, found["own"].egress_price) == (0.09, 0.0)


def test_two_egress_prices_at_one_site_are_refused(tmp_path: Path) -> None:
    other = M6I | {"sku": "c7i", "egress_price": 0.05}
    write_book(tmp_path / "prices", M6I | {"egress_price": 0.09}, other)
    with pytest.raises(ConfigError, match=r"fleet.yaml:\d+: site fra has two egress prices, 0.09 and 0.05; write egress_price"):
        priced(tmp_path, POOL, POOL | {"name": "p2", "sku": "c7i"})


@pytest.mark.parametrize(
    ("pool", "says"),
    [
        (
            {"sku": "m6i.lrge"},
            "m6i.lrge in aws/eu-central-1/a at 2026-11-20T10:00:00+00:00; known there: m6i.large; correct",
        ),
        ({"site": "ams"}, "known: m6i.large in aws/eu-central-1; add a price there or write unit_price"),
        ({"sku": "only-spot"}, "list@1 has no price_h of only-spot in aws/eu-central-1/a at 2026-11-20T10:00:00+00:00; add it"),
        ({"sku": "only-list", "spot": True}, "list@1 has no spot_price_h of only-list"),
    ],
)
def test_a_sku_without_a_price_names_the_line_of_the_pool(tmp_path: Path, pool: dict[str, Any], says: str) -> None:
    only = {name: M6I[name] for name in ("provider", "region")}
    rows = (
        [] if pool.get("site") else [only | {"sku": "only-spot", "spot_price_h": 1}, only | {"sku": "only-list", "price_h": 1}]
    )
    if "sku" in pool and pool["sku"].startswith("m6i"):
        rows = []
    write_book(tmp_path / "prices", M6I, *rows)
    sites = (SITE, SITE | {"name": "ams", "region": "eu-north-1"})
    wrong = POOL | {"name": "wrong"} | pool
    with pytest.raises(ConfigError) as caught:
        priced(tmp_path, POOL, wrong, sites=sites)
    assert says in str(caught.value)
    file, line = str(caught.value).split(": ")[0].rsplit(":", 1)
    assert f'"sku": "{wrong["sku"]}"' in Path(file).read_text().splitlines()[int(line) - 1]


def test_every_unknown_sku_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        priced(tmp_path, *(POOL | {"name": f"p{i}", "sku": f"s{i}"} for i in range(3)))
    assert [line.split("has ")[1].split(" ")[0] for line in str(caught.value).splitlines()] == ["s0", "s1", "s2"]
    assert "known: nothing" in str(caught.value)


def test_a_pool_needs_a_price_or_a_sku() -> None:
    with pytest.raises(ValueError, match=r"has no price; write unit_price: 0.1, or the sku"):
        PoolSettings(name="p", site="s")
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        PoolSettings(name="p", site="s", unit_price=-1.0)


def test_settings_that_were_not_looked_up_make_no_inventory(tmp_path: Path) -> None:
    write_book(tmp_path / "prices", M6I)
    raw = load([write_fleet(tmp_path, POOL)], environment={}, look_up=False)
    assert raw.fleet.workloads[0].pools[0].unit_price is None
    with pytest.raises(ConfigError, match=r"sku 'm6i.large' was never looked up"):
        inventory(raw)


def test_a_dangling_site_is_told_before_its_prices(tmp_path: Path) -> None:
    write_book(tmp_path / "prices", M6I)
    with pytest.raises(ConfigError, match=r"site 'nowhere' is not in fleet.sites"):
        stock(tmp_path, POOL | {"site": "nowhere"})


def test_check_reads_the_books_of_a_fleet_that_names_none(tmp_path: Path) -> None:
    write_book(tmp_path / "prices", M6I | {"price_h": -1})
    pool = {"name": "p", "site": "fra", "unit_price": 1.0}
    settings = priced(tmp_path, pool)
    assert [line.partition(": ")[2] for line in check(settings)] == [
        "prices.0.price_h: Input should be greater than or equal to 0 (given -1)"
    ]
    write_book(tmp_path / "prices", M6I)
    assert check(settings) == []


def test_a_changed_price_is_another_configuration_to_a_replay(tmp_path: Path) -> None:
    write_book(tmp_path / "prices", M6I)
    before = inventory_digest(priced(tmp_path, POOL))
    assert inventory_digest(priced(tmp_path, POOL, now=NOW + 5)) == before
    write_book(tmp_path / "prices", M6I | {"price_h": 0.116}, version=2, valid_from="2026-11-01T00:00:00Z")
    assert inventory_digest(priced(tmp_path, POOL)) != before


def test_the_books_that_come_along_hold_together_and_price_every_site() -> None:
    folder = Path(__file__).parents[2] / "configs"
    books = shelf(folder / "prices")
    sites = load([folder], environment={}).fleet.sites
    assert {(site.provider, site.region) for site in sites} <= {point[:2] for point in books.points(NOW)}
    assert HEAD["currency"] == books.currency
