"""Are events named right, gaps and flat lines told from spikes, alarms within the budget, and at what price per series?

    python benchmarks/bench_events.py [--data ../shared/data/anomaly] [--only types gaps budget speed]

Prints one line each and writes ``benchmarks/results/events.json``. The built-in detectors as shipped, but that
`detect.season` is a day of the series' slots. The constants of `forecastle.detect.habits` and `courses` were chosen looking at
these very series, both halves (even and odd, numbered as they come): the figures are optimistic, and only series that are not
here can confirm them.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.detect_peers import installed
from benchmarks.event_data import DAY_MS, SETS, Line, replay, settings_for
from forecastle.detect.engine import Detection
from forecastle.detect.incidents import IncidentBook, came_back, leading
from forecastle.settings import DetectSettings
from forecastle.types import Anomaly, AnomalyKind, Incident, SeriesKey, Windows

RESULTS = Path(__file__).parent / "results" / "events.json"
NAMES = {
    "spike": {AnomalyKind.SPIKE},
    "dip": {AnomalyKind.DIP},
    "shock": {AnomalyKind.SPIKE, AnomalyKind.DIP},
    "level": {AnomalyKind.LEVEL_SHIFT},
    "trend": {AnomalyKind.TREND},
}
"""What Merlion's file names mean here: spikes, dips and shocks (either way; only its own way is right) come back after 20 to
200 slots, levels stay, trends are changes of slope."""
TOLERANCE = 20
"""Slots after its end in which an event may still be spoken of; Merlion labels a level for as many."""
GAPS, LENGTHS, AFTER = 2, (10, 60), 5
"""Injections of each kind per series, their lengths, and slots after one in which its end may not be called a spike."""
BEFORE_LABEL, AFTER_LABEL = 10, 120
"""Slots around a label that count neither as days nor for alarms."""
EVERY = {"SMD": 3, "ASD": 3}
"""Of these sets' many columns each such one is used."""


def merlion(root: Path) -> Iterator[tuple[Line, str, np.ndarray]]:
    """Each typed series, its type, and which way each slot was moved."""
    for path in sorted((root / "merlion_synthetic").glob("*_anomaly.csv.gz")):
        base, _, kind = path.name.removesuffix("_anomaly.csv.gz").rpartition("_")
        frame, plain = pd.read_csv(path), pd.read_csv(path.with_name(f"{base}.csv.gz"))
        step = int(frame["timestamp"].diff().median() * 1000)
        line = Line(f"{base} {kind}", frame[base].to_numpy(np.float32), frame["anomaly"].to_numpy() > 0, step, 120)
        yield line, kind, np.sign(frame[base].to_numpy() - plain[base].to_numpy())


def runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """Stretches of true, ends excluded."""
    edges = np.flatnonzero(np.diff(np.r_[False, flags, False].astype(int)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def speaks(anomaly: Anomaly, step: int, first: int, last: int, stop: int) -> bool:
    """Whether it is about the event: raised within it, or the return of what began in it."""
    onset = anomaly.evidence["onset"] // step
    return first - 10 <= onset < last if came_back(anomaly) else first <= anomaly.at // step < stop


def types(root: Path) -> dict[str, Any]:
    """Of the labelled events, how many were detected, and how many of those are named right: at last, and at first.

    The name at last is the kind that leads all anomalies about the event, as it does in an incident.
    """
    count: dict[str, Counter[str]] = defaultdict(Counter)
    for number, (line, kind, way) in enumerate(merlion(root)):
        found, step = replay(line, line.start, len(line.values)), line.step_ms
        events = [event for event in runs(line.label) if event[0] >= line.start]
        for k, (first, last) in enumerate(events):
            following = events[k + 1][0] if k + 1 < len(events) else len(line.values)
            mine = [a for a in found if speaks(a, step, first, last, min(last + TOLERANCE, following))]
            right = NAMES[kind]
            if kind == "shock":
                right = {AnomalyKind.SPIKE} if way[first:last].sum() > 0 else {AnomalyKind.DIP}
            for part in ("all", kind, "odd" if number % 2 else "even"):
                count[part]["events"] += 1
                count[part]["detected"] += bool(mine)
                count[part]["right"] += bool(mine) and leading(mine).kind in right
                count[part]["right at first"] += bool(mine) and mine[0].kind in right
    return {
        part: {**c, "share right": round(c["right"] / max(c["detected"], 1), 3)} for part, c in count.items() if c["events"]
    }


def gaps(root: Path, seed: int = 0) -> dict[str, Any]:
    """Gaps and values held, injected: how many were recognised, and how many were called a spike or dip.

    A place does not count where a value is missing or labelled already. A flat line does not where the series is flat by
    itself: over the look-back before, it stood still for two thirds as long, or for more than half of its slots. A spike that
    the series without injection shows at the same slot is its own.
    """
    out: dict[str, Any] = {}
    for name, lines in SETS.items():
        rng, count = np.random.default_rng(seed), {AnomalyKind.DROPOUT: Counter(), AnomalyKind.FLAT_LINE: Counter()}
        for line in islice(lines(root), 0, None, EVERY.get(name, 1)):
            for kind in [k for k in count for _ in range(GAPS)]:
                length = int(rng.integers(LENGTHS[0], LENGTHS[1] + 1))
                place = int(rng.integers(min(line.start, len(line.values) // 2), len(line.values) - length - AFTER))
                why_not = excluded(line, kind, place, length)
                count[kind][why_not or "injected"] += 1
                if not why_not:
                    count[kind].update(verdict(line, kind, place, length))
        out[name] = {kind.value: dict(c) for kind, c in count.items()}
    totals = {kind: sum((Counter(part[kind]) for part in out.values()), Counter()) for kind in ("dropout", "flat_line")}
    for kind, total in totals.items():
        spikes = total["called a spike"]
        out[f"all {kind}"] = {
            **total,
            "called a spike": spikes,
            "share recognised": round(total["recognised"] / max(total["injected"], 1), 3),
        }
    return out


def excluded(line: Line, kind: AnomalyKind, place: int, length: int) -> str:
    """Why a place does not count; '' when it does."""
    if not np.isfinite(line.values[place - 1 : place + length + AFTER]).all():
        return "gap there"
    if line.label[max(0, place - BEFORE_LABEL) : place + length + AFTER].any():
        return "labelled"
    same = np.diff(line.values[max(0, place - settings_for(line.step_ms).look_back) : place]) == 0
    longest = max((b - a for a, b in runs(same)), default=0)
    return "naturally flat" if kind is AnomalyKind.FLAT_LINE and (1.5 * longest >= length or same.mean() > 0.5) else ""


def verdict(line: Line, kind: AnomalyKind, place: int, length: int) -> Counter[str]:
    """One injection: recognised or not, called a spike or not."""
    values = line.values.copy()
    values[place : place + length] = np.nan if kind is AnomalyKind.DROPOUT else values[place - 1]
    spiky, stop = {AnomalyKind.SPIKE, AnomalyKind.DIP}, place + length + AFTER
    own = {a.at for a in replay(line, place, stop) if a.kind in spiky}
    found = replay(line._replace(values=values), place, stop)
    spikes = [a for a in found if a.kind in spiky and a.at not in own]
    return Counter({"recognised": int(any(a.kind is kind for a in found)), "called a spike": int(bool(spikes))})


def budget(root: Path) -> dict[str, Any]:
    """Alerts per series and day at ``detect.budget`` 0.1 on spans free of labels; an alert is an incident that opens."""
    out: dict[str, Any] = {}
    total: dict[str, Counter[str]] = defaultdict(Counter)
    for name, lines in SETS.items():
        count: dict[str, Counter[str]] = defaultdict(Counter)
        for number, line in enumerate(islice(lines(root), 0, None, EVERY.get(name, 1))):
            clean = unlabelled(line)
            days = float(clean.sum()) * line.step_ms / DAY_MS
            opened = [
                i for i in openings(line, replay(line, line.start, len(line.values))) if clean[i.opened_at // line.step_ms]
            ]
            for part in (
                count["all"],
                count["odd" if number % 2 else "even"],
                total["all"],
                total["odd" if number % 2 else "even"],
            ):
                part.update(series=1, alerts=len(opened), minutes=round(days * 1440))
        out[name] = {part: rate(c) for part, c in count.items()}
        print(f"{name}: {json.dumps(out[name])}", flush=True)
    return out | {f"overall {part}": rate(c) for part, c in total.items()}


def rate(count: Counter[str]) -> dict[str, Any]:
    """Alerts, series-days and their ratio."""
    days = count["minutes"] / 1440
    per_day = round(count["alerts"] / max(days, 1e-9), 3)
    return {"series": count["series"], "alerts": count["alerts"], "days": round(days, 1), "per series and day": per_day}


def unlabelled(line: Line) -> np.ndarray:
    """Slots that are judged and far from labels."""
    out = np.ones(len(line.values), bool)
    for first, last in runs(line.label):
        out[max(0, first - BEFORE_LABEL) : last + AFTER_LABEL] = False
    out[: line.start] = False
    return out


def openings(line: Line, found: Iterable[Anomaly]) -> list[Incident]:
    """Every incident of one series as it opened."""
    book, at = IncidentBook(settings_for(line.step_ms)), defaultdict(list)
    for anomaly in found:
        at[anomaly.at].append(anomaly)
    opened: dict[str, Incident] = {}
    for now in range(line.start * line.step_ms, len(line.values) * line.step_ms, line.step_ms):
        for incident in book.update(at[now], now):
            opened.setdefault(incident.id, incident)
    return list(opened.values())


def speed(departing: int, series: int = 10_000, slots: int = 2_160, sample: int = 400, rounds: int = 9) -> dict[str, Any]:
    """CPU time per series of one tick, ours for the whole fleet and peers for ``sample`` series, taken in turns.

    The fleet is ordinary but for ``departing`` series, which jump, each at a tick of its own, and stay; 1% of samples miss.
    """
    rng = np.random.default_rng(0)
    span = slots + rounds + 1
    cycle = 30 * np.sin(2 * np.pi * (np.arange(span) / 1440 + rng.random((series, 1))))
    values = (100 + cycle + rng.normal(0, 3, (series, span))).astype(np.float32)
    mask, no = rng.random((series, span)) > 0.01, np.zeros(series, bool)
    for row in range(departing):
        values[row * series // departing, slots + rng.integers(0, rounds) :] += 60
    keys = tuple(SeriesKey(f"w{i // 4}", f"m{i % 4}", (("site", f"s{i % 3}"),)) for i in range(series))
    engine = Detection(DetectSettings(), 60_000)
    peers, missing = installed()
    made = {label: make(values[:sample, :slots].astype(float)) for label, make in peers.items()}
    took: dict[str, list[float]] = defaultdict(list)
    for k in range(rounds + 1):
        newest = np.ascontiguousarray(values[:, k : k + slots])
        windows = Windows(keys, (k + 1) * 60_000, 60_000, newest, np.ascontiguousarray(mask[:, k : k + slots]), no, no)
        started = time.process_time()
        engine.detect(windows, None)
        took["ours"].append((time.process_time() - started) / series)
        for label, score in made.items():
            started = time.process_time()
            score(newest[:sample])
            took[label].append((time.process_time() - started) / sample)
    cpu = {label: float(np.median(seconds[1:])) for label, seconds in took.items()}
    return {
        "series": series,
        "CPU microseconds per series": {label: round(1e6 * seconds, 1) for label, seconds in cpu.items()},
        "times faster than": {label: round(cpu[label] / cpu["ours"], 2) for label in made},
        "not installed": missing,
    }


def speeds() -> dict[str, Any]:
    """`speed` of an ordinary fleet, and where one series in a hundred departs within a few ticks."""
    return {"ordinary": speed(0), "one in a hundred departs": speed(100)}


def main() -> None:
    """Run everything the data allows and print it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("FORECASTLE_DATA", "../shared/data")) / "anomaly")
    parser.add_argument(
        "--only", nargs="*", choices=["types", "gaps", "budget", "speed"], default=["types", "gaps", "budget", "speed"]
    )
    arguments = parser.parse_args()
    report: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if not arguments.data.is_dir():
        report["skipped"] = f"{arguments.data} is not there: point FORECASTLE_DATA at the data sets"
        arguments.only = ["speed"]
    for name in arguments.only:
        report[name] = speeds() if name == "speed" else {"types": types, "gaps": gaps, "budget": budget}[name](arguments.data)
        print(f"{name}: {json.dumps(report[name])}", flush=True)
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
