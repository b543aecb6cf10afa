"""``otlp_json``: the same messages in OTLP's JSON mapping, where 64-bit integers (``timeUnixNano``, ``asInt``) are texts.

Typed structs do the parsing and the strictness (an unknown *field* is ignored, as OTLP demands; NaN and Infinity, which the
mapping writes as texts, are refused); attributes stay raw and are parsed once per series.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from forecastle.errors import Malformed
from forecastle.intake.codecs import Codec, Decoded, Row, sift_rows
from forecastle.intake.otlp import NO_RECORDED_VALUE, Source, ms
from forecastle.intake.series import SeriesTable
from forecastle.intake.strict import PARSE_ERRORS, refusal, refuse_repetition

NO_ATTRIBUTES = msgspec.Raw(b"[]")


class Value(msgspec.Struct, rename="camel", gc=False, frozen=True):
    """AnyValue."""

    string_value: str | None = None
    bool_value: bool | None = None
    int_value: str | int | None = None
    double_value: float | str | None = None
    bytes_value: str | None = None
    array_value: msgspec.Raw = msgspec.Raw()
    kvlist_value: msgspec.Raw = msgspec.Raw()


class Pair(msgspec.Struct, gc=False):
    """KeyValue."""

    key: str
    value: Value = Value()


class Point(msgspec.Struct, rename="camel", gc=False):
    """A data point of any kind of metric."""

    time_unix_nano: str | int = "0"
    as_double: float | None = None
    as_int: str | int | None = None
    count: str | int | None = None
    sum: float | None = None
    flags: int = 0
    attributes: msgspec.Raw = NO_ATTRIBUTES


class Points(msgspec.Struct, rename="camel"):
    """The data of one metric."""

    data_points: list[Point] = []


class Metric(msgspec.Struct, rename="camel"):
    """One metric; exactly one of its kinds is present."""

    name: str
    gauge: Points | None = None
    sum: Points | None = None
    histogram: Points | None = None
    exponential_histogram: Points | None = None
    summary: Points | None = None


class Scope(msgspec.Struct):
    """Metrics of one instrumentation scope."""

    metrics: list[Metric] = []


class ResourceMetrics(msgspec.Struct, rename="camel"):
    """Metrics of one resource."""

    resource: msgspec.Raw = msgspec.Raw(b"{}")
    scope_metrics: list[Scope] = []


class MetricsData(msgspec.Struct, rename="camel"):
    """A whole message."""

    resource_metrics: list[ResourceMetrics]


class Resource(msgspec.Struct):
    """Who measured."""

    attributes: list[Pair] = []


def open_codec(series: SeriesTable) -> Codec:
    """A decoder that numbers series in ``series``."""
    return OtlpJson(series)


class OtlpJson:
    """See `forecastle.intake.codecs.Codec`. Keeps a bounded cache from raw attributes to series numbers."""

    def __init__(self, series: SeriesTable) -> None:
        self._series = series
        self._known: dict[tuple[bytes, str, bytes], int] = {}
        self._data = msgspec.json.Decoder(MetricsData)
        self._resource = msgspec.json.Decoder(Resource)
        self._pairs = msgspec.json.Decoder(list[Pair])

    def decode(self, values: Sequence[bytes | None], not_after: int) -> Decoded:
        """Samples of ``values``; see `Codec.decode`."""
        if len(self._known) > 4 * self._series.max_total + 1024:
            self._known = {}
        return sift_rows(values, self._message, not_after)

    def _message(self, raw: bytes | None) -> list[Row]:
        if not raw:
            raise Malformed("empty")
        try:
            data = self._data.decode(raw)
        except PARSE_ERRORS as error:
            raise refusal(error) from None
        refuse_repetition(raw)
        return [
            row
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            for row in self._metric(bytes(resource.resource), metric)
        ]

    def _metric(self, resource: bytes, metric: Metric) -> Iterator[Row]:
        for points in (metric.gauge, metric.sum):
            for point in points.data_points if points else ():
                if point.as_double is not None:
                    yield self._row(resource, metric.name, point, point.as_double)
                elif point.as_int is not None:
                    yield self._row(resource, metric.name, point, float(_integer(point.as_int)))
                elif not point.flags & NO_RECORDED_VALUE:
                    raise Malformed("no_value", "a data point has neither asDouble nor asInt")
        for counted in (metric.histogram, metric.exponential_histogram, metric.summary):
            for point in counted.data_points if counted else ():
                if point.flags & NO_RECORDED_VALUE:
                    continue
                yield self._row(resource, metric.name + "_count", point, float(_integer(point.count or 0)))
                if point.sum is not None:
                    yield self._row(resource, metric.name + "_sum", point, point.sum)

    def _row(self, resource: bytes, name: str, point: Point, value: float) -> Row:
        key = (resource, name, bytes(point.attributes))
        number = self._known.get(key)
        if number is None:
            number = self._known[key] = self._number(*key)
        return number, ms(_integer(point.time_unix_nano)), value

    def _number(self, resource: bytes, name: str, attributes: bytes) -> int:
        try:
            source = Source.of(_texts(self._resource.decode(resource).attributes))
            return source.number(self._series, name, _texts(self._pairs.decode(attributes)))
        except PARSE_ERRORS as error:
            raise refusal(error) from None


def _integer(value: str | int) -> int:
    """A 64-bit integer, also as text. Raises Malformed ``wrong_type`` or ``out_of_range``."""
    if isinstance(value, str):
        digits = value.removeprefix("-")
        if not (digits.isascii() and digits.isdigit()):
            raise Malformed("wrong_type", f"{value[:40]!r} is not an integer")
        if len(digits) > 20:
            raise Malformed("out_of_range", f"an integer of {len(digits)} digits")
        value = int(value)
    if not -(1 << 63) <= value < 1 << 64:
        raise Malformed("out_of_range", "an integer of more than 64 bits")
    return value


def _texts(pairs: Sequence[Pair]) -> Iterator[tuple[str, str]]:
    for pair in pairs:
        yield pair.key, _text(pair.value)


def _text(value: Value) -> str:
    if value.string_value is not None:
        return value.string_value
    if value.bool_value is not None:
        return "true" if value.bool_value else "false"
    if value.int_value is not None:
        return str(_integer(value.int_value))
    if bytes(value.array_value):
        items: Any = msgspec.json.decode(value.array_value, type=dict[str, list[Value]]).get("values", [])
        return ",".join(_text(item) for item in items)
    if bytes(value.kvlist_value):
        inner: Any = msgspec.json.decode(value.kvlist_value, type=dict[str, list[Pair]]).get("values", [])
        return ",".join(f"{name}={text}" for name, text in _texts(inner))
    given = next((v for v in (value.double_value, value.bytes_value) if v is not None), "")
    return str(given)
