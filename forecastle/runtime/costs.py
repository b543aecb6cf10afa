"""What the fleet cost, hour by hour: replica-hours from the ledger times the prices that were in force then.

Prices are constant between two cuts (full hours and changes in the price books). In each such span spot replicas cost the spot
price; of the others of a sku in a region, as many replica-hours as are committed to are paid by the commitment, whichever
pool uses them, and the rest is paid at the list price. What a commitment costs is billed once, as a purchase: a replica-hour
that it covers has an effective cost but no billed one, and both sums are the same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from itertools import pairwise
from typing import NamedTuple

from forecastle.decide.prices import Commitment, Point, Quote, Shelf
from forecastle.errors import ConfigError
from forecastle.runtime.costs_levels import HOUR_MS, Levels
from forecastle.runtime.prices import point_of
from forecastle.settings import PoolSettings, Settings, SiteSettings

DUST = 1e-9
"""Replica-hours that are the rounding of others."""


class Nature(StrEnum):
    """What a charge is for."""

    LIST = "list"
    SPOT = "spot"
    USED = "used"
    UNUSED = "unused"
    PURCHASE = "purchase"


@dataclass(frozen=True, slots=True)
class Charge:
    """``hours`` replica-hours of one pool, or of a commitment, in the hour from ``start`` to ``end`` (ms).

    ``list_price`` (None where nothing was used), ``billed_price`` and ``effective_price`` are money per replica-hour;
    ``book`` says where they come from, '' from the settings.
    """

    nature: Nature
    start: int
    end: int
    pool: str
    hours: float
    list_price: float | None
    billed_price: float
    effective_price: float
    commitment: str = ""
    book: str = ""

    @property
    def billed(self) -> float:
        """Money on the invoice."""
        return self.hours * self.billed_price

    @property
    def effective(self) -> float:
        """Money with commitments spread over what they covered."""
        return self.hours * self.effective_price

    @property
    def listed(self) -> float:
        """Money it would be at list price."""
        return self.hours * (self.list_price or 0.0)


class Rented(NamedTuple):
    """A configured pool with its workload and site."""

    pool: PoolSettings
    workload: str
    site: SiteSettings

    @property
    def point(self) -> Point:
        """What it is in the price books."""
        return point_of(self.site, self.pool.sku)


class _Span(NamedTuple):
    """A time of constant prices: its hour, and ``start`` to ``end`` inside it (ms)."""

    hour: tuple[int, int]
    start: int
    end: int

    @property
    def hours(self) -> float:
        return (self.end - self.start) / HOUR_MS


class _Rate(NamedTuple):
    """What a pool costs in a span; ``pact`` is the commitment that covers it, with its name."""

    list_price: float
    price: float
    book: str
    pact: tuple[str, Commitment] | None


def rented(settings: Settings) -> list[Rented]:
    """Every configured pool, in the order of the configuration."""
    sites = {site.name: site for site in settings.fleet.sites}
    return [
        Rented(pool, load.name, sites[pool.site])
        for load in settings.fleet.workloads
        for pool in load.pools
        if pool.site in sites
    ]


def charges(pools: Sequence[Rented], levels: Mapping[str, Levels], shelf: Shelf, start: int, end: int) -> list[Charge]:
    """Every charge of ``[start, end)`` (ms), by hour and pool. Raises ConfigError when replicas have no price."""
    total: dict[Charge, float] = defaultdict(float)
    missing: dict[str, str] = {}
    for span in _spans(pools, shelf, start, end):
        used = {one.pool.name: _used(levels, one, span) for one in pools}
        rates: dict[str, _Rate] = {}
        for one in pools:
            rate = _rate(one, shelf, span.start)
            if rate is not None:
                rates[one.pool.name] = rate
            elif used[one.pool.name]:
                missing.setdefault(one.pool.name, _unpriced(one, span.start))
        for charge in _charged(pools, rates, used, span):
            total[replace(charge, hours=0.0)] += charge.hours
    if missing:
        raise ConfigError("\n".join(missing.values()))
    made = [replace(charge, hours=hours) for charge, hours in total.items()]
    return sorted(made, key=lambda c: (c.start, c.pool, c.nature, c.list_price or 0.0, c.book))


def _spans(pools: Sequence[Rented], shelf: Shelf, start: int, end: int) -> Iterator[_Span]:
    cuts = {start, end, *range(start - start % HOUR_MS + HOUR_MS, end, HOUR_MS)}
    for point in {one.point for one in pools if one.pool.sku}:
        cuts.update(shelf.changes(point, start, end))
    for begins, ends in pairwise(sorted(cuts)):
        hour = begins - begins % HOUR_MS
        yield _Span((max(hour, start), min(hour + HOUR_MS, end)), begins, ends)


def _used(levels: Mapping[str, Levels], one: Rented, span: _Span) -> float:
    return levels.get(one.pool.name, Levels()).replica_ms(span.start, span.end) / HOUR_MS


def _rate(one: Rented, shelf: Shelf, at: int) -> _Rate | None:
    """The books' prices where they have the sku, else the pool's own; None without either."""
    pool, point = one.pool, one.point
    quote = shelf.quote(point, at) if pool.sku else None
    found = quote or Quote(())
    said = found.spot_price if pool.spot else found.price
    price = pool.unit_price if said is None else said
    if price is None:
        return None
    listed = found.price if found.price is not None else price
    book = found.books[0] if said is not None else ""
    return _Rate(listed, price, book, None if pool.spot else _pact(one, found.commitment, price))


def _pact(one: Rented, commitment: Commitment | None, price: float) -> tuple[str, Commitment] | None:
    """The pool's own committed replicas at its price for them, or the commitment of the books, shared in the region."""
    if "committed" in one.pool.model_fields_set or commitment is None:
        own = one.pool.committed
        own_price = price if one.pool.committed_price is None else one.pool.committed_price
        return (f"{one.pool.name}", Commitment(own, own_price)) if own else None
    point = one.point
    return f"{point.provider}/{point.region}/{point.sku}", commitment


