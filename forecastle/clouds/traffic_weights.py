"""Traffic weights in percent, as the adapters that shift traffic understand them: what is asked for, and one step of a ramp."""

from __future__ import annotations

from forecastle.errors import ConfigError, Unsupported
from forecastle.types import Action

ALL = 100


def wanted(action: Action) -> int:
    """The percent that a SHIFT or DRAIN asks for, 0 to 100. Raises Unsupported."""
    text = str(action.desired)
    if text.isascii() and text.isdigit() and int(text) <= ALL:
        return int(text)
    raise Unsupported(f"{action.kind} {action.target} to {action.desired!r}: ask for whole percent, 0 to {ALL}")


def step(now: int, goal: int, ramp: int) -> int:
    """The weight after one shift from ``now`` towards ``goal``: at most ``ramp`` percent points nearer."""
    return max(goal, now - ramp) if goal < now else min(goal, now + ramp)


def checked_ramp(ramp: int, cloud: str) -> int:
    """``ramp`` if it is one. Raises ConfigError."""
    if isinstance(ramp, int) and 1 <= ramp <= ALL:
        return ramp
    raise ConfigError(f"{cloud} cloud: ramp is {ramp!r}; write the percent points of one shift, 1 to {ALL} ({ALL}: no ramp)")
