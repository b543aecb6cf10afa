"""The closed loop: one policy, all its knob values at once, against one demand.

Semantics, the same for everyone:

* a step is 15 s; at each step the policy says how many replicas it wants, then the step is served and billed;
* a replica ordered at t serves from t + lead time on; a removed one stops at once, and those that are still starting are
  removed first (as a ReplicaSet does), so what is ready is the least that was ordered over the last lead time;
* every ordered replica is paid, starting or ready; unmet demand is ``max(0, demand - ready * capacity)``;
* the loop begins with the replicas that the demand of the first lead time needs, ready: nobody could have ordered them.

The knob values of one policy run side by side as the columns of one array: the loop over time is Python's, the work in
it numpy's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np

from forecastle.rehearsal.trace import STEP_S, Demand
from forecastle.types import Floats, Ints, Mask


@dataclass(frozen=True, slots=True)
class PoolModel:
    """What is scaled: demand one ready replica carries, start-up lag in seconds, money per replica-hour, limits."""

    capacity: float
    lead_time_s: float
    price: float = 1.0
    min: int = 1
    max: int = 100_000

    @property
    def lead_steps(self) -> int:
        """Steps from an order to the first step it serves."""
        return math.ceil(self.lead_time_s / STEP_S - 1e-9)

    def need(self, demand: Floats) -> Ints:
        """Least replicas that carry ``demand``, within the pool's limits."""
        return np.clip(np.ceil(demand / self.capacity - 1e-9), self.min, self.max).astype(np.int64)


class Controller(Protocol):
    """A policy at work on one demand. Called once a step, in order."""

    def step(self, i: int, ordered: Ints, ready: Ints) -> Ints:
        """Replicas wanted at step ``i`` int64[K]; ``ordered`` and ``ready`` int64[K] are those before it.

        May read the demand's steps before ``i`` through its own metric delay, nothing later (`oracle` and `static-peak` do).
        """


@runtime_checkable
class Remarking(Protocol):
    """A controller that has something to say about the run when it is over."""

    @property
    def remarks(self) -> tuple[str, ...]:
        """In words."""


class Policy(Protocol):
    """A way to scale with one aggressiveness knob of K values."""

    @property
    def name(self) -> str:
        """As ``--policies`` takes it."""

    @property
    def knobs(self) -> tuple[str, ...]:
        """What each column is set to."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person who reads the result must know."""

    def prepare(self, demand: Demand, pool: PoolModel) -> Controller:
        """Learn from the steps before ``demand.first`` and stand ready for them."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """What happened from ``demand.first`` on: ``desired`` (ordered) and ``ready`` int64[T, K], one column a knob value.

    ``offered`` float64[T, K] is the demand with what came back of it, None when nothing does.
    """

    policy: str
    knobs: tuple[str, ...]
    at: Ints
    demand: Floats
    known: Mask
    desired: Ints
    ready: Ints
    pool: PoolModel
    notes: tuple[str, ...] = ()
    offered: Floats | None = None

    @property
    def unmet(self) -> Floats:
        """Demand that nobody served, float64[T, K], in the demand's unit; 0 where the demand is unknown."""
        demand = self.demand[:, None] if self.offered is None else self.offered
        short = demand - self.ready * self.pool.capacity
        return np.where(self.known[:, None], np.maximum(short, 0.0), 0.0)

    @property
    def cost(self) -> Floats:
        """Money of each step, float64[T, K]; 0 where the demand is unknown."""
        return np.where(self.known[:, None], self.desired * (self.pool.price * STEP_S / 3600.0), 0.0)

    @property
    def unmet_share(self) -> Floats:
        """Unmet demand over all demand, float64[K]; what comes back counts each time."""
        demand = self.demand[:, None] if self.offered is None else self.offered
        return np.asarray(self.unmet.sum(axis=0) / np.maximum(demand[self.known].sum(axis=0), 1e-12))

    @property
    def total_cost(self) -> Floats:
        """Money of the whole span, float64[K]."""
        return np.asarray(self.cost.sum(axis=0))


@dataclass(frozen=True, slots=True)
class Retries:
    """What was left unmet comes back: ``factor`` times its mean over the last ``spread`` steps, on top of a step's own demand.

    No more than ``cap`` times that demand: clients give up, and their number is finite.
    """

    factor: float = 1.0
    cap: float = 2.0
    spread: int = 4

    def returning(self, unmet: Floats, fresh: float) -> Floats:
        """Demand float64[K] that comes back on top of ``fresh``, after ``unmet`` float64[n, K] of the last steps."""
        if not len(unmet):
            return np.zeros(unmet.shape[1])
        return np.asarray(np.minimum(self.factor * unmet.sum(axis=0) / self.spread, self.cap * fresh))


