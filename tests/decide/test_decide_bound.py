"""Every plan says which rule binds its placement and what would change it: one case for each rule."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from decide_worlds import SITES, actions, fleet, load, plans, pool, scalings, seen, situation, stock
from hypothesis import given, settings
from hypothesis import strategies as st
from place_worlds import random_fleet

from forecastle.decide.explain import _REMEDIES, explain, remedy, why
from forecastle.decide.offers import Need
from forecastle.decide.place import place
from forecastle.decide.planner import QUIET
from forecastle.types import Domain, Inventory, Kind, Plan, Pool, SeriesKey, Site

NEAR = {
    "fra": replace(SITES["fra"], latency_ms={"de": 5.0, "us": 90.0}),
    "ams": replace(SITES["ams"], latency_ms={"de": 60.0, "us": 80.0}),
    "ohio": replace(SITES["ohio"], latency_ms={"de": 90.0, "us": 5.0}),
}
EVERYWHERE = ("fra", "ams", "ohio")


def told(wanted: float, *pools: Pool, sites: dict[str, Site] | None = None, money: float | None = None, **rules: Any) -> str:
    """The reasons of the plans that are made at 10 replicas in fra when demand is going to be ``wanted`` replicas' worth."""
    inventory = stock(load(sites=EVERYWHERE, **rules), pools=pools, budget_per_hour=money)
    inventory = replace(inventory, sites=NEAR if sites is None else sites)
    state = fleet(seen("shop-fra", 10), seen("shop-ams", 0), seen("shop-ohio", 0))
    return " ".join(plan.reason for plan in plans(situation(320, state, expected=32 * wanted), inventory))


CHEAP, DEAR = pool("fra", unit_price=0.05), pool("ams", unit_price=0.2)


@pytest.mark.parametrize(
    ("pools", "rules", "says"),
    [
        ((replace(CHEAP, max=11), DEAR), {}, "the max 11 of shop-fra: a larger one would be used"),
        ((replace(CHEAP, quota=11), DEAR), {}, "the quota 11 of shop-fra: a larger one would be used"),
        ((CHEAP, DEAR), {"min_sites": 2}, "min_sites 2: without it more would be at fra"),
        ((replace(CHEAP, spot=True), DEAR), {"spot_share": 0.25}, "spot_share 0.25: without it more would be at fra"),
        (
            (CHEAP, DEAR),
            {"population": {"us": 0.5, "de": 0.5}, "max_latency_ms": 20},
            "max_latency_ms 20 of users in us: without it more would be at fra",
        ),
        (
            (CHEAP, DEAR),
            {"survive": Domain.PROVIDER, "survive_share": 0.3},
            "survive provider: without it more would be at fra",
        ),
    ],
    ids=["max", "quota", "min_sites", "spot", "latency", "survive"],
)
def test_the_rule_that_binds_is_named_with_what_it_costs(pools: tuple[Pool, ...], rules: dict[str, Any], says: str) -> None:
    assert f"Where shop is placed is bound by {says}" in (text := told(14, *pools, **rules)), text


def test_a_full_site_binds() -> None:
    full = NEAR | {"fra": replace(NEAR["fra"], capacity=11.0)}
    assert "bound by the capacity of fra: more of it would be used" in told(14, CHEAP, DEAR, sites=full)


def test_where_nothing_binds_nothing_is_said() -> None:
    text = told(14, CHEAP, DEAR)
    assert "is bound by" not in text
    assert "What would change that" not in text


@pytest.mark.parametrize(
    ("pools", "rules", "note", "change"),
    [
        ((), {"budget_per_hour": 1.2}, "12 of 16 replicas: the budget is spent", "a larger budget_per_hour, its own or"),
        (
            (*(pool(site, max=4, quota=4) for site in ("ams", "ohio")), pool("fra", max=10, quota=10)),
            {"residency": frozenset({"EU"})},
            "0 of 16 replicas: what it may use is full",
            "a larger max, quota or site capacity, or another site inside its residency",
        ),
        (
            tuple(pool(site, max=2, quota=2) for site in ("ams", "ohio")),
            {"min_sites": 3},
            "more than an even share of 3 sites is at fra",
            "room at its other sites, or a smaller min_sites",
        ),
        (
            tuple(pool(site, max=2, quota=2) for site in ("ams", "ohio")),
            {"survive": Domain.PROVIDER, "survive_share": 0.5},
            "the loss of aws would leave fewer than",
            "room in other domains, or a smaller survive_share",
        ),
        (
            tuple(pool(site, max=3, quota=3) for site in ("ohio",)),
            {"population": {"us": 1.0}, "max_latency_ms": 20},
            "users in us are not all served within 20 ms",
            "room near these users, or a larger max_latency_ms",
        ),
        (
            (pool("fra", spot=True), *(pool(site, max=2, quota=2) for site in ("ams", "ohio"))),
            {"spot_share": 0.25},
            "more than 25% is on spot",
            "room that is not on spot, or a larger spot_share",
        ),
    ],
    ids=["budget", "room", "spread", "survive", "latency", "spot"],
)
def test_what_gave_way_is_told_with_what_would_change_it(
    pools: tuple[Pool, ...], rules: dict[str, Any], note: str, change: str
) -> None:
    text = told(16, *pools, **rules)
    assert note in text, text
    assert change in text.partition("What would change that: ")[2]
    assert "residency" not in text.partition("What would change that")[2].replace("inside its residency", "")


