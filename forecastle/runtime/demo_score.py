"""The same demand under other policies: what the play is measured against.

The HPA is given what is best for it: the setting that, in hindsight, was the cheapest for this very demand, for each workload
its own, and no leaks or bad releases. One HPA runs in each pool of its workload with the traffic spread evenly, so it pays the
pools' mean price, and of an outage it knows at once: what the zone carried is gone until the other pools have scaled out. The
bounds meet no trouble at all and pay the cheapest pool that the residency allows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from forecastle.guards.context import resident
from forecastle.rehearsal.bounds import Oracle, StaticPeak
from forecastle.rehearsal.hpa import Hpa
from forecastle.rehearsal.simulate import Policy, PoolModel, Timeline, simulate
from forecastle.rehearsal.trace import STEP_S, Demand
from forecastle.runtime.demo_play import Diary
from forecastle.runtime.world_scenario import Scenario, Trouble
from forecastle.types import Floats, Inventory, Workload

SYNCS_S = 30.0
"""What an HPA needs to see that its pool is asked for more: two syncs."""


@dataclass(frozen=True, slots=True)
class Score:
    """What one way to run the fleet came to: ``unmet`` as a share of all demand in replicas' worth, money, replica-hours.

    ``bill`` is the money plus the price of what was not served; ``setting`` names the knob.
    """

    name: str
    unmet: float
    cost: float
    replica_hours: float
    bill: float
    setting: str = ""


def on_steps(rate: Floats, step_ms: int, first: int) -> Demand:
    """A demand per tick, float64[t], on the simulator's clock: constant within each tick."""
    per = step_ms // (STEP_S * 1000)
    value = np.repeat(rate, per)
    at = first - step_ms + STEP_S * 1000 * np.arange(1, len(value) + 1, dtype=np.int64)
    return Demand(at, value, np.ones(len(value), np.bool_), 0, step_ms / 1000)


def models(load: Workload, stock: Inventory) -> dict[str, PoolModel]:
    """Pools as the simulator sees them: ``even`` over all that are allowed, and the ``cheapest``, which is also the fastest."""
    pools = [pool for name in load.pools if resident(load, pool := stock.pools[name], stock)]
    capacity = load.demands[0].per_replica
    prices, starts = [p.unit_price for p in pools], [p.startup_s for p in pools]
    return {
        "even": PoolModel(capacity, float(np.mean(starts)), float(np.mean(prices)), load.min, load.max),
        "cheapest": PoolModel(capacity, min(starts), min(prices), load.min, load.max),
    }


@dataclass(frozen=True, slots=True)
class Peers:
    """Scores of the peers by name, and the HPA's whole range: (setting, cost, unmet share) with one setting for the fleet."""

    scores: Mapping[str, Score]
    curve: tuple[tuple[str, float, float], ...]


def peers(stock: Inventory, scenario: Scenario, demand: Floats, step_ms: int, first: int) -> Peers:
    """Play ``demand`` float64[n, t], rows in the inventory's order and columns from ``first`` (ms), under every peer."""
    rows: dict[str, list[tuple[Workload, Timeline]]] = {"hpa": [], "oracle": [], "least": [], "static": []}
    for row, load in enumerate(stock.workloads.values()):
        given = on_steps(demand[row], step_ms, first)
        pools = models(load, stock)
        price = load.unmet_price / pools["cheapest"].price
        plays: dict[str, tuple[Policy, PoolModel]] = {
            "hpa": (Hpa(), pools["even"]),
            "oracle": (Oracle(), pools["cheapest"]),
            "least": (Oracle(prices=(price,)), pools["cheapest"]),
            "static": (StaticPeak(), pools["cheapest"]),
        }
        for name, (policy, pool) in plays.items():
            line = simulate(policy, given, pool)
            rows[name].append((load, _struck(line, load, stock, scenario) if name == "hpa" else line))
    usual = next(i for i, knob in enumerate(Hpa().knobs) if knob == "0.7/300s")
    best = [int(np.argmin(_bills(load, line))) for load, line in rows["hpa"]]
    zeros = [0] * len(best)
    scores = {
        "hpa": _score("HPA, best setting per workload in hindsight", rows["hpa"], best),
        "hpa-usual": _score("HPA, target 70%", rows["hpa"], [usual] * len(best), "0.7/300s"),
        "oracle": _score("oracle: knows the future, serves everything", rows["oracle"], zeros),
        "least": _score("least bill any policy could reach", rows["least"], zeros),
        "static": _score("peak capacity all day", rows["static"], zeros),
    }
    knobs = Hpa().knobs
    curve = [_score("", rows["hpa"], [k] * len(best), knob) for k, knob in enumerate(knobs)]
    return Peers(scores, tuple((one.setting, one.cost, one.unmet) for one in curve))


def own(diary: Diary, step_ms: int) -> Score:
    """The play's own score."""
    hours = step_ms / 3_600_000
    prices = np.array([[load.unmet_price] for load in diary.stock.workloads.values()])
    short, asked = diary.unmet / diary.per_replica, diary.demand / diary.per_replica
    cost = float(diary.cost.sum())
    bill = cost + float((short * prices).sum()) * hours
    return Score("Forecastle", _share(short.sum(), asked.sum()), cost, float(diary.ordered.sum()) * hours, bill)


def _struck(line: Timeline, load: Workload, stock: Inventory, scenario: Scenario) -> Timeline:
    """An HPA's timeline with its zone's replicas gone until the other pools have scaled out."""
    ready = line.ready
    sites = [stock.pools[name].site for name in load.pools]
    for event in scenario.of(Trouble.OUTAGE):
        if event.site in sites:
            until = min(event.ends, event.starts + round(1000 * (SYNCS_S + line.pool.lead_time_s)))
            hit = (line.at > event.starts) & (line.at <= until)
            left = 1.0 - sites.count(event.site) / len(sites)
            ready = np.where(hit[:, None], np.floor(ready * left), ready).astype(np.int64)
    return replace(line, ready=ready)


def _bills(load: Workload, line: Timeline) -> Floats:
    hours = STEP_S / 3600
    return np.asarray(line.total_cost + line.unmet.sum(axis=0) / line.pool.capacity * hours * load.unmet_price)


def _score(name: str, rows: list[tuple[Workload, Timeline]], columns: list[int], setting: str = "") -> Score:
    picked = list(zip(rows, columns, strict=True))
    short = sum(float(line.unmet[:, k].sum()) / line.pool.capacity for (_, line), k in picked)
    asked = sum(float(line.demand.sum()) / line.pool.capacity for (_, line), _ in picked)
    cost = sum(float(line.total_cost[k]) for (_, line), k in picked)
    hours = sum(float(line.desired[:, k].sum()) for (_, line), k in picked) * STEP_S / 3600
    bill = sum(float(_bills(load, line)[k]) for (load, line), k in picked)
    return Score(name, _share(short, asked), cost, hours, bill, setting)


def _share(part: float, whole: float) -> float:
    return float(part) / max(float(whole), 1e-12)
