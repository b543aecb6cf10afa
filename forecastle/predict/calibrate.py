"""Quantiles that keep their promise: each series' spread is stretched until its recent forecasts covered what came.

Split conformal prediction over a sliding window, per series, horizon and side. Each forecast of the last ``coverage_window``
ticks, once its target slot is known, gives the factor by which the spread would have had to be stretched to cover it; the
factor that covers all but a tenth is what the next forecast is stretched by. Scores come from forecasts as they were *before*
calibration, so that the state is a function of the last ticks alone and a restart that repeats them finds it again.

Factors are counted in bins as scores enter and leave: a tick costs one addition and one subtraction per series and horizon.
Inside a bin the factor is read off in proportion: its upper end would be up to a fifth too wide, always to the same side.
After Vovk et al., "Algorithmic Learning in a Random World" (2005), and, for the sliding window, Gibbs and Candes, "Adaptive
Conformal Inference Under Distribution Shift" (2021).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from forecastle.types import Floats, Floats32, Ints, Mask, SeriesKey, Windows

TAIL = 0.1
"""Share of outcomes that may lie beyond the reference quantile, on either side."""
PER_DOUBLING = 4
FACTORS = 2.0 ** (np.arange(-6, 17) / PER_DOUBLING)
"""Ends of the bins, and so the stretches there are: 0.35 to 16."""
APART = 5.0
"""Steps of horizon by which neighbouring scores count as one less: some errors outlast the horizon, some do not a tick."""
DOUBT = 2.0
"""Scores at which a factor counts half: this many a step of horizon, since forecasts overlap, and for four steps more."""
FLOOR = 0.01
"""Spread taken to be there at least when stretching, relative to the newest level: no spread at all could not be stretched."""
ANCHORS = 4
RECENT = 60
_BINS = len(FACTORS)


@dataclass(frozen=True, slots=True)
class _Issued:
    """One tick's forecasts at the anchors, still waiting for their targets: [n, anchor] each, NaN where not to be scored."""

    at: int
    middle: Floats32
    upper: Floats32
    lower: Floats32
    floor: Floats32


