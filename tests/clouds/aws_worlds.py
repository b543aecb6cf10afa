"""One AWS: moto behind `aws_front`, with groups, services and node groups in it, and the adapter on it.

Everything reaches it through botocore, whose parameter validation stands between the adapter and the wire.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from aws_front import REGION, Front, client

from forecastle.clouds.aws import AwsCloud, open_cloud
from forecastle.runtime.clocks import EventClock
from forecastle.types import Action, Kind, Observed, Pool, Receipt

START = 1_760_000_040_000
POOL = Pool("shop-fra", "shop", "fra", "aws", 0.1, startup_s=60, min=1, max=10, quota=9)
KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_EC2_METADATA_DISABLED": "true"}


@dataclass
class World:
    """One AWS, its clock, and connections to it."""

    front: Front
    clock: EventClock = field(default_factory=lambda: EventClock(START))
    opened: list[AwsCloud] = field(default_factory=list)
    clients: dict[str, Any] = field(default_factory=dict)

    def connect(self, **options: Any) -> AwsCloud:
        self.opened.append(open_cloud(clock=self.clock, region=REGION, endpoint_url=self.front.url, **options))
        return self.opened[-1]

    @property
    def cloud(self) -> AwsCloud:
        return self.opened[0] if self.opened else self.connect()

    def api(self, service: str) -> Any:
        if service not in self.clients:
            self.clients[service] = client(self.front, service)
        return self.clients[service]

    def settle(self) -> None:
        self.front.finish()

    def action(self, kind: Kind, desired: int | str, pool: Pool, *, replica: str = "", expected: Any = None) -> Action:
        """On the pool as it is."""
        seen: Observed = self.cloud.observe(pool)
        now = seen.replicas if kind is Kind.SCALE else seen.version
        tick = secrets.randbelow(1 << 40)
        return Action(kind, "shop", pool.name, desired, now if expected is None else expected, tick, tick + 300_000, replica)

    def do(self, kind: Kind, desired: int | str, pool: Pool, *, replica: str = "") -> Receipt:
        """Apply under a token that nobody used."""
        action = self.action(kind, desired, pool, replica=replica)
        return self.cloud.apply(action, pool, token=action.id)

    # --- what is there ---

    def group(self, *, desired: int = 4, least: int = 1, most: int = 8, name: str = "") -> Pool:
        """An Auto Scaling group of launch template version 1, of two."""
        name = name or f"g-{secrets.token_hex(4)}"
        ec2 = self.api("ec2")
        images = {"ImageId": "ami-12c6146b", "InstanceType": "t3.micro"}
        template = ec2.create_launch_template(LaunchTemplateName=name, LaunchTemplateData=images)["LaunchTemplate"]
        ec2.create_launch_template_version(LaunchTemplateName=name, LaunchTemplateData=images)
        self.api("autoscaling").create_auto_scaling_group(
            AutoScalingGroupName=name,
            MinSize=least,
            MaxSize=most,
            DesiredCapacity=desired,
            AvailabilityZones=[f"{REGION}a"],
            LaunchTemplate={"LaunchTemplateId": template["LaunchTemplateId"], "Version": "1"},
        )
        return replace(POOL, target={"asg": name})

    def service(self, *, desired: int = 4, strategy: str = "REPLICA") -> Pool:
        """An ECS service of task definition revision 1, of two, with ``desired`` tasks."""
        name, ecs = f"s-{secrets.token_hex(4)}", self.api("ecs")
        ecs.create_cluster(clusterName=name)
        for _ in range(2):
            ecs.register_task_definition(family=name, containerDefinitions=[{"name": "web", "image": "web", "memory": 64}])
        asked = {"taskDefinition": f"{name}:1", "desiredCount": desired, "schedulingStrategy": strategy}
        ecs.create_service(cluster=name, serviceName="web", **asked)
        return replace(POOL, target={"ecs": f"{name}/web"})

    def host(self, pool: Pool) -> str:
        """A container instance in the service's cluster."""
        ec2, cluster = self.api("ec2"), pool.target["ecs"].split("/")[0]
        instance = ec2.run_instances(ImageId="ami-12c6146b", InstanceType="t3.large", MinCount=1, MaxCount=1)["Instances"][0]
        document = json.dumps({"instanceId": instance["InstanceId"]})
        asked = {"cluster": cluster, "instanceIdentityDocument": document}
        return str(self.api("ecs").register_container_instance(**asked)["containerInstance"]["containerInstanceArn"])

    def task(self, pool: Pool, group: str = "service:web") -> str:
        """The id of a task that says it is the service's; needs a host."""
        cluster = pool.target["ecs"].split("/")[0]
        asked = {"cluster": cluster, "taskDefinition": f"{cluster}:1", "group": group}
        return str(self.api("ecs").run_task(**asked)["tasks"][0]["taskArn"].rpartition("/")[2])

    def nodegroup(self, *, desired: int = 4, least: int = 1, most: int = 8) -> Pool:
        """An EKS node group and, unlike moto's, the Auto Scaling group behind it."""
        name, eks = f"n-{secrets.token_hex(4)}", self.api("eks")
        subnet = self.api("ec2").describe_subnets()["Subnets"][0]["SubnetId"]
        role = "arn:aws:iam::123456789012:role/eks"
        eks.create_cluster(name=name, version="1.33", roleArn=role, resourcesVpcConfig={"subnetIds": [subnet]})
        size = {"minSize": least, "maxSize": most, "desiredSize": desired}
        asked = {"subnets": [subnet], "nodeRole": role, "scalingConfig": size}
        made = eks.create_nodegroup(clusterName=name, nodegroupName="workers", **asked)["nodegroup"]
        self.group(name=made["resources"]["autoScalingGroups"][0]["name"], desired=desired, least=least, most=most)
        return replace(POOL, target={"nodegroup": f"{name}/workers"})

    def members(self, pool: Pool) -> dict[str, str]:
        """Lifecycle state by instance id, of a group or a node group."""
        name = pool.target.get("asg")
        if name is None:
            cluster, group = pool.target["nodegroup"].split("/")
            found = self.api("eks").describe_nodegroup(clusterName=cluster, nodegroupName=group)["nodegroup"]
            name = found["resources"]["autoScalingGroups"][0]["name"]
        groups = self.api("autoscaling").describe_auto_scaling_groups(AutoScalingGroupNames=[name])["AutoScalingGroups"]
        return {i["InstanceId"]: i["LifecycleState"] for i in groups[0]["Instances"]}


@contextmanager
def world() -> Iterator[World]:
    """An AWS with nothing in it of this test's yet."""
    before = {key: os.environ.get(key) for key in KEYS}
    os.environ.update(KEYS)
    front = Front()
    here = World(front)
    try:
        yield here
    finally:
        for opened in [*here.opened, *here.clients.values()]:
            opened.close()
        front.close()
        for key, value in before.items():
            os.environ.pop(key) if value is None else os.environ.update({key: value})
