"""Cloud Run services: the floor of instances, new revisions, and traffic back to an earlier one.

Every effect is one update on the etag that was read, and its token is in an annotation of that same update.
"""

from __future__ import annotations

from forecastle.clouds.gcp_claims import ANNOTATION, KEPT, Mark
from forecastle.clouds.gcp_client import Account, Json
from forecastle.clouds.gcp_resource import Sight, refuse
from forecastle.types import Action, Kind

_SERVICES = "projects.locations.services"
_BY_REVISION = "TRAFFIC_TARGET_ALLOCATION_TYPE_REVISION"


class Service:
    """The service ``name`` in ``region``. Its replicas are the instances kept at least, its release the revision served."""

    def __init__(self, account: Account, name: str, region: str) -> None:
        self._account = account
        self._name = f"projects/{account.access.project}/locations/{region}/services/{name}"

    def look(self) -> Sight:
        """Read the service. Cloud Run does not tell how many instances run: a service that failed has none ready."""
        service = self._account.read("run", f"{_SERVICES}.get", name=self._name)
        scaling = service.get("scaling", {})
        least = int(scaling.get("minInstanceCount", 0))
        failed = service.get("terminalCondition", {}).get("state") == "CONDITION_FAILED"
        most = scaling.get("maxInstanceCount") or service.get("template", {}).get("scaling", {}).get("maxInstanceCount")
        return Sight(
            replicas=least,
            ready=0 if failed else least,
            version=f"generation {service['generation']}",
            release=_served(service),
            most=int(most) if most else None,
            facts=service,
        )

    def used(self, action: Action, sight: Sight, token: str) -> str:
        """Whether the annotation has the action's mark."""
        mark, kept = Mark.of(action, token), Mark.read(sight.facts.get("annotations", {}).get(ANNOTATION, ""))
        return "the service's annotation has this mark" if any(mark.says(m, action.kind) for m in kept) else ""

    def check(self, action: Action, sight: Sight) -> None:
        """Raises Unsupported for one instance, which Cloud Run does not name."""
        if action.replica or action.kind is Kind.QUARANTINE:
            raise refuse(action, "a Cloud Run service", "ask for a RESTART of the pool: it makes a new revision")
        if action.kind is Kind.SCALE and sight.facts.get("scaling", {}).get("scalingMode") == "MANUAL":
            raise refuse(action, "a service that is scaled by hand", "set its scaling mode to AUTOMATIC")

    def effect(self, action: Action, sight: Sight, token: str) -> None:
        """One update on the etag that was read, and its operation awaited."""
        kept = sight.facts.get("annotations", {})
        marks = [Mark.of(action, token), *Mark.read(kept.get(ANNOTATION, ""))][:KEPT]
        body: Json = {"etag": sight.facts["etag"], "annotations": {**kept, ANNOTATION: " ".join(map(str, marks))}}
        asked: Json = {"name": self._name, "updateMask": "annotations", "body": body}
        if action.kind is Kind.SCALE:
            body["scaling"] = {"minInstanceCount": int(action.desired)}
            asked["updateMask"] += ",scaling.minInstanceCount"
        elif action.kind is Kind.ROLLBACK:
            body["traffic"] = [{"type": _BY_REVISION, "revision": str(action.desired), "percent": 100}]
            asked["updateMask"] += ",traffic"
        else:
            asked["forceNewRevision"] = True
        operation = self._account.effect("run", f"{_SERVICES}.patch", **asked)

        def again(name: str) -> Json:
            return self._account.read("run", "projects.locations.operations.get", name=name)

        self._account.finished(operation, again, f"{action.target}: {action.kind}")


def _served(service: Json) -> str:
    """The revision with most of the traffic, by name."""
    shares = service.get("traffic", ())
    most: Json = max(shares, key=lambda share: int(share.get("percent", 0)), default={})
    return str(most.get("revision") or service.get("latestReadyRevision", "").rpartition("/")[2])
