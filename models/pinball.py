"""The pinball loss: what a quantile forecast is trained on and judged by, once for torch and once for numpy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor


def pinball(forecast: Tensor, target: Tensor, quantiles: Tensor) -> Tensor:
    """Loss of ``forecast`` [n, h, q] against ``target`` [n, h] at each point: [n, h], mean over the quantiles."""
    error = target.unsqueeze(2) - forecast
    return (error * (quantiles - (error < 0).to(error.dtype))).mean(2)


def pinball_score(forecast: npt.NDArray[np.floating], target: npt.NDArray[np.floating], quantiles: Sequence[float]) -> float:
    """Mean loss of ``forecast`` [..., h, q] over the targets [..., h] that are not NaN; NaN when there are none."""
    error = (target[..., None] - forecast).astype(np.float64)
    loss = np.where(error < 0, np.asarray(quantiles) - 1.0, np.asarray(quantiles)) * error
    known = np.isfinite(target)
    return float(loss[known].mean()) if known.any() else float("nan")
