"""The link between control and the sites: a topic each way, keyed by site, over which records come at least once.

A connection that failed is dropped and made again at the next call, so that whoever uses the link needs no state of its own
for it. Where reading goes on is the caller's to know: the agent keeps it with what it has done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from forecastle.errors import BrokerUnavailable
from forecastle.outlets.producer import abandon


class SiteWriter:
    """Sends to ``topic``, acknowledged by all replicas. ``options`` are those of the connection."""

    def __init__(self, topic: str, options: Mapping[str, Any], *, timeout_s: float = 10.0) -> None:
        self._topic, self._options, self._timeout_s = topic, options, timeout_s
        self._producer: Any = None

    def send(self, site: str, values: list[bytes]) -> None:
        """Send the values in order, keyed by ``site``; returns when all are durable. Raises BrokerUnavailable."""
        from kafka import KafkaProducer

        with _speaking(f"sending to {self._topic}", self.close):
            if self._producer is None:
                wait = round(self._timeout_s * 1000)
                self._producer = KafkaProducer(
                    **self._options,
                    acks="all",
                    bootstrap_timeout_ms=wait,
                    max_block_ms=wait,
                    max_in_flight_requests_per_connection=1,
                )
            futures = [self._producer.send(self._topic, value, site.encode()) for value in values]
            for future in futures:
                future.get(2 * self._timeout_s)

    def close(self) -> None:
        """Drop the connection. Idempotent."""
        producer, self._producer = self._producer, None
        if producer is not None:
            abandon(producer)


class SiteReader:
    """Reads the records of ``site`` from every partition of ``topic``.

    Each is read from ``position`` (by its number; None: from its first record) or, when ``since`` is given, from the first
    record of that time (ms) or later.
    """

    def __init__(
        self,
        topic: str,
        site: str,
        options: Mapping[str, Any],
        *,
        position: Callable[[int], int | None] = lambda _: None,
        since: Callable[[], int] | None = None,
        timeout_s: float = 10.0,
    ) -> None:
        self._topic, self._key, self._options, self._timeout_s = topic, site.encode(), options, timeout_s
        self._position, self._since = position, since
        self._consumer: Any = None

    def poll(self, timeout_s: float) -> list[tuple[int, int, bytes]]:
        """Partition, offset and value of what came since the last call, waiting up to ``timeout_s`` for it.

        With ``since``, the first call of a connection returns all that was there. Raises BrokerUnavailable; then nothing was
        skipped.
        """
        with _speaking(f"reading {self._topic}", self.close):
            if self._consumer is None:
                self._consumer, found = self._connected()
            else:
                found = _polled(self._consumer, timeout_s)
        records = [record for record in found if record.key == self._key]
        return [(record.partition, record.offset, record.value or b"") for record in records]

    def close(self) -> None:
        """Drop the connection. Idempotent."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.close(autocommit=False)

    def _connected(self) -> tuple[Any, list[Any]]:
        """A consumer at its place, and the records that it had to read to catch up."""
        from kafka import KafkaConsumer

        wait = round(self._timeout_s * 1000)
        consumer = KafkaConsumer(
            **self._options, enable_auto_commit=False, auto_offset_reset="earliest", bootstrap_timeout_ms=wait, group_id=None
        )
        try:
            return consumer, self._caught_up(consumer) if self._since else self._placed(consumer)
        except BaseException:
            consumer.close(autocommit=False)
            raise

    def _placed(self, consumer: Any) -> list[Any]:
        for part in self._assigned(consumer):
            begin = self._position(part.partition)
            if begin is None:
                consumer.seek_to_beginning(part)
            else:
                consumer.seek(part, begin)
        return []

    def _caught_up(self, consumer: Any) -> list[Any]:
        parts, since = self._assigned(consumer), self._since() if self._since else 0
        ends, begin = consumer.end_offsets(parts), consumer.offsets_for_times(dict.fromkeys(parts, max(since, 0)))
        for part in parts:
            consumer.seek(part, begin[part].offset if begin.get(part) else ends[part])
        found: list[Any] = []
        deadline = time.monotonic() + self._timeout_s
        while any(consumer.position(part) < ends[part] for part in parts):
            found += _polled(consumer, 0.1)
            if time.monotonic() > deadline:
                raise BrokerUnavailable(f"reading {self._topic}: {self._timeout_s:g} s were not enough to catch up")
        return found

    def _assigned(self, consumer: Any) -> list[Any]:
        """Every partition of the topic, assigned."""
        from kafka import TopicPartition

        parts = [TopicPartition(self._topic, number) for number in sorted(consumer.partitions_for_topic(self._topic) or ())]
        if not parts:
            raise BrokerUnavailable(f"there is no topic '{self._topic}'; create it", retry_after=5.0)
        consumer.assign(parts)
        return parts


def _polled(consumer: Any, timeout_s: float) -> list[Any]:
    return [record for batch in consumer.poll(round(timeout_s * 1000)).values() for record in batch]


@contextmanager
def _speaking(what: str, drop: Callable[[], None]) -> Iterator[None]:
    from kafka.errors import KafkaError

    try:
        yield
    except (KafkaError, OSError) as error:
        drop()
        raise BrokerUnavailable(f"{what}: {type(error).__name__}: {error}") from error
