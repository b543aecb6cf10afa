"""A real Kafka broker on this machine, for the demo and the tests: nobody should need Docker to see the main job run.

The broker is noida-db's (one static binary that speaks the Kafka protocol). It deletes records whose *timestamp* is older than
the retention, as Kafka does: topics that replay the past need ``retention.ms=-1`` (`forecastle.intake.publish` makes them so).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

from forecastle.errors import BrokerUnavailable, ConfigError

INSTALL = "pip install 'noida-db>=0.2.3'"


class LocalBroker:
    """A context manager: a broker on a loopback port while the block runs, in its own process group, data in ``data``.

    ``data`` survives the block, so the same folder and port give the same broker again. Raises ConfigError when noida-db
    is not installed and BrokerUnavailable when it does not answer within ``ready_s`` seconds.
    """

    def __init__(self, data: Path, port: int = 0, *, ready_s: float = 30.0) -> None:
        self._data = data
        self.port = port or _free_port()
        self._ready_s = ready_s
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        """``host:port`` for clients."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start and wait until the broker answers. Idempotent."""
        if self._process is not None and self._process.poll() is None:
            return
        self._data.mkdir(parents=True, exist_ok=True)
        command = [_program(), "start", "--only", "kafka", "--kafka-port", str(self.port)]
        with (self._data / "broker.log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own arguments, no shell
                [*command, "--data-dir", str(self._data / "db")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    def stop(self, *, hard: bool = False) -> None:
        """Stop the whole process group: politely first, unless ``hard`` (kill -9, for tests of crashes). Idempotent."""
        process, self._process = self._process, None
        if process is None:
            return
        _signal(process.pid, signal.SIGKILL if hard else signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            _signal(process.pid, signal.SIGKILL)
            process.wait()
        deadline = time.monotonic() + 10
        while _signal(process.pid, 0):  # the launcher may end before the server it started
            if time.monotonic() > deadline:
                _signal(process.pid, signal.SIGKILL)
            time.sleep(0.05)

    def __enter__(self) -> LocalBroker:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _wait(self) -> None:
        deadline = time.monotonic() + self._ready_s
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                break
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1.0):
                return
            time.sleep(0.05)
        raise BrokerUnavailable(f"the local broker did not start on port {self.port}; read {self._data / 'broker.log'}")


def _program() -> str:
    beside = Path(sys.executable).parent / "noida-db"
    found = str(beside) if beside.exists() else shutil.which("noida-db")
    if not found:
        raise ConfigError(f"the local Kafka broker is not installed; run: {INSTALL}   (or set intake.bootstrap to your own)")
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _signal(group: int, number: int) -> bool:
    """Signal a process group; False when nobody is left in it."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True
