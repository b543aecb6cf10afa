"""Price books: what a replica-hour costs where, since when and by which version of which book; pure.

A book is a sequence of versions, each complete in itself: at any time the newest version that has begun is in force. Each
field of a quote is said by the newest row of the zone that has it, else by the newest of the whole region: spot prices
differ by zone, list prices do not, and the two may come from different books. A version never changes; it is superseded.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, zip_longest
from typing import Any, NamedTuple


class Point(NamedTuple):
    """What has a price: ``sku`` of ``provider`` in ``region``; ``zone`` '' is every zone of it."""

    provider: str
    region: str
    zone: str
    sku: str

    def __str__(self) -> str:
        return f"{self.sku} in {'/'.join(part for part in self[:3] if part)}"


@dataclass(frozen=True, slots=True)
class Commitment:
    """``count`` replicas paid at ``price`` per replica-hour whether used or not."""

    count: int
    price: float


@dataclass(frozen=True, slots=True)
class Price:
    """One row: ``price`` and ``spot_price`` in money per replica-hour from ``since`` (ms) on, None where it leaves them open.

    ``interruptions_h`` is how often an hour a spot replica is taken back, ``egress_price`` money per GB, ``line`` where it is
    written.
    """

    point: Point
    since: int
    price: float | None = None
    spot_price: float | None = None
    interruptions_h: float | None = None
    commitment: Commitment | None = None
    egress_price: float | None = None
    line: int = 0


@dataclass(frozen=True, slots=True)
class Book:
    """One version of a price book, in force from ``since`` until the next version begins or until ``until`` (ms).

    ``as_of`` is the time (ms) up to which its prices are known; ``source`` names its file.
    """

    name: str
    version: int
    currency: str
    since: int
    prices: tuple[Price, ...]
    until: int | None = None
    as_of: int | None = None
    source: str = ""
    lines: Mapping[str, int] = field(default_factory=dict)

    def where(self, line: int | str = 0) -> str:
        """``file:line`` of a line, or of a field's name."""
        number = self.lines.get(line, 0) if isinstance(line, str) else line
        return f"{self.source}:{number}" if number else self.source


@dataclass(frozen=True, slots=True)
class Quote:
    """What the books say about a point at one time; ``books`` are the ``name@version`` that say it. Open fields are None."""

    books: tuple[str, ...]
    price: float | None = None
    spot_price: float | None = None
    interruptions_h: float | None = None
    commitment: Commitment | None = None
    egress_price: float | None = None


def same_zone(region: str, a: str, b: str) -> bool:
    """Whether two spellings mean the same zone of ``region``: ``a``, ``eu-central-1a`` and ``eu-central-1-a`` do."""
    return _bare(region, a) == _bare(region, b)


def _bare(region: str, zone: str) -> str:
    return zone.removeprefix(region).lstrip("-")


FIELDS = ("price", "spot_price", "interruptions_h", "commitment", "egress_price")
"""What a row may say."""


@dataclass(frozen=True, slots=True)
class _Indexed:
    """A version with what its rows say of each field of each point: times ascending, and the values from then on."""

    book: Book
    said: Mapping[tuple[Point, str], tuple[list[int], list[Any]]]

    @classmethod
    def of(cls, book: Book) -> _Indexed:
        said: dict[tuple[Point, str], tuple[list[int], list[Any]]] = defaultdict(lambda: ([], []))
        for row in sorted(book.prices, key=lambda row: row.since):
            for name in FIELDS:
                if getattr(row, name) is not None:
                    times, values = said[_normal(row.point), name]
                    times.append(row.since)
                    values.append(getattr(row, name))
        return cls(book, dict(said))

    def says(self, point: Point, name: str, at: int) -> Any:
        """The newest value that has begun at ``at``; None without one."""
        times, values = self.said.get((point, name), ((), ()))
        i = bisect_right(times, at)
        return values[i - 1] if i else None


class Shelf:
    """All versions of all books, indexed so that a report may ask for many prices."""

    def __init__(self, books: Sequence[Book] = ()) -> None:
        self.books = tuple(books)
        self._versions: dict[str, list[_Indexed]] = defaultdict(list)
        for book in sorted(self.books, key=lambda book: book.since):
            self._versions[book.name].append(_Indexed.of(book))
        self._starts = {name: [one.book.since for one in versions] for name, versions in self._versions.items()}

    @property
    def currency(self) -> str:
        """The currency of every price, '' without a book."""
        return self.books[0].currency if self.books else ""

    def in_force(self, at: int) -> list[Book]:
        """Of each book the newest version that has begun at ``at`` (ms), unless it has ended."""
        return [one.book for one in self._in_force(at)]

    def _in_force(self, at: int) -> list[_Indexed]:
        begun = [(name, bisect_right(starts, at)) for name, starts in self._starts.items()]
        newest = [self._versions[name][i - 1] for name, i in begun if i]
        return [one for one in newest if one.book.until is None or at < one.book.until]

    def quote(self, point: Point, at: int) -> Quote | None:
        """The prices of ``point`` in force at ``at`` (ms); None when no book has any then."""
        zone = _normal(point)
        places = dict.fromkeys((zone, zone._replace(zone="")))
        versions = self._in_force(at)
        said: dict[str, Any] = {}
        books: dict[str, None] = {}
        for name in FIELDS:
            answers = ((one, one.says(place, name, at)) for place in places for one in versions)
            found = next(((one, value) for one, value in answers if value is not None), None)
            if found is not None:
                said[name] = found[1]
                books[f"{found[0].book.name}@{found[0].book.version}"] = None
        return Quote(tuple(books), **said) if books else None

    def changes(self, point: Point, start: int, end: int) -> list[int]:
        """Times (ms) inside ``(start, end)`` at which the price of ``point`` may change, ascending."""
        times = {t for book in self.books for t in (book.since, book.until) if t is not None}
        here = [row for book in self.books for row in book.prices if row.point.sku == point.sku]
        times |= {row.since for row in here if row.point[:2] == point[:2] and _covers(row.point, point)}
        return sorted(t for t in times if start < t < end)

    def points(self, at: int) -> list[Point]:
        """Everything that has a price at ``at``."""
        return sorted({row.point for book in self.in_force(at) for row in book.prices if row.since <= at})


