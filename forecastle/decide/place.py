"""Where the wanted replicas would best be: the cheapest places that residency, limits, spread and money allow.

Where workloads share nothing and a workload's caps are nested, filling the cheapest offer that still has room is optimal (the
problem is a matroid) and takes microseconds. Where sites or money are shared, or caps cross, the fleet is one integer
program; greedy then stands in when that finds nothing in time. What gives way is said in words; residency never does.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from forecastle.decide.bound import bound
from forecastle.decide.offers import Cap, Need, Offer, Order, order
from forecastle.decide.pace import Pace, pace
from forecastle.settings import DecideSettings
from forecastle.types import Fleet, Inventory


@dataclass(frozen=True, slots=True)
class Placement:
    """Replicas by pool for every observed pool of the workloads asked for; ``cost`` is money per hour, commitments included.

    ``notes`` says in words what had to give way, one sentence per workload and reason; ``method`` how it was found; ``bound``
    which rules keep a workload out of cheaper places; ``paces`` what is next for each workload on the way from what runs.
    """

    replicas: Mapping[str, int]
    notes: tuple[str, ...] = ()
    method: str = "greedy"
    cost: float = 0.0
    bound: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    paces: Mapping[str, Pace] = field(default_factory=dict)


def place(
    needs: Sequence[Need],
    inventory: Inventory,
    fleet: Fleet,
    *,
    down: frozenset[str] = frozenset(),
    settings: DecideSettings | None = None,
) -> Placement:
    """Place every need; pools that are not observed, at a ``down`` site or outside the residency get nothing.

    When there is not enough for all, the most important workloads are served first, and each one's floor before anybody's rest.
    """
    knobs = settings or DecideSettings()
    orders = [order(need, inventory, fleet, down, knobs.move_h) for need in needs]
    orders.sort(key=lambda o: (-o.load.priority, o.load.name))
    found = greedy(orders, inventory)
    if not all(separable(o) for o in orders) or shared(orders, inventory):
        from forecastle.decide.optimize import optimize

        found = optimize(orders, inventory, knobs) or found
    paces = {wanted.load.name: pace(wanted, found.replicas, fleet) for wanted in orders}
    return replace(found, bound=bound(orders, found.replicas, inventory), paces=paces)


def separable(wanted: Order) -> bool:
    """Whether greedy is optimal for this workload: of any two caps one contains the other, or they share no pool."""
    groups = [cap.pools for cap in wanted.caps]
    nested = all(a <= b or b <= a or not a & b for i, a in enumerate(groups) for b in groups[:i])
    return nested and wanted.spread_follows and wanted.load.budget_per_hour is None


def shared(orders: Iterable[Order], inventory: Inventory) -> bool:
    """Whether workloads compete for anything: a site's capacity, the fleet's budget."""
    sites = {offer.pool.site for wanted in orders for offer in wanted.offers}
    limited = any(inventory.sites[site].capacity is not None for site in sites)
    return limited or inventory.budget_per_hour is not None


def greedy(orders: Sequence[Order], inventory: Inventory) -> Placement:
    """Fill the cheapest offers, the most important workload first: floors of all, then the rest."""
    left = {name: math.inf if site.capacity is None else site.capacity for name, site in inventory.sites.items()}
    desks = [_Desk(wanted, left) for wanted in orders]
    budget = math.inf if inventory.budget_per_hour is None else inventory.budget_per_hour
    for desk in desks:
        desk.floor()
    spent = sum(desk.cost for desk in desks)
    for desk in desks:
        before = desk.cost
        desk.fill(budget - spent)
        spent += desk.cost - before
    replicas = {pool: n for desk in desks for pool, n in desk.placed.items()}
    notes = tuple(note for desk in desks for note in desk.notes)
    return Placement(dict(sorted(replicas.items())), notes, cost=sum(desk.cost for desk in desks))


@dataclass(slots=True)
class _Desk:
    """One workload being placed into what is ``left`` of each site."""

    order: Order
    left: dict[str, float]
    placed: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.placed = dict.fromkeys(self.order.closed, 0) | dict.fromkeys(self.order.low, 0)
        for name, low in self.order.low.items():
            pool = next((o.pool for o in self.order.offers if o.pool.name == name), None)
            if pool is not None:
                self.placed[name] = min(low, self._fits(pool.site, pool.size))
                self.left[pool.site] -= self.placed[name] * pool.size

    @property
    def cost(self) -> float:
        """Money per hour of what is placed so far and of every commitment."""
        return self.order.cost(self.placed)

    def floor(self) -> None:
        """Place what no budget may cut, the first replica of each of the cheapest sites that the spread needs before others.

        Caps give way to it here already: what it costs is spent before anybody's rest.
        """
        sites = dict.fromkeys(offer.pool.site for offer in self.order.offers)
        held = {o.pool.site for o in self.order.offers if self.placed[o.pool.name]}
        for site in [s for s in sites if s not in held][
            : 0 if self.order.spread_follows else max(0, self.order.sites - len(held))
        ]:
            elsewhere = frozenset(o.pool.name for o in self.order.offers if o.pool.site != site)
            held_there = sum(self.placed[name] for name in elsewhere)
            only = Cap(elsewhere, held_there, "")
            self._add(sum(self.placed.values()) + 1, math.inf, (*self.order.caps, only))
        caps = self.order.caps
        self._add(self.order.must, math.inf, caps)
        while caps and sum(self.placed.values()) < self.order.must:
            caps = caps[1:]
            self._add(self.order.must, math.inf, caps)

    def fill(self, money: float) -> None:
        """Place what is wanted inside ``money`` more per hour; caps give way one after the other before replicas do."""
        own = self.order.load.budget_per_hour
        purse = self.cost + min(money, math.inf if own is None else own - self.cost)
        wanted = self.order.need.replicas
        caps = self.order.caps
        self._add(wanted, purse - self.cost, caps)
        while caps and sum(self.placed.values()) < wanted:
            caps = caps[1:]
            self._add(wanted, purse - self.cost, caps)
        self.notes += self.order.gave_way(self.placed)
        short = wanted - sum(self.placed.values())
        if short > 0:
            self.notes.append(shortage(self.order, short, spent=any(self._room(o) for o in self.order.offers)))

    def _add(self, upto: int, money: float, caps: Sequence[Cap]) -> None:
        """Raise the total to ``upto`` where offers, sites, ``caps`` and ``money`` allow it, cheapest first."""
        held = [sum(self.placed[name] for name in cap.pools) for cap in caps]
        number = upto - sum(self.placed.values())
        taken = Counter[str]()
        for offer in self.order.offers:
            name = offer.pool.name
            taken[name] += offer.room
            more = min(number, taken[name] - self.placed[name], self._fits(offer.pool.site, offer.pool.size))
            mine = [i for i, cap in enumerate(caps) if name in cap.pools]
            more = min([more, *(caps[i].limit - held[i] for i in mine)])
            if offer.money > 0 and money < math.inf:
                more = min(more, math.floor(money / offer.money + 1e-9))
            if more <= 0:
                continue
            self.placed[name] += more
            self.left[offer.pool.site] -= more * offer.pool.size
            number -= more
            money -= more * offer.money
            for i in mine:
                held[i] += more

    def _room(self, offer: Offer) -> int:
        most = sum(o.room for o in self.order.offers if o.pool.name == offer.pool.name)
        return min(most - self.placed[offer.pool.name], self._fits(offer.pool.site, offer.pool.size))

    def _fits(self, site: str, size: float) -> int:
        return 1 << 30 if self.left[site] == math.inf else max(0, math.floor(self.left[site] / size + 1e-9))


def shortage(wanted: Order, short: int, *, spent: bool) -> str:
    """A sentence about replicas that are not placed: for want of money (``spent``) or of room."""
    n = wanted.need.replicas
    why = "the budget is spent" if spent else "what it may use is full"
    return f"{wanted.load.name}: {n - short} of {n} replicas: {why}"
