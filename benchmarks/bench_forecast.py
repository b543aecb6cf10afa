"""How well, how calibrated and how fast a file is forecast, beside naive forecasts and other packages on the same origins.

    python -m benchmarks.bench_forecast [--data ../shared/data/workload] [--sets bitbrains] [--sample 8] [--peers nhits mstl]

Per set: the last 20% of the span is the test, 24 evenly spaced origins, MASE in units of the training span's mean
daily difference (mean over series), sMAPE, quantile loss over q0.1 ... q0.9 in units of the pooled absolute values, and
the coverage of q0.1 ... q0.9. Twenty-four origins of a few series are too few to tell coverage by: ours is told of 200
origins too (``coverage80_many``; the seconds are those of all), with the share of outcomes that equal the lower bound
(``tied``), as an idle machine's do: they are covered whatever the upper bound is, and no calibration undoes that.
Everything was chosen and pretrained on rows before the test spans. Peers that are slow run on a sample of series; the
ratio to them is taken on that sample. Writes ``benchmarks/results/forecast.json`` after each forecaster.
With ``--peers`` only those run beside ours and the naive ones, and the others' figures stay as they stood.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import norm

from benchmarks import forecast_peers
from forecastle.predict.batch import naive
from forecastle.predict.batch.forecast import forecast_panel
from forecastle.predict.batch.panel import QUANTILES, Panel
from forecastle.runtime.batch_forecast_table import read_long

RESULTS = Path(__file__).parent / "results" / "forecast.json"
ORIGINS, MANY, TEST = 24, 200, 0.2
PROTOCOL = (
    "last 20% of each set's span, 24 evenly spaced origins; network pretrained on the first 64% of the same data sets and on "
    "generated series; its shape, the batches it is tuned for and the blend were chosen on 64 to 80%; only series that are "
    "not here can confirm the figures"
)
Forecast = Callable[[Panel, int, np.ndarray, int], np.ndarray]


class Case(NamedTuple):
    """A set: series of one step and span; the first ``train`` columns may be learned from."""

    name: str
    panel: Panel
    train: int
    horizon: int


def cases(root: Path, wanted: list[str]) -> Iterator[Case]:
    """The sets under ``root``, each cut to where its series are."""
    makers: dict[str, Callable[[], Case]] = {
        "bitbrains": lambda: _bitbrains(root, chosen=True),
        "bitbrains_rest": lambda: _bitbrains(root, chosen=False),
        "web_worldcup": lambda: _case("web_worldcup", root / "worldcup98", "", 60),
        "web_nasa": lambda: _case("web_nasa", root / "nasa_http", "", 60),
        "cluster_azure": lambda: _case("cluster_azure", root / "datacenter_traces", "azure", 12),
        "cluster_google": lambda: _case("cluster_google", root / "datacenter_traces", "google", 12),
        "tasks_113": lambda: _case("tasks_113", root / "google2019_tasks", "g19_job113", 12),
        "tasks_382": lambda: _case("tasks_382", root / "google2019_tasks", "g19_job382", 12),
    }
    for name in wanted or makers:
        yield makers[name]()


def spaced(case: Case, count: int) -> np.ndarray:
    """``count`` columns, or as many as there are, from the training span's end to where the horizon still fits."""
    last = case.panel.values.shape[1] - 1 - case.horizon
    return np.unique(np.floor(np.linspace(case.train - 1, last, count)).astype(np.int64))


def coverage(quantiles: np.ndarray, actual: np.ndarray) -> dict[str, float]:
    """Shares of the known ``actual`` [n, o, h] within q0.1 ... q0.9 of ``quantiles`` [n, o, h, 9], and at that very q0.1."""
    known = np.isfinite(actual)
    inside = (actual >= quantiles[..., 0]) & (actual <= quantiles[..., -1])
    return {"coverage80_many": float(inside[known].mean()), "tied": float((actual == quantiles[..., 0])[known].mean())}


