"""``forecastle forecast``: a file of series forecast from rolling origins, as it would have been at each of them.

Origins: with T the newest timestamp of the file at or before ``train_until`` and E its newest timestamp of all, the
first origin is T and the last is E - horizon steps; the others lie evenly between, each on the grid (rounded down).
They are the same for every series. A single origin is T. Models and weights are learned from rows up to T; the
forecast of an origin reads rows up to that origin (its look-back, and how far recent forecasts erred) and none after it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from forecastle.errors import ConfigError
from forecastle.predict.batch.forecast import forecast_panel
from forecastle.predict.batch.panel import Panel
from forecastle.runtime.batch_forecast_table import read_long, write_forecasts
from forecastle.types import Ints

LEAST_TRAINING = 30


def forecast_file(input: Path, train_until: datetime, horizon: int, origins: int, out: Path) -> str:  # noqa: A002 - the option's name
    """Forecast the long parquet ``input`` and write ``out``. Returns one line on what was done.

    ``train_until``: UTC when it has no zone. ``out`` has ``series_id``, ``origin``, ``step`` (1..horizon), ``q0.1`` ...
    ``q0.9`` and ``model``. A series with no row yet at an origin has none there.
    Raises ConfigError when the file, ``train_until``, ``horizon`` or ``origins`` cannot be used together.
    """
    names, panel = read_long(Path(input))
    train = _training_columns(Path(input), panel, train_until, horizon)
    columns = _origins(Path(input), panel, train, horizon, origins)
    batch = forecast_panel(panel, train, horizon, columns)
    stamps = panel.start_ms + columns * panel.step_ms
    rows = write_forecasts(Path(out), names, stamps, batch.quantiles, [[model] * len(columns) for model in batch.model])
    return (
        f"{out}: {rows} rows, {len(names)} series, {len(columns)} origins from {_stamp(stamps[0])} (last row to learn from) "
        f"to {_stamp(stamps[-1])} (its {horizon} steps of {panel.step_ms / 1000:g} s end with the file)"
    )


def _training_columns(source: Path, panel: Panel, train_until: datetime, horizon: int) -> int:
    """Columns at or before ``train_until`` up to the newest that holds a measurement."""
    zoned = train_until if train_until.tzinfo else train_until.replace(tzinfo=UTC)
    until = int(zoned.timestamp() * 1000)
    width = panel.values.shape[1]
    last = min((until - panel.start_ms) // panel.step_ms, width - 1)
    span = f"its rows are from {_stamp(panel.start_ms)} to {_stamp(panel.start_ms + (width - 1) * panel.step_ms)}"
    if last < 0 or until > panel.start_ms + (width - 1) * panel.step_ms:
        raise ConfigError(f"{source}: --train-until {_stamp(until)} is outside the file; {span}")
    train = int(np.flatnonzero(panel.seen[:, : last + 1].any(axis=0))[-1]) + 1
    least = max(LEAST_TRAINING, 2 * horizon + 2)
    if train < least:
        raise ConfigError(
            f"{source}: {train} steps up to --train-until {_stamp(until)} are too short for --horizon {horizon}: "
            f"at least {least} are needed; {span}"
        )
    return train


def _origins(source: Path, panel: Panel, train: int, horizon: int, count: int) -> Ints:
    """Columns int64[o] of the origins, as this module's docstring says."""
    first, last = train - 1, panel.values.shape[1] - 1 - horizon
    if last < first:
        raise ConfigError(
            f"{source}: only {panel.values.shape[1] - train} steps follow --train-until; --horizon {horizon} needs as many. "
            f"Choose an earlier --train-until, at most {_stamp(panel.start_ms + last * panel.step_ms)}"
        )
    if count > last - first + 1:
        raise ConfigError(f"{source}: --origins {count} are more than the {last - first + 1} steps to take them from")
    return np.floor(np.linspace(first, last, count)).astype(np.int64) if count > 1 else np.asarray([first], np.int64)


def _stamp(at_ms: int | np.int64) -> str:
    return datetime.fromtimestamp(int(at_ms) / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
