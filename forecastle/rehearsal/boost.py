"""Boosted trees for any loss of one number per row, in numpy alone: the engine has no other learner than it can carry.

The trees are oblivious (every node of a level asks the same question, as in CatBoost), so a tree is ``depth`` comparisons
and a table: quick to grow from histograms, quicker to evaluate, hard to overfit. A leaf's step is found by a line search on
the loss itself, as it is piecewise linear (Friedman 2001, "Greedy function approximation").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from forecastle.types import Floats, Ints

BINS = 64
"""Cells a feature is cut into, at its quantiles."""
STEPS = np.array([-0.6, -0.3, -0.15, -0.075, -0.03, 0.03, 0.075, 0.15, 0.3, 0.6])
"""Steps a leaf may try, in the unit of the prediction."""

Bins = npt.NDArray[np.uint8]


class Loss(Protocol):
    """A loss over n rows of one prediction each."""

    def value(self, at: Floats) -> Floats:
        """Loss float64[n] at predictions ``at`` float64[n]."""

    def slope(self, at: Floats) -> Floats:
        """Its derivative float64[n]."""

    def part(self, rows: Ints) -> Loss:
        """The loss of some rows."""


@dataclass(frozen=True, slots=True)
class Shape:
    """How the trees grow: number, depth, learning rate, share of features and rows each sees, least rows a leaf trusts."""

    trees: int = 150
    depth: int = 4
    rate: float = 0.15
    features: float = 0.4
    rows: float = 0.5
    least: float = 100.0


@dataclass(frozen=True, slots=True)
class Boost:
    """The sum of M trees of depth D: questions (bin ``feature`` > ``cut``) int64[M, D], answers ``leaf`` float64[M, 2**D]."""

    feature: Ints
    cut: Ints
    leaf: Floats

    def predict(self, cells: Bins) -> Floats:
        """Predictions float64[n] for ``cells`` uint8[F, n] (from `binned`), without a start value."""
        out = np.zeros(cells.shape[1])
        for features, cuts, leaf in zip(self.feature.tolist(), self.cut.tolist(), self.leaf, strict=True):
            out += leaf[_leaf_of(cells, features, cuts)]
        return out


def _leaf_of(cells: Bins, features: list[int], cuts: list[int]) -> Bins:
    where = np.zeros(cells.shape[1], np.uint8)
    for bit, (f, cut) in enumerate(zip(features, cuts, strict=True)):
        where |= (cells[f] > cut).astype(np.uint8) << np.uint8(bit)
    return where


def edges_of(x: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
    """Cell borders of the rows of ``x`` float32[F, n] at their quantiles."""
    return [np.unique(np.quantile(row, np.arange(1, BINS) / BINS).astype(np.float32)) for row in x]


def binned(x: npt.NDArray[np.float32], edges: list[npt.NDArray[np.float32]]) -> Bins:
    """Cell of each value, uint8[F, n]. NaN counts as larger than everything."""
    return np.stack([np.searchsorted(edge, row, side="left").astype(np.uint8) for edge, row in zip(edges, x, strict=True)])


def fit(cells: Bins, loss: Loss, start: Floats, shape: Shape, seed: int = 0) -> Boost:
    """Trees that lower ``loss`` from the predictions ``start`` float64[n] for ``cells`` uint8[F, n]."""
    draw = np.random.default_rng(seed)
    n, m, depth = cells.shape[1], shape.trees, shape.depth
    feature, cut, leaf = np.zeros((m, depth), np.int64), np.zeros((m, depth), np.int64), np.zeros((m, 2**depth))
    at = start.copy()
    few = max(int(shape.features * len(cells)), 1)
    for t in range(m):
        some = np.flatnonzero(draw.random(n) < shape.rows)
        asked = draw.choice(len(cells), few, replace=False)
        slope = loss.slope(at)[some]
        seen = cells[:, some]
        where = np.zeros(len(some), np.int64)
        for d in range(depth):
            feature[t, d], cut[t, d] = _best_question(seen, asked, where, slope, least=shape.least)
            where |= (seen[feature[t, d]] > cut[t, d]).astype(np.int64) << d
        everywhere = _leaf_of(cells, feature[t].tolist(), cut[t].tolist()).astype(np.int64)
        leaf[t] = shape.rate * _steps(loss.part(some), at[some], where, 2**depth, shape.least)
        at += leaf[t][everywhere]
    return Boost(feature, cut, leaf)


def _best_question(seen: Bins, asked: Ints, where: Ints, g: Floats, *, least: float) -> tuple[int, int]:
    """Feature and cut that most reduce the squared slope over all nodes; sides of fewer than ``least`` rows do not count."""
    best, answer = -1.0, (0, BINS)
    nodes = int(where.max(initial=0)) + 1
    base = where * BINS
    for f in asked.tolist():
        cell = base + seen[f]
        total = np.bincount(cell, weights=g, minlength=nodes * BINS).reshape(nodes, BINS).cumsum(axis=1)
        count = np.bincount(cell, minlength=nodes * BINS).reshape(nodes, BINS).cumsum(axis=1)
        right, n_right = total[:, -1:] - total, count[:, -1:] - count
        gain = total**2 / (count + least) + right**2 / (n_right + least)
        gain = np.where((count < least) | (n_right < least), 0.0, gain - total[:, -1:] ** 2 / (count[:, -1:] + least))
        score = np.maximum(gain, 0.0).sum(axis=0)
        at = int(np.argmax(score))
        if score[at] > best:
            best, answer = float(score[at]), (f, at)
    return answer


def _steps(loss: Loss, at: Floats, where: Ints, size: int, least: float) -> Floats:
    """The step of each leaf that lowers its loss most, shrunk in small leaves."""
    here = np.bincount(where, weights=loss.value(at), minlength=size)
    gains = np.stack([np.bincount(where, weights=loss.value(at + step), minlength=size) for step in STEPS])
    best = np.argmin(gains, axis=0)
    count = np.bincount(where, minlength=size)
    better = gains[best, np.arange(size)] < here
    return np.where(better, STEPS[best], 0.0) * count / (count + least)
