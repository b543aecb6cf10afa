"""``prometheus_json``: what prometheus-kafka-adapter writes, one sample a message.

::

    {"timestamp": "2023-11-14T22:13:20Z", "value": "12.5", "name": "requests", "labels": {"job": "shop"}}

``value`` is a text, because JSON has no NaN. In Prometheus a NaN says that there is nothing to say: the marker of a series that
ended (as text it looks like any other NaN), or the quantile of a summary that saw nothing. Such a message is understood and
gives no sample. An infinity is refused: no forecast can be made of it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated

import msgspec

from forecastle.errors import Malformed
from forecastle.intake.codecs import Codec, Decoded, Row, sift_rows
from forecastle.intake.naming import Naming
from forecastle.intake.series import SeriesTable
from forecastle.intake.strict import PARSE_ERRORS, no_repeated_keys, refusal

NAME = "__name__"
NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
INFINITE = re.compile(r"[+-]?Inf")
MAX_DIGITS = 400  # the largest float64 has 309 digits, the smallest 1074 after the point, of which exporters write a few
QUOTES = 14  # quotation marks of four names and three texts
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MS = timedelta(milliseconds=1)


class Message(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """One sample."""

    timestamp: Annotated[datetime, msgspec.Meta(tz=True)]
    value: str
    name: str
    labels: msgspec.Raw


def open_codec(series: SeriesTable, naming: Naming) -> Codec:
    """A decoder that numbers series in ``series``, with workloads named by ``naming``."""
    return PrometheusJson(series, naming)


class PrometheusJson:
    """See `forecastle.intake.codecs.Codec`. Keeps a bounded cache from names and raw labels to series numbers."""

    def __init__(self, series: SeriesTable, naming: Naming) -> None:
        self._series = series
        self._naming = naming
        self._known: dict[tuple[str, bytes], int] = {}
        self._message = msgspec.json.Decoder(Message)
        self._labels = msgspec.json.Decoder(dict[str, str])

    def decode(self, values: Sequence[bytes | None], not_after: int) -> Decoded:
        """Samples of ``values``; see `Codec.decode`."""
        if len(self._known) > 4 * self._series.max_total + 1024:
            self._known = {}
        return sift_rows(values, self._rows, not_after)

    def _rows(self, raw: bytes | None) -> list[Row]:
        if not raw:
            raise Malformed("empty")
        try:
            message = self._message.decode(raw)
        except PARSE_ERRORS as error:
            raise refusal(error) from None
        labels = bytes(message.labels)
        if raw.count(b'"') != QUOTES + labels.count(b'"'):
            no_repeated_keys(raw)
        number = self._known.get((message.name, labels))
        if number is None:
            number = self._known[message.name, labels] = self._number(message.name, labels)
        value = number_in(message.value)
        return [] if value is None else [(number, (message.timestamp - EPOCH) // MS, value)]

    def _number(self, name: str, raw: bytes) -> int:
        try:
            labels = self._labels.decode(raw)
        except PARSE_ERRORS as error:
            raise refusal(error) from None
        if raw.count(b'"') != 4 * len(labels):
            no_repeated_keys(raw)
        if labels.pop(NAME, name) != name:
            raise Malformed("name_mismatch", f"name is {name[:100]!r}, the label {NAME} says otherwise")
        return self._naming.number(self._series, name, labels.items())


def number_in(text: str) -> float | None:
    """The number that ``text`` is as Go writes it, None for NaN. Raises Malformed."""
    if len(text) > MAX_DIGITS:
        raise Malformed("out_of_range", f"a number of {len(text)} characters")
    if text == "NaN":
        return None
    if INFINITE.fullmatch(text):
        raise Malformed("not_finite", text)
    if not NUMBER.fullmatch(text):
        raise Malformed("wrong_type", f"{text[:40]!r} is not a number")
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise Malformed("out_of_range", text[:40])
    return value
