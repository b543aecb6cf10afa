"""What the fleet cost: every replica-hour once, at the price of its hour, against sums made in another way."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from price_worlds import POOL, SITE, at

from forecastle.decide.prices import Book, Commitment, Point, Price, Shelf
from forecastle.errors import ConfigError
from forecastle.runtime.costs import Charge, Nature, Rented, charges, rented
from forecastle.runtime.costs_levels import Levels
from forecastle.settings import Settings

HOUR, MINUTE = 3_600_000, 60_000
START = at("2026-11-20T00:00")
POINT = Point("aws", "eu-central-1", "", "m6i.large")
DAY = 24 * HOUR


def fleet(*pools: Mapping[str, Any]) -> list[Rented]:
    sites = [SITE, SITE | {"name": "fra-b", "zone": "b"}]
    load = {"name": "shop", "demands": [{"metric": "rps", "per_replica": 1}], "pools": list(pools)}
    return rented(Settings.model_validate({"fleet": {"sites": sites, "workloads": [load]}}))


def books(*rows: Price, since: int = 0) -> Shelf:
    return Shelf((Book("list", 1, "USD", since, rows),))


def row(since: int = 0, zone: str = "", **said: Any) -> Price:
    return Price(POINT._replace(zone=zone), since, **said)


def steps(*levels: tuple[int, int]) -> Levels:
    """(hours after START, replicas) as levels."""
    return Levels(tuple(START + hours * HOUR for hours, _ in levels), tuple(n for _, n in levels))


def bill(
    pools: list[Rented], levels: Mapping[str, Levels], shelf: Shelf, end: int = START + DAY, start: int = START
) -> list[tuple[str, str, float, float, float]]:
    """(pool, nature, hours, billed, effective) summed over the time."""
    total: dict[tuple[str, str], list[float]] = {}
    for one in charges(pools, levels, shelf, start, end):
        sums = total.setdefault((one.pool, one.nature.value), [0.0, 0.0, 0.0])
        for i, value in enumerate((one.hours, one.billed, one.effective)):
            sums[i] += value
    return [(pool, nature, *(round(x, 9) for x in sums)) for (pool, nature), sums in total.items()]


# --- levels ---------------------------------------------------------------------------------------------------------


def test_levels_hold_until_the_next_and_are_unknown_before_the_first() -> None:
    levels = Levels((100, 200, 300), (2, 0, 5))
    assert list(levels.between(0, 400)) == [(100, 200, 2), (200, 300, 0), (300, 400, 5)]
    assert list(levels.between(150, 250)) == [(150, 200, 2), (200, 250, 0)]
    assert list(levels.between(0, 100)) == list(Levels().between(0, 100)) == []
    assert levels.replica_ms(150, 310) == 2 * 50 + 5 * 10
    assert levels.replica_ms(1000, 2000) == 5000


# --- one kind of charge at a time -----------------------------------------------------------------------------------


def test_a_pool_costs_its_price_for_every_hour_of_every_replica() -> None:
    pools = fleet({"name": "p", "site": "fra", "unit_price": 0.1})
    levels = {"p": steps((-5, 2), (6, 4), (12, 0))}
    assert bill(pools, levels, Shelf()) == [("p", "list", 36.0, 3.6, 3.6)]


def test_charges_are_by_the_hour_and_clipped_to_what_was_asked() -> None:
    pools = fleet({"name": "p", "site": "fra", "unit_price": 0.1})
    found = charges(pools, {"p": steps((0, 3))}, Shelf(), START + HOUR // 2, START + 2 * HOUR + MINUTE)
    assert [((c.start - START) // MINUTE, (c.end - START) // MINUTE, round(c.hours, 9)) for c in found] == [
        (30, 60, 1.5),
        (60, 120, 3.0),
        (120, 121, 0.05),
    ]


def test_an_idle_hour_has_no_charge() -> None:
    pools = fleet({"name": "p", "site": "fra", "unit_price": 0.1})
    found = charges(pools, {"p": steps((0, 1), (1, 0), (2, 1), (3, 0))}, Shelf(), START, START + DAY)
    assert [(c.start - START) // HOUR for c in found] == [0, 2]


def test_spot_replicas_cost_the_spot_price_of_their_zone_as_it_moved() -> None:
    pools = fleet(POOL | {"spot": True})
    shelf = books(
        row(price=0.1, spot_price=0.05), row(zone="a", spot_price=0.02), row(START + 90 * MINUTE, zone="a", spot_price=0.04)
    )
    found = charges(pools, {"shop-fra": steps((0, 10))}, shelf, START, START + 3 * HOUR)
    assert [((c.start - START) // HOUR, c.hours, c.billed_price, c.list_price) for c in found] == [
        (0, 10.0, 0.02, 0.1),
        (1, 5.0, 0.02, 0.1),
        (1, 5.0, 0.04, 0.1),
        (2, 10.0, 0.04, 0.1),
    ]
    assert {c.nature for c in found} == {Nature.SPOT}
    assert sum(c.billed for c in found) == pytest.approx(10 * (1.5 * 0.02 + 1.5 * 0.04))
    assert sum(c.listed for c in found) == pytest.approx(3.0), "what it would have been at list price"


def test_the_list_price_of_each_hour_is_taken_from_the_version_in_force_then() -> None:
    old = Book("list", 1, "USD", 0, (row(price=0.1),))
    new = Book("list", 2, "USD", START + 2 * HOUR, (row(START + 2 * HOUR, price=0.3),))
    found = charges(fleet(POOL), {"shop-fra": steps((0, 1))}, Shelf((old, new)), START, START + 3 * HOUR)
    assert [(c.billed_price, c.book) for c in found] == [(0.1, "list@1"), (0.1, "list@1"), (0.3, "list@2")]


def test_a_commitment_is_paid_when_nobody_uses_it() -> None:
    shelf = books(row(price=0.1, commitment=Commitment(2, 0.06)))
    assert bill(fleet(POOL), {}, shelf) == [("shop-fra", "purchase", 48.0, 2.88, 0.0), ("shop-fra", "unused", 48.0, 0.0, 2.88)]


def test_a_commitment_covers_what_is_used_up_to_its_count() -> None:
    shelf = books(row(price=0.1, commitment=Commitment(2, 0.06)))
    levels = {"shop-fra": steps((0, 5), (12, 1))}
    assert bill(fleet(POOL), levels, shelf) == [
        ("shop-fra", "list", 36.0, 3.6, 3.6),
        ("shop-fra", "purchase", 48.0, 2.88, 0.0),
        ("shop-fra", "used", 36.0, 0.0, 2.16),
        ("shop-fra", "unused", 12.0, 0.0, 0.72),
    ]


def test_within_an_hour_committed_hours_cover_replicas_one_after_the_other_or_at_once() -> None:
    shelf = books(row(price=0.1, commitment=Commitment(1, 0.06)))
    burst = {"shop-fra": Levels((START, START + 15 * MINUTE), (4, 0))}
    assert bill(fleet(POOL), burst, shelf, START + HOUR) == [
        ("shop-fra", "purchase", 1.0, 0.06, 0.0),
        ("shop-fra", "used", 1.0, 0.0, 0.06),
    ]


def test_pools_of_a_sku_share_its_commitment_in_a_region_and_spot_has_no_part() -> None:
    shelf = books(row(price=0.1, spot_price=0.03, commitment=Commitment(4, 0.06)))
    pools = fleet(POOL | {"name": "spot", "spot": True}, POOL | {"name": "a"}, POOL | {"name": "b", "site": "fra-b"})
    levels = {"spot": steps((0, 9)), "a": steps((0, 1)), "b": steps((0, 5))}
    assert bill(pools, levels, shelf, START + HOUR) == [
        ("a", "purchase", 4.0, 0.24, 0.0),
        ("a", "used", 1.0, 0.0, 0.06),
        ("b", "list", 2.0, 0.2, 0.2),
        ("b", "used", 3.0, 0.0, 0.18),
        ("spot", "spot", 9.0, 0.27, 0.27),
    ]


def test_a_pool_that_commits_itself_pays_its_own_price_and_shares_nothing() -> None:
    shelf = books(row(price=0.1, commitment=Commitment(9, 0.06)))
    pools = fleet(POOL | {"name": "own", "committed": 1}, {"name": "bare", "site": "fra", "unit_price": 0.2, "committed": 2})
    levels = {"own": steps((0, 3)), "bare": steps((0, 1))}
    assert bill(pools, levels, shelf, START + HOUR) == [
        ("bare", "purchase", 2.0, 0.4, 0.0),
        ("bare", "unused", 1.0, 0.0, 0.2),
        ("bare", "used", 1.0, 0.0, 0.2),
        ("own", "list", 2.0, 0.2, 0.2),
        ("own", "purchase", 1.0, 0.1, 0.0),
        ("own", "used", 1.0, 0.0, 0.1),
    ]


def test_the_books_price_comes_before_the_pools_own_which_stands_in() -> None:
    pools = fleet(POOL | {"unit_price": 9.0})
    found = charges(pools, {"shop-fra": steps((0, 1))}, books(row(START + HOUR, price=0.1)), START, START + 2 * HOUR)
    assert [(c.billed_price, c.book) for c in found] == [(9.0, ""), (0.1, "list@1")]


def test_replicas_without_a_price_are_an_error_that_says_since_when() -> None:
    shelf = books(row(START + HOUR, price=0.1), since=START + HOUR)
    levels = {"shop-fra": steps((0, 1)), "spot": steps((3, 1))}
    with pytest.raises(ConfigError) as caught:
        charges(fleet(POOL, POOL | {"name": "spot", "spot": True}), levels, shelf, START, START + DAY)
    assert str(caught.value).splitlines() == [
        (
            "pool shop-fra: had replicas at 2026-11-20T00:00:00+00:00, but no price book says price_h of m6i.large in "
            "aws/eu-central-1/a then; add a version that begins earlier, or write unit_price"
        ),
        (
            "pool spot: had replicas at 2026-11-20T03:00:00+00:00, but no price book says spot_price_h of m6i.large in "
            "aws/eu-central-1/a then; add a version that begins earlier, or write unit_price"
        ),
    ]


def test_a_pool_without_a_price_and_without_replicas_is_no_error() -> None:
    assert charges(fleet(POOL), {"shop-fra": steps((-9, 3), (0, 0))}, Shelf(), START, START + DAY) == []


# --- all of it, against another way to add up -----------------------------------------------------------------------


@st.composite
def worlds(draw: st.DrawFn) -> tuple[dict[str, list[int]], list[tuple[float, float]], int, float]:
    """Replicas of three pools by ten minutes over five hours, (list, spot) price by hour, commitment's count and price."""
    counts = st.lists(st.integers(0, 6), min_size=30, max_size=30)
    replicas = {name: draw(counts) for name in ("spot", "a", "b")}
    price = st.sampled_from([0.01, 0.1, 0.11, 2.0])
    prices = draw(st.lists(st.tuples(price, price), min_size=5, max_size=5))
    return replicas, prices, draw(st.integers(0, 5)), draw(price)


