"""How many replicas each pool had when, from what the ledger recorded: ticks tell what was observed, outcomes what followed."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from forecastle.ledger.history import Entry
    from forecastle.ledger.store import SqlLedger

HOUR_MS = 3_600_000
CHUNK_MS = 6 * HOUR_MS
"""What is read of the ledger at once; bounds the memory of a long report."""
LOOK_BACK_MS = 31 * 24 * HOUR_MS
"""How far before a report a pool's last change is looked for: quiet pools are recorded seldom."""
LATE_MS = HOUR_MS
"""How much later than it happened something may have been recorded."""
_BEFORE, _AFTER = 0, 1


@dataclass(frozen=True, slots=True)
class Levels:
    """Replicas of one pool as steps: ``replicas[i]`` from ``times[i]`` (ms, ascending) to the next; nothing is known before."""

    times: tuple[int, ...] = ()
    replicas: tuple[int, ...] = ()

    def between(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """(start, end, replicas) of every step inside ``[start, end)``."""
        for i in range(max(bisect_right(self.times, start) - 1, 0), bisect_left(self.times, end)):
            until = self.times[i + 1] if i + 1 < len(self.times) else end
            yield max(self.times[i], start), min(until, end), self.replicas[i]

    def replica_ms(self, start: int, end: int) -> int:
        """Replica-milliseconds inside ``[start, end)``."""
        return sum((right - left) * count for left, right, count in self.between(start, end))


def levels(ledger: SqlLedger, pools: Collection[str], start: int, end: int) -> dict[str, Levels]:
    """Levels of every pool that the ledger has seen, as far as ``[start, end)`` (ms) needs them. Raises StoreUnavailable.

    Of ``pools`` the last level before ``start`` is looked for, up to 31 days back.
    """
    seen: dict[str, dict[tuple[int, int, int], int]] = defaultdict(dict)
    for begins in range(start, end + LATE_MS, CHUNK_MS):
        _note(seen, _read(ledger, begins, min(begins + CHUNK_MS, end + LATE_MS)))
    for before in range(start, start - LOOK_BACK_MS, -CHUNK_MS):
        if all(any(at <= start for at, _, _ in seen.get(pool, ())) for pool in pools):
            break
        _note(seen, _read(ledger, before - CHUNK_MS, before))
    return {pool: _steps(found) for pool, found in sorted(seen.items())}


def _read(ledger: SqlLedger, since: int, until: int) -> Iterable[Entry]:
    return ledger.history(kinds=("tick", "outcome"), since_ms=since, until_ms=until, limit=1 << 31)


def _note(seen: dict[str, dict[tuple[int, int, int], int]], entries: Iterable[Entry]) -> None:
    for entry in entries:
        for pool, at, rank, replicas in _told(entry.kind, entry.body):
            seen[pool][at, rank, entry.seq] = replicas


def _told(kind: str, body: Mapping[str, Any]) -> Iterator[tuple[str, int, int, int]]:
    """(pool, time, rank at equal times, replicas) that an entry tells."""
    if kind == "outcome":
        for rank, state in ((_BEFORE, body.get("before")), (_AFTER, body.get("after"))):
            if state:
                yield state["pool"], int(state["at"]), rank, int(state["replicas"])
        return
    for plan in body["plans"]:
        for evidence in plan["evidence"].values():
            for pool, replicas in evidence.get("pools", {}).items():
                yield pool, int(body["tick"]), _BEFORE, int(replicas)


def _steps(found: Mapping[tuple[int, int, int], int]) -> Levels:
    steps: dict[int, int] = {}
    for (at, _, _), replicas in sorted(found.items()):
        steps[at] = replicas
    return Levels(tuple(steps), tuple(steps.values()))
