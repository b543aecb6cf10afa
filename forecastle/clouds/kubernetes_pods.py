"""What is done to one pod, or to the node it runs on.

These effects are on other objects than the workload that remembers the token, so they go in two steps: the token is left on the
workload with what it is about (pod and uid, or node), then the effect follows, which cannot happen twice either: a pod of a uid
is deleted once, a pod or node carries the token itself. A retry finds the first step done and ends what was begun.
"""

from __future__ import annotations

from forecastle.clouds import kubernetes_objects as objects
from forecastle.clouds.kubernetes_api import Clusters, Json, Stale
from forecastle.clouds.kubernetes_objects import NODES, PODS, Target
from forecastle.errors import CloudUnavailable, Conflict, Denied, NotFound, Unsupported
from forecastle.types import Action, Kind

QUARANTINED = "forecastle.dev/quarantined"
LABELS_BEFORE = "forecastle.dev/labels-before-quarantine"
MIRROR = "kubernetes.io/config.mirror"
NODE = "node/"
TRIES = 3
_GONE = frozenset({"Succeeded", "Failed"})


def of_pool(clusters: Clusters, target: Target, selector: str, name: str) -> Json:
    """The pod ``name`` of the workload. Raises NotFound when it is none of its pods."""
    every = clusters.listed(target.context, PODS.path(target.namespace), labels=selector)
    found = next((pod for pod in every if pod["metadata"]["name"] == name), None)
    if found is None:
        raise NotFound(f"{target.kind} {target.namespace}/{target.name} has no pod '{name}'; it may be gone: observe again")
    return found


def node_of(clusters: Clusters, target: Target, selector: str, replica: str) -> str:
    """The node that an action on ``replica`` is about: its pod's, or the one named as ``node/<name>``."""
    if replica.startswith(NODE):
        return replica.removeprefix(NODE)
    if not replica:
        raise Unsupported(
            f"{target.kind} {target.namespace}/{target.name} runs on many nodes: name a pod or '{NODE}<name>' as the replica; "
            f"to empty a pool, shift its traffic with the traffic adapter"
        )
    node = of_pool(clusters, target, selector, replica)["spec"].get("nodeName", "")
    if not node:
        raise Conflict(f"pod {target.namespace}/{replica} is on no node yet; observe again")
    return str(node)


# --- one pod --------------------------------------------------------------------------------------------------------


def replace(clusters: Clusters, target: Target, name: str, uid: str) -> bool:
    """Delete the pod of this uid, so that its controller makes another. False when it is gone or going."""
    for left in reversed(range(TRIES)):
        pod = _same(clusters, target, name, uid)
        if pod is None or objects.terminating(pod):
            return False
        path = PODS.path(target.namespace, name)
        try:
            clusters.delete(target.context, path, uid=uid, version=pod["metadata"]["resourceVersion"])
        except Stale:
            if not left:
                raise
        except NotFound:
            return False
        else:
            return True
    raise AssertionError("unreachable")


def isolate(clusters: Clusters, target: Target, workload: Json, *, name: str, uid: str, token: str) -> bool:
    """Take the pod of this uid out of its controller and its services, and leave it running. False when it was, or is gone."""
    for left in reversed(range(TRIES)):
        pod = _same(clusters, target, name, uid)
        if pod is None or objects.terminating(pod) or objects.spelled(token) in objects.claims(pod):
            return False
        try:
            clusters.patch(target.context, PODS.path(target.namespace, name), isolation(target, pod, workload, token))
        except Stale:
            if not left:
                raise
        except NotFound:
            return False
        else:
            return True
    raise AssertionError("unreachable")


def isolation(target: Target, pod: Json, workload: Json, token: str) -> Json:
    """The patch that does it. Raises Unsupported where it would not work."""
    if target.kind == "StatefulSet":
        raise Unsupported(f"pod {pod['metadata']['name']} of a StatefulSet keeps its successor's name: REPLACE it instead")
    chosen = (workload["spec"].get("selector") or {}).get("matchLabels") or {}
    labels = {key: pod["metadata"]["labels"][key] for key in sorted(chosen)}
    if not labels:
        raise Unsupported(f"{target.kind} {target.name} selects by no matchLabels: there is no label to take away")
    metadata = objects.claimed(pod, token)
    metadata["annotations"][LABELS_BEFORE] = ",".join(f"{key}={value}" for key, value in labels.items())
    return {"metadata": {**metadata, "labels": {**dict.fromkeys(labels), QUARANTINED: target.name[:63]}}}


