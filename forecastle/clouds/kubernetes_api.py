"""Requests to Kubernetes API servers through the official client, one connection per kubeconfig context.

Every request has a timeout and none is repeated here: the client's own retries are off, because a write that is sent twice
behind the caller's back is the second effect that nobody asked for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from forecastle.errors import (
    CloudUnavailable,
    ConfigError,
    Conflict,
    Denied,
    ForecastleError,
    NotFound,
    QuotaExceeded,
    Unsupported,
)

if TYPE_CHECKING:
    from kubernetes.dynamic import DynamicClient

Json: TypeAlias = dict[str, Any]

MERGE_PATCH = "application/merge-patch+json"
IN_CLUSTER = "in-cluster"
PAGE = 500
_WRITES = frozenset({"post", "put", "patch", "delete"})


class Stale(Conflict):
    """The object changed between reading and writing it: nothing happened, read again."""


class Clusters:
    """Reads and conditional writes by context. An empty ``context`` means the kubeconfig's current one.

    ``timeout_s`` bounds connecting and every wait for an answer. With ``dry_run`` the API server checks every write, admission
    included, and keeps none.
    """

    def __init__(self, *, kubeconfig: str, timeout_s: float, dry_run: bool) -> None:
        self._kubeconfig = kubeconfig
        self._timeout_s = timeout_s
        self._dry_run = dry_run
        self._lock = Lock()
        self._clients: dict[str, DynamicClient] = {}

    def get(self, context: str, path: str) -> Json:
        """One object. Raises NotFound, Denied or CloudUnavailable."""
        return self._answer("get", context, path)

    def listed(self, context: str, path: str, *, labels: str = "", fields: str = "") -> list[Json]:
        """All objects of a collection that match the selectors, page by page."""
        query: Json = {"label_selector": labels or None, "field_selector": fields or None, "limit": PAGE}
        page = self._answer("get", context, path, **query)
        found: list[Json] = page["items"]
        while more := page["metadata"].get("continue"):
            page = self._answer("get", context, path, **query, _continue=more)
            found += page["items"]
        return found

    def patch(self, context: str, path: str, body: Json) -> Json:
        """A JSON merge patch; with ``metadata.resourceVersion`` in it, conditional. Raises Stale when it is an older one."""
        return self._answer("patch", context, path, body, content_type=MERGE_PATCH, **self._dry())

    def replace(self, context: str, path: str, body: Json) -> Json:
        """A whole object, on condition of its ``metadata.resourceVersion``."""
        return self._answer("put", context, path, body, **self._dry())

    def create(self, context: str, path: str, body: Json) -> Json:
        """A new object, or what a subresource like eviction does when one is posted to it."""
        return self._answer("post", context, path, body, **self._dry())

    def delete(self, context: str, path: str, *, uid: str, version: str) -> Json:
        """Delete exactly the object of this uid and resourceVersion. Raises Stale when it is another by now."""
        preconditions = {"uid": uid, "resourceVersion": version}
        body: Json = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": preconditions}
        if self._dry_run:
            body["dryRun"] = ["All"]
        return self._answer("delete", context, path, body, **self._dry())

    def watch(self, context: str, path: str, *, name: str, version: str, timeout_s: int) -> Iterator[Json]:
        """Events of the object ``name`` after resourceVersion ``version``, for ``timeout_s`` seconds at most.

        Raises CloudUnavailable when it breaks or ``version`` is too old.
        """
        from urllib3.exceptions import HTTPError

        query: Json = {"watch": True, "field_selector": f"metadata.name={name}", "resource_version": version}
        query |= {"timeout_seconds": timeout_s, "_request_timeout": (self._timeout_s, self._timeout_s + timeout_s)}
        with closing(self._sent("get", context, path, None, **query)) as response:
            rest = b""
            try:
                for chunk in response.stream(amt=None, decode_content=False):
                    *lines, rest = (rest + chunk).split(b"\n")
                    yield from (_event(line, path) for line in lines if line.strip())
            except (HTTPError, OSError, ValueError) as error:
                raise _lost(error, f"watch {path}", writes=False) from error

    def close(self) -> None:
        """Close every connection. Idempotent."""
        with self._lock:
            clients = list(self._clients.values())
            self._clients.clear()
        for client in clients:
            client.client.close()

    def _dry(self) -> Json:
        return {"dry_run": "All"} if self._dry_run else {}

    def _answer(self, method: str, context: str, path: str, body: Json | None = None, **query: Any) -> Json:
        from urllib3.exceptions import HTTPError

        doing, writes = f"{method} {path}", method in _WRITES
        response = self._sent(method, context, path, body, **query)
        try:
            answer = json.loads(response.data)
        except (HTTPError, OSError, ValueError) as error:
            raise _lost(error, doing, writes=writes) from error
        if not isinstance(answer, dict):
            raise CloudUnavailable(f"{doing}: the answer is no object; is this an API server?", ambiguous=writes)
        return answer

    def _sent(self, method: str, context: str, path: str, body: Json | None, **query: Any) -> Any:
        from kubernetes.client.exceptions import ApiException
        from kubernetes.dynamic.exceptions import DynamicApiError
        from urllib3.exceptions import HTTPError

        doing, writes = f"{method} {path}", method in _WRITES
        client, options = self._client(context), {"_request_timeout": (self._timeout_s, self._timeout_s), **query}
        try:
            return client.request(method, path, body=body, serialize=False, **options)
        except (ApiException, DynamicApiError) as error:
            raise refused(error.status, error.headers or {}, error.body, doing, writes=writes) from error
        except (HTTPError, OSError) as error:
            raise _lost(error, doing, writes=writes) from error

    def _client(self, context: str) -> DynamicClient:
        with self._lock:
            if context not in self._clients:
                self._clients[context] = _connect(self._kubeconfig, context)
            return self._clients[context]


def _connect(kubeconfig: str, context: str) -> DynamicClient:
    """A client that discovers nothing: the paths are known, and each request it does not make needs no permission."""
    try:
        from kubernetes import client, config
        from kubernetes.dynamic import DynamicClient
    except ImportError as error:
        raise ConfigError("the Kubernetes client is not installed: pip install 'forecastle[kubernetes]'") from error
    settings = client.Configuration()
    try:
        if context == IN_CLUSTER:
            cast(Any, config.load_incluster_config)(client_configuration=settings)
        else:
            cast(Any, config.load_kube_config)(
                kubeconfig or None, context or None, client_configuration=settings, persist_config=False
            )
    except config.ConfigException as error:
        where = kubeconfig or "the default kubeconfig"
        raise ConfigError(f"{where}, context '{context or 'current'}': {error}; see `kubectl config get-contexts`") from error
    settings.retries = False
    connect = cast("Callable[..., DynamicClient]", DynamicClient)
    return connect(client.ApiClient(settings), discoverer=lambda _client, _cache: None)


def refused(status: int, headers: Mapping[str, str], body: Any, doing: str, *, writes: bool) -> ForecastleError:
    """The error for an answer that is none of 2xx; ``body`` is a Status object as text, or whatever a proxy wrote."""
    message = f"{doing}: {status} {_said(body)}"
    named: dict[int, type[ForecastleError]] = {404: NotFound, 409: Stale}
    if status == 403 and "exceeded quota" in message:
        return QuotaExceeded(message)
    if status in named:
        return named[status](message)
    if status in {401, 403}:
        return Denied(f"{message}; the adapters need what forecastle/clouds/policies/kubernetes.yaml and gateway.yaml grant")
    if status in {410, 429}:
        return CloudUnavailable(message, retry_after=_retry_after(headers))
    if status == 0 or status >= 500:
        return CloudUnavailable(message, retry_after=_retry_after(headers), ambiguous=writes)
    return Unsupported(f"{message}; the API server does not accept what was asked for")


def _lost(error: Exception, doing: str, *, writes: bool) -> CloudUnavailable:
    """The error for an answer that never came. Where nothing was sent, nothing happened."""
    from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError, ProxyError

    unsent = isinstance(error, ConnectTimeoutError | NameResolutionError | NewConnectionError | ProxyError)
    return CloudUnavailable(f"{doing}: {type(error).__name__}: {error}", ambiguous=writes and not unsent)


def _event(line: bytes, path: str) -> Json:
    event: Json = json.loads(line)
    if event["type"] == "ERROR":
        raise CloudUnavailable(f"watch {path}: {_said(json.dumps(event['object']))}")
    return event


def _retry_after(headers: Mapping[str, str]) -> float:
    said = next((value for key, value in headers.items() if key.lower() == "retry-after"), "")
    return float(said) if said.isdigit() else 1.0


def _said(body: Any) -> str:
    text = body.decode(errors="replace") if isinstance(body, bytes) else str(body or "")
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return text[:200]
