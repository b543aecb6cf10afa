"""What each policy costs at equal unmet demand on real traces, the last 30 % of each as test.

    python benchmarks/bench_rehearsal.py [--data ../shared/data/workload] [--only nasa_http:180] [--keep FOLDER] [--no-faults]

Prints one table per trace and lead time and writes ``benchmarks/results/rehearsal.json``. What was learned is kept in FOLDER
and read there the next time: empty it when the learning or a trace changes. A replica carries the train part's p99 / 60.
Nothing of our policy is learned on a test span, and no knob value is chosen there. That HPAs are floors below it and that peaks
are held was thought of after test curves of these traces had been seen; the values are the peer's own and a plain grid.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from forecastle.rehearsal.bounds import Oracle
from forecastle.rehearsal.faults import trials
from forecastle.rehearsal.forecastle import Forecastle, chosen, learned
from forecastle.rehearsal.measures import Curve, compare, figures, some_of
from forecastle.rehearsal.policies import PRICES, policy_named
from forecastle.rehearsal.simulate import PoolModel, Timeline, simulate
from forecastle.rehearsal.trace import Demand, auto_capacity, on_clock, read_trace

CASES = (("nasa_http", ""), ("worldcup98", ""), ("nab_cloud", "nab/elb_request_count_8c0756"))
LEADS_S = (60.0, 180.0)
PEERS = ("hpa", "static-peak", "hpa-cpu", "keda", "target-tracking", "aws-predictive", "phpa", "seasonal-naive")
LEVELS = (0.0002, 0.0005, 0.001, 0.0022, 0.005, 0.01, 0.02, 0.05)
BAR = {"nasa_http": 0.65, "worldcup98": 0.93}
TUNED_ON = (
    "learned and chosen on train parts; that HPAs are floors and peaks are held was thought of after test curves of these"
    " traces had been seen, their values are the peer's own and a plain grid; only other traces can confirm the figures"
)
RESULTS = Path(__file__).parent / "results" / "rehearsal.json"


def taught(demand: Demand, pool: PoolModel, kept: Path | None) -> tuple[Forecastle, float]:
    """Our policy with what the train part teaches and its plan, and the processor seconds that this took."""
    if kept is not None and kept.exists():
        lessons, plan, seconds = pickle.loads(kept.read_bytes())
        return chosen(Forecastle(taught=lessons, planned=plan), demand, pool), seconds
    begin = time.process_time()
    policy = learned(Forecastle(), demand, pool)
    seconds = time.process_time() - begin
    if kept is not None:
        kept.write_bytes(pickle.dumps((policy.taught, policy.planned, seconds)))
    return policy, seconds


def played(name: str, series: str, lead_s: float, options: argparse.Namespace) -> dict[str, Any]:
    """One trace at one lead time under every policy."""
    data: Path = options.data
    trace = read_trace(data / name / "data.parquet", series)
    pool, demand = PoolModel(auto_capacity(trace), lead_s), on_clock(trace)
    oracle = simulate(Oracle(PRICES), demand, pool)
    unit = float(oracle.total_cost[0])
    ours, seconds = taught(demand, pool, options.keep and options.keep / f"{name}-{lead_s:g}.pickle")
    lines = {"oracle": oracle, "forecastle": simulate(ours, demand, pool)}
    curves: dict[str, Curve] = {}
    for policy in ("oracle", "forecastle", *PEERS):
        line = lines.get(policy) or simulate(policy_named(policy), demand, pool)
        lines[policy], curves[policy] = line, Curve.of(line.unmet_share, line.total_cost / unit)
        print(f"{name} {lead_s:g} s, {policy}: cost / oracle {_at(curves[policy])}", flush=True)
    return {
        "trace": name,
        "lead_time_s": lead_s,
        "capacity_per_replica": pool.capacity,
        "oracle_replica_hours": unit,
        "learning_cpu_s": round(seconds, 1),
        "cost_over_oracle_at": {policy: _at(curve) for policy, curve in curves.items()},
        "forecastle_over": {peer: _ratio(curves["forecastle"], curves[peer]) for peer in PEERS},
        "forecastle_at_equal_values_over": {peer: _equal(lines, peer, ours.ranked, unit) for peer in PEERS},
        "oracle_over": {peer: _ratio(curves["oracle"], curves[peer]) for peer in PEERS},
        "bar_over_hpa": BAR.get(name),
        "faults": [
            asdict(trial) | {"cost": trial.cost / unit} for trial in (trials(demand, pool, ours) if options.faults else ())
        ],
        "settings": {
            policy: [asdict(row) | {"cost": row.cost / unit} for row in figures(line)] for policy, line in lines.items()
        },
    }


def _at(curve: Curve) -> dict[str, float | None]:
    costs = curve.cost_at(np.array(LEVELS)).tolist()
    return {str(level): None if np.isnan(cost) else round(cost, 4) for level, cost in zip(LEVELS, costs, strict=True)}


def _ratio(ours: Curve, theirs: Curve) -> dict[str, float | None]:
    """Cost of the one over the other at equal unmet demand over the peer's range; a level that was never reached is None."""
    ratio = compare(ours, theirs)
    middle = float(np.sort(ratio)[len(ratio) // 2])
    greatest = float(ratio.max())
    return {
        "median": round(middle, 4) if np.isfinite(middle) else None,
        "least": round(float(ratio.min()), 4) if np.isfinite(ratio.min()) else None,
        "greatest": round(greatest, 4) if np.isfinite(greatest) else None,
    }


def _equal(lines: dict[str, Timeline], peer: str, ranked: tuple[str, ...], unit: float) -> dict[str, float | None]:
    """The same with as many of our knob values as the peer has, spread over those the train part ranks."""
    theirs = lines[peer]
    count, own = len(theirs.knobs), Curve.of(theirs.unmet_share, theirs.total_cost / unit)
    some = some_of(lines["forecastle"], ranked, count)
    return {"values": count} | _ratio(Curve(some.unmet, some.cost / unit), own)


def table(result: dict[str, Any]) -> str:
    """The result for a terminal."""
    head = f"\n{result['trace']}, lead time {result['lead_time_s']:g} s: cost / oracle at unmet demand of"
    columns = "".join(f"{100 * level:>9.2f}%" for level in LEVELS)
    lines = [head, f"{'':<16}{columns}{'ours / it: median':>20}{'worst':>8}{'at equal values':>17}"]
    for policy, costs in result["cost_over_oracle_at"].items():
        ratio = result["forecastle_over"].get(policy, {})
        equal = result["forecastle_at_equal_values_over"].get(policy, {})
        cells = [f"{_shown(cost):>10}" for cost in costs.values()]
        cells += [f"{_shown(ratio.get('median')):>20}", f"{_shown(ratio.get('greatest')):>8}"]
        cells += [f"{_shown(equal.get('median')):>17}"]
        lines.append(f"{policy:<16}" + "".join(cells))
    lines += [
        f"  {trial['fault']:<20}{trial['policy']:<12}{trial['knob']:<10}{100 * trial['unmet_share']:>9.3f}% unmet"
        f"{trial['cost']:>9.3f} x oracle"
        for trial in result["faults"]
    ]
    return "\n".join(lines)


def _shown(number: float | None) -> str:
    return "-" if number is None else f"{number:.3f}"


def main() -> None:
    """Play every case, or the one asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("FORECASTLE_DATA", "../shared/data")) / "workload")
    parser.add_argument("--only", default="", help="a trace, or trace:lead")
    parser.add_argument("--keep", type=Path, help="a folder that is there, for what was learned")
    parser.add_argument("--faults", action=argparse.BooleanOptionalAction, default=True, help="play the faults as well")
    options = parser.parse_args()
    if not options.data.exists():
        raise SystemExit(f"{options.data}: the traces are not there; set FORECASTLE_DATA to the folder that holds workload/")
    for name, series in CASES:
        for lead in LEADS_S:
            if options.only in {"", name, f"{name}:{lead:g}"}:
                result = played(name, series, lead, options)
                record(result)
                print(table(result), flush=True)


def record(result: dict[str, Any]) -> None:
    """Put the result in the place of the last one of its trace and lead time; faults that were not played stay as they were."""
    found = json.loads(RESULTS.read_text())["cases"] if RESULTS.exists() else []
    kept, key = {(case["trace"], case["lead_time_s"]): case for case in found}, (result["trace"], result["lead_time_s"])
    kept[key] = result | {"faults": result["faults"] or kept.get(key, {}).get("faults", [])}
    RESULTS.write_text(json.dumps({"tuned_on": TUNED_ON, "cases": [kept[key] for key in sorted(kept)]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
