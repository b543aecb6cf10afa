"""What commitments pay for insures against the highest quantile: a replica that is paid whether used or not costs nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from decide_worlds import HORIZON, QUANTILES, fleet, load, plans, pool, scalings, seen, situation, stock
from hypothesis import given, settings
from hypothesis import strategies as st

from forecastle.decide.sizing import Metric, Size, Span, Terms, size
from forecastle.types import Demand, Domain, Inventory, Plan, SeriesKey

SPAN = Span(3, 8, 18)
DEMAND = Demand(SeriesKey("shop", "rps"), 10.0)
HALF = 10.0
"""A price of half of what unmet demand costs: the median is worth insuring, and nothing above."""


def metric(median: float, spread: float) -> Metric:
    values = np.full((20, 1), median, np.float32) * np.array([1 - spread, 1, 1 + spread, 1 + 2 * spread], np.float32)
    return Metric(DEMAND, median, QUANTILES, values)


def sized(
    paid: int, *, median: float = 80.0, spread: float = 0.5, ordered: int = 10, price: float = HALF, **changes: Any
) -> Size:
    return size(load(**changes), [metric(median, spread)], Terms(ordered, price, SPAN, paid=paid))


@pytest.mark.parametrize(
    ("paid", "wanted", "told"), [(0, 10, 0), (9, 10, 0), (10, 10, 0), (11, 11, 11), (15, 15, 15), (16, 16, 16), (99, 16, 99)]
)
def test_up_to_the_commitment_the_highest_quantile_is_insured(paid: int, wanted: int, told: int) -> None:
    """Ten by the price, sixteen by the 0.99 quantile of 160."""
    found = sized(paid)
    assert (found.wanted, found.paid) == (wanted, told)
    assert found.quantile == (0.99 if told else 0.5)
    assert (found.binding == "what commitments pay for") is (paid in {11, 15})


@given(st.integers(0, 40), st.floats(0, 25), st.floats(0, 200), st.floats(0, 1), st.integers(0, 40))
@settings(deadline=None)
def test_every_replica_is_insured_at_what_it_costs(paid: int, price: float, median: float, spread: float, ordered: int) -> None:
    """The paid ones as if they were free, the rest at the price: never fewer than either rule alone asks for."""
    world: dict[str, Any] = {"median": median, "spread": spread, "ordered": ordered}
    dear, free = sized(0, price=price, **world), sized(0, price=0.0, **world)
    found = sized(paid, price=price, **world)
    assert found.wanted == max(dear.wanted, min(free.wanted, paid))
    assert found.floor == dear.floor
    assert bool(found.paid) is (found.wanted > dear.wanted)


def test_limits_hold_and_without_a_forecast_nothing_rises() -> None:
    assert sized(99, max=12).wanted == 12
    blind = size(load(), [Metric(DEMAND, 80.0)], Terms(10, HALF, SPAN, paid=99))
    assert (blind.wanted, blind.paid) == (10, 0)
    dark = size(load(), [], Terms(10, HALF, SPAN, paid=99))
    assert (dark.wanted, dark.paid) == (10, 0)


# --- what the commitments of a workload pay for -------------------------------------------------------------------------

STATE = fleet(seen("shop-fra", 10), seen("shop-ams", 10))
WIDE = {"spread": 0.4}
"""Quantiles 0.4 apart: 640 expected are 20 replicas at 80 %, and 1152 at 0.99 just fill 29."""


def world(fra: int = 0, ams: int = 0, *, sites: tuple[str, ...] = ("fra", "ams"), **changes: Any) -> Inventory:
    """Pools whose price is half of what unmet demand costs, so many replicas of each committed."""
    pools = [pool("fra", unit_price=HALF, committed=fra), pool("ams", unit_price=HALF, committed=ams)]
    return stock(load(sites=sites, **changes), pools=pools)


def decided(inventory: Inventory, **changes: Any) -> tuple[Plan, ...]:
    found = situation(640, replace(STATE, **changes))
    paths = np.array([1 - 0.4, 1, 1 + 0.4, 1 + 0.8], np.float32) * np.full((1, HORIZON, 1), 640, np.float32)
    return plans(replace(found, forecasts=replace(found.forecasts, values=paths)), inventory)


def wanted(found: tuple[Plan, ...]) -> int:
    return max(plan.recommended["shop"] for plan in found)


def test_idle_commitments_are_used_and_cost_nothing() -> None:
    plain, paid = decided(world()), decided(world(fra=25, ams=10))
    assert (wanted(plain), scalings(plain)) == (20, {})
    assert wanted(paid) == 29
    assert scalings(paid) == {"shop-fra": (10, 15)}, "as far as one step goes"
    assert paid[-1].cost == pytest.approx(HALF * 35), "the commitments, as before"
    assert "Commitments pay for 35 replicas whether used or not" in paid[0].reason
    assert "its quantile 0.99" in paid[0].reason
    assert "Commitments" not in plain[0].reason


def test_only_what_fits_into_the_commitment_is_added() -> None:
    found = decided(world(fra=13, ams=10))
    assert wanted(found) == 23
    assert "What binds is: what commitments pay for." in found[0].reason
    assert scalings(found) == {"shop-fra": (10, 13)}


@pytest.mark.parametrize(
    ("inventory", "changes"),
    [
        (world(fra=29, min_sites=2), {}),
        (world(fra=29, survive=Domain.ZONE, survive_share=0.5), {}),
        (world(fra=29), {"down": frozenset({"fra"})}),
        (world(fra=29, residency=frozenset({"EU"})), {}),
    ],
    ids=["spread", "survival", "down", "residency"],
)
def test_a_commitment_that_the_rules_keep_it_out_of_pays_for_nothing(inventory: Inventory, changes: dict[str, Any]) -> None:
    assert all("paid" not in plan.evidence.get("shop", {}) for plan in decided(inventory, **changes))
    assert all("Commitments pay" not in plan.reason for plan in decided(inventory, **changes))


def test_a_commitment_at_every_site_pays_under_the_spread() -> None:
    found = decided(world(fra=15, ams=15, min_sites=2))
    assert wanted(found) == 29
    assert scalings(found) == {"shop-fra": (10, 14), "shop-ams": (10, 15)}
