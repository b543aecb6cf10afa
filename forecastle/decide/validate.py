"""A second opinion on a placement: every rule checked anew from the inventory, sharing no code with what made it."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import maximum_flow

from forecastle.decide.offers import Need
from forecastle.decide.place import Placement
from forecastle.types import Action, Fleet, Inventory, Kind, Pool, Workload

Held: TypeAlias = Sequence[tuple[Pool, int]]
_FUZZ = 1e-6
_LOSS = "the loss of "
_SHORT, _LOW, _SITES, _SHARE, _SPOT, _NEAR = (
    "replicas:",
    "is below its minimum",
    "sites",
    "more than an even share",
    "is on spot",
    "are not all served within",
)
_MARKS = (_SHARE, _SPOT, _NEAR, _SHORT, _LOW, _SITES)
"""What in a note says which rule gave way; the first that fits counts."""


def violations(
    found: Placement, needs: Sequence[Need], inventory: Inventory, fleet: Fleet, *, down: frozenset[str] = frozenset()
) -> list[str]:
    """What is wrong with a placement, in words; empty when nothing is.

    Limits, residency, site capacity and closed sites always hold. What may give way (spread, survival, nearness, spot, the
    wanted number) has to hold for every workload unless a note says of that very rule that it does not.
    """
    problems = list(_hard(found, inventory, fleet, down))
    spent, committed, cut = 0.0, 0.0, 0
    told = _told(found.notes)
    for need in needs:
        load = inventory.workloads[need.workload]
        held = [(inventory.pools[n], found.replicas.get(n, 0)) for n in load.pools if n in fleet.observed]
        broken = _soft(load, need, held, inventory, down, short=_SHORT in told[load.name])
        problems += [f"{load.name}: {text}" for mark, text in broken if mark not in told[load.name]]
        sunk = sum(_sunk(pool) for pool, _ in held)
        egress = {pool.name: load.egress_gb_h * inventory.sites[pool.site].egress_price for pool, _ in held}
        cost = sunk + sum(max(0, n - pool.committed) * pool.unit_price + n * egress[pool.name] for pool, n in held)
        paid = sum(n if egress[p.name] else max(0, n - p.committed) for p, n in held)  # what is committed costs egress at most
        must = max(need.floor, load.min, load.min_sites + sum(p.min for p, _ in held))
        if load.budget_per_hour is not None and cost > max(load.budget_per_hour, sunk) + _FUZZ and paid > must:
            problems.append(f"{load.name}: costs {cost:g}, more than its budget, with more than its floor")
        spent, committed, cut = spent + cost, committed + sunk, cut + max(0, paid - must)
    if inventory.budget_per_hour is not None and spent > max(inventory.budget_per_hour, committed) + _FUZZ and cut:
        problems.append(f"the fleet costs {spent:g}, more than its budget, with {cut} replicas more than its floors")
    return problems


def _told(notes: Iterable[str]) -> Mapping[str, set[str]]:
    """Workload to the marks of the rules that its notes give up."""
    found: dict[str, set[str]] = defaultdict(set)
    for note in notes:
        name, _, says = note.partition(": ")
        domain = re.match(r"the loss of (\S+) would leave", says)
        found[name].add(f"{_LOSS}{domain[1]}" if domain else next(mark for mark in _MARKS if mark in says))
    return found


def too_many_moves(
    actions: Iterable[Action], wanted: Mapping[str, int], inventory: Inventory, fleet: Fleet, most: int | None
) -> list[str]:
    """What is wrong with one tick's actions when ``most`` replicas of the fleet may change places; empty when nothing is.

    A replica that is started changes places unless the workload lacks it for what is ``wanted``, or its pool for its minimum.
    """
    grown, low = Counter[str](), Counter[str]()
    for action in actions:
        if action.kind is Kind.SCALE and int(action.desired) > int(action.expected):
            grown[action.workload] += int(action.desired) - int(action.expected)
            low[action.workload] += max(0, inventory.pools[action.pool].min - int(action.expected))
    moves = 0
    for name, count in grown.items():
        load = inventory.workloads[name]
        serving = [p for p in load.pools if p in fleet.observed and _serves(inventory.pools[p], load, inventory, fleet.down)]
        lacking = max(0, wanted[name] - sum(fleet.observed[p].replicas for p in serving))
        moves += max(0, count - lacking - low[name])
    return [] if most is None or moves <= most else [f"{moves} replicas change places, {most} may"]


def _serves(pool: Pool, load: Workload, inventory: Inventory, down: frozenset[str]) -> bool:
    inside = not load.residency or bool(load.residency & inventory.sites[pool.site].residency)
    return inside and pool.site not in down


def _sunk(pool: Pool) -> float:
    price = pool.unit_price if pool.committed_price is None else pool.committed_price
    return pool.committed * price


def _hard(found: Placement, inventory: Inventory, fleet: Fleet, down: frozenset[str]) -> Iterator[str]:
    used: dict[str, float] = defaultdict(float)
    for name, count in found.replicas.items():
        pool = inventory.pools[name]
        load, site = inventory.workloads[pool.workload], inventory.sites[pool.site]
        used[site.name] += count * pool.size
        if name not in fleet.observed:
            yield f"{name}: placed although nobody sees it"
        if not 0 <= count <= min(pool.max, pool.quota):
            yield f"{name}: {count} is outside its limits"
        if count and site.name in down:
            yield f"{name}: {count} at {site.name}, which is down"
        if count and load.residency and not load.residency & site.residency:
            yield f"{name}: {count} outside the residency {sorted(load.residency)}"
    for site_name, size in used.items():
        capacity = inventory.sites[site_name].capacity
        if capacity is not None and size > capacity + _FUZZ:
            yield f"{site_name}: {size:g} of a capacity of {capacity:g}"


def _soft(
    load: Workload, need: Need, held: Held, inventory: Inventory, down: frozenset[str], *, short: bool
) -> Iterator[tuple[str, str]]:
    """(mark, what is wrong) of the rules that may give way; ``short``: that replicas are missing is known."""
    total = sum(n for _, n in held)
    usable = [(p, n) for p, n in held if _serves(p, load, inventory, down)]
    least = sum(min(p.min, p.max, p.quota) for p, _ in usable)
    if total < need.replicas or total > max(need.replicas, least):
        yield _SHORT if total < need.replicas else "", f"{total} replicas for a need of {need.replicas}"
    for pool, count in usable:
        if count < min(pool.min, pool.max, pool.quota):
            yield _LOW, f"{pool.name}: {count} is below its minimum"
    at_site = Counter[str]()
    for pool, count in held:
        at_site[pool.site] += count
    reachable = len({p.site for p, _ in usable if min(p.max, p.quota) > 0})
    spread = min(load.min_sites, reachable)
    if sum(count > 0 for count in at_site.values()) < min(spread, need.replicas):
        yield _SITES, f"at {sum(count > 0 for count in at_site.values())} sites instead of {spread}"
    for site, count in at_site.items():
        low = sum(p.min for p, _ in usable if p.site == site)
        if spread > 1 and count > max(math.ceil(need.replicas / spread), low, 1):
            yield _SHARE, f"{count} at {site}, more than an even share"
    missing = max(0, need.replicas - total) if short else 0
    yield from _survives(load, need, held, inventory, missing)
    spot, low = sum(n for p, n in held if p.spot), sum(p.min for p, _ in usable if p.spot)
    if spot > max(math.floor(load.spot_share * need.replicas + _FUZZ), low):
        yield _SPOT, f"{spot} on spot"
    if load.max_latency_ms is not None and load.population and not _near(load, need, held, inventory, missing):
        yield _NEAR, "not every population is served nearby"


def _survives(load: Workload, need: Need, held: Held, inventory: Inventory, missing: int) -> Iterator[tuple[str, str]]:
    if load.survive is None or not need.keep:
        return
    domains = {pool.name: inventory.domain(pool.name, load.survive) for pool, _ in held}
    for lost in sorted(set(domains.values())):
        there = [(pool, count) for pool, count in held if domains[pool.name] == lost]
        left = sum(n for _, n in held) - sum(n for _, n in there)
        if left < need.keep - missing and any(count > pool.min for pool, count in there):
            yield f"{_LOSS}{lost}", f"the loss of {lost} leaves {left} of {need.keep}"


def _near(load: Workload, need: Need, held: Held, inventory: Inventory, missing: int) -> bool:
    """Whether the populations' shares, but for the ``missing``, can be told off to replicas within reach: a maximum flow."""
    users, pools = sorted(load.population), [pool for pool, _ in held]
    source, sink = len(users) + len(pools), len(users) + len(pools) + 1
    graph = sp.lil_array((sink + 1, sink + 1), dtype=np.int32)
    wanted = 0
    for i, name in enumerate(users):
        share = math.floor(min(load.population[name], 1.0) * need.replicas + _FUZZ)
        wanted += share
        graph[source, i] = share
        for k, pool in enumerate(pools):
            limit = load.max_latency_ms or math.inf
            if inventory.sites[pool.site].latency_ms.get(name, math.inf) <= limit:
                graph[i, len(users) + k] = share
    for k, (_, count) in enumerate(held):
        graph[len(users) + k, sink] = count
    return int(maximum_flow(graph.tocsr(), source, sink).flow_value) >= wanted - missing
