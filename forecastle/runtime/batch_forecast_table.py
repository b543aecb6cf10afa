"""Long parquet in and out of ``forecastle forecast``, with errors that say which row to mend."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from forecastle.errors import ConfigError
from forecastle.predict.batch.panel import QUANTILES, Panel
from forecastle.runtime.timestamps import epoch_ms
from forecastle.types import Floats, Ints

COLUMNS = ("series_id", "timestamp", "value")
LARGEST_GRID = 400_000_000


class Loaded(NamedTuple):
    """The series of a file: ``names`` [n] sorted, and their ``panel``."""

    names: list[str]
    panel: Panel


def read_long(source: Path) -> Loaded:
    """Read ``series_id, timestamp, value`` onto one grid; rows of the same series and time are averaged.

    Timestamps are UTC: of any arrow type, ISO text, or epoch seconds or milliseconds. Raises ConfigError when a column
    is missing, a value is no number, or the rows of a series do not follow one step.
    """
    table = _table(source)
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        at = epoch_ms(table.column("timestamp"))
        value = pc.cast(table.column("value"), pa.float64()).to_numpy(zero_copy_only=False)
        encoded = pc.cast(table.column("series_id"), pa.string()).combine_chunks().dictionary_encode()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ConfigError(f"{source}: {error}; 'timestamp' must be a time and 'value' a number") from error
    if encoded.null_count or pc.sum(table.column("timestamp").is_null()).as_py():
        raise ConfigError(f"{source}: 'series_id' or 'timestamp' is empty in some rows; drop them")
    names = encoded.dictionary.to_pylist()
    order = np.argsort(np.asarray(names))
    rank = np.empty(len(names), np.int64)
    rank[order] = np.arange(len(names))
    row = rank[encoded.indices.to_numpy()]
    return Loaded([names[k] for k in order], _grid(source, row, at, value, [names[k] for k in order]))


def write_forecasts(out: Path, names: list[str], origins_ms: Ints, quantiles: Floats, models: list[list[str]]) -> int:
    """Write ``quantiles`` float[n, o, h, 9]; a row whose forecast is NaN (nothing known yet) is left out. Rows written."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    n, o, h, _ = quantiles.shape
    keep = np.isfinite(quantiles).all(axis=3).ravel()
    series = np.repeat(np.arange(n, dtype=np.int32), o * h)[keep]
    tags = sorted({tag for row in models for tag in row})
    tag = np.repeat(np.asarray([[tags.index(t) for t in row] for row in models], np.int32).ravel(), h)[keep]
    columns: dict[str, Any] = {
        "series_id": pa.DictionaryArray.from_arrays(pa.array(series), pa.array(names)).cast(pa.string()),
        "origin": pa.array(np.tile(np.repeat(origins_ms, h), n)[keep]).cast(pa.timestamp("ms")),
        "step": pa.array(np.tile(np.arange(1, h + 1, dtype=np.int32), n * o)[keep]),
    }
    for k, level in enumerate(QUANTILES):
        columns[f"q{level}"] = pa.array(quantiles[..., k].ravel()[keep])
    columns["model"] = pa.DictionaryArray.from_arrays(pa.array(tag), pa.array(tags)).cast(pa.string())
    out.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), out, compression="zstd")
    return int(keep.sum())


def _table(source: Path) -> Any:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.read_table(source)
    except (OSError, pa.ArrowInvalid) as error:
        raise ConfigError(f"{source}: cannot be read as parquet: {error}") from error
    missing = [name for name in COLUMNS if name not in table.column_names]
    if missing:
        raise ConfigError(
            f"{source}: has no column {', '.join(map(repr, missing))}; it has {', '.join(table.column_names)}. "
            f"Write a long table with {', '.join(COLUMNS)}"
        )
    if not len(table):
        raise ConfigError(f"{source}: has no rows")
    return table


def _grid(source: Path, row: Ints, at: Ints, value: Floats, names: list[str]) -> Panel:
    order = np.lexsort((at, row))
    row, at, value = row[order], at[order], value[order]
    ahead = np.diff(at)[(np.diff(row) == 0) & (np.diff(at) > 0)]
    if not len(ahead):
        raise ConfigError(f"{source}: every series has a single row; at least two are needed to know the step")
    step = int(np.median(ahead))
    start = int(at.min())
    off = np.flatnonzero((at - start) % step)
    if len(off):
        bad = int(off[0])
        raise ConfigError(
            f"{source}: irregular steps: {len(off)} of {len(at)} rows are off the grid of {step / 1000:g} s, the first at "
            f"{np.datetime64(int(at[bad]), 'ms')} of series {names[row[bad]]!r}; resample to one step first (gaps may stay)"
        )
    column = (at - start) // step
    width = int(column.max()) + 1
    if width * len(names) > LARGEST_GRID:
        raise ConfigError(f"{source}: {len(names)} series over {width} steps are too many for one file; split it by series")
    known = np.isfinite(value)
    cell = row[known] * width + column[known]
    total = np.bincount(cell, value[known], len(names) * width)
    count = np.bincount(cell, minlength=len(names) * width)
    values = np.where(count > 0, total / np.maximum(count, 1), np.nan).reshape(len(names), width)
    return Panel.of(values, start, step)
