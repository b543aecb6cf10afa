"""A recorded demand, read once and laid on the simulator's clock.

A trace is what a monitoring system kept: points at its own step, with holes. The closed loop needs a demand at every
15 s step; between two points it is interpolated, and across a hole it is unknown: a step there is shown to no policy as
news, costs nothing and counts for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from forecastle.errors import ConfigError
from forecastle.types import Floats, Ints, Mask

STEP_S = 15
"""Seconds per step of the simulation: the HPA's sync period (kube-controller-manager), the fastest clock of any policy."""
GAP_STEPS = 5.0
"""Two points further apart than this many usual steps have a hole between them."""


@dataclass(frozen=True, slots=True)
class Trace:
    """One demand series: ``at`` int64[n] ms, ascending; ``value`` float64[n], finite and not negative."""

    name: str
    at: Ints
    value: Floats


@dataclass(frozen=True, slots=True)
class Demand:
    """A trace on the simulator's clock: ``at`` int64[T] ms, ``value`` float64[T], ``known`` bool[T] (not in a hole).

    Policies may learn from the steps before ``first``; the closed loop starts there. In a hole ``value`` repeats the last
    known one. ``point_s`` is the usual distance of the trace's own points in seconds. ``offered`` float64[T, K] is there when
    the demand depends on what was left unmet: the loop writes a row a step, one column a knob value.
    """

    at: Ints
    value: Floats
    known: Mask
    first: int
    point_s: float
    offered: Floats | None = None

    def __len__(self) -> int:
        return len(self.at)

    def read(self, i: int) -> Floats:
        """What a meter shows of step ``i`` once it is over: float64[] or, where it depends on the knob, float64[K]."""
        return np.asarray(self.value[i] if self.offered is None else self.offered[i], np.float64)


def on_clock(trace: Trace, train_fraction: float = 0.7) -> Demand:
    """The trace every `STEP_S`, split at the point ``int(train_fraction * n)``. Raises ConfigError when it is too short."""
    n = len(trace.at)
    split = int(train_fraction * n)
    if n < 3 or not 1 <= split < n:
        raise ConfigError(f"{trace.name}: {n} points cannot be split at {train_fraction}; give a longer trace")
    usual = float(np.median(np.diff(trace.at)))
    step = STEP_S * 1000
    at = np.arange(trace.at[0], trace.at[-1] + 1, step)
    value = np.interp(at, trace.at, trace.value)
    left = np.clip(np.searchsorted(trace.at, at, side="right") - 1, 0, n - 2)
    known = (np.diff(trace.at)[left] <= GAP_STEPS * usual) | (at == trace.at[left])
    value = np.where(known, value, trace.value[left])
    return Demand(at, value, known, int(np.searchsorted(at, trace.at[split])), usual / 1000.0)


def auto_capacity(trace: Trace, train_fraction: float = 0.7) -> float:
    """Demand one replica carries so that the train part's p99 needs 60 replicas."""
    return float(np.quantile(trace.value[: int(train_fraction * len(trace.value))], 0.99)) / 60.0


def read_trace(source: Path, series: str = "") -> Trace:
    """Series ``series`` of a long parquet or CSV file (``series_id``, ``timestamp`` UTC, ``value``), sorted, holes kept.

    ``series`` may be empty when the file has only one. Points without a finite value are holes; of two points at one time
    the later row counts. Raises ConfigError with what to do instead.
    """
    table = _table(source)
    missing = {"series_id", "timestamp", "value"} - set(table.column_names)
    if missing == {"series_id"}:
        names = np.full(table.num_rows, source.stem, object)
    elif missing:
        raise ConfigError(
            f"{source}: lacks column {', '.join(sorted(missing))}; it has {', '.join(table.column_names)}. "
            "Write one row per point with series_id, timestamp (UTC) and value"
        )
    else:
        names = np.asarray(table.column("series_id").to_pylist(), object)
    there = sorted({str(name) for name in names.tolist()})
    if not series and len(there) != 1:
        raise ConfigError(f"{source}: has {len(there)} series; choose one with --series: {_some(there)}")
    chosen = series or there[0]
    if chosen not in there:
        raise ConfigError(f"{source}: has no series '{chosen}'; choose one of: {_some(there)}")
    rows = names == chosen
    at, value = _stamps(source, table)[rows], _values(source, table)[rows]
    usable = np.isfinite(value)
    at, value = at[usable], value[usable]
    if len(at) < 3:
        raise ConfigError(f"{source}: series '{chosen}' has {len(at)} usable points; at least 3 are needed")
    if value.min() < 0:
        raise ConfigError(f"{source}: series '{chosen}' goes down to {value.min():g}; demand cannot be negative")
    order = np.argsort(at, kind="stable")
    at, value = at[order], value[order]
    last = np.concatenate([np.diff(at) > 0, [True]])
    return Trace(chosen, at[last], value[last])


def _table(source: Path) -> Any:
    import pyarrow as pa
    from pyarrow import csv, parquet

    kind = "CSV" if source.suffix == ".csv" else "parquet"
    try:
        return csv.read_csv(source) if kind == "CSV" else parquet.read_table(source)
    except FileNotFoundError as error:
        raise ConfigError(f"{source}: there is no such file; give --trace a parquet or CSV file") from error
    except (OSError, pa.ArrowInvalid) as error:
        raise ConfigError(f"{source}: cannot be read as {kind}: {error}") from error


def _stamps(source: Path, table: Any) -> Ints:
    """Times in ms; numbers are seconds, or ms when they are too large for seconds."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = table.column("timestamp")
    try:
        if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
            at = np.asarray(pc.cast(column, pa.int64(), safe=False).to_numpy(), np.int64)
            return at * 1000 if np.median(np.abs(at)) < 1e11 else at
        stamps = pc.cast(column, pa.timestamp("ms"), safe=not pa.types.is_timestamp(column.type))
        return np.asarray(pc.cast(stamps, pa.int64()).to_numpy(), np.int64)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ConfigError(f"{source}: column timestamp is not a time: {error}; write it as 2026-01-31T12:00:00") from error


def _values(source: Path, table: Any) -> Floats:
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        return np.asarray(pc.cast(table.column("value"), pa.float64()).to_numpy(zero_copy_only=False), np.float64)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ConfigError(f"{source}: column value is not numeric: {error}") from error


def _some(names: list[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
