"""Where an incident began: places (workload, instance, site) ranked by how far their metrics left their own past.

A place that depends on another one in trouble is more likely a victim than the cause, so it passes blame on along the call
graph; blame that has nowhere to go stays. Without a call graph the departures alone decide. Only the past is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from forecastle.types import Anomaly, Floats, Floats32, Mask, SeriesKey

Topology = Mapping[str, Sequence[str]]
"""Workload -> the workloads it calls."""
INSTANCE_LABELS = ("pod", "instance")
_USUAL = 0.9
"""Quantile of past departures that counts as 1: a metric that often jumps has to jump further. Up to `_COMMON` is no sign."""
_FLOOR = 5e-4
_COMMON = 2.0
_PASSED = 0.8
_LATE = 0.5
_CAP = 30.0
"""Beyond this a departure says no more: a metric that hardly ever moved has a tiny unit, and would outweigh all others."""
_ALARM = 3.0


class Place(NamedTuple):
    """What may be at fault; ``instance`` and ``site`` are empty where the series do not tell them apart."""

    workload: str
    instance: str = ""
    site: str = ""

    @classmethod
    def of(cls, key: SeriesKey) -> Place:
        """The place a series was measured at."""
        return cls(key.workload, next((v for name in INSTANCE_LABELS if (v := key.label(name))), ""), key.label("site"))

    def __str__(self) -> str:
        return self.workload + (f"/{self.instance}" if self.instance else "") + (f" at {self.site}" if self.site else "")


class Sign(NamedTuple):
    """One metric out of line: ``size`` >= 0 in units of its usual departures, since ``onset`` (ms)."""

    key: SeriesKey
    size: float
    onset: int


@dataclass(frozen=True, slots=True)
class Cause:
    """A place and its ``share`` of all blame (they sum to 1), its worst metrics first, and whose trouble it explains."""

    place: Place
    share: float
    onset: int
    metrics: tuple[str, ...]
    explains: tuple[str, ...] = ()


def departures(values: Floats | Floats32, mask: Mask, recent: int) -> Floats:
    """How far the last ``recent`` slots left the slots before them: float64[n], 1 is what the series often does itself.

    ``values`` float[n, L] with unobserved slots False in ``mask`` bool[n, L]. The median of the recent slots counts, so one
    outlier is none; a series without both a past and a present has 0. Raises ValueError unless 0 < recent < L.
    """
    if not 0 < recent < values.shape[1]:
        raise ValueError(f"recent: {recent} of {values.shape[1]} slots leaves no past; give 1 to {values.shape[1] - 1}")
    known = np.where(mask & np.isfinite(values), values, np.nan).astype(np.float64)
    past, now = known[:, :-recent], known[:, -recent:]
    rows = np.flatnonzero(np.isfinite(past).any(axis=1) & np.isfinite(now).any(axis=1))
    size = np.zeros(len(values))
    middle = np.nanmedian(past[rows], axis=1)
    usual = np.nanquantile(np.abs(past[rows] - middle[:, None]), _USUAL, axis=1)
    unit = np.maximum(usual, _FLOOR * np.abs(middle) + 1e-9)
    size[rows] = np.abs(np.nanmedian(now[rows], axis=1) - middle) / unit
    return size


def sign_of(anomaly: Anomaly) -> Sign:
    """The anomaly as a sign: by its ``departure``, or by how far it passed its threshold where it has none (silence)."""
    size = float(anomaly.evidence.get("departure") or 0.0) or _ALARM * anomaly.score / max(anomaly.threshold, 1e-9)
    return Sign(anomaly.key, size, int(anomaly.evidence.get("onset", anomaly.at)))


def reachable(workloads: Set[str], topology: Topology) -> frozenset[str]:
    """What the workloads call, directly or not, and they themselves."""
    found, queue = set(workloads), sorted(workloads)
    while queue:
        called = [name for name in topology.get(queue.pop(), ()) if name not in found]
        found.update(called)
        queue += called
    return frozenset(found)


def ranked(signs: Sequence[Sign], topology: Topology | None = None) -> tuple[Cause, ...]:
    """Places by their share of the blame, the likeliest first; ties by their largest departure, then by name."""
    worst: dict[Place, dict[str, Sign]] = {}
    for sign in signs:
        metrics = worst.setdefault(Place.of(sign.key), {})
        held = metrics.get(sign.key.metric)
        metrics[sign.key.metric] = (
            sign if held is None else Sign(sign.key, max(held.size, sign.size), min(held.onset, sign.onset))
        )
    places = sorted(worst)
    if not places:
        return ()
    onset = np.array([min(sign.onset for sign in worst[place].values()) for place in places], np.int64)
    own = np.array([sum(sorted(_weight(sign.size) for sign in worst[place].values())) for place in places])
    own *= 1 - _LATE * (onset - onset.min()) / max(int(np.ptp(onset)), 1)
    passed = _passed(places, own, topology or {})
    blame = (1 - passed.sum(axis=1)) * np.linalg.solve(np.eye(len(places)) - passed.T, own)
    share = blame / max(float(blame.sum()), 1e-12)
    causes = [
        Cause(place, float(share[i]), int(onset[i]), _leading(worst[place]), _explained(places, passed[:, i]))
        for i, place in enumerate(places)
    ]
    largest = {place: max((s.size for s in worst[place].values() if np.isfinite(s.size)), default=0.0) for place in places}
    return tuple(sorted(causes, key=lambda cause: (-round(cause.share, 12), -largest[cause.place], cause.place)))


def _weight(size: float) -> float:
    return float(np.log1p(min(max(size - _COMMON, 0.0), _CAP))) if np.isfinite(size) else 0.0


def _passed(places: Sequence[Place], own: Floats, topology: Topology) -> Floats:
    """Share of a row's blame that goes to each column: float64[n, n], rows sum to less than 1.

    By how bad the called places are beside the caller; those at the caller's site before those elsewhere.
    """
    at = {name: [i for i, place in enumerate(places) if place.workload == name] for name in {p.workload for p in places}}
    passed = np.zeros((len(places), len(places)))
    for i, place in enumerate(places):
        for name in dict.fromkeys(topology.get(place.workload, ())):
            rows = [j for j in at.get(name, ()) if j != i]
            near = [j for j in rows if places[j].site == place.site] or rows
            passed[i, near] = own[near]
    total = passed.sum(axis=1) + own
    return np.asarray(_PASSED * passed / np.maximum(total, 1e-12)[:, None])


def _leading(metrics: Mapping[str, Sign], most: int = 3) -> tuple[str, ...]:
    return tuple(sorted(metrics, key=lambda name: (-metrics[name].size, name))[:most])


def _explained(places: Sequence[Place], column: Floats) -> tuple[str, ...]:
    return tuple(sorted({str(place) for place, share in zip(places, column, strict=True) if share > 0}))
