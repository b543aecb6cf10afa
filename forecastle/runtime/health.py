"""A worker's heartbeat: one small JSON file, replaced whole, that supervisors, health checks and the demo read."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What a worker says about itself.

    ``state`` is STARTING, REBUILDING, RUNNING, HOLD (broker or store down; ``detail`` says which) or STOPPED. ``last_tick``
    is event time (ms); ``beat_at`` wall time (ms). ``incidents`` are the open ones, id -> one line; ``drift`` what is raised,
    model -> one line. ``refusals`` counts by reason what a site's agent refused since it began.
    """

    worker: str
    pid: int
    state: str
    beat_at: int
    last_tick: int = 0
    samples: int = 0
    series: int = 0
    model: str = ""
    detail: str = ""
    hold_since: int = 0
    incidents: Mapping[str, str] = field(default_factory=dict)
    drift: Mapping[str, str] = field(default_factory=dict)
    refusals: Mapping[str, int] = field(default_factory=dict)


class HealthFile:
    """Writes `Heartbeat` atomically, at most every ``every_s`` wall seconds unless something other than counters changed."""

    def __init__(self, path: Path, worker: str, every_s: float = 0.0) -> None:
        self._path = path
        self._every = every_s
        self._last = 0.0
        self.beat = Heartbeat(worker, os.getpid(), "STARTING", _now())
        path.parent.mkdir(parents=True, exist_ok=True)
        self._write()

    def update(self, **changes: Any) -> None:
        """Change some fields and write, if due."""
        state = self.beat.state
        self.beat = Heartbeat(**{**asdict(self.beat), **changes, "beat_at": _now()})
        due = time.monotonic() - self._last >= self._every
        if due or state != self.beat.state or "incidents" in changes:
            self._write()

    def _write(self) -> None:
        draft = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        draft.write_bytes(msgspec.json.encode(self.beat))
        draft.replace(self._path)
        self._last = time.monotonic()


def read(path: Path) -> Heartbeat | None:
    """The last heartbeat, None when there is none yet."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Heartbeat)
    except FileNotFoundError:
        return None


def problem(path: Path, max_age_s: float) -> str:
    """Why the worker that writes ``path`` cannot be called healthy; '' when it can."""
    beat = read(path)
    if beat is None:
        return f"no heartbeat at {path}; start a worker with 'forecastle run' or point runtime.health there"
    age = (_now() - beat.beat_at) / 1000
    if age > max_age_s:
        return f"{beat.worker}: last heartbeat {age:.0f} s ago (limit {max_age_s:.0f} s); the worker is stuck or gone"
    if beat.state == "HOLD":
        return f"{beat.worker}: HOLD for {(_now() - beat.hold_since) / 1000:.0f} s: {beat.detail}"
    return ""


def _now() -> int:
    return time.time_ns() // 1_000_000
