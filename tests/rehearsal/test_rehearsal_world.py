"""Reading traces, what can go wrong in the simulated world, and the figures of a run."""

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from forecastle.errors import ConfigError
from forecastle.rehearsal.aws import hourly_forecast
from forecastle.rehearsal.bounds import Given
from forecastle.rehearsal.faults import account, forecast_faults, steepest_rise, world_faults
from forecastle.rehearsal.hpa import Hpa
from forecastle.rehearsal.keda import Fallback
from forecastle.rehearsal.measures import COMPARED, Curve, compare, figures
from forecastle.rehearsal.phpa import HoltWinters
from forecastle.rehearsal.simulate import PoolModel, Trouble, simulate
from forecastle.rehearsal.trace import STEP_S, Demand, read_trace


def demand_of(values, known=None):
    values = np.asarray(values, float)
    at = np.arange(len(values)) * STEP_S * 1000
    return Demand(at, values, np.ones(len(values), bool) if known is None else np.asarray(known), 0, 60.0)


class Wishes:
    """Wants what it is told."""

    name, notes, knobs = "wishes", (), ("a",)

    def __init__(self, plan):
        self.plan = np.array(plan)[:, None]

    def prepare(self, demand, pool):
        self.demand = demand
        return Given(self.plan)


def trouble(n, **struck):
    masks = {name: np.isin(np.arange(n), struck.get(name, [])) for name in ("blind", "stuck", "lost")}
    return Trouble(**masks)


def test_while_start_ups_are_stuck_nothing_becomes_ready():
    line = simulate(Wishes([1, 3, 3, 3, 3, 3, 3]), demand_of([1.0] * 7), PoolModel(1.0, 30.0), trouble(7, stuck=[2, 3, 4]))
    assert line.ready[:, 0].tolist() == [1, 1, 1, 1, 1, 3, 3]
    assert line.cost[2, 0] == line.cost[5, 0]


def test_stuck_start_ups_do_not_keep_what_is_removed():
    line = simulate(Wishes([4, 4, 2, 2, 2]), demand_of([4.0] * 5), PoolModel(1.0, 15.0), trouble(5, stuck=[1, 2, 3]))
    assert line.ready[:, 0].tolist() == [4, 4, 2, 2, 2]


def test_lost_capacity_is_half_and_comes_back():
    line = simulate(Wishes([6] * 5), demand_of([6.0] * 5), PoolModel(1.0, 0.0), trouble(5, lost=[1, 2]))
    assert line.ready[:, 0].tolist() == [6, 3, 3, 6, 6]
    assert line.unmet[:, 0].tolist() == [0, 3, 3, 0, 0]


def test_a_blind_policy_sees_the_last_value_but_the_demand_counts():
    policy = Wishes([1] * 6)
    line = simulate(policy, demand_of([1, 2, 9, 9, 9, 3]), PoolModel(1.0, 0.0), trouble(6, blind=[2, 3, 4]))
    assert policy.demand.value.tolist() == [1, 2, 2, 2, 2, 3]
    assert policy.demand.known.tolist() == [True, True, False, False, False, True]
    assert line.unmet[:, 0].tolist() == [0, 1, 8, 8, 8, 2]


def test_the_hpa_holds_while_it_is_blind():
    values = [50.0] * 20 + [200.0] * 20
    line = simulate(Hpa((0.5,), (60,)), demand_of(values), PoolModel(10.0, 15.0), trouble(40, blind=range(15, 40)))
    assert len(set(line.desired[16:, 0].tolist())) == 1


def test_faults_strike_at_the_steepest_rise():
    values = np.concatenate([np.full(300, 10.0), np.linspace(10, 500, 120), np.full(300, 500.0)])
    demand = demand_of(values)
    assert 290 <= steepest_rise(demand, 120) <= 310
    found = world_faults(demand, PoolModel(10.0, 60.0))
    assert found["none"] is None
    assert {name: int((t.blind | t.stuck | t.lost).sum()) for name, t in found.items() if t} == {
        "metric gap": 120,
        "stuck start-ups": 120,
        "failed capacity": 120,
        "retry storm": 120,
    }


@pytest.mark.parametrize(("steps", "lead_s"), [(12, 180.0), (40, 900.0), (2, 0.0)])
def test_a_test_span_that_is_over_before_the_fault_could_strike_is_struck_at_its_end(steps, lead_s):
    demand, pool = demand_of(np.full(steps, 30.0)), PoolModel(10.0, lead_s)
    for trouble in world_faults(demand, pool).values():
        if trouble is not None:
            line = simulate(Hpa((0.7,), (60,)), demand, pool, trouble)
            assert np.flatnonzero(trouble.struck).tolist() == [steps - 1]
            assert account(line, 0, trouble.struck[demand.first :]).startswith("5 replicas before it, 5 to 5 until an hour")


def test_forecast_faults():
    found = {name: distort(np.array([[1.0, 2.0]])) for name, distort in forecast_faults(7.0).items()}
    assert found["forecast constant"].tolist() == [[7.0, 7.0]]
    assert found["forecast 10x"].tolist() == [[10.0, 20.0]]
    assert np.isnan(found["forecast NaN"]).all()


