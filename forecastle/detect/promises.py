"""What an incident does to the workload's objective: is it missed while the incident is open, or met and seen to be?

The series of an objective are the share of the error budget left (`Objective.budget`) and the latencies and errors with a limit
(`Workload.vetoes`). A workload without an objective is judged by the anomalies alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from forecastle.types import Floats32, Objective, SeriesKey, Windows, Workload

FAST = ((1.0, 0.02), (6.0, 0.05))
"""Hours, and the share of the error budget that is due a page when it goes in them: Site Reliability Workbook, chapter 5."""
_WORSE = 1.1
"""What a figure is told anew for: each change of an incident's words is told to people."""
_MOST = 3
_FUZZ = 1e-4


class Reading(NamedTuple):
    """One series of an objective: its ``size`` as a multiple of what is allowed, whether it is ``met``, and both in words."""

    key: SeriesKey
    size: float
    met: bool
    text: str

    @property
    def missed(self) -> bool:
        """Whether more is used than is allowed. A budget that is gone and no more used is neither met nor missed."""
        return self.size > 1


class Promises:
    """The objectives of ``workloads``, read from the windows of each tick."""

    def __init__(self, workloads: Mapping[str, Workload]) -> None:
        self._loads = {name: (load, load.slo) for name, load in workloads.items() if load.slo is not None}
        self._wanted = {key for load, slo in self._loads.values() for key in _series(load, slo)}
        self._rows: tuple[tuple[SeriesKey, ...], dict[SeriesKey, int]] = ((), {})

    def words(self, workload: str) -> str:
        """The objective's name and target; empty when the workload has none."""
        if workload not in self._loads:
            return ""
        slo = self._loads[workload][1]
        return f"objective {slo.name} ({100 * slo.target:.6g}%)".replace("  ", " ")

    def readings(self, workload: str, site: str, windows: Windows) -> tuple[Reading | None, ...]:
        """One for each series of the objective that is measured at ``site`` or for all sites; None where it cannot be seen."""
        if workload not in self._loads:
            return ()
        if self._rows[0] is not windows.keys:
            self._rows = windows.keys, {key: i for i, key in enumerate(windows.keys) if key in self._wanted}
        load, slo = self._loads[workload]
        mine = (key for key in _series(load, slo) if not site or key.label("site", site) == site)
        return tuple(self._read(load, slo, key, windows) for key in mine)

    def _read(self, load: Workload, slo: Objective, key: SeriesKey, windows: Windows) -> Reading | None:
        row = self._rows[1].get(key)
        if row is None or windows.late[row] or not windows.mask[row].any():
            return None
        if key == slo.budget:
            return None if windows.suspect[row] else _budget(key, windows.values[row], windows.mask[row], windows.step_ms)
        value, above = float(windows.values[row][windows.mask[row]][-1]), dict(load.vetoes)[key]
        size = value / above if above > 0 else float("inf") if value > above else 0.0
        return Reading(key, size, value <= above, f"{key.metric} {float(f'{value:.3g}'):g}, limit {above:g}")


@dataclass(slots=True)
class Standing:
    """How an objective fared since an incident opened: the ``worst`` of each of its series."""

    missed: bool = False
    met: bool = False
    worst: dict[SeriesKey, Reading] = field(default_factory=dict)
    _missed_at: int | None = None

    def look(self, readings: Sequence[Reading | None], now: int, within: int) -> None:
        """Take in the readings at ``now`` (ms). What was missed is so for ``within`` ms more: it comes and goes."""
        seen = [reading for reading in readings if reading is not None]
        if any(reading.missed for reading in seen):
            self._missed_at = now
        self.missed = self._missed_at is not None and now - self._missed_at <= within
        for reading in seen:
            held = self.worst.get(reading.key)
            over = held is not None and held.missed and not self.missed
            if held is None or over or reading.size > _WORSE * held.size or reading.missed > held.missed:
                self.worst[reading.key] = reading
        self.met = bool(readings) and len(seen) == len(readings) and all(r.met for r in seen) and not self.missed

    def words(self, objective: str) -> str:
        """How it fared, observed beside allowed; empty when that is not known."""
        if not (self.missed or self.met):
            return ""
        shown = [r.text for r in sorted(self.worst.values(), key=lambda r: (-r.size, r.key)) if r.missed or self.met]
        return f"; {objective} {'missed' if self.missed else 'met'}: {', '.join(shown[:_MOST])}"


def _series(load: Workload, slo: Objective) -> Iterator[SeriesKey]:
    yield from (key for key, _ in load.vetoes)
    if slo.budget is not None:
        yield slo.budget


def _budget(key: SeriesKey, values: Floats32, mask: np.ndarray, step_ms: int) -> Reading:
    left = float(values[mask][-1])
    size, hours, gone = max(_burned(values, mask, step_ms, hours, allowed) for hours, allowed in FAST)
    text = f"{gone:.2g} of the error budget gone in {hours:g} h, {left:.2g} left"
    return Reading(key, size, left > 0 and size <= 1, text)


def _burned(values: Floats32, mask: np.ndarray, step_ms: int, hours: float, allowed: float) -> tuple[float, float, float]:
    """(multiple of ``allowed``, ``hours``, share) of the budget that went in the newest hours, as far as the window goes."""
    slots = min(int(hours * 3_600_000 / step_ms) + 1, len(values))
    seen = values[-slots:][mask[-slots:]]
    share = float(seen.max() - seen[-1]) if len(seen) else 0.0
    return share / allowed + _FUZZ, hours, share
