"""What models learn from: every series on one grid of slots, read from a file or from the beginning of the Kafka topics."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from forecastle.errors import BrokerUnavailable, ConfigError
from forecastle.intake.consumer import KafkaIntake
from forecastle.intake.publish import read_samples
from forecastle.runtime.clocks import WallClock
from forecastle.settings import Settings
from forecastle.types import Floats32, Mask, Samples, SeriesKey

MOST_DAYS = 35
"""Newest days kept: five weeks tell a weekday from a trend."""
PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class History:
    """``values`` float32[n, t] of ``keys``, NaN where nothing was observed; the last slot ends at ``end`` (ms)."""

    keys: tuple[SeriesKey, ...]
    values: Floats32
    end: int
    step_ms: int

    @property
    def mask(self) -> Mask:
        """bool[n, t], True where observed."""
        return np.isfinite(self.values)

    def before(self, tail: int) -> History:
        """Without the last ``tail`` slots."""
        return replace(self, values=self.values[:, : self.values.shape[1] - tail], end=self.end - tail * self.step_ms)

    def without(self, spans: Sequence[tuple[int, int]]) -> History:
        """With gaps in each of ``spans`` (start, end) in ms: incidents are not what to expect."""
        ends = self.end - self.step_ms * np.arange(self.values.shape[1] - 1, -1, -1, dtype=np.int64)
        values = self.values.copy()
        for start, end in spans:
            if end < start:
                raise ConfigError(f"span ({start}, {end}): the end is before the start; write (start, end) in ms")
            values[:, (ends > start) & (ends - self.step_ms < end)] = np.nan
        return replace(self, values=values)


def read_history(settings: Settings, file: str | None) -> History:
    """From ``file`` (see `forecastle.intake.publish.read_samples`), else from Kafka. Raises ConfigError when it is empty."""
    return gridded(read_measured(settings, file), round(settings.window.step_s * 1000))


def read_measured(settings: Settings, file: str | None) -> Samples:
    """The samples of `read_history`, as they were measured."""
    samples = read_samples(Path(file)) if file else read_topics(settings)
    if not len(samples):
        raise ConfigError(f"{file or ', '.join(settings.intake.topics)}: no samples to learn from")
    return samples


def gridded(samples: Samples, step_ms: int) -> History:
    """Samples by slot, several of one series in a slot as their mean, like the windows at serving time. Keys are sorted."""
    samples = _distinct(samples)
    slots = -(-samples.at // step_ms)
    last = int(slots.max())
    first = max(int(slots.min()), last - MOST_DAYS * 86_400_000 // step_ms + 1)
    order = sorted(range(len(samples.keys)), key=samples.keys.__getitem__)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    kept = slots >= first
    cell = rank[samples.index[kept]] * (last - first + 1) + slots[kept] - first
    size = len(order) * (last - first + 1)
    count = np.bincount(cell, minlength=size)
    total = np.bincount(cell, samples.value[kept], minlength=size)
    values = np.divide(total, count, out=np.full(size, np.nan), where=count > 0).astype(np.float32)
    values = values.reshape(len(order), -1)
    heard = np.isfinite(values).any(1)
    keys = tuple(samples.keys[i] for i, there in zip(order, heard.tolist(), strict=True) if there)
    return History(keys, values[heard], last * step_ms, step_ms)


def _distinct(samples: Samples) -> Samples:
    """One sample of a series and instant: the largest of those delivered for it, as the windows keep it."""
    order = np.lexsort((samples.at, samples.index))
    index, at = samples.index[order], samples.at[order]
    starts = np.flatnonzero(np.concatenate([[True], (index[1:] != index[:-1]) | (at[1:] != at[:-1])]))
    if len(starts) == len(order):
        return samples
    value = np.maximum.reduceat(samples.value[order], starts)
    return Samples(samples.keys, index[starts], at[starts], value, samples.partition[order][starts])


def read_topics(settings: Settings) -> Samples:
    """Everything the topics still hold, under a group of its own that commits nothing. Raises BrokerUnavailable."""
    clock = WallClock()
    alone = f"train-{uuid.uuid4().hex}"
    intake = KafkaIntake(settings.intake.model_copy(update={"group": alone, "instance": alone}), clock)
    parts: list[Samples] = []
    try:
        intake.start(0)
        heard = clock.monotonic()
        while True:
            samples = intake.poll(1.0)
            if len(samples):
                parts.append(samples)
                heard = clock.monotonic()
            progress = intake.progress()
            if progress.assigned and progress.drained == progress.assigned:
                break
            if clock.monotonic() - heard > PATIENCE_S:
                raise BrokerUnavailable(f"{settings.intake.bootstrap}: silent for {PATIENCE_S:.0f} s before the topics' end")
    finally:
        intake.close()
    return _joined(parts)


def _joined(parts: Sequence[Samples]) -> Samples:
    if not parts:
        return Samples.of()
    keys = max((part.keys for part in parts), key=len)
    columns = zip(*((part.index, part.at, part.value, part.partition) for part in parts), strict=True)
    return Samples(keys, *(np.concatenate(column) for column in columns))
