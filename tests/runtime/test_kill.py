"""Kill -9 in mid-stream, against the real broker: nothing lost, nothing done twice, the same plans as undisturbed."""

import json
import math
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from forecastle.intake.publish import create_topics
from forecastle.ledger.store import SqlLedger
from forecastle.runtime.broker import LocalBroker
from forecastle.runtime.clocks import EventClock
from forecastle.runtime.config import load
from forecastle.runtime.health import read
from forecastle.types import Kind, Plan

STEP = 60_000
START = 1_760_000_040_000 // STEP * STEP
HISTORY, PLAY = 90, 420
WORKLOADS = ("shop", "search", "video")
POISON_EVERY = 37
LAST = START + (HISTORY + PLAY - 2) * STEP
"""The last tick that closes without waiting for silence: samples of one later minute are there."""
KILLS = 10


def demand(name: str, tick: int) -> float:
    """Requests per second: a cycle of two hours with a different phase for each workload and one flash crowd."""
    phase = WORKLOADS.index(name) * 40
    crowd = 300.0 if name == "search" and 250 <= tick < 290 else 0.0
    return 400.0 + 250.0 * math.sin((tick + phase) * 2 * math.pi / 120) + 7.0 * (tick * 7919 % 11) + crowd


def messages() -> list[tuple[str, int, bytes]]:
    """(key, event time, value) of every message, oldest first: two metrics per workload and minute, poison in between."""
    out = []
    for tick in range(HISTORY + PLAY):
        at = START + tick * STEP
        for name in WORKLOADS:
            metrics = {"requests_per_second": demand(name, tick), "latency_p99_ms": 80.0 + tick % 5}
            for metric, value in metrics.items():
                body = {"workload": name, "metric": metric, "at": at, "value": value}
                out.append((name, at, json.dumps(body).encode()))
            if (tick + WORKLOADS.index(name)) % POISON_EVERY == 0:
                bad = f'{{"workload":"{name}","metric":"requests_per_second","at":{at},"value":1e999}}'
                out.append((name, at, bad.encode()))
    return out


def configuration(folder: Path, bootstrap: str, topic: str, group: str) -> Path:
    """A worker of its own group, ledger, sim cloud and health file, over the shared topic."""
    pools = [
        {"name": f"{load}-{site}", "site": site, "unit_price": price, "min": 1, "max": 60, "startup_s": 120}
        for load in WORKLOADS
        for site, price in (("fra", 0.1), ("ams", 0.09))
    ]
    settings = {
        "intake": {
            "bootstrap": bootstrap,
            "topics": [topic],
            "codecs": {topic: "json"},
            "group": group,
            "instance": group,
            "dead_letter_topic": f"{topic}.{group}.dead",
            "max_poll_records": 50,
        },
        "window": {"look_back": 120, "lateness_s": 0},
        "predict": {"model": "", "season": 120, "horizon": 10, "coverage_window": 40},
        "detect": {"model": "", "look_back": 60, "warmup": 30, "season": 0, "budget": 50},
        "guards": {"warmup_s": 600},
        "act": {"verify_s": 0},
        "ledger": {"url": f"sqlite:///{folder}/ledger.db", "kill_file": str(folder / "KILL")},
        "runtime": {
            "worker": "w",
            "clock": "event",
            "health": str(folder / "health.json"),
            "not_before": START + HISTORY * STEP,
        },
        "clouds": {"sim": {"adapter": "forecastle.clouds.sim:open_cloud", "options": {"path": str(folder / "sim.db")}}},
        "playbooks": [{"name": "tell", "severity": "info", "action": "notify"}],
        "fleet": {
            "sites": [
                {"name": "fra", "provider": "aws", "region": "eu-central-1"},
                {"name": "ams", "provider": "gcp", "region": "europe-west4"},
            ],
            "workloads": [
                {
                    "name": load,
                    "mode": "auto",
                    "min": 2,
                    "lead_time_s": 180,
                    "demands": [{"metric": "requests_per_second", "per_replica": 40}],
                    "vetoes": [{"metric": "latency_p99_ms", "above": 400}],
                    "pools": [pool for pool in pools if str(pool["name"]).startswith(load)],
                }
                for load in WORKLOADS
            ],
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.yaml"
    path.write_text(json.dumps(settings), encoding="utf-8")  # JSON is YAML
    return path


class Workers:
    """Worker processes, none of which outlives the test."""

    def __init__(self) -> None:
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, config: Path) -> subprocess.Popen[bytes]:
        with (config.parent / "worker.log").open("ab") as log:
            command = [sys.executable, "-m", "forecastle.cli", "run", "--config", str(config)]
            self.started.append(subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "PYTHONUNBUFFERED": "1"}))
        return self.started[-1]

    def kill(self) -> None:
        for worker in self.started:
            worker.kill()
            worker.wait()


