"""The report flow writes what the ledger says, for the hours asked, and leaves a note in Prefect."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from flow_worlds import configuration, play

from flows.report import report
from forecastle.errors import LedgerCorrupt

pytestmark = pytest.mark.usefixtures("prefect_server")


def reported(config: Path, **arguments: object) -> dict[str, int]:
    return asyncio.run(report(configs=[str(config)], **arguments))  # type: ignore[arg-type]


def artifact() -> str:
    """The newest note of the report flow."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

    async def kept() -> str:
        async with get_client() as client:
            wanted = ArtifactFilter(key=ArtifactFilterKey(any_=["forecastle-report"]))
            found = await client.read_artifacts(artifact_filter=wanted)
            return str(max(found, key=lambda one: one.created).data)

    return asyncio.run(kept())


def test_the_page_tells_outcomes_plans_and_refusals(tmp_path: Path) -> None:
    config, out = configuration(tmp_path), tmp_path / "deep" / "report.html"
    plans = play(config, 60)
    counts = reported(config, out=str(out), hours=24.0)
    actions = [a for plan in plans for a in plan.actions]
    assert sum(counts.values()) == len(actions) > 3
    page = out.read_text(encoding="utf-8")
    assert f"{len(plans)} plans, {len(actions)} outcomes; ledger verified" in page
    assert f"scale {actions[-1].target} -&gt; {actions[-1].desired}" in page
    guards = Counter(r.guard for plan in plans for r in plan.refusals)
    assert guards
    assert all(guard in page for guard in guards)
    assert f"- APPLIED: {counts['APPLIED']}" in artifact()
    assert str(out) in artifact()


def test_only_the_hours_asked_for_are_told(tmp_path: Path) -> None:
    config, out = configuration(tmp_path), tmp_path / "report.html"
    plans = play(config, 60)
    reported(config, out=str(out), hours=0.25)
    recent = [plan for plan in plans if plan.tick >= plans[-1].tick - 15 * 60_000]
    assert 0 < len(recent) < len(plans)
    assert f"{len(recent)} plans, " in out.read_text(encoding="utf-8")


def test_an_empty_ledger_makes_an_empty_page(tmp_path: Path) -> None:
    config, out = configuration(tmp_path), tmp_path / "report.html"
    assert reported(config, out=str(out)) == {}
    assert "0 plans, 0 outcomes" in out.read_text(encoding="utf-8")
    assert "nothing happened" in artifact()


def test_a_forged_ledger_is_not_reported_on(tmp_path: Path) -> None:
    config, out = configuration(tmp_path), tmp_path / "report.html"
    play(config, 20)
    with sqlite3.connect(config.parent / "ledger.db") as db:
        db.execute("update entries set body = replace(body, 'shop-fra', 'shop-xxx')")
    with pytest.raises(LedgerCorrupt):
        reported(config, out=str(out))
    assert not out.exists()
