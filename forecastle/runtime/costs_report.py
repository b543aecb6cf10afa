"""``forecastle costs``: the ledger's replica-hours at the price books' prices, as a FOCUS table in a file."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from forecastle.errors import ConfigError
from forecastle.runtime.costs import charges, rented
from forecastle.runtime.costs_focus import rows, write
from forecastle.runtime.costs_levels import Levels, levels
from forecastle.runtime.prices import ms, shelf

if TYPE_CHECKING:
    from forecastle.ledger.store import SqlLedger
    from forecastle.settings import Settings


def report_costs(
    settings: Settings, ledger: SqlLedger, start: datetime, end: datetime, *, out: Path, currency: str = ""
) -> list[str]:
    """Write the costs of ``[start, end)`` to ``out``. Returns what to tell: the sum, and what is not in it.

    ``settings`` as written, without prices looked up; times without a zone are UTC. ``currency`` is that of the settings'
    own prices when there is no price book, US dollars by default. Raises ConfigError.
    """
    begins, ends = (ms(at if at.tzinfo else at.replace(tzinfo=UTC)) for at in (start, end))
    if ends <= begins:
        raise ConfigError(f"--to {end:%Y-%m-%dT%H:%M}: is not after --from; exchange them")
    books, pools = shelf(Path(settings.prices.books)), rented(settings)
    if currency and books.currency and currency != books.currency:
        raise ConfigError(f"--currency {currency}: the price books are in {books.currency}; leave --currency away")
    money = books.currency or currency or "USD"
    names = [one.pool.name for one in pools]
    seen = levels(ledger, names, begins, ends)
    made = charges(pools, seen, books, begins, ends)
    write(out, rows(made, pools, money, {name: cloud.account for name, cloud in settings.clouds.items()}))
    told = f"{out}: {len(made)} charges, {sum(charge.billed for charge in made):.2f} {money}"
    return [told, *_unknown(seen, names, begins, ends), *_strangers(seen, names, begins, ends)]


def _unknown(seen: dict[str, Levels], names: list[str], start: int, end: int) -> list[str]:
    """Pools of which the ledger says nothing for a part of the time."""
    told = []
    for name in names:
        first = seen.get(name, Levels()).times[:1]
        if not first or first[0] >= end:
            told.append(f"pool {name}: the ledger has not seen it; it is not in the sum")
        elif first[0] > start:
            when = datetime.fromtimestamp(first[0] / 1000, UTC).isoformat(timespec="seconds")
            told.append(f"pool {name}: the ledger has not seen it before {when}; what it cost before is not in the sum")
    return told


def _strangers(seen: dict[str, Levels], names: list[str], start: int, end: int) -> list[str]:
    """Pools that had replicas but are not configured any more."""
    return [
        f"pool {name}: had {levels.replica_ms(start, end) / 3_600_000:.4g} replica-hours, but is not configured any more; "
        "it is not in the sum"
        for name, levels in seen.items()
        if name not in names and levels.replica_ms(start, end)
    ]
