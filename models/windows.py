"""Training windows of many series of different lengths, drawn by row and column of one padded table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from forecastle.errors import ConfigError
from forecastle.types import Floats, Floats32, Ints


class Batch(NamedTuple):
    """``values`` and ``mask`` float32[n, L], ``end_minute`` int64[n], ``target`` float32[n, h] (NaN unknown), ``scale`` [n].

    ``known`` float32[n, L + h, k] and ``static`` float32[n, s], where the panel has them.
    """

    values: Floats32
    mask: Floats32
    end_minute: Ints
    target: Floats32
    scale: Floats32
    known: Floats32 | None = None
    static: Floats32 | None = None

    @property
    def inputs(self) -> dict[str, npt.NDArray[Any]]:
        """What a model is shown, by the names of its inputs, in order."""
        always: dict[str, npt.NDArray[Any]] = {"values": self.values, "mask": self.mask, "end_minute": self.end_minute}
        told = (("known", self.known), ("static", self.static))
        return always | {name: part for name, part in told if part is not None}


@dataclass(frozen=True, slots=True)
class Panel:
    """Series side by side: ``table`` float32[n, look_back + t], NaN for gaps and before a series begins, ends aligned.

    ``first`` is each series' first usable window end (column), ``scale`` its mean absolute change over half a horizon, by
    which its losses are divided. ``weight`` says how much more often than others a series is drawn.
    ``known`` float32[calendars, look_back + t, k] is what was known beforehand, ``calendar`` int64[n] which of it is a series',
    and ``static`` float32[n, s] what it is; None where a model takes none.
    """

    table: Floats32
    end_minute: Ints
    first: Ints
    scale: Floats
    weight: Floats
    look_back: int
    horizon: int
    step_ms: int
    known: Floats32 | None = None
    calendar: Ints | None = None
    static: Floats32 | None = None

    @classmethod
    def of(
        cls,
        series: Sequence[npt.NDArray[Any]],
        end_minutes: Sequence[int],
        look_back: int,
        horizon: int,
        step_ms: int,
        *,
        weights: Sequence[float] | None = None,
        known: Sequence[Floats32] | None = None,
        static: Floats32 | None = None,
    ) -> Panel:
        """Align ``series``; the last value of each ends at its ``end_minutes``. Raises ConfigError when all are too short.

        ``known`` float32[>= t, k] of each ends where its series does; what it does not reach back to is 0.
        """
        if len(series) != len(end_minutes) or not series:
            raise ConfigError(
                f"{len(series)} series and {len(end_minutes)} end_minutes; give one for each of at least one series"
            )
        longest = max(len(s) for s in series)
        table = np.full((len(series), look_back + longest), np.nan, np.float32)
        for row, values in zip(table, series, strict=True):
            row[len(row) - len(values) :] = values
        table[~np.isfinite(table)] = np.nan
        there = np.isfinite(table)
        begin = np.where(there.any(1), there.argmax(1), table.shape[1])
        first = begin + min(look_back // 4, max(longest // 4, 1))
        if (first > table.shape[1] - 2 * horizon).all():
            need = look_back // 4 + 2 * horizon
            raise ConfigError(f"the longest series has {longest} slots; a look-back of {look_back} needs at least {need}")
        weight = np.ones(len(series)) if weights is None else np.asarray(weights, np.float64)
        minutes = np.asarray(end_minutes, np.int64)
        plain = cls(table, minutes, first, _change(table, horizon), weight, look_back, horizon, step_ms, static=static)
        return plain if known is None else replace(plain, **_calendars(known, table.shape[1]))

    @property
    def end(self) -> int:
        """Column after the last slot."""
        return int(self.table.shape[1])

    def draw(self, rng: np.random.Generator, size: int, between: tuple[int, int]) -> Batch:
        """Windows whose targets lie within columns ``between``, drawn by place and weight."""
        low = np.maximum(self.first, between[0])
        places = np.maximum(between[1] - self.horizon - low + 1, 0)
        if not places.any():
            raise ConfigError(f"no window has its {self.horizon} target slots within columns {between[0]} to {between[1]}")
        chance = places * self.weight
        rows = rng.choice(len(places), size, p=chance / chance.sum())
        return self.at(rows, low[rows] + (rng.random(size) * places[rows]).astype(np.int64))

    def at(self, rows: Ints, ends: Ints) -> Batch:
        """Windows of series ``rows`` that end before columns ``ends``."""
        window = self.table[rows[:, None], ends[:, None] + np.arange(-self.look_back, 0)]
        target = self.table[rows[:, None], ends[:, None] + np.arange(self.horizon)]
        mask = np.isfinite(window)
        minutes = self.end_minute[rows] - (self.end - ends) * self.step_ms // 60_000
        scale = self.scale[rows].astype(np.float32)
        told = None
        if self.known is not None and self.calendar is not None:
            told = self.known[self.calendar[rows][:, None], ends[:, None] + np.arange(-self.look_back, self.horizon)]
        traits = None if self.static is None else self.static[rows]
        plain = np.where(mask, window, 0).astype(np.float32), mask.astype(np.float32)
        return Batch(*plain, minutes, target, scale, told, traits)


def _calendars(known: Sequence[Floats32], width: int) -> dict[str, Any]:
    """``known`` and ``calendar`` of a panel: arrays that are one and the same object are kept once."""
    distinct = {id(one): one for one in known}
    table = np.zeros((len(distinct), width, known[0].shape[1]), np.float32)
    for row, one in zip(table, distinct.values(), strict=True):
        row[max(width - len(one), 0) :] = one[-width:]
    place = {name: i for i, name in enumerate(distinct)}
    return {"known": table, "calendar": np.asarray([place[id(one)] for one in known], np.int64)}


def _change(table: Floats32, horizon: int) -> Floats:
    """Mean absolute change over half a horizon of each row; never 0."""
    lag = max(horizon // 2, 1)
    moved = np.abs(table[:, lag:] - table[:, :-lag]).astype(np.float64)
    known = np.isfinite(moved)
    change: Floats = np.where(known, moved, 0.0).sum(1) / np.maximum(known.sum(1), 1)
    size = np.where(np.isfinite(table), np.abs(table), 0.0).max(1).astype(np.float64)
    return np.asarray(np.maximum(change, 1e-3 * size + 1e-12))


def untold(batch: Batch, rng: np.random.Generator, share: float) -> Batch:
    """About ``share`` of the windows are told nothing but what was measured, as a series without a calendar is."""
    if batch.known is None and batch.static is None:
        return batch
    kept = (rng.random(len(batch.mask)) >= share).astype(np.float32)
    known = None if batch.known is None else batch.known * kept[:, None, None]
    return batch._replace(known=known, static=None if batch.static is None else batch.static * kept[:, None])


def hide(batch: Batch, rng: np.random.Generator, share: float) -> Batch:
    """Hide single slots, a run of slots or the newest slots of about ``share`` of the windows, as scrapes fail."""
    size, length = batch.mask.shape
    mask = batch.mask.copy()
    for row in np.flatnonzero(rng.random(size) < share).tolist():
        kind = rng.integers(3)
        if kind == 0:
            mask[row, rng.random(length) < rng.uniform(0.02, 0.5)] = 0
        elif kind == 1:
            begin = int(rng.integers(length))
            mask[row, begin : begin + int(rng.integers(1, max(length // 2, 2)))] = 0
        else:
            mask[row, length - int(rng.integers(1, max(length // 50, 2))) :] = 0
    return batch._replace(values=batch.values * mask, mask=mask)
