"""Container Apps: the least number of replicas, the images, and a new revision as a restart."""

from __future__ import annotations

from typing import Any

from forecastle.clouds.aws_claims import Claims
from forecastle.clouds.azure_client import Account, Json
from forecastle.clouds.azure_resource import OneWrite, Sight, refuse
from forecastle.types import Action, Kind

API = "2025-01-01"


class ContainerApp(OneWrite):
    """The app ``name`` of a resource ``group``. Its replicas are ``minReplicas``, a floor under what its own rules decide.

    The API has no conditional write: what somebody else writes between our reading and our write is overruled. Its release is
    its containers' images. Azure makes a revision for every change, and moves the traffic to it once it is ready.
    """

    def __init__(self, account: Account, group: str, name: str) -> None:
        self._account = account
        self._path = f"resourceGroups/{group}/providers/Microsoft.App/containerApps/{name}"

    def look(self, _: str = "") -> Sight:
        """Read the app and its newest ready revision."""
        app = self._account.read(self._path, API)
        properties: Json = app["properties"]
        scale: Json = properties["template"].get("scale") or {}
        serving = str(properties.get("latestReadyRevisionName") or "")
        revision = self._account.read(f"{self._path}/revisions/{serving}", API) if serving else {"properties": {}}
        running = int(revision["properties"].get("replicas") or 0)
        wanted = int(scale.get("minReplicas") or 0)
        containers: list[Json] = properties["template"].get("containers") or []
        mode = (properties.get("configuration") or {}).get("activeRevisionsMode", "Single")
        return Sight(
            replicas=wanted,
            ready=min(running, wanted),
            release=",".join(str(container.get("image", "")) for container in containers),
            etag="",
            tags=app.get("tags") or {},
            most=int(scale.get("maxReplicas") or 10),
            facts={"containers": containers, "mode": mode},
        )

    def check(self, action: Action, sight: Sight) -> None:
        """Raises Unsupported for what is about a single replica, and where several revisions share the traffic."""
        if action.kind not in {Kind.SCALE, Kind.RESTART, Kind.REPLACE, Kind.ROLLBACK} or action.replica:
            raise refuse(action, "a container app", "SCALE, RESTART or ROLLBACK the pool")
        if sight.facts["mode"] != "Single":
            raise refuse(action, "an app with several active revisions", "set its activeRevisionsMode to Single")
        if action.kind is Kind.ROLLBACK and len(str(action.desired).split(",")) != len(_containers(sight)):
            raise refuse(action, "an app with another number of containers", "ask for a release that was observed")

    def begin(self, action: Action, sight: Sight, claims: Claims) -> None:
        """PATCH the app: the claims, and a revision of its own for the token. Azure refuses to make the same one twice."""
        template: Json = {"revisionSuffix": f"f{claims.newest}"}
        if action.kind is Kind.SCALE:
            template["scale"] = {"minReplicas": int(action.desired)}
        elif action.kind is Kind.ROLLBACK:
            images = str(action.desired).split(",")
            template["containers"] = [{**c, "image": i} for c, i in zip(_containers(sight), images, strict=True)]
        body = {"tags": sight.tagged(claims), "properties": {"template": template}}
        self._account.effect("PATCH", self._path, API, body)


def _containers(sight: Sight) -> list[Json]:
    found: Any = sight.facts["containers"]
    return list(found)
