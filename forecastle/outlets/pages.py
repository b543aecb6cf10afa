"""What people are told of incidents: one page for all that one fault made, in the name of the one where it likely began.

Programs read every incident in the topic of events and know by ``group`` which belong together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from forecastle.types import Incident, Severity

_NAMED = 5
_SEVERITIES = list(Severity)


class Page(NamedTuple):
    """An incident as people are told of it, and ``others`` of its group that are not told for themselves."""

    incident: Incident
    others: tuple[Incident, ...] = ()


class Pages:
    """The open pages, turn by turn. A root that is over stays the page of its group while others of it are open."""

    def __init__(self) -> None:
        self._roots: dict[str, Incident] = {}

    def of(self, incidents: Sequence[Incident]) -> tuple[Page, ...]:
        """The page of each group of the open ``incidents``, and of each that is in none, in their order."""
        open_now = {i.id: i for i in incidents}
        groups: dict[str, list[Incident]] = defaultdict(list)
        for i in incidents:
            groups[i.group or i.id].append(i)
        self._roots = {name: self._root(name, members, open_now) for name, members in groups.items()}
        return tuple(_page(self._roots[name], members) for name, members in groups.items())

    def _root(self, name: str, members: Sequence[Incident], open_now: dict[str, Incident]) -> Incident:
        """The newest that is known of it. What was never seen of it while it was open is stood in for by the oldest other."""
        root = members[0].root or members[0].id
        known = self._roots.get(name)
        return open_now.get(root) or (known if known is not None and known.id == root else members[0])


def _page(root: Incident, members: Sequence[Incident]) -> Page:
    others = tuple(i for i in members if i.id != root.id)
    if not others:
        return Page(root)
    over = all(i.id != root.id for i in members)
    word = "over itself, still in trouble" if over else "in trouble with it"
    names = [" at ".join(part for part in (i.workload, i.site) if part) for i in others]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    worst = max((i.severity for i in members), key=_SEVERITIES.index)
    cause = f"{root.cause}; {word}: {', '.join(sorted(names)[:_NAMED])}{more}"
    return Page(replace(root, severity=worst, cause=cause), others)
