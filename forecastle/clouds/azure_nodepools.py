"""AKS node pools: the number of nodes. What happens to a single node is for the Kubernetes adapter."""

from __future__ import annotations

from typing import Any

from forecastle.clouds.aws_claims import Claims
from forecastle.clouds.azure_client import Account, Json
from forecastle.clouds.azure_resource import OneWrite, Sight, refuse
from forecastle.types import Action, Kind

API = "2026-05-01"
_READ_ONLY = frozenset({"provisioningState", "currentOrchestratorVersion", "nodeImageVersion", "eTag", "status"})


class NodePool(OneWrite):
    """The node pool ``name`` of an AKS ``cluster``. Its release is the node image; its replicas are its nodes."""

    def __init__(self, account: Account, group: str, cluster: str, name: str) -> None:
        self._account = account
        clusters = f"resourceGroups/{group}/providers/Microsoft.ContainerService/managedClusters"
        self._path = f"{clusters}/{cluster}/agentPools/{name}"

    def look(self, _: str = "") -> Sight:
        """Read the pool. AKS tells no number of ready nodes: the machines that exist count, none while it is stopped."""
        properties: Json = self._account.read(self._path, API)["properties"]
        wanted, scales_itself = int(properties.get("count") or 0), bool(properties.get("enableAutoScaling"))
        running = (properties.get("powerState") or {}).get("code", "Running") == "Running"
        return Sight(
            replicas=wanted,
            ready=min(len(self._account.every(f"{self._path}/machines", API)), wanted) if running else 0,
            release=str(properties.get("nodeImageVersion", "")),
            etag=str(properties.get("eTag", "")),
            tags=properties.get("tags") or {},
            facts={"properties": properties, "scales itself": scales_itself},
        )

    def check(self, action: Action, sight: Sight) -> None:
        """Raises Unsupported for everything but SCALE."""
        if action.kind is not Kind.SCALE or action.replica:
            raise refuse(action, "an AKS node pool", "use the kubernetes adapter")
        if sight.facts["scales itself"]:
            raise refuse(action, "a node pool with the cluster autoscaler", "turn its enableAutoScaling off")

    def begin(self, action: Action, sight: Sight, claims: Claims) -> None:
        """PUT the pool as it was read, with the claims and the number of nodes: AKS has no PATCH for it."""
        read: Any = sight.facts["properties"]
        kept = {key: value for key, value in read.items() if key not in _READ_ONLY}
        body = {"properties": {**kept, "count": int(action.desired), "tags": sight.tagged(claims)}}
        self._account.effect("PUT", self._path, API, body, etag=sight.condition)
