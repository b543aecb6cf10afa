"""The oracle leaves nothing unmet and nobody who leaves nothing is cheaper."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from forecastle.rehearsal.bounds import Oracle, StaticPeak, full_cover, priced_cover
from forecastle.rehearsal.simulate import PoolModel, at_start, simulate
from forecastle.rehearsal.trace import STEP_S, Demand


def demand_of(values):
    values = np.asarray(values, float)
    return Demand(np.arange(len(values)) * STEP_S * 1000, values, np.ones(len(values), bool), 0, 60.0)


def outcome(orders, values, lead, start, price):
    """Cost in replica-steps plus priced shortfall of an order plan, slowly."""
    history = [start] * lead + list(orders)
    total = 0.0
    for step, value in enumerate(values):
        ready = min(history[step : step + lead + 1])
        total += orders[step] + price * max(0.0, value - ready)
    return total


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=6), st.integers(0, 3), st.sampled_from([1.5, 3.0, 8.0]))
def test_the_priced_oracle_is_the_cheapest_plan_of_all(values, lead, price):
    pool = PoolModel(1.0, lead * STEP_S, min=0, max=3)
    values = np.array(values, float)
    start = at_start(values, pool)
    found = priced_cover(values, pool, price)
    best = min(outcome(plan, values, lead, start, price) for plan in itertools.product(range(4), repeat=len(values)))
    assert outcome(found.tolist(), values, lead, start, price) <= best + 1e-9


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=6), st.integers(0, 3))
def test_full_cover_is_the_cheapest_plan_without_unmet_demand(values, lead):
    pool = PoolModel(1.0, lead * STEP_S, min=0, max=3)
    values = np.array(values, float)
    start = at_start(values, pool)
    plan = full_cover(values, pool).tolist()
    assert outcome(plan, values, lead, start, 1e6) == sum(plan)
    best = min(outcome(other, values, lead, start, 1e6) for other in itertools.product(range(4), repeat=len(values)))
    assert sum(plan) <= best


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 500), min_size=2, max_size=80), st.integers(0, 8))
def test_the_oracle_in_the_loop_serves_everything(values, lead):
    line = simulate(Oracle(), demand_of(values), PoolModel(7.0, lead * STEP_S))
    assert line.unmet.sum() == 0


def test_a_lower_price_of_unmet_demand_never_costs_more():
    draw = np.random.default_rng(5)
    values = np.abs(np.cumsum(draw.normal(0, 3, 600))) + 5
    line = simulate(Oracle((float("inf"), 100.0, 10.0, 2.0)), demand_of(values), PoolModel(4.0, 60.0))
    assert (np.diff(line.total_cost) <= 1e-9).all()
    assert (np.diff(line.unmet_share) >= -1e-12).all()


def test_static_peak_is_the_peak_of_the_test_span_only():
    values = np.array([90.0, 80, 10, 20, 30])
    demand = Demand(np.arange(5) * 15_000, values, np.ones(5, bool), 2, 60.0)
    line = simulate(StaticPeak((0.5, 1.0)), demand, PoolModel(10.0, 30.0))
    assert line.desired.tolist() == [[2, 3]] * 3
