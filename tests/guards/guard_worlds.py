"""Small worlds to judge actions in: one workload in two providers, everything healthy, nothing remembered."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from forecastle.guards.context import GuardContext, View
from forecastle.settings import GuardSettings
from forecastle.types import (
    Action,
    Demand,
    Fleet,
    Inventory,
    Kind,
    Mode,
    Observed,
    Outcome,
    Pool,
    Recommendation,
    SeriesKey,
    Site,
    Status,
    Workload,
)

NOW = 1_760_000_040_000
SITES = {
    "fra": Site("fra", "aws", "eu-central-1", "a", residency=frozenset({"EU"})),
    "ams": Site("ams", "gcp", "europe-west4", "b", residency=frozenset({"EU"})),
    "ohio": Site("ohio", "aws", "us-east-2", "a", residency=frozenset({"US"})),
}


def pool(site: str = "fra", workload: str = "shop", **changes: Any) -> Pool:
    return replace(Pool(f"{workload}-{site}", workload, site, "sim", 0.1, 60.0, 0, 100, 100), **changes)


def inventory(*pools: Pool, load: dict[str, Any] | None = None, **changes: Any) -> Inventory:
    names = dict.fromkeys(p.workload for p in pools)
    loads = {
        name: replace(
            Workload(
                name,
                (Demand(SeriesKey(name, "rps"), 40.0),),
                tuple(p.name for p in pools if p.workload == name),
                mode=Mode.AUTO,
            ),
            **(load or {}),
        )
        for name in names
    }
    return Inventory(SITES, {p.name: p for p in pools}, loads, **changes)


def seen(replicas: int, ready: int | None = None, name: str = "shop-fra", unhealthy: tuple[str, ...] = ()) -> Observed:
    return Observed(name, replicas, replicas if ready is None else ready, NOW, "v1", "r1", unhealthy)


def scaled(before: int, after: int, age_s: float, name: str = "shop-fra", status: Status = Status.APPLIED) -> Outcome:
    return Outcome(
        f"{name}-{age_s}",
        status,
        NOW - int(age_s * 1000),
        name,
        Kind.SCALE,
        "shop",
        seen(before, name=name),
        seen(after, name=name),
    )


def healed(age_s: float, name: str = "shop-fra", kind: Kind = Kind.RESTART, status: Status = Status.APPLIED) -> Outcome:
    return Outcome(f"heal-{name}-{age_s}", status, NOW - int(age_s * 1000), name, kind, "shop")


def remembered(*replicas: int, workload: str = "shop") -> tuple[Recommendation, ...]:
    """Recommendations a minute apart, the last one a minute ago."""
    n = len(replicas)
    return tuple(Recommendation(workload, NOW - (n - i) * 60_000, r) for i, r in enumerate(replicas))


def fleet(*observed: Observed, **changes: Any) -> Fleet:
    return replace(Fleet(NOW, {o.pool: o for o in observed}, recommendations=remembered(*[1] * 12)), **changes)


def fresh(floor: int = 0, wanted: int | None = None, **changes: Any) -> View:
    return replace(View(floor, floor if wanted is None else wanted, 1, late=False), **changes)


def context(found: Fleet, stock: Inventory, view: View, settings: GuardSettings | None = None, **changes: Any) -> GuardContext:
    return GuardContext(NOW, stock, found, view, settings or GuardSettings(), **changes)


def scale(desired: int, expected: int, name: str = "shop-fra", workload: str = "shop") -> Action:
    return Action(Kind.SCALE, workload, name, desired, expected, NOW, NOW + 300_000)


def heal(kind: Kind = Kind.RESTART, name: str = "shop-fra", **changes: Any) -> Action:
    return replace(Action(kind, "shop", name, "g1", "v1", NOW, NOW + 300_000, signals=2), **changes)
