"""KEDA, target tracking, predictive scaling, Predictive HPA and seasonal naive, rule by rule in the loop."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecastle.rehearsal.aws import (
    BUFFER_STEPS,
    COOLDOWN_STEPS,
    HIGH_POINTS,
    LOW_POINTS,
    POINT_STEPS,
    WARM_UP_STEPS,
    Alarms,
    AwsPredictive,
    TargetTracking,
    hourly_forecast,
)
from forecastle.rehearsal.hpa import Hpa
from forecastle.rehearsal.keda import COOLDOWN_STEPS as KEDA_COOLDOWN_STEPS
from forecastle.rehearsal.keda import FAILURES, POLL_STEPS, Fallback, Keda
from forecastle.rehearsal.naive import SeasonalNaive, season_of
from forecastle.rehearsal.phpa import HoltWinters, Phpa
from forecastle.rehearsal.simulate import PoolModel, simulate
from forecastle.rehearsal.trace import STEP_S, Demand

HOUR, DAY = 3600 // STEP_S, 86_400 // STEP_S
POOL = PoolModel(10.0, 30.0)
SLEEPY = PoolModel(10.0, 30.0, min=0)


def demand_of(values, known=None, first=0, start_ms=0):
    values = np.asarray(values, float)
    at = start_ms + np.arange(len(values)) * STEP_S * 1000
    return Demand(at, values, np.ones(len(values), bool) if known is None else np.asarray(known), first, 60.0)


def orders(policy, values, pool=POOL, **more):
    """What the policy's first knob value ordered, int64[T]."""
    return simulate(policy, demand_of(values, **more), pool).desired[:, 0]


# --- KEDA -----------------------------------------------------------------------------------------------------------


def test_the_polls_and_cool_downs_are_kedas():
    assert POLL_STEPS * STEP_S == 30
    assert KEDA_COOLDOWN_STEPS * STEP_S == 300
    assert FAILURES == 3


def keda(**more):
    return Keda((0.7,), (60,), **more)


def test_it_sleeps_after_the_cool_down_and_not_before():
    seen = orders(keda(), [20.0] * 10 + [0.0] * 60, SLEEPY)
    asleep = int(np.flatnonzero(seen == 0)[0])
    last_active = max(i for i in range(0, 12, POLL_STEPS) if i - 1 < 10)
    assert asleep == last_active + KEDA_COOLDOWN_STEPS
    assert (seen[asleep:] == 0).all()
    assert (seen[:asleep] >= 1).all()


def test_it_wakes_at_the_next_poll_with_at_least_one():
    seen = orders(keda(), [20.0] * 4 + [0.0] * 60 + [5.0] * 10, SLEEPY)
    awake = int(np.flatnonzero(seen[40:] > 0)[0]) + 40
    assert awake in {65, 66}
    assert awake % POLL_STEPS == 0
    assert seen[awake] == 1


@pytest.mark.parametrize(("activation", "sleeps"), [(4.9, False), (5.0, True), (6.0, True)])
def test_activation_is_strictly_above(activation, sleeps):
    seen = orders(keda(activation=activation), [5.0] * 80, SLEEPY)
    assert bool(seen[-1] == 0) is sleeps


def test_a_pool_that_must_not_be_empty_never_sleeps():
    assert (orders(keda(), [0.0] * 80, POOL) >= 1).all()


def test_between_one_and_the_maximum_the_hpa_decides():
    draw = np.random.default_rng(0)
    values = np.abs(100 + 40 * np.sin(np.arange(600) / 40) + draw.normal(0, 10, 600)) + 1
    np.testing.assert_array_equal(orders(keda(), values), orders(Hpa((0.7,), (60,)), values))


BLIND = [True] * 10 + [False] * 30
"""The metric fails from step 10 on."""


def test_without_a_fallback_a_failing_trigger_changes_nothing():
    seen = orders(keda(), [70.0] * 40, known=BLIND)
    assert len(set(seen[11:].tolist())) == 1


@pytest.mark.parametrize(
    ("how", "given", "settles"),
    [
        (Fallback.STATIC, 30, 30),
        (Fallback.STATIC, 2, 2),
        (Fallback.CURRENT, 30, 10),
        (Fallback.CURRENT_IF_HIGHER, 4, 10),
        (Fallback.CURRENT_IF_HIGHER, 30, 30),
        (Fallback.CURRENT_IF_LOWER, 4, 4),
        (Fallback.CURRENT_IF_LOWER, 30, 10),
    ],
)
def test_a_fallback_stands_for_its_replicas(how, given, settles):
    assert orders(keda(fallback=how, fallback_replicas=given), [70.0] * 40, known=BLIND)[-1] == settles


