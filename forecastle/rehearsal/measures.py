"""The figures of a rehearsal: what was left unmet, what it cost, how elastic and how restless it was.

Elasticity is the SPEC Research Group's (Herbst et al., "Ready for rain? A view from SPEC Research on the future of cloud
metrics", 2016): ``theta`` is the mean shortfall or excess relative to the need, ``tau`` the share of time in either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from forecastle.rehearsal.simulate import Timeline
from forecastle.rehearsal.trace import STEP_S
from forecastle.types import Floats

_DAY_STEPS = 86_400 / STEP_S
_LEAST = 1e-7
"""Unmet shares below this are one: a logarithm needs an end."""
COMPARED = 1e-5
"""Least unmet share at which policies are compared: ten seconds' demand in twelve days."""


@dataclass(frozen=True, slots=True)
class Figures:
    """One knob value's outcome. Shares are of 1, ``cost`` is money, the churn is per day."""

    knob: str
    unmet_share: float
    unmet_time_share: float
    cost: float
    theta_u: float
    theta_o: float
    tau_u: float
    tau_o: float
    actions_per_day: float
    starts_per_day: float
    mean_replicas: float
    peak_replicas: int


def figures(timeline: Timeline) -> tuple[Figures, ...]:
    """One `Figures` a knob value, over the steps whose demand is known."""
    known = timeline.known
    need = timeline.pool.need(timeline.demand[known])
    days = max(int(known.sum()) / _DAY_STEPS, 1e-9)
    out = []
    for k, knob in enumerate(timeline.knobs):
        ready, desired = timeline.ready[known, k], timeline.desired[known, k]
        change = np.diff(timeline.desired[:, k])
        out.append(
            Figures(
                knob,
                float(timeline.unmet_share[k]),
                float((timeline.unmet[known, k] > 0).mean()),
                float(timeline.total_cost[k]),
                float((np.maximum(need - ready, 0) / need).mean()),
                float((np.maximum(ready - need, 0) / need).mean()),
                float((ready < need).mean()),
                float((ready > need).mean()),
                float((change != 0).sum() / days),
                float(np.maximum(change, 0).sum() / days),
                float(desired.mean()),
                int(desired.max()),
            )
        )
    return tuple(out)


@dataclass(frozen=True, slots=True)
class Curve:
    """The cheapest cost at each unmet share, ``unmet`` float64[n] ascending and ``cost`` float64[n] falling."""

    unmet: Floats
    cost: Floats

    @classmethod
    def of(cls, unmet: Floats, cost: Floats) -> Curve:
        """The undominated points of a sweep."""
        kept = undominated(unmet, cost)
        return cls(np.maximum(unmet[kept], _LEAST), cost[kept])

    def cost_at(self, unmet: Floats) -> Floats:
        """Cost at ``unmet`` float64[m], linear in its logarithm between points; NaN where the sweep never was that good.

        Beyond the largest unmet share it is the cheapest point's cost: nobody needs to be worse.
        """
        found = np.interp(np.log(np.maximum(unmet, _LEAST)), np.log(self.unmet), self.cost)
        return np.where(np.maximum(unmet, _LEAST) < self.unmet[0] * (1 - 1e-9), np.nan, found)


def undominated(unmet: Floats, cost: Floats) -> list[int]:
    """Indices of the points than which none is as good and as cheap, by their unmet share."""
    kept: list[int] = []
    for i in np.lexsort((cost, unmet)).tolist():
        if not kept or cost[i] < cost[kept[-1]]:
            kept.append(i)
    return kept


def compare(ours: Curve, theirs: Curve, points: int = 60) -> Floats:
    """Our cost over theirs at ``points`` equal levels of unmet demand within their range, float64[points].

    The levels are evenly spaced in the logarithm, from `COMPARED` on. One that we never reached is inf.
    """
    levels = np.geomspace(max(theirs.unmet[0], COMPARED), max(theirs.unmet[-1], COMPARED), points)
    ratio = ours.cost_at(levels) / theirs.cost_at(levels)
    return np.where(np.isnan(ratio), np.inf, ratio)


def some_of(line: Timeline, ranked: Sequence[str], count: int) -> Curve:
    """The curve of ``count`` of the ``ranked`` knob values (of all, when none are), evenly along their order.

    Who has more knob values has the finer steps: two policies compare fairly at an equal number of them.
    """
    knobs = ranked or line.knobs
    at = np.unique(np.linspace(0, len(knobs) - 1, count).round().astype(np.int64))
    k = [line.knobs.index(knobs[i]) for i in at.tolist()]
    return Curve.of(line.unmet_share[k], line.total_cost[k])
