"""What spot capacity costs now and did before: the price input of placement."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from forecastle.clouds.aws_client import Access, Account, Json


class SpotPrice(NamedTuple):
    """USD per instance-hour of ``instance_type`` in ``zone`` from ``at`` (ms) on."""

    zone: str
    instance_type: str
    at: int
    price: float


def spot_prices(
    region: str,
    types: Sequence[str],
    *,
    since: int,
    until: int,
    product: str = "Linux/UNIX",
    profile: str = "",
    endpoint_url: str = "",
) -> tuple[SpotPrice, ...]:
    """Price changes of ``types`` between ``since`` and ``until`` (ms), oldest first; AWS keeps 90 days.

    The first price of each zone and type may be from before ``since``: it was in force then. Raises a ForecastleError.
    """
    account = Account(Access(region, profile, endpoint_url))
    try:
        return tuple(sorted(_changes(account, types, since, until, product), key=lambda p: (p.at, p.zone, p.instance_type)))
    finally:
        account.close()


def _changes(account: Account, types: Sequence[str], since: int, until: int, product: str) -> Iterator[SpotPrice]:
    asked: Json = {
        "InstanceTypes": list(types),
        "ProductDescriptions": [product],
        "StartTime": datetime.fromtimestamp(since / 1000, UTC),
        "EndTime": datetime.fromtimestamp(until / 1000, UTC),
    }
    more = ""
    while True:
        page = account.read("ec2", "describe_spot_price_history", **asked, **({"NextToken": more} if more else {}))
        for found in page["SpotPriceHistory"]:
            at = round(found["Timestamp"].timestamp() * 1000)
            yield SpotPrice(found["AvailabilityZone"], found["InstanceType"], at, float(found["SpotPrice"]))
        more = page.get("NextToken", "")
        if not more:
            return
