"""An event as CloudEvents 1.0 writes it into Kafka: attributes as headers (binary), or all in one JSON (structured)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec
import numpy as np


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened at ``at`` (ms). ``id`` is the same whenever the same thing is told again.

    ``subject`` is the workload (``*`` for the fleet): events of one workload keep their order. ``data`` is JSON-able, with
    numpy scalars allowed. ``workloads`` are all that it says something of; empty: the subject alone.
    """

    id: str
    type: str
    at: int
    subject: str
    data: Any
    workloads: frozenset[str] = frozenset()


class Message(NamedTuple):
    """A Kafka record: the key, its headers and the value."""

    key: bytes
    headers: list[tuple[str, bytes]]
    value: bytes


def encoded(value: Any) -> bytes:
    """JSON; what is not finite becomes null."""
    return msgspec.json.encode(value, enc_hook=_plain)


def attributes(event: Event, source: str) -> dict[str, str]:
    """The context attributes, ``partitionkey`` among them."""
    return {
        "specversion": "1.0",
        "id": event.id,
        "source": source,
        "type": event.type,
        "time": timestamp(event.at),
        "subject": event.subject,
        "partitionkey": event.subject,
        "datacontenttype": "application/json",
    }


def binary(event: Event, source: str) -> Message:
    """Attributes as ``ce_`` headers, data as the value."""
    named = attributes(event, source)
    headers = [("content-type", named.pop("datacontenttype").encode())]
    headers += [(f"ce_{name}", text.encode()) for name, text in named.items()]
    return Message(event.subject.encode(), headers, encoded(event.data))


def structured(event: Event, source: str) -> Message:
    """Everything in the value."""
    headers = [("content-type", b"application/cloudevents+json; charset=UTF-8")]
    return Message(event.subject.encode(), headers, encoded(attributes(event, source) | {"data": event.data}))


def timestamp(at: int) -> str:
    """RFC 3339, UTC, to the millisecond."""
    return datetime.fromtimestamp(at / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise NotImplementedError(f"{type(value)} has no JSON form")
