"""Messages of every wire format, written the way their producers write them, and what becomes of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from forecastle.intake.codecs import Decoded, open_codec
from forecastle.intake.codecs.remote_write import messages, pack
from forecastle.intake.naming import Naming
from forecastle.intake.series import SeriesTable

NOW = 1_700_000_000_000
SKEW = 60_000
STALE = b"\x02\x00\x00\x00\x00\x00\xf0\x7f"  # Prometheus's marker of a series that ended, as it is on the wire


@dataclass
class Read:
    """What one codec made of some messages."""

    decoded: Decoded
    table: SeriesTable

    @property
    def samples(self) -> list[tuple[str, int, float]]:
        """(series, ms, value) in order."""
        columns = self.decoded.series.tolist(), self.decoded.at.tolist(), self.decoded.value.tolist()
        return [(str(self.table.keys[number]), at, value) for number, at, value in zip(*columns, strict=True)]

    @property
    def reasons(self) -> dict[int, str]:
        return {refused.record: refused.reason for refused in self.decoded.refused}


def read(codec: str, *values: bytes | None, naming: Naming | None = None, max_series: int = 100) -> Read:
    table = SeriesTable(max_series)
    return Read(open_codec(codec, table, naming).decode(values, NOW + SKEW), table)


# --- messages --------------------------------------------------------------------------------------------------------


def adapter(value: str = "12.5", **changes: Any) -> bytes:
    """As prometheus-kafka-adapter writes it."""
    labels = {"__name__": "requests", "instance": "10.0.0.1:80", "job": "shop"}
    made = {"labels": labels, "name": "requests", "timestamp": "2023-11-14T22:13:20Z", "value": value}
    return json.dumps(made | changes, separators=(",", ":")).encode()


def telegraf(fields: Mapping[str, Any] | None = None, **changes: Any) -> bytes:
    """As Telegraf's JSON serializer writes one metric."""
    made = {
        "fields": {"usage_idle": 91.5} if fields is None else fields,
        "name": "cpu",
        "tags": {"host": "a", "workload": "shop"},
        "timestamp": NOW // 1000,
    }
    return json.dumps(made | changes, separators=(",", ":")).encode() + b"\n"


def line(fields: str = "usage_idle=91.5", head: str = "cpu,host=a,workload=shop", at: str = f"{NOW}000000") -> bytes:
    """As Telegraf's influx serializer writes one metric."""
    return f"{head} {fields} {at}\n".encode()


@dataclass
class Written:
    """A `WriteRequest` in the making."""

    request: Any = field(default_factory=messages()["WriteRequest"])

    def add(self, samples: Sequence[tuple[int, float]] = ((NOW, 1.5),), **labels: str) -> Written:
        named = {"__name__": "requests", "job": "shop"} | labels
        raw = [messages()["Label"](name=k.encode(), value=v.encode()) for k, v in sorted(named.items()) if v is not None]
        points = [messages()["Sample"](timestamp=at, value=value) for at, value in samples]
        self.request.timeseries.add(labels=[one.SerializeToString() for one in raw], samples=points)
        return self

    @property
    def body(self) -> bytes:
        return bytes(self.request.SerializeToString())

    @property
    def block(self) -> bytes:
        return pack(self.body)


def written(*samples: tuple[int, float], **labels: str) -> bytes:
    """One series as a remote-write body."""
    return Written().add(samples or ((NOW, 1.5),), **labels).block


GOOD: dict[str, Callable[[], bytes]] = {
    "prometheus_json": adapter,
    "telegraf_json": telegraf,
    "influx": line,
    "remote_write": written,
}
