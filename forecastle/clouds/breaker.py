"""Leaving alone a provider that mostly fails: asking it more makes it worse, and every answer waited for holds others up."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from forecastle.clouds.layer import Answer, Layer
from forecastle.clouds.rate import Crowded
from forecastle.errors import CloudUnavailable, Permanent
from forecastle.ports import Cloud


class State(StrEnum):
    """Whether calls pass: all of them, none, or one to see whether the rest may follow."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class CircuitOpen(CloudUnavailable):
    """The provider was not asked, because it mostly failed lately."""


@dataclass(frozen=True, slots=True)
class Tripping:
    """When a breaker opens, and for how long.

    It opens when at least ``share`` of the calls of the last ``window_s`` seconds failed, of which there must be ``calls``; it
    lets one call through after ``open_s`` seconds.
    """

    share: float
    calls: int
    window_s: float
    open_s: float


class Breaker(Layer):
    """Closed it counts; open it answers CircuitOpen at once, with what is left as ``retry_after``; half open it tries one call.

    A Permanent error is an answer, so the provider is well. Safe to use from several threads.
    """

    def __init__(self, inner: Cloud, tripping: Tripping, monotonic: Callable[[], float]) -> None:
        super().__init__(inner)
        self._tripping, self._monotonic = tripping, monotonic
        self._lock = threading.Lock()
        self._recent: deque[tuple[float, bool]] = deque()
        self._failed = 0
        self._open_until: float | None = None
        self._trying = False
        self.opened = 0

    @property
    def state(self) -> State:
        """What the next call will meet."""
        with self._lock:
            return self._state(self._monotonic())

    def _state(self, now: float) -> State:
        if self._open_until is None:
            return State.CLOSED
        return State.OPEN if now < self._open_until else State.HALF_OPEN

    def _ask(self, operation: str, request: Callable[[], Answer]) -> Answer:  # noqa: ARG002 - one circuit for all of them
        trial = self._enter()
        try:
            answer = request()
        except Permanent:
            self._leave(trial, failed=False)
            raise
        except Crowded:
            self._leave(trial, failed=None)
            raise
        except Exception:
            self._leave(trial, failed=True)
            raise
        except BaseException:
            self._leave(trial, failed=None)
            raise
        self._leave(trial, failed=False)
        return answer

    def _enter(self) -> bool:
        """Whether the call is the trial of a half-open circuit. Raises CircuitOpen when it must not be made."""
        with self._lock:
            now = self._monotonic()
            state = self._state(now)
            if state is State.CLOSED:
                return False
            if state is State.OPEN or self._trying:
                left_s = max(0.0, (self._open_until or now) - now) or self._tripping.open_s
                raise CircuitOpen(f"{self.name} mostly failed lately; next try in {left_s:.1f} s", retry_after=left_s)
            self._trying = True
            return True

    def _leave(self, trial: bool, *, failed: bool | None) -> None:
        """Learn from a call; ``failed`` is None when it says nothing."""
        with self._lock:
            now = self._monotonic()
            if trial:
                self._trying = False
                if failed is False:
                    self._open_until = None
                elif failed:
                    self._open(now)
            elif failed is not None and self._open_until is None:
                self._note(now, failed)

    def _note(self, now: float, failed: bool) -> None:
        self._recent.append((now, failed))
        self._failed += failed
        while self._recent[0][0] <= now - self._tripping.window_s:
            self._failed -= self._recent.popleft()[1]
        count = len(self._recent)
        if failed and count >= self._tripping.calls and self._failed >= self._tripping.share * count:
            self._open(now)

    def _open(self, now: float) -> None:
        self._open_until = now + self._tripping.open_s
        self._recent.clear()
        self._failed = 0
        self.opened += 1
