"""Heartbeats: written whole, read back, and judged."""

import threading
import time
from pathlib import Path

from forecastle.errors import BrokerUnavailable
from forecastle.runtime.health import HealthFile, problem, read
from forecastle.runtime.worker import attempt, role


def test_a_heartbeat_is_read_back_as_written(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "health.json"
    health = HealthFile(path, "w")
    health.update(state="RUNNING", last_tick=7, incidents={"i": "critical shop: slow"})
    beat = read(path)
    assert beat == health.beat
    assert beat is not None
    assert (beat.worker, beat.state, beat.last_tick, beat.incidents) == ("w", "RUNNING", 7, {"i": "critical shop: slow"})
    assert list(path.parent.iterdir()) == [path]


def test_counters_alone_are_written_at_the_given_pace(tmp_path: Path) -> None:
    health = HealthFile(tmp_path / "h.json", "w", every_s=3600)
    health.update(samples=5)
    stale = read(tmp_path / "h.json")
    assert stale is not None
    assert stale.samples == 0
    health.update(state="RUNNING")
    fresh = read(tmp_path / "h.json")
    assert fresh is not None
    assert fresh.samples == 5


def test_missing_stale_and_holding_workers_are_unhealthy(tmp_path: Path) -> None:
    path = tmp_path / "h.json"
    assert "no heartbeat" in problem(path, 10)
    health = HealthFile(path, "w")
    assert problem(path, 10) == ""
    assert "stuck or gone" in problem(path, -1)
    health.update(state="HOLD", detail="broker away", hold_since=time.time_ns() // 1_000_000 - 5000)
    assert "HOLD for 5 s: broker away" in problem(path, 10)


def test_transient_trouble_is_held_and_then_forgotten(tmp_path: Path) -> None:
    health = HealthFile(tmp_path / "h.json", "w")
    health.update(state="RUNNING")
    states = []

    def call() -> int:
        states.append(health.beat.state)
        if len(states) < 3:
            raise BrokerUnavailable("away", retry_after=0.001)
        return 42

    assert attempt(call, health, threading.Event()) == 42
    assert states == ["RUNNING", "HOLD", "HOLD"]
    assert (health.beat.state, health.beat.detail) == ("RUNNING", "")


def test_a_stop_ends_the_waiting(tmp_path: Path) -> None:
    stop = threading.Event()

    def call() -> int:
        stop.set()
        raise BrokerUnavailable("away", retry_after=3600)

    assert attempt(call, HealthFile(tmp_path / "h.json", "w"), stop) is None


def test_a_role_has_one_holder_and_passes_on(tmp_path: Path) -> None:
    path, stop, order = tmp_path / "role.lock", threading.Event(), []

    def successor() -> None:
        with role(path, stop) as held:
            order.append(("successor", held))

    with role(path, stop) as held:
        assert held
        thread = threading.Thread(target=successor)
        thread.start()
        time.sleep(0.2)
        order.append(("first", True))
    thread.join(60)
    assert order == [("first", True), ("successor", True)]


def test_waiting_for_a_role_can_be_stopped(tmp_path: Path) -> None:
    path, stop = tmp_path / "role.lock", threading.Event()
    with role(path, stop):
        stop.set()
        with role(path, stop) as held:
            assert not held
