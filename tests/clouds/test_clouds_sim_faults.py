"""A cloud that is told to fail, and one that many processes use at once: still one effect for each token."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from cloud_worlds import POOL, SECOND, START, Sim
from error_classes import injects

from forecastle.act.effect import tell, verdict
from forecastle.act.readback import observe
from forecastle.act.retry import Retry
from forecastle.clouds.sim import open_cloud
from forecastle.clouds.sim_world import SimWorld
from forecastle.errors import CloudUnavailable, ConfigError, Conflict, NotFound
from forecastle.runtime.clocks import EventClock
from forecastle.types import Action, Kind, Receipt, Status


@injects("throttle")
def test_a_throttled_cloud_says_when_to_come_back_and_is_the_same_for_a_seed(opening: Callable[..., Sim]) -> None:
    def answers(seed: int) -> str:
        sim, heard = opening(throttle=0.3, retry_after=7.0, seed=seed), ""
        for _ in range(100):
            try:
                sim.seen()
            except CloudUnavailable as error:
                heard += f" {error.retry_after:g}{error.ambiguous}"
            else:
                heard += " ok"
        return heard

    first = answers(seed=1)
    assert set(first.split()) == {"ok", "7False"}
    assert 15 <= first.count("7") <= 45
    assert answers(seed=1) == first
    assert answers(seed=2) != first


@injects("timeout")
def test_a_lost_answer_is_ambiguous_and_its_effect_is_there(opening: Callable[..., Sim]) -> None:
    sim = opening(ambiguous=1.0)
    action = sim.action(Kind.SCALE, 5)
    with pytest.raises(CloudUnavailable) as caught:
        sim.cloud.apply(action, POOL, token=action.id)
    assert caught.value.ambiguous
    assert sim.seen().replicas == 5
    assert sim.cloud.apply(action, POOL, token=action.id).already, "asking again with the token clears it up"
    assert len(sim.orders()) == 1


def test_the_executors_retry_makes_one_effect_of_a_lost_answer(opening: Callable[..., Sim]) -> None:
    sim = opening(ambiguous=1.0)
    action = sim.action(Kind.SCALE, 5)
    answer = tell(sim.cloud, action, POOL, Retry(3, 1.0, lambda _: None, lambda: 0.0), left_s=lambda: 60.0, forbidden=str)
    assert answer.doubt
    assert verdict(action, answer, observe(sim.cloud, POOL), reopened=False)[0] is Status.APPLIED
    assert len(sim.orders()) == 1


def test_a_lazy_cloud_says_yes_and_is_found_out(opening: Callable[..., Sim]) -> None:
    sim = opening(lazy=1.0)
    action = sim.action(Kind.SCALE, 5)
    answer = tell(sim.cloud, action, POOL, Retry(3, 1.0, lambda _: None, lambda: 0.0), left_s=lambda: 60.0, forbidden=str)
    assert answer.receipt == Receipt(action.id, already=False, detail="accepted")
    status, why = verdict(action, answer, sim.seen(), reopened=False)
    assert (status, why) == (Status.UNVERIFIED, "the cloud says it is done; asked for 5 replicas, 3 observed")
    assert (sim.orders(), sim.seen().version) == ([], "v1")


@injects("partial")
def test_stuck_replicas_are_ordered_and_never_ready(opening: Callable[..., Sim]) -> None:
    sim = opening(stuck=1.0)
    sim.do(Kind.SCALE, 5)
    sim.wait(10_000_000)
    assert (sim.seen().replicas, sim.seen().ready, sim.seen().unhealthy) == (5, 3, ())


@pytest.mark.parametrize("fault", ["lazy", "ambiguous", "stuck"])
def test_whom_a_fault_hits_depends_on_seed_and_token_and_not_on_the_process(fault: str, opening: Callable[..., Sim]) -> None:
    def hits(provider: str, tokens: list[int], seed: int) -> set[int]:
        sim, found = opening(provider, seed=seed, **{fault: 0.25}), set()
        for token in tokens:
            sim.world.provision(POOL, 3, START)
            try:
                sim.cloud.apply(sim.action(Kind.SCALE, 4), POOL, token=str(token))
            except CloudUnavailable:
                found.add(token)
            if sim.world.ready(START + 60 * SECOND)[POOL.name] == 3:
                found.add(token)
        return found

    first = hits("a", list(range(60)), seed=1)
    assert 5 <= len(first) <= 26
    assert hits("b", list(range(59, -1, -1)), seed=1) == first
    assert hits("c", list(range(60)), seed=2) != first


RUNS = 1000
WAYS: tuple[tuple[Kind, int | str, bool], ...] = (
    (Kind.SCALE, 4, False),
    (Kind.SCALE, 2, False),
    (Kind.RESTART, "g1", False),
    (Kind.REPLACE, "g1", True),
    (Kind.DRAIN, 0, False),
    (Kind.DRAIN, 0, True),
    (Kind.CORDON, "leaking", False),
    (Kind.SHIFT, 40, False),
    (Kind.ROLLBACK, "r0", False),
    (Kind.QUARANTINE, "odd", True),
)


def test_over_a_thousand_seeded_runs_no_token_has_a_second_effect(opening: Callable[..., Sim]) -> None:
    """Turned away, answers lost, by two processes, while somebody undoes what was done."""
    sim, ends = opening(), Counter[str]()
    processes = [opening(throttle=0.3, ambiguous=0.5, seed=seed) for seed in range(2)]
    for seed in range(RUNS):
        dice = random.Random(seed)
        kind, desired, single = dice.choice(WAYS)
        sim.world.provision(POOL, 3, sim.clock.now())
        action = sim.action(kind, desired, replica=dice.choice(sim.names()) if single else "")
        had = 0
        for _ in range(4):
            how, doubt = heard(dice.choice(processes), action)
            ends[how] += 1
            earlier, had = had, len(sim.select(f"select 1 from orders where token = '{action.id}'"))
            assert had - earlier == (how == "done") or (doubt and had == 1), f"seed {seed}: {how}"
            if how in {"done", "already"}:
                break
            if dice.random() < 0.3:
                sim.world.provision(POOL, 3, sim.clock.now())
        assert had <= 1
        sim.wait(1)
    assert min(ends[name] for name in ("done", "already", "CloudUnavailable", "Conflict")) > RUNS // 20, ends


def heard(sim: Sim, action: Action) -> tuple[str, bool]:
    """What one process hears, and whether it may have happened without its hearing of it."""
    try:
        return "already" if sim.cloud.apply(action, POOL, token=action.id).already else "done", False
    except (CloudUnavailable, Conflict, NotFound) as error:
        return type(error).__name__, getattr(error, "ambiguous", False)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"throtle": 0.1}, "no option 'throtle'; its faults are throttle, "),
        ({"lazy": 30.0}, "lazy is 30; write a share between"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, float], why: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=why):
        open_cloud(clock=EventClock(START), path=str(tmp_path / "sim.db"), **options)
    assert list(tmp_path.iterdir()) == []


def test_another_kind_of_file_is_refused_with_the_fix(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database, and long enough to be told apart from an empty one\n" * 40)
    with pytest.raises(ConfigError, match=r"notes\.txt.*give `path` a file of its own"):
        open_cloud(clock=EventClock(START), path=str(path))


def test_a_file_that_cannot_be_had_is_transient(tmp_path: Path) -> None:
    (tmp_path / "folder.db").mkdir()
    with pytest.raises(CloudUnavailable, match=r"folder\.db"):
        open_cloud(clock=EventClock(START), path=str(tmp_path / "folder.db"))


WORKER = """
import sys
from forecastle.clouds.sim import open_cloud
from forecastle.errors import Conflict
from forecastle.runtime.clocks import EventClock
from forecastle.types import Action, Kind, Pool

