"""EKS managed node groups: desired size, and one node's instance at a time. Pods and nodes are the Kubernetes adapter's."""

from __future__ import annotations

from forecastle.clouds import aws_instances as instances
from forecastle.clouds.aws_claims import TAG, Claims
from forecastle.clouds.aws_client import Account, Json
from forecastle.clouds.aws_instances import Commands
from forecastle.clouds.aws_resource import GENERATIONS, Sight, refuse
from forecastle.errors import NotFound
from forecastle.types import Action, Kind


class NodeGroup:
    """The node group ``name`` of ``cluster``. Its release is its launch template's version, or the AMI release's."""

    def __init__(self, account: Account, cluster: str, name: str, *, commands: Commands) -> None:
        self._account = account
        self._named = {"clusterName": cluster, "nodegroupName": name}
        self._commands = commands
        self._arn = ""

    def look(self, replica: str = "") -> Sight:
        """Read the node group and the Auto Scaling group behind it."""
        found: Json = self._account.read("eks", "describe_nodegroup", **self._named)["nodegroup"]
        if found["status"] == "DELETING":
            raise NotFound(f"the node group {self._named} is being deleted; take the pool out of `fleet.pools`")
        self._arn, size = found["nodegroupArn"], found["scalingConfig"]
        group = instances.group_named(self._account, found["resources"]["autoScalingGroups"][0]["name"])
        return Sight(
            replicas=int(size["desiredSize"]),
            ready=min(instances.ready(group), int(size["desiredSize"])),
            release=str(found.get("launchTemplate", {}).get("version") or found.get("releaseVersion", "")),
            rollout="",
            claims=Claims.of(found.get("tags", {}).get(TAG, "")),
            least=int(size["minSize"]),
            most=int(size["maxSize"]),
            unhealthy=instances.unhealthy(group),
            replica=instances.states(group).get(replica, ""),
        )

    def note(self, claims: Claims) -> None:
        """Write the claims into the node group's tag."""
        self._account.note("eks", "tag_resource", resourceArn=self._arn, tags={TAG: str(claims)})

    def check(self, action: Action) -> None:
        """Raises Unsupported for all but SCALE of the group, and RESTART and REPLACE of one node's instance."""
        if action.kind is Kind.SCALE or (action.kind in GENERATIONS and action.replica):
            return
        instead = "name a node's instance as the replica, or use the kubernetes adapter for its pods and nodes"
        raise refuse(action, "an EKS node group", instead)

    def holds(self, _: Action, __: Sight) -> bool:
        """Whether an instance is as asked: RESTART and REPLACE leave no such state."""
        return False

    def happened(self, action: Action, sight: Sight, token: str) -> bool:
        """Whether the instance is on its way out, or was told to restart."""
        if action.kind is Kind.REPLACE:
            return not sight.replica
        return instances.restart_sent(self._account, action.replica, token)

    def effect(self, action: Action, _: Sight, token: str) -> None:
        """One request; EKS itself knows the token of a SCALE."""
        if action.kind is Kind.SCALE:
            size = {"desiredSize": int(action.desired)}
            asked = {**self._named, "scalingConfig": size, "clientRequestToken": token}
            self._account.effect("eks", "update_nodegroup_config", **asked)
        elif action.kind is Kind.REPLACE:
            instances.replace_one(self._account, action.replica)
        else:
            instances.restart_one(self._account, action.replica, token, self._commands)
