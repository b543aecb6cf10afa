"""What the fake's controllers read and write in objects: pure functions, and the rule of disruption budgets."""

from __future__ import annotations

import json
from datetime import datetime
from hashlib import sha256
from typing import Any

from forecastle.testing.fake_kubernetes_store import Json, Refused, Store


def is_ready(pod: Json) -> bool:
    """Whether the pod's Ready condition holds."""
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod.get("status", {}).get("conditions", ()))


def disruption(store: Store, pod: Json) -> None:
    """Raises Refused 429 when a PodDisruptionBudget does not let this pod be evicted now."""
    for _, budget in store.every("PodDisruptionBudget", pod["metadata"]["namespace"]):
        chosen = budget["spec"]["selector"]["matchLabels"].items()
        if not chosen <= pod["metadata"].get("labels", {}).items():
            continue
        pods = [p for _, p in store.every("Pod", pod["metadata"]["namespace"]) if chosen <= p["metadata"]["labels"].items()]
        healthy = [p for p in pods if is_ready(p) and not p["metadata"].get("deletionTimestamp")]
        if is_ready(pod) and len(healthy) - 1 < budget["spec"]["minAvailable"]:
            name = budget["metadata"]["name"]
            text = f"The disruption budget {name} needs {budget['spec']['minAvailable']} healthy pods and has {len(healthy)}"
            said = "Cannot evict pod as it would violate the pod's disruption budget."
            raise Refused(429, "TooManyRequests", f"{said} {text}", retry_after=10)


def clamped(low: int, high: int, n: int) -> int:
    """``n`` within the bounds."""
    return min(max(n, low), high)


def restated(status: Json, found: Json) -> Json:
    """The object with another status."""
    return {**found, "status": status}


def template_hash(template: Json) -> str:
    """What tells pod templates apart."""
    return sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:10]


def milliseconds(spelled: str) -> int:
    """A timestamp in ms."""
    return int(datetime.fromisoformat(spelled).timestamp() * 1000)


def born(pod: Json) -> int:
    """When the object was created, ms."""
    return milliseconds(pod["metadata"]["creationTimestamp"])


def owner_reference(api: str, found: Json) -> Json:
    """A controlling reference to an object."""
    about = {"apiVersion": api, "kind": found["kind"], "name": found["metadata"]["name"], "uid": found["metadata"]["uid"]}
    return {**about, "controller": True, "blockOwnerDeletion": True}


def owners(found: Json) -> list[Json]:
    """The references to what owns an object."""
    return list(found["metadata"].get("ownerReferences") or ())


def is_of(found: Json, uid: str) -> bool:
    """Whether the owner of this uid owns the object."""
    return any(r["uid"] == uid for r in owners(found))


def with_values(found: Json, field: str, **values: Any) -> Json:
    """The object with these values in one of its fields."""
    return {**found, field: {**(found.get(field) or {}), **values}}


def noted(found: Json, name: str, value: str) -> Json:
    """The object with an annotation."""
    annotations = {**(found["metadata"].get("annotations") or {}), name: value}
    return with_values(found, "metadata", annotations=annotations)


def ready_condition(status: str, at: str) -> list[Json]:
    """Conditions of a pod that is ready, or not, since ``at``."""
    return [{"type": "Ready", "status": status, "lastTransitionTime": at}]


def pending(store: Store) -> Json:
    """The status of a pod that was just made."""
    return {"phase": "Pending", "conditions": ready_condition("False", store.now())}
