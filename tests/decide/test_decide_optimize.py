"""The integer program against every placement of small fleets, and against the validator on many random ones."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from place_worlds import random_fleet

from forecastle.decide.offers import Need, order, reserve
from forecastle.decide.optimize import optimize
from forecastle.decide.place import Placement, greedy, place
from forecastle.decide.validate import violations
from forecastle.settings import DecideSettings
from forecastle.types import Demand, Domain, Fleet, Inventory, Observed, Pool, SeriesKey, Site, Workload

KNOBS = DecideSettings()


def effective(found: Placement, needs: list[Need], inventory: Inventory, fleet: Fleet) -> float:
    """What a placement costs with risk, egress and moves priced in, from the definition and replica by replica."""
    total = 0.0
    for name, count in found.replicas.items():
        pool = inventory.pools[name]
        load, site = inventory.workloads[pool.workload], inventory.sites[pool.site]
        risk = pool.interruptions_h * pool.startup_s / 3600 * load.unmet_price if pool.spot else 0.0
        moved = max(0, count - fleet.observed[name].replicas)
        total += max(0, count - pool.committed) * pool.unit_price
        total += count * (risk + load.egress_gb_h * site.egress_price) + moved * load.move_price / KNOBS.move_h
    return total


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**9), st.booleans())
def test_random_fleets_are_placed_within_every_rule(seed: int, tight: bool) -> None:
    needs, inventory, fleet = random_fleet(seed, 6, 5, tight=tight)
    assert violations(place(needs, inventory, fleet), needs, inventory, fleet) == []


@settings(max_examples=100, deadline=None)
@example(16414, True)  # a floor that only fits when a cap gives way, and a budget that the rest of others would have spent
@given(st.integers(0, 10**9), st.booleans())
def test_the_stand_in_keeps_every_rule_too(seed: int, tight: bool) -> None:
    needs, inventory, fleet = random_fleet(seed, 6, 5, tight=tight)
    orders = [order(need, inventory, fleet, frozenset(), KNOBS.move_h) for need in needs]
    assert violations(greedy(orders, inventory), needs, inventory, fleet) == []


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**9))
def test_no_other_placement_of_a_small_fleet_is_valid_and_cheaper(seed: int) -> None:
    needs, inventory, fleet = random_fleet(seed, 2, 3, tight=True)
    needs = [replace(need, replicas=min(need.replicas, 4), floor=0, keep=0) for need in needs]
    loads = {name: replace(load, survive=None, budget_per_hour=None) for name, load in inventory.workloads.items()}
    inventory = replace(inventory, workloads=loads, budget_per_hour=None)
    found = place(needs, inventory, fleet)
    if found.notes:
        return
    names = sorted(inventory.pools)
    ranges = [range(min(inventory.pools[n].max, 4) + 1) for n in names]
    best = min(
        effective(other, needs, inventory, fleet)
        for counts in itertools.product(*ranges)
        for other in [Placement(dict(zip(names, counts, strict=True)))]
        if not violations(other, needs, inventory, fleet)
    )
    assert effective(found, needs, inventory, fleet) == pytest.approx(best, rel=0.005, abs=1e-6)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10**9))
def test_greedy_is_as_good_as_the_program_where_place_trusts_it(seed: int) -> None:
    needs, inventory, fleet = random_fleet(seed, 4, 4)
    orders = [order(need, inventory, fleet, frozenset(), KNOBS.move_h) for need in needs]
    quick = greedy(orders, inventory)
    if place(needs, inventory, fleet).method != "greedy" or quick.notes:
        return
    exact = optimize(orders, inventory, KNOBS)
    assert exact is not None
    assert exact.notes == ()
    assert effective(quick, needs, inventory, fleet) == pytest.approx(effective(exact, needs, inventory, fleet), abs=1e-6)


def test_the_same_problem_is_placed_the_same_way() -> None:
    needs, inventory, fleet = random_fleet(7, 20, 8, tight=True)
    first = place(needs, inventory, fleet)
    assert first.method == "integer program"
    assert all(place(needs, inventory, fleet) == first for _ in range(3))


def test_a_lost_site_is_replaced_inside_the_residency_in_the_same_tick() -> None:
    needs, inventory, fleet = random_fleet(11, 12, 9, tight=True)
    down = frozenset({"s0", "s3"})
    found = place(needs, inventory, fleet, down=down)
    assert violations(found, needs, inventory, fleet, down=down) == []
    assert all(n == 0 for name, n in found.replicas.items() if inventory.pools[name].site in down)


def test_when_a_site_is_too_small_for_all_the_important_workload_has_it() -> None:
    _, inventory, _ = random_fleet(3, 2, 1)
    site = Site("s0", "aws", "r0", "z0", capacity=5.0, latency_ms={"eu": 10.0, "us": 10.0})
    pools = {n: replace(p, min=0, max=8, quota=8, size=1.0, spot=False) for n, p in inventory.pools.items()}
    loads = {
        name: replace(load, priority=priority, residency=frozenset(), min_sites=1, survive=None, budget_per_hour=None)
        for (name, load), priority in zip(inventory.workloads.items(), (1, 9), strict=True)
    }
    small = replace(inventory, sites={"s0": site}, pools=pools, workloads=loads)
    observed = {name: Observed(name, 1, 1, 0, "v") for name in pools}
    found = place([Need("w0", 4, 2), Need("w1", 4, 2)], small, Fleet(0, observed))
    assert found.replicas == {"w0-s0": 2, "w1-s0": 3}, "both floors, then the rest of the more important one"
    assert found.notes == ("w1: 3 of 4 replicas: what it may use is full", "w0: 2 of 4 replicas: what it may use is full")


@pytest.mark.parametrize(
    ("replicas", "share", "domains", "expected"),
    [
        (10, 0.5, 2, (10, 5)),
        (10, 1.0, 2, (20, 10)),
        (10, 1.0, 3, (15, 10)),
        (10, 0.7, 3, (11, 7)),
        (10, 1.0, 1, (10, 10)),
        (0, 1.0, 3, (0, 0)),
    ],
)
def test_what_it_takes_to_survive_a_loss(replicas: int, share: float, domains: int, expected: tuple[int, int]) -> None:
    assert reserve(replicas, share, domains) == expected


SAID = {
    "replicas for a need": "w0: 8 of 10 replicas: the budget is spent",
    "below its minimum": "w0: w0-b is below its minimum: its site is full",
    "sites instead of": "w0: on 1 of 2 sites",
    "an even share": "w0: more than an even share of 2 sites is at a",
    "on spot": "w0: more than 10% is on spot",
    "served nearby": "w0: users in us are not all served within 50 ms",
    "the loss of aws leaves": "w0: the loss of aws would leave fewer than 5 replicas",
}


@pytest.mark.parametrize("rule", SAID)
def test_a_note_excuses_its_own_rule_and_no_other(rule: str) -> None:
    """8 of 10 replicas, all on spot at one site far from everybody, beside an empty pool with a minimum."""
    sites = {name: Site(name, provider, "r", name, latency_ms={"us": 90.0}) for name, provider in (("a", "aws"), ("b", "gcp"))}
    pools = {
        "w0-a": Pool("w0-a", "w0", "a", "sim", 0.1, spot=True),
        "w0-b": Pool("w0-b", "w0", "b", "sim", 0.1, min=1),
    }
    load = Workload(
        "w0",
        (Demand(SeriesKey("w0", "rps"), 40.0),),
        tuple(pools),
        min_sites=2,
        survive=Domain.PROVIDER,
        population={"us": 1.0},
        max_latency_ms=50.0,
        spot_share=0.1,
    )
    inventory, needs = Inventory(sites, pools, {"w0": load}), [Need("w0", 10, 0, 5)]
    fleet = Fleet(0, {name: Observed(name, 0, 0, 0, "v") for name in pools})
    found = violations(Placement({"w0-a": 8, "w0-b": 0}), needs, inventory, fleet)
    assert [len([text for text in found if mark in text]) for mark in SAID] == 7 * [1], found
    excused = violations(Placement({"w0-a": 8, "w0-b": 0}, (SAID[rule],)), needs, inventory, fleet)
    assert excused == [text for text in found if rule not in text]


def test_replicas_that_are_missing_excuse_only_as_many() -> None:
    sites = {name: Site(name, provider, "r", name) for name, provider in (("a", "aws"), ("b", "gcp"))}
    pools = {f"w0-{name}": Pool(f"w0-{name}", "w0", name, "sim", 0.1) for name in sites}
    load = Workload("w0", (Demand(SeriesKey("w0", "rps"), 40.0),), tuple(pools), survive=Domain.PROVIDER)
    inventory, needs = Inventory(sites, pools, {"w0": load}), [Need("w0", 10, 0, 5)]
    fleet = Fleet(0, {name: Observed(name, 0, 0, 0, "v") for name in pools})
    note = ("w0: 8 of 10 replicas: the budget is spent",)
    assert violations(Placement({"w0-a": 5, "w0-b": 3}, note), needs, inventory, fleet) == []
    wrong = ["w0: the loss of aws leaves 2 of 5"]
    assert violations(Placement({"w0-a": 6, "w0-b": 2}, note), needs, inventory, fleet) == wrong


def test_survival_of_a_provider_is_bought_where_it_is_cheapest() -> None:
    sites = {name: Site(name, provider, "r", name) for name, provider in (("a", "aws"), ("b", "aws"), ("c", "gcp"))}
    _, inventory, _ = random_fleet(5, 1, 3)
    template = next(iter(inventory.pools.values()))
    pools = {
        name: replace(template, name=name, workload="w0", site=name, unit_price=price, min=0, max=20, quota=20, spot=False)
        for name, price in (("a", 0.1), ("b", 0.2), ("c", 0.3))
    }
    load = replace(
        inventory.workloads["w0"],
        pools=tuple(pools),
        min_sites=1,
        survive=Domain.PROVIDER,
        residency=frozenset(),
        population={},
        budget_per_hour=None,
        move_price=0.0,
        egress_gb_h=0.0,
    )
    world = Inventory(sites, pools, {"w0": load})
    fleet = Fleet(0, {name: Observed(name, 0, 0, 0, "v") for name in pools})
    assert place([Need("w0", 10, 0, 4)], world, fleet).replicas == {"a": 6, "b": 0, "c": 4}
