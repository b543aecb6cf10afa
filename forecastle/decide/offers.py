"""What a placement chooses from and what it must respect, one workload at a time.

Everything a price can say is a step in the price of a pool's next replica: committed ones are paid already, those that run
need no move, the rest pay in full. Every other rule bounds how many replicas a *group* of pools may hold:

* spread over m sites: no site holds more than ``ceil(n / m)`` (and m sites hold some, which small n have to be told);
* the loss of a domain: it holds at most ``n - keep``, so that ``keep`` are left without it;
* users served nearby: by Hall's theorem each population finds its share within reach exactly if, for every set of
  populations, the pools far from all of them hold at most what the shares of those, in whole replicas, leave;
* spot: all spot pools together hold at most their share.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from forecastle.types import Domain, Fleet, Inventory, Pool, Workload

_FUZZ = 1e-9


@dataclass(frozen=True, slots=True)
class Need:
    """Replicas a ``workload`` wants, its reactive ``floor``, and how many of them a lost domain must leave.

    Where the floor should be is told whatever the budget; what that cannot pay is cut by the guard `money`, and a person paged.
    """

    workload: str
    replicas: int
    floor: int = 0
    keep: int = 0


@dataclass(frozen=True, slots=True)
class Offer:
    """The next ``room`` replicas of ``pool`` at ``price`` per replica-hour, all risks and moves priced in.

    ``moved``: they do not run there yet; ``money``: what each adds to the bill per hour, egress alone where it is committed.
    """

    pool: Pool
    price: float
    room: int
    moved: bool
    money: float = 0.0


@dataclass(frozen=True, slots=True)
class Cap:
    """The ``pools`` hold at most ``limit`` replicas together; ``says`` is what it means to exceed that, ``rule`` what asks."""

    pools: frozenset[str]
    limit: int
    says: str
    rule: str = ""

    def exceeded(self, replicas: Mapping[str, int]) -> bool:
        """Whether a placement holds more in these pools."""
        return sum(replicas[name] for name in self.pools) > self.limit


@dataclass(frozen=True, slots=True)
class Order:
    """One workload's part of the problem: ``offers`` cheapest first, ``caps`` in the order in which they give way.

    ``pools`` are all that are observed, by name; ``low`` are the open pools' minimums, ``closed`` the pools that get nothing,
    ``notes`` what has given way already, and ``sites`` at how many sites there must be some.
    """

    load: Workload
    need: Need
    offers: tuple[Offer, ...]
    low: Mapping[str, int]
    closed: tuple[str, ...]
    caps: tuple[Cap, ...]
    notes: tuple[str, ...]
    sites: int
    pools: Mapping[str, Pool]

    def cost(self, replicas: Mapping[str, int]) -> float:
        """Money per hour of a placement, commitments included whether used or not."""
        return sum(pool.cost(replicas.get(name, 0)) for name, pool in self.pools.items())

    @property
    def sunk(self) -> float:
        """Money per hour that no placement saves."""
        return sum(pool.sunk for pool in self.pools.values())

    def gave_way(self, replicas: Mapping[str, int]) -> Iterator[str]:
        """A sentence for every cap that a placement exceeds."""
        yield from self.notes
        yield from (f"{self.load.name}: {cap.says}" for cap in self.caps if cap.exceeded(replicas))
        held = {offer.pool.site for offer in self.offers if replicas[offer.pool.name]}
        if len(held) < self.sites and not self.notes:
            yield f"{self.load.name}: on {len(held)} of {self.load.min_sites} sites"
        for name, low in self.low.items():
            if replicas[name] < low:
                yield f"{self.load.name}: {name} is below its minimum: its site is full"

    @property
    def spread_follows(self) -> bool:
        """Whether the even share by itself puts replicas at as many ``sites`` as there must be."""
        return self.sites <= 1 or math.ceil(self.need.replicas / self.sites) * (self.sites - 1) < self.need.replicas

    @property
    def must(self) -> int:
        """Replicas that are placed whatever the budget."""
        return min(max(self.need.floor, self.load.min, self.sites), self.need.replicas)


def order(need: Need, inventory: Inventory, fleet: Fleet, down: frozenset[str], move_h: float) -> Order:
    """The problem of one workload. Pools that nobody observed are left out: what cannot be seen is not moved."""
    load = inventory.workloads[need.workload]
    seen = [inventory.pools[name] for name in load.pools if name in fleet.observed]
    inside = [p for p in seen if allowed(p, load, inventory)]
    open_ = [p for p in inside if p.site not in down]
    offers = [o for p in open_ for o in _offers(p, load, fleet.observed[p.name].replicas, move_h)]
    offers.sort(key=lambda o: (o.price, o.moved, -fleet.observed[o.pool.name].replicas, o.pool.name))
    caps, notes = _caps(load, need, open_, inventory)
    lost = sorted({p.site for p in inside} - {p.site for p in open_})
    return Order(
        load,
        need,
        tuple(offers),
        {p.name: min(p.min, room(p)) for p in open_},
        tuple(p.name for p in seen if p not in open_),
        tuple(caps),
        tuple(f"{load.name}: {note}" + (f" ({', '.join(lost)} down)" if lost else "") for note in notes),
        min(load.min_sites, need.replicas, len({p.site for p in open_ if room(p)})),
        {p.name: p for p in seen},
    )


def allowed(pool: Pool, load: Workload, inventory: Inventory) -> bool:
    """Whether ``load`` may run in ``pool``. Default deny: a site without a residency takes no workload that has one."""
    return not load.residency or bool(inventory.sites[pool.site].residency & load.residency)


def room(pool: Pool) -> int:
    """The most replicas a pool may hold."""
    return min(pool.max, pool.quota)


def reserve(replicas: int, share: float, domains: int) -> tuple[int, int]:
    """(replicas, keep): how many it takes so that ``share`` of them is left when one of ``domains`` equal ones is lost."""
    keep = math.ceil(share * replicas - _FUZZ)
    total = max(replicas, fewest(keep, domains))
    return total, min(keep, total)


def fewest(keep: int, domains: int) -> int:
    """The fewest replicas of which ``keep`` are left when one of ``domains`` equal ones is lost; 0 if no number does."""
    return math.ceil(keep * domains / (domains - 1) - _FUZZ) if domains > 1 else 0


def _offers(pool: Pool, load: Workload, running: int, move_h: float) -> Iterator[Offer]:
    """A pool's price per replica as steps that only rise: what is committed, what runs, what would have to be started."""
    risk = pool.interruptions_h * pool.startup_s / 3600 * load.unmet_price if pool.spot else 0.0
    most, start = room(pool), 0
    for end in sorted({min(pool.committed, most), min(running, most), most}):
        if end > start:
            paid = (0.0 if start < pool.committed else pool.unit_price) + pool.egress_h
            moved = start >= running
            yield Offer(pool, paid + risk + (load.move_price / move_h if moved else 0.0), end - start, moved, paid)
        start = max(start, end)


