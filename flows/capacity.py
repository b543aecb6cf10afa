"""What would each of two forecasters have us order? A model may be better by its errors and still double a bill.

Replicas are counted as sizing does for a demand with a fixed capacity: the quantile that prices imply, at the end of the lead
time, over what a replica carries. Guards, placement and learned capacities come after that and are the same for both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from forecastle.settings import DemandSettings, Settings, WorkloadSettings
from forecastle.types import Floats, Floats32, SeriesKey

Recommended: TypeAlias = Mapping[str, float]
UNPRICED = 0.95
"""Quantile of a workload whose pools tell no price of their own."""


def recommended(
    settings: Settings, keys: Sequence[SeriesKey], forecasts: Floats32, levels: Sequence[float]
) -> dict[str, float]:
    """Workload -> mean replicas over the origins of ``forecasts`` float32[o, n, h, q], for workloads with a demand there."""
    where = {key: row for row, key in enumerate(keys)}
    found: dict[str, float] = {}
    for load in settings.fleet.workloads:
        level = int(np.argmin(np.abs(np.asarray(levels) - _quantile(load))))
        step = min(max(round(load.lead_time_s / settings.window.step_s), 1), forecasts.shape[2])
        needs = [
            _replicas(forecasts[:, where[key], :step, level], demand.per_replica * load.target_utilization)
            for demand in load.demands
            if (key := _key(load, demand)) in where
        ]
        if needs:
            found[load.name] = float(np.clip(np.max(needs, axis=0), load.min, load.max).mean())
    return found


def capacity_reasons(before: Recommended, after: Recommended, limit: float) -> tuple[str, ...]:
    """A reason for each workload whose recommendation moves by more than ``limit``, as a share of what it was."""
    reasons = []
    for name, was in before.items():
        now = after.get(name, was)
        moved = abs(now - was) / max(was, 1.0)
        if not moved <= limit:
            word = "more" if now > was else "fewer"
            reasons.append(
                f"{name} would be recommended {now:.1f} replicas instead of {was:.1f}, {moved:.0%} {word}; at most {limit:.0%}"
            )
    return tuple(reasons)


def _quantile(load: WorkloadSettings) -> float:
    """The newsvendor's, at the lowest price that the settings themselves tell; prices of books are not asked."""
    told = [pool.unit_price for pool in load.pools if pool.unit_price is not None]
    return max(0.0, 1.0 - min(told) / load.unmet_price) if told else UNPRICED


def _key(load: WorkloadSettings, demand: DemandSettings) -> SeriesKey:
    return SeriesKey(load.name, demand.metric, tuple(sorted(demand.labels.items())))


def _replicas(demand: npt.NDArray[np.float32], capacity: float) -> Floats:
    """The largest need within the lead time at each origin."""
    return np.asarray(np.ceil(np.maximum(demand.max(axis=1), 0.0).astype(np.float64) / capacity * (1 - 1e-6)))
