"""``forecastle prices aws-spot``: what spot capacity cost since the last look becomes the next version of a price book."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from forecastle.decide.prices import Book, Point, Price
from forecastle.errors import ConfigError
from forecastle.runtime.prices_publish import Draft, newest, next_since, publish

if TYPE_CHECKING:
    from forecastle.clouds.aws_spot import SpotPrice

DAY_MS = 86_400_000
KEPT_DAYS = 90
"""Days of spot prices that AWS keeps."""


def refresh_aws_spot(
    folder: Path,
    region: str,
    skus: Sequence[str],
    *,
    now: int,
    days: float = 1.0,
    book: str = "",
    product: str = "Linux/UNIX",
    profile: str = "",
    endpoint_url: str = "",
) -> Path | None:
    """Write what ``skus`` (instance types) cost since the book's newest version, or in the last ``days`` before its first one.

    Without ``skus`` those of the newest version. Returns the new file, None when no price has changed. Raises ConfigError,
    or another ForecastleError of the provider or the folder.
    """
    from forecastle.clouds.aws_spot import spot_prices

    name = book or f"aws-spot-{region}"
    before = newest(folder, name)
    types = tuple(dict.fromkeys(skus or _known(before)))
    if not types:
        raise ConfigError(f"{folder}: has no book {name} yet; name the instance types, as in --sku m6i.large")
    since = next_since(before, now - round(days * DAY_MS), now)
    since = max(since, now - KEPT_DAYS * DAY_MS)
    found = spot_prices(region, types, since=since, until=now, product=product, profile=profile, endpoint_url=endpoint_url)
    without = sorted(set(types) - {price.instance_type for price in found})
    if without:
        raise ConfigError(f"AWS has no spot price of {', '.join(without)} in {region} ({product}); correct --sku or --product")
    as_of = max(now, *(price.at + 1 for price in found))
    return publish(folder, Draft(name, "USD", since, as_of, rows(found, region, since)))


def rows(found: Iterable[SpotPrice], region: str, since: int) -> tuple[Price, ...]:
    """One row per change of the price in a zone; what was in force at ``since`` (ms) begins then."""
    by_point = sorted(found, key=lambda p: (p.instance_type, p.zone, p.at))
    made: list[Price] = []
    for (sku, zone), group in groupby(by_point, key=lambda p: (p.instance_type, p.zone)):
        point = Point("aws", region, zone, sku)
        changes: dict[int, float] = {}
        for price in group:
            changes[max(since, price.at)] = price.price
        last: float | None = None
        for at, value in changes.items():
            if value != last:
                made.append(Price(point, at, spot_price=value))
            last = value
    return tuple(made)


def _known(before: Book | None) -> list[str]:
    return sorted({row.point.sku for row in before.prices}) if before is not None else []
