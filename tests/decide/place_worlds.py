"""Random fleets for placement: sites on three providers, workloads with every kind of rule, reproducible by seed."""

from __future__ import annotations

import numpy as np

from forecastle.decide.offers import Need, reserve
from forecastle.types import Demand, Domain, Fleet, Inventory, Observed, Pool, SeriesKey, Site, Workload

PROVIDERS = ("aws", "gcp", "azure")


def random_fleet(seed: int, workloads: int, sites: int, *, tight: bool = False) -> tuple[list[Need], Inventory, Fleet]:
    """``workloads`` with a pool at about half of ``sites`` each; ``tight``: sites and money are short."""
    rng = np.random.default_rng(seed)
    places = {f"s{i}": _site(i, workloads, tight, rng) for i in range(sites)}
    pools: dict[str, Pool] = {}
    loads: dict[str, Workload] = {}
    needs = []
    for number in range(workloads):
        name = f"w{number}"
        chosen = rng.choice(sites, max(1, min(sites, int(rng.integers(1, sites + 1)))), replace=False)
        mine = [_pool(name, places[f"s{i}"], rng) for i in sorted(chosen)]
        pools |= {pool.name: pool for pool in mine}
        loads[name] = _load(name, tuple(pool.name for pool in mine), rng)
        wanted, floor = int(rng.integers(0, 9)), int(rng.integers(0, 4))
        keep = 0
        if (level := loads[name].survive) is not None:
            domains = {(p.site if level is Domain.ZONE else places[p.site].provider) for p in mine}
            wanted, keep = reserve(wanted, loads[name].survive_share, len(domains))
        needs.append(Need(name, wanted, min(floor, wanted), keep))
    budget = float(rng.uniform(0.5, 3.0)) * workloads if tight else None
    inventory = Inventory(places, pools, loads, budget_per_hour=budget)
    observed = {name: Observed(name, n, n, 0, "v") for name in pools for n in [int(rng.integers(0, 4))]}
    return needs, inventory, Fleet(0, observed)


def _site(number: int, workloads: int, tight: bool, rng: np.random.Generator) -> Site:
    capacity = float(rng.integers(1, 4 * workloads)) if tight and rng.random() < 0.7 else None
    near = {"eu": float(rng.choice([15, 100])), "us": float(rng.choice([20, 110]))}
    residency = frozenset({str(rng.choice(["EU", "US"]))}) if rng.random() < 0.8 else frozenset()
    egress = float(rng.choice([0.0, 0.09]))
    return Site(f"s{number}", PROVIDERS[number % 3], f"r{number % 5}", f"z{number}", residency, near, capacity, egress)


def _pool(workload: str, site: Site, rng: np.random.Generator) -> Pool:
    spot = bool(rng.random() < 0.3)
    price = float(rng.integers(2, 12)) / 40 * (0.4 if spot else 1.0)
    low, more = int(rng.random() < 0.15), int(rng.integers(0, 8))
    return Pool(
        f"{workload}-{site.name}",
        workload,
        site.name,
        "sim",
        price,
        min=low,
        max=low + more,
        quota=low + more,
        spot=spot,
        size=float(rng.choice([1.0, 1.0, 2.0])),
        committed=int(rng.random() < 0.2) * int(rng.integers(0, 3)),
        interruptions_h=0.05 if spot else 0.0,
        committed_price=0.6 * price if site.provider == "gcp" else None,
    )


def _load(name: str, pools: tuple[str, ...], rng: np.random.Generator) -> Workload:
    survive = [None, None, Domain.ZONE, Domain.PROVIDER][int(rng.integers(4))]
    share = float(rng.uniform(0, 1))
    return Workload(
        name,
        (Demand(SeriesKey(name, "rps"), 40.0),),
        pools,
        min=0,
        min_sites=int(rng.integers(1, 4)),
        residency=frozenset({"EU"}) if rng.random() < 0.3 else frozenset(),
        priority=int(rng.integers(0, 10)),
        budget_per_hour=float(rng.uniform(0.2, 2.0)) if rng.random() < 0.2 else None,
        survive=survive,
        survive_share=float(rng.choice([0.3, 0.5, 0.7])),
        population={"eu": share, "us": 1 - share} if rng.random() < 0.4 else {},
        max_latency_ms=50.0 if rng.random() < 0.5 else None,
        egress_gb_h=float(rng.choice([0.0, 1.0])),
        move_price=float(rng.choice([0.0, 0.0, 0.3])),
    )
