"""The whole house for the demo: broker, Prefect, training, registry, the stream flow with its worker, and the way in.

What can be done side by side is: while the forecaster and the detector are trained, the history goes into Kafka and the worker
fills its windows with it; it swaps the models in between two ticks, as it does with any new champion.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from forecastle.errors import ForecastleError
from forecastle.intake.feed import Feed
from forecastle.intake.publish import create_topics
from forecastle.runtime import health
from forecastle.runtime.broker import LocalBroker
from forecastle.runtime.demo_child import Child
from forecastle.runtime.demo_engine import Decided
from forecastle.runtime.demo_play import past
from forecastle.runtime.demo_services import flow, free_port, prefect, pull
from forecastle.runtime.demo_settings import LOOK_BACK, STEP_MS, TOPIC, WORKER
from forecastle.runtime.demo_stage import DemoOptions, Stage
from forecastle.runtime.world import World
from forecastle.runtime.world_demand import DAY_MS
from forecastle.runtime.world_history import history

TRAIN_TICKS = 14 * 1440
TRAIN_S = 40.0
START_S, TRAINED_S = 150.0, 300.0
SILENT_S = 90.0
POLL_S = 0.002


def overrides(options: DemoOptions) -> dict[str, dict[str, Any]]:
    """What the full demo configures beyond the naive one."""
    out = options.out.resolve()
    return {
        "predict": {"model": "forecaster", "registry": f"sqlite:///{out / 'mlflow.db'}"},
        "detect": {"model": "detector"},
    }


@contextmanager
def staffed(stage: Stage, world: World) -> Iterator[OverKafka]:
    """Everything running, models served, windows filled. On the way out all of it is stopped, in the opposite order."""
    began = time.monotonic()
    with ExitStack() as stack:
        port = free_port()
        stack.enter_context(prefect(stage.out, port))
        broker = stack.enter_context(LocalBroker(stage.out / "kafka"))
        paths = _reachable(stage, broker.bootstrap)
        _tell(began, f"Kafka at {broker.bootstrap}, Prefect at http://127.0.0.1:{port}, MLflow in {stage.out / 'mlflow.db'}")
        write_history(stage, world, stage.out / "history.parquet")
        _tell(began, f"{stage.out / 'history.parquet'}: {_days(stage):.0f} days to learn from")
        configs = [str(path) for path in paths]
        learn = {"configs": configs, "history": str(stage.out / "history.parquet"), "budget_s": TRAIN_S}
        training = stack.enter_context(flow("train", "flows.train:train", learn, stage.out, port=port))
        settings = stage.settings.intake.model_copy(update={"bootstrap": broker.bootstrap})
        create_topics(settings, [TOPIC], partitions=1)
        create_topics(settings, [settings.dead_letter_topic], partitions=1)
        feed = stack.enter_context(Feed(settings, TOPIC))
        engine = OverKafka(feed, stage.out / f"{WORKER}.json")
        engine.fill(past(world, stage.table.between(stage.windows_from, stage.first - STEP_MS), stage.seed))
        _tell(began, f"two days of history in Kafka; the Prefect flow train learns for {TRAIN_S:.0f} s")
        work = {"configs": configs, "shift_s": 3600.0}
        engine.staff = stack.enter_context(flow("stream", "flows.stream:stream", work, stage.out, port=port))
        engine.ready()
        _tell(began, "the Prefect flow stream runs the worker; its windows are filled")
        training.wait(TRAIN_S + TRAINED_S)
        with pull(paths, stage.out) as pulling:
            pulling.wait(START_S)
        _tell(began, "forecaster and detector registered in MLflow as champion, and pulled")
        yield engine


class OverKafka:
    """The engine as a worker process, in lock-step with its heartbeat (which the flow names after the worker)."""

    def __init__(self, feed: Feed, heartbeat: Path, staff: Child | None = None) -> None:
        self._feed = feed
        self._heartbeat = heartbeat
        self.staff = staff

    def fill(self, messages: Iterable[tuple[str, int, bytes]]) -> int:
        """See `Engine`."""
        return self._feed.send(messages)

    def ready(self) -> None:
        """Wait until the worker has taken the history in."""
        self._wait(lambda beat: beat.state in {"REBUILDING", "RUNNING"} and beat.samples > 0, START_S)

    def tick(self, tick: int, messages: Iterable[tuple[str, int, bytes]]) -> Decided:
        """See `Engine`."""
        self._feed.send(messages)
        beat = self._wait(lambda beat: beat.last_tick >= tick, SILENT_S)
        return Decided(tick, beat.incidents, beat.model)

    def _wait(self, done: Any, patience_s: float) -> health.Heartbeat:
        deadline = time.monotonic() + patience_s
        while True:
            beat = health.read(self._heartbeat)
            if beat is not None and done(beat):
                return beat
            if time.monotonic() > deadline:
                said = "never came up" if beat is None else f"is {beat.state} since tick {beat.last_tick}: {beat.detail}"
                raise ForecastleError(f"the worker {said}; see the logs beside {self._heartbeat}")
            if self.staff is not None and beat is None:
                self.staff.check()
            time.sleep(POLL_S)


def write_history(stage: Stage, world: World, path: Path) -> None:
    """What models learn from, as a long parquet: every demand over the whole history, the other series for two days."""
    import pyarrow as pa
    from pyarrow import parquet

    table = stage.table.between(int(stage.table.at[0]), stage.first - STEP_MS)
    schema = [("workload", pa.string()), ("metric", pa.string()), ("labels", pa.string()), ("timestamp", pa.int64())]
    with parquet.ParquetWriter(path, pa.schema([*schema, ("value", pa.float64())])) as out:
        for layout in world.layouts:
            values = history(stage.stock, table, layout, stage.scenario, stage.seed)
            for row, key in enumerate(layout.keys):
                recent = slice(None) if row == 0 else slice(-LOOK_BACK, None)
                at, value = table.at[recent], values[row, recent]
                known = np.isfinite(value)
                n = int(known.sum())
                labels = "{" + ", ".join(f'"{name}": "{label}"' for name, label in key.labels) + "}"
                columns = [[key.workload] * n, [key.metric] * n, [labels] * n, at[known], value[known]]
                out.write_table(pa.table(columns, schema=out.schema))


def _days(stage: Stage) -> float:
    return float(stage.first - int(stage.table.at[0])) / DAY_MS


def _reachable(stage: Stage, bootstrap: str) -> tuple[Path, ...]:
    """The worker's files, with one more that names this run's broker."""
    path = stage.out / "broker.yaml"
    path.write_text(f"intake: {{bootstrap: '{bootstrap}'}}\n", "utf-8")
    return (*stage.paths, path)


def _tell(began: float, what: str) -> None:
    print(f"{time.monotonic() - began:5.1f} s  {what}", flush=True)