def test_a_fallback_begins_after_three_failed_polls():
    seen = orders(keda(fallback=Fallback.STATIC, fallback_replicas=30), [70.0] * 40, known=BLIND)
    begin = int(np.flatnonzero(seen > 10)[0])
    # the first poll that sees step 10 is at step 12, the third at step 16
    assert begin == 16


def test_a_fallback_within_the_tolerance_holds():
    assert orders(keda(fallback=Fallback.STATIC, fallback_replicas=11), [70.0] * 40, known=BLIND)[-1] == 10


def test_a_failing_trigger_never_puts_to_sleep():
    known = [True] * 4 + [False] * 60
    seen = orders(keda(), [20.0] * 4 + [0.0] * 60, SLEEPY, known=known)
    assert (seen >= 1).all()


def test_a_failing_trigger_wakes_nobody_but_a_fallback_does():
    known = [True] * 40 + [False] * 24
    assert (orders(keda(), [0.0] * 64, SLEEPY, known=known)[30:] == 0).all()
    seen = orders(keda(fallback=Fallback.STATIC, fallback_replicas=3), [0.0] * 64, SLEEPY, known=known)
    # the first poll that sees step 40 is at step 42, the third at step 46
    assert (seen[30:46] == 0).all()
    assert (seen[46:] >= 1).all()


# --- AWS target tracking --------------------------------------------------------------------------------------------


def alarms(target=5.0, low=0.9):
    return Alarms(demand_of([0.0]), POOL, np.array([target]), low)


def minutes(values, *, ready, ordered=None, target=5.0, low=0.9):
    """Answers to one-minute points of the demand per instance while the numbers of instances stay what they are."""
    at_work = alarms(target, low)
    ordered = ready if ordered is None else ordered
    return [
        int(at_work._point(POINT_STEPS * m, np.array([ordered]), np.array([ready]), np.array([v]))[0])
        for m, v in enumerate(values, 100)
    ]


def test_the_alarms_are_those_of_the_documentation():
    assert (HIGH_POINTS, LOW_POINTS) == (3, 15)
    assert POINT_STEPS * STEP_S == 60
    assert COOLDOWN_STEPS * STEP_S == WARM_UP_STEPS * STEP_S == 300


@pytest.mark.parametrize(
    ("points", "answer"),
    [
        ([6.0] * 2, [10, 10]),
        ([6.0] * 3, [10, 10, 12]),
        ([6.0, 6.0, 5.0, 6.0, 6.0], [10] * 5),  # exactly at the target is no breach, and begins anew
        ([5.1] * 3, [10, 10, 11]),  # out rounds up
        ([20.0] * 3, [10, 10, 40]),  # in proportion, at once
    ],
)
def test_the_high_alarm(points, answer):
    assert minutes(points, ready=10) == answer


@pytest.mark.parametrize(
    ("points", "last"),
    [
        ([4.0] * 14, 10),
        ([4.0] * 15, 8),
        ([4.5] * 30, 10),  # k * target exactly is no breach
        ([4.0] * 14 + [4.6] + [4.0] * 14, 10),
        ([4.1] * 15, 9),  # in removes fewer: ceil(8.2)
        ([0.0] * 15, 1),  # never below the pool's minimum
    ],
)
def test_the_low_alarm(points, last):
    assert minutes(points, ready=10)[-1] == last


@pytest.mark.parametrize(("low", "last"), [(0.9, 8), (0.7, 10)])
def test_the_low_alarms_share_is_a_parameter(low, last):
    assert minutes([4.0] * 15, ready=10, low=low)[-1] == last


def test_nothing_scales_in_while_instances_start():
    assert minutes([4.0] * 20, ready=8, ordered=10)[-1] == 10


def test_nothing_scales_in_within_the_warm_up_of_a_scale_out():
    at_work = alarms()
    state = np.array([10])
    for m in range(100, 103):
        state = at_work._point(POINT_STEPS * m, state, state, np.array([6.0]))
    assert state.tolist() == [12]
    for m in range(103, 117):
        state = at_work._point(POINT_STEPS * m, state, state, np.array([3.0]))
    assert state.tolist() == [12]
    assert at_work._point(POINT_STEPS * 117, state, state, np.array([3.0])).tolist() == [8]


def test_scale_ins_keep_a_cool_down_apart():
    at_work, state, changes = alarms(), np.array([20]), []
    for m in range(100, 130):
        after = at_work._point(POINT_STEPS * m, state, state, np.array([4.0]))
        if after[0] != state[0]:
            changes.append(m)
        state = after
    assert changes[0] == 114
    assert min(np.diff(changes)) >= 5


