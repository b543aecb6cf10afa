"""What our policy learns, that it learns from the past alone, and what it does when the forecast is wrong."""

from dataclasses import replace

import numpy as np
import pytest

from forecastle.rehearsal.boost import Shape, binned, edges_of, fit
from forecastle.rehearsal.features import rows_of
from forecastle.rehearsal.forecastle import Forecastle, Watched, still
from forecastle.rehearsal.hpa import Hpa
from forecastle.rehearsal.insurance import Insurance
from forecastle.rehearsal.learned import Lesson
from forecastle.rehearsal.measures import Curve, compare
from forecastle.rehearsal.simulate import PoolModel, simulate
from forecastle.rehearsal.trace import STEP_S, Demand, Trace, on_clock
from forecastle.rehearsal.worth import LEVELS, Grid, Regret, Terms, Thresholds, advantages
from forecastle.testing.check_policy import _demand, check_rehearsed

QUICK = Lesson(rows=4000, shapes=(Shape(10, rate=0.3), Shape(20, rate=0.3)))


def quick(**more):
    return Forecastle(prices=(4.0, 20.0, 100.0), margins=(0.2,), lesson=QUICK, **more)


class Pinball:
    """The loss whose best constant is a quantile."""

    def __init__(self, y, q):
        self.y, self.q = y, q

    def value(self, at):
        short = self.y - at
        return np.where(short > 0, self.q * short, (self.q - 1) * short)

    def slope(self, at):
        return np.where(self.y > at, -self.q, 1 - self.q)

    def part(self, rows):
        return Pinball(self.y[rows], self.q)


@pytest.mark.parametrize("q", [0.5, 0.9])
def test_trees_learn_a_conditional_quantile(q):
    draw = np.random.default_rng(0)
    x = draw.uniform(-1, 1, (3, 8000)).astype(np.float32)
    y = np.where(x[0] > 0.2, 1.0, -1.0) + 0.5 * x[1] + draw.normal(0, 0.3, 8000)
    cells = binned(x, edges_of(x))
    loss = Pinball(y, q)
    found = fit(cells, loss, np.zeros(8000), Shape(80, rate=0.3)).predict(cells)
    assert loss.value(found).mean() < 0.5 * loss.value(np.full(8000, np.quantile(y, q))).mean()
    for side in (x[0] > 0.3, x[0] < 0.1):
        assert abs((y[side] <= found[side]).mean() - q) < 0.06


def test_trees_are_the_same_for_the_same_seed():
    draw = np.random.default_rng(1)
    x = draw.normal(size=(4, 1000)).astype(np.float32)
    cells, loss = binned(x, edges_of(x)), Pinball(x[0].astype(float), 0.8)
    one, two = (fit(cells, loss, np.zeros(1000), Shape(10), seed=3) for _ in range(2))
    np.testing.assert_array_equal(one.leaf, two.leaf)
    np.testing.assert_array_equal(one.cut, two.cut)


def slow_worth(value, up, keep, price, capacity, lead, level, start_at, on):
    """Reward of one replica that begins at ``level`` from ``start_at`` on, in state ``on``, under the thresholds."""
    total, step, n = 0.0, start_at, len(value)
    while step < n:
        if on:
            if not (up[step] > level or keep[step] > level):
                on = False
                # dropped now: it may be started at this step's end only, as the loop decides once a step
                step += 0
                total += slow_off(value, up, keep, price, capacity, lead, level, step)
                return total
            total += price * min(max((value[step] - np.exp(level)) / capacity, 0), 1) - 1
            step += 1
        else:
            return total + slow_off(value, up, keep, price, capacity, lead, level, step)
    return total


def slow_off(value, up, keep, price, capacity, lead, level, step):
    later = step + 1
    while later < len(value):
        if up[later] > level:
            if later + lead >= len(value):
                return -lead
            return -lead + slow_worth(value, up, keep, price, capacity, lead, level, later + lead, on=True)
        later += 1
    return 0.0


