"""``telegraf_json``: what Telegraf's JSON serializer writes, one metric a message or a batch of them.

::

    {"fields": {"idle": 91.5, "busy": 8}, "name": "cpu", "tags": {"workload": "shop"}, "timestamp": 1700000000}
    {"metrics": [{"fields": {...}, "name": "cpu", "tags": {...}, "timestamp": 1700000000}]}

Each numeric field is a series called ``NAME_FIELD``, or ``NAME`` for a field called ``value``. A field with a text is a
description and gives no sample; a metric with nothing but texts is refused, and so is one with a boolean. The unit of
``timestamp`` is Telegraf's ``json_timestamp_units``, whose default is a second.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import msgspec

from forecastle.errors import Malformed
from forecastle.intake.codecs import Codec, Decoded, Row, sift_rows
from forecastle.intake.naming import UNIT_NS, Naming
from forecastle.intake.series import SeriesTable
from forecastle.intake.strict import PARSE_ERRORS, refusal, refuse_repetition

NO_TAGS = msgspec.Raw(b"{}")
NS_PER_MS = UNIT_NS["1ms"]


class Metric(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """One metric with all its fields."""

    fields: dict[str, float | str]
    name: str
    timestamp: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
    tags: msgspec.Raw = NO_TAGS


class Batch(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """Metrics of one flush."""

    metrics: list[Metric]


def open_codec(series: SeriesTable, naming: Naming) -> Codec:
    """A decoder that numbers series in ``series``, with workloads named by ``naming``."""
    return TelegrafJson(series, naming)


class TelegrafJson:
    """See `forecastle.intake.codecs.Codec`. Keeps a bounded cache from names and raw tags to series numbers."""

    def __init__(self, series: SeriesTable, naming: Naming) -> None:
        self._series = series
        self._naming = naming
        self._unit_ns = UNIT_NS[naming.telegraf_unit]
        self._known: dict[tuple[str, str, bytes], int] = {}
        self._metric = msgspec.json.Decoder(Metric)
        self._batch = msgspec.json.Decoder(Batch)
        self._tags = msgspec.json.Decoder(dict[str, str])

    def decode(self, values: Sequence[bytes | None], not_after: int) -> Decoded:
        """Samples of ``values``; see `Codec.decode`."""
        if len(self._known) > 4 * self._series.max_total + 1024:
            self._known = {}
        return sift_rows(values, self._message, not_after)

    def _message(self, raw: bytes | None) -> list[Row]:
        if not raw:
            raise Malformed("empty")
        batch = raw.lstrip()[:1] == b"{" and raw.lstrip()[1:].lstrip().startswith(b'"metrics"')
        try:
            parsed: Any = (self._batch if batch else self._metric).decode(raw)
        except PARSE_ERRORS as error:
            raise refusal(error) from None
        refuse_repetition(raw)
        return [row for metric in (parsed.metrics if batch else [parsed]) for row in self._rows(metric)]

    def _rows(self, metric: Metric) -> Iterator[Row]:
        tags, at = bytes(metric.tags), metric.timestamp * self._unit_ns // NS_PER_MS
        numbers = {field: value for field, value in metric.fields.items() if not isinstance(value, str)}
        if not numbers:
            raise Malformed("no_value", f"{metric.name[:100]} has no field that is a number")
        for field, value in numbers.items():
            number = self._known.get((metric.name, field, tags))
            if number is None:
                number = self._known[metric.name, field, tags] = self._number(metric.name, field, tags)
            yield number, within_int64(at), value

    def _number(self, name: str, field: str, raw: bytes) -> int:
        try:
            tags = self._tags.decode(raw)
        except PARSE_ERRORS as error:
            raise refusal(error) from None
        return self._naming.number(self._series, series_name(name, field), tags.items())


def series_name(measurement: str, field: str) -> str:
    """What the field of a measurement is called as a metric. Raises Malformed ``empty_name``."""
    if not measurement or not field:
        raise Malformed("empty_name", "measurement" if not measurement else "field")
    return measurement if field == "value" else f"{measurement}_{field}"


def within_int64(at: int) -> int:
    """``at`` (ms) unchanged. Raises Malformed ``out_of_range``."""
    if not -(1 << 63) <= at < 1 << 63:
        raise Malformed("out_of_range", f"a time of {len(str(at))} digits")
    return at
