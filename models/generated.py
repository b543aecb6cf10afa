"""Series like those of a fleet, made from a seed: what a forecaster is pretrained on before any fleet has a history.

Each kind is one function ``(rng, count, grid) -> float64[count, width]`` of `KINDS`; `series` mixes them. Only numpy's
generator is drawn from, so equal seeds give equal series. docs/reference/generated-series.md lists the kinds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from forecastle.errors import ConfigError
from forecastle.types import Floats, Floats32

_DAY, _WEEK_BEGINS = 1440, 3
_ROWS = 64
_HARMONICS = 6


@dataclass(frozen=True, slots=True)
class Grid:
    """``width`` slots of ``step_ms``, the last ending at ``end_minute`` since the epoch; ``season``: slots of the main cycle.

    ``season`` 0 stands for a day.
    """

    width: int
    step_ms: int = 60_000
    season: int = 0
    end_minute: int = 28_401_120

    def __post_init__(self) -> None:
        """Raise ConfigError for a grid without room for anything to happen."""
        if self.width < 16:
            raise ConfigError(f"generated series of {self.width} slots show nothing; make them at least 16 slots long")

    @property
    def cycle(self) -> int:
        """Slots of the main cycle, at least 4."""
        return max(self.season or 86_400_000 // self.step_ms, 4)

    def minutes(self) -> Floats:
        """Minute since the epoch at which each slot ends [width]."""
        return self.end_minute - np.arange(self.width - 1, -1, -1) * self.step_ms / 60_000


Kind: TypeAlias = Callable[[np.random.Generator, int, Grid], Floats]


def cycles(rng: np.random.Generator, count: int, grid: Grid) -> Floats:
    """A periodic shape around 1 of up to six harmonics of the main cycle, lower on Saturdays and Sundays; positive.

    Phases and the time zone of the weekend are those of each row.
    """
    turn = 2 * np.pi * np.arange(grid.width) / grid.cycle
    order = np.arange(1, _HARMONICS + 1)
    size = rng.standard_normal((count, _HARMONICS)) / order**1.3 * (order <= rng.integers(1, _HARMONICS + 1, (count, 1)))
    phase = rng.uniform(0, 2 * np.pi, (count, _HARMONICS))
    shape = np.zeros((count, grid.width))
    for k in range(_HARMONICS):
        shape += size[:, k, None] * np.cos(order[k] * turn + phase[:, k, None])
    zone = rng.integers(-12, 13, (count, 1)) * 60
    weekend = ((grid.minutes() + zone) // _DAY + _WEEK_BEGINS) % 7 >= 5
    return np.exp(0.5 * shape) * (1 - rng.uniform(0, 0.6, (count, 1)) * weekend)


def trends(rng: np.random.Generator, count: int, grid: Grid) -> Floats:
    """Straight lines with a few bends, about one in two cycles, scaled to a range of 1."""
    bends = (rng.random((count, grid.width)) < 0.5 / grid.cycle) * rng.standard_normal((count, grid.width))
    bends[:, 0] = rng.standard_normal(count)
    line = np.cumsum(np.cumsum(bends, axis=1), axis=1)
    spread: Floats = line / np.maximum(np.ptp(line, axis=1, keepdims=True), 1e-12)
    return spread


def level_shifts(rng: np.random.Generator, count: int, grid: Grid) -> Floats:
    """Constant between jumps of a normal size, about one jump in a cycle and at least one."""
    jumps = rng.random((count, grid.width)) < 1 / grid.cycle
    jumps[np.arange(count), rng.integers(1, grid.width, count)] = True
    return np.cumsum(jumps * rng.standard_normal((count, grid.width)), axis=1)


def flash_crowds(rng: np.random.Generator, count: int, grid: Grid) -> Floats:
    """0, and crowds that come within a few slots and leave exponentially: about one in a cycle, heights exponential."""
    crowds = rng.random((count, grid.width)) < 1 / grid.cycle
    crowds[np.arange(count), rng.integers(0, grid.width // 2, count)] = True
    rise = rng.integers(1, max(grid.cycle // 100, 2) + 1, (count, 1)).astype(np.float64)
    fall = np.exp(rng.uniform(np.log(2), np.log(max(grid.cycle / 12, 4)), (count, 1)))
    return _filtered(crowds * (0.5 + rng.exponential(1.5, crowds.shape)), surge(rise, fall, grid.width))


def surge(rise: Floats, fall: Floats, width: int) -> Floats:
    """One crowd of height 1: up in ``rise`` slots, then down with time constant ``fall`` in slots ([n, 1] each): [n, width]."""
    at = np.arange(width)
    shape: Floats = np.where(at < rise, (at + 1) / (rise + 1), np.exp(-(at - rise) / fall))
    return shape


def batch_jobs(rng: np.random.Generator, count: int, grid: Grid) -> Floats:
    """1 while a job runs and 0 otherwise: every cycle, quarter or 24th of it, for 2 to 30 % of that time."""
    period = np.maximum(grid.cycle // rng.choice([1, 4, 24], (count, 1)), 4)
    length = np.maximum(period * rng.uniform(0.02, 0.3, (count, 1)), 1).astype(np.int64)
    begin = (rng.random((count, 1)) * period).astype(np.int64)
    running: Floats = ((np.arange(grid.width) - begin) % period < length).astype(np.float64)
    return running


def counters(rng: np.random.Generator, count: int, grid: Grid) -> Floats:
    """Running totals of counts that follow `cycles`: never falling but to 0, when a process starts again."""
    rate = 10 ** rng.uniform(-0.5, 3, (count, 1)) * cycles(rng, count, grid)
    total = np.cumsum(rng.poisson(rate), axis=1).astype(np.float64)
    restarts = rng.random(total.shape) < rng.choice([0.0, 0.2, 1.0], (count, 1)) / grid.cycle
    since: Floats = total - np.maximum.accumulate(np.where(restarts, total, 0.0), axis=1)
    return since


def zero_inflated(rng: np.random.Generator, count: int, grid: Grid) -> Floats:
    """Mostly 0: a lognormal amount in up to 2 to 40 % of the slots, more often where `cycles` are high; half whole numbers."""
    busy = cycles(rng, count, grid)
    chance = rng.uniform(0.02, 0.4, (count, 1)) * busy / busy.max(axis=1, keepdims=True)
    amount = rng.lognormal(1.0, rng.uniform(0.2, 1.0, (count, 1)), busy.shape)
    whole = rng.random((count, 1)) < 0.5
    there: Floats = (rng.random(busy.shape) < chance) * np.where(whole, np.ceil(amount), amount)
    return there


def gaussian_processes(rng: np.random.Generator, count: int, grid: Grid) -> Floats:
    """Draws of variance 1 from Gaussian processes whose kernel is a random mix of a rough, a smooth and a recurring one.

    Correlation lengths are log-uniform from 2 slots to the main cycle; the recurring kernel repeats the cycle while it fades.
    """
    lag, cycle = np.arange(grid.width + 1.0), float(grid.cycle)
    lengths = np.exp(rng.uniform(np.log(2), np.log(cycle), (2, count, 1)))
    share = rng.dirichlet([0.7, 0.7, 0.7], count)[:, :, None]
    kernel = share[:, 0] * exponential(lag, lengths[0]) + share[:, 1] * squared_exponential(lag, lengths[1])
    fading = squared_exponential(lag, cycle * rng.uniform(2, 8, (count, 1)))
    return gaussian(rng, kernel + share[:, 2] * fading * recurring(lag, cycle, rng.uniform(0.5, 2, (count, 1))))


def exponential(lag: Floats, length: Floats) -> Floats:
    """Correlation exp(-lag / length): rough, as of the AR(1) process with that memory."""
    return np.asarray(np.exp(-lag / length))


def squared_exponential(lag: Floats, length: Floats | float) -> Floats:
    """Correlation exp(-(lag / length)^2 / 2): smooth."""
    return np.asarray(np.exp(-0.5 * (lag / length) ** 2))


def recurring(lag: Floats, period: float, width: Floats) -> Floats:
    """Correlation exp(-2 sin^2(pi lag / period) / width^2): the same again every ``period`` slots."""
    return np.asarray(np.exp(-2 * (np.sin(np.pi * lag / period) / width) ** 2))


def gaussian(rng: np.random.Generator, kernel: Floats) -> Floats:
    """One draw for each row of ``kernel`` [n, width + 1], the covariance at lag 0 to width: float64[n, width].

    By circulant embedding, in O(width log width). Exact where the embedding is a covariance too; negative eigenvalues, which
    correlation beyond half of the width may cause, count as 0.
    """
    ring = np.concatenate([kernel, kernel[:, -2:0:-1]], axis=1)
    power = np.maximum(np.fft.rfft(ring).real, 0.0)
    white = np.fft.rfft(rng.standard_normal(ring.shape))
    return np.fft.irfft(np.sqrt(power) * white, ring.shape[1])[:, : kernel.shape[1] - 1]


SHAPES: dict[str, tuple[Kind, float]] = {
    "cycles": (cycles, 0.7),
    "trends": (trends, 0.3),
    "level_shifts": (level_shifts, 0.3),
    "flash_crowds": (flash_crowds, 0.25),
    "batch_jobs": (batch_jobs, 0.2),
    "gaussian_processes": (gaussian_processes, 0.5),
}
"""Kinds that are added up, each with the chance that it takes part in a series."""
ALONE: dict[str, tuple[Kind, float]] = {"counters": (counters, 0.05), "zero_inflated": (zero_inflated, 0.1)}
"""Kinds that are a series by themselves, each with its share of all series."""
KINDS: dict[str, Kind] = {name: kind for name, (kind, _) in (SHAPES | ALONE).items()}


def series(rng: np.random.Generator, count: int, grid: Grid) -> Floats32:
    """``count`` series float32[count, width], never negative: sums of `SHAPES` with noise, and kinds that stand `ALONE`."""
    parts = [_mixed(rng, min(_ROWS, count - done), grid) for done in range(0, count, _ROWS)]
    return np.concatenate(parts) if parts else np.zeros((0, grid.width), np.float32)


def _mixed(rng: np.random.Generator, count: int, grid: Grid) -> Floats32:
    values = _counted(rng, _positive(rng, _shape(rng, count, grid)) * _noise(rng, count, grid))
    which = rng.random(count)
    for kind, share in ALONE.values():
        rows = np.flatnonzero((which >= 0) & (which < share))
        values[rows] = kind(rng, len(rows), grid)
        which -= share
    return values.astype(np.float32)


def _shape(rng: np.random.Generator, count: int, grid: Grid) -> Floats:
    """Sums of those of `SHAPES` that take part, each with a standard deviation of 0.1 to 1; without any, 0."""
    shape = np.zeros((count, grid.width))
    for kind, chance in SHAPES.values():
        rows = np.flatnonzero(rng.random(count) < chance)
        part = kind(rng, len(rows), grid)
        size = rng.uniform(0.1, 1.0, (len(rows), 1)) / np.maximum(part.std(axis=1, keepdims=True), 1e-9)
        shape[rows] += size * (part - part.mean(axis=1, keepdims=True))
    return shape


def _positive(rng: np.random.Generator, shape: Floats) -> Floats:
    """Half of the rows as exponentials, the others above their lowest value and an idle load."""
    above = shape - shape.min(axis=1, keepdims=True) + rng.choice([0.05, 0.5, 2.0], (len(shape), 1))
    return np.where(rng.random((len(shape), 1)) < 0.5, np.exp(np.minimum(shape, 8.0)), above)


def _noise(rng: np.random.Generator, count: int, grid: Grid) -> Floats:
    """Factors around 1 whose logarithms are an AR(1) process with a memory of none to ten slots."""
    memory = rng.choice([0.05, 2.0, 10.0], (count, 1))
    size = rng.choice([0.01, 0.05, 0.15, 0.3], (count, 1))
    return np.exp(size * gaussian(rng, exponential(np.arange(grid.width + 1.0), memory)))


def _counted(rng: np.random.Generator, values: Floats) -> Floats:
    """Two of five rows as Poisson counts with means of 1 to 1000."""
    rows = np.flatnonzero(rng.random(len(values)) < 0.4)
    mean = np.maximum(values[rows].mean(axis=1, keepdims=True), 1e-9)
    values[rows] = rng.poisson(np.minimum(values[rows] / mean * 10 ** rng.uniform(0, 3, (len(rows), 1)), 1e9))
    return values


def _filtered(impulses: Floats, response: Floats) -> Floats:
    """Each row of ``impulses`` convolved with its ``response`` [n, width], causally."""
    size, width = 2 * impulses.shape[1], impulses.shape[1]
    told = np.fft.irfft(np.fft.rfft(impulses, size) * np.fft.rfft(response, size), size)[:, :width]
    return np.maximum(told, 0.0)
