"""A file of samples into Kafka, at the speed of life or any multiple of it: how a trace is replayed to a running pipeline.

Records carry the event time as their timestamp, because a rebuild seeks by it, and the workload as their key, so that a
workload's samples keep their order. Topics are made with ``retention.ms=-1``: a broker that deletes by record timestamp
would otherwise drop a replayed past at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from forecastle.errors import ConfigError
from forecastle.intake.connection import options, speaking
from forecastle.settings import IntakeSettings
from forecastle.types import Floats, Index, Ints, Samples, SeriesKey

Tick = Callable[[int, int], None]
TIMEOUT_S = 30.0


def create_topics(settings: IntakeSettings, names: Sequence[str], partitions: int = 4) -> None:
    """Make the topics that are missing, keeping records of any age. Raises BrokerUnavailable."""
    from kafka.admin import KafkaAdminClient, NewTopic
    from kafka.errors import TopicAlreadyExistsError

    with speaking("creating topics"):
        admin = KafkaAdminClient(**options(settings))
        try:
            for name in names:
                try:
                    admin.create_topics([NewTopic(name, partitions, 1, topic_configs={"retention.ms": "-1"})])
                except TopicAlreadyExistsError:
                    continue
        finally:
            admin.close()


def read_samples(path: Path) -> Samples:
    """All samples of a parquet or CSV file, oldest first.

    Columns: ``timestamp`` (a timestamp, or ms since the epoch), ``value``, and either ``workload`` and ``metric`` (with
    optional ``labels`` as JSON text) or ``series_id`` as ``workload/metric``. Raises ConfigError naming what is missing.
    """
    import pyarrow as pa

    table = _read(path)
    names = set(table.column_names)
    if "workload" in names and "metric" in names:
        columns = [table[c].cast(pa.string()).to_pylist() for c in ("workload", "metric")]
        labels = table["labels"].cast(pa.string()).to_pylist() if "labels" in names else [None] * table.num_rows
        identity = list(zip(*columns, labels, strict=True))
    elif "series_id" in names:
        identity = [(*_split(name), None) for name in table["series_id"].cast(pa.string()).to_pylist()]
    else:
        raise ConfigError(f"{path}: needs columns workload and metric, or series_id; it has {', '.join(sorted(names))}")
    if not {"timestamp", "value"} <= names:
        raise ConfigError(f"{path}: needs columns timestamp and value; it has {', '.join(sorted(names))}")
    value = table["value"].cast(pa.float64()).to_numpy()
    keep = np.isfinite(value)
    stamps = table["timestamp"]
    times = stamps.cast(pa.timestamp("ms")).cast(pa.int64()) if pa.types.is_temporal(stamps.type) else stamps
    at = times.cast(pa.int64()).to_numpy()
    numbers: dict[Any, int] = {}
    spelled = np.array([numbers.setdefault(one, len(numbers)) for one in identity], np.int32)
    series: dict[SeriesKey, int] = {}
    number = [series.setdefault(SeriesKey(load, metric, _labels(text)), len(series)) for load, metric, text in numbers]
    keys, index = tuple(series), np.array(number, np.int32)[spelled]
    order = np.flatnonzero(keep)[np.argsort(at[keep], kind="stable")]
    return Samples(keys, index[order], at[order], value[order], np.zeros(len(order), np.int32))


def _read(path: Path) -> Any:
    import pyarrow as pa
    from pyarrow import csv, parquet

    try:
        return csv.read_csv(path) if path.suffix == ".csv" else parquet.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(f"{path}: cannot be read as {'CSV' if path.suffix == '.csv' else 'parquet'}: {error}") from error


def _split(series: str) -> tuple[str, str]:
    workload, slash, metric = series.rpartition("/")
    return (workload, metric) if slash else (series, "value")


def _labels(text: str | None) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(msgspec.json.decode(text, type=dict[str, str]).items())) if text else ()


def encode_single(key: SeriesKey, at: int, value: float) -> bytes:
    """One sample in the ``json`` format."""
    return msgspec.json.encode(
        {"workload": key.workload, "metric": key.metric, "labels": dict(key.labels), "at": at, "value": value}
    )


def encode_batch(keys: Sequence[SeriesKey], index: Index, at: Ints, value: Floats) -> bytes:
    """Many samples in the ``json`` format, only the series that occur in it."""
    used, key = np.unique(index, return_inverse=True)
    names = [{"workload": keys[i].workload, "metric": keys[i].metric, "labels": dict(keys[i].labels)} for i in used.tolist()]
    return msgspec.json.encode({"keys": names, "key": key.tolist(), "at": at.tolist(), "value": value.tolist()})


def messages(samples: Samples, batch: int) -> Iterator[tuple[bytes, int, bytes]]:
    """(record key, record timestamp, value) of each message: up to ``batch`` consecutive samples of one workload."""
    workload = {name: i for i, name in enumerate(dict.fromkeys(key.workload for key in samples.keys))}
    owner = np.array([workload[key.workload] for key in samples.keys], np.int32)[samples.index]
    for start in range(0, len(samples), max(batch, 1) * max(len(workload), 1)):
        window = slice(start, start + max(batch, 1) * max(len(workload), 1))
        for one in np.unique(owner[window]).tolist():
            rows = start + np.flatnonzero(owner[window] == one)
            for cut in range(0, len(rows), max(batch, 1)):
                yield _message(samples, rows[cut : cut + max(batch, 1)])


def _message(samples: Samples, rows: Ints) -> tuple[bytes, int, bytes]:
    at, value, index = samples.at[rows], samples.value[rows], samples.index[rows]
    key = samples.keys[index[0]]
    single = len(rows) == 1
    body = encode_single(key, int(at[0]), float(value[0])) if single else encode_batch(samples.keys, index, at, value)
    return key.workload.encode(), int(at[-1]), body


def publish(
    samples: Samples,
    settings: IntakeSettings,
    *,
    topic: str,
    speed: float = 0.0,
    batch: int = 1,
    progress: Tick | None = None,
) -> int:
    """Send ``samples`` (oldest first) to ``topic`` in the ``json`` format; returns how many were acknowledged.

    ``speed`` is event time over wall time (60: an hour a minute; 0: as fast as possible). With ``batch`` > 1 each message holds
    up to that many samples of a workload. ``progress(sent, total)`` is called about every 1,000 messages. Raises
    BrokerUnavailable.
    """
    from kafka import KafkaProducer

    create_topics(settings, [topic])
    total, sent, count = len(samples), 0, 0
    with speaking(f"publishing to {topic}"):
        producer = KafkaProducer(**options(settings), acks="all", linger_ms=20, batch_size=1 << 18)
        try:
            began, first = time.monotonic(), int(samples.at[0]) if total else 0
            futures = []
            for count, (key, at, body) in enumerate(messages(samples, batch), 1):
                if speed > 0:
                    wait = (at - first) / 1000 / speed - (time.monotonic() - began)
                    if wait > 0:
                        producer.flush(TIMEOUT_S)
                        time.sleep(wait)
                futures.append(producer.send(topic, body, key, timestamp_ms=at))
                if count % 1000 == 0:
                    for future in futures:
                        future.get(TIMEOUT_S)
                    futures.clear()
                    sent = min(total, count * max(batch, 1))
                    if progress:
                        progress(sent, total)
            for future in futures:
                future.get(TIMEOUT_S)
        finally:
            producer.close()
    if progress:
        progress(total, total)
    return total


def publish_file(
    path: Path,
    settings: IntakeSettings,
    *,
    topic: str,
    speed: float = 0.0,
    batch: int = 1,
    progress: Tick | None = None,
) -> int:
    """`publish` of `read_samples`. Raises ConfigError for a file that cannot be read."""
    return publish(read_samples(path), settings, topic=topic, speed=speed, batch=batch, progress=progress)
