"""Outlets on a real loop: rooms, ledger and simulated cloud in place, started, stopped and started again."""

from __future__ import annotations

import base64
import json
import math
import socket
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from outlet_worlds import START, STEP, HookReceiver, tick

from forecastle.errors import ConfigError
from forecastle.intake.memory import MemoryIntake
from forecastle.outlets import keda_messages as messages
from forecastle.runtime.clocks import EventClock
from forecastle.runtime.config import load
from forecastle.runtime.health import HealthFile
from forecastle.runtime.listeners import listening
from forecastle.runtime.loop import Loop
from forecastle.runtime.wiring import furnish
from forecastle.settings import Settings

TICKS = 40
SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()


def settings(folder: Path, worker: str = "w", **outlets: Any) -> Settings:
    """A small fleet in auto mode whose outlets are those given."""
    pools = [{"name": f"shop-{site}", "site": site, "unit_price": 0.1} for site in ("fra", "ams")]
    made = {
        "window": {"look_back": 60, "lateness_s": 0},
        "predict": {"model": "", "season": 60, "horizon": 20, "coverage_window": 20},
        "detect": {"model": "", "look_back": 30, "warmup": 10, "season": 0},
        "guards": {"warmup_s": 0},
        "act": {"verify_s": 0},
        "ledger": {"url": f"sqlite:///{folder}/ledger.db", "kill_file": ""},
        "runtime": {"worker": worker, "clock": "event", "health": str(folder / "health.json")},
        "clouds": {"sim": {"adapter": "forecastle.clouds.sim:open_cloud", "options": {"path": str(folder / "sim.db")}}},
        "outlets": {"cursors": str(folder / "outlets")} | outlets,
        "fleet": {
            "sites": [
                {"name": "fra", "provider": "aws", "region": "eu-central-1"},
                {"name": "ams", "provider": "gcp", "region": "europe-west4"},
            ],
            "workloads": [
                {"name": "shop", "mode": "auto", "min": 2, "demands": [{"metric": "rps", "per_replica": 40}], "pools": pools}
            ],
        },
    }
    path = folder / f"{worker}.yaml"
    path.write_text(json.dumps(made), encoding="utf-8")
    return load([path], environment={})


def waves(first: int, last: int) -> Iterable[bytes]:
    for i in range(first, last):
        value = 400 + 300 * math.sin(i * math.tau / 30)
        yield json.dumps({"workload": "shop", "metric": "rps", "at": START + i * STEP, "value": value}).encode()


@contextmanager
def working(chosen: Settings, ticks: int = TICKS, *, first: int = 0) -> Iterator[Loop]:
    """A loop with its outlets that has played everything; the outlets are open inside."""
    loop = furnish(chosen, intake=MemoryIntake(waves(first, ticks), EventClock(START + ticks * STEP), per_poll=5))
    try:
        with listening(chosen, loop, HealthFile(Path(chosen.runtime.health), chosen.runtime.worker)):
            loop.resume()
            while loop.turn(0.0):
                pass
            yield loop
    finally:
        for cloud in loop.rooms.clouds.values():
            cloud.close()
        loop.rooms.ledger.close()


