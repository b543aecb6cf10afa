"""``forecastle detect``: a recorded file judged row by row, as it would have been at the time.

The first rows train and are not judged. One scorer speaks for a file: the one its family chose
(`forecastle.detect.auditions`), or the rule of thumb by shape and length. The threshold follows the scores seen so far and
the false-alarm budget. ``benchmarks/bench_detect.py`` says on which series the rule was learned.
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
from forecastle.detect.auditions import Recorded, learn, perform, rule
from forecastle.detect.selector import Choice, Pair, of_family, read_choices
from forecastle.detect.tails import alarm_rate, tail_threshold
from forecastle.errors import ConfigError
from forecastle.runtime.timestamps import epoch_ms
from forecastle.types import AnomalyKind, Floats, Mask

Explain: TypeAlias = Callable[[int], tuple[AnomalyKind, dict[str, Any]]]

_REFRESH, _REMEMBER = 256, 5000
_WARMUP = 30
NEWS, _PLAIN_BUDGET, _STEEPNESS = 0.55, 0.1, 0.1
"""`trails.novelty` that alerts at the usual budget, and how that grows as the budget shrinks."""
_SHAPES = frozenset({"shape", "nearest", "far"})
"""Scorers whose alerts `trails.novelty` decides: their own scores stay high for the length of a window."""
WEARY, RESTED = 0.06, 350.0
"""What an alert adds to that share, and the rows in which half of it fades."""
_QUIET, QUIET_SHAPE = 30, 150
"""Rows after an alert without another one."""


@dataclass(frozen=True, slots=True)
class Verdicts:
    """Who spoke and why, and one entry per row: ``score`` 0 and ``threshold`` inf while training.

    ``anomaly`` marks where an alert begins, once per event: the score passed its threshold and no alert was near, or a
    gap or a flat line has become longer than ever. ``kind`` and ``evidence`` (JSON) are '' elsewhere.
    """

    pair: Pair
    why: str
    score: Floats
    threshold: Floats
    anomaly: Mask
    kind: list[str]
    evidence: list[str]


def detect_file(
    source: Path, train_rows: int, out: Path, budget: float = 0.1, *, choices: Path | None = None, choose: bool = False
) -> str:
    """Judge the rows of a CSV or parquet file and write ``out`` (parquet). Returns one line on what was found.

    ``source``: ``timestamp`` and one or many numeric columns. ``budget``: false alarms per day. Who speaks is told by the
    first family of ``choices`` (JSON, see `forecastle.detect.selector`) that matches the file's stem or, of one column, its
    name; without one, ``choose`` tries every scorer on the training rows, the only ones whose ``label`` is ever read.
    Raises ConfigError when the file, ``choices`` or ``train_rows`` cannot be used.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    at, names, values, timestamps, label = _read(Path(source))
    if not _WARMUP <= train_rows < len(values):
        raise ConfigError(f"--train-rows {train_rows}: must be at least {_WARMUP} and less than the file's {len(values)} rows")
    step_ms = max(1, int(np.median(np.diff(at[:train_rows]))))
    told = of_family(read_choices(choices), Path(source).stem, *(names if len(names) == 1 else ())) if choices else None
    choice = told[1] if told else None
    if choice is None and choose:
        choice = learn([Recorded(values[:train_rows], None if label is None else label[:train_rows])])
    verdicts = judge(values, train_rows, step_ms, names, budget, choice=choice)
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
    return f"{out}: {len(values)} rows, {alerts} alerts ({int(verdicts.anomaly.sum())} rows) by {verdicts.pair}; {verdicts.why}"


