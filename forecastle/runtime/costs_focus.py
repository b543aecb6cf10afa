"""Charges as a table with the columns of FOCUS 1.2, the FinOps Open Cost and Usage Specification, as CSV or parquet.

Text may come from where others write (names of pools and skus): a cell that a spreadsheet would run as a formula is made text.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, TypeAlias

from forecastle.errors import ConfigError
from forecastle.runtime.costs import Charge, Nature, Rented

TIMES = ("BillingPeriodStart", "BillingPeriodEnd", "ChargePeriodStart", "ChargePeriodEnd")
NUMBERS = (
    "BilledCost",
    "ConsumedQuantity",
    "ContractedCost",
    "ContractedUnitPrice",
    "EffectiveCost",
    "ListCost",
    "ListUnitPrice",
    "PricingQuantity",
)
COLUMNS = (
    "AvailabilityZone",
    "BilledCost",
    "BillingAccountId",
    "BillingAccountName",
    "BillingCurrency",
    "BillingPeriodEnd",
    "BillingPeriodStart",
    "ChargeCategory",
    "ChargeClass",
    "ChargeDescription",
    "ChargeFrequency",
    "ChargePeriodEnd",
    "ChargePeriodStart",
    "CommitmentDiscountCategory",
    "CommitmentDiscountId",
    "CommitmentDiscountName",
    "CommitmentDiscountStatus",
    "CommitmentDiscountType",
    "ConsumedQuantity",
    "ConsumedUnit",
    "ContractedCost",
    "ContractedUnitPrice",
    "EffectiveCost",
    "InvoiceIssuerName",
    "ListCost",
    "ListUnitPrice",
    "PricingCategory",
    "PricingQuantity",
    "PricingUnit",
    "ProviderName",
    "PublisherName",
    "RegionId",
    "RegionName",
    "ResourceId",
    "ResourceName",
    "ResourceType",
    "ServiceCategory",
    "ServiceName",
    "SkuId",
    "SkuPriceId",
    "Tags",
)
PRICING = {Nature.LIST: "Standard", Nature.SPOT: "Dynamic", Nature.PURCHASE: "Standard"}
STATUS = {Nature.USED: "Used", Nature.UNUSED: "Unused"}
WORDS = {
    Nature.LIST: "replicas of {} at list price",
    Nature.SPOT: "spot replicas of {}",
    Nature.USED: "replicas of {} covered by commitment {}",
    Nature.UNUSED: "replicas of commitment {1} that nobody used",
    Nature.PURCHASE: "commitment {1}",
}
RISKY = ("=", "+", "-", "@", "\t", "\r", "\n")
"""What a spreadsheet takes for the beginning of a formula, or skips before one."""


Row: TypeAlias = dict[str, Any]


def rows(charges: Sequence[Charge], pools: Sequence[Rented], currency: str, accounts: Mapping[str, str]) -> list[Row]:
    """One row of FOCUS columns per charge. ``accounts``: adapter -> billing account, the adapter's name without one."""
    by_name = {one.pool.name: one for one in pools}
    return [_row(charge, by_name[charge.pool], currency, accounts) for charge in charges]


