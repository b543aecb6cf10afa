"""Cloud Run as far as the floor of instances, revisions and traffic need it: one update at a time, on an etag."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import count

from forecastle.testing.fake_gcp_discovery import Call, Json, Refused

_MASKS = {"annotations", "scaling.minInstanceCount", "traffic"}


class Run:
    """The project's services by full name."""

    def __init__(self, project: str) -> None:
        self.project = project
        self.services: dict[str, Json] = {}
        self.operations: dict[str, Json] = {}
        self.patience = 1
        self._numbers = count(1)

    def handlers(self) -> Mapping[str, Callable[[Call], Json]]:
        """What answers each method."""
        return {
            "run.projects.locations.services.get": self._service,
            "run.projects.locations.services.patch": self._patch,
            "run.projects.locations.operations.get": self._operation,
        }

    def create(self, name: str, least: int, region: str) -> Json:
        """A service of one revision with all the traffic."""
        full = f"projects/{self.project}/locations/{region}/services/{name}"
        service: Json = {"name": full, "generation": "1", "etag": '"1"', "scaling": {"minInstanceCount": least}}
        service |= {"annotations": {"team": "shop"}, "template": {"containers": [{"image": "web"}]}}
        service |= {"terminalCondition": {"type": "Ready", "state": "CONDITION_SUCCEEDED"}}
        self.services[full] = service
        self._revise(service)
        return service

    def _service(self, call: Call) -> Json:
        path = call.path
        full = f"projects/{path['projectsId']}/locations/{path['locationsId']}/services/{path['servicesId']}"
        if full not in self.services:
            raise Refused(404, "notFound", f"Resource '{path['servicesId']}' was not found")
        return self.services[full]

    def _patch(self, call: Call) -> Json:
        service, body = self._service(call), call.body
        masks = set(call.query.get("updateMask", "").split(","))
        if not masks <= _MASKS:
            raise Refused(400, "badRequest", f"updateMask: {sorted(masks - _MASKS)}")
        if body.get("etag") not in {None, service["etag"]}:
            raise Refused(409, "aborted", "Conflict for resource: version was specified but is not current")
        if "scaling.minInstanceCount" in masks:
            service["scaling"] = {**service["scaling"], **body["scaling"]}
        service |= {key: body[key] for key in ("annotations", "traffic") if key in masks}
        number = next(self._numbers)
        service |= {"generation": str(int(service["generation"]) + 1), "etag": f'"{number + 1}"'}
        if call.query.get("forceNewRevision"):
            self._revise(service)
        name = f"{service['name'].partition('/services/')[0]}/operations/{number}"
        self.operations[name] = {"name": name, "done": False, "left": self.patience}
        return {"name": name, "done": False}

    def _operation(self, call: Call) -> Json:
        path = call.path
        name = f"projects/{path['projectsId']}/locations/{path['locationsId']}/operations/{path['operationsId']}"
        if name not in self.operations:
            raise Refused(404, "notFound", name)
        self.operations[name]["left"] -= 1
        return {"name": name, "done": self.operations[name]["left"] <= 0}

    def _revise(self, service: Json) -> None:
        revision = f"{service['name'].rpartition('/')[2]}-{int(service['generation']):05d}"
        service["latestReadyRevision"] = f"{service['name']}/revisions/{revision}"
