"""Sizing: the three needs at their boundaries, what binds, and what holds whatever the forecast says."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from decide_worlds import QUANTILES, load
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forecastle.decide.capacity import replicas_for
from forecastle.decide.sizing import Metric, Size, Span, Terms, critical_quantile, path, reactive, size
from forecastle.settings import GuardSettings
from forecastle.types import Demand, SeriesKey

SPAN = Span(3, 8, 18)
patient = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""The machine may be busy: only results count."""
DEMAND = Demand(SeriesKey("shop", "rps"), 10.0)
OTHER = Demand(SeriesKey("shop", "queue"), 5.0)


def metric(value: float, *course: float, spread: float = 0.0, demand: Demand = DEMAND) -> Metric:
    """A metric whose median takes the ``course`` step by step (its last value from there on); none: no forecast."""
    if not course:
        return Metric(demand, value)
    medians = np.array([*course, *[course[-1]] * (20 - len(course))], np.float32)
    values = np.stack([medians * (1 + spread * i) for i in range(-1, 3)], axis=1).astype(np.float32)
    return Metric(demand, value, QUANTILES, values)


def sized(*metrics: Metric, ordered: int = 10, price: float = 0.1, **changes: object) -> Size:
    return size(load(**changes), metrics, Terms(ordered, price, SPAN))


# --- the parts ---


@pytest.mark.parametrize(("price", "unmet", "quantile"), [(0.1, 20, 0.995), (1, 2, 0.5), (0, 5, 1.0), (5, 5, 0.0), (9, 5, 0.0)])
def test_the_quantile_follows_from_the_two_prices(price: float, unmet: float, quantile: float) -> None:
    assert critical_quantile(price, unmet) == pytest.approx(quantile)


@pytest.mark.parametrize(
    ("demand", "capacity", "replicas"),
    [(0, 10, 0), (-5, 10, 0), (1, 10, 1), (10, 10, 1), (10.1, 10, 2), (float(np.float32(3.3)) * 10, 3.3, 10)],
)
def test_replicas_round_up_but_not_for_float_noise(demand: float, capacity: float, replicas: int) -> None:
    assert replicas_for(demand, capacity) == replicas


@pytest.mark.parametrize(
    ("value", "ordered", "asked"),
    [(80, 10, 10), (88, 10, 10), (88.1, 10, 12), (72, 10, 10), (71.9, 10, 9), (0, 10, 0), (80, 0, 10), (1, 0, 1)],
)
def test_the_reactive_rule_holds_within_the_tolerance(value: float, ordered: int, asked: int) -> None:
    """At a target of 8 per replica, 80 is exactly what 10 carry."""
    assert reactive(value, 8.0, ordered, 0.1) == asked


@pytest.mark.parametrize(
    ("lead_s", "step_ms", "span"),
    [(180, 60_000, (3, 8, 18)), (90, 60_000, (1, 6, 16)), (30, 60_000, (0, 5, 15)), (60, 300_000, (0, 1, 3))],
)
def test_the_span_is_lead_time_then_cool_down_then_stabilization(lead_s: float, step_ms: int, span: tuple[int, ...]) -> None:
    found = Span.of(load(lead_time_s=lead_s), step_ms, GuardSettings())
    assert (found.first, found.last, found.look) == span


