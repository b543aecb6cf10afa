"""Labelled series for `bench_events`, and the built-in detectors replayed over them as the stream would run them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.lib.stride_tricks import sliding_window_view

from forecastle.detect.engine import Detection
from forecastle.settings import DetectSettings
from forecastle.types import Anomaly, SeriesKey, Windows

DAY_MS = 86_400_000
HISTORY = 2_200
"""Rows of a training half that go before its test half, so that the windows are full when the test begins."""
TEST_DAYS = {"SMD": 1, "KPI": 7, "ASD": 7}
"""First days of the test halves that are judged; all rows of all SMD columns would be eight million ticks."""


class Line(NamedTuple):
    """One series: ``values`` float32[n], NaN a gap; ``label`` bool[n]; slots before ``start`` are history only."""

    name: str
    values: np.ndarray
    label: np.ndarray
    step_ms: int
    start: int


def nab(root: Path) -> Iterator[Line]:
    """NAB's series; a row is labelled inside a window."""
    labels = json.loads((root / "nab/labels/combined_windows.json").read_text())
    for path in sorted((root / "nab/data").glob("*/*.csv.gz")):
        frame = pd.read_csv(path, parse_dates=["timestamp"])
        at, label = frame["timestamp"], np.zeros(len(frame), bool)
        for a, b in labels[f"{path.parent.name}/{path.name.removesuffix('.gz')}"]:
            label |= ((at >= a) & (at <= b)).to_numpy()
        yield on_grid(path.name.removesuffix(".csv.gz"), at, frame["value"], label)


def ms_cloud(root: Path) -> Iterator[Line]:
    """Microsoft's cloud monitoring series."""
    for path in sorted((root / "ms_cloud_monitoring/data").glob("*/*.csv.gz")):
        frame = pd.read_csv(path)
        at = pd.to_datetime(frame["TimeStamp"], utc=True).dt.tz_localize(None)
        yield on_grid(path.name.removesuffix(".csv.gz"), at, frame["Value"], frame["Label"].to_numpy() > 0)


def kpi(root: Path) -> Iterator[Line]:
    """The first rows of each KPI's test half, after the end of its training half."""
    for path in sorted((root / "kpi").glob("*.parquet")):
        frame = pd.read_parquet(path)
        train, test = (frame[frame["split"] == split] for split in ("train", "test"))
        step = int(test["timestamp"].diff().median() * 1000)
        both = pd.concat([train.tail(HISTORY), test.head(TEST_DAYS["KPI"] * DAY_MS // step)])
        line = on_grid(path.stem[:8], pd.to_datetime(both["timestamp"], unit="s"), both["value"], both["label"] > 0)
        yield line._replace(start=int((test["timestamp"].iloc[0] - both["timestamp"].iloc[0]) * 1000 / line.step_ms))


def smd(root: Path) -> Iterator[Line]:
    """The columns of SMD's machines; a labelled row is labelled in all of them."""
    return halves(root / "smd", 60_000, TEST_DAYS["SMD"])


def asd(root: Path) -> Iterator[Line]:
    """The columns of ASD's servers; a labelled row is labelled in all of them."""
    return halves(root / "asd", 300_000, TEST_DAYS["ASD"])


def halves(folder: Path, step_ms: int, days: int) -> Iterator[Line]:
    """Each column of each file: the end of its training half, then the first ``days`` of its test half."""
    for path in sorted((folder / "test").glob("*.parquet")):
        train, test = (
            pd.read_parquet(folder / "train" / path.name).tail(HISTORY),
            pd.read_parquet(path).head(days * DAY_MS // step_ms),
        )
        label = np.concatenate([np.zeros(len(train), bool), test["label"].to_numpy() > 0])
        for name in train:
            values = np.concatenate([train[name].to_numpy(np.float32), test[name].to_numpy(np.float32)])
            yield Line(f"{path.stem}/{name}", values, label, step_ms, len(train))


def on_grid(name: str, at: pd.Series, value: pd.Series, label: np.ndarray | pd.Series) -> Line:
    """Rows put on a grid of the median step; a slot nobody wrote to is a gap, and labelled as its neighbours are."""
    step = int(at.diff().median().total_seconds() * 1000)
    slot = ((at - at.iloc[0]).dt.total_seconds() * 1000 / step).round().astype(int).to_numpy()
    values, labels = np.full(slot[-1] + 1, np.nan, np.float32), np.zeros(slot[-1] + 1, bool)
    values[slot] = value.to_numpy(np.float32)
    labels[slot] = np.asarray(label)
    settings = settings_for(step)
    return Line(name, values, labels, step, settings.look_back + settings.season)


SETS = {"NAB": nab, "KPI": kpi, "SMD": smd, "ASD": asd, "ms_cloud_monitoring": ms_cloud}


def settings_for(step_ms: int) -> DetectSettings:
    """As shipped, but that the season is one day of this series' slots."""
    return DetectSettings(season=max(1, DAY_MS // step_ms))


def replay(line: Line, first: int, last: int) -> list[Anomaly]:
    """Anomalies of the ticks that end at slots ``first`` ... ``last - 1`` of one series, oldest first; ``at`` = slot x step.

    The built-in detectors are functions of the window, so all ticks are judged as rows of one fleet.
    """
    settings = settings_for(line.step_ms)
    width = settings.look_back + settings.season
    begin = max(0, first - width + 1)
    values = np.concatenate([np.full(width - 1, np.nan, np.float32), line.values[begin:last]])
    rows = sliding_window_view(values, width)[first - begin :]
    seen = sliding_window_view(np.isfinite(values), width)[first - begin :]
    keys = tuple(SeriesKey("w", str(slot)) for slot in range(first, last))
    no = np.zeros(len(keys), bool)
    found = Detection(settings, line.step_ms).detect(Windows(keys, 0, line.step_ms, rows, seen, no, no), None)
    return [_placed(anomaly, line) for anomaly in found]


def _placed(anomaly: Anomaly, line: Line) -> Anomaly:
    at = int(anomaly.key.metric) * line.step_ms
    evidence = {**anomaly.evidence, "onset": anomaly.evidence["onset"] + at}
    for name in ("lost", "site_lost", "site_workloads", "fleet_lost", "sites"):
        evidence.pop(name, None)
    return replace(anomaly, key=SeriesKey(line.name, "value"), at=at, evidence=evidence)
