"""A lost site is left in the tick that hears of it and used again when it is back: traffic taken away, and traffic given back.

Where the load goes instead is for the placement; here it is only kept from going where nobody serves it. Replicas there are
left alone: nobody can see what it would do. What cannot be drained is said, and so is what somebody else has changed meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from forecastle.decide.sights import Tick, site_incidents, sites_down
from forecastle.types import Action, Drained, Inventory, Kind, Situation, Traffic, Workload

ALL = 100


@dataclass(frozen=True, slots=True)
class Failover:
    """What a tick does about lost and returned sites, the most important workloads first: ``actions``, and what is to be said.

    ``notes`` has for a workload and a site (workload, what the site is and why, what is done of it and what cannot be).
    """

    actions: tuple[Action, ...] = ()
    notes: tuple[tuple[str, str, str], ...] = ()


def failover(tick: Tick) -> Failover:
    """Empty what is at sites that are down, give back what was taken from sites that are not."""
    found = [_Place(tick, load, site, names) for load in _loads(tick) for site, names in _sites(load, tick.inventory)]
    for place in found:
        if place.site in tick.down:
            place.empty()
        else:
            place.give_back()
    return Failover(
        tuple(action for place in found for action in place.actions),
        tuple((place.load.name, place.heading(), ", ".join(place.said)) for place in found if place.said),
    )


def settled(situation: Situation, inventory: Inventory) -> tuple[str, ...]:
    """Pools to which nothing is to be given back any more: their sites are not down, and failover did not leave them so."""
    down, seen = sites_down(situation), situation.fleet.observed
    return tuple(
        name
        for name, taken in situation.fleet.drained.items()
        if name in inventory.pools
        and inventory.pools[name].site not in down
        and (traffic := seen[name].traffic if name in seen else None) is not None
        and not _ours(taken, traffic)
    )


def _loads(tick: Tick) -> list[Workload]:
    return sorted((sight.load for sight in tick.sights.values()), key=lambda load: (-load.priority, load.name))


def _sites(load: Workload, inventory: Inventory) -> Iterator[tuple[str, list[str]]]:
    """Every site of the workload with its pools there, replicas first."""
    by_site: dict[str, list[str]] = {}
    for name in (*load.pools, *load.traffic):
        by_site.setdefault(inventory.pools[name].site, []).append(name)
    yield from sorted(by_site.items())


def _ours(taken: Drained, traffic: Traffic) -> bool:
    """Whether the pool has the weight that failover left it with; what it left could not always be read."""
    return traffic.weight == taken.left if taken.left is not None else traffic.weight in {0, taken.base}


@dataclass(slots=True)
class _Place:
    """One workload at one site: its pools' ``names`` there, and what becomes of them."""

    tick: Tick
    load: Workload
    site: str
    names: list[str]
    actions: list[Action] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def heading(self) -> str:
        return f"{self.site} is down ({self._why()})" if self.site in self.tick.down else f"{self.site} is back"

    def empty(self) -> None:
        """Take away what is sent there, where there is a weight to do it by."""
        reason = f"{self.heading()}: its traffic is taken away"
        for name in self.names:
            taken, traffic = self._drained(name), self._traffic(name)
            if traffic is None:
                if self.tick.inventory.pools[name].traffic:
                    self.said.append(f"the traffic of {name} cannot be observed, so it stays as it is")
            elif traffic.weight == 0:
                self.said.append(f"{name} is drained")
            elif taken is not None and not _ours(taken, traffic):
                self.said.append(f"somebody gave {name} {traffic.weight} % since it was drained, so it is left alone")
            else:
                self.said.append(f"{name} is to be drained")
                self._act(name, traffic, 0, traffic.weight if taken is None else taken.base, reason)
        if not self.said:
            self.said.append("its adapters there have no traffic weight, so nothing can be drained")

    def give_back(self) -> None:
        """Undo what a failover took away, once something is ready there again."""
        pools, seen = self.tick.inventory.pools, self.tick.situation.fleet.observed
        serving = [name for name in self.names if not pools[name].traffic]
        idle = bool(serving) and not any(seen[name].ready for name in serving if name in seen)
        for name in self.names:
            taken, traffic = self._drained(name), self._traffic(name)
            if taken is None:
                continue
            if traffic is None:
                self.said.append(f"the traffic of {name} cannot be observed, so it is given back later")
            elif not _ours(taken, traffic):
                if traffic.weight != taken.base:
                    self.said.append(f"somebody gave {name} {traffic.weight} % since it was drained, so it is left alone")
            elif idle:
                self.said.append(f"{name} gets its traffic when something is ready there")
            elif traffic.weight != taken.base:
                desired = ALL if traffic.kind is Kind.DRAIN else taken.base
                self._act(name, traffic, desired, taken.base, f"{self.heading()}: its traffic is given back")

    def _act(self, name: str, traffic: Traffic, desired: int, base: int, reason: str) -> None:
        self.actions.append(
            Action(
                traffic.kind,
                self.load.name,
                name,
                desired,
                self.tick.situation.fleet.observed[name].version,
                self.tick.at,
                self.tick.deadline,
                reason=reason,
                signals=max((i.signals for i in site_incidents(self.tick.situation) if i.site == self.site), default=0),
                approval="A",
                base=base,
            )
        )

    def _why(self) -> str:
        """Who reported it and why, or what was detected."""
        causes = (i.cause for i in site_incidents(self.tick.situation) if i.site == self.site)
        return self.tick.situation.fleet.reports.get(self.site) or next(causes, "reported")

    def _drained(self, name: str) -> Drained | None:
        return self.tick.situation.fleet.drained.get(name)

    def _traffic(self, name: str) -> Traffic | None:
        seen = self.tick.situation.fleet.observed.get(name)
        return seen.traffic if seen is not None else None
