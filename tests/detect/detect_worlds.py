"""Small worlds for the detectors: many series of a known shape, with one thing going wrong."""

from __future__ import annotations

import numpy as np

from forecastle.types import SeriesKey, Windows

STEP = 60_000
START = 1_700_000_000_000 // STEP * STEP


def keys(n: int, *, sites: int = 2, metrics: int = 1) -> tuple[SeriesKey, ...]:
    return tuple(
        SeriesKey(f"w{i // metrics // sites}", f"m{i % metrics}", (("site", f"s{i // metrics % sites}"),)) for i in range(n)
    )


def daily(n: int, slots: int, seed: int = 0, noise: float = 2.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    at = np.arange(slots)
    phase = rng.random((n, 1))
    return (100 + 30 * np.sin(2 * np.pi * (at / 1440 + phase)) + rng.normal(0, noise, (n, slots))).astype(np.float32)


def windows(values: np.ndarray, mask: np.ndarray | None = None, *, end: int = START, names=None) -> Windows:
    n = len(values)
    mask = np.ones(values.shape, bool) if mask is None else mask
    late = ~mask[:, -3:].any(axis=1)
    return Windows(
        names or keys(n), end, STEP, np.where(mask, values, np.nan).astype(np.float32), mask, late, np.zeros(n, bool)
    )
