"""One Azure of `forecastle.testing.fake_azure` with pools in it, and the adapter on it through the official SDK."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from forecastle.clouds.azure import AzureCloud, open_cloud
from forecastle.runtime.clocks import EventClock
from forecastle.testing.fake_azure import SUBSCRIPTION, FakeAzure, FakeCredential
from forecastle.types import Action, Kind, Pool, Receipt

START = 1_760_000_040_000
POOL = Pool("shop-ams", "shop", "ams", "azure", 0.1, startup_s=60, min=1, max=10, quota=9)


@dataclass
class World:
    """One Azure, its clock, and connections to it."""

    azure: FakeAzure
    clock: EventClock = field(default_factory=lambda: EventClock(START))
    opened: list[AzureCloud] = field(default_factory=list)

    def connect(self, **options: Any) -> AzureCloud:
        reach = {"subscription": SUBSCRIPTION, "credential": FakeCredential(), "endpoint_url": self.azure.url}
        self.opened.append(open_cloud(clock=self.clock, **{**reach, **options}))
        return self.opened[-1]

    @property
    def cloud(self) -> AzureCloud:
        return self.opened[0] if self.opened else self.connect()

    def action(self, kind: Kind, desired: int | str, pool: Pool, *, replica: str = "") -> Action:
        """On the pool as it is."""
        seen, tick = self.cloud.observe(pool), secrets.randbelow(1 << 40)
        now = seen.replicas if kind is Kind.SCALE else seen.version
        return Action(kind, "shop", pool.name, desired, now, tick, tick + 300_000, replica)

    def do(self, kind: Kind, desired: int | str, pool: Pool, *, replica: str = "", cloud: AzureCloud | None = None) -> Receipt:
        """Apply under a token that nobody used."""
        action = self.action(kind, desired, pool, replica=replica)
        return (cloud or self.cloud).apply(action, pool, token=action.id)

    def scale_set(self, capacity: int = 4, **options: Any) -> Pool:
        name = f"s-{secrets.token_hex(4)}"
        self.azure.scale_set(name, capacity=capacity, **options)
        return replace(POOL, target={"vmss": f"shop/{name}"})

    def app(self, least: int = 4, **options: Any) -> Pool:
        name = f"a-{secrets.token_hex(4)}"
        self.azure.app(name, least=least, **options)
        return replace(POOL, target={"containerapp": f"shop/{name}"})

    def node_pool(self, count: int = 4, **options: Any) -> Pool:
        name = f"p{secrets.token_hex(4)}"
        self.azure.node_pool("main", name, count=count, **options)
        return replace(POOL, target={"nodepool": f"shop/main/{name}"})

    def model(self, pool: Pool) -> dict[str, Any]:
        """The resource as Azure has it."""
        name = next(iter(pool.target.values())).rpartition("/")[2]
        return next(found for path, found in self.azure.estate.resources.items() if path.endswith(f"/{name}"))

    def instances(self, pool: Pool) -> dict[str, Any]:
        """The instances of a scale set by id."""
        return self.azure.estate.instances[self.model(pool)["id"].lower()]


@contextmanager
def world() -> Iterator[World]:
    with FakeAzure() as azure:
        here = World(azure)
        try:
            yield here
        finally:
            for cloud in here.opened:
                cloud.close()
    assert azure.violations == []
