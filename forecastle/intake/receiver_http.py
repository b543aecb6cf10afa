"""The HTTP server of `forecastle receive`: heads are judged before bodies are read, and nothing waits for ever."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from forecastle.errors import ConfigError
from forecastle.intake.connection import loopback
from forecastle.intake.receiver import Answer, Receiver
from forecastle.ports import Clock
from forecastle.settings import IntakeSettings, ReceiveSettings

PATH = "/api/v1/write"
V2 = "io.prometheus.write.v2"
READ_S = 10.0  # seconds a client may be silent
RETRY_S = 1
MAX_CONNECTIONS = 256


class Refused(Exception):
    """A request that cannot be one, by its head alone."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.answer = Answer(status, text)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version = "forecastle"
    sys_version = ""
    timeout = READ_S

    def do_POST(self) -> None:
        """Remote write."""
        try:
            length = self._length()
        except Refused as refused:
            self.close_connection = True  # its body was not read
            self._answer(refused.answer)
            return
        body = self.rfile.read(length)
        self._answer(self.server.receiver.write(body) if len(body) == length else Answer(400, "the body ended early"))

    def do_GET(self) -> None:
        """Health, for probes."""
        self._answer(Answer(200, "ok") if self.path == "/-/healthy" else Answer(404, f"POST to {PATH}"))

    def _length(self) -> int:
        """Bytes of the body of a request that may be one. Raises Refused."""
        heads = self.headers
        if self.path.partition("?")[0] != PATH:
            raise Refused(404, f"POST to {PATH}")
        if not self.server.receiver.admits(heads.get("Authorization")):
            raise Refused(401, "give the bearer token")
        if V2 in heads.get("Content-Type", ""):
            raise Refused(415, "remote write 1.0 is understood: set protobuf_message to prometheus.WriteRequest")
        if heads.get("Content-Encoding", "snappy") != "snappy":
            raise Refused(415, "the body has to be a snappy block")
        length, most = heads.get("Content-Length", ""), self.server.max_bytes
        if not (length.isascii() and length.isdigit()):
            raise Refused(411, "give a Content-Length")
        if len(length) > len(str(most)) or int(length) > most:
            raise Refused(413, f"{length[:20]} bytes, {most} are allowed; lower max_samples_per_send")
        return int(length)

    def _answer(self, answer: Answer) -> None:
        text = f"{answer.text}\n".encode() if answer.text else b""
        self.send_response(answer.status)
        if answer.status == 503:
            self.send_header("Retry-After", str(RETRY_S))
        if answer.status == 401:
            self.send_header("WWW-Authenticate", "Bearer")
        if answer.status != 204:
            self.send_header("Content-Type", "text/plain; charset=utf-8")
            self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the parent's names; we log nothing
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """One thread a connection, and so many connections; one that is dropped is not worth a traceback."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, settings: ReceiveSettings, receiver: Receiver) -> None:
        self.receiver = receiver
        self.max_bytes = settings.max_bytes
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__((settings.host, settings.port), Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Hang up on the connections that are too many."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve one connection to its end."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - the parent's names
        """Drop the connection."""
        with suppress(OSError):
            request.close()


@contextmanager
def receiving(settings: IntakeSettings, clock: Clock) -> Iterator[int]:
    """Receive while inside; yields the port. Raises ConfigError when the address is not safe or cannot be had."""
    chosen = settings.receive
    if not loopback(chosen.host) and chosen.token is None:
        raise ConfigError(
            f"intake.receive.host: {chosen.host} can be reached over a network; give intake.receive.token by the environment "
            "(FORECASTLE_INTAKE__RECEIVE__TOKEN), or listen on 127.0.0.1"
        )
    receiver = Receiver(settings, clock)
    try:
        server = Server(chosen, receiver)
    except OSError as error:
        raise ConfigError(
            f"intake.receive.port: cannot listen on {chosen.host}:{chosen.port} ({error.strerror}); choose a free port"
        ) from error
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="receiver", daemon=True)
    try:
        _encrypt(server, chosen.tls_cert, chosen.tls_key)
        thread.start()
        yield int(server.server_port)
    finally:
        if thread.is_alive():
            server.shutdown()
            thread.join()
        server.server_close()
        receiver.close()


def _encrypt(server: Server, cert: str, key: str) -> None:
    if not cert:
        return
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(cert, key or None)
    except OSError as error:
        why = f"{cert} cannot be used ({error}); give PEM files that belong together"
        raise ConfigError(f"intake.receive.tls_cert: {why}") from error
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
