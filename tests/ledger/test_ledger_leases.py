"""Leases, epochs, intents and budgets against a model, on both databases; and two processes that want the same thing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from itertools import count

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from ledger_worlds import HOUR, MINUTE, START, action, outcome

from forecastle.errors import Conflict
from forecastle.ledger.store import SqlLedger
from forecastle.runtime.clocks import EventClock
from forecastle.types import Status

TARGETS = st.sampled_from(("a", "b"))
HOLDERS = st.sampled_from(("w1", "w2"))
_examples = count()


def test_a_lease_excludes_others_until_it_ends(ledger: SqlLedger, clock: EventClock) -> None:
    first = ledger.lease("t", "w1", 60)
    with pytest.raises(Conflict, match="w1"):
        ledger.lease("t", "w2", 60)
    assert not ledger.fenced("t", first)
    clock.advance(START + MINUTE)
    assert ledger.fenced("t", first), "it ran out"
    second = ledger.lease("t", "w2", 60)
    assert second > first
    ledger.hand_back("t", first)
    assert not ledger.fenced("t", second), "a stale holder hands nothing back"
    ledger.hand_back("t", second)
    assert ledger.lease("t", "w1", 60) > second


def test_a_restarted_holder_fences_its_former_self(ledger: SqlLedger) -> None:
    first = ledger.lease("t", "w1", 60)
    second = ledger.lease("t", "w1", 60)
    assert ledger.fenced("t", first)
    assert not ledger.fenced("t", second)
    assert ledger.fenced("never leased", 1)


def test_a_budget_without_a_rule_denies(ledger: SqlLedger) -> None:
    assert ledger.take("heals") == "heals"
    ledger.allow("heals", 0, 0)
    assert ledger.take("heals") == "heals"


def test_budgets_are_taken_together_or_not_at_all(ledger: SqlLedger) -> None:
    ledger.allow("here", 1, 1)
    ledger.allow("fleet", 5, 5)
    assert ledger.take(("here", "fleet")) == ""
    assert ledger.take(("fleet", "here")) == "here"
    assert [ledger.take("fleet") for _ in range(5)] == ["", "", "", "", "fleet"], "the refused take cost nothing"


def test_budgets_refill_with_time_and_survive_a_restart(ledger: SqlLedger, open_ledger, clock: EventClock) -> None:
    ledger.allow("heals", 3, 3)
    assert [ledger.take("heals") for _ in range(4)] == ["", "", "", "heals"]
    again = open_ledger()
    again.allow("heals", 3, 3)
    assert again.take("heals") == "heals"
    clock.advance(START + 20 * MINUTE)
    assert [again.take("heals"), again.take("heals")] == ["", "heals"]
    clock.advance(START + 100 * HOUR)
    assert [again.take("heals") for _ in range(4)] == ["", "", "", "heals"], "never more than its capacity"


def test_a_changed_rule_keeps_what_was_spent(ledger: SqlLedger) -> None:
    ledger.allow("heals", 3, 3)
    ledger.take("heals", 2)
    ledger.allow("heals", 5, 5)
    assert [ledger.take("heals") for _ in range(4)] == ["", "", "", "heals"]
    assert [e.kind for e in ledger.history()] == ["budget", "budget"]


class Coordination(RuleBasedStateMachine):
    """Workers lease, intend and conclude while time passes. The ledger must agree with a few dictionaries."""

    ledger: SqlLedger
    clock: EventClock
    epochs = Bundle("epochs")

    def __init__(self) -> None:
        super().__init__()
        self.prefix = f"x{next(_examples)}-"
        self.leases: dict[str, tuple[str, int, int]] = {}
        self.open: dict[str, tuple[str, int]] = {}
        self.done: dict[str, Status] = {}
        self.tokens: dict[str, float] = {}

    def holds(self, target: str, epoch: int) -> bool:
        held = self.leases.get(target)
        return held is not None and held[1] == epoch and held[2] > self.clock.now()

    @rule(target=epochs, name=TARGETS, holder=HOLDERS, ttl=st.sampled_from((1.0, 60.0)))
    def lease(self, name: str, holder: str, ttl: float) -> tuple[str, int]:
        name, held = self.prefix + name, self.leases.get(self.prefix + name)
        if held is not None and held[0] != holder and held[2] > self.clock.now():
            with pytest.raises(Conflict):
                self.ledger.lease(name, holder, ttl)
            return name, held[1]
        epoch = self.ledger.lease(name, holder, ttl)
        assert epoch > (held[1] if held else 0), "epochs only grow"
        self.leases[name] = (holder, epoch, self.clock.now() + int(ttl * 1000))
        return name, epoch

    @rule(lease=epochs)
    def hand_back(self, lease: tuple[str, int]) -> None:
        self.ledger.hand_back(*lease)
        self.end(*lease)

    def end(self, name: str, epoch: int) -> None:
        holder, newest, _ = self.leases.get(name, ("", 0, 0))
        if newest == epoch:
            self.leases[name] = (holder, newest, 0)

    @rule(lease=epochs, tick=st.integers(0, 2))
    def intend(self, lease: tuple[str, int], tick: int) -> None:
        name, epoch = lease
        wanted = action(pool=name, tick=START + tick * MINUTE)
        busy = [one for one, (where, _) in self.open.items() if where == name and one != wanted.id]
        if not self.holds(name, epoch) or (wanted.id not in self.done and wanted.id not in self.open and busy):
            with pytest.raises(Conflict):
                self.ledger.intend(wanted, epoch=epoch)
            return
        assert self.ledger.intend(wanted, epoch=epoch) is (wanted.id not in self.done)
        if wanted.id not in self.done:
            self.open[wanted.id] = (name, epoch)

    @rule(lease=epochs, tick=st.integers(0, 2), status=st.sampled_from((Status.APPLIED, Status.FAILED)))
    def conclude(self, lease: tuple[str, int], tick: int, status: Status) -> None:
        name, epoch = lease
        wanted = action(pool=name, tick=START + tick * MINUTE)
        self.ledger.conclude(outcome(wanted, status), epoch=epoch)
        if self.open.get(wanted.id) == (name, epoch):
            del self.open[wanted.id]
            self.done[wanted.id] = status
            self.end(name, epoch)

    @rule(name=TARGETS)
    def take(self, name: str) -> None:
        name = self.prefix + name
        if name not in self.tokens:
            self.ledger.allow(name, 2, 0)
            self.tokens[name] = 2
        denied = self.ledger.take(name)
        assert bool(denied) is (self.tokens[name] < 1)
        self.tokens[name] = max(0, self.tokens[name] - 1)

    @rule(seconds=st.sampled_from((0.5, 2, 90)))
    def wait(self, seconds: float) -> None:
        self.clock.advance(self.clock.now() + int(seconds * 1000))

    @invariant()
    def agrees(self) -> None:
        unfinished = {i.action.id: (i.action.target, i.epoch) for i in self.ledger.unfinished()}
        assert {k: v for k, v in unfinished.items() if v[0].startswith(self.prefix)} == self.open
        assert len({where for where, _ in self.open.values()}) == len(self.open), "one in flight per target"
        for name, (_, epoch, _) in self.leases.items():
            assert self.ledger.fenced(name, epoch) is not self.holds(name, epoch)
        for one, status in self.done.items():
            ended = self.ledger.ended(one)
            assert ended is not None
            assert ended.status is status

    def teardown(self) -> None:
        self.ledger.verify()


def test_leases_intents_and_budgets_agree_with_a_model(ledger: SqlLedger, clock: EventClock) -> None:
    class Bound(Coordination):
        pass

    Bound.ledger, Bound.clock = ledger, clock
    quick = settings(
        max_examples=15, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    run_state_machine_as_test(Bound, settings=quick)


RACER = """
import json, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[4])
from ledger_worlds import action
from forecastle.errors import Conflict
from forecastle.ledger.store import SqlLedger
from forecastle.runtime.clocks import EventClock
from forecastle.settings import LedgerSettings

