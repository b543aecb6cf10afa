"""Fault points: every port of a controller is wrapped, and before and after each call something may go wrong.

What goes wrong is drawn from the seed alone, in the order of the calls; hence a seed replays bit for bit.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
from simulation_world import SimClock

from forecastle.clouds.sim import SimCloud
from forecastle.clouds.sim_world import SimWorld
from forecastle.errors import BrokerUnavailable, CloudUnavailable, Permanent, StoreUnavailable
from forecastle.ports import Intake
from forecastle.types import Action, Change, Kind, Observed, Pool, Progress, Receipt, Samples

KINDS = ("crash", "pause", "store", "broker", "throttle", "timeout", "delay", "lie", "partial", "stale", "blind")
SHARES = {
    "crash": 0.003,
    "pause": 0.05,
    "store": 0.02,
    "broker": 0.05,
    "throttle": 0.15,
    "timeout": 0.3,
    "delay": 0.15,
    "lie": 0.2,
    "partial": 0.2,
    "stale": 0.12,
    "blind": 0.04,
}
PAUSES_BEFORE = frozenset({"ended", "unfinished", "lease", "take", "intend", "fenced", "conclude", "together"})
"""Where a controller may be stopped while others go on. Between the last check and the effect nothing can help but the
conditional write, so `Truth` has its own fault for a request that waits there."""


AROUND = (".intend", ".together", ".apply", ".conclude")


class Crash(BaseException):
    """The process is gone, at once: no handler of it runs."""


@dataclass
class Weather:
    """This seed's faults: which kinds there are, and whether they are on."""

    rng: random.Random
    kinds: frozenset[str]
    clock: SimClock
    sometimes: Counter[str]
    quiet: bool = False
    paused: bool = False
    meanwhile: Callable[[str], None] = lambda _who: None
    trace: Any = field(default_factory=hashlib.sha256)
    calls: int = 0

    def strikes(self, kind: str) -> bool:
        """Whether a fault of ``kind`` happens here."""
        return not self.quiet and kind in self.kinds and self.rng.random() < SHARES[kind]

    def note(self, *what: object) -> None:
        """One more line of the trace."""
        self.calls += 1
        self.trace.update("\x1f".join(map(str, what)).encode() + b"\n")

    def crash(self, where: str, *, begun: bool) -> None:
        """Die here, perhaps; around an effect ten times as likely as elsewhere."""
        if any(self.strikes("crash") for _ in range(10 if where.endswith(AROUND) else 1)):
            self.sometimes["crash"] += 1
            if where.endswith(".apply") and begun:
                self.sometimes["crash between effect and record"] += 1
            self.note("crash", where, begun)
            raise Crash(where)

    def stop_here(self, who: str, method: str) -> None:
        """Be stopped for longer than a lease, perhaps, while the others go on; most often right before an effect."""
        if method not in PAUSES_BEFORE or self.paused:
            return
        if any(self.strikes("pause") for _ in range(6 if method == "fenced" else 1)):
            self.sometimes["a controller stopped"] += 1
            if method == "fenced":
                self.sometimes["a controller stopped between intent and effect"] += 1
            self.note("pause", who, method)
            self.paused = True
            try:
                self.clock.sleep(self.rng.choice((5, 45, 45, 160)))
                self.meanwhile(who)
            finally:
                self.paused = False


