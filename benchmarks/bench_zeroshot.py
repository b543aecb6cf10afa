"""What the pretrained network is worth before it has learned from a file: beside the last value and the fitted result.

    python -m benchmarks.bench_zeroshot [--data ../shared/data/workload] [--sets bitbrains web_nasa] [--left-out 400] [--fit]

Same sets, origins and measures as ``bench_forecast``. *pretrained* is the shipped network as it is, without a step of
training, a blend or calibration. It has seen the first 64% of these very sets, so it is zero-shot in the weights it is
asked with, not in the data. *left_out*: for each set a network of the same shape is pretrained anew, in ``--left-out``
batches, without any file that holds series of that set; *all_in* is its twin, of as many batches, with that file. What
lies between those two is what having seen a set was worth; both are weaker than the shipped one of 8,000 batches.
``--left-out 0`` goes without. *fitted* is what ``bench_forecast`` last wrote, or is forecast anew with ``--fit``.
Writes ``benchmarks/results/zeroshot.json``; with ``--sets``, what it held of them and is not measured now stays.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import bench_forecast
from benchmarks.bench_forecast import ORIGINS, Case, cases, last_value, measure, ours
from forecastle.predict.batch import learned
from forecastle.predict.batch.lags import view
from forecastle.predict.batch.net import Net
from forecastle.predict.batch.panel import DAY_MS, Panel
from models import batch_pretrain

RESULTS = Path(__file__).parent / "results" / "zeroshot.json"
PART, HIDDEN, SEED = 0.64, 160, 0
FOLDERS = {"bitbrains": "bitbrains_rnd", "web_worldcup": "worldcup98", "web_nasa": "nasa_http", "tasks": "google2019_tasks"}
PROTOCOL = (
    "sets, origins and measures of bench_forecast; 'pretrained' is the shipped network without training on the file, which "
    "saw the first 64% of these very sets in pretraining; 'left_out' never saw the file the set comes from, 'all_in' is its "
    "twin of as many batches that did; 'fitted' is the whole batch forecast"
)


def zero_shot(net: Net, case: Case, origins: np.ndarray) -> np.ndarray:
    """Quantiles [n, o, h, 9] of ``net`` as it is; units of the series come from the training span."""
    return learned.predict(net, view(case.panel, case.train), origins, case.horizon)


def folder(name: str) -> str:
    """The data folder that the set comes from: what is left out of pretraining for it."""
    return next((held for start, held in FOLDERS.items() if name.startswith(start)), "datacenter_traces")


class Pool:
    """Windows to pretrain on, each source with the folder it comes from; reads the data once."""

    def __init__(self, root: Path) -> None:
        rng = np.random.default_rng(SEED)
        panels = [*_recorded(root)]
        panels += [("", batch_pretrain.generated(rng, 60, 15 * DAY_MS // step, step), 0.1) for step in (60_000, 300_000)]
        self.sources: list[tuple[str, batch_pretrain.Source]] = []
        for held, panel, share in panels:
            width = panel.values.shape[1]
            seen = view(panel, width)
            for horizon in sorted(set(batch_pretrain.HORIZONS)):
                drawn = learned.drawable(panel, seen, width, horizon)
                if len(drawn.at) > 500:
                    chance = share * batch_pretrain.HORIZONS.count(horizon)
                    self.sources.append((held, batch_pretrain.Source(panel, seen, drawn, horizon, chance)))

    def pretrain(self, without: str, steps: int) -> Net:
        """A network of the shipped one's shape after ``steps`` batches of everything but the folder ``without``."""
        kept = [source for held, source in self.sources if not without or held != without]
        return batch_pretrain.pretrain(kept, steps, HIDDEN, SEED)


def _recorded(root: Path) -> Iterator[tuple[str, Panel, float]]:
    """The recorded panels of pretraining by the folder they come from; sums of series precede the series themselves."""
    waiting: list[tuple[Panel, float]] = []
    for name, panel, share in batch_pretrain.recorded(root, PART):
        waiting.append((panel, share))
        if name != "sums":
            yield from ((name, *one) for one in waiting)
            waiting = []


