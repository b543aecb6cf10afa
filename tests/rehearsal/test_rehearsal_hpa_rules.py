"""Rule by rule what the Kubernetes HPA does where it is easily copied wrong: edges, windows, rates and absent pods."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecastle.rehearsal.hpa import CpuHpa, Hpa, HpaCpu, RateHpa, Stabilizer
from forecastle.rehearsal.hpa_calculator import (
    DOWN,
    UP,
    Memory,
    Pod,
    Rate,
    Rules,
    Select,
    Tolerance,
    average_value_replicas,
    behave,
    behave_default,
    combine,
    group,
    per_pod_replicas,
    utilization_replicas,
    value_replicas,
)
from forecastle.rehearsal.simulate import PoolModel, simulate
from forecastle.rehearsal.trace import STEP_S, Demand

POOL = PoolModel(10.0, 60.0)
MISSING = Pod(None, request=1.0)
PENDING = Pod(None, request=1.0, pending=True)


def demand_of(values, known=None, first=0):
    values = np.asarray(values, float)
    at = np.arange(len(values)) * STEP_S * 1000
    return Demand(at, values, np.ones(len(values), bool) if known is None else np.asarray(known), first, 60.0)


def used(*usage, **more):
    return [Pod(use, request=1.0, **more) for use in usage]


# --- tolerance ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio", "holds"),
    [(1.1, True), (math.nextafter(1.1, 2), False), (0.9, True), (math.nextafter(0.9, 0), False), (1.0, True)],
)
def test_both_ends_of_the_tolerance_hold(ratio, holds):
    assert Tolerance().holds(ratio) is holds


@pytest.mark.parametrize("current", [1, 2, 5, 10, 40])
def test_a_ratio_of_exactly_1_1_holds_for_an_average_value(current):
    assert average_value_replicas(current, 8.8 * current, 8.0) == current
    assert average_value_replicas(current, 8.9 * current, 8.0) == math.ceil(8.9 * current / 8.0)


@pytest.mark.parametrize(
    ("down", "up", "ratio", "wanted"),
    [(0.1, 0.0, 1.05, 11), (0.1, 0.2, 1.15, 10), (0.0, 0.1, 0.95, 10), (0.0, 0.1, 0.85, 9), (0.3, 0.1, 0.75, 10)],
)
def test_each_direction_has_its_own_tolerance(down, up, ratio, wanted):
    # 10 replicas at a target of 10: ceil(ratio * 10) when it does not hold
    assert average_value_replicas(10, ratio * 100.0, 10.0, Tolerance(down, up)) == wanted


@pytest.mark.parametrize("target", [50, 70, 80])
def test_utilization_is_truncated_before_it_is_compared(target):
    edge = int(1.1 * target)
    assert utilization_replicas(10, used(*[(edge + 0.9) / 100] * 10), target) == 10
    assert utilization_replicas(10, used(*[(edge + 1.01) / 100] * 10), target) == math.ceil((edge + 1) / target * 10)


def test_at_zero_replicas_nothing_is_tolerated():
    assert average_value_replicas(0, 5.0, 100.0) == 1
    assert value_replicas(0, 0, 5.0, 100.0) == 1


# --- pods that are missing or not ready -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pods", "target", "wanted"),
    [
        # one missing at r < 1 counts as the whole request: (0.3 * 3 + 1) / 4 = 47 %, r = 0.67, ceil(2.7)
        ([*used(0.3, 0.3, 0.3), MISSING], 70, 3),
        # two missing: (0.3 * 2 + 2) / 4 = 65 %: within tolerance
        ([*used(0.3, 0.3), MISSING, MISSING], 70, 4),
        # at r > 1 they count as nothing: (0.9 * 3) / 4 = 67 %: within tolerance of 70
        ([*used(0.9, 0.9, 0.9), MISSING], 70, 4),
        # a pending one counts as nothing at r > 1, too: 1.0 * 3 / 4 = 75 %: within tolerance
        ([*used(1.0, 1.0, 1.0), PENDING], 70, 4),
        # but is left out altogether at r < 1: r = 0.3 / 0.7, ceil(3 * 0.43)
        ([*used(0.3, 0.3, 0.3), PENDING], 70, 2),
        # missing and pending at r < 1: only the missing one is filled in: (0.9 + 1) / 4 = 47 %
        ([*used(0.3, 0.3, 0.3), MISSING, PENDING], 70, 3),
        # both at r > 1: 3.0 / 5 = 60 %: that would turn the direction round, so it holds
        ([*used(1.0, 1.0, 1.0), MISSING, PENDING], 70, 5),
    ],
)
def test_utilization_with_absent_pods(pods, target, wanted):
    assert utilization_replicas(len(pods), pods, target) == wanted


@pytest.mark.parametrize(
    ("samples", "absent", "target", "wanted"),
    [
        # a missing pod counts as the target at r < 1: (2 * 10 + 100) / 3 = 40, r = 0.4, ceil(1.2)
        ((10.0, 10.0), [MISSING], 100.0, 2),
        # and as 0 at r > 1: 400 / 3 = 133, ceil(4.0)
        ((200.0, 200.0), [MISSING], 100.0, 4),
        # a pending one as 0 at r > 1 and not at all at r < 1
        ((200.0, 200.0), [PENDING], 100.0, 4),
        ((10.0, 10.0), [PENDING], 100.0, 1),
    ],
)
def test_raw_metrics_with_absent_pods(samples, absent, target, wanted):
    pods = [*(Pod(s) for s in samples), *absent]
    assert per_pod_replicas(len(pods), pods, target) == wanted


def test_raw_metrics_need_a_sample():
    with pytest.raises(ValueError, match="no pod has a sample"):
        per_pod_replicas(2, [MISSING, PENDING], 10.0)


@pytest.mark.parametrize("absent", [MISSING, PENDING, Pod(0.4, 1.0, ready=False, started_s=30.0, changed_s=30.0)])
@pytest.mark.parametrize("use", [0.2, 0.5, 0.7, 0.75, 0.9, 1.0])
def test_an_absent_pod_never_makes_the_change_larger(absent, use):
    alone = utilization_replicas(4, used(*[use] * 4), 70)
    with_it = utilization_replicas(5, [*used(*[use] * 4), absent], 70)
    assert with_it - 5 <= max(alone - 4, 0)


def test_a_pod_without_requests_has_no_utilization():
    with pytest.raises(ValueError, match="cannot compute a utilization"):
        utilization_replicas(2, [Pod(0.5), Pod(0.5)], 70)


@pytest.mark.parametrize(
    ("started", "changed", "ready", "kind"),
    [
        (299.0, 299.0, True, "ready"),
        (299.0, 59.0, True, "unready"),  # its sample averages over the time before it was ready
        (299.0, 61.0, True, "ready"),
        (301.0, 1.0, True, "ready"),  # after the initialization period a sample is a sample
        (301.0, 272.0, False, "unready"),  # 29 s after its start it went unready: it never was ready
        (301.0, 270.0, False, "ready"),  # 31 s after: it was
    ],
)
def test_the_initialization_period_and_the_readiness_delay(started, changed, ready, kind):
    pod = Pod(1.0, 1.0, ready=ready, started_s=started, changed_s=changed)
    found = dict(zip(("ready", "unready", "missing", "ignored"), group([pod], cpu=True), strict=True))
    assert [name for name, members in found.items() if members] == [kind]


def test_a_deleted_pod_is_ignored_even_when_it_is_pending():
    assert group([replace(PENDING, gone=True)], cpu=True)[3] == {0}


# --- behavior -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ages", "wanted"),
    [((0.0,), 9), ((299.9,), 9), ((300.0,), 4), ((300.1,), 4), ((10.0, 400.0), 9)],
)
def test_the_down_window_forgets_at_its_end(ages, wanted):
    memory = Memory(recommendations=tuple((age, 9) for age in ages))
    assert behave(10, 4, memory) == wanted


@pytest.mark.parametrize(("age", "wanted"), [(59.0, 12), (60.0, 18)])
def test_an_up_window_takes_the_least_of_itself(age, wanted):
    slow = Rules(60.0, UP.rates)
    assert behave(10, 18, Memory(recommendations=((age, 12),)), up=slow) == wanted


def test_current_is_kept_between_the_two_windows():
    # the least of the up-window is below, the largest of the down-window above: nothing moves
    memory = Memory(recommendations=((20.0, 8), (200.0, 14)))
    assert behave(10, 12, memory, up=Rules(60.0, UP.rates)) == 10


@pytest.mark.parametrize(
    ("current", "added", "wanted"),
    [
        (1, 0, 5),  # + 4 pods
        (4, 0, 8),  # both the same
        (7, 0, 14),  # + 100 %
        (9, 4, 10),  # the period began with 5: at most 10
        (12, 6, 12),  # began with 6, is at its limit
        (14, 6, 16),  # began with 8
    ],
)
def test_a_rates_base_is_the_beginning_of_its_period(current, added, wanted):
    assert behave(current, 99, Memory(added=((5.0, added),) if added else ())) == wanted


def test_what_was_removed_in_the_period_counts_back():
    # 8 now, 2 were removed: the period began with 10; 10 % of it may go, which is fewer than have gone already
    slow = Rules(0.0, (Rate(10, percent=True, period_s=60.0),))
    assert behave(8, 1, Memory(removed=((30.0, 2),)), down=slow) == 8
    assert behave(8, 1, Memory(removed=((61.0, 2),)), down=slow) == 7


@pytest.mark.parametrize(("percent", "up", "down"), [(10, 17, 13), (1, 16, 14), (50, 23, 7), (100, 30, 0), (200, 45, 0)])
def test_percent_rounds_up_on_the_way_up_and_down_on_the_way_down(percent, up, down):
    rules = Rules(0.0, (Rate(percent, percent=True),))
    assert behave(15, 99, Memory(), up=rules) == up
    assert behave(15, 0, Memory(), down=rules) == down


@pytest.mark.parametrize(("select", "up", "down"), [(Select.MAX, 15, 5), (Select.MIN, 12, 8), (Select.DISABLED, 10, 10)])
def test_select_means_the_most_or_the_least_change(select, up, down):
    rules = Rules(0.0, (Rate(5, percent=False), Rate(20, percent=True)), select)
    assert behave(10, 99, Memory(), up=rules) == up
    assert behave(10, 0, Memory(), down=rules) == down


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 50),
    st.integers(0, 80),
    st.lists(st.tuples(st.floats(0, 400), st.integers(0, 80)), max_size=8),
)
def test_behavior_never_turns_the_direction_round(current, desired, history):
    found = behave(current, desired, Memory(recommendations=tuple(history)))
    assert min(current, desired) <= found <= max(current, desired)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 200), st.integers(0, 400))
def test_unset_behavior_doubles_at_most_and_goes_down_at_once(current, desired):
    assert behave_default(current, desired, Memory()) == min(desired, max(2 * current, 4))


# --- several metrics ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("proposals", "wanted"),
    [([4, 9, 2], 9), ([4], 4), ([None, 4], 6), ([None, 9], 9), ([None, None], 6), ([], 6)],
)
def test_the_largest_proposal_wins_and_a_failing_metric_forbids_less(proposals, wanted):
    assert combine(6, proposals) == wanted


# --- in the loop ----------------------------------------------------------------------------------------------------


def settle(wishes, window, begin=5):
    stabilizer, current, seen = Stabilizer(np.array([window]), POOL), np.array([begin]), []
    for wish in wishes:
        current = stabilizer.settle(current, np.array([wish]))
        seen.append(int(current[0]))
    return seen


def test_up_is_doubled_or_four_more_at_each_sync():
    assert settle([100] * 5, 300, begin=1) == [5, 10, 20, 40, 80]


@pytest.mark.parametrize(("window", "steps"), [(60, 4), (300, 20), (15, 1)])
def test_down_waits_for_the_window_and_then_goes_at_once(window, steps):
    seen = settle([10] + [3] * (steps + 2), window, begin=10)
    assert seen[:steps] == [10] * steps
    assert seen[steps] == 3


def test_a_short_peak_is_remembered_as_the_recommendation_it_made():
    seen = settle([10, 14, *[3] * 8], 60, begin=10)
    assert seen == [10, 14, 14, 14, 14, 3, 3, 3, 3, 3]


def test_the_pools_limits_are_the_last_word():
    stabilizer = Stabilizer(np.array([60]), replace(POOL, min=2, max=6))
    assert stabilizer.settle(np.array([5]), np.array([90])).tolist() == [6]
    assert stabilizer.settle(np.array([6]), np.array([0])).tolist() == [6]  # the window remembers 90
    fresh = Stabilizer(np.array([15]), replace(POOL, min=2, max=6))
    assert fresh.settle(np.array([5]), np.array([0])).tolist() == [2]


def test_the_metric_is_seen_one_sync_late():
    values = [60.0] * 10 + [120.0] * 10
    line = simulate(Hpa((0.6,), (300,)), demand_of(values), POOL)
    assert line.desired[10, 0] == line.desired[9, 0]
    assert line.desired[11, 0] == 20


@pytest.mark.parametrize(
    ("value", "ordered", "ready", "wanted"),
    [
        (84.0, 10, 10, 12),  # 84 %, r = 1.2
        (77.0, 10, 10, 10),  # r = 1.1 exactly
        (63.0, 10, 10, 10),  # r = 0.9 exactly
        (62.0, 10, 10, 9),  # 62 %, r = 0.886
        (200.0, 10, 10, 15),  # 100 %: it cannot be seen to be more, ceil(1.43 * 10)
        (200.0, 15, 10, 15),  # five start: 10 / 15 = 66 % holds
        (200.0, 12, 10, 15),  # two start: 83 %, ceil(1.186 * 12)
        (30.0, 15, 10, 5),  # r < 1: those that start are not counted
    ],
)
def test_the_cpu_hpa_in_the_loop(value, ordered, ready, wanted):
    hpa = CpuHpa(demand_of([1.0]), POOL, np.array([70.0]), 1.0, Stabilizer(np.array([60]), POOL))
    assert hpa.recommend(value, np.array([ordered]), np.array([ready]), np.array([ready])).tolist() == [wanted]


@pytest.mark.parametrize(("limit", "wanted"), [(1.0, 15), (1.5, 22), (3.0, 29)])
def test_a_higher_limit_shows_more_of_a_shortfall(limit, wanted):
    hpa = CpuHpa(demand_of([1.0]), POOL, np.array([70.0]), limit, Stabilizer(np.array([60]), POOL))
    assert hpa.recommend(200.0, np.array([10]), np.array([10]), np.array([10])).tolist() == [wanted]


def test_the_rate_hpa_answers_for_each_column_alone():
    hpa = RateHpa(demand_of([1.0]), POOL, np.array([5.0, 8.0]), Stabilizer(np.array([60, 60]), POOL))
    assert hpa.recommend(np.array([50.0, 160.0]), np.array([4, 4])).tolist() == [10, 20]


@pytest.mark.parametrize("policy", [Hpa((0.5, 0.7), (60, 300)), HpaCpu((0.5, 0.7), (60, 300))])
def test_a_longer_window_and_a_lower_target_cost_more(policy):
    draw = np.random.default_rng(3)
    values = np.abs(200 + 60 * np.sin(np.arange(1500) / 80) + draw.normal(0, 25, 1500))
    line = simulate(policy, demand_of(values), POOL)
    cost = dict(zip(line.knobs, line.total_cost, strict=True))
    assert cost["0.5/60s"] < cost["0.5/300s"]
    assert cost["0.7/60s"] < cost["0.7/300s"] < cost["0.5/300s"]


def test_the_default_rules_are_those_of_autoscaling_v2():
    assert (UP.window_s, DOWN.window_s) == (0.0, 300.0)
    assert UP.rates == (Rate(4, percent=False, period_s=15.0), Rate(100, percent=True, period_s=15.0))
    assert DOWN.rates == (Rate(100, percent=True, period_s=15.0),)
    assert UP.select is DOWN.select is Select.MAX
