"""How well and how fast we detect, beside a random score, a causal z-score and an autoregression on the same files.

    python benchmarks/bench_detect.py [--data ../shared/data/anomaly]

Prints one table and writes ``benchmarks/results/detect.json``. `TUNED_ON` tells which series chose the
scorers and their settings; nothing was chosen on any other.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from benchmarks.affiliation import affiliation
from benchmarks.nab_score import best_score, nab_score, probation
from flows.vus import events, period, vus_pr
from forecastle.detect import trails
from forecastle.detect.auditions import OWN, Recorded, candidates, learn, perform, rule
from forecastle.detect.engine import Detection
from forecastle.detect.selector import Choice, Pair, choose
from forecastle.detect.tails import alarm_rate
from forecastle.runtime.batch_detect import QUIET_SHAPE, Verdicts, habituation, judge, thresholds
from forecastle.runtime.batch_detect_events import QUIET, alerts, onsets
from forecastle.settings import DetectSettings
from forecastle.types import SeriesKey, Windows

TUNED_ON = (
    "window sizes, smoothing and the rule by training length were chosen on the NAB and SMD series of the map and on "
    "the 14 KPI series (15,000 training and 30,000 test rows of each), the weight of falls, clip and the least flat line of "
    "many columns on SMD and ASD, the alert rule of short trainings on the 29 NAB series, looking at their labels: these "
    "figures are optimistic; only series that are not here can confirm them"
)
BUDGET = 0.1
"""Alerts per series and day."""
HALVES = [slice(0, None, 2), slice(1, None, 2)]
RESULTS = Path(__file__).parent / "results" / "detect.json"


class Case(NamedTuple):
    """One labelled series: ``values`` [n, c], ``label`` [n], leading ``train`` rows, rows scored from ``scored``."""

    name: str
    values: np.ndarray
    label: np.ndarray
    train: int
    scored: int
    step_ms: int
    windows: tuple[tuple[int, int], ...] = ()


def nab_file(root: Path, path: str) -> tuple[pd.DataFrame, list[tuple[int, int]]]:
    """A NAB series and its labelled windows as rows, both ends included."""
    frame = pd.read_csv(root / "nab" / "data" / path, parse_dates=["timestamp"])
    labelled = json.loads((root / "nab/labels/combined_windows.json").read_text())[path.removesuffix(".gz")]
    at = frame["timestamp"].to_numpy()
    return frame, [
        (int(np.argmax(at >= np.datetime64(a))), int(np.flatnonzero(at <= np.datetime64(b))[-1])) for a, b in labelled
    ]


def mapped(root: Path, family: str) -> Iterator[Case]:
    """The series of tsbad_map.json of one family, as TSB-AD evaluates them: all rows scored."""
    table = json.loads((root / "tsb_ad_published/tsbad_map.json").read_text())
    for name, entry in table.items():
        if f"_{family}_" not in name:
            continue
        first, last = entry.get("slice", (0, None))
        if family == "NAB":
            frame, windows = nab_file(root, entry["source"].removeprefix("nab/data/"))
            label = np.zeros(len(frame), int)
            for a, b in windows:
                label[a:b] = 1
            values = frame[["value"]].to_numpy(float)
            step = int(frame["timestamp"].diff().median().total_seconds() * 1000)
        else:
            frame = pd.read_parquet(root / entry["source"])
            label = frame.pop("label").to_numpy(int)
            values, step = frame.to_numpy(float), 60_000
        yield Case(name, values[first:last], label[first:last], entry["train_prefix"], 0, step)


def kpi(root: Path, most: int) -> Iterator[Case]:
    """KPI series, fitted on the newest ``most`` rows of the training half, scored on the first of the test half."""
    for path in sorted((root / "kpi").glob("*.parquet")):
        frame = pd.read_parquet(path)
        halves = [frame[frame["split"] == split] for split in ("train", "test")]
        train, test = halves[0].tail(most), halves[1].head(most)
        both = pd.concat([train, test])
        step = int(both["timestamp"].diff().median() * 1000)
        label = both["label"].to_numpy(int).copy()
        label[: len(train)] = 0
        yield Case(path.stem[:8], both[["value"]].to_numpy(float), label, len(train), len(train), step)


def microsoft(root: Path) -> Iterator[Case]:
    """Series of Microsoft's cloud monitoring, fitted on the first 30% of the rows, scored on the rest."""
    for path in sorted((root / "ms_cloud_monitoring/data").glob("*/*.csv.gz")):
        frame = pd.read_csv(path, parse_dates=[0])
        at, value, label = (frame.iloc[:, i] for i in range(3))
        train, step = int(0.3 * len(frame)), int(at.diff().median().total_seconds() * 1000)
        yield Case(path.stem, value.to_numpy(float)[:, None], label.fillna(0).to_numpy(int), train, train, step)


