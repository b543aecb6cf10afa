"""Scores along one recorded history: fitted on its first rows, then every row judged by what came before it.

For files rather than fleets, so each score may cost more than a tick allows. All are causal to the bit: cutting the
file after a row does not change that row's score. Sums run in order and matrix products over blocks of one fixed shape,
because BLAS rounds differently for another shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from forecastle.types import Floats

BLOCK = 512
"""Rows multiplied at once."""
MEMORY = 2000
"""Most past windows a nearest neighbour is sought among; older history is thinned by powers of two."""
FIT_ROWS = 20_000
"""Most rows a fit looks at: the newest of the training rows."""
_SHAPE, _ORDER = 100, 25
_NEIGHBOUR = 70
_ALERT, _LIVING, _GROWN = 20, 3000.0, 4


def standardized(values: Floats, train: int) -> Floats:
    """``values`` float64[n] by median and deviation of the training rows; gaps repeat the value before them."""
    known = np.isfinite(values)
    source = np.maximum.accumulate(np.where(known, np.arange(len(values)), -1))
    filled = np.where(source >= 0, values[np.maximum(source, 0)], 0.0)
    fitted = filled[max(0, train - FIT_ROWS) : train]
    middle = np.median(fitted)
    return np.asarray((filled - middle) / max(float(fitted.std()), 0.02 * abs(float(middle)), 1e-6), np.float64)


def forward(values: Floats, train: int) -> Floats:
    """``values`` float64[n, c]: gaps repeat the value before them; before the first one, the training rows' median."""
    return np.column_stack([_forward(values[:, c], train) for c in range(values.shape[1])])


def _forward(column: Floats, train: int) -> Floats:
    known = np.isfinite(column)
    if known.all():
        return column
    source = np.maximum.accumulate(np.where(known, np.arange(len(column)), -1))
    usual = float(np.median(column[:train][known[:train]])) if known[:train].any() else 0.0
    return np.where(source >= 0, column[np.maximum(source, 0)], usual)


def shape(y: Floats, train: int) -> Floats:
    """Strange shapes of dozens of rows: distance to the nearest past window, and to the trained ones as a whole."""
    return np.log1p(nearest(y, train)) + np.log1p(far(y, train))


