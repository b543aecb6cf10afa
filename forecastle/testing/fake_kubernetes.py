"""A Kubernetes API server to test with: strict where the real one is, over HTTP, driven by the official client.

Optimistic concurrency, dry-run, selectors, pages, the scale and eviction subresources, disruption budgets, watches that can be
too old, RBAC if rules are given, and faults on order. Time is an injected clock's; controllers run when it is asked something.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Event as Flag
from threading import Thread
from typing import Any

from forecastle.ports import Clock
from forecastle.testing.fake_kubernetes_controllers import Controllers
from forecastle.testing.fake_kubernetes_facts import disruption
from forecastle.testing.fake_kubernetes_http import Handler, Server
from forecastle.testing.fake_kubernetes_requests import Call, Fault, Request
from forecastle.testing.fake_kubernetes_store import BY_KIND, Json, Key, Refused, Store, check_schema

TOKEN = "a-service-account"  # noqa: S105 - of the fake
MERGE = "application/merge-patch+json"


class FakeKubernetes:
    """A cluster with its API server on a free port of the loopback. Close it, or use it as a context manager.

    ``faults`` is asked about every request and may answer with a Fault. ``rules`` (of RBAC roles) restrict what may be called;
    None allows all. ``calls`` are those made, in order.
    """

    def __init__(self, clock: Clock, *, startup_s: float = 30.0, rules: Iterable[Json] | None = None) -> None:
        self.store = Store(clock)
        self.controllers = Controllers(self.store, int(startup_s * 1000))
        self.rules = None if rules is None else list(rules)
        self.faults: Callable[[Request], Fault | None] = lambda _: None
        self.calls: list[Call] = []
        self.closed = Flag()
        self._server = Server(("127.0.0.1", 0), Handler, self)
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> FakeKubernetes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening. Idempotent."""
        self.closed.set()
        with self.store.changed:
            self.store.changed.notify_all()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @contextmanager
    def inside(self) -> Iterator[Store]:
        """The store, locked and at rest, for what somebody else does to the cluster; the controllers follow."""
        with self.store.changed:
            self.controllers.settle()
            yield self.store
            self.controllers.settle()

    def add(self, *found: Json) -> None:
        """Create objects, as somebody with all rights would."""
        with self.inside() as store:
            for each in found:
                store.create(BY_KIND[each["kind"]], each)

    def get(self, kind: str, namespace: str, name: str) -> Json:
        """An object as it is now."""
        with self.inside() as store:
            return store.get(Key(BY_KIND[kind], namespace, name))

    def every(self, kind: str) -> list[Json]:
        """All objects of a kind as they are now."""
        with self.inside() as store:
            return [json.loads(json.dumps(found)) for _, found in store.every(kind)]

    def change(self, kind: str, namespace: str, name: str, patch: Json) -> Json:
        """Merge ``patch`` into an object, as somebody else would."""
        with self.inside() as store:
            return store.update(Key(BY_KIND[kind], namespace, name), lambda found: merged(found, patch))

    # --- requests ---

    def handle(self, request: Request) -> Json:
        """The answer to a request that is no watch. Raises Refused."""
        with self.store.changed:
            self.controllers.settle()
            answer = self._answer(request)
            self.controllers.settle()
            return answer

    def authorize(self, request: Request, credentials: str) -> None:
        """Record the request. Raises Refused 401 for a stranger, 403 where the rules do not allow it."""
        if credentials != f"Bearer {TOKEN}":
            raise Refused(401, "Unauthorized", "Unauthorized")
        self.calls.append(request.call)
        verb, group, resource = request.call
        if self.rules is not None and not any(_allows(rule, request) for rule in self.rules):
            scope = f'in the namespace "{request.namespace}"' if request.namespace else "at the cluster scope"
            text = f'User "forecastle" cannot {verb} resource "{resource}" in API group "{group}" {scope}'
            raise Refused(403, "Forbidden", f'{request.served.told} "{request.name}" is forbidden: {text}')

    def _answer(self, request: Request) -> Json:
        if request.sub == "scale":
            return self._scale(request)
        if request.sub == "eviction":
            return self._evict(request)
        if request.method == "GET":
            return self.store.get(request.key) if request.name else self._page(request)
        if request.method == "PATCH":
            if request.content_type != MERGE:
                raise Refused(415, "UnsupportedMediaType", f"the fake knows no patch of type {request.content_type}")
            return self.store.update(request.key, lambda o: merged(o, request.body), dry_run=request.dry_run)
        if request.method == "DELETE":
            return self._delete(request)
        raise Refused(405, "MethodNotAllowed", f"{request.method} is not supported")

    def _page(self, request: Request) -> Json:
        kind = request.served.kind
        every = [found for _, found in self.store.every(kind, request.namespace) if request.selects(found)]
        start, limit = int(request.query.get("continue", 0)), int(request.query.get("limit", 0)) or len(every)
        metadata: Json = {"resourceVersion": str(self.store.version)}
        if start + limit < len(every):
            metadata["continue"] = str(start + limit)
        items = json.loads(json.dumps(every[start : start + limit]))
        return {"kind": f"{kind}List", "apiVersion": request.served.api, "metadata": metadata, "items": items}

    def _scale(self, request: Request) -> Json:
        found = self.store.get(request.key)
        if request.method == "PUT":
            check_schema(request.body)
            version, wanted = request.body["metadata"].get("resourceVersion"), request.body["spec"].get("replicas", 0)
            patch: Json = {"spec": {"replicas": wanted}, "metadata": {"resourceVersion": version} if version else {}}
            found = self.store.update(request.key, lambda o: merged(o, patch), dry_run=request.dry_run)
        elif request.method != "GET":
            raise Refused(405, "MethodNotAllowed", f"the fake has no {request.method} of scale")
        names = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
        selector = ",".join(f"{k}={v}" for k, v in sorted(found["spec"]["selector"]["matchLabels"].items()))
        head: Json = {"kind": "Scale", "apiVersion": "autoscaling/v1", "spec": {"replicas": found["spec"].get("replicas", 1)}}
        status = {"replicas": found.get("status", {}).get("replicas", 0), "selector": selector}
        return {**head, "metadata": {name: found["metadata"][name] for name in names}, "status": status}

    def _delete(self, request: Request) -> Json:
        found = self.store.get(request.key)
        _check_preconditions(found, (request.body or {}).get("preconditions") or {}, request)
        if not request.dry_run:
            if request.served.kind == "Pod":
                self.controllers.delete_pod(found)
            else:
                self.store.remove(request.key)
        return found

    def _evict(self, request: Request) -> Json:
        if (
            request.method != "POST"
            or request.body.get("kind") != "Eviction"
            or request.body["metadata"]["name"] != request.name
        ):
            raise Refused(400, "BadRequest", "an Eviction of the pod in the path must be posted")
        check_schema(request.body)
        found = self.store.get(request.key)
        _check_preconditions(found, (request.body.get("deleteOptions") or {}).get("preconditions") or {}, request)
        if not found["metadata"].get("deletionTimestamp"):
            disruption(self.store, found)
            if not request.dry_run:
                self.controllers.delete_pod(found)
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}

    def watched(self, request: Request) -> Iterator[Json]:
        """The events of a watch until its timeout; the first is an error when its resourceVersion is forgotten."""
        since, deadline = int(request.query.get("resourceVersion", 0)), float(request.query.get("timeoutSeconds", 1))
        while not self.closed.is_set():
            with self.store.changed:
                self.controllers.settle()
                if since < self.store.forgotten:
                    text = f"too old resource version: {since} ({self.store.forgotten})"
                    yield {"type": "ERROR", "object": Refused(410, "Expired", text).status()}
                    return
                fresh = [e for e in self.store.history if e.version > since and _is_watched(e.key, e.found, request)]
                since = max(since, self.store.version)
                if not fresh and not self.store.changed.wait(deadline):
                    return
            yield from ({"type": event.type, "object": event.found} for event in fresh)


