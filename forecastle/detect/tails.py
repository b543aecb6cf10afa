"""Thresholds from a false-alarm budget: how high must a score be to be that rare for this very series?

Peaks over threshold (Siffer et al., "Anomaly detection in streams with extreme value theory", KDD 2017) over the
trailing window: the mean excess over a high quantile says how the tail goes on. The tail index is fixed a little on the
heavy side; two dozen exceedances cannot estimate it. Those of a past incident are clipped: no outage is learned.
"""

from __future__ import annotations

import numpy as np

from forecastle.types import Floats32

SHAPE = 0.15
"""Tail index of the generalized Pareto tail; 0 would be exponential."""
_SHARE = 0.03
_CLIP = 6.0
DAY_MS = 86_400_000


def alarm_rate(budget: float, step_ms: int, families: int) -> float:
    """Share of slots that may alarm for each of ``families`` detectors that share ``budget`` alerts per series, day."""
    return min(budget * step_ms / DAY_MS / families, 0.05)


def tail_threshold(history: Floats32, rate: float) -> Floats32:
    """Threshold that a share ``rate`` of slots passes. ``history`` float32[n, k], scores >= 0, zero where unknown."""
    n, k = history.shape
    tops = min(max(8, round(_SHARE * k)), k - 1)
    if tops < 4:
        return np.full(n, np.inf, np.float32)
    top = np.partition(history, k - tops - 1, axis=1)[:, k - tops - 1 :]
    base = top[:, 0]
    excess = top[:, 1:] - base[:, None]
    usual = np.median(excess, axis=1)[:, None]
    scale = np.minimum(excess, _CLIP * usual).mean(axis=1)
    reach = ((tops / k / rate) ** SHAPE - 1.0) / SHAPE
    return np.asarray(base + scale * max(reach, 0.0), np.float32)
