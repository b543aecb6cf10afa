"""The HPA's arithmetic by table, its defaults, and the vectorised HPA of the loop against it."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from forecastle.rehearsal.hpa import CpuHpa, Hpa, HpaCpu, RateHpa, Stabilizer
from forecastle.rehearsal.hpa_calculator import (
    DOWN,
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


def pods(*usage, **more):
    return [Pod(use, request=1.0, **more) for use in usage]


UNREADY = Pod(0.0, request=1.0, ready=False, started_s=60.0, changed_s=60.0)
MISSING = Pod(None, request=1.0)
PENDING = Pod(None, request=1.0, pending=True)
GONE = Pod(9.0, request=1.0, gone=True)


@pytest.mark.parametrize(
    ("current", "what", "target", "wanted"),
    [
        (3, pods(0.3, 0.5, 0.7), 30, 5),  # u = 50, r = 1.667, ceil(5.0)
        (3, pods(0.5, 0.5, 0.5), 50, 3),  # r = 1
        (3, pods(0.55, 0.55, 0.55), 50, 3),  # r = 1.1 exactly holds
        (3, pods(0.56, 0.56, 0.56), 50, 4),  # r = 1.12 does not
        (10, pods(*[0.45] * 10), 50, 10),  # r = 0.9 exactly holds
        (10, pods(*[0.44] * 10), 50, 9),  # r = 0.88
        (3, pods(0.559, 0.559, 0.559), 50, 3),  # 55.9 is truncated to 55
        (2, [*pods(0.9, 0.9), GONE], 50, 4),  # a deleted pod does not count
        # one unready of three and r > 1: it counts as 0; (0.9 + 0.9) / 3 = 60 %, r = 1.2, ceil(3.6)
        (3, [*pods(0.9, 0.9), UNREADY], 50, 4),
        # the same, but with the zeros it is within tolerance
        (3, [*pods(0.8, 0.8), UNREADY], 50, 3),
        # r < 1 with an unready pod: it plays no part
        (3, [*pods(0.2, 0.2), UNREADY], 50, 1),
        # missing and r < 1: taken as 100 % of the request; (0.2 + 0.2 + 1) / 3 = 46 %: holds
        (3, [*pods(0.2, 0.2), MISSING], 50, 3),
        # missing and r > 1: taken as 0; (1 + 1) / 3 = 66 %, r = 1.32, ceil(3.96)
        (3, [*pods(1.0, 1.0), MISSING], 50, 4),
        # the recomputed ratio flips the direction: hold
        (4, [*pods(0.4, 0.4), MISSING, MISSING], 50, 4),
        (3, [*pods(0.9, 0.9), PENDING], 50, 4),
    ],
)
def test_utilization(current, what, target, wanted):
    assert utilization_replicas(current, what, target) == wanted


def test_a_missing_pod_counts_at_least_as_the_target_above_100_percent():
    # target 150 %: (0.3 + 1.5) / 2 = 90 %, r = 0.6, ceil(1.2)
    assert utilization_replicas(2, [*pods(0.3), MISSING], 150) == 2


def test_without_any_sample_there_is_no_utilization():
    with pytest.raises(ValueError, match="cannot compute"):
        utilization_replicas(2, [MISSING, PENDING], 50)


@pytest.mark.parametrize(
    ("pod", "kind"),
    [
        (Pod(1.0, 1.0, started_s=100, ready=False), "unready"),
        (Pod(1.0, 1.0, started_s=100, changed_s=30, sampled_s=0, window_s=60), "unready"),  # sample from before it was ready
        (Pod(1.0, 1.0, started_s=100, changed_s=90, sampled_s=0, window_s=60), "ready"),
        (Pod(1.0, 1.0, started_s=400, ready=False, changed_s=380), "unready"),  # never ready since its start
        (Pod(1.0, 1.0, started_s=400, ready=False, changed_s=100), "ready"),  # was ready once
        (Pod(None, 1.0), "missing"),
        (Pod(1.0, 1.0, pending=True), "unready"),
        (Pod(1.0, 1.0, gone=True), "ignored"),
    ],
)
def test_grouping_for_cpu(pod, kind):
    ready, unready, missing, ignored = group([pod], cpu=True)
    found = {"ready": set(ready), "unready": unready, "missing": missing, "ignored": ignored}
    assert {name for name, members in found.items() if members} == {kind}


def test_custom_metrics_ignore_readiness():
    ready, unready, _, _ = group([UNREADY], cpu=False)
    assert ready == [0]
    assert not unready


@pytest.mark.parametrize(("samples", "target", "wanted"), [((10, 20, 30), 20, 3), ((30, 30, 30), 20, 5), ((5, 5, 5), 20, 1)])
def test_pods_metric(samples, target, wanted):
    assert per_pod_replicas(3, [Pod(float(s)) for s in samples], target) == wanted


@pytest.mark.parametrize(
    ("current", "value", "target", "wanted"),
    [
        (4, 500.0, 100.0, 5),
        (4, 440.0, 100.0, 4),
        (4, 441.0, 100.0, 5),
        (4, 360.0, 100.0, 4),
        (4, 359.0, 100.0, 4),
        (9, 100.0, 100.0, 1),
    ],
)
def test_external_average_value(current, value, target, wanted):
    assert average_value_replicas(current, value, target) == wanted


def test_external_value_multiplies_the_ready_replicas():
    assert value_replicas(4, 3, 200.0, 100.0) == 6
    assert value_replicas(4, 4, 105.0, 100.0) == 4


def test_several_metrics():
    assert combine(5, [3, 7]) == 7
    assert combine(5, [3, None]) == 5  # a failing metric forbids scaling down
    assert combine(5, [8, None]) == 8
    assert combine(5, [None]) == 5


def test_tolerance_holds_at_both_ends():
    wide = Tolerance(0.2, 0.5)
    assert wide.holds(1.5)
    assert wide.holds(0.8)
    assert not wide.holds(1.51)


@pytest.mark.parametrize(
    ("current", "desired", "memory", "wanted"),
    [
        (2, 50, Memory(), 6),  # 4 pods beat 100 %
        (10, 50, Memory(), 20),  # 100 % beats 4 pods
        (10, 50, Memory(added=((5.0, 6),)), 10),  # the period began with 4: at most 8, and never below current
        (10, 4, Memory(), 4),
        (10, 4, Memory(recommendations=((200.0, 8),)), 8),  # the down-window keeps the largest of 300 s
        (10, 4, Memory(recommendations=((301.0, 8),)), 4),
        (10, 12, Memory(recommendations=((100.0, 30),)), 12),  # the down-window raises nobody
    ],
)
def test_behavior(current, desired, memory, wanted):
    assert behave(current, desired, memory) == wanted


def test_percent_down_truncates_and_percent_up_rounds_up():
    down = Rules(0.0, (Rate(10, percent=True),))
    up = Rules(0.0, (Rate(10, percent=True),))
    assert behave(15, 1, Memory(), down=down) == 13  # int(13.5)
    assert behave(15, 99, Memory(), up=up, down=down) == 17  # ceil(16.5)


def test_select_min_and_disabled():
    slow = Rules(0.0, (Rate(1, percent=False), Rate(100, percent=True)), Select.MIN)
    never = Rules(0.0, (Rate(100, percent=True),), Select.DISABLED)
    assert behave(10, 40, Memory(), up=slow) == 11
    assert behave(10, 40, Memory(), up=never) == 10
    assert behave(10, 1, Memory(), down=never) == 10


def test_unset_behavior():
    assert behave_default(1, 50, Memory()) == 4
    assert behave_default(10, 50, Memory()) == 20
    assert behave_default(10, 2, Memory(recommendations=((299.0, 7), (300.0, 9)))) == 7


POOL = PoolModel(10.0, 60.0)


def demand_of(values, known=None):
    values = np.asarray(values, float)
    at = np.arange(len(values)) * STEP_S * 1000
    return Demand(at, values, np.ones(len(values), bool) if known is None else np.asarray(known), 0, 60.0)


@settings(max_examples=100, deadline=None)
@given(st.floats(0, 5000), st.integers(1, 80))
def test_the_loops_rate_hpa_is_the_calculators(value, ordered):
    targets = np.array([4.0, 5.0, 9.0])
    hpa = RateHpa(demand_of([1.0]), POOL, targets, Stabilizer(np.array([60, 60, 60]), POOL))
    expected = [average_value_replicas(ordered, value, target) for target in targets]
    assert hpa.recommend(value, np.full(3, ordered)).tolist() == expected


@settings(max_examples=100, deadline=None)
@given(st.floats(0, 2000), st.integers(1, 60), st.integers(0, 20))
@example(190.0, 19, 2)
def test_the_loops_cpu_hpa_is_the_calculators(value, ready, starting):
    hpa = CpuHpa(demand_of([1.0]), POOL, np.array([70.0]), 1.0, Stabilizer(np.array([60]), POOL))
    use = min(value / POOL.capacity / ready, 1.0)
    fleet = [*pods(*[use] * ready), *[PENDING] * starting]
    got = hpa.recommend(value, np.array([ready + starting]), np.array([ready]), np.array([ready]))
    # sums of floats truncate to one percent below at a whole percent; either is the HPA's
    around = {
        utilization_replicas(ready + starting, [Pod(max(use + e, 0.0), 1.0) for _ in range(ready)] + fleet[ready:], 70)
        for e in (-1e-9, 0, 1e-9)
    }
    assert int(got[0]) in around


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=40), st.sampled_from([60, 300]))
def test_the_loops_behavior_is_the_calculators(wishes, window):
    stabilizer = Stabilizer(np.array([window]), POOL)
    down = Rules(float(window), DOWN.rates)
    current, history = np.array([5]), []
    for now, wish in enumerate(wishes):
        memory = Memory(recommendations=tuple(((now - t) * float(STEP_S), w) for t, w in history))
        expected = behave(int(current[0]), wish, memory, down=down)
        current = stabilizer.settle(current, np.array([wish]))
        history.append((now, wish))
        assert int(current[0]) == expected


def test_a_shortfall_is_invisible_to_a_saturated_utilization():
    values = [10.0] * 8 + [400.0] * 40
    rate = simulate(Hpa((0.7,), (300,)), demand_of(values), POOL)
    cpu = simulate(HpaCpu((0.7,), (300,)), demand_of(values), POOL)
    assert rate.unmet.sum() < cpu.unmet.sum()


def test_without_a_metric_the_hpa_changes_nothing():
    values = [100.0] * 10 + [500.0] * 10
    line = simulate(Hpa((0.5,), (60,)), demand_of(values, [True] * 10 + [False] * 10), POOL)
    assert len(set(line.desired[11:, 0].tolist())) == 1
