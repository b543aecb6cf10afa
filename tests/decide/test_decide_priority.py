"""A site is lost and what is left does not hold everything: who is served, against the definition and on random fleets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from place_worlds import random_fleet

from forecastle.decide.offers import Need, allowed, order, room
from forecastle.decide.optimize import optimize
from forecastle.decide.place import Placement, greedy, place
from forecastle.decide.validate import violations
from forecastle.settings import DecideSettings
from forecastle.types import Fleet, Inventory, Observed, Pool, Site, Workload

KNOBS = DecideSettings()
EU = frozenset({"EU"})


def crowded(seed: int, *, money: bool = False) -> tuple[list[Need], Inventory, Fleet, frozenset[str]]:
    """Four workloads with replicas of different sizes at three sites that are full, of which one is lost."""
    rng = np.random.default_rng(seed)
    needs, inventory, fleet = random_fleet(seed, 4, 3, tight=True)
    sites = {name: replace(site, capacity=float(rng.integers(2, 12))) for name, site in inventory.sites.items()}
    plain = {"min_sites": 0, "survive": None, "population": {}, "budget_per_hour": None, "spot_share": 1.0}
    loads = {name: replace(load, **plain, priority=int(rng.integers(0, 4))) for name, load in inventory.workloads.items()}
    pools = {name: replace(p, size=float(rng.choice([1, 2, 3])), min=0) for name, p in inventory.pools.items()}
    needs = [replace(need, keep=0, replicas=int(rng.integers(0, 9))) for need in needs]
    needs = [replace(need, floor=min(need.floor, need.replicas)) for need in needs]
    down = frozenset(str(s) for s in rng.choice(sorted(sites), 1, replace=False))
    budget = inventory.budget_per_hour if money else None
    return needs, replace(inventory, sites=sites, pools=pools, workloads=loads, budget_per_hour=budget), fleet, down


def ways(needs: list[Need], inventory: Inventory, fleet: Fleet, down: frozenset[str]) -> dict[str, Placement]:
    """By the integer program, and by what stands in for it."""
    orders = [order(need, inventory, fleet, down, KNOBS.move_h) for need in needs]
    orders.sort(key=lambda o: (-o.load.priority, o.load.name))
    program = optimize(orders, inventory, KNOBS)
    assert program is not None
    return {"greedy": greedy(orders, inventory), "program": program}


def envy(found: Placement, needs: list[Need], inventory: Inventory, down: frozenset[str]) -> Iterator[str]:
    """Workloads that lack a replica while a less important one has more than its floor in a place that would hold it."""
    used = dict.fromkeys(inventory.sites, 0.0)
    for name, n in found.replicas.items():
        used[inventory.pools[name].site] += n * inventory.pools[name].size
    held = {need.workload: sum(found.replicas[p] for p in inventory.workloads[need.workload].pools) for need in needs}
    for need in needs:
        load = inventory.workloads[need.workload]
        if held[load.name] >= need.replicas:
            continue
        for pool in _open(load, found, inventory, down):
            for other in needs:
                rival = inventory.workloads[other.workload]
                spare = held[rival.name] - max(other.floor, rival.min)
                for taken in (inventory.pools[p] for p in rival.pools if inventory.pools[p].site == pool.site):
                    freed = taken.size * min(spare, found.replicas[taken.name])
                    left = (inventory.sites[pool.site].capacity or 0.0) - used[pool.site]
                    if rival.priority < load.priority and spare > 0 and freed > 0 and left + freed >= pool.size:
                        yield f"{load.name} lacks a replica that fits {pool.site} in place of {rival.name}'s"


def _open(load: Workload, found: Placement, inventory: Inventory, down: frozenset[str]) -> Iterator[Pool]:
    for pool in (inventory.pools[name] for name in load.pools):
        if pool.site not in down and allowed(pool, load, inventory) and found.replicas[pool.name] < room(pool):
            yield pool


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**9), st.booleans())
def test_with_a_site_down_nothing_is_there_residency_holds_and_rules_are_kept(seed: int, money: bool) -> None:
    needs, inventory, fleet, down = crowded(seed, money=money)
    for name, found in ways(needs, inventory, fleet, down).items():
        assert violations(found, needs, inventory, fleet, down=down) == [], name
        for pool in (inventory.pools[p] for p, n in found.replicas.items() if n):
            assert pool.site not in down
            load = inventory.workloads[pool.workload]
            assert not load.residency or inventory.sites[pool.site].residency & load.residency


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**9))
def test_nobody_lacks_what_a_less_important_workload_has_beyond_its_floor(seed: int) -> None:
    """Of the program; what stands in for it never moves a floor that it has placed, which may be in somebody's way."""
    needs, inventory, fleet, down = crowded(seed)
    assert list(envy(ways(needs, inventory, fleet, down)["program"], needs, inventory, down)) == []


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**9))
def test_losing_a_site_never_serves_the_most_important_less_than_it_would_be_alone(seed: int) -> None:
    """Whatever the others want beyond their floors, the first priority gets as much as if they wanted only those."""
    needs, inventory, fleet, down = crowded(seed)
    first = max(load.priority for load in inventory.workloads.values())
    top = {name for name, load in inventory.workloads.items() if load.priority == first}
    modest = [n if n.workload in top else replace(n, replicas=n.floor) for n in needs]

    def served(wanted: list[Need]) -> int:
        found = place(wanted, inventory, fleet, down=down)
        return sum(found.replicas[p] for name in top for p in inventory.workloads[name].pools)

    assert served(needs) >= served(modest)


@pytest.mark.parametrize("size", [1.0, 2.0, 5.0])
def test_one_large_replica_of_the_important_stands_before_many_small_ones(size: float) -> None:
    sites = {"fra": Site("fra", "aws", "r", residency=EU), "ams": Site("ams", "gcp", "r", residency=EU, capacity=10.0)}
    pools = {
        f"{name}-{site}": Pool(f"{name}-{site}", name, site, "sim", 0.1, size=size if name == "big" else 1.0, max=50, quota=50)
        for name in ("big", "small")
        for site in sites
    }
    loads = {
        name: Workload(name, (), (f"{name}-fra", f"{name}-ams"), min=0, min_sites=0, residency=EU, priority=rank)
        for name, rank in (("big", 9), ("small", 1))
    }
    inventory = Inventory(sites, pools, loads)
    fleet = Fleet(0, {name: Observed(name, 10, 10, 0, "v") for name in pools})
    needs = [Need("small", 10, 0), Need("big", 10, 0)]
    for name, found in ways(needs, inventory, fleet, frozenset({"fra"})).items():
        assert found.replicas["big-ams"] == 10 // size, name
        assert found.replicas["small-ams"] == 10 - size * (10 // size), name
        assert any("what it may use is full" in note for note in found.notes), name
