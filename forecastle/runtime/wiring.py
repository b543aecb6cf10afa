"""From configuration to a furnished house: the only place where rooms are built and given to each other."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from forecastle.act.executor import Executor
from forecastle.decide.planner import decide
from forecastle.detect.engine import Detection
from forecastle.detect.incidents import IncidentBook
from forecastle.errors import ConfigError
from forecastle.intake.consumer import KafkaIntake
from forecastle.ledger.store import SqlLedger
from forecastle.ports import Cloud, Intake
from forecastle.predict.engine import Predictor
from forecastle.runtime.clocks import EventClock, WallClock
from forecastle.runtime.health import HealthFile
from forecastle.runtime.inventory import check, inventory, resolve
from forecastle.runtime.loop import Loop, Rooms
from forecastle.runtime.records import inventory_digest, recorder
from forecastle.runtime.worker import role, stopping, work
from forecastle.settings import Settings
from forecastle.types import Inventory, Outcome
from forecastle.window.store import WindowStore


def clock(settings: Settings) -> WallClock | EventClock:
    """The clock the configuration asks for."""
    return EventClock() if settings.runtime.clock == "event" else WallClock()


def clouds(settings: Settings, at: WallClock | EventClock) -> dict[str, Cloud]:
    """Every configured adapter, opened. An adapter that takes ``clock`` gets this process's."""
    opened: dict[str, Cloud] = {}
    for name, cloud in settings.clouds.items():
        opened[name] = resolve(cloud.adapter)(clock=at, **cloud.options)
    return opened


def furnish(settings: Settings, *, intake: Intake | None = None, adapters: Mapping[str, Cloud] | None = None) -> Loop:
    """The loop with every room in place. ``intake`` and ``adapters`` replace the configured ones in tests and the demo."""
    problems = check(settings)
    if problems:
        raise ConfigError("\n".join(problems))
    at, stock, step_ms = clock(settings), inventory(settings), int(settings.window.step_s * 1000)
    opened = dict(adapters) if adapters is not None else clouds(settings, at)
    ledger = SqlLedger(settings.ledger, at)
    book = IncidentBook(settings.detect)
    rooms = Rooms(
        intake=intake or KafkaIntake(settings.intake, WallClock()),
        store=WindowStore(settings.window),
        predictor=Predictor(settings.predict, step_ms),
        detection=Detection(settings.detect, step_ms),
        group=book.update,
        decide=partial(decide, inventory=stock, settings=settings.decide, guards=settings.guards),
        execute=executor(settings, ledger, opened, stock, at).execute,
        ledger=ledger,
        clouds=opened,
        clock=at,
        inventory=stock,
    )
    return Loop(
        rooms,
        settings.runtime.worker,
        step_ms,
        not_before=settings.runtime.not_before,
        rebuild_ticks=max(settings.predict.coverage_window, settings.detect.look_back),
        fingerprint=inventory_digest(settings),
    )


def executor(
    settings: Settings, ledger: SqlLedger, opened: Mapping[str, Cloud], stock: Inventory, at: WallClock | EventClock
) -> Executor:
    """The executor over these adapters."""
    return Executor(ledger, ledger, opened, stock, settings.act, settings.guards, at)


def run_worker(settings: Settings, *, shift_s: float, record: Path | None) -> None:
    """One worker, from an empty process to the end of its shift."""
    path = Path(settings.runtime.health)
    with stopping() as stop, ExitStack() as cleanup:
        loop = furnish(settings)
        for cloud in loop.rooms.clouds.values():
            cleanup.callback(cloud.close)
        if not cleanup.enter_context(role(path.with_suffix(".lock"), stop)):
            return
        health = HealthFile(path, settings.runtime.worker)
        cleanup.callback(loop.rooms.intake.close)
        if record is not None:
            loop.listeners.append(recorder(record, inventory_digest(settings)))
        work(loop, health, stop, shift_s=shift_s)


def resume_plans(settings: Settings, workload: str = "") -> list[Outcome]:
    """Execute the ledger's approved, unexpired plans (of ``workload`` when given) and reconcile unfinished intents."""
    at, stock = clock(settings), inventory(settings)
    ledger = SqlLedger(settings.ledger, at)
    with ExitStack() as cleanup:
        opened = clouds(settings, at)
        for cloud in opened.values():
            cleanup.callback(cloud.close)
        act = executor(settings, ledger, opened, stock, at)
        outcomes = list(act.recover())
        waiting = [p for p in ledger.recent_plans(200) if p.expires_at > at.now() and ledger.approved(p)]
        for plan in waiting:
            if not workload or any(action.workload == workload for action in plan.actions):
                outcomes += act.execute(plan, None)
        return outcomes
