"""Dying before and after every single call that leaves the executor, then coming back: at most one effect, every intent ended.

The calls of an undisturbed run are counted, then the run is repeated once for each of them with a crash there, and once with
the store or the cloud failing there. What comes back is either the same worker, which executes the recorded plan again, or
another one, which can only look.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from act_worlds import MINUTE, START, Step, World, plan, restart, scale

from forecastle.errors import CloudUnavailable, StoreUnavailable
from forecastle.types import Plan, Status

SCENARIOS: dict[str, Callable[[World], Plan]] = {}


def scenario(make: Callable[[World], Plan]) -> Callable[[World], Plan]:
    SCENARIOS[make.__name__] = make
    return make


@scenario
def growth(_: World) -> Plan:
    return plan(scale())


@scenario
def two_pools(_: World) -> Plan:
    return plan(scale("shop-fra"), scale("shop-ams"), wanted=10)


@scenario
def heal(_: World) -> Plan:
    return plan(restart())


@scenario
def timed_out(world: World) -> Plan:
    world.cloud.script.append(Step(error=CloudUnavailable("?", ambiguous=True), after=True))
    return plan(scale())


@scenario
def throttled(world: World) -> Plan:
    world.cloud.script.append(Step(error=CloudUnavailable("429")))
    return plan(scale())


@scenario
def slow(world: World) -> Plan:
    world.cloud.delay = 2
    return plan(scale())


@scenario
def approved(world: World) -> Plan:
    wanted = plan(restart(approval="B"), approvals=1)
    world.ledger.record(START, "w", [wanted])
    world.ledger.request(wanted, "forecastle", 1)
    world.ledger.approve(wanted.id, "ann")
    return wanted


class Crash(BaseException):
    """Kill -9."""


class Faulty:
    """Passes calls on, but the ``at``-th of all that share ``count`` fails before or after it happened."""

    def __init__(
        self, inner: Any, count: list[str], at: int = -1, error: BaseException | None = None, *, after: bool = False
    ) -> None:
        self._inner, self._count, self._at, self._error, self._after = inner, count, at, error, after

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if not callable(found):
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            self._count.append(name)
            mine = len(self._count) - 1 == self._at and self._error is not None
            if mine and not self._after:
                raise self._error
            result = found(*args, **kwargs)
            if mine:
                raise self._error
            return result

        return call


def run(world: World, wanted: Plan, at: int = -1, error: BaseException | None = None, *, after: bool = False) -> list[str]:
    """Execute with a fault at call number ``at``; the names of the calls that were made."""
    count: list[str] = []
    ledger, cloud = (Faulty(inner, count, at, error, after=after) for inner in (world.ledger, world.cloud))
    with contextlib.suppress(Crash, StoreUnavailable):
        world.executor(ledger=ledger, cloud=cloud).execute(wanted, None)
    return count


def calls(name: str) -> list[str]:
    with World() as world:
        return run(world, SCENARIOS[name](world))


def healthy(world: World, wanted: Plan) -> None:
    """What must hold however it went: one effect at most per token, and everything that was begun has ended."""
    tokens = [token for token, _ in world.cloud.orders]
    assert len(tokens) == len(set(tokens))
    assert world.ledger.unfinished() == ()
    for action in wanted.actions:
        ended = world.ledger.ended(action.id)
        happened = action.id in tokens
        assert not happened or (ended is not None and ended.status in {Status.APPLIED, Status.UNVERIFIED})
        assert ended is None or ended.status is not Status.APPLIED or happened
        entries = [e.kind for e in reversed(world.ledger.history(mentions=action.id, kinds=["intent", "outcome"]))]
        assert entries.count("intent") <= 1
        assert "intent" not in entries or entries[entries.index("intent") :] == ["intent", "outcome"], "ended exactly once"


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("name", SCENARIOS)
def test_the_same_worker_finishes_what_it_began(name: str, after: bool) -> None:
    with World() as calm:
        undisturbed = [(o.action_id, o.status) for o in calm.executor().execute(SCENARIOS[name](calm), None)]
        orders = calm.cloud.orders
    for at in range(len(calls(name))):
        with World() as world:
            wanted = SCENARIOS[name](world)
            run(world, wanted, at, Crash(), after=after)
            world.cloud.script.clear()
            outcomes = world.executor().execute(wanted, None)
            healthy(world, wanted)
            assert [(o.action_id, o.status) for o in outcomes] == undisturbed, at
            assert world.cloud.orders == orders, at
            assert world.executor().recover() == ()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("name", ["growth", "slow", "approved"])
def test_another_worker_reconciles_once_by_looking(name: str, after: bool) -> None:
    for at in range(len(calls(name))):
        with World() as world:
            wanted = SCENARIOS[name](world)
            run(world, wanted, at, Crash(), after=after)
            orders, applied = list(world.cloud.orders), world.cloud.applied
            assert world.executor("other").recover() == (), "the lease of the dead may still be a living one's"
            world.clock.advance(START + 2 * MINUTE)
            world.executor("other").recover()
            assert (world.cloud.orders, world.cloud.applied) == (orders, applied), "looking is no effect"
            healthy(world, wanted)
            assert world.executor("third").recover() == ()
            assert world.ledger.unfinished() == ()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("name", ["two_pools", "heal"])
def test_a_failing_store_or_cloud_is_no_second_effect(name: str, after: bool) -> None:
    for at, call in enumerate(calls(name)):
        broken = (
            CloudUnavailable("gone", ambiguous=True) if call in {"observe", "apply"} else StoreUnavailable("database is locked")
        )
        with World() as world:
            wanted = SCENARIOS[name](world)
            run(world, wanted, at, broken, after=after)
            world.cloud.script.clear()
            outcomes = world.executor().execute(wanted, None)
            healthy(world, wanted)
            assert {o.status for o in outcomes} <= {Status.APPLIED, Status.UNVERIFIED, Status.REFUSED}


@pytest.mark.parametrize("name", ["growth", "approved"])
@pytest.mark.parametrize("stop", ["kill", "deadline", "hold"])
def test_no_effect_comes_after_a_stop_whenever_the_worker_died(name: str, stop: str) -> None:
    for at in range(len(calls(name))):
        with World() as world:
            wanted = SCENARIOS[name](world)
            run(world, wanted, at, Crash())
            orders, applied = list(world.cloud.orders), world.cloud.applied
            if stop == "kill":
                world.ledger.kill("stop", "ann")
            elif stop == "hold":
                world.ledger.hold("shop", "stop", "ann")
            else:
                world.clock.advance(START + 10 * MINUTE)
            world.executor().execute(wanted, None)
            assert (world.cloud.orders, world.cloud.applied) == (orders, applied)
            if stop != "deadline" or not wanted.approvals:
                healthy(world, wanted)
            world.executor().recover()
            healthy(world, wanted)


def test_recovery_says_what_it_found(world: World) -> None:
    before_effect, after_effect, lost = scale("shop-fra"), scale("shop-ams"), restart("shop-ams", START + MINUTE)
    for action in (before_effect, after_effect):
        epoch = world.ledger.lease(action.target, "dead", 60)
        world.ledger.intend(action, epoch=epoch, before=world.cloud.state[action.pool])
    world.cloud.apply(after_effect, world.inventory.pools["shop-ams"], token=after_effect.id)
    world.clock.advance(START + 2 * MINUTE)
    found = {o.action_id: o for o in world.executor().recover()}
    assert found[before_effect.id].status is Status.REFUSED
    assert "plan again" in found[before_effect.id].detail
    assert found[after_effect.id].status is Status.APPLIED
    assert found[after_effect.id].before is not None, "what it looked like before is kept"
    epoch = world.ledger.lease(lost.target, "dead", 1)
    world.ledger.intend(lost, epoch=epoch)
    del world.cloud.state["shop-ams"]
    world.clock.advance(START + 3 * MINUTE)
    (unknown,) = world.executor().recover()
    assert unknown.status is Status.UNVERIFIED
    kinds = [e.kind for e in reversed(world.ledger.history())]
    assert kinds == ["intent", "intent", "takeover", "takeover", "outcome", "outcome", "intent", "takeover", "outcome"]
