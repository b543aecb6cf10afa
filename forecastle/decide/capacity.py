"""What one replica carries: told, learned from its usage, or derived from a latency target.

Every model answers the same two questions about a demand, how many replicas it takes at a share of their capacity and how
many when they are just full, and more demand never takes fewer. A model that cannot be trusted steps back behind
`Demand.per_replica` and says why. The reactive floor stands below all of them, on that number or on what was learned.

* **fixed**: ``ceil(demand / (per_replica * share))``.
* **learned**: usage per replica against demand per replica, by the Theil-Sen line (Sen, JASA 63, 1968): it stands up to 29 %
  of outliers. The capacity is where the line meets a full replica. It is refused when it explains too little.
* **queueing**: the smallest c of an M/M/c queue that keeps the latency target (`forecastle.decide.erlang`); the share of
  capacity plays no part, since the headroom is what the target asks for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from forecastle.decide.erlang import reachable, servers_for
from forecastle.types import Demand, Floats, SeriesKey, Service, Usage, Windows

_FUZZ = 1e-6
"""Relative slack of a rounding up: float32 noise must not order a replica."""
MIN_POINTS = 20
"""Slots a line needs."""
MIN_SPREAD = 1.2
"""Least ratio of the 90 % to the 10 % quantile of demand per replica: without variation any line fits."""
MIN_EXPLAINED = 0.6
"""Least share of the variation that the line explains (R2 of medians, not of squares: one outlier is no argument)."""
REACH = 1.5
"""How far beyond the busiest slot seen a line may raise the capacity; lowering it needs no bound."""
LOWEST = 0.25
"""Below this times the configured capacity the usage is rather the wrong series than the truth."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a replica carries: ``per_replica``, in the unit of the demand, is also what the reactive floor counts with.

    ``service`` is set when a queue decides, searched up to ``most`` replicas. ``model`` is fixed, learned or queueing, and
    ``note`` says what was learned or why it was refused.
    """

    per_replica: float
    model: str = "fixed"
    note: str = ""
    service: Service | None = None
    most: int = 1000

    def replicas(self, demand: float, share: float = 1.0) -> int:
        """Replicas that ``demand`` takes when ``share`` of each is used; never decreasing in ``demand``."""
        if self.service is None:
            return replicas_for(demand, self.per_replica * share)
        slots = self.service.slots
        servers = servers_for(demand * self.service.service_s, self.service, self.most * slots)
        return math.ceil(servers / slots)


def replicas_for(demand: float, capacity: float) -> int:
    """``ceil(demand / capacity)``, never negative."""
    return max(0, math.ceil(demand / capacity * (1 - _FUZZ)))


def capacity(demand: Demand, windows: Windows, rows: Mapping[SeriesKey, int], most: int) -> Capacity:
    """The capacity model of ``demand`` at this tick; ``rows`` says where a series is in ``windows``."""
    told = Capacity(demand.per_replica, most=most)
    if demand.service is not None:
        if not reachable(demand.service):
            return _refused(told, "queueing", "the service time alone misses the latency target")
        return Capacity(demand.per_replica, "queueing", "", demand.service, most)
    if demand.usage is None:
        return told
    return _learned(told, demand, demand.usage, windows, rows)


def _learned(told: Capacity, demand: Demand, usage: Usage, windows: Windows, rows: Mapping[SeriesKey, int]) -> Capacity:
    missing = [key.metric for key in demand.series if key not in rows]
    if missing:
        return _refused(told, "learned", f"{', '.join(missing)} cannot be seen")
    doubtful = [key.metric for key in demand.series if windows.suspect[rows[key]]]
    if doubtful:
        return _refused(told, "learned", f"{', '.join(doubtful)} is suspect")
    x, y = _points(rows[demand.key], rows[usage.key], rows[usage.replicas], windows)
    found = fit(x, y, usage.full)
    if isinstance(found, str):
        return _refused(told, "learned", found)
    if found.full < demand.per_replica * LOWEST:
        return _refused(
            told, "learned", f"a replica would carry {found.full:.4g}, less than {LOWEST:g} times what is configured"
        )
    carries = found.full
    if carries > demand.per_replica:
        seen = max(demand.per_replica, float(x.max()) * REACH)
        carries = min(carries, demand.per_replica * usage.raise_limit, seen)
    note = f"{len(x)} slots, the line explains {found.explained:.0%}, a replica is full at {found.full:.4g}"
    if carries < found.full:
        note += f", capped at {carries:.4g}"
    return Capacity(carries, "learned", note, most=told.most)


def _refused(told: Capacity, model: str, why: str) -> Capacity:
    return Capacity(told.per_replica, "fixed", f"{model} refused: {why}", most=told.most)


def _points(demand: int, usage: int, replicas: int, windows: Windows) -> tuple[Floats, Floats]:
    """(demand per replica, usage per replica) of the slots in which all three series were seen and finite, float64[n]."""
    total, used, count = (windows.values[row].astype(np.float64) for row in (demand, usage, replicas))
    seen = windows.mask[demand] & windows.mask[usage] & windows.mask[replicas]
    seen &= np.isfinite(total) & np.isfinite(used) & np.isfinite(count) & (count >= 1) & (total >= 0) & (used >= 0)
    return total[seen] / count[seen], used[seen]


@dataclass(frozen=True, slots=True)
class Line:
    """Usage per replica = ``base + slope * demand per replica``; ``full`` is the demand at which a replica is full."""

    slope: float
    base: float
    full: float
    explained: float


def fit(x: Floats, y: Floats, full: float) -> Line | str:
    """The Theil-Sen line of usage ``y`` on demand per replica ``x`` (float64[n] each), or why there is none."""
    if len(x) < MIN_POINTS:
        return f"{len(x)} slots are too few, it takes {MIN_POINTS}"
    low, high = np.quantile(x, (0.1, 0.9))
    if not high > low * MIN_SPREAD:
        return f"demand per replica varies too little ({low:.4g} to {high:.4g})"
    left, right = np.triu_indices(len(x), 1)
    run = x[right] - x[left]
    apart = run != 0
    slope = float(np.median((y[right] - y[left])[apart] / run[apart]))
    base = float(np.median(y - slope * x))
    explained = _explained(y, base + slope * x)
    if slope <= 0:
        return "usage does not grow with demand"
    if explained < MIN_EXPLAINED:
        return f"the line explains {explained:.0%} of the usage, it takes {MIN_EXPLAINED:.0%}"
    if base >= full:
        return f"an idle replica uses {base:.4g} already, {full:.4g} is full"
    return Line(slope, base, (full - base) / slope, explained)


def _explained(y: Floats, line: Floats) -> float:
    """1 - (median absolute residual / median absolute deviation)^2: the robust share of variation explained."""
    spread = float(np.median(np.abs(y - np.median(y))))
    if spread == 0.0:
        return 0.0
    return 1.0 - (float(np.median(np.abs(y - line))) / spread) ** 2
