"""ECS services: desired count, forced deployments, task definitions, and one task or container instance at a time."""

from __future__ import annotations

from forecastle.clouds.aws_claims import TAG, Claims, spelled
from forecastle.clouds.aws_client import Account, Json
from forecastle.clouds.aws_resource import Sight, refuse
from forecastle.errors import Conflict, NotFound, Unsupported
from forecastle.types import Action, Kind

HOST = "container-instance/"
_WEIGHTS = {"0": "DRAINING", "100": "ACTIVE"}
_MISSING = "no ECS service '{service}' in cluster '{cluster}'; correct the pool's target.ecs or the cloud's region"


class Service:
    """The ECS service ``name`` of ``cluster``. Its release is the task definition, ``family:revision``.

    A replica is a task's id, or ``container-instance/<id>`` for DRAIN. ECS replaces unhealthy tasks without being asked:
    none are told as unhealthy.
    """

    def __init__(self, account: Account, cluster: str, name: str) -> None:
        self._account = account
        self._cluster = cluster
        self._name = name
        self._arn = ""

    def look(self, replica: str = "") -> Sight:
        """Read the service, and the task or container instance."""
        named = {"cluster": self._cluster, "services": [self._name]}
        found = self._account.read("ecs", "describe_services", **named, include=["TAGS"])["services"]
        if not found or found[0]["status"] == "INACTIVE":
            raise NotFound(_MISSING.format(service=self._name, cluster=self._cluster))
        service: Json = found[0]
        self._arn, wanted = service["serviceArn"], int(service["desiredCount"])
        newest = next((d["id"] for d in service.get("deployments", ()) if d["status"] == "PRIMARY"), "")
        return Sight(
            replicas=wanted,
            ready=min(int(service["runningCount"]), wanted),
            release=service["taskDefinition"].rpartition("/")[2],
            rollout=newest,
            claims=Claims.of(next((tag["value"] for tag in service.get("tags", ()) if tag["key"] == TAG), "")),
            replica=self._state(replica) if replica else "",
            facts={"strategy": service.get("schedulingStrategy", "REPLICA")},
        )

    def note(self, claims: Claims) -> None:
        """Write the claims into the service's tag."""
        self._account.note("ecs", "tag_resource", resourceArn=self._arn, tags=[{"key": TAG, "value": str(claims)}])

    def check(self, action: Action) -> None:
        """Raises Unsupported for what a task, a container instance or a service cannot be told."""
        host = action.replica.startswith(HOST)
        if action.kind is Kind.QUARANTINE:
            raise refuse(action, "an ECS service", "REPLACE the task")
        if (action.kind is Kind.DRAIN) != host:
            raise refuse(action, "an ECS service", f"DRAIN is for the replica {HOST}<id>, and nothing else is for that")
        if action.kind is Kind.ROLLBACK and action.replica:
            raise refuse(action, "an ECS service", "roll the pool back")
        if host and str(action.desired) not in _WEIGHTS:
            raise Unsupported(f"{action.target}: a container instance is active or draining; drain it to 0 or 100 percent")

    def holds(self, action: Action, sight: Sight) -> bool:
        """Whether the container instance is draining, or active, as asked."""
        return action.kind is Kind.DRAIN and sight.replica == _WEIGHTS.get(str(action.desired))

    def happened(self, action: Action, sight: Sight, _: str) -> bool:
        """Whether the task is stopped or gone, or the container instance as asked."""
        return self.holds(action, sight) if action.kind is Kind.DRAIN else not sight.replica

    def effect(self, action: Action, sight: Sight, token: str) -> None:
        """One request."""
        if action.kind is Kind.SCALE and sight.facts["strategy"] != "REPLICA":
            raise refuse(action, "a daemon service", "it has one task on every container instance")
        if action.kind is Kind.DRAIN:
            hosts, status = [action.replica.removeprefix(HOST)], _WEIGHTS[str(action.desired)]
            self._effect("update_container_instances_state", containerInstances=hosts, status=status)
        elif action.replica:
            self._effect("stop_task", task=action.replica, reason=f"forecastle {spelled(token)}")
        elif action.kind is Kind.SCALE:
            self._effect("update_service", service=self._name, desiredCount=int(action.desired))
        elif action.kind is Kind.ROLLBACK:
            self._effect("update_service", service=self._name, taskDefinition=str(action.desired))
        else:
            self._effect("update_service", service=self._name, forceNewDeployment=True)

    def _effect(self, operation: str, **request: object) -> None:
        """Told and, where AWS answers that it did not do it, raised."""
        for failure in self._account.effect("ecs", operation, cluster=self._cluster, **request).get("failures", ()):
            reason = f"aws ecs {operation}: {failure.get('arn', '')}: {failure.get('reason', '')}"
            raise NotFound(reason) if failure.get("reason") == "MISSING" else Conflict(f"{reason}; observe and plan again")

    def _state(self, replica: str) -> str:
        """Status of a task of this service or of a container instance; '' when stopping, stopped, gone or somebody else's."""
        if replica.startswith(HOST):
            host = {"containerInstances": [replica.removeprefix(HOST)]}
            hosts = self._account.read("ecs", "describe_container_instances", cluster=self._cluster, **host)
            return next((str(host["status"]) for host in hosts["containerInstances"]), "")
        tasks = self._account.read("ecs", "describe_tasks", cluster=self._cluster, tasks=[replica])["tasks"]
        ours = (task for task in tasks if task.get("group") == f"service:{self._name}" and task["desiredStatus"] != "STOPPED")
        return next((str(task["lastStatus"]) for task in ours), "")
