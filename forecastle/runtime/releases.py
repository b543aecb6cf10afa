"""Which release each pool runs since when: into the ledger as clouds tell it, and out again as evidence about incidents.

A tick hears what was recorded at an earlier one. So a worker that starts again says the same of incidents that are still open.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress

from forecastle.detect.rollouts import Rollout
from forecastle.errors import StoreUnavailable
from forecastle.ledger.store import SqlLedger
from forecastle.runtime.loop import Turned
from forecastle.types import Pool

RELEASE = "release"
"""Kind of the ledger's entries."""
_ALL = 1_000_000
_KEPT = 1_000


def release_keeper(ledger: SqlLedger) -> Callable[[Turned], None]:
    """A loop listener that records the release of a pool when it is first seen and whenever it is another one.

    What cannot be recorded while the store is down is recorded at the first tick after. Pools without a release are left out.
    """
    known: dict[str, str] = {}

    def listen(turned: Turned) -> None:
        if turned.situation is None or turned.rebuilt:
            return
        seen = {name: o.release for name, o in turned.situation.fleet.observed.items() if o.release}
        if all(known.get(name) == release for name, release in seen.items()):
            return
        with suppress(StoreUnavailable):
            known.update(_recorded(ledger))
            with ledger.writing(durable=False) as entries:
                for name, release in sorted(seen.items()):
                    if known.get(name) != release:
                        before = known.get(name, "")
                        entries.add(RELEASE, {"pool": name, "release": release, "before": before}, turned.closed.tick)
            known.update(seen)

    return listen


def _recorded(ledger: SqlLedger) -> dict[str, str]:
    """The newest release of each pool, also of what another worker recorded."""
    return {e.body["pool"]: e.body["release"] for e in reversed(ledger.history(kinds=[RELEASE], limit=_ALL))}


class Rollouts:
    """The changes of release that the ledger knows of, read as ticks go by; the newest are kept."""

    def __init__(self, ledger: SqlLedger, pools: Mapping[str, Pool]) -> None:
        self._ledger, self._pools = ledger, pools
        self._read_until = 0
        self._found: deque[Rollout] = deque(maxlen=_KEPT)

    def before(self, tick: int) -> tuple[Rollout, ...]:
        """Those seen before ``tick`` (ms). While the store is down what was known before goes on."""
        if tick > self._read_until:
            with suppress(StoreUnavailable):
                found = self._ledger.history(kinds=[RELEASE], since_ms=self._read_until, until_ms=tick, limit=_ALL)
                self._read_until = tick
                for entry in reversed(found):
                    pool = self._pools.get(entry.body["pool"])
                    if pool is not None and entry.body["before"]:
                        release, before = entry.body["release"], entry.body["before"]
                        self._found.append(Rollout(entry.at, pool.workload, pool.site, release, before))
        return tuple(rollout for rollout in self._found if rollout.since < tick)
