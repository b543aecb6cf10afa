"""``forecastle detect``: a recorded file judged row by row, as it would have been at the time.

The first rows train and are not judged. One scorer speaks for a file: the one its family chose
(`forecastle.detect.auditions`), or the rule of thumb by shape and length. The threshold follows the scores seen so far and
the false-alarm budget. ``benchmarks/bench_detect.py`` says on which series the rule was learned.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from forecastle.detect import trails
from forecastle.detect.auditions import Recorded, learn, perform, rule
from forecastle.detect.selector import Choice, Pair, of_family, read_choices
from forecastle.detect.tails import alarm_rate, tail_threshold
from forecastle.errors import ConfigError
from forecastle.runtime.batch_detect_events import QUIET, Events, alerts, onsets
from forecastle.runtime.timestamps import epoch_ms
from forecastle.types import Floats, Ints, Mask

_REFRESH, _REMEMBER = 256, 5000
LASTING = 500
"""Rows above the threshold after which an incident is taken for the new normal."""
_WARMUP = 30
LEAST_BUDGET, MOST_BUDGET = 0.001, 1000.0
"""False alarms per day that may be asked for."""
NEWS, _PLAIN_BUDGET, _STEEPNESS = 0.55, 0.1, 0.1
"""`trails.novelty` that alerts at the usual budget, and how that grows as the budget shrinks."""
_SHAPES = frozenset({"shape", "nearest", "far"})
"""Scorers whose alerts `trails.novelty` decides: their own scores stay high for the length of a window."""
WEARY, RESTED = 0.06, 350.0
"""What an alert adds to that share, and the rows in which half of it fades."""
QUIET_SHAPE = 150
"""Rows after an alert of theirs without another one."""


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
    Raises ConfigError when the file, ``choices``, ``train_rows`` or ``budget`` cannot be used.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not LEAST_BUDGET <= budget <= MOST_BUDGET:
        raise ConfigError(f"--budget {budget:g}: must be {LEAST_BUDGET:g} to {MOST_BUDGET:g} false alarms per day")
    at, names, values, timestamps, label = _read(Path(source))
    if not _WARMUP <= train_rows < len(values):
        raise ConfigError(f"--train-rows {train_rows}: must be at least {_WARMUP} and less than the file's {len(values)} rows")
    step_ms = max(1, int(np.median(np.diff(at[:train_rows]))))
    told = of_family(read_choices(choices), Path(source).stem, *(names if len(names) == 1 else ())) if choices else None
    choice = told[1] if told else None
    if choice is None and choose:
        choice = learn([Recorded(values[:train_rows], None if label is None else label[:train_rows])])
    verdicts = judge(values, train_rows, step_ms, names, budget, at=at, choice=choice)
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
    values: Floats,
    train: int,
    step_ms: int,
    names: list[str],
    budget: float,
    *,
    at: Ints | None = None,
    choice: Choice | None = None,
) -> Verdicts:
    """Verdicts on ``values`` float64[n, c] after ``train`` rows; NaN is a gap: its own kind of event, never a spike.

    Gaps and flat lines are those of single columns. What is missing has no say in the score of its row; a row without any
    value is not judged. ``at`` int[n]: the rows' times in ms; None: ``step_ms`` apart from 0 on. ``choice`` says which scorer
    speaks; None: the one that the rule of thumb names.
    """
    missing: Mask = ~np.isfinite(values)
    gap: Mask = np.asarray(missing.all(axis=1))
    times = (np.arange(len(values)) * step_ms if at is None else at).tolist()
    pair, why = _speaker(choice, train, values.shape[1])
    score, parts = perform(trails.forward(values, train), train, pair, missing)
    events, quiet = Events(values, parts, names, train), min(train // 5, QUIET_SHAPE)
    if pair.scorer in _SHAPES:
        news = trails.novelty(trails.standardized(values[:, 0], train), train)
        least = NEWS * (_PLAIN_BUDGET / budget) ** _STEEPNESS
        habit = habituation(np.where(gap, 0.0, news), least, train, quiet)
        threshold = score * least * habit / np.maximum(news, 1e-9)
    else:
        threshold = thresholds(score, train, alarm_rate(budget, step_ms, 1))
    score[:train], threshold[:train] = 0.0, np.inf
    over = (score > threshold) & ~gap
    anomaly = (alerts(over, quiet) if pair.scorer in _SHAPES else onsets(over, QUIET)) | events.stops()
    kind, evidence = [""] * len(score), [""] * len(score)
    spoke = {"scorer": pair.scorer, "smoothing": pair.smoothing, "why": why}
    for row in np.flatnonzero(anomaly).tolist():
        found, lasted, told = events.explain(row)
        onset = times[row + 1 - lasted]
        since = {"onset": onset, "duration_s": (times[row] + step_ms - onset) // 1000}
        kind[row], evidence[row] = found.value, json.dumps({**spoke, **told, **since})
    return Verdicts(pair, why, score, threshold, anomaly, kind, evidence)


def _speaker(choice: Choice | None, train: int, columns: int) -> tuple[Pair, str]:
    if choice is None:
        shape = "one column" if columns == 1 else f"{columns} columns"
        return rule(train, columns), f"the rule of thumb for {shape} and {train} training rows"
    return choice.pair or rule(train, columns), choice.why


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
    """Threshold float64[n] of each row from the scores before its block of rows, the later training rows' included.

    The rows of an incident, which lasts until the score is back under its threshold, are not learned: an outage moves no
    threshold. One that has lasted `LASTING` rows is the new normal, and all of it is learned.
    """
    out, usual, began, last = np.full(len(score), np.inf), np.ones(len(score), bool), -1, -1
    for start in range(train, len(score), _REFRESH):
        first, block = max(train // 3, start - _REMEMBER), slice(start, start + _REFRESH)
        past = score[first:start][usual[first:start]]
        out[block] = tail_threshold(past[None, :].astype(np.float32), rate)[0]
        for row in (start + np.flatnonzero(score[block] > out[block])).tolist():
            began, last = began if row == last + 1 else row, row
            usual[row] = row - began >= LASTING
            if row - began == LASTING:
                usual[began:row] = True
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
