"""A slow world as the oracle of the loop: every replica is an object, every fault happens to it, and policies react."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from forecastle.rehearsal import faults
from forecastle.rehearsal.bounds import Oracle, StaticPeak
from forecastle.rehearsal.faults import steepest_rise, trials, world_faults
from forecastle.rehearsal.forecastle import Forecastle
from forecastle.rehearsal.hpa import Hpa
from forecastle.rehearsal.measures import COMPARED, Curve, compare, figures
from forecastle.rehearsal.simulate import PoolModel, Retries, Trouble, at_start, simulate
from forecastle.rehearsal.trace import STEP_S, Demand, Trace, on_clock
from forecastle.rehearsal.worth import Thresholds


def demand_of(values, first=0, known=None):
    values = np.asarray(values, float)
    at = np.arange(len(values)) * STEP_S * 1000
    return Demand(at, values, np.ones(len(values), bool) if known is None else np.asarray(known), first, 60.0)


@dataclass
class Reactive:
    """Wants ``gain`` times what it sees, a step late, and answers to what it is told is ordered and ready."""

    gains: tuple
    name: str = "reactive"
    notes: tuple = ()
    told: list = field(default_factory=list)

    @property
    def knobs(self):
        return tuple(str(gain) for gain in self.gains)

    def prepare(self, demand, pool):
        self.demand, self.pool = demand, pool
        return self

    def step(self, i, ordered, ready):
        self.told.append((ordered.tolist(), ready.tolist()))
        seen = self.demand.read(max(i - 1, 0))
        wanted = np.ceil(np.array(self.gains) * seen / self.pool.capacity - 1e-9).astype(np.int64)
        return np.where(ready < ordered, np.maximum(wanted, ordered - 1), wanted)


class Deaf(Reactive):
    """Orders what it wants whatever it is told, so that a greater gain never orders less."""

    def step(self, i, ordered, ready):
        return super().step(i, ordered, ordered)


class Replica:
    """Starts, may hang in it, serves."""

    def __init__(self, serves_from):
        self.serves_from = serves_from
        self.ready = False

    def age(self, step, *, stuck):
        self.ready = self.ready or (step >= self.serves_from and not stuck)


def halved(count, *, lost):
    return count // 2 if lost else count


def slow(gain, demand, pool, trouble):
    """One column, object by object: (told, ordered, ready, offered, unmet) of each step."""
    lead = pool.lead_steps
    replicas = [Replica(0) for _ in range(at_start(demand.value[demand.first :], pool))]
    for one in replicas:
        one.ready = True
    rows, unmet, offered = [], [], list(demand.value[: demand.first])
    for step in range(demand.first, len(demand)):
        stuck, lost = bool(trouble.stuck[step]), bool(trouble.lost[step])
        due = sum(1 for r in replicas if r.ready or (step >= r.serves_from and not stuck))
        told = (len(replicas), halved(due, lost=lost))
        seen = demand.value[0] if step == 0 else offered[step - 1]
        wanted = int(np.ceil(gain * seen / pool.capacity - 1e-9))
        if told[1] < told[0]:
            wanted = max(wanted, told[0] - 1)
        wanted = min(max(wanted, pool.min), pool.max)
        while len(replicas) < wanted:
            replicas.append(Replica(step + lead))
        while len(replicas) > wanted:
            replicas.remove(max(replicas, key=lambda r: (not r.ready, r.serves_from)))
        for one in replicas:
            one.age(step, stuck=stuck)
        serving = halved(sum(1 for r in replicas if r.ready), lost=lost)
        back = 0.0
        if trouble.retries is not None:
            rule = trouble.retries
            back = min(rule.factor * sum(unmet[-rule.spread :]) / rule.spread, rule.cap * demand.value[step])
        offered.append(demand.value[step] + back)
        missing = max(offered[-1] - serving * pool.capacity, 0.0) if demand.known[step] else 0.0
        unmet.append(missing)
        rows.append((told, len(replicas), serving, offered[-1], missing))
    return rows


steps = st.lists(st.tuples(st.integers(0, 40), st.sampled_from(["", "", "", "stuck", "lost", "hole"])), min_size=2, max_size=50)


@settings(max_examples=150, deadline=None)
@given(
    rows=steps,
    lead=st.integers(0, 5),
    capacity=st.sampled_from([1.0, 4.0]),
    gains=st.tuples(st.sampled_from([0.5, 1.0]), st.sampled_from([1.3, 2.0])),
    retries=st.sampled_from([None, Retries(0.5, 1.0, 2), Retries(1.0, 2.0, 1)]),
    limits=st.sampled_from([(0, 100), (1, 8), (3, 5)]),
    late=st.integers(0, 1),
)
def test_the_loop_agrees_with_the_slow_world(rows, lead, capacity, gains, retries, limits, late):
    values, what = [v for v, _ in rows], np.array([w for _, w in rows])
    demand = demand_of(values, late, what != "hole")
    trouble = Trouble(np.zeros(len(rows), bool), what == "stuck", what == "lost", retries)
    pool = PoolModel(capacity, lead * STEP_S, min=limits[0], max=limits[1])
    policy = Reactive(gains)
    line = simulate(policy, demand, pool, trouble)
    for k, gain in enumerate(gains):
        expected = slow(gain, demand, pool, trouble)
        assert [(o[k], r[k]) for o, r in policy.told] == [row[0] for row in expected]
        np.testing.assert_array_equal(line.desired[:, k], [row[1] for row in expected])
        np.testing.assert_array_equal(line.ready[:, k], [row[2] for row in expected])
        np.testing.assert_allclose(line.unmet[:, k], [row[4] for row in expected])
        if retries is not None:
            np.testing.assert_allclose(line.offered[:, k], [row[3] for row in expected])


@settings(max_examples=60, deadline=None)
@example([0, 32, 0, 0, 0, 31, 0, 0, 0, 3], 4)
@given(st.lists(st.integers(0, 40), min_size=3, max_size=60), st.integers(0, 5))
def test_more_capacity_in_every_step_never_leaves_more_unmet(values, lead):
    line = simulate(Deaf((1.0, 1.5, 3.0)), demand_of(values), PoolModel(2.0, lead * STEP_S))
    assert (np.diff(line.unmet_share) <= 1e-12).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=3, max_size=60), st.integers(0, 5))
def test_nobody_who_serves_everything_is_cheaper_than_the_oracle(values, lead):
    pool, demand = PoolModel(2.0, lead * STEP_S), demand_of(values)
    best = float(simulate(Oracle(), demand, pool).total_cost[0])
    for policy in (Reactive((1.0, 2.0, 5.0)), StaticPeak((0.5, 1.0))):
        line = simulate(policy, demand, pool)
        served = line.unmet_share == 0
        assert (line.total_cost[served] >= best - 1e-9).all()


@pytest.mark.parametrize("fault", ["metric gap", "stuck start-ups", "failed capacity", "retry storm"])
def test_no_fault_of_the_world_makes_a_blind_policy_serve_better(fault):
    values = np.concatenate([np.full(600, 50.0), np.linspace(50, 400, 120), np.full(400, 400.0)])
    demand, pool = demand_of(values, 300), PoolModel(10.0, 120.0)
    found = world_faults(demand, pool)[fault]
    calm, struck = (simulate(Hpa((0.7,), (300,)), demand, pool, trouble) for trouble in (None, found))
    assert struck.unmet.sum() >= calm.unmet.sum()


def test_the_trials_cover_every_fault_for_both_policies_and_say_what_was_done(monkeypatch):
    values = np.concatenate([np.full(900, 50.0), np.linspace(50, 400, 120), np.full(400, 400.0)])
    demand, pool = demand_of(values, 500), PoolModel(10.0, 120.0)
    drift = 1e-6 * np.arange(len(values))[:, None]
    ahead = np.maximum.accumulate(np.concatenate([values[12:], np.full(12, 400.0)]))[:, None] * np.ones((1, 3))
    plan = Thresholds(ahead * 1.2 + drift, ahead * 1.3 + drift)
    ours = Forecastle(prices=(4.0, 20.0, 50.0), planned=plan)
    # blind, our policy would have to learn anew, which takes too long here
    seen = {name: trouble for name, trouble in world_faults(demand, pool).items() if name != "metric gap"}
    monkeypatch.setattr(faults, "world_faults", lambda *_: seen)
    found = trials(demand, pool, ours)
    world = {"none", "stuck start-ups", "failed capacity", "retry storm"}
    wrong = {"forecast constant", "forecast 10x", "forecast NaN"}
    assert {t.fault for t in found if t.policy == "forecastle"} == world | wrong
    assert {t.fault for t in found if t.policy == "hpa"} == world
    assert {t.knob for t in found if t.policy == "forecastle"} == {"20"}
    for trial in found:
        if trial.fault in world - {"none"}:
            assert "replicas before it" in trial.notes[0]
    storm = next(t for t in found if t.fault == "retry storm" and t.policy == "hpa")
    assert "x the demand came" in storm.notes[0]


@pytest.mark.parametrize(("length", "steps", "first", "found"), [(10, 20, 3, 3), (200, 20, 100, 150)])
def test_the_steepest_rise_lies_in_the_test_span(length, steps, first, found):
    values = np.ones(length)
    values[170:] = 50.0
    values[40:60] = 500.0  # before the test span: not looked at
    demand = demand_of(values[:length], first)
    assert abs(steepest_rise(demand, steps) - found) <= steps


# --- figures and curves ---------------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0.1, 10)), min_size=1, max_size=20))
def test_a_curve_falls_and_no_point_is_below_it(points):
    unmet, cost = np.array([p[0] for p in points]), np.array([p[1] for p in points])
    curve = Curve.of(unmet, cost)
    assert (np.diff(curve.cost) < 0).all()
    assert (np.diff(curve.unmet) >= 0).all()
    for u, c in points:
        at_least_as_good = curve.cost[curve.unmet <= max(u, 1e-7)]
        assert at_least_as_good.min() <= c


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(1e-4, 0.5), st.floats(1, 10)), min_size=1, max_size=10), st.floats(1.1, 3))
def test_a_comparison_with_oneself_is_one_and_with_a_dearer_self_its_factor(points, factor):
    curve = Curve.of(np.array([p[0] for p in points]), np.array([p[1] for p in points]))
    np.testing.assert_allclose(compare(curve, curve), 1.0)
    np.testing.assert_allclose(compare(Curve(curve.unmet, curve.cost * factor), curve), factor)


def test_comparisons_begin_where_seconds_count_no_more():
    theirs = Curve(np.array([1e-7, 0.1]), np.array([9.0, 1.0]))
    ours = Curve(np.array([COMPARED, 0.1]), np.array([3.0, 1.0]))
    assert np.isfinite(compare(ours, theirs)).all()


def test_figures_of_a_hole_are_those_of_what_is_known():
    known = [True] * 10 + [False] * 10 + [True] * 10
    line = simulate(Reactive((1.0,)), demand_of([4.0] * 30, known=known), PoolModel(1.0, 0.0))
    (row,) = figures(line)
    assert row.mean_replicas == 4.0
    assert row.unmet_share == 0.0
    assert row.cost == pytest.approx(20 * 4 * STEP_S / 3600)


# --- the clock ------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1e4), min_size=4, max_size=40), st.sampled_from([15, 30, 60, 300]), st.floats(0.3, 0.7))
def test_the_clock_keeps_every_point_and_invents_no_extremes(values, every, fraction):
    trace = Trace("t", np.arange(len(values)) * every * 1000, np.asarray(values))
    demand = on_clock(trace, fraction)
    ratio = every // STEP_S
    np.testing.assert_allclose(demand.value[::ratio], values)
    assert demand.value.max() <= max(values) + 1e-9
    assert demand.value.min() >= min(values) - 1e-9
    assert demand.at[demand.first] == trace.at[int(fraction * len(values))]


@pytest.mark.parametrize(("offered", "shown"), [(None, 7.0), (np.array([[1.0, 2.0], [3.0, 4.0]]), [3.0, 4.0])])
def test_a_meter_shows_what_was_offered(offered, shown):
    demand = Demand(np.array([0, 15_000]), np.array([5.0, 7.0]), np.ones(2, bool), 0, 15.0, offered)
    np.testing.assert_array_equal(demand.read(1), shown)
