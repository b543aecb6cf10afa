"""The series on which a statistical member answers instead of the network, as the model's manifest lists them.

A series is listed when the member won on most of the rolling folds that its training held out, see `flows.members`. What
travels is parameters; the states are found again in every window, for all listed series at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from forecastle.errors import ModelRefused
from forecastle.predict.naive import LARGEST, LEAST, UNKNOWN, spread
from forecastle.predict.smoothing import Rules, states
from forecastle.types import Floats, Floats32, Ints, Mask, SeriesKey, Windows

KINDS: Mapping[str, float] = {"ets": 0.0, "theta": 0.5, "stl_ets": 0.0}
"""Members and their weight of the straight line."""
TARGETS, ANCHORS = 240, 5
"""Newest slots that a member's errors are measured on, and horizons at which."""
MOST_SEASON = 100_000


@dataclass(frozen=True, slots=True)
class Member:
    """What answers for ``key``: ``rule`` is a row of `Rules`; ``season`` is what each slot of the cycle adds, empty: nothing.

    Slot s since the epoch takes ``season[s % len(season)]``.
    """

    key: SeriesKey
    kind: str
    rule: tuple[float, float, float]
    season: tuple[float, ...] = ()

    def told(self) -> dict[str, Any]:
        """As a manifest says it."""
        alpha, beta, phi = self.rule
        about = {"workload": self.key.workload, "metric": self.key.metric, "labels": dict(self.key.labels)}
        return {**about, "member": self.kind, "alpha": alpha, "beta": beta, "phi": phi, "season": list(self.season)}

    @classmethod
    def read(cls, told: Any) -> Member:
        """The reverse of `told`. Raises KeyError, TypeError, ValueError or AttributeError for what it never says."""
        key = SeriesKey(str(told["workload"]), str(told["metric"]), tuple(sorted(told["labels"].items())))
        alpha, beta, phi = (float(told[name]) for name in ("alpha", "beta", "phi"))
        season = tuple(float(value) for value in told["season"])
        if told["member"] not in KINDS or not (0 < alpha <= 1 and 0 <= beta <= alpha and 0 < phi <= 1):
            raise ValueError("unknown member, or parameters out of range")
        if len(season) > MOST_SEASON or not np.isfinite(season).all():
            raise ValueError("season too long or not finite")
        return cls(key, told["member"], (alpha, beta, phi), season)


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

    def replace(self, answer: Floats32, windows: Windows, quantiles: tuple[float, ...]) -> None:
        """Put the members' quantiles into the rows of ``answer`` [n, h, q] whose series are listed and observed enough."""
        enough = np.count_nonzero(windows.mask, axis=1) >= 2 * LEAST
        rows = np.array([i for i, key in enumerate(windows.keys) if key in self._row and enough[i]], np.int64)
        if len(rows):
            listed = [self._listed[self._row[windows.keys[i]]] for i in rows.tolist()]
            slot = windows.end // windows.step_ms
            part = windows.values[rows], windows.mask[rows]
            answer[rows] = quantiles_of(listed, *part, slot=slot, horizon=answer.shape[1], levels=np.asarray(quantiles))


def quantiles_of(
    listed: Sequence[Member], values: Floats32, mask: Mask, *, slot: int, horizon: int, levels: Floats
) -> Floats32:
    """Quantiles float32[n, h, q] that each of ``listed`` gives for its window [n, L] whose newest slot is ``slot``.

    The spread is that of its own errors on the newest `TARGETS` slots. Non-negative where the window is.
    """
    known = mask & np.isfinite(values)
    length, steps = values.shape[1], np.arange(1, horizon + 1)
    rules = Rules.of([(*one.rule, KINDS[one.kind]) for one in listed])
    calm = np.where(known, values, 0.0) - _season(listed, slot + np.arange(1 - length, 1))
    targets = np.arange(max(length - TARGETS, 1), length)
    anchors = np.unique(np.geomspace(1, horizon, ANCHORS).round().astype(np.int64))
    origins = np.maximum(targets - anchors[:, None], 0)
    at = np.unique(np.append(origins, length - 1))
    state = states(calm, known, rules, at)
    errors = np.stack(
        [
            calm[:, targets] - state.take(np.searchsorted(at, origins[a])).ahead(rules, anchors[a : a + 1])[:, :, 0]
            for a in range(len(anchors))
        ],
        axis=1,
    )
    judged = known[:, targets][:, None] & np.isfinite(errors) & (targets >= anchors[:, None])
    point = state.take(np.array([len(at) - 1])).ahead(rules, steps)[:, 0] + _season(listed, slot + steps)
    assumed = UNKNOWN * np.abs(point[:, :1]) * np.sqrt(steps)
    answer = np.sort(point[:, :, None] + spread(np.nan_to_num(errors), judged, anchors, levels, assumed), axis=2)
    unsigned = np.min(values, axis=1, where=known, initial=0.0) >= 0
    answer[unsigned] = np.maximum(answer[unsigned], 0.0)
    return np.clip(answer, -LARGEST, LARGEST).astype(np.float32)


def _season(listed: Sequence[Member], slots: Ints) -> Floats:
    """What the cycle adds at ``slots`` [k] since the epoch: float64[n, k]."""
    return np.stack([np.take(one.season, slots, mode="wrap") if one.season else np.zeros(len(slots)) for one in listed])
