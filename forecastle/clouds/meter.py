"""How a provider is doing: its calls counted by result, its answers timed."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from forecastle.clouds.layer import Answer, Layer
from forecastle.ports import Cloud

BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the latency buckets; Prometheus' own defaults from 5 ms on. One more bucket has no bound."""
OK = "ok"


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds that calls took: how many fell into each bucket of `BOUNDS_S` and beyond, and their sum."""

    buckets: tuple[int, ...]
    total_s: float


@dataclass(frozen=True, slots=True)
class Figures:
    """Totals since the start: ``calls`` by operation and result (`OK` or an error's type), ``latency`` by operation."""

    calls: Mapping[tuple[str, str], int]
    latency: Mapping[str, Latency]


@dataclass(slots=True)
class _Timed:
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_S) + 1))
    total_s: float = 0.0


class Metered(Layer):
    """Counts and times what ``inner`` answers, errors included. Safe to use, and to read, from several threads."""

    def __init__(self, inner: Cloud, monotonic: Callable[[], float]) -> None:
        super().__init__(inner)
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._calls: Counter[tuple[str, str]] = Counter()
        self._timed: dict[str, _Timed] = {}

    @property
    def figures(self) -> Figures:
        """The totals at this moment."""
        with self._lock:
            latency = {name: Latency(tuple(one.buckets), one.total_s) for name, one in self._timed.items()}
            return Figures(dict(self._calls), latency)

    def _ask(self, operation: str, request: Callable[[], Answer]) -> Answer:
        began, result = self._monotonic(), OK
        try:
            return request()
        except BaseException as error:
            result = type(error).__name__
            raise
        finally:
            self._count(operation, result, self._monotonic() - began)

    def _count(self, operation: str, result: str, seconds: float) -> None:
        with self._lock:
            self._calls[operation, result] += 1
            timed = self._timed.setdefault(operation, _Timed())
            timed.buckets[bisect_left(BOUNDS_S, seconds)] += 1
            timed.total_s += seconds
