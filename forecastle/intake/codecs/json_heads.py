"""What a producer repeats in every batch of the ``json`` format, the series and their order, is read once.

A batch is mostly names. Of one that was read the hard way, all bytes up to ``"at":[`` are remembered with the numbers of its
series; a later message that begins with the same bytes has only its times and values parsed. In a batch that is in order,
``],"at":[`` can only be the end of one column and the beginning of the next: in a text the quotation marks would be escaped,
and no other key of the format holds an array under that name. What remains must be two arrays with ``],"value":[`` between
them and a brace behind; each is parsed by itself, as strictly as the whole would be.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Annotated, NamedTuple

import msgspec
import numpy as np

from forecastle.intake.codecs import MAX_AT
from forecastle.intake.strict import PARSE_ERRORS
from forecastle.types import Floats, Index, Ints

At = Annotated[int, msgspec.Meta(ge=0, le=MAX_AT)]
HEAD, MIDDLE, TAIL = b'],"at":[', b'],"value":[', b"}"
NAMED = 128  # bytes of a message that, with the length of its head, tell which head to compare it with
MAX_BYTES = 32 << 20  # of all heads remembered


class Known(NamedTuple):
    """The beginning of a batch, and the series number of each of its samples: int32[n]."""

    head: bytes
    number: Index

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.head) + self.number.nbytes


class Heads:
    """Beginnings of batches. Bounded: full, it forgets all of them."""

    def __init__(self, limit: int = MAX_BYTES) -> None:
        self._limit = limit
        self._known: dict[tuple[int, bytes], Known] = {}
        self._size = 0
        self._at = msgspec.json.Decoder(At)
        self._times = msgspec.json.Decoder(list[At])
        self._values = msgspec.json.Decoder(list[float])

    def learn(self, value: bytes, number: Index) -> None:
        """Remember how ``value`` began, a batch in order whose samples are of the series ``number``, int32[n]."""
        cut = value.rfind(HEAD) + len(HEAD)
        made = Known(value[:cut], number)
        if cut < len(HEAD) or not len(number) or made.size > self._limit:
            return
        key = cut, value[:NAMED]
        former = self._known.pop(key, None)
        self._size += made.size - (former.size if former else 0)
        if self._size > self._limit:
            self.clear()
            self._size = made.size
        self._known[key] = made

    def clear(self) -> None:
        """Forget everything."""
        self._known, self._size = {}, 0

    def columns(self, value: bytes) -> tuple[Index, Ints, Floats] | None:
        """Series numbers int32[n], times int64[n] and values float64[n]; None: the whole message is to be read."""
        cut = value.rfind(HEAD) + len(HEAD)
        known = self._known.get((cut, value[:NAMED]))
        if known is None or not value.startswith(known.head) or not value.endswith(TAIL):
            return None
        end = value.find(MIDDLE, cut)
        if end < 0:
            return None
        count = len(known.number)
        times = value[cut:end]
        first = times.partition(b",")[0]
        try:
            values = self._values.decode(value[end + len(MIDDLE) - 1 : -len(TAIL)])
            if times == first + (b"," + first) * (count - 1):
                at = np.full(count, self._at.decode(first), np.int64)
            else:
                at = packed_ints(self._times.decode(b"[" + times + b"]"))
        except PARSE_ERRORS:
            return None
        return (known.number, at, packed_floats(values)) if count == len(at) == len(values) else None


def packed_ints(numbers: Sequence[int]) -> Ints:
    """int64[n] of ``numbers``, which must fit: three times as fast as `numpy.array`."""
    return np.frombuffer(struct.pack(f"{len(numbers)}q", *numbers), np.int64)


def packed_floats(numbers: Sequence[float]) -> Floats:
    """float64[n] of ``numbers``."""
    return np.frombuffer(struct.pack(f"{len(numbers)}d", *numbers), np.float64)
