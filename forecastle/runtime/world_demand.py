"""What people ask of the generated fleet: daily and weekly cycles, slow drift, small crowds, Poisson counts.

The whole demand of a run is drawn at once from one seed, history and play alike, so that the play continues its history
and the oracle of the summary can look at all of it. Rates are vectorized over workloads and time.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from forecastle.types import Floats, Ints, Workload

DAY_MS = 86_400_000
HOUR_MS = 3_600_000
MONDAY_MS = 4 * DAY_MS
"""The epoch was a Thursday; this many ms later was the first Monday."""


class Surge(NamedTuple):
    """A crowd that comes every day at ``hour`` UTC: ``size`` as a share of the usual demand, minutes it rises and falls."""

    hour: float
    size: float
    rise_min: float
    fall_min: float


@dataclass(frozen=True, slots=True)
class Rhythm:
    """Shape of one workload's demand.

    ``replicas`` is the mean demand in replicas' worth; ``daily`` the amplitude of the day as a share of the mean, highest
    at ``peak_hour`` UTC; ``weekend`` a factor; ``wobble`` the standard deviation of a slow drift (log); ``crowds`` small
    flash crowds a week; ``surges`` what comes every day at its minute: jobs, campaigns, the start of a show.
    """

    replicas: float = 8.0
    daily: float = 0.45
    peak_hour: float = 14.0
    weekend: float = 0.8
    wobble: float = 0.05
    crowds: float = 2.0
    surges: tuple[Surge, ...] = ()


EVENING = Surge(20.0, 0.8, 3.0, 20.0)
"""A daily campaign, felt from the front page to the till."""
RHYTHMS: Mapping[str, Rhythm] = MappingProxyType(
    {
        "storefront": Rhythm(24, 0.55, 19.0, 1.15, 0.06, 4.0, (EVENING,)),
        "search": Rhythm(16, 0.5, 19.0, 1.1, 0.06, 3.0, (EVENING._replace(size=0.6),)),
        "checkout": Rhythm(10, 0.55, 20.0, 1.2, 0.06, 3.0, (EVENING._replace(hour=20.05, size=0.9),)),
        "payments": Rhythm(8, 0.5, 20.0, 1.2, 0.05, 2.0, (EVENING._replace(hour=20.05, size=0.9),)),
        "accounts": Rhythm(7, 0.4, 9.0, 0.7, 0.04, 1.0, (Surge(9.0, 0.7, 3.0, 25.0),)),
        "catalog": Rhythm(11, 0.5, 18.5, 1.1, 0.05, 2.0, (EVENING,)),
        "recommendations": Rhythm(15, 0.5, 19.5, 1.15, 0.06, 2.0, (EVENING._replace(size=0.6),)),
        "images": Rhythm(14, 0.5, 19.0, 1.1, 0.05, 3.0, (EVENING,)),
        "video": Rhythm(22, 0.65, 20.5, 1.35, 0.07, 2.0, (Surge(20.25, 0.7, 3.0, 40.0),)),
        "notifications": Rhythm(5, 0.35, 8.0, 0.9, 0.08, 6.0, (*(Surge(hour, 1.6, 2.0, 12.0) for hour in (8.0, 12.0, 18.0)),)),
        "sessions": Rhythm(9, 0.15, 16.0, 1.0, 0.03, 0.0),
        "orders": Rhythm(9, 0.5, 20.0, 1.15, 0.05, 2.0, (EVENING._replace(hour=20.1, size=0.8),)),
        "inventory": Rhythm(
            7, 0.35, 10.0, 0.6, 0.04, 1.0, (*(Surge(hour, 0.9, 1.0, 10.0) for hour in (2.0, 6.0, 10.0, 14.0, 18.0, 22.0)),)
        ),
        "reports": Rhythm(6, 0.6, 7.5, 0.25, 0.08, 1.0, (*(Surge(hour, 1.5, 1.0, 15.0) for hour in (5.0, 7.0, 16.0)),)),
    }
)


def rhythm(name: str, seed: int) -> Rhythm:
    """The rhythm of workload ``name``, each figure moved a little by ``seed``; unknown names get one drawn from the name."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    base = RHYTHMS.get(name) or Rhythm(
        replicas=float(rng.uniform(4, 16)), peak_hour=float(rng.uniform(0, 24)), weekend=float(rng.uniform(0.5, 1.3))
    )
    size, shape, hour = rng.uniform([0.9, 0.9, -0.5], [1.1, 1.1, 0.5]).tolist()
    return replace(base, replicas=base.replicas * size, daily=base.daily * shape, peak_hour=base.peak_hour + hour)