class WiredStore:
    """The ledger as one controller reaches it. ``epochs`` remembers what it was leased, for the checks."""

    def __init__(self, ledger: Any, who: str, weather: Weather) -> None:
        self._ledger = ledger
        self._who = who
        self._weather = weather
        self.epochs: dict[str, int] = {}
        self._grouping = False
        self._intended = False

    @contextmanager
    def together(self) -> Iterator[None]:
        """A transaction of several calls. Who is stopped inside holds the write lock, so nobody else goes on meanwhile."""
        weather, where = self._weather, f"{self._who}.together"
        weather.crash(where, begun=False)
        weather.stop_here(self._who, "together")
        with self._ledger.together():
            self._grouping, self._intended = True, False
            try:
                yield
            finally:
                self._grouping = False
        weather.note(where)
        try:
            weather.crash(where, begun=True)
        except Crash:
            weather.sometimes["crash between intent and effect"] += self._intended
            raise
        if weather.strikes("store"):
            weather.sometimes["store answered too late"] += 1
            raise StoreUnavailable("the transaction may have happened")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        found, weather, who = getattr(self._ledger, name), self._weather, self._who

        def call(*args: Any, **kwargs: Any) -> Any:
            weather.crash(f"{who}.{name}", begun=False)
            if not self._grouping:
                weather.stop_here(who, name)
            if weather.strikes("store"):
                weather.sometimes["store down"] += 1
                raise StoreUnavailable(f"{name} did not happen")
            try:
                result = found(*args, **kwargs)
            except Exception as error:
                weather.note(who, name, type(error).__name__, error)
                raise
            weather.note(who, name, _short(result))
            self._intended |= name in {"intend", "intend_all"}
            if name == "lease":
                self.epochs[args[0]] = result
            if name == "lease_all":
                self.epochs |= {target: epoch for target, epoch in result.items() if isinstance(epoch, int)}
            if name == "lease_all":
                self.epochs |= {target: epoch for target, epoch in result.items() if isinstance(epoch, int)}
            weather.crash(f"{who}.{name}", begun=True)
            if weather.strikes("store"):
                weather.sometimes["store answered too late"] += 1
                raise StoreUnavailable(f"{name} may have happened")
            return result

        self.__dict__[name] = call
        return call


def _short(result: object) -> str:
    """A result in a few characters that depend on what it holds, not on the order in which sets happen to iterate."""
    if hasattr(result, "__enter__"):
        return "context"
    if isinstance(result, (str, int, bool)):
        return str(result)
    return hashlib.sha256(msgspec.json.encode(result, enc_hook=repr, order="deterministic")).hexdigest()[:16]


class WiredIntake:
    """The log as one controller reads it."""

    def __init__(self, intake: Intake, who: str, weather: Weather) -> None:
        self._intake = intake
        self._who = who
        self._weather = weather

    def start(self, look_back_ms: int, resume_at: int | None = None) -> None:
        self._fails("start")
        self._intake.start(look_back_ms, resume_at)

    def poll(self, timeout_s: float = 1.0) -> Samples:
        self._fails("poll")
        samples = self._intake.poll(timeout_s)
        self._weather.crash(f"{self._who}.poll", begun=True)
        return samples

    def commit(self) -> None:
        self._fails("commit")
        self._intake.commit()
        self._weather.crash(f"{self._who}.commit", begun=True)

    def progress(self) -> Progress:
        return self._intake.progress()

    def close(self) -> None:
        self._intake.close()

    def _fails(self, method: str) -> None:
        self._weather.crash(f"{self._who}.{method}", begun=False)
        if self._weather.strikes("broker"):
            self._weather.sometimes["broker down"] += 1
            raise BrokerUnavailable(f"{method} failed")


@dataclass(frozen=True)
class Effect:
    """Something the cloud really did because it was told to, at ``at`` (ms): the pool's replicas before and after it."""

    who: str
    action: Action
    token: str
    at: int
    before: int
    after: int
    late: bool = False


