"""Files of samples: every spelling of them that is read, what is said of the others, and that all of it gets into Kafka."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from forecastle.errors import BrokerUnavailable, ConfigError
from forecastle.intake.consumer import KafkaIntake
from forecastle.intake.publish import create_topics, publish, publish_file, read_samples
from forecastle.runtime.broker import LocalBroker
from forecastle.runtime.clocks import WallClock
from forecastle.settings import IntakeSettings
from forecastle.types import Sample, Samples, SeriesKey

START = 1_760_000_040_000
MOMENT = datetime.fromtimestamp(START / 1000, UTC)
KEY, OTHER = SeriesKey("shop", "rps", (("site", "a"),)), SeriesKey("mail", "rps")


def parquet_of(path: Path, **columns: Any) -> Path:
    parquet.write_table(pa.table(columns), path)
    return path


def rows(samples: Samples) -> list[tuple[SeriesKey, int, float]]:
    columns = samples.index.tolist(), samples.at.tolist(), samples.value.tolist()
    return [(samples.keys[k], at, value) for k, at, value in zip(*columns, strict=True)]


def some(count: int) -> Samples:
    return Samples.of(*(Sample(key, START + i * 60_000, float(i)) for i in range(count) for key in (KEY, OTHER)))


@pytest.mark.parametrize(
    "stamps",
    [
        pa.array([START]),
        pa.array([START], pa.timestamp("ms")),
        pa.array([START * 1000], pa.timestamp("us", "UTC")),
        pa.array([START * 1_000_000], pa.timestamp("ns")),
        pa.array([START // 1000], pa.timestamp("s", "Europe/Berlin")),
    ],
)
def test_times_are_timestamps_of_any_unit_or_milliseconds(stamps: Any, tmp_path: Path) -> None:
    path = parquet_of(tmp_path / "f.parquet", timestamp=stamps, value=[1.5], workload=["shop"], metric=["rps"])
    assert rows(read_samples(path)) == [(SeriesKey("shop", "rps"), START, 1.5)]


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("shop/rps", SeriesKey("shop", "rps")),
        ("team/shop/rps", SeriesKey("team/shop", "rps")),
        ("shop", SeriesKey("shop", "value")),
    ],
)
def test_a_series_may_be_named_by_one_text(name: str, key: SeriesKey, tmp_path: Path) -> None:
    path = parquet_of(tmp_path / "f.parquet", timestamp=[START], value=[1], series_id=[name])
    assert read_samples(path).keys == (key,)


@pytest.mark.parametrize(("text", "labels"), [('{"site":"a"}', (("site", "a"),)), ("", ()), (None, ()), ("{}", ())])
def test_labels_are_json_or_nothing(text: str | None, labels: tuple[tuple[str, str], ...], tmp_path: Path) -> None:
    columns = {
        "timestamp": [START],
        "value": [1.0],
        "workload": ["w"],
        "metric": ["m"],
        "labels": pa.array([text], pa.string()),
    }
    assert read_samples(parquet_of(tmp_path / "f.parquet", **columns)).keys == (SeriesKey("w", "m", labels),)


def test_spellings_of_the_same_labels_are_one_series(tmp_path: Path) -> None:
    texts = ['{"a":"1","b":"2"}', '{"b":"2", "a":"1"}', "{}", None]
    columns = {"timestamp": [1, 2, 3, 4], "value": [1.0, 2.0, 3.0, 4.0], "workload": ["w"] * 4, "metric": ["m"] * 4}
    samples = read_samples(parquet_of(tmp_path / "f.parquet", **columns, labels=texts))
    assert samples.keys == (SeriesKey("w", "m", (("a", "1"), ("b", "2"))), SeriesKey("w", "m"))
    assert samples.index.tolist() == [0, 0, 1, 1]


def test_samples_are_read_oldest_first_and_gaps_left_out(tmp_path: Path) -> None:
    values = pa.array([3.0, float("nan"), 1.0, float("inf"), 2.0, None], pa.float64())
    path = parquet_of(tmp_path / "f.parquet", timestamp=[3, 9, 1, 9, 2, 9], value=values, series_id=["w/m"] * 6)
    assert rows(read_samples(path)) == [(SeriesKey("w", "m"), at, float(at)) for at in (1, 2, 3)]


def test_samples_of_the_same_moment_keep_their_order(tmp_path: Path) -> None:
    path = parquet_of(tmp_path / "f.parquet", timestamp=[1] * 4, value=[4, 3, 2, 1], series_id=["w/m"] * 4)
    assert read_samples(path).value.tolist() == [4, 3, 2, 1]


def test_csv_is_read_as_well(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text(f"timestamp,value,workload,metric\n{MOMENT:%Y-%m-%d %H:%M:%S},1.5,shop,rps\n")
    assert rows(read_samples(tmp_path / "f.csv")) == [(SeriesKey("shop", "rps"), START, 1.5)]
    (tmp_path / "ms.csv").write_text(f"timestamp,value,series_id\n{START},2,shop/rps\n")
    assert rows(read_samples(tmp_path / "ms.csv")) == [(SeriesKey("shop", "rps"), START, 2.0)]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"timestamp": [1], "value": [1]}, "workload and metric, or series_id; it has timestamp, value"),
        ({"timestamp": [1], "value": [1], "workload": ["w"]}, "workload and metric, or series_id"),
        ({"timestamp": [1], "series_id": ["w/m"]}, "timestamp and value; it has series_id, timestamp"),
        ({"value": [1], "series_id": ["w/m"]}, "timestamp and value"),
    ],
)
def test_missing_columns_are_named_with_those_that_are_there(columns: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        read_samples(parquet_of(tmp_path / "f.parquet", **columns))


@pytest.mark.parametrize("name", ["f.parquet", "f.csv"])
def test_files_that_are_none_are_said_to_be_none(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_samples(tmp_path / name)
    (tmp_path / name).write_bytes(b"" if name == "f.csv" else b"PAR1 or so")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_samples(tmp_path / name)


# --- into Kafka -------------------------------------------------------------------------------------------------------


def config(broker: LocalBroker, topic: str) -> IntakeSettings:
    codecs = {topic: "json"}
    made = {"topics": (topic,), "codecs": codecs, "group": topic, "instance": topic, "dead_letter_topic": f"{topic}-dead"}
    return IntakeSettings(bootstrap=broker.bootstrap, **made)


def consumed(settings: IntakeSettings, count: int) -> list[tuple[SeriesKey, int, float]]:
    intake = KafkaIntake(settings, WallClock())
    intake.start(0)
    found: list[tuple[SeriesKey, int, float]] = []
    ends = time.monotonic() + 60
    try:
        while len(found) < count:
            assert time.monotonic() < ends, found
            found += rows(intake.poll(0.2))
    finally:
        intake.close()
    assert intake.dead_lettered == 0
    return found


@pytest.mark.broker
@pytest.mark.parametrize("batch", [1, 7])
def test_what_was_published_is_what_is_consumed(batch: int, broker: LocalBroker, topic_name: Callable[[str], str]) -> None:
    settings, sent, told = config(broker, topic_name("publish")), some(60), []
    assert publish(sent, settings, topic=settings.topics[0], batch=batch, progress=lambda *now: told.append(now)) == 120
    assert told[-1] == (120, 120)
    found = consumed(settings, 120)
    assert sorted(found) == sorted(rows(sent))
    for key in (KEY, OTHER):
        assert [at for one, at, _ in found if one == key] == [START + i * 60_000 for i in range(60)]


@pytest.mark.broker
def test_records_carry_event_time_and_workload_and_are_kept(broker: LocalBroker, topic_name: Callable[[str], str]) -> None:
    """A rebuild seeks by the record's time, and a topic that deletes by it would drop a replayed past at once."""
    from kafka import KafkaConsumer, TopicPartition

    from forecastle.intake.connection import options

    settings = config(broker, topic_name("stamped"))
    create_topics(settings, settings.topics, partitions=1)
    publish(some(3), settings, topic=settings.topics[0])
    reader = KafkaConsumer(**options(settings), auto_offset_reset="earliest", enable_auto_commit=False)
    part = TopicPartition(settings.topics[0], 0)
    reader.assign([part])
    found: list[Any] = []
    while len(found) < 6:
        found += reader.poll(500).get(part, [])
    reader.close()
    assert {(record.key, record.timestamp) for record in found} == {
        (key.workload.encode(), START + i * 60_000) for i in range(3) for key in (KEY, OTHER)
    }


