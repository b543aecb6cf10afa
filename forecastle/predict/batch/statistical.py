"""Statistical members: exponential smoothing of a series, and of what a daily profile leaves of it.

A file too short or too plain for the network has these; elsewhere they steady the blend. Theta is not among them: on
these spans its straight line adds nothing, and what it is fitted to would let later columns into an earlier origin's rounding.
"""

from __future__ import annotations

import numpy as np

from forecastle.predict.batch.naive import Path
from forecastle.predict.batch.panel import Panel
from forecastle.predict.smoothing import chosen, states
from forecastle.types import Floats, Ints, Mask

_NEWEST = 4000
_JUDGED = 200
_DAYS = (3, 28)
_CELLS = 4_000_000


def members(past: Panel, horizon: int) -> dict[str, Path]:
    """The members fitted to the training span ``past``, for up to ``horizon`` steps."""
    found = {"smoothing": _smoothing(past, np.zeros((len(past.values), 1)), horizon)}
    if past.day > 1 and past.values.shape[1] >= _DAYS[0] * past.day:
        found["smoothing-daily"] = _smoothing(past, profile(past), horizon)
    return found


def profile(past: Panel) -> Floats:
    """What each step of the day adds to its day's mean: float64[n, day], of column c at c % day.

    From the newest 28 days, smoothed over a half hour; 0 where nothing was measured.
    """
    day, width = past.day, past.values.shape[1]
    days = min(_DAYS[1], width // day)
    shape = (len(past.values), days, day)
    newest, known = (part[:, width - days * day :].reshape(shape) for part in (past.values, past.seen))
    level = _mean(newest, known, axis=2)
    cycle = _mean(newest - level[..., None], known, axis=1)
    half = max(1, day // 96)
    around = np.arange(day)[:, None] + np.arange(-half, half + 1)
    return np.roll(cycle[:, around % day].mean(axis=2), (width - days * day) % day, axis=1)


def _smoothing(past: Panel, cycle: Floats, horizon: int) -> Path:
    """Damped exponential smoothing without ``cycle`` [n, k], each series by the parameters that fitted ``past`` best."""
    newest = np.arange(max(0, past.values.shape[1] - _NEWEST), past.values.shape[1])
    judged = np.unique(np.linspace(len(newest) // 4, max(len(newest) - 1 - horizon, 0), _JUDGED).astype(np.int64))
    steps = np.unique(np.geomspace(1, horizon, 5).round().astype(np.int64))
    calm = past.values[:, newest] - cycle[:, newest % cycle.shape[1]]
    rules = chosen(calm, past.seen[:, newest], judged, steps)
    rules = rules._replace(theta=np.zeros(len(calm)))

    def path(panel: Panel, origins: Ints, horizon: int) -> Floats:
        ahead, (at, place) = np.arange(1, horizon + 1), np.unique(origins, return_inverse=True)
        columns = np.arange(int(at[-1]) + 1) % cycle.shape[1]
        out = np.empty((len(panel.values), len(origins), horizon))
        for rows in np.array_split(np.arange(len(out)), -(-out.shape[0] * len(columns) // _CELLS)):
            part, own = rules.take(rows), cycle[rows]
            left = panel.values[rows, : len(columns)] - own[:, columns]
            state = states(left, panel.seen[rows, : len(columns)], part, at).take(place)
            out[rows] = state.ahead(part, ahead) + own[:, (origins[:, None] + ahead) % cycle.shape[1]]
        return out

    return path


def _mean(values: Floats, known: Mask, axis: int) -> Floats:
    """Mean of the ``known``, 0 where none is."""
    return np.asarray(np.where(known, values, 0.0).sum(axis=axis) / np.maximum(known.sum(axis=axis), 1))
