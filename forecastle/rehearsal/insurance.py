"""What the knob values of our policy are made of: learned prices, and what lies below, between and beyond them.

Below the cheapest price its thresholds are lowered; beyond the dearest they are raised. A jump that nothing announces is met by
a multiple of the demand that is there, and it is the cheapest thresholds that are held up so: a dear forecast on top of what
is raised already would be paid twice. The same with an HPA as the floor: the forecast only adds what will be needed, so that
no more is left unmet than under that HPA alone. Jumps come in clusters: to hold a multiple of the last quarter of an hour's or
hour's peak costs less than a larger multiple of the last minute's, and here the dearest thresholds below it are seldom paid
for. On spans that the forecast has not seen the like of, these are the curve, so they are not chosen by a history.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from forecastle.rehearsal.hpa import TARGETS, WINDOWS_S, RateHpa, Stabilizer
from forecastle.rehearsal.simulate import PoolModel
from forecastle.rehearsal.trace import STEP_S, Demand
from forecastle.types import Floats, Ints, Mask

PRICES = (1.25, 2.0, 4.0, 8.0, 20.0, 50.0, 128.0)
CUTS = (0.15, 0.3, 0.5)
"""Less than the cheapest price buys: its learned thresholds, lowered by these logarithms."""
MARGINS = (0.1, 0.2, 0.35, 0.5, 0.7)
"""Insurance beyond the dearest price: its learned thresholds, raised by these logarithms."""
MULTIPLES = (1.0, 1.05, 1.1, 1.15, 1.2, 1.3, 1.45, 1.7, 2.0, 2.5, 3.4)
"""Insurance against jumps that nothing announces: the cheapest thresholds, at least so many times the demand that is seen."""
MULTIPLE_S = 60
"""Seconds whose largest demand is multiplied, as long as the shorter window of the HPA: a dip of a minute removes nothing."""
BOTH = ((0.7, 3.4), (1.2, 5.0), (1.8, 8.0))
"""A margin on the dearest price and a multiple together, for the last of the demand."""


class Hold(NamedTuple):
    """A multiple of the largest demand of the last ``span_s`` seconds."""

    multiple: float
    span_s: int


HOLDS = tuple(Hold(multiple, span_s) for span_s in (900, 3600) for multiple in (1.0, 1.25, 1.6, 2.0))
"""Insurance against jumps that come again: the dearest thresholds, at least so many times the peak of so long. A plain grid."""


class Floor(NamedTuple):
    """An HPA at ``target``, a share of a replica's capacity, with its scale-down window."""

    target: float
    window_s: int


FLOORS = tuple(Floor(target, window_s) for target in TARGETS for window_s in WINDOWS_S)
"""Every HPA of the peer's own sweep, below the cheapest thresholds: no more is left unmet than under it, for little more."""


class _Part(NamedTuple):
    """One knob value."""

    knob: str
    left: int
    right: int
    price: float
    margin: float = 0.0
    multiple: float = 0.0
    span_s: int = MULTIPLE_S
    target: float = np.inf
    window_s: int = STEP_S


