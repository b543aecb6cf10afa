"""One fake cluster with routes in it, and the gateway adapter on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from forecastle.clouds.gateway import GatewayCloud, open_cloud
from forecastle.runtime.clocks import EventClock
from forecastle.testing.fake_kubernetes import FakeKubernetes, kubeconfig
from forecastle.types import Action, Kind, Observed, Pool, Receipt

START = 1_760_000_040_000
TARGET = {"context": "here", "namespace": "shop", "name": "web", "backend": "web-fra"}
POOL = Pool("web-fra", "shop", "fra", "gateway", 0.1, target=TARGET)
ISTIO = replace(POOL, target={**TARGET, "kind": "VirtualService", "backend": "web.shop.svc/fra"})


def pool_of(**target: str) -> Pool:
    return replace(POOL, target={**TARGET, **target})


def ref(name: str, weight: int | None = None, **more: Any) -> dict[str, Any]:
    return {"name": name, "port": 80, **({} if weight is None else {"weight": weight}), **more}


def http_route(*rules: list[dict[str, Any]], kind: str = "HTTPRoute", name: str = "web") -> dict[str, Any]:
    """A route with the backends of each rule; two regions, a hundred to none, where none are given."""
    chosen = rules or ([ref("web-fra", 100), ref("web-ams", 0)],)
    matches = [{"path": {"type": "PathPrefix", "value": f"/{i}"}} for i in range(len(chosen))]
    whole = [{"name": f"r{i}", "matches": [matches[i]], "backendRefs": refs} for i, refs in enumerate(chosen)]
    spec = {"parentRefs": [{"name": "edge"}], "hostnames": ["shop.example"], "rules": whole}
    return {"kind": kind, "metadata": {"name": name, "namespace": "shop"}, "spec": spec}


def to(subset: str, weight: int | None = None) -> dict[str, Any]:
    return {"destination": {"host": "web.shop.svc", "subset": subset}, **({} if weight is None else {"weight": weight})}


def virtual_service(*routes: list[dict[str, Any]]) -> dict[str, Any]:
    chosen = routes or ([to("fra", 100), to("ams", 0)],)
    http = [{"name": f"r{i}", "route": every, "timeout": "3s"} for i, every in enumerate(chosen)]
    return {
        "kind": "VirtualService",
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"hosts": ["web"], "http": http},
    }


@dataclass
class Edge:
    """The cluster, its clock, and connections to it."""

    cluster: FakeKubernetes
    clock: EventClock
    config: str
    opened: list[GatewayCloud] = field(default_factory=list)

    def connect(self, **options: Any) -> GatewayCloud:
        self.opened.append(open_cloud(**{"clock": self.clock, "kubeconfig": self.config, "timeout_s": 5.0, **options}))
        return self.opened[-1]

    @property
    def cloud(self) -> GatewayCloud:
        return self.opened[0] if self.opened else self.connect()

    def seen(self, pool: Pool = POOL) -> Observed:
        return self.cloud.observe(pool)

    def action(self, desired: int | str, *, pool: Pool = POOL, kind: Kind = Kind.SHIFT, replica: str = "") -> Action:
        """On the pool as it is."""
        self.clock.advance(self.clock.now() + 1000)
        tick = self.clock.now()
        return Action(kind, "shop", pool.name, desired, self.seen(pool).version, tick, tick + 300_000, replica)

    def shift(self, desired: int | str, *, pool: Pool = POOL, **options: Any) -> Receipt:
        """Apply under a token that nobody used."""
        action = self.action(desired, pool=pool)
        cloud = self.connect(**options) if options else self.cloud
        return cloud.apply(action, pool, token=f"{pool.target['backend']}-{action.tick}")

    def found(self, kind: str = "HTTPRoute") -> dict[str, Any]:
        return self.cluster.get(kind, "shop", "web")

    def weights(self, rule: int = 0, kind: str = "HTTPRoute") -> list[int | None]:
        spec = self.found(kind)["spec"]
        refs = spec["http"][rule]["route"] if kind == "VirtualService" else spec["rules"][rule]["backendRefs"]
        return [each.get("weight") for each in refs]


@contextmanager
def edge(folder: Path, *objects: dict[str, Any], **options: Any) -> Iterator[Edge]:
    """A cluster with these routes, an HTTPRoute of two regions by default."""
    clock = EventClock(START)
    with FakeKubernetes(clock, **options) as cluster:
        cluster.add(*(objects or (http_route(),)))
        here = Edge(cluster, clock, kubeconfig(folder / "kubeconfig", {"here": cluster}))
        yield here
        for cloud in here.opened:
            cloud.close()