def _same(clusters: Clusters, target: Target, name: str, uid: str) -> Json | None:
    """The pod, if there is still one of this name and it is the same."""
    try:
        pod = clusters.get(target.context, PODS.path(target.namespace, name))
    except NotFound:
        return None
    return pod if pod["metadata"]["uid"] == uid else None


# --- one node -------------------------------------------------------------------------------------------------------


def wanted_on_node(action: Action) -> bool:
    """Whether the node is to be fenced (True) or taken back (False). Raises Unsupported for a weight in between."""
    if action.kind is Kind.DRAIN and str(action.desired) not in {"0", "100"}:
        raise Unsupported(f"drain {action.target} to {action.desired}: a node has no weights; 0 empties it, 100 takes it back")
    return action.kind is Kind.CORDON or str(action.desired) == "0"


def is_fenced(node: Json) -> bool:
    """Whether no new pod is scheduled there."""
    return bool(node["spec"].get("unschedulable"))


def fence(clusters: Clusters, context: str, name: str, token: str, *, fenced: bool) -> tuple[bool, bool]:
    """Cordon or uncordon under ``token``, once: (whether this call did it, whether it still holds)."""
    for left in reversed(range(TRIES)):
        node = clusters.get(context, NODES.path(name=name))
        if objects.spelled(token) in objects.claims(node) or is_fenced(node) == fenced:
            return False, is_fenced(node) == fenced
        patch: Json = {"metadata": objects.claimed(node, token), "spec": {"unschedulable": True if fenced else None}}
        try:
            clusters.patch(context, NODES.path(name=name), patch)
        except Stale:
            if not left:
                raise
        else:
            return True, True
    raise AssertionError("unreachable")


def evictable(clusters: Clusters, context: str, node: str) -> list[Json]:
    """The pods that a drain moves: not those of daemons, not static ones, not those that ended or are going.

    Raises Denied when one has no controller that would bring it back.
    """
    every = clusters.listed(context, PODS.path(), fields=f"spec.nodeName={node}")
    moving = [pod for pod in every if _moves(pod)]
    for pod in moving:
        if not _controller(pod):
            where = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
            raise Denied(f"node {node}: pod {where} has no controller and would not come back; delete it by hand, then drain")
    return moving


def evict(clusters: Clusters, context: str, pods: list[Json]) -> int:
    """Evict each pod; how many went. Raises CloudUnavailable when a disruption budget does not let one go yet."""
    refusals: list[str] = []
    went, waiting = 0, 0.0
    for pod in pods:
        name, namespace, uid = (pod["metadata"][key] for key in ("name", "namespace", "uid"))
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": namespace}}
        body: Json = {**eviction, "deleteOptions": {"preconditions": {"uid": uid}}}
        try:
            clusters.create(context, PODS.path(namespace, name, "eviction"), body)
        except (NotFound, Stale):
            continue
        except CloudUnavailable as error:
            if error.ambiguous:
                raise
            waiting, refusals = max(waiting, error.retry_after), [*refusals, f"{namespace}/{name}"]
        else:
            went += 1
    if refusals:
        raise CloudUnavailable(f"{went} of {len(pods)} pods evicted, {', '.join(refusals)} may not go yet", retry_after=waiting)
    return went


def _controller(pod: Json) -> str:
    owners = pod["metadata"].get("ownerReferences") or ()
    return next((str(o["kind"]) for o in owners if o.get("controller")), "")


def _moves(pod: Json) -> bool:
    gone = objects.terminating(pod) or pod.get("status", {}).get("phase") in _GONE
    return not gone and _controller(pod) != "DaemonSet" and not objects.annotation(pod, MIRROR)
