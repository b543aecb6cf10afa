"""The loop over the simulated cloud, with workloads at four sites of which one is lost while it runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from forecastle.clouds.sim import SimCloud
from forecastle.clouds.sim_world import SimWorld
from forecastle.decide.explain import explain
from forecastle.intake.memory import MemoryIntake
from forecastle.runtime.clocks import EventClock
from forecastle.runtime.config import load
from forecastle.runtime.loop import Loop, Turned
from forecastle.runtime.wiring import furnish
from forecastle.types import Action, Kind, Status

STEP = 60_000
START = 1_760_000_040_000 // STEP * STEP
TICKS, LOST = 40, 25
SITES: list[dict[str, Any]] = [
    {"name": "fra", "provider": "aws", "region": "eu-central-1", "zone": "a", "residency": ["EU"]},
    {"name": "ams", "provider": "gcp", "region": "europe-west4", "zone": "b", "residency": ["EU"]},
    {"name": "ohio", "provider": "aws", "region": "us-east-2", "zone": "a", "residency": ["US"]},
    {"name": "bare", "provider": "own", "region": "cellar"},
]
PRICES = {"fra": 0.1, "ams": 0.2, "ohio": 0.01, "bare": 0.01}
QUIET = {
    "window": {"look_back": 60, "lateness_s": 0},
    "predict": {"model": "", "season": 60, "horizon": 10, "coverage_window": 20},
    "detect": {"model": "", "look_back": 30, "warmup": 10, "season": 0},
    "guards": {"warmup_s": 0, "step_up_replicas": 100, "heals_per_domain_h": 0, "heals_global_h": 0},
    "act": {"verify_s": 0},
}
RATES = {"shop": 200.0, "mail": 120.0, "news": 50.0}
"""Of three workloads at a site, of which two are ours to scale: the silence of fewer is not a site's."""


def workload(name: str, priority: int, sites: tuple[str, ...] = ("fra", "ams", "ohio", "bare"), **more: Any) -> dict[str, Any]:
    """On its cheapest site at first; ten requests a second fill a replica to 80 %."""
    pools = [{"name": f"{name}-{s}", "site": s, "unit_price": PRICES[s], "max": 60, "startup_s": 0} for s in sites]
    demand = {"metric": "rps", "per_replica": 12.5}
    return {
        "name": name,
        "mode": "auto",
        "residency": ["EU"],
        "priority": priority,
        "demands": [demand],
        "pools": pools,
        "lead_time_s": 60,
    } | more


def plain(name: str, priority: int, **more: Any) -> dict[str, Any]:
    """A workload whose replicas run where nothing is known of traffic, behind a load balancer of its own."""
    load = workload(name, priority, **more)
    share = [{"name": f"{name}-web-{site}", "site": site, "adapter": "sim"} for site in ("fra", "ams")]
    return load | {"pools": [p | {"adapter": "plain"} for p in load["pools"]], "traffic": share}


def messages(dark: str, ticks: int, lost: int) -> Iterator[bytes]:
    """Demand of the whole workload, and of each site that somebody is there; from ``lost`` on nobody is at ``dark``."""
    for i in range(ticks):
        for name, rate in RATES.items():
            at = START + i * STEP
            yield json.dumps({"workload": name, "metric": "rps", "at": at, "value": rate}).encode()
            for site in ("fra", "ams"):
                if site != dark or i < lost:
                    told = {"workload": name, "metric": "up", "at": at, "value": 5.0 + i % 3, "labels": {"site": site}}
                    yield json.dumps(told).encode()


