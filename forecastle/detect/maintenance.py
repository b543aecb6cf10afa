"""Declared maintenance: what is measured while somebody works on it is neither judged now nor learned from afterwards.

Which slots that are follows from the settings and the tick alone, so a replay hides the same ones.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from forecastle.guards.windows import interval, spans
from forecastle.settings import MaintenanceSettings
from forecastle.types import Mask, SeriesKey, Windows

log = logging.getLogger(__name__)


class Maintenance:
    """Which slots of which series are under one of ``works``."""

    def __init__(self, works: Sequence[MaintenanceSettings]) -> None:
        self._works = works
        self._keys: tuple[SeriesKey, ...] = ()
        self._whose: Mask = np.zeros((len(works), 0), np.bool_)
        self._told: tuple[str, ...] = ()

    def covered(self, windows: Windows) -> Mask | None:
        """Slots that meet the work on their series, bool as ``windows.mask``; None where the windows hold none at all.

        Raises ValueError for a zone that is not known.
        """
        length, step, end = windows.values.shape[1], windows.step_ms, windows.end
        first = end - length * step
        found = [
            (i, max((start - first) // step, 0), min(-(-(stop - first) // step), length))
            for i, work in enumerate(self._works)
            for start, stop in _stretches(work, first, end)
        ]
        self._tell(tuple(dict.fromkeys(self._works[i].name for i, _, stop in found if stop == length)))
        if not found:
            return None
        whose, covered = self._of(windows.keys), np.zeros(windows.mask.shape, np.bool_)
        for i, start, stop in found:
            covered[whose[i], start:stop] = True
        return covered

    def _of(self, keys: tuple[SeriesKey, ...]) -> Mask:
        """Whose series each work covers: bool[works, n]."""
        if keys is not self._keys and keys != self._keys:
            self._whose = np.array([[_covers(work, key) for key in keys] for work in self._works], np.bool_)
        self._keys = keys
        return self._whose

    def _tell(self, names: tuple[str, ...]) -> None:
        if names != self._told:
            log.info("maintenance: %s", ", ".join(names) or "over")
        self._told = names


def _stretches(work: MaintenanceSettings, begin: int, end: int) -> list[tuple[int, int]]:
    """When there is work within ``begin`` ... ``end``, in ms."""
    if work.weekly is not None:
        return list(spans(work.weekly, begin, end))
    at = [interval(work.once)] if work.once is not None else []
    return [(start, stop) for start, stop in at if start < end and stop > begin]


def _covers(work: MaintenanceSettings, key: SeriesKey) -> bool:
    return (not work.workloads or key.workload in work.workloads) and (not work.sites or key.label("site") in work.sites)
