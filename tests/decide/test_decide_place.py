"""Where replicas go: against every possible placement of small worlds, and what gives way when not everything fits."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from forecastle.decide.offers import Need, allowed
from forecastle.decide.place import Placement, place
from forecastle.types import Demand, Fleet, Inventory, Observed, Pool, SeriesKey, Site, Workload

EU, US = frozenset({"EU"}), frozenset({"US"})
SITES = {
    "fra": Site("fra", "aws", "eu-central-1", "a", residency=EU),
    "ams": Site("ams", "gcp", "europe-west4", "a", residency=EU),
    "ohio": Site("ohio", "aws", "us-east-2", "a", residency=US),
    "bare": Site("bare", "own", "cellar"),
}


def pool(site: str, price: float = 0.1, name: str = "", **changes: Any) -> Pool:
    return Pool(
        name or f"shop-{site}", changes.pop("workload", "shop"), site, "sim", price, **({"max": 10, "quota": 10} | changes)
    )


def world(*pools: Pool, fleet_budget: float | None = None, **load: Any) -> Inventory:
    names = dict.fromkeys(p.workload for p in pools)
    loads = {
        name: Workload(
            name,
            (Demand(SeriesKey(name, "rps"), 40.0),),
            tuple(p.name for p in pools if p.workload == name),
            **load.get(name, load),
        )
        for name in names
    }
    return Inventory(SITES, {p.name: p for p in pools}, loads, budget_per_hour=fleet_budget)


def fleet(inventory: Inventory, **replicas: int) -> Fleet:
    names = [name for name in inventory.pools if replicas.get(name, 0) >= 0]
    return Fleet(0, {n: Observed(n, replicas.get(n, 0), replicas.get(n, 0), 0, "v") for n in names})


def placed(inventory: Inventory, replicas: int, floor: int = 0, down: frozenset[str] = frozenset(), **seen: int) -> Placement:
    return place([Need("shop", replicas, floor)], inventory, fleet(inventory, **seen), down=down)


def test_the_cheapest_pool_is_filled_first() -> None:
    found = placed(world(pool("fra", 0.2), pool("ams", 0.1, max=6)), 9)
    assert found.replicas == {"shop-ams": 6, "shop-fra": 3}
    assert math.isclose(found.cost, 6 * 0.1 + 3 * 0.2)
    assert found.notes == ()


def test_no_site_holds_more_than_its_even_share() -> None:
    found = placed(world(pool("fra", 0.3), pool("ams", 0.1), pool("ohio", 0.2), min_sites=2), 9)
    assert found.replicas == {"shop-ams": 5, "shop-fra": 0, "shop-ohio": 4}


def test_residency_is_denied_by_default_and_never_relaxed() -> None:
    inventory = world(pool("ohio", 0.01), pool("bare", 0.01), pool("fra", 0.5, max=4), residency=EU)
    found = placed(inventory, 9)
    assert found.replicas == {"shop-fra": 4, "shop-ohio": 0, "shop-bare": 0}
    assert found.notes == ("shop: 4 of 9 replicas: what it may use is full",)


def test_a_down_site_is_emptied_and_the_rest_takes_its_load() -> None:
    inventory = world(pool("fra"), pool("ams"), pool("ohio", 0.5), min_sites=2)
    assert placed(inventory, 8).replicas == {"shop-fra": 4, "shop-ams": 4, "shop-ohio": 0}
    assert placed(inventory, 8, down=frozenset({"fra"})).replicas == {"shop-fra": 0, "shop-ams": 4, "shop-ohio": 4}


def test_a_spread_that_cannot_be_had_is_said_and_the_load_served() -> None:
    found = placed(world(pool("fra"), pool("ams"), min_sites=2), 8, down=frozenset({"ams"}))
    assert found.replicas == {"shop-fra": 8, "shop-ams": 0}
    assert found.notes == ("shop: on 1 of 2 sites (ams down)",)


def test_full_pools_break_the_even_share_before_they_break_the_service() -> None:
    found = placed(world(pool("fra"), pool("ams", max=2), min_sites=2), 8)
    assert found.replicas == {"shop-fra": 6, "shop-ams": 2}
    assert found.notes == ("shop: more than an even share of 2 sites is at fra",)


def test_of_equal_prices_the_pool_that_runs_more_stays() -> None:
    inventory = world(pool("fra"), pool("ams"))
    assert placed(inventory, 5, **{"shop-ams": 5}).replicas == {"shop-ams": 5, "shop-fra": 0}
    assert placed(inventory, 5, **{"shop-fra": 5}).replicas == {"shop-ams": 0, "shop-fra": 5}


def test_a_budget_stops_growth_but_never_cuts_the_reactive_floor() -> None:
    inventory = world(pool("fra", 0.5), budget_per_hour=2.0)
    found = placed(inventory, 8)
    assert found.replicas == {"shop-fra": 4}
    assert found.notes == ("shop: 4 of 8 replicas: the budget is spent",)
    assert placed(inventory, 8, floor=6).replicas == {"shop-fra": 6}


def test_egress_is_in_the_price_the_cost_and_the_budget() -> None:
    inventory = world(pool("fra", 0.1), pool("ohio", 0.2), egress_gb_h=2.0, budget_per_hour=2.0)
    inventory = replace(inventory, sites=SITES | {"fra": replace(SITES["fra"], egress_price=0.2)})
    assert {p.name: p.egress_h for p in inventory.pools.values()} == {"shop-fra": 0.4, "shop-ohio": 0.0}
    found = placed(inventory, 12)
    assert found.replicas == {"shop-fra": 0, "shop-ohio": 10}, "0.5 there, 0.2 here"
    assert math.isclose(found.cost, 2.0)
    assert found.notes == ("shop: 10 of 12 replicas: the budget is spent",)
    free = replace(inventory, workloads={"shop": replace(inventory.workloads["shop"], egress_gb_h=0.0)})
    assert placed(free, 12).replicas == {"shop-fra": 10, "shop-ohio": 2}


def test_the_fleets_budget_goes_to_the_most_important_first() -> None:
    inventory = world(
        pool("fra", 1.0),
        pool("fra", 1.0, "mail-fra", workload="mail"),
        fleet_budget=6.0,
        shop={"priority": 1},
        mail={"priority": 9},
    )
    found = place([Need("shop", 5), Need("mail", 5)], inventory, fleet(inventory))
    assert found.replicas == {"mail-fra": 5, "shop-fra": 1}
    assert found.cost == 6.0


def test_a_pool_nobody_can_see_is_left_alone() -> None:
    found = placed(world(pool("fra", 0.01), pool("ams")), 3, **{"shop-fra": -1})
    assert found.replicas == {"shop-ams": 3}


def test_a_pools_minimum_is_kept() -> None:
    assert placed(world(pool("fra", 0.9, min=2), pool("ams")), 5).replicas == {"shop-fra": 2, "shop-ams": 3}


pools = st.lists(
    st.tuples(st.sampled_from(sorted(SITES)), st.integers(1, 6), st.integers(0, 2), st.integers(0, 4)), min_size=1, max_size=3
)


@settings(max_examples=300, deadline=None)
@given(pools, st.integers(0, 9), st.integers(1, 3), st.booleans())
def test_nothing_is_cheaper_among_all_placements(
    drawn: list[tuple[str, int, int, int]], wanted: int, min_sites: int, eu: bool
) -> None:
    inventory = world(
        *(pool(s, p / 10, f"p{i}", min=low, max=low + more) for i, (s, p, low, more) in enumerate(drawn)),
        min_sites=min_sites,
        residency=EU if eu else frozenset(),
    )
    found = placed(inventory, wanted)
    load = inventory.workloads["shop"]
    mine = [p for p in inventory.pools.values() if allowed(p, load, inventory)]
    assert all(found.replicas[p.name] == 0 for p in inventory.pools.values() if p not in mine)
    total = sum(found.replicas.values())
    if found.notes or not mine:
        return
    spread = min(min_sites, len({p.site for p in mine if p.max}))
    low = Counter[str]()
    for p in mine:
        low[p.site] += p.min
    cap = {site: max(math.ceil(wanted / spread), low[site], 1) for site in low}
    best = math.inf
    for counts in itertools.product(*(range(p.min, p.max + 1) for p in mine)):
        at = Counter[str]()
        for p, n in zip(mine, counts, strict=True):
            at[p.site] += n
        fits = sum(counts) == total and all(at[site] <= cap[site] for site in at)
        if fits and sum(n > 0 for n in at.values()) >= min(spread, wanted):
            best = min(best, sum(n * p.unit_price for p, n in zip(mine, counts, strict=True)))
    assert math.isclose(found.cost, best, abs_tol=1e-9)
    assert total >= wanted


@given(st.integers(0, 30), st.integers(0, 30))
def test_more_need_never_places_less(one: int, two: int) -> None:
    inventory = world(pool("fra", 0.2), pool("ams", 0.1, max=7), pool("ohio", 0.3), min_sites=2)
    few, many = sorted((one, two))
    assert sum(placed(inventory, few).replicas.values()) <= sum(placed(inventory, many).replicas.values())
