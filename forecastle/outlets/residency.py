"""What a receiver of events may hear: data of a workload with a residency does not leave it through a notification.

Default deny: a receiver that says not where it is hears nothing of such a workload.
"""

from __future__ import annotations

from collections.abc import Callable

from forecastle.outlets.cloudevents import Event
from forecastle.types import Inventory


def within(stock: Inventory, receiver: frozenset[str]) -> Callable[[Event], bool]:
    """Whether an event may be told to a receiver that is in the jurisdictions ``receiver``, all of which must be allowed."""
    allowed = {name: load.residency for name, load in stock.workloads.items() if load.residency}

    def may_hear(event: Event) -> bool:
        every = event.workloads | {event.subject}
        return all(receiver and receiver <= allowed[name] for name in every if name in allowed)

    return may_hear
