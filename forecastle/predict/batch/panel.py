"""Many series on one time grid: the only shape in which the members of a batch forecast see data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from forecastle.types import Floats, Ints, Mask

QUANTILES = tuple(round(0.1 * k, 1) for k in range(1, 10))
DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Panel:
    """``values`` float64[n, t] on the grid ``start_ms + step_ms * k``; NaN where nothing was measured.

    ``filled`` repeats the last measurement over gaps and stays NaN before the first one; ``seen`` is where one was made.
    """

    values: Floats
    filled: Floats
    seen: Mask
    start_ms: int
    step_ms: int

    @classmethod
    def of(cls, values: Floats, start_ms: int, step_ms: int) -> Panel:
        """The panel of ``values`` float64[n, t]."""
        return cls(values, forward(values), np.isfinite(values), start_ms, step_ms)

    def until(self, end: int) -> Panel:
        """The first ``end`` columns: what was known by then."""
        return Panel(self.values[:, :end], self.filled[:, :end], self.seen[:, :end], self.start_ms, self.step_ms)

    @property
    def day(self) -> int:
        """Steps a day; 0 when a day is no whole number of steps."""
        return DAY_MS // self.step_ms if DAY_MS % self.step_ms == 0 else 0

    def targets(self, origins: Ints, horizon: int) -> Floats:
        """What came true, float64[n, o, horizon], after the columns ``origins``; NaN where unknown."""
        columns = origins[:, None] + np.arange(1, horizon + 1)
        known = columns < self.values.shape[1]
        return np.asarray(np.where(known, self.values[:, np.minimum(columns, self.values.shape[1] - 1)], np.nan))


def forward(values: Floats) -> Floats:
    """Rows of ``values`` [n, t] with each gap repeating what came before it."""
    known = np.isfinite(values)
    if known.all():
        return values
    source = np.maximum.accumulate(np.where(known, np.arange(values.shape[1]), 0), axis=1)
    return np.asarray(np.take_along_axis(values, source, axis=1))


def pinball(quantiles: npt.NDArray[np.floating], actual: Floats) -> Floats:
    """Mean pinball loss [..., h] of ``quantiles`` [..., h, 9] for ``actual`` [..., h]; NaN where unknown."""
    error = actual[..., None] - quantiles
    levels = np.asarray(QUANTILES)
    return np.asarray(np.maximum(levels * error, (levels - 1) * error).mean(axis=-1))
