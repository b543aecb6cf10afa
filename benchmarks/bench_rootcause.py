"""Who is to blame: the ranking of causes on injected faults with known places, and on labelled dimensions of servers.

    python -m benchmarks.bench_rootcause [--data ../shared/data/anomaly]

Nezha: 101 faults in pods of two shops on Kubernetes; PetShop: 68 faults in a shop on AWS; SMD and ASD: which metrics of a
server an expert blamed. Constants were chosen on the faults with even index; the odd ones are reported apart.
Writes ``benchmarks/results/rootcause.json``.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from forecastle.detect.causes import Sign, Topology, departures, ranked
from forecastle.types import SeriesKey

RESULTS = Path(__file__).parent / "results" / "rootcause.json"
PAST, RECENT = 120, 5
"""Minutes before an injection that are its past, and minutes after it that are the incident (Nezha)."""
IN_LOGS = frozenset({"return", "exception"})
"""Faults whose root cause Nezha labels by a pair of log lines; the logs are not among the metrics."""


class Fault(NamedTuple):
    """One injected fault: series float64[n, L] whose last ``recent`` slots are the incident; ``culprit`` as workload/pod."""

    group: str
    kind: str
    culprit: str
    keys: tuple[SeriesKey, ...]
    values: np.ndarray
    recent: int
    topology: Topology


def rank_of(fault: Fault) -> int:
    """1 when the culprit leads the ranking; one beyond the last place when it is not in it."""
    size = departures(fault.values, np.isfinite(fault.values), fault.recent)
    signs = [Sign(key, float(s), 0) for key, s in zip(fault.keys, size, strict=True) if s > 0]
    names = [cause.place.instance or cause.place.workload for cause in ranked(signs, fault.topology)]
    return names.index(fault.culprit) + 1 if fault.culprit in names else len(names) + 1


def nezha(root: Path) -> Iterator[Fault]:
    """Faults of Nezha in order of time. The label's timestamps of 2023-01-29 are in another zone; its times are UTC."""
    for day in sorted((root / "nezha/rca_data").iterdir()):
        keys, values, minutes = _nezha_day(day)
        topology = _nezha_topology(day / "metric/dependency.csv.gz")
        shop = "online-boutique" if topology else "train-ticket"
        labels = json.loads((day / f"{day.name}-fault_list.json").read_text())
        for label in (label for hour in labels.values() for label in hour):
            at = int(np.searchsorted(minutes, pd.Timestamp(label["inject_time"]).timestamp() // 60))
            part = values[:, max(0, at - PAST) : at + RECENT]
            yield Fault(shop, label["inject_type"], label["inject_pod"], keys, part, RECENT, topology)


def _nezha_day(day: Path) -> tuple[tuple[SeriesKey, ...], np.ndarray, np.ndarray]:
    frames: dict[SeriesKey, pd.Series[float]] = {}
    pods = {}
    for path in sorted((day / "metric").glob("*_metric.csv.gz")):
        frame = _by_minute(pd.read_csv(path))
        pod = str(frame["PodName"].iloc[0])
        workload = pod.rsplit("-", 2)[0]
        pods[workload] = pod
        for name in frame.columns.drop(["TimeStamp", "PodName"]):
            if not name.startswith("Node"):
                frames[SeriesKey(workload, name, (("pod", pod),))] = frame[name]
    if (path := day / "metric/source_50.csv.gz").exists():
        for edge, column in _by_minute(pd.read_csv(path)).drop(columns="timestamp").items():
            caller, callee = str(edge).split("_")
            frames[SeriesKey(callee, f"latency/{caller}", (("pod", pods[callee]),))] = column
    table = pd.DataFrame(frames.values())
    minutes = np.sort(table.columns.to_numpy())
    return tuple(frames), table[minutes].to_numpy(np.float64), minutes


def _by_minute(frame: pd.DataFrame) -> pd.DataFrame:
    name = frame.columns[0]
    frame.index = pd.to_datetime(frame.pop(name).str.slice(0, 19)).astype("datetime64[s]").astype("int64") // 60
    return frame[~frame.index.duplicated()]


def _nezha_topology(path: Path) -> Topology:
    calls: dict[str, list[str]] = defaultdict(list)
    if path.exists():
        for caller, callee, _ in pd.read_csv(path).itertuples(index=False):
            if not callee[0].isdigit():
                calls[caller].append(callee)
    return dict(calls)


def petshop(root: Path) -> Iterator[Fault]:
    """Issues of PetShop: the past is the recording without issues of its traffic (of both, where it has none)."""
    data = root / "petshop_rca/dataset"
    calm = {path.parent.parent.name: _petshop_frame(path) for path in sorted(data.glob("*/noissue/metrics.csv.gz"))}
    for scenario in sorted(path for path in data.iterdir() if path.is_dir()):
        graph = pd.read_csv(scenario / "graph.csv.gz", index_col=0)
        topology = {str(a): [str(b) for b in graph.columns[graph.loc[a] > 0]] for a in graph.index}
        past = calm.get(scenario.name, pd.concat(calm.values()))
        for path in sorted(scenario.glob("*/issue_*/target.json")):
            label = json.loads(path.read_text())
            now = _petshop_frame(path.parent / "metrics.csv.gz")
            now = now[now.index >= label["target"]["timestamp"] - 300]
            both = pd.concat([past, now])
            keys = tuple(SeriesKey(str(node), f"{metric}/{statistic}") for node, metric, statistic in both.columns)
            values = both.to_numpy(np.float64).T
            kind = label["target"]["metric"]
            yield Fault(scenario.name, kind, label["root_cause"]["node"], keys, values, len(now), topology)


def _petshop_frame(path: Path) -> pd.DataFrame:
    frame = pd.read_csv(path, header=[0, 1, 2], index_col=0)
    frame = frame[frame.index.notna()]
    frame.index = frame.index.astype(float)
    return frame


def tops(ranks: Sequence[int]) -> dict[str, float]:
    """Share of faults whose culprit is first, among the first three, the first five; and the mean reciprocal rank."""
    found = np.asarray(ranks, np.float64)
    if not len(found):
        return {"faults": 0}
    shares = {f"top{k}": round(float((found <= k).mean()), 3) for k in (1, 3, 5)}
    return {"faults": len(found), **shares, "mrr": round(float((1 / found).mean()), 3)}


def summary(faults: Sequence[Fault], ranks: Sequence[int]) -> dict[str, Any]:
    """All faults, the half constants were chosen on, the other half, and by group and kind."""
    by: dict[str, list[int]] = defaultdict(list)
    for fault, rank in zip(faults, ranks, strict=True):
        by[f"{fault.group}: {fault.kind}"].append(rank)
        by[fault.group].append(rank)
    halves = {"all": tops(ranks), "even (chosen on)": tops(ranks[::2]), "odd (held out)": tops(ranks[1::2])}
    return halves | {name: tops(values) for name, values in sorted(by.items())}


def hit_rates(root: Path, family: str) -> dict[str, float]:
    """HitRate@100% and @150% (OmniAnomaly): blamed dimensions among as many (half as many again) of the largest departures."""
    rates: dict[str, list[float]] = {"hit_rate_100": [], "hit_rate_150": [], "chance_100": []}
    for path in sorted((root / family / "interpretation_label").glob("*.txt")):
        table = root / family / "test" / f"{path.stem}.parquet"
        if path.stem == "anomaly_type" or not table.exists():
            continue
        values = pd.read_parquet(table).drop(columns="label").to_numpy(np.float64).T
        for first, last, blamed in _segments(path):
            part = values[:, max(0, first - HISTORY) : min(last, first + SEEN)]
            if first < SEEN or part.shape[1] <= first - max(0, first - HISTORY):
                continue
            size = departures(part, np.isfinite(part), part.shape[1] - min(first, HISTORY))
            order = np.argsort(-size, kind="stable")
            for share in (100, 150):
                top = set(order[: len(blamed) * share // 100].tolist())
                rates[f"hit_rate_{share}"].append(len(top & blamed) / len(blamed))
            rates["chance_100"].append(len(blamed) / len(values))
    means = {name: round(float(np.mean(found)), 3) for name, found in rates.items()}
    return {"segments": len(rates["chance_100"]), **means}


HISTORY, SEEN = 500, 30
"""Rows before a labelled segment that are its past, and most rows of it that are looked at (SMD, ASD)."""


def _segments(path: Path) -> Iterator[tuple[int, int, set[int]]]:
    """(first row, one past the last, blamed dimensions from 0)."""
    for line in path.read_text().split():
        span, dims = line.split(":")
        first, last = span.split("-")
        yield int(first), int(last) + 1, {int(d) - 1 for d in dims.split(",")}


def measure(root: Path) -> Mapping[str, Any]:
    """Every figure of the result file."""
    shops, issues = list(nezha(root)), list(petshop(root))
    ranks = [rank_of(fault) for fault in shops]
    measured = [(fault, rank) for fault, rank in zip(shops, ranks, strict=True) if fault.kind not in IN_LOGS]
    return {
        "nezha": summary(shops, ranks),
        "nezha: faults labelled by a metric": tops([rank for _, rank in measured]),
        "nezha: those where the call graph and edge latencies are recorded": tops(
            [rank for fault, rank in measured if fault.topology]
        ),
        "petshop": summary(issues, [rank_of(fault) for fault in issues]),
        **{family: hit_rates(root, family) for family in ("smd", "asd")},
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/anomaly"))
    found = measure(parser.parse_args().data)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
