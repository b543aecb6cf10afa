"""Yes or no, guard by guard: each refusal names its guard and says why."""

from __future__ import annotations

from dataclasses import replace

import pytest
from guard_worlds import NOW, context, fleet, fresh, heal, inventory, pool, scale, scaled, seen

from forecastle.guards.context import GuardContext, View
from forecastle.guards.judge import ORDER, judge
from forecastle.types import Action, Kind, Mode


def stock(**load: object):
    return inventory(pool(), pool("ams"), load=load)


def state(fra: int = 10, ams: int = 5, **changes: object):
    return fleet(seen(fra), seen(ams, name="shop-ams"), **changes)


def refused_by(action: Action, ctx: GuardContext) -> str:
    """Guard that struck the action; '' when it was granted as asked."""
    verdict = judge(action, ctx)
    if verdict.action is not None:
        assert verdict.action == action
        assert not verdict.refusals
        return ""
    assert verdict.refusals[-1].why
    assert verdict.refusals[-1].pool == action.pool
    return verdict.refusals[-1].guard


GROW = scale(14, 10)
SHRINK = scale(9, 10)
HEAL = heal()
WANT_MORE = fresh(0, 30)
WANT_LESS = fresh(0, 5)


def test_nothing_stands_against_what_is_sound() -> None:
    assert refused_by(GROW, context(state(), stock(), WANT_MORE)) == ""
    assert refused_by(SHRINK, context(state(), stock(), WANT_LESS)) == ""
    assert refused_by(HEAL, context(state(), stock(), WANT_LESS)) == ""


@pytest.mark.parametrize(
    "action",
    [
        scale(14, 10, name=""),
        scale(14, 10, name="*"),
        scale(14, 10, workload="other"),
        replace(GROW, desired=-1),
        replace(GROW, desired="14"),
        replace(GROW, desired=True),
        replace(GROW, replica="r1"),
        replace(HEAL, replica="*"),
    ],
)
def test_an_empty_match_all_or_malformed_target_is_an_error(action: Action) -> None:
    assert refused_by(action, context(state(), stock(), WANT_MORE)) == "target"


@pytest.mark.parametrize("value", ["", "  ", "*", "shop-?"])
def test_a_pool_whose_target_matches_everything_is_an_error(value: str) -> None:
    loose = inventory(pool(target={"deployment": value}), pool("ams"))
    assert refused_by(GROW, context(state(), loose, WANT_MORE)) == "target"


def test_a_pool_of_another_workload_is_an_error() -> None:
    two = inventory(pool(), pool("ams"), pool("fra", "blog"))
    assert refused_by(scale(14, 10, workload="blog"), context(state(), two, WANT_MORE)) == "target"


def test_the_deadline_itself_is_still_in_time() -> None:
    on_time, late = replace(GROW, deadline=NOW), replace(GROW, deadline=NOW - 1)
    assert refused_by(on_time, context(state(), stock(), WANT_MORE)) == ""
    assert refused_by(late, context(state(), stock(), WANT_MORE)) == "deadline"


@pytest.mark.parametrize("action", [GROW, SHRINK, HEAL, heal(Kind.NOTIFY)])
def test_the_kill_switch_stops_everything(action: Action) -> None:
    assert refused_by(action, context(state(killed="freeze (ann)"), stock(), WANT_LESS)) == "kill_switch"


@pytest.mark.parametrize("name", ["shop", "shop-fra", "fra", "aws/eu-central-1/a"])
def test_a_hold_covers_workload_pool_site_and_domain(name: str) -> None:
    held = state(held=frozenset({name}))
    assert refused_by(GROW, context(held, stock(), WANT_MORE)) == "hold"
    assert refused_by(HEAL, context(held, stock(), WANT_MORE)) == "hold"
    assert refused_by(heal(Kind.NOTIFY), context(held, stock(), WANT_MORE)) == "", "people can still be told"


def test_what_cannot_be_observed_is_not_touched() -> None:
    blind = fleet(seen(5, name="shop-ams"))
    assert refused_by(GROW, context(blind, stock(), WANT_MORE)) == "unknown_state"
    assert refused_by(heal(Kind.NOTIFY), context(blind, stock(), WANT_MORE)) == ""


def test_a_change_by_someone_else_is_yielded_to() -> None:
    assert refused_by(scale(14, 9), context(state(), stock(), WANT_MORE)) == "external_change"
    assert refused_by(heal(expected="v0"), context(state(), stock(), WANT_MORE)) == "external_change"


def test_one_action_in_flight_per_target() -> None:
    assert refused_by(GROW, context(state(in_flight=frozenset({"shop-fra"})), stock(), WANT_MORE)) == "in_flight"
    assert refused_by(GROW, context(state(in_flight=frozenset({"shop-ams"})), stock(), WANT_MORE)) == ""


@pytest.mark.parametrize(
    ("first", "second", "free"),
    [
        (heal(), GROW, False),
        (GROW, heal(), False),
        (heal(replica="r1"), heal(replica="r1"), False),
        (heal(replica="r1"), heal(), False),
        (heal(), heal(replica="r1"), False),
        (heal(replica="r1"), heal(Kind.REPLACE, replica="r2"), True),
        (heal(Kind.NOTIFY), GROW, True),
        (GROW, heal(Kind.NOTIFY), True),
    ],
)
def test_one_action_per_target_and_tick(first: Action, second: Action, free: bool) -> None:
    ctx = context(fleet(seen(10), seen(90, name="shop-ams"), seen(30, name="shop-fra2")), stock(), WANT_MORE, accepted=(first,))
    roomy = replace(ctx, settings=ctx.settings.model_copy(update={"ejection_fraction": 1.0}), facts=ctx.facts)
    assert refused_by(second, roomy) == ("" if free else "in_flight")