def measure(quantiles: np.ndarray, case: Case, origins: np.ndarray, rows: np.ndarray) -> dict[str, float]:
    """MASE, sMAPE, weighted quantile loss and coverage of ``quantiles`` [rows, o, h, 9]."""
    actual = case.panel.targets(origins, case.horizon)[rows]
    known = np.isfinite(actual)
    past, day = case.panel.values[rows, : case.train], case.panel.day
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        unit = np.nanmean(np.abs(past[:, day:] - past[:, :-day]), axis=1)
        mase = np.nanmean(np.abs(actual - quantiles[..., 4]), axis=(1, 2)) / unit
        smape = np.nanmean(2 * np.abs(actual - quantiles[..., 4]) / (np.abs(actual) + np.abs(quantiles[..., 4])))
    levels = np.asarray(QUANTILES)
    error = actual[..., None] - quantiles
    loss = np.where(known[..., None], np.maximum(levels * error, (levels - 1) * error), 0.0)
    inside = (actual >= quantiles[..., 0]) & (actual <= quantiles[..., -1])
    return {
        "mase": float(mase[np.isfinite(mase)].mean()),
        "smape": float(smape),
        "wql": float(2 * loss.sum() / len(levels) / np.abs(actual[known]).sum()),
        "coverage80": float(inside[known].mean()),
    }


def last_value(panel: Panel, train: int, origins: np.ndarray, horizon: int) -> np.ndarray:
    """The newest value with the quantiles of its errors in the training span."""
    return _with_errors(naive.last_value, panel, train, origins, horizon)


def seasonal_naive(panel: Panel, train: int, origins: np.ndarray, horizon: int) -> np.ndarray:
    """The value a day before with the quantiles of its errors in the training span."""
    return _with_errors(naive.seasonal(panel.day), panel, train, origins, horizon)


def exponential_smoothing(panel: Panel, train: int, origins: np.ndarray, horizon: int) -> np.ndarray:
    """Statsmodels' additive ETS with damped trend: parameters from the training span's end, states up to each origin."""
    import pandas as pd
    from statsmodels.tsa.exponential_smoothing.ets import ETSModel

    out = np.empty((len(panel.values), len(origins), horizon, len(QUANTILES)))
    for k, values in enumerate(panel.filled):
        start = int(np.isfinite(values).argmax())
        params = ETSModel(values[max(start, train - 2000) : train], trend="add", damped_trend=True).fit(disp=False).params
        for o, origin in enumerate(origins):
            recent = pd.Series(values[max(start, origin - 1000) : origin + 1])
            if (recent == recent.iloc[0]).all():
                out[k, o] = recent.iloc[0]
                continue
            fitted = ETSModel(recent, trend="add", damped_trend=True).smooth(params)
            ahead = fitted.get_prediction(len(recent), len(recent) + horizon - 1)
            spread = np.sqrt(np.asarray(ahead.forecast_variance))
            out[k, o] = np.asarray(ahead.predicted_mean)[:, None] + spread[:, None] * norm.ppf(QUANTILES)
    return out


def theta(panel: Panel, train: int, origins: np.ndarray, horizon: int) -> np.ndarray:  # noqa: ARG001 - fitted at each origin
    """Statsmodels' Theta, deseasonalized by day, fitted to the newest four days at each origin."""
    from statsmodels.tsa.forecasting.theta import ThetaModel

    out = np.empty((len(panel.values), len(origins), horizon, len(QUANTILES)))
    for k, values in enumerate(panel.filled):
        start = int(np.isfinite(values).argmax())
        for o, origin in enumerate(origins):
            recent = values[max(start, origin + 1 - 4 * panel.day) : origin + 1]
            seasonal = len(recent) >= 2 * panel.day
            fitted = ThetaModel(recent, period=panel.day if seasonal else 1, deseasonalize=seasonal, method="additive").fit()
            middle = np.asarray(fitted.forecast(horizon))
            spread = (np.asarray(fitted.prediction_intervals(horizon, alpha=0.2)["upper"]) - middle) / norm.ppf(0.9)
            out[k, o] = middle[:, None] + spread[:, None] * norm.ppf(QUANTILES)
    return out


