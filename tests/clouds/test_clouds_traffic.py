"""Adapters with a traffic weight tell it, and what changes it takes it to 0 and back: what a failover builds on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from gateway_worlds import edge, http_route, ref
from haproxy_worlds import AMS, FRA, Balancer, balancer

from forecastle.clouds.sim import SimCloud
from forecastle.runtime.clocks import EventClock
from forecastle.types import Action, Kind, Pool, Traffic


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Balancer]:
    with balancer(tmp_path) as made:
        yield made


def test_haproxy_drains_at_once_and_gives_back_what_was(here: Balancer) -> None:
    assert here.seen().traffic == Traffic(100, Kind.DRAIN)
    here.do(Kind.DRAIN, 0)
    assert here.seen().traffic == Traffic(0, Kind.DRAIN)
    here.do(Kind.DRAIN, 100)
    assert here.seen().traffic == Traffic(100, Kind.DRAIN)
    here.do(Kind.SHIFT, 40)
    here.do(Kind.DRAIN, 0)
    assert here.seen().traffic == Traffic(0, Kind.DRAIN)
    here.do(Kind.DRAIN, 100)
    assert here.seen().traffic == Traffic(40, Kind.DRAIN), "a drain leaves the weight"


def test_a_weight_of_nothing_is_undone_as_it_was_done(here: Balancer) -> None:
    here.do(Kind.SHIFT, 0)
    assert here.seen().traffic == Traffic(0, Kind.SHIFT)
    here.do(Kind.SHIFT, 100)
    assert here.seen().traffic == Traffic(100, Kind.DRAIN)


def test_haproxy_leaves_to_others_what_others_ordered(here: Balancer) -> None:
    """One server drained by hand: the weight goes, and its order stays. Maintenance is for whoever began it to end."""
    here.do(Kind.DRAIN, 0, replica="fra1")
    assert here.seen().traffic == Traffic(100, Kind.SHIFT)
    here.do(Kind.SHIFT, 0)
    assert here.seen().traffic == Traffic(0, Kind.SHIFT)
    here.do(Kind.SHIFT, 100)
    assert here.seen().traffic == Traffic(100, Kind.SHIFT), "still drained by hand"
    here.do(Kind.CORDON, "disks")
    assert here.seen().traffic is None
    assert here.connect().observe(AMS).traffic == Traffic(100, Kind.DRAIN)
    assert FRA.name != AMS.name


def test_a_gateway_has_its_share_and_shifts_it(tmp_path: Path) -> None:
    with edge(tmp_path, http_route([ref("web-fra", 60), ref("web-ams", 40)])) as here:
        assert here.seen().traffic == Traffic(60, Kind.SHIFT)
        here.shift(0)
        assert here.seen().traffic == Traffic(0, Kind.SHIFT)
        here.shift(60)
        assert here.seen().traffic == Traffic(60, Kind.SHIFT)
        assert here.weights() == [60, 40]


def test_the_simulated_cloud_has_a_weight(tmp_path: Path) -> None:
    pool = Pool("web", "shop", "fra", "sim", 0.1)
    cloud = SimCloud(clock=EventClock(1000), path=str(tmp_path / "sim.db"))

    def do(kind: Kind, desired: int | str) -> Traffic | None:
        version = cloud.observe(pool).version
        cloud.apply(Action(kind, "shop", "web", desired, version, 0, 0), pool, token=f"{kind}{desired}")
        return cloud.observe(pool).traffic

    assert cloud.observe(pool).traffic == Traffic(100, Kind.DRAIN)
    assert do(Kind.DRAIN, 0) == Traffic(0, Kind.DRAIN)
    assert do(Kind.SHIFT, 30) == Traffic(30, Kind.DRAIN)
    assert do(Kind.DRAIN, 100) == Traffic(100, Kind.DRAIN)
    cloud.close()
