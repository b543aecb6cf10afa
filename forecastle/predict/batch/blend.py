"""How much each member counts, per series and stretch of the horizon, by its pinball loss on validation origins.

A series with few validation targets follows the whole file: choosing members freely on little evidence loses more
than it gains.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from forecastle.types import Floats, Mask

SHARPNESS = 16.0
PRIOR = 200.0
HANDICAP = 1.1
"""How much worse a naive member is taken to be than it was: a few lucky origins should not unseat the network."""


def weights(losses: Floats, buckets: list[slice]) -> Floats:
    """Weights float64[m, n, h] summing to 1 over the members from ``losses`` [m, n, o, h] (NaN: unknown)."""
    out = np.empty((*losses.shape[:2], losses.shape[3]))
    for bucket in buckets:
        part = losses[..., bucket]
        known = np.isfinite(part).all(axis=0)
        count = known.sum(axis=(1, 2))
        own = np.where(known, part, 0.0).sum(axis=(2, 3)) / np.maximum(count, 1)
        best = np.maximum(own.min(axis=0), 1e-12)
        relative = np.clip(own / best, 1.0, 20.0)
        shared = (relative * count).sum(axis=1) / max(count.sum(), 1)
        shared = shared / max(shared.min(), 1e-12) if count.sum() else np.ones(len(shared))
        trust = count / (count + PRIOR)
        mixed = trust * relative + (1 - trust) * shared[:, None]
        raw = np.exp(-SHARPNESS * (mixed - mixed.min(axis=0)))
        out[..., bucket] = (raw / raw.sum(axis=0))[..., None]
    return out


def mix(quantiles: npt.NDArray[np.floating], weight: Floats) -> Floats:
    """Weighted mean float[n, o, h, 9] of ``quantiles`` [m, n, o, h, 9] with ``weight`` [m, n, h]; NaN members are left out."""
    known: Mask = np.asarray(np.isfinite(quantiles).all(axis=-1))
    share = known * weight[:, :, None, :]
    total = share.sum(axis=0)
    share = share / np.where(total > 0, total, np.nan)
    return np.asarray(np.einsum("mnohq,mnoh->nohq", np.nan_to_num(quantiles), share))


def horizon_buckets(horizon: int) -> list[slice]:
    """Stretches of the horizon that share weights: the near, the middle and the far steps."""
    cuts = sorted({0, max(1, horizon // 6), max(1, horizon // 2), horizon})
    return [slice(a, b) for a, b in pairwise(cuts)]