def ours(panel: Panel, train: int, origins: np.ndarray, horizon: int) -> np.ndarray:
    """What ``forecastle forecast`` writes."""
    return forecast_panel(panel, train, horizon, origins).quantiles


def run(
    case: Case, sample: int, named: list[str] | None = None, before: dict[str, Any] | None = None
) -> Iterator[dict[str, Any]]:
    """Figures of every forecaster on ``case``, as they stand after each; slow ones on ``sample`` series, with ours on these.

    Of other packages' forecasters only those ``named`` run, None: all; the figures of the others are taken from ``before``, an
    earlier result. Raises ValueError when that was of other series or origins: its naive figures differ.
    """
    origins, many = (spaced(case, count) for count in (ORIGINS, MANY))
    both = np.union1d(origins, many)
    every = np.arange(len(case.panel.values))
    some = every[:: max(1, len(every) // sample)][:sample]
    figures: dict[str, Any] = {"series": len(every), "steps": case.panel.values.shape[1], "horizon": case.horizon}
    began = time.perf_counter(), time.process_time()
    whole = ours(case.panel, case.train, both, case.horizon)
    mine = whole[:, np.searchsorted(both, origins)]
    often = coverage(whole[:, np.searchsorted(both, many)], case.panel.targets(many, case.horizon))
    figures["forecastle"] = measure(mine, case, origins, every) | often | _since(*began)
    print(f"{case.name}: {figures['forecastle']}", flush=True)
    figures["forecastle_on_sample"] = measure(mine[some], case, origins, some)
    peers: list[tuple[Forecast, np.ndarray]] = [(exponential_smoothing, some), (theta, some)]
    peers += [(forecast, every if fast else some) for forecast, fast in forecast_peers.installed()[0]]
    wanted = [(forecast, rows) for forecast, rows in peers if named is None or forecast.__name__ in named]
    for forecast, rows in ((last_value, every), (seasonal_naive, every), *wanted):
        part = Panel.of(case.panel.values[rows], case.panel.start_ms, case.panel.step_ms)
        began = time.perf_counter(), time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = measure(forecast(part, case.train, origins, case.horizon), case, origins, rows)
        figures[forecast.__name__] = found | _since(*began) | {"series": len(rows)}
        if forecast is seasonal_naive and before is not None:
            figures |= _kept(before, figures, len(some))
        for row in figures.values():
            if isinstance(row, dict) and "series" in row:
                reference = figures["forecastle" if row["series"] == len(every) else "forecastle_on_sample"]
                row |= {f"{score}_ratio": reference[score] / row[score] for score in ("mase", "wql")}
        if forecast is not last_value:
            yield figures


def _since(wall: float, cpu: float) -> dict[str, float]:
    """Seconds on the clock and of all the process's threads; a busy machine lengthens the first only."""
    return {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}


def _kept(before: dict[str, Any], figures: dict[str, Any], sample: int) -> dict[str, Any]:
    """The other packages' rows of ``before``, a result on the series and origins that ``figures`` are of."""
    for who in ("last_value", "seasonal_naive"):
        for score in ("mase", "smape", "wql", "coverage80"):
            if before[who][score] != float(f"{figures[who][score]:.4g}"):
                raise ValueError(
                    f"{score} of {who} was {before[who][score]} and is {figures[who][score]:.4g}: run all peers again"
                )
    kept = {who: row for who, row in before.items() if isinstance(row, dict) and who not in figures}
    if odd := [who for who, row in kept.items() if row["series"] not in (figures["series"], sample)]:
        raise ValueError(f"{', '.join(odd)} ran on another sample: run all peers again")
    return kept


def show(name: str, figures: dict[str, Any]) -> None:
    """Print one set's table."""
    print(f"\n{name}: {figures['series']} series x {figures['steps']} steps, {figures['horizon']} ahead")
    print(f"{'':24}{'MASE':>8}{'sMAPE':>8}{'WQL':>8}{'80%':>7}{'s':>8}  ours/its MASE, WQL")
    for who, row in figures.items():
        if not isinstance(row, dict):
            continue
        cells = f"{row['mase']:8.3f}{row['smape']:8.3f}{row['wql']:8.4f}{row['coverage80']:7.1%}{row.get('seconds', 0):8.1f}"
        ratios = f"  {row['mase_ratio']:.3f}, {row['wql_ratio']:.3f} on {row['series']}" if "mase_ratio" in row else ""
        print(f"{who:24}{cells}{ratios}", flush=True)


def main() -> None:
    """Run the sets and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    data = Path(os.environ.get("FORECASTLE_DATA", Path(__file__).parents[2] / "shared" / "data")) / "workload"
    parser.add_argument("--data", type=Path, default=data)
    parser.add_argument("--sets", nargs="*", default=[])
    parser.add_argument("--sample", type=int, default=8)
    parser.add_argument("--peers", nargs="*")
    options = parser.parse_args()
    if not options.data.exists():
        raise SystemExit(f"{options.data} is missing; set FORECASTLE_DATA to the folder that holds workload/")
    if missing := forecast_peers.installed()[1]:
        print(f"without {', '.join(missing)}; install them with: pip install -c constraints.txt -e '.[bench]'")
    for case in cases(options.data, options.sets):
        before = None if options.peers is None else _stored().get(case.name)
        for figures in run(case, options.sample, options.peers, before):
            _store({**_stored(), case.name: figures})
        show(case.name, figures)


def _stored() -> dict[str, Any]:
    """The sets' figures as they stand."""
    sets: dict[str, Any] = json.loads(RESULTS.read_text())["sets"] if RESULTS.exists() else {}
    return sets


def _store(sets: dict[str, Any]) -> None:
    rounded = json.loads(json.dumps({"protocol": PROTOCOL, "sets": sets}), parse_float=lambda text: float(f"{float(text):.4g}"))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(rounded, indent=1) + "\n")


def _case(name: str, folder: Path, prefix: str, horizon: int) -> Case:
    names, panel = read_long(folder / "data.parquet")
    rows = np.flatnonzero([series.startswith(prefix) for series in names])
    there = np.flatnonzero(panel.seen[rows].any(axis=0))
    return _cut(name, panel, rows, int(there[0]), int(there[-1]) + 1, horizon)


def _bitbrains(root: Path, chosen: bool) -> Case:
    """40 of the 120 busiest VMs of the last 30 days (seed 0), or 40 of the others of those."""
    _, panel = read_long(root / "bitbrains_rnd" / "data.parquet")
    width = panel.values.shape[1]
    recent = panel.values[:, width - 30 * panel.day :]
    usable = np.flatnonzero((np.isfinite(recent).mean(axis=1) > 0.93) & (np.nanstd(recent, axis=1) > 0.2))
    busy = usable[np.argsort(-np.nanmean(recent[usable], axis=1))][:120]
    picked = np.sort(np.random.default_rng(0).choice(busy, 40, replace=False))
    rows = picked if chosen else np.setdiff1d(busy, picked)[:40]
    return _cut("bitbrains" if chosen else "bitbrains_rest", panel, rows, width - 30 * panel.day, width, 12)


def _cut(name: str, panel: Panel, rows: np.ndarray, begin: int, end: int, horizon: int) -> Case:
    values = np.ascontiguousarray(panel.values[rows, begin:end])
    return Case(
        name, Panel.of(values, panel.start_ms + begin * panel.step_ms, panel.step_ms), int((end - begin) * (1 - TEST)), horizon
    )


def _with_errors(path: naive.Path, panel: Panel, train: int, origins: np.ndarray, horizon: int) -> np.ndarray:
    past = panel.until(train)
    inside = np.unique(np.linspace(train // 4, train - 1 - horizon, 400).astype(np.int64))
    errors = past.targets(inside, horizon) - path(past, inside, horizon)
    spread = naive.error_quantiles(errors, naive.usual_size(errors))
    spread -= spread[..., 4:5]
    return path(panel, origins, horizon)[..., None] + spread[:, None]


if __name__ == "__main__":
    main()