@settings(max_examples=60, deadline=None)
@given(worlds())
def test_the_sums_are_those_of_a_bill_made_hour_by_hour(world: tuple[Any, ...]) -> None:
    replicas, prices, count, committed = world
    rows = [
        row(START + h * HOUR, price=listed, spot_price=spot, commitment=Commitment(count, committed))
        for h, (listed, spot) in enumerate(prices)
    ]
    levels = {name: Levels(tuple(START + i * 10 * MINUTE for i in range(30)), tuple(n)) for name, n in replicas.items()}
    pools = fleet(POOL | {"name": "spot", "spot": True}, POOL | {"name": "a"}, POOL | {"name": "b", "site": "fra-b"})
    found = charges(pools, levels, books(*rows, since=START), START, START + 5 * HOUR)

    billed = listed_sum = 0.0
    for h, (listed, spot) in enumerate(prices):
        slots = range(6 * h, 6 * h + 6)
        ours = sum(replicas[name][i] for name in ("a", "b") for i in slots) / 6
        theirs = sum(replicas["spot"][i] for i in slots) / 6
        billed += count * committed + max(0.0, ours - count) * listed + theirs * spot
        listed_sum += (ours + theirs) * listed
    assert sum(c.billed for c in found) == pytest.approx(billed)
    assert sum(c.effective for c in found) == pytest.approx(billed), "a commitment is spread, neither lost nor doubled"
    assert sum(c.listed for c in found) == pytest.approx(listed_sum)
    for name, n in replicas.items():
        consumed = (Nature.LIST, Nature.SPOT, Nature.USED)
        assert sum(c.hours for c in found if c.pool == name and c.nature in consumed) == pytest.approx(sum(n) / 6)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 5 * 60 - 1), max_size=4, unique=True), worlds())
def test_a_report_is_the_sum_of_its_parts_when_it_is_cut_at_full_hours(cuts: list[int], world: tuple[Any, ...]) -> None:
    replicas, prices, count, committed = world
    rows = [
        row(START + h * HOUR, price=p, spot_price=s, commitment=Commitment(count, committed)) for h, (p, s) in enumerate(prices)
    ]
    levels = {name: Levels(tuple(START + i * 10 * MINUTE for i in range(30)), tuple(n)) for name, n in replicas.items()}
    pools = fleet(POOL | {"name": "spot", "spot": True}, POOL | {"name": "a"}, POOL | {"name": "b", "site": "fra-b"})
    times = sorted({START, START + 5 * HOUR, *(START + cut // 60 * HOUR for cut in cuts)})

    def cost(start: int, end: int) -> list[Charge]:
        return charges(pools, levels, books(*rows, since=START), start, end)

    parts = [one for start, end in pairwise(times) for one in cost(start, end)]
    assert parts == cost(START, START + 5 * HOUR)
