"""Situations to decide about: one workload at two sites of different providers, ten minutes of healthy memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from forecastle.decide.planner import decide
from forecastle.settings import DecideSettings, GuardSettings
from forecastle.types import (
    Action,
    Anomaly,
    AnomalyKind,
    Demand,
    Fleet,
    Forecasts,
    Incident,
    Inventory,
    Kind,
    Mode,
    Observed,
    Outcome,
    Plan,
    Playbook,
    Pool,
    Recommendation,
    SeriesKey,
    Severity,
    Site,
    Situation,
    Status,
    Windows,
    Workload,
)

STEP = 60_000
NOW = 1_760_000_040_000 // STEP * STEP
COLUMNS, HORIZON = 30, 20
QUANTILES = (0.1, 0.5, 0.9, 0.99)
SITES = {
    "fra": Site("fra", "aws", "eu-central-1", "a"),
    "ams": Site("ams", "gcp", "europe-west4", "b"),
    "ohio": Site("ohio", "aws", "us-east-2", "a"),
}
FRA, AMS = "aws/eu-central-1/a", "gcp/europe-west4/b"
RPS, LATENCY = SeriesKey("shop", "rps"), SeriesKey("shop", "latency")


def pool(site: str = "fra", workload: str = "shop", **changes: Any) -> Pool:
    return replace(Pool(f"{workload}-{site}", workload, site, "sim", 0.1), **changes)


def load(name: str = "shop", sites: Sequence[str] = ("fra", "ams"), **changes: Any) -> Workload:
    demand = Demand(SeriesKey(name, "rps"), 40.0)
    return replace(Workload(name, (demand,), tuple(f"{name}-{site}" for site in sites), mode=Mode.AUTO), **changes)


def stock(*loads: Workload, pools: Sequence[Pool] = (), playbooks: Sequence[Playbook] = (), **changes: Any) -> Inventory:
    found = loads or (load(),)
    own = {name: pool(name.rpartition("-")[2], one.name) for one in found for name in one.pools}
    return Inventory(SITES, own | {p.name: p for p in pools}, {one.name: one for one in found}, tuple(playbooks), **changes)


def seen(name: str, replicas: int, ready: int | None = None, **changes: Any) -> Observed:
    return replace(Observed(name, replicas, replicas if ready is None else ready, NOW, "v1", "r1"), **changes)


def remembered(replicas: int = 1, workload: str = "shop") -> tuple[Recommendation, ...]:
    return tuple(Recommendation(workload, NOW - minute * STEP, replicas) for minute in range(12, 0, -1))


def fleet(*observed: Observed, **changes: Any) -> Fleet:
    return replace(Fleet(NOW, {o.pool: o for o in observed}, recommendations=remembered()), **changes)


def windows(now: Mapping[SeriesKey, float], *, late: Sequence[SeriesKey] = (), suspect: Sequence[SeriesKey] = ()) -> Windows:
    """Every series has been at its value for the whole window; a late one has seen nothing for ten slots."""
    keys = tuple(now)
    values = np.repeat(np.array([[v] for v in now.values()], np.float32).reshape(len(keys), 1), COLUMNS, axis=1)
    mask = np.ones_like(values, np.bool_)
    for row, key in enumerate(keys):
        mask[row, COLUMNS - 10 :] = key not in late
    flags = [np.array([key in which for key in keys], np.bool_) for which in (late, suspect)]
    return Windows(keys, NOW, STEP, values, mask, *flags)


def forecasts(expected: Mapping[SeriesKey, float | Sequence[float]], spread: float = 0.1) -> Forecasts:
    """Medians per series, constant or per step; the quantiles lie ``spread`` of the median apart."""
    keys = tuple(expected)
    medians = np.array([np.broadcast_to(np.asarray(path, np.float32), HORIZON) for path in expected.values()], np.float32)
    factors = np.array([1 - spread, 1.0, 1 + spread, 1 + 2 * spread], np.float32)
    values = medians.reshape(len(keys), HORIZON, 1) * factors
    return Forecasts(keys, NOW, STEP, QUANTILES, values, "model@1", np.zeros(len(keys), np.bool_))


def situation(
    demand: float,
    state: Fleet,
    *,
    expected: float | Sequence[float] | None = None,
    incidents: Sequence[Incident] = (),
    others: Mapping[SeriesKey, float] | None = None,
    late: Sequence[SeriesKey] = (),
    suspect: Sequence[SeriesKey] = (),
) -> Situation:
    """``demand`` of the shop now and its ``expected`` course (default: as it is)."""
    now = {RPS: demand, **(others or {})}
    paths = {key: value for key, value in now.items() if key.metric == "rps"} | {RPS: demand if expected is None else expected}
    return Situation(NOW, windows(now, late=late, suspect=suspect), forecasts(paths), tuple(incidents), state)


def plans(found: Situation, inventory: Inventory | None = None, guards: GuardSettings | None = None) -> tuple[Plan, ...]:
    return decide(found, inventory or stock(), DecideSettings(), guards or GuardSettings())


def actions(found: Sequence[Plan], *kinds: Kind) -> list[Action]:
    return [a for plan in found for a in plan.actions if not kinds or a.kind in kinds]


def scalings(found: Sequence[Plan]) -> dict[str, tuple[int, int]]:
    """pool -> (from, to)."""
    return {a.pool: (int(a.expected), int(a.desired)) for a in actions(found, Kind.SCALE)}


def refused(found: Sequence[Plan]) -> set[tuple[str, str]]:
    """(guard, pool) of every refusal."""
    return {(r.guard, r.pool) for plan in found for r in plan.refusals}


def anomaly(metric: str = "latency", at: int = NOW, kind: AnomalyKind = AnomalyKind.SPIKE, workload: str = "shop") -> Anomaly:
    return Anomaly(SeriesKey(workload, metric), at, 9.0, 3.0, kind)


def incident(**changes: Any) -> Incident:
    plain = Incident("i1", "shop", "fra", Severity.CRITICAL, NOW - 300_000, NOW, (anomaly(),), 2, "latency spiked")
    return replace(plain, **changes)


def playbook(action: Kind, **changes: Any) -> Playbook:
    return replace(Playbook(f"{action}-it", "latency", frozenset(), Severity.WARNING, action), **changes)


def outcome(kind: Kind, name: str, age_s: float, status: Status = Status.APPLIED, **changes: Any) -> Outcome:
    made = Outcome(f"{kind}-{name}-{age_s}", status, NOW - int(age_s * 1000), name, kind, name.partition("-")[0])
    return replace(made, **changes)
