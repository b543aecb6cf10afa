"""Prometheus remote write into Kafka: what a request becomes, and what is answered to it.

A request is answered only when Kafka has acknowledged it; when it cannot, the answer is 503 and Prometheus sends it again, so
that nothing is lost (and, after a doubtful time-out, something may come twice: equal samples, which windows average away). What
is sound on the outside is published whatever its samples say: the consumer refuses what it must, into the dead-letter topic.
"""

from __future__ import annotations

import hmac
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

from forecastle.errors import BrokerUnavailable, Malformed
from forecastle.intake.codecs.remote_write import messages, pack, parse, texts, unpack
from forecastle.intake.feed import Feed
from forecastle.intake.naming import Naming
from forecastle.ports import Clock
from forecastle.settings import IntakeSettings

MAX_RECORD = 512 << 10  # bytes of a record before packing
MAX_PACKED = 900_000  # brokers refuse records of 1 MB
SEND_S = 10.0
CONNECT_S = 3.0
MAX_BUSY = 64  # requests at a time; more are asked to come back


class Answer(NamedTuple):
    """Status and text of a response."""

    status: int
    text: str = ""


DONE = Answer(204)
BUSY = Answer(503, "busy; try again")


def records(body: bytes, naming: Naming, now: int) -> list[tuple[str, int, bytes]]:
    """A `WriteRequest` as (record key, record timestamp in ms, packed request): one or more for each workload.

    The key is the workload, so that its samples keep their order, and empty where no label names one. The timestamp is that of
    the newest sample, ``now`` (ms) at most: brokers refuse records from the future. Series without samples are left out. Raises
    Malformed.
    """
    owned: dict[str, list[tuple[int, bytes]]] = {}
    for raw in parse("Parts", body).timeseries:
        series = parse("TimeSeries", raw)
        if series.samples:
            owned.setdefault(_owner(series, naming), []).append((max(one.timestamp for one in series.samples), raw))
    return [record for owner, series in owned.items() for record in _cut(owner, series, now)]


def _owner(series: Any, naming: Naming) -> str:
    try:
        return naming.split(texts(series.labels))[0]
    except Malformed:
        return ""


def _cut(owner: str, series: list[tuple[int, bytes]], now: int) -> Iterator[tuple[str, int, bytes]]:
    part: list[tuple[int, bytes]] = []
    size = 0
    for at, raw in series:
        if part and size + len(raw) > MAX_RECORD:
            yield _record(owner, part, now)
            part, size = [], 0
        part.append((at, raw))
        size += len(raw)
    yield _record(owner, part, now)


def _record(owner: str, part: list[tuple[int, bytes]], now: int) -> tuple[str, int, bytes]:
    packed = pack(messages()["Parts"](timeseries=[raw for _, raw in part]).SerializeToString())
    if len(packed) > MAX_PACKED:
        raise Malformed("too_large", f"one series of {len(packed)} bytes, {MAX_PACKED} are allowed")
    return owner, min(now, max(0, *(at for at, _ in part))), packed


class Receiver:
    """What to answer to a request, and the way to Kafka, opened at the first request that needs it. Thread-safe."""

    def __init__(self, settings: IntakeSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._receive = settings.receive
        self._naming = Naming.of(settings)
        token = self._receive.token
        self._secret = f"Bearer {token.get_secret_value()}".encode() if token else b""
        self._free = threading.BoundedSemaphore(MAX_BUSY)
        self._opening = threading.Lock()
        self._feed: Feed | None = None

    def admits(self, authorization: str | None) -> bool:
        """True when no token is configured, or this is it."""
        return not self._secret or hmac.compare_digest(self._secret, (authorization or "").encode())

    def write(self, block: bytes) -> Answer:
        """Publish a remote-write body; returns when Kafka has acknowledged all of it."""
        if not self._free.acquire(blocking=False):
            return BUSY
        try:
            made = records(unpack(block, self._receive.max_unpacked_bytes), self._naming, self._clock.now())
            if made:
                self._connected().send(made)
        except Malformed as error:
            return Answer(413 if error.reason == "too_large" else 400, str(error))
        except BrokerUnavailable as error:
            return Answer(503, str(error))
        finally:
            self._free.release()
        return DONE

    def _connected(self) -> Feed:
        if not self._opening.acquire(timeout=CONNECT_S):
            raise BrokerUnavailable(f"connecting to {self._settings.bootstrap}: not yet")
        try:
            if self._feed is None:
                self._feed = Feed(self._settings, self._receive.topic, timeout_s=SEND_S, connect_s=CONNECT_S)
            return self._feed
        finally:
            self._opening.release()

    def close(self) -> None:
        """Close the way to Kafka. Idempotent."""
        feed, self._feed = self._feed, None
        if feed is not None:
            feed.close()
