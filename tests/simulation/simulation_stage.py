"""A stage for one scene: a calm world in which one plan is carried out, and something happens in the middle of it.

Brakes are taken away where the production code meets them: a guard from the judge's order, a port's answer from a
controller, an index from the database, a rule from the cloud. The promises are checked by the simulation's own checks.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from simulation_faults import WiredCloud, WiredStore
from simulation_run import SHM, World
from simulation_world import HISTORY, settings, stock, tick

from forecastle.act.executor import Executor
from forecastle.clouds import sim as sim_cloud
from forecastle.clouds.sim_file import SimFile
from forecastle.errors import CloudUnavailable, Conflict
from forecastle.guards import judge as bench
from forecastle.guards.context import View
from forecastle.ledger import intentions
from forecastle.types import Action, Kind, Mode, Outcome, Plan, Receipt, Recommendation

NOW = tick(HISTORY + 1)


class Interrupted(WiredStore):
    """The ledger with a hole in it: ``missing`` answers are replaced, and ``then`` happens once before a call of ``at``."""

    def __init__(self, ledger: Any, who: str, stage: Stage) -> None:
        super().__init__(ledger, who, stage.world.weather)
        self._stage = stage
        self.at = ""
        self.then: Callable[[], None] = lambda: None

    def __getattr__(self, name: str) -> Any:
        found = super().__getattr__(name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if name == self.at:
                self.at = ""
                self.then()
            if name == "lease_all" and "lease" in self._stage.without:
                for target in args[0]:
                    self._stage.rewrite("update leases set expires_at = 0 where target = ?", target)
            if name in ANSWERS and f"answer {name}" in self._stage.without:
                return ANSWERS[name]
            return found(*args, **kwargs)

        self.__dict__[name] = call
        return call


ANSWERS: dict[str, Any] = {"killed": "", "held": "", "fenced": False, "approved": True, "take": "", "endings": {}}
"""What a store says that has stopped looking."""


@dataclass
class Actor:
    """One controller's executor and its ports."""

    store: Interrupted
    cloud: WiredCloud
    act: Executor


@dataclass
class Stage:
    """The scene's world and its two actors; ``without`` names the brakes that are taken away."""

    without: frozenset[str]
    folder: Path
    actors: dict[str, Actor] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.world = World(0, self.folder)
        self.world.kinds, self.world.weather.kinds = frozenset(), frozenset()
        self.world.choice = (0, "auto", None)
        self.world.settings, self.world.stock = settings(*self.world.choice), stock(self.world.choice)
        self.world.operator.modes = dict.fromkeys(self.world.stock.workloads, Mode.AUTO)
        self.world.clock.at = NOW + 5_000
        self.world.demand.rng = random.Random(0)
        for slot in range(HISTORY + 8):
            self.world.demand.write(slot, quiet=True)
        for name in self.world.stock.pools:
            self.world.truth.world.provision(self.world.stock.pools[name], 0 if name == "shop-zrh" else 12, NOW - 600_000)
        for who in ("a", "b"):
            self._enter(who)
        self.world.checks.controllers = list(self.actors.values())  # type: ignore[arg-type]
        if "index one_in_flight" in self.without:
            self.rewrite("drop index one_in_flight")

    def _enter(self, who: str) -> None:
        world, store = self.world, Interrupted(self.world.ledger, who, self)
        cloud = WiredCloud(world.truth, who, world.weather)
        found = world.settings
        act = Executor(
            store,
            store,
            {"sim": cloud},
            world.stock,
            act=found.act,
            guards=found.guards,
            clock=world.clock,
            holder=who,
            sleep=world.clock.sleep,
        )
        self.actors[who] = Actor(store, cloud, act)
        self.actors[who].name = who  # type: ignore[attr-defined]

    def rewrite(self, statement: str, *values: object) -> None:
        """Change the database behind everybody's back, whoever is in a transaction."""
        with self.world.ledger.writing() as entries:
            entries.conn.exec_driver_sql(statement, values)

    def remember(self, replicas: int, workload: str = "shop") -> None:
        """So many replicas were wanted for the last ten minutes."""
        past = [Recommendation(workload, NOW - i * 30_000, replicas) for i in range(20, 0, -1)]
        for one in past:
            empty = replace(plan((), one.at), recommended={workload: one.replicas})
            self.world.ledger.record(one.at, f"past-{workload}", [empty])

    def plan(self, *actions: Action, **changes: Any) -> Plan:
        """Record a plan of ``actions`` as a tick of its own, as the loop does before it executes one."""
        made = plan(actions, actions[0].tick, **changes)
        self.world.ledger.record(made.tick, f"scene-{made.id}", [made])
        return made

    def execute(self, who: str, made: Plan) -> tuple[Outcome, ...]:
        """Let ``who`` carry out the plan. Where nothing else is left to stop it, the database's own no ends it."""
        try:
            done = self.actors[who].act.execute(made, None)
        except Conflict:
            done = ()
        self.outcomes += done
        self.world.checks.step()
        return done

    def when(self, who: str, call: str, then: Callable[[], Any]) -> None:
        """Before the next ``call`` of ``who`` to its store, let ``then`` happen."""
        self.actors[who].store.at, self.actors[who].store.then = call, lambda: (then(), None)[1]

    def lose_the_answer(self, who: str) -> None:
        """The next effect of ``who`` happens and nobody hears of it."""
        cloud, apply = self.actors[who].cloud, self.actors[who].cloud.apply

        def lost(*args: Any, **kwargs: Any) -> Receipt:
            cloud.apply = apply  # type: ignore[method-assign]
            apply(*args, **kwargs)
            raise CloudUnavailable("connection reset", ambiguous=True, retry_after=0.0)

        cloud.apply = lost  # type: ignore[method-assign]

    @property
    def broken(self) -> list[str]:
        """Promises broken so far."""
        return self.world.checks.broken