def test_an_inventory_jump_freezes_the_domain_and_only_that() -> None:
    stock_ = inventory(pool(), pool("ams"))
    vanished = state(fra=4, outcomes=(scaled(10, 10, 900),))
    assert refused_by(scale(8, 4), context(vanished, stock_, WANT_MORE)) == "inventory_jump"
    assert refused_by(scale(9, 5, name="shop-ams"), context(vanished, stock_, WANT_MORE)) == ""
    exactly_half = state(fra=5, outcomes=(scaled(10, 10, 900),))
    assert refused_by(scale(9, 5), context(exactly_half, stock_, WANT_MORE)) == ""


def test_at_a_dead_site_nothing_is_scaled_or_healed_but_it_may_be_emptied() -> None:
    ctx = context(state(down=frozenset({"fra"})), stock(), WANT_MORE)
    assert refused_by(GROW, ctx) == "site_down"
    assert refused_by(HEAL, ctx) == "site_down"
    assert refused_by(heal(Kind.DRAIN, desired=0), ctx) == ""
    detected = context(state(), stock(), replace(WANT_MORE, down=frozenset({"fra"})))
    assert refused_by(GROW, detected) == "site_down"


def test_nothing_grows_outside_the_residency_and_leaving_is_free() -> None:
    abroad = inventory(pool("ohio"), pool("fra"), load={"residency": frozenset({"EU"})})
    found = fleet(seen(10, name="shop-ohio"), seen(10))
    assert refused_by(scale(14, 10, name="shop-ohio"), context(found, abroad, WANT_MORE)) == "residency"
    assert refused_by(scale(9, 10, name="shop-ohio"), context(found, abroad, fresh(2, 10))) == ""
    assert refused_by(heal(Kind.SHIFT, "shop-ohio", desired=30), context(found, abroad, WANT_MORE)) == "residency"
    assert refused_by(heal(Kind.SHIFT, "shop-ohio", desired=0), context(found, abroad, WANT_MORE)) == ""


def test_a_site_that_names_no_jurisdiction_is_outside_every_residency() -> None:
    nameless = inventory(pool(), load={"residency": frozenset({"EU"})})
    sites = {"fra": replace(nameless.sites["fra"], residency=frozenset())}
    assert refused_by(GROW, context(fleet(seen(10)), replace(nameless, sites=sites), WANT_MORE)) == "residency"


@pytest.mark.parametrize("view", [replace(WANT_LESS, late=True), replace(WANT_LESS, suspect=True)])
def test_data_that_cannot_be_trusted_neither_shrinks_nor_heals(view: View) -> None:
    guard = "missing_data" if view.late else "suspect_data"
    assert refused_by(SHRINK, context(state(), stock(), view)) == guard
    assert refused_by(HEAL, context(state(), stock(), view)) == guard
    assert refused_by(heal(Kind.NOTIFY), context(state(), stock(), view)) == ""


def test_without_trust_growth_needs_a_second_source() -> None:
    seconded = replace(WANT_MORE, late=True, sources=1)
    alone = replace(WANT_MORE, late=True, sources=0)
    assert refused_by(GROW, context(state(), stock(), seconded)) == ""
    assert refused_by(GROW, context(state(), stock(), alone)) == "missing_data"


def test_without_data_a_minimum_is_still_reached() -> None:
    stock_ = stock(min=17)
    verdict = judge(GROW, context(state(), stock_, View()))
    assert verdict.action is not None
    assert verdict.action.desired == 12, "17 less the 5 elsewhere"
    assert [r.guard for r in verdict.refusals] == ["missing_data"]


def test_the_default_view_knows_nothing_and_denies() -> None:
    assert refused_by(SHRINK, context(state(), stock(), View())) == "missing_data"
    assert refused_by(GROW, context(state(), stock(), View.of(None))) == "missing_data"
    assert refused_by(HEAL, context(state(), stock(), View.of({"wanted": 3}))) == "missing_data"


def test_a_view_survives_the_ledger() -> None:
    view = View(3, 5, 2, False, True, "errors", frozenset({"b", "a"}))
    assert View.of(view.as_evidence()) == view


def test_shadow_recommends_and_says_what_it_would_have_done() -> None:
    ctx = context(state(), stock(mode=Mode.SHADOW), WANT_MORE)
    verdict = judge(scale(30, 10), ctx)
    assert verdict.action is None
    assert [r.guard for r in verdict.refusals] == ["step_up", "mode"]
    assert "10 -> 15" in verdict.refusals[-1].why, "after every other guard"
    assert refused_by(heal(Kind.NOTIFY), ctx) == ""


def test_a_promotion_overrides_the_configured_mode_both_ways() -> None:
    assert refused_by(GROW, context(state(modes={"shop": Mode.AUTO}), stock(mode=Mode.SHADOW), WANT_MORE)) == ""
    assert refused_by(GROW, context(state(modes={"shop": Mode.SHADOW}), stock(), WANT_MORE)) == "mode"


@pytest.mark.parametrize(("age_s", "guard"), [(0, "warm_up"), (599, "warm_up"), (600, ""), (-60, "warm_up")])
def test_the_first_window_after_a_start_only_recommends(age_s: int, guard: str) -> None:
    warming = state(started_at=NOW - age_s * 1000)
    assert refused_by(GROW, context(warming, stock(), WANT_MORE)) == guard
    assert refused_by(heal(Kind.NOTIFY), context(warming, stock(), WANT_MORE)) == ""


def test_every_guard_is_in_the_order_once_and_documented() -> None:
    names = [guard.__name__ for guard in ORDER]
    assert len(set(names)) == len(names) == 34
    assert all(guard.__doc__ for guard in ORDER)
