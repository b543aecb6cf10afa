"""The closed loop against a slow one that moves single replicas."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecastle.errors import ConfigError
from forecastle.rehearsal.bounds import Given
from forecastle.rehearsal.simulate import PoolModel, simulate
from forecastle.rehearsal.trace import STEP_S, Demand, Trace, auto_capacity, on_clock


def demand_of(values, first=0, known=None):
    values = np.asarray(values, float)
    at = np.arange(len(values)) * STEP_S * 1000
    return Demand(at, values, np.ones(len(values), bool) if known is None else np.asarray(known), first, 60.0)


class Wishes:
    """A policy that wants what it is told, whatever happens."""

    def __init__(self, *plans):
        self.plan = np.array(plans).T
        self.name, self.notes = "wishes", ()
        self.knobs = tuple(str(k) for k in range(self.plan.shape[1]))

    def prepare(self, demand, pool):
        return Given(self.plan)


def slow(values, wishes, capacity, lead, low, high):
    """Replica by replica: each is a number, the step from which it serves. Returns (ordered, ready, unmet) per step."""
    begin = max(min(max(-(-v // capacity), low), high) for v in values[: lead + 1])
    replicas = [0] * int(begin)
    rows = []
    for step, (value, wish) in enumerate(zip(values, wishes, strict=True)):
        target = min(max(wish, low), high)
        while len(replicas) < target:
            replicas.append(step + lead)
        while len(replicas) > target:
            replicas.remove(max(replicas))  # the youngest goes first
        ready = sum(1 for serves_from in replicas if serves_from <= step)
        rows.append((len(replicas), ready, max(0.0, value - ready * capacity)))
    return rows


@settings(max_examples=200, deadline=None)
@given(
    data=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 12)), min_size=1, max_size=60),
    capacity=st.sampled_from([1, 3, 7]),
    lead=st.integers(0, 6),
    low=st.integers(0, 3),
    high=st.integers(4, 10),
)
def test_agrees_with_the_slow_simulator(data, capacity, lead, low, high):
    values, wishes = [v for v, _ in data], [w for _, w in data]
    pool = PoolModel(float(capacity), lead * STEP_S, price=2.0, min=low, max=high)
    line = simulate(Wishes(wishes), demand_of(values), pool)
    expected = np.array(slow(values, wishes, capacity, lead, low, high))
    np.testing.assert_array_equal(line.desired[:, 0], expected[:, 0])
    np.testing.assert_array_equal(line.ready[:, 0], expected[:, 1])
    np.testing.assert_allclose(line.unmet[:, 0], expected[:, 2])
    np.testing.assert_allclose(line.cost[:, 0], expected[:, 0] * 2.0 * STEP_S / 3600)


def test_columns_do_not_touch_each_other():
    values = [5, 9, 2, 14, 3, 8, 1, 1]
    plans = ([1, 2, 3, 4, 5, 6, 7, 8], [8, 7, 6, 5, 4, 3, 2, 1], [2] * 8)
    pool = PoolModel(2.0, 30.0)
    together = simulate(Wishes(*plans), demand_of(values), pool)
    for k, plan in enumerate(plans):
        alone = simulate(Wishes(plan), demand_of(values), pool)
        np.testing.assert_array_equal(together.ready[:, k], alone.ready[:, 0])


def test_an_order_serves_after_the_lead_time_and_a_removal_stops_at_once():
    line = simulate(Wishes([1, 3, 3, 3, 3, 1, 1]), demand_of([1.0] * 7), PoolModel(1.0, 45.0))
    assert line.ready[:, 0].tolist() == [1, 1, 1, 1, 3, 1, 1]
    assert line.desired[:, 0].tolist() == [1, 3, 3, 3, 3, 1, 1]


def test_a_lead_time_between_steps_counts_as_the_next_step():
    assert PoolModel(1.0, 46.0).lead_steps == 4
    assert PoolModel(1.0, 45.0).lead_steps == 3
    assert PoolModel(1.0, 0.0).lead_steps == 0


def test_a_hole_costs_nothing_and_counts_for_nothing():
    known = [True, True, False, False, True]
    line = simulate(Wishes([0] * 5), demand_of([4.0] * 5, known=known), PoolModel(1.0, 0.0, min=0))
    assert line.unmet[:, 0].tolist() == [4.0, 4.0, 0.0, 0.0, 4.0]
    assert line.unmet_share[0] == 1.0
    paid = simulate(Wishes([3] * 5), demand_of([4.0] * 5, known=known), PoolModel(1.0, 0.0))
    assert (paid.cost[:, 0] > 0).tolist() == known


def minutes(values):
    return Trace("t", np.arange(len(values)) * 60_000, np.asarray(values, float))


def test_demand_is_interpolated_between_points():
    demand = on_clock(minutes([0, 4, 8, 0]), 0.5)
    assert demand.value[:9].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert demand.first == 8
    assert demand.point_s == 60.0
    assert demand.known.all()


def test_a_long_gap_is_a_hole_and_repeats_the_last_value():
    trace = Trace("t", np.array([0, 60, 120, 180, 780, 840]) * 1000, np.array([1.0, 2, 3, 4, 50, 60]))
    demand = on_clock(trace, 0.5)
    inside = (demand.at > 180_000) & (demand.at < 780_000)
    assert not demand.known[inside].any()
    assert (demand.value[inside] == 4).all()
    assert demand.known[~inside].all()


def test_automatic_capacity_needs_60_replicas_at_the_train_parts_p99():
    values = np.concatenate([np.linspace(1, 600, 700), np.full(300, 1e6)])
    assert auto_capacity(minutes(values), 0.7) == pytest.approx(np.quantile(values[:700], 0.99) / 60)


@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_a_trace_that_cannot_be_split_is_refused(fraction):
    with pytest.raises(ConfigError, match="longer trace"):
        on_clock(minutes([1, 2, 3]), fraction)