def scale(desired: int, expected: int = 12, pool: str = "shop-fra", at: int = NOW, **changes: Any) -> Action:
    """A scaling decided at ``at``."""
    return replace(Action(Kind.SCALE, pool.partition("-")[0], pool, desired, expected, at, at + 150_000), **changes)


def heal(kind: Kind = Kind.RESTART, pool: str = "shop-fra", at: int = NOW, **changes: Any) -> Action:
    """A restart that two signals ask for; class A, so that it needs nobody."""
    desired: str | int = 0 if kind is Kind.DRAIN else str(at)
    plain = Action(kind, pool.partition("-")[0], pool, desired, "v1", at, at + 150_000, signals=2, approval="A")
    return replace(plain, **changes)


def plan(actions: Sequence[Action], at: int, *, wanted: int = 30, floor: int = 0, people: int = 0, **view: Any) -> Plan:
    """A plan whose evidence says that ``wanted`` replicas are wanted, on fresh and trusted data unless ``view`` differs."""
    evidence = {a.workload: replace(View(floor, wanted, 1, late=False), **view).as_evidence() for a in actions}
    domain = {"fra": "aws/eu-central-1/a", "ams": "gcp/europe-west4/b", "zrh": "own/zurich/"}
    where = domain[actions[0].pool.rpartition("-")[2]] if actions else ""
    name = "-".join(["p", str(at), *(a.id[:8] for a in actions)])
    return Plan(name, at, where, tuple(actions), "scene", evidence, (), {}, 0.0, at + 150_000, people)


@contextmanager
def staged(without: frozenset[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """A stage on which these brakes are missing."""
    folder = Path(tempfile.mkdtemp(prefix="stage-", dir=SHM if SHM.is_dir() else None))
    with monkeypatch.context() as patch:
        patch.setattr(bench, "ORDER", tuple(g for g in bench.ORDER if f"guard {g.__name__}" not in without))
        if "token" in without:
            patch.setattr(SimFile, "used", lambda _self, _token: False)
            patch.setattr(SimFile, "accept", lambda *_args: None)
        if "conditional write" in without:
            patch.setattr(sim_cloud, "_check_expected", lambda *_args: None)
        if "look one_in_flight" in without:
            known = intentions._known
            patch.setattr(intentions, "_known", lambda *args: (known(*args)[0], {}))
        if "absolute" in without:
            patch.setattr(sim_cloud, "holds", lambda *_args: False)
        stage = Stage(without, folder)
        try:
            yield stage
        finally:
            stage.world.close()
            shutil.rmtree(folder, ignore_errors=True)
