"""Asking again: how often, how long apart, and when it is of no use."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path

import pytest
from act_worlds import START, Step, World, plan, scale
from hypothesis import given
from hypothesis import strategies as st

from forecastle.act.retry import Retried, Retry, Tried
from forecastle.clouds.sim import open_cloud
from forecastle.errors import CloudUnavailable, Conflict, NotFound, Transient
from forecastle.runtime.clocks import EventClock
from forecastle.testing.check_cloud import check_cloud
from forecastle.types import Pool, Status

BUSY = CloudUnavailable("429", retry_after=2.0)
LOST = CloudUnavailable("?", retry_after=0.0, ambiguous=True)


class Asked:
    """A request that raises what ``script`` holds and then answers 'yes'; and the sleeps between the attempts."""

    def __init__(self, *script: Exception, attempts: int = 3, longest: float = 10.0, draw: float = 0.0) -> None:
        self.script, self.requests, self.sleeps = deque(script), 0, list[float]()
        self.retry = Retry(attempts, longest, self.sleeps.append, lambda: draw)

    def __call__(self) -> str:
        self.requests += 1
        if self.script:
            raise self.script.popleft()
        return "yes"

    def ask(self, *, left: float = 1e9, forbidden: Callable[[], str] = str, bugs: bool = False) -> Tried[str]:
        return self.retry.ask(self, left_s=lambda: left - sum(self.sleeps), forbidden=forbidden, bugs=bugs)


def test_a_transient_is_asked_again_after_what_it_asked_for() -> None:
    asked = Asked(BUSY, BUSY)
    assert asked.ask() == Tried("yes")
    assert asked.sleeps == [2.0, 2.0]


def test_what_is_added_grows_and_is_drawn() -> None:
    asked = Asked(BUSY, BUSY, LOST, attempts=4, draw=0.5)
    assert asked.ask().answer == "yes"
    assert asked.sleeps == [2.0 + 0.125, 2.0 + 0.25, 0.0 + 0.5]


@pytest.mark.parametrize("error", [Conflict("x"), NotFound("x")])
@pytest.mark.parametrize("bugs", [False, True])
def test_a_permanent_error_is_the_answer(error: Exception, bugs: bool) -> None:
    asked = Asked(error)
    assert asked.ask(bugs=bugs) == Tried(error=error)
    assert (asked.requests, asked.sleeps) == (1, [])


def test_a_bug_is_a_doubtful_transient_only_where_that_is_said() -> None:
    bug = KeyError("x")
    assert Asked(bug).ask() == Tried(error=bug)
    assert Asked(bug).ask(bugs=True) == Tried("yes", doubt=True)


def test_doubt_stays_once_an_answer_was_lost() -> None:
    found = Asked(LOST, BUSY, BUSY).ask()
    assert (found.answer, found.error, found.doubt) == (None, BUSY, True)
    assert found.gave_up == "gave up after 3 attempts"


@pytest.mark.parametrize(
    ("wait", "left", "why"),
    [(11.0, 1e9, "not to be tried again for 11 s"), (5.0, 4.0, "no time to wait for 5 s"), (11.0, 4.0, "not to be tried")],
)
def test_a_wait_that_is_of_no_use_is_not_waited(wait: float, left: float, why: str) -> None:
    asked = Asked(CloudUnavailable("429", retry_after=wait))
    assert asked.ask(left=left).gave_up.startswith(why)
    assert (asked.requests, asked.sleeps) == (1, [])


def test_no_sleep_follows_the_last_attempt() -> None:
    asked = Asked(BUSY, attempts=1)
    assert asked.ask().error is BUSY
    assert asked.sleeps == []


def test_what_is_forbidden_meanwhile_is_not_asked_again() -> None:
    asked = Asked(LOST)
    found = asked.ask(forbidden=lambda: "stop" if asked.sleeps else "")
    assert (found.forbidden, found.doubt, asked.requests) == ("stop", True, 1)


@given(
    waits=st.lists(st.floats(0.0, 12.0), max_size=8),
    attempts=st.integers(1, 6),
    left=st.floats(0.0, 60.0),
    draw=st.floats(0.0, 1.0),
)
def test_bounds_hold_whatever_the_cloud_says(waits: list[float], attempts: int, left: float, draw: float) -> None:
    asked = Asked(*(Transient("x", retry_after=wait) for wait in waits), attempts=attempts, draw=draw)
    found = asked.ask(left=left)
    assert 1 <= asked.requests <= attempts
    assert sum(asked.sleeps) <= left + 1e-6
    assert all(slept >= asked_for for slept, asked_for in zip(asked.sleeps, waits, strict=False)), "never too early"
    assert (found.answer == "yes") is (found.error is None)


# --- reads ------------------------------------------------------------------------------------------------------------

POOL = Pool("shop-fra", "shop", "fra", "sim", 0.1, min=3, max=20, quota=20)


def test_a_retried_cloud_keeps_every_promise(tmp_path: Path) -> None:
    clock, retry = EventClock(START), Asked().retry
    path = str(tmp_path / "sim.db")
    check_cloud(
        lambda: Retried(open_cloud(clock=clock, path=path), retry, within_s=5.0, monotonic=clock.monotonic), POOL, creates=True
    )


def retried(world: World) -> Retried:
    retry = Retry(3, 10.0, world.sleep, lambda: 0.0)
    return Retried(world.cloud, retry, within_s=3.0, monotonic=lambda: sum(world.sleeps))


def flaky(world: World, *errors: Exception) -> None:
    script = deque(errors)

    def watching() -> None:
        if script:
            raise script.popleft()

    world.cloud.watching = watching


def test_an_observation_that_fails_for_a_moment_is_made_again(world: World) -> None:
    flaky(world, CloudUnavailable("503", retry_after=1.0))
    assert retried(world).observe(world.inventory.pools["shop-fra"]).replicas == 3
    assert world.sleeps == [1.0]


def test_an_observation_has_its_time(world: World) -> None:
    flaky(world, BUSY, BUSY)
    with pytest.raises(CloudUnavailable):
        retried(world).observe(world.inventory.pools["shop-fra"])
    assert world.sleeps == [2.0], "another 2 s would pass the 3 s it has"


def test_an_effect_is_told_once_by_the_layer(world: World) -> None:
    world.cloud.script.append(Step(error=LOST))
    with pytest.raises(CloudUnavailable):
        retried(world).apply(scale(), world.inventory.pools["shop-fra"], token=scale().id)
    assert (world.cloud.applied, world.sleeps) == (1, [])


def test_a_blind_moment_does_not_refuse_an_action(world: World) -> None:
    flaky(world, CloudUnavailable("503", retry_after=1.0))
    assert world.run(plan(scale())).status is Status.APPLIED


def test_no_wait_goes_beyond_the_deadline(world: World) -> None:
    world.cloud.script.append(Step(error=CloudUnavailable("429", retry_after=9.0)))
    outcome = world.run(plan(scale(deadline=START + 5_000)))
    assert (outcome.status, world.sleeps, world.cloud.applied) == (Status.FAILED, [], 1)
    assert "no time to wait for 9 s" in outcome.detail
