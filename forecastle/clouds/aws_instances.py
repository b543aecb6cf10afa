"""EC2 instances that an Auto Scaling group owns, one by one: those of the group itself and those of an EKS node group."""

from __future__ import annotations

from dataclasses import dataclass

from forecastle.clouds.aws_claims import spelled
from forecastle.clouds.aws_client import Account, Json
from forecastle.errors import NotFound

SERVING = "InService"
LEAVING = ("Terminat", "Detach", "Warmed")
RESTART = ("systemctl reboot",)


@dataclass(frozen=True, slots=True)
class Commands:
    """What is run on an instance to restart it: an SSM ``document`` with these shell ``lines``."""

    document: str = "AWS-RunShellScript"
    lines: tuple[str, ...] = RESTART


def group_named(account: Account, name: str) -> Json:
    """The Auto Scaling group ``name`` as AWS describes it. Raises NotFound."""
    found = account.read("autoscaling", "describe_auto_scaling_groups", AutoScalingGroupNames=[name])["AutoScalingGroups"]
    if not found or str(found[0].get("Status", "")).startswith("Delete"):
        raise NotFound(f"no Auto Scaling group '{name}' in this region; correct the pool's target.asg or the cloud's region")
    group: Json = found[0]
    return group


def states(group: Json) -> dict[str, str]:
    """Lifecycle state by instance id, without those on their way out."""
    every = {i["InstanceId"]: str(i["LifecycleState"]) for i in group.get("Instances", ())}
    return {name: state for name, state in every.items() if not state.startswith(LEAVING)}


def ready(group: Json) -> int:
    """How many instances are in service and healthy."""
    return sum(i["LifecycleState"] == SERVING and i["HealthStatus"].lower() == "healthy" for i in group.get("Instances", ()))


def unhealthy(group: Json) -> tuple[str, ...]:
    """The instances that failed a health check and are still there, by id."""
    there = states(group)
    sick = (i["InstanceId"] for i in group.get("Instances", ()) if i["HealthStatus"].lower() == "unhealthy")
    return tuple(sorted(name for name in sick if name in there))


def replace_one(account: Account, instance: str) -> None:
    """Terminate it; its group starts another."""
    account.effect(
        "autoscaling",
        "terminate_instance_in_auto_scaling_group",
        InstanceId=instance,
        ShouldDecrementDesiredCapacity=False,
    )


def restart_one(account: Account, instance: str, token: str, commands: Commands) -> None:
    """Run the restart commands on it through SSM, which remembers the token in the command's comment."""
    account.effect(
        "ssm",
        "send_command",
        InstanceIds=[instance],
        DocumentName=commands.document,
        Comment=comment(token),
        Parameters={"commands": list(commands.lines)},
    )


def restart_sent(account: Account, instance: str, token: str) -> bool:
    """Whether SSM has a command for the instance under ``token`` among its newest fifty."""
    found = account.read("ssm", "list_commands", InstanceId=instance, MaxResults=50)["Commands"]
    return any(command.get("Comment") == comment(token) for command in found)


def comment(token: str) -> str:
    """How a token reads in SSM."""
    return f"forecastle {spelled(token)}"
