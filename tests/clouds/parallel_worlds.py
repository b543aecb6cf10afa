"""Many pools at one provider, and what stands between them and an executor that tells several of them at once."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from forecastle.act.executor import Executor
from forecastle.clouds.layer import Layer
from forecastle.clouds.rate import RateLimited, TokenBucket
from forecastle.guards.context import View
from forecastle.ledger.store import SqlLedger
from forecastle.ports import Cloud
from forecastle.runtime.clocks import EventClock
from forecastle.settings import ActSettings, GuardSettings, LedgerSettings
from forecastle.types import Action, Demand, Inventory, Kind, Mode, Observed, Plan, Pool, Receipt, SeriesKey, Site, Workload

START = 1_760_000_040_000
LANES = 4
BURST, RATE_PER_S = 10, 5.0
Answer = TypeVar("Answer")


class Time:
    """A world's ``clock``, which moves when somebody sleeps; several threads may."""

    def __init__(self, clock: EventClock) -> None:
        self._clock, self._lock, self._ms = clock, threading.Lock(), float(START)

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self._ms += seconds * 1000
            self._clock.advance(int(self._ms))

    def now(self) -> int:
        return int(self._ms)

    def monotonic(self) -> float:
        return self._ms / 1000


@dataclass
class Watch:
    """What passed, and in ``wrong`` what must not have been: an exception would be taken for the adapter's own trouble."""

    time: Time
    ledger: SqlLedger
    together: threading.Barrier = field(default_factory=lambda: threading.Barrier(LANES, timeout=60))
    lock: threading.Lock = field(default_factory=threading.Lock)
    released: list[float] = field(default_factory=list)
    inside: Counter[str] = field(default_factory=Counter)
    met: int = 0
    wrong: list[str] = field(default_factory=list)

    @contextmanager
    def telling(self, action: Action) -> Iterator[None]:
        """One action a target at a time, after its intent; the first of each lane wait until all lanes are there."""
        with self.lock:
            self.inside[action.target] += 1
            if self.inside[action.target] > 1:
                self.wrong.append(f"{action.target} is told twice at once")
            if sum(self.inside.values()) > LANES:
                self.wrong.append("more at once than there are lanes")
            self.met += 1
            meets = self.met <= LANES
        if not self.ledger.unfinished(action.id):
            self.wrong.append(f"{action.target} without an intent")
        try:
            if meets:
                self.together.wait()
        except threading.BrokenBarrierError:
            self.wrong.append("the lanes are not used together")
        try:
            yield
        finally:
            with self.lock:
                self.inside[action.target] -= 1


class Watched(Layer):
    """Outside of the brakes: who is told."""

    def __init__(self, inner: Cloud, watch: Watch) -> None:
        super().__init__(inner)
        self._watch = watch

    def apply(self, action: Action, pool: Pool, *, token: str) -> Receipt:
        with self._watch.telling(action):
            return self.inner.apply(action, pool, token=token)


class Released(Layer):
    """Inside of the brakes: when each request was let through."""

    def __init__(self, inner: Cloud, watch: Watch) -> None:
        super().__init__(inner)
        self._watch = watch

    def _ask(self, operation: str, request: Callable[[], Answer]) -> Answer:
        with self._watch.lock:
            self._watch.released.append(self._watch.time.monotonic())
        return request()


class Fleet:
    """Workloads of one pool each at two adapters of one account, an executor over them, and its ledger in a file."""

    def __init__(self, folder: Path, time: Time, adapters: Sequence[Cloud], pools: Sequence[Pool]) -> None:
        self.time, self.pools = time, {pool.workload: pool for pool in pools}
        self.ledger = SqlLedger(LedgerSettings(url=f"sqlite:///{folder}/ledger.db", kill_file=""), time)
        self.watch = Watch(time, self.ledger)
        bucket = TokenBucket(RATE_PER_S, BURST, time.monotonic)
        self.clouds: Mapping[str, Cloud] = {
            f"{number}": Watched(
                RateLimited(Released(cloud, self.watch), bucket, longest_wait_s=60.0, sleep=time.sleep), self.watch
            )
            for number, cloud in enumerate(adapters)
        }
        loads = {n: Workload(n, (Demand(SeriesKey(n, "rps"), 40.0),), (p.name,), mode=Mode.AUTO) for n, p in self.pools.items()}
        sites = {"here": Site("here", "aws", "eu-central-1")}
        self.inventory = Inventory(sites, {pool.name: pool for pool in pools}, loads)

    def executor(self, holder: str = "w") -> Executor:
        return Executor(
            self.ledger,
            self.ledger,
            self.clouds,
            self.inventory,
            act=ActSettings(verify_s=5.0, attempts=3),
            guards=GuardSettings(),
            clock=self.time,
            holder=holder,
            sleep=self.time.sleep,
            parallel=dict.fromkeys(self.clouds, LANES),
        )

    def plan(self, seen: Mapping[str, Observed]) -> Plan:
        """One replica more in every pool than was ``seen``."""
        tick = self.time.now()
        actions = tuple(
            Action(Kind.SCALE, name, pool.name, seen[name].replicas + 1, seen[name].replicas, tick, tick + 300_000)
            for name, pool in self.pools.items()
        )
        evidence = {
            one.workload: View(int(one.desired), int(one.desired), sources=2, late=False).as_evidence() for one in actions
        }
        recommended = {one.workload: int(one.desired) for one in actions}
        return Plan(f"p{tick}", tick, "here", actions, "more load", evidence, (), recommended, 1.0, tick + 300_000)


class Chance:
    """What goes wrong with the n-th request about a pool: it depends on the seed, the pool and n, not on who else asks."""

    def __init__(self, seed: int, share: float, faults: Sequence[str]) -> None:
        self.share, self._seed, self._faults = share, seed, faults
        self._asked, self._lock = Counter[str](), threading.Lock()

    def of(self, about: str) -> str:
        with self._lock:
            self._asked[about] += 1
            dice = random.Random(f"{self._seed}/{about}/{self._asked[about]}")
        return dice.choice(self._faults) if dice.random() < self.share else ""