@dataclass(frozen=True, slots=True)
class Trouble:
    """What goes wrong in the world, each bool[T] over the demand's steps.

    ``blind``: no policy sees the metric, but the demand is there. ``stuck``: nothing that is starting becomes ready.
    ``lost``: half of what is ready serves nothing. With ``retries`` what is left unmet comes back, at any step.
    """

    blind: Mask
    stuck: Mask
    lost: Mask
    retries: Retries | None = None

    @property
    def struck(self) -> Mask:
        """Steps in which the world is in trouble."""
        return self.blind | self.stuck | self.lost

    @classmethod
    def none(cls, steps: int) -> Trouble:
        """A quiet world."""
        quiet = np.zeros(steps, bool)
        return cls(quiet, quiet, quiet)

    def shown(self, demand: Demand) -> Demand:
        """What a policy sees of ``demand``."""
        if not self.blind.any():
            return demand
        last = np.maximum.accumulate(np.where(self.blind, 0, np.arange(len(demand))))
        return replace(demand, value=demand.value[last], known=demand.known & ~self.blind)


def at_start(demand: Floats, pool: PoolModel) -> int:
    """Replicas that are ready when the loop begins with ``demand`` float64[T]."""
    return int(pool.need(demand[: pool.lead_steps + 1]).max())


def _serving(started: Ints, before: Ints, trouble: Trouble, i: int) -> Ints:
    """Replicas that serve at step ``i``, of those whose lead time is over and those that served the step before."""
    able = np.minimum(started, before) if trouble.stuck[i] else started
    return able // 2 if trouble.lost[i] else able


def simulate(policy: Policy, demand: Demand, pool: PoolModel, trouble: Trouble | None = None) -> Timeline:
    """Play ``policy`` over the demand from ``demand.first`` on."""
    trouble = trouble or Trouble.none(len(demand))
    first, n, k = demand.first, pool.lead_steps + 1, len(policy.knobs)
    shown, echo = trouble.shown(demand), None
    if trouble.retries is not None:
        echo = _Echo.of(trouble.retries, demand, pool, k)
        shown = replace(shown, offered=echo.offered)
    controller = policy.prepare(shown, pool)
    ordered = np.full(k, at_start(demand.value[first:], pool))
    ring = np.tile(ordered, (n, 1))
    ready = ordered
    desired = np.empty((len(demand) - first, k), np.int64)
    served = np.empty_like(desired)
    for i in range(first, len(demand)):
        slot = i % n
        ring[slot] = ordered
        seen = _serving(ring.min(axis=0), ready, trouble, i)
        ordered = np.minimum(np.maximum(controller.step(i, ordered, seen), pool.min), pool.max)
        ring[slot] = ordered
        started = ring.min(axis=0)
        desired[i - first] = ordered
        served[i - first] = _serving(started, ready, trouble, i)
        ready = np.minimum(started, ready) if trouble.stuck[i] else started
        if echo is not None:
            echo.sound(i, served[i - first])
    span = slice(first, None)
    return Timeline(
        policy.name,
        policy.knobs,
        demand.at[span],
        demand.value[span],
        demand.known[span],
        desired,
        served,
        pool,
        (*policy.notes, *(controller.remarks if isinstance(controller, Remarking) else ())),
        None if echo is None else echo.offered[span],
    )


@dataclass(frozen=True, slots=True)
class _Echo:
    """The demand that comes back: ``offered`` float64[T, K] becomes true step by step, ``unmet`` follows it."""

    retries: Retries
    demand: Demand
    capacity: float
    offered: Floats
    unmet: Floats

    @classmethod
    def of(cls, retries: Retries, demand: Demand, pool: PoolModel, columns: int) -> _Echo:
        offered = np.tile(demand.value[:, None], (1, columns))
        return cls(retries, demand, pool.capacity, offered, np.zeros_like(offered))

    def sound(self, i: int, served: Ints) -> None:
        """Step ``i`` was served by ``served`` int64[K] replicas."""
        fresh = float(self.demand.value[i])
        since = max(i - self.retries.spread, 0)
        self.offered[i] = fresh + self.retries.returning(self.unmet[since:i], fresh)
        if self.demand.known[i]:
            self.unmet[i] = np.maximum(self.offered[i] - served * self.capacity, 0.0)
