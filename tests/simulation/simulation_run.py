"""One seed, played to its end: controllers that run the production code, in a world where everything may go wrong."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from simulation_checks import Checks
from simulation_faults import KINDS, Crash, Truth, Weather, WiredCloud, WiredIntake, WiredStore
from simulation_minds import Brain, Mind
from simulation_people import Attacker, Operator
from simulation_world import HISTORY, PLAY, TICKS, Demand, Log, SimClock, settings, stock, tick

from forecastle.act.executor import Executor
from forecastle.clouds.sim import SimCloud
from forecastle.clouds.sim_world import SimWorld
from forecastle.decide.planner import decide
from forecastle.detect.incidents import IncidentBook
from forecastle.errors import Transient
from forecastle.intake.memory import MemoryIntake
from forecastle.ledger.chain import Witness
from forecastle.ledger.schema import metadata
from forecastle.ledger.store import SqlLedger
from forecastle.runtime.loop import Loop, Rooms
from forecastle.runtime.wiring import memory_ticks
from forecastle.settings import LedgerSettings
from forecastle.window.store import WindowStore

DATA_FAULTS = ("gap", "forged", "duplicate", "reorder", "late", "garbage")
WORLD_FAULTS = ("edits", "sickness", "outage")
PEOPLE = ("kill", "holds", "modes", "approvals", "attacker")
TRIES = 4
SHM = Path("/dev/shm")


@dataclass
class Run:
    """What came of a seed: the digest of its trace, what was reached and which promises were broken."""

    seed: int
    digest: str
    sometimes: Counter[str]
    broken: list[str]
    effects: int


class World:
    """Everything that outlives a controller."""

    def __init__(self, seed: int, folder: Path) -> None:
        rng = random.Random(seed)
        every = (*KINDS, *DATA_FAULTS, *WORLD_FAULTS, *PEOPLE)
        self.kinds = frozenset(kind for kind in every if rng.random() < rng.choice((0.15, 0.4, 0.7)))
        self.choice = rng.randrange(5), rng.choice(("auto", "auto", "advise", "shadow")), rng.choice((None,) * 9 + (2.5,))
        self.settings, self.stock = settings(*self.choice), stock(self.choice)
        self.rng, self.sometimes = rng, Counter[str]()
        self.clock = SimClock(tick(0))
        self.log = Log()
        self.demand = Demand(rng, self.kinds, self.log, self.sometimes)
        self.weather = Weather(rng, self.kinds, self.clock, self.sometimes)
        book = LedgerSettings(url="sqlite://", witness=str(folder / "witness"), kill_file="")
        self.ledger = lent(book, self.clock)
        sim = str(folder / "sim.db")
        self.truth = Truth(SimCloud(clock=self.clock, path=sim), SimWorld(sim), self.clock)
        self.brain = Brain(self.settings, self.clock)
        self.checks = Checks(self)
        self.truth.watch = self.checks.effect
        self.operator, self.attacker = Operator(self), Attacker(self)

    def close(self) -> None:
        self.truth.cloud.close()
        self.truth.world.close()
        _SHELF.append(self.ledger)


_SHELF: list[SqlLedger] = []
"""Ledgers in memory that earlier runs of this process are done with: what they have compiled need not be compiled again."""


def lent(book: LedgerSettings, clock: SimClock) -> SqlLedger:
    """An empty ledger."""
    if not _SHELF:
        return SqlLedger(book, clock)
    ledger = _SHELF.pop()
    ledger.settings, ledger.clock, ledger.witness = book, clock, Witness(book.witness)
    with ledger.database.write() as conn:
        for table in metadata.sorted_tables:
            conn.exec_driver_sql(f"delete from {table.name}")
        conn.exec_driver_sql("create unique index if not exists one_in_flight on intents (target) where state = 'open'")
    return ledger


class Controller:
    """One worker process: built anew after each crash, with the ports of its name."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.alive = False
        self.busy = False

    def start(self) -> None:
        """A new process. It knows nothing but its configuration."""
        world, found = self.world, self.world.settings
        self.store = WiredStore(world.ledger, self.name, world.weather)
        self.cloud = WiredCloud(world.truth, self.name, world.weather)
        self.memory = MemoryIntake(world.log.reader(), world.clock, found.intake, per_poll=world.rng.choice((7, 50, 400)))
        self.windows = WindowStore(found.window, world.clock.monotonic)
        self.act = Executor(
            self.store,
            self.store,
            {"sim": self.cloud},
            world.stock,
            act=found.act,
            guards=found.guards,
            clock=world.clock,
            holder=self.name,
            sleep=world.clock.sleep,
        )
        mind = Mind(world.brain)
        rooms = Rooms(
            intake=WiredIntake(self.memory, self.name, world.weather),
            store=self.windows,
            predictor=mind,
            detection=mind,
            group=IncidentBook(found.detect, world.stock.workloads).update,
            decide=partial(decide, inventory=world.stock, settings=found.decide, guards=found.guards),
            execute=self.act.execute,
            ledger=self.store,
            clouds={"sim": self.cloud},
            clock=world.clock,  # type: ignore[arg-type]
            inventory=world.stock,
            recover=self.act.recover,
        )
        self.loop = Loop(rooms, self.name, 60_000, found.runtime.not_before, memory_ticks(found), "f")
        self.loop.listeners.append(partial(world.checks.turned, self))
        self.resumed = False
        self.alive = True

    def _work(self) -> None:
        if not self.resumed:
            self.loop.resume()
            self.resumed = True
        while self.loop.turn(0.0):
            pass

    def turn(self) -> None:
        """Read everything there is, as a worker does: what is Transient is tried again, a crash is the end of this process."""
        if self.busy:
            return None
        self.busy = True
        if not self.alive:
            self.start()
        try:
            for _ in range(TRIES):
                try:
                    return self._work()
                except Transient as error:
                    self.world.clock.sleep(min(error.retry_after, 5.0))
        except Crash:
            self.alive = False
        except Exception as error:  # noqa: BLE001 - whatever a controller dies of must be a finding, not the end of the run
            self.world.checks.broke("a controller never dies of an error", f"{self.name}: {type(error).__name__}: {error}")
            self.alive = False
        finally:
            self.busy = False

    def heal(self) -> None:
        """What the heal flow does: carry out plans that people have approved since, and end what others left open."""
        if self.busy or not self.alive:
            return
        self.busy = True
        try:
            self.act.recover()
            for plan in self.world.ledger.recent_plans(12):
                if plan.approvals and plan.expires_at > self.world.clock.now() and self.store.approved(plan):
                    self.world.sometimes["an approved plan carried out"] += bool(self.act.execute(plan, None))
        except Transient:
            pass
        except Crash:
            self.alive = False
        finally:
            self.busy = False


