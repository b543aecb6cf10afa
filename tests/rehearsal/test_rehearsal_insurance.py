"""Our knob: prices, what lies between them, and insurance beyond the dearest, alone and in the loop."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecastle.rehearsal.forecastle import Forecastle, Watched, chosen
from forecastle.rehearsal.hpa import Hpa
from forecastle.rehearsal.insurance import BOTH, CUTS, FLOORS, HOLDS, MARGINS, MULTIPLES, PRICES, Beside, Floor, Hold, Insurance
from forecastle.rehearsal.measures import Curve, compare, some_of, undominated
from forecastle.rehearsal.simulate import PoolModel, Retries, Trouble, simulate
from forecastle.rehearsal.trace import STEP_S, Demand
from forecastle.rehearsal.worth import Thresholds

POOL = PoolModel(10.0, 60.0)


def demand_of(values, known=None, first=0):
    values = np.asarray(values, float)
    known = np.ones(len(values), bool) if known is None else np.asarray(known)
    return Demand(np.arange(len(values)) * STEP_S * 1000, values, known, first, 60.0)


def plan_of(values, n, keep=None):
    """Thresholds of one row for all steps, which move too little to matter but enough not to be still."""
    up = np.tile(np.asarray(values, float), (n, 1)) + 1e-6 * np.arange(n)[:, None]
    return Thresholds(up, up if keep is None else np.tile(np.asarray(keep, float), (n, 1)) + 1e-6 * np.arange(n)[:, None])


def played(values, plan, insurance, known=None, pool=POOL):
    """Orders int64[T, K] of the policy on ``values`` when what is ordered is ready at once."""
    controller = Watched(demand_of(values, known), pool, plan, insurance)
    ordered = np.full(len(insurance.knobs), 1)
    rows = []
    for i in range(len(values)):
        ordered = controller.step(i, ordered, ordered)
        rows.append(ordered)
    return np.array(rows)


def test_the_knobs_of_the_default_go_from_cheap_to_safe():
    knobs = Forecastle().knobs
    lowered = [f"{PRICES[0]:g}-{cut:g}" for cut in sorted(CUTS, reverse=True)]
    assert list(knobs[: len(CUTS)]) == lowered
    priced = knobs[len(CUTS) : len(CUTS) + 2 * len(PRICES) - 1]
    assert [float(knob) for knob in priced] == sorted(float(knob) for knob in priced)
    assert priced[::2] == tuple(f"{price:g}" for price in PRICES)
    parts = len(CUTS) + 2 * len(PRICES) - 1 + len(MARGINS) + len(MULTIPLES) + len(BOTH) + len(FLOORS) + len(HOLDS)
    assert len(knobs) == len(set(knobs)) == parts


@pytest.mark.parametrize(
    ("prices", "margins", "multiples", "knobs"),
    [
        ((5.0,), (), (), ("5",)),
        ((5.0,), (0.1,), (), ("5", "5+0.1")),
        ((5.0,), (), (1.5,), ("5", "5x1.5")),
        ((1.0, 4.0), (), (), ("1", "2", "4")),
    ],
)
def test_what_is_left_out_has_no_knob(prices, margins, multiples, knobs):
    assert Insurance.of(prices, margins, multiples).knobs == knobs


def test_a_column_accepts_the_shortfall_of_its_price():
    found = dict(
        zip(Insurance.of((2.0, 8.0), (0.3,), (2.0,)).knobs, Insurance.of((2.0, 8.0), (0.3,), (2.0,)).risk, strict=True)
    )
    assert found["2"] == 0.5
    assert found["4"] == pytest.approx(0.25)
    assert found["8"] == found["8+0.3"] == 0.125
    assert found["2x2"] == 0.5


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.1, 1e5), min_size=3, max_size=3))
def test_between_two_prices_lies_the_geometric_mean(learned):
    learned = np.sort(np.array(learned))
    found = Insurance.of((1.0, 10.0, 100.0), (), ()).columns(learned)
    np.testing.assert_allclose(found[[0, 2, 4]], learned)
    np.testing.assert_allclose(found[[1, 3]], np.sqrt(learned[:-1] * learned[1:]))
    assert (np.diff(found) >= -1e-9 * found[-1]).all()


def test_a_margin_raises_the_dearest_and_a_negative_threshold_is_none():
    insurance = Insurance.of((1.0, 10.0), (0.5,), ())
    np.testing.assert_allclose(insurance.columns(np.array([2.0, 8.0])), [2.0, 4.0, 8.0, 8.0 * np.exp(0.5)])
    np.testing.assert_allclose(insurance.columns(np.array([-3.0, -1.0])), 0.0)


def test_what_is_not_a_number_stays_so_in_its_columns_only():
    found = Insurance.of((1.0, 10.0, 100.0), (), ()).columns(np.array([1.0, np.nan, 4.0]))
    assert np.isnan(found).tolist() == [False, True, True, True, False]


def test_a_multiple_follows_the_demand_that_was_seen_a_step_ago():
    values = [100.0] * 5 + [300.0] * 5
    orders = played(values, plan_of([50.0], 10), Insurance.of((4.0,), (), (1.5,)))[:, 1]
    assert orders[:6].tolist() == [15] * 6
    assert (orders[6:] >= 45).all()


def test_a_multiple_outlives_a_dip_of_a_minute_and_no_longer():
    values = [100.0] * 5 + [10.0] * 10
    orders = played(values, plan_of([5.0], 15), Insurance.of((4.0,), (), (1.5,)))[:, 1]
    assert orders[:9].tolist() == [15] * 9
    assert (orders[9:] == 2).all()


def test_a_multiple_takes_nothing_from_a_larger_forecast():
    orders = played([100.0] * 6, plan_of([400.0], 6), Insurance.of((4.0,), (), (1.5,)))
    assert (orders[1:] == 41).all()  # 400 and the movement need one more


def test_a_multiple_holds_where_the_forecast_is_not_a_number():
    broken = Thresholds(np.full((30, 1), np.nan), np.full((30, 1), np.nan))
    orders = played([100.0] * 30, broken, Insurance.of((4.0,), (), (2.5,)))
    assert (orders[:, 1] >= 25).all()
    assert (orders[:, 0] < 25).all()
    assert (orders[2:, 0] == 16).all()  # the reactive rule: 100 / 6.5 a replica


def test_a_hole_removes_nothing_whatever_the_insurance():
    values = [200.0] * 10 + [10.0] * 20
    known = [True] * 8 + [False] * 10 + [True] * 12
    orders = played(values, plan_of([20.0], 30), Insurance.of((4.0,), (0.2,), (1.2,)), known)
    assert (np.diff(orders[9:18], axis=0) >= 0).all()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(1.0, 500.0), min_size=5, max_size=60), st.floats(1.0, 300.0))
def test_more_of_either_insurance_never_orders_less(values, level):
    # doubt lowers no column either, as the dearer ones doubt at once what the cheaper ones still accept
    insurance = Insurance.of((10.0,), (0.1, 0.4), (1.1, 1.6, 3.0))
    orders = played(values, plan_of([level], len(values)), insurance)
    margins, multiples = orders[:, [0, 1, 2]], orders[:, [0, 3, 4, 5]]
    assert (margins[0, 1:] >= margins[0, :-1]).all()
    assert (multiples[0, 1:] >= multiples[0, :-1]).all()
    assert (multiples[:, -1] * 10.0 >= 3.0 * np.array([values[0], *values[:-1]]) - 1e-6).all()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(1.0, 500.0), min_size=2, max_size=60), st.sampled_from([1.2, 2.0, 5.0]))
def test_a_multiple_is_never_below_the_reactive_peer_that_has_no_memory(values, multiple):
    orders = played(values, plan_of([1.0], len(values)), Insurance.of((10.0,), (), (multiple,)))[:, 1]
    seen = np.array([values[0], *values[:-1]])
    assert (orders >= np.minimum(POOL.need(multiple * seen), POOL.max)).all()


def test_the_safest_setting_serves_a_jump_that_nothing_announced():
    values = np.concatenate([np.full(200, 100.0), np.full(100, 750.0)])
    demand = demand_of(values, first=50)
    policy = Forecastle(prices=(4.0, 20.0), planned=plan_of([110.0, 130.0], 300))
    line = simulate(policy, demand, PoolModel(10.0, 180.0))
    unmet = dict(zip(line.knobs, line.unmet_share, strict=True))
    assert unmet["20+1.8x8"] == 0.0
    assert unmet["4x3.4"] < unmet["4x2"] < unmet["4"]


def test_the_pools_limits_hold_for_every_insurance():
    policy = Forecastle(prices=(4.0, 20.0), planned=plan_of([110.0, 130.0], 100))
    line = simulate(policy, demand_of([100.0] * 100, first=10), replace(POOL, min=3, max=20))
    assert line.desired.min() >= 3
    assert line.desired.max() <= 20


# --- below the cheapest price ---------------------------------------------------------------------------------------


def test_a_cut_lowers_the_cheapest_and_accepts_the_shortfall_that_it_makes():
    insurance = Insurance.of((2.0, 8.0), cuts=(0.2, 1.0))
    assert insurance.knobs == ("2-1", "2-0.2", "2", "4", "8")
    np.testing.assert_allclose(insurance.columns(np.array([3.0, 5.0]))[:3], [3 * np.exp(-1), 3 * np.exp(-0.2), 3.0])
    np.testing.assert_allclose(insurance.risk[:3], [1 - 0.5 * np.exp(-1), 1 - 0.5 * np.exp(-0.2), 0.5])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(1.0, 500.0), min_size=5, max_size=60), st.floats(1.0, 300.0))
def test_a_deeper_cut_never_orders_more(values, level):
    orders = played(values, plan_of([level], len(values)), Insurance.of((1.25,), cuts=(0.2, 0.5, 1.0)))
    assert (np.diff(orders, axis=1) >= 0).all()


# --- an HPA as the floor --------------------------------------------------------------------------------------------


def test_a_floor_lies_below_the_cheapest_price_and_is_named():
    insurance = Insurance.of((2.0, 8.0), floors=(Floor(0.6, 300), Floor(0.45, 60)))
    assert insurance.knobs == ("2", "4", "8", "2@0.6/300s", "2@0.45/60s")
    np.testing.assert_array_equal(insurance.target, [np.inf, np.inf, np.inf, 0.6, 0.45])
    np.testing.assert_array_equal(insurance.window_s[3:], [300, 60])
    made = insurance.columns(np.array([3.0, 5.0]))
    assert (made[3:] == made[0]).all()
    assert (insurance.risk[3:] == insurance.risk[0]).all()


def test_the_floors_of_the_default_are_the_peers_sweep():
    assert tuple(f"{floor.target:g}/{floor.window_s}s" for floor in FLOORS) == Hpa().knobs


def slow_hpa(values, known, target, window_s, pool, begin):
    """Orders of one HPA, a sync at a time: tolerance 0.1, the largest recommendation of the window, +4 or x2 at most."""
    ordered, said, out = begin, [], []
    for i in range(len(values)):
        seen = max(i - 1, 0)
        if known[seen]:
            ratio = values[seen] / (target * pool.capacity * max(ordered, 1))
            said.append(ordered if 0.9 <= ratio <= 1.1 and ordered else int(np.ceil(values[seen] / (target * pool.capacity))))
            kept = max(said[-max(window_s // STEP_S, 1) :])
            ordered = min(max(ordered, said[-1]), kept, max(ordered + 4, 2 * ordered))
        ordered = min(max(ordered, pool.min), pool.max)
        out.append(ordered)
    return out


steps = st.lists(st.tuples(st.floats(0.0, 500.0), st.sampled_from([True, True, True, False])), min_size=2, max_size=60)


@settings(max_examples=60, deadline=None)
@given(steps, st.sampled_from([(1, 100_000), (3, 20)]), st.integers(1, 30))
def test_the_hpas_beside_order_what_a_slow_one_orders_alone(rows, limits, begin):
    values, known = [v for v, _ in rows], [k for _, k in rows]
    pool = replace(POOL, min=limits[0], max=limits[1])
    begin = min(max(begin, pool.min), pool.max)
    insurance = Insurance.of((4.0,), floors=(Floor(0.5, 60), Floor(0.8, 300)))
    beside = Beside(demand_of(values, known), pool, insurance)
    # what is ordered around them is no matter of theirs but at the beginning
    orders = np.array([beside.step(i, np.full(3, begin + 7 * i), np.zeros(3, np.int64)) for i in range(len(values))])
    np.testing.assert_array_equal(orders[:, 1], slow_hpa(values, known, 0.5, 60, pool, begin))
    np.testing.assert_array_equal(orders[:, 2], slow_hpa(values, known, 0.8, 300, pool, begin))


@settings(max_examples=60, deadline=None)
@given(
    steps,
    st.floats(1.0, 400.0),
    st.integers(0, 5),
    st.sampled_from([(1, 100_000), (3, 20)]),
    st.sampled_from(["", "blind", "stuck", "lost", "storm"]),
)
def test_where_an_hpa_is_the_floor_there_is_never_less_than_it_has(rows, level, lead, limits, trouble):
    values, known = [v for v, _ in rows], [k for _, k in rows]
    demand, pool = demand_of(values, known, first=1), PoolModel(10.0, lead * STEP_S, min=limits[0], max=limits[1])
    struck, quiet = np.arange(len(rows)) % 3 == 1, np.zeros(len(rows), bool)
    world = Trouble(
        *(struck if trouble == what else quiet for what in ("blind", "stuck", "lost")),
        retries=Retries() if trouble == "storm" else None,
    )
    targets, windows = (0.4, 0.7, 0.9), (60, 300)
    floors = tuple(Floor(target, window) for target in targets for window in windows)
    policy = Forecastle((4.0,), (), (), (), floors, (), planned=plan_of([level], len(rows)))
    ours, hpa = simulate(policy, demand, pool, world), simulate(Hpa(targets, windows), demand, pool, world)
    if trouble != "storm":  # less comes back where more was there, and the rest follows
        assert (ours.desired[:, 1:] >= hpa.desired).all()
        assert (ours.ready[:, 1:] >= hpa.ready).all()
        assert (ours.unmet[:, 1:] <= hpa.unmet).all()
    assert (ours.unmet_share[1:] <= hpa.unmet_share + 1e-12).all()


def test_a_floor_costs_what_its_hpa_costs_where_the_forecast_asks_for_less():
    values = 100.0 + 25.0 * np.sin(np.arange(400) / 25.0)
    floors = tuple(Floor(target, 60) for target in (0.4, 0.6))
    policy = Forecastle((1.25,), (), (), (), floors, (), planned=plan_of([60.0], 400))
    ours, hpa = (simulate(p, demand_of(values, first=10), POOL) for p in (policy, Hpa((0.4, 0.6), (60,))))
    np.testing.assert_array_equal(ours.desired[20:, 1:], hpa.desired[20:])


def test_a_forecast_of_the_ramps_buys_more_than_a_lower_target_does():
    n = 2000
    values = np.where(np.arange(n) % 200 < 100, 100.0, 300.0)
    ahead = np.maximum.reduce([np.roll(values, -k) for k in range(10)])[:, None] + 1e-6 * np.arange(n)[:, None]
    policy = Forecastle((4.0,), (), (), (), (Floor(0.8, 60), Floor(0.9, 60)), (), planned=Thresholds(ahead, ahead))
    ours, hpa = (simulate(p, demand_of(values, first=200), POOL) for p in (policy, Hpa(windows_s=(60,))))
    ours, hpa = (Curve.of(line.unmet_share, line.total_cost) for line in (ours, hpa))
    assert (compare(ours, hpa) < 1.0).all()


# --- a peak that is held --------------------------------------------------------------------------------------------


def test_a_hold_is_of_the_dearest_price_and_named_by_its_span():
    insurance = Insurance.of((2.0, 8.0), (), (1.5,), holds=(Hold(1.1, 900), Hold(2.0, 3600)))
    assert insurance.knobs == ("2", "4", "8", "2x1.5", "8x1.1/900s", "8x2/3600s")
    assert insurance.span_s.tolist() == [60, 60, 60, 60, 900, 3600]
    made = insurance.columns(np.array([3.0, 5.0]))
    np.testing.assert_array_equal(made[4:], 5.0)
    np.testing.assert_array_equal(insurance.risk[4:], 1 / 8)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(1.0, 500.0), min_size=2, max_size=80), st.sampled_from([(1.0, 60), (1.3, 150), (2.0, 900)]))
def test_a_hold_has_at_least_its_multiple_of_the_spans_peak(values, hold):
    multiple, span_s = hold
    orders = played(values, plan_of([40.0], len(values)), Insurance.of((10.0,), holds=(Hold(multiple, span_s),)))[:, 1]
    for i, ordered in enumerate(orders):
        seen = max(i - 1, 0)
        wanted = multiple * max(values[max(seen + 1 - span_s // STEP_S, 0) : seen + 1])
        assert ordered >= int(np.ceil(max(wanted, 40.0) / 10.0 - 1e-9))


def test_a_hold_follows_what_comes_back_in_each_column():
    rows = 40
    offered = np.stack([np.full(rows, 100.0), np.where(np.arange(rows) == 10, 300.0, 100.0)], axis=1)
    demand = replace(demand_of(np.full(rows, 100.0)), offered=offered)
    controller = Watched(demand, POOL, plan_of([50.0], rows), Insurance.of((4.0,), holds=(Hold(1.0, 150),)))
    ordered, orders = np.array([1, 1]), []
    for i in range(rows):
        ordered = controller.step(i, ordered, ordered)
        orders.append(ordered[1])
    assert orders[10] == 10
    assert orders[11:21] == [30] * 10
    assert max(orders[25:]) < 30


def test_the_second_of_two_jumps_is_served_when_the_first_is_held():
    values = np.full(400, 30.0)
    values[200:206] = values[260:266] = 200.0
    policy = Forecastle((4.0,), (), (), (), (), (Hold(1.0, 300), Hold(1.0, 1200)), planned=plan_of([40.0], 400))
    line = simulate(policy, demand_of(values, first=50), POOL)
    late = line.unmet[200:].sum(axis=0)
    assert late[2] == 0.0
    assert late[0] > 0.0
    assert line.total_cost[2] > line.total_cost[0]


# --- an equal number of knob values ---------------------------------------------------------------------------------


def test_some_knob_values_are_spread_evenly_over_the_ranked_ones_first_and_last_among_them():
    policy = Forecastle((4.0,), (), (1.0, 1.2, 1.5, 2.0, 3.0), (), (), (), planned=plan_of([90.0], 300))
    line = simulate(policy, demand_of(100.0 + 40.0 * (np.arange(300) % 50 > 40), first=50), POOL)
    ranked = ("4", "4x1.2", "4x1.5", "4x2", "4x3")
    k = [line.knobs.index(knob) for knob in ("4", "4x1.5", "4x3")]
    expected = Curve.of(line.unmet_share[k], line.total_cost[k])
    found = some_of(line, ranked, 3)
    np.testing.assert_array_equal(found.unmet, expected.unmet)
    np.testing.assert_array_equal(found.cost, expected.cost)
    whole = some_of(line, (), 99)
    np.testing.assert_array_equal(whole.cost, Curve.of(line.unmet_share, line.total_cost).cost)


def test_what_is_ranked_was_worth_its_cost_on_the_train_part_or_left_nothing_there():
    values, plan = rhythm()
    first = DAY + 100
    picked = chosen(Forecastle((2.0, 20.0), planned=plan), demand_of(values, first=first), POOL)
    short = replace(picked, planned=Thresholds(plan.up[:first], plan.keep[:first]))
    line = simulate(short, demand_of(values[:first], first=2 * first // 3), POOL)
    at = [line.knobs.index(knob) for knob in picked.ranked]
    unmet, cost = line.unmet_share[at], line.total_cost[at]
    assert set(picked.ranked) <= set(picked.kept)
    assert (np.diff(cost) >= 0).all()
    left = unmet[unmet > 0]
    assert (np.diff(left) < 0).all()
    assert (unmet[len(left) :] == 0).all()
    for knob in set(picked.kept) - set(picked.ranked):
        k = line.knobs.index(knob)
        assert line.unmet_share[k] > 0
        assert ((cost <= line.total_cost[k]) & (unmet <= line.unmet_share[k])).any()


# --- which of them are played ---------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=20))
def test_what_is_undominated_is_what_a_slow_look_at_every_pair_says(points):
    found = undominated(np.array([u for u, _ in points], float), np.array([c for _, c in points], float))
    better = [
        any((u <= points[i][0] and c <= points[i][1]) and (u, c) != points[i] for u, c in points) for i in range(len(points))
    ]
    assert {points[i] for i in found} == {point for point, worse in zip(points, better, strict=True) if not worse}
    assert len({points[i] for i in found}) == len(found)


def for_the_unseen(knob):
    """Above an HPA, a margin with a multiple, or a multiple with a span."""
    return "@" in knob or ("+" in knob and "x" in knob) or ("x" in knob and knob.endswith("s"))


def test_what_is_for_the_unseen_is_fixed():
    insurance = Forecastle().insurance
    fixed = [knob for knob, stays in zip(insurance.knobs, insurance.fixed.tolist(), strict=True) if stays]
    assert fixed == [knob for knob in insurance.knobs if for_the_unseen(knob)]


@given(st.sets(st.sampled_from(Forecastle().knobs), min_size=1))
@settings(max_examples=30, deadline=None)
def test_some_columns_are_what_they_are_among_all(knobs):
    every, some = Forecastle().insurance, Forecastle(kept=tuple(knobs)).insurance
    at = [every.knobs.index(knob) for knob in some.knobs]
    assert set(some.knobs) == knobs
    assert at == sorted(at)
    row = np.linspace(1.0, 9.0, len(PRICES))
    np.testing.assert_array_equal(some.columns(row), every.columns(row)[at])
    for name in ("multiple", "span_s", "target", "window_s", "risk"):
        np.testing.assert_array_equal(getattr(some, name), getattr(every, name)[at])


DAY = 86_400 // STEP_S


def rhythm(n=DAY + 400):
    """A level with a wave and jumps for ``n`` steps, and a plan that knows a little of what comes."""
    values = 100.0 + 60.0 * np.sin(np.arange(n) / 300.0) + 80.0 * (np.arange(n) % 700 > 640)
    ahead = np.maximum.reduce([np.roll(values, -k) for k in range(4)])[:, None] * np.array([0.6, 1.1])
    return values, Thresholds(ahead + 1e-6 * np.arange(n)[:, None], ahead + 1.0)


def test_the_choice_reads_nothing_of_the_test_span():
    values, plan = rhythm()
    first = DAY + 100
    other = values.copy()
    other[first:] = 1e4
    policy = Forecastle((2.0, 20.0), planned=plan)
    one, two = (chosen(policy, demand_of(v, first=first), POOL).kept for v in (values, other))
    assert one == two
    assert 0 < len(one) < len(policy.knobs)


def test_what_stays_is_undominated_on_the_end_of_the_train_part_or_fixed():
    values, plan = rhythm()
    first = DAY + 100
    policy = Forecastle((2.0, 20.0), planned=plan)
    picked = chosen(policy, demand_of(values, first=first), POOL)
    short = replace(policy, planned=Thresholds(plan.up[:first], plan.keep[:first]))
    line = simulate(short, demand_of(values[:first], first=2 * first // 3), POOL)
    best = {line.knobs[i] for i in undominated(line.unmet_share, line.total_cost)}
    fixed = {knob for knob in policy.knobs if for_the_unseen(knob)}
    assert set(picked.kept) == best | fixed
    played_alone, among = (simulate(p, demand_of(values, first=first), POOL) for p in (picked, policy))
    at = [among.knobs.index(knob) for knob in played_alone.knobs]
    np.testing.assert_array_equal(played_alone.desired, among.desired[:, at])


def test_a_train_part_of_less_than_a_day_chooses_nothing():
    values, plan = rhythm(4000)
    policy = Forecastle((2.0, 20.0), planned=plan)
    assert chosen(policy, demand_of(values, first=3000), POOL).kept == ()
    assert chosen(replace(policy, planned=None), demand_of(values, first=len(values) - 1), POOL).kept == ()
