"""One Google Cloud of ours, with groups, services and node pools in it, and the adapter on it through the official client."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from forecastle.clouds.gcp import GcpCloud, open_cloud
from forecastle.runtime.clocks import EventClock
from forecastle.testing.fake_gcp import FakeGcp
from forecastle.types import Action, Kind, Pool, Receipt

START = 1_760_000_040_000
POOL = Pool("shop-fra", "shop", "fra", "gcp", 0.1, startup_s=60, min=1, max=10, quota=9)
REGION, ZONE = "europe-west3", "europe-west3-a"
EFFECTS = ("resize", "patch", "recreateInstances", "abandonInstances", "reset", "setSize")


@dataclass
class World:
    """One Google Cloud, its clock, and connections to it."""

    gcp: FakeGcp
    clock: EventClock = field(default_factory=lambda: EventClock(START))
    opened: list[GcpCloud] = field(default_factory=list)

    def connect(self, **options: Any) -> GcpCloud:
        asked = {"project": "shop", "endpoint_url": self.gcp.url, "read_attempts": 1, **options}
        self.opened.append(open_cloud(clock=self.clock, **asked))
        return self.opened[-1]

    @property
    def cloud(self) -> GcpCloud:
        return self.opened[0] if self.opened else self.connect()

    def action(self, kind: Kind, desired: int | str, pool: Pool, *, replica: str = "", expected: Any = None) -> Action:
        """On the pool as it is."""
        seen = self.cloud.observe(pool)
        now = seen.replicas if kind is Kind.SCALE else seen.version
        tick = secrets.randbelow(1 << 40)
        return Action(kind, "shop", pool.name, desired, now if expected is None else expected, tick, tick + 300_000, replica)

    def do(self, kind: Kind, desired: int | str, pool: Pool, *, replica: str = "") -> Receipt:
        """Apply under a token that nobody used."""
        action = self.action(kind, desired, pool, replica=replica)
        return self.cloud.apply(action, pool, token=action.id)

    def effects(self) -> list[str]:
        """The effects that were executed, without those of which the request id was known."""
        return [call.method.rpartition(".")[2] for call in self.gcp.done if call.method.endswith(EFFECTS)]

    # --- what is there ---

    def group(self, size: int = 4, **place: str) -> Pool:
        name = f"g-{secrets.token_hex(4)}"
        place = place or {"zone": ZONE}
        self.gcp.compute.create(name, size, **place)
        return replace(POOL, target={"mig": name, **place})

    def regional(self) -> Pool:
        return self.group(region=REGION)

    def service(self, least: int = 4) -> Pool:
        name = f"s-{secrets.token_hex(4)}"
        self.gcp.run.create(name, least, REGION)
        return replace(POOL, target={"run": name, "region": REGION})

    def nodepool(self, size: int = 4, zones: tuple[str, ...] = (ZONE,)) -> Pool:
        cluster = f"c-{secrets.token_hex(4)}"
        self.gcp.kubernetes.create("workers", cluster, REGION, size, zones)
        return replace(POOL, target={"nodepool": "workers", "cluster": cluster, "location": REGION})

    def instances(self, pool: Pool) -> dict[str, dict[str, Any]]:
        """By name, of a group."""
        kind = "zone" if "zone" in pool.target else "region"
        group = self.gcp.compute.groups[f"{kind}s/{pool.target[kind]}", pool.target["mig"]]
        return {i["instance"].rpartition("/")[2]: i for i in group.instances}


@contextmanager
def world() -> Iterator[World]:
    """A Google Cloud with nothing in it."""
    with FakeGcp() as gcp:
        here = World(gcp)
        yield here
        for opened in here.opened:
            opened.close()
