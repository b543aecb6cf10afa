"""What a commit remembers beside the offset: the event time reached, from which the next start knows how far to look back."""

from __future__ import annotations

from dataclasses import dataclass

PREFIX = "at="


@dataclass(slots=True)
class Position:
    """One assigned partition.

    ``next`` is the offset after the last record returned by poll; records below ``committed`` are history being repeated.
    ``at`` is the newest event time returned (ms, -1: none), ``stamp`` the newest record timestamp.
    """

    number: int
    next: int
    committed: int
    at: int = -1
    stamp: int = -1

    @property
    def rebuilding(self) -> bool:
        """Still before the committed position."""
        return self.next < self.committed

    @property
    def metadata(self) -> str:
        """Text stored with the committed offset."""
        return f"{PREFIX}{self.at}"


def event_time(metadata: str | None) -> int | None:
    """The event time a commit's metadata tells, None when it is not ours."""
    if metadata and metadata.startswith(PREFIX) and metadata[len(PREFIX) :].isdigit():
        return int(metadata[len(PREFIX) :])
    return None