def test_the_plan_that_acts_tells_what_gave_way_for_its_own_workloads() -> None:
    inventory = stock(load(budget_per_hour=2.2), load("mail", ("fra",)), pools=[pool("fra", "mail", max=2, quota=2)])
    state = fleet(seen("shop-fra", 10), seen("shop-ams", 10), seen("mail-fra", 2))
    found = plans(situation(640, state, expected=900), inventory)
    (acting,) = [plan for plan in found if plan.actions and plan.actions[0].kind is Kind.SCALE]
    assert scalings(found), "it grows as far as the money reaches"
    assert "shop: 22 of 29 replicas: the budget is spent" in acting.reason
    assert "mail: " not in acting.reason


def test_the_paragraph_names_forecast_quantile_what_binds_cost_and_change() -> None:
    state = fleet(seen("shop-fra", 10), seen("shop-ams", 10))
    plan = plans(situation(640, state, expected=768), stock(load(min_sites=2), pools=[pool("ams", unit_price=0.05)]))[0]
    parts = ("expects 768", "its quantile", "What binds is:", "Afterwards the fleet costs", "One fewer would do below")
    assert [part for part in parts if part not in plan.reason] == []
    assert "\n" not in plan.reason
    assert plan.reason in explain(plan)


@pytest.mark.parametrize(
    ("binding", "change"),
    [
        ("the loss of any zone must be survived", "a smaller survive_share"),
        ("planned: launch", "when the occasion is over"),
        ("planned factor", "a smaller factor of the occasion"),
        ("what commitments pay for", "where less is committed"),
        ("latency target", "a larger latency_target_s"),
        ("look-ahead: wanted again soon", "no longer asks for"),
        ("no forecast: hold", "when there is a forecast again"),
        ("the workload's minimum", "Only the workload's minimum"),
        ("the workload's maximum", "Only the workload's maximum"),
        ("reactive floor", "One fewer would do below demand"),
        ("expected utilization", "One fewer would do below expected demand"),
        ("forecast quantile", "One fewer would do below insured demand"),
    ],
)
@pytest.mark.parametrize("text", ["{}", "within tolerance of what is ordered ({})"])
def test_whatever_binds_it_says_what_would_change_it(binding: str, change: str, text: str) -> None:
    state = fleet(seen("shop-fra", 10), seen("shop-ams", 10))
    evidence = plans(situation(640, state, expected=768))[0].evidence["shop"]
    assert change in why("shop", evidence | {"binding": text.format(binding)})


def test_survival_that_binds_says_so_in_the_plan() -> None:
    state = fleet(seen("shop-fra", 10), seen("shop-ams", 5))
    (plan,) = plans(situation(320, state), stock(load(survive=Domain.ZONE)))
    assert "What binds is: the loss of any zone must be survived." in plan.reason
    assert "Fewer would do with a smaller survive_share" in plan.reason


def test_a_quiet_plan_tells_forecast_quantile_and_what_binds() -> None:
    (plan,) = plans(situation(640, fleet(seen("shop-fra", 10), seen("shop-ams", 10))))
    assert "sized by model@1 (1), the quantile is 0.99, and what binds is reactive floor (1)." in plan.reason
    assert plan.evidence["shop"] == {
        "ordered": 20,
        "wanted": 20,
        "binding": "reactive floor",
        "quantile": 0.99,
        "demand": 640.0,
        "median": 640.0,
        "peak": 768.0,
        "model": "model@1",
    }


