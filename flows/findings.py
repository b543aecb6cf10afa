"""What a comparison found, in the words that a person reads: reasons against a candidate, errors side by side, notes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain

METRICS = ("crps", "wql", "mase", "tail_pinball", "missed", "tail_loss")
"""Errors by which models are compared, the best first; what both recorded when they were published counts."""


@dataclass(frozen=True, slots=True)
class Findings:
    """``reasons`` against a candidate. ``errors``: metric -> (candidate, champion); ``notes`` say what was not looked at."""

    reasons: tuple[str, ...] = ()
    errors: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    change: float | None = None
    notes: tuple[str, ...] = ()


def compared(mine: Mapping[str, float], theirs: Mapping[str, float], where: str, margin: float) -> Findings:
    """The first metric both have decides; all that both have are shown."""
    errors = {metric: (mine[metric], theirs[metric]) for metric in METRICS if metric in mine and metric in theirs}
    if not errors:
        return Findings((f"no error that both models have {where}; give a history to compare them on, or force",))
    metric, (own, other) = next(iter(errors.items()))
    if own <= other - margin * abs(other):
        return Findings(errors=errors)
    word = "is not enough beside" if own <= other else "is worse than"
    asked = f", which it must beat by {margin:.1%}" if margin > 0 else f" by more than {-margin:.1%}" if margin < 0 else ""
    return Findings((f"{metric} {own:.4g} {where} {word} the champion's {other:.4g}{asked}",), errors)


def together(one: Findings, other: Findings) -> Findings:
    """All that speaks in both; the larger change."""
    change = max((c for c in (one.change, other.change) if c is not None), default=None)
    notes = tuple(dict.fromkeys(chain(one.notes, other.notes)))
    return Findings(one.reasons + other.reasons, {**one.errors, **other.errors}, change, notes)
