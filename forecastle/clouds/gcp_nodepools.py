"""GKE node pools: their size. Nodes themselves are the Kubernetes adapter's.

``setSize`` takes neither a token nor a condition, so the pool is claimed first: the token goes into a resource label of it,
on its etag, with the sizes before and after; what an unanswered request did is judged by what can be seen.
"""

from __future__ import annotations

import re

from forecastle.clouds.gcp_claims import Mark, SizeClaim, size_claims, with_claim
from forecastle.clouds.gcp_client import Account, Json
from forecastle.clouds.gcp_groups import managed, serving
from forecastle.clouds.gcp_resource import Sight, refuse
from forecastle.errors import CloudUnavailable, Conflict, Unsupported
from forecastle.types import Action, Kind, digest

_POOLS = "projects.locations.clusters.nodePools"
_GROUP = re.compile(r"projects/([^/]+)/zones/([^/]+)/instanceGroupManagers/([^/]+)$")


class NodePool:
    """The node pool ``name`` of ``cluster`` in ``location``: in every zone the same number of nodes. Its release is theirs."""

    def __init__(self, account: Account, name: str, cluster: str, location: str) -> None:
        self._account = account
        self._location = f"projects/{account.access.project}/locations/{location}"
        self._name = f"{self._location}/clusters/{cluster}/nodePools/{name}"

    def look(self) -> Sight:
        """Read the node pool, and the instance groups behind it, which know its size."""
        pool = self._account.read("container", f"{_POOLS}.get", name=self._name)
        wanted = ready = 0
        for url in pool.get("instanceGroupUrls", ()):
            project, zone, group = _behind(url)
            named = {"project": project, "zone": zone, "instanceGroupManager": group}
            wanted += int(self._account.read("compute", "instanceGroupManagers.get", **named)["targetSize"])
            ready += sum(map(serving, managed(self._account, "instanceGroupManagers", named)))
        least, most = _limits(pool)
        release = str(pool.get("version", ""))
        return Sight(wanted, min(ready, wanted), digest(wanted, release)[:16], release, least, most, facts=pool)

    def used(self, action: Action, sight: Sight, token: str) -> str:
        """Whether the token was claimed, and either had its effect or was followed by another."""
        claims, mark = size_claims(_labels(sight)), Mark.of(action, token)
        claim = next((c for c in claims if c.token == mark.token), None)
        if claim is None:
            return ""
        if claim is not claims[0]:
            return "this token was used"
        if sight.replicas == claim.after:
            return "it was done under this token"
        if sight.facts.get("status") == "RECONCILING":
            raise CloudUnavailable(f"{action.target}: the node pool is being changed; ask again under the same token")
        return ""

    def check(self, action: Action, sight: Sight) -> None:
        """Raises Unsupported for anything but a size that the pool's zones can share evenly."""
        if action.kind is not Kind.SCALE or action.replica:
            raise refuse(action, "a node pool", "use the kubernetes adapter")
        zones = len(sight.facts.get("instanceGroupUrls", ())) or 1
        if int(action.desired) % zones:
            fix = "ask for a multiple, or have a node pool for each zone"
            raise Unsupported(f"{action.target}: {action.desired} nodes cannot be shared by {zones} zones; {fix}")

    def effect(self, action: Action, sight: Sight, token: str) -> None:
        """The claim, unless it is there already; then the size, and its operation awaited."""
        claim = SizeClaim(Mark.of(action, token).token, sight.replicas, int(action.desired))
        if next(iter(size_claims(_labels(sight))), None) != claim:
            sight = self._claimed(action, claim, sight)
        zones = len(sight.facts.get("instanceGroupUrls", ())) or 1
        size = {"nodeCount": claim.after // zones}
        operation = self._account.effect("container", f"{_POOLS}.setSize", name=self._name, body=size)
        self._account.finished(operation, self._again, f"{action.target}: {action.kind}")

    def _claimed(self, action: Action, claim: SizeClaim, before: Sight) -> Sight:
        """The pool with ``claim`` on top, and of the size it presumes. Raises Stale, or Conflict when overtaken."""
        labels = {"labels": with_claim(_labels(before), claim)}
        asked = {"etag": before.facts["etag"], "resourceLabels": labels}
        operation = self._account.note("container", f"{_POOLS}.update", name=self._name, body=asked)
        self._account.finished(operation, self._again, f"{action.target}: claim", effect=False)
        sight = self.look()
        if next(iter(size_claims(_labels(sight))), None) != claim or sight.replicas != claim.before:
            raise Conflict(f"{action.target}: somebody else changed it in between; observe and plan again")
        return sight

    def _again(self, name: str) -> Json:
        operation = f"{self._location}/operations/{name}"
        return self._account.read("container", "projects.locations.operations.get", name=operation)


def _labels(sight: Sight) -> dict[str, str]:
    labels: dict[str, str] = sight.facts.get("config", {}).get("resourceLabels", {})
    return labels


def _limits(pool: Json) -> tuple[int, int | None]:
    """The least and most nodes of the cluster autoscaler, which are for each zone unless they are total ones."""
    limits, zones = pool.get("autoscaling", {}), len(pool.get("instanceGroupUrls", ())) or 1
    if not limits.get("enabled"):
        return 0, None
    if "totalMaxNodeCount" in limits:
        return int(limits.get("totalMinNodeCount", 0)), int(limits["totalMaxNodeCount"])
    return zones * int(limits.get("minNodeCount", 0)), zones * int(limits.get("maxNodeCount", 0)) or None


def _behind(url: str) -> tuple[str, str, str]:
    found = _GROUP.search(url)
    if found is None:
        raise Unsupported(f"the node pool names an instance group in a way that is not understood: {url}")
    return found[1], found[2], found[3]
