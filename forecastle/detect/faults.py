"""One fault makes many incidents: those along the call graph that meet in time are a group, which is told as one page.

An incident joins the trouble of what it calls while both last; what is called joins trouble above it only if it began no more
than ``within`` later, since nothing explains what was there long before. Whoever joined stays until it is over, so a group
keeps its name, and its root only moves down the calls, or aside to one with far more of the blame: else every shift of the
blame would be another page.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from typing import NamedTuple

from forecastle.detect.causes import Cause, Topology, reachable
from forecastle.types import digest

_FAR_MORE = 2.0
"""Times the root's own share of the blame that moves the root aside."""


class Fault(NamedTuple):
    """The incident that a group is named after, or where it likely began: when that opened, and where."""

    opened_at: int
    workload: str
    site: str

    @property
    def incident(self) -> str:
        """The incident's id."""
        return digest("incident", self.workload, self.site, self.opened_at)

    @property
    def group(self) -> str:
        """Id of the group named after it."""
        return digest("group", self.workload, self.site, self.opened_at)


class Trouble(NamedTuple):
    """An open incident: who it is, when it was last seen (ms), and the group that it joined before."""

    who: Fault
    last_at: int
    group: Fault | None = None


class Calls:
    """Who may explain whose trouble: what a workload calls, directly or not, and itself at its other sites.

    Workloads of different ``residency`` explain nothing to each other: a page about both could be told to neither's people.
    """

    def __init__(self, topology: Topology, residency: Mapping[str, frozenset[str]]) -> None:
        self._topology, self._residency = topology, residency
        self._named = set(topology) | {name for called in topology.values() for name in called}
        self._known: dict[str, frozenset[str]] = {}

    def of(self, workload: str) -> Set[str]:
        """All that ``workload`` calls and itself; nothing when the call graph does not name it."""
        if workload not in self._named:
            return frozenset()
        if workload not in self._known:
            mine = self._residency.get(workload, frozenset())
            called = reachable({workload}, self._topology)
            self._known[workload] = frozenset(w for w in called if self._residency.get(w, frozenset()) == mine)
        return self._known[workload]

    def between(self, one: str, other: str) -> tuple[bool, bool]:
        """(``one`` calls ``other``, ``other`` calls ``one``)."""
        return other in self.of(one), one in self.of(other)


def groups(troubles: Sequence[Trouble], calls: Calls, within: int) -> dict[Fault, Fault]:
    """The group of each trouble that is not alone, by the incident it is named after. ``within`` is in ms."""
    ordered = sorted(troubles)
    first = list(range(len(ordered)))
    by_workload, by_group = defaultdict(list), defaultdict(list)
    for i, trouble in enumerate(ordered):
        by_workload[trouble.who.workload].append(i)
        if trouble.group is not None:
            by_group[trouble.group].append(i)
    for i, caller in enumerate(ordered):
        near = [j for name in sorted(calls.of(caller.who.workload)) for j in by_workload.get(name, ()) if j != i]
        for j in near:
            if _one_fault(caller, ordered[j], calls, within):
                _join(first, i, j)
    for members in by_group.values():
        for i in members[1:]:
            _join(first, members[0], i)
    together = defaultdict(list)
    for i, trouble in enumerate(ordered):
        together[_root(first, i)].append(trouble)
    return {
        trouble.who: min({t.group for t in members if t.group is not None}, default=members[0].who)
        for members in together.values()
        if len(members) > 1 or members[0].group is not None
        for trouble in members
    }


def rooted(held: Fault | None, causes: Sequence[Cause], members: Sequence[Fault], calls: Calls) -> Fault:
    """Where a group began: the member of ``members`` that is blamed most, unless the root it ``held`` is to stay.

    A held root that is over stays too, until its place is in trouble again: what it left behind is no news.
    """
    shares = {(who.workload, who.site): 0.0 for who in members}
    for cause in causes:
        place = cause.place.workload, cause.place.site
        if place in shares:
            shares[place] += cause.share
    likely = next((c.place for c in causes if (c.place.workload, c.place.site) in shares), None)
    blamed = next((w for w in members if likely and (w.workload, w.site) == (likely.workload, likely.site)), min(members))
    if held is None or held == blamed:
        return blamed
    down, up = calls.between(held.workload, blamed.workload)
    own = shares[held.workload, held.site] if held in members else float("inf")
    aside = down == up and shares[blamed.workload, blamed.site] >= _FAR_MORE * own
    again = (held.workload, held.site) == (blamed.workload, blamed.site)
    return blamed if (down and not up) or aside or again else held


def _one_fault(caller: Trouble, called: Trouble, calls: Calls, within: int) -> bool:
    """Whether they meet, and neither explains what was there long before it."""
    if called.who.opened_at > caller.last_at + within or called.last_at < caller.who.opened_at - within:
        return False
    _, mutual = calls.between(caller.who.workload, called.who.workload)
    late = called.who.opened_at - caller.who.opened_at
    return late <= within and (not mutual or late >= -within)


def _root(first: list[int], i: int) -> int:
    while first[i] != i:
        first[i] = first[first[i]]
        i = first[i]
    return i


def _join(first: list[int], i: int, j: int) -> None:
    a, b = _root(first, i), _root(first, j)
    first[max(a, b)] = min(a, b)
