"""Training windows of many series of different lengths, drawn by row and column of one padded table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from forecastle.errors import ConfigError
from forecastle.types import Floats, Floats32, Ints


class Batch(NamedTuple):
    """``values`` and ``mask`` float32[n, L], ``end_minute`` int64[n], ``target`` float32[n, h] (NaN unknown), ``scale`` [n]."""

    values: Floats32
    mask: Floats32
    end_minute: Ints
    target: Floats32
    scale: Floats32


@dataclass(frozen=True, slots=True)
class Panel:
    """Series side by side: ``table`` float32[n, look_back + t], NaN for gaps and before a series begins, ends aligned.

    ``first`` is each series' first usable window end (column), ``scale`` its mean absolute change over half a horizon, by
    which its losses are divided. ``weight`` says how much more often than others a series is drawn.
    """

    table: Floats32
    end_minute: Ints
    first: Ints
    scale: Floats
    weight: Floats
    look_back: int
    horizon: int
    step_ms: int

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
    ) -> Panel:
        """Align ``series``; the last value of each ends at its ``end_minutes``. Raises ConfigError when all are too short."""
        if len(series) != len(end_minutes) or not series:
            raise ConfigError(
                f"{len(series)} series and {len(end_minutes)} end_minutes; give one for each of at least one series"
            )
        longest = max(len(s) for s in series)
        table = np.full((len(series), look_back + longest), np.nan, np.float32)
        for row, values in zip(table, series, strict=True):
            row[len(row) - len(values) :] = values
        table[~np.isfinite(table)] = np.nan
        known = np.isfinite(table)
        begin = np.where(known.any(1), known.argmax(1), table.shape[1])
        first = begin + min(look_back // 4, max(longest // 4, 1))
        if (first > table.shape[1] - 2 * horizon).all():
            need = look_back // 4 + 2 * horizon
            raise ConfigError(f"the longest series has {longest} slots; a look-back of {look_back} needs at least {need}")
        weight = np.ones(len(series)) if weights is None else np.asarray(weights, np.float64)
        minutes = np.asarray(end_minutes, np.int64)
        return cls(table, minutes, first, _change(table, horizon), weight, look_back, horizon, step_ms)

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
        return Batch(np.where(mask, window, 0).astype(np.float32), mask.astype(np.float32), minutes, target, scale)


def _change(table: Floats32, horizon: int) -> Floats:
    """Mean absolute change over half a horizon of each row; never 0."""
    lag = max(horizon // 2, 1)
    moved = np.abs(table[:, lag:] - table[:, :-lag]).astype(np.float64)
    known = np.isfinite(moved)
    change: Floats = np.where(known, moved, 0.0).sum(1) / np.maximum(known.sum(1), 1)
    size = np.where(np.isfinite(table), np.abs(table), 0.0).max(1).astype(np.float64)
    return np.asarray(np.maximum(change, 1e-3 * size + 1e-12))


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