def _row(charge: Charge, one: Rented, currency: str, accounts: Mapping[str, str]) -> Row:
    pool, site = one.pool, one.site
    account = accounts.get(pool.adapter) or pool.adapter
    month = datetime.fromtimestamp(charge.start / 1000, UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    following = month.replace(year=month.year + month.month // 12, month=month.month % 12 + 1)
    shared = charge.nature in (Nature.UNUSED, Nature.PURCHASE)
    return dict.fromkeys(COLUMNS) | {
        "AvailabilityZone": None if shared else site.zone or None,
        "BillingAccountId": account,
        "BillingAccountName": account,
        "BillingCurrency": currency,
        "BillingPeriodStart": month,
        "BillingPeriodEnd": following,
        "ChargePeriodStart": datetime.fromtimestamp(charge.start / 1000, UTC),
        "ChargePeriodEnd": datetime.fromtimestamp(charge.end / 1000, UTC),
        "InvoiceIssuerName": site.provider,
        "ProviderName": site.provider,
        "PublisherName": site.provider,
        "RegionId": site.region,
        "RegionName": site.region,
        "ResourceId": charge.commitment if shared else pool.name,
        "ResourceName": charge.commitment if shared else pool.name,
        "ResourceType": "Commitment" if shared else "Pool",
        "ServiceCategory": "Compute",
        "ServiceName": pool.adapter,
        "SkuId": pool.sku or None,
        "SkuPriceId": "/".join(filter(None, (pool.sku, charge.book, charge.nature.value))) if pool.sku else None,
        "Tags": json.dumps({} if shared else {"workload": one.workload, "pool": pool.name, "site": site.name}),
        **_money(charge),
        **_words(charge),
    }


def _money(charge: Charge) -> dict[str, float | None]:
    purchase = charge.nature is Nature.PURCHASE
    used = charge.nature not in (Nature.PURCHASE, Nature.UNUSED)
    contracted = charge.billed_price if purchase else charge.effective_price
    return {
        "BilledCost": charge.billed,
        "EffectiveCost": charge.effective,
        "ContractedCost": charge.hours * contracted,
        "ContractedUnitPrice": contracted,
        "ListCost": charge.billed if purchase else charge.listed,
        "ListUnitPrice": charge.billed_price if purchase else charge.list_price,
        "PricingQuantity": charge.hours,
        "ConsumedQuantity": charge.hours if used else None,
    }


def _words(charge: Charge) -> dict[str, str | None]:
    purchase = charge.nature is Nature.PURCHASE
    used = charge.nature not in (Nature.PURCHASE, Nature.UNUSED)
    committed = charge.commitment != ""
    return {
        "ChargeCategory": "Purchase" if purchase else "Usage",
        "ChargeDescription": WORDS[charge.nature].format(charge.pool, charge.commitment),
        "ChargeFrequency": "Recurring" if purchase else "Usage-Based",
        "CommitmentDiscountCategory": "Usage" if committed else None,
        "CommitmentDiscountId": charge.commitment or None,
        "CommitmentDiscountName": charge.commitment or None,
        "CommitmentDiscountStatus": STATUS.get(charge.nature),
        "CommitmentDiscountType": "Committed replicas" if committed else None,
        "ConsumedUnit": "Hours" if used else None,
        "PricingCategory": PRICING.get(charge.nature, "Committed"),
        "PricingUnit": "Hours",
    }


def write(out: Path, table: Sequence[Mapping[str, Any]]) -> None:
    """Write ``out`` as its ending says, whole or not at all. Raises ConfigError for another ending than csv or parquet."""
    writers = {".csv": _write_csv, ".parquet": _write_parquet}
    writer = writers.get(out.suffix.lower())
    if writer is None:
        raise ConfigError(f"--out {out}: ends in neither .csv nor .parquet; name it costs.csv or costs.parquet")
    out.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(dir=out.parent, prefix=".", suffix=out.suffix, delete=False) as file:
        made = Path(file.name)
    try:
        writer(made, table)
        made.chmod(0o644)
        made.replace(out)
    finally:
        made.unlink(missing_ok=True)


def _write_csv(path: Path, table: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([cell(row[name]) for name in COLUMNS] for row in table)


def cell(value: Any) -> str:
    """``value`` as a CSV cell: '' for None, RFC 3339 for times; text that looks like a formula gets an apostrophe."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if isinstance(value, float):
        return f"{value:.12g}"
    text = str(value)
    return f"'{text}" if text.lstrip(" ").startswith(RISKY) else text


def _write_parquet(path: Path, table: Sequence[Mapping[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {name: pa.timestamp("ms", tz="UTC") for name in TIMES} | dict.fromkeys(NUMBERS, pa.float64())
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in COLUMNS])
    pq.write_table(pa.Table.from_pylist([dict(row) for row in table], schema), path, compression="zstd")
