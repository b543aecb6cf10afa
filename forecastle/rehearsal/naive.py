"""The forecast everyone can make: what was a day or a week ago comes again.

A forecast that does not beat this one is not worth its machinery. So that the comparison is about the forecast, it stands on
the same reactive floor as ours: the demand that is seen now is always provided for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import maximum_filter1d

from forecastle.rehearsal.simulate import Controller, PoolModel
from forecastle.rehearsal.trace import STEP_S, Demand
from forecastle.types import Floats, Ints

DELAY_STEPS = 1
"""Steps between a demand and the sight of it, as for the HPA."""
_DAY = 86_400 // STEP_S
_SEASONS = (_DAY, 7 * _DAY)


@dataclass(frozen=True, slots=True)
class SeasonalNaive:
    """Provides for ``factor`` times the season's last demand over the coming lead time; the knob is the factor."""

    factors: tuple[float, ...] = (0.6, 0.8, 1.0, 1.2, 1.5, 1.8, 2.2, 2.7, 3.3, 4.0)
    name: str = "seasonal-naive"
    notes: tuple[str, ...] = ()

    @property
    def knobs(self) -> tuple[str, ...]:
        """Factors on the forecast."""
        return tuple(f"{factor:g}" for factor in self.factors)

    def prepare(self, demand: Demand, pool: PoolModel) -> Controller:
        """Choose the season, a day or a week, that erred less in the train part."""
        return NaiveController(demand, pool, np.array(self.factors), season_of(demand))


class NaiveController:
    """``SeasonalNaive`` at work: reads nothing later than one step ago, as the season is far longer than the lead time."""

    def __init__(self, demand: Demand, pool: PoolModel, factors: Floats, season: int) -> None:
        n = pool.lead_steps + 1
        self._ahead = maximum_filter1d(demand.value, n, origin=-(n // 2), mode="nearest")
        self._demand, self._factors, self._season, self._pool = demand, factors, season, pool

    def step(self, i: int, ordered: Ints, ready: Ints) -> Ints:  # noqa: ARG002
        """The season's demand over ``[i, i + lead]``, at least what is seen now."""
        now = self._demand.read(max(i - DELAY_STEPS, 0))
        coming = self._ahead[i - self._season] if i >= self._season else now
        return self._pool.need(np.maximum(self._factors * coming, now))


def season_of(demand: Demand) -> int:
    """Steps of the season, a day or a week, with the smaller absolute error over the train part; a day when it is too short."""
    errors = {}
    for season in _SEASONS:
        if 2 * season > demand.first:
            continue
        both = demand.known[season : demand.first] & demand.known[: demand.first - season]
        change = np.abs(demand.value[season : demand.first] - demand.value[: demand.first - season])
        errors[season] = float(change[both].mean()) if both.any() else np.inf
    return min(errors, key=errors.__getitem__) if errors else _DAY
