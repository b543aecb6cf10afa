"""What the demo starts it also stops: child processes that cannot outlive it, however it ends.

Each child runs under a keeper (this module as a program) that leads its own session, so that Ctrl-C reaches the demo alone.
The keeper ends the whole group when it is told to, when the child ends, and when its parent is gone: a killed demo
leaves nothing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from forecastle.errors import ForecastleError

LOOK_S = 0.25
GRACE_S = 8.0


class Child:
    """A running child with its log. ``check`` raises when it has ended in an error."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.log = log
        self._process = process

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def check(self) -> None:
        """Raise ForecastleError, with the end of its log, when it has failed."""
        if self._process.poll() not in (None, 0):
            raise ForecastleError(f"{self.name} ended with {self._process.returncode}; {self.log} ends:\n{tail(self.log)}")

    def wait(self, timeout_s: float) -> None:
        """Until it ends well. Raises ForecastleError when it does not, or takes longer."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise ForecastleError(f"{self.name} took more than {timeout_s:.0f} s; {self.log} ends:\n{tail(self.log)}") from None
        self.check()

    def stop(self) -> None:
        """Ask, then make it end. Idempotent."""
        if self.running:
            self._process.terminate()
            try:
                self._process.wait(GRACE_S + 2)
            except subprocess.TimeoutExpired:
                _signal(self._process.pid, signal.SIGKILL)
                self._process.wait()


@contextmanager
def child(name: str, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Iterator[Child]:
    """Run ``command`` while the block lasts; it logs to ``folder/logs/name.log``."""
    log = folder / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    keeper = [sys.executable, "-m", "forecastle.runtime.demo_child", str(os.getpid()), *command]
    with log.open("ab") as out:
        process = subprocess.Popen(  # noqa: S603 - our own commands, no shell
            keeper,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env={**os.environ, **environment},
            start_new_session=True,
        )
    started = Child(name, process, log)
    try:
        yield started
    finally:
        started.stop()


def tail(path: Path, lines: int = 12) -> str:
    """The last lines of a log."""
    return "\n".join(path.read_text("utf-8", "replace").splitlines()[-lines:])


def keep(parent: int, command: Sequence[str]) -> int:
    """Run ``command`` until it ends, ``parent`` is gone, or SIGTERM or SIGINT comes; then end the whole group."""
    asked: list[int] = []

    def ask(number: int, _frame: FrameType | None) -> None:
        asked.append(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ask)
    process = subprocess.Popen(list(command))  # noqa: S603 - what the demo gave us
    while process.poll() is None and not asked and os.getppid() == parent:
        time.sleep(LOOK_S)
    code = process.poll()
    _end_group(process)
    return 0 if code is None else code if code >= 0 else 128 - code


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to everyone in our group but us (we ignore it now), time to leave, then SIGKILL, which takes us along."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    group = os.getpgid(0)
    if not _others(group):
        return
    _signal(group, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_S
    while _others(group) and time.monotonic() < deadline:
        process.poll()
        time.sleep(0.05)
    if _others(group):
        _signal(group, signal.SIGKILL)


def _others(group: int) -> bool:
    """Whether a process other than this one is alive in ``group`` (Linux; elsewhere it is assumed for the grace's length)."""
    proc = Path("/proc")
    if not proc.is_dir():
        return True
    for entry in proc.iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError, ValueError, IndexError):
                state, _, pgrp = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
                if int(pgrp) == group and state != "Z":
                    return True
    return False


def _signal(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


if __name__ == "__main__":
    sys.exit(keep(int(sys.argv[1]), sys.argv[2:]))
