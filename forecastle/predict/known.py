"""What a model may be told beside the measurements: occasions ahead by the configuration, and what kind of series it is.

Training and serving fill these inputs by the same functions. Columns of ``known`` are those of `KNOWN`; a column of ``static``
is a condition on a series' key, ``metric=requests`` or ``label.tier=web``: 1 where it holds, 0 where it does not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from forecastle.errors import ConfigError
from forecastle.occasions import EVENT, HOLIDAY, Occasion, answered, occasions
from forecastle.types import Event, Floats32, Foreknown, Holidays, Ints, Mask, SeriesKey, Workload

KNOWN = (HOLIDAY, EVENT)
MARGIN = 1440
"""Slots beyond the asked ones for which columns are kept, so that they are made once in so many ticks."""
LEAST = 2
"""Occasions that began at different times and were measured, from which something can be learned: one may be chance."""
SEEN = 0.5
"""Share of an occasion's slots that must have been measured."""
Calendar = tuple[tuple[Event, ...], Holidays | None]
"""Events and holidays of a workload; workloads that share both share their columns."""


def columns(found: Sequence[Occasion], names: Sequence[str], start: int, step_ms: int, slots: int) -> Floats32:
    """float32[slots, k] of the occasions ``found``: slot i covers ``start + i * step_ms`` (ms) and one step from there.

    An occasion counts in every slot that it touches, and of several the largest factor, as `forecastle.decide.events` has it.
    """
    day, factor = np.zeros(slots, np.float32), np.full(slots, np.nan, np.float32)
    for one in found:
        first, last = (one.event.start - start) // step_ms, -((start - one.event.end) // step_ms)
        span = slice(max(first, 0), max(min(last, slots), 0))
        factor[span] = np.fmax(factor[span], np.float32(math.log(one.event.factor)))
        if one.holiday:
            day[span] = 1.0
    told = {HOLIDAY: day, EVENT: np.nan_to_num(factor)}
    return np.stack([told[name] for name in names], axis=1) if names else np.zeros((slots, 0), np.float32)


def statics(keys: Sequence[SeriesKey], conditions: Sequence[str]) -> Floats32:
    """float32[n, s]: 1 where the key of a series meets a condition. Raises ConfigError for what is no condition."""
    tests = [_condition(one) for one in conditions]
    met = [[(key.metric if name == "metric" else key.label(name[6:])) == value for name, value in tests] for key in keys]
    return np.asarray(met, np.float32).reshape(len(keys), len(tests))


def _condition(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    if not value or (name != "metric" and not (name.startswith("label.") and name[6:])):
        raise ConfigError(f"static column {text!r}: write metric=NAME or label.NAME=VALUE")
    return name, value


def check_columns(known: Sequence[str], conditions: Sequence[str]) -> None:
    """Raises ConfigError for a known input that nobody can give, for what is no condition, and for either told twice."""
    strange = [name for name in known if name not in KNOWN]
    if strange:
        raise ConfigError(f"unknown known inputs {strange}; there are {list(KNOWN)}")
    if len(set(known)) < len(known) or len(set(conditions)) < len(conditions):
        raise ConfigError(f"known {list(known)} and static {list(conditions)} must not name a column twice")
    for text in conditions:
        _condition(text)


def read_known(manifest: Mapping[str, Any]) -> tuple[Foreknown, ...]:
    """What a manifest lists under ``known``; none when it lists nothing. Raises ConfigError when it cannot be read."""
    try:
        told = tuple(Foreknown(str(one["name"]), float(one["low"]), float(one["high"])) for one in manifest.get("known", ()))
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"known {manifest.get('known')!r} cannot be read: it needs name, low and high of each") from error
    if not all(-math.inf < one.low <= 0 <= one.high < math.inf for one in told):
        raise ConfigError(f"known {manifest.get('known')!r}: a range must hold 0 and be finite")
    return told


