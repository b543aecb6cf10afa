"""GKE as far as the size of node pools needs it: one operation at a time on a cluster, and a group behind each zone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import count

from forecastle.testing.fake_gcp_discovery import Call, Json, Refused
from forecastle.testing.fake_gcp_groups import Compute


class Kubernetes:
    """The project's node pools by full name; their nodes are instances of groups in ``compute``."""

    def __init__(self, project: str, compute: Compute) -> None:
        self.project = project
        self.pools: dict[str, Json] = {}
        self.operations: dict[str, Json] = {}
        self.patience = 1
        self._compute = compute
        self._numbers = count(1)

    def handlers(self) -> Mapping[str, Callable[[Call], Json]]:
        """What answers each method."""
        pools = "container.projects.locations.clusters.nodePools"
        return {
            f"{pools}.get": self._pool,
            f"{pools}.update": self._update,
            f"{pools}.setSize": self._resize,
            "container.projects.locations.operations.get": self._operation,
        }

    def create(self, name: str, cluster: str, location: str, size: int, zones: tuple[str, ...]) -> Json:
        """A node pool with ``size`` nodes in each of the ``zones``."""
        groups = [self._compute.create(f"gke-{cluster}-{name}", size, zone=zone).body["selfLink"] for zone in zones]
        full = f"projects/{self.project}/locations/{location}/clusters/{cluster}/nodePools/{name}"
        pool: Json = {"name": name, "etag": "e1", "status": "RUNNING", "version": "1.37.1-gke.100", "initialNodeCount": size}
        self.pools[full] = pool | {"instanceGroupUrls": groups, "config": {"resourceLabels": {"team": "shop"}}}
        return self.pools[full]

    def settle(self) -> None:
        """All operations end."""
        for operation in self.operations.values():
            operation["left"] = 0

    def _pool(self, call: Call) -> Json:
        path = call.path
        cluster = f"projects/{path['projectsId']}/locations/{path['locationsId']}/clusters/{path['clustersId']}"
        full = f"{cluster}/nodePools/{path['nodePoolsId']}"
        if full not in self.pools:
            raise Refused(404, "notFound", f"Not found: {full}")
        return self.pools[full]

    def _update(self, call: Call) -> Json:
        pool, body = self._pool(call), call.body
        if body.get("etag") not in {None, pool["etag"]}:
            raise Refused(409, "aborted", "etag does not match")
        self._alone()
        labels = body.get("resourceLabels", {}).get("labels", {})
        if any(len(value) > 63 for value in labels.values()):
            raise Refused(400, "badRequest", "a label has at most 63 characters")
        pool["config"]["resourceLabels"] = labels
        return self._started(pool)

    def _resize(self, call: Call) -> Json:
        pool = self._pool(call)
        self._alone()
        for url in pool["instanceGroupUrls"]:
            place, _, name = url.partition(f"{self.project}/")[2].partition("/instanceGroupManagers/")
            group = self._compute.groups[place, name]
            group.body["targetSize"] = call.body.get("nodeCount", 0)
            self._compute.fill(group)
        return self._started(pool)

    def _alone(self) -> None:
        if any(o["left"] > 0 for o in self.operations.values()):
            raise Refused(400, "failedPrecondition", "Cluster is running incompatible operation")

    def _started(self, pool: Json) -> Json:
        name = f"operation-{next(self._numbers)}"
        pool["etag"] = f"e{name}"
        self.operations[name] = {"left": self.patience}
        return self._told(name)

    def _operation(self, call: Call) -> Json:
        name = call.path["operationsId"]
        if name not in self.operations:
            raise Refused(404, "notFound", name)
        self.operations[name]["left"] -= 1
        return self._told(name)

    def _told(self, name: str) -> Json:
        return {"name": name, "status": "DONE" if self.operations[name]["left"] <= 0 else "RUNNING"}
