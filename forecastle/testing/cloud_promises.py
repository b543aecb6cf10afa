"""The promises of `forecastle.ports.Cloud`, each as a test from outside: a name, the promise in words, and how to break it.

A test returns what is wrong, '' when nothing is, and leaves the pool with as many replicas, or as much traffic, as it found.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import count

from forecastle.errors import Conflict, ForecastleError, NotFound, QuotaExceeded, Unsupported
from forecastle.ports import Cloud
from forecastle.types import Action, Kind, Observed, Pool, Receipt

_TICKS = count(time.time_ns() // 1_000_000)
_GENERATIONS = (Kind.REPLACE, Kind.RESTART)


@dataclass(frozen=True, slots=True)
class Bench:
    """The adapter under test: how to connect, its pool, a pool it does not know, and how to wait for an effect to be seen."""

    connect: Callable[[], Cloud]
    pool: Pool
    absent: Pool
    creates: bool
    settle: Callable[[], None]

    @contextmanager
    def cloud(self) -> Iterator[Cloud]:
        """A connection for the length of a block."""
        with closing(self.connect()) as cloud:
            yield cloud

    def action(self, kind: Kind, desired: int | str, seen: Observed) -> Action:
        """An action on the pool as ``seen`` that was never asked for before."""
        tick = next(_TICKS)
        expected = seen.replicas if kind is Kind.SCALE else seen.version
        return Action(kind, self.pool.workload, self.pool.name, desired, expected, tick, tick + 3_600_000)

    def apply(self, cloud: Cloud, action: Action, token: str = "") -> Receipt:
        """Apply under ``token``, or a fresh one, and wait until it can be seen."""
        receipt = cloud.apply(action, self.pool, token=token or fresh_token())
        self.settle()
        return receipt

    def move(self, cloud: Cloud, desired: int, token: str = "") -> tuple[Action, Receipt]:
        """Ask for ``desired`` replicas, or percent of traffic, from the state the pool is in."""
        action = self.action(moved_by(cloud), desired, cloud.observe(self.pool))
        return action, self.apply(cloud, action, token)

    def there_and_back(self, cloud: Cloud) -> tuple[int, int]:
        """What to move the pool to, and back to: one replica more or less, or half the traffic."""
        if moved_by(cloud) is Kind.SHIFT:
            return 50, 100
        here = cloud.observe(self.pool).replicas
        return (here + 1 if here < min(self.pool.max, self.pool.quota) else here - 1), here


def moved_by(cloud: Cloud) -> Kind:
    """The kind that shows what an effect is: SCALE, or SHIFT for an adapter that only moves traffic."""
    return Kind.SCALE if Kind.SCALE in cloud.capabilities else Kind.SHIFT


def fresh_token() -> str:
    """A token nobody used, of the shape of an action's id."""
    return secrets.token_hex(16)


def observe_steady(bench: Bench) -> str:
    """What nobody changes is observed the same twice."""
    with bench.cloud() as cloud:
        first, second = cloud.observe(bench.pool), cloud.observe(bench.pool)
    if first.pool != bench.pool.name:
        return f"the answer is about '{first.pool}'"
    if not first.version or first.replicas < 0 or first.ready < 0:
        return f"the answer makes no sense: {first}"
    return _changed(first, second)


def absent_not_found(bench: Bench) -> str:
    """A pool that is not there is NotFound, or created with max(min, 1) replicas where that is documented."""
    with bench.cloud() as cloud:
        try:
            seen = cloud.observe(bench.absent)
        except NotFound:
            return "it is NotFound and should have been created" if bench.creates else ""
    wanted = max(bench.absent.min, 1)
    return "" if bench.creates and seen.replicas == wanted else f"the answer was {seen}"


def preview_no_effect(bench: Bench) -> str:
    """Preview tells what would happen and does nothing."""
    with bench.cloud() as cloud:
        before, kind = cloud.observe(bench.pool), moved_by(cloud)
        there, here = bench.there_and_back(cloud)
        for desired, noop in ((there, False), (here, True)):
            action = bench.action(kind, desired, before)
            change = cloud.preview(action, before)
            if change.action_id != action.id or (kind is Kind.SCALE and change.noop != noop):
                return f"{kind} to {desired} of {before} is told as {change}"
        bench.settle()
        return _changed(before, cloud.observe(bench.pool))


def effect_visible(bench: Bench) -> str:
    """An effect is seen as the state asked for at a new version."""
    with bench.cloud() as cloud:
        for desired in bench.there_and_back(cloud):
            before = cloud.observe(bench.pool)
            action, receipt = bench.move(cloud, desired)
            after = cloud.observe(bench.pool)
            if receipt.already or receipt.action_id != action.id:
                return f"the receipt for {action.id} was {receipt}"
            if after.version == before.version or (action.kind is Kind.SCALE and after.replicas != desired):
                return f"{action.kind} to {desired} made {after} of {before}"
    return ""


