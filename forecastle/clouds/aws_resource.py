"""What the adapter needs to know about a pool, whichever AWS service runs it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from forecastle.clouds.aws_claims import Claim, Claims
from forecastle.errors import NotFound, Unsupported
from forecastle.types import Action, Kind, digest

GENERATIONS = frozenset({Kind.RESTART, Kind.REPLACE})


@dataclass(frozen=True, slots=True)
class Sight:
    """A pool as it was read, and the one ``replica`` that was asked about.

    ``least`` and ``most`` are the provider's own limits (None: it has none); ``rollout`` identifies the newest rolling
    replacement; ``aside`` are the members taken out of service; ``replica`` is the state of that one, '' when it is not there.
    """

    replicas: int
    ready: int
    release: str
    rollout: str
    claims: Claims
    least: int = 0
    most: int | None = None
    unhealthy: tuple[str, ...] = ()
    aside: tuple[str, ...] = ()
    replica: str = ""
    facts: dict[str, str] = field(default_factory=dict)

    @property
    def version(self) -> str:
        """Changes with every effect; not with a replica that comes up or a claim that is still open."""
        return digest(self.replicas, self.release, self.rollout, *self.aside, "/", self.claims.last)[:16]

    def before(self, action: Action) -> str:
        """What a claim keeps of this state, to tell later whether the action had its effect."""
        return str(self.replicas) if action.kind is Kind.SCALE else digest(self.rollout)[:8]


class Resource(Protocol):
    """One pool in its service."""

    def look(self, replica: str = "") -> Sight:
        """Read it. Raises NotFound when it does not exist."""

    def note(self, claims: Claims) -> None:
        """Write the claims into its tag."""

    def check(self, action: Action) -> None:
        """Raises Unsupported for what the service has no way to do."""

    def holds(self, action: Action, sight: Sight) -> bool:
        """Whether what an action on one replica asks for can be seen."""

    def happened(self, action: Action, sight: Sight, token: str) -> bool:
        """The same, after an effect on one replica that was asked for under ``token`` and never answered."""

    def effect(self, action: Action, sight: Sight, token: str) -> None:
        """Make it so, in one request."""


def holds(resource: Resource, action: Action, sight: Sight) -> bool:
    """Whether what the action asks for is so already."""
    if action.kind is Kind.SCALE:
        return sight.replicas == action.desired
    if action.kind is Kind.ROLLBACK:
        return sight.release == action.desired
    if action.kind in GENERATIONS and sight.claims.finished(action):
        return True
    return bool(action.replica) and resource.holds(action, sight)


def happened(resource: Resource, action: Action, sight: Sight, claim: Claim, token: str) -> bool:
    """Whether the effect that ``claim`` announced can be seen."""
    if action.kind in {Kind.SCALE, Kind.ROLLBACK}:
        return holds(resource, action, sight)
    if action.replica:
        return resource.happened(action, sight, token)
    return sight.before(action) != claim.before


def member(action: Action, sight: Sight) -> None:
    """Raises NotFound when the replica the action is about is not one of the pool's."""
    if action.replica and not sight.replica:
        raise NotFound(f"{action.target}: the pool has no such replica; it may have been replaced: observe again")


def refuse(action: Action, service: str, instead: str) -> Unsupported:
    """The error for an action that ``service`` has no way to do."""
    what = f"{action.kind} of {'a replica' if action.replica else 'the pool'}"
    return Unsupported(f"{action.target}: {what} is nothing that {service} can do; {instead}")
