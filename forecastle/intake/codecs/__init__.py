"""Wire formats. One file each; adding one is adding a file and a line to `CODECS`.

A codec decodes a whole poll of messages at once into columns, because a Python object per sample would cost more than the
parsing. A message is accepted or refused **whole**: a batch with one bad sample is dead-lettered with all of its samples, since
a record that is half in the state and half in the dead-letter topic could not be corrected and sent again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import NamedTuple, Protocol

import numpy as np

from forecastle.errors import ConfigError
from forecastle.intake.series import SeriesTable
from forecastle.types import Floats, Index, Ints

CODECS = {
    "json": "forecastle.intake.codecs.json",
    "otlp_proto": "forecastle.intake.codecs.otlp_proto",
    "otlp_json": "forecastle.intake.codecs.otlp_json",
}
MAX_AT = 1 << 53


class Refused(NamedTuple):
    """Message ``record`` of the poll was not understood: a stable ``reason`` code and a short ``detail``."""

    record: int
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Decoded:
    """n samples in order of arrival: ``record`` int32[n] the message each came from, ``series`` int32[n] its number in the
    table, ``at`` int64[n] ms, ``value`` float64[n]; and the refused messages in order, none of which has a sample here."""

    record: Index
    series: Index
    at: Ints
    value: Floats
    refused: tuple[Refused, ...] = ()


class Codec(Protocol):
    """Decodes every message or refuses it; never raises for what a message holds."""

    def decode(self, values: Sequence[bytes | None], not_after: int) -> Decoded:
        """Samples of ``values``. A message with a sample later than ``not_after`` (ms) is refused as ``future``."""


def open_codec(name: str, series: SeriesTable) -> Codec:
    """The codec called ``name``. Raises ConfigError naming the known ones."""
    if name not in CODECS:
        raise ConfigError(f"intake.codecs: there is no codec '{name}'; choose one of {', '.join(CODECS)}")
    build: Callable[[SeriesTable], Codec] = import_module(CODECS[name]).open_codec
    return build(series)


def sift(record: Index, series: Index, at: Ints, value: Floats, refused: list[Refused], not_after: int) -> Decoded:
    """The last gate, common to all codecs: times and values must make sense; refused messages lose all their samples.

    Codes: ``future`` (beyond the allowed skew: a broken clock), ``absurd_time`` (before 1970) and ``not_finite``.
    """
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
    return Decoded(record, series, at, value, tuple(sorted(refused)))
