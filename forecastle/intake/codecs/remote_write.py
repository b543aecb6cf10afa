"""``remote_write``: a body of Prometheus remote write 1.0 as the record's value: a snappy block of a `WriteRequest`.

A NaN is the marker of a series that ended, or the quantile of a summary that saw nothing; neither is a sample. Metadata,
exemplars and native histograms are left out. An infinity is refused. The size that a block says it will have is checked before
it is unpacked.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import isnan
from typing import Any

from forecastle.errors import ConfigError, Malformed
from forecastle.intake.codecs import Codec, Decoded, Row, sift_rows
from forecastle.intake.naming import Naming
from forecastle.intake.protobuf import Fields, message_classes
from forecastle.intake.series import SeriesTable

MAX_UNPACKED = 32 << 20  # bytes; Prometheus sends 2,000 samples at a time, well below a megabyte
NAME = "__name__"
# numbers are those of prometheus/prompb/remote.proto and types.proto
SCHEMA: dict[str, Fields] = {
    "Label": {"name": (1, "bytes", False), "value": (2, "bytes", False)},
    "Sample": {"value": (1, "double", False), "timestamp": (2, "int64", False)},
    "TimeSeries": {"labels": (1, "bytes", True), "samples": (2, "Sample", True)},
    "WriteRequest": {"timeseries": (1, "TimeSeries", True)},
    "Parts": {"timeseries": (1, "bytes", True)},
}


@cache
def messages() -> dict[str, Any]:
    """The classes of `SCHEMA`; `Parts` is a `WriteRequest` whose series are left unparsed."""
    return dict(zip(SCHEMA, message_classes("forecastle.remote_write", SCHEMA, *SCHEMA), strict=True))


@cache
def _snappy() -> Any:
    try:
        from cramjam import snappy
    except ImportError as error:
        raise ConfigError("remote write needs cramjam; run: pip install 'forecastle[stream]'") from error
    return snappy


def unpack(block: bytes, limit: int = MAX_UNPACKED) -> bytes:
    """Contents of a snappy block. Raises Malformed ``not_snappy``, or ``too_large`` beyond ``limit`` bytes."""
    size = shift = 0
    for byte in block[:5]:
        size |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    if size > limit:
        raise Malformed("too_large", f"{size} bytes unpacked, {limit} are allowed")
    try:
        return bytes(_snappy().decompress_raw(block))
    except Exception as error:  # noqa: BLE001 - cramjam's own errors derive from Exception
        raise Malformed("not_snappy", str(error)[:200]) from None


def pack(body: bytes) -> bytes:
    """A snappy block of ``body``."""
    return bytes(_snappy().compress_raw(body))


def parse(name: str, body: bytes) -> Any:
    """The message ``name`` of `SCHEMA` in ``body``. Raises Malformed ``not_protobuf``."""
    try:
        return messages()[name].FromString(body)
    except Exception as error:  # noqa: BLE001 - protobuf's own DecodeError, RecursionError
        raise Malformed("not_protobuf", str(error)[:200]) from None


def texts(raw: Sequence[bytes]) -> list[tuple[str, str]]:
    """Names and values of unparsed labels. Raises Malformed ``not_protobuf`` or ``bad_utf8``."""
    labels = [parse("Label", one) for one in raw]
    try:
        return [(label.name.decode(), label.value.decode()) for label in labels]
    except UnicodeDecodeError as error:
        raise Malformed("bad_utf8", f"at byte {error.start} of a label") from None


def open_codec(series: SeriesTable, naming: Naming) -> Codec:
    """A decoder that numbers series in ``series``. Raises ConfigError when protobuf or cramjam is not installed."""
    _snappy()
    return RemoteWrite(series, naming)


class RemoteWrite:
    """See `forecastle.intake.codecs.Codec`. Keeps a bounded cache from raw labels to series numbers."""

    def __init__(self, series: SeriesTable, naming: Naming) -> None:
        self._series = series
        self._naming = naming
        self._known: dict[tuple[bytes, ...], int] = {}
        messages()

    def decode(self, values: Sequence[bytes | None], not_after: int) -> Decoded:
        """Samples of ``values``; see `Codec.decode`."""
        if len(self._known) > 4 * self._series.max_total + 1024:
            self._known = {}
        return sift_rows(values, self._rows, not_after)

    def _rows(self, raw: bytes | None) -> list[Row]:
        if not raw:
            raise Malformed("empty")
        rows: list[Row] = []
        for series in parse("WriteRequest", unpack(raw)).timeseries:
            samples = [(one.timestamp, one.value) for one in series.samples if not isnan(one.value)]
            if not samples:
                continue
            labels = tuple(series.labels)
            number = self._known.get(labels)
            if number is None:
                number = self._known[labels] = self._number(labels)
            rows += [(number, at, value) for at, value in samples]
        return rows

    def _number(self, raw: tuple[bytes, ...]) -> int:
        workload, labels = self._naming.split(texts(raw))
        return self._series.number(workload, labels.pop(NAME, ""), labels.items())
