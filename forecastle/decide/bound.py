"""Which rules a placement runs into: why a replica is in a dearer place although a cheaper one is known."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from forecastle.decide.offers import Offer, Order, room
from forecastle.types import Inventory, Pool

_FUZZ = 1e-9


def bound(orders: Sequence[Order], replicas: Mapping[str, int], inventory: Inventory) -> dict[str, tuple[str, ...]]:
    """Workload to what binds, each as ``the rule: what it would take``; only workloads of which something does."""
    used: dict[str, float] = defaultdict(float)
    for name, count in replicas.items():
        pool = inventory.pools[name]
        used[pool.site] += count * pool.size
    left = {
        name: site.capacity - used[name] for name, site in inventory.sites.items() if site.capacity is not None and name in used
    }
    found = {wanted.load.name: tuple(dict.fromkeys(_bound(wanted, replicas, left))) for wanted in orders}
    return {name: rules for name, rules in found.items() if rules}


def _bound(wanted: Order, replicas: Mapping[str, int], left: Mapping[str, float]) -> Iterator[str]:
    by_pool: dict[str, list[Offer]] = defaultdict(list)
    for offer in wanted.offers:
        by_pool[offer.pool.name].append(offer)
    dearest = max((_price(by_pool[name], replicas[name]) for name in by_pool if replicas[name] > wanted.low[name]), default=0.0)
    for name, offers in by_pool.items():
        count, pool = replicas[name], wanted.pools[name]
        if _price(offers, count + 1) < dearest - _FUZZ:
            yield from _against(wanted, pool, replicas, left)


def _price(offers: Sequence[Offer], number: int) -> float:
    """What the pool's how-manieth replica costs; beyond its room what its last one does."""
    for offer in offers:
        number -= offer.room
        if number <= 0:
            return offer.price
    return offers[-1].price


def _against(wanted: Order, pool: Pool, replicas: Mapping[str, int], left: Mapping[str, float]) -> Iterator[str]:
    """What keeps one more replica out of ``pool``."""
    if replicas[pool.name] >= room(pool):
        limit = "quota" if pool.quota < pool.max else "max"
        yield f"the {limit} {room(pool)} of {pool.name}: a larger one would be used"
    elif pool.site in left and left[pool.site] < pool.size - _FUZZ:
        yield f"the capacity of {pool.site}: more of it would be used"
    for cap in wanted.caps:
        if cap.rule and pool.name in cap.pools and sum(replicas[name] for name in cap.pools) >= cap.limit:
            yield f"{cap.rule}: without it more would be at {pool.site}"
