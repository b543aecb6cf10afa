"""A user's own history, replayed: what each policy would have cost and what it would have left unserved.

The proof comes before the trust: nobody should hand a fleet to a policy that did not beat the one in use on the fleet's own
past. The files are for other programs (`timeline.parquet`, `summary.json`) and for people (`report.html`).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from forecastle.errors import ConfigError
from forecastle.rehearsal.bounds import Oracle
from forecastle.rehearsal.faults import trials
from forecastle.rehearsal.forecastle import Forecastle, learned
from forecastle.rehearsal.measures import Curve, compare, figures, some_of
from forecastle.rehearsal.policies import policy_named
from forecastle.rehearsal.simulate import Policy, PoolModel, Timeline, simulate
from forecastle.rehearsal.trace import STEP_S, Demand, Trace, auto_capacity, on_clock, read_trace
from forecastle.runtime.rehearse_planner import NAME as PLANNER
from forecastle.runtime.rehearse_planner import Planner
from forecastle.runtime.rehearse_report import said, write_report

SCHEMA = pa.schema(
    [
        ("policy", pa.dictionary(pa.int32(), pa.string())),
        ("knob", pa.dictionary(pa.int32(), pa.string())),
        ("at", pa.timestamp("ms")),
        ("demand", pa.float64()),
        ("desired", pa.int64()),
        ("ready", pa.int64()),
        ("starting", pa.int64()),
        ("unmet", pa.float64()),
        ("cost", pa.float64()),
    ]
)


def rehearse(
    trace: Path,
    *,
    series: str = "",
    policies: Sequence[str],
    capacity_per_replica: float | str = "auto",
    lead_time_s: float = 180.0,
    train_fraction: float = 0.7,
    out: Path,
) -> dict[str, Any]:
    """Play ``policies`` over the trace after ``train_fraction``, write the three files into ``out``, return the summary.

    ``capacity_per_replica`` is in the trace's unit; ``auto`` makes the train part's p99 need 60 replicas. Costs are in
    replica-hours. Raises ConfigError for a trace, series, policy or number that cannot be played.
    """
    chosen = [policy_named(name, {PLANNER: Planner}) for name in dict.fromkeys(policies)]
    if not chosen:
        raise ConfigError("there is no policy to rehearse; give --policies hpa,forecastle,oracle")
    history = read_trace(Path(trace), series)
    pool = PoolModel(capacity_of(history, capacity_per_replica, train_fraction), checked_lead(lead_time_s))
    demand = on_clock(history, train_fraction)
    unit = float(simulate(Oracle(), demand, pool).total_cost[0])
    timelines, faults = [], []
    ranked: tuple[str, ...] = ()
    for policy in chosen:
        sys.stderr.write(f"rehearsing {policy.name} ({len(policy.knobs)} settings)\n")
        ready: Policy = policy
        if isinstance(policy, Forecastle):
            ready = learned(policy, demand, pool)
            ranked = ready.ranked
            faults = [asdict(trial) | {"cost_over_oracle": trial.cost / unit} for trial in trials(demand, pool, ready)]
        timelines.append(simulate(ready, demand, pool))
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    _write_timelines(folder / "timeline.parquet", timelines)
    summary = summarize(history, demand, pool, timelines, unit) | {
        "forecastle_over": _comparisons(timelines, ranked),
        "train_fraction": train_fraction,
        "faults": faults,
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n", "utf-8")
    write_report(folder / "report.html", summary, timelines)
    for line in lines_of(summary):
        sys.stdout.write(line + "\n")
    return summary


def capacity_of(history: Trace, given: float | str, train_fraction: float) -> float:
    """Demand one replica carries. Raises ConfigError unless it is positive."""
    if given == "auto":
        found = auto_capacity(history, train_fraction)
        if found <= 0:
            raise ConfigError(f"{history.name}: the train part's p99 is 0, nothing to size by; give --capacity-per-replica")
        return found
    try:
        number = float(given)
    except ValueError as error:
        raise ConfigError(f"--capacity-per-replica {given}: write a number in the trace's unit, or auto") from error
    if not 0 < number < float("inf"):
        raise ConfigError(f"--capacity-per-replica {given}: must be above 0")
    return number


def checked_lead(lead_time_s: float) -> float:
    """The lead time. Raises ConfigError when it is negative or not finite."""
    if not 0 <= lead_time_s < float("inf"):
        raise ConfigError(f"--lead-time {lead_time_s:g}: write the start-up lag as 90s or 3m")
    return lead_time_s


def summarize(history: Trace, demand: Demand, pool: PoolModel, timelines: Sequence[Timeline], unit: float) -> dict[str, Any]:
    """Everything that `summary.json` says, JSON-able; ``unit`` is the full oracle's cost."""
    span = demand.value[demand.first :][demand.known[demand.first :]]
    found = {}
    for line in timelines:
        rows = [asdict(row) | {"cost_over_oracle": row.cost / unit} for row in figures(line)]
        found[line.policy] = {"knobs": rows, "notes": list(line.notes)}
    return {
        "series": history.name,
        "step_s": STEP_S,
        "lead_time_s": pool.lead_time_s,
        "capacity_per_replica": pool.capacity,
        "test_from_ms": int(demand.at[demand.first]),
        "test_until_ms": int(demand.at[-1]),
        "test_steps": len(span),
        "demand": {"mean": float(span.mean()), "p99": float(np.quantile(span, 0.99)), "max": float(span.max())},
        "oracle_cost": unit,
        "cost_unit": "replica-hours",
        "policies": found,
    }


