"""From a sample to an outcome: the one place that knows the order of the rooms.

State is a function of the log. After a restart the intake replays one look-back; ticks the ledger has already seen are closed
again to rebuild windows, calibration and incidents, but nothing is decided twice: the last recorded tick's plans are resumed
as they were recorded, and deciding starts with the first tick the ledger does not know.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from forecastle.errors import CloudUnavailable, NotFound
from forecastle.ports import Cloud, Detector, Forecaster, Intake, Ledger
from forecastle.runtime.clocks import EventClock, WallClock
from forecastle.types import (
    Anomaly,
    Forecasts,
    Incident,
    Inventory,
    Observed,
    Outcome,
    Plan,
    SeriesKey,
    Situation,
    Windows,
)

if TYPE_CHECKING:
    from forecastle.window.store import WindowStore

DECISION_COLUMNS = 120
"""Slots of history a decision sees; more would only make the recorded situations larger."""


@dataclass(slots=True)
class Rooms:
    """The furnished house: what `wiring.furnish` builds and the loop calls in order."""

    intake: Intake
    store: WindowStore
    predictor: Forecaster
    detection: Detector
    group: Callable[[Sequence[Anomaly], int], tuple[Incident, ...]]
    decide: Callable[[Situation], tuple[Plan, ...]]
    execute: Callable[[Plan, Situation], tuple[Outcome, ...]]
    ledger: Ledger
    clouds: Mapping[str, Cloud]
    clock: WallClock | EventClock
    inventory: Inventory


@dataclass(frozen=True, slots=True)
class Closed:
    """A tick whose measurements are complete, before anything is decided about it."""

    tick: int
    windows: Windows
    forecasts: Forecasts
    anomalies: tuple[Anomaly, ...]
    incidents: tuple[Incident, ...]


@dataclass(frozen=True, slots=True)
class Turned:
    """What one tick came to; listeners (health, events, the live view) read it."""

    closed: Closed
    situation: Situation | None = None
    plans: tuple[Plan, ...] = ()
    outcomes: tuple[Outcome, ...] = ()
    rebuilt: bool = False


@dataclass(slots=True)
class Loop:
    """Turn by turn: poll, close the ticks that are due, decide, act, record, then commit.

    ``scope`` names this worker in the ledger. Ticks before ``not_before`` (ms) are history: they fill windows and nothing
    is decided about them. ``rebuild_ticks`` is how many of the ticks before the first undecided one are forecast and judged
    again, so that calibration and open incidents are what they were. ``fingerprint`` changes with the configuration; it and
    the model date the warm-up, which a restart therefore does not repeat.
    """

    rooms: Rooms
    scope: str
    step_ms: int
    not_before: int = 0
    rebuild_ticks: int = 240
    fingerprint: str = ""
    listeners: list[Callable[[Turned], None]] = field(default_factory=list)
    last_tick: int = 0
    _previous: Forecasts | None = None
    _pending: deque[Closed] = field(default_factory=deque)
    _rows: tuple[tuple[SeriesKey, ...], np.ndarray] | None = None

    def resume(self) -> None:
        """Learn from the ledger which tick was decided last, and start the intake one look-back before it."""
        self.last_tick = self.rooms.ledger.last_tick(self.scope) or 0
        self.rooms.clock.advance(self.last_tick)
        look_back = self.rooms.store.settings.look_back + self.rebuild_ticks
        self.rooms.intake.start(look_back * self.step_ms, self.last_tick or None)

    def turn(self, timeout_s: float) -> int:
        """One poll and every tick it completed. Returns the number of samples taken in.

        Raises Transient when the broker or the store is down: what was closed stays pending and is tried again first.
        """
        self._settle()
        samples = self.rooms.intake.poll(timeout_s)  # 1. Kafka bytes -> samples
        self.rooms.store.append(samples)  # 2. samples -> windows
        for tick in self.rooms.store.due(self.rooms.intake.progress()):
            closed = self._close(tick)
            if closed is not None:
                self._pending.append(closed)
                self._settle()
        self.rooms.intake.commit()  # offsets move last
        return len(samples)

    def _close(self, tick: int) -> Closed | None:
        rooms = self.rooms
        first_undecided = max(self.last_tick + self.step_ms, self.not_before)
        if tick < first_undecided - self.rebuild_ticks * self.step_ms:
            rooms.store.skip(tick)
            return None
        windows = rooms.store.close(tick)
        forecasts = rooms.predictor.forecast(windows)  # 3. windows -> forecasts
        anomalies = rooms.detection.detect(windows, self._previous)  # 4. ... -> anomalies -> incidents
        incidents = rooms.group(anomalies, tick)
        self._previous = forecasts
        return Closed(tick, windows, forecasts, anomalies, incidents)

    def _settle(self) -> None:
        """Decide and act on closed ticks, oldest first; one that fails stays first in line."""
        while self._pending:
            closed = self._pending[0]
            turned = self._conclude(closed)
            self._pending.popleft()
            for listener in self.listeners:
                listener(turned)

    def _conclude(self, closed: Closed) -> Turned:
        rooms, tick = self.rooms, closed.tick
        rooms.clock.advance(tick)
        if tick < max(self.last_tick, self.not_before):
            return Turned(closed, rebuilt=True)
        situation = self._situation(closed)
        recorded = rooms.ledger.plans(tick, self.scope) if tick == self.last_tick else None
        if recorded is None:
            plans = rooms.decide(situation)  # 5. forecasts + incidents + fleet -> plans
            rooms.ledger.record(tick, self.scope, plans)
            self.last_tick = tick
        else:
            plans = recorded
        outcomes = tuple(o for plan in plans for o in rooms.execute(plan, situation))  # 6. plans -> outcomes; 7. ledger
        return Turned(closed, situation, plans, outcomes, rebuilt=recorded is not None)

    def _situation(self, closed: Closed) -> Situation:
        """What a decision needs of this tick: the demand and veto series, their recent slots and the fleet."""
        rows = self._decision_rows(closed.windows.keys)
        w, f = closed.windows, closed.forecasts
        keys = tuple(w.keys[i] for i in rows)
        windows = Windows(
            keys,
            w.end,
            w.step_ms,
            w.values[rows, -DECISION_COLUMNS:],
            w.mask[rows, -DECISION_COLUMNS:],
            w.late[rows],
            w.suspect[rows],
        )
        forecasts = replace(f, keys=keys, values=f.values[rows], fallback=f.fallback[rows])
        fleet = self.rooms.ledger.snapshot(closed.tick, self._observe(keys))
        serving = f"{self.fingerprint}/{f.model}"
        fleet = replace(fleet, started_at=self.rooms.ledger.effective_since(self.scope, serving, closed.tick))
        return Situation(closed.tick, windows, forecasts, closed.incidents, fleet)

    def _decision_rows(self, keys: tuple[SeriesKey, ...]) -> np.ndarray:
        if self._rows is None or self._rows[0] is not keys:
            wanted = {d.key for load in self.rooms.inventory.workloads.values() for d in load.demands}
            wanted |= {key for load in self.rooms.inventory.workloads.values() for key, _ in load.vetoes}
            self._rows = keys, np.array([i for i, key in enumerate(keys) if key in wanted], np.intp)
        return self._rows[1]

    def _observe(self, keys: Sequence[SeriesKey]) -> dict[str, Observed]:
        """State of every pool whose workload this worker sees. What cannot be observed is left out: guards refuse it."""
        observed: dict[str, Observed] = {}
        seen = {key.workload for key in keys}
        for pool in self.rooms.inventory.pools.values():
            if pool.workload in seen:
                try:
                    observed[pool.name] = self.rooms.clouds[pool.adapter].observe(pool)
                except (CloudUnavailable, NotFound):
                    continue
        return observed
