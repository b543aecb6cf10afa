"""A site is lost: its traffic is taken away in the tick that places its load elsewhere, and given back when it is back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from failover_worlds import LOST, House, Make, houses, plain, report, workload

from forecastle.types import Action, Kind

LAST = LOST + 11


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    with houses(tmp_path) as build:
        yield build


def lost(house: House) -> None:
    house.fail()
    report(house)()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A loss that is reported, taken back after four ticks and over after seven; ``news`` has no traffic to drain."""
    with houses(tmp_path_factory.mktemp("house")) as build:
        found = build(plain("shop", 1), plain("mail", 9), plain("news", 5) | {"traffic": []}, ticks=LAST + 1)
        found.at(LOST + 4, lambda: found.loop.rooms.ledger.report_up("fra", "bob"))
        found.at(LOST + 7, found.restore)
        found.run(lambda: lost(found))
        yield found


def test_the_tick_that_hears_of_a_loss_drains_the_site_and_places_its_load_elsewhere(house: House) -> None:
    assert house.sent(LOST) == {}
    assert {pool for pool, (was, now) in house.scaled(LOST + 1).items() if now > was} == {"shop-ams", "mail-ams", "news-ams"}
    assert house.sent(LOST + 1) == {"mail-web-fra": (0, "APPLIED"), "shop-web-fra": (0, "APPLIED")}
    assert [a.workload for a in house.actions(LOST + 1, Kind.DRAIN)] == ["mail", "shop"], "the most important first"
    assert house.weights(LOST + 2) == {"shop-web-fra": 0, "shop-web-ams": 100, "mail-web-fra": 0, "mail-web-ams": 100}
    plans = house.turn(LOST + 1).plans
    assert all(len({house.loop.rooms.inventory.domain(a.pool) for a in plan.actions}) <= 1 for plan in plans)
    assert all(plan.approvals == 0 for plan in plans)


def test_the_explanation_names_the_site_the_person_and_the_reason(house: House) -> None:
    drain = next(plan for plan in house.turn(LOST + 1).plans if any(a.kind is Kind.DRAIN for a in plan.actions))
    assert "fra is down (ann: the provider says so): its traffic is taken away." in drain.reason
    said = house.explained(LOST + 1)
    assert "Site fra is down (ann: the provider says so): of mail, mail-web-fra is to be drained;" in said
    assert "- drain shop-web-fra (0)" in said
    assert "scale shop-ams" in said
    assert "of shop, shop-web-fra is drained" in house.explained(LOST + 3)
    assert "drain" not in house.explained(LOST)


def test_where_no_adapter_has_a_weight_the_plan_says_so_and_nothing_is_invented(house: House) -> None:
    assert "of news, its adapters there have no traffic weight, so nothing can be drained" in house.explained(LOST + 1)
    assert not [a for n in range(LAST) for a in house.actions(n, Kind.DRAIN, Kind.SHIFT) if a.workload == "news"]


def test_while_it_is_down_nothing_is_drained_twice(house: House) -> None:
    assert [house.sent(n) for n in range(LOST + 2, LOST + 5)] == [{}, {}, {}]


def test_a_site_that_is_back_gets_its_traffic_again_once_something_is_ready_there(house: House) -> None:
    assert [house.sent(n) for n in (LOST + 5, LOST + 6, LOST + 7)] == [{}, {}, {}]
    assert "Site fra is back: of mail, mail-web-fra gets its traffic when something is ready there;" in house.reasons(LOST + 6)
    assert house.sent(LOST + 8) == {"mail-web-fra": (100, "APPLIED"), "shop-web-fra": (100, "APPLIED")}
    assert "fra is back: its traffic is given back." in house.explained(LOST + 8)
    assert set(house.weights(LOST + 9).values()) == {100}
    situation = house.turn(LOST + 9).situation
    assert situation is not None
    assert situation.fleet.drained == {}
    assert [house.sent(n) for n in range(LOST + 9, LAST)] == [{}] * (LAST - LOST - 9)


def test_a_recorded_tick_gives_the_same_plans_again(house: House) -> None:
    rooms = house.loop.rooms
    for number in (LOST + 1, LOST + 6, LOST + 8):
        turned = house.turn(number)
        assert turned.situation is not None
        assert rooms.decide(turned.situation) == turned.plans


def test_who_changed_a_weight_meanwhile_keeps_it(make: Make) -> None:
    """The simulated cloud has weights of its own, as an edge has where replicas and traffic are one thing."""
    house = make(workload("shop", 1), ticks=LAST + 1)
    cloud, pool = house.loop.rooms.clouds["sim"], house.loop.rooms.inventory.pools["shop-fra"]

    def by_hand(percent: int) -> None:
        version = cloud.observe(pool).version
        cloud.apply(Action(Kind.SHIFT, "shop", pool.name, percent, version, 0, 0), pool, token=f"hand{percent}")

    house.at(LOST + 2, lambda: by_hand(30))
    house.at(LOST + 5, house.restore)
    house.at(LOST + 5, lambda: house.loop.rooms.ledger.report_up("fra", "bob"))
    house.at(LOST + 8, lambda: by_hand(0))
    house.run(lambda: lost(house))
    assert house.sent(LOST + 1) == {"shop-fra": (0, "APPLIED")}
    assert "somebody gave shop-fra 30 % since it was drained, so it is left alone" in house.reasons(LOST + 4)
    assert [house.sent(n) for n in range(LOST + 2, LAST)] == [{}] * (LAST - LOST - 2)
    assert house.weights(LAST - 1)["shop-fra"] == 0, "drained by hand, long after: nobody gives that back"
