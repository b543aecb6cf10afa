"""A new version of a price book beside the older ones: written whole or not at all, and never over another."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import NamedTemporaryFile

from forecastle.decide.prices import Book, Price, contradictions
from forecastle.errors import ConfigError, Conflict, Permanent
from forecastle.runtime.prices import read_book, shelf


@dataclass(frozen=True, slots=True)
class Draft:
    """What the next version of ``book`` will say: prices known for ``[since, as_of)`` (ms)."""

    book: str
    currency: str
    since: int
    as_of: int
    prices: tuple[Price, ...]


def newest(folder: Path, book: str) -> Book | None:
    """The newest version of ``book`` in ``folder``; None before the first. Raises ConfigError."""
    return _newest(shelf(folder).books, book)


def _newest(books: Sequence[Book], book: str) -> Book | None:
    return max((b for b in books if b.name == book), key=lambda b: b.version, default=None)


def next_since(before: Book | None, first: int, now: int) -> int:
    """When (ms) the version after ``before`` begins: where its knowledge ended, ``first`` for the first version of all."""
    if before is None:
        return first
    return max(before.as_of if before.as_of is not None else now, before.since + 1)


def publish(folder: Path, draft: Draft) -> Path | None:
    """Write the next version of ``draft.book`` and return its path; None when nothing has changed since the newest.

    Raises ConfigError when it contradicts the other books, Conflict when another writer was faster.
    """
    books = shelf(folder).books  # read once: a writer in between is then met at the name, and not missed by the checks
    before = _newest(books, draft.book)
    if before is not None and _unchanged(before, draft):
        return None
    version = 1 if before is None else before.version + 1
    path = folder / f"{draft.book}-{version:04d}.yaml"
    book = Book(draft.book, version, draft.currency, draft.since, draft.prices, as_of=draft.as_of, source=str(path))
    problems = list(contradictions([*books, book]))
    if problems:
        raise ConfigError("\n".join(problems))
    _write(path, book)
    return path


def _unchanged(before: Book, draft: Draft) -> bool:
    """Whether every price is still what it was when the newest version ended."""

    def latest(rows: Sequence[Price]) -> dict[object, Price]:
        ordered = sorted(rows, key=lambda row: row.since)
        return {row.point: replace(row, since=0, line=0) for row in ordered}

    moved = len({row.point for row in draft.prices}) != len(draft.prices)
    return not moved and latest(before.prices) == latest(draft.prices)


def _write(path: Path, book: Book) -> None:
    """Through a file of another name, read back before it gets its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, prefix=".", suffix=".new", delete=False) as file:
        written = Path(file.name)
        file.write(text(book))
        file.flush()
        os.fsync(file.fileno())
    try:
        if _bare(read_book(written)) != _bare(book):
            raise Permanent(f"{path}: is not read back as it was written; report the prices that it was made from")
        written.chmod(0o644)
        os.link(written, path)  # fails when the name is taken, which a rename does not
    except FileExistsError as error:
        raise Conflict(f"{path}: exists already; another writer was faster, or it holds a version of another name") from error
    finally:
        written.unlink()


def _bare(book: Book) -> Book:
    return replace(book, source="", lines={}, prices=tuple(replace(row, line=0) for row in book.prices))


def text(book: Book) -> str:
    """The book as its YAML file says it."""
    lines = [
        f"book: {_said(book.name)}",
        f"version: {book.version}",
        f"currency: {book.currency}",
        f"valid_from: {instant(book.since)}",
    ]
    if book.as_of is not None:
        lines.append(f"as_of: {instant(book.as_of)}")
    return "\n".join([*lines, "prices:", *(f"  - {{{_row(row, book.since)}}}" for row in book.prices)]) + "\n"


def _row(row: Price, since: int) -> str:
    point = row.point
    said = [f"sku: {_said(point.sku)}", f"provider: {_said(point.provider)}", f"region: {_said(point.region)}"]
    said += [f"zone: {_said(point.zone)}"] if point.zone else []
    said += [f"valid_from: {instant(row.since)}"] if row.since != since else []
    money = {
        "price_h": row.price,
        "spot_price_h": row.spot_price,
        "interruptions_h": row.interruptions_h,
        "egress_price": row.egress_price,
    }
    said += [f"{name}: {value!r}" for name, value in money.items() if value is not None]
    if row.commitment is not None:
        said.append(f"commitment: {{count: {row.commitment.count}, price_h: {row.commitment.price!r}}}")
    return ", ".join(said)


def _said(value: str) -> str:
    """A string that YAML takes for nothing else: quoted, with escapes for all that is not printable."""
    plain = "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in value.replace("\\", "\\\\").replace('"', '\\"'))
    return f'"{plain}"'


def instant(at: int) -> str:
    """``at`` (ms) as RFC 3339 in UTC."""
    return datetime.fromtimestamp(at / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
