"""The tokens that were used on a resource, kept in one of its tags: any process can see what another was about to do.

A tag holds 256 characters, which is six claims; an action that is older than the last six on its target is past its deadline.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from forecastle.types import Action, Kind, digest

TAG = "forecastle:last-action"
KEPT = 6
_CLAIM = re.compile(r"([0-9a-f]{16})\.([a-z]+)\.([0-9a-z]*)\.([0-9a-z]+)([+-])")


@dataclass(frozen=True, slots=True)
class Claim:
    """One token: the `abridged` ``kind`` it was used for, the state ``before`` it and what was asked for (``about``).

    ``done``: the effect is known to have happened. Until then it may have, or not.
    """

    token: str
    kind: str
    before: str
    about: str
    done: bool = False

    def __str__(self) -> str:
        return f"{self.token}.{self.kind}.{self.before}.{self.about}{'+' if self.done else '-'}"


@dataclass(frozen=True, slots=True)
class Claims:
    """The claims on one resource, newest first."""

    every: tuple[Claim, ...] = ()

    @classmethod
    def of(cls, tag: str) -> Claims:
        """From a tag's value; what somebody else wrote there is passed over."""
        found = (_CLAIM.fullmatch(word) for word in tag.split(" "))
        return cls(tuple(Claim(m[1], m[2], m[3], m[4], m[5] == "+") for m in found if m))

    def __str__(self) -> str:
        return " ".join(map(str, self.every))

    def find(self, token: str) -> Claim | None:
        """The claim under ``token``."""
        return next((claim for claim in self.every if claim.token == spelled(token)), None)

    @property
    def newest(self) -> str:
        """The token claimed last, '' before the first."""
        return self.every[0].token if self.every else ""

    @property
    def last(self) -> str:
        """The token of the newest effect that is known to have happened, '' before the first."""
        return next((claim.token for claim in self.every if claim.done), "")

    def finished(self, action: Action) -> bool:
        """Whether what the action asks for, under the same name, was done before."""
        return any(c.done and (c.kind, c.about) == (abridged(action.kind), about(action)) for c in self.every)

    def plus(self, claim: Claim) -> Claims:
        """With ``claim`` as the newest."""
        others = tuple(c for c in self.every if c.token != claim.token)
        return Claims((claim, *others)[:KEPT])

    def settled(self, token: str) -> Claims:
        """With the claim under ``token`` done."""
        return Claims(tuple(replace(c, done=True) if c.token == spelled(token) else c for c in self.every))


def spelled(token: str) -> str:
    """``token`` in 16 hex digits: the first of an action's id, a digest of anything else."""
    return token[:16] if re.fullmatch(r"[0-9a-f]{32}", token) else digest(token)[:16]


def abridged(kind: Kind) -> str:
    """The first three letters of a kind, which no other kind has."""
    return kind.value[:3]


def about(action: Action) -> str:
    """What the action asks for, in at most 8 characters: the replicas of a SCALE, a digest of anything else."""
    return str(action.desired) if action.kind is Kind.SCALE else digest(action.replica, action.desired)[:8]
