"""Real processes over real files: one is frozen with SIGSTOP at a named point while another takes over, and a disk fills up."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from worker_process import LEASE_S, configuration

from forecastle.clouds.sim import SimCloud
from forecastle.clouds.sim_world import SimWorld
from forecastle.guards.context import View
from forecastle.ledger.store import SqlLedger
from forecastle.runtime.clocks import WallClock
from forecastle.runtime.inventory import inventory
from forecastle.types import Action, Kind, Outcome, Plan, Status

SCRIPT = Path(__file__).parent / "worker_process.py"


class House:
    """The shared files, and the processes of one test, none of which outlives it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings, self.clock = configuration(folder), WallClock()
        self.pool = inventory(self.settings).pools["shop-fra"]
        self.started: list[subprocess.Popen[str]] = []
        with SimWorld(f"{folder}/sim.db") as world:
            world.provision(self.pool, 10, self.clock.now() - 600_000)

    def plan(self, desired: int) -> Plan:
        """A recorded plan to scale the pool from 10 replicas to ``desired``."""
        at = self.clock.now()
        action = Action(Kind.SCALE, "shop", "shop-fra", desired, 10, at, at + 120_000)
        evidence = {"shop": View(0, 40, 1, late=False).as_evidence()}
        made = Plan(f"plan-{desired}", at, "aws/eu/", (action,), "test", evidence, (), {}, 0.0, at + 120_000)
        ledger = self.ledger()
        ledger.record(at, f"test-{desired}", [made])
        ledger.close()
        return made

    def ledger(self) -> SqlLedger:
        return SqlLedger(self.settings.ledger, self.clock)

    def start(self, holder: str, what: str, point: str = "", **environment: str) -> subprocess.Popen[str]:
        command = [sys.executable, str(SCRIPT), holder, str(self.folder), what, *([point] if point else [])]
        found = {**os.environ, **environment}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=found)
        self.started.append(process)
        return process

    def run(self, holder: str, what: str, **environment: str) -> tuple[int, str]:
        process = self.start(holder, what, **environment)
        said = process.communicate(timeout=60)[0]
        return process.returncode, said

    def frozen(self, what: str, point: str) -> subprocess.Popen[str]:
        """A process of worker ``a`` that has stopped itself at ``point``, its lease run out."""
        process = self.start("a", what, point)
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), "it ended before it came to the point"
        time.sleep(LEASE_S + 0.1)
        return process

    def thawed(self, process: subprocess.Popen[str]) -> str:
        os.kill(process.pid, signal.SIGCONT)
        said = process.communicate(timeout=60)[0]
        assert process.returncode == 0, said
        return said

    def orders(self) -> list[tuple[str, int]]:
        """(token, desired) of everything the cloud really accepted."""
        with sqlite3.connect(self.folder / "sim.db") as db:
            return db.execute("select token, desired from orders order by at").fetchall()

    def replicas(self) -> int:
        cloud = SimCloud(clock=self.clock, path=f"{self.folder}/sim.db")
        try:
            return cloud.observe(self.pool).replicas
        finally:
            cloud.close()

    def ends(self) -> list[Outcome]:
        """How every intent ended; the chain and its witness are verified on the way."""
        ledger = self.ledger()
        try:
            ledger.verify()
            assert ledger.unfinished() == ()
            return ledger.outcomes()
        finally:
            ledger.close()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    for process in made.started:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def test_undisturbed_a_process_carries_its_plan_out(house: House) -> None:
    made = house.plan(14)
    assert house.run("a", made.id) == (0, "APPLIED accepted\n")
    assert (house.orders(), house.replicas()) == ([(made.actions[0].id, 14)], 14)
    assert [o.status for o in house.ends()] == [Status.APPLIED]