def _covers(row: Point, asked: Point) -> bool:
    return not row.zone or same_zone(asked.region, row.zone, asked.zone)


def contradictions(books: Sequence[Book]) -> Iterator[str]:
    """What is wrong between rows, versions and books, each as ``file:line: what; fix``."""
    yield from _mixed(books)
    by_name: dict[str, list[Book]] = defaultdict(list)
    for book in sorted(books, key=lambda b: (b.name, b.version)):
        by_name[book.name].append(book)
        yield from _within(book)
    for versions in by_name.values():
        for older, newer in pairwise(versions):
            yield from _succession(older, newer)
    yield from _between(books)


def _mixed(books: Sequence[Book]) -> Iterator[str]:
    for book in books[1:]:
        if book.currency != books[0].currency:
            yield (
                f"{book.where('currency')}: is in {book.currency}, but {books[0].where('currency')} in {books[0].currency}; "
                "convert one of them: prices are compared and added"
            )


def _within(book: Book) -> Iterator[str]:
    if book.until is not None and book.until <= book.since:
        yield f"{book.where('valid_until')}: is not after valid_from; exchange them"
    said: dict[tuple[Point, int, str], Price] = {}
    for row in book.prices:
        if row.since < book.since:
            yield f"{book.where(row.line)}: {row.point} begins before its book; move valid_from of the book or of the row"
        for name in FIELDS:
            if getattr(row, name) is None:
                continue
            first = said.setdefault((_normal(row.point), row.since, name), row)
            if first is not row:
                yield (
                    f"{book.where(row.line)}: {name} of {row.point} is said already at {book.where(first.line)} for the same "
                    "time; keep one, or give this row a later valid_from"
                )
                break


def _normal(point: Point) -> Point:
    return point._replace(zone=_bare(point.region, point.zone))


def _succession(older: Book, newer: Book) -> Iterator[str]:
    names = f"{older.name} version"
    if older.version == newer.version:
        yield f"{newer.where('version')}: {names} {older.version} is in {older.where('version')} already; count on"
    elif newer.since <= older.since:
        yield (
            f"{newer.where('valid_from')}: {names} {newer.version} begins no later than version {older.version} "
            f"({older.where('valid_from')}); give it a later valid_from"
        )
    elif older.until is not None and newer.since < older.until:
        yield (
            f"{newer.where('valid_from')}: {names} {newer.version} begins before version {older.version} ends "
            f"({older.where('valid_until')}); leave valid_until away, a new version ends the one before"
        )


def _between(books: Sequence[Book]) -> Iterator[str]:
    """Two books that say the same of the same point at the same time."""
    ends = _ends(books)
    said: dict[tuple[Point, str], list[tuple[Book, Price]]] = defaultdict(list)
    for book in books:
        for (point, name), row in _first_words(book).items():
            others = said[point, name]
            clash = next(((o, r) for o, r in others if o.name != book.name and _overlap(o, book, ends)), None)
            others.append((book, row))
            if clash is not None:
                yield (
                    f"{book.where(row.line)}: {name} of {row.point} is also said by book {clash[0].name} "
                    f"({clash[0].where(clash[1].line)}) for the same time; take it out of one of the two"
                )


def _first_words(book: Book) -> dict[tuple[Point, str], Price]:
    """The first row that says each field of each point."""
    first: dict[tuple[Point, str], Price] = {}
    for row in book.prices:
        for name in FIELDS:
            if getattr(row, name) is not None:
                first.setdefault((_normal(row.point), name), row)
    return first


def _ends(books: Iterable[Book]) -> dict[tuple[str, int], int | None]:
    """When each version stops being in force: at its own end, or when the next begins."""
    ends: dict[tuple[str, int], int | None] = {}
    ordered = sorted(books, key=lambda b: (b.name, b.since, b.version))
    for book, following in zip_longest(ordered, ordered[1:]):
        times = [book.until, following.since if following is not None and following.name == book.name else None]
        ends[book.name, book.version] = min((t for t in times if t is not None), default=None)
    return ends


def _overlap(a: Book, b: Book, ends: Mapping[tuple[str, int], int | None]) -> bool:
    end_a, end_b = ends[a.name, a.version], ends[b.name, b.version]
    return (end_b is None or a.since < end_b) and (end_a is None or b.since < end_a)
