"""The sim keeps every promise of the cloud plug, and for every promise there is an adapter that is caught breaking it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from forecastle.clouds.sim import SimCloud, open_cloud
from forecastle.clouds.sim_world import SimWorld
from forecastle.errors import CloudUnavailable, Conflict, NotFound, QuotaExceeded, Unsupported
from forecastle.runtime.clocks import EventClock
from forecastle.testing.check_cloud import BrokenPromise, Check, check_cloud, checks
from forecastle.types import Action, Change, Kind, Observed, Pool, Receipt

START = 1_760_000_040_000
POOL = Pool("shop-fra", "shop", "fra", "sim", 0.1, min=3, max=20, quota=20)
CLOCK = EventClock(START)


class SoundCloud(SimCloud):
    """The sim behind the manners of a real provider: it knows only what was provisioned and cannot do everything."""

    capabilities = frozenset({Kind.SCALE, Kind.RESTART, Kind.REPLACE})

    def __init__(self, path: str) -> None:
        super().__init__(clock=CLOCK, path=path)
        self.path = path

    def observe(self, pool: Pool) -> Observed:
        with SimWorld(self.path) as world:
            if pool.name not in world.ready(START):
                raise NotFound(pool.name)
        return super().observe(pool)

    def apply(self, action: Action, pool: Pool, *, token: str) -> Receipt:
        if action.kind not in self.capabilities:
            raise Unsupported(action.kind)
        return super().apply(action, pool, token=token)


class TrafficCloud(SoundCloud):
    capabilities = frozenset({Kind.SHIFT})


# --- one adapter for each promise that breaks it --------------------------------------------------------------------


class Flickering(SoundCloud):
    def observe(self, pool: Pool) -> Observed:
        self.seen = getattr(self, "seen", 0) + 1
        return replace(super().observe(pool), version=f"{self.seen}")


class Mistaken(SoundCloud):
    def observe(self, pool: Pool) -> Observed:
        return replace(super().observe(pool), pool="another")


class EmptyForAll(SoundCloud):
    def observe(self, pool: Pool) -> Observed:
        with suppress(NotFound):
            return super().observe(pool)
        return Observed(pool.name, 0, 0, START, "v0")


class Eager(SoundCloud):
    def preview(self, action: Action, observed: Observed) -> Change:
        self.apply(action, POOL, token=f"preview of {action.id}")
        return super().preview(action, observed)


class Unforeseeing(SoundCloud):
    def preview(self, action: Action, observed: Observed) -> Change:
        return replace(super().preview(action, observed), noop=False)


class Lazy(SoundCloud):
    def apply(self, action: Action, pool: Pool, *, token: str) -> Receipt:
        return Receipt(action.id, already=False)


class Relative(SoundCloud):
    def apply(self, action: Action, pool: Pool, *, token: str) -> Receipt:
        if action.kind is Kind.SCALE and action.desired != action.expected:
            action = replace(action, desired=min(int(action.desired) + 1, pool.quota))
        return replace(super().apply(action, pool, token=token), action_id=action.id)


class Frozen(SoundCloud):
    def observe(self, pool: Pool) -> Observed:
        return replace(super().observe(pool), version="always")


class Forgetful(SoundCloud):
    def apply(self, action: Action, pool: Pool, *, token: str) -> Receipt:
        self.asked = getattr(self, "asked", 0) + 1
        return super().apply(action, pool, token=f"{token}/{id(self)}/{self.asked}")


class Private(SoundCloud):
    """Remembers tokens, each connection its own."""

    def apply(self, action: Action, pool: Pool, *, token: str) -> Receipt:
        return super().apply(action, pool, token=f"{token}/{id(self)}")


class Restless(SoundCloud):
    def apply(self, action: Action, pool: Pool, *, token: str) -> Receipt:
        receipt = super().apply(action, pool, token=token)
        if receipt.detail == "it is so already" and action.kind is Kind.SCALE:
            with SimWorld(self.path) as world:
                world.deploy(pool.name, "again", START)
        return receipt


class Boastful(SoundCloud):
    def apply(self, action: Action, pool: Pool, *, token: str) -> Receipt:
        receipt = super().apply(action, pool, token=token)
        return replace(receipt, already=receipt.already and receipt.detail != "it is so already")


class Repeating(SoundCloud):
    def apply(self, action: Action, pool: Pool, *, token: str) -> Receipt:
        named = (
            replace(action, desired=f"{action.desired} of {token}") if action.kind in {Kind.RESTART, Kind.REPLACE} else action
        )
        return replace(super().apply(named, pool, token=token), action_id=action.id)


class Overruling(SoundCloud):
    def apply(self, action: Action, pool: Pool, *, token: str) -> Receipt:
        with suppress(Conflict):
            return super().apply(action, pool, token=token)
        seen = self.observe(pool)
        action = replace(action, expected=seen.replicas if action.kind is Kind.SCALE else seen.version)
        return super().apply(action, pool, token=token)


class HalfOverruling(SoundCloud):
    """Minds the count, not the version."""

    def apply(self, action: Action, pool: Pool, *, token: str) -> Receipt:
        if action.kind is not Kind.SCALE and action.kind in self.capabilities:
            action = replace(action, expected=self.observe(pool).version)
        return super().apply(action, pool, token=token)


class Polite(SoundCloud):
    def apply(self, action: Action, pool: Pool, *, token: str) -> Receipt:
        with suppress(Unsupported):
            return super().apply(action, pool, token=token)
        return Receipt(action.id, already=True, detail="nothing to do")


class Mute(SoundCloud):
    def apply(self, action: Action, pool: Pool, *, token: str) -> Receipt:
        with suppress(Unsupported):
            return super().apply(action, pool, token=token)
        raise KeyError(action.kind)


class Clamping(SoundCloud):
    def apply(self, action: Action, pool: Pool, *, token: str) -> Receipt:
        with suppress(QuotaExceeded):
            return super().apply(action, pool, token=token)
        return super().apply(replace(action, desired=pool.quota), pool, token=token)


class Fragile(SoundCloud):
    def close(self) -> None:
        if getattr(self, "closed", False):
            raise ValueError("closed already")
        self.closed = True
        super().close()


BREAKERS: list[tuple[type[SoundCloud], str]] = [
    (Flickering, "observe_steady"),
    (Mistaken, "observe_steady"),
    (EmptyForAll, "absent_not_found"),
    (Eager, "preview_no_effect"),
    (Unforeseeing, "preview_no_effect"),
    (Lazy, "effect_visible"),
    (Relative, "effect_visible"),
    (Frozen, "effect_visible"),
    (Forgetful, "used_token"),
    (Private, "used_token_everywhere"),
    (Restless, "already_true"),
    (Boastful, "already_true"),
    (Repeating, "generation_once"),
    (Overruling, "expected_conflict"),
    (HalfOverruling, "expected_conflict"),
    (Polite, "undeclared_unsupported"),
    (Mute, "undeclared_unsupported"),
    (Clamping, "quota_exceeded"),
    (Fragile, "close_idempotent"),
]
NAMED = {check.name: check for check in checks()}
Connect = Callable[[type[SoundCloud]], Callable[[], SoundCloud]]


@pytest.fixture
def connect(tmp_path: Path) -> Iterator[Connect]:
    """Connections of an adapter to a provider that has the pool, closed afterwards."""
    path, opened = str(tmp_path / "sim.db"), []
    with SimWorld(path) as world:
        world.provision(POOL, 4, START)

    def connecting(adapter: type[SoundCloud]) -> Callable[[], SoundCloud]:
        def connection() -> SoundCloud:
            opened.append(adapter(path))
            return opened[-1]

        return connection

    yield connecting
    for cloud in opened:
        SimCloud.close(cloud)


@pytest.mark.parametrize("check", checks(), ids=str)
def test_the_sim_keeps_its_promises(check: Check, tmp_path: Path) -> None:
    check(lambda: open_cloud(clock=CLOCK, path=str(tmp_path / "sim.db")), POOL, creates=True)


@pytest.mark.parametrize("adapter", [SoundCloud, TrafficCloud])
def test_sound_adapters_keep_every_promise_and_their_pool(adapter: type[SoundCloud], connect: Connect) -> None:
    assert check_cloud(connect(adapter), POOL) == tuple(NAMED)
    seen = connect(adapter)().observe(POOL)
    assert (seen.replicas, seen.pool) == (4, POOL.name)


def test_a_full_pool_is_tested_by_one_replica_less(connect: Connect) -> None:
    assert check_cloud(connect(SoundCloud), replace(POOL, max=4)) == tuple(NAMED)


@pytest.mark.parametrize(
    ("adapter", "promise"), BREAKERS, ids=lambda value: value if isinstance(value, str) else value.__name__
)
def test_a_broken_promise_is_named(adapter: type[SoundCloud], promise: str, connect: Connect) -> None:
    NAMED[promise](connect(SoundCloud), POOL)
    with pytest.raises(BrokenPromise, match=promise) as caught:
        NAMED[promise](connect(adapter), POOL)
    assert caught.value.promise == promise
    assert str(NAMED[promise].test.__doc__) in str(caught.value)


@pytest.mark.parametrize(
    "adapter", [Private, Repeating, Restless, Unforeseeing, HalfOverruling, Polite, Clamping, Fragile, EmptyForAll]
)
def test_one_fault_breaks_one_promise(adapter: type[SoundCloud], connect: Connect) -> None:
    broken = []
    for check in checks():
        try:
            check(connect(adapter), POOL)
        except BrokenPromise as error:
            broken.append(error.promise)
    assert broken == [promise for breaker, promise in BREAKERS if breaker is adapter]


def test_every_promise_has_somebody_who_breaks_it() -> None:
    assert {promise for _, promise in BREAKERS} == set(NAMED)


def test_the_whole_suite_stops_at_the_first_broken_promise(connect: Connect) -> None:
    with pytest.raises(BrokenPromise) as caught:
        check_cloud(connect(Forgetful), POOL)
    assert caught.value.promise == "used_token"


def test_a_pool_that_should_be_created_and_is_not_breaks_the_promise(connect: Connect) -> None:
    with pytest.raises(BrokenPromise, match="should have been created"):
        NAMED["absent_not_found"](connect(SoundCloud), POOL, creates=True)


def test_an_effect_may_take_time_to_show(connect: Connect) -> None:
    clock = EventClock(START)

    class Delayed(SoundCloud):
        """Tells what was true a minute ago."""

        shown: tuple[int, Observed] | None = None

        def observe(self, pool: Pool) -> Observed:
            now = super().observe(pool)
            if Delayed.shown is None or clock.now() - Delayed.shown[0] >= 60_000 or pool.name != POOL.name:
                Delayed.shown = (clock.now(), now)
            return Delayed.shown[1]

    with pytest.raises(BrokenPromise):
        NAMED["effect_visible"](connect(Delayed), POOL)
    with SimWorld(str(connect(Delayed)().path)) as world:
        world.provision(POOL, 4, START)
    clock.advance(clock.now() + 60_000)
    NAMED["effect_visible"](connect(Delayed), POOL, settle=lambda: clock.advance(clock.now() + 60_000))


def test_an_unreachable_cloud_breaks_the_promise_it_was_asked_for(tmp_path: Path) -> None:
    with pytest.raises(BrokenPromise, match=f"observe_steady.*{CloudUnavailable.__name__}: too many requests"):
        check_cloud(lambda: open_cloud(clock=CLOCK, path=str(tmp_path / "sim.db"), throttle=1.0), POOL, creates=True)
