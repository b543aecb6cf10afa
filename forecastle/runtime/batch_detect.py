"""``forecastle detect``: a recorded file judged row by row, as it would have been at the time.

The first rows train and are not judged. One scorer is chosen per file by its shape and length; the threshold follows
the scores seen so far and the false-alarm budget. ``benchmarks/bench_detect.py`` says on which series the rule was learned.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from forecastle.detect import trails
from forecastle.detect.tails import alarm_rate, tail_threshold
from forecastle.errors import ConfigError
from forecastle.types import AnomalyKind, Floats, Mask

Explain: TypeAlias = Callable[[int], tuple[AnomalyKind, dict[str, Any]]]

LONG_TRAINING = 8000
"""Training rows from which a plain autoregression outdoes shapes: enough cycles to know every minute's dynamics."""
_REFRESH, _REMEMBER = 256, 5000
_WARMUP = 30
_NEWS, _PLAIN_BUDGET, _STEEPNESS = 0.55, 0.1, 0.1
"""`trails.novelty` that alerts at the usual budget, and how that grows as the budget shrinks."""
_QUIET, _QUIET_SHAPE = 30, 150
"""Rows after an alert without another one."""


@dataclass(frozen=True, slots=True)
class Verdicts:
    """One entry per row: ``score`` 0 and ``threshold`` inf while training.

    ``anomaly`` marks where an alert begins, once per event: the score passed its threshold and no alert was near, or a
    gap or a flat line has become longer than ever. ``kind`` and ``evidence`` (JSON) are '' elsewhere.
    """

    scorer: str
    score: Floats
    threshold: Floats
    anomaly: Mask
    kind: list[str]
    evidence: list[str]


