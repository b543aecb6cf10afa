"""The network's faults on demand: a TCP proxy that delays, cuts in the middle of a message, goes silent or refuses.

It stands between a real client and a real server, on a loopback port. Kafka's clients are told where to connect by the
broker's answers: ``swap`` replaces that address by the proxy's (of the same length) in what the server says.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from types import TracebackType

CHUNK = 1 << 16
RESET = struct.pack("ii", 1, 0)  # linger for no time: a close sends RST


class FaultProxy:
    """A proxy to ``upstream`` (``(host, port)``, or the path of a Unix socket) while the block runs; healthy at first."""

    def __init__(self, upstream: tuple[str, int] | str, *, swap: bool = False) -> None:
        self._upstream = upstream
        self._lock = threading.Lock()
        self._changes = threading.RLock()
        self._flows = threading.Event()
        self._flows.set()
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._threads: list[threading.Thread] = []
        self._left: int | None = None
        self._listener: socket.socket | None = None
        self.port = 0
        self.delay_s = 0.0
        self.passed = 0
        self.connections = 0
        self.accept()
        self._swap: tuple[bytes, bytes] | None = None
        if swap and isinstance(upstream, tuple):
            self._swap = _kafka_address(*upstream), _kafka_address("127.0.0.1", self.port)

    @property
    def bootstrap(self) -> str:
        """``host:port`` for clients."""
        return f"127.0.0.1:{self.port}"

    # --- faults -------------------------------------------------------------------------------------------------------

    def cut(self) -> None:
        """Reset every connection; new ones are welcome."""
        with self._lock:
            pairs, self._pairs = self._pairs, set()
        for one in (one for pair in pairs for one in pair):
            _reset(one)

    def refuse(self) -> None:
        """Nobody listens any more, and what was connected is reset."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self.cut()

    def cut_after(self, answered: int) -> None:
        """After ``answered`` more bytes from the server: refuse, in the middle of whatever message that is."""
        self._left = answered

    def go_silent(self) -> None:
        """Half-open: connections stay and new ones are made, but no byte arrives anywhere."""
        self._flows.clear()

    # --- no faults ----------------------------------------------------------------------------------------------------

    def accept(self) -> None:
        """Listen (again) on the same port, everything healthy."""
        with self._changes:
            self._left, self.delay_s = None, 0.0
            self._flows.set()
            if self._listener is None:
                self._listener = socket.create_server(("127.0.0.1", self.port))
                self.port = self._listener.getsockname()[1]
                self._start(self._welcome, self._listener)

    def close(self) -> None:
        """End everything and wait for it."""
        self.refuse()
        self._flows.set()
        for thread in self._threads:
            thread.join(10)

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # --- passing on ---------------------------------------------------------------------------------------------------

    def _start(self, what: object, *args: object) -> None:
        thread = threading.Thread(target=what, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _welcome(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            self.connections += 1
            try:
                server = _connect(self._upstream)
            except OSError:
                _reset(client)
                continue
            with self._lock:
                self._pairs.add((client, server))
            if self._listener is not listener:  # refused meanwhile
                self.cut()
            self._start(self._pump, client, server, False)
            self._start(self._pump, server, client, True)

    def _pump(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        held = b""
        try:
            while data := source.recv(CHUNK):
                self._flows.wait()
                time.sleep(self.delay_s)
                if answers:
                    data, held = self._swapped(held + data)
                    if self._spent(data, sink):
                        return
                sink.sendall(data)
            with contextlib.suppress(OSError):
                sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # cut
        finally:
            if answers:
                self._end(sink, source)

    def _spent(self, data: bytes, sink: socket.socket) -> bool:
        """Whether this was more than may pass; then what may has passed, and the cut is made."""
        with self._changes:
            self.passed += len(data)
            if self._left is None:
                return False
            passes, self._left = data[: self._left], self._left - len(data)
            if self._left > 0:
                return False
            sink.sendall(passes)
            time.sleep(0.01)  # a reset would overtake what is still unread
            self.refuse()
            self._left = None
        return True

    def _swapped(self, data: bytes) -> tuple[bytes, bytes]:
        """The data with the server's address replaced, and an end that may be the beginning of one."""
        if self._swap is None:
            return data, b""
        old, new = self._swap
        data = data.replace(old, new)
        cut = next((n for n in range(len(old) - 1, 0, -1) if data.endswith(old[:n])), 0)
        return (data[:-cut], data[-cut:]) if cut > 4 else (data, b"")

    def _end(self, client: socket.socket, server: socket.socket) -> None:
        with self._lock:
            mine = (client, server) in self._pairs
            self._pairs.discard((client, server))
        if mine:
            client.close()
            server.close()


def _connect(upstream: tuple[str, int] | str) -> socket.socket:
    if isinstance(upstream, tuple):
        return socket.create_connection(upstream, 5.0)
    made = socket.socket(socket.AF_UNIX)
    try:
        made.connect(upstream)
    except OSError:
        made.close()
        raise
    return made


def _reset(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RD)
    one.close()


def _kafka_address(host: str, port: int) -> bytes:
    """Host and port as Kafka's answers hold them, less the length of the host."""
    return host.encode() + port.to_bytes(4, "big")
