"""What a guard may know: everything the brakes look at, in one frozen value.

The same guards run twice, when deciding and again at the moment of effect on re-observed state, so nothing they need may hide
in a room. Memory (cool-downs, stabilization, budgets) comes from the ledger through `Fleet`, hence survives a restart.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from forecastle.settings import GuardSettings
from forecastle.types import (
    DISRUPTIVE,
    Action,
    Fleet,
    Inventory,
    Kind,
    Observed,
    Outcome,
    Pool,
    Recommendation,
    Status,
    Workload,
)

HAPPENED = frozenset({Status.APPLIED, Status.UNVERIFIED})
"""Outcomes that changed something, or may have: unknown counts against us."""
ATTEMPTED = HAPPENED | {Status.FAILED}


@dataclass(frozen=True, slots=True)
class View:
    """What the data says about one workload at the decision's tick. The default knows nothing, so it denies.

    ``floor`` is what the reactive rule asks for on the fresh demand metrics and ``wanted`` what floor and forecast ask for
    together (replicas); ``sources`` counts the fresh metrics; ``late`` and ``suspect`` tell that at least one metric is;
    ``vetoed`` names the veto that stands against a scale-in; ``down`` are sites that incidents show to be down; ``amiss``
    replicas run where a rule of the placement does not let them, or are lacking for the loss of a domain to be survived.
    """

    floor: int = 0
    wanted: int = 0
    sources: int = 0
    late: bool = True
    suspect: bool = False
    vetoed: str = ""
    down: frozenset[str] = frozenset()
    amiss: int = 0

    @classmethod
    def of(cls, evidence: Mapping[str, Any] | None) -> View:
        """The view that `Plan.evidence` recorded for a workload; the denying default where there is none."""
        if not evidence or "floor" not in evidence:
            return cls()
        return cls(
            int(evidence["floor"]),
            int(evidence["wanted"]),
            int(evidence["sources"]),
            bool(evidence["late"]),
            bool(evidence["suspect"]),
            str(evidence["vetoed"]),
            frozenset(evidence["down"]),
            int(evidence.get("amiss", 0)),
        )

    def as_evidence(self) -> dict[str, Any]:
        """JSON-able form, read back by `View.of`."""
        return {
            "floor": self.floor,
            "wanted": self.wanted,
            "sources": self.sources,
            "late": self.late,
            "suspect": self.suspect,
            "vetoed": self.vetoed,
            "down": sorted(self.down),
            **({"amiss": self.amiss} if self.amiss else {}),
        }


@dataclass(frozen=True, slots=True)
class Facts:
    """The snapshot indexed once, so that thousands of checks of one tick stay cheap.

    ``changed`` holds the scalings that happened by pool and ``heals`` the attempts at healing, both oldest first; ``replicas``,
    ``sick`` and ``lost`` count by failure domain; ``cost`` is money per hour of everything observed, commitments included.
    """

    changed: Mapping[str, tuple[Outcome, ...]]
    heals: tuple[Outcome, ...]
    recommended: Mapping[str, tuple[Recommendation, ...]]
    replicas: Mapping[str, int]
    sick: Mapping[str, int]
    lost: Mapping[str, float]
    cost: float

    @classmethod
    def of(cls, fleet: Fleet, inventory: Inventory, settings: GuardSettings) -> Facts:
        """Index ``fleet``. Pools that the inventory does not know are left out."""
        changed: dict[str, list[Outcome]] = defaultdict(list)
        for outcome in fleet.outcomes:
            if outcome.kind is Kind.SCALE and outcome.status in HAPPENED:
                changed[outcome.pool].append(outcome)
        recommended: dict[str, list[Recommendation]] = defaultdict(list)
        for recommendation in fleet.recommendations:
            recommended[recommendation.workload].append(recommendation)
        replicas: dict[str, int] = defaultdict(int)
        sick: dict[str, int] = defaultdict(int)
        cost = 0.0
        for name, seen in sorted(fleet.observed.items()):
            if name in inventory.pools and not inventory.pools[name].traffic:
                domain = inventory.domain(name)
                replicas[domain] += seen.replicas
                sick[domain] += min(len(seen.unhealthy), seen.replicas)
                cost += inventory.pools[name].cost(seen.replicas)
        return cls(
            {pool: tuple(found) for pool, found in changed.items()},
            tuple(o for o in fleet.outcomes if o.kind in DISRUPTIVE and o.status in ATTEMPTED and o.base is None),
            {workload: tuple(found) for workload, found in recommended.items()},
            dict(replicas),
            dict(sick),
            _lost_shares(fleet, inventory, settings),
            cost,
        )


def _lost_shares(fleet: Fleet, inventory: Inventory, settings: GuardSettings) -> dict[str, float]:
    """Share of each domain's replicas that vanished since we last acted there, or that cannot be observed any more."""
    since = fleet.at - int(settings.escalation_s * 1000)
    recorded = {o.pool: o.after.replicas for o in fleet.outcomes if o.after is not None and o.at >= since}
    ours = {inventory.pools[name].workload for name in fleet.observed if name in inventory.pools}
    known: dict[str, float] = defaultdict(float)
    lost: dict[str, float] = defaultdict(float)
    for workload in sorted(ours):
        for name in inventory.workloads[workload].pools:
            seen, pool = fleet.observed.get(name), inventory.pools[name]
            now = seen.replicas if seen else 0
            before = recorded.get(name, now if seen else max(pool.min, 1))
            domain = inventory.domain(name)
            known[domain] += max(before, now)
            lost[domain] += max(0, before - now)
    return {domain: lost[domain] / total for domain, total in known.items() if total > 0}


