"""What the adapter reads in Kubernetes objects: pure functions of their JSON, and where to find them.

A version is made from what was asked for (the spec) and by whom (our own mark), never from ``resourceVersion``: that moves with
every status update, and an action that presumes a state would hardly ever find it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime

from forecastle.clouds.kubernetes_api import Json
from forecastle.errors import ConfigError
from forecastle.types import Pool, digest

LAST_ACTIONS = "forecastle.dev/last-actions"
GENERATION = "forecastle.dev/generation"
REMEMBERED = 32
CONTROLS = ("replicas", "hpa-min", "keda-min", "keda-pause")
_KEYS = ("context", "namespace", "kind", "name", "scale", "api", "plural")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_TOKEN = re.compile(r"[0-9A-Za-z._/-]{1,64}")
_BROKEN = frozenset(
    [
        "CrashLoopBackOff",
        "ImagePullBackOff",
        "ErrImagePull",
        "InvalidImageName",
        "CreateContainerConfigError",
        "CreateContainerError",
        "RunContainerError",
        "StartError",
    ]
)


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind as the API names it. ``templated``: replicas at ``spec.replicas`` and pods made from ``spec.template``."""

    api: str
    plural: str
    templated: bool = True

    def path(self, namespace: str = "", name: str = "", sub: str = "") -> str:
        """URL path of a collection, an object or a subresource; cluster-wide without ``namespace``."""
        parts = ["/api" if "/" not in self.api else "/apis", self.api]
        parts += ["namespaces", namespace] if namespace else []
        return "/".join([*parts, self.plural, *filter(None, (name, sub))])


KINDS = {
    "Deployment": Resource("apps/v1", "deployments"),
    "StatefulSet": Resource("apps/v1", "statefulsets"),
    "Rollout": Resource("argoproj.io/v1alpha1", "rollouts"),
}
PODS, NODES = Resource("v1", "pods"), Resource("v1", "nodes")
REPLICA_SETS = Resource("apps/v1", "replicasets")
CONTROLLER_REVISIONS = Resource("apps/v1", "controllerrevisions")
HPAS = Resource("autoscaling/v2", "horizontalpodautoscalers")
SCALED_OBJECTS = Resource("keda.sh/v1alpha1", "scaledobjects")


@dataclass(frozen=True, slots=True)
class Target:
    """`Pool.target`, understood: which object of which cluster, and where its replica count is asked for (one of CONTROLS).

    An empty ``scale`` leaves that to what is found: a ScaledObject's floor where KEDA owns the workload, else its replicas.
    """

    context: str
    namespace: str
    kind: str
    name: str
    resource: Resource
    scale: str = ""

    @classmethod
    def of(cls, pool: Pool) -> Target:
        """Raises ConfigError that says which key of the pool's target is wrong."""
        given = dict(pool.target)
        if unknown := sorted(set(given) - set(_KEYS)):
            raise ConfigError(f"pool '{pool.name}': target has no '{unknown[0]}'; it has {', '.join(_KEYS)}")
        for key in ("namespace", "name"):
            if not _NAME.fullmatch(given.get(key, "")):
                raise ConfigError(f"pool '{pool.name}': target.{key} is '{given.get(key, '')}'; write the object's {key}")
        if (scale := given.get("scale", "")) not in {"", *CONTROLS}:
            raise ConfigError(f"pool '{pool.name}': target.scale is '{scale}'; write one of {', '.join(CONTROLS)}")
        kind = given.get("kind", "Deployment")
        return cls(given.get("context", ""), given["namespace"], kind, given["name"], _resource(pool, kind), scale)

    def path(self, sub: str = "") -> str:
        """URL path of the workload, or of a subresource."""
        return self.resource.path(self.namespace, self.name, sub)


def _resource(pool: Pool, kind: str) -> Resource:
    api, plural = pool.target.get("api", ""), pool.target.get("plural", "")
    if kind in KINDS and api in {"", KINDS[kind].api}:
        return KINDS[kind]
    if api and _NAME.fullmatch(plural):
        return Resource(api, plural, templated=False)
    known = ", ".join(KINDS)
    raise ConfigError(
        f"pool '{pool.name}': target.kind is '{kind}'; write one of {known}, or give target.api (group/version) and "
        f"target.plural of a resource that has /scale"
    )


# --- our mark on an object ------------------------------------------------------------------------------------------


def annotation(found: Json, name: str) -> str:
    """An annotation's value, '' when there is none."""
    return str((found["metadata"].get("annotations") or {}).get(name, ""))


