"""The rehearsal for people: the curves, the worst hours and the figures in one page that opens anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from forecastle.outlets.page import Page, Values
from forecastle.rehearsal.measures import Curve
from forecastle.rehearsal.simulate import Timeline
from forecastle.rehearsal.trace import STEP_S

_HOUR = 3600 // STEP_S
LEVEL = 0.001
"""Unmet share at which the policies are put side by side."""


def write_report(path: Path, summary: dict[str, Any], timelines: Sequence[Timeline]) -> None:
    """Write the page."""
    page = Page(f"Rehearsal of {summary['series']}", "each policy on the same demand, start-up lag and bill")
    page.figures(
        {
            "demand a replica carries": summary["capacity_per_replica"],
            "start-up lag, s": summary["lead_time_s"],
            "oracle, replica-hours": summary["oracle_cost"],
            "days played": summary["test_steps"] * STEP_S / 86_400,
        }
    )
    page.text(_reading(summary))
    curves = {line.policy: Curve.of(line.unmet_share, line.total_cost / summary["oracle_cost"]) for line in timelines}
    page.curves(
        "Cost against unmet demand",
        {name: (100 * curve.unmet, curve.cost) for name, curve in curves.items()},
        "unmet demand, % of demand",
        "cost / oracle",
        log_x=True,
    )
    _worst_hours(page, timelines)
    _faults(page, summary)
    _tables(page, summary)
    page.save(path)


def _reading(summary: dict[str, Any]) -> str:
    parts = [
        "Every point of a curve is one setting of a policy's aggressiveness; lower and further left is better.",
        "The oracle knows the future and pays the same lag: nobody can be below its curve.",
    ]
    for name, ratio in summary["forecastle_over"].items():
        if ratio["median"] is not None:
            parts.append(f"Forecastle costs {said(name, ratio)}.")
    for name, policy in summary["policies"].items():
        parts += [f"{name}: {note}" for note in policy["notes"]]
    return "\n\n".join(parts)


def said(name: str, ratio: dict[str, Any]) -> str:
    """One comparison in words."""
    equal = ratio["at_equal_values"]
    shown = "not reached" if equal["median"] is None else f"{equal['median']:.3f}"
    return (
        f"{ratio['median']:.3f} of {name} at equal unmet demand (median over its range; "
        f"with {equal['values']} knob values of ours, as many as it has: {shown})"
    )


def _worst_hours(page: Page, timelines: Sequence[Timeline]) -> None:
    """Demand and capacity of every policy, each at its setting nearest `LEVEL`, around the hour that hurt most."""
    page.heading("Around the worst hour")
    settings = [(line, nearest(line)) for line in timelines]
    total = np.sum([line.unmet[:, k] for line, k in settings], axis=0)
    if not total.any():
        page.text("No demand was left unmet at the compared settings.")
    hourly = np.convolve(total, np.ones(_HOUR), "same")
    middle = int(np.argmax(hourly))
    span = slice(max(middle - 3 * _HOUR, 0), middle + 3 * _HOUR)
    first = timelines[0]
    lines: dict[str, Values] = {"demand": np.where(first.known[span], first.demand[span], np.nan)}
    for line, k in settings:
        lines[f"{line.policy} {line.knobs[k]}"] = np.asarray(line.ready[span, k] * line.pool.capacity, np.float64)
    at = first.at[span].astype(np.float64)
    page.plot("Demand and ready capacity", at, lines, "demand", stepped=tuple(lines)[1:])


def nearest(line: Timeline) -> int:
    """Index of the knob value whose unmet share is nearest to `LEVEL` in ratio."""
    return int(np.argmin(np.abs(np.log(np.maximum(line.unmet_share, 1e-7) / LEVEL))))


def _faults(page: Page, summary: dict[str, Any]) -> None:
    if not summary["faults"]:
        return
    page.heading("When something fails")
    keys = ("fault", "policy", "knob", "unmet_share", "cost_over_oracle")
    rows = [[*(trial[key] for key in keys), "; ".join(trial["notes"])] for trial in summary["faults"]]
    page.table(("fault", "policy", "setting", "unmet share", "cost / oracle", "what it said"), rows)


def _tables(page: Page, summary: dict[str, Any]) -> None:
    page.heading("Every setting")
    columns = {
        "knob": "setting",
        "unmet_share": "unmet share",
        "unmet_time_share": "share of time short",
        "cost_over_oracle": "cost / oracle",
        "theta_u": "theta_U",
        "theta_o": "theta_O",
        "tau_u": "tau_U",
        "tau_o": "tau_O",
        "actions_per_day": "actions/day",
        "starts_per_day": "replicas started/day",
        "mean_replicas": "mean replicas",
        "peak_replicas": "peak replicas",
    }
    for name, policy in summary["policies"].items():
        rows = [[row[key] for key in columns] for row in policy["knobs"]]
        page.table(tuple(columns.values()), rows, name)