def play(seed: int) -> Run:
    """Play ``seed``. Deterministic: the same seed gives the same digest in any process."""
    folder = Path(tempfile.mkdtemp(prefix="simulation-", dir=SHM if SHM.is_dir() else None))
    try:
        world = World(seed, folder)
        try:
            return _play(seed, world)
        finally:
            world.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _play(seed: int, world: World) -> Run:
    controllers = [Controller(world, "a")]
    if world.rng.random() < 0.5:
        controllers.append(Controller(world, "b"))
    world.checks.controllers = controllers
    world.weather.meanwhile = lambda who: [c.turn() for c in controllers if c.name != who]  # type: ignore[assignment]
    for slot in range(HISTORY):
        world.demand.write(slot, quiet=True)
    for slot in range(HISTORY, TICKS):
        world.weather.quiet = slot >= HISTORY + PLAY
        _step(world, controllers, slot)
    world.checks.liveness()
    return Run(seed, world.weather.trace.hexdigest(), world.sometimes, world.checks.broken, len(world.truth.effects))


def _step(world: World, controllers: list[Controller], slot: int) -> None:
    quiet = world.weather.quiet
    world.clock.at = max(world.clock.at, tick(slot) - 15_000)
    world.demand.write(slot, quiet=quiet)
    for landed in world.truth.arrive():
        world.sometimes[f"a late request: {landed}"] += 1
    if quiet:
        world.operator.calm()
    else:
        _accidents(world)
        world.operator.act()
        world.attacker.act()
    order: list[Any] = [c.turn for c in controllers] + [controllers[0].heal]
    world.rng.shuffle(order)
    for move in order:
        move()
        world.checks.step()


def _accidents(world: World) -> None:
    """What happens to a fleet that nobody ordered."""
    rng, now, side = world.rng, world.clock.now(), world.truth.world
    pools = sorted(side.states(now))
    if not pools:
        return
    if "edits" in world.kinds and rng.random() < 0.1:
        pool = world.stock.pools[rng.choice(pools)]
        side.provision(pool, rng.randrange(max(pool.min, 1), pool.max + 1), now)
        world.sometimes["a human edited a pool"] += 1
    if "sickness" in world.kinds and rng.random() < 0.15:
        name = rng.choice([p for p in pools if p != "shop-zrh"])
        if side.sicken(name, rng.choice((1, 1, 1, 4)), now):
            world.demand.sick.add(name)
            world.sometimes["replicas fell sick"] += 1
    if "outage" in world.kinds and rng.random() < 0.05:
        side.fail_site(["shop-ams"] if "shop-ams" in pools else [], now)
        world.sometimes["a pool stopped serving"] += 1
    for name in sorted(world.demand.sick):
        if not any(r for r in _sick(world, name)):
            world.demand.sick.discard(name)


def _sick(world: World, name: str) -> tuple[str, ...]:
    return world.truth.cloud.observe(world.stock.pools[name]).unhealthy