def detect_file(source: Path, train_rows: int, out: Path, budget: float = 0.1) -> str:
    """Judge the rows of a CSV or parquet file and write ``out`` (parquet). Returns one line on what was found.

    ``source``: ``timestamp`` and one or many numeric columns; ``label`` is ignored. ``budget``: false alarms per day.
    Raises ConfigError when the file or ``train_rows`` cannot be used.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    at, names, values, timestamps = _read(Path(source))
    if not _WARMUP <= train_rows < len(values):
        raise ConfigError(
            f"--train-rows {train_rows}: must be at least {_WARMUP} and less than the file's {len(values)} rows"
        )
    step_ms = max(1, int(np.median(np.diff(at[:train_rows]))))
    verdicts = judge(values, train_rows, step_ms, names, budget)
    table = pa.table(
        {
            "timestamp": timestamps,
            "score": verdicts.score,
            "threshold": verdicts.threshold,
            "anomaly": verdicts.anomaly,
            "kind": verdicts.kind,
            "evidence": verdicts.evidence,
        }
    )
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, out, compression="zstd")
    alerts = int(np.sum(np.diff(verdicts.anomaly.astype(np.int8), prepend=0) > 0))
    return f"{out}: {len(values)} rows, {alerts} alerts ({int(verdicts.anomaly.sum())} rows) by {verdicts.scorer}"


def judge(values: Floats, train: int, step_ms: int, names: list[str], budget: float) -> Verdicts:
    """Verdicts on ``values`` float64[n, c] after ``train`` rows; NaN is a gap: its own kind of event, never a spike."""
    gap: Mask = np.asarray(~np.isfinite(values).all(axis=1))
    if values.shape[1] == 1:
        y = trails.standardized(values[:, 0], train)
        scorer = "residual" if train >= LONG_TRAINING else "shape"
        score = trails.residual_score(y, train) if scorer == "residual" else trails.shape_score(y, train)
        explain, still = _single(y, values[:, 0], train), _still(y, gap, train)
    else:
        filled = np.column_stack([_forward(values[:, c], train) for c in range(values.shape[1])])
        scorer = "subspace"
        score, parts = trails.subspace_score(filled, train)
        explain, still = _several(parts, filled, names), np.zeros(len(gap), bool)
    rate = alarm_rate(budget, step_ms, 1)
    if scorer == "shape":
        news = trails.novelty(y, train)
        least = np.where(np.arange(len(news)) < train, np.inf, _NEWS * (_PLAIN_BUDGET / budget) ** _STEEPNESS)
        threshold = score * least / np.maximum(news, 1e-9)
    else:
        threshold = thresholds(score, train, rate)
    score[:train], threshold[:train] = 0.0, np.inf
    named = {AnomalyKind.DROPOUT: _begins(gap, train, 2), AnomalyKind.FLAT_LINE: _begins(still, train, 9)}
    quiet = min(train // 5, _QUIET_SHAPE) if scorer == "shape" else _QUIET
    anomaly = alerts((score > threshold) & ~gap, quiet) | named[AnomalyKind.DROPOUT] | named[AnomalyKind.FLAT_LINE]
    kind, evidence = [""] * len(score), [""] * len(score)
    for row in np.flatnonzero(anomaly).tolist():
        found, why = explain(row)
        found = next((name for name, rows in named.items() if rows[row]), found)
        kind[row], evidence[row] = found.value, json.dumps({"scorer": scorer, **why})
    return Verdicts(scorer, score, threshold, anomaly, kind, evidence)


def alerts(flags: Mask, quiet: int) -> Mask:
    """The first of each stretch of ``flags`` bool[n], and none within ``quiet`` rows of the alert before it."""
    out, last = np.zeros(len(flags), bool), -quiet - 1
    for row in np.flatnonzero(flags).tolist():
        if row - last > quiet:
            out[row], last = True, row
    return out


def thresholds(score: Floats, train: int, rate: float) -> Floats:
    """Threshold float64[n] of each row from the scores before its block of rows, the later training rows' included."""
    out = np.full(len(score), np.inf)
    for start in range(train, len(score), _REFRESH):
        past = score[max(train // 3, start - _REMEMBER) : start]
        out[start : start + _REFRESH] = tail_threshold(past[None, :].astype(np.float32), rate)[0]
    return out


def _read(source: Path) -> tuple[npt.NDArray[np.int64], list[str], Floats, Any]:
    """Row times in ms, names and values [n, c] of the numeric columns, and the timestamp column as it was."""
    import pyarrow as pa
    import pyarrow.compute as pc

    table = _table(source)
    if "timestamp" not in table.column_names:
        raise ConfigError(f"{source}: has no column 'timestamp'; it has {', '.join(table.column_names)}")
    stamps = table.column("timestamp")
    if pa.types.is_string(stamps.type) or pa.types.is_large_string(stamps.type):
        stamps = pc.cast(stamps, pa.timestamp("ms"))
    if pa.types.is_temporal(stamps.type):
        at = pc.cast(pc.cast(stamps, pa.timestamp("ms"), safe=False), pa.int64()).to_numpy()
    else:
        at = pc.cast(stamps, pa.int64(), safe=False).to_numpy()
        at = at * 1000 if np.median(np.abs(at)) < 1e11 else at
    names = [
        field.name
        for field in table.schema
        if field.name not in {"timestamp", "label"}
        and (pa.types.is_floating(field.type) or pa.types.is_integer(field.type) or pa.types.is_boolean(field.type))
    ]
    if not names:
        raise ConfigError(f"{source}: has no numeric column besides 'timestamp' and 'label'")
    columns = [pc.cast(table.column(name), pa.float64()).to_numpy(zero_copy_only=False) for name in names]
    return np.asarray(at, np.int64), names, np.column_stack(columns), stamps


def _table(source: Path) -> Any:
    import pyarrow as pa
    from pyarrow import csv, parquet

    try:
        if source.suffix in {".parquet", ".pq"}:
            return parquet.read_table(source)
        return csv.read_csv(source)
    except (OSError, pa.ArrowInvalid) as error:
        raise ConfigError(
            f"{source}: cannot be read as {'parquet' if source.suffix != '.csv' else 'CSV'}: {error}"
        ) from error


def _forward(column: Floats, train: int) -> Floats:
    """Gaps repeat the value before them; before the first one, the training rows' median."""
    known = np.isfinite(column)
    if known.all():
        return column
    source = np.maximum.accumulate(np.where(known, np.arange(len(column)), -1))
    usual = float(np.median(column[:train][known[:train]])) if known[:train].any() else 0.0
    return np.where(source >= 0, column[np.maximum(source, 0)], usual)


def _begins(flags: Mask, train: int, least: int) -> Mask:
    """The row at which a stretch of ``flags`` has become longer than ``least`` and than any before it by half."""
    rows = np.arange(1, len(flags) + 1)
    run = rows - np.maximum.accumulate(np.where(flags, 0, rows))
    longest = np.maximum.accumulate(np.where(flags, 0, np.concatenate([[0], run[:-1]])))
    long = (run > np.maximum(1.5 * longest, least)) & flags
    long[:train] = False
    return np.asarray(long & ~np.concatenate([[False], long[:-1]]))


def _still(y: Floats, gap: Mask, train: int) -> Mask:
    """Rows that repeat the one before, of a series that seldom does."""
    same = np.concatenate([[False], np.diff(y) == 0.0]) & ~gap
    return same if same[1:train].mean() < 0.5 else np.zeros(len(y), bool)


def _single(y: Floats, values: Floats, train: int) -> Explain:
    """Names what one series did at a row by the rows before it."""
    usual = float(np.std(np.diff(y[:train]))) + 1e-9

    def explain(row: int) -> tuple[AnomalyKind, dict[str, Any]]:
        recent, before = y[max(0, row - 9) : row + 1], y[max(0, row - 69) : max(1, row - 9)]
        last = float(np.median(y[max(0, row - 8) : max(1, row)]))
        shift = float(np.median(recent) - np.median(before))
        noise = float(np.std(np.diff(before))) + 0.1 * usual
        if abs(y[row] - last) > max(4 * noise, 0.5 * abs(shift)):
            kind = AnomalyKind.SPIKE if y[row] > last else AnomalyKind.DIP
        elif abs(shift) > 3 * float(np.std(before)) + noise:
            kind = AnomalyKind.LEVEL_SHIFT
        elif np.std(np.diff(y[max(0, row - 29) : row + 1])) > 2 * usual:
            kind = AnomalyKind.VARIANCE
        elif abs(shift) > float(np.std(before)):
            kind = AnomalyKind.TREND
        else:
            kind = AnomalyKind.SEASONALITY
        expected = values[max(0, row - 69) : max(1, row - 9)]
        known = expected[np.isfinite(expected)]
        return kind, {
            "actual": round(float(values[row]), 6) if np.isfinite(values[row]) else None,
            "expected": round(float(np.median(known)), 6) if len(known) else None,
        }

    return explain


def _several(parts: Floats, values: Floats, names: list[str]) -> Explain:
    """Names the columns that speak loudest at a row, over the rows the score remembers."""

    def explain(row: int) -> tuple[AnomalyKind, dict[str, Any]]:
        loud = parts[max(0, row - 9) : row + 1].mean(axis=0)
        first = [int(c) for c in np.argsort(-loud, kind="stable")[:3] if loud[c] > 0]
        total = float(loud.sum()) or 1.0
        return AnomalyKind.MULTIVARIATE, {
            "columns": {names[c]: round(float(loud[c]) / total, 3) for c in first},
            "actual": {names[c]: round(float(values[row, c]), 6) for c in first},
        }

    return explain
