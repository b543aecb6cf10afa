"""A failover under load through a real HAProxy: no request fails that a drain could save, and a ramp is kept."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from haproxy_worlds import AMS, FRA, Balancer, balancer

from forecastle.clouds.haproxy import HaproxyCloud
from forecastle.types import Kind


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Balancer]:
    with balancer(tmp_path) as made:
        yield made


def emptied(cloud: HaproxyCloud) -> None:
    """Wait until the drained servers have answered what they had begun."""
    deadline = time.monotonic() + 60
    while any(cloud.sessions(FRA).values()):
        assert time.monotonic() < deadline, "the drain does not end"
        time.sleep(0.01)


def test_after_a_drain_a_site_can_be_lost_without_a_failed_request(here: Balancer) -> None:
    with here.load() as load:
        assert set(load.wait(40)) == {"fra1", "fra2", "ams1", "ams2"}
        assert not here.do(Kind.DRAIN, 0).already
        assert here.seen().ready == 0
        emptied(here.connect())
        here.webs.kill("fra1", "fra2")
        assert set(load.wait(100)) == {"ams1", "ams2"}
    assert "" not in load.answers


def test_without_the_drain_the_same_loss_fails_requests(here: Balancer) -> None:
    """Otherwise the test above would show nothing."""
    with here.load() as load:
        load.wait(40)
        here.webs.kill("fra1", "fra2")
        load.wait(40)
    assert "" in load.answers


def test_a_ramped_shift_is_complete_in_as_many_steps_as_it_states(here: Balancer) -> None:
    cloud, shares, weights = here.connect(ramp=25), [], []
    with here.load() as load:
        while not (action := here.action(Kind.SHIFT, 0)) or not cloud.preview(action, here.seen()).noop:
            assert len(weights) < 4, "a ramp of 25 points takes four steps"
            assert not cloud.apply(action, FRA, token=action.id).already
            weights.append(here.weight("fra1"))
            load.settle()  # begun under the weight before
            shares.append(Counter(answer[:3] for answer in load.wait(100))["fra"])
    assert weights == [f"{weight} (initial 100)" for weight in (75, 50, 25, 0)]
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] == 0
    assert 100 * 75 / 175 - 10 < shares[0] < 100 * 75 / 175 + 10
    assert "" not in load.answers


def test_traffic_comes_back_as_it_went(here: Balancer) -> None:
    with here.load() as load:
        here.do(Kind.DRAIN, 0)
        load.settle()
        assert set(load.wait(40)) == {"ams1", "ams2"}
        here.do(Kind.DRAIN, 100)
        here.do(Kind.SHIFT, 0, pool=AMS)
        load.settle()
        assert set(load.wait(40)) == {"fra1", "fra2"}
    assert "" not in load.answers