@pytest.fixture
def workers() -> Iterator[Workers]:
    found = Workers()
    yield found
    found.kill()


def reached(config: Path, tick: int, worker: subprocess.Popen[bytes], seconds: float = 120) -> None:
    """Wait until the ledger's newest decided tick is at least ``tick``."""
    path, ends = config.parent / "health.json", time.monotonic() + seconds
    while time.monotonic() < ends:
        beat = read(path)
        if beat is not None and beat.last_tick >= tick:
            return
        if worker.poll() is not None:
            break
        time.sleep(0.005)
    pytest.fail(f"no progress to {tick}: {read(path)}\n{(config.parent / 'worker.log').read_text()[-3000:]}")


def finish(worker: subprocess.Popen[bytes]) -> None:
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(120) == 0


def plans(config: Path) -> dict[str, tuple[Plan, ...]]:
    """Every decided tick of the run with its plans, from the ledger."""
    ledger = SqlLedger(load([config], environment={}).ledger, EventClock())
    ledger.verify()
    ticks = range(START + HISTORY * STEP, LAST + 1, STEP)
    found = {str(tick): ledger.plans(tick, "w") for tick in ticks}
    assert all(recorded is not None for recorded in found.values()), "every tick was decided"
    return {tick: recorded or () for tick, recorded in found.items()}


def dead_letters(bootstrap: str, topic: str) -> list[bytes]:
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False, auto_offset_reset="earliest")
    parts = [TopicPartition(topic, p) for p in consumer.partitions_for_topic(topic) or ()]
    consumer.assign(parts)
    ends = consumer.end_offsets(parts)
    keys: list[bytes] = []
    while any(consumer.position(part) < ends[part] for part in parts):
        keys += [record.key for batch in consumer.poll(500).values() for record in batch]
    consumer.close()
    return sorted(keys)


def effects(config: Path) -> list[tuple[object, ...]]:
    """What the cloud was really told: every order the sim accepted, in order."""
    with sqlite3.connect(config.parent / "sim.db") as db:
        return db.execute("select token, pool, at from orders order by at, pool, token").fetchall()


def publish(bootstrap: str, topic: str, everything: list[tuple[str, int, bytes]]) -> None:
    """Records carry the event time as their timestamp, as a replay of history must."""
    producer = KafkaProducer(bootstrap_servers=bootstrap, linger_ms=20)
    for key, at, value in everything:
        producer.send(topic, value, key=key.encode(), timestamp_ms=at)
    producer.flush()
    producer.close()


@pytest.mark.broker
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kill_nine_ten_times_changes_nothing(
    broker: LocalBroker, topic_name: Callable[[str], str], workers: Workers, tmp_path: Path
) -> None:
    topic, everything = topic_name("kill"), messages()
    calm = configuration(tmp_path / "calm", broker.bootstrap, topic, topic_name("calm"))
    shaken = configuration(tmp_path / "shaken", broker.bootstrap, topic, topic_name("shaken"))
    intake = load([shaken], environment={}).intake
    create_topics(intake, [topic], partitions=2)
    for config in (calm, shaken):
        create_topics(intake, [load([config], environment={}).intake.dead_letter_topic], partitions=1)
    publish(broker.bootstrap, topic, everything)

    worker = workers.start(calm)
    reached(calm, LAST, worker, 240)
    finish(worker)

    rng = random.Random(20260101)
    worker = workers.start(shaken)
    for kill in range(KILLS):
        reached(shaken, START + (HISTORY + rng.randrange(PLAY * kill // KILLS, PLAY * (kill + 1) // KILLS)) * STEP, worker)
        time.sleep(rng.random() * 0.05)
        worker.kill()
        assert worker.wait() == -signal.SIGKILL
        assert read(shaken.parent / "health.json").last_tick < LAST, "it died in the middle"
        worker = workers.start(shaken)
    reached(shaken, LAST, worker, 240)
    finish(worker)

    expected, found = plans(calm), plans(shaken)
    different = [tick for tick in expected if expected[tick] != found[tick]]
    assert different == []
    actions = [a for tick in expected.values() for plan in tick for a in plan.actions]
    assert sum(a.kind is Kind.SCALE for a in actions) > 20, "the run was not idle"
    assert any(a.kind is Kind.NOTIFY for a in actions), "and people were told of incidents"
    told = effects(shaken)
    assert len({row[0] for row in told}) == len(told), "no token took effect twice"
    assert told == effects(calm)
    poison = sum(b"1e999" in value for *_, value in everything)
    letters = dead_letters(broker.bootstrap, intake.dead_letter_topic)
    assert len(letters) == poison, "each refused record is dead-lettered"
    assert len(set(letters)) == poison, "and exactly once"
