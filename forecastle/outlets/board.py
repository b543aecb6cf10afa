"""The newest recommendation per workload, in memory: whoever asks often is answered from here and never from the ledger."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from forecastle.outlets.turn import Turn
from forecastle.ports import Clock


class Advice(NamedTuple):
    """``replicas`` wanted before guards, decided at event time ``at`` (ms) and told at ``told_at`` (monotonic seconds)."""

    replicas: int
    at: int
    told_at: float


class Board:
    """A loop listener that others read from any thread. ``watchers`` are called in the loop's thread after each turn."""

    def __init__(self, clock: Clock, stale_s: float) -> None:
        self._clock, self._stale_s = clock, stale_s
        self._advice: dict[str, Advice] = {}
        self.watchers: list[Callable[[], None]] = []

    def listen(self, turn: Turn) -> None:
        """Take in what the turn's plans recommend; a workload they are silent about keeps what it had."""
        told_at = self._clock.monotonic()
        for plan in turn.plans:
            for workload, replicas in plan.recommended.items():
                self._advice[workload] = Advice(replicas, plan.tick, told_at)
        for watcher in self.watchers:
            watcher()

    def newest(self, workload: str) -> Advice | None:
        """The newest advice, however old; None when there never was one."""
        return self._advice.get(workload)

    def age_s(self, advice: Advice) -> float:
        """Seconds since the advice was decided or, when that is longer ago, told."""
        return max((self._clock.now() - advice.at) / 1000, self._clock.monotonic() - advice.told_at)

    def fresh(self, advice: Advice) -> bool:
        """False when it is too old to act on."""
        return self.age_s(advice) <= self._stale_s
