"""``otlp_proto``: what the OpenTelemetry Collector's kafka exporter writes by default: `MetricsData` in protobuf.

The standard classes spend most of their time on the attributes of every point. Here the same wire format is read through a
leaner schema in which attributes and resources are plain bytes (an embedded message and a byte string look alike on the wire):
the bytes are the key of a cache, and only the first point of a series has its attributes parsed, by the standard classes.
Points that are written as every exporter writes them, time and value first and the attributes of a known series behind, are not
parsed at all: their heads are one structured array.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from forecastle.errors import Malformed
from forecastle.intake.codecs import Codec, Decoded, Refused, sift
from forecastle.intake.otlp import NO_RECORDED_VALUE, Source, ms
from forecastle.intake.protobuf import message_classes
from forecastle.intake.series import SeriesTable
from forecastle.types import Floats, Index

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
    "Numbers": {"points": (1, "bytes", True)},
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


_TIME, _DOUBLE, _INT = 0x19, 0x21, 0x31  # tags of time, as_double and as_int
_AFTER_START = [("start", "V9"), ("time_tag", "u1"), ("time", "<u8"), ("tag", "u1"), ("value", "<f8")]
HEADS = {b"\x11": np.dtype(_AFTER_START), b"\x19": np.dtype(_AFTER_START[1:])}


class Known(NamedTuple):
    """Series numbers of one resource and metric: by raw attributes, and by all that follows the head of a point."""

    attributes: dict[tuple[bytes, ...], int]
    tails: dict[bytes, int]


class Columns:
    """What decoding appends to: chunks of series numbers, nanoseconds and values; ``count`` samples so far."""

    def __init__(self) -> None:
        self.chunks: list[tuple[Index, npt.NDArray[np.uint64], Floats]] = []
        self.count = 0

    def add(self, number: npt.ArrayLike, time: npt.ArrayLike, value: npt.ArrayLike) -> None:
        """One chunk; the three are of one length."""
        chunk = np.asarray(number, np.int32), np.asarray(time, np.uint64), np.asarray(value, np.float64)
        self.chunks.append(chunk)
        self.count += len(chunk[0])

    def cut(self, chunks: int, count: int) -> None:
        """Forget what came after the first ``chunks``."""
        del self.chunks[chunks:]
        self.count = count

    def joined(self) -> tuple[Index, npt.NDArray[np.uint64], Floats]:
        """All chunks, one after the other."""
        chunks = [*self.chunks, (np.empty(0, np.int32), np.empty(0, np.uint64), np.empty(0, np.float64))]
        number, time, value = (np.concatenate([chunk[i] for chunk in chunks]) for i in range(3))
        return number, time, value


def open_codec(series: SeriesTable) -> Codec:
    """A decoder that numbers series in ``series``. Raises ConfigError when the protobuf classes are not installed."""
    return OtlpProto(series)


@cache
def lean_schema() -> tuple[Any, Any]:
    """The classes of `Metrics` and of one `Number`, by `SCHEMA`."""
    metrics, number = message_classes(PACKAGE, SCHEMA, "Metrics", "Number")
    return metrics, number


class OtlpProto:
    """See `forecastle.intake.codecs.Codec`. Keeps a bounded cache from raw attributes to series numbers."""

    def __init__(self, series: SeriesTable) -> None:
        self._series = series
        self._metrics, self._point = lean_schema()
        self._known: dict[tuple[bytes, str], Known] = {}
        self._size = 0

    def decode(self, values: Sequence[bytes | None], not_after: int) -> Decoded:
        """Samples of ``values``; see `Codec.decode`."""
        if self._size > 4 * self._series.max_total + 1024:
            self._known, self._size = {}, 0
        out = Columns()
        sizes: list[int] = []
        refused: list[Refused] = []
        for i, raw in enumerate(values):
            start = len(out.chunks), out.count
            try:
                self._message(raw, out)
            except Malformed as error:
                refused.append(Refused(i, error.reason, str(error)[:300]))
                out.cut(*start)
            sizes.append(out.count - start[1])
        record = np.repeat(np.arange(len(values), dtype=np.int32), sizes)
        number, times, value = out.joined()
        at = (times // np.uint64(1_000_000)).astype(np.int64)
        return sift(record, number, at, value, refused=refused, not_after=not_after)

    def _message(self, raw: bytes | None, out: Columns) -> None:
        if not raw:
            raise Malformed("empty")
        data = _parsed(self._metrics, raw)
        for resource in data.resources:
            for scope in resource.scopes:
                for metric in scope.metrics:
                    self._metric(resource.resource, metric, out)

    def _metric(self, resource: bytes, metric: Any, out: Columns) -> None:
        if isinstance(metric.name, bytes):  # what protobuf makes of a string that is not UTF-8
            raise Malformed("bad_utf8", f"the name of a metric: {metric.name[:80]!r}")
        if points := list(metric.gauge.points or metric.sum.points):
            known = self._of(resource, metric.name)
            if not _alike(points, known.tails, out):
                self._numbers((resource, metric.name), points, known, out)
            return
        for kind in COUNTED:
            for point in getattr(metric, kind).points:
                self._counted(resource, metric.name, point, out)

    def _of(self, resource: bytes, name: str) -> Known:
        return self._known.setdefault((resource, name), Known({}, {}))

    def _numbers(self, source: tuple[bytes, str], points: list[bytes], known: Known, out: Columns) -> None:
        """Points one by one; those written head first are known from now on."""
        rows: list[tuple[int, int, float]] = []
        for raw in points:
            point = _parsed(self._point, raw)
            attributes = tuple(point.attributes)
            if attributes not in known.attributes:
                known.attributes[attributes] = self._number(*source, attributes)
            found = known.attributes[attributes]
            head = HEADS.get(raw[:1])
            if head and self._point(attributes=attributes).SerializeToString() == raw[head.itemsize :]:
                known.tails[raw[head.itemsize :]] = found
            if _absent(point):
                continue
            ms(point.time)
            rows.append((found, point.time, point.as_double or float(point.as_int)))
        if rows:
            out.add(*zip(*rows, strict=True))

    def _counted(self, resource: bytes, name: str, point: Any, out: Columns) -> None:
        if point.flags & NO_RECORDED_VALUE:
            return
        ms(point.time)
        attributes = tuple(point.attributes)
        measured = [("_count", float(point.count))] + ([("_sum", point.sum)] if point.HasField("sum") else [])
        for suffix, amount in measured:
            known = self._of(resource, name + suffix).attributes
            if attributes not in known:
                known[attributes] = self._number(resource, name + suffix, attributes)
            out.add([known[attributes]], [point.time], [amount])

    def _number(self, resource: bytes, metric: str, attributes: tuple[bytes, ...]) -> int:
        from opentelemetry.proto.common.v1.common_pb2 import KeyValue
        from opentelemetry.proto.resource.v1.resource_pb2 import Resource

        self._size += 1
        source = _parsed(Resource, resource)
        pairs = [_parsed(KeyValue, raw) for raw in attributes]
        return Source.of(_pairs(source.attributes)).number(self._series, metric, _pairs(pairs))


def _alike(points: list[bytes], tails: dict[bytes, int], out: Columns) -> bool:
    """Append points whose heads are of one layout and whose tails are known; False, and nothing done, for any others."""
    head = HEADS.get(points[0][:1])
    if head is None:
        return False
    size = head.itemsize
    numbers = [tails.get(raw[size:], -1) for raw in points]
    heads = b"".join([raw[:size] for raw in points])
    if -1 in numbers or len(heads) != size * len(points):
        return False
    found = np.frombuffer(heads, head)
    first = points[0][0]
    tag = int(found["tag"][0])
    plain = tag in (_DOUBLE, _INT) and (found["tag"] == tag).all() and (found["time_tag"] == _TIME).all()
    if not plain or set(heads[::size]) != {first} or not found["time"].all():
        return False
    out.add(numbers, found["time"], found["value"] if tag == _DOUBLE else found["value"].view("<i8"))
    return True


def _parsed(kind: Any, raw: bytes) -> Any:
    """The message. Raises Malformed ``not_protobuf``."""
    try:
        return kind.FromString(raw)
    except Exception as error:  # noqa: BLE001 - protobuf's own DecodeError, RecursionError, UnicodeDecodeError
        raise Malformed("not_protobuf", str(error)[:200]) from None


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
    if kind == "array_value":
        return ",".join(_text(item) for item in value.array_value.values)
    if kind == "kvlist_value":
        return ",".join(f"{pair.key}={_text(pair.value)}" for pair in value.kvlist_value.values)
    if kind is None:
        return ""
    plain = getattr(value, kind)
    return str(plain.hex() if isinstance(plain, bytes) else plain)
