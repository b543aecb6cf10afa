"""Wire formats. One file each; adding one is adding a file and a line to `CODECS`.

A codec decodes a whole poll of messages at once into columns, because a Python object per sample would cost more than the
parsing. A message is accepted or refused **whole**: a batch with one bad sample is dead-lettered with all of its samples, since
a record that is half in the state and half in the dead-letter topic could not be corrected and sent again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np

from forecastle.errors import ConfigError, Malformed
from forecastle.intake.naming import Naming
from forecastle.intake.series import SeriesTable
from forecastle.types import Floats, Index, Ints

CODECS = {
    "json": "forecastle.intake.codecs.json",
    "otlp_proto": "forecastle.intake.codecs.otlp_proto",
    "otlp_json": "forecastle.intake.codecs.otlp_json",
}
LABELLED = {
    "prometheus_json": "forecastle.intake.codecs.prometheus_json",
    "remote_write": "forecastle.intake.codecs.remote_write",
    "telegraf_json": "forecastle.intake.codecs.telegraf_json",
    "influx": "forecastle.intake.codecs.influx",
}
"""Formats with flat labels, which need a `Naming` to tell the workload."""
MAX_AT = 1 << 53
Row: TypeAlias = tuple[int, int, float]
"""Series number, ms and value of one sample."""


class Refused(NamedTuple):
    """Message ``record`` of the poll was not understood: a stable ``reason`` code and a short ``detail``."""

    record: int
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Decoded:
    """n samples in order of arrival, and the refused messages in order, none of which has a sample here.

    ``record`` int32[n] is the message each sample came from, ``series`` int32[n] its number in the table, ``at`` int64[n] ms,
    ``value`` float64[n]. ``newest`` is the latest time (ms) of all samples, refused ones too; -1: there was none.
    """

    record: Index
    series: Index
    at: Ints
    value: Floats
    refused: tuple[Refused, ...] = ()
    newest: int = -1


class Codec(Protocol):
    """Decodes every message or refuses it; never raises for what a message holds."""

    def decode(self, values: Sequence[bytes | None], not_after: int) -> Decoded:
        """Samples of ``values``. A message with a sample later than ``not_after`` (ms) is refused as ``future``."""


def open_codec(name: str, series: SeriesTable, naming: Naming | None = None) -> Codec:
    """The codec called ``name``; ``naming`` is for those of `LABELLED`. Raises ConfigError naming the known ones."""
    if name in LABELLED:
        labelled: Callable[[SeriesTable, Naming], Codec] = import_module(LABELLED[name]).open_codec
        return labelled(series, naming or Naming())
    if name not in CODECS:
        raise ConfigError(f"intake.codecs: there is no codec '{name}'; choose one of {', '.join((*CODECS, *LABELLED))}")
    build: Callable[[SeriesTable], Codec] = import_module(CODECS[name]).open_codec
    return build(series)


def sift_rows(values: Sequence[bytes | None], rows_of: Callable[[bytes | None], list[Row]], not_after: int) -> Decoded:
    """`sift` of the rows of each message. ``rows_of`` raises Malformed for one to refuse."""
    rows: list[Row] = []
    sizes: list[int] = []
    refused: list[Refused] = []
    for i, raw in enumerate(values):
        start = len(rows)
        try:
            rows.extend(rows_of(raw))
        except Malformed as error:
            refused.append(Refused(i, error.reason, str(error)[:300]))
        sizes.append(len(rows) - start)
    record = np.repeat(np.arange(len(values), dtype=np.int32), sizes)
    number, at, value = zip(*rows, strict=True) if rows else ((), (), ())
    columns = np.array(number, np.int32), np.array(at, np.int64), np.array(value, np.float64)
    return sift(record, *columns, refused=refused, not_after=not_after)


def sift(record: Index, series: Index, at: Ints, value: Floats, *, refused: list[Refused], not_after: int) -> Decoded:
    """The last gate, common to all codecs: times and values must make sense; refused messages lose all their samples.

    Codes: ``future`` (beyond the allowed skew: a broken clock), ``absurd_time`` (before 1970) and ``not_finite``.
    """
    newest = int(at.max(initial=-1))
    bad = (at > not_after) | (at < 0) | ~np.isfinite(value)
    if bad.any():
        seen = {r.record for r in refused}
        for i in np.flatnonzero(bad).tolist():
            number = int(record[i])
            if number in seen:
                continue
            seen.add(number)
            if at[i] > not_after:
                refused.append(
                    Refused(number, "future", f"at {int(at[i])} is {int(at[i]) - not_after} ms past the allowed skew")
                )
            elif at[i] < 0:
                refused.append(Refused(number, "absurd_time", f"at {int(at[i])}"))
            else:
                refused.append(Refused(number, "not_finite", str(value[i])))
    if refused:
        keep = ~np.isin(record, np.array([r.record for r in refused], np.int32))
        record, series, at, value = record[keep], series[keep], at[keep], value[keep]
    return Decoded(record, series, at, value, tuple(sorted(refused)), newest)
