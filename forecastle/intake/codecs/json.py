r"""``json``: our own format, for producers that write to us directly. Two shapes, which may be mixed in a topic.

One sample::

    {"workload": "shop", "metric": "requests", "labels": {"site": "aws-a"}, "at": 1700000000000, "value": 12.5}

A batch, columns with dictionary-encoded series (``key[i]`` indexes ``keys``)::

    {"keys": [{"workload": "shop", "metric": "requests", "labels": {}}], "key": [0, 0], "at": [1, 2], "value": [3, 4.5]}

``at`` is ms since the epoch, ``labels`` may be left out, nothing else may be. Speed comes from parsing a poll's messages as
one text and from looking series up by their raw, unparsed labels. Joining must not let two messages merge into one: neither may
hold a line break, every seam must read ``},\n{``, and there must be as many objects as messages; then a seam can only be at
the top level. A repeated key is found by counting quotation marks: each parsed key and text accounts for two, any more is a
repetition or an escaped quote, and the exact check decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from forecastle.errors import Malformed
from forecastle.intake.codecs import Codec, Decoded, Refused, sift
from forecastle.intake.codecs.json_heads import At, Heads, packed_floats, packed_ints
from forecastle.intake.series import SeriesTable
from forecastle.intake.strict import PARSE_ERRORS, no_repeated_keys, refusal
from forecastle.types import Floats, Index, Ints

MAX_SAMPLES = 100_000
NAMED = 8  # quotation marks of "workload": "...", "metric": "..."
BATCH = 8
TABLES = 256
"""Key tables remembered: about as many producers as write to one worker's partitions."""


