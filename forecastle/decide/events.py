"""Occasions known beforehand, which no forecast of the past can know: campaigns, launches, public holidays.

An occasion multiplies the forecast of the steps it covers. While it runs, part of its factor is in the measurements already
and so in the forecast: what has come is judged by the level just before it began, and only the rest is applied. After an
occasion with more demand the forecast is not lowered, since nothing says that its crowd leaves on time; after one with less
demand it is raised back. Occasions do not add up: where several cover a step the largest factor counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

import numpy as np

from forecastle.errors import ConfigError
from forecastle.types import Event, Floats, Holidays, Window, Workload

BEFORE = 15
"""Slots before an occasion whose median is the level it started from."""


@dataclass(frozen=True, slots=True)
class Ahead:
    """The occasions that touch the look-ahead of a workload at ``tick`` (ms), in steps of ``step_ms``."""

    tick: int
    step_ms: int
    events: tuple[Event, ...]

    @classmethod
    def of(cls, load: Workload, tick: int, step_ms: int, steps: int) -> Ahead:
        """Events and holidays of ``load`` that touch the next ``steps``. Raises ConfigError when there is no such calendar."""
        until = tick + steps * step_ms
        known = [*load.events, *(_holidays(load.holidays, tick, until) if load.holidays else ())]
        return cls(tick, step_ms, tuple(e for e in known if e.end > tick and e.start < until))

    def least(self, steps: int) -> tuple[int, str]:
        """Replicas that occasions within the next ``steps`` ask for, and which; (0, "") without one."""
        until = self.tick + steps * self.step_ms
        asking = [(e.replicas, e.name) for e in self.events if e.replicas and e.start < until]
        replicas, name = max(asking, default=(0, ""))
        return replicas, f"planned: {name}" if replicas else ""

    def factors(self, steps: int, window: Window) -> Floats:
        """What the forecast of each of the next ``steps`` is multiplied by, float64[steps], given the series' ``window``."""
        starts = self.tick + np.arange(steps) * self.step_ms
        planned = np.array([_factor(self._during(int(at), int(at) + self.step_ms)) for at in starts], np.float64)
        came = self._came(window)
        return np.maximum(planned / came, np.minimum(planned, 1.0))

    def _during(self, start: int, end: int) -> list[Event]:
        return [e for e in self.events if e.start < end and e.end > start]

    def _came(self, window: Window) -> float:
        """How much of the factor in force now is in the measurements already, from 1 to all of it."""
        running = [e for e in self.events if e.start < self.tick]
        if not running:
            return 1.0
        lead = max(running, key=lambda e: (e.factor, -e.start))
        level = _level_before(window, lead.start)
        seen = window.values[window.mask]
        if level is None or not len(seen):
            return lead.factor
        low, high = sorted((1.0, lead.factor))
        return float(np.clip(float(seen[-1]) / level, low, high))


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


def _holidays(known: Holidays, start: int, end: int) -> Iterator[Event]:
    """The holidays that touch ``[start, end)`` (ms), from midnight to midnight in their zone, however long that day is."""
    zone = ZoneInfo(known.zone)
    day = datetime.fromtimestamp(start / 1000, UTC).astimezone(zone).date()
    last = datetime.fromtimestamp(end / 1000, UTC).astimezone(zone).date()
    while day <= last:
        name = _calendar(known.country, known.subdivision, day.year).get(day)
        if name:
            yield Event(name, _midnight(day, zone), _midnight(day + timedelta(days=1), zone), known.factor, known.replicas)
        day += timedelta(days=1)


def _midnight(day: date, zone: ZoneInfo) -> int:
    return int(datetime.combine(day, time(0), zone).timestamp() * 1000)


@lru_cache(maxsize=256)
def _calendar(country: str, subdivision: str, year: int) -> dict[date, str]:
    """Name by day of the public holidays of one year. Raises ConfigError, which says what to install or to write."""
    try:
        from holidays import country_holidays
    except ImportError as error:
        raise ConfigError(
            f"holidays '{country}': the calendars are not installed; run: pip install 'forecastle[holidays]'"
        ) from error
    try:
        return dict(country_holidays(country, subdiv=subdivision or None, years=year, expand=False, language="en_US"))
    except NotImplementedError as error:
        raise ConfigError(f"holidays: {error}; write a country such as DE or a part of it such as DE-BY") from error


def check_calendar(known: Holidays) -> None:
    """Raises ConfigError when the calendar or its country is not there."""
    _calendar(known.country, known.subdivision, 2026)
