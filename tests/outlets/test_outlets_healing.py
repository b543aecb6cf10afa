"""An alert in the loop: heard at the next tick, recorded with the situation, and alone never enough to disrupt."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from outlet_worlds import START, STEP
from test_outlets_listeners import settings, waves

from forecastle.errors import ConfigError
from forecastle.intake.memory import MemoryIntake
from forecastle.runtime.clocks import EventClock
from forecastle.runtime.health import HealthFile
from forecastle.runtime.listeners import listening
from forecastle.runtime.loop import Loop, Turned
from forecastle.runtime.records import inventory_digest, read, recorder, replay_file
from forecastle.runtime.wiring import furnish
from forecastle.settings import Settings
from forecastle.types import Kind

TOKEN = "t" * 40


def alert(status: str = "firing", name: str = "TooSlow", **labels: str) -> dict[str, Any]:
    named = {"alertname": name, "workload": "shop", "site": "fra", "severity": "critical"} | labels
    return {"status": status, "labels": named, "annotations": {"summary": "p99 is 2 s"}, "fingerprint": f"f-{name}"}


def ring(port: int, *alerts: dict[str, Any]) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    body = json.dumps({"version": "4", "alerts": alerts})
    connection.request("POST", "/alertmanager", body, {"authorization": f"Bearer {TOKEN}"})
    status = connection.getresponse().status
    connection.close()
    return status


def chosen(folder: Path, port: int, *playbooks: dict[str, Any]) -> Settings:
    made = settings(folder, doorbell={"port": port, "tokens": ["DOOR_TOKEN"]})
    return Settings.model_validate(made.model_dump() | {"playbooks": playbooks})


@contextmanager
def playing(config: Settings, first: int, last: int, *, then: dict[int, Callable[[], object]] | None = None) -> Any:
    """A loop that has played ticks ``first`` to ``last``; ``then`` is called once its tick (number) was turned."""
    intake = MemoryIntake(waves(first, last), EventClock(START + last * STEP), per_poll=1)
    loop = furnish(config, intake=intake)
    turns: list[Turned] = []
    calls = dict(then or {})
    try:
        with listening(config, loop, HealthFile(Path(config.runtime.health), "w")):
            loop.listeners.append(turns.append)
            loop.listeners.append(recorder(Path(config.runtime.health).with_name("record.jsonl"), inventory_digest(config)))
            loop.resume()
            while loop.turn(0.0):
                for number in [n for n in calls if turns and turns[-1].closed.tick >= START + n * STEP]:
                    calls.pop(number)()
            yield loop, turns
    finally:
        for cloud in loop.rooms.clouds.values():
            cloud.close()
        loop.rooms.ledger.close()


def alerted(turns: list[Turned]) -> list[int]:
    """Numbers of the ticks that had an incident with an alert in it."""
    return [
        (t.closed.tick - START) // STEP
        for t in turns
        if any(a.key.metric.startswith("alert/") for i in t.closed.incidents for a in i.anomalies)
    ]


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOOR_TOKEN", TOKEN)


NOTIFY = {"name": "tell", "metric": "alert/*", "severity": "critical", "action": "notify"}
RESTART = {"name": "again", "metric": "alert/*", "severity": "critical", "action": "restart", "approval": "A"}


def test_an_alert_is_heard_from_the_next_tick_until_it_is_resolved(tmp_path: Path, free_port: int) -> None:
    calls = {5: lambda: ring(free_port, alert()), 9: lambda: ring(free_port, alert("resolved"))}
    with playing(chosen(tmp_path, free_port, NOTIFY), 0, 15, then=calls) as (_, turns):
        assert alerted(turns) == [6, 7, 8, 9]
        assert len({i.id for t in turns for i in t.closed.incidents if i.site == "fra"}) == 1
        told = [a.reason for t in turns for p in t.plans for a in p.actions if a.kind is Kind.NOTIFY]
        assert told == ["tell: critical shop fra: alert/TooSlow: p99 is 2 s"]  # once, not at each tick


def test_it_is_no_anomaly_that_we_found(tmp_path: Path, free_port: int) -> None:
    with playing(chosen(tmp_path, free_port), 0, 9, then={3: lambda: ring(free_port, alert())}) as (_, turns):
        assert alerted(turns)
        assert not [a for t in turns for a in t.closed.anomalies if a.key.metric.startswith("alert/")]


def test_alone_it_restarts_nothing_however_loud(tmp_path: Path, free_port: int) -> None:
    """Three critical alerts from one Alertmanager are one witness; a disruptive action needs two."""
    loud = [alert(name=name) for name in ("A", "B", "C")]
    with playing(chosen(tmp_path, free_port, RESTART), 0, 12, then={4: lambda: ring(free_port, *loud)}) as (_, turns):
        assert [i.signals for i in turns[-1].closed.incidents if i.site == "fra"] == [1]
        refusals = {(r.guard, r.pool) for t in turns for p in t.plans for r in p.refusals}
        assert ("quorum", "shop-fra") in refusals
        assert not [o for t in turns for o in t.outcomes if o.kind is Kind.RESTART]


def test_a_replay_of_the_record_sees_the_alert_and_decides_the_same(tmp_path: Path, free_port: int) -> None:
    config = chosen(tmp_path, free_port, RESTART)
    with playing(config, 0, 12, then={4: lambda: ring(free_port, alert())}):
        pass
    path = tmp_path / "record.jsonl"
    seen = [a for r in read(path) for i in r.situation.incidents for a in i.anomalies if a.key.metric == "alert/TooSlow"]
    assert [(a.at - START) // STEP for a in seen] == [5, 6, 7, 8, 9, 10]
    same, different = replay_file(path, config)
    assert (same, different) == (11, [])


def test_a_restart_hears_it_again_and_knows_the_incident(tmp_path: Path, free_port: int) -> None:
    config = chosen(tmp_path, free_port, NOTIFY)
    with playing(config, 0, 12, then={5: lambda: ring(free_port, alert())}) as (_, turns):
        before = {i.id for t in turns for i in t.closed.incidents if i.site == "fra"}
    with playing(config, 0, 18) as (_, turns):
        assert alerted(turns) == list(range(6, 17))
        assert {i.id for t in turns for i in t.closed.incidents if i.site == "fra"} == before


def test_workloads_of_other_workers_are_not_this_ones_trouble(tmp_path: Path, free_port: int) -> None:
    """The inventory has it, but its series are on another worker's partitions."""
    made = chosen(tmp_path, free_port).model_dump()
    other = made["fleet"]["workloads"][0] | {"name": "mail", "pools": ()}
    pool = made["fleet"]["workloads"][0]["pools"][0] | {"name": "mail-fra"}
    made["fleet"]["workloads"] = (*made["fleet"]["workloads"], other | {"pools": (pool,)})
    config = Settings.model_validate(made)
    answers: list[int] = []
    with playing(config, 0, 9, then={3: lambda: answers.append(ring(free_port, alert(workload="mail")))}) as (_, turns):
        assert answers == [200]
        assert alerted(turns) == []


