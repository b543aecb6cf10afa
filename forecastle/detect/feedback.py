"""People's words about incidents, made into thresholds: a false alarm raises those of its series, a real one lowers them.

A function of what was said before a tick and of nothing else, so a replay hears the same. Bounded, because people err too:
however many false alarms are reported, twice the threshold still alarms. Silence is exempt: a series that stops coming is
reported as early as ever, because the loss of a whole site is told by it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from forecastle.types import SeriesKey

LEAST, MOST = 0.7, 2.0
"""Bounds of what all words together multiply a threshold by."""
FALSE, REAL = 1.25, 0.9
"""What one word multiplies it by: three false alarms about double it, three real ones take it near the lower bound."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Somebody's word at ``at`` (ms) on one incident: it was ``real`` or not, and these were its series."""

    incident: str
    real: bool
    at: int
    series: frozenset[SeriesKey]


def lenience(verdicts: Iterable[Verdict]) -> dict[SeriesKey, float]:
    """By what each series' thresholds are multiplied, in [`LEAST`, `MOST`]. Of one incident only the last word counts."""
    factors: dict[SeriesKey, float] = {}
    for verdict in _last(verdicts):
        for key in verdict.series:
            factors[key] = min(max(factors.get(key, 1.0) * (REAL if verdict.real else FALSE), LEAST), MOST)
    return factors


def dismissed(verdicts: Iterable[Verdict]) -> dict[SeriesKey, int]:
    """When an incident of each series was last called none (ms), by the last word on it: what was held of it is learned."""
    return {key: verdict.at for verdict in _last(verdicts) if not verdict.real for key in verdict.series}


def _last(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """The last word on each incident, oldest first."""
    last: dict[str, Verdict] = {}
    for verdict in sorted(verdicts, key=lambda v: v.at):
        last.pop(verdict.incident, None)
        last[verdict.incident] = verdict
    return list(last.values())
