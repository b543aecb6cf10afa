"""Change windows: the hours in which something may be taken away. Outside of them the fleet only grows and pages."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from forecastle.guards.context import GuardContext, grows
from forecastle.guards.gates import Objection
from forecastle.settings import LocalSpan, WeeklyHours
from forecastle.types import Action, Kind

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def change_window(action: Action, ctx: GuardContext) -> Objection | None:
    """Scale-in and disruption only inside a window of the workload; a window that cannot be read is closed.

    A failover waits for none: it follows a loss that has happened.
    """
    if action.kind is Kind.NOTIFY or action.base is not None or (action.kind is Kind.SCALE and grows(action, ctx)):
        return None
    mine = [w for w in ctx.settings.windows if not w.workloads or action.workload in w.workloads]
    if not mine:
        return None
    unreadable = []
    for window in mine:
        try:
            if open_at(window, ctx.now):
                return None
        except ValueError as error:
            unreadable.append(f"{window.name}: {error}")
    names = ", ".join(window.name for window in mine)
    return Objection(f"outside the change windows ({names})" + "".join(f"; {text}: closed" for text in unreadable))


def open_at(window: WeeklyHours, at: int) -> bool:
    """Whether ``at`` (ms) is inside the window. Raises ValueError when its zone or a time is not known."""
    return any(spans(window, at, at + 1))


def spans(window: WeeklyHours, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Start and end (ms) of each stretch of the window that meets ``begin`` ... ``end`` (ms, exclusive).

    A local time that happens twice (DST ends) is meant as ``window.fold`` says, one that never happens as if the clocks had
    not been changed yet. A window that ends before it starts ends the next day. Raises ValueError for an unknown zone.
    """
    zone = _zone(window.zone)
    opens, closes = time.fromisoformat(window.start), time.fromisoformat(window.end)
    day, newest = (datetime.fromtimestamp(at / 1000, UTC).astimezone(zone).date() for at in (begin, end))
    day -= timedelta(days=1)
    while day <= newest:
        if DAYS[day.weekday()] in window.days:
            last = day if opens < closes else day + timedelta(days=1)
            start, stop = _instant(day, opens, zone, window.fold), _instant(last, closes, zone, window.fold)
            if start < end and stop > begin and start < stop:
                yield start, stop
        day += timedelta(days=1)


def interval(span: LocalSpan) -> tuple[int, int]:
    """Start and end in ms; a local time that never happens counts as if the clocks had not changed yet.

    Raises ValueError for an unknown zone.
    """
    zone = _zone(span.zone)
    start, end = (int(local.replace(tzinfo=zone, fold=span.fold).timestamp() * 1000) for local in (span.start, span.end))
    return start, end


def _instant(day: date, local: time, zone: ZoneInfo, fold: int) -> int:
    return int(datetime.combine(day, local.replace(fold=fold), zone).timestamp() * 1000)


@lru_cache(maxsize=64)
def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f"'{name}' is no IANA time zone this machine knows ({type(error).__name__})") from error
