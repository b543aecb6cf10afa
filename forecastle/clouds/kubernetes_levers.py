"""Where a workload's replica count is asked for, so that no autoscaler is ever fought.

The workload itself, the floor of its HorizontalPodAutoscaler, or the floor or pause of the KEDA ScaledObject that owns it. The
token is written with the count, in one conditional write, wherever the count is a field of an object with annotations.
"""

from __future__ import annotations

from dataclasses import dataclass

from forecastle.clouds import kubernetes_objects as objects
from forecastle.clouds.kubernetes_api import Clusters, Json
from forecastle.clouds.kubernetes_objects import HPAS, SCALED_OBJECTS, Target
from forecastle.errors import NotFound, Unsupported

PAUSED = "autoscaling.keda.sh/paused-replicas"
_KEDA = {"keda-min", "keda-pause"}


@dataclass(frozen=True, slots=True)
class Lever:
    """The object at ``path`` whose ``field`` says how many ``replicas``; ``field`` is a key of the spec, or PAUSED.

    ``most`` is what the object's owner allows; ``taken`` names who else decides the count, '' when nobody does. ``scale`` is
    the scale subresource where the count can only be reached through that.
    """

    path: str
    found: Json
    field: str
    replicas: int
    most: int | None = None
    taken: str = ""
    scale: Json | None = None

    def write(self, replicas: int, token: str) -> Json:
        """The patch that asks for ``replicas`` and remembers ``token``, on condition that nothing changed."""
        metadata = objects.claimed(self.found, token)
        if self.field == PAUSED:
            metadata["annotations"][PAUSED] = str(replicas)
            return {"metadata": metadata}
        return {"metadata": metadata, "spec": {self.field: replicas}}


@dataclass(frozen=True, slots=True)
class Sight:
    """A pool as it was read: the workload, where its count is asked for, and the version of both."""

    target: Target
    workload: Json
    lever: Lever

    @property
    def version(self) -> str:
        """Changes with every effect and with whatever else changes the spec."""
        if self.lever.found is self.workload:
            return objects.version(self.workload)
        return objects.version(self.workload, self.lever.found)

    @property
    def selector(self) -> str:
        """The label selector of the workload's pods. Raises Unsupported where the resource does not tell it."""
        if self.lever.scale is not None:
            told = str(self.lever.scale.get("status", {}).get("selector") or "")
            if not told:
                raise Unsupported(f"{self.target.path('scale')} tells no status.selector; give its CRD a labelSelectorPath")
            return told
        return objects.selector_text(self.workload["spec"].get("selector"))


def lever(clusters: Clusters, target: Target, workload: Json) -> Lever:
    """The lever that the target asks for, or that the workload's owner leaves. Raises NotFound when it is not there."""
    if target.scale in _KEDA:
        return _keda(clusters, target, workload, target.scale)
    if target.scale == "hpa-min":
        found = _governing(clusters, target)
        if found is None:
            raise NotFound(f"no HorizontalPodAutoscaler scales {target.kind} {target.namespace}/{target.name}; create one")
        return _floor(found)
    found = _governing(clusters, target) if not target.scale else None
    if found is not None and _owner(found):
        return _keda(clusters, target, workload, "keda-min")
    return _own(clusters, target, workload, f"HorizontalPodAutoscaler {found['metadata']['name']}" if found else "")


def _own(clusters: Clusters, target: Target, workload: Json, taken: str) -> Lever:
    path = target.path()
    if target.resource.templated:
        return Lever(path, workload, "replicas", int(workload["spec"].get("replicas", 1)), taken=taken)
    scale = clusters.get(target.context, target.path("scale"))
    return Lever(path, workload, "replicas", int(scale.get("spec", {}).get("replicas", 0)), taken=taken, scale=scale)


def _floor(found: Json) -> Lever:
    path = HPAS.path(found["metadata"]["namespace"], found["metadata"]["name"])
    return Lever(path, found, "minReplicas", int(found["spec"].get("minReplicas", 1)), most=int(found["spec"]["maxReplicas"]))


def _keda(clusters: Clusters, target: Target, workload: Json, control: str) -> Lever:
    every = clusters.listed(target.context, SCALED_OBJECTS.path(target.namespace))
    found = next((o for o in every if _is_about(o["spec"]["scaleTargetRef"], target)), None)
    if found is None:
        raise NotFound(f"no ScaledObject scales {target.kind} {target.namespace}/{target.name}; create one")
    path, most = (
        SCALED_OBJECTS.path(target.namespace, found["metadata"]["name"]),
        int(found["spec"].get("maxReplicaCount", 100)),
    )
    if control == "keda-pause":
        paused = objects.annotation(found, PAUSED) or workload["spec"].get("replicas", 1)
        return Lever(path, found, PAUSED, int(paused), most=most)
    return Lever(path, found, "minReplicaCount", int(found["spec"].get("minReplicaCount", 0)), most=most)


def _governing(clusters: Clusters, target: Target) -> Json | None:
    every = clusters.listed(target.context, HPAS.path(target.namespace))
    return next((o for o in every if _is_about(o["spec"]["scaleTargetRef"], target)), None)


def _is_about(reference: Json, target: Target) -> bool:
    """A reference without a kind is to a Deployment, as KEDA has it."""
    return (reference.get("kind", "Deployment"), reference["name"]) == (target.kind, target.name)


def _owner(found: Json) -> str:
    owners = found["metadata"].get("ownerReferences") or ()
    return next((str(o["name"]) for o in owners if o["kind"] == "ScaledObject"), "")
