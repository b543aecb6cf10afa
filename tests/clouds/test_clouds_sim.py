"""The simulated cloud: what it tells, and what each kind of action makes of a pool."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cloud_worlds import EDGE, POOL, SECOND, START, Sim
from error_classes import injects

from forecastle.act.readback import shows
from forecastle.errors import Conflict, NotFound, QuotaExceeded, Unsupported
from forecastle.runtime.clocks import EventClock
from forecastle.runtime.inventory import resolve
from forecastle.types import Action, Kind, Observed, Traffic


def test_a_pool_is_there_from_its_first_mention(sim: Sim) -> None:
    assert sim.seen() == Observed(POOL.name, 3, 3, START, "v1", "r1", (), Traffic(100, Kind.DRAIN))
    assert sim.seen(EDGE).replicas == 1, "at least one, also where the minimum is none"
    assert sim.orders() == []


def test_acting_on_a_pool_nobody_looked_at_creates_it_too(sim: Sim) -> None:
    action = Action(Kind.SCALE, "shop", POOL.name, 5, 3, START, START)
    assert not sim.cloud.apply(action, POOL, token="t").already
    assert sim.seen().replicas == 5


def test_a_provisioned_pool_is_what_was_provisioned(sim: Sim) -> None:
    sim.world.provision(POOL, 7, START, release="r9")
    assert sim.seen() == Observed(POOL.name, 7, 7, START, "v1", "r9", (), Traffic(100, Kind.DRAIN))
    sim.world.provision(POOL, 0, START)
    assert (sim.seen().replicas, sim.seen().version) == (0, "v2")


def test_a_removed_pool_is_not_found_by_anybody(sim: Sim) -> None:
    action = sim.action(Kind.SCALE, 5)
    sim.world.remove(POOL.name, START)
    with pytest.raises(NotFound, match="removed"):
        sim.seen()
    with pytest.raises(NotFound, match="removed"):
        sim.cloud.apply(action, POOL, token="t")
    assert sim.world.states(START) == {}
    assert sim.orders() == []
    sim.world.provision(POOL, 2, START)
    assert sim.seen().replicas == 2


def test_the_name_is_the_provider_and_the_factory_declares_what_it_can(tmp_path: Path) -> None:
    factory = resolve("forecastle.clouds.sim:open_cloud")
    assert factory.capabilities == frozenset(Kind)
    cloud = factory(clock=EventClock(START), path=str(tmp_path / "sim.db"), provider="aws")
    assert cloud.name == "aws"
    cloud.close()
    cloud.close()


def test_ordered_replicas_serve_after_their_start_up_time(sim: Sim) -> None:
    sim.do(Kind.SCALE, 5)
    assert (sim.seen().replicas, sim.seen().ready) == (5, 3)
    sim.wait(59.999)
    assert sim.seen().ready == 3
    sim.wait(0.001)
    assert sim.seen().ready == 5
    assert sim.state().started == (START,) * 5


def test_removed_replicas_are_gone_at_once_and_those_that_do_not_serve_go_first(sim: Sim) -> None:
    sim.do(Kind.SCALE, 5)
    sim.wait(10)
    sim.do(Kind.SCALE, 4)
    assert (sim.seen().replicas, sim.seen().ready) == (4, 3)
    sim.do(Kind.SCALE, 1)
    assert (sim.seen().replicas, sim.seen().ready) == (1, 1)
    sim.do(Kind.SCALE, 0)
    assert (sim.seen().replicas, sim.seen().ready) == (0, 0)


def test_every_accepted_order_is_written_down_once(sim: Sim) -> None:
    action = sim.action(Kind.SCALE, 5)
    sim.cloud.apply(action, POOL, token=action.id)
    assert sim.cloud.apply(action, POOL, token=action.id).already
    assert sim.cloud.apply(replace(action, desired=9, expected=5), POOL, token=action.id).already
    assert sim.orders() == [(action.id, POOL.name, START, "scale", 5)]
    assert sim.seen().version == "v2"


def test_a_token_outlives_the_process_that_used_it(opening: Callable[..., Sim]) -> None:
    first = opening()
    action = first.action(Kind.SCALE, 5)
    first.cloud.apply(action, POOL, token=action.id)
    first.cloud.close()
    assert opening().cloud.apply(replace(action, expected=5, desired=6), POOL, token=action.id).already


@injects("conflict", "not found", "quota")
def test_refusals_leave_no_trace(sim: Sim) -> None:
    before = sim.seen()
    good = sim.action(Kind.SCALE, 5)
    for action, error, why in (
        (replace(good, expected=4), Conflict, "expected 4, found 3"),
        (replace(good, desired=13), QuotaExceeded, "quota is 12"),
        (replace(good, desired=-1), Unsupported, "0 or more"),
        (replace(good, desired="many"), Unsupported, "whole number"),
        (replace(good, kind=Kind.RESTART, desired="g", expected="v0"), Conflict, "expected v0, found v1"),
        (replace(good, kind=Kind.RESTART, desired="g", expected="v1", replica="nobody"), NotFound, "no replica 'nobody'"),
    ):
        with pytest.raises(error, match=why):
            sim.cloud.apply(action, POOL, token="t")
    assert sim.seen() == before
    assert sim.orders() == []


def test_what_is_so_already_is_said_to_be_and_is_no_order(sim: Sim) -> None:
    assert sim.do(Kind.SCALE, 3).already
    assert sim.do(Kind.ROLLBACK, "r1").already
    assert sim.do(Kind.SHIFT, 100).already
    assert (sim.orders(), sim.seen().version) == ([], "v1")


def test_preview_tells_and_does_nothing(sim: Sim) -> None:
    up, back = sim.action(Kind.SCALE, 5), sim.action(Kind.ROLLBACK, "r1")
    change = sim.cloud.preview(up, sim.seen())
    assert (change.before, change.after, change.noop) == ("3", "5", False)
    change = sim.cloud.preview(back, sim.seen())
    assert (change.before, change.after, change.noop) == ("r1", "r1", True)
    assert sim.cloud.preview(sim.action(Kind.RESTART, "g"), sim.seen()).before == "v1"
    assert sim.seen().version == "v1"


@pytest.mark.parametrize(
    ("kind", "desired"),
    [
        (Kind.SCALE, 5),
        (Kind.RESTART, "g1"),
        (Kind.REPLACE, "g1"),
        (Kind.DRAIN, 0),
        (Kind.CORDON, "leaking"),
        (Kind.SHIFT, 40),
        (Kind.ROLLBACK, "r0"),
        (Kind.QUARANTINE, "odd traffic"),
    ],
)
def test_every_kind_changes_the_version_once_and_the_read_back_shows_it(kind: Kind, desired: int | str, sim: Sim) -> None:
    action = sim.action(kind, desired)
    assert not shows(action, sim.seen())
    assert not sim.cloud.apply(action, POOL, token="1").already
    assert shows(action, sim.seen())
    assert sim.seen().version == "v2"
    again = sim.action(kind, desired)
    assert sim.cloud.apply(again, POOL, token="2").already, "the state is absolute"
    assert sim.seen().version == "v2"


def test_a_notice_is_an_order_without_a_precondition(sim: Sim) -> None:
    page = Action(Kind.NOTIFY, "shop", POOL.name, "look", "", START, START, "incident-7")
    assert not sim.cloud.apply(page, POOL, token="t").already
    assert sim.cloud.apply(page, POOL, token="t").already
    assert [order[3] for order in sim.orders()] == ["notify"]
    assert (sim.seen().replicas, sim.seen().ready) == (3, 3)


def test_a_pool_rolls_without_a_gap(sim: Sim) -> None:
    names = sim.names()
    sim.wait(30)
    sim.do(Kind.RESTART, "g1")
    assert (sim.seen().ready, sim.names()) == (3, names)
    assert sim.state().started == (START + 30 * SECOND,) * 3
    sim.do(Kind.REPLACE, "g2")
    assert sim.seen().ready == 3
    assert set(sim.names()).isdisjoint(names)


def test_one_replica_is_away_until_it_has_started(sim: Sim) -> None:
    first, *others = sim.names()
    sim.do(Kind.RESTART, "g1", replica=first)
    assert (sim.names(), sim.seen().ready) == ([first, *others], 2)
    sim.wait(60)
    assert sim.seen().ready == 3
    sim.do(Kind.REPLACE, "g2", replica=first)
    assert (len(sim.names()), first in sim.names(), sim.seen().ready) == (3, False, 2)


def test_a_generation_is_a_time_by_which_to_have_started(sim: Sim) -> None:
    """The same restart asked for again after it happened is already done; a later one is not."""
    (first, *_) = sim.names()
    assert sim.do(Kind.RESTART, str(START), replica=first).already
    assert not sim.do(Kind.RESTART, str(START + 1), replica=first).already
    sim.wait(1)
    assert not sim.do(Kind.RESTART, str(START + 500), replica=first).already
    assert sim.do(Kind.RESTART, str(START + 900), replica=first).already


def test_traffic_can_be_taken_from_a_replica_and_given_back(sim: Sim) -> None:
    (first, *_) = sim.names()
    sim.do(Kind.DRAIN, 0, replica=first)
    assert (sim.seen().replicas, sim.seen().ready) == (3, 2)
    sim.do(Kind.SHIFT, 100, replica=first)
    assert sim.seen().ready == 3
    sim.do(Kind.DRAIN, 0, replica=first)
    sim.do(Kind.SCALE, 2)
    assert first not in sim.names(), "the one without traffic goes first"
    assert sim.seen().ready == 2


def test_a_pools_weight_is_seen_from_the_side_door(sim: Sim) -> None:
    assert sim.seen().ready == 3
    assert sim.state().weight == 100
    sim.do(Kind.SHIFT, 40)
    assert (sim.state().weight, sim.state().ready) == (40, 3)
    sim.do(Kind.DRAIN, 0)
    assert sim.state().weight == 0


def test_a_quarantined_replica_leaves_and_another_comes(sim: Sim) -> None:
    (first, *_) = sim.names()
    sim.do(Kind.QUARANTINE, "odd traffic", replica=first)
    assert (first in sim.names(), sim.seen().replicas, sim.seen().ready) == (False, 3, 2)
    sim.wait(60)
    assert sim.seen().ready == 3


def test_a_rollback_brings_back_the_release_and_heals(sim: Sim) -> None:
    sim.world.provision(POOL, 3, START)
    sim.world.deploy(POOL.name, "r2", START)
    assert (sim.seen().release, sim.seen().version) == ("r2", "v2")
    sim.world.sicken(POOL.name, 2, START)
    sim.do(Kind.ROLLBACK, "r1")
    assert (sim.seen().release, sim.seen().unhealthy, sim.seen().ready) == ("r1", (), 1)
    sim.wait(60)
    assert sim.seen().ready == 3