def judge(
    values: Floats, train: int, step_ms: int, names: list[str], budget: float, *, choice: Choice | None = None
) -> Verdicts:
    """Verdicts on ``values`` float64[n, c] after ``train`` rows; NaN is a gap: its own kind of event, never a spike.

    ``choice`` says which scorer speaks; None: the one that the rule of thumb names.
    """
    gap: Mask = np.asarray(~np.isfinite(values).all(axis=1))
    pair, why = _speaker(choice, train, values.shape[1])
    filled = trails.forward(values, train)
    score, parts = perform(filled, train, pair)
    if values.shape[1] == 1:
        y = trails.standardized(values[:, 0], train)
        explain, still = _single(y, values[:, 0], train), _still(y, gap, train)
    else:
        explain, still = _several(parts, filled, names), np.zeros(len(gap), bool)
    if pair.scorer in _SHAPES:
        news, least = trails.novelty(y, train), NEWS * (_PLAIN_BUDGET / budget) ** _STEEPNESS
        habit = habituation(np.where(gap, 0.0, news), least, train, min(train // 5, QUIET_SHAPE))
        threshold = score * least * habit / np.maximum(news, 1e-9)
    else:
        threshold = thresholds(score, train, alarm_rate(budget, step_ms, 1))
    score[:train], threshold[:train] = 0.0, np.inf
    named = {AnomalyKind.DROPOUT: _begins(gap, train, 2), AnomalyKind.FLAT_LINE: _begins(still, train, 9)}
    quiet = min(train // 5, QUIET_SHAPE) if pair.scorer in _SHAPES else _QUIET
    anomaly = alerts((score > threshold) & ~gap, quiet) | named[AnomalyKind.DROPOUT] | named[AnomalyKind.FLAT_LINE]
    kind, evidence = [""] * len(score), [""] * len(score)
    spoke = {"scorer": pair.scorer, "smoothing": pair.smoothing, "why": why}
    for row in np.flatnonzero(anomaly).tolist():
        found, told = explain(row)
        found = next((name for name, rows in named.items() if rows[row]), found)
        kind[row], evidence[row] = found.value, json.dumps({**spoke, **told})
    return Verdicts(pair, why, score, threshold, anomaly, kind, evidence)


def _speaker(choice: Choice | None, train: int, columns: int) -> tuple[Pair, str]:
    if choice is None:
        shape = "one column" if columns == 1 else f"{columns} columns"
        return rule(train, columns), f"the rule of thumb for {shape} and {train} training rows"
    return choice.pair or rule(train, columns), choice.why


def alerts(flags: Mask, quiet: int) -> Mask:
    """The first of each stretch of ``flags`` bool[n], and none within ``quiet`` rows of the alert before it."""
    out, last = np.zeros(len(flags), bool), -quiet - 1
    for row in np.flatnonzero(flags).tolist():
        if row - last > quiet:
            out[row], last = True, row
    return out


def habituation(news: Floats, least: float, train: int, quiet: int, *, weary: float = WEARY, rested: float = RESTED) -> Floats:
    """By what the ``least`` of ``news`` float64[n] that alerts is multiplied at each row: who cries often must cry louder.

    Every alert adds ``weary``, which fades by half in ``rested`` rows.
    """
    factor, last = np.ones(len(news)), -quiet - 1
    for row in np.flatnonzero(news > least).tolist():
        if row < train or row - last <= quiet or news[row] <= least * factor[row]:
            continue
        load, last = factor[row] - 1.0 + weary, row
        factor[row + 1 :] = 1.0 + load * 0.5 ** (np.arange(1, len(news) - row) / rested)
    return factor


def thresholds(score: Floats, train: int, rate: float) -> Floats:
    """Threshold float64[n] of each row from the scores before its block of rows, the later training rows' included."""
    out = np.full(len(score), np.inf)
    for start in range(train, len(score), _REFRESH):
        past = score[max(train // 3, start - _REMEMBER) : start]
        out[start : start + _REFRESH] = tail_threshold(past[None, :].astype(np.float32), rate)[0]
    return out


def _read(source: Path) -> tuple[npt.NDArray[np.int64], list[str], Floats, Any, Mask | None]:
    """Row times in ms, names and values [n, c] of the numeric columns, the timestamp column as it was, labels if any."""
    import pyarrow as pa
    import pyarrow.compute as pc

    table = _table(source)
    if "timestamp" not in table.column_names:
        raise ConfigError(f"{source}: has no column 'timestamp'; it has {', '.join(table.column_names)}")
    stamps = table.column("timestamp")
    try:
        at = epoch_ms(stamps)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ConfigError(f"{source}: {error}; 'timestamp' must be a time") from error
    numeric = [
        field.name
        for field in table.schema
        if field.name != "timestamp"
        and (pa.types.is_floating(field.type) or pa.types.is_integer(field.type) or pa.types.is_boolean(field.type))
    ]
    names = [name for name in numeric if name != "label"]
    if not names:
        raise ConfigError(f"{source}: has no numeric column besides 'timestamp' and 'label'")
    columns = {name: pc.cast(table.column(name), pa.float64()).to_numpy(zero_copy_only=False) for name in numeric}
    label = columns["label"] > 0 if "label" in columns else None
    return at, names, np.column_stack([columns[name] for name in names]), stamps, label


def _table(source: Path) -> Any:
    import pyarrow as pa
    from pyarrow import csv, parquet

    try:
        if source.suffix in {".parquet", ".pq"}:
            return parquet.read_table(source)
        return csv.read_csv(source)
    except (OSError, pa.ArrowInvalid) as error:
        raise ConfigError(f"{source}: cannot be read as {'parquet' if source.suffix != '.csv' else 'CSV'}: {error}") from error


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
