"""Auto Scaling groups: desired capacity, instance refresh, standby, and one instance at a time."""

from __future__ import annotations

from forecastle.clouds import aws_instances as instances
from forecastle.clouds.aws_claims import TAG, Claims
from forecastle.clouds.aws_client import Account, Json
from forecastle.clouds.aws_instances import SERVING, Commands
from forecastle.clouds.aws_resource import Sight, refuse
from forecastle.errors import Unsupported
from forecastle.types import Action, Kind

STANDBY = "Standby"
_ROLLING = frozenset({"Pending", "InProgress", "Baking"})


class Group:
    """The Auto Scaling group ``name``. Its replicas are its units of desired capacity, its release the launch template's.

    ``healthy_percent`` is what a rolling replacement keeps in service.
    """

    def __init__(self, account: Account, name: str, *, commands: Commands, healthy_percent: int) -> None:
        self._account = account
        self._name = name
        self._commands = commands
        self._healthy_percent = healthy_percent

    def look(self, replica: str = "") -> Sight:
        """Read the group and its newest instance refresh."""
        group, refresh = instances.group_named(self._account, self._name), self._refresh()
        there = instances.states(group)
        wanted, template = int(group["DesiredCapacity"]), _template(group)
        return Sight(
            replicas=wanted,
            ready=min(instances.ready(group), wanted),
            release=_release(refresh) or template.get("Version", "") or group.get("LaunchConfigurationName", ""),
            rollout=str(refresh.get("InstanceRefreshId", "")),
            claims=Claims.of(next((tag["Value"] for tag in group.get("Tags", ()) if tag["Key"] == TAG), "")),
            least=int(group["MinSize"]),
            most=int(group["MaxSize"]),
            unhealthy=instances.unhealthy(group),
            aside=tuple(sorted(name for name, state in there.items() if STANDBY in state)),
            replica=there.get(replica, ""),
            facts={"template": str(group.get("LaunchTemplate", {}).get("LaunchTemplateId", ""))},
        )

    def note(self, claims: Claims) -> None:
        """Write the claims into the group's tag; instances do not inherit it."""
        tag = {"ResourceId": self._name, "ResourceType": "auto-scaling-group", "Key": TAG, "Value": str(claims)}
        self._account.note("autoscaling", "create_or_update_tags", Tags=[{**tag, "PropagateAtLaunch": False}])

    def check(self, action: Action) -> None:
        """Raises Unsupported for a whole group to be emptied and for one instance to be rolled back."""
        if action.kind in {Kind.DRAIN, Kind.QUARANTINE} and not action.replica:
            raise refuse(action, "an Auto Scaling group", "name the instance as the replica, or SCALE")
        if action.kind is Kind.ROLLBACK and action.replica:
            raise refuse(action, "an Auto Scaling group", "roll the pool back")
        if action.kind is Kind.DRAIN and str(action.desired) not in {"0", "100"}:
            raise Unsupported(f"{action.target}: an instance is in service or in standby; drain it to 0 or 100 percent")

    def holds(self, action: Action, sight: Sight) -> bool:
        """Whether the instance is in standby, or back, as asked."""
        if action.kind is Kind.DRAIN and str(action.desired) == "100":
            return sight.replica == SERVING
        return action.kind in {Kind.DRAIN, Kind.QUARANTINE} and STANDBY in sight.replica

    def happened(self, action: Action, sight: Sight, token: str) -> bool:
        """Whether the instance is on its way out, was told to restart, or is where it should be."""
        if action.kind is Kind.REPLACE:
            return not sight.replica
        if action.kind is Kind.RESTART:
            return instances.restart_sent(self._account, action.replica, token)
        return self.holds(action, sight)

    def effect(self, action: Action, sight: Sight, token: str) -> None:
        """One request."""
        if action.kind is Kind.SCALE:
            capacity = {"DesiredCapacity": int(action.desired), "HonorCooldown": False}
            self._account.effect("autoscaling", "set_desired_capacity", AutoScalingGroupName=self._name, **capacity)
        elif action.kind in {Kind.DRAIN, Kind.QUARANTINE}:
            self._stand(action)
        elif not action.replica:
            self._roll(action, sight)
        elif action.kind is Kind.REPLACE:
            instances.replace_one(self._account, action.replica)
        else:
            instances.restart_one(self._account, action.replica, token, self._commands)

    def _stand(self, action: Action) -> None:
        """Into standby, with another in its place (QUARANTINE) or without (DRAIN), or back from it."""
        named = {"AutoScalingGroupName": self._name, "InstanceIds": [action.replica]}
        if action.kind is Kind.DRAIN and str(action.desired) == "100":
            self._account.effect("autoscaling", "exit_standby", **named)
        else:
            fewer = action.kind is Kind.DRAIN
            self._account.effect("autoscaling", "enter_standby", **named, ShouldDecrementDesiredCapacity=fewer)

    def _roll(self, action: Action, sight: Sight) -> None:
        request: Json = {
            "AutoScalingGroupName": self._name,
            "Preferences": {"MinHealthyPercentage": self._healthy_percent, "SkipMatching": False},
        }
        if action.kind is Kind.ROLLBACK:
            if not sight.facts["template"]:
                raise refuse(
                    action, "a group without a launch template of its own", "give it one: its versions are its releases"
                )
            template = {"LaunchTemplateId": sight.facts["template"], "Version": str(action.desired)}
            request["DesiredConfiguration"] = {"LaunchTemplate": template}
        self._account.effect("autoscaling", "start_instance_refresh", **request)

    def _refresh(self) -> Json:
        named = {"AutoScalingGroupName": self._name, "MaxRecords": 1}
        found = self._account.read("autoscaling", "describe_instance_refreshes", **named)["InstanceRefreshes"]
        newest: Json = found[0] if found else {}
        return newest


def _release(refresh: Json) -> str:
    """The launch template version that a refresh still under way is rolling to, '' when there is none."""
    if refresh.get("Status") not in _ROLLING:
        return ""
    return str(refresh.get("DesiredConfiguration", {}).get("LaunchTemplate", {}).get("Version", ""))


def _template(group: Json) -> Json:
    mixed = group.get("MixedInstancesPolicy", {}).get("LaunchTemplate", {}).get("LaunchTemplateSpecification")
    template: Json = group.get("LaunchTemplate") or mixed or {}
    return template
