"""Events into a Kafka topic, keyed by workload and acknowledged by all replicas before they count as delivered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from forecastle.errors import BrokerUnavailable
from forecastle.outlets.cloudevents import Event, binary, structured
from forecastle.outlets.producer import abandon
from forecastle.settings import OutletSettings

TIMEOUT_S = 15.0


class EventTopic:
    """What a `Courier` sends through. ``options`` are those of the connection. Owned by the courier's thread."""

    def __init__(self, settings: OutletSettings, options: Mapping[str, Any]) -> None:
        self._topic, self._source = settings.events_topic, settings.source
        self._form = structured if settings.events_mode == "structured" else binary
        self._options = options
        self._producer: Any = None

    def send(self, events: Sequence[Event]) -> None:
        """Send all and wait until the brokers have them. Raises BrokerUnavailable, after which all are to be sent again."""
        from kafka import KafkaProducer
        from kafka.errors import KafkaError

        try:
            if self._producer is None:
                patience = {"bootstrap_timeout_ms": round(TIMEOUT_S * 1000), "max_block_ms": round(TIMEOUT_S * 1000)}
                self._producer = KafkaProducer(**self._options, acks="all", linger_ms=5, **patience)
            futures = []
            for event in events:
                key, headers, value = self._form(event, self._source)
                futures.append(self._producer.send(self._topic, value, key, headers=headers, timestamp_ms=event.at))
            for future in futures:
                future.get(TIMEOUT_S)
        except (KafkaError, OSError) as error:
            self.close()
            raise BrokerUnavailable(f"events to {self._topic}: {type(error).__name__}: {error}") from error

    def close(self) -> None:
        """Drop the connection; the next `send` opens another. Idempotent."""
        producer, self._producer = self._producer, None
        if producer is not None:
            abandon(producer)