def claims(found: Json) -> dict[str, str]:
    """The last actions whose effect this object carries, newest first: token to what it was about ('' when that is all)."""
    entries = (entry.partition("@") for entry in annotation(found, LAST_ACTIONS).split())
    return {token: about for token, _, about in entries}


def claimed(found: Json, token: str, about: str = "") -> Json:
    """The metadata of a write that leaves ``token`` on the object, on condition that the object is still as ``found``."""
    earlier = [entry for entry in annotation(found, LAST_ACTIONS).split() if entry.partition("@")[0] != spelled(token)]
    entries = [f"{spelled(token)}@{about}" if about else spelled(token), *earlier][:REMEMBERED]
    return {"resourceVersion": found["metadata"]["resourceVersion"], "annotations": {LAST_ACTIONS: " ".join(entries)}}


def spelled(token: str) -> str:
    """A token as it is written into an annotation: itself where it has no character that the list uses."""
    return token if _TOKEN.fullmatch(token) else digest(token)


def version(*found: Json) -> str:
    """What tells two states of these objects apart: their identity, spec and our mark."""
    parts = ((o["metadata"]["uid"], json.dumps(o.get("spec"), sort_keys=True), annotation(o, LAST_ACTIONS)) for o in found)
    return digest(*(part for each in parts for part in each))[:16]


# --- workloads and pods ---------------------------------------------------------------------------------------------


def release(template: Json | None) -> str:
    """What a pod template runs: its containers' images."""
    return ",".join(c.get("image", "") for c in ((template or {}).get("spec") or {}).get("containers", ()))


def selector_text(selector: Json | None) -> str:
    """A label selector as the API's query spells it. Raises ConfigError for an empty one: it would select every pod."""
    words = [f"{key}={value}" for key, value in sorted(((selector or {}).get("matchLabels") or {}).items())]
    for term in (selector or {}).get("matchExpressions") or ():
        key, values = term["key"], ",".join(term.get("values") or ())
        spelled_as = {
            "In": f"{key} in ({values})",
            "NotIn": f"{key} notin ({values})",
            "Exists": key,
            "DoesNotExist": f"!{key}",
        }
        words.append(spelled_as[term["operator"]])
    if not words:
        raise ConfigError("the workload's spec.selector is empty: it would select every pod of the namespace")
    return ",".join(words)


def terminating(pod: Json) -> bool:
    """Whether the pod was deleted and is on its way out."""
    return "deletionTimestamp" in pod["metadata"]


def condition(found: Json, name: str) -> Json:
    """The condition ``name`` of an object's status, empty when it has none."""
    conditions = found.get("status", {}).get("conditions") or ()
    return next((c for c in conditions if c["type"] == name), {})


def is_ready(pod: Json) -> bool:
    """Whether the pod serves."""
    return not terminating(pod) and condition(pod, "Ready").get("status") == "True"


def is_unhealthy(pod: Json, *, before: int) -> bool:
    """Whether the pod will not become ready by waiting: broken, lost, or not ready since before ``before`` (ms).

    One that no node has room for is not: another in its place would wait as well.
    """
    if terminating(pod) or is_ready(pod) or not pod["spec"].get("nodeName"):
        return False
    status = pod.get("status", {})
    states = [c.get("state") or {} for c in status.get("containerStatuses") or ()]
    if status.get("phase") in {"Failed", "Unknown"} or any(s.get("waiting", {}).get("reason") in _BROKEN for s in states):
        return True
    since = condition(pod, "Ready").get("lastTransitionTime") or pod["metadata"]["creationTimestamp"]
    return bool(milliseconds(since) < before)


def milliseconds(rfc3339: str) -> int:
    """A timestamp of the API in ms since the epoch."""
    return int(datetime.fromisoformat(rfc3339).timestamp() * 1000)


def rfc3339(at: int) -> str:
    """``at`` (ms) as the API writes times, to the second."""
    return datetime.fromtimestamp(at // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def merge_patch(old: Json, new: Json) -> Json:
    """The JSON merge patch (RFC 7396) that makes ``new`` of ``old``: what is gone is null."""
    patch: Json = {key: None for key in old if key not in new}
    for key, value in new.items():
        before = old.get(key)
        if isinstance(value, dict) and isinstance(before, dict):
            if inner := merge_patch(before, value):
                patch[key] = inner
        elif value != before:
            patch[key] = value
    return patch
