"""Effects in two steps: what the token on the workload is about, and ending what was begun under it.

For effects on other objects than the one that remembers the token. The second step can happen only once: a pod of a uid is
deleted once, a node or pod carries the token itself, and a scale is written only at the claimed generation.
"""

from __future__ import annotations

from typing import Any

from forecastle.clouds import kubernetes_objects as objects
from forecastle.clouds import kubernetes_pods as pods
from forecastle.clouds.kubernetes_api import Clusters
from forecastle.clouds.kubernetes_levers import Sight
from forecastle.errors import Conflict, Unsupported
from forecastle.types import Action, Kind

ON_NODES = frozenset({Kind.CORDON, Kind.DRAIN})


def about(clusters: Clusters, sight: Sight, action: Action) -> tuple[str, bool]:
    """What the action is about, to be claimed, and whether it is so already. Raises what forbids it, before any effect."""
    target = sight.target
    if action.kind in ON_NODES:
        name, wanted = pods.node_of(clusters, target, sight.selector, action.replica), pods.wanted_on_node(action)
        so = pods.is_fenced(clusters.get(target.context, objects.NODES.path(name=name))) == wanted
        emptied = action.kind is Kind.DRAIN and wanted and pods.evictable(clusters, target.context, name)
        return f"{pods.NODE}{name}", so and not emptied
    pod = pods.of_pool(clusters, target, sight.selector, action.replica)
    if action.kind is Kind.QUARANTINE:
        pods.isolation(target, pod, sight.workload, "")
    elif action.kind is Kind.ROLLBACK:
        raise Unsupported(f"rollback {action.target}: a pod runs what its workload runs; roll the pool back")
    started, wanted_at = objects.milliseconds(pod["metadata"]["creationTimestamp"]), str(action.desired)
    so = action.kind is not Kind.QUARANTINE and wanted_at.isdigit() and started >= int(wanted_at)
    return f"pod/{pod['metadata']['name']}/{pod['metadata']['uid']}", so or objects.terminating(pod)


def finish(clusters: Clusters, sight: Sight, action: Action, token: str, claim: str) -> bool:
    """End what was claimed, whoever claimed it. False when nothing was left to do."""
    what, _, rest = claim.partition("/")
    if what == "scale":
        return _finish_scale(clusters, sight, action, *map(int, rest.split("/")))
    if what == "node":
        return _finish_node(clusters, sight.target.context, action, rest, token)
    return _finish_pod(clusters, sight, action, token, *rest.split("/"))


def _finish_scale(clusters: Clusters, sight: Sight, action: Action, generation: int, wanted: int) -> bool:
    target = sight.target
    now = clusters.get(target.context, target.path())["metadata"]
    scale = clusters.get(target.context, target.path("scale"))
    if scale["spec"].get("replicas", 0) == wanted:
        return False
    if now["generation"] != generation:
        raise Conflict(f"{action.pool}: its spec changed since it was to be {wanted}; observe and plan again")
    metadata = {"name": target.name, "namespace": target.namespace, "resourceVersion": now["resourceVersion"]}
    body: dict[str, Any] = {"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": metadata}
    clusters.replace(target.context, target.path("scale"), {**body, "spec": {"replicas": wanted}})
    return True


def _finish_node(clusters: Clusters, context: str, action: Action, node: str, token: str) -> bool:
    did, holds = pods.fence(clusters, context, node, token, fenced=pods.wanted_on_node(action))
    if not holds or action.kind is Kind.CORDON or not pods.wanted_on_node(action):
        return did
    return bool(pods.evict(clusters, context, pods.evictable(clusters, context, node))) or did


def _finish_pod(clusters: Clusters, sight: Sight, action: Action, token: str, *named: str) -> bool:
    target, (name, uid) = sight.target, named
    if action.kind is not Kind.QUARANTINE:
        return pods.replace(clusters, target, name, uid)
    return pods.isolate(clusters, target, sight.workload, name=name, uid=uid, token=token)
