"""Measures the calls of the loop from outside it: each room is wrapped, so that a loop without traces pays nothing for them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from forecastle.outlets.traces import Lap
from forecastle.runtime.loop import Rooms

Result = TypeVar("Result")
_KEPT = frozenset({"poll", "window"})
"""What all ticks of one poll share."""


class Stopwatch:
    """The newest lap of each kind of work since the last `take`. Used by the loop's thread only."""

    def __init__(self, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._now_ns = now_ns
        self._laps: dict[tuple[str, str], Lap] = {}

    def watch(self, rooms: Rooms) -> None:
        """Put a watch around every room."""
        rooms.intake = _Watched(rooms.intake, {"poll": self._timed("poll", rooms.intake.poll)})
        rooms.store = _Watched(rooms.store, {"append": self._timed("window", rooms.store.append)})  # type: ignore[assignment]
        predict, detect = rooms.predictor.forecast, rooms.detection.detect
        rooms.predictor = _Watched(rooms.predictor, {"forecast": self._timed("predict", predict)})
        rooms.detection = _Watched(rooms.detection, {"detect": self._timed("detect", detect)})
        rooms.decide = self._timed("decide", rooms.decide)
        rooms.ledger = _Watched(rooms.ledger, {"record": self._timed("ledger", rooms.ledger.record)})
        rooms.execute = self._timed("act", rooms.execute, of_plan=True)

    def take(self) -> list[Lap]:
        """The laps of a tick; what the next tick shares with it is kept."""
        found = list(self._laps.values())
        self._laps = {key: lap for key, lap in self._laps.items() if lap.name in _KEPT}
        return found

    def _timed(self, name: str, call: Callable[..., Result], *, of_plan: bool = False) -> Callable[..., Result]:
        def timed(*args: Any, **named: Any) -> Result:
            start = self._now_ns()
            try:
                return call(*args, **named)
            finally:
                plan = args[0].id if of_plan else ""
                self._laps[name, plan] = Lap(name, start, max(start, self._now_ns()), plan)

        return timed


class _Watched:
    """An object some of whose methods are replaced."""

    def __init__(self, inner: object, methods: Mapping[str, Callable[..., Any]]) -> None:
        self._inner = inner
        for name, method in methods.items():
            setattr(self, name, method)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __len__(self) -> int:
        return len(self._inner)  # type: ignore[arg-type]