def test_the_advantage_of_keeping_is_what_a_slow_replay_of_one_replica_says():
    draw = np.random.default_rng(4)
    value = np.exp(draw.normal(3, 0.5, 60))
    up, keep = np.log(value) + draw.normal(0, 0.2, 60), np.log(value) + draw.normal(0.3, 0.2, 60)
    grid = Grid.of(value, 5.0)
    lead, price, capacity = 3, 6.0, 5.0
    rows = np.arange(5, 40)
    terms = Terms(np.array([price]), capacity, lead, grid)
    start, stay = advantages(value, Thresholds(up[:, None], keep[:, None]), terms, rows)
    for r in (0, 7, 20, 34):
        for k in (0, 20, 45, LEVELS - 1):
            level, i = grid.logs[k], int(rows[r])
            gain = price * min(max((value[i] - np.exp(level)) / capacity, 0), 1) - 1
            arguments = (value, up, keep, price, capacity, lead, level)
            waits = slow_off(*arguments, i)
            kept = gain + slow_worth(*arguments, i + 1, on=True)
            begun = -lead + slow_worth(*arguments, i + lead, on=True)
            assert stay[r, 0, k] == pytest.approx(kept - waits, abs=1e-3)
            assert start[r, 0, k] == pytest.approx(begun - waits, abs=1e-3)


def test_regret_is_least_where_the_advantage_changes_its_sign():
    grid = Grid.of(np.linspace(1, 100, 1000), 1.0)
    turn = 30
    advantage = np.where(np.arange(LEVELS) < turn, 1.0, -1.0)[None].astype(np.float32)
    loss = Regret.of(advantage, grid)
    at = grid.logs
    values = np.array([loss.value(np.array([x]))[0] for x in at])
    assert int(values.argmin()) == turn
    assert loss.slope(at[turn - 5 : turn - 4])[0] < 0 < loss.slope(at[turn + 5 : turn + 6])[0]


def test_features_see_only_the_past():
    demand = _demand(3)
    cut = len(demand) - 500
    other = demand.value.copy()
    other[cut:] *= 7.0
    before, after = rows_of(demand, 12), rows_of(replace(demand, value=other), 12)
    np.testing.assert_allclose(after.x[:, : cut + 1], before.x[:, : cut + 1], rtol=1e-6)
    assert not np.allclose(after.x[:, cut + 1], before.x[:, cut + 1])


def test_our_policy_conforms():
    check_rehearsed(quick)


@pytest.fixture(scope="module")
def world():
    demand, pool = _demand(4), PoolModel(10.0, 120.0)
    return demand, pool, quick().learn(demand, pool)


def test_it_beats_the_hpa_on_a_rhythm(world):
    demand, pool, taught = world
    ours = simulate(quick(taught=taught), demand, pool)
    hpa = simulate(Hpa(), demand, pool)
    ratio = compare(Curve.of(ours.unmet_share, ours.total_cost), Curve.of(hpa.unmet_share, hpa.total_cost))
    assert np.median(ratio) < 1.0


def test_a_dearer_shortage_buys_more(world):
    demand, pool, taught = world
    line = simulate(quick(taught=taught, multiples=(), floors=(), holds=()), demand, pool)
    assert (np.diff(line.total_cost) >= 0).all()
    assert (np.diff(line.unmet_share) <= 1e-12).all()


@pytest.mark.parametrize(
    "distort",
    [lambda c: np.full_like(c, np.nan), lambda c: np.full_like(c, 1.0), lambda c: c * 10.0, lambda c: c * 0.1],
    ids=["nan", "constant", "10x", "a tenth"],
)
def test_a_wrong_forecast_never_costs_service(world, distort):
    demand, pool, taught = world
    # what is cut on purpose leaves demand unmet whatever the forecast
    line = simulate(quick(taught=taught, distort=distort, cuts=()), demand, pool)
    hpa = simulate(Hpa((0.7,), (300,)), demand, pool)
    # a forecast that is off by a factor is found out by its shortfall, which takes minutes
    assert (line.unmet_share <= max(hpa.unmet_share[0], 0.01)).all()


