"""The resources of a fake Azure and what each request does to them."""

from __future__ import annotations

import copy
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from forecastle.testing.fake_azure_schemas import OPERATIONS, Json

LOCATION = "westeurope"


class Refused(Exception):
    """An ARM error: HTTP ``status``, code and message."""

    def __init__(self, status: int, code: str, message: str = "") -> None:
        super().__init__(f"{status} {code} {message}")
        self.status, self.code, self.message = status, code, message


@dataclass
class Estate:
    """What one subscription has: ``resources`` by lower-case path, the instances of each scale set, revisions and operations.

    ``ends`` is how the operations that begin from now on end: '' well, or an error code; ``polls`` how often they are asked
    about before. ``ticks`` counts the writes and is the time of every status.
    """

    resources: dict[str, Json] = field(default_factory=dict)
    instances: dict[str, dict[str, Json]] = field(default_factory=dict)
    operations: dict[str, list[str]] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    ends: str = ""
    polls: int = 1
    ticks: int = 0

    def find(self, path: str) -> Json:
        """The resource at ``path``. Raises Refused when there is none."""
        found = self.resources.get(path.lower())
        if found is None:
            raise Refused(404, "ResourceNotFound", f"The Resource '{path}' was not found.")
        return found

    def touch(self) -> int:
        """The time of a write."""
        self.ticks += 1
        return self.ticks

    def begin(self, provider: str) -> str:
        """A new operation; its path with its api-version."""
        name = secrets.token_hex(8)
        last = self.ends or "Succeeded"
        self.operations[name] = ["InProgress"] * self.polls + [last]
        kind, api, _ = OPERATIONS[provider]
        return f"providers/{provider}/locations/{LOCATION}/{kind}/{name}?api-version={api}"

    def operation(self, name: str) -> Json:
        """How it stands now. Raises Refused when there is none."""
        left = self.operations.get(name)
        if left is None:
            raise Refused(404, "NotFound", "no such operation")
        status = left.pop(0) if len(left) > 1 else left[0]
        if status in {"InProgress", "Succeeded"}:
            return {"name": name, "status": status}
        return {"name": name, "status": "Failed", "error": {"code": status, "message": f"The operation ended in {status}."}}

    # --- scale sets ---

    def update_set(self, path: str, body: Json) -> Json:
        """Merge a PATCH into the model; tags and image are replaced whole, capacity comes and goes at once."""
        model = self.find(path)
        if "tags" in body:
            model["tags"] = dict(body["tags"])
        model["sku"].update(body.get("sku", {}))
        profile = body.get("properties", {}).get("virtualMachineProfile", {}).get("storageProfile", {})
        if "imageReference" in profile:
            model["properties"]["virtualMachineProfile"]["storageProfile"]["imageReference"] = profile["imageReference"]
        self.level(path)
        return model

    def level(self, path: str) -> None:
        """As many instances as the capacity says: the newest go first. A new etag."""
        model, there = self.find(path), self.instances.setdefault(path.lower(), {})
        wanted = int(model["sku"]["capacity"])
        while len(there) > wanted:
            there.pop(max(there, key=int))
        while len(there) < wanted:
            name = str(self.touch())
            there[name] = {"instanceId": name, "name": f"vm_{name}", "location": LOCATION, "properties": {}}
            self.worked(there[name])
        model["etag"] = f'"{self.touch()}"'

    def worked(self, instance: Json, power: str = "running") -> None:
        """An operation on it ended."""
        at = self.touch()
        time = f"2026-01-01T{at // 3600 % 24:02}:{at // 60 % 60:02}:{at % 60:02}.000001Z"
        statuses = [{"code": "ProvisioningState/succeeded", "level": "Info", "time": time}]
        statuses.append({"code": f"PowerState/{power}", "level": "Info"})
        instance["properties"] = {"provisioningState": "Succeeded", "instanceView": {"statuses": statuses}}

    def act(self, path: str, name: str, verb: str) -> None:
        """One instance restarted, reimaged, deallocated, started or deleted. Raises Refused when there is none."""
        there = self.instances[path.lower()]
        if name not in there:
            raise Refused(404, "InstanceIdNotFound", f"no instance {name}")
        if verb == "delete":
            del there[name]
            model = self.find(path)
            model["sku"]["capacity"] = len(there)
            model["etag"] = f'"{self.touch()}"'
        else:
            self.worked(there[name], "deallocated" if verb == "deallocate" else "running")

    # --- the others ---

    def update_app(self, path: str, body: Json) -> Json:
        """A JSON merge patch; a change of the template makes a revision, whose name must be new."""
        app = self.find(path)
        template = body.get("properties", {}).get("template")
        if template is not None:
            suffix = (
                template.get("revisionSuffix") or app["properties"]["template"].get("revisionSuffix") or secrets.token_hex(4)
            )
            name = f"{app['name']}--{suffix}"
            if name in self.names:
                raise Refused(400, "ContainerAppInvalidRevisionSuffix", f"Revision {name} exists already.")
            scale = {**app["properties"]["template"]["scale"], **template.get("scale", {})}
            if scale["minReplicas"] > scale["maxReplicas"]:
                raise Refused(400, "ContainerAppInvalidScaleSpec", "minReplicas above maxReplicas")
            self.names.add(name)
            app["properties"]["latestReadyRevisionName"] = name
        merged(app, body)
        return app

    def put_pool(self, path: str, body: Json) -> Json:
        """What the body says, and what only AKS says. A new etag."""
        pool = self.find(path)
        own = {key: pool["properties"][key] for key in ("nodeImageVersion", "provisioningState", "currentOrchestratorVersion")}
        pool["properties"] = {**copy.deepcopy(body["properties"]), **own, "eTag": f"e{self.touch()}"}
        return pool


def merged(into: Json, patch: Json) -> None:
    """A JSON merge patch (RFC 7396)."""
    for key, value in patch.items():
        if value is None:
            into.pop(key, None)
        elif isinstance(value, dict) and isinstance(into.get(key), dict):
            merged(into[key], value)
        else:
            into[key] = copy.deepcopy(value)


def owner(path: str) -> str:
    """The scale set, app or pool that a path is about."""
    return re.sub(r"/(virtualMachines|revisions|machines)(/.*)?$", "", path)


Fault = Callable[[str, Json], str]
