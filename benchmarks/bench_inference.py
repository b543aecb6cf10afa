"""Forecasts a core gives: the served ONNX model and the batch network, 60 steps ahead, beside eager torch and AutoETS.

``python benchmarks/bench_inference.py`` measures on one thread, in rounds that take turns, and writes
``benchmarks/results/inference.json``. The bar is 5,000 series a second and core. CPU seconds are what a core gives whatever
else the machine does; wall seconds stand beside them. The served model then answers a million windows, with the process's
resident memory before and after. Weights are fresh: they do not change the time. AutoETS takes part where statsforecast is
installed (``pip install -c constraints.txt -e '.[bench]'``), on few series and with 200 points of each: it is slow.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from forecastle.ports import Artifact
from forecastle.predict.artifacts import sha256
from forecastle.predict.batch import learned
from forecastle.predict.batch.lags import view
from forecastle.predict.batch.net import Net
from forecastle.predict.batch.panel import Panel
from forecastle.predict.naive import QUANTILES
from forecastle.predict.onnx import CHUNK, OnnxForecaster
from forecastle.types import SeriesKey, Windows
from models import patch_mixer

RESULTS = Path(__file__).parent / "results" / "inference.json"
HORIZON, STEP_MS, END = 60, 60_000, 1_700_000_040_000
SERIES, BATCH_ORIGINS, ETS_SERIES, ETS_POINTS = 4 * CHUNK, 8, 16, 200
BAR = 5_000.0
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
Work = Callable[[], int]


def fleet(series: int, slots: int) -> np.ndarray:
    """Daily waves with noise, float32[series, slots]."""
    rng = np.random.default_rng(0)
    wave = 100 + 30 * np.sin(2 * np.pi * (np.arange(slots) / 1440 + rng.random((series, 1))))
    return np.asarray(wave + rng.normal(0, 3, (series, slots)), np.float32)


def windows(values: np.ndarray) -> Windows:
    """The batch as a tick hands it to a forecaster; one slot in a hundred is a gap."""
    mask = np.random.default_rng(1).random(values.shape) > 0.01
    no = np.zeros(len(values), np.bool_)
    return Windows(tuple(SeriesKey(f"w{i:05d}", "requests") for i in range(len(values))), END, STEP_MS, values, mask, no, no)


def served(model: patch_mixer.PatchMixer, cfg: dict[str, Any], folder: Path) -> OnnxForecaster:
    """The model as a worker opens it, on one thread."""
    path = folder / "model.onnx"
    manifest = patch_mixer.export(model, path, cfg)
    artifact = Artifact("forecaster", "1", path, sha256(path), manifest)
    return OnnxForecaster(artifact, step_ms=STEP_MS, horizon=HORIZON, quantiles=QUANTILES, threads=1)


def eager(model: torch.nn.Module, batch: Windows, look_back: int) -> Work:
    """The same windows through torch without compilation, in the same chunks."""
    values = torch.from_numpy(np.ascontiguousarray(batch.values[:, -look_back:]))
    mask = torch.from_numpy(batch.mask[:, -look_back:].astype(np.float32))
    minute = torch.full((len(values),), END // 60_000)

    def work() -> int:
        with torch.no_grad():
            for first in range(0, len(values), CHUNK):
                rows = slice(first, first + CHUNK)
                model(values[rows], mask[rows], minute[rows]).numpy()
        return len(values)

    return work


def batch_network(values: np.ndarray) -> Work:
    """The network of ``forecastle forecast`` over every series at several origins; its inputs are computed anew."""
    panel = Panel.of(values.astype(np.float64), END, STEP_MS)
    seen, net = view(panel, values.shape[1]), Net.load(learned.PRETRAINED, len(values))
    origins = values.shape[1] - 1 - np.arange(BATCH_ORIGINS)[::-1]

    def work() -> int:
        return len(values) * len(learned.predict(net, seen, origins, HORIZON)[0])

    return work


def auto_ets(values: np.ndarray) -> Work | None:
    """Statsforecast's AutoETS, fitted to each series and asked for the horizon; None where it is not installed."""
    if importlib.util.find_spec("statsforecast") is None:
        return None
    models = importlib.import_module("statsforecast.models")
    series = values[:ETS_SERIES, -ETS_POINTS:].astype(np.float64)

    def work() -> int:
        for row in series:
            models.AutoETS(season_length=1).forecast(row, HORIZON, level=[80])
        return len(series)

    return work


def rates(works: dict[str, Work], rounds: int) -> dict[str, dict[str, float]]:
    """Median series a CPU second and a wall second of each, in ``rounds`` that take turns after one that warms up."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for turn in range(rounds + 1):
        for name, work in works.items():
            wall, cpu = time.perf_counter(), time.process_time()
            count = work()
            took = count / (time.process_time() - cpu), count / (time.perf_counter() - wall)
            if turn:
                found[name].append(took)
    return {
        name: {
            "series_per_core_second": statistics.median(cpu for cpu, _ in turns),
            "series_per_wall_second": statistics.median(wall for _, wall in turns),
        }
        for name, turns in found.items()
    }


def resident_mb() -> float:
    """Resident memory of this process in MB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def endurance(model: OnnxForecaster, batch: Windows, count: int) -> dict[str, float]:
    """Resident memory before and after ``count`` forecasts, after a tenth of a percent of them has warmed up."""
    for _ in range(max(2, count // 1000 // len(batch))):
        model.infer(batch)
    before, highest, done, cpu = resident_mb(), 0.0, 0, time.process_time()
    while done < count:
        answer = model.infer(batch)
        if not np.isfinite(answer).all():
            raise SystemExit(f"not finite after {done} forecasts")
        done += len(batch)
        highest = max(highest, resident_mb())
    return {
        "forecasts": done,
        "resident_mb_before": before,
        "resident_mb_after": resident_mb(),
        "resident_mb_highest": highest,
        "series_per_core_second": done / (time.process_time() - cpu),
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--endurance", type=int, default=1_000_000, help="forecasts between the two looks at memory")
    asked = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in ONE_THREAD.items()):  # libraries read these when they load
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ONE_THREAD})
    torch.set_num_threads(1)
    cfg = {"horizon": HORIZON}
    model = patch_mixer.build(cfg).eval()
    with tempfile.TemporaryDirectory() as folder:
        onnx = served(model, cfg, Path(folder))
    values = fleet(SERIES, onnx.look_back)
    batch = windows(values)
    works: dict[str, Work] = {
        "served_onnx": lambda: len(onnx.infer(batch)),
        "eager_torch": eager(model, batch, onnx.look_back),
        "batch_network": batch_network(values),
    }
    if ets := auto_ets(values):
        works["auto_ets"] = ets
    else:
        print("without statsforecast; install it with: pip install -c constraints.txt -e '.[bench]'", file=sys.stderr)
    load = os.getloadavg()
    found = rates(works, asked.rounds)
    report: dict[str, Any] = {
        "horizon": HORIZON,
        "look_back": onnx.look_back,
        "quantiles": len(QUANTILES),
        "series": SERIES,
        "auto_ets_points": ETS_POINTS,
        "cores": os.cpu_count(),
        "load_before": load,
        "bar_series_per_core_second": BAR,
        **found,
        "onnx_to_torch": found["served_onnx"]["series_per_core_second"] / found["eager_torch"]["series_per_core_second"],
        "memory": endurance(onnx, batch, asked.endurance),
    }
    text = json.dumps(json.loads(json.dumps(report), parse_float=lambda part: float(f"{float(part):.4g}")), indent=2)
    RESULTS.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
