"""Placement of a published synthetic fleet: time, distance from the proven optimum, and money against simpler rules.

The peers are what teams do by hand: everything at the cheapest single provider, and an even spread over all sites a workload
may use. The limit is the linear relaxation, which no integer placement can beat.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from forecastle.decide.offers import Need, order, reserve
from forecastle.decide.optimize import _Program
from forecastle.decide.place import greedy, place
from forecastle.decide.validate import violations
from forecastle.settings import DecideSettings
from forecastle.types import Demand, Domain, Fleet, Inventory, Observed, Pool, SeriesKey, Site, Workload

RESULTS = Path(__file__).parent / "results" / "place.json"
PROVIDERS = {"aws": 1.0, "gcp": 0.93, "azure": 1.04, "private": 0.7, "edge": 1.6}
REGIONS = ("eu-1", "eu-2", "us-1")
KNOBS = DecideSettings(place_s=60.0)


def fleet(workloads: int, seed: int = 1) -> tuple[list[Need], Inventory, Fleet]:
    """Five providers x three regions x two zones = 30 sites; every kind of rule in realistic shares."""
    rng = np.random.default_rng(seed)
    sites = {}
    for provider, factor in PROVIDERS.items():
        for region in REGIONS:
            for zone in "ab":
                home = "EU" if region.startswith("eu") else "US"
                rtt = {"eu": 15.0, "us": 95.0} if home == "EU" else {"eu": 95.0, "us": 20.0}
                tight = {"private": 1.5, "edge": 0.4}.get(provider)
                name = f"{provider}-{region}-{zone}"
                capacity = None if tight is None else tight * workloads
                sites[name] = Site(name, provider, region, zone, frozenset({home}), rtt, capacity, 0.02 * factor)
    pools, loads, needs = {}, {}, []
    for i in range(workloads):
        name, base = f"w{i}", float(rng.uniform(0.04, 0.3))
        names = [f"{name}-{site}" for site in sites]
        for site in sites.values():
            spot = bool(site.provider in {"aws", "gcp"} and site.zone == "b")
            price = base * PROVIDERS[site.provider] * float(rng.uniform(0.95, 1.05)) * (0.4 if spot else 1.0)
            pools[f"{name}-{site.name}"] = Pool(
                f"{name}-{site.name}", name, site.name, "sim", round(price, 4), max=60, spot=spot, interruptions_h=0.04 * spot
            )
        wanted = int(rng.integers(2, 40))
        survive = [None, Domain.ZONE, Domain.PROVIDER][int(rng.choice(3, p=[0.4, 0.4, 0.2]))]
        share = float(rng.uniform(0.2, 0.8))
        loads[name] = Workload(
            name,
            (Demand(SeriesKey(name, "rps"), 50.0),),
            tuple(names),
            min_sites=int(rng.integers(1, 4)),
            residency=frozenset({"EU"}) if rng.random() < 0.4 else frozenset(),
            priority=int(rng.integers(0, 10)),
            survive=survive,
            survive_share=0.6,
            population={"eu": share, "us": 1 - share} if rng.random() < 0.3 else {},
            max_latency_ms=50.0,
            egress_gb_h=float(rng.choice([0.0, 0.5])),
            move_price=0.05,
        )
        if loads[name].residency:
            loads[name] = replace(loads[name], population={})
        wanted, keep = reserve(wanted, 0.6, 5) if survive else (wanted, 0)
        needs.append(Need(name, wanted, wanted // 2, keep))
    inventory = Inventory(sites, pools, loads)
    return needs, inventory, Fleet(0, {name: Observed(name, 0, 0, 0, "v") for name in pools})


def relaxation(needs: list[Need], inventory: Inventory, now: Fleet) -> float:
    """Money of the linear relaxation: a lower bound for every placement."""
    program = _Program.of([order(n, inventory, now, frozenset(), KNOBS.move_h) for n in needs], inventory, KNOBS)
    matrix, low, high = program._matrix()
    upper = np.where(program.weights > 0, 0.0, np.array(program.upper))
    found = milp(program.prices, bounds=Bounds(np.array(program.lower), upper), constraints=LinearConstraint(matrix, low, high))
    return float(found.fun)


def money(replicas: dict[str, int], inventory: Inventory) -> float:
    """Effective money per hour: list price, spot risk, egress and moves."""
    total = 0.0
    for name, count in replicas.items():
        pool = inventory.pools[name]
        load, site = inventory.workloads[pool.workload], inventory.sites[pool.site]
        risk = pool.interruptions_h * pool.startup_s / 3600 * load.unmet_price if pool.spot else 0.0
        total += count * (pool.unit_price + risk + load.egress_gb_h * site.egress_price + load.move_price / KNOBS.move_h)
    return total


def single_provider(needs: list[Need], inventory: Inventory) -> float:
    """Everything at the public provider that is cheapest overall, each workload spread over its allowed sites there."""
    costs = [spread(needs, inventory, {provider}) for provider in ("aws", "gcp", "azure")]
    return min(costs)


def spread(needs: list[Need], inventory: Inventory, providers: set[str]) -> float:
    """An even spread over the allowed sites of ``providers``."""
    total = 0.0
    for need in needs:
        load = inventory.workloads[need.workload]
        mine = [inventory.pools[n] for n in load.pools if inventory.sites[inventory.pools[n].site].provider in providers]
        mine = [p for p in mine if not load.residency or load.residency & inventory.sites[p.site].residency]
        each = need.replicas / len(mine)
        total += sum(each * money({p.name: 1}, inventory) for p in mine)
    return total


def main() -> None:
    """Run, print and write the figures."""
    rows = {}
    for workloads in (20, 100, 500):
        needs, inventory, now = fleet(workloads)
        began = time.perf_counter()
        found = place(needs, inventory, now, settings=KNOBS)
        seconds = time.perf_counter() - began
        wrong = violations(found, needs, inventory, now)
        bound = relaxation(needs, inventory, now)
        quick = greedy([order(n, inventory, now, frozenset(), KNOBS.move_h) for n in needs], inventory)
        cost = money(dict(found.replicas), inventory)
        rows[str(workloads)] = {
            "sites": len(inventory.sites),
            "seconds": round(seconds, 3),
            "method": found.method,
            "violations": len(wrong),
            "notes": len(found.notes),
            "above_relaxation": round(cost / bound - 1, 5),
            "greedy_above_relaxation": round(money(dict(quick.replicas), inventory) / bound - 1, 5),
            "cost_of_best_single_provider": round(cost / single_provider(needs, inventory), 4),
            "cost_of_proportional_spread": round(cost / spread(needs, inventory, {"aws", "gcp", "azure"}), 4),
        }
        print(workloads, rows[str(workloads)])
    RESULTS.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