url, name, gate = sys.argv[1], sys.argv[2], Path(sys.argv[3])
ledger = SqlLedger(LedgerSettings(url=url, kill_file=""), EventClock(1_760_000_040_000))
print("ready", flush=True)
while not gate.exists():
    time.sleep(0.001)
won = []
for i in range(40):
    wanted = action(pool=f"pool-{i}")
    try:
        epoch = ledger.lease(wanted.target, name, 60)
        if ledger.intend(wanted, epoch=epoch):
            won.append(i)
    except Conflict:
        pass
print(json.dumps(won))
"""


def test_two_processes_never_win_the_same_target(ledger: SqlLedger, url: str, tmp_path, request) -> None:
    gate, here = tmp_path / "gate", str(request.path.parent)
    racers = [
        subprocess.Popen([sys.executable, "-c", RACER, url, name, str(gate), here], stdout=subprocess.PIPE, text=True)
        for name in ("w1", "w2")
    ]
    outs: list[Callable[[], str]] = [racer.stdout.readline for racer in racers if racer.stdout]
    assert [read() for read in outs] == ["ready\n", "ready\n"]
    gate.touch()
    won = [json.loads(racer.communicate(timeout=60)[0]) for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0]
    assert sorted(won[0] + won[1]) == list(range(40)), "each target had exactly one winner"
    assert ledger.verify() == 40
