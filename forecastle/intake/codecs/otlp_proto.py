"""``otlp_proto``: what the OpenTelemetry Collector's kafka exporter writes by default: `MetricsData` in protobuf.

The standard classes spend most of their time on the attributes of every point. Here the same wire format is read through a
leaner schema in which attributes and resources are plain bytes (an embedded message and a byte string look alike on the wire):
the bytes are the key of a cache, and only the first point of a series has its attributes parsed, by the standard classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np

from forecastle.errors import ConfigError, Malformed
from forecastle.intake.codecs import Codec, Decoded, Refused, sift
from forecastle.intake.otlp import NO_RECORDED_VALUE, Source, ms
from forecastle.intake.series import SeriesTable

PACKAGE = "forecastle.lean"
# message -> field -> (number, type, repeated); numbers are those of opentelemetry/proto/metrics/v1/metrics.proto
POINT = {"time": (3, "fixed64", False)}
SCHEMA: dict[str, dict[str, tuple[int, str, bool]]] = {
    "Number": {**POINT, "attributes": (7, "bytes", True), "as_double": (4, "double", False), "as_int": (6, "sfixed64", False),
               "flags": (8, "uint32", False)},
    "Histogram": {**POINT, "attributes": (9, "bytes", True), "count": (4, "fixed64", False), "sum": (5, "double", False),
                  "flags": (10, "uint32", False)},
    "ExponentialHistogram": {**POINT, "attributes": (1, "bytes", True), "count": (4, "fixed64", False),
                             "sum": (5, "double", False), "flags": (10, "uint32", False)},
    "Summary": {**POINT, "attributes": (7, "bytes", True), "count": (4, "fixed64", False), "sum": (5, "double", False),
                "flags": (8, "uint32", False)},
    "Numbers": {"points": (1, "Number", True)},
    "Histograms": {"points": (1, "Histogram", True)},
    "ExponentialHistograms": {"points": (1, "ExponentialHistogram", True)},
    "Summaries": {"points": (1, "Summary", True)},
    "Metric": {"name": (1, "string", False), "gauge": (5, "Numbers", False), "sum": (7, "Numbers", False),
               "histogram": (9, "Histograms", False), "exponential": (10, "ExponentialHistograms", False),
               "summary": (11, "Summaries", False)},
    "Scope": {"metrics": (2, "Metric", True)},
    "Resource": {"resource": (1, "bytes", False), "scopes": (2, "Scope", True)},
    "Metrics": {"resources": (1, "Resource", True)},
}  # fmt: skip
COUNTED = ("histogram", "exponential", "summary")


def open_codec(series: SeriesTable) -> Codec:
    """A decoder that numbers series in ``series``. Raises ConfigError when the protobuf classes are not installed."""
    return OtlpProto(series)


@cache
def lean_schema() -> Any:
    """The message class `Metrics` of `SCHEMA`."""
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    except ImportError as error:
        raise ConfigError("the codec otlp_proto needs protobuf; run: pip install 'forecastle[stream]'") from error
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="forecastle/lean.proto", package=PACKAGE, syntax="proto2")
    for name, fields in SCHEMA.items():
        message = file.message_type.add(name=name)
        for field, (number, kind, repeated) in fields.items():
            label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
            made = message.field.add(name=field, number=number, label=label)
            if kind in SCHEMA:
                made.type, made.type_name = kinds.TYPE_MESSAGE, f".{PACKAGE}.{kind}"
            else:
                made.type = getattr(kinds, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.Metrics"))


class OtlpProto:
    """See `forecastle.intake.codecs.Codec`. Keeps a bounded cache from raw attributes to series numbers."""

    def __init__(self, series: SeriesTable) -> None:
        self._series = series
        self._metrics = lean_schema()
        self._known: dict[tuple[bytes, str], dict[tuple[bytes, ...], int]] = {}
        self._size = 0

    def decode(self, values: Sequence[bytes | None], not_after: int) -> Decoded:
        """Samples of ``values``; see `Codec.decode`."""
        if self._size > 4 * self._series.max_series + 1024:
            self._known, self._size = {}, 0
        number: list[int] = []
        at: list[int] = []
        value: list[float] = []
        sizes: list[int] = []
        refused: list[Refused] = []
        for i, raw in enumerate(values):
            start = len(number)
            try:
                self._message(raw, number, at, value)
            except Malformed as error:
                refused.append(Refused(i, error.reason, str(error)[:300]))
                del number[start:], at[start:], value[start:]
            sizes.append(len(number) - start)
        record = np.repeat(np.arange(len(values), dtype=np.int32), sizes)
        times = np.array(at, np.uint64) // np.uint64(1_000_000)
        return sift(
            record, np.array(number, np.int32), times.astype(np.int64), np.array(value, np.float64), refused, not_after
        )

    def _message(self, raw: bytes | None, number: list[int], at: list[int], value: list[float]) -> None:
        if not raw:
            raise Malformed("empty")
        try:
            data = self._metrics.FromString(raw)
        except Exception as error:  # noqa: BLE001 - protobuf's own DecodeError, RecursionError, UnicodeDecodeError
            raise Malformed("not_protobuf", str(error)[:200]) from None
        for resource in data.resources:
            for scope in resource.scopes:
                for metric in scope.metrics:
                    self._metric(resource.resource, metric, number, at, value)

    def _metric(self, resource: bytes, metric: Any, number: list[int], at: list[int], value: list[float]) -> None:
        name = metric.name
        points = metric.gauge.points or metric.sum.points
        if not points:
            for kind in COUNTED:
                for point in getattr(metric, kind).points:
                    self._counted(resource, name, point, number, at, value)
            return
        known = self._known.setdefault((resource, name), {})
        for point in points:
            attributes = tuple(point.attributes)
            found = known.get(attributes)
            if found is None:
                found = known[attributes] = self._number(resource, name, attributes)
            measured = point.as_double
            if measured == 0.0:
                measured = float(point.as_int)
                if measured == 0.0 and _absent(point):
                    continue
            time = point.time
            if not time:
                ms(time)
            number.append(found)
            at.append(time)
            value.append(measured)

    def _counted(
        self, resource: bytes, name: str, point: Any, number: list[int], at: list[int], value: list[float]
    ) -> None:
        if point.flags & NO_RECORDED_VALUE:
            return
        ms(point.time)
        attributes = tuple(point.attributes)
        measured = [("_count", float(point.count))] + ([("_sum", point.sum)] if point.HasField("sum") else [])
        for suffix, amount in measured:
            known = self._known.setdefault((resource, name + suffix), {})
            if attributes not in known:
                known[attributes] = self._number(resource, name + suffix, attributes)
            number.append(known[attributes])
            at.append(point.time)
            value.append(amount)

    def _number(self, resource: bytes, metric: str, attributes: tuple[bytes, ...]) -> int:
        from opentelemetry.proto.common.v1.common_pb2 import KeyValue
        from opentelemetry.proto.resource.v1.resource_pb2 import Resource

        self._size += 1
        try:
            source = Resource.FromString(resource)
            pairs = [KeyValue.FromString(raw) for raw in attributes]
        except Exception as error:  # noqa: BLE001 - protobuf's own DecodeError, RecursionError, UnicodeDecodeError
            raise Malformed("not_protobuf", str(error)[:200]) from None
        return Source.of(_pairs(source.attributes)).number(self._series, metric, _pairs(pairs))


def _absent(point: Any) -> bool:
    """True for a point flagged as having no value; raises Malformed ``no_value`` when it has none and says nothing."""
    if point.HasField("as_double") or point.HasField("as_int"):
        return False
    if point.flags & NO_RECORDED_VALUE:
        return True
    raise Malformed("no_value", "a data point has neither as_double nor as_int")


def _pairs(attributes: Any) -> Iterator[tuple[str, str]]:
    for pair in attributes:
        yield pair.key, _text(pair.value)


def _text(value: Any) -> str:
    kind = value.WhichOneof("value")
    if kind == "string_value":
        return str(value.string_value)
    if kind == "bool_value":
        return "true" if value.bool_value else "false"
    if kind in ("int_value", "double_value"):
        return str(getattr(value, kind))
    if kind == "bytes_value":
        return str(value.bytes_value.hex())
    if kind == "array_value":
        return ",".join(_text(item) for item in value.array_value.values)
    if kind == "kvlist_value":
        return ",".join(f"{pair.key}={_text(pair.value)}" for pair in value.kvlist_value.values)
    return ""
