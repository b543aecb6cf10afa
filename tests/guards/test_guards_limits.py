"""How far a pool may be scaled: boundaries of every clamp, and who wins when two disagree."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from guard_worlds import NOW, context, fleet, fresh, inventory, pool, remembered, scale, scaled, seen

from forecastle.guards.context import GuardContext, View
from forecastle.guards.judge import judge
from forecastle.settings import GuardSettings
from forecastle.types import Outcome, Recommendation, Status


def one(replicas: int, wanted: int, floor: int = 0, *, ready: int | None = None, **changes: Any) -> GuardContext:
    """A workload with a single pool; ``load``, ``pool`` and ``settings`` override, the rest changes the fleet."""
    stock = inventory(pool(**changes.pop("pool", {})), load=changes.pop("load", {}), **changes.pop("stock", {}))
    settings = GuardSettings(**changes.pop("settings", {}))
    return context(fleet(seen(replicas, ready), **changes), stock, fresh(floor, wanted), settings)


def left(ctx: GuardContext, desired: int, name: str = "shop-fra") -> tuple[int | None, list[str]]:
    """(replicas granted or None, guards that objected) when a pool is asked to have ``desired``."""
    verdict = judge(scale(desired, ctx.fleet.observed[name].replicas, name), ctx)
    return (None if verdict.action is None else int(verdict.action.desired)), [r.guard for r in verdict.refusals]


# --- tolerance ---


@pytest.mark.parametrize(
    ("current", "wanted", "granted"),
    [(10, 11, None), (10, 12, 12), (20, 22, None), (20, 23, 23), (10, 9, None), (20, 18, None), (20, 17, 18)],
)
def test_a_ratio_of_exactly_the_tolerance_holds(current: int, wanted: int, granted: int | None) -> None:
    assert left(one(current, wanted), wanted)[0] == granted


def test_what_the_floor_asks_for_is_never_too_small() -> None:
    assert left(one(10, 11, floor=11), 11) == (11, [])


def test_within_the_tolerance_growth_still_reaches_the_floor_but_not_beyond() -> None:
    assert left(one(20, 22, floor=21), 22) == (21, ["tolerance"])


def test_a_small_pool_of_a_large_workload_is_judged_by_the_workload() -> None:
    stock = inventory(pool(), pool("ams"))
    ctx = context(fleet(seen(2), seen(48, name="shop-ams")), stock, fresh(0, 55))
    assert left(ctx, 7) == (None, ["tolerance"])
    assert left(replace(ctx, view=fresh(0, 56)), 6) == (6, [])


def test_step_limits_do_not_turn_a_large_change_into_noise() -> None:
    assert left(one(40, 20), 20) == (36, ["step_down"]), "36 of 40 is within 10%, 20 of 40 is not"
    assert left(one(40, 20), 36) == (36, []), "and so it stays when judged again at the effect"


def test_a_missing_site_is_filled_whatever_the_tolerance() -> None:
    stock = inventory(pool(), pool("ams"), load={"min_sites": 2})
    ctx = context(fleet(seen(20), seen(0, name="shop-ams")), stock, fresh(0, 20))
    assert left(ctx, 1, "shop-ams") == (1, [])
    assert left(ctx, 2, "shop-ams") == (1, ["tolerance"])


def test_no_change_is_too_small_while_replicas_are_amiss() -> None:
    stock = inventory(pool(), pool("ams"))
    ctx = context(fleet(seen(20), seen(0, name="shop-ams")), stock, fresh(0, 20))
    assert left(ctx, 2, "shop-ams") == (None, ["tolerance"])
    amiss = replace(ctx, view=View.of(fresh(0, 20, amiss=10).as_evidence()))
    assert left(amiss, 2, "shop-ams") == (2, []), "and so it is when judged again at the effect"
    assert "amiss" not in fresh(0, 20).as_evidence()


# --- steps ---


@pytest.mark.parametrize(
    ("pool_size", "least"),
    [(1, None), (2, None), (3, 2), (9, 8), (10, 9), (19, 18), (20, 18), (29, 27), (100, 90)],
)
def test_percentages_of_a_step_down_round_down(pool_size: int, least: int | None) -> None:
    """floor(10%), at least 1 only if the pool has 3 or more."""
    assert left(one(pool_size, 0, load={"min": 0}), 0)[0] == least


@pytest.mark.parametrize(("pool_size", "most"), [(0, 4), (1, 5), (8, 12), (9, 13), (10, 15), (11, 16), (40, 60)])
def test_a_step_up_is_four_or_half(pool_size: int, most: int) -> None:
    assert left(one(pool_size, 90), 90) == (most, ["step_up"])


@pytest.mark.parametrize(("floor", "most"), [(90, 15), (12, 15)])
def test_the_ramp_holds_even_for_the_floor(floor: int, most: int) -> None:
    assert left(one(10, 90, floor=floor), 90)[0] == most


def test_a_step_counts_what_was_already_added_in_its_period() -> None:
    quick = {"cooldown_up_s": 1}
    assert left(one(14, 90, outcomes=(scaled(10, 14, 30),), settings=quick), 90) == (15, ["step_up"])
    assert left(one(14, 90, outcomes=(scaled(10, 14, 60),), settings=quick), 90) == (21, ["step_up"])
    assert left(one(15, 90, outcomes=(scaled(10, 15, 30),), settings=quick), 90) == (None, ["step_up"])


def test_a_step_down_counts_what_was_removed_and_gives_no_credit_for_additions() -> None:
    quick = {"cooldown_down_s": 1, "cooldown_up_s": 1}
    assert left(one(18, 0, outcomes=(scaled(20, 18, 100),), settings=quick), 10) == (None, ["step_down"])
    assert left(one(19, 0, outcomes=(scaled(20, 19, 100),), settings=quick), 10) == (18, ["step_down"])
    assert left(one(30, 0, outcomes=(scaled(20, 30, 100),), settings=quick), 10) == (27, ["step_down"])


def test_a_scaling_that_was_not_read_back_counts_as_what_is_seen_now() -> None:
    unknown = Outcome("x", Status.UNVERIFIED, NOW - 30_000, "shop-fra", scaled(1, 1, 1).kind, "shop", seen(10))
    assert left(one(14, 90, 90, outcomes=(unknown,)), 90) == (15, ["step_up"])


# --- cool-downs and stabilization ---


@pytest.mark.parametrize(("age_s", "granted"), [(61, None), (299, None), (300, 14)])
def test_time_between_two_scale_outs(age_s: int, granted: int | None) -> None:
    assert left(one(10, 14, outcomes=(scaled(8, 10, age_s),)), 14)[0] == granted


def test_the_floor_does_not_wait_for_a_cool_down() -> None:
    recent = (scaled(8, 10, 100),)
    assert left(one(10, 14, floor=12, outcomes=recent), 14) == (12, ["cool_down"])


@pytest.mark.parametrize(("age_s", "granted"), [(301, None), (599, None), (600, 18)])
def test_time_between_two_scale_ins(age_s: int, granted: int | None) -> None:
    assert left(one(20, 10, outcomes=(scaled(22, 20, age_s),)), 10)[0] == granted


def test_a_scale_out_does_not_delay_a_scale_in_nor_the_other_way_round() -> None:
    assert left(one(20, 10, outcomes=(scaled(16, 20, 310),)), 18)[0] == 18
    assert left(one(10, 14, outcomes=(scaled(11, 10, 310),)), 14)[0] == 14


def test_what_did_not_happen_starts_no_cool_down() -> None:
    for status in (Status.REFUSED, Status.DRY_RUN, Status.FAILED, Status.ALREADY):
        assert left(one(10, 14, outcomes=(scaled(8, 10, 100, status=status),)), 14)[0] == 14


def test_a_clock_that_stepped_back_ends_no_cool_down() -> None:
    assert left(one(10, 14, outcomes=(scaled(8, 10, -3600),)), 14) == (None, ["cool_down"])


def test_the_largest_recommendation_of_the_window_holds() -> None:
    old_peak = remembered(20, *[10] * 10)  # eleven minutes ago
    in_window = remembered(20, *[10] * 9)  # ten minutes ago
    assert left(one(20, 10, recommendations=old_peak), 10) == (18, ["step_down"])
    assert left(one(20, 10, recommendations=in_window), 10) == (None, ["stabilization"])
    assert left(one(20, 10, recommendations=remembered(*[19] * 10)), 10) == (19, ["stabilization"])


@pytest.mark.parametrize(("minutes", "granted"), [(0, None), (7, None), (8, 18), (10, 18)])
def test_too_short_a_memory_removes_nothing(minutes: int, granted: int | None) -> None:
    assert left(one(20, 10, recommendations=remembered(*[10] * minutes)), 10)[0] == granted


def test_recommendations_of_other_workloads_are_not_ours() -> None:
    others = tuple(Recommendation("blog", r.at, 50) for r in remembered(*[50] * 12))
    ours = remembered(*[5] * 12)
    assert left(one(20, 10, recommendations=(*others, *ours)), 10)[0] == 18


def test_an_upward_window_holds_to_its_smallest_but_not_under_the_floor() -> None:
    slow = {"stabilization_up_s": 300}
    memory = remembered(*[12, 14, 13, 16, 16])
    assert left(one(10, 16, recommendations=memory, settings=slow), 15) == (12, ["stabilization"])
    assert left(one(10, 16, floor=14, recommendations=memory, settings=slow), 15) == (14, ["stabilization"])


# --- floor, veto, spread ---


def test_scale_in_needs_floor_and_forecast_to_agree() -> None:
    assert left(one(20, 5, floor=19), 10) == (19, ["floor"])
    assert left(one(20, 19 - 1, floor=0), 10)[0] is None, "within the tolerance of the forecast's wish"
    assert left(one(30, 26, floor=0), 10) == (27, ["floor", "step_down"])


def test_replicas_that_are_still_starting_replace_nothing() -> None:
    stock = inventory(pool(), pool("ams"))
    starting = context(fleet(seen(10), seen(10, 2, name="shop-ams")), stock, fresh(10, 11))
    assert left(starting, 9) == (9, [])
    assert left(replace(starting, view=fresh(12, 12)), 9) == (None, ["floor"])
    assert left(replace(starting, view=fresh(14, 14)), 9) == (None, ["floor"]), "already too few are ready"


def test_the_workloads_minimum_is_a_floor() -> None:
    assert left(one(10, 1, load={"min": 10}), 5) == (None, ["floor"])


def test_a_pool_at_a_dead_site_replaces_nothing() -> None:
    stock = inventory(pool(), pool("ams"))
    ctx = context(fleet(seen(10), seen(10, name="shop-ams"), down=frozenset({"ams"})), stock, fresh(8, 8))
    assert left(ctx, 5) == (9, ["floor", "step_down"]), "8 of the 10 in service are needed"
    assert left(replace(ctx, view=fresh(10, 10)), 5)[0] is None


def test_latency_or_errors_veto_a_scale_in() -> None:
    ctx = one(20, 5)
    vetoed = replace(ctx, view=replace(ctx.view, vetoed="error_rate is 0.1, above 0.02"))
    assert left(vetoed, 10) == (None, ["veto"])
    assert left(replace(one(10, 20), view=replace(vetoed.view, wanted=20)), 14)[0] == 14, "it vetoes no scale-out"


def test_a_workload_stays_at_its_sites() -> None:
    stock = inventory(pool(), pool("ams"), load={"min_sites": 2, "min": 0})
    free = {"step_down_fraction": 1.0}
    ctx = context(fleet(seen(5), seen(5, name="shop-ams")), stock, fresh(0, 1), GuardSettings(**free))
    assert left(ctx, 0) == (1, ["spread"])
    alone = inventory(pool(), pool("ams"), load={"min_sites": 1, "min": 0})
    assert left(replace(ctx, inventory=alone), 0) == (0, [])


# --- hard limits ---


@pytest.mark.parametrize(
    ("limits", "most"), [({"max": 12}, 12), ({"quota": 11}, 11), ({"max": 12, "quota": 11}, 11), ({"max": 10}, None)]
)
def test_maximum_and_quota_bind_even_the_floor(limits: dict[str, int], most: int | None) -> None:
    granted, guards = left(one(10, 20, floor=20, pool=limits), 20)
    assert granted == most
    assert guards[-1] == "limits"


def test_the_minimum_of_a_pool() -> None:
    assert left(one(20, 5, pool={"min": 19}), 5) == (19, ["step_down", "limits"])
    assert left(one(20, 5, pool={"min": 20}), 5) == (None, ["step_down", "limits"])


def test_a_pool_below_its_minimum_is_filled_without_asking_the_soft_brakes() -> None:
    low = one(2, 2, pool={"min": 4}, outcomes=(scaled(1, 2, 100),))
    assert left(low, 4) == (4, [])


def test_the_maximum_of_the_workload_counts_all_its_pools() -> None:
    stock = inventory(pool(), pool("ams"), load={"max": 17})
    ctx = context(fleet(seen(10), seen(5, name="shop-ams")), stock, fresh(0, 30))
    assert left(ctx, 15) == (12, ["limits"])
    granted = replace(ctx, accepted=(scale(6, 5, "shop-ams"),))
    assert left(granted, 15) == (11, ["limits"]), "what this tick already granted counts"


def test_a_pool_above_its_maximum_comes_down_in_steps() -> None:
    assert left(one(20, 20, pool={"max": 10}), 10) == (None, ["floor"]), "not while all of it is needed"
    assert left(one(20, 12, pool={"max": 10}), 10) == (18, ["floor", "step_down"])


def test_budgets_clamp_and_say_so() -> None:
    price = {"pool": {"unit_price": 0.5}}
    assert left(one(10, 20, load={"budget_per_hour": 6.0}, **price), 14) == (12, ["money"])
    assert left(one(10, 20, load={"budget_per_hour": 5.0}, **price), 14) == (None, ["money"])
    assert left(one(10, 20, stock={"budget_per_hour": 6.6}, **price), 14) == (13, ["money"])
    verdict = judge(scale(14, 10), one(10, 20, floor=20, load={"budget_per_hour": 6.0}, **price))
    assert "budget of shop is 6 per hour" in verdict.refusals[-1].why
    assert verdict.action is not None
    assert verdict.action.desired == 12, "money binds even the floor"


@pytest.mark.parametrize(
    ("budget", "committed", "at", "granted"),
    [
        (0.0, 12, None, 12),
        (1.0, 14, None, 14),
        (1.0, 10, None, None),
        (1.35, 12, None, 13),
        (1.0, 4, 0.025, 13),
        (1.0, 4, 0.2, None),
    ],
)
def test_what_is_committed_is_paid_already(budget: float, committed: int, at: float | None, granted: int | None) -> None:
    paid = {"unit_price": 0.1, "committed": committed, "committed_price": at}
    assert left(one(10, 20, load={"budget_per_hour": budget}, pool=paid), 14)[0] == granted


@pytest.mark.parametrize(
    ("budget", "committed", "granted"),
    [(3.6, 0, 12), (3.0, 0, None), (4.2, 0, 14), (3.5, 12, 11), (3.9, 12, 13), (3.1, 20, None), (3.2, 20, 11), (3.8, 20, 14)],
)
def test_egress_counts_in_budgets_and_is_all_that_committed_replicas_cost(
    budget: float, committed: int, granted: int | None
) -> None:
    """A replica costs 0.1 and sends for 0.2, so ten cost 3; twelve committed ones 1.2 whether used or not, and 0.2 in use."""
    paid: dict[str, Any] = {"unit_price": 0.1, "committed": committed}
    if committed == 20:
        paid["committed_price"] = 0.05
    ctx = one(10, 20, load={"budget_per_hour": budget, "egress_gb_h": 2.0}, pool=paid)
    sites = {name: replace(site, egress_price=0.1) for name, site in ctx.inventory.sites.items()}
    assert left(replace(ctx, inventory=replace(ctx.inventory, sites=sites)), 14)[0] == granted


def test_the_fleets_budget_counts_what_this_tick_already_spent() -> None:
    ctx = one(10, 20, stock={"budget_per_hour": 1.4})
    assert left(ctx, 14) == (14, [])
    assert left(replace(ctx, spent=0.25), 14) == (11, ["money"])


def test_a_budget_already_passed_stops_growth_but_removes_nothing() -> None:
    assert left(one(10, 20, load={"budget_per_hour": 0.1}), 14) == (None, ["money"])


def test_what_costs_nothing_is_never_too_dear() -> None:
    assert left(one(10, 20, load={"budget_per_hour": 0.0}, pool={"unit_price": 0.0}), 14) == (14, [])


def test_every_default_of_the_contract() -> None:
    s = GuardSettings()
    assert (s.tolerance, s.step_up_replicas, s.step_up_fraction, s.step_up_s) == (0.1, 4, 0.5, 60)
    assert (s.step_down_fraction, s.step_down_min_pool, s.step_down_s) == (0.1, 3, 300)
    assert (s.stabilization_down_s, s.stabilization_up_s, s.cooldown_up_s, s.cooldown_down_s) == (600, 0, 300, 600)
    assert (s.dark_s, s.ejection_fraction, s.panic_fraction, s.panic_clear_s) == (300, 0.1, 0.2, 300)
    assert (s.heals_per_domain_h, s.heals_global_h, s.quorum, s.escalation_attempts, s.escalation_s) == (3, 20, 2, 2, 1800)
    assert (s.repeat_symptoms, s.repeat_symptom_h, s.large_fraction) == (3, 24, 0.2)
