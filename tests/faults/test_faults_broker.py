"""The network between us and the broker fails in the middle of things: nothing is lost, nothing is skipped, and it is said."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tcp_proxy import FaultProxy

from forecastle.errors import BrokerUnavailable
from forecastle.intake import consumer as consuming
from forecastle.intake.connection import options
from forecastle.intake.consumer import KafkaIntake
from forecastle.intake.dead_letters import DeadLetters
from forecastle.intake.publish import create_topics
from forecastle.runtime.broker import LocalBroker
from forecastle.runtime.health import HealthFile, problem, read
from forecastle.runtime.worker import attempt
from forecastle.settings import IntakeSettings

pytestmark = pytest.mark.broker
T0 = 1_700_000_000_000
MINUTE = 60_000


class Clock:
    def now(self) -> int:
        return T0 + 10_000 * MINUTE

    def monotonic(self) -> float:
        return time.monotonic()


@pytest.fixture
def proxy(broker: LocalBroker) -> Iterator[FaultProxy]:
    with FaultProxy(("127.0.0.1", broker.port), swap=True) as running:
        yield running


@pytest.fixture
def direct(broker: LocalBroker, topic_name: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> IntakeSettings:
    """Settings that reach the broker without the proxy; silence is suspect after half a second."""
    monkeypatch.setattr(consuming, "PROBE_S", 0.5)
    topic = topic_name("metrics")
    made = IntakeSettings(
        bootstrap=broker.bootstrap,
        topics=(topic,),
        codecs={topic: "json"},
        group=topic_name("group"),
        dead_letter_topic=topic_name("dead"),
        max_poll_records=50,
    )
    create_topics(made, [topic, made.dead_letter_topic], partitions=1)
    return made


def via(settings: IntakeSettings, proxy: FaultProxy) -> IntakeSettings:
    return settings.model_copy(update={"bootstrap": proxy.bootstrap})


def produce(settings: IntakeSettings, *values: bytes) -> None:
    from kafka import KafkaProducer

    producer = KafkaProducer(**options(settings), acks="all")
    for i, value in enumerate(values):
        producer.send(settings.topics[0], value, partition=0, timestamp_ms=T0 + i * MINUTE)
    producer.flush()
    producer.close()


def message(i: int) -> bytes:
    return json.dumps(
        {"workload": "w", "metric": "m", "at": T0 + i * MINUTE, "value": i, "labels": {"pad": "x" * 100}}
    ).encode()


def committed(settings: IntakeSettings) -> int:
    """Committed offset of the group's only partition, as the broker tells it."""
    from kafka import KafkaConsumer, TopicPartition

    reader = KafkaConsumer(**options(settings), group_id=settings.group, enable_auto_commit=False)
    found = reader.committed(TopicPartition(settings.topics[0], 0))
    reader.close(autocommit=False)
    return found or 0


def letters(settings: IntakeSettings) -> list[bytes]:
    """Keys in the dead-letter topic."""
    from kafka import KafkaConsumer, TopicPartition

    reader = KafkaConsumer(**options(settings), auto_offset_reset="earliest")
    part = TopicPartition(settings.dead_letter_topic, 0)
    reader.assign([part])
    end, found = reader.end_offsets([part])[part], []
    while reader.position(part) < end:
        found += [record.key for records in reader.poll(300).values() for record in records]
    reader.close()
    return found


def poll_until_it_says_so(running: KafkaIntake, found: list[float], limit_s: float = 120.0) -> BrokerUnavailable:
    """Poll, keeping what arrives, until the broker is said to be away."""
    ends = time.monotonic() + limit_s
    while time.monotonic() < ends:
        try:
            found += running.poll(0.1).value.tolist()
        except BrokerUnavailable as error:
            return error
    pytest.fail("a broker that cannot be reached was never missed")


def poll_until(running: KafkaIntake, found: list[float], enough: int, limit_s: float = 120.0) -> None:
    """Poll through whatever trouble is left until ``enough`` samples were found."""
    ends = time.monotonic() + limit_s
    while len(found) < enough and time.monotonic() < ends:
        try:
            found += running.poll(0.1).value.tolist()
        except BrokerUnavailable:
            time.sleep(0.05)


