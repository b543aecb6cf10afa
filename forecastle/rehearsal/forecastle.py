"""Our own policy in the closed loop: learned thresholds, the reactive floor beneath them, and a watch on both.

The forecast may be wrong in any way: constant, ten times too large, not a number. A wrong forecast may cost money, never
service. What lies beyond what a history can tell is `insurance`'s. Where the forecast is not a number, where it stands still
though the demand moves, and for an hour after more was left unserved than its own risk allows, the reactive rule decides as
well (what the HPA asks for at a target of 0.65, held for 5 minutes) and the larger wins. While the metric is missing nothing
is removed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from forecastle.rehearsal.features import LEVEL_STEPS, peak, rows_of
from forecastle.rehearsal.hpa import DELAY_STEPS, RateHpa, Stabilizer
from forecastle.rehearsal.insurance import CUTS, FLOORS, HOLDS, MARGINS, MULTIPLES, PRICES, Beside, Floor, Hold, Insurance
from forecastle.rehearsal.learned import Lesson, Taught, learn
from forecastle.rehearsal.measures import undominated
from forecastle.rehearsal.simulate import PoolModel, Timeline, simulate
from forecastle.rehearsal.trace import STEP_S, Demand
from forecastle.rehearsal.worth import Thresholds
from forecastle.types import Floats, Ints, Mask

REACTIVE_TARGET = 0.65
REACTIVE_WINDOW_S = 300
_MEMORY = 1.0 / 40.0
"""Weight of a step in the running shortfall: ten minutes."""
_HOLD_STEPS = 240
_LEAST_STEPS = 86_400 // STEP_S
"""A train part that is shorter says nothing about the knob values."""
_BLOCK = 1024
"""Steps whose columns are made at once."""
_STILL_STEPS = 20
"""A forecast that is the same to the last digit for so long, while the demand moved, does not look at it any more."""


@dataclass(frozen=True, slots=True)
class Forecastle:
    """Learned thresholds. The knob is the price of unmet demand in prices of capacity, then the `insurance`.

    ``taught`` is what was learned before and ``planned`` its thresholds on this very demand, when they are at hand.
    ``distort`` changes the thresholds before they are used: the fault rehearsals' way to make the forecast wrong. ``kept`` are
    the knob values that are played, all of them when it is empty; ``ranked`` those of them that were worth their cost on the
    train part, the cheapest first.
    """

    prices: tuple[float, ...] = PRICES
    margins: tuple[float, ...] = MARGINS
    multiples: tuple[float, ...] = MULTIPLES
    cuts: tuple[float, ...] = CUTS
    floors: tuple[Floor, ...] = FLOORS
    holds: tuple[Hold, ...] = HOLDS
    lesson: Lesson = field(default_factory=Lesson)
    taught: Taught | None = None
    planned: Thresholds | None = None
    distort: Callable[[Floats], Floats] | None = None
    kept: tuple[str, ...] = ()
    ranked: tuple[str, ...] = ()
    name: str = "forecastle"
    notes: tuple[str, ...] = (
        "Thresholds learned from this history by the rehearsal itself.",
        "What the worker's planner orders is played by the policy planner, and under your settings by --config and --against.",
    )

    @property
    def knobs(self) -> tuple[str, ...]:
        """In the order of `Insurance.of`."""
        return self.insurance.knobs

    @property
    def insurance(self) -> Insurance:
        """What each knob value is made of."""
        every = Insurance.of(self.prices, self.margins, self.multiples, self.cuts, self.floors, holds=self.holds)
        return every.only(self.kept) if self.kept else every

    def learn(self, demand: Demand, pool: PoolModel) -> Taught:
        """What the train part teaches."""
        return learn(demand, rows_of(demand, pool.lead_steps), pool, np.array(self.prices), self.lesson)

    def prepare(self, demand: Demand, pool: PoolModel) -> Watched:
        """Learn from the train part, unless that was done before."""
        plan = self.planned or self.plan(demand, pool)
        if self.distort is not None:
            plan = Thresholds(self.distort(plan.up), self.distort(plan.keep))
        return Watched(demand, pool, plan, self.insurance)

    def plan(self, demand: Demand, pool: PoolModel) -> Thresholds:
        """Thresholds in demand, float64[T, P], a column a price, before anything distorts them."""
        rows = rows_of(demand, pool.lead_steps)
        found = (self.taught or self.learn(demand, pool)).thresholds(rows)
        return Thresholds(np.exp(found.up) - rows.tiny, np.exp(found.keep) - rows.tiny)


def learned(policy: Forecastle, demand: Demand, pool: PoolModel) -> Forecastle:
    """The policy with what the train part teaches and its plan for this demand, for several runs over it.

    Of its knob values those stay that are worth their cost on the last third of the train part.
    """
    taught = replace(policy, taught=policy.learn(demand, pool))
    return chosen(replace(taught, planned=taught.plan(demand, pool)), demand, pool)


def chosen(policy: Forecastle, demand: Demand, pool: PoolModel) -> Forecastle:
    """``policy``, which is ``planned``, with the knob values that nothing cheaper is as good as on the end of the train part.

    Those that are for what a history cannot show stay in any case.
    """
    end = demand.first
    if policy.planned is None or end < _LEAST_STEPS:
        return policy
    train = Demand(demand.at[:end], demand.value[:end], demand.known[:end], 2 * end // 3, demand.point_s)
    planned = Thresholds(policy.planned.up[:end], policy.planned.keep[:end])
    line = simulate(replace(policy, planned=planned, kept=()), train, pool)
    keep = replace(policy, kept=()).insurance.fixed
    rest = np.flatnonzero(~keep)
    keep[rest[undominated(line.unmet_share[rest], line.total_cost[rest])]] = True
    kept = tuple(knob for knob, stays in zip(line.knobs, keep.tolist(), strict=True) if stays)
    return replace(policy, kept=kept, ranked=_ranked(line, keep))


def _ranked(line: Timeline, keep: Mask) -> tuple[str, ...]:
    """The knob values to ``keep`` bool[K] that cost more than another only where less was left unmet, the cheapest first.

    Those that left nothing are all in it: how much more each of them serves, ``line`` does not show.
    """
    best, out = np.inf, []
    for k in np.lexsort((line.unmet_share, line.total_cost)).tolist():
        unmet = float(line.unmet_share[k])
        if keep[k] and (unmet < best or unmet == 0.0):
            best = unmet
            out.append(line.knobs[k])
    return tuple(out)


class Watched:
    """The policy at work: ``plan`` in demand, a column a price, and the ``insurance`` that makes the knob values of it.

    ``doubted`` int64[K] counts the steps in which the forecast was not trusted.
    """

    def __init__(self, demand: Demand, pool: PoolModel, plan: Thresholds, insurance: Insurance) -> None:
        k = len(insurance.risk)
        self._demand, self._known, self._pool = demand, demand.known.tolist(), pool
        self._value = demand.value if demand.offered is None else demand.offered
        self._plan, self._insurance, self._allowed = plan, insurance, 0.03 + 0.8 * insurance.risk
        stuck = still(plan.up) & ~still(demand.value[np.maximum(np.arange(len(demand)) - DELAY_STEPS, 0), None])
        usable = np.isfinite(plan.up) & np.isfinite(plan.keep) & ~stuck
        self._usable = usable[:, insurance.left] & usable[:, insurance.right]
        targets = np.full(k, REACTIVE_TARGET * pool.capacity)
        self._reactive = RateHpa(demand, pool, targets, Stabilizer(np.full(k, REACTIVE_WINDOW_S), pool))
        self._beside = Beside(demand, pool, insurance)
        spans, self._span = np.unique(insurance.span_s // STEP_S, return_inverse=True)
        self._spans = spans.tolist()
        if demand.offered is None:
            self._past = np.stack([peak(demand.value, span) for span in self._spans], axis=1)
        self._blocks: dict[int, Floats] = {}
        self._shortfall = np.zeros(k)
        self._until = np.full(k, -1)
        self.doubted = np.zeros(k, np.int64)
        self._played = 0

    def step(self, i: int, ordered: Ints, ready: Ints) -> Ints:
        """Start to ``up``, keep to ``keep``; where the forecast is not trusted, at least the reactive need."""
        self._played += 1
        seen = max(i - DELAY_STEPS, 0)
        usable, lift = self._usable[i], self._lift(seen)
        reactive = self._reactive.step(i, ordered, ready)
        asked = np.where(usable, lift * self._columns_at(i), 0.0)
        up, keep = self._count(np.maximum(asked, self._insurance.multiple * self._peaks(seen)))
        floor = np.maximum(up, self._beside.step(i, ordered, ready))
        wanted: Ints = np.maximum(floor, np.minimum(ordered, keep))
        if not self._known[seen]:
            return np.maximum(wanted, ordered)
        planned = lift * self._columns_at(seen)[1]
        doubted = self._short(i, self._demand.read(seen), ready, planned) | ~usable
        self.doubted += doubted
        return np.where(doubted, np.maximum(wanted, reactive), wanted)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What the run should say about the trust in the forecast."""
        share = self.doubted / max(self._played, 1)
        if not self.doubted.any():
            return ()
        unusable = float((~self._usable[-self._played :]).mean())
        return (
            f"the forecast was not trusted in {100 * share.min():.1f} to {100 * share.max():.1f} % of the steps",
            f"it was unusable in {100 * unusable:.1f} %; in the others it fell short; the reactive rule held the floor",
        )

    def _columns_at(self, i: int) -> Floats:
        """The knob values' thresholds ``up`` and ``keep`` float64[2, K] at step ``i``, made a block of steps at a time."""
        block, row = divmod(i, _BLOCK)
        if block not in self._blocks:
            span = slice(block * _BLOCK, (block + 1) * _BLOCK)
            made = [self._insurance.columns(side[span]) for side in (self._plan.up, self._plan.keep)]
            self._blocks = {k: rows for k, rows in self._blocks.items() if k == block - 1} | {block: np.stack(made, axis=1)}
        return np.asarray(self._blocks[block][row])

    def _peaks(self, seen: int) -> Floats:
        """The largest demand float64[K] of each column's last span."""
        if self._demand.offered is None:
            return np.asarray(self._past[seen, self._span])
        past = [self._value[max(seen + 1 - span, 0) : seen + 1].max(axis=0) for span in self._spans]
        return np.stack(past)[self._span, np.arange(len(self._span))]

    def _count(self, capacity: Floats) -> Ints:
        replicas = np.ceil(capacity / self._pool.capacity - 1e-9)
        return np.minimum(np.maximum(replicas, self._pool.min), self._pool.max).astype(np.int64)

    def _lift(self, seen: int) -> Floats:
        """How far the level float64[K] is above the recorded one, which the plan was made from: thresholds follow the level."""
        if self._demand.offered is None:
            return np.ones(1)
        span = slice(max(seen + 1 - LEVEL_STEPS, 0), seen + 1)
        recorded = max(float(self._demand.value[span].mean()), 1e-12)
        return np.asarray(self._demand.offered[span].mean(axis=0) / recorded)

    def _short(self, i: int, value: Floats, ready: Ints, planned: Floats) -> Mask:
        """Whether, within the last hour, more was unserved, or was not even planned for, than the column's risk allows."""
        there = np.fmin(ready * self._pool.capacity, np.maximum(planned, self._pool.capacity))
        short = np.maximum(value - there, 0.0) / np.maximum(value, self._pool.capacity)
        self._shortfall += _MEMORY * (short - self._shortfall)
        self._until = np.where(self._shortfall > self._allowed, i + _HOLD_STEPS, self._until)
        return i <= self._until


def still(path: Floats) -> Mask:
    """Where ``path`` float64[T, K] has not moved for `_STILL_STEPS` steps, up to and with that step."""
    moved = np.concatenate([np.ones((1, path.shape[1]), bool), np.diff(path, axis=0) != 0])
    last = np.maximum.accumulate(np.where(moved, np.arange(len(path))[:, None], 0), axis=0)
    return np.arange(len(path))[:, None] - last >= _STILL_STEPS
