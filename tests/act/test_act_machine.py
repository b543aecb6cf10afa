"""Executor, ledger, leases and budgets under any order of events: crashes, rivals, people, time.

A state machine draws the story. What really happened is kept by the cloud and by the model here, never read from the ledger.
The promises of GUARDRAILS that are checked are those about effects: at most one per action, after its durable intent and
before its deadline, under the newest epoch, one in flight per target, within the budgets, none while killed or held.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import Any

from act_worlds import MINUTE, START, BrokenPromise, Step, World, plan, scale
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from forecastle.errors import CloudUnavailable, StoreUnavailable
from forecastle.settings import GuardSettings
from forecastle.types import Action, Kind, Outcome, Plan, Pool, Receipt, Status

POOLS = ("shop-fra", "shop-ams")
WORKERS = ("w1", "w2")
HEALS = 2
DONE = {Status.APPLIED, Status.ALREADY, Status.UNVERIFIED, Status.REFUSED, Status.FAILED, Status.DRY_RUN}


class Crash(BaseException):
    """Kill -9."""


class Dying:
    """The ledger of a worker that dies before or after its n-th call, transactions included."""

    def __init__(self, inner: Any, after: int, error: BaseException) -> None:
        self._inner, self._left, self._error = inner, after, error

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise self._error

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self._count()
            return found(*args, **kwargs)

        return call

    @contextlib.contextmanager
    def together(self) -> Any:
        self._count()
        with self._inner.together():
            yield
        self._count()


class Stories(RuleBasedStateMachine):
    """One world, two workers, people and a clock."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.world.guards = GuardSettings(
            heals_per_domain_h=HEALS,
            cooldown_up_s=1,
            cooldown_down_s=1,
            escalation_attempts=50,
            repeat_symptoms=50,
            step_up_s=1,
        )
        self.tick = 0
        self.plans: list[Plan] = []
        self.effects: list[Action] = []
        self.heals: Counter[str] = Counter()
        self.epochs: dict[str, int] = {}
        self.killed = False
        self.held: set[str] = set()
        self._watch()

    def _watch(self) -> None:
        """Every effect is judged at the moment it happens."""
        cloud, apply = self.world.cloud, self.world.cloud.apply

        def watched(action: Action, pool: Pool, *, token: str) -> Receipt:
            before = len(cloud.orders)
            try:
                return apply(action, pool, token=token)
            finally:
                if len(cloud.orders) > before:
                    try:
                        self._judge(action, token)
                    except AssertionError as error:
                        raise BrokenPromise(str(error)) from error

        cloud.apply = watched  # type: ignore[method-assign]

    def _judge(self, action: Action, token: str) -> None:
        rows = {intent.action.id: intent for intent in self.world.ledger.unfinished()}
        assert token == action.id
        assert action.id not in {done.id for done in self.effects}, "6: at most one effect per action id"
        assert action.id in rows, "7: the intent is durable before the effect"
        assert self.world.clock.now() <= action.deadline, "8: no effect after the deadline"
        assert not self.world.ledger.fenced(action.target, rows[action.id].epoch), "9: the newest epoch alone acts"
        assert [i for i in rows.values() if i.action.target == action.target] == [rows[action.id]], "10: one in flight"
        assert not self.killed, "11: the kill switch means zero effects"
        assert not self.held & {action.workload, action.pool}, "11: a hold means zero effects"
        self.effects.append(action)
        if action.kind is Kind.RESTART:
            self.heals[action.pool] += 1
            assert action.signals >= 2, "13: destructive means two signals"

    # --- what workers do ------------------------------------------------------------------------------------------------

    @rule(pool=st.sampled_from(POOLS), grow=st.integers(1, 2), both=st.booleans(), life_s=st.sampled_from((5, 300)))
    def propose(self, pool: str, grow: int, both: bool, life_s: int) -> None:
        """A plan for one pool or both, from the state as it is."""
        self._next()
        now, wanted = self.world.clock.now(), []
        for name in POOLS if both else (pool,):
            here = self.world.cloud.state[name].replicas
            deadline = now + life_s * 1000
            wanted.append(scale(name, min(20, here + grow), here, self.tick, deadline=deadline))
        self._record(plan(*wanted, wanted=40, tick=self.tick, expires_at=now + life_s * 1000, id=f"p{self.tick}"))

    @rule(pool=st.sampled_from(POOLS), signals=st.sampled_from((1, 2, 2)))
    def propose_heal(self, pool: str, signals: int) -> None:
        self._next()
        now = self.world.clock.now()
        version = self.world.cloud.state[pool].version
        action = Action(
            Kind.RESTART, "shop", pool, f"g{self.tick}", version, self.tick, now + 5 * MINUTE, signals=signals, approval="A"
        )
        self._record(plan(action, wanted=40, tick=self.tick, expires_at=now + 5 * MINUTE, id=f"p{self.tick}"))

    def _next(self) -> None:
        self.tick = max(self.tick + 1, self.world.clock.now())

    def _record(self, wanted: Plan) -> None:
        self.world.ledger.record(self.tick, "w1", [wanted])
        self.plans.append(wanted)

    @precondition(lambda self: self.plans)
    @rule(worker=st.sampled_from(WORKERS), back=st.integers(0, 3))
    def execute(self, worker: str, back: int) -> None:
        """By either worker, the newest plan or one that is older."""
        wanted = self.plans[-1 - min(back, len(self.plans) - 1)]
        outcomes = self.world.executor(worker).execute(wanted, None)
        assert [o.action_id for o in outcomes] == [a.id for a in wanted.actions]
        self._truthful(outcomes)

    @precondition(lambda self: self.plans)
    @rule(worker=st.sampled_from(WORKERS), after=st.integers(0, 24), store=st.booleans())
    def execute_and_die(self, worker: str, after: int, store: bool) -> None:
        """As if the process, or only the database, went away at any call."""
        error: BaseException = StoreUnavailable("gone") if store else Crash()
        dying = Dying(self.world.ledger, after, error)
        with contextlib.suppress(Crash, StoreUnavailable):
            self.world.executor(worker, ledger=dying).execute(self.plans[-1], None)

    @rule(pool=st.sampled_from(POOLS), what=st.sampled_from(("execute", "recover", "kill", "hold", "late")))
    def stopped_between_intent_and_effect(self, pool: str, what: str) -> None:
        """A worker waits to be let in again; meanwhile a rival goes on, a person says stop, or the deadline passes."""
        self.propose(pool, 1, both=False, life_s=5 if what == "late" else 300)
        wanted = self.plans[-1]

        def meanwhile() -> None:
            self.world.on_sleep = lambda: None
            if what == "kill":
                self.kill_switch(on=True)
            elif what == "hold":
                self.hold(pool, on=True)
            elif what == "late":
                self._pass(6)
            else:
                self._pass(61)
                rival = self.world.executor("w2")
                rival.execute(wanted, None) if what == "execute" else rival.recover()

        self.world.cloud.script.appendleft(Step(error=CloudUnavailable("429", retry_after=1.0)))
        self.world.on_sleep = meanwhile
        self._truthful(self.world.executor("w1").execute(wanted, None))
        self.world.on_sleep = lambda: None
        self.world.cloud.script.clear()

    @rule(worker=st.sampled_from(WORKERS))
    def recover(self, worker: str) -> None:
        before = len(self.effects)
        self._truthful(self.world.executor(worker).recover())
        assert len(self.effects) == before, "recovery is no effect"

    def _truthful(self, outcomes: tuple[Outcome, ...]) -> None:
        happened = {action.id for action in self.effects}
        for outcome in outcomes:
            assert outcome.status in DONE
            if outcome.status is Status.APPLIED and outcome.kind is Kind.RESTART:
                continue  # another restart of the pool looks the same; that it happened once is judged at the effect
            assert outcome.status is not Status.APPLIED or outcome.action_id in happened, "16: unknown is not success"

    # --- what the world does --------------------------------------------------------------------------------------------

    @rule(what=st.sampled_from(("throttled", "lost answer", "lost request", "lie")))
    def cloud_trouble(self, what: str) -> None:
        self.world.cloud.script.append(
            {
                "throttled": Step(error=CloudUnavailable("429", retry_after=2.0)),
                "lost answer": Step(error=CloudUnavailable("?", ambiguous=True), after=True),
                "lost request": Step(error=CloudUnavailable("?", ambiguous=True)),
                "lie": Step(effect=False),
            }[what]
        )

    @rule(pool=st.sampled_from(POOLS), replicas=st.integers(2, 8))
    def human_edits(self, pool: str, replicas: int) -> None:
        self.world.cloud.someone_else(pool, replicas)

    @rule(seconds=st.sampled_from((1, 10, 61, 400, 3700)))
    def time_passes(self, seconds: int) -> None:
        self._pass(seconds)

    def _pass(self, seconds: float) -> None:
        self.world.clock.advance(self.world.clock.now() + int(seconds * 1000))

    @rule(on=st.booleans())
    def kill_switch(self, on: bool) -> None:
        self.world.ledger.kill("drill", "ann") if on else self.world.ledger.unkill("ann")
        self.killed = on

    @rule(name=st.sampled_from(("shop", *POOLS)), on=st.booleans())
    def hold(self, name: str, on: bool) -> None:
        if on:
            self.world.ledger.hold(name, "looking", "ann")
            self.held.add(name)
        elif name in self.held:
            self.world.ledger.release(name, "ann")
            self.held.remove(name)

    # --- what always holds ----------------------------------------------------------------------------------------------

    @invariant()
    def the_chain_verifies(self) -> None:
        self.world.ledger.verify()

    @invariant()
    def one_in_flight_and_epochs_grow(self) -> None:
        open_now = self.world.ledger.unfinished()
        assert len({intent.action.target for intent in open_now}) == len(open_now), "10: one in flight per target"
        for intent in open_now:
            assert intent.epoch >= self.epochs.get(intent.action.target, 0), "9: epochs never decrease"
            self.epochs[intent.action.target] = intent.epoch

    @invariant()
    def intents_and_outcomes_alternate(self) -> None:
        for action in self.effects[-3:]:
            kinds = [e.kind for e in reversed(self.world.ledger.history(mentions=action.id, kinds=["intent", "outcome"]))]
            assert kinds.count("intent") == 1
            begun = kinds.index("intent")
            assert kinds[begun:] in (["intent"], ["intent", "outcome"]), "7: one end, after the beginning"
            ended = self.world.ledger.ended(action.id)
            assert (ended is None) is (kinds[-1] == "intent")
            assert ended is None or ended.status in {Status.APPLIED, Status.UNVERIFIED, Status.ALREADY}, "what happened counts"

    @invariant()
    def budgets_hold(self) -> None:
        """So many heals were taken from the bucket as there were intents of heals; it never gave more than it had."""
        hours = 1 + (self.world.clock.now() - START) / 3_600_000
        for pool, count in self.heals.items():
            assert count <= HEALS * hours + 1e-9, f"10: {count} heals of {pool}"

    def teardown(self) -> None:
        """Liveness: with faults off and people away, whatever is open comes to an end without another effect."""
        self.world.cloud.script.clear()
        self._pass(3700)
        before = len(self.effects)
        self.world.executor("w3").recover()
        assert self.world.ledger.unfinished() == (), "every intent ends"
        assert len(self.effects) == before
        self.world.__exit__()


def test_no_story_breaks_a_promise() -> None:
    quick = settings(
        max_examples=30, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    run_state_machine_as_test(Stories, settings=quick)
