"""What a model says is believed only within reason: the last look before a forecast becomes capacity.

Rows that fail are answered by the stand-in. A batch in which many fail is a strike against the model; several in a row and the
digest is dropped for good.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from forecastle.types import Floats, Floats32, Mask, Windows

STRIKE_SHARE = 0.1
"""Share of judged rows refused from which a batch is a strike; fewer are single odd series."""
SLACK = 1e-3
"""Departure from order or sign, relative to the window's largest value, that rounding explains and that is put right."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What is reasonable for n series: ``largest`` observed size, whether any value was negative, whether all was zero."""

    largest: Floats
    signed: Mask
    blank: Mask


def bounds(windows: Windows) -> Bounds:
    """Bounds of every row, from the observed slots of its whole window."""
    with np.errstate(invalid="ignore"):
        high = np.max(windows.values, axis=1, where=windows.mask, initial=-np.inf)
        low = np.min(windows.values, axis=1, where=windows.mask, initial=np.inf)
    known = np.isfinite(high) & np.isfinite(low)
    high, low = (np.where(known, part, 0.0).astype(np.float64) for part in (high, low))
    largest = np.maximum(np.abs(high), np.abs(low))
    return Bounds(largest, low < 0, largest == 0)


def judge(answer: Floats32, limits: Bounds, max_ratio: float) -> tuple[Mask, Counter[str]]:
    """Which rows of [n, h, q] are refused, and how often for each reason. Blank rows are not judged."""
    finite: Mask = np.count_nonzero(~np.isfinite(answer), axis=(1, 2)) == 0
    calm = np.where(finite[:, None, None], answer, np.float32(0))
    slack = SLACK * limits.largest
    crossing = np.diff(calm, axis=2).min(axis=(1, 2), initial=0.0) < -slack
    beyond = np.abs(calm).max(axis=(1, 2), initial=0.0) > max_ratio * limits.largest
    negative = ~limits.signed & (calm.min(axis=(1, 2), initial=0.0) < -slack)
    refused = np.zeros(len(answer), np.bool_)
    why: Counter[str] = Counter()
    for reason, found in (
        ("not finite", ~finite),
        ("quantiles cross", crossing),
        (f"beyond {max_ratio:g} times the window", beyond),
        ("negative", negative),
    ):
        fresh = found & ~refused & ~limits.blank
        why[reason] = int(np.count_nonzero(fresh))
        refused |= fresh
    return refused, +why


def tidy(answer: Floats32, limits: Bounds, max_ratio: float) -> Floats32:
    """``answer`` [n, h, q] in order and within its bounds, in place."""
    np.maximum.accumulate(answer, axis=2, out=answer)
    top = np.minimum(max_ratio * limits.largest, np.finfo(np.float32).max).astype(np.float32)
    floor = np.where(limits.signed, -top, np.float32(0))
    return np.clip(answer, floor[:, None, None], top[:, None, None], out=answer)


@dataclass(slots=True)
class Strikes:
    """Consecutive strikes against the model that serves; ``allowed`` of them and it is dropped."""

    allowed: int
    count: int = field(default=0)

    def tell(self, refused: int, judged: int) -> bool:
        """Count a batch in which ``refused`` of ``judged`` rows failed; True when the model must go."""
        self.count = self.count + 1 if refused > STRIKE_SHARE * judged else 0
        return self.count >= self.allowed
