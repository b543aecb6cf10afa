"""Two sources of time: the wall, and the event time of the log for replays and simulations."""

from __future__ import annotations

import time


class WallClock:
    """Real time."""

    def now(self) -> int:
        """Milliseconds since the epoch, UTC."""
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        """Seconds that never go backwards."""
        return time.monotonic()

    def advance(self, at: int) -> None:
        """The wall waits for no tick: nothing to do."""


class EventClock:
    """Time is the tick in hand: a decision about 12:00 is made at 12:00, however fast the log is played."""

    def __init__(self, at: int = 0) -> None:
        self._at = at

    def advance(self, at: int) -> None:
        """Move to ``at`` (ms); never back."""
        self._at = max(self._at, at)

    def now(self) -> int:
        """The tick in hand, ms."""
        return self._at

    def monotonic(self) -> float:
        """The tick in hand, seconds."""
        return self._at / 1000.0
