"""What a play came to: numbers first, then the same in words. ``summary.json`` holds what the text and the report say."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from forecastle.runtime.demo_play import Diary
from forecastle.runtime.demo_report import report
from forecastle.runtime.demo_score import Peers, own, peers
from forecastle.runtime.demo_settings import sim_path
from forecastle.runtime.demo_troubles import planted, troubles
from forecastle.runtime.world import World
from forecastle.types import Status


def conclude(world: World, diary: Diary, out: Path) -> int:
    """Score the play, write ``summary.json`` and ``report.html``, print the summary. Returns 0."""
    others = peers(world.stock, world.scenario, diary.demand, world.table.step_ms, int(diary.at[0]))
    summary = summarize(world, diary, others, sim_path(out))
    (out / "summary.json").write_text(json.dumps(summary, indent=1), "utf-8")
    report(diary, others, summary, out / "report.html")
    print(text(summary, out))
    return 0


def summarize(world: World, diary: Diary, others: Peers, orders: Path) -> dict[str, Any]:
    """Everything the summary says, JSON-able. ``orders`` is the sim cloud's file."""
    applied = Counter(str(o.kind) for o in diary.outcomes if o.status is Status.APPLIED)
    return {
        "ticks": diary.ticks,
        "workloads": len(world.stock.workloads),
        "samples": diary.samples,
        "seconds": round(diary.wall_s, 1),
        "model": diary.models.most_common(1)[0][0],
        "scores": {"forecastle": asdict(own(diary, world.table.step_ms))}
        | {name: asdict(score) for name, score in others.scores.items()},
        "troubles": troubles(world, diary),
        "incidents": {"opened": len(diary.incidents), "about_planted": planted(world, diary)},
        "actions": dict(sorted(applied.items())),
        "not_applied": dict(Counter(str(o.status) for o in diary.outcomes if o.status is not Status.APPLIED)),
        "refusals": dict(diary.refusals.most_common()),
        "orders": _orders(orders),
    }


def _orders(path: Path) -> int:
    """Effects the sim cloud accepted."""
    with closing(sqlite3.connect(path)) as db:
        return int(db.execute("SELECT count(*) FROM orders").fetchone()[0])


def text(summary: dict[str, Any], out: Path) -> str:
    """The summary for a terminal."""
    refused = ", ".join(f"{guard} {n}" for guard, n in list(summary["refusals"].items())[:6])
    acted = ", ".join(f"{kind} {n}" for kind, n in summary["actions"].items())
    opened = summary["incidents"]
    parts = [
        "",
        f"{summary['workloads']} workloads, {summary['ticks']:,} minutes played in {summary['seconds']:.0f} s",
        f"{summary['samples']:,} samples, forecasts by {summary['model']}",
        "",
        *_scores(summary["scores"]),
        "",
        *_troubles(summary["troubles"]),
        "",
        f"incidents: {opened['opened']} opened, {opened['about_planted']} of them about the above",
        f"actions: {acted or 'none'}",
        f"guards said no: {refused or 'never'}",
        f"report: {out / 'report.html'}",
    ]
    return "\n".join(parts)


def _scores(scores: dict[str, dict[str, Any]]) -> list[str]:
    base = max(scores["oracle"]["cost"], 1e-9)
    rows = [
        f"{one['name'][:45]:46}{one['unmet']:>9.3%}{one['cost']:>11,.2f}{one['cost'] / base:>10.2f}{one['bill']:>11,.2f}"
        for one in scores.values()
    ]
    return [f"{'':46}{'unmet':>9}{'cost':>11}{'/ oracle':>10}{'bill':>11}", *rows]


def _troubles(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        f"{one['began']} {one['trouble'][:44]:46}{_minutes(one['found_min']):>9}{_minutes(one['healed_min']):>11}"
        f"{one['unmet']:>10.2%}"
        for one in rows
    ]
    return [f"{'trouble':56}{'found':>9}{'healed':>11}{'unmet':>10}", *lines]


def _minutes(value: float | None) -> str:
    return "no" if value is None else f"{value:.0f} min"
