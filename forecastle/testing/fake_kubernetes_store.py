"""The objects of a fake cluster: what etcd and the API server's registry do, strictly.

resourceVersions that only grow and must match, generations by each kind's own rule, merge patches that cannot change what the
API server owns, validation of every object against the published schemas, a bounded history for watches.
"""

from __future__ import annotations

import copy
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from threading import Condition
from typing import Any, NamedTuple, TypeAlias

from forecastle.ports import Clock
from forecastle.testing.fake_kubernetes_routes import GATEWAY_ROUTE, VIRTUAL_SERVICE, wrong_weights

Json: TypeAlias = dict[str, Any]
_OWNED = ("uid", "creationTimestamp", "generation", "name", "namespace", "selfLink", "deletionTimestamp")
SCHEMAS = "1.37"


class Refused(Exception):
    """A Status other than success: ``code``, ``reason`` and ``message`` as the API server has them."""

    def __init__(self, code: int, reason: str, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.code, self.reason, self.message, self.retry_after = code, reason, message, retry_after

    def status(self) -> Json:
        """The Status object."""
        head: Json = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
        return {**head, "message": self.message, "reason": self.reason, "code": self.code}


class Served(NamedTuple):
    """A resource that the cluster serves. ``fields`` are those of a custom resource's spec; None for a built-in kind."""

    api: str
    plural: str
    kind: str
    fields: frozenset[str] | None = None
    scale: bool = False

    @property
    def group(self) -> str:
        """The API group, '' for core."""
        return self.api.rpartition("/")[0]

    @property
    def told(self) -> str:
        """As error messages name it."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


_ROLLOUT = frozenset({"replicas", "selector", "template", "strategy", "restartAt", "revisionHistoryLimit", "workloadRef"})
_CLONE_SET = frozenset({"replicas", "selector", "template", "updateStrategy", "scaleStrategy"})
_SCALED = frozenset({"scaleTargetRef", "minReplicaCount", "maxReplicaCount", "triggers", "pollingInterval", "fallback"})
SERVED = (
    Served("v1", "pods", "Pod"),
    Served("v1", "nodes", "Node"),
    Served("apps/v1", "deployments", "Deployment", scale=True),
    Served("apps/v1", "statefulsets", "StatefulSet", scale=True),
    Served("apps/v1", "replicasets", "ReplicaSet", scale=True),
    Served("apps/v1", "controllerrevisions", "ControllerRevision"),
    Served("policy/v1", "poddisruptionbudgets", "PodDisruptionBudget"),
    Served("autoscaling/v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler"),
    Served("argoproj.io/v1alpha1", "rollouts", "Rollout", _ROLLOUT, scale=True),
    Served("apps.kruise.io/v1alpha1", "clonesets", "CloneSet", _CLONE_SET, scale=True),
    Served("keda.sh/v1alpha1", "scaledobjects", "ScaledObject", _SCALED),
    Served("gateway.networking.k8s.io/v1", "httproutes", "HTTPRoute", GATEWAY_ROUTE),
    Served("gateway.networking.k8s.io/v1", "grpcroutes", "GRPCRoute", GATEWAY_ROUTE),
    Served("networking.istio.io/v1", "virtualservices", "VirtualService", VIRTUAL_SERVICE),
)
BY_KIND = {served.kind: served for served in SERVED}


class Key(NamedTuple):
    """Where an object is."""

    served: Served
    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class Event:
    """A change at ``version``, as a watch tells it."""

    version: int
    type: str
    key: Key
    found: Json


class Store:
    """Objects by key. Use it inside ``changed``, the lock that also wakes watches."""

    def __init__(self, clock: Clock) -> None:
        self.changed = Condition()
        self.clock = clock
        self.version = 100
        self.forgotten = 0
        self.objects: dict[Key, Json] = {}
        self.history: list[Event] = []

    def now(self) -> str:
        """The cluster's time as its objects spell it."""
        return spelled(self.clock.now())

    def get(self, key: Key) -> Json:
        """A copy of the object. Raises Refused 404."""
        if key not in self.objects:
            raise Refused(404, "NotFound", f'{key.served.told} "{key.name}" not found')
        return copy.deepcopy(self.objects[key])

    def every(self, kind: str, namespace: str = "") -> Iterator[tuple[Key, Json]]:
        """All objects of a kind, by name."""
        served = BY_KIND[kind]
        keys = sorted(k for k in self.objects if k.served == served and namespace in {"", k.namespace})
        return ((key, self.objects[key]) for key in keys)

    def create(self, served: Served, found: Json, *, dry_run: bool = False) -> Json:
        """A new object. Raises Refused 409 when there is one."""
        found = copy.deepcopy(found)
        metadata = found["metadata"]
        key = Key(served, metadata.get("namespace", ""), metadata["name"])
        if key in self.objects:
            raise Refused(409, "AlreadyExists", f'{served.told} "{key.name}" already exists')
        found = {"apiVersion": served.api, "kind": served.kind, **found}
        metadata |= {"uid": str(uuid.uuid4()), "creationTimestamp": self.now()}
        if _counts_generations(served):
            metadata["generation"] = 1
        check(served, found)
        return found if dry_run else self._kept("ADDED", key, found)

    def update(self, key: Key, change: Callable[[Json], Json], *, status: bool = False, dry_run: bool = False) -> Json:
        """The object after ``change`` of a copy. Raises Refused: 404, 409 for an old resourceVersion, 422 for nonsense."""
        old = self.get(key)
        new = change(copy.deepcopy(old))
        said, metadata = new["metadata"].get("resourceVersion"), new["metadata"]
        if said is not None and said != old["metadata"]["resourceVersion"]:
            text = "the object has been modified; please apply your changes to the latest version and try again"
            raise Refused(409, "Conflict", f'Operation cannot be fulfilled on {key.served.told} "{key.name}": {text}')
        metadata |= {name: old["metadata"][name] for name in _OWNED if name in old["metadata"]}
        metadata["resourceVersion"] = old["metadata"]["resourceVersion"]
        if not status:
            new.pop("status", None)
            new |= {"status": old["status"]} if "status" in old else {}
            _check_immutable(key.served, old, new)
        if new == old:
            return old
        if not status and _counts_generations(key.served) and _is_new_generation(key.served, old, new):
            metadata["generation"] = old["metadata"]["generation"] + 1
        check(key.served, new)
        return new if dry_run else self._kept("MODIFIED", key, new)

    def remove(self, key: Key) -> None:
        """The object is gone."""
        found = self.objects.pop(key)
        self.version += 1
        found["metadata"]["resourceVersion"] = str(self.version)
        self._told("DELETED", key, found)

    def compact(self) -> None:
        """Forget the history, as etcd does after a while: older watches are 410 Gone."""
        with self.changed:
            self.history.clear()
            self.forgotten = self.version

    def _kept(self, event: str, key: Key, found: Json) -> Json:
        self.version += 1
        found["metadata"]["resourceVersion"] = str(self.version)
        self.objects[key] = found
        self._told(event, key, found)
        return copy.deepcopy(found)

    def _told(self, event: str, key: Key, found: Json) -> None:
        self.history.append(Event(self.version, event, key, copy.deepcopy(found)))
        self.changed.notify_all()


def spelled(at: int) -> str:
    """``at`` (ms) in RFC 3339, to the second."""
    return datetime.fromtimestamp(at // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _counts_generations(served: Served) -> bool:
    return served.fields is not None or served.group in {"apps", "policy"}


def _is_new_generation(served: Served, old: Json, new: Json) -> bool:
    """Specs count; for Deployments so do annotations; for custom resources all but metadata and status."""
    if served.fields is not None:
        return any(old.get(k) != new.get(k) for k in {*old, *new} - {"metadata", "status"})
    annotations = [o["metadata"].get("annotations") or {} for o in (old, new)]
    return old.get("spec") != new.get("spec") or (served.kind == "Deployment" and annotations[0] != annotations[1])


def _check_immutable(served: Served, old: Json, new: Json) -> None:
    before, after = old.get("spec") or {}, new.get("spec") or {}
    fixed = {"Pod": tuple({*before, *after} - {"tolerations"}), "Deployment": ("selector",)}
    fixed["StatefulSet"] = ("selector", "serviceName", "podManagementPolicy", "volumeClaimTemplates")
    for field in fixed.get(served.kind, ()):
        if before.get(field) != after.get(field):
            raise Refused(
                422, "Invalid", f'{served.told} "{new["metadata"]["name"]}" is invalid: spec.{field}: field is immutable'
            )


# --- validation -----------------------------------------------------------------------------------------------------


def check(served: Served, found: Json) -> None:
    """Validate a whole object strictly. Raises Refused 422."""
    name = found["metadata"].get("name", "")
    if served.fields is not None:
        if unknown := set(found.get("spec") or {}) - served.fields:
            raise Refused(422, "Invalid", f'{served.told} "{name}" is invalid: unknown field "spec.{min(unknown)}"')
        if wrong := wrong_weights(served.kind, found.get("spec") or {}):
            raise Refused(422, "Invalid", f'{served.told} "{name}" is invalid: {wrong}')
        return
    _check_semantics(served, found)
    check_schema(found)


def check_schema(found: Json) -> None:
    """Against the published schema of the object's apiVersion and kind. Raises Refused 422."""
    error = next(_validator(found["apiVersion"], found["kind"]).iter_errors(found), None)
    if error is not None:
        where = ".".join(str(part) for part in error.path)
        raise Refused(422, "Invalid", f"{found['kind']} is invalid: {where}: {error.message}")


def _check_semantics(served: Served, found: Json) -> None:
    """What the schemas do not say and the API server does."""
    spec = found.get("spec") or {}
    if spec.get("replicas", 0) < 0 if isinstance(spec.get("replicas", 0), int) else False:
        raise Refused(422, "Invalid", f"{served.told}: spec.replicas: Invalid value: must be greater than or equal to 0")
    if served.kind == "HorizontalPodAutoscaler":
        least, most = spec.get("minReplicas", 1), spec.get("maxReplicas", 0)
        if least < 1 or least > most:
            raise Refused(422, "Invalid", f"{served.told}: spec.minReplicas: Invalid value: {least}: must be 1 to {most}")
    chosen = (spec.get("selector") or {}).get("matchLabels") if served.group == "apps" else None
    labels = ((spec.get("template") or {}).get("metadata") or {}).get("labels") or {}
    if chosen and any(labels.get(key) != value for key, value in chosen.items()):
        raise Refused(422, "Invalid", f"{served.told}: spec.template.metadata.labels: `selector` does not match them")


@cache
def _validator(api: str, kind: str) -> Any:
    """The strict validator that kubernetes-validate would build, built once."""
    import jsonschema
    from kubernetes_validate.utils import schema_contents
    from referencing import Registry, Resource

    group, _, rest = api.partition("/")
    folder = f"kubernetes-json-schema/v{_newest()}-local-strict"
    named = f"{kind.lower()}-{group.split('.')[0]}-{rest}" if rest else f"{kind.lower()}-{group}"
    schema = schema_contents(f"{folder}/{named}.json", SCHEMAS)
    definitions = Resource.from_contents(schema_contents(f"{folder}/_definitions.json", SCHEMAS))
    registry: Any = definitions @ (Resource.from_contents(schema) @ Registry())
    return jsonschema.validators.Draft202012Validator(schema, registry=registry)


@cache
def _newest() -> str:
    from kubernetes_validate.utils import all_versions

    return str(all_versions()[-1])
