"""The dashboard's questions are understood by a real ledger in PostgreSQL, and have the answers they should."""

import json
from pathlib import Path
from typing import Any

import psycopg
import pytest

from forecastle.ledger.store import SqlLedger
from forecastle.types import Action, Kind, Outcome, Plan, Refusal, Status

DASHBOARD = Path(__file__).parents[2] / "deploy" / "grafana" / "dashboards" / "forecastle.json"
TICK = 1_760_000_040_000
PANELS = {p["title"]: p for p in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]}
ASKED = {title: panel["targets"][0]["rawSql"] for title, panel in PANELS.items() if panel["datasource"]["type"] == "postgres"}


def asked(url: str, sql: str) -> list[tuple[Any, ...]]:
    """Rows of a panel's query, Grafana's two macros written out as Grafana does."""
    at = TICK // 1000
    sql = sql.replace("$__unixEpochFrom()", str(at - 3600)).replace("$__unixEpochTo()", str(at + 3600))
    assert "$" not in sql
    with psycopg.connect(url) as conn:
        return conn.execute(sql.encode()).fetchall()


@pytest.mark.parametrize("url", ["postgres"], indirect=True)
def test_every_panel_answers_from_the_ledger(ledger: SqlLedger, url: str) -> None:
    action = Action(Kind.SCALE, "shop", "shop-a", 5, 3, TICK, TICK + 60_000)
    refusal = Refusal("step_up", "at most 5", "shop-a", "shop")
    plan = Plan("p1", TICK, "aws/eu/a", (action,), "more demand", {}, (refusal,), {"shop": 7}, 1.5, TICK + 300_000, 1)
    ledger.record(TICK, "w", [plan])
    ledger.intend(action, epoch=ledger.lease("shop-a", "w", 60))
    ledger.conclude(Outcome(action.id, Status.APPLIED, TICK, "shop-a", Kind.SCALE, "shop"))
    ledger.request(plan, "w", 1)
    ledger.approve("p1", "ann")
    ledger.kill("storm", "bob")
    rows = {title: asked(url, sql) for title, sql in ASKED.items()}
    assert [row[1:] for row in rows["Replicas recommended, before guards"]] == [("shop", 7)]
    assert [row[1:] for row in rows["Outcomes per 5 minutes"]] == [("APPLIED", 1)]
    assert rows["Refusals by guard"] == [("step_up", 1)]
    assert [row[1:] for row in rows["Newest plans"]] == [("p1", "aws/eu/a", 1, 1, "more demand")]
    assert [row[:3] for row in rows["Held by people (* is the kill switch)"]] == [("*", "storm", "bob")]
    assert [row[:4] for row in rows["Plans that wait for approval"]] == [("p1", "w", 1, 1)]
