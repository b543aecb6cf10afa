"""The report flow: what was planned, done and refused in a period, as one page a human reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from prefect import flow, task
from prefect.artifacts import acreate_markdown_artifact

from forecastle.outlets.page import Page
from forecastle.runtime.clocks import WallClock
from forecastle.runtime.config import load

ROWS = 200


@task(name="write-page")
async def write(configs: Sequence[str], flags: Sequence[str], out: str, hours: float) -> dict[str, int]:
    """Write the page for the last ``hours`` of the ledger. Returns outcomes counted by status."""
    from forecastle.ledger.store import SqlLedger

    settings = load([Path(c) for c in configs], flags=flags)
    ledger = SqlLedger(settings.ledger, WallClock())
    newest = ledger.recent_plans(ROWS)
    since = max((plan.tick for plan in newest), default=0) - int(hours * 3_600_000)
    plans = [plan for plan in newest if plan.tick >= since]
    outcomes = [o for o in ledger.outcomes(since) if o.at >= since]
    page = Page(
        "Forecastle report", f"{len(plans)} plans, {len(outcomes)} outcomes; ledger verified to entry {ledger.verify()}"
    )
    page.heading("Outcomes")
    counts = Counter(f"{o.kind.value} {o.status.value}" for o in outcomes)
    page.table(["what", "count"], sorted(counts.items()))
    page.heading("Plans")
    page.table(
        ["tick", "domain", "actions", "why"],
        [
            [_time(p.tick), p.domain, "; ".join(f"{a.kind} {a.target} -> {a.desired}" for a in p.actions), p.reason]
            for p in plans
        ],
    )
    page.heading("Refusals")
    refusals = Counter(r.guard for p in plans for r in p.refusals)
    page.table(["guard", "count"], sorted(refusals.items()))
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    page.save(Path(out))
    return dict(Counter(o.status.value for o in outcomes))


def _time(at: int) -> str:
    return datetime.fromtimestamp(at / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


@flow(name="report")
async def report(
    configs: Sequence[str] = ("configs",),
    flags: Sequence[str] = (),
    out: str = "out/report.html",
    hours: float = 24.0,
) -> dict[str, int]:
    """Write the page and leave a short artifact in Prefect. Returns outcomes counted by status."""
    counts = await write(configs, flags, out, hours)
    lines = "\n".join(f"- {status}: {count}" for status, count in sorted(counts.items())) or "- nothing happened"
    await acreate_markdown_artifact(key="forecastle-report", markdown=f"Outcomes of the last {hours:g} h\n\n{lines}\n\n{out}")
    return counts
