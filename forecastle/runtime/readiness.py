"""Growth that has become ready: what a tick's observations add to what the ledger knows of its orders.

An order's outcome says how many replicas a pool was given and when. The first tick that sees as many ready ends its lag, so a
lag is known to a tick and rather too long than too short. Growth that was taken back before it was ready says nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

from forecastle.types import Fleet, Kind, Outcome, Readiness, Status

_DONE = frozenset({Status.APPLIED, Status.UNVERIFIED})


def newly_ready(fleet: Fleet, tick: int) -> tuple[Readiness, ...]:
    """Growth among ``fleet.outcomes`` that is all ready at ``tick`` (ms) and not in ``fleet.readied`` yet, oldest first."""
    known = {one.action_id for one in fleet.readied}
    found = ((o, fleet.observed[o.pool].at) for o in _growth(fleet) if o.action_id not in known)
    return tuple(Readiness(o.action_id, o.pool, tick, max(0.0, (seen_at - o.at) / 1000)) for o, seen_at in found)


def _growth(fleet: Fleet) -> Iterator[Outcome]:
    """Growth that is all ready and was not taken back since."""
    lowest: dict[str, int] = {}
    ready: list[Outcome] = []
    for outcome in reversed([o for o in fleet.outcomes if o.kind is Kind.SCALE and o.status in _DONE]):
        if outcome.after is None:
            continue
        target, seen = outcome.after.replicas, fleet.observed.get(outcome.pool)
        grew = outcome.before is not None and target > outcome.before.replicas
        if grew and seen is not None and target <= min(seen.ready, lowest.get(outcome.pool, target)):
            ready.append(outcome)
        lowest[outcome.pool] = min(target, lowest.get(outcome.pool, target))
    return reversed(ready)
