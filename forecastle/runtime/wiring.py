"""From configuration to a furnished house: the only place where rooms are built and given to each other."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from forecastle.act.executor import Executor
from forecastle.decide.planner import decide
from forecastle.detect.engine import RING, Detection
from forecastle.detect.incidents import IncidentBook
from forecastle.detect.swap import SwappingDetection
from forecastle.errors import ConfigError
from forecastle.intake.consumer import KafkaIntake
from forecastle.ledger.store import SqlLedger
from forecastle.ports import Cloud, Intake
from forecastle.predict import drift
from forecastle.predict.artifacts import cached, pointed
from forecastle.predict.engine import Predictor
from forecastle.predict.known import Almanac
from forecastle.runtime.clocks import EventClock, WallClock
from forecastle.runtime.feedback import Words, incident_keeper
from forecastle.runtime.health import HealthFile
from forecastle.runtime.inventory import check, inventory
from forecastle.runtime.listeners import listening
from forecastle.runtime.loop import Loop, Rooms
from forecastle.runtime.occasions import announced
from forecastle.runtime.providers import clouds
from forecastle.runtime.records import inventory_digest, recorder
from forecastle.runtime.releases import Rollouts, release_keeper
from forecastle.runtime.worker import role, stopping, work
from forecastle.settings import Settings
from forecastle.types import Inventory, Outcome
from forecastle.window.store import WindowStore


def clock(settings: Settings) -> WallClock | EventClock:
    """The clock the configuration asks for."""
    return EventClock() if settings.runtime.clock == "event" else WallClock()


def furnish(settings: Settings, *, intake: Intake | None = None, adapters: Mapping[str, Cloud] | None = None) -> Loop:
    """The loop with every room in place. ``intake`` and ``adapters`` replace the configured ones in tests and the demo."""
    problems = check(settings)
    if problems:
        raise ConfigError("\n".join(problems))
    at, stock, step_ms = clock(settings), inventory(settings), int(settings.window.step_s * 1000)
    opened = dict(adapters) if adapters is not None else clouds(settings, at)
    ledger = SqlLedger(settings.ledger, at)
    book = IncidentBook(settings.detect, stock.workloads, Rollouts(ledger, stock.pools).before)
    act = executor(settings, ledger, opened, stock, at)
    detectors = detection(settings, step_ms)
    words = Words(ledger, step_ms)
    detectors.lenience, detectors.dismissed = words.lenience, words.dismissed
    detectors.occasions = announced(stock.workloads)
    rooms = Rooms(
        intake=intake or KafkaIntake(settings.intake, WallClock()),
        store=WindowStore(settings.window),
        predictor=Predictor(settings.predict, step_ms, almanac=Almanac(stock.workloads.values(), step_ms)),
        detection=detectors,
        group=book.update,
        decide=partial(decide, inventory=stock, settings=settings.decide, guards=settings.guards),
        execute=act.execute,
        ledger=ledger,
        clouds=opened,
        clock=at,
        inventory=stock,
        recover=act.recover,
    )
    loop = Loop(
        rooms,
        settings.runtime.worker,
        step_ms,
        not_before=settings.runtime.not_before,
        rebuild_ticks=memory_ticks(settings),
        fingerprint=inventory_digest(settings),
    )
    loop.listeners += [incident_keeper(ledger), release_keeper(ledger)]
    return loop


def memory_ticks(settings: Settings) -> int:
    """Past ticks that a decision still depends on, which a restart has to repeat.

    Calibration shapes forecasts, trailing scores of forecasts set the detectors' thresholds, anomalies begin what lasts for
    `detect.adopt_s` at most, and keep incidents open: each memory begins where the one before it is complete. Drift, which
    decides nothing, is told as if nothing had ended.
    """
    quiet_s = max(settings.detect.group_s, settings.detect.close_s) + settings.detect.adopt_s
    chain = settings.predict.coverage_window + RING + 1 + math.ceil(quiet_s / settings.window.step_s)
    return max(chain, settings.detect.look_back, drift.memory(settings.predict))


def detection(settings: Settings, step_ms: int) -> Detection:
    """The detectors, with the model that `forecastle.runtime.pull` keeps in the cache when one is named."""
    name, alias, cache = settings.detect.model, settings.predict.alias, Path(settings.predict.cache)
    if not name:
        return Detection(settings.detect, step_ms)
    look, fetch = partial(pointed, cache, name, alias), partial(cached, cache, name)
    return SwappingDetection(settings.detect, step_ms, look, fetch, poll_s=settings.predict.poll_s)


def executor(
    settings: Settings,
    ledger: SqlLedger,
    opened: Mapping[str, Cloud],
    stock: Inventory,
    at: WallClock | EventClock,
    *,
    holder: str = "",
) -> Executor:
    """The executor over these adapters. ``holder`` names it in leases; by default it is the worker."""
    name = holder or settings.runtime.worker
    return Executor(
        ledger,
        ledger,
        opened,
        stock,
        act=settings.act,
        guards=settings.guards,
        clock=at,
        holder=name,
        parallel={adapter: chosen.parallel for adapter, chosen in settings.clouds.items()},
    )


def run_worker(settings: Settings, *, shift_s: float, record: Path | None) -> None:
    """One worker, from an empty process to the end of its shift."""
    path = Path(settings.runtime.health)
    with stopping() as stop, ExitStack() as cleanup:
        loop = furnish(settings)
        cleanup.callback(loop.rooms.ledger.close)
        for cloud in loop.rooms.clouds.values():
            cleanup.callback(cloud.close)
        if not cleanup.enter_context(role(path.with_suffix(".lock"), stop)):
            return
        health = HealthFile(path, settings.runtime.worker)
        cleanup.callback(loop.rooms.intake.close)
        cleanup.enter_context(listening(settings, loop, health))
        if record is not None:
            loop.listeners.append(recorder(record, inventory_digest(settings)))
        work(loop, health, stop, shift_s=shift_s)


def resume_plans(settings: Settings, workload: str = "") -> list[Outcome]:
    """Execute the ledger's approved, unexpired plans (of ``workload`` when given) and reconcile unfinished intents."""
    at, stock = clock(settings), inventory(settings)
    ledger = SqlLedger(settings.ledger, at)
    at.advance(ledger.last_tick(settings.runtime.worker) or 0)
    with ExitStack() as cleanup:
        cleanup.callback(ledger.close)
        opened = clouds(settings, at)
        for cloud in opened.values():
            cleanup.callback(cloud.close)
        act = executor(settings, ledger, opened, stock, at, holder=f"heal-{os.getpid()}")
        outcomes = list(act.recover())
        waiting = [p for p in ledger.recent_plans(200) if p.expires_at > at.now() and ledger.approved(p)]
        for plan in waiting:
            if not workload or any(action.workload == workload for action in plan.actions):
                outcomes += act.execute(plan, None)
        return outcomes
