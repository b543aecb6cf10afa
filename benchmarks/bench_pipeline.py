"""Decode -> window -> tick against a bare kafka-python poll loop over the same topic, in the same run.

``python benchmarks/bench_pipeline.py`` prints the ratios and writes ``benchmarks/results/pipeline.json``. `measure` takes what
to do with each closed window, so that the rest of the path can be put in its place. The memory of a full store is measured too.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from forecastle.intake.connection import options
from forecastle.intake.consumer import KafkaIntake
from forecastle.intake.publish import create_topics, encode_batch
from forecastle.runtime.broker import LocalBroker
from forecastle.runtime.clocks import WallClock
from forecastle.settings import IntakeSettings, WindowSettings
from forecastle.types import Samples, SeriesKey, Windows
from forecastle.window.store import WindowStore

T0 = 1_700_000_040_000
SERIES = 500
ROUNDS = 3
Hook = Callable[[Windows], object]


def singles(count: int) -> Iterator[tuple[int, bytes]]:
    """About 200 bytes each, one sample of one of 500 series, a round of all series every 10 s of event time."""
    for i in range(count):
        at = T0 + i // SERIES * 10_000
        yield (
            at,
            (
                b'{"workload":"shop-frontend-%03d","metric":"http_requests_per_second","labels":{"site":"aws-eu-west-1a",'
                b'"provider":"aws","team":"checkout","env":"production"},"at":%d,"value":%.3f}' % (i % SERIES, at, i % 97 * 1.5)
            ),
        )


def batches(count: int) -> Iterator[tuple[int, bytes]]:
    """One message a round of all 500 series."""
    keys = [SeriesKey(f"shop-{i:03d}", "requests", (("site", "aws-a"),)) for i in range(SERIES)]
    index, ones = np.arange(SERIES, dtype=np.int32), np.ones(SERIES, np.int64)
    for i in range(count):
        at = T0 + i * 10_000
        yield at, encode_batch(keys, index, ones * at, np.round(index * 1.37 + i, 3))


def otlp(count: int) -> Iterator[tuple[int, bytes]]:
    """One message a round of 500 points with three attributes each."""
    from opentelemetry.proto.metrics.v1.metrics_pb2 import MetricsData

    for i in range(count):
        at, data = T0 + i * 10_000, MetricsData()
        source = data.resource_metrics.add()
        source.resource.attributes.add(key="service.name").value.string_value = "shop"
        metric = source.scope_metrics.add().metrics.add(name="requests")
        for k in range(SERIES):
            point = metric.gauge.data_points.add(time_unix_nano=at * 1_000_000, as_double=k * 1.37 + i)
            for name, text in (("route", f"/r{k}"), ("method", "GET"), ("code", "200")):
                point.attributes.add(key=name).value.string_value = text
        yield at, data.SerializeToString()


def fill(settings: IntakeSettings, rows: Iterator[tuple[int, bytes]]) -> int:
    """Put the messages on partition 0; returns how many."""
    from kafka import KafkaProducer

    create_topics(settings, [*settings.topics, settings.dead_letter_topic], partitions=1)
    producer = KafkaProducer(**options(settings), acks=1, linger_ms=50, batch_size=1 << 19)
    count = 0
    for at, value in rows:
        producer.send(settings.topics[0], value, partition=0, timestamp_ms=at)
        count += 1
    producer.flush()
    producer.close()
    return count


def bare(settings: IntakeSettings, messages: int) -> float:
    """Messages per second of a loop that only polls, from its first poll."""
    from kafka import KafkaConsumer, TopicPartition

    consumer = KafkaConsumer(
        **options(settings), enable_auto_commit=False, auto_offset_reset="earliest", max_poll_records=20_000
    )
    consumer.assign([TopicPartition(settings.topics[0], 0)])
    count, began = 0, time.perf_counter()
    while count < messages:
        count += sum(map(len, consumer.poll(1000).values()))
    rate = count / (time.perf_counter() - began)
    consumer.close()
    return rate


def piped(settings: IntakeSettings, messages: int, hook: Hook | None) -> tuple[float, float, int]:
    """Messages and samples per second of the whole path, from its first poll with a partition, and how many ticks it closed."""
    intake = KafkaIntake(settings, WallClock())
    store = WindowStore(WindowSettings(look_back=240))
    intake.start(0)
    taken = counted = ticks = 0
    while not intake.progress().assigned:
        store.append(intake.poll(1.0))
    began = time.perf_counter()
    while counted < messages:
        samples = intake.poll(1.0)
        store.append(samples)
        for tick in store.due(intake.progress()):
            windows = store.close(tick, 60)
            ticks += 1
            if hook:
                hook(windows)
        counted = messages - sum(intake.progress().lag.values()) if intake.progress().assigned else 0
        taken += len(samples)
    took = time.perf_counter() - began
    intake.close()
    return counted / took, taken / took, ticks


def measure(
    bootstrap: str, name: str, codec: str, rows: Iterator[tuple[int, bytes]], hook: Hook | None = None
) -> dict[str, Any]:
    """Alternate the bare loop and the path over one topic; medians of the rounds and their ratio."""
    base = IntakeSettings(
        bootstrap=bootstrap, topics=(name,), codecs={name: codec}, dead_letter_topic=f"{name}.dead", group=name
    )
    messages = fill(base, rows)
    loops, paths, samples, ticks = [], [], [], 0
    for _ in range(ROUNDS):
        loops.append(bare(base, messages))
        path, rate, ticks = piped(base, messages, hook)
        paths.append(path)
        samples.append(rate)
    return {
        "messages": messages,
        "bare_messages_per_s": round(statistics.median(loops)),
        "messages_per_s": round(statistics.median(paths)),
        "ratio": round(statistics.median(p / b for p, b in zip(paths, loops, strict=True)), 3),
        "samples_per_s": round(statistics.median(samples)),
        "ticks": ticks,
    }


def memory(series: int = 10_000, slots: int = 2_016) -> dict[str, float]:
    """Resident memory (MB) of a full store and of closing one tick of it with all its columns."""
    store = WindowStore(WindowSettings(look_back=slots))
    keys = tuple(SeriesKey(f"w{i:05d}", "m") for i in range(series))
    index, value = np.arange(series, dtype=np.int32), np.random.default_rng(0).random(series)
    partition = np.zeros(series, np.int32)
    for slot in range(1, slots + 1):
        store.append(Samples(keys, index, np.full(series, T0 + slot * 60_000), value + slot, partition))
        store.skip(T0 + slot * 60_000)
    store.append(Samples(keys, index, np.full(series, T0 + (slots + 1) * 60_000), value, partition))
    began = time.perf_counter()
    store.close(T0 + (slots + 1) * 60_000)
    full = time.perf_counter() - began
    store.append(Samples(keys, index, np.full(series, T0 + (slots + 2) * 60_000), value, partition))
    began = time.perf_counter()
    store.close(T0 + (slots + 2) * 60_000, 60)
    few = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"peak_rss_mb": round(peak, 1), "close_all_columns_s": round(full, 4), "close_60_columns_s": round(few, 4)}


def main(scale: float = 1.0, hook: Hook | None = None) -> dict[str, Any]:
    """All measurements; ``scale`` shrinks the topics."""
    results: dict[str, Any] = {"memory_10000x2016": memory()}
    with tempfile.TemporaryDirectory() as folder, LocalBroker(Path(folder)) as broker:
        for name, codec, rows in (
            ("single", "json", singles(int(200_000 * scale))),
            ("batch", "json", batches(int(1_500 * scale))),
            ("otlp", "otlp_proto", otlp(int(1_500 * scale))),
        ):
            results[name] = measure(broker.bootstrap, name, codec, rows, hook)
    return results


if __name__ == "__main__":
    found = main(float(sys.argv[1]) if len(sys.argv) > 1 else 1.0)
    target = Path(__file__).parent / "results" / "pipeline.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))
