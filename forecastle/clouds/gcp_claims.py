"""How a token travels: in the request id of an operation, the name of a group's version, an annotation or a label.

All of them carry the same two words: which action it is, and what it asks for. Any process can read them back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from forecastle.types import Action, Kind, digest

ANNOTATION = "forecastle/last-actions"
LABEL = "forecastle-claim-"
KEPT = 32
LABELS = 3
_WORD = 15
_MARK = re.compile(r"([0-9a-f]{15})-([0-9a-f]{15})")
_GENERATIONS = frozenset({Kind.RESTART, Kind.REPLACE})


@dataclass(frozen=True, slots=True)
class Mark:
    """An action as it is written down: 15 hex digits of its ``token``, and of what it asks for (``about``)."""

    token: str
    about: str

    @classmethod
    def of(cls, action: Action, token: str) -> Mark:
        """The mark of ``action`` under ``token``."""
        spelled = token[:_WORD] if re.fullmatch(r"[0-9a-f]{32}", token) else digest(token)[:_WORD]
        return cls(spelled, digest(action.kind.value, action.replica, action.desired)[:_WORD])

    @classmethod
    def read(cls, text: str) -> tuple[Mark, ...]:
        """Every mark in ``text``; what somebody else wrote there is passed over."""
        return tuple(cls(*found) for found in _MARK.findall(text))

    @classmethod
    def requested(cls, request_id: str) -> Mark | None:
        """The mark in the request id of an operation, None where it is nobody's of ours."""
        digits = request_id.replace("-", "")
        if len(digits) != 32 or digits[12] != "4" or digits[16] != "a":
            return None
        return cls(digits[:12] + digits[13:16], digits[17:])

    @property
    def request_id(self) -> str:
        """As a UUID."""
        token, about = self.token, self.about
        return f"{token[:8]}-{token[8:12]}-4{token[12:]}-a{about[:3]}-{about[3:]}"

    def __str__(self) -> str:
        return f"{self.token}-{self.about}"

    def says(self, other: Mark, kind: Kind) -> bool:
        """Whether ``other`` used this token, or asked for the same restart or replacement before."""
        return self.token == other.token or (kind in _GENERATIONS and self.about == other.about)


@dataclass(frozen=True, slots=True)
class SizeClaim:
    """A SCALE about to be told to a node pool: its ``token``, and from which to which number of nodes."""

    token: str
    before: int
    after: int

    def __str__(self) -> str:
        return f"{self.token}_{self.before}_{self.after}"


def size_claims(labels: Mapping[str, str]) -> tuple[SizeClaim, ...]:
    """The claims in the labels of a node pool, newest first."""
    text = "".join(f"--{labels.get(f'{LABEL}{i}', '')}" for i in range(LABELS))
    found = (re.fullmatch(r"([0-9a-f]{15})_(\d+)_(\d+)", word) for word in text.split("--"))
    return tuple(SizeClaim(m[1], int(m[2]), int(m[3])) for m in found if m)


def with_claim(labels: Mapping[str, str], claim: SizeClaim) -> dict[str, str]:
    """``labels`` with ``claim`` as the newest; two claims fit into the 63 characters of one label."""
    every = (claim, *(c for c in size_claims(labels) if c.token != claim.token))[: 2 * LABELS]
    ours = {f"{LABEL}{i}": "--".join(map(str, every[2 * i : 2 * i + 2])) for i in range(LABELS) if every[2 * i : 2 * i + 2]}
    return {**{key: value for key, value in labels.items() if not key.startswith(LABEL)}, **ours}
