"""What the adapter needs to know about a pool, whichever Google service runs it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from forecastle.errors import Unsupported
from forecastle.types import Action


@dataclass(frozen=True, slots=True)
class Sight:
    """A pool as it was read: ``facts`` is the API's own object, ``least`` and ``most`` the provider's limits (None: none).

    ``members`` maps the name of each replica that can be acted upon alone to its URL.
    """

    replicas: int
    ready: int
    version: str
    release: str = ""
    least: int = 0
    most: int | None = None
    unhealthy: tuple[str, ...] = ()
    members: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


class Resource(Protocol):
    """One pool in its service."""

    def look(self) -> Sight:
        """Read it. Raises NotFound when it does not exist."""

    def used(self, action: Action, sight: Sight, token: str) -> str:
        """How it is known that ``token`` was used, or the same generation asked for; '' when neither.

        Waits for what is under way; raises what the effect under this token failed with.
        """

    def check(self, action: Action, sight: Sight) -> None:
        """Raises Unsupported for what the service has no way to do."""

    def effect(self, action: Action, sight: Sight, token: str) -> None:
        """Make it so and wait for the operation. Raises Stale when ``sight`` is not the newest."""


def refuse(action: Action, service: str, instead: str) -> Unsupported:
    """The error for an action that ``service`` has no way to do."""
    what = f"{action.kind} of {'a replica' if action.replica else 'the pool'}"
    return Unsupported(f"{action.target}: {what} is nothing that {service} can do; {instead}")
