"""What a plan says about how it was sized: learned capacity, its refusal, several models, and the words for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from decide_worlds import COLUMNS, HORIZON, NOW, QUANTILES, RPS, STEP, fleet, load, plans, seen, stock

from forecastle.settings import GuardSettings
from forecastle.types import Demand, Forecasts, Plan, SeriesKey, Service, Situation, Usage, Windows

CPU, READY, JOBS = (SeriesKey("shop", name) for name in ("cpu", "ready", "jobs"))
TEN = fleet(seen("shop-fra", 10), seen("shop-ams", 10))
LEARNED = Demand(RPS, 40.0, usage=Usage(CPU, READY))
FREE = GuardSettings(step_up_fraction=1.0, step_up_replicas=100)
EACH = np.linspace(8, 24, COLUMNS)
"""Demand per replica over half an hour; with twenty replicas, 480 now."""


def situation(others: Mapping[SeriesKey, Any], expected: float, *, suspect: tuple[SeriesKey, ...] = ()) -> Situation:
    """The shop's requests and what else is measured; the forecast is sure and flat."""
    series = {RPS: EACH * 20, **others}
    values = np.array([np.broadcast_to(course, COLUMNS) for course in series.values()], np.float32)
    keys = tuple(series)
    flags = np.array([key in suspect for key in keys], np.bool_)
    windows = Windows(keys, NOW, STEP, values, np.ones_like(values, np.bool_), np.zeros(len(keys), np.bool_), flags)
    medians = [expected if key == RPS else float(row[-1]) for key, row in zip(keys, values, strict=True)]
    ahead = np.broadcast_to(np.array(medians, np.float32)[:, None, None], (len(keys), HORIZON, len(QUANTILES)))
    forecasts = Forecasts(keys, NOW, STEP, QUANTILES, ahead.copy(), "model@1", np.zeros(len(keys), np.bool_))
    return Situation(NOW, windows, forecasts, (), TEN)


def measured(carries: float) -> dict[SeriesKey, Any]:
    return {CPU: 0.1 + 0.9 * EACH / carries, READY: 20.0}


def plan(demands: tuple[Demand, ...], tick: Situation, **changes: Any) -> Plan:
    found = plans(tick, stock(load(demands=demands, **changes)), FREE)
    return next(p for p in found if "shop" in p.evidence)


def test_a_learned_capacity_decides_and_is_told() -> None:
    """The line meets a full replica at 32, so 1024 take 40 at a utilization of 0.8."""
    made = plan((LEARNED,), situation(measured(32.0), 1024.0))
    evidence = made.evidence["shop"]
    assert (made.recommended["shop"], evidence["per_replica"]) == (40, pytest.approx(32.0, rel=1e-4))
    assert evidence["capacity"] == {"rps": "learned: 30 slots, the line explains 100%, a replica is full at 32"}
    assert "Capacity of rps: learned: 30 slots" in made.reason
    assert "One fewer would do below expected demand of 998.4" in made.reason, "39 x 32 x 0.8"


def test_a_refusal_falls_back_and_gives_its_reason() -> None:
    made = plan((LEARNED,), situation({CPU: 0.5, READY: 20.0}, 1024.0))
    assert (made.recommended["shop"], made.evidence["shop"]["per_replica"]) == (32, 40.0)
    assert made.evidence["shop"]["capacity"] == {"rps": "fixed: learned refused: usage does not grow with demand"}
    assert "learned refused" in made.reason


@pytest.mark.parametrize(
    ("others", "suspect", "why"),
    [
        ({READY: 20.0}, (), "cpu cannot be seen"),
        (measured(32.0), (CPU,), "cpu is suspect"),
        ({}, (), "cpu, ready cannot be seen"),
    ],
)
def test_usage_that_cannot_be_trusted_does_not_make_its_demand_so(
    others: dict[SeriesKey, Any], suspect: tuple[SeriesKey, ...], why: str
) -> None:
    made = plan((LEARNED,), situation(others, 1024.0, suspect=suspect))
    assert made.recommended["shop"] == 32
    assert made.evidence["shop"]["capacity"] == {"rps": f"fixed: learned refused: {why}"}
    assert not made.evidence["shop"]["suspect"]


def test_a_plain_workload_says_nothing_of_it() -> None:
    made = plan((Demand(RPS, 40.0),), situation({}, 1024.0))
    assert set(made.evidence["shop"]) & {"capacity", "startup", "occasions", "budget_left"} == set()
    assert "Capacity of" not in made.reason


def test_a_queue_says_what_binds_and_claims_no_threshold() -> None:
    """480 requests a second of 0.2 s are 96 at a time; the floor of 15 is far below what they take."""
    demand = Demand(RPS, 40.0, service=Service(0.2, latency_s=0.5, quantile=0.9))
    made = plan((demand,), situation({}, 480.0))
    assert made.recommended["shop"] > 96
    assert made.evidence["shop"]["binding"] == "reactive floor", "what is measured takes as many already"
    assert made.evidence["shop"]["capacity"] == {"rps": "queueing"}
    rising = plan((demand,), situation({}, 960.0))
    assert rising.evidence["shop"]["binding"] == "latency target"
    assert "One fewer" not in rising.reason


@pytest.mark.parametrize(("jobs", "metric"), [(100.0, "rps"), (4000.0, "jobs")])
def test_of_learned_and_told_the_largest_need_wins(jobs: float, metric: str) -> None:
    both = (LEARNED, Demand(JOBS, 50.0))
    tick = situation(measured(32.0) | {JOBS: jobs}, 1024.0)
    made = plan(both, tick)
    assert made.evidence["shop"]["metric"] == metric
    assert made.recommended["shop"] == (40 if metric == "rps" else 100)
    assert plan(both[::-1], tick).recommended == made.recommended


def test_one_metric_may_have_two_models() -> None:
    """Learned from usage and by a latency target; no one number then says what a replica carries."""
    queue = Demand(RPS, 40.0, service=Service(0.01, latency_s=0.05))
    made = plan((LEARNED, queue), situation(measured(32.0), 1024.0))
    assert made.evidence["shop"]["capacity"]["rps"].startswith("learned: ")
    assert made.evidence["shop"]["capacity"]["rps"].endswith("; queueing")
    assert made.evidence["shop"]["per_replica"] is None
    assert made.recommended["shop"] == 40
    assert "One fewer" not in made.reason


def test_a_replay_of_the_same_situation_makes_the_same_plan() -> None:
    tick = situation(measured(32.0), 1024.0)
    inventory = stock(load(demands=(LEARNED,)))
    assert plans(tick, inventory) == plans(replace(tick), inventory)


def test_without_its_demand_a_workload_holds_whatever_its_usage_says() -> None:
    tick = situation(measured(8.0), 1024.0)
    dark = replace(tick, windows=replace(tick.windows, late=np.array([True, False, False])))
    assert plans(dark, stock(load(demands=(LEARNED,))), FREE)[0].recommended == {"shop": 20}