def asd(root: Path) -> Iterator[Case]:
    """Application servers: fitted on the newest 4,000 training rows, scored on the test rows."""
    for path in sorted((root / "asd/train").glob("*.parquet")):
        test = pd.read_parquet(root / "asd/test" / path.name)
        label = test.pop("label").to_numpy(int)
        train = pd.read_parquet(path)[test.columns].tail(4000)
        values = pd.concat([train, test]).to_numpy(float)
        yield Case(path.stem, values, np.r_[np.zeros(len(train), int), label], len(train), len(train), 300_000)


def z_score(values: np.ndarray) -> np.ndarray:
    """Distance from the mean of all rows before, in their standard deviation; the mean over columns."""
    total, square = np.cumsum(values, axis=0), np.cumsum(np.square(values), axis=0)
    n = np.arange(1, len(values))[:, None]
    mean = total[:-1] / n
    deviation = np.sqrt(np.maximum(square[:-1] / n - np.square(mean), 1e-12))
    return np.concatenate([[0.0], (np.abs(values[1:] - mean) / deviation).mean(axis=1)])


def ridge_ar50(values: np.ndarray, train: int) -> np.ndarray:
    """Error of a ridge AR(50) fitted on the training rows; the mean over columns."""
    columns = (trails.standardized(values[:, c], train) for c in range(values.shape[1]))
    return np.mean([np.abs(trails.autoregression(y, train, min(50, train // 3))) for y in columns], axis=0)


class Tally:
    """What the alerts of one scorer came to over several series."""

    def __init__(self) -> None:
        self.vus: list[float] = []
        self.affiliations: list[tuple[float, float]] = []
        self.delays: list[int] = []
        self.found = self.total = self.alarms = 0
        self.days = 0.0

    def add(self, case: Case, score: np.ndarray, alert: np.ndarray) -> None:
        """One series: ``score`` float64[n], and ``alert`` bool[n] at its alerts."""
        label = case.label[case.scored :]
        self.vus.append(vus_pr(label, score[case.scored :], period(case.values[case.scored :, 0])))
        self.affiliations.append(affiliation(label, alert[case.scored :]))
        onset = np.flatnonzero(np.diff(alert.astype(int), prepend=0) > 0)
        near = np.convolve(case.label, np.ones(21), "same") > 0
        self.alarms += int((~near[onset]).sum())
        self.days += (len(label) - int(label.sum())) * case.step_ms / 86_400_000
        for first, last in events(case.label):
            if first >= case.train:
                hits = np.flatnonzero(alert[first : last + 1])
                self.total += 1
                self.found += bool(len(hits))
                self.delays += [int(hits[0])] if len(hits) else []

    def figures(self) -> dict[str, Any]:
        """As they are written down."""
        precisions, recalls = ([value for value in side if np.isfinite(value)] for side in zip(*self.affiliations, strict=True))
        return {
            "affiliation_precision": round(float(np.mean(precisions)), 3) if precisions else None,
            "affiliation_recall": round(float(np.mean(recalls)), 3) if recalls else None,
            "events_found": f"{self.found}/{self.total}",
            "median_delay_rows": float(np.median(self.delays)) if self.delays else None,
            "false_alarms_per_series_and_day": round(self.alarms / self.days, 3),
        }


def quality(cases: Iterator[Case], seed: int = 0) -> dict[str, Any]:
    """Mean VUS-PR of everyone, and what alerts come to at a budget of 0.1 a day, whose thresholds are made alike."""
    rng = np.random.default_rng(seed)
    tallies: dict[str, Tally] = {}
    for case in cases:
        if not case.label[case.scored :].any():
            continue
        ours = judge(case.values, case.train, case.step_ms, [str(c) for c in range(case.values.shape[1])], BUDGET)
        tallies.setdefault("ours", Tally()).add(case, ours.score, ours.anomaly)
        scores = {
            "ridge AR(50)": ridge_ar50(case.values, case.train),
            "causal z-score": z_score(case.values),
            "random": rng.random(len(case.values)),
        }
        for name, score in scores.items():
            limit = thresholds(score, case.train, alarm_rate(BUDGET, case.step_ms, 1))
            tallies.setdefault(name, Tally()).add(case, score, onsets(score > limit, QUIET))
    return {
        "series": len(tallies["ours"].vus),
        "vus_pr": {name: round(float(np.mean(tally.vus)), 4) for name, tally in tallies.items()},
        "alerts": {name: tally.figures() for name, tally in tallies.items()},
    }


def speakers(families: dict[str, list[Case]]) -> dict[str, Any]:
    """Mean VUS-PR of each family when its speaker is named by four authorities, none of which sees what is scored.

    The rule of thumb; the selector on the training rows alone; the selector on the labels of every second series (those
    of the other half are scored, and the reverse); and on the labels of all other families that have one column, or many.
    """
    ranks = {name: [_ranks(case) for case in cases] for name, cases in families.items()}
    report = {}
    for family, cases in families.items():
        many = _many(cases)
        alone = learn([Recorded(case.values[: case.train]) for case in cases])
        strangers = [one for name, them in families.items() if name != family and _many(them) == many for one in ranks[name]]
        named = {
            "rule of thumb": [(cases, Choice(None, ""))],
            "training rows alone": [(cases, alone)],
            "labels of the other half": [
                (cases[mine], _chosen(ranks[family][other], many)) for mine, other in (HALVES, HALVES[::-1])
            ],
            "labels of other families": [(cases, _chosen(strangers, many))],
        }
        report[family] = {
            "series": len(cases),
            "vus_pr": {name: round(float(np.mean(_spoken(parts))), 4) for name, parts in named.items()},
            "speaks": {name: [str(choice.pair or "rule of thumb") for _, choice in parts] for name, parts in named.items()},
            "alone": alone.why,
        }
        print(f"{family}: {json.dumps(report[family])}", flush=True)
    return report


def _many(cases: list[Case]) -> bool:
    return cases[0].values.shape[1] > 1


def _ranks(case: Case) -> tuple[Pair, list[float]]:
    """The rule of thumb for a labelled series and the rank score of every candidate on it."""
    scores = learn([Recorded(case.values, case.label > 0, case.train)]).scores or {}
    return rule(case.train, case.values.shape[1]), list(scores.values())


def _chosen(ranks: list[tuple[Pair, list[float]]], many: bool) -> Choice:
    rows = np.array([row for _, row in ranks])
    return choose(rows, [pair for pair, _ in ranks], candidates(2 if many else 1), OWN, "labels")


def _spoken(parts: list[tuple[list[Case], Choice]]) -> list[float]:
    return [_vus(case, choice.pair or rule(case.train, case.values.shape[1])) for cases, choice in parts for case in cases]


def _vus(case: Case, pair: Pair, seen: dict[tuple[str, Pair], float] = {}) -> float:  # noqa: B006 - a memory, on purpose
    if (case.name, pair) not in seen:
        score = perform(trails.forward(case.values, case.train), case.train, pair)[0]
        score[: case.train] = 0.0
        label, tolerance = case.label[case.scored :], period(case.values[case.scored :, 0])
        seen[case.name, pair] = vus_pr(label, score[case.scored :], tolerance, thresholds=100)
    return seen[case.name, pair]


ALERT_RULES = [(least, weary) for least in (0.4, 0.45, 0.5, 0.55, 0.6, 0.65) for weary in (0.0, 0.03, 0.06, 0.1)]
"""Settings of the alert rule of short trainings: `batch_detect.NEWS` and `batch_detect.WEARY`."""


def alerted(values: np.ndarray, train: int, ours: Verdicts) -> dict[tuple[float, float], np.ndarray]:
    """Alerts bool[n] on one series under each of `ALERT_RULES`."""
    news, quiet = trails.novelty(trails.standardized(values, train), train), min(train // 5, QUIET_SHAPE)
    news[:train] = 0.0
    named = np.isin(ours.kind, ("dropout", "flat_line"))
    return {
        (least, weary): alerts(news > least * habituation(news, least, train, quiet, weary=weary), quiet) | named
        for least, weary in ALERT_RULES
    }


def _best(rules: dict[Any, list[Any]], half: slice) -> Any:
    return max(rules, key=lambda key: nab_score(rules[key][half]))


def nab_standard(root: Path) -> dict[str, Any]:
    """Standard NAB score of the series at hand: our alerts as they are, and everyone's best single threshold.

    ``two_fold``: settings of our alerts chosen on every second series, scored on the others, and the reverse.
    """
    cried, scores, rules = [], {"ours": [], "causal z-score": [], "random": []}, {key: [] for key in ALERT_RULES}
    rng = np.random.default_rng(0)
    for path in sorted((root / "nab/data").glob("*/*.csv.gz")):
        frame, windows = nab_file(root, f"{path.parent.name}/{path.name}")
        values, train = frame[["value"]].to_numpy(float), probation(len(frame))
        step = int(frame["timestamp"].diff().median().total_seconds() * 1000)
        ours = judge(values, train, step, ["value"], 0.1)
        cried.append((windows, ours.anomaly))
        for key, flags in alerted(values[:, 0], train, ours).items():
            rules[key].append((windows, flags))
        ratio = np.divide(ours.score, ours.threshold, out=np.zeros(len(values)), where=np.isfinite(ours.threshold))
        scores["ours"].append((windows, ratio))
        scores["causal z-score"].append((windows, z_score(values)))
        scores["random"].append((windows, rng.random(len(values))))
    return {
        "series": len(cried),
        "our_alerts": round(nab_score(cried), 2),
        "two_fold": [round(nab_score(rules[_best(rules, mine)][other]), 2) for mine, other in (HALVES, HALVES[::-1])],
        "best_threshold": {name: round(best_score(files)[0], 2) for name, files in scores.items()},
    }


def speed(series: int = 10_000, slots: int = 2_160, ticks: int = 7) -> dict[str, Any]:
    """Median seconds of one tick for the whole fleet, built-in detectors, 1% of samples missing."""
    rng = np.random.default_rng(0)
    at = np.arange(slots + ticks)
    values = 100 + 30 * np.sin(2 * np.pi * (at / 1440 + rng.random((series, 1)))) + rng.normal(0, 3, (series, slots + ticks))
    mask = rng.random((series, slots + ticks)) > 0.01
    keys = tuple(SeriesKey(f"w{i // 4}", f"m{i % 4}", (("site", f"s{i % 3}"),)) for i in range(series))
    engine, no = Detection(DetectSettings(), 60_000), np.zeros(series, bool)
    took = []
    for tick in range(ticks):
        newest, seen = values[:, tick : tick + slots].astype(np.float32), np.ascontiguousarray(mask[:, tick : tick + slots])
        windows = Windows(keys, (tick + 1) * 60_000, 60_000, newest, seen, no, no)
        started = time.perf_counter()
        engine.detect(windows, None)
        took.append(time.perf_counter() - started)
    return {"series": series, "slots": slots, "seconds_per_tick": round(float(np.median(took[1:])), 3)}


def main() -> None:
    """Run everything the data allows, or ``--only`` some parts of it, and print it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("FORECASTLE_DATA", "../shared/data")) / "anomaly")
    parser.add_argument("--most", type=int, default=40_000, help="KPI rows of each half")
    parser.add_argument("--only", default="", help="parts whose name begins so; the other figures stay as they were written")
    root, most, only = (arguments := parser.parse_args()).data, arguments.most, arguments.only
    parts = {
        "speed": speed,
        "NAB (map)": lambda: quality(mapped(root, "NAB")),
        "SMD (map)": lambda: quality(mapped(root, "SMD")),
        f"KPI (test halves, first {most} rows)": lambda: quality(kpi(root, most)),
        "NAB standard score": lambda: nab_standard(root),
        "who speaks": lambda: speakers(_families(root, min(most, 8_000))),
    }
    report: dict[str, Any] = json.loads(RESULTS.read_text()) if only else {}
    report["tuned_on"] = TUNED_ON
    if not root.is_dir():
        report["skipped"] = f"{root} is not there: point FORECASTLE_DATA at the data sets"
        parts = {"speed": speed}
    for name, measure in parts.items():
        if name.startswith(only):
            report[name] = measure()
            print(f"{name}: {json.dumps(report[name])}", flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(report, indent=2) + "\n")


def _families(root: Path, most: int) -> dict[str, list[Case]]:
    """Labelled series by family; of KPI the newest ``most`` training rows and the first test rows."""
    loaded = {
        "NAB": mapped(root, "NAB"),
        "KPI": kpi(root, most),
        "Microsoft": microsoft(root),
        "SMD": mapped(root, "SMD"),
        "ASD": asd(root),
    }
    return {name: [case for case in cases if case.label[case.scored :].any()] for name, cases in loaded.items()}


if __name__ == "__main__":
    main()