@pytest.mark.parametrize("fault", ["mid-message", "refused", "silent"])
def test_a_cut_in_mid_poll_loses_and_repeats_nothing(direct: IntakeSettings, proxy: FaultProxy, fault: str) -> None:
    produce(direct, *map(message, range(40)))
    running = KafkaIntake(via(direct, proxy), Clock())
    running.start(5 * MINUTE)
    found: list[float] = []
    poll_until(running, found, 10)
    assert found, "it works through the proxy"
    running.commit()
    before = committed(direct)
    {"mid-message": lambda: proxy.cut_after(1_000), "refused": proxy.refuse, "silent": proxy.go_silent}[fault]()
    produce(direct, *map(message, range(40, 120)))
    error = poll_until_it_says_so(running, found)
    assert proxy.bootstrap in str(error) or "polling" in str(error)
    assert len(found) < 120
    with pytest.raises(BrokerUnavailable):
        running.poll(0.1) if fault != "refused" else poll_and_raise(running)
    assert committed(direct) == before, "offsets are unmoved"
    proxy.accept()
    poll_until(running, found, 120)
    assert found == list(range(120)), "in order, each once"
    running.commit()
    assert committed(direct) == 120
    running.close()


def poll_and_raise(running: KafkaIntake) -> None:
    raise poll_until_it_says_so(running, [])


def test_the_outage_is_held_and_its_age_is_shown(direct: IntakeSettings, proxy: FaultProxy, tmp_path: Path) -> None:
    produce(direct, *map(message, range(10)))
    path, stop, found = tmp_path / "health.json", threading.Event(), list[float]()
    health, running = HealthFile(path, "w"), KafkaIntake(via(direct, proxy), Clock())
    running.start(5 * MINUTE)

    def turn() -> int:
        found.extend(running.poll(0.1).value.tolist())
        running.commit()
        return len(found)

    def worker() -> None:
        while not stop.is_set():
            attempt(turn, health, stop)

    thread = threading.Thread(target=worker)
    thread.start()
    try:
        until(lambda: len(found) == 10)
        assert problem(path, 60.0) == ""
        proxy.refuse()
        until(lambda: "HOLD for" in problem(path, 60.0))
        first = read(path)
        time.sleep(1.1)
        assert "HOLD for 0 s" not in problem(path, 60.0), "its age grows"
        later = read(path)
        assert first is not None
        assert later is not None
        assert later.hold_since == first.hold_since > 0
        assert later.detail
        produce(direct, *map(message, range(10, 20)))
        proxy.accept()
        until(lambda: len(found) == 20)
        until(lambda: problem(path, 60.0) == "")
    finally:
        stop.set()
        thread.join(30)
        running.close()
    assert found == list(range(20))
    assert committed(direct) == 20


def until(true: Callable[[], bool], limit_s: float = 120.0) -> None:
    ends = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < ends, f"not true in {limit_s} s"
        time.sleep(0.02)


def test_a_dead_letter_whose_acknowledgement_is_cut_is_there_once(direct: IntakeSettings, proxy: FaultProxy) -> None:
    produce(direct, message(0), b"bad", message(2))
    writer = DeadLetters(via(direct, proxy), timeout_s=1.0)
    running = KafkaIntake(direct, Clock(), writer)
    running.start(5 * MINUTE)
    found: list[float] = []
    sent = writer._post

    def post_and_lose_the_answer(letter: object) -> object:
        future = sent(letter)  # type: ignore[arg-type]
        proxy.cut_after(0)
        return future

    writer._post = post_and_lose_the_answer  # type: ignore[method-assign]
    poll_until_it_says_so(running, found)
    for _ in range(2):
        poll_until_it_says_so(running, found)
    assert found == [], "nothing behind the refused record is taken in before its letter is safe"
    running.commit()
    assert committed(direct) == 0
    writer._post = sent  # type: ignore[method-assign]
    proxy.accept()
    poll_until(running, found, 2)
    assert found == [0, 2]
    running.commit()
    assert committed(direct) == 3
    assert letters(direct) == [f"{direct.topics[0]}/0/1".encode()]
    running.close()


def test_a_slow_network_only_takes_longer(direct: IntakeSettings, proxy: FaultProxy) -> None:
    proxy.delay_s = 0.05
    produce(direct, *map(message, range(100)))
    running = KafkaIntake(via(direct, proxy), Clock())
    running.start(5 * MINUTE)
    found: list[float] = []
    poll_until(running, found, 100)
    running.close()
    assert found == list(range(100))


def test_a_broker_that_is_away_at_the_start_is_waited_for(direct: IntakeSettings, proxy: FaultProxy) -> None:
    produce(direct, *map(message, range(5)))
    proxy.cut_after(20)
    running = KafkaIntake(via(direct, proxy), Clock())
    consuming_ms, consuming.REQUEST_MS = consuming.REQUEST_MS, 1_500
    try:
        with pytest.raises(BrokerUnavailable, match="connecting to"):
            running.start(5 * MINUTE)
        with pytest.raises(BrokerUnavailable, match="not started"):
            running.poll(0.1)
    finally:
        consuming.REQUEST_MS = consuming_ms
    proxy.accept()
    running.start(5 * MINUTE)
    found: list[float] = []
    poll_until(running, found, 5)
    running.close()
    assert found == list(range(5))
