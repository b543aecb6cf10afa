"""Demand that comes back: the loop against a slow one, what each policy sees of it, and what the run says."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecastle.rehearsal.bounds import Given
from forecastle.rehearsal.faults import account, forecast_faults, world_faults
from forecastle.rehearsal.forecastle import Insurance, Watched
from forecastle.rehearsal.hpa import Hpa, HpaCpu
from forecastle.rehearsal.measures import figures
from forecastle.rehearsal.naive import SeasonalNaive
from forecastle.rehearsal.policies import policy_named
from forecastle.rehearsal.simulate import PoolModel, Retries, Timeline, Trouble, simulate
from forecastle.rehearsal.trace import STEP_S, Demand
from forecastle.rehearsal.worth import Thresholds


def demand_of(values, first=0, known=None):
    values = np.asarray(values, float)
    at = np.arange(len(values)) * STEP_S * 1000
    return Demand(at, values, np.ones(len(values), bool) if known is None else np.asarray(known), first, 60.0)


class Wishes:
    """Wants what it is told."""

    name, notes = "wishes", ()

    def __init__(self, *plans):
        self.plan = np.array(plans).T
        self.knobs = tuple(str(k) for k in range(self.plan.shape[1]))

    def prepare(self, demand, pool):
        return Given(self.plan)


def trouble(n, retries=None, **struck):
    masks = {name: np.isin(np.arange(n), struck.get(name, [])) for name in ("blind", "stuck", "lost")}
    return Trouble(**masks, retries=retries)


def slow(values, wishes, lead, retries):
    """Replica by replica and request by request: (offered, unmet) of each step, a replica carries 1."""
    replicas = [0] * max(1, *values[: lead + 1])
    offered, unmet = [], []
    for step, (value, wish) in enumerate(zip(values, wishes, strict=True)):
        target = max(wish, 1)
        while len(replicas) < target:
            replicas.append(step + lead)
        while len(replicas) > target:
            replicas.remove(max(replicas))
        ready = sum(1 for serves_from in replicas if serves_from <= step)
        back = retries.factor * sum(unmet[max(step - retries.spread, 0) : step]) / retries.spread
        offered.append(value + min(back, retries.cap * value))
        unmet.append(max(offered[-1] - ready, 0.0))
    return offered, unmet


@settings(max_examples=80, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=40),
    lead=st.integers(0, 4),
    factor=st.sampled_from([0.3, 1.0, 2.5]),
    cap=st.sampled_from([0.0, 0.5, 3.0]),
    spread=st.integers(1, 5),
)
def test_agrees_with_a_slow_replay_of_every_request(rows, lead, factor, cap, spread):
    values, wishes = [v for v, _ in rows], [w for _, w in rows]
    retries = Retries(factor, cap, spread)
    line = simulate(Wishes(wishes), demand_of(values), PoolModel(1.0, lead * STEP_S), trouble(len(rows), retries))
    offered, unmet = slow(values, wishes, lead, retries)
    np.testing.assert_allclose(line.offered[:, 0], offered)
    np.testing.assert_allclose(line.unmet[:, 0], unmet)


def test_each_column_has_its_own_storm():
    demand, pool = demand_of([4.0] * 8), PoolModel(1.0, 0.0)
    both = simulate(Wishes([1] * 8, [4] * 8), demand, pool, trouble(8, Retries(spread=1)))
    assert both.offered[1, 0] == 7.0
    assert (both.offered[:, 1] == 4.0).all()
    alone = simulate(Wishes([1] * 8), demand, pool, trouble(8, Retries(spread=1)))
    np.testing.assert_array_equal(both.offered[:, 0], alone.offered[:, 0])


@pytest.mark.parametrize(("factor", "cap", "last"), [(1.0, 2.0, 12.0), (1.0, 0.5, 6.0), (0.5, 9.0, 6.0), (0.0, 9.0, 4.0)])
def test_the_storm_grows_to_its_cap_or_its_balance(factor, cap, last):
    # 4 come, 2 are served: with factor f the demand d settles where d = 4 + f * (d - 2), or at the cap
    line = simulate(Wishes([2] * 300), demand_of([4.0] * 300), PoolModel(1.0, 0.0), trouble(300, Retries(factor, cap)))
    assert line.offered[-1, 0] == pytest.approx(last)


def test_shares_count_every_attempt():
    line = simulate(Wishes([2] * 3), demand_of([4.0] * 3), PoolModel(1.0, 0.0), trouble(3, Retries(spread=1, cap=9.0)))
    assert line.offered[:, 0].tolist() == [4.0, 6.0, 8.0]
    assert line.unmet_share[0] == pytest.approx((2 + 4 + 6) / 18)
    assert figures(line)[0].unmet_share == pytest.approx(12 / 18)


def test_nothing_comes_back_when_nothing_is_missing():
    values = np.random.default_rng(1).integers(1, 9, 50).astype(float)
    stormy = simulate(Wishes([9] * 50), demand_of(values), PoolModel(1.0, 0.0), trouble(50, Retries(3.0, 3.0)))
    calm = simulate(Wishes([9] * 50), demand_of(values), PoolModel(1.0, 0.0))
    np.testing.assert_array_equal(stormy.offered[:, 0], values)
    np.testing.assert_array_equal(stormy.unmet, calm.unmet)
    assert calm.offered is None


def test_a_hole_sends_nothing_back():
    known = [True, True, False, False, True, True]
    line = simulate(
        Wishes([1] * 6), demand_of([4.0] * 6, known=known), PoolModel(1.0, 0.0), trouble(6, Retries(spread=1, cap=9.0))
    )
    assert line.offered[:, 0].tolist() == [4.0, 7.0, 10.0, 4.0, 4.0, 7.0]
    assert line.unmet[2:4].sum() == 0


@pytest.mark.parametrize("name", ["hpa", "keda", "phpa", "target-tracking", "seasonal-naive"])
def test_who_looks_at_the_demand_sees_what_came_back(name):
    values = [40.0] * 120 + [200.0] * 240
    demand, pool = demand_of(values, 60), PoolModel(10.0, 600.0)
    policy = policy_named(name)
    calm = simulate(policy, demand, pool)
    stormy = simulate(policy, demand, pool, trouble(360, Retries(2.0, 3.0)))
    assert stormy.desired.max() > calm.desired.max()


def test_utilization_cannot_see_it_as_it_is_full_already():
    values = [40.0] * 20 + [400.0] * 30
    demand, pool = demand_of(values), PoolModel(10.0, 600.0)
    calm, stormy = (simulate(HpaCpu((0.7,), (300,)), demand, pool, t) for t in (None, trouble(50, Retries())))
    np.testing.assert_array_equal(calm.desired, stormy.desired)


def test_a_policy_decides_on_what_came_back_only_after_it_came():
    values = [40.0] * 30 + [200.0] * 30
    demand, pool = demand_of(values), PoolModel(10.0, 300.0)
    calm = simulate(Hpa((0.7,), (300,)), demand, pool)
    stormy = simulate(Hpa((0.7,), (300,)), demand, pool, trouble(60, Retries(spread=1)))
    first = int(np.flatnonzero(stormy.offered[:, 0] > demand.value)[0])
    np.testing.assert_array_equal(calm.desired[: first + 1], stormy.desired[: first + 1])
    assert (calm.desired[first + 1 :] != stormy.desired[first + 1 :]).any()


def test_our_thresholds_rise_with_what_comes_back():
    demand = demand_of([100.0] * 60)
    offered = np.tile(demand.value[:, None], (1, 3))
    offered[20:, 2] = 200.0
    plan = Thresholds(np.tile([[120.0, 120.0]], (60, 1)), np.tile([[120.0, 120.0]], (60, 1)))
    moving = np.arange(60.0)[:, None] * 1e-6
    plan = Thresholds(plan.up + moving, plan.keep + moving)
    watched = Watched(replace(demand, offered=offered), PoolModel(10.0, 0.0), plan, Insurance.of((1.0, 1.0), (), ()))
    ordered = np.array([13, 13, 13])
    for i in range(60):
        ordered = watched.step(i, ordered, ordered)
    assert ordered.tolist() == [13, 13, 25]


def test_the_naive_forecast_holds_at_least_what_came_back():
    values = [50.0] * 100
    line = simulate(SeasonalNaive((1.0,)), demand_of(values), PoolModel(10.0, 0.0), trouble(100, Retries(), lost=range(50, 60)))
    assert line.desired[40, 0] == 5
    assert line.desired[50:62, 0].max() > 5


def ramp():
    return np.concatenate([np.full(900, 50.0), np.linspace(50, 400, 120), np.full(600, 400.0)])


def test_the_storm_is_one_of_the_faults_and_worse_than_its_cause():
    demand, pool = demand_of(ramp(), 400), PoolModel(10.0, 180.0)
    found = world_faults(demand, pool)
    np.testing.assert_array_equal(found["retry storm"].struck, found["failed capacity"].struck)
    cause, storm = (simulate(Hpa((0.7,), (300,)), demand, pool, found[name]) for name in ("failed capacity", "retry storm"))
    assert storm.unmet.sum() > cause.unmet.sum()
    assert storm.total_cost[0] > cause.total_cost[0]


def line_of(desired, unmet, offered=None):
    """A timeline with the given shortfalls; a replica carries 1."""
    n = len(desired)
    demand = np.full(n, 10.0)
    ready = (demand - np.asarray(unmet, float)).astype(np.int64)
    known, at = np.ones(n, bool), np.arange(n) * 15_000
    columns = np.asarray(desired, np.int64)[:, None]
    return Timeline("p", ("a",), at, demand, known, columns, ready[:, None], PoolModel(1.0, 0.0), (), offered)


def test_the_account_of_a_fault_that_is_over_before_its_end():
    struck = np.isin(np.arange(400), range(100, 120))
    unmet = np.isin(np.arange(400), range(100, 108)) * 3
    said = account(line_of([10] * 100 + [14] * 20 + [9] * 280, unmet), 0, struck)
    assert said == "10 replicas before it, 9 to 14 until an hour after it; short for 2.00 min, over before its end"


def test_the_account_of_a_fault_that_lasts_beyond_its_end():
    struck = np.isin(np.arange(400), range(100, 120))
    unmet = np.isin(np.arange(400), range(100, 124)) * 3
    said = account(line_of([10] * 400, unmet), 0, struck)
    assert said.endswith("short for 6.00 min, until 1.00 min after its end")


def test_the_account_of_a_fault_that_hurt_nobody_and_of_what_came_back():
    struck = np.isin(np.arange(50), range(10, 20))
    assert account(line_of([10] * 50, [0] * 50), 0, struck).endswith("all was served")
    offered = np.full((50, 1), 10.0)
    offered[15] = 25.0
    line = replace(line_of([30] * 50, [-20] * 50), offered=offered)
    assert "up to 2.50 x the demand came" in account(line, 0, struck)


def test_shortfalls_long_before_or_after_a_fault_are_not_its():
    struck = np.isin(np.arange(900), range(300, 320))
    unmet = np.isin(np.arange(900), [5, 299, 800]) * 1
    assert "all was served" in account(line_of([10] * 900, unmet), 0, struck)


def test_the_faults_of_the_forecast_strike_all_the_time():
    assert set(forecast_faults(1.0)) == {"forecast constant", "forecast 10x", "forecast NaN"}


def test_a_calm_world_says_so():
    quiet = Trouble.none(5)
    assert not quiet.struck.any()
    assert quiet.retries is None
    assert trouble(5, blind=[1], stuck=[2], lost=[4]).struck.tolist() == [False, True, True, False, True]
