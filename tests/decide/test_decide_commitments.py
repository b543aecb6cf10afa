"""What is committed is paid whether used or not: placements, plans, guards and budgets count it so, and use it first."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
from decide_worlds import fleet, load, plans, pool, remembered, scalings, seen, situation, stock
from hypothesis import given, settings
from hypothesis import strategies as st

from forecastle.decide.offers import Need, order
from forecastle.decide.optimize import optimize
from forecastle.decide.place import Placement, greedy, place
from forecastle.settings import DecideSettings
from forecastle.types import Inventory, Pool

KNOBS = DecideSettings()
SITES = ("fra", "ams", "ohio")


def held(site: str, price: float, committed: int, at: float | None = None, most: int = 6) -> Pool:
    return pool(site, unit_price=price, committed=committed, committed_price=at, max=most, quota=most)


def world(*pools: Pool, budget: float | None = None, fleet_budget: float | None = None) -> Inventory:
    sites = [p.site for p in pools]
    return stock(load(sites=sites, min=0, budget_per_hour=budget), pools=pools, budget_per_hour=fleet_budget)


def both(inventory: Inventory, wanted: int, floor: int = 0) -> list[Placement]:
    """By filling the cheapest and by the integer program."""
    state = fleet(*(seen(name, 0) for name in inventory.pools))
    wants = [order(Need("shop", wanted, floor), inventory, state, frozenset(), KNOBS.move_h)]
    by_program = optimize(wants, inventory, KNOBS)
    assert by_program is not None
    return [greedy(wants, inventory), by_program]


@pytest.mark.parametrize(
    ("replicas", "committed", "at", "cost"),
    [(0, 0, None, 0.0), (4, 0, 0.05, 0.4), (0, 3, None, 0.3), (2, 3, 0.05, 0.15), (3, 3, 0.05, 0.15), (5, 3, 0.05, 0.35)],
)
def test_the_cost_of_a_pool(replicas: int, committed: int, at: float | None, cost: float) -> None:
    assert held("fra", 0.1, committed, at).cost(replicas) == pytest.approx(cost)


@given(st.integers(0, 20), st.integers(0, 20), st.floats(0, 1), st.floats(0, 1))
def test_a_replica_more_costs_nothing_or_its_price(n: int, committed: int, price: float, at: float) -> None:
    one = held("fra", price, committed, at)
    assert one.cost(n + 1) - one.cost(n) == pytest.approx(0.0 if n < committed else price, abs=1e-9)
    assert one.cost(n) >= one.sunk == pytest.approx(committed * at)


def test_a_placement_costs_its_commitments_even_where_it_places_nothing() -> None:
    inventory = world(held("fra", 0.5, 2, 0.3), held("ams", 0.1, 0), held("ohio", 0.9, 3))
    for found in both(inventory, 7):
        assert found.replicas == {"shop-fra": 2, "shop-ams": 2, "shop-ohio": 3}, "what is paid already comes first"
        assert found.cost == pytest.approx(2 * 0.3 + 2 * 0.1 + 3 * 0.9)
    for found in both(inventory, 0):
        assert found.cost == pytest.approx(2 * 0.3 + 3 * 0.9)


def test_a_budget_pays_commitments_first_and_never_cuts_them() -> None:
    inventory = world(held("fra", 0.5, 3, 0.4), held("ams", 0.1, 0), budget=1.5)
    for found in both(inventory, 9):
        assert found.replicas == {"shop-fra": 3, "shop-ams": 3}, "0.3 of 1.5 is left beside the commitment's 1.2"
        assert found.cost == pytest.approx(1.5)
        assert found.notes == ("shop: 6 of 9 replicas: the budget is spent",)


def test_a_budget_below_the_commitments_leaves_what_they_pay_for() -> None:
    inventory = world(held("fra", 0.5, 3, 0.4), held("ams", 0.1, 0), budget=0.2)
    for found in both(inventory, 9):
        assert found.replicas == {"shop-fra": 3, "shop-ams": 0}
        assert found.cost == pytest.approx(1.2)


def test_the_fleets_budget_counts_the_commitments_of_all() -> None:
    shop, mail = load(sites=("fra",), min=0, priority=1), load("mail", ("ams",), min=0)
    pools = [held("fra", 0.5, 2, 0.2), replace(held("ams", 0.1, 4, 0.05), name="mail-ams", workload="mail")]
    inventory = stock(shop, mail, pools=pools, budget_per_hour=1.1)
    found = place([Need("shop", 6), Need("mail", 1)], inventory, fleet(seen("shop-fra", 0), seen("mail-ams", 0)))
    assert found.replicas == {"shop-fra": 3, "mail-ams": 1}, "0.4 and 0.2 are committed, which leaves one at 0.5"
    assert found.cost == pytest.approx(1.1)


POOLS = st.lists(st.tuples(st.integers(1, 6), st.integers(0, 4), st.none() | st.integers(0, 5)), min_size=1, max_size=3)


@settings(max_examples=60, deadline=None)
@given(POOLS, st.integers(0, 12), st.none() | st.integers(0, 25), st.integers(0, 4))
def test_no_placement_within_the_budget_holds_more_or_costs_less(
    drawn: list[tuple[int, int, int | None]], wanted: int, budget: int | None, floor: int
) -> None:
    """Against every way to place them, the bill written out replica by replica."""
    prices = [(p / 10, c, None if at is None else at / 10) for p, c, at in drawn]
    pools = [held(SITES[i], p, c, at, most=4) for i, (p, c, at) in enumerate(prices)]
    purse = math.inf if budget is None else budget / 10
    inventory = world(*pools, budget=None if budget is None else purse)

    def bill(counts: tuple[int, ...]) -> float:
        paid = [[p] * max(0, n - c) + [p if at is None else at] * c for n, (p, c, at) in zip(counts, prices, strict=True)]
        return sum(map(sum, paid))

    ways = [counts for counts in itertools.product(range(5), repeat=len(pools)) if sum(counts) <= wanted]
    most = max(purse, bill((0,) * len(pools)))
    inside = max(sum(counts) for counts in ways if bill(counts) <= most + 1e-9)
    total = max(inside, min(max(floor, 1), wanted, 4 * len(pools)))  # one site must hold a replica
    found = place([Need("shop", wanted, min(floor, wanted))], inventory, fleet(*(seen(p.name, 0) for p in pools)))
    assert sum(found.replicas.values()) == total
    assert found.cost == pytest.approx(bill(tuple(found.replicas[p.name] for p in pools)))
    best = min(bill(counts) for counts in ways if sum(counts) == total)
    assert found.cost == pytest.approx(best)


def test_a_plan_says_what_the_fleet_costs_with_its_commitments() -> None:
    state = fleet(seen("shop-fra", 10), seen("shop-ams", 10))
    paid = stock(load(), pools=[held("ams", 0.2, 14, 0.05, most=100)])
    (plan,) = plans(situation(640, state, expected=768), paid)
    assert scalings([plan]) == {"shop-ams": (10, 14)}, "dearer by the list, but paid already"
    assert plan.cost == pytest.approx(10 * 0.1 + 14 * 0.05)
    assert f"Afterwards the fleet costs {1.7:.4g} per hour." in plan.reason


def test_a_scale_in_leaves_what_is_paid_anyway() -> None:
    state = replace(fleet(seen("shop-fra", 10), seen("shop-ams", 10)), recommendations=remembered(2))
    dear = pool("ams", unit_price=0.3)
    assert scalings(plans(situation(200, state), stock(load(), pools=[dear]))) == {"shop-ams": (10, 9)}
    committed = replace(dear, committed=10)
    assert scalings(plans(situation(200, state), stock(load(), pools=[committed]))) == {"shop-fra": (10, 9)}


def test_growth_within_a_commitment_passes_a_spent_budget() -> None:
    state = fleet(seen("shop-fra", 10), seen("shop-ams", 10))
    pools = [pool("fra", unit_price=0.1), held("ams", 0.1, 12, 0.1, most=100)]
    found = plans(situation(640, state, expected=768), stock(load(budget_per_hour=2.2), pools=pools))
    assert scalings(found) == {"shop-ams": (10, 12)}
    assert [plan.cost for plan in found] == [pytest.approx(2.2)] * len(found)
    assert all("22 of 24 replicas: the budget is spent" in plan.reason for plan in found if not plan.actions)
