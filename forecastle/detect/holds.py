"""While a departure lasts nothing is learned from it: it is held against what was normal before, until that is back.

The detectors tell changes, and a level that stayed is no change any more. So what they told is followed up: what the series
did in the look-back before its onset, less what it did a season before where that explains it better, is its normal, frozen
with the anomaly. While the newest slots lie outside, the anomaly goes on, and neither baselines, thresholds nor trailing scores
learn the slots since the onset. What lasts `detect.adopt_s` is the new normal; what people call no incident is learned at once.

A hold is a function of the ticks since its anomaly, so a worker that replays these has the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from forecastle.detect.columns import STILL
from forecastle.detect.courses import LONGEST
from forecastle.detect.moves import BEFORE, RECENT
from forecastle.settings import DetectSettings
from forecastle.types import Anomaly, AnomalyKind, Floats, Floats32, Ints, Mask, SeriesKey, Windows

FAMILY = "lasting"
NAMED = RECENT + BEFORE
"""Slots of a departure that the detectors read too, to name it; afterwards they see nothing of it."""
ENOUGH = RECENT // 2
"""Observed slots of the newest `RECENT` from which a series is said to be back, or away."""
_LEAST = 60
"""Observed slots before the onset under which nothing is known of a normal."""
_EXPLAINED = 0.7
"""Share of the usual range that must be left less a season ago, for the season to be the normal."""
_HALF = 0.5
"""Share of a departure that is still one."""
_CHUNK = 512
_LEVEL, _SILENT, _STILL = 0, 1, 2
_MODES = {
    AnomalyKind.DROPOUT: _SILENT,
    AnomalyKind.FLAT_LINE: _STILL,
    **dict.fromkeys(
        (AnomalyKind.SPIKE, AnomalyKind.DIP, AnomalyKind.LEVEL_SHIFT, AnomalyKind.TREND, AnomalyKind.MULTIVARIATE), _LEVEL
    ),
}
"""What must be otherwise for a series to be back; noise and rhythms are not held."""
_PLAIN, _SEASON = 0, 1
_ROW = np.dtype(
    [
        ("since", "i8"),
        ("opened", "i8"),
        ("held", "?"),
        ("mode", "i1"),
        ("lost", "?"),
        ("seasonal", "?"),
        ("band", "f4", (2, 3)),
        ("half", "f4"),
        ("spread", "f4"),
        ("before", "f4"),
        ("actual", "f4"),
        ("expected", "f4"),
        ("score", "f4"),
        ("threshold", "f4"),
        ("ended_from", "i8"),
        ("ended_to", "i8"),
    ]
)
"""A series' hold and its last one. Ticks are numbered by step, ``opened`` 0: none. Figures are in the metric's unit."""
_State = npt.NDArray[np.void]


@dataclass(frozen=True, slots=True)
class Normal:
    """What n series did before. ``band`` float32[n, 2, 3]: 2%, median, 98% of the values, and of them less a season ago.

    NaN where too little is known; ``seasonal`` bool[n]: the season explains them. ``spread`` float32[n]: the usual range.
    ``before`` float32[n]: the median just before the onset.
    """

    band: Floats32
    seasonal: Mask
    spread: Floats32
    before: Floats32


class Holds:
    """The departures that last, row by row of the windows it is shown; `follow` first, then the rest of the same tick."""

    def __init__(self, settings: DetectSettings, step_ms: int) -> None:
        self._settings, self._step_ms = settings, step_ms
        self._adopt = max(1, round(settings.adopt_s * 1000 / step_ms))
        self._keys: tuple[SeriesKey, ...] = ()
        self._where: dict[SeriesKey, int] = {}
        self._rows: _State = np.zeros(0, _ROW)
        self._said: dict[SeriesKey, Anomaly] = {}
        self._tick = -1
        self._adopted: Ints = np.zeros(0, np.int64)
        self._dismissed: Mapping[SeriesKey, int] = {}
        self.fresh: Ints = np.zeros(0, np.int64)

    @property
    def held(self) -> Mask:
        """Which series are away from their normal: bool[n]."""
        return np.asarray(self._rows["held"])

    @property
    def named(self) -> Mask:
        """Which of them the detectors need not judge any more: bool[n]."""
        return np.asarray(self._rows["held"] & (self._tick - _begin(self._rows) >= NAMED))

    @property
    def lost(self) -> Mask:
        """Which of these stopped coming, or fell to nothing: bool[n]."""
        return np.asarray(self.named & self._rows["lost"])

    def ages(self, rows: Ints) -> Ints:
        """Slots since the onset, the newest included, of the held ``rows``."""
        return np.asarray(self._tick - self._rows["since"][rows] + 1, np.int64)

    def follow(self, windows: Windows, dismissed: Mapping[SeriesKey, int]) -> None:
        """See who is away at the windows' end. ``dismissed`` says when people called a series' incident none (ms).

        ``fresh`` has the rows that are held from this tick on.
        """
        tick = windows.end // self._step_ms
        self._align(windows.keys)
        if tick <= self._tick:
            self._rows[:] = 0
            self._said.clear()
        self._tick, self._dismissed = tick, dismissed
        rows = np.flatnonzero(self._rows["opened"] > 0)
        if dismissed:
            rows = self._forgive(rows)
        self.fresh = self._adopted = rows[:0]
        if not len(rows):
            return
        state = self._rows[rows]
        away, known = self._away(windows, rows, state)
        ready = tick - state["since"] + 1 >= RECENT
        fresh = ready & away & known & ~state["held"]
        drifted = fresh & (state["mode"] == _LEVEL) & ~_left(state)
        away, fresh = away & ~drifted, fresh & ~drifted
        state["half"] = np.where(fresh, np.float32(_HALF) * (state["actual"] - state["expected"]), state["half"])
        state["held"] |= fresh
        self._rows[rows] = state
        adopted = state["held"] & (tick - state["opened"] >= self._adopt)
        self.fresh, self._adopted = rows[fresh & ~adopted], rows[adopted]
        self._end(rows[ready & ~away & ~adopted])
        idle = ~state["held"] & (tick - state["opened"] >= NAMED)
        self._drop(np.concatenate([rows[idle], rows[adopted]]), keep=self._adopted)

    def hidden(self, windows: Windows) -> Mask | None:
        """Slots that are not learned from, bool as ``windows.mask``: of lasting departures, and of those that ended of late.

        The newest is never hidden. None: there are none.
        """
        ended = self._rows["ended_to"] > max(self._tick - self._settings.look_back, 0)
        rows = np.flatnonzero(ended | self.named)
        if not len(rows):
            return None
        length = windows.values.shape[1]
        hidden = np.zeros(windows.mask.shape, np.bool_)
        hidden[rows] = self._unlearned(rows, np.arange(self._tick - length + 1, self._tick + 1))
        return hidden

    def hear(self, anomalies: Sequence[Anomaly], windows: Windows, lost: Mask) -> None:
        """Take in what the detectors told of this tick; ``lost`` bool[n] stopped coming or fell to nothing.

        Of ``windows`` only what was learned may be observed.
        """
        new: dict[int, Anomaly] = {}
        for anomaly in anomalies:
            row = self._where[anomaly.key]
            if "excursion" in anomaly.evidence["families"]:
                self._end(np.array([row]))
            elif self._rows["opened"][row]:
                before = self._said[anomaly.key].evidence["families"]
                families = [*anomaly.evidence["families"], *(f for f in before if f not in anomaly.evidence["families"])]
                self._said[anomaly.key] = replace(anomaly, evidence={**anomaly.evidence, "families": families})
                self._rows["lost"][row] = lost[row]
            elif anomaly.kind in _MODES and not self._forgiven(anomaly.key, NAMED):
                new[row] = anomaly
        found = np.array(sorted(new), np.int64)
        for rows in (found[at : at + _CHUNK] for at in range(0, len(found), _CHUNK)):
            self._open(rows, [new[row] for row in rows.tolist()], windows, lost)

    def lasting(self, told: Set[SeriesKey], mute: Mask | None, shares: Mapping[str, Floats32]) -> list[Anomaly]:
        """An anomaly of each series that is still away and of which nothing was ``told``, and of each new normal.

        ``mute`` bool[n] are told nothing of; ``shares`` go into the evidence.
        """
        speaking = self.held.copy()
        speaking[self._adopted] = True
        if mute is not None:
            speaking &= ~mute
        adopted = set(self._adopted.tolist())
        out = []
        for row in np.flatnonzero(speaking).tolist():
            key = self._keys[row]
            if key not in told:
                more = {name: round(float(share[row]), 4) for name, share in shares.items()}
                if row in adopted:
                    more["adopted_s"] = round((self._tick - int(self._rows["opened"][row])) * self._step_ms / 1000)
                out.append(self._anomaly(self._said[key], self._rows[row], more))
        for row in adopted:
            self._drop(np.array([row]))
        return out

    def _anomaly(self, said: Anomaly, row: Any, more: Mapping[str, Any]) -> Anomaly:
        """What was ``said`` of a series, as it is now."""
        onset = (int(row["since"]) - 1) * self._step_ms
        evidence = dict(said.evidence)
        score, threshold = said.score, said.threshold
        if row["mode"] == _LEVEL and row["score"] > row["threshold"]:
            score, threshold = float(row["score"]), float(row["threshold"])
            actual, expected = float(row["actual"]), float(row["expected"])
            evidence |= {
                "expected": round(expected, 6),
                "actual": round(actual, 6),
                "effect": round((actual - expected) / float(row["spread"]), 4),
            }
        families = [FAMILY, *(f for f in evidence["families"] if f != FAMILY)]
        end = self._tick * self._step_ms
        evidence |= {"families": families, "onset": onset, "duration_s": (end - onset) // 1000}
        return Anomaly(said.key, end, score, threshold, said.kind, evidence | dict(more))

    def _open(self, rows: Ints, said: Sequence[Anomaly], windows: Windows, lost: Mask) -> None:
        since = np.array([int(a.evidence["onset"]) // self._step_ms + 1 for a in said], np.int64)
        look_back, season = self._settings.look_back, self._settings.season
        normal = usual(windows.values[rows], windows.mask[rows], self._tick - since + 1, look_back, season)
        state = self._rows[rows]
        state["since"], state["opened"], state["held"], state["half"] = since, self._tick, False, 0.0
        state["mode"] = [_MODES[a.kind] for a in said]
        state["band"], state["seasonal"], state["spread"] = normal.band, normal.seasonal, normal.spread
        state["before"] = normal.before
        state["score"] = state["threshold"] = 0.0
        state["actual"] = state["expected"] = normal.band[:, _PLAIN, 1]
        state["lost"] = lost[rows]
        slow = np.array([a.kind is AnomalyKind.TREND for a in said])
        unsure = slow & np.isnan(normal.band[:, _SEASON, 1]) & bool(season)
        self._rows[rows[~unsure]] = state[~unsure]
        self._said |= {a.key: a for a, no in zip(said, unsure.tolist(), strict=True) if not no}

    def _away(self, windows: Windows, rows: Ints, state: _State) -> tuple[Mask, Mask]:
        """Who of ``rows`` is away from normal, both bool[k], and whether enough was observed; ``state`` is brought up."""
        now, seen = _newest(windows, rows, 0)
        known = seen.sum(axis=1) >= ENOUGH
        plain = _median(now, seen)
        use = np.zeros(len(rows), np.bool_)
        apart = plain
        season = self._settings.season
        if season and windows.values.shape[1] >= season + RECENT:
            ago, then = _newest(windows, rows, season)
            both = seen & then & ~self._unlearned(rows, np.arange(1 - RECENT, 1) + self._tick - season)
            use = state["seasonal"] & (both.sum(axis=1) >= ENOUGH)
            apart = np.where(use, _median(now - ago, both), plain)
        pick = np.where(use, _SEASON, _PLAIN)
        k = np.arange(len(rows))
        low, middle, high = state["band"][k, pick].T
        half = state["half"]
        beyond = (apart > np.maximum(high, middle + half)) | (apart < np.minimum(low, middle + half))
        level = known & (state["mode"] == _LEVEL)
        spread = np.maximum(state["spread"], np.float32(1e-9))
        state["actual"] = np.where(level, plain, state["actual"])
        state["expected"] = np.where(level, plain - (apart - middle), state["expected"])
        state["score"] = np.where(level, np.abs(apart - middle) / spread, state["score"])
        reach = np.where(apart > middle, high - middle, middle - low)
        state["threshold"] = np.where(level, reach / spread, state["threshold"])
        top, bottom = np.where(seen, now, -np.inf).max(axis=1), np.where(seen, now, np.inf).min(axis=1)
        still = known & (top - bottom <= STILL * spread)
        away = np.where(state["mode"] == _LEVEL, ~known | beyond, np.where(state["mode"] == _SILENT, ~known, ~known | still))
        return away, known | (state["mode"] == _SILENT)

    def _unlearned(self, rows: Ints, slots: Ints) -> Mask:
        """Whether ``slots``, numbered by step, belong to a departure of ``rows`` that is not learned: bool[k, len(slots)]."""
        state = self._rows[rows]
        begin = np.where(self.named[rows], _begin(state), self._tick)[:, None]
        gone = (slots >= state["ended_from"][:, None]) & (slots < state["ended_to"][:, None])
        return np.asarray(((slots >= begin) & (slots < self._tick)) | gone)

    def _end(self, rows: Ints) -> None:
        """The departures of ``rows`` are over. Short ones stay to be seen: their return names them, and habits are learned."""
        state = self._rows[rows]
        kept = rows[state["held"] & ((self._tick - state["since"] > LONGEST) | (state["mode"] == _SILENT))]
        self._rows["ended_from"][kept], self._rows["ended_to"][kept] = _begin(self._rows[kept]), self._tick
        self._drop(rows)

    def _drop(self, rows: Ints, keep: Ints | None = None) -> None:
        """Nothing is held of ``rows`` any more; of ``keep`` it may still be told what it was."""
        self._rows["held"][rows] = False
        gone = rows if keep is None else np.setdiff1d(rows, keep)
        self._rows["opened"][gone] = 0
        for row in gone.tolist():
            self._said.pop(self._keys[row], None)

    def _forgive(self, rows: Ints) -> Ints:
        """Learn what people called no incident; returns the other rows."""
        word = np.array([self._dismissed.get(self._keys[row], -1) for row in rows.tolist()], np.int64)
        gone = word >= self._rows["opened"][rows] * self._step_ms
        self._drop(rows[gone])
        return rows[~gone]

    def _forgiven(self, key: SeriesKey, slots: int) -> bool:
        return self._dismissed.get(key, -1) > (self._tick - slots) * self._step_ms

    def _align(self, keys: tuple[SeriesKey, ...]) -> None:
        if keys is self._keys:
            return
        if keys != self._keys:
            rows = np.zeros(len(keys), _ROW)
            old = np.array([self._where.get(key, -1) for key in keys], np.int64)
            rows[old >= 0] = self._rows[old[old >= 0]]
            self._rows, self._where = rows, {key: i for i, key in enumerate(keys)}
            self._said = {key: a for key, a in self._said.items() if key in self._where}
        self._keys = keys


def usual(values: Floats32, mask: Mask, ago: Ints, look_back: int, season: int) -> Normal:
    """What ``values`` float32[n, L], observed where ``mask``, did in the ``look_back`` slots before the newest ``ago`` int[n].

    ``season`` slots are a season; 0: there is none.
    """
    n, length = values.shape
    at = length - np.minimum(ago, length)[:, None] + np.arange(-look_back, 0)
    past, seen = _taken(values, mask, at)
    band, spread = np.full((n, 2, 3), np.nan, np.float32), np.zeros(n, np.float32)
    band[:, _PLAIN], spread, count = _spanned(past, seen)
    seasonal = np.zeros(n, np.bool_)
    if season:
        before, then = _taken(values, mask, at - season)
        both = seen & then
        band[:, _SEASON], rest, paired = _spanned(np.where(both, past - before, 0.0), both)
        seasonal = (rest < _EXPLAINED * spread) & (2 * paired >= count) & (paired >= _LEAST)
    least = np.maximum(np.float32(0.02) * np.abs(band[:, _PLAIN, 1]), np.float32(1e-6))
    edge = _median(past[:, -RECENT:], seen[:, -RECENT:])
    edge = np.where(seen[:, -RECENT:].any(axis=1), edge, band[:, _PLAIN, 1])
    return Normal(band, seasonal, np.fmax(spread, least).astype(np.float32), edge.astype(np.float32))


def _left(state: _State) -> Mask:
    """Whether a departure, bool[n], did not begin at the edge of the normal, where a cycle that is not known goes on."""
    went, departure = state["actual"] - state["before"], state["actual"] - state["expected"]
    return np.asarray(state["seasonal"] | (went * np.sign(departure) > _HALF * np.abs(departure)))


def _taken(values: Floats32, mask: Mask, at: Ints) -> tuple[Floats32, Mask]:
    """Slots ``at`` int[n, k] of each row, and which of them were observed."""
    inside = np.clip(at, 0, None)
    taken = np.take_along_axis(values, inside, axis=1)
    return taken, np.asarray(np.take_along_axis(mask, inside, axis=1) & (at >= 0) & np.isfinite(taken))


def _spanned(values: Floats32, seen: Mask) -> tuple[Floats32, Floats32, Ints]:
    """2%, median and 98%, NaN under `_LEAST` slots: float32[n, 3]; the 5%-95% range float32[n]; slots int[n]."""
    ordered = np.sort(np.where(seen, values, np.inf), axis=1)
    count = seen.sum(axis=1)
    at = (np.array([0.02, 0.05, 0.5, 0.95, 0.98]) * np.maximum(count - 1, 0)[:, None]).round().astype(np.int64)
    low, five, middle, most, high = np.take_along_axis(ordered, at, axis=1).T
    band = np.column_stack([low, middle, high]).astype(np.float32)
    few = count < _LEAST
    band[few] = np.nan
    return band, (np.where(few, 0.0, most) - np.where(few, 0.0, five)).astype(np.float32), count


def _newest(windows: Windows, rows: Ints, ago: int) -> tuple[Floats32, Mask]:
    """The `RECENT` slots that were newest ``ago`` slots before, and which were observed."""
    end = windows.values.shape[1] - ago
    values = windows.values[rows, max(end - RECENT, 0) : end]
    seen = windows.mask[rows, max(end - RECENT, 0) : end] & np.isfinite(values)
    return np.where(seen, values, np.float32(0.0)), seen


def _median(values: Floats32, seen: Mask) -> Floats:
    """Medians float64[n] of what was observed; 0 where nothing was."""
    ordered = np.sort(np.where(seen, values, np.inf), axis=1)
    count = seen.sum(axis=1)
    pair = np.column_stack([np.maximum(count - 1, 0) // 2, np.minimum(count // 2, values.shape[1] - 1)])
    middle = np.take_along_axis(ordered, pair, axis=1).astype(np.float64)
    return np.where(count > 0, np.where(np.isfinite(middle), middle, 0.0).mean(axis=1), 0.0)


def _begin(state: _State) -> Ints:
    """First slot that is not learned: the onset, but of what came slowly no more than `NAMED` slots before it was told."""
    return np.asarray(np.maximum(state["since"], state["opened"] - NAMED + 1), np.int64)
