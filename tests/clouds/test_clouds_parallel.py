"""Several effects told at once: many pools, requests turned away and answers lost, over one account's rate and one ledger."""

from __future__ import annotations

import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from aws_worlds import world
from kubernetes_worlds import TARGET, shop, workload
from parallel_worlds import BURST, LANES, RATE_PER_S, START, Chance, Fleet, Time

from forecastle.clouds.aws_client import Access, Account
from forecastle.clouds.sim import open_cloud as open_sim
from forecastle.errors import CloudUnavailable, ForecastleError, StoreUnavailable
from forecastle.runtime.clocks import EventClock
from forecastle.testing.fake_kubernetes_requests import Fault, Request
from forecastle.types import Action, Kind, Observed, Outcome, Plan, Pool, Status

WIDE, ROUNDS = 8, 2
POOL = Pool("p", "w", "here", "0", 0.1, startup_s=30, min=1, max=20, quota=12)


@dataclass
class Yard:
    """A fleet at a provider: what is there by pool, how often each pool was changed, and what goes wrong (None: nothing)."""

    kind: str
    fleet: Fleet
    look: Callable[[Pool], Observed]
    effects: Callable[[], Counter[str]]
    faults: Callable[[Chance | None], None]

    def seen(self) -> dict[str, Observed]:
        return {name: self.look(pool) for name, pool in self.fleet.pools.items()}


def pool(number: int, target: Mapping[str, str]) -> Pool:
    """Of a workload of its own; adapters take turns."""
    return replace(POOL, name=f"p{number}", workload=f"w{number}", adapter=f"{number % 2}", target=target)


@contextmanager
def sim(folder: Path) -> Iterator[Yard]:
    """Two providers; what goes wrong depends on the token."""
    clock, paths = EventClock(START), [str(folder / f"{name}.db") for name in "ab"]
    faulty = [open_sim(clock=clock, path=path, ambiguous=0.4, throttle=0.1, retry_after=2.0, seed=7) for path in paths]
    sound = [open_sim(clock=clock, path=path) for path in paths]
    pools = [pool(number, {}) for number in range(WIDE)]

    def effects() -> Counter[str]:
        found = Counter[str]()
        for path in paths:
            with closing(sqlite3.connect(path)) as db:
                found.update(name for (name,) in db.execute("select pool from orders"))
        return found

    fleet = Fleet(folder, Time(clock), faulty, pools)
    yield Yard("sim", fleet, lambda one: sound[int(one.adapter)].observe(one), effects, lambda chance: None)
    for cloud in [*faulty, *sound]:
        cloud.close()


@contextmanager
def aws(folder: Path) -> Iterator[Yard]:
    """Groups and services of one account, through two connections."""
    with world() as here:
        made = [here.service() if number % 4 == 3 else here.group() for number in range(WIDE)]
        pools = [pool(number, one.target) for number, one in enumerate(made)]
        names = {(one.target.get("asg") or one.target["ecs"].split("/")[0]): one.name for one in pools}

        def about(body: str) -> str:
            return next((name for name in names if name in body), "")

        def faults(chance: Chance | None) -> None:
            here.front.fault = (lambda _, body: chance.of(names.get(about(body), ""))) if chance else (lambda *_: "")

        def effects() -> Counter[str]:
            return Counter(names[about(body)] for _, body in here.front.effects())

        adapters = [here.connect(read_attempts=1) for _ in range(2)]
        yield Yard("aws", Fleet(folder, Time(here.clock), adapters, pools), here.cloud.observe, effects, faults)