def for_series(net: Net, count: int) -> Net:
    """``net`` as it is shipped, for a file of ``count`` series."""
    with tempfile.TemporaryDirectory() as folder:
        net.save(Path(folder) / "net.npz")
        return Net.load(Path(folder) / "net.npz", count)


def run(case: Case, nets: dict[str, Net], fitted: dict[str, float] | None) -> dict[str, Any]:
    """Figures of ``nets``, the last value and the whole batch forecast, anew when ``fitted`` is None."""
    origins = np.floor(np.linspace(case.train - 1, case.panel.values.shape[1] - 1 - case.horizon, ORIGINS)).astype(np.int64)
    every = np.arange(len(case.panel.values))
    figures: dict[str, Any] = {"series": len(every), "horizon": case.horizon}
    figures |= {name: measure(zero_shot(net, case, origins), case, origins, every) for name, net in nets.items()}
    figures["last_value"] = measure(last_value(case.panel, case.train, origins, case.horizon), case, origins, every)
    if fitted is None:
        fitted = measure(ours(case.panel, case.train, origins, case.horizon), case, origins, every)
    if fitted:
        figures["fitted"] = {key: fitted[key] for key in ("mase", "smape", "wql", "coverage80")}
    return figures


def compared(figures: dict[str, Any]) -> dict[str, Any]:
    """``figures`` with each network's errors as shares of the last value's and of the fitted forecast's."""
    for name in ("pretrained", "left_out", "all_in"):
        for other in ("last_value", "fitted"):
            if figures.get(name) and figures.get(other):
                figures[name] |= {f"{m}_to_{other}": figures[name][m] / figures[other][m] for m in ("mase", "wql")}
    return figures


def known(name: str) -> dict[str, float]:
    """What ``bench_forecast`` last wrote of the fitted forecast on set ``name``; empty when it has not run on it."""
    written = json.loads(bench_forecast.RESULTS.read_text())["sets"] if bench_forecast.RESULTS.exists() else {}
    found: dict[str, float] = written.get(name, {}).get("forecastle", {})
    return found


def show(name: str, figures: dict[str, Any]) -> None:
    """Print one set's table."""
    print(f"\n{name}: {figures['series']} series, {figures['horizon']} ahead")
    for who, row in figures.items():
        if isinstance(row, dict) and row:
            print(f"{who:14}" + "".join(f"{key} {row[key]:8.4f}  " for key in ("mase", "wql", "coverage80")), flush=True)


def main() -> None:
    """Run the sets and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    data = Path(os.environ.get("FORECASTLE_DATA", Path(__file__).parents[2] / "shared" / "data")) / "workload"
    parser.add_argument("--data", type=Path, default=data)
    parser.add_argument("--sets", nargs="*", default=[])
    parser.add_argument(
        "--left-out", type=int, default=400, help="batches of pretraining without the set; 0: without this part"
    )
    parser.add_argument("--fit", action="store_true", help="forecast the fitted result anew, which takes minutes a set")
    options = parser.parse_args()
    if not options.data.exists():
        raise SystemExit(f"{options.data} is missing; set FORECASTLE_DATA to the folder that holds workload/")
    report = json.loads(RESULTS.read_text()) if RESULTS.exists() and options.sets else {"sets": {}}
    report |= {"protocol": PROTOCOL} | ({"left_out_batches": options.left_out} if options.left_out else {})
    pool = Pool(options.data) if options.left_out else None
    anew: dict[str, Net] = {}
    for case in cases(options.data, options.sets):
        count = len(case.panel.values)
        nets = {"pretrained": Net.load(learned.PRETRAINED, count)}
        if pool is not None:
            for name, without in (("left_out", folder(case.name)), ("all_in", "")):
                anew[without] = anew.get(without) or pool.pretrain(without, options.left_out)
                nets[name] = for_series(anew[without], count)
        found = run(case, nets, None if options.fit else known(case.name))
        report["sets"][case.name] = compared({**report["sets"].get(case.name, {}), **found})
        show(case.name, report["sets"][case.name])
        rounded = json.loads(json.dumps(report), parse_float=lambda text: float(f"{float(text):.4g}"))
        RESULTS.write_text(json.dumps(rounded, indent=1) + "\n")


if __name__ == "__main__":
    main()
