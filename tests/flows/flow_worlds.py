"""A small fleet for flows that run workers or read a ledger: one workload at two sites of the sim cloud, in event time."""

from __future__ import annotations

import asyncio
import json
import math
import sqlite3
import sys
import threading
from pathlib import Path
from typing import Any

from forecastle.intake.memory import MemoryIntake
from forecastle.ledger.store import SqlLedger
from forecastle.ports import Artifact
from forecastle.predict.artifacts import point, sha256
from forecastle.runtime.clocks import EventClock
from forecastle.runtime.config import load
from forecastle.runtime.health import HealthFile, Heartbeat
from forecastle.runtime.loop import Turned
from forecastle.runtime.wiring import furnish
from forecastle.runtime.worker import work
from forecastle.settings import Settings
from forecastle.types import Plan

sys.path.insert(0, str(Path(__file__).parents[1] / "predict"))
import tiny_models

STEP = 60_000
START = 1_760_000_040_000 // STEP * STEP


def message(tick: int) -> bytes:
    value = 400 + 300 * math.sin(tick * math.tau / 60)
    return json.dumps({"workload": "shop", "metric": "rps", "at": START + tick * STEP, "value": value}).encode()


def configuration(folder: Path, *, mode: str = "auto", **rooms: Any) -> Path:
    """A configuration whose ledger, cloud and health file are in ``folder``."""
    settings = {
        "window": {"look_back": 60, "lateness_s": 0},
        "predict": {"model": "", "season": 60, "horizon": 10, "coverage_window": 20},
        "detect": {"model": "", "look_back": 30, "warmup": 10, "season": 0},
        "guards": {"warmup_s": 0},
        "act": {"verify_s": 0},
        "ledger": {"url": f"sqlite:///{folder}/ledger.db", "kill_file": str(folder / "KILL")},
        "runtime": {"worker": "w", "clock": "event", "health": str(folder / "health.json")},
        "clouds": {"sim": {"adapter": "forecastle.clouds.sim:open_cloud", "options": {"path": str(folder / "sim.db")}}},
        "fleet": {
            "sites": [
                {"name": "fra", "provider": "aws", "region": "eu-central-1"},
                {"name": "ams", "provider": "gcp", "region": "europe-west4"},
            ],
            "workloads": [
                {
                    "name": "shop",
                    "mode": mode,
                    "min": 2,
                    "demands": [{"metric": "rps", "per_replica": 40}],
                    "pools": [{"name": f"shop-{site}", "site": site, "unit_price": 0.1} for site in ("fra", "ams")],
                }
            ],
        },
    } | rooms
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.yaml"
    path.write_text(json.dumps(settings), encoding="utf-8")
    return path


def settings_of(config: Path) -> Settings:
    return load([config], environment={})


def ledger_of(config: Path, at: int = 0) -> SqlLedger:
    return SqlLedger(settings_of(config).ledger, EventClock(at))


def play(config: Path, ticks: int) -> list[Plan]:
    """Run a worker over ``ticks`` minutes without a broker; the plans it made."""
    plans: list[Plan] = []
    clock = EventClock(START + ticks * STEP)
    loop = furnish(settings_of(config), intake=MemoryIntake(map(message, range(ticks)), clock, per_poll=5))
    loop.listeners.append(lambda turned: plans.extend(turned.plans))
    try:
        loop.resume()
        while loop.turn(0.0):
            pass
    finally:
        for cloud in loop.rooms.clouds.values():
            cloud.close()
        loop.rooms.ledger.close()
    return plans


def drifted(folder: Path) -> list[Heartbeat]:
    """The heartbeats of a real worker that serves a model which says twice the last value, until its drift is in them."""
    cache, draft = folder / "models", folder / "draft.onnx"
    manifest = tiny_models.forecaster(draft, lift=1.0)
    artifact = Artifact("forecaster", "1", draft, sha256(draft), manifest)
    kept = cache / artifact.name / artifact.sha256
    kept.mkdir(parents=True)
    draft.rename(kept / "model.onnx")
    (kept / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    point(cache, artifact.name, "champion", artifact)
    asked = {"season": 60, "horizon": 10, "coverage_window": 20, "drift_window": 12, "drift_hold": 5, "timeout_s": 60.0}
    settings = settings_of(configuration(folder, predict={"cache": str(cache), **asked}))
    path, stop, beats = Path(settings.runtime.health), threading.Event(), []
    health = HealthFile(path, "w")

    def listen(_turned: Turned) -> None:
        beats.append(health.beat)
        if health.beat.drift:
            stop.set()

    clock = EventClock(START + 100 * STEP)
    loop = furnish(settings, intake=MemoryIntake(map(message, range(100)), clock, per_poll=5))
    loop.listeners.append(listen)
    try:
        work(loop, health, stop, shift_s=120)
    finally:
        for cloud in loop.rooms.clouds.values():
            cloud.close()
        loop.rooms.ledger.close()
    return beats


def orders(config: Path) -> list[tuple[str, str]]:
    """(token, pool) of every effect the cloud accepted."""
    with sqlite3.connect(config.parent / "sim.db") as db:
        return db.execute("select token, pool from orders order by at, token").fetchall()


async def arrived(event: str, worker: str) -> list[dict[str, Any]]:
    """The events of that name about a worker that the Prefect server has, once there is one; [] after half a minute."""
    from prefect.client.orchestration import get_client

    async with get_client() as client:
        body = {"filter": {"event": {"name": [event]}, "occurred": {}}, "limit": 50}
        for _ in range(60):
            answer = await client.request("POST", "/events/filter", json=body)
            found = [e for e in answer.json()["events"] if e["resource"]["prefect.resource.id"].endswith(worker)]
            if found:
                await asyncio.sleep(1)
                return found
            await asyncio.sleep(0.5)
    return []
