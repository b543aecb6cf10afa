"""Start-up lags: learned from enough orders, used in place of what was configured, and said so."""

from __future__ import annotations

from dataclasses import replace

import pytest
from decide_worlds import NOW, STEP, fleet, incident, load, outcome, plans, playbook, seen, situation, stock
from hypothesis import given
from hypothesis import strategies as st

from forecastle.decide.heal import remedies
from forecastle.decide.lag import MIN_ORDERS, NEWEST, Lag, lead_time_s, learned, with_lags
from forecastle.decide.sights import Tick
from forecastle.settings import DecideSettings, GuardSettings
from forecastle.types import Kind, Readiness

TEN = fleet(seen("shop-fra", 10), seen("shop-ams", 10))


def took(*lags_s: float, name: str = "shop-fra") -> tuple[Readiness, ...]:
    """Orders of a pool that took these seconds, an hour apart, the last one a minute ago."""
    first = NOW - STEP - (len(lags_s) - 1) * 60 * STEP
    return tuple(Readiness(f"{name}-{i}", name, first + i * 60 * STEP, lag) for i, lag in enumerate(lags_s))


# --- learning ---


def test_it_takes_enough_orders() -> None:
    few = replace(TEN, readied=took(*[90.0] * (MIN_ORDERS - 1)))
    assert learned(few) == {}
    assert learned(replace(TEN, readied=took(*[90.0] * MIN_ORDERS))) == {"shop-fra": Lag(90.0, MIN_ORDERS)}


@pytest.mark.parametrize(
    ("lags", "seconds"),
    [([*range(10, 110, 10)], 100), ([30] * 9 + [600], 600), ([30] * 19 + [600], 30), ([50, 40, 30, 20, 10, 60, 80, 70], 80)],
)
def test_it_is_a_lag_that_one_order_in_ten_exceeds(lags: list[float], seconds: float) -> None:
    """With few orders the next larger one counts, so that the quantile is never below its name."""
    found = learned(replace(TEN, readied=took(*lags)))["shop-fra"]
    assert found.seconds == seconds
    assert sum(lag > found.seconds for lag in lags) <= 0.1 * len(lags)


def test_only_the_newest_orders_count() -> None:
    old, new = [900.0] * 40, [45.0] * NEWEST
    assert learned(replace(TEN, readied=took(*old, *new))) == {"shop-fra": Lag(45.0, NEWEST)}


def test_pools_learn_apart_and_a_clock_that_stepped_back_teaches_nothing() -> None:
    both = took(*[90.0] * 8) + took(*[-5.0] * 20, name="shop-ams")
    assert set(learned(replace(TEN, readied=both))) == {"shop-fra"}


@given(st.lists(st.floats(0, 1e4), min_size=MIN_ORDERS, max_size=80), st.floats(0, 500))
def test_slower_orders_never_teach_a_shorter_lag(lags: list[float], more: float) -> None:
    before, after = (learned(replace(TEN, readied=took(*found)))["shop-fra"] for found in (lags, [v + more for v in lags]))
    assert after.seconds >= before.seconds


# --- using ---


def test_the_inventory_starts_up_as_was_learned_and_is_else_the_same() -> None:
    plain = stock()
    assert with_lags(plain, {}) is plain
    assert with_lags(plain, {"gone": Lag(9.0, 9)}) is plain
    found = with_lags(plain, {"shop-fra": Lag(200.0, 9)})
    assert [found.pools[name].startup_s for name in ("shop-fra", "shop-ams")] == [200.0, 60.0]
    assert replace(found, pools=plain.pools) == plain


@pytest.mark.parametrize(
    ("lags", "lead"),
    [
        ({}, 180.0),
        ({"a": Lag(100, 9)}, 180.0),
        ({"a": Lag(300, 9)}, 360.0),
        ({"a": Lag(60, 9), "b": Lag(20, 9)}, 120.0),
        ({"a": Lag(20, 9), "b": Lag(300, 9), "c": Lag(9000, 9)}, 360.0),
    ],
)
def test_the_lead_time_is_the_slowest_pools_and_a_step(lags: dict[str, Lag], lead: float) -> None:
    """Until every pool is learned, it is no less than what is configured; pools of others do not matter."""
    assert lead_time_s(load(), ("a", "b"), lags, 60.0) == lead


def test_a_workload_without_a_pool_in_service_keeps_its_lead_time() -> None:
    assert lead_time_s(load(), (), {"a": Lag(300, 9)}, 60.0) == 180.0


def test_slow_pools_make_the_forecast_be_read_further_ahead() -> None:
    """Demand doubles ten minutes from now: too far for a lead time of three, in time for one of nine."""
    course = [640.0] * 10 + [1280.0] * 10
    slow = replace(TEN, readied=took(*[500.0] * 10))
    guards = GuardSettings(cooldown_up_s=120)
    before, after = (plans(situation(640, s, expected=course), guards=guards)[0] for s in (TEN, slow))
    assert (before.recommended["shop"], after.recommended["shop"]) == (20, 40)
    assert after.evidence["shop"]["lead_time_s"] == 560.0


def test_fast_pools_order_later() -> None:
    quick = took(*[30.0] * 10) + took(*[20.0] * 10, name="shop-ams")
    guards = GuardSettings(cooldown_up_s=60)
    course = [640.0] * 3 + [1280.0] * 17
    before, after = (
        plans(situation(640, s, expected=course), guards=guards)[0].recommended["shop"]
        for s in (TEN, replace(TEN, readied=quick))
    )
    assert (before, after) == (40, 20), "a lead time of three minutes has to order now, one of a minute and a half can wait"


def test_the_plan_says_what_was_learned_and_from_how_many() -> None:
    slow = replace(TEN, readied=took(*[200.0] * 12))
    (plan,) = plans(situation(960, slow), guards=GuardSettings(step_up_fraction=1.0))
    assert plan.evidence["shop"]["startup"] == {"shop-fra": {"p90_s": 200.0, "orders": 12}}
    assert "Start-up lags are learned: shop-fra 200 s (90 % of 12 orders)." in plan.reason


def test_a_plan_without_learned_lags_says_nothing_about_them() -> None:
    plan = plans(situation(960, TEN))[0]
    assert "startup" not in plan.evidence["shop"]
    assert "Start-up" not in plan.reason


def test_a_replay_of_the_same_situation_learns_the_same() -> None:
    found = situation(960, replace(TEN, readied=took(50, 70, 60, 90, 40, 80, 75, 300, 20)))
    assert plans(found) == plans(found)


@pytest.mark.parametrize(("lag_s", "again"), [(60.0, True), (110.0, True), (130.0, False), (300.0, False)])
def test_a_remedy_is_given_the_learned_time_to_show(lag_s: float, again: bool) -> None:
    """Restarted seven minutes ago, five to settle: whether the start-up is over too is what was learned."""
    restarted = outcome(Kind.RESTART, "shop-fra", 420, before=seen("shop-fra", 10), after=seen("shop-fra", 10))
    state = replace(TEN, outcomes=(restarted,), readied=took(*[lag_s] * 10))
    found = situation(640, state, incidents=[incident(opened_at=NOW - 600_000)])
    made = Tick.of(found, stock(playbooks=[playbook(Kind.RESTART)]), DecideSettings(), GuardSettings())
    (remedy,) = remedies(made)
    assert bool(remedy.actions) is again
