"""A site is lost while the loop runs over the simulated cloud: its load is elsewhere in the same tick, inside the residency."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from failover_worlds import LOST, START, STEP, TICKS, Make, houses, plain, report, tick, workload

from forecastle.decide.validate import violations
from forecastle.errors import Denied, NotFound
from forecastle.types import Kind, Severity


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    with houses(tmp_path) as build:
        yield build


# --- reported by a person -------------------------------------------------------------------------------------------


def test_the_load_of_a_site_that_is_reported_down_is_elsewhere_at_the_next_tick(make: Make) -> None:
    house = make(workload("shop", 1), workload("mail", 9))
    house.run(report(house))
    before, after = house.held(LOST), house.held(LOST + 2)
    assert set(before) == {"shop-fra", "mail-fra"}, "it is the cheapest place that is allowed"
    assert {pool for pool, (was, now) in house.scaled(LOST + 1).items() if now > was} == {"shop-ams", "mail-ams"}
    assert min(after["shop-ams"], before["shop-fra"]) >= 20
    assert min(after["mail-ams"], before["mail-fra"]) >= 12
    assert not [pool for pool in after if pool.endswith(("ohio", "bare"))], "cheaper, but outside the residency"
    assert after["shop-fra"] == before["shop-fra"], "nothing is taken away where nobody can see what it would do"


def test_nothing_else_is_done_about_a_site_that_is_down(make: Make) -> None:
    house = make(workload("shop", 1))
    house.run(report(house))
    for number in range(LOST + 1, TICKS - 1):
        assert not [pool for pool in house.scaled(number) if pool == "shop-fra"]
        situation = house.turn(number).situation
        assert situation is not None
        assert situation.fleet.down == {"fra"}
        assert situation.fleet.held == frozenset(), "that it is down holds nothing"


def test_a_site_that_is_back_is_used_again(make: Make) -> None:
    house = make(workload("shop", 1))
    ledger = house.loop.rooms.ledger
    house.loop.listeners.append(lambda t: ledger.report_up("fra", "bob") if t.closed.tick == tick(LOST + 3) else None)
    house.run(report(house))
    situation = house.turn(LOST + 4).situation
    assert situation is not None
    assert situation.fleet.down == frozenset()
    assert "fra down" not in house.reasons(LOST + 4)


def test_the_report_survives_a_restart_and_names_its_person(make: Make) -> None:
    house = make(workload("shop", 1))
    ledger = house.loop.rooms.ledger
    ledger.report_down("fra", "fire", "ann")
    assert ledger.held("down:fra") == "down:fra is held by ann: fire"
    assert ledger.snapshot(START, {}).down == {"fra"}
    with pytest.raises(NotFound):
        ledger.report_up("ams", "ann")
    for site, who in (("", "ann"), ("fra", " ")):
        with pytest.raises(Denied):
            ledger.report_down(site, "fire", who)
    ledger.report_up("fra", "bob")
    assert ledger.snapshot(START, {}).down == frozenset()


# --- detected -------------------------------------------------------------------------------------------------------


def test_a_site_that_goes_silent_is_drained_and_replaced_in_the_tick_that_finds_it(make: Make) -> None:
    """Of one the cloud agrees that nothing is ready there; of the other it does not, and two people are asked."""
    long = {"window": {"look_back": 120, "lateness_s": 0}, "detect": {"model": "", "look_back": 90, "warmup": 60, "season": 0}}
    house = make(plain("shop", 1), workload("mail", 9), dark="fra", ticks=120, lost=105, **long)
    house.at(104, lambda: house.fail(only="shop"))
    house.run()
    found = next(t for t in house.turns if any(i.workload == "*" and i.site == "fra" for i in t.closed.incidents))
    (incident,) = [i for i in found.closed.incidents if i.site == "fra"]
    assert incident.severity is Severity.CRITICAL
    number = (found.closed.tick - START) // STEP
    assert set(house.scaled(number)) >= {"shop-ams", "mail-ams"}
    after = house.held(number + 1)
    assert after["shop-ams"] >= 20
    assert after["mail-ams"] >= 12
    assert not [pool for pool in after if pool.endswith(("ohio", "bare"))]
    assert house.sent(number) == {"shop-web-fra": (0, "APPLIED"), "mail-fra": (0, "waits")}
    (waiting,) = [plan for plan in found.plans if any(a.pool == "mail-fra" for a in plan.actions)]
    assert waiting.approvals == 2, "what the cloud calls ready is more than a fifth of the workload"
    assert "Site fra is down (site fra: 3 workloads silent together" in house.reasons(number)


# --- when there is not enough ---------------------------------------------------------------------------------------


def test_a_site_too_small_for_all_goes_to_the_most_important_first(make: Make) -> None:
    small = {"ams": {"capacity": 24.0}}
    house = make(workload("shop", 1), workload("mail", 9), sites=small)
    house.run(report(house))
    after = house.held(LOST + 2)
    assert after["mail-ams"] >= 12, "the most important has what it wants"
    assert after["mail-ams"] + after["shop-ams"] == 24
    assert "ohio" not in " ".join(after)
    assert "shop: " in house.reasons(LOST + 1)
    assert "what it may use is full" in house.reasons(LOST + 1)
    assert "mail: " not in house.reasons(LOST + 1).partition("The placement says")[2]


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        ({"min_sites": 2}, "on 1 of 2 sites (fra down)"),
        ({"survive": "provider", "survive_share": 0.5}, "the loss of gcp would leave fewer than"),
        ({"population": {"de": 1.0}, "max_latency_ms": 20}, "users in de are not all served within 20 ms"),
    ],
)
def test_the_least_that_gives_way_is_named_and_residency_never_does(make: Make, rules: dict[str, Any], says: str) -> None:
    near = {"fra": {"latency_ms": {"de": 5.0}}, "ams": {"latency_ms": {"de": 50.0}}, "ohio": {"latency_ms": {"de": 5.0}}}
    house = make(workload("shop", 1, **rules), sites=near)
    house.run(report(house))
    after = house.held(LOST + 2)
    assert after["shop-ams"] >= 20, "the load is served although the rule is not"
    assert not [pool for pool in after if pool.endswith(("ohio", "bare"))]
    assert says in house.reasons(LOST + 1)
    assert says not in house.reasons(LOST - 1)


def test_with_no_place_left_inside_the_residency_a_human_is_told_and_nothing_leaves_it(make: Make) -> None:
    house = make(workload("shop", 1, sites=("fra", "ohio", "bare")))
    house.run(report(house))
    after = house.held(LOST + 2)
    assert set(after) == {"shop-fra"}
    pages = [a for plan in house.turn(LOST + 1).plans for a in plan.actions if a.kind is Kind.NOTIFY]
    assert any(a.replica == "not_placed" and "0 of " in str(a.desired) for a in pages)


def test_every_placement_of_a_run_with_a_loss_keeps_the_rules(make: Make) -> None:
    """The second opinion, at every tick of the run."""
    from forecastle.decide.offers import Need
    from forecastle.decide.place import place

    house = make(workload("shop", 1), workload("mail", 9), sites={"ams": {"capacity": 40.0}})
    house.run(report(house))
    stock = house.loop.rooms.inventory
    for turned in house.turns:
        situation = turned.situation
        if situation is None:
            continue
        wanted = {name: count for plan in turned.plans for name, count in plan.recommended.items()}
        needs = [Need(name, count) for name, count in sorted(wanted.items())]
        down = situation.fleet.down
        found = place(needs, stock, situation.fleet, down=down)
        assert violations(found, needs, stock, situation.fleet, down=down) == []