def _charged(pools: Sequence[Rented], rates: Mapping[str, _Rate], used: Mapping[str, float], span: _Span) -> Iterator[Charge]:
    """The charges of one span: what pools used, then what each commitment cost and covered of nothing."""
    left: dict[tuple[str, Commitment], float] = {}
    first: dict[tuple[str, Commitment], Rented] = {}
    for one in pools:
        rate = rates.get(one.pool.name)
        if rate is None:
            continue
        if rate.pact is not None:
            left.setdefault(rate.pact, rate.pact[1].count * span.hours)
            first.setdefault(rate.pact, one)
        yield from _usage(one, rate, used[one.pool.name], left, span)
    for pact, spare in left.items():
        (name, commitment), pool = pact, first[pact].pool.name
        book = rates[pool].book
        made = Charge(Nature.PURCHASE, *span.hour, pool, 0.0, None, commitment.price, 0.0, name, book)
        yield replace(made, hours=commitment.count * span.hours)
        if spare > DUST:
            yield replace(made, nature=Nature.UNUSED, hours=spare, billed_price=0.0, effective_price=commitment.price)


def _usage(one: Rented, rate: _Rate, used: float, left: dict[tuple[str, Commitment], float], span: _Span) -> Iterator[Charge]:
    name, price = one.pool.name, rate.price
    if one.pool.spot:
        if used > 0:
            yield Charge(Nature.SPOT, *span.hour, name, used, rate.list_price, price, price, book=rate.book)
        return
    covered = 0.0
    if rate.pact is not None:
        covered = min(used, left[rate.pact])
        left[rate.pact] -= covered
        if covered > 0:
            pact, commitment = rate.pact
            yield Charge(Nature.USED, *span.hour, name, covered, rate.list_price, 0.0, commitment.price, pact, rate.book)
    if used - covered > DUST:
        yield Charge(Nature.LIST, *span.hour, name, used - covered, rate.list_price, price, price, book=rate.book)


def _unpriced(one: Rented, at: int) -> str:
    when = datetime.fromtimestamp(at / 1000, UTC).isoformat(timespec="seconds")
    field = "spot_price_h" if one.pool.spot else "price_h"
    return (
        f"pool {one.pool.name}: had replicas at {when}, but no price book says {field} of {one.point} then; "
        "add a version that begins earlier, or write unit_price"
    )
