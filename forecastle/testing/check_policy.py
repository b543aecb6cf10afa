"""What a policy must pass before it may size anything: one call from a test file, as for every other plug.

`check_policy` is for a sizing policy (`forecastle.decide.sizing.Policy`), `check_rehearsed` for one that plays in the closed
loop (`forecastle.rehearsal.simulate.Policy`). Both raise AssertionError with what was violated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from forecastle.decide.sizing import Metric, Policy, Size, Span, Terms
from forecastle.rehearsal.simulate import Policy as Rehearsed
from forecastle.rehearsal.simulate import PoolModel
from forecastle.rehearsal.trace import STEP_S, Demand
from forecastle.types import Demand as DemandMetric
from forecastle.types import Floats, Floats32, Ints, SeriesKey, Workload

_QUANTILES = (0.01, 0.1, 0.5, 0.9, 0.99)
_CAPACITY = 10.0


def check_policy(policy: Policy) -> None:
    """A sizing policy is pure, keeps the workload's limits and never goes below the reactive need, whatever is forecast."""
    for value in (0.0, 5.0, 95.0, 400.0):
        for forecast in (None, *_forecasts(value)):
            for ordered in (0, 1, 12, 60):
                _check_one(policy, value, forecast, ordered)
    _check_without_metrics(policy)
    _check_largest_need_wins(policy)


def check_rehearsed(make: Callable[[], Rehearsed], *, foresees: bool = False) -> None:
    """A policy of the closed loop repeats itself, answers one count a knob, and (unless it ``foresees``) sees only the past."""
    demand, pool = _demand(3), PoolModel(_CAPACITY, 60.0)
    policy = make()
    assert len(set(policy.knobs)) == len(policy.knobs) > 0, f"{policy.name}: knobs must be there and differ"
    wishes = _wishes(make(), demand, pool)
    assert wishes.shape == (len(demand) - demand.first, len(policy.knobs)), f"{policy.name}: one wish a knob and step"
    assert (wishes >= 0).all(), f"{policy.name}: wishes are replica counts"
    assert np.array_equal(wishes, _wishes(make(), demand, pool)), f"{policy.name}: the same demand must give the same wishes"
    if foresees:
        return
    for cut in (demand.first + 1, (demand.first + len(demand)) // 2):
        other = demand.value.copy()
        other[cut:] = other[cut:][::-1] * 3.0 + 1.0
        changed = _wishes(make(), replace(demand, value=other), pool)
        seen = cut - demand.first + 1
        assert np.array_equal(changed[:seen], wishes[:seen]), f"{policy.name}: looks into the future"


def _load() -> Workload:
    metric = DemandMetric(SeriesKey("shop", "requests"), _CAPACITY)
    return Workload("shop", (metric,), ("shop-a",), lead_time_s=180.0, min=2, max=50)


def _forecasts(value: float) -> list[Floats32]:
    """Paths float32[30, q] around ``value``: calm, growing, falling, ten times too large, nothing, not a number."""
    spread = np.array([0.5, 0.8, 1.0, 1.3, 1.8])
    slopes = (np.ones(30), np.linspace(1, 4, 30), np.linspace(1, 0.1, 30), np.full(30, 10.0), np.zeros(30), np.full(30, np.nan))
    return [np.asarray(value * slope[:, None] * spread, np.float32) for slope in slopes]


def _terms(ordered: int) -> Terms:
    return Terms(ordered, 1.0, Span(3, 4, 10))


def _metric(load: Workload, value: float, forecast: Floats32 | None) -> Metric:
    return Metric(load.demands[0], value, _QUANTILES if forecast is not None else (), forecast)


def _check_one(policy: Policy, value: float, forecast: Floats32 | None, ordered: int) -> None:
    load, terms = _load(), _terms(ordered)
    metric = _metric(load, value, forecast)
    found = policy(load, (metric,), terms)
    where = f"demand {value:g}, {ordered} ordered"
    assert isinstance(found, Size), f"{where}: a policy answers with a Size"
    assert policy(load, (metric,), terms) == found, f"{where}: the same input must give the same answer"
    assert load.min <= found.wanted <= load.max, f"{where}: {found.wanted} is outside [{load.min}, {load.max}]"
    need = min(max(int(np.ceil(value / _CAPACITY * (1 - 1e-6))), load.min), load.max)
    assert found.wanted >= min(need, load.max), f"{where}: {found.wanted} replicas are below the reactive need {need}"
    if forecast is None or not np.isfinite(forecast).all():
        kept = min(max(ordered, load.min), load.max)
        assert found.wanted >= kept, f"{where}: without a forecast nothing is removed, but {ordered} became {found.wanted}"
    assert found.binding, f"{where}: a Size says which rule decided"


def _check_without_metrics(policy: Policy) -> None:
    load = _load()
    for ordered in (0, 7, 50):
        wanted = policy(load, (), _terms(ordered)).wanted
        assert wanted == max(ordered, load.min), f"without a trusted metric {ordered} replicas are held, not {wanted}"


def _check_largest_need_wins(policy: Policy) -> None:
    load = _load()
    small, large = _metric(load, 50.0, _forecasts(50.0)[0]), _metric(load, 300.0, _forecasts(300.0)[0])
    alone = policy(load, (large,), _terms(5)).wanted
    for both in ((small, large), (large, small)):
        assert policy(load, both, _terms(5)).wanted == alone, "of several metrics the largest need wins, in any order"


def _demand(days: int) -> Demand:
    """A noisy daily rhythm on the simulator's clock, the last day and a bit to play."""
    steps = days * 86_400 // STEP_S
    draw = np.random.default_rng(11)
    phase = np.arange(steps) * STEP_S / 86_400.0 * 2 * np.pi
    value: Floats = np.maximum(100.0 + 60.0 * np.sin(phase) + draw.normal(0, 8, steps), 0.0)
    at: Ints = np.arange(steps) * STEP_S * 1000
    first = steps - 1200
    return Demand(at, value, np.ones(steps, bool), first, float(STEP_S))


def _wishes(policy: Rehearsed, demand: Demand, pool: PoolModel) -> Ints:
    """What the policy wants at each step of a loop in which replicas are ready at once."""
    controller = policy.prepare(demand, pool)
    ordered = np.full(len(policy.knobs), 10)
    rows = []
    for i in range(demand.first, len(demand)):
        rows.append(controller.step(i, ordered, ordered))
        ordered = np.clip(rows[-1], pool.min, pool.max)
    return np.array(rows)
