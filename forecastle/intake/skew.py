"""How far each source's clock runs ahead of ours: what is from the future is refused, and somebody has to hear whose it is."""

from __future__ import annotations

SPAN_S = 300.0
"""Seconds after which a largest lead starts to be forgotten; it is gone after twice as long."""


class Skew:
    """The largest lead of each source, lately. A source is a partition; ``seconds`` are those of a monotonic clock."""

    def __init__(self, span_s: float = SPAN_S) -> None:
        self._span_s = span_s
        self._began = 0.0
        self._now: dict[str, int] = {}
        self._before: dict[str, int] = {}

    def note(self, source: str, lead_ms: int, seconds: float) -> None:
        """A sample of ``source`` was ``lead_ms`` ahead of our clock; less than nothing is delay, not skew."""
        self._age(seconds)
        self._now[source] = max(lead_ms, self._now.get(source, 0))

    def largest_s(self, seconds: float) -> dict[str, float]:
        """Seconds by source, of those that were heard of in the last two spans."""
        self._age(seconds)
        sources = self._before.keys() | self._now.keys()
        return {name: max(self._now.get(name, 0), self._before.get(name, 0)) / 1000 for name in sorted(sources)}

    def _age(self, seconds: float) -> None:
        spans = (seconds - self._began) // self._span_s
        if spans >= 1:
            self._before, self._now = (self._now if spans < 2 else {}), {}
            self._began += spans * self._span_s
