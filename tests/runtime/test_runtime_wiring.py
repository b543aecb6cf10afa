"""The house as it is furnished: which clock, how much memory, who holds the role; and approved plans carried out later."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forecastle.clouds.sim import SimCloud
from forecastle.detect.engine import RING, Detection
from forecastle.detect.swap import SwappingDetection
from forecastle.errors import ConfigError
from forecastle.guards.context import View
from forecastle.intake.memory import MemoryIntake
from forecastle.ledger.store import SqlLedger
from forecastle.runtime.clocks import EventClock, WallClock
from forecastle.runtime.config import load
from forecastle.runtime.releases import RELEASE
from forecastle.runtime.wiring import clock, detection, furnish, memory_ticks, resume_plans, run_worker
from forecastle.runtime.worker import role
from forecastle.settings import Settings
from forecastle.types import Action, Anomaly, AnomalyKind, Kind, Plan, Pool, SeriesKey, Severity, Status, Windows

STEP = 60_000
START = 1_760_000_040_000 // STEP * STEP


@pytest.fixture
def configure(tmp_path: Path) -> Callable[..., Settings]:
    """Settings of two workloads on the simulated cloud, with changes by section."""

    def make(**changes: dict[str, Any]) -> Settings:
        loads = [
            {
                "name": name,
                "mode": "auto",
                "demands": [{"metric": "rps", "per_replica": 40}],
                "pools": [{"name": f"{name}-fra", "site": "fra", "unit_price": 0.1, "min": 3, "max": 60}],
            }
            for name in ("shop", "api")
        ]
        said: dict[str, Any] = {
            "predict": {"model": ""},
            "detect": {"model": ""},
            "guards": {"warmup_s": 0},
            "act": {"verify_s": 0},
            "ledger": {"url": f"sqlite:///{tmp_path}/ledger.db", "kill_file": str(tmp_path / "KILL")},
            "runtime": {"worker": "w", "clock": "event", "health": str(tmp_path / "health.json")},
            "clouds": {"sim": {"adapter": "forecastle.clouds.sim:open_cloud", "options": {"path": str(tmp_path / "sim.db")}}},
            "fleet": {"sites": [{"name": "fra", "provider": "aws", "region": "eu"}], "workloads": loads},
        }
        for section, fields in changes.items():
            said[section] = said.get(section, {}) | fields
        path = tmp_path / "config.yaml"
        path.write_text(json.dumps(said), encoding="utf-8")
        return load([path], environment={})

    return make


@pytest.fixture
def settings(configure: Callable[..., Settings]) -> Settings:
    return configure()


@pytest.fixture
def ledger(settings: Settings) -> Iterator[SqlLedger]:
    made = SqlLedger(settings.ledger, EventClock(START))
    yield made
    made.close()


def plan(workload: str = "shop", number: int = 0, expires_at: int = START + 5 * STEP, approvals: int = 1) -> Plan:
    action = Action(Kind.SCALE, workload, f"{workload}-fra", 4, 3, START, START + 5 * STEP)
    evidence = {workload: View(floor=6, wanted=6, sources=2, late=False).as_evidence()}
    return Plan(
        f"{workload}-{number}", START, "aws/eu/", (action,), "more", evidence, (), {workload: 6}, 1.0, expires_at, approvals
    )


def replicas(tmp_path: Path, workload: str) -> int:
    """What the cloud says now."""
    cloud = SimCloud(clock=EventClock(START), path=str(tmp_path / "sim.db"))
    found = cloud.observe(Pool(f"{workload}-fra", workload, "fra", "sim", 0.1, min=3)).replicas
    cloud.close()
    return found


# --- furnishing -------------------------------------------------------------------------------------------------------


def test_the_clock_is_the_one_that_was_asked_for(configure: Callable[..., Settings]) -> None:
    assert isinstance(clock(configure()), EventClock)
    wall = clock(configure(runtime={"clock": "wall"}))
    assert isinstance(wall, WallClock)
    before = wall.now()
    wall.advance(before + 10 * STEP)
    assert before <= wall.now() < before + 5 * STEP, "the wall waits for no tick"
    assert wall.monotonic() <= wall.monotonic()


def test_event_time_never_goes_back() -> None:
    at = EventClock(START)
    at.advance(START - STEP)
    assert (at.now(), at.monotonic()) == (START, START / 1000)
    at.advance(START + 1)
    assert at.now() == START + 1


def test_memory_reaches_as_far_as_the_longest_chain(configure: Callable[..., Settings]) -> None:
    short = {"group_s": 60, "close_s": 60, "look_back": 30, "warmup": 10, "adopt_s": 60}
    assert memory_ticks(configure(predict={"coverage_window": 20}, detect=short)) == 20 + RING + 1 + 2
    assert memory_ticks(configure(predict={"coverage_window": 20}, detect=short | {"close_s": 150})) == 20 + RING + 1 + 4
    assert memory_ticks(configure(predict={"coverage_window": 20}, detect=short | {"look_back": 500})) == 500
    assert memory_ticks(configure(predict={"coverage_window": 20}, detect=short | {"adopt_s": 1800})) == 20 + RING + 1 + 31
    watched = {"model": "forecaster", "coverage_window": 20, "horizon": 10, "drift_window": 100, "drift_hold": 40}
    assert memory_ticks(configure(predict=watched, detect=short)) == 10 + 100 + 50 + 3 * 40, "a model's drift is as it was"


def test_a_named_detector_is_followed_and_no_name_is_none(configure: Callable[..., Settings]) -> None:
    assert isinstance(detection(configure(), STEP), Detection)
    assert isinstance(detection(configure(detect={"model": "shop.detector"}), STEP), SwappingDetection)


def test_incidents_are_judged_by_objectives_and_know_of_releases(configure: Callable[..., Settings]) -> None:
    load = configure().fleet.workloads[0].model_dump(mode="json", exclude_unset=True)
    load |= {"slo": {"name": "fast", "target": 0.99}, "vetoes": [{"metric": "p99", "above": 400}]}
    loop = furnish(configure(fleet={"workloads": [load]}), intake=MemoryIntake([], EventClock(START)))
    with loop.rooms.ledger.writing() as entries:
        entries.add(RELEASE, {"pool": "shop-fra", "release": "r2", "before": "r1"}, START - STEP)
    values, none = np.full((1, 5), 900, np.float32), np.zeros(1, bool)
    windows = Windows((SeriesKey("shop", "p99"),), START, STEP, values, values > 0, none, none)
    (incident,) = loop.rooms.group([Anomaly(SeriesKey("shop", "rps"), START, 2.0, 1.5, AnomalyKind.DIP)], START, windows)
    loop.rooms.ledger.close()
    assert incident.severity is Severity.CRITICAL
    assert incident.cause == ("rps dip; objective fast (99%) missed: p99 900, limit 400; release r2 since 08:53 UTC, r1 before")


def test_detection_is_told_of_the_occasions_of_a_workloads_demand(configure: Callable[..., Settings]) -> None:
    load = configure().fleet.workloads[0].model_dump(mode="json", exclude_unset=True)
    sale = {"name": "sale", "start": "2023-11-14T10:00", "end": "2023-11-14T12:00", "zone": "UTC", "factor": 3}
    loop = furnish(configure(fleet={"workloads": [load | {"events": [sale]}]}), intake=MemoryIntake([], EventClock(START)))
    loop.rooms.ledger.close()
    detectors = loop.rooms.detection
    assert isinstance(detectors, Detection)
    hours = [1_699_956_000_000 + hour * 3_600_000 for hour in range(4)]
    assert [[e.name for e in detectors.occasions(SeriesKey("shop", "rps"), at, at + 60_000)] for at in hours] == [
        ["sale"],
        ["sale"],
        [],
        [],
    ]
    assert not detectors.occasions(SeriesKey("shop", "p99"), hours[0], hours[1])


def test_a_house_with_a_problem_is_not_furnished_and_touches_no_ledger(
    configure: Callable[..., Settings], tmp_path: Path
) -> None:
    broken = configure(fleet={"sites": []})
    with pytest.raises(ConfigError, match=r"site 'fra' is not in fleet\.sites"):
        furnish(broken)
    assert not (tmp_path / "ledger.db").exists()


def test_a_worker_whose_role_is_taken_leaves_when_asked(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other holds the lock; a signal comes while this one waits: it goes, and has written no heartbeat."""
    import contextlib

    from forecastle.runtime import wiring

    stop = threading.Event()
    monkeypatch.setattr(wiring, "stopping", lambda: contextlib.nullcontext(stop))
    with role(tmp_path / "health.lock", threading.Event()) as held:
        assert held
        threading.Timer(0.2, stop.set).start()
        run_worker(settings, shift_s=60.0, record=None)
    assert not (tmp_path / "health.json").exists()