@dataclass
class Truth:
    """What really happened in the cloud. ``watch`` is called with each effect the moment it has happened."""

    cloud: SimCloud
    world: SimWorld
    clock: SimClock
    watch: Callable[[Effect], None] = lambda _effect: None
    effects: list[Effect] = field(default_factory=list)
    under_way: list[tuple[int, str, Action, Pool]] = field(default_factory=list)

    def replicas(self, pool: str) -> int:
        """Replicas that are ordered, whatever anybody says."""
        state = self.world.states(self.clock.now()).get(pool)
        return state.ordered if state else 0

    def apply(self, who: str, action: Action, told: Action, pool: Pool, token: str, *, late: bool = False) -> Receipt:
        """Do what was ``told`` of ``action``, and write down what came of it."""
        before = self.replicas(pool.name)
        receipt = self.cloud.apply(told, pool, token=token)
        if not receipt.already:
            self.effects.append(Effect(who, action, token, self.clock.now(), before, self.replicas(pool.name), late))
            self.watch(self.effects[-1])
        return receipt

    def arrive(self) -> list[str]:
        """Requests that were under way land now; what became of each."""
        landed = []
        for entry in [entry for entry in self.under_way if entry[0] <= self.clock.now()]:
            self.under_way.remove(entry)
            _, who, action, pool = entry
            try:
                landed.append("already" if self.apply(who, action, action, pool, action.id, late=True).already else "done")
            except Permanent as error:
                landed.append(type(error).__name__)
        return landed


class WiredCloud:
    """The cloud as one controller reaches it. ``told`` is what it was last told of each pool."""

    name = "sim"
    capabilities = frozenset(Kind)

    def __init__(self, truth: Truth, who: str, weather: Weather) -> None:
        self._truth = truth
        self._who = who
        self._weather = weather
        self.told: dict[str, Observed] = {}

    def observe(self, pool: Pool) -> Observed:
        weather = self._weather
        weather.crash(f"{self._who}.observe", begun=False)
        if weather.strikes("blind"):
            weather.sometimes["a pool not observed"] += 1
            self.told.pop(pool.name, None)
            raise CloudUnavailable("503", retry_after=0.0)
        if pool.name in self.told and weather.strikes("stale"):
            weather.sometimes["a stale read"] += 1
            return self.told[pool.name]
        seen = self._truth.cloud.observe(pool)
        self.told[pool.name] = seen
        weather.note(self._who, "observe", seen.replicas, seen.ready, seen.version, *seen.unhealthy)
        return seen

    def preview(self, action: Action, observed: Observed) -> Change:
        return self._truth.cloud.preview(action, observed)

    def apply(self, action: Action, pool: Pool, *, token: str) -> Receipt:
        weather, where = self._weather, f"{self._who}.apply"
        weather.crash(where, begun=False)
        if weather.strikes("throttle"):
            weather.sometimes["throttled effect"] += 1
            raise CloudUnavailable("429", retry_after=weather.rng.choice((0.5, 3.0, 30.0)))
        if weather.strikes("timeout") and weather.rng.random() < 0.5:
            weather.sometimes["an effect lost on its way"] += 1
            raise CloudUnavailable("timed out", ambiguous=True, retry_after=0.2)
        if weather.strikes("delay"):
            weather.sometimes["a request under way for long"] += 1
            due = self._truth.clock.now() + weather.rng.choice((1_000, 30_000, 90_000, 300_000))
            self._truth.under_way.append((due, self._who, action, pool))
            raise CloudUnavailable("timed out", ambiguous=True, retry_after=0.2)
        if weather.strikes("lie"):
            weather.sometimes["a success that was none"] += 1
            return Receipt(action.id, already=False, detail="done")
        told = action
        if action.kind is Kind.SCALE and weather.strikes("partial"):
            now = self._truth.replicas(pool.name)
            part = now + round((int(action.desired) - now) * weather.rng.random())
            told = replace(action, desired=part)
            if part not in (now, action.desired):
                weather.sometimes["a partial success"] += 1
        receipt = self._truth.apply(self._who, action, told, pool, token)
        weather.note(self._who, "apply", action.target, action.desired, receipt.already)
        weather.crash(where, begun=True)
        if weather.strikes("timeout"):
            weather.sometimes["an answer lost on its way"] += 1
            raise CloudUnavailable("connection reset", ambiguous=True, retry_after=0.2)
        return receipt

    def close(self) -> None:
        """The truth is shared."""
