"""A quantile network in plain numpy: small enough to train on the file at hand, and the wheel needs no torch for it.

A straight path beside two hidden layers learns the linear part at once. The loss is the pinball loss itself, in the
units in which forecasts are judged. Weights are averaged along the way, so that the last steps' noise cancels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from forecastle.predict.batch.lags import KNOTS
from forecastle.predict.batch.panel import QUANTILES
from forecastle.types import Floats32, Ints

_LEVELS = np.asarray(QUANTILES, np.float32)
_ADAM = (0.9, 0.99, 1e-8)
_DECAY = 0.01


@dataclass(slots=True)
class Net:
    """Weights of ``inputs -> hidden -> hidden -> knots x 9`` with a straight path; ``mean``, ``deviation`` of inputs."""

    mean: Floats32
    deviation: Floats32
    weights: list[Floats32]
    average: list[Floats32]
    moments: list[tuple[Floats32, Floats32]]
    steps: int = 0

    @classmethod
    def new(cls, example: Floats32, hidden: int, embeddings: int, seed: int) -> Net:
        """Random weights for inputs like ``example`` float32[b, f]; ``embeddings`` series get 8 learned numbers each."""
        rng = np.random.default_rng(seed)
        mean = example.mean(axis=0)
        deviation = example.std(axis=0) + 1e-3
        wide, out = example.shape[1] + 8, KNOTS * len(QUANTILES)

        def normal(rows: int, columns: int, gain: float) -> Floats32:
            return np.asarray(gain * rng.standard_normal((rows, columns)) / np.sqrt(rows), np.float32)

        offset = np.repeat(np.linspace(-1, 1, len(QUANTILES), dtype=np.float32), KNOTS)
        weights = [
            normal(wide, hidden, 1.4),
            np.zeros(hidden, np.float32),
            normal(hidden, hidden, 1.4),
            np.zeros(hidden, np.float32),
            normal(hidden, out, 0.3),
            normal(wide, out, 0.02),
            0.5 * offset,
            np.zeros((embeddings + 1, 8), np.float32),
        ]
        return cls._of(mean, deviation, weights)

    def save(self, path: Path) -> None:
        """Write the averaged weights, halved in precision, without what was learned of single series."""
        weights: dict[str, Any] = {f"w{k}": weight.astype(np.float16) for k, weight in enumerate(self.average[:-1])}
        np.savez_compressed(path, mean=self.mean, deviation=self.deviation, **weights)

    @classmethod
    def load(cls, path: Path, embeddings: int) -> Net:
        """The network saved at ``path``, for a file of ``embeddings`` series."""
        with np.load(path, allow_pickle=False) as stored:
            weights = [stored[f"w{k}"].astype(np.float32) for k in range(7)]
            mean, deviation = stored["mean"], stored["deviation"]
        return cls._of(mean, deviation, [*weights, np.zeros((embeddings + 1, 8), np.float32)])

    @classmethod
    def _of(cls, mean: Floats32, deviation: Floats32, weights: list[Floats32]) -> Net:
        moments = [(np.zeros_like(weight), np.zeros_like(weight)) for weight in weights]
        return cls(mean, deviation, weights, [weight.copy() for weight in weights], moments)

    def predict(self, x: Floats32, who: Ints, between: Floats32) -> Floats32:
        """Quantiles float32[b, h, 9], in window units around the newest value, for inputs [b, f] of series ``who``.

        ``between`` float32[knots, h] interpolates the steps from the knots.
        """
        steps = _forward(self.average, self._ready(x), who)[-1].reshape(-1, KNOTS) @ between
        return np.sort(steps.reshape(len(x), len(QUANTILES), -1).transpose(0, 2, 1), axis=2)

    def learn(self, x: Floats32, who: Ints, target: Floats32, weight: Floats32, *, between: Floats32, rate: float) -> float:
        """One Adam step on ``target`` [b, h] (NaN: unknown) with loss weights [b]; the loss before it."""
        layers = _forward(self.weights, self._ready(x), who)
        steps = (layers[-1].reshape(-1, KNOTS) @ between).reshape(len(x), len(QUANTILES), -1)
        error = np.nan_to_num(target[:, None, :] - steps, nan=0.0)
        slope = (np.where(error > 0, _LEVELS[:, None], _LEVELS[:, None] - 1) * (error != 0)) * weight[:, None, None]
        loss = float((error * slope).mean())
        delta = (slope.reshape(-1, target.shape[1]) @ between.T).reshape(len(x), -1)
        delta *= np.float32(-1 / (len(x) * target.shape[1]))
        self._adam(_backward(self.weights, layers, who, delta), rate)
        return loss

    def _ready(self, x: Floats32) -> Floats32:
        return np.asarray(np.clip((x - self.mean) / self.deviation, -6, 6), np.float32)

    def _adam(self, gradients: list[Floats32], rate: float) -> None:
        one, two, tiny = _ADAM
        self.steps += 1
        keep = min(0.998, (1 + self.steps) / (10 + self.steps))
        correct = rate * np.sqrt(1 - two**self.steps) / (1 - one**self.steps)
        for k, gradient in enumerate(gradients):
            first, second = self.moments[k]
            first += np.float32(1 - one) * (gradient - first)
            second += np.float32(1 - two) * (gradient * gradient - second)
            self.weights[k] -= np.float32(correct) * first / (np.sqrt(second) + np.float32(tiny))
            self.weights[k] *= np.float32(1 - rate * _DECAY) if gradient.ndim == 2 else np.float32(1)
            self.average[k] += np.float32(1 - keep) * (self.weights[k] - self.average[k])


def _forward(weights: list[Floats32], x: Floats32, who: Ints) -> list[Floats32]:
    one, bias, two, bias2, out, straight, offset, embedding = weights
    inner = np.concatenate([x, embedding[who]], axis=1)
    first = np.maximum(inner @ one + bias, 0)
    second = np.maximum(first @ two + bias2, 0)
    return [inner, first, second, second @ out + inner @ straight + offset]


def _backward(weights: list[Floats32], layers: list[Floats32], who: Ints, delta: Floats32) -> list[Floats32]:
    inner, first, second, _ = layers
    one, _, two, _, out, straight, _, embedding = weights
    back = (delta @ out.T) * (second > 0)
    back1 = (back @ two.T) * (first > 0)
    reach = (back1 @ one.T)[:, -8:] + delta @ straight[-8:].T
    table = np.zeros_like(embedding)
    np.add.at(table, who, reach)
    table[-1] = 0
    return [
        inner.T @ back1,
        back1.sum(axis=0),
        first.T @ back,
        back.sum(axis=0),
        second.T @ delta,
        inner.T @ delta,
        delta.sum(axis=0),
        table,
    ]
