"""Affiliation precision and recall from their definition (Huet, Navarro, Rossi, KDD 2022), on rows instead of intervals.

Each labelled event owns the rows that are nearer to it than to any other. There, how near the alerts are to the event, and
the event to the alerts, is told as the chance that a row drawn at random would not be nearer: 1 is on it, 0.5 is chance.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from flows.vus import events

Rows = npt.NDArray[np.int64]


def affiliation(label: npt.ArrayLike, alert: npt.ArrayLike) -> tuple[float, float]:
    """(precision, recall) of ``alert`` bool[n] against 0/1 ``label`` [n], each a mean over events.

    Precision is that of the events with an alert in their zone, NaN where there is none; both are NaN without a label.
    """
    truth, at = events(label), np.flatnonzero(np.asarray(alert))
    if not truth:
        return float("nan"), float("nan")
    edges = [0, *((a[1] + b[0]) // 2 + 1 for a, b in pairwise(truth)), len(np.asarray(label))]
    zones = list(pairwise(edges))
    inside = [at[(at >= low) & (at < high)] for low, high in zones]
    alike = list(zip(truth, zones, inside, strict=True))
    near = [_nearness(event, zone, rows) for event, zone, rows in alike if len(rows)]
    reached = [_reached(event, zone, rows) if len(rows) else 0.0 for event, zone, rows in alike]
    return float(np.mean(near)) if near else float("nan"), float(np.mean(reached))


def _nearness(event: tuple[int, int], zone: tuple[int, int], rows: Rows) -> float:
    """Mean chance, over the alerts ``rows`` of the zone, that a row of the zone is no nearer to the event."""
    every = np.arange(*zone)
    away = np.maximum(np.maximum(event[0] - every, every - event[1]), 0)
    beyond = len(every) - np.searchsorted(np.sort(away), away[rows - zone[0]], side="left")
    return float((beyond / len(every)).mean())


def _reached(event: tuple[int, int], zone: tuple[int, int], rows: Rows) -> float:
    """Mean chance, over the event's rows, that a row of the zone is no nearer to them than the nearest alert."""
    low, high = zone
    own = np.arange(event[0], event[1] + 1)
    gap = np.abs(own[:, None] - rows).min(axis=1)
    beyond = np.maximum(own - gap - low + 1, 0) + np.maximum(high - own - gap, 0)
    return float(np.where(gap == 0, 1.0, beyond / (high - low)).mean())
