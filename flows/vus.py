"""VUS-PR from its definition, fast enough to run on every change.

The volume under the surface of precision and range-recall over thresholds and label tolerances (Paparrizos et al.,
"Volume under the surface", VLDB 2022), in the form the TSB-AD leaderboard uses: labels are softened by sqrt(1 - d / w)
for half a window on both sides, recall is scaled by the share of events found at all, and the area is averaged over all
windows 0..w.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def events(label: npt.ArrayLike) -> list[tuple[int, int]]:
    """Stretches of ones as (first, last), both included."""
    flags = np.concatenate([[0], (np.asarray(label) > 0).astype(int), [0]])
    edges = np.flatnonzero(np.diff(flags))
    return [(int(a), int(b) - 1) for a, b in edges.reshape(-1, 2)]


def softened(label: Floats, width: int) -> Floats:
    """Labels float64[n] with tolerance ``width``, clipped at 1."""
    soft = label.astype(float).copy()
    for first, last in events(label):
        after = np.arange(last + 1, min(last + width // 2 + 1, len(label)))
        soft[after] += np.sqrt(1 - (after - last) / width)
        before = np.arange(max(first - width // 2, 0), first)
        soft[before] += np.sqrt(1 - (first - before) / width)
    return np.asarray(np.minimum(soft, 1.0))


def vus_pr(label: npt.ArrayLike, score: npt.ArrayLike, window: int, thresholds: int = 250) -> float:
    """VUS-PR of ``score`` [n] against 0/1 ``label`` [n], tolerances 0..``window``; NaN without events."""
    truth, values = np.asarray(label, float), np.asarray(score, float)
    if not truth.any():
        return float("nan")
    n, positives = len(values), truth.sum()
    ordered = np.sort(values)
    cuts = ordered[::-1][np.linspace(0, n - 1, thresholds).astype(int)]
    predicted = n - np.searchsorted(ordered, cuts, side="left")
    bucket = np.searchsorted(-cuts, -values, side="left")
    hits = np.cumsum(np.bincount(bucket[truth > 0], minlength=thresholds)[:thresholds]).astype(float)
    areas = []
    for width in range(window + 1):
        soft = softened(truth, width) if width > 1 else truth
        extra = np.flatnonzero((soft > 0) & (truth == 0))
        more = np.cumsum(np.bincount(bucket[extra], weights=soft[extra], minlength=thresholds)[:thresholds])
        peaks = np.array([values[a : b + 1].max() for a, b in _reach(truth, width)])
        found = (peaks[None, :] >= cuts[:, None]).mean(axis=1)
        true = hits + more
        recall = np.minimum(true / ((2 * positives + more) / 2), 1.0) * found
        areas.append(float(np.dot(np.diff(recall, prepend=0.0), true / predicted)))
    return float(np.mean(areas))


def _reach(label: Floats, width: int) -> list[tuple[int, int]]:
    """Events with their tolerance, merged where they meet."""
    merged: list[tuple[int, int]] = []
    for first, last in events(label):
        a, b = max(first - width // 2, 0), min(last + width // 2, len(label) - 1)
        if merged and a <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(b, merged[-1][1]))
        else:
            merged.append((a, b))
    return merged


def period(values: npt.ArrayLike, default: int = 125) -> int:
    """The tolerance TSB-AD uses: the lag of the highest local maximum of the autocorrelation, 3..300, else 125."""
    x = np.asarray(values, float)[:20000]
    x = x - x.mean()
    power = np.abs(np.fft.rfft(x, 2 * len(x))) ** 2
    lags = np.fft.irfft(power)[: min(401, len(x))]
    if lags[0] <= 0:
        return default
    tail = (lags / lags[0])[3:]
    peaks = np.flatnonzero((tail[1:-1] > tail[:-2]) & (tail[1:-1] > tail[2:])) + 1
    if not len(peaks):
        return default
    best = int(peaks[np.argmax(tail[peaks])])
    return default if best < 3 or best > 300 else best + 3
