"""The heal flow finishes what the ledger holds and nothing else: an event is never authority to act."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from flow_worlds import START, STEP, configuration, ledger_of, orders, play

from flows.heal import heal
from forecastle.types import Action, Kind, Plan, Status

pytestmark = pytest.mark.usefixtures("prefect_server")
TICKS = 12


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return configuration(tmp_path, mode="advise")


def healed(config: Path, **arguments: Any) -> list[dict[str, Any]]:
    return asyncio.run(heal(configs=[str(config)], **arguments))


def waiting(config: Path) -> Plan:
    """The newest plan that waits for a person, after a short run."""
    plans = [plan for plan in play(config, TICKS) if plan.actions and plan.approvals]
    assert plans
    assert orders(config) == [], "nothing happens without the person"
    return plans[-1]


def approve(config: Path, plan: Plan, *people: str) -> None:
    ledger = ledger_of(config, plan.tick)
    for person in people:
        ledger.approve(plan.id, person)
    ledger.close()


def test_an_approved_plan_is_carried_out_once(config: Path) -> None:
    plan = waiting(config)
    approve(config, plan, "ann")
    rows = healed(config, incident="i1")
    assert [(row["pool"], row["kind"], row["status"]) for row in rows] == [
        (a.pool, "scale", Status.APPLIED.value) for a in plan.actions
    ]
    assert [token for token, _ in orders(config)] == [a.id for a in plan.actions]
    healed(config)
    assert len(orders(config)) == len(plan.actions), "told twice, done once"


def test_an_incident_alone_authorizes_nothing(config: Path) -> None:
    waiting(config)
    assert healed(config, incident="critical") == []
    assert orders(config) == []


def test_a_plan_that_expired_is_not_carried_out(config: Path) -> None:
    plan = waiting(config)
    play(config, TICKS + 8)
    approve(config, plan, "ann")
    assert healed(config) == []
    assert orders(config) == []


def test_only_the_workload_asked_for(config: Path) -> None:
    plan = waiting(config)
    approve(config, plan, "ann")
    assert healed(config, workload="blog") == []
    assert len(healed(config, workload="shop")) == len(plan.actions)


def test_the_kill_switch_is_checked_at_the_effect(config: Path) -> None:
    plan = waiting(config)
    approve(config, plan, "ann")
    (config.parent / "KILL").write_text("stop")
    rows = healed(config)
    assert {row["status"] for row in rows} == {Status.REFUSED.value}
    assert orders(config) == []


def test_an_intent_that_a_dead_worker_left_behind_is_reconciled(tmp_path: Path) -> None:
    """What can be seen says that the effect did not happen: the intent ends, and nothing is done on its word."""
    config = configuration(tmp_path)
    play(config, TICKS)
    now = START + (TICKS - 4) * STEP
    ledger = ledger_of(config, now)
    orphan = Action(Kind.SCALE, "shop", "shop-fra", 99, 1, now, now + 300_000)
    assert ledger.intend(orphan, epoch=ledger.lease(orphan.target, "dead", 0.001))
    ledger.close()
    before = orders(config)
    (row,) = healed(config)
    assert (row["action"], row["status"]) == (orphan.id, Status.REFUSED.value)
    again = ledger_of(config)
    assert again.unfinished() == ()
    again.verify()
    again.close()
    assert orders(config) == before