class Almanac:
    """Fills ``known`` for the demand series of ``loads``, on slots of ``step_ms``; any other series is told nothing.

    A factor is that of the demand: what a campaign does to a workload's latency nobody planned.

    Not for several threads at once: it keeps the columns that it made last.
    """

    def __init__(self, loads: Iterable[Workload], step_ms: int) -> None:
        self._step_ms = step_ms
        self._calendars: dict[SeriesKey, Calendar] = {
            demand.key: (load.events, load.holidays)
            for load in loads
            if load.events or load.holidays is not None
            for demand in load.demands
        }
        self._kept: _Kept | None = None

    def at(self, known: tuple[Foreknown, ...], keys: tuple[SeriesKey, ...], end: int, back: int, ahead: int) -> _Rows:
        """The inputs of windows of ``back`` slots that end at ``end`` (ms) and of ``ahead`` slots from there.

        Only occasions that the model has learned from are told. Columns are kept for the ticks to come.
        """
        if self._kept is None or not self._kept.serves(known, end - back * self._step_ms, back + ahead):
            self._kept = self._made(known, end - back * self._step_ms, back + ahead + MARGIN)
        return self._kept.rows(keys, end - back * self._step_ms, back + ahead)

    def series(self, known: tuple[Foreknown, ...], keys: Sequence[SeriesKey], end: int, slots: int) -> list[Floats32]:
        """float32[slots, k] of each series over the ``slots`` before ``end`` (ms); one array for all that share a calendar."""
        kept = self._made(known, end - slots * self._step_ms, slots)
        return [kept.table[row] for row in kept.index(keys)]

    def learned(self, names: Sequence[str], keys: Sequence[SeriesKey], end: int, seen: Mask) -> tuple[Foreknown, ...]:
        """What can be learned of the occasions in a history ``seen`` bool[n, t] whose last slot ends at ``end`` (ms).

        A range goes as far as `LEAST` occasions that began at different times, each measured for the most part in some series.
        """
        start, largest, days = end - seen.shape[1] * self._step_ms, dict[int, float](), set[int]()
        least = dict[int, float]()
        for one in self._measured(keys, start, end, seen):
            begin, size = one.event.start, math.log(one.event.factor)
            largest[begin], least[begin] = max(largest.get(begin, 0.0), size), min(least.get(begin, 0.0), size)
            days |= {begin} if one.holiday else set()
        high, low = (sorted(sizes.values(), key=abs, reverse=True) for sizes in (largest, least))
        ranges = {
            HOLIDAY: (0.0, float(len(days) >= LEAST)),
            EVENT: (low[LEAST - 1], high[LEAST - 1]) if len(largest) >= LEAST else (0.0, 0.0),
        }
        return tuple(Foreknown(name, *ranges[name]) for name in names)

    def _measured(self, keys: Sequence[SeriesKey], start: int, end: int, seen: Mask) -> Iterator[Occasion]:
        for key, row in zip(keys, seen, strict=True):
            calendar = self._calendars.get(key)
            for one in occasions(*calendar, start, end) if calendar else ():
                first, last = (one.event.start - start) // self._step_ms, -((start - one.event.end) // self._step_ms)
                if first >= 0 and last <= len(row) and row[first:last].mean() >= SEEN:
                    yield one

    def _made(self, known: tuple[Foreknown, ...], start: int, slots: int) -> _Kept:
        """Row 0 is told nothing; each calendar has a row of its own."""
        names, end = [one.name for one in known], start + slots * self._step_ms
        distinct = list(dict.fromkeys(self._calendars.values()))
        table = np.zeros((1 + len(distinct), slots, len(names)), np.float32)
        for row, calendar in zip(table[1:], distinct, strict=True):
            told = [one for one in occasions(*calendar, start, end) if answered(one, known)]
            row[:] = columns(told, names, start, self._step_ms, slots)
        place = {calendar: 1 + i for i, calendar in enumerate(distinct)}
        return _Kept(known, start, self._step_ms, table, {key: place[one] for key, one in self._calendars.items()})


class _Kept:
    """Columns ``table`` float32[calendars, slots, k] from ``start`` (ms) on, and the row of each series that has any."""

    def __init__(
        self, known: tuple[Foreknown, ...], start: int, step_ms: int, table: Floats32, place: Mapping[SeriesKey, int]
    ) -> None:
        self.known, self.start, self.step_ms, self.table, self.place = known, start, step_ms, table, place
        self._keys: tuple[SeriesKey, ...] = ()
        self._index = np.zeros(0, np.int64)

    def serves(self, known: tuple[Foreknown, ...], start: int, slots: int) -> bool:
        """Whether these slots are among those kept."""
        first, odd = divmod(start - self.start, self.step_ms)
        return known == self.known and not odd and 0 <= first <= self.table.shape[1] - slots

    def rows(self, keys: tuple[SeriesKey, ...], start: int, slots: int) -> _Rows:
        """Of ``keys``, whose rows are looked up once for as long as they stay the same."""
        if keys is not self._keys:
            self._keys, self._index = keys, self.index(keys)
        first = (start - self.start) // self.step_ms
        return _Rows(self.table[:, first : first + slots], self._index)

    def index(self, keys: Sequence[SeriesKey]) -> Ints:
        """Row of each series."""
        return np.fromiter((self.place.get(key, 0) for key in keys), np.int64, len(keys))


class _Rows:
    """``known`` of a batch by calendar, gathered for the rows that are asked for: memory stays that of a chunk."""

    def __init__(self, table: Floats32, index: Ints) -> None:
        self._table, self._index = table, index

    def __getitem__(self, rows: slice) -> Floats32:
        """float32[rows, slots, k]."""
        return self._table[self._index[rows]]

    @property
    def told(self) -> Mask:
        """bool[n]: the series that are told of anything."""
        busy: Mask = np.asarray(self._table.any(axis=(1, 2)))
        told: Mask = busy[self._index]
        return told
