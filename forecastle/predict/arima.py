"""Seasonal ARIMA as one Kalman filter over all series at once, without statsmodels.

Each row has coefficients of its own, fitted in the workshop. The covariances of the states depend on the gaps alone, and are no
longer computed once they have settled. Harvey's form of the states as in Durbin and Koopman, "Time Series Analysis by State
Space Methods" (2012), 3.4; the first measurement of a random walk is taken for its level, which is their exact diffuse start.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from forecastle.types import Floats, Ints, Mask

MOST_LAGS = 64
LEAST_SHARE = 1e-8
"""Smallest share of the variance that the newest shock may have: beyond it is a random walk, or what cannot be inverted."""
_SETTLED = 1e-13


class Arima(NamedTuple):
    """One series: y[t] = sum ar[i] y[t-1-i] + e[t] + sum ma[i] e[t-1-i], of its changes where ``difference`` is 1.

    Seasonal factors are multiplied out: a lag of a season is a coefficient among many zeros.
    """

    ar: tuple[float, ...]
    ma: tuple[float, ...]
    difference: int

    def check(self) -> None:
        """Raise ValueError unless it is stationary and invertible, and of a size to be served."""
        if self.difference not in (0, 1) or max(len(self.ar), len(self.ma)) > MOST_LAGS:
            raise ValueError(f"difference must be 0 or 1, with at most {MOST_LAGS} lags")
        if not _within(np.asarray(self.ar, np.float64)):
            raise ValueError("ar is not stationary")
        if not _within(-np.asarray(self.ma, np.float64)):
            raise ValueError("ma is not invertible")


class Arimas(NamedTuple):
    """Of n rows with m states each. The first state is the series, the others Harvey's.

    ``move`` float64[n, m, m] is their transition, ``noise`` the covariance of what a slot adds, in units of the shocks'
    variance, ``prior`` that before the first measurement.
    """

    move: Floats
    noise: Floats
    prior: Floats

    @classmethod
    def of(cls, rows: Sequence[Arima]) -> Arimas:
        """Row by row; each must pass `Arima.check`."""
        lags = max(1, *(max(len(one.ar), len(one.ma) + 1) for one in rows))
        move, shock = np.zeros((len(rows), lags + 1, lags + 1)), np.zeros((len(rows), lags + 1))
        for i, (ar, ma, difference) in enumerate(rows):
            move[i, 1 : len(ar) + 1, 1] = ar
            move[i, 1:-1, 2:] += np.eye(lags - 1)
            move[i, 0] = move[i, 1]
            move[i, 0, 0] = difference
            shock[i, :2], shock[i, 2 : len(ma) + 2] = 1.0, ma
        noise = shock[:, :, None] * shock[:, None]
        prior, power = noise[:, 1:, 1:], move[:, 1:, 1:]
        while np.abs(power).max() > np.finfo(np.float64).tiny:  # the sum of move^k noise move'^k, its terms doubled every time
            prior, power = prior + power @ prior @ power.swapaxes(1, 2), power @ power
        whole = np.pad(prior, ((0, 0), (1, 0), (1, 0)), mode="edge")
        walks = move[:, 0, 0] == 1
        whole[walks, 0], whole[walks, :, 0] = 0.0, 0.0
        whole[walks, 0, 0] = 1.0  # any but 0: all of the first measurement is level
        return cls(move, noise, whole)


class States(NamedTuple):
    """At a origins: ``mean`` float64[n, a, m], NaN before a row's first measurement."""

    mean: Floats

    def take(self, places: Ints) -> States:
        """At the origins ``places`` alone, which may repeat."""
        return States(self.mean[:, places])

    def ahead(self, rules: Arimas, steps: Ints) -> Floats:
        """Forecasts float64[n, a, k] of the ``steps`` [k] after each origin."""
        rows = [rules.move[:, :1]]
        while len(rows) < int(steps.max()):
            rows.append(rows[-1] @ rules.move)
        told: Floats = self.mean @ np.concatenate(rows, axis=1)[:, steps - 1].swapaxes(1, 2)
        return told


def states(values: Floats, known: Mask, rules: Arimas, at: Ints) -> States:
    """The filter over ``values`` [n, t] where ``known``, as it stood after the columns ``at`` (rising) [a].

    A slot without a measurement moves the states on and corrects nothing.
    """
    first = np.where(known.any(axis=1), known.argmax(axis=1), values.shape[1])
    told, place = np.empty((len(at), *rules.prior.shape[:2])), 0
    back, mean, spread = rules.move.swapaxes(1, 2), np.zeros(rules.prior.shape[:2]), np.zeros_like(rules.prior)
    columns, seen = np.ascontiguousarray(np.where(known, values, 0.0).T), np.ascontiguousarray(known.T)
    whole = np.asarray(seen.all(axis=1), np.bool_).tolist()
    begins, settled, gain = set(first.tolist()), False, mean
    for column in range(int(at[-1]) + 1 if len(at) else 0):
        mean = np.matmul(rules.move, mean[:, :, None])[:, :, 0]
        if not (settled and whole[column]):
            before, spread = spread, rules.move @ spread @ back + rules.noise
            if column in begins:
                new = first == column
                mean[new], spread[new] = 0.0, rules.prior[new]
            gain = spread[:, :, 0] / spread[:, :1, 0] * seen[column, :, None]
            spread = spread - gain[:, :, None] * spread[:, :1]
            settled = whole[column] and bool(np.abs(spread - before).max() < _SETTLED)
        mean = mean + gain * (columns[column] - mean[:, 0])[:, None]
        while place < len(at) and at[place] == column:
            told[place] = mean
            place += 1
    return States(np.where((at >= first[:, None])[:, :, None], told.swapaxes(0, 1), np.nan))


def _within(coefficients: Floats) -> bool:
    """Whether y[t] = sum coefficients[i] y[t-1-i] + e[t] is stationary, with room: all partial autocorrelations within (-1, 1).

    By the Levinson recursion backwards. NaN and infinity are outside.
    """
    left, share = coefficients, 1.0
    for k in range(len(coefficients) - 1, -1, -1):
        if not abs(left[k]) < 1 or share * (1 - left[k] ** 2) < LEAST_SHARE:
            return False
        share *= 1 - left[k] ** 2
        left = (left[:k] + left[k] * left[:k][::-1]) / (1 - left[k] ** 2)
    return True
