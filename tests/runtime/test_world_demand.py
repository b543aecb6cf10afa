"""What people ask of the demo's fleet: the same for a seed, cycles where they should be, crowds where they were planted."""

import numpy as np
import pytest

from forecastle.runtime.demo_settings import FLEET, STEP_MS
from forecastle.runtime.demo_stage import FIRST_DAY
from forecastle.runtime.world_demand import DAY_MS, count, crowd, generate, rhythm
from forecastle.runtime.world_scenario import Trouble, draw, with_crowds
from forecastle.types import Demand, Pool, SeriesKey, Site, Workload
from forecastle.types import Inventory as Stock

DAY = 1440


def load(name: str = "storefront", per_replica: float = 100.0) -> Workload:
    return Workload(name, (Demand(SeriesKey(name, "requests_per_second"), per_replica),), (f"{name}-a", f"{name}-b"))


def stock(*names: str) -> Stock:
    loads = {name: load(name) for name in names}
    pools = {f"{name}-{site}": Pool(f"{name}-{site}", name, site, "sim", 0.1) for name in names for site in "ab"}
    return Stock({site: Site(site, "p", f"region-{site}") for site in "ab"}, pools, loads)


def test_a_seed_draws_the_same_demand_again_and_another_seed_another() -> None:
    first, again, other = (generate([load()], FIRST_DAY, DAY, STEP_MS, seed) for seed in (1, 1, 2))
    assert np.array_equal(first.counted, again.counted)
    assert not np.array_equal(first.counted, other.counted)


def test_demand_is_positive_finite_and_about_as_large_as_its_rhythm_says() -> None:
    table = generate([load("sessions")], FIRST_DAY, 7 * DAY, STEP_MS, 0)
    assert (table.rate > 0).all()
    assert np.isfinite(table.counted).all()
    assert table.rate.mean() / 100.0 == pytest.approx(rhythm("sessions", 0).replicas, rel=0.2)


def test_a_longer_run_does_not_change_which_days_have_their_surge() -> None:
    table = generate([load("storefront")], FIRST_DAY, 4 * DAY, STEP_MS, 3)
    hour = ((table.at - FIRST_DAY) % DAY_MS) / 3_600_000
    for day in range(4):
        here = (table.at - FIRST_DAY) // DAY_MS == day
        before = table.rate[0, here & (hour >= 19.7) & (hour < 19.95)].mean()
        within = table.rate[0, here & (hour >= 20.04) & (hour < 20.15)].mean()
        assert within > 1.3 * before


def test_weekends_differ_as_the_rhythm_says() -> None:
    table = generate([load("reports")], FIRST_DAY + 5 * DAY_MS, 7 * DAY, STEP_MS, 0)
    of_day = (table.at // DAY_MS + 3) % 7
    weekend, week = table.rate[0, of_day >= 5].mean(), table.rate[0, of_day < 5].mean()
    assert weekend < 0.5 * week


def test_a_crowd_rises_to_its_size_and_decays() -> None:
    at = np.arange(0, 120) * 60_000
    shape = crowd(at, start=10 * 60_000, size=0.5)
    assert shape[:11].max() == 0
    assert shape.max() == pytest.approx(0.5)
    assert int(shape.argmax()) == 15
    assert 0 < shape[-1] < 0.01


def test_counts_scatter_around_the_rate_like_poisson() -> None:
    rate = np.full((1, 20_000), 5.0)
    counted = count(rate, STEP_MS, 0)
    assert counted.mean() == pytest.approx(5.0, rel=0.01)
    assert counted.var() == pytest.approx(5.0 / 60, rel=0.1)


def test_columns_are_found_by_tick_and_nothing_else() -> None:
    table = generate([load()], FIRST_DAY, 10, STEP_MS, 0)
    assert table.column(FIRST_DAY + 3 * STEP_MS) == 3
    for wrong in (FIRST_DAY - STEP_MS, FIRST_DAY + 1, FIRST_DAY + 10 * STEP_MS):
        with pytest.raises(IndexError, match=str(wrong)):
            table.column(wrong)
    part = table.between(FIRST_DAY + STEP_MS, FIRST_DAY + 4 * STEP_MS)
    assert part.at.tolist() == [FIRST_DAY + k * STEP_MS for k in (1, 2, 3, 4)]
    assert np.array_equal(part.counted, table.counted[:, 1:5])


def test_a_scenario_holds_every_trouble_within_the_play() -> None:
    last = FIRST_DAY + DAY_MS
    scenario = draw(stock("storefront", "search", "sessions"), FIRST_DAY, last, 0)
    assert {event.trouble for event in scenario.events} == set(Trouble)
    assert [e.starts for e in scenario.events] == sorted(e.starts for e in scenario.events)
    assert all(FIRST_DAY <= event.starts < event.ends <= last + 3_600_000 for event in scenario.events)
    assert scenario == draw(stock("storefront", "search", "sessions"), FIRST_DAY, last, 0)
    assert scenario != draw(stock("storefront", "search", "sessions"), FIRST_DAY, last, 1)


def test_a_leak_begins_before_a_short_play_so_that_it_can_show() -> None:
    scenario = draw(stock("sessions"), FIRST_DAY, FIRST_DAY + 3_600_000, 0)
    (leak,) = scenario.of(Trouble.LEAK)
    assert leak.starts < FIRST_DAY


def test_planted_crowds_change_their_workloads_alone() -> None:
    names = ("storefront", "search", "sessions")
    table = generate([load(name) for name in names], FIRST_DAY, DAY, STEP_MS, 0)
    scenario = draw(stock(*names), FIRST_DAY, int(table.at[-1]), 0)
    crowded = with_crowds(table, scenario, 0)
    touched = {name for event in scenario.of(Trouble.CROWD) for name in event.workloads}
    assert touched == {"storefront", "search"}
    for row, name in enumerate(names):
        changed = not np.array_equal(crowded.rate[row], table.rate[row])
        assert changed == (name in touched)


def test_the_fleet_in_the_wheel_has_the_workloads_that_have_a_rhythm() -> None:
    from forecastle.runtime.world_demand import RHYTHMS

    text = FLEET.read_text("utf-8")
    assert len(RHYTHMS) >= 12
    assert all(f"- name: {name}\n" in text for name in RHYTHMS)