path, worker = sys.argv[1:]
pool = Pool("shop-fra", "shop", "fra", "sim", 0.1, min=1, max=500, quota=500)
cloud = open_cloud(clock=EventClock(1_760_000_040_000), path=path)
sys.stdin.readline()
for i in range(100):
    seen = cloud.observe(pool)
    action = Action(Kind.SCALE, "shop", pool.name, i + 2, i + 1, i, i)
    try:
        print(i, "already" if cloud.apply(action, pool, token=action.id).already else "mine", flush=True)
    except Conflict as error:
        print(i, "conflict", flush=True)
"""


def start(path: str, worker: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WORKER, path, str(worker)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_one_effect_per_token_from_four_processes_at_once(tmp_path: Path) -> None:
    path = str(tmp_path / "sim.db")
    workers = [start(path, n) for n in range(4)]
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    said = []
    for worker in workers:
        out, err = worker.communicate(timeout=60)
        assert worker.returncode == 0, err
        said += out.split("\n")[:-1]
    mine = [line for line in said if line.endswith("mine")]
    assert sorted(int(line.split()[0]) for line in mine) == list(range(100)), "each order took effect for exactly one process"
    assert len(said) == 400
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("select count(*), count(distinct token), max(desired) from orders").fetchone() == (100, 100, 101)


def test_a_kill_in_the_middle_leaves_orders_and_pool_agreeing(tmp_path: Path) -> None:
    path = str(tmp_path / "sim.db")
    for kill in range(3):
        worker = start(path, kill)
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
        for _ in range(20 * (kill + 1)):
            worker.stdout.readline()
        worker.send_signal(signal.SIGKILL)
        worker.communicate()
        with SimWorld(path) as world, closing(sqlite3.connect(path)) as db:
            state = world.states(START)["shop-fra"]
            orders, newest = db.execute("select count(*), max(desired) from orders").fetchone()
        assert orders >= 20 * (kill + 1)
        assert state.ordered == newest == orders + 1
