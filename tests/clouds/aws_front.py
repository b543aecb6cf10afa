"""An HTTP server before moto that records what AWS receives, loses answers, refuses, and adds what moto has not got.

Moto has no instance refreshes, and tags on EKS clusters only.
"""

from __future__ import annotations

import json
import re
import secrets
import socket
from collections.abc import Callable, Iterable
from io import BytesIO
from threading import Event, Lock, Thread
from typing import Any
from urllib.parse import parse_qs, unquote

import boto3
from moto.backends import get_backend
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

REGION = "eu-central-1"
ACCOUNT = "123456789012"
EFFECTS = frozenset({
    "SetDesiredCapacity", "StartInstanceRefresh", "TerminateInstanceInAutoScalingGroup", "EnterStandby", "ExitStandby",
    "SendCommand", "UpdateService", "StopTask", "UpdateContainerInstancesState", "UpdateNodegroupConfig",
})  # fmt: skip
_NODEGROUP = re.compile(r"^/clusters/[^/]+/node-groups/[^/]+(/update-config)?$")

Fault = Callable[[str, str], str]
"""Operation and body -> what goes wrong, '' nothing.

``lost``: the connection ends before the effect; ``unanswered``: after it; ``slow``: it is never answered. ``500 code text``: so
it is answered, with ``after`` before it once the effect happened. ``partial``: done, it is said, but for a failure.
"""


