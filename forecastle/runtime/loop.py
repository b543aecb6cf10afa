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

from forecastle.decide.failover import settled
from forecastle.errors import CloudUnavailable, NotFound
from forecastle.ports import Cloud, Detector, Forecaster, Intake, Ledger
from forecastle.runtime.clocks import EventClock, WallClock
from forecastle.runtime.readiness import newly_ready
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
    """The furnished house: what `wiring.furnish` builds and the loop calls in order.

    ``hear`` tells what others say is wrong at a tick; the same tick hears the same again after a restart.
    """

    intake: Intake
    store: WindowStore
    predictor: Forecaster
    detection: Detector
    group: Callable[[Sequence[Anomaly], int, Windows], tuple[Incident, ...]]
    decide: Callable[[Situation], tuple[Plan, ...]]
    execute: Callable[[Plan, Situation], tuple[Outcome, ...]]
    ledger: Ledger
    clouds: Mapping[str, Cloud]
    clock: WallClock | EventClock
    inventory: Inventory
    recover: Callable[[], tuple[Outcome, ...]] = tuple
    hear: Callable[[int], tuple[Anomaly, ...]] = lambda _tick: ()


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


@dataclass(frozen=True, slots=True)
class Decided:
    """A tick's plans and what they were made from; kept while recording or executing them has to be tried again."""

    situation: Situation
    plans: tuple[Plan, ...]
    rebuilt: bool


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
    _decided: Decided | None = None
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
        seen = {key.workload for key in windows.keys}
        told = (anomaly for anomaly in rooms.hear(tick) if anomaly.key.workload in seen)
        incidents = rooms.group((*anomalies, *told), tick, windows)
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
        decided = self._decide(closed)
        situation, plans = decided.situation, decided.plans
        outcomes = tuple(o for plan in plans for o in rooms.execute(plan, situation))  # 6. plans -> outcomes; 7. ledger
        if situation.fleet.in_flight:
            outcomes += rooms.recover()
        return Turned(closed, situation, plans, outcomes, rebuilt=decided.rebuilt)

    def _decide(self, closed: Closed) -> Decided:
        """The tick's plans, durable: those recorded before a restart, else new ones."""
        ledger, tick = self.rooms.ledger, closed.tick
        again = self._decided is not None and self._decided.situation.tick == tick
        if self._decided is None or not again:
            situation = self._situation(closed)
            recorded = ledger.plans(tick, self.scope) if tick == self.last_tick else None
            plans = self.rooms.decide(situation) if recorded is None else recorded  # 5. forecasts + incidents + fleet -> plans
            self._decided = Decided(situation, plans, rebuilt=recorded is not None)
        if tick != self.last_tick:
            if not again or ledger.plans(tick, self.scope) is None:  # a failed commit may have been one
                ledger.record(tick, self.scope, self._decided.plans)
            self.last_tick = tick
        return self._decided

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
        readied = newly_ready(fleet, closed.tick)
        if readied:
            self.rooms.ledger.note_ready(readied)
            fleet = replace(fleet, readied=fleet.readied + readied)
        serving = f"{self.fingerprint}/{f.model}"
        fleet = replace(fleet, started_at=self.rooms.ledger.effective_since(self.scope, serving, closed.tick))
        situation = Situation(closed.tick, windows, forecasts, closed.incidents, fleet)
        if given_back := settled(situation, self.rooms.inventory):
            self.rooms.ledger.note_given_back(given_back)
        return situation

    def _decision_rows(self, keys: tuple[SeriesKey, ...]) -> np.ndarray:
        if self._rows is None or self._rows[0] is not keys:
            wanted = {key for load in self.rooms.inventory.workloads.values() for key in load.series}
            self._rows = keys, np.array([i for i, key in enumerate(keys) if key in wanted], np.intp)
        return self._rows[1]

    def _observe(self, keys: Sequence[SeriesKey]) -> dict[str, Observed]:
        """State of every pool whose workload this worker sees. What cannot be observed is left out: guards refuse it.

        A traffic weight that the adapter may not change, as at a site whose agent is not allowed to, is none.
        """
        observed: dict[str, Observed] = {}
        seen = {key.workload for key in keys}
        for pool in self.rooms.inventory.pools.values():
            if pool.workload in seen:
                cloud = self.rooms.clouds[pool.adapter]
                try:
                    found = cloud.observe(pool)
                except (CloudUnavailable, NotFound):
                    continue
                usable = found.traffic is None or found.traffic.kind in cloud.capabilities
                observed[pool.name] = found if usable else replace(found, traffic=None)
        return observed
