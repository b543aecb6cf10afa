"""What the world does to a simulated fleet, and the truth about it from the side door."""

from __future__ import annotations

import pytest
from cloud_worlds import EDGE, POOL, SECOND, START, Sim

from forecastle.clouds.sim_world import PoolState
from forecastle.errors import NotFound
from forecastle.types import Kind


def test_the_side_door_tells_the_truth_about_every_pool(sim: Sim) -> None:
    sim.world.provision(POOL, 4, START - 60 * SECOND)
    sim.world.provision(EDGE, 2, START)
    sim.do(Kind.SCALE, 6)
    assert sim.world.ready(START) == {POOL.name: 4, EDGE.name: 2}
    assert sim.world.ready(START + 60 * SECOND) == {POOL.name: 6, EDGE.name: 2}
    assert sim.state() == PoolState(6, 4, "r1", (START - 60 * SECOND,) * 4 + (START,) * 2)


def test_a_failed_site_serves_nothing_until_it_starts_anew(sim: Sim) -> None:
    sim.world.provision(POOL, 4, START)
    sim.world.provision(EDGE, 2, START)
    sim.world.fail_site([POOL.name, EDGE.name], START)
    assert (sim.seen().replicas, sim.seen().ready) == (4, 0)
    sim.do(Kind.SCALE, 6)
    sim.wait(600)
    assert sim.world.ready(sim.clock.now()) == {POOL.name: 0, EDGE.name: 0}
    sim.world.restore_site([POOL.name, EDGE.name], sim.clock.now())
    assert sim.state().started == (sim.clock.now(),) * 6
    sim.wait(5)
    assert sim.world.ready(sim.clock.now()) == {POOL.name: 0, EDGE.name: 2}
    sim.wait(55)
    assert sim.seen().ready == 6


def test_restoring_a_site_that_never_failed_does_nothing(sim: Sim) -> None:
    before = sim.seen()
    sim.world.restore_site([POOL.name], START + 1)
    assert sim.seen() == before


@pytest.mark.parametrize("kind", [Kind.RESTART, Kind.REPLACE, Kind.QUARANTINE])
def test_the_sick_are_listed_and_not_ready_until_they_are_dealt_with(kind: Kind, sim: Sim) -> None:
    sim.seen()
    sick = sim.world.sicken(POOL.name, 2, START)
    assert (sim.seen().unhealthy, sim.seen().ready, sim.seen().replicas) == (sick, 1, 3)
    sim.wait(3600)
    assert sim.seen().ready == 1
    for replica in sick:
        sim.do(kind, str(sim.clock.now()), replica=replica)
    assert (sim.seen().unhealthy, sim.seen().ready) == ((), 1)
    sim.wait(60)
    assert sim.seen().ready == 3


def test_a_restart_of_the_pool_heals_its_sick(sim: Sim) -> None:
    sim.seen()
    sim.world.sicken(POOL.name, 1, START)
    sim.do(Kind.RESTART, "g1")
    assert (sim.seen().unhealthy, sim.seen().ready) == ((), 2)
    sim.wait(60)
    assert sim.seen().ready == 3


def test_no_more_fall_sick_than_there_are(sim: Sim) -> None:
    sim.seen()
    assert len(sim.world.sicken(POOL.name, 99, START)) == 3
    assert sim.world.sicken(POOL.name, 1, START) == ()


def test_what_happens_to_a_pool_that_is_not_there_is_an_error(sim: Sim) -> None:
    for event in (
        lambda: sim.world.sicken("nowhere", 1, START),
        lambda: sim.world.deploy("nowhere", "r2", START),
        lambda: sim.world.fail_site(["nowhere"], START),
    ):
        with pytest.raises(NotFound, match="'nowhere'; provision it first"):
            event()


def test_a_change_of_several_pools_is_all_or_nothing(sim: Sim) -> None:
    sim.seen()
    with pytest.raises(NotFound):
        sim.world.fail_site([POOL.name, "nowhere"], START)
    assert sim.seen().ready == 3
