"""Our own policy in rehearsal: two thresholds per step, learned from the train part for each price of unmet demand.

``up`` says up to which demand replicas are worth starting now, ``keep`` up to which they are worth keeping. Both are quantiles
of what is to come in the newsvendor's sense, over the lead time and the hold that follows, but with the start-up bill and the
chance to change one's mind in the loss (`worth`). They begin as the larger of a multiple of the present level and one of
the season; boosted trees on the features correct them, a few rounds, each under the policy of the round before.
Nothing is learned, and nothing is chosen, on the test span.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forecastle.rehearsal.boost import Bins, Boost, Shape, binned, edges_of, fit
from forecastle.rehearsal.features import Rows
from forecastle.rehearsal.simulate import PoolModel
from forecastle.rehearsal.trace import STEP_S, Demand
from forecastle.rehearsal.worth import Grid, Regret, Terms, Thresholds, advantages
from forecastle.types import Floats, Floats32, Ints

_DAY = 86_400 // STEP_S
_WARM_DAYS = 2
_FEW = 2000
_LEVEL_STEPS = np.linspace(-1.0, 1.6, 27)
_SEASON_STEPS = np.concatenate([[-9.0], np.linspace(-0.8, 1.6, 17)])


@dataclass(frozen=True, slots=True)
class Lesson:
    """How much is learned: ``rows`` decisions at ``draws`` prices each, in as many rounds as there are ``shapes``."""

    rows: int = 45_000
    draws: int = 2
    shapes: tuple[Shape, ...] = (Shape(50, rate=0.2), Shape(50, rate=0.2), Shape(200))
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Rule:
    """One threshold: per price the start ``max(level + near, season + far)``, float64[P] each, and the trees on it."""

    near: Floats
    far: Floats
    trees: Boost

    def apply(self, rows: Rows, cells: Bins, span: slice) -> Floats:
        """Log thresholds float64[n, P] of the steps in ``span``."""
        level, season = rows.level[span], rows.season[span]
        out = np.empty((len(level), len(self.near)))
        seen = np.concatenate([cells[:, span], np.zeros((1, len(level)), np.uint8)])
        for p in range(len(self.near)):
            seen[-1] = p
            out[:, p] = np.maximum(level + self.near[p], season + self.far[p]) + self.trees.predict(seen)
        return out


@dataclass(frozen=True, slots=True)
class Taught:
    """What was learned: the cells of the features and the two rules."""

    edges: list[Floats32]
    up: Rule
    keep: Rule

    def thresholds(self, rows: Rows, upto: int | None = None) -> Thresholds:
        """The policy at the steps of ``rows`` before ``upto``."""
        return self.at(rows, binned(rows.x, self.edges), slice(0, upto))

    def at(self, rows: Rows, cells: Bins, span: slice) -> Thresholds:
        """The same with the cells at hand. A dearer shortage never asks for less; what is worth starting is worth keeping."""
        up = np.maximum.accumulate(self.up.apply(rows, cells, span), axis=1)
        keep = np.maximum.accumulate(self.keep.apply(rows, cells, span), axis=1)
        return Thresholds(up, np.maximum(keep, up))


def learn(demand: Demand, rows: Rows, pool: PoolModel, prices: Floats, lesson: Lesson) -> Taught:
    """What the steps before ``demand.first`` teach, and no other."""
    first = demand.first
    lead = max(pool.lead_steps, 1)
    value = demand.value[:first] + rows.tiny
    terms = Terms(prices, pool.capacity, lead, Grid.of(value, pool.capacity))
    edges = edges_of(rows.x[:, :first:7])
    cells = binned(rows.x[:, :first], edges)
    draw = np.random.default_rng(lesson.seed)
    chosen = _decisions(demand, lesson, lead, draw)
    policy = _first_policy(rows, prices, first)
    taught: Taught | None = None
    for shape in lesson.shapes:
        if taught is not None:
            policy = taught.at(rows, cells, slice(0, first))
        tables = advantages(value, policy, terms, chosen)
        # few decisions are looked at under every price
        draws = lesson.draws if len(chosen) > _FEW else len(prices)
        which = np.repeat(np.arange(len(chosen)), draws)
        price = np.concatenate([draw.permutation(len(prices))[:draws] for _ in range(len(chosen))])
        up, keep = (
            _rule(rows, cells, (chosen[which], price), Regret.of(table[which, price], terms.grid), shape) for table in tables
        )
        taught = Taught(edges, up, keep)
    if taught is None:
        raise ValueError("a lesson needs at least one shape")
    return taught


def _decisions(demand: Demand, lesson: Lesson, lead: int, draw: np.random.Generator) -> Ints:
    """Steps to learn from, ascending: spread over the train part after its first days, before its last unfinished ones."""
    begin = min(_WARM_DAYS * _DAY, demand.first // 4)
    end = max(demand.first - lead - 200, begin + 1)
    every = max((end - begin) // lesson.rows, 1)
    steps = np.arange(begin, end - every + 1, every)
    steps = steps + draw.integers(0, every, len(steps))
    kept = steps[demand.known[steps]]
    return kept if len(kept) else np.array([begin])


def _first_policy(rows: Rows, prices: Floats, first: int) -> Thresholds:
    """Multiples of the level that grow with the price."""
    margin = 0.05 + 0.08 * np.log(prices)
    level = rows.level[:first, None]
    return Thresholds(level + margin, level + 2 * margin)


def _rule(rows: Rows, cells: Bins, where: tuple[Ints, Ints], loss: Regret, shape: Shape) -> Rule:
    """The best start per price by a search over a grid, then the trees."""
    step, price = where
    level, season = rows.level[step], rows.season[step]
    count = int(price.max()) + 1
    near, far = np.zeros(count), np.zeros(count)
    for p in range(count):
        mine = np.flatnonzero(price == p)
        part, least = loss.part(mine), np.inf
        for a in _LEVEL_STEPS.tolist():
            for b in _SEASON_STEPS.tolist():
                total = float(part.value(np.maximum(level[mine] + a, season[mine] + b)).sum())
                if total < least:
                    least, near[p], far[p] = total, a, b
    start = np.maximum(level + near[price], season + far[price])
    seen = np.concatenate([cells[:, step], price[None].astype(np.uint8)])
    return Rule(near, far, fit(seen, loss, start, shape))
