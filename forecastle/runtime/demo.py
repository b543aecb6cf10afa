"""`forecastle demo`: a fleet played through the whole path at accelerated time, and what came of it."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any

from forecastle.clouds.sim_world import SimWorld
from forecastle.ledger.store import SqlLedger
from forecastle.runtime.clocks import EventClock
from forecastle.runtime.demo_engine import Engine, InProcess
from forecastle.runtime.demo_live import view
from forecastle.runtime.demo_play import past, play
from forecastle.runtime.demo_settings import LOOK_BACK, STEP_MS, sim_path
from forecastle.runtime.demo_stage import DemoOptions, Stage, generated
from forecastle.runtime.demo_summary import conclude
from forecastle.runtime.world import World

INTERRUPTED = 130

__all__ = ["DemoOptions", "run_demo"]


def run_demo(options: DemoOptions) -> int:
    """Play, then write ``summary.json`` and ``report.html`` into ``options.out``. Returns the process's exit code.

    SIGINT and SIGTERM at any moment stop everything that was started; then the code is 130.
    """
    with _interruptible():
        try:
            return _naive(options) if options.naive else _full(options)
        except KeyboardInterrupt:
            print("\ninterrupted: everything that was started has been stopped", file=sys.stderr)
            return INTERRUPTED


def _naive(options: DemoOptions) -> int:
    stage = _stage(options, LOOK_BACK, {})
    with ExitStack() as stack:
        world = _world(stage, stack)
        engine = stack.enter_context(InProcess(stage.settings))
        began = time.monotonic()
        engine.fill(past(world, stage.table.between(stage.windows_from, stage.first - STEP_MS), stage.seed))
        print(f"{time.monotonic() - began:5.1f} s  the windows are filled with two days", flush=True)
        code = _perform(stage, world, engine, stack, "forecastle demo --naive")
    print("Seasonal naive knows no hour: without --naive a model is trained that sees the daily surges coming.")
    return code


def _full(options: DemoOptions) -> int:
    from forecastle.runtime.demo_full import TRAIN_TICKS, overrides, staffed

    stage = _stage(options, TRAIN_TICKS, overrides(options))
    with ExitStack() as stack:
        world = _world(stage, stack)
        engine = stack.enter_context(staffed(stage, world))
        return _perform(stage, world, engine, stack, "forecastle demo")


def _stage(options: DemoOptions, history_ticks: int, run: Mapping[str, Mapping[str, Any]]) -> Stage:
    if options.trace is None:
        return generated(options, history_ticks, run)
    from forecastle.runtime.demo_trace import recorded

    return recorded(options, history_ticks, run)


def _world(stage: Stage, stack: ExitStack) -> World:
    sim = stack.enter_context(SimWorld(str(sim_path(stage.out))))
    world = World(stage.stock, stage.table.between(stage.first, stage.last), stage.scenario, sim, stage.seed)
    world.begin(stage.windows_from)
    return world


def _perform(stage: Stage, world: World, engine: Engine, stack: ExitStack, title: str) -> int:
    ledger = SqlLedger(stage.settings.ledger, EventClock())
    stack.callback(ledger.close)
    with view(stage.stock, title) as watch:
        diary = play(world, engine, ledger, watch)
    return conclude(world, diary, stage.out)


@contextmanager
def _interruptible() -> Iterator[None]:
    """The first SIGINT or SIGTERM is a KeyboardInterrupt; those that follow do not disturb the stopping."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
