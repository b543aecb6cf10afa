"""HTTP for outlets that others call: bounded in time, size and number, so that no caller can wear the worker out.

One request a connection. A deadline covers all of a request, whichever way its bytes trickle in; TLS handshakes happen in the
connection's own thread, so that a silent client holds up nobody.
"""

from __future__ import annotations

import io
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import msgspec

from forecastle.errors import ConfigError

logger = logging.getLogger(__name__)

MOST_AT_ONCE = 32
LINGER_S, LINGER_READS = 1.0, 64


class Answered(Exception):
    """The request ends here, with this status."""

    def __init__(self, status: int, said: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(said)
        self.status, self.headers = status, dict(headers or {})


class _Patience(io.RawIOBase):
    """Reads a socket until a deadline that bytes trickling in do not move."""

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        self._connection, self._ends = connection, time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self._ends - time.monotonic()
        if left <= 0:
            raise TimeoutError("the request took too long")
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


class Request(BaseHTTPRequestHandler):
    """One connection, one request. What inherits says what its methods do; ``timeout_s`` is for each direction."""

    server_version, sys_version = "forecastle", ""
    protocol_version = "HTTP/1.1"
    wbufsize: ClassVar[int] = -1
    timeout_s: float = 10.0
    tls: ssl.SSLContext | None = None

    def setup(self) -> None:
        """Shake hands, and start the deadline."""
        self.request.settimeout(self.timeout_s)
        if self.tls is not None:
            self.request = self.tls.wrap_socket(self.request, server_side=True)
        super().setup()
        self.rfile = io.BufferedReader(_Patience(self.connection, self.timeout_s))

    def handle_expect_100(self) -> bool:
        """Say at once that the body may come; who asked waits for it."""
        going_on = super().handle_expect_100()
        self.wfile.flush()
        return going_on

    def say(self, status: int, content: object, headers: Mapping[str, str] | None = None) -> None:
        """Answer with JSON and be done with the connection."""
        payload = msgspec.json.encode(content)
        self.close_connection = True
        self.connection.settimeout(self.timeout_s)
        self.send_response(status)
        named = {"content-type": "application/json", "content-length": str(len(payload)), "connection": "close"}
        for name, value in (named | dict(headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(payload)

    def finish(self) -> None:
        """Let the answer arrive: closing with unread bytes would reset the connection and take the answer with it."""
        try:
            super().finish()
            self.connection.shutdown(socket.SHUT_WR)
            rest = _Patience(self.connection, LINGER_S)
            for _ in range(LINGER_READS):
                if not rest.readinto(bytearray(65_536)):
                    return
        except OSError:
            return
        finally:
            self.connection.close()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
        """Quiet: who calls is counted, not told."""
        logger.debug("%s: " + format, self.client_address[0], *args)


class _Server(ThreadingHTTPServer):
    """Turns away who comes while too many are inside."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], handler: Callable[..., Any]) -> None:
        self._room = threading.Semaphore(MOST_AT_ONCE)
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - http.server's signature
        logger.debug("%s: connection failed", client_address[0], exc_info=True)


@contextmanager
def serving(name: str, host: str, port: int | None, handler: Callable[..., Request]) -> Iterator[int]:
    """Listen while inside; yields the port. Raises ConfigError, speaking of the setting ``name``.port."""
    try:
        server = _Server((host, port or 0), handler)
    except OSError as error:
        said = f"{name}.port: cannot listen on {host}:{port} ({error.strerror}); choose a free port"
        raise ConfigError(said) from error
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, name=name, daemon=True)
    thread.start()
    try:
        yield int(server.server_port)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def tls_context(name: str, cert: str, key: str) -> ssl.SSLContext:
    """TLS with a certificate from PEM files. Raises ConfigError, speaking of the setting ``name``.tls_cert."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(cert, key or None)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{name}.tls_cert: cannot be used ({error}); name readable PEM files that fit") from error
    return context
