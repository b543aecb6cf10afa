"""An incident with a threat among its evidence: quarantine only with somebody's approval, and never a restart."""

from __future__ import annotations

from dataclasses import replace

import pytest
from decide_worlds import anomaly, fleet, incident, plans, playbook, seen, situation, stock

from forecastle.types import Action, Incident, Kind

THREAT = incident(anomalies=(replace(anomaly(), evidence={"threat": "*auth*fail*"}),))


def proposed(found: Incident, kind: Kind, asked: str) -> list[Action]:
    state = fleet(seen("shop-fra", 20, 19, unhealthy=("r7",)), seen("shop-ams", 20))
    books = (playbook(kind, approval=asked),)
    made = plans(situation(1280, state, incidents=(found,)), stock(playbooks=books))
    return [action for plan in made for action in plan.actions if action.kind is kind]


@pytest.mark.parametrize(("asked", "given"), [("A", "B"), ("B", "B"), ("C", "C")])
def test_a_quarantine_of_a_threat_needs_a_person_at_least(asked: str, given: str) -> None:
    assert {action.approval for action in proposed(THREAT, Kind.QUARANTINE, asked)} == {given}


def test_without_a_threat_the_playbook_decides() -> None:
    assert {action.approval for action in proposed(incident(), Kind.QUARANTINE, "A")} == {"A"}


def test_a_threat_restarts_nothing_even_where_a_replica_is_unhealthy() -> None:
    assert proposed(incident(), Kind.RESTART, "A")
    assert proposed(THREAT, Kind.RESTART, "A") == []
