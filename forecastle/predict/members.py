"""The series on which a statistical member answers instead of the network, as the model's manifest lists them.

A series is listed when the member won on most of the rolling folds that its training held out, see `flows.members`. What
travels is parameters; the states are found again in every window, for all listed series at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from forecastle.errors import ModelRefused
from forecastle.predict import arima, smoothing
from forecastle.predict.arima import Arima, Arimas
from forecastle.predict.naive import LARGEST, LEAST, UNKNOWN, spread
from forecastle.predict.smoothing import Rules
from forecastle.types import Floats, Floats32, Ints, Mask, SeriesKey, Windows

KINDS: Mapping[str, float] = {"ets": 0.0, "theta": 0.5, "stl_ets": 0.0}
"""Members that smooth, and their weight of the straight line."""
SARIMAX = "sarimax"
TARGETS, ANCHORS = 240, 5
"""Newest slots that a member's errors are measured on, and horizons at which."""
MOST_SEASON = 100_000


@dataclass(frozen=True, slots=True)
class Member:
    """What answers for ``key``: ``rule`` is a row of `Rules`, or of `Arimas` for SARIMAX.

    ``season`` is what each slot of the cycle adds, empty: nothing. Slot s since the epoch takes ``season[s % len(season)]``.
    """

    key: SeriesKey
    kind: str
    rule: tuple[float, float, float] | Arima
    season: tuple[float, ...] = ()

    def told(self) -> dict[str, Any]:
        """As a manifest says it."""
        about = {"workload": self.key.workload, "metric": self.key.metric, "labels": dict(self.key.labels)}
        names = Arima._fields if isinstance(self.rule, Arima) else ("alpha", "beta", "phi")
        return {**about, "member": self.kind, **dict(zip(names, self.rule, strict=True)), "season": list(self.season)}

    @classmethod
    def read(cls, told: Any) -> Member:
        """The reverse of `told`. Raises KeyError, TypeError, ValueError or AttributeError for what it never says."""
        key = SeriesKey(str(told["workload"]), str(told["metric"]), tuple(sorted(told["labels"].items())))
        season = _floats(told["season"])
        if len(season) > MOST_SEASON or not np.isfinite(season).all():
            raise ValueError("season too long or not finite")
        if told["member"] == SARIMAX:
            rule = Arima(_floats(told["ar"]), _floats(told["ma"]), told["difference"])
            rule.check()
            return cls(key, SARIMAX, rule, season)
        alpha, beta, phi = (float(told[name]) for name in ("alpha", "beta", "phi"))
        if told["member"] not in KINDS or not (0 < alpha <= 1 and 0 <= beta <= alpha and 0 < phi <= 1):
            raise ValueError("unknown member, or parameters out of range")
        return cls(key, told["member"], (alpha, beta, phi), season)


def _floats(told: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in told)


class Members:
    """Those of one model. ``told`` is the manifest's list; raises ModelRefused when it cannot be read."""

    def __init__(self, told: Any) -> None:
        try:
            listed = [Member.read(one) for one in told]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelRefused(f"its manifest's members cannot be read ({error}); train again") from error
        self._row = {one.key: i for i, one in enumerate(listed)}
        self._listed = listed

    def __len__(self) -> int:
        return len(self._row)

    def replace(self, answer: Floats32, windows: Windows, quantiles: tuple[float, ...], *, but: Mask | None = None) -> None:
        """Put the members' quantiles into the rows of ``answer`` [n, h, q] whose series are listed and observed enough.

        Rows ``but`` [n] stay the network's: it was told of what members know nothing of.
        """
        enough = np.count_nonzero(windows.mask, axis=1) >= 2 * LEAST
        enough &= ~but if but is not None else True
        asked = {i: self._listed[self._row[key]] for i, key in enumerate(windows.keys) if key in self._row and enough[i]}
        slot, levels = windows.end // windows.step_ms, np.asarray(quantiles)
        for alike in (True, False):
            listed = {i: one for i, one in asked.items() if (one.kind == SARIMAX) is alike}
            if listed:
                rows = np.fromiter(listed, np.int64)
                part = windows.values[rows], windows.mask[rows]
                told = quantiles_of(list(listed.values()), *part, slot=slot, horizon=answer.shape[1], levels=levels)
                answer[rows] = told


def quantiles_of(
    listed: Sequence[Member], values: Floats32, mask: Mask, *, slot: int, horizon: int, levels: Floats
) -> Floats32:
    """Quantiles float32[n, h, q] that each of ``listed`` gives for its window [n, L] whose newest slot is ``slot``.

    All of ``listed`` smooth, or none does. The spread is that of its own errors on the newest `TARGETS` slots. Non-negative
    where the window is.
    """
    known = mask & np.isfinite(values)
    length, steps = values.shape[1], np.arange(1, horizon + 1)
    calm = np.where(known, values, 0.0) - _season(listed, slot + np.arange(1 - length, 1))
    targets = np.arange(max(length - TARGETS, 1), length)
    anchors = np.unique(np.geomspace(1, horizon, ANCHORS).round().astype(np.int64))
    origins = np.maximum(targets - anchors[:, None], 0)
    at = np.unique(np.append(origins, length - 1))
    ahead = _followed(listed, calm, known, at)
    errors = np.stack(
        [calm[:, targets] - ahead(np.searchsorted(at, origins[a]), anchors[a : a + 1])[:, :, 0] for a in range(len(anchors))],
        axis=1,
    )
    judged = known[:, targets][:, None] & np.isfinite(errors) & (targets >= anchors[:, None])
    point = ahead(np.array([len(at) - 1]), steps)[:, 0] + _season(listed, slot + steps)
    assumed = UNKNOWN * np.abs(point[:, :1]) * np.sqrt(steps)
    answer = np.sort(point[:, :, None] + spread(np.nan_to_num(errors), judged, anchors, levels, assumed), axis=2)
    unsigned = np.min(values, axis=1, where=known, initial=0.0) >= 0
    answer[unsigned] = np.maximum(answer[unsigned], 0.0)
    return np.clip(answer, -LARGEST, LARGEST).astype(np.float32)


def _followed(listed: Sequence[Member], calm: Floats, known: Mask, at: Ints) -> Callable[[Ints, Ints], Floats]:
    """From places in ``at`` and steps to what is said there about them: float64[n, places, steps]."""
    shocks = [one.rule for one in listed if isinstance(one.rule, Arima)]
    if shocks:
        arimas = Arimas.of(shocks)
        filtered = arima.states(calm, known, arimas, at)
        return lambda places, steps: filtered.take(places).ahead(arimas, steps)
    rules = Rules.of([(*one.rule, KINDS[one.kind]) for one in listed])
    smoothed = smoothing.states(calm, known, rules, at)
    return lambda places, steps: smoothed.take(places).ahead(rules, steps)


def _season(listed: Sequence[Member], slots: Ints) -> Floats:
    """What the cycle adds at ``slots`` [k] since the epoch: float64[n, k]."""
    added = np.zeros((len(listed), len(slots)))
    for row, one in zip(added, listed, strict=True):
        if one.season:
            row[:] = np.take(one.season, slots % len(one.season))  # its own wrapping counts down, cycle by cycle
    return added
