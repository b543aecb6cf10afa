"""The engine as the demo drives it: give it a tick's messages, get back when the tick was decided and acted upon.

Either in this process, fed from memory, or as a worker process fed through Kafka. Both tell the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from forecastle.intake.memory import MemoryIntake
from forecastle.runtime.clocks import WallClock
from forecastle.runtime.loop import Turned
from forecastle.runtime.wiring import furnish
from forecastle.settings import Settings
from forecastle.types import Severity


@dataclass(frozen=True, slots=True)
class Decided:
    """A tick the engine is done with: the open incidents worth a word (id -> one line) and the model that forecast."""

    tick: int
    incidents: Mapping[str, str] = field(default_factory=dict)
    model: str = ""


class Engine(Protocol):
    """Where the messages go. ``fill`` gives history, nothing of which is decided."""

    def fill(self, messages: Iterable[tuple[str, int, bytes]]) -> int:
        """Take (workload, record timestamp, message); returns how many."""

    def tick(self, tick: int, messages: Iterable[tuple[str, int, bytes]]) -> Decided:
        """Send one tick's messages and wait until it was decided."""


class InProcess:
    """The loop in this process, without Kafka. A context manager."""

    def __init__(self, settings: Settings) -> None:
        self._queue: deque[bytes] = deque()
        intake = MemoryIntake(_Open(self._queue), WallClock(), settings.intake, per_poll=500)
        self._loop = furnish(settings, intake=intake)
        self._last = Decided(0)
        self._loop.listeners.append(self._listen)
        self._intake = intake

    def __enter__(self) -> InProcess:
        self._loop.resume()
        return self

    def __exit__(self, *_: object) -> None:
        for cloud in self._loop.rooms.clouds.values():
            cloud.close()

    def fill(self, messages: Iterable[tuple[str, int, bytes]]) -> int:
        """See `Engine`."""
        count = 0
        for _, _, body in messages:
            self._queue.append(body)
            count += 1
            if len(self._queue) >= 500:
                self._loop.turn(0.0)
        while self._queue:
            self._loop.turn(0.0)
        return count

    def tick(self, tick: int, messages: Iterable[tuple[str, int, bytes]]) -> Decided:  # noqa: ARG002 - turns tell
        """See `Engine`."""
        self._queue.extend(body for _, _, body in messages)
        while self._queue:
            self._loop.turn(0.0)
        if self._intake.dead_letters:
            raise AssertionError(f"the demo sent what the engine refuses: {self._intake.dead_letters[0]}")
        return self._last

    def _listen(self, turned: Turned) -> None:
        closed = turned.closed
        worth = {
            i.id: f"{i.severity} {i.workload or i.site}: {i.cause}" for i in closed.incidents if i.severity is not Severity.INFO
        }
        model = "seasonal-naive" if closed.forecasts.fallback.all() else closed.forecasts.model
        self._last = Decided(closed.tick, worth, model)


class _Open(Iterator[bytes]):
    """What is in a queue now; more may come later."""

    def __init__(self, queue: deque[bytes]) -> None:
        self._queue = queue

    def __next__(self) -> bytes:
        if not self._queue:
            raise StopIteration
        return self._queue.popleft()