def page(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        return str(answer.read().decode())


def told(receiver: HookReceiver) -> list[tuple[str, str]]:
    """(id, type) of what the receiver got, in order."""
    return [(headers["webhook-id"], json.loads(body)["type"]) for _, headers, body in receiver.got]


@pytest.fixture
def two_ports() -> int:
    """The first of two neighbouring loopback ports that nobody listened on a moment ago."""
    for _ in range(100):
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            try:
                second.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port
    raise AssertionError("no two neighbouring ports are free")


@pytest.fixture
def hooked(monkeypatch: pytest.MonkeyPatch) -> Callable[[HookReceiver], dict[str, Any]]:
    """The setting of a webhook that leads to the receiver."""
    monkeypatch.setenv("HOOK_SECRET", SECRET)

    def make(receiver: HookReceiver) -> dict[str, Any]:
        return {"url": f"http://127.0.0.1:{receiver.port}/", "secrets": ["HOOK_SECRET"], "networks": ["127.0.0.0/8"]}

    return make


def test_without_a_word_in_the_configuration_nobody_listens(tmp_path: Path) -> None:
    with working(settings(tmp_path), 5) as loop:
        told = [listener.__module__ for listener in loop.listeners]
        assert told == ["forecastle.runtime.feedback", "forecastle.runtime.releases"], "those of the ledger alone"
    assert not (tmp_path / "outlets").exists()


def test_prometheus_and_keda_agree_with_the_ledger(tmp_path: Path, two_ports: int) -> None:
    chosen = settings(tmp_path, metrics_port=two_ports, keda_port=two_ports + 1, horizons_s=[60, 600])
    with working(chosen) as loop:
        recommended = next(plan.recommended["shop"] for plan in loop.rooms.ledger.plans(loop.last_tick, "w") or ())
        text = page(two_ports)
        assert f'forecastle_recommended_replicas{{workload="shop"}} {float(recommended)}' in text
        assert f"forecastle_last_tick_timestamp_seconds {tick(TICKS - 2) / 1000:.17g}".split()[0] in text
        assert 'forecastle_ticks_total{phase="decided"} 39.0' in text
        assert 'status="APPLIED"} ' in text
        assert 'horizon="600",metric="rps",quantile="0.9"' in text
        with grpc.insecure_channel(f"127.0.0.1:{two_ports + 1}") as channel:
            request = messages.GetMetricsRequest(scaledObjectRef=messages.ScaledObjectRef(name="shop"))
            answer = channel.unary_unary("/externalscaler.ExternalScaler/GetMetrics")(request.SerializeToString(), timeout=60)
        assert messages.GetMetricsResponse.FromString(answer).metricValues[0].metricValueFloat == recommended


def test_workers_of_one_machine_do_not_meet(tmp_path: Path, two_ports: int) -> None:
    with (
        working(settings(tmp_path, "w-0-0", metrics_port=two_ports), 3),
        working(settings(tmp_path, "w-0-1", metrics_port=two_ports), 3),
    ):
        assert "forecastle_build_info" in page(two_ports)
        assert "forecastle_build_info" in page(two_ports + 1)


def test_plans_and_outcomes_reach_a_webhook(
    tmp_path: Path, receiver: HookReceiver, hooked: Callable[[HookReceiver], dict[str, Any]]
) -> None:
    with working(settings(tmp_path, webhooks=[hooked(receiver)])):
        pass
    found = told(receiver)
    assert len(set(found)) == len(found), "nothing is told twice"
    kinds = {kind for _, kind in found}
    assert {"forecastle.plan.made", "forecastle.action.concluded"} <= kinds


def test_a_restart_tells_nothing_twice_and_forgets_nothing(
    tmp_path: Path, receiver: HookReceiver, hooked: Callable[[HookReceiver], dict[str, Any]]
) -> None:
    chosen = settings(tmp_path, webhooks=[hooked(receiver) | {"attempts": 1000}])
    with working(chosen, 15):
        pass
    before = set(told(receiver))
    assert before
    receiver.answers = [(503, {"retry-after": "60"})]  # away for the rest of the second shift
    with working(chosen, 25):
        pass
    assert set(told(receiver)) - before, "one was tried"
    with working(chosen, TICKS):
        pass
    delivered = told(receiver)
    other = tmp_path / "other"
    other.mkdir()
    plain = HookReceiver()
    plain.thread.start()
    with working(settings(other, webhooks=[hooked(plain)]), TICKS):
        pass
    plain.server.shutdown()
    plain.server.server_close()
    plain.thread.join()
    made = {found for found in told(plain) if found[1] == "forecastle.plan.made"}
    assert made
    assert made <= set(delivered), "every plan of an undisturbed run is there"


def test_an_outlet_that_cannot_be_opened_closes_the_others(
    tmp_path: Path, receiver: HookReceiver, hooked: Callable[[HookReceiver], dict[str, Any]], free_port: int
) -> None:
    chosen = settings(tmp_path, metrics_port=free_port, keda_port=free_port, webhooks=[hooked(receiver)])
    with pytest.raises(ConfigError, match=r"outlets\.keda_port: "), working(chosen, 3):
        pass
    with working(settings(tmp_path, metrics_port=free_port), 3):
        assert "forecastle_build_info" in page(free_port)


def test_a_secret_that_is_not_in_the_environment_is_said(
    tmp_path: Path, receiver: HookReceiver, hooked: Callable[[HookReceiver], dict[str, Any]]
) -> None:
    chosen = settings(tmp_path, webhooks=[hooked(receiver) | {"secrets": ["NOT_THERE"]}])
    with pytest.raises(ConfigError, match="NOT_THERE does not hold whsec_"), working(chosen, 3):
        pass


def test_kafka_in_the_clear_over_a_network_is_refused_for_events_too(tmp_path: Path) -> None:
    made = settings(tmp_path, events_topic="events")
    chosen = made.model_copy(update={"intake": made.intake.model_copy(update={"bootstrap": "kafka.example:9092"})})
    loop = furnish(settings(tmp_path), intake=MemoryIntake([], EventClock(START)))
    with (
        pytest.raises(ConfigError, match=r"intake\.security_protocol"),
        listening(chosen, loop, HealthFile(tmp_path / "h.json", "w")),
    ):
        pass
    loop.rooms.ledger.close()
