"""The demo's closed loop without the engine: what capacity, outages, releases and leaks do to what is measured."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from forecastle.clouds.sim_world import SimWorld
from forecastle.intake.memory import MemoryIntake
from forecastle.runtime.clocks import WallClock
from forecastle.runtime.demo_play import past
from forecastle.runtime.demo_settings import STEP_MS
from forecastle.runtime.demo_stage import FIRST_DAY
from forecastle.runtime.world import BAD, FAULTY, Lived, World
from forecastle.runtime.world_demand import DemandTable
from forecastle.runtime.world_history import history, split
from forecastle.runtime.world_metrics import ERRORS, LATENCY, MEMORY, TIMEOUT_MS, error_share, latency_p99
from forecastle.runtime.world_scenario import Event, Scenario, Trouble
from forecastle.runtime.world_series import CLOCK, clock_message, joined
from forecastle.types import Demand, Floats, Inventory, Pool, SeriesKey, Site, Workload

FIRST = FIRST_DAY + STEP_MS
MINUTES = 600


def stock() -> Inventory:
    """One workload at two sites; a replica carries 10."""
    pools = {f"shop-{s}": Pool(f"shop-{s}", "shop", s, "sim", price, 60.0, 1, 50, 50) for s, price in (("a", 0.1), ("b", 0.2))}
    shop = Workload("shop", (Demand(SeriesKey("shop", "requests_per_second"), 10.0),), tuple(pools), min=2, min_sites=2)
    return Inventory({s: Site(s, "p", s) for s in "ab"}, pools, {"shop": shop})


def table(rate: float) -> DemandTable:
    at = FIRST + STEP_MS * np.arange(MINUTES, dtype=np.int64)
    flat = np.full((1, MINUTES), rate)
    return DemandTable(("shop",), at, STEP_MS, flat, flat)


Make = Callable[..., World]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    with ExitStack() as stack:

        def build(rate: float = 50.0, *events: Event, seed: int = 0, name: str = "sim") -> World:
            sim = stack.enter_context(SimWorld(str(tmp_path / f"{name}.db")))
            world = World(stock(), table(rate), Scenario(events), sim, seed)
            world.begin(FIRST - 86_400_000)
            return world

        yield build


def at(k: int) -> int:
    return FIRST + k * STEP_MS


def value(world: World, series: Floats, metric: str, site: str = "") -> float:
    labels = (("site", site),) if site else ()
    return float(series[world.layouts[0].keys.index(SeriesKey("shop", metric, labels))])


def step(world: World, k: int) -> tuple[Lived, Floats]:
    lived, series = world.step(at(k))
    return lived["shop"], series["shop"]


# --- capacity -------------------------------------------------------------------------------------------------------


def test_demand_within_capacity_is_served_and_costs_what_is_ordered(make: Make) -> None:
    lived, series = step(make(50.0), 0)
    assert lived.ordered == 8  # 50 / 10 / 0.7, rounded up
    assert lived.unmet == 0
    assert lived.cost == pytest.approx((4 * 0.1 + 4 * 0.2) / 60)
    assert series[0] == 50.0


def test_demand_beyond_capacity_is_unmet_and_seen_as_errors_and_timeouts(make: Make) -> None:
    world = make(50.0)
    for pool in world.stock.pools.values():
        world.sim.provision(pool, 2, FIRST - STEP_MS)
    lived, series = step(world, 0)
    assert lived.unmet == pytest.approx(10.0)
    assert value(world, series, ERRORS) == pytest.approx(0.2, abs=0.02)
    assert value(world, series, LATENCY) > 0.8 * TIMEOUT_MS


def test_a_replica_that_becomes_ready_within_a_minute_serves_the_rest_of_it(make: Make) -> None:
    world = make(50.0)
    pools = world.stock.pools
    world.sim.provision(pools["shop-a"], 4, FIRST - STEP_MS)
    world.sim.provision(pools["shop-b"], 2, at(0) + 30_000 - 15_000)
    lived, _ = step(world, 1)
    assert lived.ready == pytest.approx(4 + 2 * 3 / 4)
    assert lived.unmet == pytest.approx(10.0 / 4)


def test_the_same_seed_measures_the_same_and_another_seed_does_not(make: Make) -> None:
    one, two, other = make(name="one"), make(name="two"), make(seed=1, name="other")
    first, again, different = (step(world, 5)[1] for world in (one, two, other))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, different)


# --- troubles -------------------------------------------------------------------------------------------------------


def test_a_dead_site_serves_nothing_and_says_nothing_until_it_is_restored(make: Make) -> None:
    world = make(50.0, Event(Trouble.OUTAGE, at(1), at(4), site="a"))
    before, during = step(world, 1), step(world, 2)
    assert np.isfinite(before[1]).all()
    assert during[0].ready == 4
    assert during[0].unmet == pytest.approx(10.0)
    sites = [key.label("site") for key in world.layouts[0].keys]
    assert np.isnan(during[1][[s == "a" for s in sites]]).all()
    assert np.isfinite(during[1][[s != "a" for s in sites]]).all()
    step(world, 3), step(world, 4), step(world, 5)
    after, series = step(world, 7)
    assert after.unmet == 0
    assert value(world, series, MEMORY, "a") > 0


def test_a_bad_release_fails_requests_of_its_pool_alone_until_it_is_rolled_back(make: Make) -> None:
    world = make(50.0, Event(Trouble.REGRESSION, at(1), at(400), ("shop",)))
    _, fine = step(world, 1)
    for k in range(2, 184):  # nothing has grown lately: the release waits three hours
        _, series = step(world, k)
    pool, released_at = world.released["shop"]
    assert released_at == at(1) + 180 * STEP_MS
    site = pool.removeprefix("shop-")
    healthy = "b" if site == "a" else "a"
    assert world.sim.states(at(184))[pool].release == BAD
    assert value(world, series, ERRORS, site) == pytest.approx(FAULTY, abs=0.03)
    assert value(world, series, ERRORS, healthy) < 0.02
    assert value(world, series, LATENCY, site) > 2 * value(world, fine, LATENCY, site)
    world.sim.deploy(pool, "r1", at(184))
    _, series = step(world, 185)
    assert value(world, series, ERRORS, site) < 0.02


def test_a_release_goes_out_right_after_its_pool_has_grown(make: Make) -> None:
    world = make(50.0, Event(Trouble.REGRESSION, at(1), at(400), ("shop",)))
    world.sim.provision(world.stock.pools["shop-b"], 9, at(4))
    for k in range(1, 8):
        step(world, k)
    assert world.released["shop"] == ("shop-b", at(4))


def test_memory_leaks_with_age_and_a_restart_gives_it_back(make: Make) -> None:
    world = make(50.0, Event(Trouble.LEAK, at(0), at(MINUTES), ("shop",)))
    _, young = step(world, 1)
    _, old = step(world, 301)
    grown = (value(world, old, MEMORY, "a") - value(world, young, MEMORY, "a")) / 2**20
    assert grown == pytest.approx(300 * 1.2, rel=0.15)
    world.sim.provision(world.stock.pools["shop-a"], 4, at(301))
    _, fresh = step(world, 302)
    assert value(world, fresh, MEMORY, "a") < value(world, young, MEMORY, "a") + 40 * 2**20
    assert value(world, fresh, MEMORY, "b") > value(world, old, MEMORY, "b") - 40 * 2**20


# --- physics --------------------------------------------------------------------------------------------------------


def test_latency_grows_with_load_and_is_capped_where_callers_give_up() -> None:
    load = np.linspace(0, 2, 60)
    late = latency_p99(load, np.ones(60), np.full(60, 4.0), np.full(60, 40.0))
    assert (np.diff(late) >= 0).all()
    assert late[0] == pytest.approx(120.0)
    assert late[-1] == TIMEOUT_MS


def test_more_servers_wait_less_at_the_same_utilization() -> None:
    few, many = (float(latency_p99(*(np.asarray(v) for v in (0.9, 1.0, n, 40.0)))) for n in (2.0, 40.0))
    assert many < few


def test_errors_are_what_is_shed_and_what_is_faulty() -> None:
    share = error_share(np.array([50.0, 100.0, 100.0]), np.array([100.0, 50.0, 200.0]), np.array([0.0, 0.0, 0.3]))
    assert share == pytest.approx([0.001, 0.5, 0.3], abs=0.001)


# --- the past and its messages --------------------------------------------------------------------------------------


@pytest.mark.parametrize("total", range(2, 30))
def test_replicas_are_split_evenly_over_the_sites_that_a_workload_needs(total: int) -> None:
    placed = split(stock().workloads["shop"], stock(), total)
    assert sum(placed.values()) == total
    assert max(placed.values()) <= -(-total // 2)


def test_the_past_has_every_series_of_the_play_at_the_same_level(make: Make) -> None:
    world = make(50.0)
    before = history(world.stock, table(50.0), world.layouts[0], Scenario(), 0)
    _, now = step(world, 0)
    assert before.shape == (len(now), MINUTES)
    assert np.isfinite(before).all()
    assert now[[0, 1]] == pytest.approx(np.median(before, axis=1)[[0, 1]], rel=0.25)
    memory = [i for i, key in enumerate(world.layouts[0].keys) if key.metric == MEMORY]
    assert now[memory] == pytest.approx(np.median(before, axis=1)[memory], rel=0.1)


def test_the_past_is_taken_in_whole_and_in_order(make: Make) -> None:
    world = make(50.0)
    messages = list(past(world, table(50.0), 0))
    stamps = [stamp for _, stamp, _ in messages]
    assert stamps == sorted(stamps)
    intake = MemoryIntake((body for _, _, body in messages), WallClock(), per_poll=10_000)
    samples = intake.poll(0.0)
    assert intake.dead_letters == []
    assert len(samples) == len(joined(world.layouts).keys) * MINUTES + 1
    assert (np.diff(samples.at) >= 0).all()


def test_a_ticks_message_holds_what_was_sent_and_the_clock_closes_it(make: Make) -> None:
    world = make(50.0)
    _, series = step(world, 0)
    series[3] = np.nan
    layout = world.layouts[0]
    intake = MemoryIntake([layout.message(at(0), series), clock_message(at(0))], WallClock())
    samples = intake.poll(0.0)
    assert len(samples) == len(series) - 1 + 1
    got = {samples.keys[i]: v for i, v in zip(samples.index.tolist(), samples.value.tolist(), strict=True)}
    assert layout.keys[3] not in got
    assert got[layout.keys[0]] == 50.0
    assert samples.at[-1] == at(0) + 1
    assert got[CLOCK] == 1.0