@pytest.mark.parametrize(
    ("level", "value"), [(0.1, 90), (0.5, 100), (0.7, 105), (0.9, 110), (0.945, 115), (0.0, 90), (0.999, 120)]
)
def test_a_path_interpolates_between_quantiles_and_is_clipped_into_them(level: float, value: float) -> None:
    found = path(metric(0, 100, spread=0.1), level)
    assert found is not None
    assert found.tolist() == pytest.approx([value] * 20, rel=1e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_path_that_is_not_finite_is_none(bad: float) -> None:
    assert path(metric(0, 100, bad), 0.5) is None
    assert path(metric(0), 0.5) is None


def test_a_path_is_never_negative() -> None:
    found = path(metric(0, -5, 3), 0.5)
    assert found is not None
    assert found.min() == 0


# --- what binds ---


def test_expected_utilization_binds_when_the_forecast_is_sure() -> None:
    found = sized(metric(80, 160))
    assert (found.floor, found.wanted, found.forecast) == (10, 20, 20)
    assert found.binding == "expected utilization"
    assert (found.metric, found.demand, found.median, found.peak) == ("rps", 80, 160, 160)


def test_the_insured_quantile_binds_when_it_is_not() -> None:
    found = sized(metric(80, 160, spread=0.5))
    assert found.binding == "forecast quantile"
    assert found.wanted == 32, "160 x 2 at full replicas, not at utilization"
    assert found.quantile == 0.99, "the critical ratio of 0.995, clipped to what was forecast"


def test_a_dear_replica_insures_less() -> None:
    found = sized(metric(80, 160, spread=0.5), price=10.0)
    assert (found.quantile, found.binding, found.wanted) == (0.5, "expected utilization", 20)


def test_the_reactive_floor_binds_when_more_is_there_than_was_forecast() -> None:
    found = sized(metric(160, 10))
    assert (found.floor, found.wanted, found.binding) == (20, 20, "reactive floor")


def test_demand_after_the_growth_span_orders_nothing_but_keeps_what_is_there() -> None:
    calm, crowd = [40.0] * 10, [160.0]
    assert sized(metric(40, *calm, *crowd), ordered=5).wanted == 5
    kept = sized(metric(40, *calm, *crowd), ordered=18)
    assert (kept.wanted, kept.binding) == (18, "look-ahead: wanted again soon")
    assert sized(metric(40, *calm, *crowd), ordered=30).wanted == 20, "no more than it will be wanted"
    assert sized(metric(40, *[40.0] * 18, 160.0), ordered=18).wanted == 5, "beyond the look-ahead it is too far away"


def test_demand_before_the_lead_time_cannot_be_helped_any_more() -> None:
    assert sized(metric(80, 400, 400, 400, 80), ordered=10).wanted == 10


def test_without_a_forecast_it_may_grow_but_not_shrink() -> None:
    assert sized(metric(160)).wanted == 20
    held = sized(metric(8))
    assert (held.floor, held.wanted, held.binding) == (1, 10, "no forecast: hold")


def test_without_a_trusted_metric_it_holds() -> None:
    found = sized(ordered=7)
    assert (found.floor, found.wanted, found.metric) == (0, 7, "")
    assert sized(ordered=0, min=3).wanted == 3


def test_the_metric_with_the_largest_need_wins() -> None:
    found = sized(metric(80, 80), metric(100, 200, demand=OTHER))
    assert (found.wanted, found.metric) == (50, "queue")
    assert found.floor == 25


def test_one_metric_without_a_forecast_forbids_shrinking() -> None:
    found = sized(metric(8, 8), metric(4, demand=OTHER))
    assert (found.wanted, found.binding) == (10, "no forecast: hold")


def test_the_workloads_bounds_have_the_last_word() -> None:
    low, high = sized(metric(8, 8), ordered=1, min=4), sized(metric(800, 800), max=30)
    assert (low.wanted, low.binding) == (4, "the workload's minimum")
    assert (high.wanted, high.binding) == (30, "the workload's maximum")


# --- whatever the numbers ---

demands = st.floats(0, 1e5, allow_nan=False)
courses = st.lists(st.floats(0, 1e5), min_size=1, max_size=20)
wild = st.lists(st.sampled_from([math.nan, math.inf, -1e30, 0.0, 1e-30, 5.0, 1e6]), min_size=1, max_size=20)
orders = st.integers(0, 500)


@given(demands, courses, orders, st.floats(1.0, 3.0), st.floats(0, 0.5))
@patient
def test_more_load_never_wants_less(value: float, course: list[float], ordered: int, factor: float, spread: float) -> None:
    less = sized(metric(value, *course, spread=spread), ordered=ordered)
    more = sized(metric(value * factor, *(v * factor for v in course), spread=spread), ordered=ordered)
    assert more.wanted >= less.wanted
    assert more.floor >= less.floor


@given(demands, wild, orders)
@patient
def test_the_floor_holds_whatever_the_forecast_is(value: float, course: list[float], ordered: int) -> None:
    found = sized(metric(value, *course), ordered=ordered)
    assert found.wanted >= min(reactive(value, 8.0, ordered, 0.1), 1000)
    assert 1 <= found.wanted <= 1000


@given(demands, st.sampled_from([math.nan, math.inf]), orders)
@patient
def test_a_broken_forecast_is_no_forecast(value: float, bad: float, ordered: int) -> None:
    broken, none = sized(metric(value, bad), ordered=ordered), sized(metric(value), ordered=ordered)
    assert replace(broken, quantile=none.quantile) == none


@given(demands, courses, orders, st.floats(0.01, 19), st.floats(0.01, 19))
@patient
def test_a_dearer_replica_never_wants_more(value: float, course: list[float], ordered: int, one: float, two: float) -> None:
    cheap, dear = sorted((one, two))
    found = [sized(metric(value, *course, spread=0.3), ordered=ordered, price=price).wanted for price in (cheap, dear)]
    assert found[0] >= found[1]


@given(demands, courses, st.integers(0, 500), st.integers(0, 500))
@patient
def test_what_is_ordered_is_at_most_kept_never_a_reason_for_more(
    value: float, course: list[float], few: int, many: int
) -> None:
    low, high = sorted((few, many))
    exact = replace(Terms(low, 0.1, SPAN), tolerance=0.0)
    found = [size(load(), [metric(value, *course)], replace(exact, ordered=n)).wanted for n in (low, high)]
    assert found[0] <= found[1] <= max(found[0], high)
