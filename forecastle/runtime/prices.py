"""Price books on disk: read with every error at its file and line, looked up for the pools that name a sku.

A price is looked up once, when the configuration is loaded: what a decision reckons with is in the settings, so that their
digest tells a replay whether prices have changed since.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError

from forecastle.decide.prices import Book, Commitment, Point, Price, Quote, Shelf, contradictions
from forecastle.errors import ConfigError
from forecastle.runtime import config, prices_csv
from forecastle.settings import Count, PoolSettings, Room, Settings, SiteSettings

NEAREST = 8
"""Known skus that an error lists."""


def _instant(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise ValueError("has no time zone; write it as 2026-11-01T00:00:00Z")
    return value


Instant = Annotated[datetime, AfterValidator(_instant)]
Money = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=100)]


class CommitmentRow(Room):
    """Replicas paid whether used or not."""

    count: Count = Field(..., description="replicas committed to")
    price_h: Money = Field(..., description="money per committed replica-hour")


class PriceRow(Room):
    """What one sku costs at one place."""

    sku: str = Field(..., min_length=1, description="what pools call it")
    provider: str = Field(..., min_length=1, description="as in `fleet.sites`")
    region: str = Field(..., min_length=1, description="as in `fleet.sites`")
    zone: str = Field("", description="empty: every zone of the region")
    valid_from: Instant | None = Field(None, description="when it begins; none: with the book")
    price_h: Money | None = Field(None, description="money per replica-hour")
    spot_price_h: Money | None = Field(None, description="money per replica-hour on spot capacity")
    interruptions_h: Money | None = Field(None, description="how often an hour a spot replica is taken back")
    commitment: CommitmentRow | None = Field(None, description="what is paid whether used or not")
    egress_price: Money | None = Field(None, description="money per GB that leaves")


class BookFile(Room):
    """One version of a price book."""

    book: Name = Field(..., description="name of the book, the same in every version")
    version: int = Field(..., gt=0, description="counts up; a version is never changed")
    currency: str = Field(..., pattern=r"^[A-Z]{3}$", description="ISO 4217, the same in every book")
    valid_from: Instant = Field(..., description="when it begins; a later version ends it")
    valid_until: Instant | None = Field(None, description="when it ends without a successor")
    as_of: Instant | None = Field(None, description="up to when its prices were known")
    prices: tuple[PriceRow, ...] = Field(..., description="its rows")


HEAD = tuple(name for name in BookFile.model_fields if name != "prices")
COLUMNS = tuple(
    column
    for name in PriceRow.model_fields
    for column in ([f"{name}.{inner}" for inner in CommitmentRow.model_fields] if name == "commitment" else [name])
)


def shelf(folder: Path) -> Shelf:
    """Every book in ``folder`` (``*.yaml``, ``*.csv``); empty when there is none. Raises ConfigError with every problem."""
    books: list[Book] = []
    problems: list[str] = []
    for path in sorted([*folder.glob("*.yaml"), *folder.glob("*.csv")]):
        try:
            books.append(read_book(path))
        except ConfigError as error:
            problems.append(str(error))
    problems += contradictions(books)
    if problems:
        raise ConfigError("\n".join(problems))
    return Shelf(tuple(books))


def read_book(path: Path) -> Book:
    """One version of a book. Raises ConfigError."""
    data = prices_csv.read(path, HEAD, COLUMNS) if path.suffix == ".csv" else config.read(path)
    try:
        found = BookFile.model_validate(data)
    except ValidationError as error:
        sources = [(str(path), data)]
        lines = [config.explain(problem, sources, BookFile) for problem in error.errors(include_url=False)]
        raise ConfigError("\n".join(lines)) from None
    fields = {name: mark[0] + 1 for name, mark in data.lc.data.items()}
    if not found.prices:
        raise ConfigError(f"{path}:{fields['prices']}: has no prices; add a row, or end the version before with valid_until")
    rows = data["prices"].lc.data
    since = ms(found.valid_from)
    return Book(
        found.book,
        found.version,
        found.currency,
        since,
        tuple(_price(row, since, rows[i][0] + 1) for i, row in enumerate(found.prices)),
        ms(found.valid_until) if found.valid_until else None,
        ms(found.as_of) if found.as_of else None,
        str(path),
        fields,
    )


def _price(row: PriceRow, since: int, line: int) -> Price:
    return Price(
        Point(row.provider, row.region, row.zone, row.sku),
        ms(row.valid_from) if row.valid_from else since,
        row.price_h,
        row.spot_price_h,
        row.interruptions_h,
        Commitment(row.commitment.count, row.commitment.price_h) if row.commitment else None,
        row.egress_price,
        line,
    )


def ms(at: datetime) -> int:
    """Milliseconds since the epoch."""
    return round(at.timestamp() * 1000)


def point_of(site: SiteSettings, sku: str) -> Point:
    """What ``sku`` is called in the books at ``site``."""
    return Point(site.provider, site.region, site.zone, sku)


def priced(settings: Settings, at: int, locate: Callable[[tuple[str | int, ...]], str]) -> Settings:
    """``settings`` with the prices in force at ``at`` (ms) in every pool that names a sku, and its sites' egress prices.

    What a pool or a site says itself stays. A commitment goes to the pools of its sku in the order of the configuration,
    each up to its max. ``locate`` says file and line of a setting. Raises ConfigError with every sku that has no price.
    """
    books = shelf(Path(settings.prices.books))
    desk = _Desk(settings, books, at)
    loads = [
        load.model_copy(
            update={
                "pools": tuple(
                    desk.pool(pool, ("fleet", "workloads", i, "pools", j, "sku")) if pool.sku else pool
                    for j, pool in enumerate(load.pools)
                )
            }
        )
        for i, load in enumerate(settings.fleet.workloads)
    ]
    problems = [f"{locate(loc)}: {what}" for loc, what in desk.problems]
    if problems:
        raise ConfigError("\n".join(problems))
    sites = tuple(
        site.model_copy(update={"egress_price": desk.egress[site.name]}) if site.name in desk.egress else site
        for site in settings.fleet.sites
    )
    fleet = settings.fleet.model_copy(update={"workloads": tuple(loads), "sites": sites})
    return settings.model_copy(update={"fleet": fleet})


class _Desk:
    """Prices one pool after the other."""

    def __init__(self, settings: Settings, books: Shelf, at: int) -> None:
        self.problems: list[tuple[tuple[str | int, ...], str]] = []
        self.egress: dict[str, float] = {}
        self._folder = settings.prices.books
        self._sites = {site.name: site for site in settings.fleet.sites}
        self._books, self._at = books, at
        self._left: dict[tuple[str, str, str, Commitment], int] = {}

    def pool(self, pool: PoolSettings, loc: tuple[str | int, ...]) -> PoolSettings:
        """``pool`` with what the books say of its sku."""
        site = self._sites.get(pool.site)
        if site is None:
            return pool
        point = point_of(site, pool.sku)
        quote = self._books.quote(point, self._at)
        price = None if quote is None else quote.spot_price if pool.spot else quote.price
        if price is None and pool.unit_price is None:
            self.problems.append((loc, f"pool {pool.name}: {self._unknown(point, quote, pool)}"))
        if quote is None:
            return pool
        self._egress(site, quote, loc)
        return pool.model_copy(update=self._update(pool, point, quote, price))

    def _update(self, pool: PoolSettings, point: Point, quote: Quote, price: float | None) -> dict[str, Any]:
        update: dict[str, Any] = {}
        if pool.unit_price is None:
            update["unit_price"] = price
        if pool.spot and quote.interruptions_h is not None and "interruptions_h" not in pool.model_fields_set:
            update["interruptions_h"] = quote.interruptions_h
        if quote.commitment is not None and not pool.spot and "committed" not in pool.model_fields_set:
            commitment = (point.provider, point.region, point.sku, quote.commitment)
            left = self._left.get(commitment, quote.commitment.count)
            update["committed"] = min(left, pool.max)
            if pool.committed_price is None:
                update["committed_price"] = quote.commitment.price
            self._left[commitment] = left - update["committed"]
        return update

    def _egress(self, site: SiteSettings, quote: Quote, loc: tuple[str | int, ...]) -> None:
        if quote.egress_price is None or "egress_price" in site.model_fields_set:
            return
        if self.egress.setdefault(site.name, quote.egress_price) != quote.egress_price:
            two = f"{self.egress[site.name]:g} and {quote.egress_price:g}"
            self.problems.append((loc, f"site {site.name} has two egress prices, {two}; write egress_price at the site"))

    def _unknown(self, point: Point, quote: Quote | None, pool: PoolSettings) -> str:
        when = datetime.fromtimestamp(self._at / 1000, UTC).isoformat(timespec="seconds")
        if quote is not None:
            field = "spot_price_h" if pool.spot else "price_h"
            return f"{', '.join(quote.books)} has no {field} of {point} at {when}; add it, or write unit_price"
        return f"no price book in {self._folder} has {point} at {when}; {self._fix(point)}"

    def _fix(self, point: Point) -> str:
        known = self._books.points(self._at)
        here = sorted({p.sku for p in known if p[:2] == point[:2]})
        if here:
            return f"known there: {', '.join(here[:NEAREST])}; correct the sku or add it to a new version"
        return f"known: {', '.join(map(str, known[:NEAREST])) or 'nothing'}; add a price there or write unit_price"


def problems(settings: Settings) -> Iterator[str]:
    """What is wrong in the price books, for checks of a configuration that names no sku."""
    try:
        shelf(Path(settings.prices.books))
    except ConfigError as error:
        yield from str(error).splitlines()
