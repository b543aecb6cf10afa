"""A strict Azure Resource Manager for tests, over HTTP: what the official SDK sends is checked before anything happens.

Path, api-version, queries, media type, credentials and body must be what the REST API asks for; whatever is not is answered as
ARM does and kept in ``violations``. Requests fail as a test tells: see `FakeAzure.fault`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from types import TracebackType
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import jsonschema

from forecastle.testing.fake_azure_schemas import OPERATIONS, ROUTES, Json, Route
from forecastle.testing.fake_azure_state import LOCATION, Estate, Fault, Refused, owner

SUBSCRIPTION = "5f3c1a52-7d0e-4a57-9d55-6a0b7f1f0001"
BEARER = "a-token-of-the-fake"
RETRY_AFTER = "7"
PAGE = 3


class AccessToken(NamedTuple):
    """As azure-core has it."""

    token: str
    expires_on: int


class FakeCredential:
    """A TokenCredential that the fake knows."""

    def get_token(self, *_: str, **__: Any) -> AccessToken:
        """Valid for ever."""
        return AccessToken(BEARER, 1 << 40)


@dataclass(frozen=True, slots=True)
class Request:
    """One request that was understood."""

    route: Route
    path: str
    body: Json
    one: str
    etag: str
    action: str
    after: int = 0


class FakeAzure:
    """One subscription. ``calls`` are the requests that were carried out: the role's action and the body.

    ``fault(action, body)`` tells how a request fails: '' not at all, 'lost' before it arrives, 'unanswered' after its effect,
    '429 TooManyRequests some words' instead of it, 'after 500 InternalError' after it.
    """

    def __init__(self) -> None:
        self.estate = Estate()
        self.calls: list[tuple[str, Json]] = []
        self.violations: list[str] = []
        self.fault: Fault = lambda _, __: ""
        self._lock = Lock()
        self._server = _Server(self)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> FakeAzure:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def effects(self) -> list[tuple[str, Json]]:
        """The calls that changed more than the tags."""
        return [(action, body) for action, body in self.calls if not action.endswith("/read") and set(body) != {"tags"}]

    # --- what is there ---

    def scale_set(self, name: str, *, capacity: int, mode: str = "Rolling", orchestration: str = "Uniform", **tags: str) -> str:
        """A scale set; its path."""
        image = {"publisher": "Canonical", "offer": "ubuntu", "sku": "24", "version": "1.0"}
        path = self._add("Microsoft.Compute/virtualMachineScaleSets", name, tags)
        self.estate.find(path)["sku"] = {"name": "Standard_D2s_v5", "tier": "Standard", "capacity": capacity}
        self.estate.find(path)["properties"] |= {
            "orchestrationMode": orchestration,
            "upgradePolicy": {"mode": mode},
            "virtualMachineProfile": {"storageProfile": {"imageReference": image}},
        }
        self.estate.level(path)
        return path

    def app(self, name: str, *, least: int, most: int = 30, mode: str = "Single", images: tuple[str, ...] = ("web:1",)) -> str:
        """A container app; its path."""
        path = self._add("Microsoft.App/containerApps", name, {})
        containers = [{"name": f"c{i}", "image": image, "env": [{"name": "A", "value": "b"}]} for i, image in enumerate(images)]
        self.estate.find(path)["properties"] |= {
            "configuration": {"activeRevisionsMode": mode},
            "latestReadyRevisionName": f"{name}--first",
            "template": {"containers": containers, "scale": {"minReplicas": least, "maxReplicas": most}},
        }
        return path

    def node_pool(self, cluster: str, name: str, *, count: int, autoscaled: bool = False) -> str:
        """An AKS node pool; its path."""
        path = self._add(f"Microsoft.ContainerService/managedClusters/{cluster}/agentPools", name, None)
        self.estate.find(path)["properties"] |= {
            "count": count,
            "vmSize": "Standard_D2s_v5",
            "mode": "User",
            "enableAutoScaling": autoscaled,
            "nodeImageVersion": "AKSUbuntu-2404-1",
            "currentOrchestratorVersion": "1.33.1",
            "powerState": {"code": "Running"},
            "eTag": "e0",
        }
        return path

    def _add(self, kind: str, name: str, tags: dict[str, str] | None) -> str:
        path = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/shop/providers/{kind}/{name}"
        made: Json = {"id": path, "name": name, "location": LOCATION, "properties": {"provisioningState": "Succeeded"}}
        if tags is not None:
            made["tags"] = tags
        self.estate.resources[path.lower()] = made
        return path

    # --- requests ---

    def understood(self, method: str, url: str, headers: Any, raw: bytes) -> Request:
        """Check everything about a request. Raises Refused."""
        if headers.get("Authorization") != f"Bearer {BEARER}":
            raise Refused(401, "AuthenticationFailed", "the access token is missing or is none of ours")
        parts = urlsplit(url)
        queries, path = dict(parse_qsl(parts.query)), parts.path
        found = [(r, m) for r in ROUTES if r.method == method and (m := r.path.fullmatch(path))]
        if not found:
            raise self._violation(400, "InvalidResourceType", f"{method} {path} is no request that is known")
        route, match = found[0]
        told = match.groupdict()
        if told["sub"] != SUBSCRIPTION:
            raise Refused(404, "SubscriptionNotFound", told["sub"])
        _, api, asking = OPERATIONS[told["provider"]] if route.name == "operation" else ("", route.api, route.action)
        if queries.pop("api-version", "") != api or not set(queries) <= route.queries:
            raise self._violation(400, "InvalidApiVersionParameter", f"{method} {url}")
        body = self._body(route, headers, raw)
        one, after = str(told.get("one") or told.get("id") or ""), int(queries.get("$skiptoken", 0))
        return Request(route, path, body, one, headers.get("If-Match", ""), asking, after)

    def _body(self, route: Route, headers: Any, raw: bytes) -> Json:
        if not raw:
            if route.method in {"PATCH", "PUT"}:
                raise self._violation(400, "MissingRequestBody", route.name)
            return {}
        if route.body is None or headers.get("Content-Type") != "application/json":
            raise self._violation(415, "UnsupportedMediaType", f"{route.action} with {headers.get('Content-Type')}")
        body: Json = json.loads(raw)
        try:
            jsonschema.validate(body, route.body)
        except jsonschema.ValidationError as error:
            raise self._violation(400, "InvalidRequestContent", f"{route.action}: {error.message}") from error
        return body

    def _violation(self, status: int, code: str, message: str) -> Refused:
        self.violations.append(f"{code}: {message}")
        return Refused(status, code, message)

    def carried_out(self, request: Request) -> tuple[int, Json, str]:
        """Do it: status, body and the operation's path, '' when there is none. Raises Refused."""
        with self._lock:
            answer = self._do(request)
            self.calls.append((request.action, request.body))
            return answer

    def _do(self, request: Request) -> tuple[int, Json, str]:
        estate, name, provider = self.estate, request.route.name, request.path.partition("/providers/")[2].split("/")[0]
        if name == "operation":
            return 200, estate.operation(request.one), ""
        target = estate.find(owner(request.path))
        if request.route.method == "GET":
            return 200, self._read(request, target), ""
        if request.etag and request.etag not in {target.get("etag"), target["properties"].get("eTag")}:
            raise Refused(412, "PreconditionFailed", "the etag is not the resource's any more")
        if request.route.method in {"PATCH", "PUT"}:
            change = {"set": estate.update_set, "app": estate.update_app, "pool": estate.put_pool}[name]
            return 200, change(request.path, request.body), estate.begin(provider)
        estate.act(owner(request.path), request.one, "delete" if name == "instance" else name)
        return 202, {}, estate.begin(provider)

    def _read(self, request: Request, target: Json) -> Json:
        if request.route.name == "instances":
            return self._page(request, list(self.estate.instances[owner(request.path).lower()].values()))
        if request.route.name == "machines":
            return self._page(request, [{"name": f"node-{i}"} for i in range(target["properties"]["count"])])
        if request.route.name == "revision":
            return {"name": request.one, "properties": {"replicas": target["properties"]["template"]["scale"]["minReplicas"]}}
        return target

    def _page(self, request: Request, every: list[Json]) -> Json:
        until = request.after + PAGE
        more = f"{self.url}{request.path}?api-version={request.route.api}&$skiptoken={until}"
        return {"value": every[request.after : until], **({"nextLink": more} if until < len(every) else {})}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, azure: FakeAzure) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.azure = azure


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the base class's
        """Say nothing."""

    def _serve(self) -> None:
        if answer := self._outcome():
            self._answer(*answer)

    def _outcome(self) -> tuple[int, Json, dict[str, str]] | None:
        """What to say; None to say nothing and hang up."""
        azure = self.server.azure
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            request = azure.understood(self.command, self.path, self.headers, raw)
            fault = azure.fault(request.action, request.body)
            if fault and fault != "unanswered" and not fault.startswith("after "):
                return self._failure(fault)
            status, body, operation = azure.carried_out(request)
        except Refused as refused:
            return refused.status, {"error": {"code": refused.code, "message": refused.message}}, {}
        if fault:
            return self._failure(fault.removeprefix("after "))
        headers = {"Retry-After": "0"}
        if operation:
            where = f"{azure.url}/subscriptions/{SUBSCRIPTION}/{operation}"
            headers |= {"Azure-AsyncOperation": where, "Location": f"{where}&monitor=true"}
        return status, body, headers

    def _failure(self, fault: str) -> tuple[int, Json, dict[str, str]] | None:
        if fault in {"lost", "unanswered"}:
            self.close_connection = True
            return None
        status, code, *words = fault.split(" ", 2)
        return int(status), {"error": {"code": code, "message": " ".join(words)}}, {"Retry-After": RETRY_AFTER}

    def _answer(self, status: int, body: Json, headers: dict[str, str]) -> None:
        sent = json.dumps(body).encode() if body else b""
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", "Content-Length": str(len(sent)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(sent)
        self.wfile.flush()

    do_GET = do_PATCH = do_PUT = do_POST = do_DELETE = _serve  # noqa: N815 - the names are the base class's