def merged(found: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    result = dict(found) if isinstance(found, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


def kubeconfig(path: Path, clusters: Mapping[str, FakeKubernetes], current: str = "") -> str:
    """Write a kubeconfig with a context for each cluster; its path."""
    named = [(name, cluster.url) for name, cluster in clusters.items()]
    found = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": current or named[0][0],
        "clusters": [{"name": name, "cluster": {"server": url}} for name, url in named],
        "users": [{"name": "forecastle", "user": {"token": TOKEN}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": "forecastle"}} for name, _ in named],
    }
    path.write_text(json.dumps(found))
    return str(path)


def _allows(rule: Json, request: Request) -> bool:
    verb, group, resource = request.call
    return verb in rule["verbs"] and group in rule["apiGroups"] and resource in rule["resources"]


def _is_watched(key: Key, found: Json, request: Request) -> bool:
    if key.served != request.served or request.namespace not in {"", key.namespace}:
        return False
    return request.selects(found)


def _check_preconditions(found: Json, wanted: Json, request: Request) -> None:
    for name in ("uid", "resourceVersion"):
        if name in wanted and wanted[name] != found["metadata"][name]:
            text = (
                f"the {name} in the precondition ({wanted[name]}) does not match the one in record ({found['metadata'][name]})"
            )
            raise Refused(409, "Conflict", f'Operation cannot be fulfilled on {request.served.told} "{request.name}": {text}')