@pytest.mark.broker
def test_an_accelerated_replay_sends_everything_too(broker: LocalBroker, topic_name: Callable[[str], str]) -> None:
    settings = config(broker, topic_name("fast"))
    assert publish(some(5), settings, topic=settings.topics[0], speed=6_000_000.0) == 10
    assert len(consumed(settings, 10)) == 10


@pytest.mark.broker
def test_a_file_is_published_as_it_is_read(broker: LocalBroker, topic_name: Callable[[str], str], tmp_path: Path) -> None:
    settings = config(broker, topic_name("file"))
    path = parquet_of(tmp_path / "f.parquet", timestamp=[START, START + 1], value=[1.0, 2.0], series_id=["shop/rps"] * 2)
    assert publish_file(path, settings, topic=settings.topics[0]) == 2
    assert consumed(settings, 2) == rows(read_samples(path))


@pytest.mark.broker
def test_topics_are_made_once_and_asked_for_as_often_as_one_likes(
    broker: LocalBroker, topic_name: Callable[[str], str]
) -> None:
    from kafka.admin import KafkaAdminClient

    from forecastle.intake.connection import options

    settings, name = config(broker, topic_name("made")), topic_name("topic")
    create_topics(settings, [name], partitions=3)
    create_topics(settings, [name], partitions=5)
    admin = KafkaAdminClient(**options(settings))
    [found] = [topic for topic in admin.describe_topics([name]) if topic.get("name", topic.get("topic")) == name]
    admin.close()
    assert len(found["partitions"]) == 3


@pytest.mark.broker
def test_nothing_to_publish_is_nothing_published(broker: LocalBroker, topic_name: Callable[[str], str]) -> None:
    settings, told = config(broker, topic_name("empty")), []
    assert publish(Samples.of(), settings, topic=settings.topics[0], progress=lambda *now: told.append(now)) == 0
    assert told == [(0, 0)]


def test_without_a_broker_it_is_said(free_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from forecastle.intake import publish as subject

    patience = {"bootstrap_servers": [f"127.0.0.1:{free_port}"], "bootstrap_timeout_ms": 300}
    monkeypatch.setattr(subject, "options", lambda _: patience)
    with pytest.raises(BrokerUnavailable, match="creating topics"):
        publish(some(1), IntakeSettings(), topic="anywhere")
