"""One tick of forecasting for a large fleet, calibration included, and the memory of the windows it reads.

``python benchmarks/bench_tick.py`` times 10,000 series x 60 steps x 11 quantiles through the predictor, with seasonal naive and
with the forecaster of ``models/patch_mixer.py`` (freshly initialized: weights do not change the time), and writes
``benchmarks/results/tick.json``. Targets: less than 1 s a tick on two cores, windows of 10,000 series x 2,016 slots in 400 MB.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from forecastle.predict.engine import STAND_IN, Predictor
from forecastle.settings import PredictSettings, WindowSettings
from forecastle.types import Samples, SeriesKey, Windows
from forecastle.window.store import WindowStore

STEP_MS = 60_000
T0 = 1_700_000_040_000
HORIZON = 60
SLOTS = 2_016
RESULTS = Path(__file__).parent / "results" / "tick.json"


def fleet(series: int, slots: int) -> np.ndarray:
    """Daily waves with noise, float32[series, slots]."""
    rng = np.random.default_rng(0)
    phase = rng.random((series, 1), np.float32)
    wave = 100 + 30 * np.sin(2 * np.pi * (np.arange(slots, dtype=np.float32) / 1440 + phase))
    return (wave + rng.normal(0, 3, (series, slots))).astype(np.float32)


def export(cache: Path) -> None:
    """Put a forecaster of the default configuration for this horizon into ``cache`` and point the alias at it."""
    from models import patch_mixer

    cfg = {"horizon": HORIZON}
    made = cache / "made.onnx"
    manifest = patch_mixer.export(patch_mixer.build(cfg), made, cfg)
    digest = hashlib.sha256(made.read_bytes()).hexdigest()
    folder = cache / "forecaster" / digest
    folder.mkdir(parents=True)
    shutil.move(made, folder / "model.onnx")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (cache / "forecaster" / "champion.json").write_text(json.dumps({"version": "1", "sha256": digest}))


def ticks(settings: PredictSettings, values: np.ndarray, count: int) -> dict[str, Any]:
    """Median and worst wall seconds, and CPU seconds, of ``count`` ticks after one that loads; the window rolls on."""
    series, width = len(values), values.shape[1] - count - 1
    keys = tuple(SeriesKey(f"w{i:05d}", "requests") for i in range(series))
    no = np.zeros(series, np.bool_)
    mask = np.random.default_rng(1).random((series, width)) > 0.01
    predictor, wall, cpu = Predictor(settings, STEP_MS), [], []
    for tick in range(count + 1):
        window = np.ascontiguousarray(values[:, tick : tick + width])
        windows = Windows(keys, T0 + tick * STEP_MS, STEP_MS, window, mask, no, no)
        began, spent = time.perf_counter(), time.process_time()
        answer = predictor.forecast(windows)
        wall.append(time.perf_counter() - began)
        cpu.append(time.process_time() - spent)
        if answer.values.shape != (series, HORIZON, 11) or (settings.model and answer.fallback.any()):
            raise SystemExit(f"not what was to be measured: {answer.model} {answer.values.shape} {answer.notes}")
    return {
        "model": answer.model,
        "seconds_per_tick": round(statistics.median(wall[1:]), 3),
        "worst_seconds": round(max(wall[1:]), 3),
        "cpu_seconds": round(statistics.median(cpu[1:]), 3),
        "first_tick_with_loading_s": round(wall[0], 3),
    }


def resident_mb() -> float:
    """Resident memory of this process in MB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def fill(series: int, slots: int) -> dict[str, float]:
    """Resident memory of this process before and after a window store has filled up."""
    before = resident_mb()
    store = WindowStore(WindowSettings(look_back=slots))
    keys = tuple(SeriesKey(f"w{i:05d}", "requests") for i in range(series))
    index, partition = np.arange(series, dtype=np.int32), np.zeros(series, np.int32)
    value = np.random.default_rng(0).random(series)
    for slot in range(1, slots + 1):
        at = T0 + slot * STEP_MS
        store.append(Samples(keys, index, np.full(series, at), value + slot, partition))
        store.skip(at)
    return {"resident_mb": round(resident_mb(), 1), "of_which_imports_mb": round(before, 1)}


def memory(series: int, slots: int) -> dict[str, float]:
    """`fill` in a fresh process."""
    command = [sys.executable, __file__, "--fill", "--series", str(series), "--slots", str(slots)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--series", type=int, default=10_000)
    parser.add_argument("--slots", type=int, default=SLOTS)
    parser.add_argument("--ticks", type=int, default=9)
    parser.add_argument("--fill", action="store_true", help="only fill a window store and print what it holds resident")
    asked = parser.parse_args()
    if asked.fill:
        print(json.dumps(fill(asked.series, asked.slots)))
        return
    values = fleet(asked.series, asked.slots + asked.ticks + 1)
    report: dict[str, Any] = {
        "series": asked.series,
        "horizon": HORIZON,
        "quantiles": 11,
        "slots": asked.slots,
        "cores": os.cpu_count(),
        "load_before": [round(x, 2) for x in os.getloadavg()],
        "memory": memory(asked.series, asked.slots),
    }
    with tempfile.TemporaryDirectory() as folder:
        naive = PredictSettings(model="", horizon=HORIZON)
        report[STAND_IN] = ticks(naive, values, asked.ticks)
        export(Path(folder))
        learned = PredictSettings(cache=folder, horizon=HORIZON, timeout_s=60)
        report["patch mixer"] = ticks(learned, values, asked.ticks)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