def resident(workload: Workload, pool: Pool, inventory: Inventory) -> bool:
    """Default deny: a workload with a residency may only be where every bit may be; a site that says nothing is outside."""
    return not workload.residency or bool(inventory.sites[pool.site].residency & workload.residency)


@dataclass(frozen=True, slots=True)
class GuardContext:
    """What guards judge an action by, at ``now`` (ms).

    ``fleet`` is as fresh as it can be had and ``view`` the demand side of the action's workload. ``accepted`` are actions
    granted earlier in the same tick: those of the same workload and every disruptive one; ``spent`` is the money per hour
    that growth granted in this tick costs. ``granted`` is how many people approved the plan, None while it is being made.
    ``facts`` is derived from ``fleet`` unless given.
    """

    now: int
    inventory: Inventory
    fleet: Fleet
    view: View
    settings: GuardSettings
    accepted: tuple[Action, ...] = ()
    spent: float = 0.0
    granted: int | None = None
    facts: Facts = field(default=None)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.facts is None:
            object.__setattr__(self, "facts", Facts.of(self.fleet, self.inventory, self.settings))

    def pool(self, action: Action) -> Pool:
        """The inventory's pool of the action; the guard ``target`` has made sure that there is one."""
        return self.inventory.pools[action.pool]

    def workload(self, action: Action) -> Workload:
        """The inventory's workload of the action."""
        return self.inventory.workloads[action.workload]

    def observed(self, action: Action) -> Observed | None:
        """The pool's fresh state, None when it could not be observed."""
        return self.fleet.observed.get(action.pool)

    def current(self, action: Action) -> int:
        """Replicas the pool is asked to have now."""
        seen = self.fleet.observed.get(action.pool)
        return seen.replicas if seen else 0

    def down(self, pool: str) -> bool:
        """Whether the pool's site is reported or detected down."""
        site = self.inventory.pools[pool].site
        return site in self.fleet.down or site in self.view.down

    def age_s(self, at: int) -> float:
        """Seconds since ``at``; a clock that stepped back makes nothing older than it is."""
        return max(0.0, (self.now - at) / 1000)

    def serves(self, pool: str) -> bool:
        """Whether the pool's replicas count: its site is not down and inside its workload's residency."""
        found = self.inventory.pools[pool]
        return not self.down(pool) and resident(self.inventory.workloads[found.workload], found, self.inventory)

    def ordered(self, workload: str) -> int:
        """Replicas ordered in the workload's pools in service, without this tick's grants."""
        pools = [name for name in self.inventory.workloads[workload].pools if self.serves(name)]
        observed = self.fleet.observed
        return sum(observed[name].replicas if name in observed else self.assumed(name) for name in pools)

    def granted_replicas(self, pool: str) -> int | None:
        """What this tick already granted for ``pool``, None when nothing."""
        return next((int(a.desired) for a in self.accepted if a.pool == pool and a.kind is Kind.SCALE), None)

    def others(self, action: Action) -> Iterable[tuple[Pool, int, int]]:
        """The workload's other pools in service: (pool, replicas ordered, replicas ready), this tick's grants included.

        Of a load balancer's share, the other shares.
        """
        load = self.workload(action)
        for name in load.traffic if self.pool(action).traffic else load.pools:
            seen = self.fleet.observed.get(name)
            if name == action.pool or not self.serves(name):
                continue
            grant = self.granted_replicas(name)
            if seen is None:
                yield self.inventory.pools[name], self.assumed(name), 0
            elif grant is None:
                yield self.inventory.pools[name], seen.replicas, min(seen.ready, seen.replicas)
            else:
                yield self.inventory.pools[name], grant, min(seen.ready, seen.replicas, grant)

    def assumed(self, pool: str) -> int:
        """Replicas of a pool that cannot be observed: as after the last change there, else its minimum.

        A control plane that does not answer is no reason to replace what it runs.
        """
        last = next((o.after for o in reversed(self.facts.changed.get(pool, ())) if o.after), None)
        return last.replicas if last else self.inventory.pools[pool].min


def heals(action: Action) -> bool:
    """Whether the action disrupts to cure something. A failover does not: it follows a loss that has happened."""
    return action.kind in DISRUPTIVE and action.base is None


def gives_back(action: Action) -> bool:
    """Whether a failover's action gives a pool its traffic again."""
    return action.base is not None and action.desired not in (0, "0")


def grows(action: Action, ctx: GuardContext) -> bool:
    """Whether the action asks for more replicas than there are."""
    return action.kind is Kind.SCALE and int(action.desired) > ctx.current(action)


def shrinks(action: Action, ctx: GuardContext) -> bool:
    """Whether the action asks for fewer replicas than there are."""
    return action.kind is Kind.SCALE and int(action.desired) < ctx.current(action)


def urgent(action: Action, ctx: GuardContext) -> int:
    """Replicas of this pool that the reactive floor or a configured minimum justifies, soft brakes notwithstanding.

    Soft brakes (cool-down and stabilization of scale-out, missing data) never hold a pool below this.
    """
    current = ctx.current(action)
    entitled = max(ctx.view.floor, ctx.workload(action).min)
    ordered = sum(replicas for _, replicas, _ in ctx.others(action)) + (current if ctx.serves(action.pool) else 0)
    return max(ctx.pool(action).min, current + max(0, entitled - ordered))