@contextmanager
def kubernetes(folder: Path) -> Iterator[Yard]:
    """Deployments of one cluster, through two connections."""

    def deployment(number: int) -> dict[str, object]:
        labels = {"app": f"web{number}"}
        found = workload(name=f"web{number}", selector={"matchLabels": labels})
        found["spec"]["template"]["metadata"]["labels"] = labels
        return found

    with shop(folder, *(deployment(number) for number in range(WIDE))) as here:
        pools = [pool(number, {**TARGET, "name": f"web{number}"}) for number in range(WIDE)]

        def failing(chance: Chance, request: Request) -> Fault | None:
            word = chance.of(request.name)
            return made[word] if word else None

        made = {
            "lost": Fault(0),
            "unanswered": Fault(0, after=True),
            "503": Fault(503, after=True),
            "429": Fault(429, headers={"Retry-After": "2"}),
        }

        def faults(chance: Chance | None) -> None:
            here.cluster.faults = (lambda request: failing(chance, request)) if chance else (lambda _: None)

        def effects() -> Counter[str]:
            found, last = Counter[str](), dict[str, int]()
            with here.cluster.inside() as store:
                for event in store.history:
                    name, spec = event.found["metadata"]["name"], event.found.get("spec", {})
                    if event.key.served.kind == "Deployment":
                        found[f"p{name.removeprefix('web')}"] += spec["replicas"] > last.get(name, spec["replicas"])
                        last[name] = spec["replicas"]
            return found

        adapters = [here.connect() for _ in range(2)]
        yield Yard("kubernetes", Fleet(folder, Time(here.clock), adapters, pools), here.connect().observe, effects, faults)


WORLDS = {"sim": sim, "aws": aws, "kubernetes": kubernetes}
FAULTS = {
    "sim": (),
    "aws": ("lost", "unanswered", "after 500 InternalFailure", "400 Throttling"),
    "kubernetes": ("lost", "unanswered", "503", "429"),
}


@pytest.fixture(params=WORLDS)
def yard(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Yard]:
    with WORLDS[request.param](tmp_path) as found:
        yield found
        found.fleet.ledger.verify()
        found.fleet.ledger.close()


def test_several_at_once_are_as_safe_as_one_after_the_other(yard: Yard) -> None:
    ends = Counter[str]()
    for number in range(ROUNDS):
        before, had, plan = yard.seen(), yard.effects(), yard.fleet.plan(yard.seen())
        yard.faults(Chance(number, 0.2, FAULTS[yard.kind]))
        outcomes = yard.fleet.executor().execute(plan, None)
        yard.faults(None)
        ends.update(as_told(yard, plan, outcomes, before, had))
        yard.fleet.time.sleep(400)
    in_order(yard.fleet)
    within_the_rate(yard.fleet)
    assert yard.fleet.watch.wrong == []
    assert ends[Status.APPLIED] > WIDE * ROUNDS / 2, ends