@dataclass
class House:
    """The loop with its sim cloud, and what every tick came to."""

    loop: Loop
    sim: str
    turns: list[Turned] = field(default_factory=list)

    def run(self, at_loss: Callable[[], None] = lambda: None) -> None:
        """Every tick; ``at_loss`` happens after the tick LOST."""
        self.loop.listeners.append(self.turns.append)
        self.loop.listeners.append(lambda turned: at_loss() if turned.closed.tick == tick(LOST) else None)
        self.loop.resume()
        while self.loop.turn(0.0):
            pass

    def turn(self, number: int) -> Turned:
        return next(turned for turned in self.turns if turned.closed.tick == tick(number))

    def held(self, number: int) -> dict[str, int]:
        """Replicas ordered when tick ``number`` was decided, by pool; the one that every simulated pool begins with aside."""
        situation = self.turn(number).situation
        assert situation is not None
        return {name: seen.replicas for name, seen in situation.fleet.observed.items() if seen.replicas > 1}

    def scaled(self, number: int) -> dict[str, tuple[int, int]]:
        """pool -> (from, to) of what tick ``number`` applied."""
        done = {o.action_id for o in self.turn(number).outcomes if o.status is Status.APPLIED}
        actions = [a for plan in self.turn(number).plans for a in plan.actions if a.kind is Kind.SCALE and a.id in done]
        return {a.pool: (int(a.expected), int(a.desired)) for a in actions}

    def at(self, number: int, then: Callable[[], None]) -> None:
        """Have something happen after tick ``number``."""
        self.loop.listeners.append(lambda turned: then() if turned.closed.tick == tick(number) else None)

    def sent(self, number: int) -> dict[str, tuple[int, str]]:
        """pool -> (traffic weight asked for, what came of it) of tick ``number``."""
        ends = {o.action_id: o.status.value for o in self.turn(number).outcomes}
        return {a.pool: (int(a.desired), ends.get(a.id, "waits")) for a in self.actions(number, Kind.DRAIN, Kind.SHIFT)}

    def actions(self, number: int, *kinds: Kind) -> list[Action]:
        return [a for plan in self.turn(number).plans for a in plan.actions if a.kind in kinds]

    def weights(self, number: int) -> dict[str, int]:
        """Traffic weights when tick ``number`` was decided, of the pools that have one."""
        situation = self.turn(number).situation
        assert situation is not None
        return {name: seen.traffic.weight for name, seen in situation.fleet.observed.items() if seen.traffic}

    def fail(self, site: str = "fra", only: str = "") -> None:
        """The site's pools of the simulated cloud stop serving, or those of one workload."""
        self._site(site, SimWorld.fail_site, only)

    def restore(self, site: str = "fra") -> None:
        """They start anew."""
        self._site(site, SimWorld.restore_site)

    def _site(self, site: str, change: Callable[[SimWorld, list[str], int], None], only: str = "") -> None:
        pools = [p.name for p in self.loop.rooms.inventory.pools.values() if p.site == site and only in {"", p.workload}]
        with SimWorld(self.sim) as world:
            change(world, pools, self.loop.rooms.clock.now())

    def explained(self, number: int) -> str:
        """What `forecastle explain` says of every plan of the tick."""
        return "\n".join(explain(plan) for plan in self.turn(number).plans)

    def reasons(self, number: int) -> str:
        return " ".join(plan.reason for plan in self.turn(number).plans)


def tick(number: int) -> int:
    return START + number * STEP


Make = Callable[..., House]


class PlainCloud(SimCloud):
    """A cloud that may not touch traffic, as most."""

    capabilities = SimCloud.capabilities - {Kind.DRAIN, Kind.SHIFT}


@contextmanager
def houses(tmp_path: Path) -> Iterator[Make]:
    """Makes houses over one ledger and one simulated cloud in ``tmp_path``, and closes them."""
    opened: list[Loop] = []

    def build(
        *loads: Mapping[str, Any],
        sites: Mapping[str, Mapping[str, Any]] | None = None,
        dark: str = "",
        ticks: int = TICKS,
        lost: int = LOST,
        **more: Any,
    ) -> House:
        settings = {
            **QUIET,
            "prices": {"books": str(tmp_path / "prices")},
            "ledger": {"url": f"sqlite:///{tmp_path}/ledger.db"},
            "runtime": {"worker": "w", "clock": "event", "health": str(tmp_path / "health.json")},
            "clouds": {
                "sim": {"adapter": "forecastle.clouds.sim:open_cloud", "options": {"path": str(tmp_path / "sim.db")}},
                "plain": {"adapter": "failover_worlds:PlainCloud", "options": {"path": str(tmp_path / "sim.db")}},
            },
            "fleet": {"sites": [site | (sites or {}).get(site["name"], {}) for site in SITES], "workloads": list(loads)},
        } | more
        path = tmp_path / "fleet.yaml"
        path.write_text(json.dumps(settings, indent=1))
        chosen = load([path], environment={}, at=START)
        loop = furnish(chosen, intake=MemoryIntake(messages(dark, ticks, lost), EventClock(START + ticks * STEP), per_poll=11))
        opened.append(loop)
        return House(loop, str(tmp_path / "sim.db"))

    yield build
    for loop in opened:
        for cloud in loop.rooms.clouds.values():
            cloud.close()
        loop.rooms.ledger.close()


def report(house: House, site: str = "fra") -> Callable[[], None]:
    return lambda: house.loop.rooms.ledger.report_down(site, "the provider says so", "ann")