def test_what_it_did_about_a_wrong_forecast_is_said(world):
    demand, pool, taught = world
    said = simulate(quick(taught=taught, distort=lambda c: np.full_like(c, np.nan)), demand, pool).notes
    assert any("unusable in 100.0 %" in note for note in said)


def flat(values, known=None):
    values = np.asarray(values, float)
    known = np.ones(len(values), bool) if known is None else np.asarray(known)
    return Demand(np.arange(len(values)) * STEP_S * 1000, values, known, 0, 60.0)


def moving(values):
    """A plan that follows ``values`` and never stands still."""
    values = np.asarray(values, float)[:, None]
    return Thresholds(values + 1e-6 * np.arange(len(values))[:, None], values + 1.0)


def test_without_a_metric_nothing_is_removed():
    demand = flat([100.0] * 12 + [20.0] * 28, [True] * 10 + [False] * 20 + [True] * 10)
    controller = Watched(demand, PoolModel(10.0, 60.0), moving([100.0] * 12 + [20.0] * 28), Insurance.of((20.0,), (), ()))
    ordered, seen = np.array([11]), []
    for i in range(40):
        ordered = controller.step(i, ordered, ordered)
        seen.append(int(ordered[0]))
    assert min(seen[11:31]) >= seen[10]
    assert seen[-1] < seen[10]


def test_after_a_shortfall_the_reactive_rule_holds_the_floor_for_an_hour():
    demand = flat([100.0] * 300)
    controller = Watched(demand, PoolModel(10.0, 15.0), moving([20.0] * 300), Insurance.of((100.0,), (), ()))
    ordered, seen = np.array([2]), []
    for i in range(300):
        ordered = controller.step(i, ordered, ordered)
        seen.append(int(ordered[0]))
    assert seen[0] == 2  # it begins by believing its forecast
    assert min(seen[10:200]) >= 100 / (0.65 * 10) * 0.9
    assert controller.doubted[0] > 200


@pytest.mark.parametrize(("values", "doubted"), [([100.0] * 120, 0), (list(np.linspace(100.0, 90.0, 120)), 99)])
def test_a_forecast_that_stands_still_is_doubted_only_where_the_demand_moves(values, doubted):
    plan = np.full((120, 1), 110.0)
    controller = Watched(flat(values), PoolModel(10.0, 15.0), Thresholds(plan, plan), Insurance.of((20.0,), (), ()))
    ordered, seen = np.array([11]), []
    for i in range(120):
        ordered = controller.step(i, ordered, ordered)
        seen.append(int(ordered[0]))
    assert controller.doubted[0] == pytest.approx(doubted, abs=3)
    assert (max(seen) > 11) == bool(doubted)


def test_a_path_that_does_not_move_is_still():
    path = np.concatenate([np.arange(30.0), np.full(40, 29.0), [30.0]])[:, None]
    found = still(path)[:, 0]
    assert not found[:48].any()
    assert found[50:70].all()
    assert not found[70]


@pytest.mark.parametrize(
    ("values", "capacity", "lead_s"),
    [
        ([1, 2, 3], 1.0, 180.0),
        ([0] * 60, 1.0, 60.0),
        ([7] * 60, 2.0, 0.0),
        (list(range(60)), 500.0, 60.0),
        ([5, 9] * 40, 3.0, 7200.0),
        ([1] * 60 + [1e6] + [1] * 10, 1.0, 60.0),
    ],
    ids=["three points", "nothing", "constant", "one replica", "lead beyond the trace", "a million times more"],
)
def test_odd_histories_are_played_too(values, capacity, lead_s):
    trace = Trace("odd", np.arange(len(values)) * 60_000, np.asarray(values, float))
    demand, pool = on_clock(trace, 0.7), PoolModel(capacity, lead_s)
    line = simulate(replace(quick(), lesson=Lesson(rows=200, shapes=(Shape(3), Shape(3)))), demand, pool)
    assert (line.desired >= pool.min).all()
    assert np.isfinite(line.total_cost).all()