def _comparisons(timelines: Sequence[Timeline], ranked: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Our cost over each peer's at equal unmet demand, with all our knob values and with as many of ``ranked`` as it has."""
    ours = next((line for line in timelines if line.policy == "forecastle"), None)
    if ours is None:
        return {}
    every, out = Curve.of(ours.unmet_share, ours.total_cost), {}
    for line in timelines:
        if line.policy in {"forecastle", "oracle"}:
            continue
        theirs, count = Curve.of(line.unmet_share, line.total_cost), len(line.knobs)
        equal = _ratio(some_of(ours, ranked, count), theirs)
        out[line.policy] = _ratio(every, theirs) | {"at_equal_values": {"values": count} | equal}
    return out


def _ratio(ours: Curve, theirs: Curve) -> dict[str, Any]:
    """Median, least and greatest over the peer's range, and the share of it that we reached; None: not that good anywhere."""
    ratio = compare(ours, theirs)
    reached = ratio[np.isfinite(ratio)]
    return {
        "median": float(np.median(ratio)) if np.isfinite(np.median(ratio)) else None,
        "least": float(reached.min()) if len(reached) else None,
        "greatest": float(reached.max()) if len(reached) else None,
        "reached": len(reached) / len(ratio),
    }


def lines_of(summary: dict[str, Any]) -> Iterator[str]:
    """The summary for a terminal."""
    yield (
        f"{summary['series']}: a replica carries {summary['capacity_per_replica']:.4g} and starts in "
        f"{summary['lead_time_s']:g} s; the oracle pays {summary['oracle_cost']:,.0f} replica-hours"
    )
    yield f"{'policy':<16}{'knob':>12}{'unmet %':>10}{'cost/oracle':>13}{'actions/day':>13}"
    for name, policy in summary["policies"].items():
        for row in policy["knobs"]:
            yield (
                f"{name:<16}{row['knob']:>12}{100 * row['unmet_share']:>10.4f}{row['cost_over_oracle']:>13.3f}"
                f"{row['actions_per_day']:>13.1f}"
            )
    for trial in summary["faults"]:
        yield (
            f"fault: {trial['fault']:<18}{trial['policy']:<12}{trial['knob']:>10}{100 * trial['unmet_share']:>10.4f} % unmet"
            f"{trial['cost_over_oracle']:>9.3f} x oracle"
        )
    for name, ratio in summary["forecastle_over"].items():
        if ratio["median"] is not None:
            yield f"forecastle pays {said(name, ratio)}"


def _write_timelines(path: Path, timelines: Sequence[Timeline]) -> None:
    policies = pa.array([line.policy for line in timelines])
    knobs = list(dict.fromkeys(knob for line in timelines for knob in line.knobs))
    with parquet.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        for p, line in enumerate(timelines):
            demand = np.where(line.known, line.demand, np.nan)
            n = len(demand)
            for k, knob in enumerate(line.knobs):
                columns = [
                    pa.DictionaryArray.from_arrays(np.full(n, p, np.int32), policies),
                    pa.DictionaryArray.from_arrays(np.full(n, knobs.index(knob), np.int32), pa.array(knobs)),
                    pa.array(line.at, pa.timestamp("ms")),
                    pa.array(demand, from_pandas=True),
                    line.desired[:, k],
                    line.ready[:, k],
                    line.desired[:, k] - line.ready[:, k],
                    line.unmet[:, k],
                    line.cost[:, k],
                ]
                writer.write_table(pa.Table.from_arrays([pa.array(c) for c in columns], schema=SCHEMA))
