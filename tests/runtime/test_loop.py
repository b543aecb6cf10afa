"""The order of the rooms and what a restart or an outage does to it, with real windows, a real ledger and no broker."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from forecastle.errors import BrokerUnavailable, CloudUnavailable, NotFound, StoreUnavailable
from forecastle.intake.memory import MemoryIntake
from forecastle.ledger.store import SqlLedger
from forecastle.runtime.clocks import EventClock
from forecastle.runtime.loop import DECISION_COLUMNS, Loop, Rooms, Turned
from forecastle.settings import LedgerSettings, WindowSettings
from forecastle.types import (
    Action,
    Anomaly,
    Change,
    Demand,
    Forecasts,
    Incident,
    Inventory,
    Kind,
    Objective,
    Observed,
    Outcome,
    Plan,
    Pool,
    Readiness,
    Receipt,
    SeriesKey,
    Site,
    Situation,
    Status,
    Usage,
    Windows,
    Workload,
)
from forecastle.window.store import WindowStore

STEP = 60_000
START = 1_760_000_040_000 // STEP * STEP
RATE, LATENCY = SeriesKey("shop", "rate"), SeriesKey("shop", "latency")


def tick(number: int) -> int:
    return START + number * STEP


def messages(ticks: int) -> list[bytes]:
    """Three series a minute; one of them decides nothing."""
    return [
        json.dumps({"workload": "shop", "metric": metric, "at": tick(i), "value": base + i}).encode()
        for i in range(ticks)
        for metric, base in (("rate", 100.0), ("latency", 20.0), ("disk", 5.0))
    ]


class LastValue:
    """A forecaster and a detector that remember what they were asked."""

    name, look_back, horizon, quantiles = "last", 4, 2, (0.5,)

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.previous: list[int | None] = []

    def forecast(self, windows: Windows) -> Forecasts:
        self.asked.append(windows.end)
        values = np.repeat(windows.values[:, -1:, None], self.horizon, axis=1)
        return Forecasts(windows.keys, windows.end, windows.step_ms, (0.5,), values, "last@1", np.zeros(len(windows), np.bool_))

    def detect(self, windows: Windows, forecasts: Forecasts | None) -> tuple[Anomaly, ...]:
        self.previous.append(forecasts.issued_at if forecasts else None)
        return ()


class Clouds:
    """Two pools, one of which may be away."""

    name, capabilities = "fake", frozenset({Kind.SCALE})

    def __init__(self) -> None:
        self.away: dict[str, Exception] = {}

    def observe(self, pool: Pool) -> Observed:
        if pool.name in self.away:
            raise self.away[pool.name]
        return Observed(pool.name, 3, 3, START, "v1")

    def preview(self, action: Action, observed: Observed) -> Change:
        return Change(action.id, "3", str(action.desired), noop=False)

    def apply(self, action: Action, pool: Pool, *, token: str) -> Receipt:
        return Receipt(action.id, already=False)

    def close(self) -> None:
        pass


class Flaky:
    """A ledger whose methods fail when told, before or after they did their work."""

    def __init__(self, ledger: SqlLedger) -> None:
        self._ledger = ledger
        self.before: dict[str, int] = {}
        self.after: dict[str, int] = {}

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._ledger, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if self.before.get(name, 0):
                self.before[name] -= 1
                raise StoreUnavailable(f"{name} failed")
            result = found(*args, **kwargs)
            if self.after.get(name, 0):
                self.after[name] -= 1
                raise StoreUnavailable(f"{name} may have happened")
            return result

        return call


def inventory() -> Inventory:
    pools = {f"shop-{site}": Pool(f"shop-{site}", "shop", site, "fake", 0.1) for site in ("fra", "ams")}
    pools["other-fra"] = Pool("other-fra", "other", "fra", "fake", 0.1)
    loads = {
        "shop": Workload("shop", (Demand(RATE, 40.0),), ("shop-fra", "shop-ams"), vetoes=((LATENCY, 400.0),)),
        "other": Workload("other", (Demand(SeriesKey("other", "rate"), 40.0),), ("other-fra",)),
    }
    return Inventory({"fra": Site("fra", "aws", "eu"), "ams": Site("ams", "gcp", "eu")}, pools, loads)


def planned(situation: Situation) -> tuple[Plan, ...]:
    """One plan that shows in its evidence what it was made from."""
    seen = {str(key): float(row[-1]) for key, row in zip(situation.windows.keys, situation.windows.values, strict=True)}
    number = (situation.tick - START) // STEP
    return (Plan(f"p{number}", situation.tick, "aws/eu/", (), "because", seen, (), {}, 0.0, situation.tick + 5 * STEP),)


@dataclass
class House:
    """A loop over a ledger that outlives it; the parts a test wants to look at."""

    ledger: SqlLedger
    per_poll: int = 3
    ticks: int = 10
    decide: Callable[[Situation], tuple[Plan, ...]] = planned
    grouped: list[tuple[int, int]] = field(default_factory=list)
    executed: list[str] = field(default_factory=list)
    turned: list[Turned] = field(default_factory=list)
    decided: list[Situation] = field(default_factory=list)
    committed_at_effect: list[int] = field(default_factory=list)
    execute_fails: int = 0
    recovered: int = 0

    def __post_init__(self) -> None:
        self.clock = EventClock()
        self.model, self.cloud, self.store = LastValue(), Clouds(), Flaky(self.ledger)
        self.intake = MemoryIntake(messages(self.ticks), EventClock(tick(self.ticks)), per_poll=self.per_poll)
        rooms = Rooms(
            intake=self.intake,
            store=WindowStore(WindowSettings(look_back=200, lateness_s=0, flat_slots=30)),
            predictor=self.model,
            detection=self.model,
            group=self._group,
            decide=self._decide,
            execute=self._execute,
            ledger=self.store,
            clouds={"fake": self.cloud},
            clock=self.clock,
            inventory=inventory(),
            recover=self._recover,
        )
        self.loop = Loop(rooms, "w", STEP, not_before=tick(3), rebuild_ticks=4, fingerprint="f", listeners=[self.turned.append])

    def _group(self, anomalies: object, at: int, windows: Windows) -> tuple[Incident, ...]:
        self.grouped.append((at, windows.end))
        return ()

    def _decide(self, situation: Situation) -> tuple[Plan, ...]:
        self.decided.append(situation)
        return self.decide(situation)

    def _execute(self, plan: Plan, situation: Situation) -> tuple[Outcome, ...]:
        if self.execute_fails:
            self.execute_fails -= 1
            raise StoreUnavailable("no intent can be recorded")
        self.committed_at_effect.append(self.intake.committed)
        self.executed.append(plan.id)
        return (Outcome(plan.id, Status.APPLIED, situation.tick, "shop-fra", Kind.SCALE),)

    def _recover(self) -> tuple[Outcome, ...]:
        self.recovered += 1
        return ()

    def play(self) -> House:
        self.loop.resume()
        while self.loop.turn(0.0):
            pass
        return self


@pytest.fixture
def ledger() -> Any:
    made = SqlLedger(LedgerSettings(url="sqlite://", kill_file=""), EventClock(START))
    yield made
    made.verify()
    made.close()


def test_every_tick_from_the_first_to_be_decided_is_decided_once(ledger: SqlLedger) -> None:
    house = House(ledger).play()
    assert [(s.tick - START) // STEP for s in house.decided] == [3, 4, 5, 6, 7, 8]
    assert house.executed == ["p3", "p4", "p5", "p6", "p7", "p8"]
    assert ledger.last_tick("w") == tick(8), "the newest tick is still open"
    assert [t.rebuilt for t in house.turned] == [True] * 3 + [False] * 6
    assert house.grouped == [(t.closed.tick, t.closed.tick) for t in house.turned]
    assert house.model.previous == [None, *house.model.asked[:-1]], "the detector judges by the forecast made a step before"


def test_offsets_move_only_after_the_effects(ledger: SqlLedger) -> None:
    house = House(ledger).play()
    assert house.committed_at_effect == [12, 15, 18, 21, 24, 27], "what closed a tick is not committed while it is acted on"
    assert house.intake.committed == 30


def test_a_decision_sees_its_series_their_recent_slots_and_the_fleet(ledger: SqlLedger) -> None:
    house = House(ledger, ticks=140).play()
    last = house.decided[-1]
    assert last.windows.keys == (LATENCY, RATE)
    assert last.windows.values.shape == (2, DECISION_COLUMNS)
    assert last.forecasts.keys == last.windows.keys
    assert last.forecasts.values[:, 0, 0].tolist() == [20.0 + 138, 100.0 + 138]
    assert sorted(last.fleet.observed) == ["shop-ams", "shop-fra"], "pools of workloads of other workers are theirs to look at"
    assert (last.fleet.at, last.fleet.started_at) == (last.tick, tick(3))


def grown(house: House, number: int) -> None:
    """The pool was given its third replica at tick ``number``, as the ledger remembers it; the cloud shows three ready."""
    before, after = (Observed("shop-fra", n, 2, tick(number), "v1") for n in (2, 3))
    house.ledger.conclude(Outcome("grew", Status.APPLIED, tick(number), "shop-fra", Kind.SCALE, "shop", before, after))


def test_growth_that_is_ready_is_noted_once_and_seen_by_that_decision(ledger: SqlLedger) -> None:
    house = House(ledger)
    grown(house, 2)
    house.cloud.observe = lambda pool: Observed(pool.name, 3, 3, house.clock.now(), "v1")  # type: ignore[method-assign]
    house.play()
    noted = (Readiness("grew", "shop-fra", tick(3), 60.0),)
    assert [s.fleet.readied for s in house.decided] == [noted] * 6
    assert [entry.at for entry in ledger.history(kinds=["ready"])] == [tick(3)]


def test_growth_that_is_not_ready_yet_is_waited_for(ledger: SqlLedger) -> None:
    house = House(ledger)
    grown(house, 2)
    house.cloud.observe = lambda pool: Observed(  # type: ignore[method-assign]
        pool.name, 3, 3 if house.clock.now() >= tick(6) else 2, house.clock.now(), "v1"
    )
    house.play()
    assert [len(s.fleet.readied) for s in house.decided] == [0, 0, 0, 1, 1, 1]
    assert house.decided[-1].fleet.readied[0].lag_s == 240.0


def test_a_restart_remembers_how_long_growth_took(ledger: SqlLedger) -> None:
    grown(House(ledger), 2)
    first = House(ledger, ticks=6).play()
    again = House(ledger, ticks=10).play()
    assert {s.fleet.readied for s in again.decided} == {first.decided[-1].fleet.readied}
    assert len(ledger.history(kinds=["ready"])) == 1


def test_a_decision_sees_every_series_its_sizing_reads(ledger: SqlLedger) -> None:
    """The usage of a replica and what is left of an error budget are neither demand nor veto."""
    house = House(ledger)
    disk = SeriesKey("shop", "disk")
    plain = house.loop.rooms.inventory
    for extra in (
        {"demands": (Demand(RATE, 40.0, usage=Usage(disk, LATENCY)),), "vetoes": ()},
        {"vetoes": (), "slo": Objective("fast", 0.99, budget=disk)},
    ):
        shop = replace(plain.workloads["shop"], **extra)  # type: ignore[arg-type]
        other = House(SqlLedger(LedgerSettings(url="sqlite://", kill_file=""), EventClock(START)))
        other.loop.rooms.inventory = replace(plain, workloads={"shop": shop})
        assert disk in other.play().decided[-1].windows.keys


@pytest.mark.parametrize("error", [CloudUnavailable("503"), NotFound("gone")])
def test_a_pool_that_cannot_be_observed_is_left_out(ledger: SqlLedger, error: Exception) -> None:
    house = House(ledger)
    house.cloud.away["shop-ams"] = error
    house.play()
    assert sorted(house.decided[-1].fleet.observed) == ["shop-fra"]


@pytest.mark.parametrize("per_poll", [1, 2, 7, 1000])
def test_how_polls_cut_the_log_changes_nothing(ledger: SqlLedger, per_poll: int) -> None:
    House(ledger, per_poll=per_poll).play()
    found = [ledger.plans(tick(i), "w") for i in range(3, 9)]
    assert [plans[0].evidence for plans in found if plans] == [
        {"shop:rate": 100.0 + i, "shop:latency": 20.0 + i} for i in range(3, 9)
    ]


# --- restarts ---------------------------------------------------------------------------------------------------------


def test_a_restart_resumes_the_last_plan_as_it_was_recorded(ledger: SqlLedger) -> None:
    House(ledger, ticks=6).play()
    assert ledger.last_tick("w") == tick(4)

    def changed_its_mind(situation: Situation) -> tuple[Plan, ...]:
        return planned(situation) if situation.tick > tick(4) else ()

    again = House(ledger, ticks=10, decide=changed_its_mind).play()
    assert [(s.tick - START) // STEP for s in again.decided] == [5, 6, 7, 8], "nothing is decided twice"
    assert again.executed == ["p4", "p5", "p6", "p7", "p8"], "the last one may not have been carried out"
    assert [t.rebuilt for t in again.turned] == [True] * 4 + [False] * 4
    assert again.turned[3].plans == ledger.plans(tick(4), "w")


def test_a_restart_judges_the_recent_past_again_and_only_folds_what_lies_before(ledger: SqlLedger) -> None:
    House(ledger, ticks=30).play()
    again = House(ledger, ticks=32).play()
    assert [(at - START) // STEP for at in again.model.asked] == list(range(25, 31)), (
        "four ticks before the first undecided one"
    )
    assert [t.closed.tick for t in again.turned] == again.model.asked
    before = House(SqlLedger(LedgerSettings(url="sqlite://"), EventClock()), ticks=32).play()
    mine, theirs = (house.turned[-1].closed.windows.values for house in (again, before))
    assert np.array_equal(mine, theirs, equal_nan=True)


def test_a_restart_does_not_warm_up_again(ledger: SqlLedger) -> None:
    House(ledger, ticks=6).play()
    again = House(ledger, ticks=10).play()
    assert {s.fleet.started_at for s in again.decided} == {tick(3)}
    other = House(ledger, ticks=14)
    other.loop.fingerprint = "another configuration"
    assert {s.fleet.started_at for s in other.play().decided} == {tick(8)}


# --- outages ----------------------------------------------------------------------------------------------------------


def hold_and_go_on(house: House, fails: int) -> list[str]:
    """Turn as the worker does: what is Transient is tried again. Returns what was raised."""
    house.loop.resume()
    raised = []
    while True:
        try:
            if not house.loop.turn(0.0):
                return raised
        except (StoreUnavailable, BrokerUnavailable) as error:
            raised.append(str(error))
            assert len(raised) <= fails


@pytest.mark.parametrize("method", ["snapshot", "effective_since", "record"])
def test_while_the_store_is_down_ticks_wait_and_nothing_is_committed(ledger: SqlLedger, method: str) -> None:
    house = House(ledger)
    house.store.before[method] = 3
    committed: list[int] = []
    house.loop.rooms.clouds["fake"].observe = lambda pool: (
        committed.append(house.intake.committed)
        or Observed(  # type: ignore[method-assign, func-returns-value]
            pool.name, 3, 3, START, "v1"
        )
    )
    assert hold_and_go_on(house, 3) == [f"{method} failed"] * 3
    assert house.executed == ["p3", "p4", "p5", "p6", "p7", "p8"]
    assert ledger.last_tick("w") == tick(8)
    assert committed[0] == committed[1] == 12


def test_while_readiness_cannot_be_noted_the_tick_waits(ledger: SqlLedger) -> None:
    house = House(ledger)
    grown(house, 2)
    house.store.before["note_ready"], house.store.after["note_ready"] = 1, 1
    raised = hold_and_go_on(house, 2)
    assert raised == ["note_ready failed", "note_ready may have happened"]
    assert [s.tick for s in house.decided] == [tick(i) for i in range(3, 9)]
    assert len(ledger.history(kinds=["ready"])) == 1


def test_a_tick_is_decided_once_although_recording_it_failed(ledger: SqlLedger) -> None:
    house = House(ledger)
    house.store.before["record"] = 2
    hold_and_go_on(house, 2)
    assert [s.tick for s in house.decided] == [tick(i) for i in range(3, 9)]
    assert [t.rebuilt for t in house.turned[3:]] == [False] * 6


def test_a_commit_that_failed_only_seemingly_is_no_conflict(ledger: SqlLedger) -> None:
    house = House(ledger)
    house.store.after["record"] = 1
    assert hold_and_go_on(house, 1) == ["record may have happened"]
    assert house.executed == ["p3", "p4", "p5", "p6", "p7", "p8"]
    assert len(ledger.history(kinds=["tick"])) == 6


def test_a_plan_whose_execution_failed_is_executed_again_not_decided_again(ledger: SqlLedger) -> None:
    house = House(ledger)
    house.execute_fails = 2
    assert hold_and_go_on(house, 2) == ["no intent can be recorded"] * 2
    assert house.executed == ["p3", "p4", "p5", "p6", "p7", "p8"]
    assert [s.tick for s in house.decided] == [tick(i) for i in range(3, 9)]
    assert len(house.turned) == 9, "listeners hear of each tick once"


def test_while_the_broker_is_down_nothing_moves_and_nothing_is_lost(ledger: SqlLedger) -> None:
    house = House(ledger)
    house.loop.resume()
    for _ in range(5):
        house.loop.turn(0.0)
    house.intake.down = True
    for _ in range(3):
        with pytest.raises(BrokerUnavailable):
            house.loop.turn(0.0)
    house.intake.down = False
    while house.loop.turn(0.0):
        pass
    assert house.executed == ["p3", "p4", "p5", "p6", "p7", "p8"]


def test_unfinished_intents_of_others_are_looked_after(ledger: SqlLedger) -> None:
    calm = House(ledger, ticks=6).play()
    assert calm.recovered == 0
    orphan = Action(Kind.SCALE, "shop", "shop-fra", 5, 3, tick(4), tick(9))
    ledger.intend(orphan, epoch=ledger.lease(orphan.target, "dead", 60))
    again = House(ledger, ticks=8).play()
    assert again.recovered == len([t for t in again.turned if t.situation is not None])
