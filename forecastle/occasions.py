"""What a workload's configuration knows beforehand: planned events, and the public holidays of its calendar as spans of time.

Two rooms need it and must not disagree: predict shows occasions to a model that has learned from such ones, decide multiplies
the forecast by the factor of all others. `answered` is the one rule by which an occasion is the model's or the planner's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from forecastle.errors import ConfigError
from forecastle.types import Event, Foreknown, Holidays

HOLIDAY, EVENT = "holiday", "event"
"""Known inputs: 1 on a public holiday of the workload; log of the largest factor planned for the slot, 0 without one."""
_FUZZ = 1e-6


@dataclass(frozen=True, slots=True)
class Occasion:
    """A planned `Event`, or a public ``holiday`` as one."""

    event: Event
    holiday: bool = False


def occasions(events: Sequence[Event], holidays: Holidays | None, start: int, end: int) -> tuple[Occasion, ...]:
    """Those that touch ``[start, end)`` (ms), events first. Raises ConfigError when there is no such calendar."""
    planned = (Occasion(event) for event in events)
    days = (Occasion(day, holiday=True) for day in (public(holidays, start, end) if holidays else ()))
    return tuple(one for one in (*planned, *days) if one.event.end > start and one.event.start < end)


def answered(one: Occasion, known: Sequence[Foreknown]) -> bool:
    """Whether a model that takes ``known`` inputs has learned from occasions like this one.

    Every input that tells of it must have been learned: the holiday as such, and a factor within the range that was seen. What
    no input tells of is not answered.
    """
    learned = {column.name: (column.low, column.high) for column in known}
    size = {HOLIDAY: 1.0 if one.holiday else 0.0, EVENT: math.log(one.event.factor)}
    telling = [name for name in learned if size[name]]
    return bool(telling) and all(learned[n][0] - _FUZZ <= size[n] <= learned[n][1] + _FUZZ for n in telling)


def public(known: Holidays, start: int, end: int) -> Iterator[Event]:
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
