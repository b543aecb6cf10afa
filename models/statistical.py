"""Statistical members fitted in the workshop by statsmodels; what leaves is their parameters, see `forecastle.predict.members`.

Series by series, a second or so each: for the few that matter most. All others share a grid.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from forecastle.predict.arima import Arima
from forecastle.predict.members import SARIMAX, Member
from forecastle.predict.smoothing import chosen
from forecastle.types import Floats, Ints, Mask, SeriesKey

NEWEST = 2000
"""Slots that parameters are fitted to."""
SEASONS = 3
"""Seasons a history must hold before one is taken out of it, and that it is taken out of."""
JUDGED = 200
ORDERS = ((1, 0), (0, 1), (2, 0), (1, 1), (0, 2), (2, 1))
"""Autoregressive and moving-average orders that are tried, each without and with differences."""
SEASONAL = ((1, 0), (1, 1))
"""The same at the lag of a season, tried beside the best of `ORDERS`."""
LONGEST_LAG = 24
"""Slots of a season beyond which it is in the harmonics alone: a state of its length would cost too much."""
HARMONICS = 6
LEAST_KNOWN = 50
STEPS = 50
"""Of the optimizer."""
Orders: TypeAlias = tuple[tuple[int, int, int], tuple[int, int, int, int]]


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


def sarimax(key: SeriesKey, values: Floats, end_slot: int, season: int) -> list[Member]:
    """SARIMAX of ``values`` float64[t], NaN where unknown, on its level and on its changes: up to two members, as in `fit`.

    The season is harmonics of its cycle, as regressors. Orders are those with the least AICc on the newest slots, beside the
    season by least squares; then everything is fitted together by maximum likelihood. Several seconds each.
    """
    season = season if 1 < season <= len(values) // SEASONS else 0
    past = values[-max(NEWEST, 2 * SEASONS * season) :]
    known = np.isfinite(past)
    if known.sum() < LEAST_KNOWN or np.ptp(past[known]) == 0:
        return []
    centre, unit = past[known].mean(), past[known].std()
    scaled = (past - centre) / unit
    inputs = _harmonics(end_slot + np.arange(1 - len(past), 1), season)
    rest = scaled - inputs @ np.linalg.lstsq(inputs[known], scaled[known], rcond=None)[0]
    found = []
    for difference in (0, 1):
        told = inputs[:, difference:]  # a constant has no changes
        result = _maximum(scaled, told, *_orders(rest[-NEWEST:], difference, season if season <= LONGEST_LAG else 0))
        if result is not None:
            ar, ma = -result.polynomial_reduced_ar[1:], result.polynomial_reduced_ma[1:]
            cycle = _harmonics(np.arange(max(season, 1)), season)[:, difference:] @ result.params[: told.shape[1]]
            rule = Arima(tuple(ar.tolist()), tuple(ma.tolist()), difference)
            found.append(Member(key, SARIMAX, rule, tuple((centre + unit * cycle).tolist())))
    return [one for one in found if _serves(one)]


def _harmonics(slots: Ints, season: int) -> Floats:
    """At ``slots`` since the epoch: a constant, and cosine and sine of the first harmonics of ``season`` (0: none)."""
    count = min(HARMONICS, (season - 1) // 2)
    angles = 2 * np.pi * np.arange(1, count + 1) * (slots[:, None] / max(season, 1))
    return np.hstack([np.ones((len(slots), 1)), np.cos(angles), np.sin(angles)])


def _orders(values: Floats, difference: int, season: int) -> Orders:
    """The order and the seasonal order with the least AICc; ``season`` 0 does without the latter."""

    def aicc(orders: Orders) -> float:
        result = _maximum(values, values[:, None][:, :0], *orders)
        return float(result.aicc) if result is not None and np.isfinite(result.aicc) else np.inf

    best = min((((p, difference, q), (0, 0, 0, 0)) for p, q in ORDERS), key=aicc)
    seasonal = [(p, 0, q, season) for p, q in SEASONAL if season]
    return min([best, *((best[0], one) for one in seasonal)], key=aicc) if seasonal else best


def _maximum(values: Floats, inputs: Floats, order: tuple[int, int, int], seasonal: tuple[int, int, int, int]) -> Any:
    """Of statsmodels, by maximum likelihood; None when that fails."""
    import statsmodels.tsa.statespace.sarimax as space  # before the filter, as it sets its own

    told = {"exog": inputs if inputs.shape[1] else None, "concentrate_scale": True, "use_exact_diffuse": True}
    with warnings.catch_warnings(action="ignore"):
        try:
            return space.SARIMAX(values, order=order, seasonal_order=seasonal, **told).fit(disp=False, maxiter=STEPS)
        except (np.linalg.LinAlgError, ValueError):
            return None


def _serves(one: Member) -> bool:
    """Whether a manifest may say it: what lies on the edge of being stationary or invertible is none."""
    try:
        return Member.read(one.told()) == one
    except ValueError:
        return False


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