class Calibrator:
    """State of the stream of one model. ``quantiles`` must hold the median and `TAIL` and its opposite."""

    def __init__(self, quantiles: tuple[float, ...], horizon: int, window: int, step_ms: int) -> None:
        self._levels = np.asarray(quantiles)
        self._low, self._middle, self._high = (_position(quantiles, level) for level in (TAIL, 0.5, 1 - TAIL))
        self.anchors = np.unique(np.geomspace(1, horizon, ANCHORS).round().astype(np.int64))
        self._horizon, self._window_ms, self._step_ms = horizon, window * step_ms, step_ms
        self._keys: tuple[SeriesKey, ...] = ()
        self._issued: deque[_Issued] = deque()
        self._scored: tuple[deque[tuple[int, np.ndarray]], ...] = ()
        self.reset()

    def reset(self) -> None:
        """Forget everything: another model answers from now on."""
        self._issued.clear()
        self._scored = tuple(deque() for _ in self.anchors)
        self._counts = np.zeros((len(self._keys), len(self.anchors), 2 * _BINS + 1), np.int32)

    def observe(self, windows: Windows) -> list[tuple[int, Floats32]]:
        """Score what was forecast for the newest slot, where it was observed and is trusted. Once a tick, before `stretch`.

        Returns (steps, median [n]) of those forecasts, each made that many steps ago; NaN where none is to be scored.
        """
        self._align(windows.keys)
        now, actual = windows.end, windows.values[:, -1].astype(np.float64)
        unknown = ~windows.mask[:, -1] | windows.suspect
        issued = {one.at: one for one in self._issued}
        due: list[tuple[int, Floats32]] = []
        for a, steps in enumerate(self.anchors):
            made = issued.get(now - int(steps) * self._step_ms)
            if made is not None:
                codes = _codes(made, a, actual)
                codes[unknown] = 0
                due.append((int(steps), made.middle[:, a]))
                self._count(a, codes, 1)
                self._scored[a].append((made.at, codes))
            while self._scored[a] and self._scored[a][0][0] <= now - self._window_ms:
                self._count(a, self._scored[a].popleft()[1], -1)
        while self._issued and self._issued[0].at <= now - self._horizon * self._step_ms:
            self._issued.popleft()
        return due

    def stretch(self, values: Floats32, windows: Windows, scored: Mask) -> Floats32:
        """Calibrated quantiles float32[n, h, q] of raw ``values``; rows outside ``scored`` stay as they are.

        The raw ones are remembered for scoring. Quantiles that do not cross do not cross afterwards.
        """
        floor = FLOOR * np.max(np.abs(windows.values[:, -RECENT:]), axis=1, where=windows.mask[:, -RECENT:], initial=0.0)
        self._remember(values, windows.end, scored, floor.astype(np.float32))
        up, down = self.factors()
        up[~scored] = down[~scored] = 1.0
        middle = values[:, :, self._middle, None]
        above, below = slice(self._middle + 1, None), slice(None, self._middle)
        with np.errstate(over="ignore"):  # what is beyond float32 is cut to its bounds by the gate
            offset = values - middle
            for part, factor, side in ((above, up[:, :, None], floor), (below, down[:, :, None], -floor)):
                offset[:, :, part] *= factor
                offset[:, :, part] += np.maximum(factor - 1.0, 0.0) * side[:, None, None] * self._reach(part)
            calibrated: Floats32 = middle + offset
        return calibrated

    def factors(self) -> tuple[Floats32, Floats32]:
        """(upward, downward) stretch float32[n, h] from the scores so far."""
        up, down = (self._factor(self._counts[:, :, part]) for part in (slice(1, _BINS + 1), slice(_BINS + 1, None)))
        return up, down

    def _reach(self, part: slice) -> Floats32:
        """How far each quantile is from the median in units of the reference one, were errors Laplace's."""
        tails = np.minimum(self._levels, 1 - self._levels)[part]
        reach: Floats32 = (np.log(2 * tails) / np.log(2 * TAIL)).astype(np.float32)
        return reach

    def _factor(self, counts: np.ndarray) -> Floats32:
        """The factor beyond which a `TAIL` of all scores lies, were they and the next one drawn alike.

        Of n scores the k-th largest is surpassed with the chance k / (n + 1). The m in its bin are taken to lie evenly: the
        j-th from the top at (j - 1/2) / m of the way down. Scores whose forecasts overlap count as fewer.
        """
        total = self._counts[:, :, 1:].sum(axis=2, dtype=np.int32)
        within = counts.cumsum(axis=2, dtype=np.int32)
        side = within[:, :, -1]
        apart = 1 + (self.anchors - 1) / APART
        allowed = np.maximum(TAIL * (total + apart), apart) - apart / 2
        choice = (within[:, :, :-1] < (side - allowed.astype(np.int32))[:, :, None]).sum(axis=2, dtype=np.int8)[:, :, None]
        inside, reached = (np.take_along_axis(part, choice, axis=2)[:, :, 0] for part in (counts, within))
        choice = choice[:, :, 0]
        down = np.clip((allowed - (side - reached)) / np.maximum(inside, 1), 0, 1) * (choice > 0)
        known, doubt = total**1.5, (DOUBT * (4 + self.anchors)) ** 1.5
        log = (np.log2(FACTORS)[choice] - down / PER_DOUBLING) * (known / (known + doubt))
        steps = np.arange(1, self._horizon + 1)
        right = np.clip(np.searchsorted(self.anchors, steps), 1, len(self.anchors) - 1) if len(self.anchors) > 1 else 0 * steps
        left = np.maximum(right - 1, 0)
        span = np.maximum(self.anchors[right] - self.anchors[left], 1)
        share = (steps - self.anchors[left]) / span
        factor: Floats32 = np.exp2(log[:, left] + (log[:, right] - log[:, left]) * share).astype(np.float32)
        return factor

    def _remember(self, values: Floats32, at: int, scored: Mask, floor: Floats32) -> None:
        picked = values[:, self.anchors - 1]
        middle = np.where(scored[:, None], picked[:, :, self._middle], np.float32(np.nan))
        self._issued.append(_Issued(at, middle, picked[:, :, self._high] - middle, middle - picked[:, :, self._low], floor))

    def _count(self, anchor: int, codes: np.ndarray, by: int) -> None:
        self._counts[np.arange(len(codes)), anchor, codes] += by

    def _align(self, keys: tuple[SeriesKey, ...]) -> None:
        """Rows follow their series when series come and go."""
        if keys is self._keys or keys == self._keys:
            return
        rows = places(self._keys, keys)
        self._keys = keys
        self._counts = moved(self._counts, rows, 0)
        self._scored = tuple(deque((at, moved(codes, rows, 0)) for at, codes in line) for line in self._scored)
        self._issued = deque(
            _Issued(one.at, *(moved(part, rows, np.nan) for part in (one.middle, one.upper, one.lower, one.floor)))
            for one in self._issued
        )


def _codes(made: _Issued, anchor: int, actual: Floats) -> np.ndarray:
    """Score of each series as uint8: 0 none, then the bins of stretches needed upward, then those needed downward."""
    with np.errstate(invalid="ignore"):
        error = actual - made.middle[:, anchor]
        spread = np.where(error >= 0, made.upper[:, anchor], made.lower[:, anchor]).astype(np.float64)
        size = np.abs(error)
        extra = np.where(size > spread, made.floor, 0.0)
        needed = np.divide(size + extra, spread + extra, out=np.zeros_like(size), where=spread + extra > 0)
        needed[(spread + extra == 0) & (size > 0)] = np.inf
        code = np.minimum(np.searchsorted(FACTORS, needed), _BINS - 1) + 1
    code += np.where(error < 0, _BINS, 0)
    code[~np.isfinite(error)] = 0
    codes: np.ndarray = code.astype(np.uint8)
    return codes


def places(before: tuple[SeriesKey, ...], keys: tuple[SeriesKey, ...]) -> Ints:
    """Where each of ``keys`` was in ``before``, int64[n]; -1: it was not."""
    where = {key: i for i, key in enumerate(before)}
    return np.array([where.get(key, -1) for key in keys], np.int64)


def moved(part: np.ndarray, rows: Ints, empty: float) -> np.ndarray:
    """``part`` [m, ...] with its rows at the `places` ``rows`` [n]; ``empty`` for those that are new."""
    fresh = np.full((len(rows), *part.shape[1:]), empty, part.dtype)
    fresh[rows >= 0] = part[rows[rows >= 0]]
    return fresh


def _position(quantiles: tuple[float, ...], level: float) -> int:
    return int(np.argmin(np.abs(np.asarray(quantiles) - level)))
