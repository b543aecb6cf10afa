"""What a policy may know at a step, as numbers relative to the present level: only what was seen before it.

Every feature is a logarithm of a ratio (or a share of a season), so one model serves night and peak. A row belongs to the
decision at step i and reads demand up to step ``i - DELAY_STEPS`` only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import maximum_filter1d, minimum_filter1d

from forecastle.rehearsal.trace import STEP_S, Demand
from forecastle.types import Floats, Floats32

DELAY_STEPS = 1
"""Steps between a demand and the sight of it, the same as for the HPA."""
_MINUTE = 60 // STEP_S
_DAY = 86_400 // STEP_S
LEVEL_STEPS = 3 * _MINUTE
"""Steps whose mean is the present level."""
_LAGS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 36, 60)
_MEANS = (2, 5, 15, 30, 60, 120, 240)
_PEAKS = (5, 15, 30, 60, 180)
_SPREADS = (5, 15, 60)
_SEASON_DAYS = (1, 7)


@dataclass(frozen=True, slots=True)
class Rows:
    """Features float32[F, T] of every step, the log ``level`` float64[T] they are relative to, and the log ``season``.

    Both are of the demand plus ``tiny``, which keeps the logarithm of nothing finite. The season is the mean of this hour over
    the last days.
    """

    x: Floats32
    level: Floats
    season: Floats
    tiny: float


def rows_of(demand: Demand, lead_steps: int) -> Rows:
    """The rows of all steps of ``demand`` for replicas that need ``lead_steps`` to start."""
    tiny = max(1e-3 * float(np.quantile(demand.value[: demand.first], 0.99)), 1e-9)
    value = demand.value + tiny
    seen = np.concatenate([np.full(DELAY_STEPS, value[0]), value[:-DELAY_STEPS]])
    log = np.log(seen)
    level = _mean(seen, LEVEL_STEPS)
    base = np.log(level)
    columns = [log - base, base - np.log(_mean(seen, 10))]
    columns += [shifted(log, lag) - log for lag in _LAGS]
    columns += [np.log(_mean(seen, m * _MINUTE)) - base for m in _MEANS]
    columns += [np.log(peak(seen, m * _MINUTE)) - base for m in _PEAKS]
    columns += [np.log(_trough(seen, m * _MINUTE)) - base for m in (5, 30)]
    moves = np.abs(log - shifted(log, _MINUTE))
    columns += [np.sqrt(_mean(moves**2, m * _MINUTE)) for m in _SPREADS]
    columns += [peak(moves, 30 * _MINUTE), base]
    seasons = _seasons(seen, base, lead_steps)
    columns += [*seasons, *_calendar(demand)]
    return Rows(np.stack([c.astype(np.float32) for c in columns]), base, base + seasons[-1], tiny)


def shifted(x: Floats, steps: int) -> Floats:
    """``x`` that many steps ago; before the beginning, the first value."""
    return np.concatenate([np.full(min(steps, len(x)), x[0]), x[: max(len(x) - steps, 0)]])


def _mean(x: Floats, n: int) -> Floats:
    """Mean of the last ``n`` values, of as many as there are at the beginning."""
    total = np.concatenate([[0.0], np.cumsum(x)])
    upto = np.arange(1, len(x) + 1)
    since = np.maximum(upto - n, 0)
    return np.asarray(np.maximum((total[upto] - total[since]) / (upto - since), 1e-12))


def peak(x: Floats, n: int) -> Floats:
    """The largest of the last ``n`` values of ``x`` float64[T], float64[T]."""
    return np.asarray(maximum_filter1d(x, n, origin=(n - 1) // 2, mode="nearest"))


def _trough(x: Floats, n: int) -> Floats:
    return np.asarray(minimum_filter1d(x, n, origin=(n - 1) // 2, mode="nearest"))


def _seasons(seen: Floats, base: Floats, lead: int) -> list[Floats]:
    """How the level and what followed it looked one day and one week ago, and what this hour held over the last days."""
    out: list[Floats] = []
    smooth = np.log(_mean(seen, 5 * _MINUTE))
    highest = np.log(peak(seen, lead + 10 * _MINUTE))
    for days in _SEASON_DAYS:
        back = days * _DAY
        then = shifted(smooth, back)
        out.append(then - base)
        out += [shifted(smooth, back - lead - m * _MINUTE) - then for m in (0, 5, 20, 60)]
        out.append(shifted(highest, back - lead - 10 * _MINUTE) - base)
    for m in (5, 20):
        ahead = lead + m * _MINUTE
        out.append(np.mean([shifted(smooth, d * _DAY - ahead) - shifted(smooth, d * _DAY) for d in range(1, 8)], axis=0))
    hour, hour_peak = _mean(seen, 60 * _MINUTE), peak(seen, 60 * _MINUTE)
    ahead = lead + 40 * _MINUTE
    hours = np.stack([shifted(hour, d * _DAY - ahead) for d in range(1, 8)])
    peaks = np.log(np.stack([shifted(hour_peak, d * _DAY - ahead) for d in range(1, 8)]))
    out += [np.log(hours[:3].mean(axis=0)) - base, np.log(hours.max(axis=0)) - base]
    out += [peaks.mean(axis=0) - base, peaks.max(axis=0) - base]
    out.append(np.log(hours.mean(axis=0)) - base)
    return out


def _calendar(demand: Demand) -> list[Floats]:
    seconds = demand.at / 1000.0
    day = seconds / 86_400.0
    points = max(demand.point_s, STEP_S)
    return [
        np.asarray(day % 1.0),
        np.asarray(np.floor(day + 3) % 7),
        np.asarray(seconds % 3600),
        np.asarray((demand.at - demand.at[0]) / 1000.0 % points),
    ]
