"""Restarting, and going back to an earlier release: changes of a workload's pod template, one conditional write each.

An Argo Rollout is restarted by its own ``restartAt``: a changed template would start a canary of what runs already.
"""

from __future__ import annotations

from forecastle.clouds import kubernetes_objects as objects
from forecastle.clouds.kubernetes_api import Clusters, Json
from forecastle.clouds.kubernetes_objects import CONTROLLER_REVISIONS, GENERATION, REPLICA_SETS, Target
from forecastle.errors import NotFound, Unsupported
from forecastle.types import Action

_REVISIONS = {"Deployment": "deployment.kubernetes.io/revision", "Rollout": "rollout.argoproj.io/revision"}
_HASHES = ("pod-template-hash", "rollouts-pod-template-hash", "controller-revision-hash")


def template(target: Target, workload: Json) -> Json:
    """The workload's pod template. Raises Unsupported where it is kept elsewhere."""
    found = workload["spec"].get("template") if target.resource.templated else None
    if not found:
        raise Unsupported(f"{target.kind} {target.namespace}/{target.name} has no spec.template: only SCALE is for such a kind")
    return dict(found)


def restarted(target: Target, workload: Json, generation: str) -> bool:
    """Whether the workload was restarted as ``generation``, or as a later one where both are times."""
    if target.kind == "Rollout":
        last = objects.annotation(workload, GENERATION)
    else:
        last = (template(target, workload).get("metadata", {}).get("annotations") or {}).get(GENERATION, "")
    return last == generation or (last.isdigit() and generation.isdigit() and int(last) >= int(generation))


def restart(target: Target, workload: Json, action: Action, token: str) -> Json:
    """The patch that starts every pod anew."""
    metadata, generation = objects.claimed(workload, token), str(action.desired)
    if target.kind == "Rollout":
        metadata["annotations"][GENERATION] = generation
        return {"metadata": metadata, "spec": {"restartAt": objects.rfc3339(action.tick)}}
    template(target, workload)
    return {"metadata": metadata, "spec": {"template": {"metadata": {"annotations": {GENERATION: generation}}}}}


def rollback(clusters: Clusters, target: Target, workload: Json, action: Action, token: str) -> Json:
    """The patch that brings back the template of the newest revision that ran ``action.desired``. Raises NotFound."""
    now, wanted = template(target, workload), str(action.desired)
    earlier = [t for t in _revisions(clusters, target, workload) if objects.release(t) == wanted]
    if not earlier:
        raise NotFound(
            f"{action.pool}: no revision of {target.kind} {target.namespace}/{target.name} is kept that ran '{wanted}'"
        )
    return {"metadata": objects.claimed(workload, token), "spec": {"template": objects.merge_patch(now, earlier[0])}}


def _revisions(clusters: Clusters, target: Target, workload: Json) -> list[Json]:
    """Pod templates that the workload had, newest first, as the workload would spell them."""
    selector = objects.selector_text(workload["spec"].get("selector"))
    kept = CONTROLLER_REVISIONS if target.kind == "StatefulSet" else REPLICA_SETS
    every = clusters.listed(target.context, kept.path(target.namespace), labels=selector)
    mine = [
        o for o in every if any(r["uid"] == workload["metadata"]["uid"] for r in o["metadata"].get("ownerReferences") or ())
    ]
    if target.kind == "StatefulSet":
        ordered = sorted(mine, key=lambda o: int(o["revision"]), reverse=True)
        return [_bare(o["data"]["spec"]["template"]) for o in ordered]
    number = _REVISIONS[target.kind]
    ordered = sorted(mine, key=lambda o: int(objects.annotation(o, number) or 0), reverse=True)
    return [_bare(o["spec"]["template"]) for o in ordered]


def _bare(found: Json) -> Json:
    """A kept template without the labels that controllers put on it."""
    metadata = found.get("metadata") or {}
    labels = {key: value for key, value in (metadata.get("labels") or {}).items() if key not in _HASHES}
    return {**{key: value for key, value in found.items() if key != "$patch"}, "metadata": {**metadata, "labels": labels}}
