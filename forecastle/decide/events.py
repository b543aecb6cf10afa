"""Occasions known beforehand, which a forecast of the past alone cannot know: campaigns, launches, public holidays.

An occasion multiplies the forecast of the steps it covers. While it runs, part of its factor is in the measurements already
and so in the forecast: what has come is judged by the level just before it began, and only the rest is applied. After an
occasion with more demand the forecast is not lowered, since nothing says that its crowd leaves on time; after one with less
demand it is raised back. Occasions do not add up: where several cover a step the largest factor counts. An occasion that the
model was told of, and that is like those it has learned from, is the model's: it is not multiplied again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from forecastle.occasions import Occasion, answered, occasions
from forecastle.types import Event, Floats, Foreknown, Window, Workload

BEFORE = 15
"""Slots before an occasion whose median is the level it started from."""


@dataclass(frozen=True, slots=True)
class Ahead:
    """The occasions that touch the look-ahead of a workload at ``tick`` (ms), in steps of ``step_ms``."""

    tick: int
    step_ms: int
    occasions: tuple[Occasion, ...]

    @classmethod
    def of(cls, load: Workload, tick: int, step_ms: int, steps: int) -> Ahead:
        """Events and holidays of ``load`` that touch the next ``steps``. Raises ConfigError when there is no such calendar."""
        return cls(tick, step_ms, occasions(load.events, load.holidays, tick, tick + steps * step_ms))

    @property
    def events(self) -> tuple[Event, ...]:
        """All of them, whoever answers for them."""
        return tuple(one.event for one in self.occasions)

    def least(self, steps: int) -> tuple[int, str]:
        """Replicas that occasions within the next ``steps`` ask for, and which; (0, "") without one."""
        until = self.tick + steps * self.step_ms
        asking = [(e.replicas, e.name) for e in self.events if e.replicas and e.start < until]
        replicas, name = max(asking, default=(0, ""))
        return replicas, f"planned: {name}" if replicas else ""

    def factors(self, steps: int, window: Window, known: Sequence[Foreknown] = ()) -> Floats:
        """What the forecast of each of the next ``steps`` is multiplied by, float64[steps], given the series' ``window``.

        Occasions that the forecast's model was told of and has learned from, by its ``known`` inputs, are left to it.
        """
        rest = [one.event for one in self.occasions if not answered(one, known)]
        starts = self.tick + np.arange(steps) * self.step_ms
        planned = np.array([_factor(_during(rest, int(at), int(at) + self.step_ms)) for at in starts], np.float64)
        came = self._came(rest, window)
        return np.maximum(planned / came, np.minimum(planned, 1.0))

    def _came(self, events: Sequence[Event], window: Window) -> float:
        """How much of the factor in force now is in the measurements already, from 1 to all of it."""
        running = [e for e in events if e.start < self.tick]
        if not running:
            return 1.0
        lead = max(running, key=lambda e: (e.factor, -e.start))
        level = _level_before(window, lead.start)
        seen = window.values[window.mask]
        if level is None or not len(seen):
            return lead.factor
        low, high = sorted((1.0, lead.factor))
        return float(np.clip(float(seen[-1]) / level, low, high))


def _during(events: Sequence[Event], start: int, end: int) -> list[Event]:
    return [e for e in events if e.start < end and e.end > start]


def _factor(events: Sequence[Event]) -> float:
    return max((e.factor for e in events), default=1.0)


def _level_before(window: Window, at: int) -> float | None:
    """Median of the slots just before ``at``; None where the window does not reach back that far or all was zero."""
    last = len(window.values) - max(0, -(-(window.end - at) // window.step_ms))
    first = max(0, last - BEFORE)
    if last <= 0:
        return None
    seen = window.values[first:last][window.mask[first:last]]
    level = float(np.median(seen)) if len(seen) else 0.0
    return level if level > 0 else None
