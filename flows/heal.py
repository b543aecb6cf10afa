"""The heal flow: carry out what the ledger already holds for an incident. An event only wakes it; it is never authority.

In ``auto`` mode the worker heals by itself within the tick. This flow is for what had to wait: plans whose approval arrived
later, and intents a dead worker left behind.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task

from forecastle.runtime.config import load
from forecastle.runtime.wiring import resume_plans


@task(name="resume-recorded-plans")
async def resume(configs: Sequence[str], flags: Sequence[str], workload: str) -> list[dict[str, str]]:
    """Execute approved, unexpired plans of ``workload`` (all when empty) from the ledger; one row per outcome."""
    settings = load([Path(c) for c in configs], flags=flags)
    return [
        {"action": o.action_id, "pool": o.pool, "kind": o.kind.value, "status": o.status.value, "detail": o.detail}
        for o in resume_plans(settings, workload)
    ]


@flow(name="heal")
async def heal(
    incident: str = "",
    workload: str = "",
    configs: Sequence[str] = ("configs",),
    flags: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Finish what the ledger has planned. ``incident`` is only logged: what may be done is decided by the ledger."""
    outcomes = await resume(configs, flags, workload)
    get_run_logger().info("incident %s: %d outcomes from the ledger: %s", incident or "-", len(outcomes), outcomes)
    return outcomes
