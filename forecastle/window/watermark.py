"""When a tick may be closed: the watermark, kept per partition and joined over the assigned ones.

A partition's watermark is its newest event time minus the lateness, minus 1 ms (more samples of that instant may follow); the
joint one is the smallest over the partitions. A drained partition that has been silent for ``idle_s`` stops holding the others
back. Whether a sample is *too late* is decided by its own partition alone: then it depends on the log and not on how
partitions happened to interleave, and a rebuild decides the same.
"""

from __future__ import annotations

import numpy as np

from forecastle.types import Index, Ints, Mask, Progress

NEVER = -(1 << 62)


class Watermark:
    """Event-time progress of a set of partitions; ``step_ms`` is the slot width, ``lateness_ms`` the wait for stragglers."""

    def __init__(self, step_ms: int, lateness_ms: int, idle_s: float) -> None:
        self._step = step_ms
        self._lateness = lateness_ms
        self._idle_s = idle_s
        self._newest: dict[int, int] = {}
        self._first: dict[int, int] = {}
        self._moved: set[int] = set()
        self._quiet_since: dict[int, float] = {}

    def admit(self, partition: Index, at: Ints) -> Mask:
        """Which samples, in order of arrival, are in time: bool[n]. Moves the partitions' watermarks on."""
        if not len(at):
            return np.ones(0, np.bool_)
        if partition[0] == partition[-1] and (partition == partition[0]).all():
            return self._admit(int(partition[0]), at)
        accepted = np.empty(len(at), np.bool_)
        for one in np.unique(partition).tolist():
            where = np.flatnonzero(partition == one)
            accepted[where] = self._admit(one, at[where])
        return accepted

    def _admit(self, partition: int, at: Ints) -> Mask:
        self._first.setdefault(partition, int(at[0]))
        self._moved.add(partition)
        before = self._newest.get(partition, NEVER)
        newest = np.maximum.accumulate(at)
        np.maximum(newest, before, out=newest)
        self._newest[partition] = int(newest[-1])
        ends = -(-at // self._step) * self._step
        accepted: Mask = ends >= newest - self._lateness
        return accepted

    def forget(self, gone: frozenset[int]) -> None:
        """Partitions that are no longer ours."""
        for one in gone:
            for memory in (self._newest, self._first, self._quiet_since):
                memory.pop(one, None)
            self._moved.discard(one)

    @property
    def known(self) -> frozenset[int]:
        """Partitions that have sent samples or are waited for."""
        return frozenset(self._newest) | frozenset(self._quiet_since)

    @property
    def origin(self) -> int | None:
        """Event time of the earliest first sample of the partitions, where ticks begin; None before any sample."""
        return min(self._first.values(), default=None)

    def joint(self, progress: Progress, monotonic_s: float) -> int | None:
        """The watermark (ms) all ``progress.assigned`` partitions have reached; None while one still has to show."""
        for one in progress.assigned:
            if one in self._moved or one not in progress.drained or one not in self._quiet_since:
                self._quiet_since[one] = monotonic_s
        self._moved.clear()
        idle = {one for one in progress.assigned & progress.drained if monotonic_s - self._quiet_since[one] >= self._idle_s}
        held = progress.assigned - idle
        if any(one not in self._newest for one in held):
            return None
        if held:
            return min(self._newest[one] for one in held) - self._lateness - 1
        newest = [self._newest[one] for one in progress.assigned if one in self._newest]
        return max(newest) - self._lateness - 1 if newest else None