def test_a_zombie_between_intent_and_effect_is_fenced(house: House) -> None:
    """Another ended its intent and then acted on the target. What it still wants to do is refused by its stale epoch."""
    mine, theirs = house.plan(14), house.plan(13)
    zombie = house.frozen(mine.id, "fenced")
    assert house.orders() == []
    assert house.run("b", "recover")[1].startswith("REFUSED recovered")
    assert house.run("b", theirs.id) == (0, "APPLIED accepted\n")
    assert "fenced: epoch 1 no longer holds shop-fra" in house.thawed(zombie)
    assert (house.orders(), house.replicas()) == ([(theirs.actions[0].id, 13)], 13)
    assert [o.status for o in house.ends()] == [Status.REFUSED, Status.APPLIED]


def test_a_zombie_after_its_effect_has_nothing_left_to_say(house: House) -> None:
    """The other saw the effect and recorded it; the zombie's own record changes nothing."""
    mine = house.plan(14)
    zombie = house.frozen(mine.id, "apply")
    assert house.replicas() == 14
    assert house.run("b", "recover")[1].startswith("APPLIED")
    house.thawed(zombie)
    assert house.orders() == [(mine.actions[0].id, 14)]
    ends = house.ends()
    assert [(o.action_id, o.status) for o in ends] == [(mine.actions[0].id, Status.APPLIED)]


def test_whoever_carries_out_the_same_plan_meanwhile_does_it_once(house: House) -> None:
    mine = house.plan(14)
    zombie = house.frozen(mine.id, "fenced")
    assert house.run("b", mine.id)[0] == 0
    house.thawed(zombie)
    assert house.orders() == [(mine.actions[0].id, 14)]
    assert [o.status for o in house.ends()] == [Status.APPLIED]


def test_a_frozen_worker_within_its_lease_is_waited_for(house: House) -> None:
    """Until the lease runs out nobody takes over: the other's plan is refused and nothing happens."""
    mine, theirs = house.plan(14), house.plan(13)
    zombie = house.start("a", mine.id, "fenced")
    os.waitpid(zombie.pid, os.WUNTRACED)
    code, said = house.run("b", theirs.id)
    assert code == 0
    assert said.startswith("REFUSED")
    assert house.orders() == []
    house.thawed(zombie)
    assert {token for token, _ in house.orders()} <= {mine.actions[0].id}


@pytest.mark.parametrize("limit", [0, 5_000])
def test_on_a_full_disk_there_is_no_recordable_intent_and_no_action(house: House, limit: int) -> None:
    """RLIMIT_FSIZE refuses every write beyond it, as a full disk does: at once, or in the middle of a record."""
    made = house.plan(14)
    code, said = house.run("a", made.id, FILE_LIMIT=str(limit))
    assert code == 3, said
    assert "the ledger's database cannot record" in said
    assert (house.orders(), house.replicas()) == ([], 10)


@pytest.mark.parametrize("limit", [9_000, 25_000])
def test_wherever_the_disk_fills_up_an_effect_has_its_intent(house: House, limit: int) -> None:
    """Some records still fit. What happened in the cloud has a durable intent, and is brought to its end later, once."""
    made = house.plan(14)
    house.run("a", made.id, FILE_LIMIT=str(limit))
    ledger = house.ledger()
    known = [entry for entry in ledger.history(kinds=["intent"]) if entry.body["action_id"] == made.actions[0].id]
    ledger.close()
    assert len(house.orders()) <= len(known) <= 1
    time.sleep(LEASE_S + 0.1)
    house.run("b", made.id)
    assert len(house.orders()) <= 1
    assert house.replicas() == (14 if house.orders() else 10)
    assert len(house.ends()) == 1


def test_when_the_disk_has_room_again_the_plan_is_carried_out_once(house: House) -> None:
    made = house.plan(14)
    assert house.run("a", made.id, FILE_LIMIT="0")[0] == 3
    assert house.run("a", made.id) == (0, "APPLIED accepted\n")
    assert house.orders() == [(made.actions[0].id, 14)]
    assert [o.status for o in house.ends()] == [Status.APPLIED]