def test_figures_of_a_run_by_hand():
    line = simulate(Wishes([1, 1, 3, 3]), demand_of([1.0, 2.0, 2.0, 2.0]), PoolModel(1.0, 0.0, price=4.0))
    # begins with one ready replica; ready 1, 1, 3, 3 against needs 1, 2, 2, 2
    (row,) = figures(line)
    assert row.unmet_share == pytest.approx(1 / 7)
    assert row.unmet_time_share == pytest.approx(1 / 4)
    assert (row.theta_u, row.theta_o) == (pytest.approx(0.5 / 4), pytest.approx(1.0 / 4))
    assert (row.tau_u, row.tau_o) == (pytest.approx(1 / 4), pytest.approx(2 / 4))
    assert row.cost == pytest.approx(8 * 4.0 * 15 / 3600)
    assert row.peak_replicas == 3


def test_a_curve_keeps_the_undominated_points():
    curve = Curve.of(np.array([0.1, 0.01, 0.05, 0.01]), np.array([1.0, 3.0, 3.5, 2.5]))
    assert curve.unmet.tolist() == [0.01, 0.1]
    assert curve.cost.tolist() == [2.5, 1.0]
    middle = curve.cost_at(np.array([np.sqrt(0.001), 0.5, 0.001]))
    assert middle[0] == pytest.approx(1.75)
    assert middle[1] == 1.0
    assert np.isnan(middle[2])


def test_comparison_at_equal_unmet_demand():
    theirs = Curve.of(np.array([0.001, 0.1]), np.array([4.0, 2.0]))
    half = Curve.of(np.array([0.001, 0.1]), np.array([2.0, 1.0]))
    np.testing.assert_allclose(compare(half, theirs), 0.5)
    late = Curve.of(np.array([0.01, 0.1]), np.array([2.0, 1.0]))
    assert np.isinf(compare(late, theirs)[0])
    perfect = Curve.of(np.array([0.0, 0.1]), np.array([4.0, 2.0]))
    assert np.isfinite(compare(perfect, Curve.of(np.array([0.0, 0.1]), np.array([5.0, 2.0])))).all()
    assert COMPARED > 0


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [("static", [5, 5]), ("currentReplicas", [3, 8]), ("currentReplicasIfHigher", [5, 8]), ("currentReplicasIfLower", [3, 5])],
)
def test_keda_fallbacks(kind, wanted):
    assert Fallback(kind).replicas(5, np.array([3, 8])).tolist() == wanted


def test_hourly_forecasts_need_a_day_and_follow_its_rhythm():
    assert hourly_forecast(np.arange(20.0), 48) == {}
    days = np.tile(np.arange(24.0), 15)
    found = hourly_forecast(days, 48)
    assert [found[len(days) + k] for k in (0, 5, 23, 24, 30)] == [0, 5, 23, 0, 6]


def test_holt_winters_of_a_constant_is_the_constant():
    straight = HoltWinters(np.full((8, 2), 3), 0.9, 0.9, 0.9)
    for _ in range(5):
        np.testing.assert_allclose(straight.advance(np.array([3, 3])), 3.0)


def test_holt_winters_knows_its_season():
    season = np.array([1, 5, 9, 5])
    model = HoltWinters(np.tile(season, 2)[:, None], 0.1, 0.01, 0.5)
    for turn in range(8):
        predicted = model.advance(season[turn % 4 : turn % 4 + 1])
        assert predicted[0] == pytest.approx(season[(turn + 1) % 4], abs=0.5)


def write(path, **columns):
    parquet.write_table(pa.table(columns), path)
    return path


def test_reading_sorts_drops_holes_and_keeps_the_later_of_two(tmp_path):
    at = np.array(
        ["2026-01-01T00:02", "2026-01-01T00:00", "2026-01-01T00:01", "2026-01-01T00:01", "2026-01-01T00:03"], "M8[ms]"
    )
    path = write(tmp_path / "t.parquet", series_id=["a"] * 5, timestamp=at, value=[3.0, 1.0, 2.0, 2.5, np.nan])
    assert read_trace(path).value.tolist() == [1.0, 2.5, 3.0]


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"series_id": ["a"] * 4, "value": [1.0] * 4}, "lacks column timestamp"),
        ({"series_id": ["a"] * 4, "timestamp": [1, 2, 3, 4], "value": [1.0, -2.0, 3.0, 1.0]}, "cannot be negative"),
        ({"series_id": ["a"] * 2, "timestamp": [1, 2], "value": [1.0, 2.0]}, "at least 3"),
        ({"series_id": ["a", "b", "a", "b"], "timestamp": [1, 2, 3, 4], "value": [1.0] * 4}, "--series"),
        ({"series_id": ["a"] * 3, "timestamp": ["x", "y", "z"], "value": [1.0] * 3}, "not a time"),
        ({"series_id": ["a"] * 3, "timestamp": [1, 2, 3], "value": ["x", "y", "z"]}, "not numeric"),
    ],
)
def test_a_trace_that_cannot_be_read_says_what_to_do(tmp_path, columns, says):
    with pytest.raises(ConfigError, match=says):
        read_trace(write(tmp_path / "t.parquet", **columns))


def test_a_missing_file(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        read_trace(tmp_path / "none.parquet")
