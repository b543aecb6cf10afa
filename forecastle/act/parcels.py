"""Which actions of a plan may be begun together: those whose fates cannot depend on each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from forecastle.types import DISRUPTIVE, Action


def parcels(actions: Sequence[Action], most: int) -> Iterator[tuple[Action, ...]]:
    """``actions`` in order, cut where the next one has to see how those before it ended.

    That is within a workload, where one site may only shrink after the other has grown, and between two disruptive actions,
    of which the second waits for the first one's outcome. A parcel has ``most`` actions at most.
    """
    parcel: list[Action] = []
    for action in actions:
        same = any(action.workload == other.workload for other in parcel)
        disrupts = action.kind in DISRUPTIVE and any(other.kind in DISRUPTIVE for other in parcel)
        if same or disrupts or len(parcel) == most:
            yield tuple(parcel)
            parcel = []
        parcel.append(action)
    if parcel:
        yield tuple(parcel)