def test_scale_outs_do_not_wait_but_count_what_is_warming_up():
    # 10 ready, 12 ordered: 6 a ready instance asks for 12, which are under way
    assert minutes([6.0] * 6, ready=10, ordered=12)[-1] == 12
    assert minutes([7.0] * 3, ready=10, ordered=12)[-1] == 14


def test_missing_data_never_scales_in_and_the_count_begins_anew():
    values = [100.0] * 40 + [20.0] * 200
    known = np.ones(240, bool)
    known[90] = False
    whole = orders(TargetTracking((1.0,)), values)
    holed = orders(TargetTracking((1.0,)), values, known=known)
    first = [int(np.flatnonzero(seen[41:] < seen[40])[0]) + 41 for seen in (whole, holed)]
    assert first == [40 + LOW_POINTS * POINT_STEPS, 92 + LOW_POINTS * POINT_STEPS]


def test_between_the_minutes_nothing_happens():
    draw = np.random.default_rng(1)
    seen = orders(TargetTracking((0.5,)), np.abs(200 + np.cumsum(draw.normal(0, 10, 800))))
    changed = np.flatnonzero(np.diff(seen)) + 1
    assert len(changed) > 3
    assert (changed % POINT_STEPS == 0).all()


# --- AWS predictive scaling -----------------------------------------------------------------------------------------


def days_of(hours, count, low=50.0):
    """``count`` days whose ``hours`` (of the day) carry 400, the others ``low``."""
    hour = np.arange(count * DAY) // HOUR % 24
    return np.where(np.isin(hour, hours), 400.0, low)


@pytest.mark.parametrize("known", [0, 1, 23])
def test_with_less_than_a_day_known_there_is_no_forecast(known):
    past = np.full(48, np.nan)
    past[:known] = 5.0
    assert hourly_forecast(past, 48) == {}


def test_a_forecast_reaches_its_hours_and_no_further():
    assert sorted(hourly_forecast(np.arange(30.0), 48)) == list(range(30, 78))


def test_holes_in_the_history_are_left_out_of_the_mean():
    past = np.tile(np.arange(24.0), 4)
    past[-24:] = np.nan
    assert hourly_forecast(past, 24)[96 + 5] == 5.0


def test_a_forecast_knows_two_weeks():
    past = np.full(21 * 24, 10.0)
    past[: 7 * 24] = 1000.0  # three weeks ago
    assert hourly_forecast(past, 48)[21 * 24 + 3] == pytest.approx(10.0)


def test_weekends_come_from_the_weeks_before():
    past = np.concatenate([np.full(5 * 24, 100.0), np.full(2 * 24, 20.0)] * 2)
    monday = hourly_forecast(past, 24)[14 * 24 + 12]
    # yesterday and the day before were a weekend, the same hour of the week was not
    assert monday == pytest.approx(np.mean([np.mean([20.0, 20.0, 100.0]), 100.0]))


def test_capacity_stands_five_minutes_before_its_hour_and_not_before():
    values = days_of([12], 5)
    line = orders(AwsPredictive((1.0,)), values, first=4 * DAY)
    noon = 12 * HOUR
    assert BUFFER_STEPS * STEP_S == 300
    assert line[noon - BUFFER_STEPS] >= 40
    assert line[noon - BUFFER_STEPS - 1] < 40


def test_a_forecast_never_scales_in():
    # the forecast's hour ends, the capacity stays until target tracking lets it go
    values = days_of([12], 5)
    predictive = orders(AwsPredictive((1.0,)), values, first=4 * DAY)
    end = 13 * HOUR
    low = HIGH_POINTS + LOW_POINTS
    assert (predictive[end : end + (low - HIGH_POINTS - 1) * POINT_STEPS] >= 40).all()
    assert predictive[end + HOUR] < 40


def test_it_is_never_below_target_tracking_on_the_first_day():
    values = days_of([3, 4], 1)
    np.testing.assert_array_equal(orders(AwsPredictive((0.5,)), values), orders(TargetTracking((0.5,)), values))


def test_the_clocks_hours_count_not_the_traces():
    values = days_of([12], 5)
    late = 25 * 60_000
    shifted = orders(AwsPredictive((1.0,)), values, first=4 * DAY, start_ms=late)
    # the trace's hour 12 lies across two hours of the clock; the forecast of the earlier one is for its mean
    assert shifted[12 * HOUR - BUFFER_STEPS] < 40


def test_a_forecast_keeps_the_pools_maximum():
    values = days_of([12], 5)
    line = orders(AwsPredictive((1.0,)), values, PoolModel(10.0, 30.0, max=25), first=4 * DAY)
    assert line.max() == 25


