"""The NAB score from its definition (Lavin and Ahmad, "Evaluating real-time anomaly detection algorithms", ICMLA 2015).

Each labelled window earns its earliest detection by its position, a missed one costs, and every detected row outside
costs by its distance from the window before it. Normalized: no detection is 0, a perfect detector 100.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Windows = Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Profile:
    """Weights of a cost matrix: a detected window, a row outside, a missed window."""

    true_positive: float = 1.0
    false_positive: float = 0.11
    false_negative: float = 1.0


STANDARD = Profile()


def probation(rows: int) -> int:
    """Leading rows that are not scored: 15%, at most 750."""
    return min(int(0.15 * rows), 750)


def sigmoid(x: npt.ArrayLike) -> Floats:
    """2 / (1 + exp(5x)) - 1: 1 far inside, 0 at a window's end, -1 far after it."""
    return np.asarray(2.0 / (1.0 + np.exp(5.0 * np.minimum(np.asarray(x, float), 100.0))) - 1.0)


def costs(rows: int, windows: Windows, profile: Profile = STANDARD) -> Floats:
    """What a detection at each row outside every window adds (negative); 0 inside windows and in the probation."""
    at = np.arange(rows)
    cost = np.full(rows, -1.0)
    for first, last in sorted(windows):
        after = (at - last) / max(last - first, 1)
        cost = np.where(at > last, np.where(after > 3.0, -1.0, sigmoid(after)), cost)
    for first, last in windows:
        cost[first : last + 1] = 0.0
    cost[: probation(rows)] = 0.0
    return cost * profile.false_positive


def gain(windows: Windows, detections: npt.NDArray[np.intp], profile: Profile = STANDARD) -> float:
    """Sum over windows: the earliest detection's share of a perfect one, or the cost of missing it."""
    total = 0.0
    for first, last in windows:
        inside = detections[(detections >= first) & (detections <= last)]
        if len(inside):
            place = -(last - inside[0] + 1) / (last - first + 1)
            total += profile.true_positive * float(sigmoid(place)) / float(sigmoid(-1.0))
        else:
            total -= profile.false_negative
    return total


def nab_score(files: Sequence[tuple[Windows, npt.NDArray[np.bool_]]], profile: Profile = STANDARD) -> float:
    """Normalized score of one detection flag per row for each file with its windows (rows, both ends included)."""
    raw, count = 0.0, 0
    for windows, flags in files:
        rows = np.flatnonzero(flags)
        rows = rows[rows >= probation(len(flags))]
        raw += gain(windows, rows, profile) + float(costs(len(flags), windows, profile)[rows].sum())
        count += len(windows)
    null, perfect = -profile.false_negative * count, profile.true_positive * count
    return 100.0 * (raw - null) / (perfect - null)


def best_score(
    files: Sequence[tuple[Windows, Floats]], profile: Profile = STANDARD, onsets: bool = False
) -> tuple[float, float]:
    """(score, threshold) of the one threshold for all files that scores best, as NAB's optimizer does.

    ``onsets``: only the rows at which a score rises above the threshold are detections.
    """
    pool = np.concatenate([np.sort(score[probation(len(score)) :])[-300:] for _, score in files])
    best = 0.0, float("inf")
    for cut in np.unique(np.quantile(pool, np.linspace(0.0, 1.0, 250))):
        flags = [(windows, score >= cut) for windows, score in files]
        if onsets:
            flags = [(windows, flag & ~np.concatenate([[False], flag[:-1]])) for windows, flag in flags]
        best = max(best, (nab_score(flags, profile), float(cut)))
    return best
