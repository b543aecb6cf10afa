"""Pretraining of the network that ``forecastle forecast`` starts from, so that a file with little history gains too.

    python -m models.batch_pretrain --data ../shared/data/workload [--steps 8000] [--generator models.generated]

Windows come from the first ``--part`` of recorded series (so that their end stays unseen), sums of them at several step
lengths, and a generator of series. Runs on a CPU in minutes; writes ``forecastle/predict/batch/pretrained.npz``.
The file that is shipped was made with the mix of `generated`, which stays the default so that it can be made again;
``--generator models.generated`` draws from the catalogue of kinds instead, which has counters and Gaussian processes too.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from scipy.signal import lfilter

from forecastle.predict.batch import learned
from forecastle.predict.batch.lags import KNOTS, View, inputs, knots, view
from forecastle.predict.batch.net import Net
from forecastle.predict.batch.panel import Panel, forward
from forecastle.runtime.batch_forecast_table import read_long
from forecastle.types import Floats, Floats32
from models.generated import Grid
from models.generated import series as of_all_kinds

OUT = Path(__file__).parents[1] / "forecastle" / "predict" / "batch" / "pretrained.npz"
HORIZONS = (12, 12, 12, 24, 60, 60, 96)
_WINDOWS, _BATCH, _SOURCES = 512, 512, 16
_MINUTE = 60_000
Generator: TypeAlias = Callable[[np.random.Generator, int, int, int], Panel]


@dataclass(frozen=True, slots=True)
class Source:
    """Windows of one panel for one horizon, drawn with ``share`` of the chances."""

    panel: Panel
    seen: View
    drawn: learned.Drawn
    horizon: int
    share: float


def generated(rng: np.random.Generator, count: int, width: int, step_ms: int) -> Panel:
    """``count`` series of cycles, drifts, shifts, flash crowds, batch jobs and zero-inflated counts."""
    day = 86_400_000 // step_ms
    at = np.arange(width)
    rows = []
    for _ in range(count):
        waves = sum(
            rng.normal() / k**1.3 * np.cos(2 * np.pi * k * at / day + rng.uniform(0, 6.3))
            for k in range(1, int(rng.integers(2, 9)))
        )
        week = rng.uniform(0, 0.6) * (((at // day) % 7) >= 5)
        walk = np.cumsum(rng.standard_normal(width)) * rng.choice([0.0, 0.002, 0.01, 0.05])
        shifts = np.cumsum((rng.random(width) < rng.choice([0, 0.5 / day, 4 / day])) * rng.standard_normal(width))
        bursts = np.convolve(
            (rng.random(width) < rng.choice([0, 1 / day, 10 / day])) * rng.exponential(2.0, width),
            np.exp(-np.arange(60) / rng.uniform(2, 20)),
        )[:width]
        noise = lfilter([1.0], [1.0, -rng.choice([0.0, 0.6, 0.9])], rng.standard_normal(width)) * rng.choice([0.02, 0.1, 0.3])
        shape = rng.uniform(0, 1) * waves - week + walk + rng.choice([0.0, 0.3, 1.0]) * shifts + noise
        level = np.exp(shape - shape.mean()) if rng.random() < 0.5 else np.maximum(shape - np.quantile(shape, 0.01), 0)
        level = level + rng.choice([0.0, 1.0]) * bursts
        job = (at % int(rng.choice([day, day // 24, day // 4]))) < rng.integers(1, 12)
        level = level + rng.choice([0.0, 0.0, 2.0]) * job
        if rng.random() < 0.4:
            level = rng.poisson(np.minimum(level * 10 ** rng.uniform(0, 3), 1e9)).astype(float)
        rows.append(level)
    return Panel.of(np.asarray(rows), 4 * 86_400_000, step_ms)


def catalogue(rng: np.random.Generator, count: int, width: int, step_ms: int) -> Panel:
    """``count`` series of all kinds of `models.generated`."""
    return Panel.of(of_all_kinds(rng, count, Grid(width, step_ms)).astype(np.float64), 4 * 86_400_000, step_ms)


GENERATORS: dict[str, Generator] = {"shipped": generated, "models.generated": catalogue}


def recorded(root: Path, part: float) -> Iterator[tuple[str, Panel, float]]:
    """Panels of the recorded data sets' first ``part``, and of sums and coarser steps of them: name, panel, share."""
    rng = np.random.default_rng(0)
    for name, share in (
        ("bitbrains_rnd", 0.25),
        ("google2019_tasks", 0.12),
        ("nab_cloud", 0.08),
        ("datacenter_traces", 0.08),
        ("worldcup98", 0.1),
        ("nasa_http", 0.1),
    ):
        _, panel = read_long(root / name / "data.parquet")
        for group in _alike(panel):
            cut = _first(group, part)
            if len(cut.values) > 100:
                sums = [forward(cut.values[rng.choice(len(cut.values), size)]) for size in (3, 8, 20, 60) * 10]
                yield "sums", Panel.of(np.asarray([np.nansum(rows, axis=0) for rows in sums]), cut.start_ms, cut.step_ms), 0.1
                usable = np.flatnonzero(np.nanstd(cut.values, axis=1) > 0.1)
                usable = rng.permutation(usable)[:200]
                cut = Panel.of(cut.values[usable], cut.start_ms, cut.step_ms)
            weight = share * len(group.values) / len(panel.values)
            yield name, cut, weight
            for factor in (2, 5) if cut.step_ms < 2 * _MINUTE else (3,):
                yield name, _coarser(cut, factor), 0.3 * weight


