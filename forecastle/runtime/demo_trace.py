"""A real demand instead of the generated one: its past to learn from, then a hard stretch of what came later to play.

Nothing is planted in a real trace. Capacity and limits are taken from the part before the split, as somebody who sets the
fleet up at that moment would have to.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML

from forecastle.errors import ConfigError
from forecastle.rehearsal.trace import Trace, read_trace
from forecastle.runtime.demo_settings import FLEET, LOOK_BACK, STEP_MS, configuration, settings
from forecastle.runtime.demo_stage import DemoOptions, Stage, fresh
from forecastle.runtime.inventory import inventory
from forecastle.runtime.world_demand import DemandTable
from forecastle.runtime.world_scenario import Scenario
from forecastle.types import Floats, Ints

MOST_SERIES = 12
TRAIN_FRACTION = 0.7
PEAK_REPLICAS = 60
RISE_TICKS = 10
SITES = (("aws-fra-a", "aws", 0.096, 150), ("gcp-ams-a", "gcp", 0.089, 120), ("azure-ams-1", "azure", 0.099, 180))


def recorded(options: DemoOptions, history_ticks: int, run: Mapping[str, Mapping[str, Any]]) -> Stage:
    """The stage of ``options.trace``. Raises ConfigError when it is too short."""
    if options.trace is None:
        raise ConfigError("there is no trace; give one with --trace FILE")
    traces = [read_trace(options.trace, name) for name in names(options.trace)]
    at, values = on_minutes(traces)
    split = int(TRAIN_FRACTION * len(at))
    ticks = min(max(round(options.days * 1440), 1), len(at) - split)
    if split < LOOK_BACK or ticks < RISE_TICKS:
        raise ConfigError(f"{options.trace}: {len(at)} minutes are too few; a play needs two days of history and more to play")
    start = hardest(values, split, ticks)
    out = fresh(options.out)
    first, last = int(at[start]), int(at[start + ticks - 1])
    loads = [_workload(one.name, float(values[row, :split].max())) for row, one in enumerate(traces)]
    paths = configuration(out, {**run, "runtime": {"not_before": first}}, fleet=_fleet(out, loads), seed=options.seed)
    chosen = settings(paths)
    began = max(start - history_ticks, 0)
    part = slice(began, start + ticks)
    labels = tuple(load["name"] for load in loads)
    table = DemandTable(labels, at[part], STEP_MS, values[:, part], values[:, part])
    return Stage(chosen, paths, inventory(chosen), table, Scenario(), first, last, options.seed, out)


def names(path: Path) -> Sequence[str]:
    """Series of the file, at most `MOST_SERIES`: those with the most points, then by name."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    try:
        table = csv.read_csv(path) if path.suffix == ".csv" else parquet.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(f"{path}: cannot be read: {error}; give --trace a long parquet or CSV file") from error
    if "series_id" not in table.column_names:
        return [""]
    counted = Counter(table["series_id"].cast(pa.string()).to_pylist())
    return sorted(sorted(counted, key=lambda name: (-counted[name], name))[:MOST_SERIES])


def on_minutes(traces: Sequence[Trace]) -> tuple[Ints, Floats]:
    """The minutes that all traces cover int64[t] (ms), and their demand float64[n, t], interpolated between points."""
    first = max(int(trace.at[0]) for trace in traces)
    last = min(int(trace.at[-1]) for trace in traces)
    at = np.arange(-(-first // STEP_MS), last // STEP_MS + 1, dtype=np.int64) * STEP_MS
    if not len(at):
        raise ConfigError("the trace's series have no minute in common; give one with series of the same time")
    return at, np.stack([np.interp(at, trace.at, trace.value) for trace in traces])


def hardest(values: Floats, split: int, ticks: int) -> int:
    """Column to begin at: ``ticks`` after ``split`` with the steepest rise, as a share of the known peak, at two thirds."""
    peaks = np.maximum(values[:, :split].max(axis=1), 1e-9)
    rise = ((values[:, RISE_TICKS:] - values[:, :-RISE_TICKS]) / peaks[:, None]).max(axis=0)
    moment = split + int(np.argmax(rise[split - RISE_TICKS :]))
    return int(np.clip(moment - 2 * ticks // 3, split, values.shape[1] - ticks))


def _workload(name: str, peak: float) -> dict[str, Any]:
    pools = [
        {
            "name": f"{name}-{site}",
            "site": site,
            "adapter": adapter,
            "unit_price": price,
            "startup_s": startup,
            "min": 1,
            "max": 10 * PEAK_REPLICAS,
            "quota": 10 * PEAK_REPLICAS,
        }
        for site, adapter, price, startup in SITES
    ]
    return {
        "name": name,
        "demands": [{"metric": "demand", "per_replica": max(peak, 1e-6) / PEAK_REPLICAS}],
        "vetoes": [{"metric": "latency_p99_ms", "above": 1200}, {"metric": "error_rate", "above": 0.03}],
        "min": 2,
        "max": 10 * PEAK_REPLICAS,
        "min_sites": 2,
        "mode": "auto",
        "lead_time_s": 240,
        "pools": pools,
    }


def _fleet(out: Path, loads: Sequence[Mapping[str, Any]]) -> Path:
    """The demo's sites and playbooks with the trace's workloads."""
    whole = YAML(typ="safe", pure=True).load(FLEET)
    whole["fleet"]["workloads"] = list(loads)
    path = out / "fleet.yaml"
    path.write_text(json.dumps(whole, indent=1), "utf-8")
    return path
