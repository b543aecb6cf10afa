"""The fleet's placement as one integer program, for when workloads compete or their caps cross (HiGHS through scipy).

First with every rule as it stands. If that cannot be, a second program finds the least that has to give way, weighed by what
it hurts: a floor before wanted replicas, those before survival, nearness and spot, those before spread; and a third the least
money with no more than that given. Between workloads of different priority no weight decides, since one large replica could
stand against many small ones: the second program is then solved anew for the more important ones first. The search is
bounded by nodes, not by time, so that a replay places the same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import scipy.sparse as sp
from scipy.optimize import Bounds, LinearConstraint, OptimizeResult, milp

from forecastle.decide.offers import Offer, Order
from forecastle.decide.place import Placement, shortage
from forecastle.settings import DecideSettings
from forecastle.types import Floats, Inventory, Mask

GAP = 1e-4
"""Relative gap at which the search ends: a hundredth of a percent of the money."""
SHORT, LOW, FLOOR = 100.0, 1_000.0, 10_000.0
"""Weight of a replica missing from the wanted, from a pool's minimum and from the floor; a cap's excess weighs 1 to 50."""
_FIRST = 1_000.0
"""How much more than all else the tier in hand weighs."""
_FUZZ = 1e-6


def optimize(orders: Sequence[Order], inventory: Inventory, settings: DecideSettings) -> Placement | None:
    """The cheapest placement of the whole fleet; None when none was found in the nodes and seconds allowed."""
    program = _Program.of(orders, inventory, settings)
    nothing = np.zeros(len(program.weights))
    found = program.solve(program.prices, nothing)
    given = nothing
    if found is None:
        least = program.solve(program.weights, program.most_given)
        if least is None:
            return None
        if len({wanted.load.priority for wanted in orders}) > 1:
            least = program.in_order(least)
        given = program.given(least)
        found = program.solve(program.prices, given)
        if found is None:
            found = least
    return program.placement(found, orders)


@dataclass(slots=True)
class _Program:
    """Columns: replicas by offer, then what gives way (short of wanted, short of the floor, over each cap), then site used."""

    settings: DecideSettings
    offers: list[tuple[int, Offer]] = field(default_factory=list)
    lower: list[float] = field(default_factory=list)
    upper: list[float] = field(default_factory=list)
    cost: list[float] = field(default_factory=list)
    weight: list[float] = field(default_factory=list)
    tier: list[tuple[int, int]] = field(default_factory=list)
    whole: list[int] = field(default_factory=list)
    rows: list[tuple[dict[int, float], float, float]] = field(default_factory=list)

    @property
    def prices(self) -> Floats:
        """Money per hour by column."""
        return np.array(self.cost)

    @property
    def weights(self) -> Floats:
        """How much a unit of what gives way hurts, by column; 0 for columns that are no giving way."""
        return np.array(self.weight)

    @property
    def most_given(self) -> Floats:
        """The most each column may give way."""
        return np.where(self.weights > 0, np.array(self.upper), 0.0)

    @classmethod
    def of(cls, orders: Sequence[Order], inventory: Inventory, settings: DecideSettings) -> _Program:
        """Write the program down."""
        self = cls(settings)
        sites: dict[str, dict[int, float]] = defaultdict(dict)
        everything: list[tuple[int, Offer]] = []
        for wanted in orders:
            columns = self._workload(wanted)
            everything += columns
            for column, offer in columns:
                sites[offer.pool.site][column] = offer.pool.size
        for site, row in sites.items():
            if (capacity := inventory.sites[site].capacity) is not None:
                self.rows.append((row, -np.inf, capacity))
        if inventory.budget_per_hour is not None:
            left = inventory.budget_per_hour - sum(wanted.sunk for wanted in orders)
            self._budget(left, everything, sum(_least(wanted) for wanted in orders))
        return self

    def given(self, found: Floats) -> Floats:
        """How much gives way in a solution, by column, in whole units."""
        return np.where(self.weights > 0, np.ceil(found - _FUZZ), 0.0)

    def in_order(self, found: Floats) -> Floats:
        """Of what has to give way in ``found``, as little as can be of the first tier, then of the second, and so on.

        Tiers are the floors by priority, the pools' minimums, the wanted replicas by priority, and everything else.
        """
        given = self.most_given
        for first in sorted(set(self.tier)):
            mine = np.array([tier == first for tier in self.tier]) & (self.weights > 0)
            if self._might_be_less(mine, found, given):
                better = self.solve(np.where(mine, _FIRST, 1.0) * self.weights, given)
                found = found if better is None else better
            given = np.where(mine, self.given(found), given)
        return found

    def _might_be_less(self, mine: Mask, found: Floats, given: Floats) -> bool:
        """Whether less of these columns might give way than in ``found``: a unit less than that is within the relaxation."""
        price = np.where(mine, self.weights, 0.0)
        now = float(price @ self.given(found))
        if not now:
            return False
        loose = self._run(price, np.where(self.weights > 0, given, np.array(self.upper)), np.zeros(len(price)))
        return loose is not None and now - float(price @ loose) >= price[mine].min() - _FUZZ

    def _column(
        self, upper: float, *, cost: float = 0.0, weight: float = 0.0, whole: bool = True, tier: tuple[int, int] = (3, 0)
    ) -> int:
        self.lower.append(0.0)
        self.tier.append(tier)
        self.upper.append(upper)
        self.cost.append(cost)
        self.weight.append(weight)
        self.whole.append(int(whole))
        return len(self.upper) - 1

    def _workload(self, wanted: Order) -> list[tuple[int, Offer]]:
        columns = [(self._column(offer.room, cost=offer.price), offer) for offer in wanted.offers]
        self.offers += columns
        by_pool: dict[str, dict[int, float]] = defaultdict(dict)
        for column, offer in columns:
            by_pool[offer.pool.name][column] = 1.0
        for name, low in wanted.low.items():
            if low:
                self.rows.append((by_pool[name] | {self._column(low, weight=LOW, tier=(1, 0)): 1.0}, low, np.inf))
        n, rank = wanted.need.replicas, 1.0 + 0.01 * max(-50, min(50, wanted.load.priority))
        short = self._column(n - wanted.must, weight=SHORT * rank, tier=(2, -wanted.load.priority))
        floor = self._column(wanted.must, weight=FLOOR * rank, tier=(0, -wanted.load.priority))
        everything = dict.fromkeys((column for column, _ in columns), 1.0)
        low_total = sum(wanted.low.values())
        self.rows.append((everything | {short: 1.0, floor: 1.0}, n, max(n, low_total)))
        for tier, cap in enumerate(wanted.caps):
            over = self._column(n, weight=1.0 + 49.0 * tier / len(wanted.caps))
            members = {column: 1.0 for column, offer in columns if offer.pool.name in cap.pools}
            self.rows.append((members | {over: -1.0}, -np.inf, cap.limit))
        self._sites(wanted, columns)
        if wanted.load.budget_per_hour is not None:
            self._budget(wanted.load.budget_per_hour - wanted.sunk, columns, _least(wanted))
        return columns

    def _budget(self, money: float, columns: Sequence[tuple[int, Offer]], least: int) -> None:
        """What is not committed costs ``money`` at most, unless there are only the ``least`` replicas that no budget cuts."""
        room = sum(offer.room for _, offer in columns)
        beyond = self._column(1.0, weight=0.5)
        cost = {column: offer.money for column, offer in columns}
        self.rows.append((cost | {beyond: -sum(o.room * o.money for _, o in columns)}, -np.inf, max(0.0, money)))
        self.rows.append((dict.fromkeys(cost, 1.0) | {beyond: float(room)}, -np.inf, room + least))

    def _sites(self, wanted: Order, columns: Sequence[tuple[int, Offer]]) -> None:
        """At least so many sites hold a replica, where the even share alone does not see to it."""
        if wanted.spread_follows:
            return
        used: dict[int, float] = {}
        for site in dict.fromkeys(offer.pool.site for _, offer in columns):
            flag = self._column(1.0)
            used[flag] = 1.0
            there = {column: 1.0 for column, offer in columns if offer.pool.site == site}
            self.rows.append((there | {flag: -1.0}, 0.0, np.inf))
        missing = self._column(wanted.sites, weight=0.5)
        self.rows.append((used | {missing: 1.0}, wanted.sites, np.inf))

    def solve(self, objective: Floats, given: Floats) -> Floats | None:
        """Column values that minimize ``objective`` with at most ``given`` given way; None when there are none.

        The linear relaxation is nearly always whole already, and then it is the optimum in a tenth of the time.
        """
        upper = np.where(self.weights > 0, given, np.array(self.upper))
        loose = self._run(objective, upper, np.zeros(len(upper)))
        if loose is None or np.abs(loose - np.round(loose)).max(initial=0.0) < _FUZZ:
            return loose
        return self._run(objective, upper, np.array(self.whole))

    def _run(self, objective: Floats, upper: Floats, whole: Floats) -> Floats | None:
        result: OptimizeResult = milp(
            objective,
            integrality=whole,
            bounds=Bounds(np.array(self.lower), upper),
            constraints=LinearConstraint(*self._matrix()),
            options={"mip_rel_gap": GAP, "node_limit": self.settings.place_nodes, "time_limit": self.settings.place_s},
        )
        return None if result.x is None else np.asarray(result.x)

    def _matrix(self) -> tuple[sp.csr_array, Floats, Floats]:
        sizes = [len(row) for row, _, _ in self.rows]
        indices = np.fromiter((column for row, _, _ in self.rows for column in row), np.int64, sum(sizes))
        data = np.fromiter((value for row, _, _ in self.rows for value in row.values()), np.float64, sum(sizes))
        pointers = np.concatenate([[0], np.cumsum(sizes)])
        shape = (len(self.rows), len(self.upper))
        bounds = np.array([[low, high] for _, low, high in self.rows]).reshape(-1, 2)
        return sp.csr_array((data, indices, pointers), shape=shape), bounds[:, 0], bounds[:, 1]

    def placement(self, found: Floats, orders: Sequence[Order]) -> Placement:
        """The columns as replicas by pool, with what gave way in words."""
        replicas = {pool: 0 for wanted in orders for pool in (*wanted.closed, *wanted.low)}
        for column, offer in self.offers:
            replicas[offer.pool.name] += round(float(found[column]))
        cost = sum(wanted.cost(replicas) for wanted in orders)
        notes = tuple(note for wanted in orders for note in _notes(wanted, replicas))
        return Placement(dict(sorted(replicas.items())), notes, "integer program", cost)


def _notes(wanted: Order, replicas: dict[str, int]) -> Iterator[str]:
    """What gave way for one workload."""
    yield from wanted.gave_way(replicas)
    placed = sum(replicas[name] for name in wanted.low)
    if placed < wanted.need.replicas:
        room = any(replicas[name] < _most(wanted, name) for name in wanted.low)
        yield shortage(wanted, wanted.need.replicas - placed, spent=room and wanted.load.budget_per_hour is not None)


def _most(wanted: Order, name: str) -> int:
    return sum(offer.room for offer in wanted.offers if offer.pool.name == name)


def _least(wanted: Order) -> int:
    """Replicas that no budget cuts: the floor, or the pools' minimums and the spread."""
    return max(wanted.must, sum(wanted.low.values()) + wanted.sites)
