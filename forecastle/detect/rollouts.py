"""Which change came before an incident: the release that a pool of the workload was seen to run shortly before it opened."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import NamedTuple

SHORTLY_MS = 3_600_000
"""How long before an incident opens a change is worth a word (ms): what a release breaks may take a while to fill up."""
_LONGEST = 64


class Rollout(NamedTuple):
    """A pool of ``workload`` at ``site`` was first seen with ``release`` at ``since`` (ms), after ``before``."""

    since: int
    workload: str
    site: str
    release: str
    before: str

    def __str__(self) -> str:
        moment = datetime.fromtimestamp(self.since / 1000, UTC)
        return f"release {self.release[:_LONGEST]} since {moment:%H:%M} UTC, {self.before[:_LONGEST]} before"


def suspect(rollouts: Iterable[Rollout], workload: str, site: str, opened_at: int) -> Rollout | None:
    """The newest change of ``workload`` at ``site`` (empty: anywhere) in the hour before ``opened_at`` (ms), if any."""
    mine = (r for r in rollouts if r.workload == workload and site in {"", r.site})
    return max((r for r in mine if opened_at - SHORTLY_MS <= r.since <= opened_at), default=None)
