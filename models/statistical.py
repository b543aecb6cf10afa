"""Statistical members fitted in the workshop by statsmodels; what leaves is their parameters, see `forecastle.predict.members`.

Series by series, a second or so each: for the few that matter most. All others share a grid.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from forecastle.predict.members import Member
from forecastle.predict.smoothing import chosen
from forecastle.types import Floats, Ints, Mask, SeriesKey

NEWEST = 2000
"""Slots that parameters are fitted to."""
SEASONS = 3
"""Seasons a history must hold before one is taken out of it, and that it is taken out of."""
JUDGED = 200


def fit(key: SeriesKey, values: Floats, end_slot: int, season: int) -> list[Member]:
    """The members of one series ``values`` float64[t] without gaps, whose newest slot since the epoch is ``end_slot``.

    ``season`` in slots; 0 or too short a history does without the seasonal one. None for a series that never changes.
    """
    past = values[-NEWEST:]
    if len(past) < 10 or np.ptp(past) == 0:
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # statsmodels on optimizers that stop early; rolling folds judge what they found
        found = [Member(key, "ets", _damped(past)), Member(key, "theta", _theta(past))]
        if season > 1 and len(values) >= SEASONS * season:
            cycle = _cycle(values, end_slot, season)
            calm = past - cycle[(end_slot + np.arange(1 - len(past), 1)) % season]
            found.append(Member(key, "stl_ets", _damped(calm), tuple(cycle.tolist())))
    return found


def shared(keys: Sequence[SeriesKey], values: Floats, known: Mask, horizon: int) -> list[Member]:
    """For each series of ``values`` float64[n, t], what of `GRID` would have erred least at several steps ahead."""
    length = values.shape[1]
    steps = np.unique(np.geomspace(1, horizon, 5).round().astype(np.int64))
    origins: Ints = np.unique(np.linspace(length // 4, max(length - 1 - horizon, 0), JUDGED).astype(np.int64))
    rules = chosen(values, known, origins, steps)
    rows = zip(keys, *(part.tolist() for part in rules), strict=True)
    return [Member(key, "theta" if theta else "ets", (alpha, beta, phi)) for key, alpha, beta, phi, theta in rows]


def _damped(values: Floats) -> tuple[float, float, float]:
    """Additive errors, damped additive trend; by maximum likelihood, the states beginning as they do in serving."""
    from statsmodels.tsa.exponential_smoothing.ets import ETSModel

    known = {"initialization_method": "known", "initial_level": values[0], "initial_trend": 0.0}
    model = ETSModel(values, trend="add", damped_trend=True, **known)
    told = dict(zip(model.param_names, model.fit(disp=False).params.tolist(), strict=True))
    alpha = float(np.clip(told["smoothing_level"], 1e-4, 1.0))
    return alpha, float(np.clip(told["smoothing_trend"], 0.0, alpha)), float(np.clip(told["damping_trend"], 1e-4, 1.0))


def _theta(values: Floats) -> tuple[float, float, float]:
    from statsmodels.tsa.forecasting.theta import ThetaModel

    alpha = float(ThetaModel(values, deseasonalize=False).fit().params["alpha"])
    return float(np.clip(alpha, 1e-4, 1.0)), 0.0, 1.0


def _cycle(values: Floats, end_slot: int, season: int) -> Floats:
    """What STL says the newest season added, by slot since the epoch modulo ``season``."""
    from statsmodels.tsa.seasonal import STL

    newest = np.asarray(STL(values[-2 * SEASONS * season :], period=season).fit().seasonal)[-season:]
    cycle = np.empty(season)
    cycle[(end_slot + np.arange(1 - season, 1)) % season] = newest
    return cycle
