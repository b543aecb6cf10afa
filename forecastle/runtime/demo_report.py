"""``report.html`` of a play: one self-contained page that shows what the summary claims."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from forecastle.outlets.page import Page
from forecastle.runtime.demo_play import Diary
from forecastle.runtime.demo_score import Peers
from forecastle.types import Kind, Status

ACTION_ROWS = 200


def report(diary: Diary, others: Peers, summary: dict[str, Any], path: Path) -> None:
    """Write the page."""
    page = Page("Forecastle demo", f"{summary['workloads']} workloads, {summary['ticks']:,} minutes, {summary['model']}")
    scores = summary["scores"]
    mine, hpa, oracle = scores["forecastle"], scores["hpa"], scores["oracle"]
    page.figures(
        {
            "unmet demand": f"{mine['unmet']:.3%}",
            "unmet demand, best HPA": f"{hpa['unmet']:.3%}",
            "cost over the oracle's": f"{mine['cost'] / oracle['cost']:.2f}",
            "cost over the oracle's, best HPA": f"{hpa['cost'] / oracle['cost']:.2f}",
            "troubles healed": f"{sum(t['healed_min'] is not None for t in summary['troubles'])} of {len(summary['troubles'])}",
        }
    )
    _scores(page, summary, others)
    _troubles(page, summary)
    page.heading("Demand and capacity")
    for row, name in enumerate(diary.workloads):
        _workload(page, diary, row, name)
    _money(page, diary)
    _actions(page, diary)
    page.save(path)


def _scores(page: Page, summary: dict[str, Any], others: Peers) -> None:
    page.heading("Against other ways to run the same demand")
    rows = [
        (one["name"], one["setting"] or None, f"{one['unmet']:.4%}", one["cost"], one["replica_hours"], one["bill"])
        for one in summary["scores"].values()
    ]
    page.table(("policy", "setting", "unmet", "cost", "replica-hours", "bill"), rows)
    page.text(
        "The bill is the cost plus the price of what was not served. The bounds meet no outage. "
        "An HPA pays the mean price of its workload's pools, because each pool has one and the traffic is spread evenly."
    )
    mine = summary["scores"]["forecastle"]
    curves = {
        "HPA, every target": ([cost for _, cost, _ in others.curve], [100 * unmet for _, _, unmet in others.curve]),
        "Forecastle": ([mine["cost"]], [100 * mine["unmet"]]),
        "oracle": ([summary["scores"]["oracle"]["cost"]], [0.0]),
    }
    page.curves("Unmet demand over cost", curves, "cost", "% unmet")


def _troubles(page: Page, summary: dict[str, Any]) -> None:
    page.heading("What went wrong, and what became of it")
    rows = [(t["began"], t["trouble"], t["found_min"], t["healed_min"], f"{t['unmet']:.3%}") for t in summary["troubles"]]
    page.table(("began", "trouble", "found after, min", "healed after, min", "unmet meanwhile"), rows)
    opened = summary["incidents"]
    page.text(f"{opened['opened']} incidents were opened in all; {opened['about_planted']} of them are about the above.")


def _workload(page: Page, diary: Diary, row: int, name: str) -> None:
    done = diary.until_now()
    per = diary.stock.workloads[name].demands[0].per_replica
    series = {
        "demand": diary.demand[row, done],
        "ready capacity": diary.capacity[row, done],
        "wanted": diary.wanted[row, done] * per,
        "unmet": np.where(diary.unmet[row, done] > 0, diary.unmet[row, done], np.nan),
    }
    page.plot(name, diary.at[done], series, "requests/s", stepped=("ready capacity", "wanted"))


def _money(page: Page, diary: Diary) -> None:
    page.heading("Money and shortage over time")
    done = diary.until_now()
    hourly = diary.cost[:, done].sum(axis=0) * 60.0
    page.plot("Cost per hour", diary.at[done], {"cost per hour": hourly}, "money/h")
    short = diary.unmet[:, done] / diary.per_replica
    page.plot("Replicas short, all workloads", diary.at[done], {"short": short.sum(axis=0)}, "replicas")


def _actions(page: Page, diary: Diary) -> None:
    page.heading("Actions that heal or tell")
    rows = [
        (_clock(o.at), str(o.kind), o.pool, o.workload, str(o.status), o.detail or None)
        for o in diary.outcomes
        if o.kind is not Kind.SCALE
    ]
    page.table(("at", "kind", "pool", "workload", "outcome", "detail"), rows[:ACTION_ROWS])
    page.heading("Incidents")
    found = sorted(diary.incidents.values(), key=lambda i: i.opened_at)
    page.table(("opened", "last seen", "incident"), [(_clock(i.opened_at), _clock(i.last_at), i.line) for i in found])
    page.heading("Scalings")
    moved = [o for o in diary.outcomes if o.kind is Kind.SCALE and o.status is Status.APPLIED and o.before and o.after]
    changes = [(_clock(o.at), o.pool, o.before.replicas, o.after.replicas) for o in moved if o.before and o.after]
    page.table(("at", "pool", "from", "to"), changes[:ACTION_ROWS], f"the first {ACTION_ROWS} of {len(changes)}")
    page.heading("Guards")
    page.table(("guard", "objections"), diary.refusals.most_common())


def _clock(at: int) -> str:
    return time.strftime("%a %H:%M", time.gmtime(at / 1000))
