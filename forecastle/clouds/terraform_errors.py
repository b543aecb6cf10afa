"""What Terraform complains of, as what the caller should do about it. Details stay out: providers print requests into them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from forecastle.errors import CloudUnavailable, ConfigError, Conflict, Denied, ForecastleError, QuotaExceeded

LOCK_RETRY_S = 5.0
LONGEST = 200


class Complaint(NamedTuple):
    """One error of a command: its headline, its detail (read, never told), and the resource it is about."""

    summary: str
    detail: str
    address: str

    @property
    def told(self) -> str:
        """What may be shown: where it happened and the headline, cut short, without what follows an equals sign."""
        line = re.sub(r"([=:]\s*)\S{20,}", r"\1...", self.summary)[:LONGEST]
        return f"{self.address}: {line}" if self.address else line


_TABLE = (
    ("torn", r"unsupported state file"),
    ("locked", r"acquiring the state lock|workspace (is )?already locked"),
    ("stale", r"saved plan is stale"),
    ("init", r"(terraform|tofu) init|initialization required|dependency lock file|load plugin schemas"),
    ("quota", r"quota|limit ?exceeded|insufficient.{0,20}capacity"),
    ("denied", r"access ?denied|unauthori[sz]ed|forbidden|not authorized|\b40[13]\b|no valid credential"),
    ("away", r"throttl|too many requests|timed? ?out|connection (refused|reset|closed)|\b(429|50[0234])\b|no such host"),
)


def error_for(command: str, where: Path, complaints: Sequence[Complaint], *, changing: bool = False) -> ForecastleError:
    """The error that a failed ``command`` means; ``changing``: some of it may have been done before.

    A lock that somebody holds and a provider that is away are CloudUnavailable, a stale plan Conflict, a directory that was
    not initialised, does not parse or has a damaged state ConfigError, a right that is missing Denied, a limit QuotaExceeded.
    """
    told = "; ".join(complaint.told for complaint in complaints) or "no reason given"
    what = f"terraform {command}: {told}"
    text = " ".join(f"{complaint.summary} {complaint.detail}" for complaint in complaints)
    meaning = next((name for name, words in _TABLE if re.search(words, text, re.IGNORECASE)), "")
    errors: dict[str, ForecastleError] = {
        "torn": ConfigError(f"{what}; the state is damaged: restore it, then compare with: terraform -chdir={where} plan"),
        "locked": CloudUnavailable(f"{what}; somebody else is changing this state", retry_after=LOCK_RETRY_S),
        "stale": Conflict(f"{what}; the state changed since it was planned: observe and plan again"),
        "init": ConfigError(f"{what}; run: terraform -chdir={where} init"),
        "quota": QuotaExceeded(what),
        "denied": Denied(what),
        "away": CloudUnavailable(what, ambiguous=changing),
    }
    unknown = CloudUnavailable(what, ambiguous=True) if changing else None
    return errors.get(meaning) or unknown or ConfigError(f"{what}; see it with: terraform -chdir={where} plan")
