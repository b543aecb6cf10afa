"""Samples to windows. A window is a function of the log: not of how polls cut it, nor of the order within a slot.

Samples wait, by slot, until the watermark closes their tick; then a slot is folded once: repeated deliveries (same series, same
``at``) count once, several samples of a series become their mean (what a gauge was during the step), and the result enters the
ring. Of two *different* values at the same instant the larger one counts: for demand the safe one, and independent of order.
A sample whose slot its own partition's watermark has passed is too late: counted, not applied.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from forecastle.settings import WindowSettings
from forecastle.types import Floats, Index, Ints, Mask, Progress, Samples, SeriesKey, Windows
from forecastle.window.ring import Ring
from forecastle.window.suspect import HISTORY, candidates, suspects
from forecastle.window.watermark import NEVER, Watermark

SHARED = -2
NOWHERE = -1
Chunk: TypeAlias = tuple[Index, Ints, Floats, Index]  # row, at, value, partition


@dataclass(frozen=True, slots=True)
class Appended:
    """What became of a batch: samples ``accepted`` and too ``late``.

    ``duplicate`` counts the re-deliveries that folding has found since the last call (they come to light when their slot
    closes).
    """

    accepted: int
    late: int
    duplicate: int


class WindowStore:
    """Ring buffers of all series, event time only: the same samples give the same windows.

    ``late`` counts the samples that came too late, since the start.
    """

    def __init__(self, settings: WindowSettings, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.settings = settings
        self._monotonic = monotonic
        self.step_ms = round(settings.step_s * 1000)
        self.look_back = settings.look_back
        self.watermark: int | None = None
        self.closed: int | None = None
        self.late = 0
        self._watermark = Watermark(self.step_ms, round(settings.lateness_s * 1000), settings.idle_s)
        self._ring = Ring(settings.look_back)
        self._rows: dict[SeriesKey, int] = {}
        self._last_at = np.empty(0, np.int64)
        self._home = np.empty(0, np.int32)
        self._counter = np.empty(0, np.bool_)
        self._order = np.empty(0, np.int64)
        self._sorted: tuple[SeriesKey, ...] = ()
        self._listed: tuple[Mask, tuple[SeriesKey, ...], Ints] = np.empty(0, np.bool_), (), np.empty(0, np.int64)
        self._seen_keys: tuple[SeriesKey, ...] = ()
        self._seen_rows = np.empty(0, np.int32)
        self._open: dict[int, list[Chunk]] = {}
        self._duplicates = 0
        self._reported = 0

    def __len__(self) -> int:
        """Series that have a row, heard lately or not."""
        return len(self._rows)

    # --- samples in -------------------------------------------------------------------------------------------------

    def append(self, samples: Samples) -> Appended:
        """Take a batch, in order of arrival. Samples of slots already folded fill gaps only."""
        row = self._map(samples.keys)[samples.index]
        accepted = self._watermark.admit(samples.partition, samples.at)
        late = len(accepted) - int(np.count_nonzero(accepted))
        at, value, partition = samples.at, samples.value, samples.partition
        if late:
            self.late += late
            row, at, value, partition = row[accepted], at[accepted], value[accepted], partition[accepted]
        self._hold(row, at, value, partition)
        found, self._reported = self._duplicates - self._reported, self._duplicates
        return Appended(len(at), late, found)

    def _hold(self, row: Index, at: Ints, value: Floats, partition: Index) -> None:
        if not len(at):
            return
        slot = -(-at // self.step_ms)
        if slot.min() == slot.max():
            self._open.setdefault(int(slot[0]), []).append((row, at, value, partition))
            return
        order = np.argsort(slot, kind="stable")
        cuts = np.flatnonzero(np.diff(slot[order])) + 1
        for part in np.split(order, cuts):
            self._open.setdefault(int(slot[part[0]]), []).append((row[part], at[part], value[part], partition[part]))

    def _map(self, keys: tuple[SeriesKey, ...]) -> Index:
        """Row of every key, new ones added; an intake's growing table is only mapped once."""
        known = len(self._seen_keys)
        if keys is self._seen_keys:
            return self._seen_rows
        if known and keys[:known] == self._seen_keys:
            self._seen_rows = np.concatenate((self._seen_rows, self._find(keys[known:])))
        else:
            self._seen_rows = self._find(keys)
        self._seen_keys = keys
        return self._seen_rows

    def _find(self, keys: Iterable[SeriesKey]) -> Index:
        found = np.array([self._rows.setdefault(key, len(self._rows)) for key in keys], np.int32)
        if len(self._rows) > len(self._last_at):
            self._grow()
        return found

    def _grow(self) -> None:
        added = list(self._rows)[len(self._last_at) :]
        n = len(added)
        self._ring.grow(len(self._rows))
        self._last_at = np.concatenate((self._last_at, np.full(n, NEVER, np.int64)))
        self._home = np.concatenate((self._home, np.full(n, NOWHERE, np.int32)))
        counter = np.array([key.metric.endswith("_total") for key in added], np.bool_)
        self._counter = np.concatenate((self._counter, counter))
        self._sorted = tuple(sorted(self._rows))
        self._order = np.array([self._rows[key] for key in self._sorted], np.int64)
        self._listed = np.empty(0, np.bool_), (), self._order[:0]

    # --- ticks out --------------------------------------------------------------------------------------------------

    def due(self, progress: Progress) -> list[int]:
        """Ticks (ms, multiples of the step, ascending) that every partition has passed and that are not closed yet.

        Partitions that are no longer assigned are dropped first. A silence longer than the whole look-back is skipped.
        """
        self.drop_partitions(self._watermark.known - progress.assigned)
        joint = self._watermark.joint(progress, self._monotonic())
        if joint is None:
            return []
        self.watermark = joint if self.watermark is None else max(joint, self.watermark)
        last = self.watermark // self.step_ms
        first = self._next()
        if first is None:
            return []
        reach = self.look_back
        ticks: list[int] = []
        waiting = sorted(slot for slot in self._open if first <= slot <= last)
        for slot in (*waiting, last):
            if slot - first > reach:
                first = slot if slot in self._open else slot - reach
            ticks.extend(range(first, slot + 1))
            first = max(first, slot + 1)
        return [tick * self.step_ms for tick in ticks]

    def _next(self) -> int | None:
        if self.closed is not None:
            return self.closed // self.step_ms + 1
        origin = self._watermark.origin
        return None if origin is None else -(-origin // self.step_ms)

    def skip(self, tick: int) -> None:
        """Fold everything up to ``tick`` (ms) into the ring without reading it: what catching up needs. Ticks ascend."""
        newest = tick // self.step_ms
        if self.closed is not None and tick <= self.closed:
            raise ValueError(f"tick {tick} is closed already; the last one was {self.closed}")
        self._ring.advance(newest)
        for slot in sorted(slot for slot in self._open if slot <= newest):
            row, at, value, partition = _joined(self._open.pop(slot))
            if not self._ring.holds(slot):
                self.late += len(row)
                continue
            self._settle(row, at, partition)
            rows, means = self._fold(row, at - (slot - 1) * self.step_ms, value)
            self._ring.fill(slot, rows, means.astype(np.float32))
        self.closed = tick

    def _settle(self, row: Index, at: Ints, partition: Index) -> None:
        """Remember when and from where each series was last heard."""
        np.maximum.at(self._last_at, row, at)
        home = self._home[row]
        if np.array_equal(home, partition):
            return
        strangers = (home != partition) & (home != NOWHERE)
        self._home[row] = np.where(strangers, SHARED, partition)
        mixed = np.flatnonzero(self._home[row] != partition)
        if len(mixed):
            self._home[row[mixed]] = SHARED

    def _fold(self, row: Index, offset: Ints, value: Floats) -> tuple[Ints, Floats]:
        """One value per series: the mean over its distinct instants. ``offset`` is ms after the start of the slot."""
        counts = np.bincount(row)
        if counts.max() == 1:
            return row.astype(np.int64), value
        key = row.astype(np.int64) * (self.step_ms + 1) + offset
        order = np.argsort(key, kind="stable")
        key = key[order]
        starts = np.flatnonzero(np.concatenate(([True], key[1:] != key[:-1])))
        self._duplicates += len(key) - len(starts)
        value, rows = np.maximum.reduceat(value[order], starts), row[order[starts]].astype(np.int64)
        firsts = np.flatnonzero(np.concatenate(([True], rows[1:] != rows[:-1])))
        sums = np.add.reduceat(value, firsts)
        return rows[firsts], sums / np.diff(np.append(firsts, len(rows)))

    def close(self, tick: int, columns: int | None = None) -> Windows:
        """Close ``tick`` (ms): the newest ``columns`` slots (default: the look-back) of every series heard in the look-back.

        Rows are sorted by key, so that a rebuilt store gives the same bytes. Copies the window once.
        """
        self.skip(tick)
        return self.windows(columns)

    def windows(self, columns: int | None = None) -> Windows:
        """The windows as of the last closed tick. Raises ValueError before the first."""
        if self.closed is None:
            raise ValueError("no tick was closed yet; ask `due` for the next")
        tick, reach = self.closed, self.look_back * self.step_ms
        keys, rows = self._alive(tick - reach)
        wanted = min(columns or self.look_back, self.look_back)
        values, mask = self._ring.read(rows, wanted)
        suspect = self._suspect(rows)
        late = tick - self._last_at[rows] > self.settings.stale_s * 1000
        return Windows(keys, tick, self.step_ms, values, mask, late, suspect)

    def _suspect(self, rows: Ints) -> Mask:
        """`suspects` of ``rows``. Only those that it may find wrong have their history read."""
        jump, flat = self.settings.jump, self.settings.flat_slots
        result = np.zeros(len(rows), np.bool_)
        width = min(self.look_back, HISTORY * flat)
        if width > 1:
            counter = self._counter[rows]
            (odd,) = np.nonzero(candidates(*self._ring.read(rows, 2), counter, jump=jump))
            result[odd] = suspects(*self._ring.read(rows[odd], width), counter[odd], jump=jump, flat_slots=flat)
        return result

    def _alive(self, since: int) -> tuple[tuple[SeriesKey, ...], Ints]:
        """Keys and rows of the series heard after ``since``, sorted by key; the same tuple as long as they are the same."""
        alive = self._last_at[self._order] > since
        if len(alive) != len(self._listed[0]) or not np.array_equal(alive, self._listed[0]):
            keys = tuple(key for key, here in zip(self._sorted, alive.tolist(), strict=True) if here)
            self._listed = alive, keys, self._order[alive]
        return self._listed[1], self._listed[2]

    # --- upkeep -----------------------------------------------------------------------------------------------------

    def drop_partitions(self, gone: Iterable[int]) -> None:
        """Forget partitions that moved to another worker, and the series heard only there."""
        lost = frozenset(gone)
        if not lost:
            return
        self._watermark.forget(lost)
        numbers = np.array(sorted(lost), np.int32)
        for slot, chunks in list(self._open.items()):
            self._open[slot] = [_without(chunk, numbers) for chunk in chunks if not np.isin(chunk[3], numbers).all()]
            if not self._open[slot]:
                del self._open[slot]
        rows = np.flatnonzero(np.isin(self._home, numbers))
        self._ring.clear(rows)
        self._last_at[rows] = NEVER
        self._home[rows] = NOWHERE


def _joined(chunks: list[Chunk]) -> Chunk:
    if len(chunks) == 1:
        return chunks[0]
    row, at, value, partition = (np.concatenate(column) for column in zip(*chunks, strict=True))
    return row, at, value, partition


def _without(chunk: Chunk, partitions: Index) -> Chunk:
    row, at, value, partition = chunk
    keep = ~np.isin(partition, partitions)
    return row[keep], at[keep], value[keep], partition[keep]
