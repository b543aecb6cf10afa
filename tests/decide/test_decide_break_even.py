"""Scale-in looks ahead: a replica that is wanted again before letting it go has paid is kept."""

from __future__ import annotations

import math

import pytest
from decide_worlds import STEP, fleet, load, plans, pool, remembered, scalings, seen, situation, stock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forecastle.decide.sizing import LOOK_LIMIT, Span, break_even_s
from forecastle.settings import GuardSettings
from forecastle.types import Fleet, Inventory, Readiness

SHORT = GuardSettings(cooldown_up_s=60, stabilization_down_s=60)
"""A look-ahead of five minutes, unless starting again is dear."""
patient = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
TEN = fleet(seen("shop-fra", 10), seen("shop-ams", 10))


def priced(price: float = 0.1, startup_s: float = 60.0, **changes: object) -> Inventory:
    return stock(load(**changes), pools=[pool(site, unit_price=price, startup_s=startup_s) for site in ("fra", "ams")])


def dip(steps: int) -> list[float]:
    """Half of the demand for so many steps, then all of it again."""
    return [320.0] * steps + [640.0] * (20 - steps)


def wanted(steps: int, inventory: Inventory, state: Fleet = TEN, guards: GuardSettings = SHORT) -> int:
    return plans(situation(320, state, expected=dip(steps)), inventory, guards)[0].recommended["shop"]


@pytest.mark.parametrize(
    ("price", "move_price", "startup_s", "seconds"),
    [
        (0.1, 0.0, 60.0, 60.0),
        (0.1, 0.1, 60.0, 3660.0),
        (3600.0, 1.0, 0.0, 1.0),
        (0.5, 0.05, 30.0, 390.0),
        (0.0, 0.0, 0.0, math.inf),
    ],
)
def test_the_time_in_which_a_replica_earns_its_restart(
    price: float, move_price: float, startup_s: float, seconds: float
) -> None:
    assert break_even_s(price, move_price, startup_s) == pytest.approx(seconds)


@pytest.mark.parametrize(("seconds", "look"), [(0, 5), (300, 5), (301, 6), (1200, 20), (math.inf, LOOK_LIMIT)])
def test_it_is_looked_that_far_ahead_but_never_less_than_the_guards_ask(seconds: float, look: int) -> None:
    span = Span.of(load(), STEP, SHORT, break_even_s=seconds)
    assert (span.first, span.last, span.look) == (3, 4, look)


@pytest.mark.parametrize(("steps", "kept"), [(3, 20), (4, 20), (5, 10), (10, 10), (19, 10)])
def test_cheap_starts_look_ahead_as_the_guards_say(steps: int, kept: int) -> None:
    assert wanted(steps, priced()) == kept


@pytest.mark.parametrize(("steps", "kept"), [(4, 20), (10, 20), (11, 10), (19, 10)])
def test_a_dear_start_keeps_for_longer(steps: int, kept: int) -> None:
    """A cent and two thirds at ten cents an hour is ten minutes, and one to start up."""
    assert wanted(steps, priced(move_price=0.1 / 6)) == kept


@pytest.mark.parametrize(("steps", "kept"), [(9, 20), (10, 10)])
def test_a_slow_start_keeps_for_longer(steps: int, kept: int) -> None:
    assert wanted(steps, priced(startup_s=600.0)) == kept


def test_a_learned_start_counts_instead_of_the_configured_one() -> None:
    """Ten minutes to start as was learned: demand that is back in nine is waited for, also by the lead time."""
    told = TEN.at
    slow = tuple(
        Readiness(f"{name}-{i}", name, told - (9 - i) * STEP, 600.0) for name in ("shop-fra", "shop-ams") for i in range(9)
    )
    state = fleet(*TEN.observed.values(), readied=slow)
    assert wanted(9, priced()) == 10
    assert wanted(9, priced(), state) == 20


def test_a_replica_that_costs_nothing_is_kept_as_far_as_is_forecast() -> None:
    assert wanted(19, priced(price=0.0)) == 20


def test_the_dearest_pool_in_service_says_how_long_since_it_shrinks_first() -> None:
    uneven = stock(load(move_price=0.1), pools=[pool("fra", unit_price=1.0), pool("ams", unit_price=0.01)])
    assert wanted(6, uneven) == 20, "six minutes at a dollar and one to start"
    assert wanted(7, uneven) == 10, "not the ten hours of the cheap one"


def test_what_is_kept_says_so_and_is_not_scaled_in() -> None:
    state = fleet(seen("shop-fra", 10), seen("shop-ams", 10), recommendations=remembered(2))
    found = plans(situation(320, state, expected=dip(8)), priced(move_price=0.1), SHORT)
    assert scalings(found) == {}
    (let_go, *_) = plans(situation(320, state, expected=dip(8)), priced(), SHORT)
    assert let_go.actions, "without a price of starting, the same dip is used"
    held = plans(situation(320, state, expected=[320.0] * 8 + [500.0] * 12), priced(move_price=0.1), SHORT)
    told = [plan.evidence["shop"]["binding"] for plan in held if "shop" in plan.evidence]
    assert told == ["look-ahead: wanted again soon"]


def test_looking_ahead_orders_nothing_new() -> None:
    peak = situation(320, fleet(seen("shop-fra", 5), seen("shop-ams", 5)), expected=dip(8))
    assert plans(peak, priced(move_price=5.0), SHORT)[0].recommended["shop"] == 10


@given(st.integers(0, 19), st.floats(0, 1), st.floats(0, 1), st.floats(0, 900), st.floats(0, 900))
@patient
def test_a_dearer_or_slower_start_never_keeps_fewer(steps: int, one: float, two: float, this: float, that: float) -> None:
    cheap, dear = sorted((one, two))
    fast, slow = sorted((this, that))
    less, more = (wanted(steps, priced(startup_s=lag, move_price=price)) for lag, price in ((fast, cheap), (slow, dear)))
    assert less <= more


@given(st.integers(0, 19), st.floats(0.001, 1), st.floats(0.001, 1))
@patient
def test_a_dearer_replica_is_never_kept_for_longer(steps: int, one: float, two: float) -> None:
    low, high = sorted((one, two))
    assert wanted(steps, priced(price=high, move_price=0.02)) <= wanted(steps, priced(price=low, move_price=0.02))
