"""A strict Google Cloud for tests of what drives the real one: over HTTP, each request held against its discovery document.

It knows managed instance groups, Cloud Run services and GKE node pools; operations take time, request ids, fingerprints and
etags count, and requests and answers get lost on order.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, RLock, Thread
from typing import Any

from forecastle.testing.fake_gcp_discovery import Call, Json, Reader, Refused
from forecastle.testing.fake_gcp_groups import Compute
from forecastle.testing.fake_gcp_nodepools import Kubernetes
from forecastle.testing.fake_gcp_permissions import permissions
from forecastle.testing.fake_gcp_services import Run


class FakeGcp:
    """One project. Use it as a context manager; ``url`` is the adapter's ``endpoint_url``.

    ``fault(method)`` says how a request fails, '' for not at all: ``lost`` (never read), ``unanswered``, ``slow`` (answered
    after ``slow_s``), or a status with a reason and words, preceded by ``after`` when it is done nevertheless. ``done`` lists
    the calls that were executed, ``asked`` the permissions they needed; with ``granted`` set, all others are 403.
    """

    def __init__(self, project: str = "shop") -> None:
        self.compute = Compute(project)
        self.run = Run(project)
        self.kubernetes = Kubernetes(project, self.compute)
        self.fault: Callable[[str], str] = lambda _: ""
        self.done: list[Call] = []
        self.asked: set[str] = set()
        self.granted: set[str] | None = None
        self.slow_s = 1.0
        self._handlers = {**self.compute.handlers(), **self.run.handlers(), **self.kubernetes.handlers()}
        self._reader = Reader(self._handlers)
        self._lock = RLock()
        self._closed = Event()
        self._server = _Server(("127.0.0.1", 0), _Handler, self)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> FakeGcp:
        Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._server.shutdown()
        self._server.server_close()

    def settle(self) -> None:
        """All instances come up, and the operations on clusters end."""
        with self._lock:
            self.compute.settle()
            self.kubernetes.settle()

    def answer(self, verb: str, url: str, content: bytes) -> Json | None:
        """The answer, None for none at all. Raises Refused."""
        call = self._reader.read(verb, url, content)
        fault = self.fault(call.method)
        after, what = fault.startswith(("after ", "unanswered", "slow")), fault.removeprefix("after ")
        if fault and not after:
            _fail(what)
            return None
        with self._lock:
            answer = self._execute(call)
        if what == "slow":
            self._closed.wait(self.slow_s)
            return answer
        if fault:
            _fail(what)
            return None
        return answer

    def _execute(self, call: Call) -> Json:
        needed = permissions(call)
        if self.granted is not None and not needed <= self.granted:
            raise Refused(403, "forbidden", f"Required {sorted(needed - self.granted)}")
        answer = self._handlers[call.method](call)
        self.asked |= needed
        self.done.append(call)
        return answer


def _fail(what: str) -> None:
    """Raises Refused for '503 backendError words'; returns for an answer that does not come."""
    code, _, rest = what.partition(" ")
    if code.isdigit():
        reason, _, words = rest.partition(" ")
        raise Refused(int(code), reason, words, retry_after=7)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler], gcp: FakeGcp) -> None:
        super().__init__(address, handler)
        self.gcp = gcp


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the base class's
        """Say nothing."""

    def handle(self) -> None:
        """A client that went away is not worth a traceback."""
        try:
            super().handle()
        except ConnectionError:
            self.close_connection = True

    def _serve(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            answer = self.server.gcp.answer(self.command, self.path, content)
        except Refused as refused:
            self._say(refused.code, refused.answer(), refused.retry_after)
            return
        if answer is None:
            self.close_connection = True
        else:
            self._say(200, answer, None)

    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = _serve  # noqa: N815 - names that http.server looks for

    def _say(self, code: int, answer: Json, retry_after: int | None) -> None:
        content = json.dumps(answer).encode()
        self.send_response(code)
        if retry_after is not None:
            self.send_header("Retry-After", str(retry_after))
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
