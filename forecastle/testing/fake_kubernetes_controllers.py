"""The controllers of a fake cluster, run to rest whenever it is asked something: pods follow specs, statuses follow pods.

They write through the store like everybody else, so resourceVersions move and statuses lag exactly as far as the clock says.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any

from forecastle.testing.fake_kubernetes_facts import (
    born,
    clamped,
    is_of,
    is_ready,
    milliseconds,
    noted,
    owner_reference,
    owners,
    pending,
    ready_condition,
    restated,
    template_hash,
    with_values,
)
from forecastle.testing.fake_kubernetes_store import BY_KIND, Json, Key, Store

MANAGED = ("Deployment", "Rollout", "CloneSet", "StatefulSet")
REVISION = {"Deployment": "deployment.kubernetes.io/revision", "Rollout": "rollout.argoproj.io/revision"}
HASH = {"Deployment": "pod-template-hash", "Rollout": "rollouts-pod-template-hash", "CloneSet": "pod-template-hash"}
PAUSED = "autoscaling.keda.sh/paused-replicas"
GRACE_MS = 30_000
REVISIONS = 10
_ROUNDS = 20


class Controllers:
    """Bring the cluster to where its specs want it at the clock's now. A pod is ready ``startup_ms`` after its creation."""

    def __init__(self, store: Store, startup_ms: int) -> None:
        self._store = store
        self.startup_ms = startup_ms
        self.sick: set[str] = set()
        self._born = count(1)
        self._rested: tuple[object, ...] = ()

    def settle(self) -> None:
        """Run every controller until none has anything left to do; nothing is done where nothing changed since."""
        if self._rested == self._state():
            return
        for _ in range(_ROUNDS):
            before = self._store.version
            self._autoscale()
            self._collect_pods()
            for kind in MANAGED:
                for key, _ in list(self._store.every(kind)):
                    self._reconcile(kind, key)
            self._schedule_and_start()
            self._report()
            if self._store.version == before:
                self._rested = self._state()
                return
        raise AssertionError("the fake's controllers do not come to rest")

    def _state(self) -> tuple[object, ...]:
        """All that the controllers go by."""
        return self._store.version, self._store.clock.now(), frozenset(self.sick), self.startup_ms

    # --- autoscalers: KEDA makes an HPA, an HPA keeps its floor ---

    def _autoscale(self) -> None:
        for _, scaled in list(self._store.every("ScaledObject")):
            self._keda(scaled)
        for _, hpa in list(self._store.every("HorizontalPodAutoscaler")):
            spec, namespace = hpa["spec"], hpa["metadata"]["namespace"]
            floor, ceiling = spec.get("minReplicas", 1), spec["maxReplicas"]
            self._resize(spec["scaleTargetRef"], namespace, partial(clamped, floor, ceiling))

    def _keda(self, scaled: Json) -> None:
        spec, metadata = scaled["spec"], scaled["metadata"]
        name, served = f"keda-hpa-{metadata['name']}", BY_KIND["HorizontalPodAutoscaler"]
        key, paused = Key(served, metadata["namespace"], name), (metadata.get("annotations") or {}).get(PAUSED)
        if paused is not None:
            if key in self._store.objects:
                self._store.remove(key)
            self._resize(spec["scaleTargetRef"], metadata["namespace"], lambda _: int(paused))
            return
        reference = {"apiVersion": "apps/v1", "kind": "Deployment", **spec["scaleTargetRef"]}
        floor, most = max(spec.get("minReplicaCount", 0), 1), spec.get("maxReplicaCount", 100)
        wanted = {"scaleTargetRef": reference, "minReplicas": floor, "maxReplicas": most}
        if key in self._store.objects:
            self._store.update(key, lambda o: {**o, "spec": wanted})
            return
        about = {
            "name": name,
            "namespace": metadata["namespace"],
            "ownerReferences": [owner_reference("keda.sh/v1alpha1", scaled)],
        }
        self._store.create(served, {"metadata": about, "spec": wanted})

    def _resize(self, reference: Json, namespace: str, sized: Callable[[int], int]) -> None:
        key = Key(BY_KIND[reference.get("kind", "Deployment")], namespace, reference["name"])
        if key in self._store.objects:
            self._store.update(key, lambda o: with_values(o, "spec", replicas=sized(o["spec"].get("replicas", 1))))

    # --- pods end ---

    def _collect_pods(self) -> None:
        now = self._store.clock.now()
        for key, pod in list(self._store.every("Pod")):
            if (
                pod["metadata"].get("deletionTimestamp")
                and now >= milliseconds(pod["metadata"]["deletionTimestamp"]) + GRACE_MS
            ):
                self._store.remove(key)

    # --- workloads make pods ---

    def _reconcile(self, kind: str, key: Key) -> None:
        workload = self._store.objects[key]
        hashed = template_hash(workload["spec"]["template"])
        if kind == "StatefulSet":
            self._keep_revision(workload, hashed)
            self._stateful_pods(workload, hashed)
        else:
            owner = self._keep_replica_set(kind, key, hashed) if kind in REVISION else workload
            self._stateless_pods(kind, workload, owner, hashed)

    def _keep_replica_set(self, kind: str, key: Key, hashed: str) -> Json:
        """The ReplicaSet of the present template, with the newest revision number, which the workload is told."""
        workload, note = self._store.objects[key], REVISION[kind]
        uid, name = workload["metadata"]["uid"], f"{key.name}-{hashed}"
        mine = [o for _, o in self._store.every("ReplicaSet", key.namespace) if is_of(o, uid)]
        newest = max((int(o["metadata"]["annotations"][note]) for o in mine), default=0)
        found = next((o for o in mine if o["metadata"]["name"] == name), None)
        if found is None:
            found = self._new_replica_set(kind, workload, hashed, newest + 1)
        elif int(found["metadata"]["annotations"][note]) < newest:
            at = Key(BY_KIND["ReplicaSet"], key.namespace, name)
            found = self._store.update(at, lambda o: noted(o, note, str(newest + 1)))
        number = found["metadata"]["annotations"][note]
        self._store.update(key, lambda o: noted(o, note, number))
        for old in sorted(mine, key=lambda o: int(o["metadata"]["annotations"][note]))[:-REVISIONS]:
            self._store.remove(Key(BY_KIND["ReplicaSet"], key.namespace, old["metadata"]["name"]))
        return found

    def _new_replica_set(self, kind: str, workload: Json, hashed: str, revision: int) -> Json:
        metadata, template = workload["metadata"], copy.deepcopy(workload["spec"]["template"])
        template["metadata"]["labels"][HASH[kind]] = hashed
        labels = template["metadata"]["labels"]
        about = {
            "name": f"{metadata['name']}-{hashed}",
            "namespace": metadata["namespace"],
            "labels": labels,
            "annotations": {REVISION[kind]: str(revision)},
            "ownerReferences": [owner_reference(workload["apiVersion"], workload)],
        }
        spec = {"replicas": 0, "selector": {"matchLabels": labels}, "template": template}
        return self._store.create(BY_KIND["ReplicaSet"], {"metadata": about, "spec": spec})

    def _keep_revision(self, workload: Json, hashed: str) -> None:
        metadata = workload["metadata"]
        mine = [o for _, o in self._store.every("ControllerRevision", metadata["namespace"]) if is_of(o, metadata["uid"])]
        newest = max((o["revision"] for o in mine), default=0)
        name = f"{metadata['name']}-{hashed}"
        found = next((o for o in mine if o["metadata"]["name"] == name), None)
        if found is None:
            labels = workload["spec"]["template"]["metadata"]["labels"]
            owners = [owner_reference(workload["apiVersion"], workload)]
            about = {"name": name, "namespace": metadata["namespace"], "labels": labels, "ownerReferences": owners}
            data = {"spec": {"template": {**workload["spec"]["template"], "$patch": "replace"}}}
            self._store.create(BY_KIND["ControllerRevision"], {"metadata": about, "revision": newest + 1, "data": data})
        elif found["revision"] < newest:
            key = Key(BY_KIND["ControllerRevision"], metadata["namespace"], name)
            self._store.update(key, lambda o: {**o, "revision": newest + 1})

    def _stateless_pods(self, kind: str, workload: Json, owner: Json, hashed: str) -> None:
        """New pods at once, old ones as soon as new ones serve: a rolling update with full surge."""
        wanted = workload["spec"].get("replicas", 1)
        alive = [pod for pod in self._pods(workload) if not pod["metadata"].get("deletionTimestamp")]
        restart_at = milliseconds(workload["spec"].get("restartAt") or "1970-01-01T00:00:00Z")
        stale_before = restart_at if restart_at <= self._store.clock.now() else 0
        fresh = [pod for pod in alive if pod["metadata"]["labels"].get(HASH[kind]) == hashed and born(pod) >= stale_before]
        old = [pod for pod in alive if pod not in fresh]
        for pod in sorted(fresh, key=lambda p: (is_ready(p), -born(p)))[: max(len(fresh) - wanted, 0)]:
            self.delete_pod(pod)
        for _ in range(wanted - len(fresh)):
            self._new_pod(workload, owner, f"{owner['metadata']['name']}-{next(self._born):05x}", hashed, HASH[kind])
        spare = len(old) - max(wanted - sum(map(is_ready, fresh)), 0)
        for pod in sorted(old, key=lambda p: (is_ready(p), born(p)))[: max(spare, 0)]:
            self.delete_pod(pod)

    def _stateful_pods(self, workload: Json, hashed: str) -> None:
        """Ordinals 0 to n-1; an update replaces the highest stale one while all others serve."""
        name, wanted, label = workload["metadata"]["name"], workload["spec"].get("replicas", 1), "controller-revision-hash"
        there = {pod["metadata"]["name"]: pod for pod in self._pods(workload)}
        taken = {pod["metadata"]["name"] for _, pod in self._store.every("Pod", workload["metadata"]["namespace"])}
        ordered = [f"{name}-{i}" for i in range(wanted)]
        for pod in [p for n, p in there.items() if n not in ordered]:
            self.delete_pod(pod)
        for missing in [n for n in ordered if n not in taken]:
            self._new_pod(workload, workload, missing, hashed, label)
        stale = [n for n in ordered if n in there and there[n]["metadata"]["labels"].get(label) != hashed]
        if stale and all(n in there and is_ready(there[n]) for n in ordered if n not in stale):
            self.delete_pod(there[stale[-1]])

    def _pods(self, workload: Json) -> list[Json]:
        chosen, uid = workload["spec"]["selector"]["matchLabels"].items(), workload["metadata"]["uid"]
        every = (pod for _, pod in self._store.every("Pod", workload["metadata"]["namespace"]))
        mine = [pod for pod in every if chosen <= pod["metadata"].get("labels", {}).items()]
        return [pod for pod in mine if any(r["uid"] == uid or r["uid"] in self._sets(uid) for r in owners(pod))]

    def _sets(self, uid: str) -> set[str]:
        return {o["metadata"]["uid"] for _, o in self._store.every("ReplicaSet") if is_of(o, uid)}

    def _new_pod(self, workload: Json, owner: Json, name: str, hashed: str, label: str) -> None:
        template = copy.deepcopy(workload["spec"]["template"])
        metadata = {**template["metadata"], "name": name, "namespace": workload["metadata"]["namespace"]}
        metadata["labels"] = {**metadata["labels"], label: hashed}
        metadata["ownerReferences"] = [owner_reference(owner["apiVersion"], owner)]
        self._store.create(BY_KIND["Pod"], {"metadata": metadata, "spec": template["spec"], "status": pending(self._store)})

    def delete_pod(self, pod: Json) -> None:
        """Begin the pod's graceful end."""
        key, now = Key(BY_KIND["Pod"], pod["metadata"]["namespace"], pod["metadata"]["name"]), self._store.now()
        if pod["metadata"].get("deletionTimestamp"):
            return
        if not pod["spec"].get("nodeName"):
            self._store.remove(key)
            return
        found = self._store.objects[key]
        found["metadata"]["deletionTimestamp"] = now
        found["metadata"]["deletionGracePeriodSeconds"] = GRACE_MS // 1000
        self._store.update(
            key, lambda o: {**o, "status": {**o["status"], "conditions": ready_condition("False", now)}}, status=True
        )

    # --- nodes run pods ---

    def _schedule_and_start(self) -> None:
        free = [o["metadata"]["name"] for _, o in self._store.every("Node") if not o["spec"].get("unschedulable")]
        loads = dict.fromkeys(free, 0)
        pods = list(self._store.every("Pod"))
        for _, pod in pods:
            if pod["spec"].get("nodeName") in loads:
                loads[pod["spec"]["nodeName"]] += 1
        for key, pod in pods:
            if pod["metadata"].get("deletionTimestamp"):
                continue
            if not pod["spec"].get("nodeName") and loads:
                node = min(loads, key=lambda name: (loads[name], name))
                loads[node] += 1
                self._store.objects[key]["spec"]["nodeName"] = node
            self._start(key)

    def _start(self, key: Key) -> None:
        pod, now = self._store.objects[key], self._store.clock.now()
        if not pod["spec"].get("nodeName") or pod["status"]["phase"] in {"Succeeded", "Failed"}:
            return
        sick = pod["metadata"]["name"] in self.sick
        was = is_ready(pod)
        up = (was or now >= born(pod) + self.startup_ms) and not sick
        conditions = pod["status"]["conditions"] if up == was else ready_condition(str(up), self._store.now())
        state = {"waiting": {"reason": "CrashLoopBackOff"}} if sick else {"running": {"startedAt": self._store.now()}}
        earlier = pod["status"].get("containerStatuses")
        if earlier and ("waiting" in earlier[0]["state"]) == sick and up == was:
            return
        restarts = {"name": "main", "image": "", "imageID": "", "ready": up, "restartCount": int(sick), "state": state}
        status = {"phase": "Running", "conditions": conditions, "containerStatuses": [restarts]}
        self._store.update(key, lambda o: {**o, "status": status}, status=True)

    # --- statuses follow ---

    def _report(self) -> None:
        for kind in MANAGED:
            for key, workload in list(self._store.every(kind)):
                alive = [p for p in self._pods(workload) if not p["metadata"].get("deletionTimestamp")]
                ready = sum(map(is_ready, alive))
                seen: Any = workload["metadata"]["generation"]
                status = {"observedGeneration": str(seen) if kind == "Rollout" else seen, "replicas": len(alive)}
                status |= {"readyReplicas": ready, "availableReplicas": ready}
                self._store.update(key, partial(restated, status), status=True)