@dataclass(frozen=True, slots=True)
class Insurance:
    """K columns made of P learned ones: the geometric mean of ``left`` and ``right`` int64[K], ``raised`` float64[K] times.

    They are at least ``multiple`` float64[K] times the largest demand of the last ``span_s`` int64[K], never below an HPA at
    ``target`` float64[K] (inf: no such floor) with the scale-down window ``window_s`` int64[K], and accept a shortfall of
    ``risk`` float64[K].
    """

    knobs: tuple[str, ...]
    left: Ints
    right: Ints
    raised: Floats
    multiple: Floats
    span_s: Ints
    target: Floats
    window_s: Ints
    risk: Floats

    @classmethod
    def of(
        cls,
        prices: tuple[float, ...],
        margins: tuple[float, ...] = (),
        multiples: tuple[float, ...] = (),
        cuts: tuple[float, ...] = (),
        floors: tuple[Floor, ...] = (),
        *,
        holds: tuple[Hold, ...] = (),
    ) -> Insurance:
        """The cheapest price with ``cuts``; prices with one between each two; the dearest with ``margins``.

        Then the cheapest with ``multiples``, the dearest with both if there are any, the cheapest above each of ``floors``, and
        the dearest with ``holds``.
        """
        p, cheap, dear = len(prices) - 1, prices[0], prices[-1]
        parts = [_Part(f"{cheap:g}-{cut:g}", 0, 0, cheap, -cut) for cut in sorted(cuts, reverse=True)]
        for k, price in enumerate(prices):
            parts.append(_Part(f"{price:g}", k, k, price))
            if k < p:
                between = float(np.sqrt(price * prices[k + 1]))
                parts.append(_Part(f"{between:.3g}", k, k + 1, between))
        parts += [_Part(f"{dear:g}+{m:g}", p, p, dear, m) for m in margins]
        parts += [_Part(f"{cheap:g}x{multiple:g}", 0, 0, cheap, 0.0, multiple) for multiple in multiples]
        both = BOTH if margins and multiples else ()
        parts += [_Part(f"{dear:g}+{m:g}x{multiple:g}", p, p, dear, m, multiple) for m, multiple in both]
        parts += [_Part(f"{cheap:g}@{target:g}/{w}s", 0, 0, cheap, target=target, window_s=w) for target, w in floors]
        parts += [_Part(f"{dear:g}x{multiple:g}/{s}s", p, p, dear, 0.0, multiple, s) for multiple, s in holds]
        margin = np.array([part.margin for part in parts])
        served = (1.0 - 1.0 / np.array([part.price for part in parts])) * np.exp(np.minimum(margin, 0.0))
        return cls(
            tuple(part.knob for part in parts),
            np.array([part.left for part in parts]),
            np.array([part.right for part in parts]),
            np.exp(margin),
            np.array([part.multiple for part in parts]),
            np.array([part.span_s for part in parts]),
            np.array([part.target for part in parts]),
            np.array([part.window_s for part in parts]),
            1.0 - served,
        )

    def only(self, knobs: Collection[str]) -> Insurance:
        """The columns of these ``knobs``."""
        k = np.array([i for i, knob in enumerate(self.knobs) if knob in knobs], np.int64)
        return Insurance(
            tuple(self.knobs[i] for i in k.tolist()),
            self.left[k],
            self.right[k],
            self.raised[k],
            self.multiple[k],
            self.span_s[k],
            self.target[k],
            self.window_s[k],
            self.risk[k],
        )

    @property
    def fixed(self) -> Mask:
        """Columns bool[K] for what a history cannot show: above an HPA, with a hold, with a margin and a multiple."""
        held = self.span_s > MULTIPLE_S
        return np.isfinite(self.target) | held | ((self.raised > 1.0) & (self.multiple > 0.0))

    def columns(self, learned: Floats) -> Floats:
        """The learned thresholds float64[..., P] as float64[..., K], without the multiples."""
        above = np.maximum(learned, 0.0)
        return np.asarray(np.sqrt(above[..., self.left] * above[..., self.right]) * self.raised)


class Beside:
    """HPAs that run beside the policy on orders of their own: what each would have ordered had it been alone."""

    def __init__(self, demand: Demand, pool: PoolModel, insurance: Insurance) -> None:
        self._pool, self._alone = pool, np.zeros(0, np.int64)
        targets = insurance.target * pool.capacity
        self._hpa = RateHpa(demand, pool, targets, Stabilizer(insurance.window_s, pool))

    def step(self, i: int, ordered: Ints, ready: Ints) -> Ints:
        """Their orders int64[K]; they begin with what is ``ordered`` int64[K] at the first step."""
        before = self._alone if len(self._alone) else ordered
        self._alone = np.clip(self._hpa.step(i, before, ready), self._pool.min, self._pool.max)
        return self._alone