# --- plans that people approve later ----------------------------------------------------------------------------------


def test_only_approved_plans_are_carried_out_and_once(settings: Settings, ledger: SqlLedger, tmp_path: Path) -> None:
    ledger.record(START, "w", [plan("shop"), plan("api")])
    for one in (plan("shop"), plan("api")):
        ledger.request(one, "engine", 1)
    assert resume_plans(settings) == []
    ledger.approve("shop-0", "ann")
    (outcome,) = resume_plans(settings)
    assert (outcome.workload, outcome.status) == ("shop", Status.APPLIED)
    assert (replicas(tmp_path, "shop"), replicas(tmp_path, "api")) == (4, 3)
    (again,) = resume_plans(settings)
    assert again.action_id == outcome.action_id
    assert [entry.kind for entry in ledger.history()].count("intent") == 1


def test_a_named_workload_leaves_the_others_alone(settings: Settings, ledger: SqlLedger, tmp_path: Path) -> None:
    ledger.record(START, "w", [plan("shop"), plan("api")])
    for name in ("shop", "api"):
        ledger.request(plan(name), "engine", 1)
        ledger.approve(f"{name}-0", "ann")
    assert [o.workload for o in resume_plans(settings, "api")] == ["api"]
    assert (replicas(tmp_path, "shop"), replicas(tmp_path, "api")) == (3, 4)


@pytest.mark.parametrize("brake", ["kill", "hold"])
def test_an_approval_does_not_outweigh_a_human_stop(settings: Settings, ledger: SqlLedger, tmp_path: Path, brake: str) -> None:
    ledger.record(START, "w", [plan()])
    ledger.request(plan(), "engine", 1)
    ledger.approve("shop-0", "ann")
    ledger.kill("drill", "bob") if brake == "kill" else ledger.hold("shop", "looking", "bob")
    (outcome,) = resume_plans(settings)
    assert (outcome.status, replicas(tmp_path, "shop")) == (Status.REFUSED, 3)
    assert brake in outcome.detail


def test_an_expired_plan_stays_undone_although_it_was_approved(settings: Settings, ledger: SqlLedger, tmp_path: Path) -> None:
    ledger.record(START, "w", [plan(expires_at=START + STEP)])
    ledger.request(plan(expires_at=START + STEP), "engine", 1)
    ledger.approve("shop-0", "ann")
    ledger.record(START + 2 * STEP, "w", [])
    assert resume_plans(settings) == []
    assert replicas(tmp_path, "shop") == 3