def nearest(y: Floats, train: int) -> Floats:
    """`neighbour` of `_NEIGHBOUR` rows, calibrated."""
    return calibrated(neighbour(y, train, max(4, min(_NEIGHBOUR, train // 7))), train)


def far(y: Floats, train: int) -> Floats:
    """`mahalanobis` of `_SHAPE` rows, calibrated."""
    return calibrated(mahalanobis(y, train, max(4, min(_SHAPE, train // 5))), train)


def brief(y: Floats, train: int) -> Floats:
    """`mahalanobis` of `_ALERT` rows, calibrated: strange shapes of minutes, where a long training knows them all."""
    return calibrated(mahalanobis(y, train, max(3, min(_ALERT, train // 5))), train)


def novelty(y: Floats, train: int) -> Floats:
    """Distance of the last `_ALERT` rows from what is known, as a share of the largest so far and of what is usual.

    What was as bad not long ago is no news. Above 1 the row is worse than anything in living memory. Known are the trained
    rows, and once history has grown `_GROWN` times all rows until then as well: the louder of the two speaks.
    """
    first = _distance(y, train)
    later = first.copy()
    known = _GROWN * train
    while known < len(y):
        later[known:] = _distance(y, known)[known:]
        known *= _GROWN
    return np.maximum(_news(first), _news(later))


def _distance(y: Floats, known: int) -> Floats:
    """Mahalanobis distance from the first ``known`` rows; 1 is what a tenth of the later ones of them exceed."""
    far = np.sqrt(mahalanobis(y, known, max(3, min(_ALERT, known // 5))))
    return np.asarray(far / (np.quantile(far[known // 3 : known], 0.9) + 1e-3))


def _news(far: Floats) -> Floats:
    before = np.concatenate([far[:1], held(far, _LIVING)[:-1]])
    return np.asarray(far / (before + 1.0))


def residual(y: Floats, train: int) -> Floats:
    """Surprising rows: error of an autoregression fitted on the training rows, calibrated."""
    return calibrated(np.abs(autoregression(y, train, max(1, min(_ORDER, train // 10)))), train)


def level(y: Floats, train: int) -> Floats:
    """`subspace` of one column: unusual and not yet usual."""
    return subspace(y[:, None], train)[:, 0]


def autoregression(y: Floats, train: int, order: int) -> Floats:
    """One-step errors float64[n] of a ridge autoregression of ``order`` with an intercept."""
    rows = _windows(y, order + 1)
    fitted = rows[max(order, train - FIT_ROWS) : train]
    past = np.column_stack([fitted[:, :-1], np.ones(len(fitted))])
    weights = np.linalg.solve(past.T @ past + np.eye(order + 1), past.T @ fitted[:, -1])
    predict = np.append(-weights[:-1], 1.0)
    return _by_block(rows, lambda part, _: part @ predict - weights[-1])


def mahalanobis(y: Floats, train: int, size: int) -> Floats:
    """Squared Mahalanobis distance float64[n] of each window of ``size`` rows from the training windows."""
    rows = _windows(y, size)
    fitted = rows[max(size, train - FIT_ROWS) : train]
    mean = fitted.mean(axis=0)
    inverse = np.linalg.inv(np.atleast_2d(np.cov((fitted - mean).T)) + 0.01 * np.eye(size))
    return _by_block(rows, lambda part, _: np.sum((part - mean) @ inverse * (part - mean), axis=1))


def neighbour(y: Floats, train: int, size: int) -> Floats:
    """Distance float64[n] of each window of ``size`` rows to the nearest one that ended before it began."""
    rows = _windows(y, size)
    power = np.cumsum(np.concatenate([np.zeros(size), np.square(y)]))
    square = power[size:] - power[:-size]

    def distance(part: Floats, start: int) -> Floats:
        last = start - size
        if last < size + 5 or start + BLOCK <= train // 3:
            return np.zeros(len(part))
        stride = 1 << max(0, int(np.ceil(np.log2(last / MEMORY))))
        memory = np.arange(size - 1, last, stride)
        own = np.sum(np.square(part), axis=1)
        apart = own[:, None] + square[memory][None, :] - 2 * part @ rows[memory].T
        return np.asarray(np.sqrt(np.maximum(apart.min(axis=1), 0.0)))

    return _by_block(rows, distance)


def subspace(values: Floats, train: int) -> Floats:
    """Many columns: what each adds to the score, float64[n, c].

    A column counts by how far it is from both its training level and its own recent level: what drifted and stayed is
    no news, what returned to where it was trained is none either. Falls below the training level count `_FALL` as much
    as rises: most metrics of a server are loads. Squares, clipped.
    """
    fitted = values[max(0, train - FIT_ROWS) : train]
    mean = fitted.mean(axis=0)
    unit = np.maximum(fitted.std(axis=0), _LEAST_DEVIATION * _unit(fitted))
    recent = np.concatenate([values[:1], smoothed(values, _RECENT)[:-1]])
    apart = np.where(values > mean, values - mean, _FALL * (mean - values))
    apart = np.minimum(apart, np.abs(values - recent)) / unit
    return np.asarray(np.square(np.minimum(apart, _CLIP)))


def residuals(values: Floats, train: int) -> Floats:
    """`residual` of every column, compressed: float64[n, c]."""
    return _each(values, train, residual)


def shapes(values: Floats, train: int) -> Floats:
    """`brief` of every column, compressed: float64[n, c]."""
    return _each(values, train, brief)


def _each(values: Floats, train: int, score: Callable[[Floats, int], Floats]) -> Floats:
    columns = (score(standardized(values[:, c], train), train) for c in range(values.shape[1]))
    return np.log1p(np.column_stack(list(columns)))


def cross(values: Floats, train: int) -> Floats:
    """Each column's part, float64[n, c], in the row's squared Mahalanobis distance from the training rows."""
    rows = np.column_stack([standardized(values[:, c], train) for c in range(values.shape[1])])
    fitted = rows[max(0, train - FIT_ROWS) : train]
    mean = fitted.mean(axis=0)
    inverse = np.linalg.inv(np.atleast_2d(np.cov((fitted - mean).T)) + 0.01 * np.eye(rows.shape[1]))
    padded = np.zeros((-(-len(rows) // BLOCK) * BLOCK, rows.shape[1]))
    padded[: len(rows)] = rows - mean
    parts = [padded[i : i + BLOCK] * (padded[i : i + BLOCK] @ inverse) for i in range(0, len(padded), BLOCK)]
    return np.concatenate(parts)[: len(rows)]


_LEAST_DEVIATION, _RECENT, _CLIP, _FALL = 1e-3, 1500.0, 50.0, 0.2


def _unit(fitted: Floats) -> Floats:
    """What counts as one in each column: its range; where it never moved, its size or the median column's range."""
    reach = np.ptp(fitted, axis=0)
    usual = float(np.median(reach[reach > 0])) if (reach > 0).any() else 1.0
    return np.asarray(np.maximum(reach, usual))


Scorers: TypeAlias = Mapping[str, Callable[[Floats, int], Floats]]
SINGLE: Scorers = {
    "shape": shape,
    "nearest": nearest,
    "far": far,
    "brief": brief,
    "residual": residual,
    "level": level,
}
"""Scorers of one standardized column: (float64[n], training rows) -> float64[n]."""
SEVERAL: Scorers = {
    "subspace": subspace,
    "residuals": residuals,
    "shapes": shapes,
    "cross": cross,
}
"""Scorers of many columns without gaps: (float64[n, c], training rows) -> float64[n, c], whose mean is the score."""


def smoothed(values: Floats, half_life: float) -> Floats:
    """Exponential mean along axis 0, starting at the first row."""
    keep = 0.5 ** (1.0 / half_life)
    begin = keep * values[:1]
    from scipy.signal import lfilter  # a second to import, for batches alone

    return np.asarray(lfilter([1 - keep], [1, -keep], values, axis=0, zi=begin)[0])


def held(score: Floats, half_life: float) -> Floats:
    """The largest score so far, each decaying by half in ``half_life`` rows."""
    decay = np.arange(len(score)) * (np.log(2.0) / half_life)
    return np.asarray(np.exp(np.maximum.accumulate(np.log(np.maximum(score, 1e-12)) + decay) - decay))


def calibrated(score: Floats, train: int) -> Floats:
    """``score`` as a multiple of what 2% of the later training rows exceed."""
    fitted = score[max(train // 3, train - FIT_ROWS) : train]
    return score / (np.quantile(fitted, 0.98) + 1e-6)


def _windows(y: Floats, size: int) -> Floats:
    """The window of ``size`` rows that ends at each row, the first row repeated before it: view [n, size]."""
    return sliding_window_view(np.concatenate([np.full(size - 1, y[0]), y]), size)


def _by_block(rows: Floats, score: Callable[[Floats, int], Floats]) -> Floats:
    out = np.empty(len(rows))
    padded = np.zeros((BLOCK, rows.shape[1]))
    for start in range(0, len(rows), BLOCK):
        part = rows[start : start + BLOCK]
        padded[: len(part)] = part
        out[start : start + BLOCK] = score(padded, start)[: len(part)]
    return out
