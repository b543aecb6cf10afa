"""What a replica carries: told, learned or derived, refused where the data does not say, never below the floor."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from decide_worlds import QUANTILES, STEP, load
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forecastle.decide.capacity import MIN_POINTS, Capacity, Line, capacity, fit
from forecastle.decide.sizing import Metric, Size, Span, Terms, reactive, size
from forecastle.types import Demand, SeriesKey, Service, Usage, Windows

RPS, CPU, READY = (SeriesKey("shop", name) for name in ("rps", "cpu", "ready"))
USAGE = Usage(CPU, READY, full=1.0)
LEARNED = Demand(RPS, 10.0, usage=USAGE)
TRUSTING = replace(LEARNED, usage=replace(USAGE, raise_limit=3.0))
QUEUE = Demand(RPS, 10.0, service=Service(0.1, latency_s=0.3, quantile=0.95))
SPAN = Span(3, 8, 18)
SLOTS = 120
patient = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
Array = npt.NDArray[np.float64]


def day(
    carries: float, *, base: float = 0.1, noise: float = 0.0, busiest: float = 0.8, seed: int = 0
) -> dict[SeriesKey, Array]:
    """Two hours of a service that is full at ``carries`` a replica and came to ``busiest`` of that."""
    rng = np.random.default_rng(seed)
    each = carries * np.linspace(0.1, busiest, SLOTS)
    count = 4.0 + np.arange(SLOTS) // 30
    used = base + (1 - base) * each / carries + rng.normal(0, noise, SLOTS)
    return {RPS: each * count, CPU: np.maximum(used, 0.0), READY: count}


def windows(series: dict[SeriesKey, Array], *, suspect: tuple[SeriesKey, ...] = ()) -> Windows:
    values = np.array(list(series.values()), np.float32)
    flags = np.array([key in suspect for key in series], np.bool_)
    return Windows(tuple(series), STEP * 1000, STEP, values, np.isfinite(values), np.zeros(len(series), np.bool_), flags)


def learn(series: dict[SeriesKey, Array], demand: Demand = LEARNED, **changes: tuple[SeriesKey, ...]) -> Capacity:
    found = windows(series, **changes)
    return capacity(demand, found, {key: i for i, key in enumerate(found.keys)}, 1000)


def sized(demand: Demand, carries: Capacity, value: float, course: list[float], ordered: int = 10) -> Size:
    """The size at ``value`` now and a sure forecast that takes this ``course``."""
    medians = np.array([*course, *[course[-1]] * (20 - len(course))], np.float32)
    values = np.repeat(medians[:, None], len(QUANTILES), axis=1)
    return size(load(), [Metric(demand, value, QUANTILES, values, carries)], Terms(ordered, 0.1, SPAN))


# --- the line ---


@pytest.mark.parametrize("base", [0.0, 0.2, 0.6])
@pytest.mark.parametrize("slope", [0.01, 0.5, 7.0])
def test_an_exact_line_is_found_exactly(base: float, slope: float) -> None:
    x = np.linspace(1, 5, 40)
    line = fit(x, base + slope * x, base + slope * 10)
    assert isinstance(line, Line)
    assert (line.slope, line.base, line.full, line.explained) == pytest.approx((slope, base, 10, 1.0))


def test_a_quarter_of_outliers_moves_it_little() -> None:
    rng = np.random.default_rng(1)
    x = rng.uniform(1, 8, 100)
    y = 0.1 + 0.09 * x + rng.normal(0, 0.01, 100)
    y[:25] += rng.uniform(1, 5, 25)
    line = fit(x, y, 1.0)
    assert isinstance(line, Line)
    assert line.full == pytest.approx(10.0, rel=0.12)
    squares = np.polyfit(x, y, 1)
    assert abs((1.0 - squares[1]) / squares[0] - 10.0) > 3.0, "least squares would be far off"


@pytest.mark.parametrize(
    ("x", "y", "why"),
    [
        (np.linspace(1, 5, MIN_POINTS - 1), np.linspace(0.1, 0.5, MIN_POINTS - 1), "19 slots are too few"),
        (np.linspace(5, 5.3, 60), np.linspace(0.5, 0.53, 60), "varies too little"),
        (np.full(60, 5.0), np.linspace(0.1, 0.5, 60), "varies too little"),
        (np.linspace(1, 5, 60), np.linspace(0.5, 0.1, 60), "does not grow"),
        (np.linspace(1, 5, 60), np.full(60, 0.5), "does not grow"),
        (np.linspace(1, 5, 60), np.random.default_rng(0).normal(5, 1, 60) + np.linspace(0, 0.1, 60), "it takes 60%"),
        (np.linspace(1, 5, 60), np.linspace(1.3, 1.9, 60), "an idle replica uses 1.15 already"),
    ],
)
def test_a_line_that_says_nothing_is_refused_with_its_reason(x: Array, y: Array, why: str) -> None:
    found = fit(x, y, 1.0)
    assert isinstance(found, str)
    assert why in found


# --- learned ---


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_a_replica_that_carries_less_than_told_is_found_out(noise: float) -> None:
    found = learn(day(6.0, noise=noise))
    assert found.model == "learned"
    assert found.per_replica == pytest.approx(6.0, rel=0.06)
    assert "120 slots, the line explains" in found.note


def test_what_is_learned_sizes_the_floor_and_the_forecast() -> None:
    found = learn(day(6.0))
    assert sized(LEARNED, found, 48.0, [48.0]).floor == 10, "48 of 6 at 0.8"
    assert sized(LEARNED, found, 48.0, [96.0]).wanted == 20
    assert sized(LEARNED, Capacity(10.0), 48.0, [96.0]).wanted == 12, "as told"


def test_more_than_told_takes_a_word_from_its_people() -> None:
    assert learn(day(20.0)).per_replica == 10.0
    assert "a replica is full at 20, capped at 10" in learn(day(20.0)).note
    assert learn(day(20.0), TRUSTING).per_replica == pytest.approx(20.0, rel=1e-3)
    assert learn(day(50.0), TRUSTING).per_replica == pytest.approx(30.0), "three times per_replica and no more"


def test_an_idle_fleet_is_not_extrapolated_upwards() -> None:
    """Nobody has seen a replica above 12, so 50 is not believed; but it is no reason to go below what was told either."""
    assert learn(day(50.0, busiest=0.24), TRUSTING).per_replica == pytest.approx(18.0, rel=1e-3)
    assert learn(day(50.0, busiest=0.13), TRUSTING).per_replica == pytest.approx(10.0)


def test_a_lower_capacity_does_not_feed_on_itself() -> None:
    """More replicas carry less each; what one carries must not fall with that, or the fleet would grow without an end."""
    calm = [learn(day(6.0, busiest=share)).per_replica for share in (0.8, 0.4, 0.2)]
    assert calm == pytest.approx([6.0] * 3, rel=1e-3)


def test_an_absurdly_small_capacity_is_rather_the_wrong_series() -> None:
    found = learn(day(2.0))
    assert (found.model, found.per_replica) == ("fixed", 10.0)
    assert "a replica would carry 2, less than 0.25 times" in found.note


@pytest.mark.parametrize("lost", [CPU, READY, RPS])
def test_a_series_that_is_missing_or_suspect_is_named(lost: SeriesKey) -> None:
    series = day(6.0)
    assert learn(series, suspect=(lost,)).note == f"learned refused: {lost.metric} is suspect"
    del series[lost]
    found = learn(series)
    assert found == Capacity(10.0, note=f"learned refused: {lost.metric} cannot be seen")


@pytest.mark.parametrize("hole", [np.nan, np.inf, -3.0])
def test_slots_that_make_no_sense_are_left_out(hole: float) -> None:
    series = day(6.0)
    series[CPU][10:40] = hole
    series[READY][50:60] = 0.0
    found = learn(series)
    assert found.per_replica == pytest.approx(6.0, rel=1e-3)
    assert found.note.startswith("80 slots")


def test_too_few_slots_fall_back_to_what_was_told() -> None:
    series = day(6.0)
    series[CPU][15:] = np.nan
    assert learn(series) == Capacity(10.0, note="learned refused: 15 slots are too few, it takes 20")


@given(st.integers(0, 1000), st.floats(2.0, 60.0), st.floats(0, 0.5), st.floats(0.05, 0.9), st.floats(1.0, 4.0))
@patient
def test_whatever_is_learned_stays_within_its_bounds(
    seed: int, carries: float, noise: float, base: float, raise_limit: float
) -> None:
    demand = replace(LEARNED, usage=replace(USAGE, raise_limit=raise_limit))
    found = learn(day(carries, base=base, noise=noise, seed=seed), demand)
    assert 2.5 <= found.per_replica <= 10.0 * raise_limit + 1e-9
    assert found.note
    assert found == learn(day(carries, base=base, noise=noise, seed=seed), demand), "a replay learns the same"


# --- queueing ---


def queue(demand: Demand = QUEUE) -> Capacity:
    return learn(day(6.0), demand)


def test_a_latency_target_decides_in_small_fleets() -> None:
    """Four requests of 0.1 s at a time on average: 95 % within 0.3 s takes 10, utilization alone would take 5."""
    found = sized(QUEUE, queue(), 0.0, [40.0], ordered=0)
    assert (found.wanted, found.binding) == (10, "latency target")
    assert sized(QUEUE, Capacity(10.0), 0.0, [40.0], ordered=0).wanted == 5


def test_the_present_demand_is_held_to_the_target_too() -> None:
    held = sized(QUEUE, queue(), 10.0, [0.0], ordered=0)
    assert held.floor == queue().replicas(10.0) > reactive(10.0, 8.0, 0, 0.1)


def test_in_large_fleets_the_reactive_floor_binds_instead() -> None:
    """Large queues keep the target nearly full, but the floor's utilization is not the model's to argue with."""
    found = sized(QUEUE, queue(), 2000.0, [2000.0], ordered=0)
    assert queue().replicas(2000.0) < found.floor == found.wanted == 250


def test_replicas_with_slots_share_the_queue() -> None:
    wide = replace(QUEUE, service=replace(QUEUE.service, slots=4))  # type: ignore[type-var]
    for demand in (1.0, 40.0, 333.0):
        single, shared = queue().replicas(demand), queue(wide).replicas(demand)
        assert shared == -(-single // 4), "as many servers, four in a replica"


def test_a_target_the_service_alone_misses_steps_back() -> None:
    hopeless = replace(QUEUE, service=Service(0.1, latency_s=0.05))
    found = queue(hopeless)
    assert found == Capacity(10.0, note="queueing refused: the service time alone misses the latency target")


def test_more_than_the_workload_may_have_is_not_searched_for() -> None:
    assert capacity(QUEUE, windows(day(6.0)), {}, 30).replicas(1e9) == 31


# --- several models, and what holds whatever they say ---

CAPACITIES = [Capacity(10.0), Capacity(3.0, "learned"), Capacity(30.0, "learned"), queue()]
demands = st.floats(0, 3000, allow_nan=False)
courses = st.lists(st.floats(0, 3000), min_size=1, max_size=20)


@pytest.mark.parametrize("carries", CAPACITIES, ids=lambda c: f"{c.model}-{c.per_replica:g}")
@given(demands, courses, st.integers(0, 300), st.floats(1.0, 3.0))
@patient
def test_more_load_never_wants_less(carries: Capacity, value: float, course: list[float], ordered: int, factor: float) -> None:
    less = sized(QUEUE, carries, value, course, ordered)
    more = sized(QUEUE, carries, value * factor, [v * factor for v in course], ordered)
    assert more.wanted >= less.wanted
    assert more.floor >= less.floor


@pytest.mark.parametrize("carries", CAPACITIES, ids=lambda c: f"{c.model}-{c.per_replica:g}")
@given(demands, courses, st.integers(0, 300))
@patient
def test_the_reactive_floor_holds_whatever_the_model_says(
    carries: Capacity, value: float, course: list[float], ordered: int
) -> None:
    found = sized(QUEUE, carries, value, course, ordered)
    assert found.wanted >= min(1000, reactive(value, carries.per_replica * 0.8, ordered, 0.1))
    assert found.floor >= reactive(value, carries.per_replica * 0.8, ordered, 0.1)


@given(st.integers(0, 1000), st.floats(2.0, 60.0), st.floats(0, 0.4), demands, st.integers(0, 300))
@patient
def test_learning_alone_never_goes_below_the_floor_of_what_was_told(
    seed: int, carries: float, noise: float, value: float, ordered: int
) -> None:
    found = learn(day(carries, noise=noise, seed=seed))
    told = sized(LEARNED, Capacity(10.0), value, [value], ordered)
    learned = sized(LEARNED, found, value, [value], ordered)
    assert learned.wanted >= told.floor or abs(learned.wanted / ordered - 1) <= 0.1, "but for the tolerance of what is ordered"


@pytest.mark.parametrize(
    ("rates", "jobs", "metric", "wanted"),
    [(40.0, 10.0, "rps", 10), (40.0, 200.0, "jobs", 50), (400.0, 100.0, "rps", 52), (10.0, 60.0, "jobs", 15)],
)
def test_of_several_models_the_largest_need_wins(rates: float, jobs: float, metric: str, wanted: int) -> None:
    """A queue for the requests and a plain capacity of 5 for the jobs."""
    other = Demand(SeriesKey("shop", "jobs"), 5.0)

    def one(demand: Demand, carries: Capacity, value: float) -> Metric:
        return Metric(demand, 0.0, QUANTILES, np.full((20, len(QUANTILES)), value, np.float32), carries)

    both = [one(QUEUE, queue(), rates), one(other, Capacity(5.0), jobs)]
    found = [size(load(), metrics, Terms(0, 0.1, SPAN)) for metrics in (both, both[::-1])]
    assert found[0] == found[1], "in any order"
    assert found[0].metric == metric
    alone = [size(load(), [m], Terms(0, 0.1, SPAN)).wanted for m in both]
    assert found[0].wanted == max(alone) == wanted