def test_without_a_port_nobody_can_ring(tmp_path: Path, free_port: int) -> None:
    with playing(settings(tmp_path), 0, 4) as (loop, turns):
        assert isinstance(loop, Loop)
        assert loop.rooms.hear(turns[-1].closed.tick) == ()
        with pytest.raises(OSError, match="refused"):
            ring(free_port, alert())


def test_a_worker_does_not_start_with_a_door_that_is_open_to_all(
    tmp_path: Path, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DOOR_TOKEN")
    with pytest.raises(ConfigError, match="DOOR_TOKEN holds less than"), playing(chosen(tmp_path, free_port), 0, 2):
        pass


def test_together_with_what_was_measured_it_heals_and_then_asks_for_people(tmp_path: Path, free_port: int) -> None:
    """The demand departs from what was expected at tick 9: a second witness. Two attempts later a human is told instead."""
    anywhere = alert()
    del anywhere["labels"]["site"]
    with playing(chosen(tmp_path, free_port, RESTART), 0, 30, then={4: lambda: ring(free_port, anywhere)}) as (_, turns):
        pass
    signals = {(t.closed.tick - START) // STEP: i.signals for t in turns for i in t.closed.incidents}
    restarts = [(t.closed.tick - START) // STEP for t in turns for o in t.outcomes if o.kind is Kind.RESTART]
    assert restarts
    assert all(signals[number] == 2 for number in restarts)
    assert {signals[number] for number in range(5, restarts[0])} == {1}
    refusals = {(r.guard, r.pool) for t in turns for p in t.plans for r in p.refusals}
    assert ("escalation", "shop-fra") in refusals
    told = [a for t in turns for p in t.plans for a in p.actions if a.kind is Kind.NOTIFY]
    assert told


def test_many_loud_alerts_do_not_scale_anything(tmp_path: Path, free_port: int) -> None:
    """Sizing follows the demand; with and without alerts the same replicas are recommended."""
    found = []
    for name, loud in (("quiet", []), ("loud", [alert(name=f"A{i}") for i in range(50)])):
        folder = tmp_path / name
        folder.mkdir()
        with playing(chosen(folder, free_port), 0, 15, then={3: lambda loud=loud: ring(free_port, *loud)}) as (_, turns):
            found.append([(t.closed.tick, p.recommended) for t in turns for p in t.plans])
    assert found[0] == found[1]
