"""The stream flow: one shift of supervised workers.

The samples never pass through Prefect: the flow starts `forecastle run` processes, watches their heartbeats, restarts one that
dies and tells Prefect about incidents and drift as events. A shift is bounded because a flow run's memory grows until it ends.
The next run may start before this one ends: its workers load, wait for the role locks and take over without a gap.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.events import emit_event

from forecastle.runtime import health
from forecastle.runtime.config import load

WATCH_S = 1.0
RESTART_S = (0.0, 1.0, 5.0, 15.0)


def command(configs: Sequence[str], flags: Sequence[str], worker: str, *, shift_s: float) -> list[str]:
    """The worker process of role ``worker``; its health file, consumer instance and ledger scope carry the name."""
    named = [f"runtime.worker={worker}", f"intake.instance={worker}", f"runtime.health={_health(configs, flags, worker)}"]
    options = [part for path in configs for part in ("--config", path)]
    options += [part for flag in [*flags, *named] for part in ("--set", flag)]
    return [sys.executable, "-m", "forecastle.cli", "run", *options, "--shift-s", str(shift_s)]


def _health(configs: Sequence[str], flags: Sequence[str], worker: str) -> Path:
    base = Path(load([Path(c) for c in configs], flags=flags).runtime.health)
    return base.with_name(f"{worker}{base.suffix}")


@asynccontextmanager
async def process(arguments: Sequence[str]) -> AsyncIterator[asyncio.subprocess.Process]:
    """A child that is asked to stop, then made to, when the block ends."""
    child = await asyncio.create_subprocess_exec(*arguments)
    try:
        yield child
    finally:
        if child.returncode is None:
            child.terminate()
            try:
                await asyncio.wait_for(child.wait(), 15)
            except TimeoutError:
                child.kill()
                await child.wait()


class Watch:
    """Turns heartbeats into Prefect events: each incident once, each drift of a model once, whichever workers see it.

    ``drifting`` is shared by the watches of a shift: model -> the workers that say it has drifted.
    """

    def __init__(self, worker: str, drifting: dict[str, set[str]] | None = None) -> None:
        self.worker = worker
        self.told: set[str] = set()
        self.drifting = {} if drifting is None else drifting

    def look(self, beat: health.Heartbeat | None) -> list[str]:
        """Emit what is new in ``beat``. Returns the names of the events emitted."""
        if beat is None:
            return []
        fresh = {incident: line for incident, line in beat.incidents.items() if incident not in self.told}
        self.told = set(beat.incidents)
        news: list[tuple[str, dict[str, Any]]] = [
            ("forecastle.incident.opened", {"incident": incident, "summary": line}) for incident, line in fresh.items()
        ]
        news += [("forecastle.drift.detected", {"model": model, "summary": line}) for model, line in self._drifts(beat).items()]
        for event, payload in news:
            resource = {"prefect.resource.id": f"forecastle.worker.{self.worker}", "prefect.resource.name": self.worker}
            emit_event(event=event, resource=resource, payload=payload)
        return [event for event, _ in news]

    def _drifts(self, beat: health.Heartbeat) -> dict[str, str]:
        """What nobody has said yet. A worker that starts, stops or waits says nothing about drift, nor that it is over."""
        if beat.state != "RUNNING":
            return {}
        fresh = {model: line for model, line in beat.drift.items() if model not in self.drifting}
        for model in [*self.drifting, *fresh]:
            sayers = self.drifting.setdefault(model, set())
            (sayers.add if model in beat.drift else sayers.discard)(self.worker)
            if not sayers:
                del self.drifting[model]
        return fresh


def told_before(beats: Iterable[health.Heartbeat | None]) -> dict[str, set[str]]:
    """The drift that the shift before has told: what stands in the heartbeats as this one begins."""
    drifting: dict[str, set[str]] = {}
    for beat in filter(None, beats):
        for model in beat.drift:
            drifting.setdefault(model, set()).add(beat.worker)
    return drifting


async def supervise(configs: Sequence[str], flags: Sequence[str], watch: Watch, shift_s: float) -> int:
    """Keep the role of the watched worker staffed until the shift ends. Returns how often it had to be restarted."""
    logger = get_run_logger()
    worker, path = watch.worker, _health(configs, flags, watch.worker)
    ends, restarts = time.monotonic() + shift_s, 0
    while (left := ends - time.monotonic()) > 0:
        async with process(command(configs, flags, worker, shift_s=left)) as child:
            while child.returncode is None:
                watch.look(health.read(path))
                await asyncio.wait({asyncio.ensure_future(child.wait())}, timeout=WATCH_S)
        watch.look(health.read(path))
        if child.returncode == 0:
            break
        wait = RESTART_S[min(restarts, len(RESTART_S) - 1)]
        restarts += 1
        logger.warning("worker %s ended with %s; restart %d in %.0f s", worker, child.returncode, restarts, wait)
        await asyncio.sleep(wait)
    return restarts


@flow(name="stream", validate_parameters=False)
async def stream(
    configs: Sequence[str] = ("configs",),
    flags: Sequence[str] = (),
    workers: int = 1,
    shift_s: float = 3600.0,
) -> dict[str, Any]:
    """Run ``workers`` worker processes for ``shift_s`` seconds. Returns the restarts per worker."""
    settings = load([Path(c) for c in configs], flags=flags)
    names = [settings.runtime.worker if workers == 1 else f"{settings.runtime.worker}-{i}" for i in range(workers)]
    drifting = told_before(health.read(_health(configs, flags, name)) for name in names)
    watches = [Watch(name, drifting) for name in names]
    pull = [sys.executable, "-m", "forecastle.runtime.pull", "--watch"]
    pull += [part for path in configs for part in ("--config", path)]
    pull += [part for flag in flags for part in ("--set", flag)]
    async with process(pull if settings.predict.registry else [sys.executable, "-c", ""]):
        restarts = await asyncio.gather(*(supervise(configs, flags, watch, shift_s) for watch in watches))
    return dict(zip(names, restarts, strict=True))
