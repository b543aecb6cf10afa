"""The worker around the loop: one process, one shift, one role.

A shift is bounded so that nothing can grow for ever. The successor starts early, loads everything that is slow to load and
then waits for the role lock; the kernel releases it the moment the predecessor ends, however it ends.
"""

from __future__ import annotations

import fcntl
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from forecastle.errors import Transient
from forecastle.runtime.health import HealthFile
from forecastle.runtime.loop import Loop, Turned
from forecastle.types import Severity

POLL_S = 0.5


@contextmanager
def role(path: Path, stop: threading.Event) -> Iterator[bool]:
    """Hold the lock at ``path``, waiting for whoever has it. Yields False when asked to stop while waiting."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        while not stop.is_set():
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                stop.wait(0.05)
            else:
                yield True
                return
        yield False


@contextmanager
def stopping() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set; the previous handlers come back at the end."""
    stop = threading.Event()

    def asked(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    previous = {number: signal.signal(number, asked) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def work(loop: Loop, health: HealthFile, stop: threading.Event, *, shift_s: float = float("inf")) -> None:
    """Turn the loop until ``stop`` or the end of the shift. Transient trouble is waited out in HOLD; the rest is raised."""
    samples = 0
    ends = time.monotonic() + shift_s
    loop.listeners.append(_heartbeats(loop, health))
    attempt(loop.resume, health, stop)
    health.update(state="REBUILDING")
    while not stop.is_set() and time.monotonic() < ends:
        taken = attempt(lambda: loop.turn(POLL_S), health, stop)
        samples += taken or 0
        health.update(samples=samples, series=len(loop.rooms.store))
    health.update(state="STOPPED")


def attempt(call: Callable[[], int | None], health: HealthFile, stop: threading.Event) -> int | None:
    """Call until it succeeds, in HOLD while it raises Transient. None when asked to stop."""
    while not stop.is_set():
        try:
            result = call()
        except Transient as error:
            if health.beat.state != "HOLD":
                health.update(state="HOLD", detail=str(error), hold_since=time.time_ns() // 1_000_000)
            else:
                health.update(detail=str(error))
            stop.wait(error.retry_after)
        else:
            if health.beat.state == "HOLD":
                health.update(state="RUNNING", detail="", hold_since=0)
            return result
    return None


def _heartbeats(loop: Loop, health: HealthFile) -> Callable[[Turned], None]:
    def listen(turned: Turned) -> None:
        closed = turned.closed
        raised = "; ".join(str(drift) for drift in closed.forecasts.drift if drift.raised)
        health.update(
            state="REBUILDING" if turned.rebuilt else "RUNNING",
            last_tick=loop.last_tick,
            model="seasonal-naive" if closed.forecasts.fallback.all() else closed.forecasts.model,
            incidents={i.id: f"{i.severity} {i.workload or i.site}: {i.cause}" for i in closed.incidents if _worth(i.severity)},
            drift={closed.forecasts.model: raised} if raised else {},
        )

    return listen


def _worth(severity: Severity) -> bool:
    return severity is not Severity.INFO
