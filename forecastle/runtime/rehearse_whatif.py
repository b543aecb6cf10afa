"""The same history under two configurations: what the change of settings would have been worth, in money.

Costs of two configurations compare only if both pay the same for what they leave unserved. So unmet demand is billed to both
at the first configuration's price and capacity per replica; where the second names another price, the difference under that
one is told as well.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from forecastle.errors import ConfigError
from forecastle.rehearsal.trace import STEP_S, Demand, Trace, on_clock, read_trace
from forecastle.runtime.config import load
from forecastle.runtime.rehearse import SCHEMA, capacity_of
from forecastle.runtime.rehearse_config import Configured, Played, configured, play
from forecastle.runtime.rehearse_forecast import Lessons, source_of
from forecastle.runtime.rehearse_whatif_report import write_whatif_report

MONTH_H = 730.0
"""Hours of a month: a twelfth of 365 days."""
NAMES = ("config", "against")


@dataclass(frozen=True, slots=True)
class Bill:
    """Money of a span: what the replicas cost and what the unmet demand is priced at."""

    replicas: float
    unmet: float

    @property
    def total(self) -> float:
        """Both together."""
        return self.replicas + self.unmet

    def figures(self, hours: float) -> dict[str, float]:
        """For the span and for a month."""
        month = MONTH_H / hours
        return {
            "replica_cost": self.replicas,
            "unmet_cost": self.unmet,
            "total": self.total,
            "replica_cost_per_month": self.replicas * month,
            "unmet_cost_per_month": self.unmet * month,
            "total_per_month": self.total * month,
        }

    def minus(self, other: Bill) -> Bill:
        """The difference."""
        return Bill(self.replicas - other.replicas, self.unmet - other.unmet)


def whatif(
    trace: Path,
    *,
    config: Sequence[Path],
    against: Sequence[Path],
    series: str = "",
    workload: str = "",
    capacity_per_replica: float | str = "auto",
    train_fraction: float = 0.7,
    out: Path,
) -> dict[str, Any]:
    """Play both configurations over the trace after ``train_fraction``, write the three files into ``out``, return the summary.

    ``config`` and ``against`` are files or folders, later ones winning. A replica carries what each configuration says,
    unless ``capacity_per_replica`` is a number. Raises ConfigError for what cannot be played.
    """
    history = read_trace(Path(trace), series)
    given = None if capacity_per_replica == "auto" else capacity_of(history, capacity_per_replica, train_fraction)
    pair = [_prepared(name, paths, workload, given) for name, paths in zip(NAMES, (config, against), strict=True)]
    demand = on_clock(history, train_fraction)
    played = []
    learned: Lessons = {}
    for conf in pair:
        source = source_of(conf.settings, demand, learned)
        sys.stderr.write(f"playing {conf.name}, its forecast {source.name}\n")
        played.append(play(conf, demand, source))
    summary = summarize(history, demand, played)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    _write_timelines(folder / "timeline.parquet", played)
    (folder / "summary.json").write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n", "utf-8")
    write_whatif_report(folder / "report.html", summary, played)
    for line in lines_of(summary):
        sys.stdout.write(line + "\n")
    return summary


def _prepared(option: str, paths: Sequence[Path], workload: str, per_replica: float | None) -> Configured:
    if not paths:
        raise ConfigError(
            f"--{option} is missing: a what-if plays two configurations; give --config NOW.yaml and --against THEN.yaml"
        )
    name = " ".join(str(path) for path in paths)
    try:
        return configured(f"--{option} {name}", load([Path(path) for path in paths]), workload, per_replica)
    except ConfigError as error:
        raise ConfigError(f"--{option}: {error}") from None


def summarize(history: Trace, demand: Demand, played: Sequence[Played]) -> dict[str, Any]:
    """Everything that `summary.json` says, JSON-able."""
    now, then = played
    hours = float(now.known.sum()) * STEP_S / 3600.0
    if hours <= 0:
        raise ConfigError(f"{history.name}: nothing is known after the train part; give a smaller --train-fraction")
    price, other_price = now.configured.load.unmet_price, then.configured.load.unmet_price
    bills = [bill(one, price, now.configured.capacity) for one in played]
    others = [bill(one, other_price, now.configured.capacity) for one in played]
    return {
        "series": history.name,
        "step_s": STEP_S,
        "workload": now.configured.load.name,
        "test_from_ms": int(demand.at[demand.first]),
        "test_until_ms": int(demand.at[-1]),
        "hours": hours,
        "month_h": MONTH_H,
        "unmet_price": price,
        "capacity_per_replica": now.configured.capacity,
        "settings": differences(now.configured, then.configured),
        "configurations": {name: _outcome(one, b, hours) for name, one, b in zip(NAMES, played, bills, strict=True)},
        "difference": bills[1].minus(bills[0]).figures(hours),
        "difference_at_the_other_price": (
            None if other_price == price else {"unmet_price": other_price} | others[1].minus(others[0]).figures(hours)
        ),
    }


def bill(played: Played, unmet_price: float, capacity: float) -> Bill:
    """What the span cost, a replica-hour of unmet demand (``capacity`` for an hour) at ``unmet_price``."""
    return Bill(float(played.cost.sum()), float(played.unmet.sum()) / capacity * STEP_S / 3600.0 * unmet_price)


def _outcome(played: Played, money: Bill, hours: float) -> dict[str, Any]:
    known = played.known
    return {
        "name": played.configured.name,
        **money.figures(hours),
        "unmet_share": float(played.unmet.sum()) / max(float(played.demand[known].sum()), 1e-12),
        "unmet_time_share": float((played.unmet[known] > 0).mean()),
        "mean_replicas": float(played.ordered[known].mean()),
        "peak_replicas": int(played.ordered[known].max()),
        "actions_per_day": played.actions * 24.0 / hours,
        "refusals": played.refusals,
        "forecast": played.forecast,
        "notes": [*played.configured.notes, *played.notes],
    }


def differences(now: Configured, then: Configured) -> list[dict[str, Any]]:
    """Settings that decide and that differ, by name: of the workload, its pools, `decide`, `guards`, `window`, `predict`."""
    ours, theirs = _flat(now), _flat(then)
    return [
        {"setting": name, "config": ours.get(name), "against": theirs.get(name)}
        for name in sorted({*ours, *theirs})
        if ours.get(name) != theirs.get(name)
    ]


def _flat(conf: Configured) -> dict[str, Any]:
    settings = conf.settings
    rooms: dict[str, Any] = {
        room: getattr(settings, room).model_dump(mode="json") for room in ("decide", "guards", "window", "predict")
    }
    rooms["workload"] = _plain(conf.load)
    rooms["pools"] = {pool.name: _plain(pool) for pool in conf.pools}
    return dict(_leaves("", rooms))


def _plain(value: Any) -> dict[str, Any]:
    """The fields of a frozen noun, those that are not JSON as text."""
    fields = {name: getattr(value, name) for name in value.__dataclass_fields__}
    return {name: v if isinstance(v, int | float | str | None) else str(v) for name, v in fields.items()}


def _leaves(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict):
        yield prefix, value
        return
    for name, inner in value.items():
        yield from _leaves(f"{prefix}.{name}" if prefix else str(name), inner)


def lines_of(summary: dict[str, Any]) -> Iterator[str]:
    """The summary for a terminal."""
    yield (
        f"{summary['series']} as {summary['workload']}, {summary['hours'] / 24:.1f} days; "
        f"a replica-hour of unmet demand costs {summary['unmet_price']:g}"
    )
    for row in summary["settings"] or ():
        yield f"  {row['setting']}: {row['config']} -> {row['against']}"
    if not summary["settings"]:
        yield "  no setting that decides differs: both do the same"
    yield f"{'money per month':<16}{'replicas':>14}{'unmet':>14}{'total':>14}{'unmet %':>10}{'actions/day':>13}"
    for name, found in summary["configurations"].items():
        yield f"{name:<16}" + _money(found) + f"{100 * found['unmet_share']:>10.4f}{found['actions_per_day']:>13.1f}"
    yield f"{'difference':<16}" + _money(summary["difference"], sign="+")
    other = summary["difference_at_the_other_price"]
    if other is not None:
        yield f"{'  at ' + format(other['unmet_price'], 'g'):<16}" + _money(other, sign="+")
    for name, found in summary["configurations"].items():
        yield f"{name}: the forecast was {found['forecast']}"
        yield from (f"{name}: {note}" for note in found["notes"])


def _money(row: dict[str, Any], sign: str = "") -> str:
    return "".join(f"{row[part + '_per_month']:>{sign}14,.2f}" for part in ("replica_cost", "unmet_cost", "total"))


def _write_timelines(path: Path, played: Sequence[Played]) -> None:
    names = pa.array(list(NAMES))
    with parquet.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        for p, one in enumerate(played):
            n = len(one.at)
            columns = [
                pa.DictionaryArray.from_arrays(np.full(n, p, np.int32), names),
                pa.DictionaryArray.from_arrays(np.zeros(n, np.int32), pa.array([""])),
                pa.array(one.at, pa.timestamp("ms")),
                pa.array(np.where(one.known, one.demand, np.nan), from_pandas=True),
                one.ordered,
                one.ready,
                one.ordered - one.ready,
                one.unmet,
                one.cost,
            ]
            writer.write_table(pa.Table.from_arrays([pa.array(c) for c in columns], schema=SCHEMA))
