"""Folders of price books and fleets that name skus, for tests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

HEAD = {"book": "list", "version": 1, "currency": "USD", "valid_from": "2026-01-01T00:00:00Z"}
M6I = {"sku": "m6i.large", "provider": "aws", "region": "eu-central-1", "price_h": 0.115, "spot_price_h": 0.043}
SITE = {"name": "fra", "provider": "aws", "region": "eu-central-1", "zone": "a"}
POOL = {"name": "shop-fra", "site": "fra", "sku": "m6i.large"}
LOAD = {"name": "shop", "demands": [{"metric": "rps", "per_replica": 10}]}


def at(text: str) -> int:
    """``2026-11-01T00:00`` (UTC) in ms."""
    return round(datetime.fromisoformat(f"{text}+00:00").timestamp() * 1000)


def write_book(folder: Path, *rows: Mapping[str, Any], name: str = "", **head: Any) -> Path:
    """One version of a book, a field or row a line: the head from line 1, ``prices`` after it, then the rows."""
    fields = HEAD | head
    path = folder / (name or f"{fields['book']}-{fields['version']}.yaml")
    lines = [f"{key}: {json.dumps(value)}" for key, value in fields.items()]
    lines += ["prices:" if rows else "prices: []", *(f"  - {json.dumps(row)}" for row in rows)]
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_fleet(folder: Path, *pools: Mapping[str, Any], sites: tuple[Mapping[str, Any], ...] = (SITE,), **more: Any) -> Path:
    """A configuration with one workload on ``pools``, its books in ``folder/prices`` and its ledger in ``folder``."""
    settings = {
        "prices": {"books": str(folder / "prices")},
        "ledger": {"url": f"sqlite:///{folder}/ledger.db"},
        "clouds": {"sim": {"adapter": "forecastle.clouds.sim:open_cloud", "options": {"path": str(folder / "sim.db")}}},
        "fleet": {"sites": list(sites), "workloads": [LOAD | {"pools": list(pools)}]},
    } | more
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "fleet.yaml"
    path.write_text(json.dumps(settings, indent=1), encoding="utf-8")
    return path
