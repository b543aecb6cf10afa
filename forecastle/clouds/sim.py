"""The simulated cloud: it outlives whoever uses it and can be told to fail, so that every promise about effects can be tested.

Demo, documentation and tests use it alike; nothing has to be started for it and it needs no network.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, fields
from itertools import count

from forecastle.clouds.sim_file import SimFile
from forecastle.clouds.sim_pool import NEVER, Ready, SimPool, effect, grown, holds, mark, replicas_wanted
from forecastle.errors import CloudUnavailable, ConfigError, Conflict, NotFound, QuotaExceeded
from forecastle.ports import Clock
from forecastle.types import Action, Change, Kind, Observed, Pool, Receipt, Traffic, digest


@dataclass(frozen=True, slots=True)
class Faults:
    """Shares (0 to 1) of what goes wrong. Which, depends on the seed alone: for the last three, on the seed and the token.

    ``throttle``: calls answered with CloudUnavailable, to be tried again after ``retry_after`` seconds. ``ambiguous``: effects
    whose answer is lost. ``stuck``: replicas that never become ready. ``lazy``: orders that are said to be done and are not.
    """

    throttle: float = 0.0
    ambiguous: float = 0.0
    stuck: float = 0.0
    lazy: float = 0.0
    retry_after: float = 1.0

    @classmethod
    def of(cls, options: dict[str, float]) -> Faults:
        """From an adapter's options. Raises ConfigError that names the wrong one."""
        known = [f.name for f in fields(cls)]
        if unknown := sorted(set(options) - set(known)):
            raise ConfigError(f"sim cloud: no option '{unknown[0]}'; its faults are {', '.join(known)}")
        faults = cls(**options)
        for name in known[:-1]:
            if not 0 <= getattr(faults, name) <= 1:
                raise ConfigError(f"sim cloud: {name} is {getattr(faults, name):g}; write a share between 0 and 1")
        return faults


class SimCloud:
    """All kinds of action on pools kept in the file ``path``. Threads take turns; other processes open the file themselves.

    A pool that the file does not know is there from its first mention, with ``max(min, 1)`` ready replicas. Ordered replicas
    serve after the pool's ``startup_s``; removed ones are gone at once. Raises ConfigError for an unknown or senseless option.
    """

    capabilities = frozenset(Kind)

    def __init__(self, *, clock: Clock, path: str, provider: str = "sim", seed: int = 0, **faults: float) -> None:
        self.name = provider
        self._clock = clock
        self._seed = seed
        self._faults = Faults.of(faults)
        self._calls = random.Random(seed)  # noqa: S311 - faults to test with, not secrets
        self._file = SimFile(path)

    def observe(self, pool: Pool) -> Observed:
        """The pool's state now. Raises NotFound when it was removed."""
        self._throttle()
        at = self._clock.now()
        found = self._file.pool(pool.name)
        if found is None:
            with self._file.writing():
                found = self._found(pool, at)
        sick = tuple(r.name for r in found.replicas if r.sick)
        version, ready = f"v{_there(found).version}", len(found.serving(at))
        traffic = Traffic(int(found.marks.get(mark(Kind.DRAIN), "100")), Kind.DRAIN)
        return Observed(pool.name, len(found.replicas), ready, at, version, found.release, sick, traffic)

    def preview(self, action: Action, observed: Observed) -> Change:
        """What ``apply`` would do to the pool as ``observed``; no effect."""
        return Change.of(action, observed)

    def apply(self, action: Action, pool: Pool, *, token: str) -> Receipt:
        """Make it so. Raises Conflict, NotFound, QuotaExceeded, Unsupported, or CloudUnavailable (a fault or a busy file)."""
        self._throttle()
        at = self._clock.now()
        with self._file.writing():
            if self._file.used(token):
                return Receipt(action.id, already=True, detail="this token was used")
            before = self._found(pool, at)
            self._check_target(action, before)
            if holds(action, before):
                return Receipt(action.id, already=True, detail="it is so already")
            _check_expected(action, before)
            _check_quota(action, pool)
            if self._hits("lazy", token):
                return Receipt(action.id, already=False, detail="accepted")
            self._file.save(effect(action, before, at, self._ready(pool, at, token)))
            self._file.accept(token, action, at)
        if self._hits("ambiguous", token):
            raise CloudUnavailable("the connection was reset before the answer", ambiguous=True, retry_after=0.0)
        return Receipt(action.id, already=False, detail="accepted")

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._file.close()

    def _found(self, pool: Pool, at: int) -> SimPool:
        """The pool, created when it was never mentioned; inside ``writing``. Raises NotFound when it was removed."""
        found = self._file.pool(pool.name)
        if found is None:
            found = grown(SimPool(pool.name, int(pool.startup_s * 1000)), max(pool.min, 1), at, lambda: at)
            self._file.save(found)
        return _there(found)

    def _ready(self, pool: Pool, at: int, token: str) -> Ready:
        serves, ordinals = at + int(pool.startup_s * 1000), count()
        return lambda: NEVER if self._hits("stuck", f"{token}/{next(ordinals)}") else serves

    def _check_target(self, action: Action, pool: SimPool) -> None:
        if action.replica and action.kind is not Kind.NOTIFY and not pool.named(action.replica):
            raise NotFound(f"pool '{pool.name}' has no replica '{action.replica}'; it may have been replaced: observe again")

    def _throttle(self) -> None:
        if self._calls.random() < self._faults.throttle:
            raise CloudUnavailable("too many requests", retry_after=self._faults.retry_after)

    def _hits(self, fault: str, what: str) -> bool:
        share = float(getattr(self._faults, fault))
        return share > 0 and int(digest(self._seed, fault, what)[:8], 16) < share * 0x1_0000_0000


open_cloud = SimCloud


def _there(pool: SimPool) -> SimPool:
    if pool.removed_at:
        raise NotFound(f"pool '{pool.name}' was removed from the sim cloud; take it out of `fleet.workloads` or provision it")
    return pool


def _check_expected(action: Action, pool: SimPool) -> None:
    found = len(pool.replicas) if action.kind is Kind.SCALE else f"v{pool.version}"
    if action.kind is not Kind.NOTIFY and found != action.expected:
        raise Conflict(f"{action.target}: expected {action.expected}, found {found}; observe and plan again")


def _check_quota(action: Action, pool: Pool) -> None:
    if action.kind is Kind.SCALE and replicas_wanted(action) > pool.quota:
        raise QuotaExceeded(
            f"{pool.name}: {action.desired} replicas asked for, the quota is {pool.quota}; raise it or the price"
        )