def test_a_quiet_plan_of_many_workloads_stays_small() -> None:
    names = [f"w{i:04}" for i in range(400)]
    inventory = stock(load(), *(load(name, ("fra",), priority=name == "w0399") for name in names))
    state = fleet(seen("shop-fra", 10), seen("shop-ams", 10), *(seen(f"{name}-fra", 10) for name in names))
    (plan,) = plans(situation(640, state, others={SeriesKey(name, "rps"): 320.0 for name in names}), inventory)
    assert len(plan.evidence) == QUIET
    assert next(iter(plan.evidence)) == "w0399", "the most important first"
    assert "within the tolerance: 401. They are sized by model@1 (401)" in plan.reason
    assert len(msgspec.json.encode(plan.evidence)) < 200 * QUIET
    assert len(plan.recommended) == 401


def test_what_binds_is_in_the_evidence_and_survives_a_replay() -> None:
    inventory = stock(load(min_sites=2), pools=[pool("ams", unit_price=0.05)])
    now = situation(640, fleet(seen("shop-fra", 10), seen("shop-ams", 10)), expected=768)
    first, again = plans(now, inventory), plans(now, inventory)
    assert first == again
    bound = [plan.evidence["shop"].get("bound") for plan in first if plan.actions]
    assert bound == 2 * [["min_sites 2: without it more would be at ams"]], "one plan for each domain that grows"


@pytest.mark.parametrize(("mark", "change"), _REMEDIES)
def test_every_remedy_is_for_a_note_that_exists(mark: str, change: str) -> None:
    notes = {
        "budget is spent": "shop: 1 of 2 replicas: the budget is spent",
        "may use is full": "shop: 1 of 2 replicas: what it may use is full",
        " sites is at ": "shop: more than an even share of 2 sites is at fra",
        " sites": "shop: on 1 of 2 sites (ams down)",
        "is on spot": "shop: more than 50% is on spot",
        "served within": "shop: users in de are not all served within 20 ms",
        "the loss of": "shop: the loss of aws would leave fewer than 3 replicas",
        "below its minimum": "shop: shop-fra is below its minimum: its site is full",
    }
    assert list(remedy([notes[mark]])) == [f"What would change that: {change}."]


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10**9), st.booleans())
def test_every_note_of_a_random_fleet_has_a_remedy_and_no_rule_is_told_without_reason(seed: int, tight: bool) -> None:
    needs, inventory, state = random_fleet(seed, 5, 5, tight=tight)
    found = place(needs, inventory, state)
    for note in found.notes:
        assert list(remedy([note])), note
    for name, rules in found.bound.items():
        assert len(set(rules)) == len(rules) > 0
        load_ = inventory.workloads[name]
        for rule in rules:
            assert not rule.startswith("min_sites") or load_.min_sites > 1
            assert not rule.startswith("survive") or load_.survive is not None
            assert not rule.startswith("max_latency_ms") or load_.max_latency_ms is not None


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**9))
def test_a_limit_that_is_told_to_bind_makes_it_cheaper_when_it_is_raised(seed: int) -> None:
    needs, inventory, state = random_fleet(seed, 1, 4)
    plain = {name: replace(p, min=0, committed=0) for name, p in inventory.pools.items()}
    loads = {n: replace(w, budget_per_hour=None, egress_gb_h=0, move_price=0) for n, w in inventory.workloads.items()}
    inventory = replace(inventory, pools=plain, workloads=loads)
    found = place(needs, inventory, state)
    (rules,) = found.bound.values() if found.bound else [()]
    for rule in rules:
        if not rule.startswith(("the max", "the quota")) or found.notes or len(rules) > 1:
            continue
        name = rule.partition(" of ")[2].partition(":")[0]
        more = replace(plain[name], max=99, quota=99)
        wider: Inventory = replace(inventory, pools=plain | {name: more})
        risk = any(p.spot for p in plain.values())
        assert risk or place(needs, wider, state).cost < found.cost


def test_pages_name_only_what_gave_way() -> None:
    inventory = stock(load(budget_per_hour=2.0), pools=[pool("ams", unit_price=0.05)])
    found = plans(situation(640, fleet(seen("shop-fra", 10), seen("shop-ams", 10)), expected=1600), inventory)
    assert all("is bound by" not in str(page.desired) for page in actions(found, Kind.NOTIFY))


def test_needs_of_nobody_are_bound_by_nothing() -> None:
    inventory = stock(load())
    found = place([Need("shop", 0)], inventory, fleet(seen("shop-fra", 0), seen("shop-ams", 0)))
    assert found.bound == {}
    assert isinstance(plans(situation(0, fleet(seen("shop-fra", 1), seen("shop-ams", 1))))[0], Plan)
