"""Compute Engine as far as managed instance groups need it: groups, their instances, and operations with request ids."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from uuid import UUID

from forecastle.testing.fake_gcp_discovery import Call, Json, Refused

ROOT = "https://www.googleapis.com/compute/v1/"
_FILTER = re.compile(r'targetLink = "([^"]+)"')
_PAGE = 3


@dataclass
class Group:
    """One managed instance group: its object as the API tells it, its instances, and what was done to it."""

    body: Json
    instances: list[Json]
    rolls: list[str] = field(default_factory=list)


class Compute:
    """The project's groups by ``place`` and name. ``patience`` is how often an operation is asked for before it is done."""

    def __init__(self, project: str) -> None:
        self.project = project
        self.groups: dict[tuple[str, str], Group] = {}
        self.operations: list[Json] = []
        self.templates = {"web-1", "web-2"}
        self.resets: list[str] = []
        self.patience = 1
        self.failing: Json | None = None
        self._numbers = count(1)

    def handlers(self) -> Mapping[str, Callable[[Call], Json]]:
        """What answers each method."""
        verbs = {
            "get": lambda call: self._group(call).body,
            "listManagedInstances": self._listed,
            "resize": self._resize,
            "patch": self._patch,
            "recreateInstances": self._recreate,
            "abandonInstances": self._abandon,
        }
        every: dict[str, Callable[[Call], Json]] = {}
        for kind, collection in (("zone", "instanceGroupManagers"), ("region", "regionInstanceGroupManagers")):
            every |= {f"compute.{collection}.{verb}": answer for verb, answer in verbs.items()}
            every |= {f"compute.{kind}Operations.get": self._operation, f"compute.{kind}Operations.list": self._operations}
        return {**every, "compute.instances.reset": self._reset}

    def create(self, name: str, size: int, *, zone: str = "", region: str = "") -> Group:
        """A group of template web-1 with ``size`` instances that run."""
        place = f"zones/{zone}" if zone else f"regions/{region}"
        link = f"{ROOT}projects/{self.project}/{place}/instanceGroupManagers/{name}"
        template = f"{ROOT}projects/{self.project}/global/instanceTemplates/web-1"
        body: Json = {"name": name, "baseInstanceName": name, "selfLink": link, "targetSize": size, "fingerprint": "AAA="}
        body |= {"instanceTemplate": template, "versions": [{"instanceTemplate": template}]}
        body |= {"zone" if zone else "region": f"{ROOT}projects/{self.project}/{place}", "status": {"isStable": True}}
        group = self.groups[place, name] = Group(body, [])
        self.fill(group)
        self.settle()
        return group

    def settle(self) -> None:
        """All instances come up."""
        for group in self.groups.values():
            for instance in group.instances:
                instance |= {"currentAction": "NONE", "instanceStatus": "RUNNING"}

    # --- what is asked ---

    def _group(self, call: Call) -> Group:
        self._ours(call)
        name = call.path["instanceGroupManager"]
        if (_place(call), name) not in self.groups:
            raise Refused(404, "notFound", f"The resource '{name}' was not found")
        return self.groups[_place(call), name]

    def _ours(self, call: Call) -> None:
        if call.path["project"] != self.project:
            raise Refused(403, "forbidden", f"Required permission on project {call.path['project']}")

    def _listed(self, call: Call) -> Json:
        every, start = self._group(call).instances, int(call.query.get("pageToken") or 0)
        page: Json = {"managedInstances": every[start : start + _PAGE]} if every else {}
        return page | ({"nextPageToken": str(start + _PAGE)} if start + _PAGE < len(every) else {})

    def _operation(self, call: Call) -> Json:
        self._ours(call)
        for operation in self.operations:
            if operation["name"] == call.path["operation"] and _place(call) in operation["selfLink"]:
                operation["left"] -= 1
                return _told(operation)
        raise Refused(404, "notFound", f"operation {call.path['operation']}")

    def _operations(self, call: Call) -> Json:
        self._ours(call)
        wanted = _FILTER.fullmatch(call.query.get("filter", ""))
        if wanted is None or call.query.get("orderBy") != "creationTimestamp desc":
            raise Refused(400, "invalid", "Invalid value for field 'filter' or 'orderBy'")
        if not 0 <= call.query.get("maxResults", 500) <= 500:
            raise Refused(400, "invalid", "Invalid value for field 'maxResults'")
        found = [o for o in reversed(self.operations) if o["targetLink"] == wanted[1] and _place(call) in o["selfLink"]]
        return {"items": [_told(o) for o in found][: call.query.get("maxResults", 500)]} if found else {}

    # --- what is told ---

    def _resize(self, call: Call) -> Json:
        group = self._group(call)

        def effect() -> None:
            group.body["targetSize"] = call.query["size"]
            self.fill(group)

        if call.query["size"] < 0:
            raise Refused(400, "invalid", "Invalid value for field 'size'")
        return self._once(call, group.body["selfLink"], effect)

    def _patch(self, call: Call) -> Json:
        group, body = self._group(call), call.body

        def effect() -> None:
            if body.get("fingerprint") != group.body["fingerprint"]:
                raise Refused(412, "conditionNotMet", "Invalid fingerprint.")
            group.body |= {**body, "fingerprint": f"{next(self._numbers):03d}="}
            group.body["instanceTemplate"] = group.body["versions"][-1]["instanceTemplate"]
            action = body.get("updatePolicy", {}).get("minimalAction", "")
            group.rolls.append(action)
            for instance in group.instances:
                instance["currentAction"] = "RESTARTING" if action == "RESTART" else "RECREATING"

        for version in body.get("versions", ()):
            if version["instanceTemplate"].rpartition("/")[2] not in self.templates:
                raise Refused(404, "notFound", f"The resource '{version['instanceTemplate']}' was not found")
        return self._once(call, group.body["selfLink"], effect)

    def _recreate(self, call: Call) -> Json:
        group = self._group(call)

        def effect() -> None:
            for instance in self._chosen(group, call):
                instance |= {"currentAction": "RECREATING", "instanceStatus": "STOPPING", "id": str(next(self._numbers))}

        return self._once(call, group.body["selfLink"], effect)

    def _abandon(self, call: Call) -> Json:
        group = self._group(call)

        def effect() -> None:
            gone = self._chosen(group, call)
            group.instances = [instance for instance in group.instances if instance not in gone]
            group.body["targetSize"] -= len(gone)

        return self._once(call, group.body["selfLink"], effect)

    def _reset(self, call: Call) -> Json:
        self._ours(call)
        link = f"{ROOT}projects/{self.project}/{_place(call)}/instances/{call.path['instance']}"
        if not any(instance["instance"] == link for group in self.groups.values() for instance in group.instances):
            raise Refused(404, "notFound", f"The resource '{link}' was not found")
        return self._once(call, link, lambda: self.resets.append(link))

    def _once(self, call: Call, target: str, effect: Callable[[], None]) -> Json:
        """The operation of ``effect``: the first one, when the request id was used."""
        asked = call.query.get("requestId", "")
        if asked:
            try:
                UUID(asked)
            except ValueError as error:
                raise Refused(400, "invalid", "Invalid value for field 'requestId'") from error
            if (before := next((o for o in self.operations if o.get("clientOperationId") == asked), None)) is not None:
                return _told(before)
        if self.failing is None:
            effect()
        name, place = f"operation-{next(self._numbers)}", _place(call)
        operation: Json = {"kind": "compute#operation", "name": name, "targetLink": target, "left": self.patience}
        operation |= {"selfLink": f"{ROOT}projects/{self.project}/{place}/operations/{name}", "clientOperationId": asked}
        operation |= {place.split("s/")[0]: f"{ROOT}projects/{self.project}/{place}"}
        self.operations.append(operation | ({"error": self.failing} if self.failing else {}))
        return _told(self.operations[-1])

    def _chosen(self, group: Group, call: Call) -> list[Json]:
        asked = set(call.body["instances"])
        chosen = [instance for instance in group.instances if instance["instance"] in asked]
        if len(chosen) != len(asked):
            raise Refused(400, "invalid", "an instance is not a member of the group")
        return chosen

    def fill(self, group: Group) -> None:
        """As many instances as the group is to have: the newest go first."""
        place = group.body["selfLink"].partition(f"{self.project}/")[2].split("/")[:2]
        zone = place[1] if place[0] == "zones" else f"{place[1]}-b"
        del group.instances[group.body["targetSize"] :]
        while len(group.instances) < group.body["targetSize"]:
            number = next(self._numbers)
            url = f"{ROOT}projects/{self.project}/zones/{zone}/instances/{group.body['name']}-{number:04d}"
            group.instances.append({"instance": url, "id": str(number), "currentAction": "CREATING"})


def _place(call: Call) -> str:
    return f"zones/{call.path['zone']}" if "zone" in call.path else f"regions/{call.path['region']}"


def _told(operation: Json) -> Json:
    done = operation["left"] <= 0
    hidden = {"left"} if done else {"left", "error"}
    return {k: v for k, v in operation.items() if k not in hidden and v != ""} | {"status": "DONE" if done else "RUNNING"}
