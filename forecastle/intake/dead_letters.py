"""Where refused records go: their own bytes, with the reason in the headers, exactly once as a reader sees it.

A crash may fall between sending a dead letter and committing past its record. Each letter is therefore keyed by the record's
coordinates, ``topic/partition/offset``, and before a partition is read (again) the topic is scanned for the keys already
there. Kafka transactions would do the same with two more round trips a poll and readers that must opt in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from forecastle.errors import BrokerUnavailable
from forecastle.intake.connection import abandon, options, speaking
from forecastle.settings import IntakeSettings
from forecastle.types import Origin

MAX_LETTER = 900_000  # bytes of the original that are kept; brokers refuse messages of 1 MB
SCAN_MS = 1000


class Letter(NamedTuple):
    """A refused record. ``stamp`` (ms) is the newest record timestamp seen in its partition, by which scans find it."""

    origin: Origin
    reason: str
    detail: str
    value: bytes
    stamp: int

    @property
    def key(self) -> bytes:
        """Identity of the refused record."""
        return "/".join(map(str, self.origin)).encode()


class DeadLetters:
    """Sends letters and remembers which were sent. All methods raise BrokerUnavailable and may be repeated then."""

    def __init__(self, settings: IntakeSettings, *, timeout_s: float = 10.0) -> None:
        self._topic = settings.dead_letter_topic
        patience = {"bootstrap_timeout_ms": round(timeout_s * 1000), "reconnect_backoff_max_ms": 1000}
        self._options = options(settings) | patience
        self._timeout_s = timeout_s
        self._producer: Any = None
        self._sent: set[bytes] = set()
        self._read: dict[Any, int] = {}
        self._doubt = False

    def __contains__(self, origin: Origin) -> bool:
        return bool(self._sent) and "/".join(map(str, origin)).encode() in self._sent

    @property
    def any_sent(self) -> bool:
        """False when no record can be a known dead letter: the common case."""
        return bool(self._sent)

    def scan(self, since: int) -> None:
        """Learn the keys of the letters stamped ``since`` (ms) or later, and of all that came after the last scan."""
        from kafka import KafkaConsumer, TopicPartition

        with speaking(f"reading {self._topic}"):
            reader = KafkaConsumer(**self._options, enable_auto_commit=False, auto_offset_reset="earliest")
            try:
                numbers = reader.partitions_for_topic(self._topic) or set()
                parts = [TopicPartition(self._topic, number) for number in sorted(numbers)]
                if parts:
                    self._read_tail(reader, parts, since)
            finally:
                reader.close()

    def _read_tail(self, reader: Any, parts: list[Any], since: int) -> None:
        reader.assign(parts)
        ends = reader.end_offsets(parts)
        found = reader.offsets_for_times(dict.fromkeys(parts, max(since, 0)))
        for part in parts:
            begin = found[part].offset if found.get(part) else ends[part]
            reader.seek(part, min(begin, self._read.get(part, begin)))
        while any(reader.position(part) < ends[part] for part in parts):
            for records in reader.poll(SCAN_MS).values():
                self._sent.update(record.key for record in records if record.key)
        self._read = {part: ends[part] for part in parts}

    def send(self, letters: Sequence[Letter]) -> None:
        """Returns when every letter is durable. Letters known to be there are not sent again."""
        if self._doubt:
            self.scan(min((letter.stamp for letter in letters), default=0))
            self._doubt = False
        fresh = [letter for letter in letters if letter.key not in self._sent]
        if not fresh:
            return
        self._doubt = True  # until all are acknowledged it is unknown which have arrived
        with speaking(f"writing to {self._topic}"):
            if self._producer is None:
                from kafka import KafkaProducer

                wait = round(self._timeout_s * 1000)
                self._producer = KafkaProducer(
                    **self._options,
                    acks="all",
                    delivery_timeout_ms=wait,
                    request_timeout_ms=wait // 2,
                    max_block_ms=wait,
                )
            try:
                futures = [self._post(letter) for letter in fresh]
                for future in futures:
                    future.get(self._timeout_s * 1.5)
            except BaseException:
                self._discard()
                raise
        self._sent.update(letter.key for letter in fresh)
        self._doubt = False

    def _post(self, letter: Letter) -> Any:
        headers = [
            ("forecastle.reason", letter.reason.encode()),
            ("forecastle.detail", letter.detail.encode("utf-8", "replace")[:1000]),
            ("forecastle.topic", letter.origin.topic.encode()),
            ("forecastle.partition", str(letter.origin.partition).encode()),
            ("forecastle.offset", str(letter.origin.offset).encode()),
            ("forecastle.size", str(len(letter.value)).encode()),
        ]
        stamp = letter.stamp if letter.stamp >= 0 else None
        return self._producer.send(self._topic, letter.value[:MAX_LETTER], letter.key, headers, timestamp_ms=stamp)

    def _discard(self) -> None:
        """A producer that failed is not trusted with a retry: what it still holds must not arrive behind our back."""
        producer, self._producer = self._producer, None
        if producer is not None:
            abandon(producer)

    def close(self) -> None:
        """Release the connection. Idempotent."""
        try:
            self._discard()
        except Exception as error:  # the client raises many kinds here
            raise BrokerUnavailable(f"closing the writer of {self._topic}: {error}") from error