def _caps(load: Workload, need: Need, pools: Sequence[Pool], inventory: Inventory) -> tuple[list[Cap], list[str]]:
    n, notes = need.replicas, []
    caps = list(_spread(load, n, pools))
    there = len({p.site for p in pools if room(p)})
    if there < load.min_sites:
        notes.append(f"on {there} of {load.min_sites} sites")
    caps += _spot(load, n, pools)
    caps += _nearby(load, n, pools, inventory)
    if load.survive is not None and need.keep:
        caps += _survival(load.survive, need, pools, inventory)
    return caps, notes


def _spread(load: Workload, n: int, pools: Sequence[Pool]) -> Iterator[Cap]:
    sites = sorted({p.site for p in pools if room(p)})
    spread = min(load.min_sites, len(sites))
    if spread > 1:
        for site in sites:
            members = frozenset(p.name for p in pools if p.site == site)
            low = sum(min(p.min, room(p)) for p in pools if p.site == site)
            says = f"more than an even share of {spread} sites is at {site}"
            yield Cap(members, max(1, math.ceil(n / spread), low), says, f"min_sites {load.min_sites}")


def _spot(load: Workload, n: int, pools: Sequence[Pool]) -> Iterator[Cap]:
    members = frozenset(p.name for p in pools if p.spot)
    if members:
        limit = math.floor(load.spot_share * n + _FUZZ)
        yield Cap(members, limit, f"more than {load.spot_share:.0%} is on spot", f"spot_share {load.spot_share:g}")


def _nearby(load: Workload, n: int, pools: Sequence[Pool], inventory: Inventory) -> Iterator[Cap]:
    limit = load.max_latency_ms
    if limit is None:
        return
    near = {
        users: frozenset(p.name for p in pools if inventory.sites[p.site].latency_ms.get(users, math.inf) <= limit)
        for users in load.population
    }
    for size in range(1, len(near) + 1):
        for users in itertools.combinations(sorted(near), size):
            far = frozenset(p.name for p in pools) - frozenset().union(*(near[u] for u in users))
            theirs = sum(math.floor(min(load.population[u], 1.0) * n + _FUZZ) for u in users)
            if far:
                says = f"users in {' and '.join(users)} are not all served within {limit:g} ms"
                yield Cap(far, max(0, n - theirs), says, f"max_latency_ms {limit:g} of users in {' and '.join(users)}")


def _survival(level: Domain, need: Need, pools: Sequence[Pool], inventory: Inventory) -> Iterator[Cap]:
    for domain in sorted({inventory.domain(p.name, level) for p in pools}):
        members = frozenset(p.name for p in pools if inventory.domain(p.name, level) == domain)
        says = f"the loss of {domain} would leave fewer than {need.keep} replicas"
        yield Cap(members, need.replicas - need.keep, says, f"survive {level}")