def test_two_workers_with_several_hands_each(yard: Yard) -> None:
    plan, before, had = yard.fleet.plan(yard.seen()), yard.seen(), yard.effects()
    yard.faults(Chance(99, 0.2, FAULTS[yard.kind]))
    heard: dict[str, tuple[Outcome, ...]] = {}

    def work(holder: str) -> None:
        heard[holder] = yard.fleet.executor(holder).execute(plan, None)

    threads = [threading.Thread(target=work, args=(holder,)) for holder in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    yard.faults(None)
    assert sorted(heard) == ["one", "two"]
    grew = {name: yard.effects()[one.name] - had[one.name] for name, one in yard.fleet.pools.items()}
    assert set(grew.values()) <= {0, 1}
    assert {name: seen.replicas - before[name].replicas for name, seen in yard.seen().items()} == grew
    for outcome in (*heard["one"], *heard["two"]):
        assert outcome.status is not Status.APPLIED or grew[outcome.workload] == 1
    in_order(yard.fleet)
    within_the_rate(yard.fleet)
    assert [line for line in yard.fleet.watch.wrong if "lanes" not in line] == []


def test_a_store_that_goes_away_between_effects_leaves_intents_that_end_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sim(tmp_path) as yard:
        ledger, calls, lock = yard.fleet.ledger, list[str](), threading.Lock()
        plan, before, fenced = yard.fleet.plan(yard.seen()), yard.seen(), ledger.fenced

        def failing(target: str, epoch: int) -> bool:
            with lock:
                calls.append(target)
                gone = len(calls) == WIDE // 2
            if gone:
                raise StoreUnavailable("gone")
            return fenced(target, epoch)

        monkeypatch.setattr(ledger, "fenced", failing)
        with pytest.raises(StoreUnavailable):
            yard.fleet.executor().execute(plan, None)
        monkeypatch.undo()
        assert len(ledger.unfinished()) == WIDE
        outcomes = yard.fleet.executor().execute(plan, None)
        ends = Counter(as_told(yard, plan, outcomes, before, Counter()))
        assert ends[Status.APPLIED] > WIDE / 2, ends
        in_order(yard.fleet)
        ledger.close()


def as_told(
    yard: Yard, plan: Plan, outcomes: tuple[Outcome, ...], before: Mapping[str, Observed], had: Counter[str]
) -> Iterator[str]:
    """Each outcome, in the plan's order, says what happened to its pool; nothing happened to one twice."""
    assert [outcome.action_id for outcome in outcomes] == [action.id for action in plan.actions]
    after, effects = yard.seen(), yard.effects()
    for outcome in outcomes:
        times = effects[outcome.pool] - had[outcome.pool]
        assert times <= 1, f"{outcome.pool} was changed {times} times: {outcome}"
        assert after[outcome.workload].replicas - before[outcome.workload].replicas == times, outcome
        assert outcome.status is not Status.APPLIED or times == 1, outcome
        assert outcome.status not in {Status.FAILED, Status.REFUSED} or times == 0, outcome
        yield outcome.status


def in_order(fleet: Fleet) -> None:
    """Every action is intended once, and its end comes later."""
    assert fleet.ledger.unfinished() == ()
    begun, ended = dict[str, int](), dict[str, int]()
    for entry in fleet.ledger.history(limit=1000):
        if entry.kind == "intent":
            assert begun.setdefault(entry.body["action_id"], entry.seq) == entry.seq
        elif entry.kind == "outcome":
            ended.setdefault(entry.body["action_id"], entry.seq)  # the newest; another worker's refusal may be older
    assert len(begun) >= WIDE / 2
    assert all(seq < ended[action] for action, seq in begun.items())


def within_the_rate(fleet: Fleet) -> None:
    """At no time more requests than the account's bucket had held by then, both adapters together."""
    released = sorted(fleet.watch.released)
    assert len(released) > 2 * WIDE
    for count, at in enumerate(released, start=1):
        assert count <= BURST + RATE_PER_S * (at - START / 1000) + 0.001


def test_threads_take_turns_at_the_simulated_cloud(tmp_path: Path) -> None:
    """Its connection has one transaction: two at once would fail, or end each other's."""
    cloud, times, wrong = open_sim(clock=EventClock(START), path=str(tmp_path / "sim.db")), 50, list[Exception]()
    together = threading.Barrier(LANES)

    def work(one: Pool) -> None:
        together.wait(60)
        for tick in range(times):
            seen = cloud.observe(one).replicas
            action = Action(Kind.SCALE, one.workload, one.name, 2 if seen == 1 else 1, seen, tick, tick)
            try:
                cloud.apply(action, one, token=action.id)
            except ForecastleError as error:
                wrong.append(error)

    threads = [threading.Thread(target=work, args=(pool(number, {}),)) for number in range(LANES)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    cloud.close()
    with closing(sqlite3.connect(tmp_path / "sim.db")) as db:
        assert (wrong, db.execute("select count(*) from orders").fetchone()) == ([], (LANES * times,))


def test_threads_share_what_the_sdk_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    """boto3's session is not for several threads, its clients are."""
    account, made, open_one = Account(Access("eu-central-1", endpoint_url="http://127.0.0.1:9")), list[str](), threading.Lock()
    opening = account._session.client

    def client(service: str, **options: object) -> object:
        assert open_one.acquire(blocking=False), "two at once"
        try:
            made.append(service)
            return opening(service, **options)
        finally:
            open_one.release()

    monkeypatch.setattr(account._session, "client", client)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    together, told = threading.Barrier(LANES), list[bool]()

    def ask() -> None:
        together.wait(60)
        with pytest.raises(CloudUnavailable) as found:  # nobody listens there
            account.effect("autoscaling", "set_desired_capacity", AutoScalingGroupName="g", DesiredCapacity=1)
        told.append(found.value.ambiguous)

    threads = [threading.Thread(target=ask) for _ in range(LANES)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    account.close()
    assert told == [False] * LANES
    assert made == ["autoscaling"]