def used_token(bench: Bench) -> str:
    """A used token has no second effect and says already."""
    with bench.cloud() as cloud:
        return _replayed(bench, cloud, cloud)


def used_token_everywhere(bench: Bench) -> str:
    """A token that one connection used is used for all."""
    with bench.cloud() as one, bench.cloud() as other:
        return _replayed(bench, one, other)


def _replayed(bench: Bench, one: Cloud, other: Cloud) -> str:
    """There and back, then there once more under the first token: nothing but the token forbids it."""
    (there, back), token = bench.there_and_back(one), fresh_token()
    bench.move(one, there, token)
    bench.move(one, back)
    before = one.observe(bench.pool)
    _, receipt = bench.move(other, there, token)
    found = _idle(before, one.observe(bench.pool), receipt)
    if found:
        bench.move(one, back)
    return found


def already_true(bench: Bench) -> str:
    """What is so already changes nothing and says already."""
    with bench.cloud() as cloud:
        there, back = bench.there_and_back(cloud)
        bench.move(cloud, there)
        before = cloud.observe(bench.pool)
        _, receipt = bench.move(cloud, there)
        found = _idle(before, cloud.observe(bench.pool), receipt)
        bench.move(cloud, back)
        return found


def generation_once(bench: Bench) -> str:
    """A restart or a replacement of the same name happens once."""
    with bench.cloud() as cloud:
        for kind in _declared(cloud):
            name, before = str(next(_TICKS)), cloud.observe(bench.pool)
            bench.apply(cloud, bench.action(kind, name, before))
            once = cloud.observe(bench.pool)
            receipt = bench.apply(cloud, bench.action(kind, name, once))
            if once.version == before.version or once.replicas != before.replicas:
                return f"{kind} made {once} of {before}"
            if found := _idle(once, cloud.observe(bench.pool), receipt):
                return f"{kind} again: {found}"
    return ""


def expected_conflict(bench: Bench) -> str:
    """A broken expectation is a Conflict and has no effect."""
    with bench.cloud() as cloud:
        before = cloud.observe(bench.pool)
        there, _ = bench.there_and_back(cloud)
        other = Observed(before.pool, before.replicas + 7, before.ready, before.at, f"not {before.version}")
        actions = [bench.action(moved_by(cloud), there, other)]
        actions += [bench.action(kind, str(next(_TICKS)), other) for kind in _declared(cloud)]
        return _refused(bench, cloud, actions, Conflict)


def undeclared_unsupported(bench: Bench) -> str:
    """A kind that is no capability is Unsupported and has no effect."""
    with bench.cloud() as cloud:
        before = cloud.observe(bench.pool)
        undeclared = sorted(set(Kind) - cloud.capabilities)
        actions = [bench.action(kind, 1 if kind is Kind.SCALE else "0", before) for kind in undeclared]
        return _refused(bench, cloud, actions, Unsupported)


def quota_exceeded(bench: Bench) -> str:
    """Growth beyond the quota is QuotaExceeded and has no effect."""
    with bench.cloud() as cloud:
        if Kind.SCALE not in cloud.capabilities:
            return ""
        action = bench.action(Kind.SCALE, bench.pool.quota + 1, cloud.observe(bench.pool))
        return _refused(bench, cloud, [action], QuotaExceeded)


def close_idempotent(bench: Bench) -> str:
    """Closing twice is harmless, to other connections too."""
    with bench.cloud() as kept:
        cloud = bench.connect()
        cloud.close()
        try:
            cloud.close()
        except Exception as error:  # noqa: BLE001 - whatever it is, it breaks the promise
            return f"the second close raised {type(error).__name__}: {error}"
        kept.observe(bench.pool)
    return ""


def _declared(cloud: Cloud) -> list[Kind]:
    return [kind for kind in _GENERATIONS if kind in cloud.capabilities]


def _refused(bench: Bench, cloud: Cloud, actions: list[Action], error: type[ForecastleError]) -> str:
    before = cloud.observe(bench.pool)
    for action in actions:
        try:
            receipt = bench.apply(cloud, action)
        except error:
            found = _changed(before, cloud.observe(bench.pool))
        else:
            found = f"the receipt was {receipt}"
        if found:
            return f"{action.kind} to {action.desired}: {found}"
    return ""


def _idle(before: Observed, after: Observed, receipt: Receipt) -> str:
    return _changed(before, after) or ("" if receipt.already else f"the receipt was {receipt}")


def _changed(before: Observed, after: Observed) -> str:
    if (before.replicas, before.version) == (after.replicas, after.version):
        return ""
    return f"{before.replicas} replicas at {before.version} became {after.replicas} at {after.version}"