class Quiet(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002
        """Nothing."""


class Front:
    """The server: moto, its recorded requests, and the fault that is in force."""

    def __init__(self) -> None:
        self.fault: Fault = lambda operation, body: ""
        self.closing = Event()
        self.delivered: list[tuple[str, str, str]] = []
        self.refreshes: dict[str, list[dict[str, str]]] = {}
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._lock = Lock()
        self._server = make_server("127.0.0.1", 0, self, threaded=True, request_handler=Quiet)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        raw = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"], body = BytesIO(raw), raw.decode("utf-8", "replace")
        service, operation = called(environ, body)
        adapter = "forecastle" in environ["HTTP_USER_AGENT"]
        fault = self.fault(operation, body) if adapter else ""
        late, fault = fault.startswith("after "), fault.removeprefix("after ")
        if fault == "lost":
            return hang_up(environ)
        if fault == "slow":
            self.closing.wait(5)
            return hang_up(environ)
        if fault == "partial":
            return partial(start_response)
        spoken = service not in {"autoscaling", "ec2"}
        if fault and fault != "unanswered" and not late:
            return refused(fault, start_response, json_spoken=spoken)
        with self._lock:
            if adapter:
                self.delivered.append((service, operation, body))
            held = (lambda *_: None) if fault else start_response
            done = self._ours(environ, operation, body, held) or list(self._moto(environ, held))
        if fault == "unanswered":
            return hang_up(environ)
        return refused(fault, start_response, json_spoken=spoken) if fault else done

    def effects(self) -> list[tuple[str, str]]:
        """The requests of the adapter with an effect that AWS received: operation and body."""
        return [(operation, body) for _, operation, body in self.delivered if operation in EFFECTS]

    def finish(self) -> None:
        """Every instance refresh under way is done."""
        for group, every in self.refreshes.items():
            for refresh in every:
                if refresh["Status"] == "InProgress":
                    refresh["Status"] = "Successful"
                    if version := refresh.get("Version"):
                        template = {"LaunchTemplateId": refresh["LaunchTemplateId"], "Version": version}
                        client(self, "autoscaling").update_auto_scaling_group(
                            AutoScalingGroupName=group, LaunchTemplate=template
                        )

    def _ours(self, environ: dict[str, Any], operation: str, body: str, start_response: Any) -> list[bytes] | None:
        path = unquote(environ["PATH_INFO"])
        if operation == "TagResource" and ":nodegroup/" in path:
            cluster, group = path.split("/")[3:5]
            eks = get_backend("eks")[ACCOUNT][REGION]
            eks.clusters[cluster].nodegroups[group].tags.update(json.loads(body)["tags"])
            start_response("200 OK", [("Content-Type", "application/json")])
            return [b"{}"]
        return self._refreshing(operation, body, start_response)

    def _refreshing(self, operation: str, body: str, start_response: Any) -> list[bytes] | None:
        if operation not in {"StartInstanceRefresh", "DescribeInstanceRefreshes"}:
            return None
        form = {key: values[0] for key, values in parse_qs(body).items()}
        every = self.refreshes.setdefault(form["AutoScalingGroupName"], [])
        if operation == "StartInstanceRefresh":
            if any(refresh["Status"] == "InProgress" for refresh in every):
                return refused("400 InstanceRefreshInProgress", start_response, json_spoken=False)
            wanted = {k.rpartition(".")[2]: v for k, v in form.items() if k.startswith("DesiredConfiguration.")}
            every.insert(0, {"InstanceRefreshId": secrets.token_hex(8), "Status": "InProgress", **wanted})
            inner = f"<InstanceRefreshId>{every[0]['InstanceRefreshId']}</InstanceRefreshId>"
        else:
            inner = f"<InstanceRefreshes>{''.join(map(told, every[: int(form.get('MaxRecords', 50))]))}</InstanceRefreshes>"
        text = f"<{operation}Response><{operation}Result>{inner}</{operation}Result></{operation}Response>"
        start_response("200 OK", [("Content-Type", "text/xml")])
        return [text.encode()]


def told(refresh: dict[str, str]) -> str:
    inner = "".join(f"<{key}>{refresh[key]}</{key}>" for key in ("InstanceRefreshId", "Status"))
    if "Version" in refresh:
        template = "".join(f"<{key}>{refresh[key]}</{key}>" for key in ("LaunchTemplateId", "Version"))
        inner += f"<DesiredConfiguration><LaunchTemplate>{template}</LaunchTemplate></DesiredConfiguration>"
    return f"<member>{inner}</member>"


def called(environ: dict[str, Any], body: str) -> tuple[str, str]:
    """Service and operation of a request."""
    scope = environ.get("HTTP_AUTHORIZATION", "").partition("Credential=")[2].split("/")
    service = scope[3] if len(scope) > 3 else ""
    if target := environ.get("HTTP_X_AMZ_TARGET"):
        return service, target.rpartition(".")[2]
    if "Action=" in body:
        return service, parse_qs(body)["Action"][0]
    path = unquote(environ["PATH_INFO"])
    if path.startswith("/tags/"):
        return service, "TagResource"
    if found := _NODEGROUP.match(path):
        return service, "UpdateNodegroupConfig" if found[1] else "DescribeNodegroup"
    return service, f"{environ['REQUEST_METHOD']} {path}"


def refused(fault: str, start_response: Any, *, json_spoken: bool) -> list[bytes]:
    """``status code text`` as the service would say it."""
    status, code, *text = fault.split(" ")
    headers = [("Retry-After", "7"), ("x-amzn-ErrorType", code)]
    words = " ".join(text) or "so it is"
    if json_spoken:
        start_response(f"{status} No", [*headers, ("Content-Type", "application/x-amz-json-1.1")])
        return [json.dumps({"__type": code, "message": words}).encode()]
    start_response(f"{status} No", [*headers, ("Content-Type", "text/xml")])
    error = f"<Error><Type>Sender</Type><Code>{code}</Code><Message>{words}</Message></Error>"
    return [f"<ErrorResponse>{error}<RequestId>1</RequestId></ErrorResponse>".encode()]


def partial(start_response: Any) -> list[bytes]:
    """All went well, but for a failure."""
    start_response("200 OK", [("Content-Type", "application/x-amz-json-1.1")])
    return [json.dumps({"failures": [{"arn": "arn:aws:ecs:one", "reason": "MISSING"}]}).encode()]


def hang_up(environ: dict[str, Any]) -> list[bytes]:
    """Close the connection without an answer."""
    environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    raise ConnectionAbortedError


def client(front: Front, service: str) -> Any:
    """The world's own way in."""
    return boto3.client(service, region_name=REGION, endpoint_url=front.url)
