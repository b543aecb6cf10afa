"""What the adapter needs to know about a pool, whichever Azure service runs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from forecastle.clouds.aws_claims import Claim, Claims
from forecastle.errors import Unsupported
from forecastle.types import Action, Kind, digest

TAG = "forecastle-last-actions"


@dataclass(frozen=True, slots=True)
class Sight:
    """A pool as it was read, and the one ``replica`` that was asked about.

    ``etag`` names the state that a conditional write presumes, '' where the service has none; ``tags`` are all the resource
    has; ``aside`` are the members taken out of service; ``replica`` is the state of that one, '' when it is not there, and
    ``touched`` says when Azure last worked on it. ``facts`` is what the service itself needs of what was read.
    """

    replicas: int
    ready: int
    release: str
    etag: str
    tags: Mapping[str, str]
    least: int = 0
    most: int | None = None
    unhealthy: tuple[str, ...] = ()
    aside: tuple[str, ...] = ()
    replica: str = ""
    touched: str = ""
    facts: Mapping[str, object] = field(default_factory=dict)

    @property
    def claims(self) -> Claims:
        """The tokens that were used on it."""
        return Claims.of(self.tags.get(TAG, ""))

    @property
    def version(self) -> str:
        """Changes with every effect; not with a replica that comes up or a claim that is still open."""
        return digest(self.replicas, self.release, *self.aside, "/", self.claims.last)[:16]

    @property
    def condition(self) -> str:
        """The etag that a conditional write presumes. Raises Unsupported where Azure gave none: nothing is written blindly."""
        if not self.etag:
            raise Unsupported("Azure gave no etag with the pool, so that a write could not be made to depend on it")
        return self.etag

    def before(self, action: Action) -> str:
        """What a claim keeps of this state, to tell later whether the action had its effect."""
        return str(self.replicas) if action.kind is Kind.SCALE else digest(self.touched)[:8]

    def tagged(self, claims: Claims) -> dict[str, str]:
        """All the resource's tags, with these claims: a write replaces them all."""
        return {**self.tags, TAG: str(claims)}


class Resource(Protocol):
    """One pool in its service."""

    def look(self, replica: str = "") -> Sight:
        """Read it. Raises NotFound when it does not exist."""

    def check(self, action: Action, sight: Sight) -> None:
        """Raises Unsupported for what the service has no way to do, QuotaExceeded for what there is no room for."""

    def steps(self, action: Action) -> int:
        """1 when the effect goes with the claim, in one write; 2 when another request has it."""

    def begin(self, action: Action, sight: Sight, claims: Claims) -> None:
        """Write the claims, and with them what the action asks for. Raises Changed when it is not as ``sight`` any more."""

    def finish(self, action: Action, sight: Sight) -> None:
        """The second step: one request."""

    def settle(self, sight: Sight, claims: Claims) -> None:
        """Write the claims alone. Raises Changed when it is not as ``sight`` any more."""

    def holds(self, action: Action, sight: Sight) -> bool:
        """Whether what an action on one replica asks for can be seen."""

    def happened(self, action: Action, sight: Sight, claim: Claim) -> bool:
        """Whether the second step, asked for under ``claim`` and never answered, can be seen."""


class OneWrite:
    """A pool whose every effect goes with the claim, in one write: nothing is left to do, and nothing is about a replica."""

    def steps(self, _: Action) -> int:
        """One."""
        return 1

    def finish(self, _: Action, __: Sight) -> None:
        """Nothing is left to do."""

    def settle(self, _: Sight, __: Claims) -> None:
        """Nothing is left open."""

    def holds(self, _: Action, __: Sight) -> bool:
        """No replica is asked for."""
        return False

    def happened(self, _: Action, __: Sight, ___: Claim) -> bool:
        """It went with the claim."""
        return True


def holds(resource: Resource, action: Action, sight: Sight) -> bool:
    """Whether what the action asks for is so already."""
    if action.kind is Kind.SCALE:
        return sight.replicas == action.desired
    if action.kind is Kind.ROLLBACK:
        return sight.release == action.desired
    if action.kind in {Kind.RESTART, Kind.REPLACE} and sight.claims.finished(action):
        return True
    return bool(action.replica) and resource.holds(action, sight)


def refuse(action: Action, service: str, instead: str) -> Unsupported:
    """The error for an action that ``service`` has no way to do."""
    what = f"{action.kind} of {'a replica' if action.replica else 'the pool'}"
    return Unsupported(f"{action.target}: {what} is nothing that {service} can do; {instead}")