@dataclass(frozen=True, slots=True)
class DemandTable:
    """Demand of every workload at every tick of a run: ``rate`` and ``counted`` float64[n, t] in the demand metric's unit.

    ``at`` int64[t] are the ticks (ms). ``rate`` is what was meant, ``counted`` what a minute's count came to.
    """

    workloads: tuple[str, ...]
    at: Ints
    step_ms: int
    rate: Floats
    counted: Floats

    def column(self, tick: int) -> int:
        """Column of ``tick`` (ms). Raises IndexError outside the table."""
        i, rest = divmod(tick - int(self.at[0]), self.step_ms)
        if rest or not 0 <= i < len(self.at):
            raise IndexError(f"tick {tick} is not in the table from {self.at[0]} to {self.at[-1]}")
        return i

    def between(self, first: int, last: int) -> DemandTable:
        """The part from tick ``first`` to ``last`` (ms), both included."""
        part = slice(self.column(first), self.column(last) + 1)
        return replace(self, at=self.at[part], rate=self.rate[:, part], counted=self.counted[:, part])


def generate(loads: Sequence[Workload], first: int, ticks: int, step_ms: int, seed: int) -> DemandTable:
    """``ticks`` ticks of demand from ``first`` (ms) on."""
    at = first + step_ms * np.arange(ticks, dtype=np.int64)
    rows = [_rate(load.name, load.demands[0].per_replica, at, step_ms, seed) for load in loads]
    rate = np.stack(rows)
    return DemandTable(tuple(load.name for load in loads), at, step_ms, rate, count(rate, step_ms, seed))


def count(rate: Floats, step_ms: int, seed: int) -> Floats:
    """Poisson counts over one step as a rate again: float64 like ``rate`` (per second)."""
    seconds = step_ms / 1000.0
    return np.random.default_rng([seed, 7]).poisson(rate * seconds) / seconds


def crowd(at: Ints, start: int, size: float, rise_ms: float = 5 * 60_000, fall_ms: float = 25 * 60_000) -> Floats:
    """A flash crowd as a share of the usual demand, float64[t]: a steep rise to ``size``, then exponential decay."""
    since = (at - start).astype(np.float64)
    rising = np.clip(since / rise_ms, 0.0, 1.0)
    falling = np.exp(-np.maximum(since - rise_ms, 0.0) / fall_ms)
    return np.asarray(size * rising * falling)


def _rate(name: str, per_replica: float, at: Ints, step_ms: int, seed: int) -> Floats:
    form = rhythm(name, seed)
    rng = np.random.default_rng([seed, zlib.crc32(name.encode()), 1])
    phase = 2 * np.pi * ((at % DAY_MS) / HOUR_MS - form.peak_hour) / 24.0
    day = 1.0 + form.daily * (0.85 * np.cos(phase) + 0.15 * np.cos(2 * phase))
    week = 1.0 + (form.weekend - 1.0) * _weekend(at)
    extra = np.zeros(len(at))
    for start in _crowd_starts(form.crowds, at, rng):
        extra += crowd(at, start, float(rng.uniform(0.3, 0.8)))
    for surge in form.surges:
        extra += _daily(surge, at, rng)
    drift = np.exp(_drift(len(at), step_ms, form.wobble, rng))
    return np.asarray(form.replicas * per_replica * day * week * drift * (1.0 + extra))


def _daily(surge: Surge, at: Ints, rng: np.random.Generator) -> Floats:
    """The surge of every day as a share of the usual demand, float64[t]; no two days are quite alike."""
    total = np.zeros(len(at))
    for day in range(int(at[0] // DAY_MS) - 1, int(at[-1] // DAY_MS) + 1):
        start = day * DAY_MS + round(surge.hour * HOUR_MS)
        size = surge.size * float(rng.lognormal(0.0, 0.1))
        total += crowd(at, start, size, surge.rise_min * 60_000, surge.fall_min * 60_000)
    return total


def _weekend(at: Ints) -> Floats:
    """1 on Saturday and Sunday, 0 on other days, four hours of change between."""
    day = ((at - MONDAY_MS) % (7 * DAY_MS)) / DAY_MS
    ramp = 4 / 24
    return np.clip((day - 5) / ramp, 0.0, 1.0) * np.clip((7 - day) / ramp, 0.0, 1.0)


def _crowd_starts(per_week: float, at: Ints, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    span = int(at[-1] - at[0]) if len(at) > 1 else 0
    number = rng.poisson(per_week * span / (7 * DAY_MS))
    return np.asarray(at[0] + rng.integers(0, max(span, 1), number), np.int64)


def _drift(n: int, step_ms: int, size: float, rng: np.random.Generator) -> Floats:
    """AR(1) noise with a time constant of three hours and standard deviation ``size``."""
    keep = np.exp(-step_ms / (3.0 * HOUR_MS))
    noise = rng.normal(0.0, size * np.sqrt(1 - keep**2), n)
    noise[0] = rng.normal(0.0, size)
    return np.fromiter(accumulate(noise.tolist(), lambda before, fresh: keep * before + fresh), np.float64, n)
