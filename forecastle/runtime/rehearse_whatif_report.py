"""The what-if for people: the difference in money first, then where in the history it was made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from forecastle.outlets.page import Page
from forecastle.rehearsal.trace import STEP_S
from forecastle.runtime.rehearse_config import Played
from forecastle.types import Floats

_DAY = 86_400 // STEP_S
_PARTS = {"replica_cost": "replicas", "unmet_cost": "unmet demand", "total": "total"}


def write_whatif_report(path: Path, summary: dict[str, Any], played: Sequence[Played]) -> None:
    """Write the page."""
    page = Page(f"What if: {summary['workload']}", f"{summary['series']} under two configurations, in the pools' currency")
    per_month = {f"{label}, per month": summary["difference"][f"{part}_per_month"] for part, label in _PARTS.items()}
    page.figures(per_month | {"days played": summary["hours"] / 24.0})
    page.text(reading(summary))
    _money(page, summary)
    _settings(page, summary)
    _days(page, played)
    _demand(page, played)
    _behaviour(page, summary)
    page.save(path)


def reading(summary: dict[str, Any]) -> str:
    """The result in sentences."""
    total = summary["difference"]["total_per_month"]
    if not summary["settings"]:
        return "No setting that decides differs between the two configurations: both do the same."
    verdict = "as much as" if total == 0 else f"{abs(total):,.2f} {'more' if total > 0 else 'less'} than"
    parts = [
        f"A month under --against costs {verdict} one under --config, replicas and unmet demand together.",
        f"Unmet demand is billed to both at {summary['unmet_price']:g} for a replica-hour, the price that --config names.",
    ]
    other = summary["difference_at_the_other_price"]
    if other is not None:
        parts.append(
            f"At --against's own price of {other['unmet_price']:g} the difference is {other['total_per_month']:+,.2f}."
        )
    for name, found in summary["configurations"].items():
        parts += [f"--{name}: {note}" for note in (f"the forecast was {found['forecast']}", *found["notes"])]
    return "\n\n".join(parts)


def _money(page: Page, summary: dict[str, Any]) -> None:
    page.heading("Money")
    rows: list[list[object]] = []
    for name, found in (*summary["configurations"].items(), ("difference", summary["difference"])):
        rows.append([name, *(found[part] for part in _PARTS), *(found[f"{part}_per_month"] for part in _PARTS)])
    columns = ("", *_PARTS.values(), *(f"{label} / month" for label in _PARTS.values()))
    page.table(columns, rows)


def _settings(page: Page, summary: dict[str, Any]) -> None:
    page.heading("What differs")
    page.table(
        ("setting", "--config", "--against"),
        [[row["setting"], str(row["config"]), str(row["against"])] for row in summary["settings"]],
    )


def _days(page: Page, played: Sequence[Played]) -> None:
    """Cost and unmet demand day by day."""
    at = played[0].at[::_DAY].astype(np.float64)
    for title, pick in (("Cost of the replicas, a day", "cost"), ("Unmet demand, a day", "unmet")):
        lines = {name: daily(getattr(one, pick)) for name, one in zip(("--config", "--against"), played, strict=True)}
        page.plot(title, at, lines, pick)


def daily(x: Floats) -> Floats:
    """Sums over days of ``x`` float64[T]; the last may be shorter."""
    return np.add.reduceat(x, np.arange(0, len(x), _DAY))


def _demand(page: Page, played: Sequence[Played]) -> None:
    """What was there and what was ready, around the day on which the two differ most."""
    page.heading("Where they differ most")
    now, then = played
    gap = daily(np.abs(now.cost - then.cost))
    day = int(np.argmax(gap))
    span = slice(day * _DAY, (day + 1) * _DAY)
    lines = {
        "demand": np.where(now.known[span], now.demand[span], np.nan),
        "--config": now.ready[span] * now.configured.capacity,
        "--against": then.ready[span] * then.configured.capacity,
    }
    page.plot("Demand and ready capacity", now.at[span].astype(np.float64), lines, "demand", stepped=("--config", "--against"))


def _behaviour(page: Page, summary: dict[str, Any]) -> None:
    page.heading("How they behaved")
    keys = {
        "unmet_share": "unmet share",
        "unmet_time_share": "share of time short",
        "mean_replicas": "mean replicas",
        "peak_replicas": "peak replicas",
        "actions_per_day": "scalings/day",
    }
    found = summary["configurations"]
    page.table(("", *keys.values()), [[name, *(row[key] for key in keys)] for name, row in found.items()])
    guards = sorted({guard for row in found.values() for guard in row["refusals"]})
    page.table(
        ("guard", *found),
        [[guard, *(row["refusals"].get(guard, 0) for row in found.values())] for guard in guards],
        "how often a guard said no, or less",
    )
