"""HTTP for the fake API server: keep-alive, chunked watches, and connections that break on order."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event as Flag
from typing import Any, Protocol

from forecastle.testing.fake_kubernetes_requests import Fault, Request, parsed
from forecastle.testing.fake_kubernetes_store import Json, Refused


class Cluster(Protocol):
    """What answers."""

    faults: Callable[[Request], Fault | None]
    closed: Flag

    def authorize(self, request: Request, credentials: str) -> None:
        """Raises Refused."""

    def handle(self, request: Request) -> Json:
        """The answer. Raises Refused."""

    def watched(self, request: Request) -> Iterator[Json]:
        """Events as they come."""


class Server(ThreadingHTTPServer):
    """One thread for each connection."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler], cluster: Cluster) -> None:
        super().__init__(address, handler)
        self.cluster = cluster


class Handler(BaseHTTPRequestHandler):
    """Reads requests, says answers, and fails as it is told."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True
    server: Server

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the base class's
        """Say nothing."""

    def handle(self) -> None:
        """A client that went away is not worth a traceback."""
        try:
            super().handle()
        except ConnectionError:
            self.close_connection = True

    def _serve(self) -> None:
        cluster = self.server.cluster
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            request = parsed(self.command, self.path, content, self.headers.get("Content-Type", ""))
            fault = cluster.faults(request)
            if fault and not fault.after:
                self._fail(fault)
                return
            cluster.authorize(request, self.headers.get("Authorization", ""))
            if request.call.verb == "watch":
                self._stream(cluster.watched(request))
                return
            answer = cluster.handle(request)
            if fault:
                self._fail(fault)
                return
            self._say(200 if request.method != "POST" else 201, answer)
        except Refused as refused:
            headers = {} if refused.retry_after is None else {"Retry-After": str(refused.retry_after)}
            self._say(refused.code, refused.status(), headers)

    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = _serve  # noqa: N815 - names that http.server looks for

    def _say(self, code: int, answer: Json, headers: Mapping[str, str] | None = None) -> None:
        content = json.dumps(answer).encode()
        self.send_response(code)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def _fail(self, fault: Fault) -> None:
        if fault.hang:
            self.server.cluster.closed.wait(2.0)
        if fault.status:
            self._say(fault.status, Refused(fault.status, "Injected", fault.message).status(), fault.headers)
        else:
            self.close_connection = True

    def _stream(self, events: Iterator[Json]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for event in events:
            line = json.dumps(event).encode() + b"\n"
            self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")
