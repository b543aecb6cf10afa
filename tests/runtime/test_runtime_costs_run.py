"""A real run of the loop, and its costs: what the provider was seen to hold at every tick is what the report charges for."""

from __future__ import annotations

import csv
import json
import math
from datetime import UTC, datetime
from pathlib import Path

import pytest
from price_worlds import M6I, at, write_book, write_fleet

from forecastle.intake.memory import MemoryIntake
from forecastle.runtime.clocks import EventClock
from forecastle.runtime.config import load
from forecastle.runtime.costs_report import report_costs
from forecastle.runtime.loop import Turned
from forecastle.runtime.wiring import furnish
from forecastle.types import Kind, Status

STEP = 60_000
START = at("2026-11-20T10:00")
TICKS = 90
QUIET = {
    "window": {"look_back": 60, "lateness_s": 0},
    "predict": {"model": "", "season": 60, "horizon": 10, "coverage_window": 20},
    "detect": {"model": "", "look_back": 30, "warmup": 10, "season": 0},
    "guards": {"warmup_s": 0},
    "act": {"verify_s": 0},
}


def message(tick: int) -> bytes:
    value = 300 + 250 * math.sin(tick * math.tau / 60)
    return json.dumps({"workload": "shop", "metric": "rps", "at": START + tick * STEP, "value": value}).encode()


@pytest.mark.parametrize("mode", ["auto", "shadow"])
def test_the_report_charges_what_the_provider_held(tmp_path: Path, mode: str) -> None:
    write_book(tmp_path / "prices", M6I)
    pools = [{"name": f"shop-{site}", "site": site, "sku": "m6i.large", "max": 40, "startup_s": 0} for site in ("fra", "lux")]
    load_ = {"name": "shop", "mode": mode, "min": 2, "demands": [{"metric": "rps", "per_replica": 10}], "pools": pools}
    sites = [{"name": name, "provider": "aws", "region": "eu-central-1", "zone": name} for name in ("fra", "lux")]
    runtime = {"worker": "w", "clock": "event", "health": str(tmp_path / "health.json")}
    config = write_fleet(tmp_path, **QUIET, runtime=runtime, fleet={"sites": sites, "workloads": [load_]})
    settings = load([config], environment={}, at=START)
    intake = MemoryIntake(map(message, range(TICKS)), EventClock(START + TICKS * STEP), per_poll=7)
    loop = furnish(settings, intake=intake)
    held: dict[int, int] = {}

    def note(turned: Turned) -> None:
        inventory = loop.rooms.inventory
        cloud = loop.rooms.clouds["sim"]
        held[turned.closed.tick] = sum(cloud.observe(pool).replicas for pool in inventory.pools.values())

    loop.listeners.append(note)
    loop.resume()
    while loop.turn(0.0):
        pass
    first, last = min(held), max(held)
    assert last - first == (TICKS - 2) * STEP
    outcomes = loop.rooms.ledger.outcomes()
    scaled = {one.status for one in outcomes if one.kind is Kind.SCALE}
    assert (Status.APPLIED in scaled) == (mode == "auto"), scaled
    raw = load([config], environment={}, look_up=False)
    start, end = (datetime.fromtimestamp(t / 1000, UTC) for t in (first, last))
    done = report_costs(raw, loop.rooms.ledger, start, end, out=tmp_path / "costs.csv")
    for cloud in loop.rooms.clouds.values():
        cloud.close()
    loop.rooms.ledger.close()

    hours = sum(n for tick, n in held.items() if tick < last) / 60
    with (tmp_path / "costs.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sum(float(row["ConsumedQuantity"]) for row in rows) == pytest.approx(hours)
    assert sum(float(row["BilledCost"]) for row in rows) == pytest.approx(hours * 0.115)
    assert len(done) == 1, done