class Single(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """One sample."""

    workload: str
    metric: str
    at: At
    value: float
    labels: msgspec.Raw = msgspec.Raw()


class Key(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """One series of a batch."""

    workload: str
    metric: str
    labels: msgspec.Raw = msgspec.Raw()


class Batch(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """Many samples as columns. ``keys`` stays unparsed: a producer repeats it in every message."""

    keys: msgspec.Raw
    key: list[int]
    at: list[At]
    value: list[float]


def open_codec(series: SeriesTable) -> Codec:
    """A decoder that numbers series in ``series``."""
    return Json(series)


class Json:
    """See `forecastle.intake.codecs.Codec`. Keeps a bounded cache from raw names and labels to series numbers."""

    def __init__(self, series: SeriesTable) -> None:
        self._series = series
        self._aliases: dict[tuple[str, str, bytes], int] = {}
        self._number: list[int] = []
        self._quotes: list[int] = []
        self._tables: dict[bytes, tuple[Index, int]] = {}
        self._heads = Heads()
        self._keys = msgspec.json.Decoder(list[Key])
        self._many = msgspec.json.Decoder(list[Single])
        self._single = msgspec.json.Decoder(Single)
        self._batch = msgspec.json.Decoder(Batch)
        self._labels = msgspec.json.Decoder(dict[str, str])

    def decode(self, values: Sequence[bytes | None], not_after: int) -> Decoded:
        """Samples of ``values``; see `Codec.decode`."""
        if len(self._aliases) > 4 * self._series.max_total + 1024:
            self._aliases, self._number, self._quotes, self._tables = {}, [], [], {}
        together = self._together(values)
        if together is not None:
            return sift(*together, refused=[], not_after=not_after)
        parts: list[tuple[Index, Ints, Floats]] = []
        sizes: list[int] = []
        refused: list[Refused] = []
        for i, value in enumerate(values):
            try:
                parts.append(self._one(value))
                sizes.append(len(parts[-1][1]))
            except Malformed as error:
                refused.append(Refused(i, error.reason, str(error)[:300]))
                sizes.append(0)
        record = np.repeat(np.arange(len(values), dtype=np.int32), sizes)
        if not parts:
            return Decoded(record, record, record.astype(np.int64), record.astype(np.float64), tuple(refused))
        number, at, value_ = (np.concatenate(column) for column in zip(*parts, strict=True))
        return sift(record, number, at, value_, refused=refused, not_after=not_after)

    def _together(self, values: Sequence[bytes | None]) -> tuple[Index, Index, Ints, Floats] | None:
        """All single-sample messages in one parse, or None when one of them needs a closer look."""
        if not values or None in values or values[0].startswith(b'{"keys"'):  # type: ignore[union-attr]  # None is ruled out
            return None
        text = b"[" + b",\n".join(values) + b"]"  # type: ignore[arg-type]  # None is ruled out
        seams = len(values) - 1
        if text.count(b"\n") != seams or text.count(b"},\n{") != seams:
            return None
        aliases = self._aliases
        try:
            rows = self._many.decode(text)
            keys = [(row.workload, row.metric, bytes(row.labels)) for row in rows]
            found = [aliases.get(key, -1) for key in keys]
            if -1 in found:
                found = [self._alias(key) for key in keys]
        except (Malformed, *PARSE_ERRORS):
            return None
        alias = np.array(found, np.int32)
        quotes = np.count_nonzero(np.frombuffer(text, np.uint8) == ord('"'))
        if len(rows) != len(values) or quotes != 4 * len(rows) + int(np.array(self._quotes, np.int32)[alias].sum()):
            return None
        at = np.array([row.at for row in rows], np.int64)
        value = np.array([row.value for row in rows], np.float64)
        return np.arange(len(rows), dtype=np.int32), np.array(self._number, np.int32)[alias], at, value

    def _one(self, value: bytes | None) -> tuple[Index, Ints, Floats]:
        if not value:
            raise Malformed("empty")
        known = self._heads.columns(value)
        if known:
            return known
        batch = value.startswith(b'{"keys"')
        try:
            parsed: Any = (self._batch if batch else self._single).decode(value)
        except PARSE_ERRORS as error:
            if batch or b'"keys"' not in value:
                raise refusal(error) from None
            parsed = self._try_batch(value)
        if isinstance(parsed, Single):
            alias = self._alias((parsed.workload, parsed.metric, bytes(parsed.labels)))
            if value.count(b'"') != 4 + self._quotes[alias]:
                no_repeated_keys(value)
            return np.array([self._number[alias]], np.int32), np.array([parsed.at]), np.array([parsed.value])
        return self._columns(parsed, value)

    def _try_batch(self, value: bytes) -> Batch:
        try:
            return self._batch.decode(value)
        except PARSE_ERRORS as error:
            raise refusal(error) from None

    def _columns(self, batch: Batch, value: bytes) -> tuple[Index, Ints, Floats]:
        n = len(batch.key)
        if not n == len(batch.at) == len(batch.value):
            raise Malformed("ragged", f"{n} keys, {len(batch.at)} times, {len(batch.value)} values")
        if n > MAX_SAMPLES:
            raise Malformed("too_large", f"{n} samples, {MAX_SAMPLES} are allowed")
        numbers, quotes = self._table(bytes(batch.keys))
        if n and not 0 <= min(batch.key) <= max(batch.key) < len(numbers):
            raise Malformed("bad_index", f"key must be within 0..{len(numbers) - 1}")
        if value.count(b'"') != BATCH + quotes:
            no_repeated_keys(value)
        number = numbers[packed_ints(batch.key)]
        self._heads.learn(value, number)
        return number, packed_ints(batch.at), packed_floats(batch.value)

    def _table(self, raw: bytes) -> tuple[Index, int]:
        """Series numbers of a batch's keys, and the quotation marks they account for; the newest tables are remembered."""
        known = self._tables.get(raw)
        if known is not None:
            return known
        try:
            keys = self._keys.decode(raw)
        except PARSE_ERRORS as error:
            raise refusal(error) from None
        if len(keys) > MAX_SAMPLES:
            raise Malformed("too_large", f"{len(keys)} keys, {MAX_SAMPLES} are allowed")
        alias = [self._alias((key.workload, key.metric, bytes(key.labels))) for key in keys]
        if len(self._tables) >= TABLES:
            self._tables.clear()
        self._tables[raw] = np.array([self._number[a] for a in alias], np.int32), sum(self._quotes[a] for a in alias)
        return self._tables[raw]

    def _alias(self, key: tuple[str, str, bytes]) -> int:
        known = self._aliases.get(key)
        if known is not None:
            return known
        workload, metric, raw = key
        try:
            labels = self._labels.decode(raw) if raw else {}
        except PARSE_ERRORS as error:
            raise refusal(error) from None
        quotes = NAMED + (2 + 4 * len(labels) if raw else 0)
        if raw and raw.count(b'"') != 4 * len(labels):
            no_repeated_keys(raw)
            quotes = NAMED + 2 + raw.count(b'"')
        self._number.append(self._series.number(workload, metric, labels.items()))
        self._quotes.append(quotes)
        self._aliases[key] = len(self._number) - 1
        return self._aliases[key]
