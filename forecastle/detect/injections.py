"""Made-up anomalies in recorded history: what a detector should find where nobody has labelled anything.

Sizes are in units of the series' own reach and noise, from barely visible to gross, so that the ranking of detectors does
not hang on one size. Long ones come and go over some rows, as loads do. The same seed makes the same anomalies.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from forecastle.types import Floats, Mask

_SMALLEST, _LARGEST = 0.3, 3.0
"""Sizes, log-uniform, as multiples of the standard deviation of the rows before the first injection."""
_MOST_ROWS, _TAPER = 120, 0.25
_ALIKE, _JOIN, _STRAY = 0.5, 0.8, 0.1
"""Correlation from which a column is alike; chances that it and any other join an anomaly."""
Change = Callable[[Floats, float, float, np.random.Generator], Floats]


def _spike(rows: Floats, size: float, noise: float, _: np.random.Generator) -> Floats:
    return rows + 2 * size + 4 * noise


def _dip(rows: Floats, size: float, noise: float, _: np.random.Generator) -> Floats:
    return rows - 2 * size - 4 * noise


def _level(rows: Floats, size: float, noise: float, rng: np.random.Generator) -> Floats:
    ends = np.minimum(np.arange(1, len(rows) + 1), np.arange(len(rows), 0, -1))
    sign = 1.0 if rng.random() < 0.5 else -1.0
    return rows + sign * (size + 2 * noise) * np.minimum(1.0, ends / (_TAPER * len(rows)))


def _leak(rows: Floats, size: float, noise: float, _: np.random.Generator) -> Floats:
    return rows + np.linspace(0.0, 1.5 * size + 2 * noise, len(rows))


def _variance(rows: Floats, size: float, noise: float, rng: np.random.Generator) -> Floats:
    return rows + rng.normal(0.0, 0.5 * size + 2 * noise, len(rows))


def _flat(rows: Floats, _size: float, _noise: float, _: np.random.Generator) -> Floats:
    return np.full(len(rows), rows[0])


def _season(rows: Floats, _size: float, _noise: float, _: np.random.Generator) -> Floats:
    """The same values at another pace: what comes at the wrong hour."""
    return np.asarray(rows[(np.arange(len(rows)) * 2) % len(rows)])


KINDS: dict[str, Change] = {
    "spike": _spike,
    "dip": _dip,
    "level": _level,
    "leak": _leak,
    "variance": _variance,
    "flat": _flat,
    "season": _season,
}
_SHORT = {"spike", "dip"}


def inject(values: Floats, first: int, kind: str, count: int, seed: int) -> tuple[Floats, Mask]:
    """``values`` float64[n, c] with ``count`` anomalies of one of `KINDS` after row ``first``, and where: bool[n].

    One in each of ``count`` equal stretches. Of many columns those alike change together. NaN stays NaN. Raises ValueError
    when a stretch has fewer than 12 rows.
    """
    length = (len(values) - first) // count
    if length < 12 or first < 2:
        raise ValueError(
            f"{len(values) - first} rows after row {first} hold {(len(values) - first) // 12} anomalies, not {count}"
        )
    rng, out, label = np.random.default_rng(seed), values.copy(), np.zeros(len(values), bool)
    before = values[:first]
    known = np.where(np.isfinite(before), before, np.nanmean(before) if np.isfinite(before).any() else 0.0)
    reach, noise = known.std(axis=0), np.median(np.abs(np.diff(known, axis=0)), axis=0)
    reach = np.maximum(reach, 0.02 * np.abs(known.mean(axis=0)) + 1e-6)
    alike = np.atleast_2d(_correlations(known))
    for at in range(first, first + count * length, length):
        size = float(np.exp(rng.uniform(np.log(_SMALLEST), np.log(_LARGEST))))
        rows = int(rng.integers(1, 4)) if kind in _SHORT else int(rng.integers(4, min(_MOST_ROWS, length // 2)))
        start = at + int(rng.integers(0, length - rows))
        here = slice(start, start + rows)
        for c, sign in _columns(alike, rng):
            out[here, c] = sign * KINDS[kind](sign * out[here, c], size * reach[c], float(noise[c]), rng)
        label[here] = True
    return out, label


def _correlations(rows: Floats) -> Floats:
    apart = rows - rows.mean(axis=0)
    length = np.sqrt(np.sum(np.square(apart), axis=0))
    return np.asarray(apart.T @ apart / np.maximum(np.outer(length, length), 1e-12))


def _columns(alike: Floats, rng: np.random.Generator) -> list[tuple[int, float]]:
    """(column, direction): one, most of those that move with it or against it, and few of the others."""
    one = int(rng.integers(len(alike)))
    chance = np.where(np.abs(alike[one]) >= _ALIKE, _JOIN, _STRAY)
    also = rng.random(len(alike)) < chance
    also[one] = True
    return [(int(c), 1.0 if alike[one, c] >= 0 else -1.0) for c in np.flatnonzero(also)]