# --- Predictive HPA -------------------------------------------------------------------------------------------------


RHYTHM = np.abs(200 + 150 * np.sin(np.arange(4 * DAY) / DAY * 2 * np.pi))


def test_the_maximum_is_never_below_the_hpa_and_the_minimum_never_above():
    demand, hpa = demand_of(RHYTHM[:4000], first=2500), Hpa((0.7,), (60,))
    base = simulate(hpa, demand, POOL)
    largest = simulate(Phpa((0.7,), (60,)), demand, POOL)
    least = simulate(Phpa((0.7,), (60,), decision="minimum"), demand, POOL)
    assert largest.total_cost[0] >= base.total_cost[0] >= least.total_cost[0]


def test_mean_and_median_of_two_are_the_same_and_lie_between():
    demand = demand_of(RHYTHM[1000:2400], first=900)
    found = {how: simulate(Phpa((0.7,), (60,), decision=how), demand, POOL).desired for how in ("mean", "median")}
    np.testing.assert_array_equal(found["mean"], found["median"])
    ends = [simulate(Phpa((0.7,), (60,), decision=how), demand, POOL).total_cost[0] for how in ("minimum", "maximum")]
    assert ends[0] <= found["mean"].sum() * STEP_S / 3600 <= ends[1]


def test_an_unknown_decision_is_refused():
    with pytest.raises(KeyError):
        Phpa(decision="loudest").prepare(demand_of(RHYTHM[:DAY], first=DAY // 2), POOL)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=12), st.integers(0, 50))
def test_holt_winters_by_its_recursion(history, count):
    alpha, beta, gamma = 0.5, 0.3, 0.2
    model = HoltWinters(np.array(history)[:, None], alpha, beta, gamma)
    period = max(len(history) // 2, 1)
    level, trend = float(np.mean(history[:period])), 0.0
    season = [h - level for h in history[:period]]
    at = 0
    for value in [*history[period:], count]:
        before, slot = level, at % period
        level = alpha * (value - season[slot]) + (1 - alpha) * (level + trend)
        trend = beta * (level - before) + (1 - beta) * trend
        season[slot] = gamma * (value - level) + (1 - gamma) * season[slot]
        at += 1
    assert model.advance(np.array([count]))[0] == pytest.approx(level + trend + season[at % period])


def test_holt_winters_columns_do_not_touch():
    counts = np.array([[1, 9], [2, 8], [3, 7], [4, 6], [5, 5], [6, 4]])
    both = HoltWinters(counts, 0.9, 0.9, 0.9).advance(np.array([7, 3]))
    for k in range(2):
        assert both[k] == HoltWinters(counts[:, k : k + 1], 0.9, 0.9, 0.9).advance(np.array([(7, 3)[k]]))[0]


# --- seasonal naive -------------------------------------------------------------------------------------------------


def weekly(weeks):
    """Busy on five days of a week, quiet on two."""
    day = np.arange(weeks * 7 * DAY) // DAY % 7
    return np.where(day < 5, 300.0, 60.0)


@pytest.mark.parametrize(
    ("values", "first", "season"),
    [
        (weekly(3), 15 * DAY, 7 * DAY),
        (days_of([8, 9], 20), 15 * DAY, DAY),  # both fit equally, the day is the nearer
        (days_of([8, 9], 3), 2 * DAY, DAY),  # a week is not known twice
        (days_of([8], 1), DAY // 2, DAY),
    ],
)
def test_the_season_that_erred_less_is_chosen(values, first, season):
    assert season_of(demand_of(values, first=first)) == season


def test_it_provides_for_what_came_a_day_ago_a_lead_time_ahead():
    values = days_of([12], 3)
    seen = orders(SeasonalNaive((1.0,)), values, PoolModel(10.0, 600.0), first=2 * DAY)
    noon, lead = 12 * HOUR, 600 // STEP_S
    assert seen[noon - lead] == 40
    assert seen[noon - lead - 1] == 5


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_it_never_falls_below_what_is_there_now(factor):
    draw = np.random.default_rng(2)
    values = np.abs(100 + draw.normal(0, 30, 2 * DAY))
    seen = orders(SeasonalNaive((factor,)), values, first=DAY)
    now = POOL.need(values[DAY - 1 : -1])
    assert (seen >= now).all()


def test_a_larger_factor_orders_more():
    line = simulate(SeasonalNaive((0.5, 1.0, 2.0)), demand_of(days_of([6, 18], 3), first=2 * DAY), POOL)
    assert (np.diff(line.desired, axis=1) >= 0).all()
    assert (np.diff(line.total_cost) > 0).all()
