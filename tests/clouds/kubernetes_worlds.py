"""One fake cluster with a shop in it, and the adapter on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from forecastle.clouds.kubernetes import KubernetesCloud, open_cloud
from forecastle.runtime.clocks import EventClock
from forecastle.testing.fake_kubernetes import FakeKubernetes, kubeconfig
from forecastle.types import Action, Kind, Observed, Pool, Receipt

START = 1_760_000_040_000
TARGET = {"namespace": "shop", "name": "web", "kind": "Deployment", "context": "here"}
POOL = Pool("web-here", "shop", "here", "kubernetes", 0.1, startup_s=30, min=1, max=20, quota=12, target=TARGET)
LABELS = {"app": "web"}


def template(image: str = "shop/web:1") -> dict[str, Any]:
    containers = [{"name": "main", "image": image}]
    return {"metadata": {"labels": dict(LABELS)}, "spec": {"containers": containers}}


def workload(kind: str = "Deployment", name: str = "web", replicas: int = 3, **spec: Any) -> dict[str, Any]:
    more = {"serviceName": name} if kind == "StatefulSet" else {}
    whole = {"replicas": replicas, "selector": {"matchLabels": dict(LABELS)}, "template": template(), **more, **spec}
    return {"kind": kind, "metadata": {"name": name, "namespace": "shop"}, "spec": whole}


def node(name: str) -> dict[str, Any]:
    return {"kind": "Node", "metadata": {"name": name}, "spec": {}}


def hpa(least: int = 2, most: int = 10, kind: str = "Deployment") -> dict[str, Any]:
    reference = {"apiVersion": "apps/v1", "kind": kind, "name": "web"}
    spec = {"scaleTargetRef": reference, "minReplicas": least, "maxReplicas": most}
    return {"kind": "HorizontalPodAutoscaler", "metadata": {"name": "web", "namespace": "shop"}, "spec": spec}


def scaled_object(least: int = 2, most: int = 10) -> dict[str, Any]:
    spec = {"scaleTargetRef": {"name": "web"}, "minReplicaCount": least, "maxReplicaCount": most, "triggers": []}
    return {"kind": "ScaledObject", "metadata": {"name": "web", "namespace": "shop"}, "spec": spec}


def budget(least: int) -> dict[str, Any]:
    spec = {"minAvailable": least, "selector": {"matchLabels": dict(LABELS)}}
    return {"kind": "PodDisruptionBudget", "metadata": {"name": "web", "namespace": "shop"}, "spec": spec}


def pool_of(kind: str = "Deployment", **target: str) -> Pool:
    return replace(POOL, target={**TARGET, "kind": kind, **target})


CLONE_SET = pool_of("CloneSet", api="apps.kruise.io/v1alpha1", plural="clonesets")


def absent(pool: Pool) -> Pool:
    """A pool of the same kind that nobody made."""
    return replace(pool, name="nobody", target={**pool.target, "name": "nobody"})


@dataclass
class Shop:
    """The cluster, its clock, and connections to it."""

    cluster: FakeKubernetes
    clock: EventClock
    config: str
    opened: list[KubernetesCloud] = field(default_factory=list)

    def connect(self, **options: Any) -> KubernetesCloud:
        self.opened.append(open_cloud(**{"clock": self.clock, "kubeconfig": self.config, "timeout_s": 5.0, **options}))
        return self.opened[-1]

    @property
    def cloud(self) -> KubernetesCloud:
        return self.opened[0] if self.opened else self.connect()

    def seen(self, pool: Pool = POOL) -> Observed:
        return self.cloud.observe(pool)

    def action(self, kind: Kind, desired: int | str, *, replica: str = "", pool: Pool = POOL, expected: Any = None) -> Action:
        """On the pool as it is."""
        seen = self.seen(pool)
        now = seen.replicas if kind is Kind.SCALE else seen.version
        tick = self.clock.now()
        return Action(kind, "shop", pool.name, desired, now if expected is None else expected, tick, tick + 300_000, replica)

    def do(self, kind: Kind, desired: int | str, *, replica: str = "", pool: Pool = POOL) -> Receipt:
        """Apply under a token that nobody used."""
        action = self.action(kind, desired, replica=replica, pool=pool)
        return self.cloud.apply(action, pool, token=f"{action.id}/{self.seen(pool).version}")

    def wait(self, seconds: float = 61) -> None:
        self.clock.advance(self.clock.now() + int(seconds * 1000))
        self.version()

    def found(self, kind: str = "Deployment", name: str = "web") -> dict[str, Any]:
        return self.cluster.get(kind, "" if kind == "Node" else "shop", name)

    def pods(self) -> list[dict[str, Any]]:
        """Those that are not on their way out, oldest first."""
        every = [pod for pod in self.cluster.every("Pod") if "deletionTimestamp" not in pod["metadata"]]
        return sorted(every, key=lambda pod: (pod["metadata"]["creationTimestamp"], pod["metadata"]["name"]))

    def names(self) -> list[str]:
        return [pod["metadata"]["name"] for pod in self.pods()]

    def version(self) -> int:
        """Grows with every write to the cluster."""
        with self.cluster.inside() as store:
            return store.version


@contextmanager
def shop(folder: Path, *objects: dict[str, Any], **options: Any) -> Iterator[Shop]:
    """A cluster of two nodes with these objects (a Deployment of three by default), all pods ready."""
    clock = EventClock(START)
    with FakeKubernetes(clock, **options) as cluster:
        cluster.add(node("n1"), node("n2"), *(objects or (workload(),)))
        here = Shop(cluster, clock, kubeconfig(folder / "kubeconfig", {"here": cluster}))
        here.wait()
        yield here
        for cloud in here.opened:
            cloud.close()
