"""A cloud that does what a script says and forgives nothing, and everything around it that an executor needs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from forecastle.act.executor import Executor
from forecastle.errors import Conflict, NotFound
from forecastle.guards.context import View
from forecastle.ledger.store import SqlLedger
from forecastle.runtime.clocks import EventClock
from forecastle.settings import ActSettings, GuardSettings, LedgerSettings
from forecastle.types import (
    Action,
    Change,
    Demand,
    Inventory,
    Kind,
    Mode,
    Observed,
    Outcome,
    Plan,
    Pool,
    Receipt,
    SeriesKey,
    Site,
    Workload,
)

MINUTE = 60_000
START = 1_760_000_040_000
FRA = "aws/eu-central-1/"


@dataclass(frozen=True)
class Step:
    """One scripted answer of `FakeCloud.apply`: an ``error`` before or ``after`` the effect, or an effect of its own."""

    error: BaseException | None = None
    after: bool = False
    effect: bool = True
    replicas: int | None = None
    receipt: Receipt | None = None


class BrokenPromise(BaseException):
    """The executor did what it must never do. No Exception: those of a cloud are taken for its own trouble."""


class FakeCloud:
    """Keeps the plug's contract to the letter, except where ``script`` says otherwise; fails the test on a second effect."""

    name = "fake"

    def __init__(self, clock: EventClock) -> None:
        self.capabilities = frozenset(Kind) - {Kind.SHIFT, Kind.NOTIFY}
        self.clock = clock
        self.state: dict[str, Observed] = {}
        self.orders: list[tuple[str, str]] = []
        self.applied = 0
        self.script: deque[Step] = deque()
        self.watching: Callable[[], None] = lambda: None
        self.delay = 0  # observations until an effect shows
        self._shown: dict[str, list[Observed]] = {}

    def observe(self, pool: Pool) -> Observed:
        self.watching()
        if pool.name not in self.state:
            raise NotFound(pool.name)
        late = self._shown.get(pool.name)
        return replace(late.pop(0) if late else self.state[pool.name], at=self.clock.now())

    def preview(self, action: Action, observed: Observed) -> Change:
        return Change(action.id, str(observed.replicas), str(action.desired), observed.replicas == action.desired)

    def apply(self, action: Action, pool: Pool, *, token: str) -> Receipt:
        self.applied += 1
        step = self.script.popleft() if self.script else Step()
        if step.error is not None and not step.after:
            if step.replicas is not None:
                self._change(pool.name, replicas=step.replicas)
            raise step.error
        receipt = step.receipt or (self._effect(action, pool, token, step) if step.effect else Receipt(action.id, False))
        if step.error is not None:
            raise step.error
        return receipt

    def _effect(self, action: Action, pool: Pool, token: str, step: Step) -> Receipt:
        before = self.state[pool.name]
        if token in {used for used, _ in self.orders} or (action.kind is Kind.SCALE and before.replicas == action.desired):
            return Receipt(action.id, already=True)
        if (before.replicas if action.kind is Kind.SCALE else before.version) != action.expected:
            raise Conflict(f"expected {action.expected}, found {before.replicas} at {before.version}")
        if token != action.id:
            raise BrokenPromise(f"the token {token} is not the action's id")
        if self.clock.now() > action.deadline:
            raise BrokenPromise("an effect after its deadline")
        self.orders.append((token, pool.name))
        wanted = step.replicas if step.replicas is not None else action.desired if action.kind is Kind.SCALE else None
        self._change(pool.name, replicas=before.replicas if wanted is None else int(wanted))
        self._shown[pool.name] = [before] * self.delay
        return Receipt(action.id, already=False)

    def _change(self, pool: str, *, replicas: int) -> None:
        number = int(self.state[pool].version[1:]) + 1
        self.state[pool] = Observed(pool, replicas, replicas, self.clock.now(), f"v{number}")

    def someone_else(self, pool: str, replicas: int) -> None:
        """A human edits."""
        self._change(pool, replicas=replicas)

    def close(self) -> None:
        pass


def stock(mode: Mode = Mode.AUTO, *, most: int = 20) -> Inventory:
    sites = {"fra": Site("fra", "aws", "eu-central-1"), "ams": Site("ams", "gcp", "europe-west4")}
    pools = {f"shop-{site}": Pool(f"shop-{site}", "shop", site, "fake", 0.1, min=1, max=most) for site in sites}
    demand = Demand(SeriesKey("shop", "requests_per_second"), 40.0)
    return Inventory(sites, pools, {"shop": Workload("shop", (demand,), tuple(pools), mode=mode)})


class World:
    """What outlives an executor: cloud, ledger, clock; and the sleeps that were asked for."""

    def __init__(self) -> None:
        self.clock = EventClock(START)
        self.cloud = FakeCloud(self.clock)
        for pool in ("shop-fra", "shop-ams"):
            self.cloud.state[pool] = Observed(pool, 3, 3, START, "v1")
        self.ledger = SqlLedger(LedgerSettings(url="sqlite://", kill_file=""), self.clock)
        self.inventory = stock()
        self.guards = GuardSettings()
        self.act = ActSettings(verify_s=1.0, attempts=3)
        self.parallel: dict[str, int] = {}
        self.sleeps: list[float] = []
        self.on_sleep: Callable[[], None] = lambda: None

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_: object) -> None:
        self.ledger.verify()
        self.ledger.close()

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.on_sleep()

    def executor(self, holder: str = "w", *, ledger: Any = None, cloud: Any = None) -> Executor:
        book = ledger or self.ledger
        return Executor(
            book,
            book,
            {"fake": cloud or self.cloud},
            self.inventory,
            act=self.act,
            guards=self.guards,
            clock=self.clock,
            holder=holder,
            sleep=self.sleep,
            uniform=lambda: 0.0,
            parallel=self.parallel,
        )

    def run(self, plan: Plan) -> Outcome:
        """The outcome of a plan with one action."""
        (outcome,) = self.executor().execute(plan, None)
        return outcome


def scale(pool: str = "shop-fra", desired: int = 5, expected: int = 3, tick: int = START, **rest: Any) -> Action:
    values = {"kind": Kind.SCALE, "deadline": tick + 5 * MINUTE} | rest
    return Action(workload="shop", pool=pool, desired=desired, expected=expected, tick=tick, **values)


def restart(pool: str = "shop-fra", tick: int = START, **rest: Any) -> Action:
    values = {"kind": Kind.RESTART, "signals": 2, "approval": "A", "deadline": tick + 5 * MINUTE} | rest
    return Action(workload="shop", pool=pool, desired="g1", expected="v1", tick=tick, **values)


def plan(*actions: Action, wanted: int = 8, approvals: int = 0, **rest: Any) -> Plan:
    view = View(floor=wanted, wanted=wanted, sources=2, late=False)
    values: dict[str, Any] = {
        "id": f"p-{'-'.join(a.id[:8] for a in actions)}",
        "tick": START,
        "domain": FRA,
        "actions": actions,
        "reason": "more load is coming",
        "evidence": {"shop": view.as_evidence()},
        "refusals": (),
        "recommended": {"shop": wanted},
        "cost": 1.0,
        "expires_at": START + 5 * MINUTE,
        "approvals": approvals,
    }
    return Plan(**(values | rest))
