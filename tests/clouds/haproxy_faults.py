"""A stats socket between the adapter and HAProxy that loses lines or answers as it is told."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from pathlib import Path

PASS, BEFORE, AFTER, HALF, HANG = "pass", "before", "after", "half", "hang"


class LossySocket:
    """Passes lines on to ``upstream``. ``plan`` says of each what happens to it; ``passed`` are those HAProxy got."""

    def __init__(self, path: Path, upstream: str) -> None:
        self.path = str(path)
        self.upstream = upstream
        self.plan: Callable[[str], str] = lambda _: PASS
        self.passed: list[str] = []
        self._closed = threading.Event()
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(self.path)
        self._listening.listen()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        with socket.socket(socket.AF_UNIX) as last:
            last.connect(self.path)
        self._thread.join()
        self._listening.close()

    def effects(self) -> list[str]:
        """The lines HAProxy got that change a server."""
        return [line for line in self.passed if "set server" in line]

    def _run(self) -> None:
        while True:
            connection, _ = self._listening.accept()
            with connection:
                if self._closed.is_set():
                    return
                self._pass(connection)

    def _pass(self, connection: socket.socket) -> None:
        line = connection.makefile("rb").readline()
        what = self.plan(line.decode())
        if what == BEFORE:
            return
        self.passed.append(line.decode())
        with socket.socket(socket.AF_UNIX) as haproxy:
            haproxy.connect(self.upstream)
            haproxy.sendall(line)
            answer = b"".join(iter(lambda: haproxy.recv(65_536), b""))
        if what == HANG:
            self._closed.wait(0.5)
        elif what != AFTER:
            connection.sendall(answer[: len(answer) // 2] if what == HALF else answer)
