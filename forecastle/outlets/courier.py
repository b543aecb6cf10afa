"""Delivers events beside the loop, at least once: the loop never waits for a receiver, and a restart tells the rest.

The cursor, a small file, holds the newest tick all of whose events were delivered. What a crash leaves undelivered is newer
than that; the worker's next start goes through those ticks again and tells them. Receivers drop repeats by the event id.
"""

from __future__ import annotations

import logging
import os
import random
import threading
from collections import deque
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from forecastle.errors import ConfigError, Permanent, Transient
from forecastle.outlets.cloudevents import Event

logger = logging.getLogger(__name__)

CLOSE_S = 5.0
"""Seconds that closing waits for what is still to be delivered."""


class Retry(NamedTuple):
    """Pauses between tries: ``first_s`` doubling up to ``longest_s``, with jitter. ``attempts`` None: never give up."""

    first_s: float = 1.0
    longest_s: float = 60.0
    attempts: int | None = None

    def pause_s(self, tries: int) -> float:
        """Seconds to wait after the ``tries``-th failure."""
        return min(self.longest_s, self.first_s * 2.0 ** min(tries - 1, 30)) * random.uniform(0.75, 1.0)  # noqa: S311 - jitter


PATIENT = Retry()
"""For a receiver that every event must reach."""


class Cursor:
    """The newest tick (ms) all of whose events were delivered, kept in a file; ``start`` when there is none yet."""

    def __init__(self, path: Path, start: int) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.tick = int(path.read_text(encoding="ascii")) if path.exists() else start
        except (OSError, ValueError) as error:
            raise ConfigError(f"outlets.cursors: {path} cannot be used ({error}); remove it, or name another folder") from error

    def move(self, tick: int) -> None:
        """Remember ``tick``. Written whole or not at all."""
        self.tick = tick
        draft = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        draft.write_text(str(tick), encoding="ascii")
        draft.replace(self._path)


class Courier:
    """One receiver with its queue and thread. ``send`` raises a Transient to be called again, a Permanent to give up.

    ``chunk`` is how many events one call of ``send`` gets; ``pending`` how many may wait. What finds no room is left to the
    next start: the cursor then stays before it. What the receiver may not hear (``may_hear``) is withheld for good.
    """

    def __init__(
        self,
        name: str,
        send: Callable[[Sequence[Event]], None],
        cursor: Cursor,
        *,
        types: Sequence[str] = ("*",),
        may_hear: Callable[[Event], bool] = lambda _event: True,
        retry: Retry = PATIENT,
        chunk: int = 1000,
        pending: int = 20_000,
    ) -> None:
        self.name, self._send, self._cursor, self._types = name, send, cursor, tuple(types)
        self._retry, self._chunk, self._room = retry, chunk, pending
        self._queue: deque[tuple[int, Sequence[Event]]] = deque()
        self._woken, self._stop, self._gap = threading.Condition(), threading.Event(), False
        self._failing, self._may_hear = False, may_hear
        self.pending = self.delivered = self.dropped = self.withheld = 0
        self._thread = threading.Thread(target=self._run, name=f"outlet-{name}", daemon=True)
        self._thread.start()

    @property
    def tick(self) -> int:
        """The newest tick whose events were all delivered (ms)."""
        return self._cursor.tick

    def offer(self, tick: int, events: Sequence[Event]) -> None:
        """Queue the events of ``tick`` that this receiver wants, unless it has them. Never blocks."""
        asked = [event for event in events if any(fnmatchcase(event.type, glob) for glob in self._types)]
        wanted = [event for event in asked if self._may_hear(event)]
        self._withhold(len(asked) - len(wanted))
        with self._woken:
            if tick <= self._cursor.tick:
                return
            if self.pending + len(wanted) > self._room:
                if not self._gap:
                    logger.warning("outlet %s: %d events wait; the next start tells what comes now", self.name, self.pending)
                self._gap = True
                return
            self._queue.append((tick, wanted))
            self.pending += len(wanted)
            self._woken.notify()

    def _withhold(self, number: int) -> None:
        if number and not self.withheld:
            logger.warning("outlet %s: is not told of workloads with a residency that it has not; set its residency", self.name)
        self.withheld += number

    def close(self, patience_s: float = CLOSE_S) -> None:
        """Deliver for ``patience_s`` more seconds, or until a try fails; then leave the rest to the next start."""
        with self._woken:
            self._woken.wait_for(lambda: not self._queue or self._failing, patience_s)
            self._stop.set()
            self._woken.notify_all()
        self._thread.join(patience_s)

    def _run(self) -> None:
        while True:
            with self._woken:
                self._woken.wait_for(lambda: bool(self._queue) or self._stop.is_set())
                if self._stop.is_set():
                    return
                tick, events = self._queue[0]
            for start in range(0, len(events), self._chunk):
                if not self._deliver(events[start : start + self._chunk]):
                    return
            with self._woken:
                self._queue.popleft()
                if not self._gap:
                    self._moved(tick)
                self._woken.notify_all()

    def _moved(self, tick: int) -> None:
        try:
            self._cursor.move(tick)
        except OSError as error:
            logger.warning("outlet %s: the cursor cannot be written (%s); a restart repeats more", self.name, error)

    def _deliver(self, events: Sequence[Event]) -> bool:
        """Try until it is delivered or given up. False when asked to stop first."""
        tries = 0
        while not self._stop.is_set():
            try:
                self._send(events)
            except Transient as error:
                tries += 1
                if tries == self._retry.attempts:
                    self._done(events, dropped=error)
                    return True
                self._failed()
                self._stop.wait(max(error.retry_after, self._retry.pause_s(tries)))
            except Permanent as error:
                self._done(events, dropped=error)
                return True
            else:
                self._done(events)
                return True
        return False

    def _failed(self) -> None:
        with self._woken:
            self._failing = True
            self._woken.notify_all()

    def _done(self, events: Sequence[Event], dropped: Exception | None = None) -> None:
        with self._woken:
            self._failing = False
            self.pending -= len(events)
            if dropped is None:
                self.delivered += len(events)
            else:
                self.dropped += len(events)
        if dropped is not None:
            logger.error("outlet %s: gave up %d events, from %s on: %s", self.name, len(events), events[0].id, dropped)
