"""A producer that stays open, for whoever sends a little every tick and must know that it arrived."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from forecastle.intake.connection import options, speaking
from forecastle.settings import IntakeSettings

TIMEOUT_S = 30.0


class Feed:
    """Sends (record key, record timestamp in ms, value) to ``topic``. A context manager; raises BrokerUnavailable.

    What is sent together arrives together: batches wait for the flush that ends `send`. What is not acknowledged within
    ``timeout_s`` is given up, so that it does not arrive long after the error was raised. Thread-safe.
    """

    def __init__(self, settings: IntakeSettings, topic: str, *, timeout_s: float = TIMEOUT_S, connect_s: float = 10.0) -> None:
        from kafka import KafkaProducer

        self._topic = topic
        self._timeout_s = timeout_s
        wait = round(timeout_s * 1000)
        patience = {"delivery_timeout_ms": wait, "request_timeout_ms": wait // 2, "max_block_ms": wait}
        chosen = {**options(settings), "bootstrap_timeout_ms": round(connect_s * 1000)}
        with speaking(f"connecting to {settings.bootstrap}"):
            self._producer: Any = KafkaProducer(**chosen, **patience, acks="all", linger_ms=100, batch_size=1 << 20)

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the connection. Idempotent. Raises BrokerUnavailable for what could not be delivered in time."""
        with speaking(f"closing what publishes to {self._topic}"):
            self._producer.close(timeout=self._timeout_s)

    def send(self, records: Iterable[tuple[str, int, bytes]]) -> int:
        """Returns how many, once all are acknowledged."""
        with speaking(f"publishing to {self._topic}"):
            sent = [self._producer.send(self._topic, body, key.encode(), timestamp_ms=at) for key, at, body in records]
            self._producer.flush(self._timeout_s)
            for one in sent:
                one.get(self._timeout_s)
        return len(sent)