def sources(root: Path, part: float, seed: int, generator: Generator = generated) -> list[Source]:
    """Everything that windows are drawn from."""
    rng = np.random.default_rng(seed)
    panels = list(recorded(root, part))
    panels += [("generated", generator(rng, 60, 15 * 86_400_000 // step, step), 0.1) for step in (_MINUTE, 5 * _MINUTE)]
    found = []
    for _, panel, share in panels:
        width = panel.values.shape[1]
        seen = view(panel, width)
        for horizon in sorted(set(HORIZONS)):
            drawn = learned.drawable(panel, seen, width, horizon)
            if len(drawn.at) > 500:
                found.append(Source(panel, seen, drawn, horizon, share * HORIZONS.count(horizon)))
    return found


def pretrain(found: list[Source], steps: int, hidden: int, seed: int) -> Net:
    """A network trained on windows of all sources, in ``steps`` batches."""
    if steps < 1:
        raise ValueError("steps must be at least 1")
    rng = np.random.default_rng(seed)
    chance = np.asarray([source.share for source in found])
    chance /= chance.sum()
    net: Net | None = None
    knots_only = np.eye(KNOTS, dtype=np.float32)
    done, losses, began = 0, [], time.perf_counter()
    while done < steps:
        picked = [found[k] for k in rng.choice(len(found), _SOURCES, p=chance)]
        parts = [_windows(source, rng) for source in picked]
        x, target, weight = (np.concatenate(list(column)) for column in zip(*parts, strict=True))
        net = net or Net.new(x, hidden, 0, seed)
        for rows in np.array_split(rng.permutation(len(x)), len(x) // _BATCH):
            rate = 2e-3 * min(1.0, (done + 1) / 100) * (0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * min(1.0, done / steps))))
            nobody = np.zeros(len(rows), np.int64)
            losses.append(net.learn(x[rows], nobody, target[rows], weight[rows], between=knots_only, rate=rate))
            done += 1
        if done % 320 == 0:
            print(
                f"{done} of {steps} batches, loss {np.mean(losses[-320:]):.4f}, {time.perf_counter() - began:.0f} s", flush=True
            )
    assert net is not None
    return net


def main() -> None:
    """Read, train, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--hidden", type=int, default=160)
    parser.add_argument("--part", type=float, default=0.64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--generator", choices=sorted(GENERATORS), default="shipped")
    options = parser.parse_args()
    found = sources(options.data, options.part, options.seed, GENERATORS[options.generator])
    net = pretrain(found, options.steps, options.hidden, options.seed)
    net.save(options.out)


def _windows(source: Source, rng: np.random.Generator) -> tuple[Floats32, Floats32, Floats32]:
    pick = rng.integers(len(source.drawn.at), size=_WINDOWS)
    series, at = source.drawn.series[pick], source.drawn.at[pick]
    target, weight = learned.targets(source.panel, source.seen, series, at, source.horizon)
    return inputs(source.seen, series, at, source.horizon), target[:, knots(source.horizon) - 1], weight


def _alike(panel: Panel) -> list[Panel]:
    """Panels of series that begin at about the same time, cut to where they are."""
    begin = panel.seen.argmax(axis=1)
    found = []
    for day in np.unique(begin // (86_400_000 // panel.step_ms * 3)):
        rows = np.flatnonzero(begin // (86_400_000 // panel.step_ms * 3) == day)
        there = np.flatnonzero(panel.seen[rows].any(axis=0))
        values = np.ascontiguousarray(panel.values[rows, there[0] : there[-1] + 1])
        found.append(Panel.of(values, panel.start_ms + int(there[0]) * panel.step_ms, panel.step_ms))
    return found


def _first(panel: Panel, part: float) -> Panel:
    return Panel.of(np.ascontiguousarray(panel.values[:, : int(panel.values.shape[1] * part)]), panel.start_ms, panel.step_ms)


def _coarser(panel: Panel, factor: int) -> Panel:
    width = panel.values.shape[1] // factor * factor
    folded: Floats = panel.values[:, :width].reshape(len(panel.values), -1, factor)
    known = np.isfinite(folded).any(axis=2)
    mean = np.nansum(folded, axis=2) / np.maximum(np.isfinite(folded).sum(axis=2), 1)
    return Panel.of(np.where(known, mean, np.nan), panel.start_ms, panel.step_ms * factor)


if __name__ == "__main__":
    main()
