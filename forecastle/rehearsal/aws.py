"""AWS EC2 Auto Scaling: target tracking, and predictive scaling above it.

Target tracking watches one-minute points of the demand per instance in service. Its high alarm needs 3 of them in a row above
the target, its low alarm 15 in a row below ``k`` times the target; k is not documented (0.9 and 0.7 have been seen).
Predictive scaling forecasts hourly load from up to 14 days of history, refreshes every 6 hours, applies a forecast 5
minutes before its hour and never scales in; the group takes the larger of the two. AWS's model is not published: the
stand-in here is the mean of the same hour of the last days and of the same hour of the week.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forecastle.rehearsal.simulate import Controller, PoolModel
from forecastle.rehearsal.trace import STEP_S, Demand
from forecastle.types import Floats, Ints

POINT_STEPS = 60 // STEP_S
HIGH_POINTS, LOW_POINTS = 3, 15
COOLDOWN_STEPS = WARM_UP_STEPS = 300 // STEP_S
BUFFER_STEPS = 300 // STEP_S
TARGETS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_HOUR_STEPS = 3600 // STEP_S
_REFRESH_HOURS, _LEAST_HOURS, _HISTORY_HOURS = 6, 24, 14 * 24


@dataclass(frozen=True, slots=True)
class TargetTracking:
    """Target tracking on requests per instance. The knob is the target as a share of an instance's capacity."""

    targets: tuple[float, ...] = TARGETS
    low: float = 0.9
    name: str = "target-tracking"
    notes: tuple[str, ...] = ()

    @property
    def knobs(self) -> tuple[str, ...]:
        """The targets."""
        return tuple(f"{target:g}" for target in self.targets)

    def prepare(self, demand: Demand, pool: PoolModel) -> Controller:
        """Nothing to learn."""
        return Alarms(demand, pool, np.array(self.targets) * pool.capacity, self.low)


class Alarms:
    """Target tracking at work: ``targets`` float64[K] in demand per instance."""

    def __init__(self, demand: Demand, pool: PoolModel, targets: Floats, low: float) -> None:
        self._demand, self._pool, self._targets, self._low = demand, pool, targets, low
        k = len(targets)
        self._high_count, self._low_count = np.zeros(k, np.int64), np.zeros(k, np.int64)
        self._out_at, self._in_at = np.full(k, -(10**9)), np.full(k, -(10**9))
        self._per_instance = np.zeros((POINT_STEPS, k))
        self._load = 0.0

    def step(self, i: int, ordered: Ints, ready: Ints) -> Ints:
        """Nothing between two points; at a point the alarms, which see the minute that has just ended."""
        seen = max(i - 1, 0)
        self._per_instance[seen % POINT_STEPS] = self._demand.read(seen) / np.maximum(ready, 1)
        if i % POINT_STEPS:
            return ordered
        span = slice(max(i - POINT_STEPS, 0), i)
        if not self._demand.known[span].all():
            self._low_count[:] = 0
            return ordered
        return self._point(i, ordered, ready, self._per_instance.mean(axis=0))

    def _point(self, i: int, ordered: Ints, ready: Ints, metric: Floats) -> Ints:
        """One minute's point: ``metric`` float64[K] is the demand per instance in service."""
        self._high_count = np.where(metric > self._targets, self._high_count + 1, 0)
        self._low_count = np.where(metric < self._low * self._targets, self._low_count + 1, 0)
        # instances that warm up count as there, so that one breach does not order twice
        wanted = np.ceil(ready * metric / self._targets - 1e-9).astype(np.int64)
        out = (self._high_count >= HIGH_POINTS) & (wanted > ordered)
        running = (ordered > ready) | (i - self._out_at < WARM_UP_STEPS)
        calm = (i - self._in_at >= COOLDOWN_STEPS) & ~running
        less = (self._low_count >= LOW_POINTS) & calm & (wanted < ordered)
        self._out_at = np.where(out, i, self._out_at)
        self._in_at = np.where(less, i, self._in_at)
        return np.where(out | less, np.maximum(wanted, self._pool.min), ordered)


@dataclass(frozen=True, slots=True)
class AwsPredictive:
    """Predictive scaling with target tracking below it, at the same target. The knob is the target."""

    targets: tuple[float, ...] = TARGETS
    low: float = 0.9
    name: str = "aws-predictive"
    notes: tuple[str, ...] = ("AWS's forecast is not published: the same hours of the last days and weeks stand in for it.",)

    @property
    def knobs(self) -> tuple[str, ...]:
        """The targets."""
        return TargetTracking(self.targets).knobs

    def prepare(self, demand: Demand, pool: PoolModel) -> Controller:
        """Cut the history into hours; the forecasts are made as time goes on."""
        return Predictive(demand, pool, np.array(self.targets) * pool.capacity, self.low)


class Predictive:
    """The larger of target tracking and the hourly forecast, which never scales in by itself."""

    def __init__(self, demand: Demand, pool: PoolModel, targets: Floats, low: float) -> None:
        self._alarms = Alarms(demand, pool, targets, low)
        self._targets, self._pool = targets, pool
        self._offset = int(demand.at[0] // 1000 // STEP_S) % _HOUR_STEPS
        self._hours = _hourly(demand, self._offset)
        self._forecast: dict[int, float] = {}
        self._refreshed = -(10**9)

    def step(self, i: int, ordered: Ints, ready: Ints) -> Ints:
        """The forecast of the hour that the clock shows in 5 minutes is the least capacity."""
        now = (i + self._offset) // _HOUR_STEPS
        if now - self._refreshed >= _REFRESH_HOURS:
            self._refreshed = now
            self._forecast = hourly_forecast(self._hours[:now], 48)
        dynamic = self._alarms.step(i, ordered, ready)
        coming = self._forecast.get((i + self._offset + BUFFER_STEPS) // _HOUR_STEPS)
        held = self._forecast.get(now)
        planned = [value for value in (coming, held) if value is not None]
        if not planned:
            return dynamic
        floor = np.ceil(max(planned) / self._targets - 1e-9).astype(np.int64)
        return np.maximum(dynamic, np.minimum(floor, self._pool.max))


def _hourly(demand: Demand, offset: int) -> Floats:
    """Mean demand of each clock hour, NaN where nothing is known; hour 0 is the one of the first step."""
    hour = (np.arange(len(demand)) + offset) // _HOUR_STEPS
    total = np.bincount(hour, weights=np.where(demand.known, demand.value, 0.0))
    count = np.bincount(hour, weights=demand.known)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def hourly_forecast(past: Floats, ahead: int) -> dict[int, float]:
    """Load of the ``ahead`` hours after ``past`` float64[n], by index; empty with less than 24 hours known."""
    n = len(past)
    recent = np.concatenate([np.full(max(_HISTORY_HOURS - n, 0), np.nan), past[-_HISTORY_HOURS:]])
    if np.isfinite(recent).sum() < _LEAST_HOURS:
        return {}
    out = {}
    for k in range(ahead):
        daily = [recent[k % 24 - 24 * d] for d in range(1, 4)] if k % 24 else [recent[-24 * d] for d in range(1, 4)]
        weekly = [recent[k - 168 * w] for w in (1, 2)]
        means = [np.nanmean(part) for part in (daily, weekly) if np.isfinite(part).any()]
        if means:
            out[n + k] = float(np.mean(means))
    return out
