r"""``influx``: InfluxDB's line protocol with nanoseconds, Telegraf's default for Kafka; one line or many a message.

::

    cpu,workload=shop,host=a\ b idle=91.5,busy=8i 1700000000000000000

Series are called as in ``telegraf_json``. Integers end in ``i``, unsigned ones in ``u``. A text field is a description and
gives no sample; a line with nothing but texts is refused, and so is one with a boolean or without a time: when it arrived is
not when it happened. A backslash is itself unless it stands before a comma, a space or an equals sign.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from forecastle.errors import Malformed
from forecastle.intake.codecs import Codec, Decoded, Row, sift_rows
from forecastle.intake.codecs.telegraf_json import NS_PER_MS, series_name
from forecastle.intake.naming import Naming
from forecastle.intake.series import SeriesTable

# possessive, so that a hostile line is read once, from left to right
MEASUREMENT = re.compile(r"[^\\, \n]*+(?:\\[,= ]?+[^\\, \n]*+)*+")
NAME = re.compile(r"[^\\,= \n]*+(?:\\[,= ]?+[^\\,= \n]*+)*+")
TEXT = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
PLAIN = re.compile(r'[^, \n"]++')
FLOAT = re.compile(r"[+-]?(?:[0-9]++(?:\.[0-9]*+)?+|\.[0-9]++)(?:[eE][+-]?[0-9]++)?")
INTEGER = re.compile(r"(-?[0-9]{1,20})(i|u)")
TIME = re.compile(r"-?[0-9]{1,20}")
ESCAPED = re.compile(r"\\([,= ])")
BOOLEANS = frozenset({"t", "T", "true", "True", "TRUE", "f", "F", "false", "False", "FALSE"})
RANGE = {"i": range(-(1 << 63), 1 << 63), "u": range(1 << 64)}
MAX_NUMBER = 400  # characters


def open_codec(series: SeriesTable, naming: Naming) -> Codec:
    """A decoder that numbers series in ``series``, with workloads named by ``naming``."""
    return Influx(series, naming)


class Influx:
    """See `forecastle.intake.codecs.Codec`. Keeps a bounded cache from raw heads of lines and fields to series numbers."""

    def __init__(self, series: SeriesTable, naming: Naming) -> None:
        self._series = series
        self._naming = naming
        self._known: dict[tuple[str, str], int] = {}

    def decode(self, values: Sequence[bytes | None], not_after: int) -> Decoded:
        """Samples of ``values``; see `Codec.decode`."""
        if len(self._known) > 4 * self._series.max_total + 1024:
            self._known = {}
        return sift_rows(values, self._message, not_after)

    def _message(self, raw: bytes | None) -> list[Row]:
        if not raw or raw.isspace():
            raise Malformed("empty")
        try:
            text = raw.decode()
        except UnicodeDecodeError as error:
            raise Malformed("bad_utf8", f"at byte {error.start}") from None
        rows: list[Row] = []
        at = 0
        while at < len(text):
            if text[at] in "\r\n":
                at += 1
            elif text[at] == "#":
                at = (text.find("\n", at) + 1) or len(text)
            else:
                at = self._line(text, at, rows)
        return rows

    def _line(self, text: str, start: int, rows: list[Row]) -> int:
        """Appends the samples of the line at ``start``; returns where the next begins."""
        at = _end(MEASUREMENT, text, start)
        while text[at : at + 1] == ",":
            at = _end(NAME, text, _after(text, _end(NAME, text, at + 1), "="))
        head, at = text[start:at], _after(text, at, " ")
        fields, at = _fields(text, at)
        time, at = _time(text, at)
        if not fields:
            raise Malformed("no_value", f"{head[:100]} has no field that is a number")
        for field, value in fields.items():
            number = self._known.get((head, field))
            if number is None:
                number = self._known[head, field] = self._number(head, field)
            rows.append((number, time, value))
        return at

    def _number(self, head: str, field: str) -> int:
        at = _end(MEASUREMENT, head, 0)
        return self._naming.number(self._series, series_name(_plain(head[:at]), _plain(field)), _tags(head, at))


def _tags(head: str, at: int) -> Iterator[tuple[str, str]]:
    while at < len(head):
        middle = _end(NAME, head, at + 1)
        end = _end(NAME, head, middle + 1)
        name, value = _plain(head[at + 1 : middle]), _plain(head[middle + 1 : end])
        if not name or not value:
            raise Malformed("empty_name", f"tag {name[:100]!r}")
        yield name, value
        at = end


def _fields(text: str, at: int) -> tuple[dict[str, float], int]:
    """The numeric fields from ``at`` on, and where they end."""
    seen: set[str] = set()
    numbers: dict[str, float] = {}
    while True:
        end = _end(NAME, text, at)
        name, at = text[at:end], _after(text, end, "=")
        if name in seen:
            raise Malformed("duplicate_key", name[:100])
        seen.add(name)
        written = (TEXT if text[at : at + 1] == '"' else PLAIN).match(text, at)
        if written is None:
            raise Malformed("not_influx", f"no value at character {at}")
        at = written.end()
        if written.re is PLAIN:
            numbers[name] = _value(written[0])
        if text[at : at + 1] != ",":
            return numbers, at
        at += 1


def _value(text: str) -> float:
    if text in BOOLEANS:
        raise Malformed("wrong_type", f"{text} is a boolean; leave such fields out with Telegraf's fieldexclude")
    if len(text) > MAX_NUMBER:
        raise Malformed("out_of_range", f"a number of {len(text)} characters")
    whole = INTEGER.fullmatch(text)
    if whole:
        if int(whole[1]) not in RANGE[whole[2]]:
            raise Malformed("out_of_range", text)
        return float(whole[1])
    if not FLOAT.fullmatch(text):
        raise Malformed("wrong_type", f"{text[:40]!r} is not a number")
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise Malformed("out_of_range", text[:40])
    return value


def _time(text: str, at: int) -> tuple[int, int]:
    """Milliseconds of the line's time, and where the next line begins."""
    found = TIME.match(text, at + 1) if text[at : at + 1] == " " else None
    if found is None:
        raise Malformed("missing_field", f"no time in nanoseconds at character {at}")
    end = found.end() + (text[found.end() : found.end() + 1] == "\r")
    if text[end : end + 1] not in ("", "\n"):
        raise Malformed("not_influx", f"more than a time at character {end}")
    nanoseconds = int(found[0])
    if nanoseconds not in RANGE["i"]:
        raise Malformed("out_of_range", "a time of more than 64 bits")
    return nanoseconds // NS_PER_MS, end


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return found.end() if found else at


def _after(text: str, at: int, wanted: str) -> int:
    if text[at : at + 1] != wanted:
        raise Malformed("not_influx", f"expected {wanted!r} at character {at}")
    return at + 1


def _plain(text: str) -> str:
    return ESCAPED.sub(r"\1", text) if "\\" in text else text
