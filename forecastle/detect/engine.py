"""All series, one tick: every detector over the whole fleet at once, one budget, at most one typed anomaly a series.

The detectors are functions of the window; what they remember besides (the trailing scores of the forecast and of the
model, and whom they need not judge, see `calm`) is a ring of `RING` ticks, and which departures last (`holds`), for at most
`detect.adopt_s`. So a verdict is a function of a finite past, and a worker that replays it repeats it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from scipy.special import ndtri

from forecastle.detect import calm, drifts, feedback, habits, moves, occasions
from forecastle.detect.causes import departures
from forecastle.detect.columns import LAGS, Columns, columns
from forecastle.detect.floors import Floors
from forecastle.detect.foresight import ScoreRing, normal_scores, take_rows
from forecastle.detect.holds import NAMED, Holds
from forecastle.detect.maintenance import Maintenance
from forecastle.detect.moves import Found
from forecastle.detect.rhythms import rhythm
from forecastle.detect.sites import lost_shares
from forecastle.detect.tails import alarm_rate, tail_threshold
from forecastle.detect.voices import Voices
from forecastle.settings import DetectSettings
from forecastle.types import Anomaly, AnomalyKind, Floats32, Forecasts, Ints, Mask, SeriesKey, Windows

RING = 120
"""Ticks of forecast and model scores kept per series; a replay of as many rebuilds them."""
_FAMILIES = 6
_CHUNK, _LOOKED_AT = 512, 2_048
_SUPPORT = 30


class Scorer(Protocol):
    """A learned detector: windows in, one score >= 0 per series out, and what it expected (NaN unknown)."""

    name: str

    def score(self, windows: Windows) -> tuple[Floats32, Floats32]:
        """(score, expected), both float32[n]."""


@dataclass(slots=True)
class _Judged:
    """What the windows' rows ``rows`` came to: their columns and every family's verdict, in order of precedence."""

    rows: Ints
    columns: Columns
    found: list[Found]


@dataclass(frozen=True, slots=True)
class _Kept:
    """What was ``measured`` beside what may be learned; slots under maintenance, and all that are ``unlearned``."""

    measured: Windows
    covered: Mask | None
    unlearned: Mask | None

    def observed(self, c: Columns, part: Ints) -> Columns:
        """``c`` of the rows ``part`` with all slots that were measured: what is not learned has not failed to come."""
        if self.unlearned is self.covered:
            return c
        length = c.y.shape[1]
        values = self.measured.values[part, -length:]
        return replace(c, seen=self.measured.mask[part, -length:] & np.isfinite(values))


@dataclass(frozen=True, slots=True)
class _Learned:
    """A score of the whole fleet with its thresholds; ``expected`` is NaN where the model does not say."""

    name: str
    score: Floats32
    threshold: Floats32
    expected: Floats32


class Detection:
    """Implements `forecastle.ports.Detector`. ``scorer`` adds a learned model's score to the built-in detectors.

    ``lenience`` tells, for a tick, by what people's words multiply a series' thresholds, and ``dismissed``, asked next, when
    they called its incident none (`forecastle.detect.feedback`); ``occasions`` what was announced of a series
    (`forecastle.detect.occasions`).
    """

    def __init__(self, settings: DetectSettings, step_ms: int, scorer: Scorer | None = None) -> None:
        self.settings = settings
        self.step_ms = step_ms
        self.scorer = scorer
        self.voices = Voices({})
        self.look_back = settings.look_back
        self.lenience: Callable[[int], Mapping[SeriesKey, float]] = lambda _tick: {}
        self.occasions: occasions.Known = occasions.unknown
        self.dismissed: Callable[[int], Mapping[SeriesKey, int]] = lambda _tick: {}
        self.name = "built-in" if scorer is None else f"built-in+{scorer.name}"
        self._rate = alarm_rate(settings.budget, step_ms, _FAMILIES)
        self._norms, self._floors, self._works = calm.Norms(), Floors(settings), Maintenance(settings.maintenance)
        self._holds = Holds(settings, step_ms)
        self._rings = {"forecast": ScoreRing(RING), "model": ScoreRing(RING)}
        self._pool = ThreadPoolExecutor(max(1, min(4, os.cpu_count() or 1)), thread_name_prefix="detect")

    def detect(self, windows: Windows, forecasts: Forecasts | None) -> tuple[Anomaly, ...]:
        """Anomalies at ``windows.end``; ``forecasts`` were issued one step earlier (None: judged without them).

        Raises ValueError when the arrays of ``windows`` do not fit its keys and each other.
        """
        _fitting(windows)
        if not len(windows):
            return ()
        words = self.lenience(windows.end)
        lenience = (
            np.array([words.get(key, 1.0) for key in windows.keys], np.float32) if words else np.ones(len(windows), np.float32)
        )
        covered = self._works.covered(windows)
        if covered is not None:
            windows = replace(windows, mask=windows.mask & ~covered)
        measured, holds = windows, self._holds
        holds.follow(measured, self.dismissed(windows.end))
        hidden = holds.hidden(measured)
        if hidden is not None:
            windows = replace(windows, mask=windows.mask & ~hidden)
        unlearned = covered if hidden is None else hidden if covered is None else covered | hidden
        learned = [self._learned("forecast", windows, self._forecast_scores(windows, forecasts, covered, hidden))]
        if self.scorer is not None:
            learned.append(self._learned("model", windows, self.scorer.score(windows)))
        tick = windows.end // self.step_ms
        due = self._norms.due(windows.keys, tick)
        asked = due.copy()
        for item in learned:
            asked |= item.score > item.threshold * lenience
        others = _chunks(np.flatnonzero(~asked), _LOOKED_AT)
        for rows, near in zip(others, self._pool.map(lambda rows: self._near(windows, rows, lenience), others), strict=True):
            asked[rows] = near
        silent = ~measured.mask[:, -calm.LEAST_GAP :].any(axis=1)
        asked &= ~holds.named | silent
        if covered is not None:
            asked &= ~covered[:, -1]
        judged = list(
            self._pool.map(
                lambda rows: self._judge(windows, rows, due, lenience, _Kept(measured, covered, unlearned)),
                _chunks(np.flatnonzero(asked), _CHUNK),
            )
        )
        lost = np.zeros(len(windows), np.bool_)
        for chunk in judged:
            lost[chunk.rows] = _lost(chunk)
        shares = lost_shares(windows, lost | holds.lost)
        anomalies: list[Anomaly] = []
        for chunk in judged:
            chunk.found += [_effective(item, chunk.rows, chunk.columns, self.settings.min_effect) for item in learned]
            self._floors.strike(chunk.found, windows, chunk.rows, chunk.columns)
            occasions.strike(chunk.found, windows, chunk.rows, chunk.columns, self.occasions, season=self.settings.season)
            anomalies += self._anomalies(windows, chunk, shares)
        holds.hear(anomalies, windows, lost)
        mute = None if covered is None else covered[:, -1]
        return (*anomalies, *holds.lasting({anomaly.key for anomaly in anomalies}, mute, shares))

    def _near(self, windows: Windows, rows: Ints, lenience: Floats32) -> Mask:
        if windows.values.shape[1] < calm.LEAST:
            return np.ones(len(rows), np.bool_)
        return self._norms.near(windows, rows, lenience[rows])

    def _judge(self, windows: Windows, part: Ints, due: Mask, lenience: Floats32, kept: _Kept) -> _Judged:
        settings, floor, covered = self.settings, self.settings.min_effect, kept.covered
        c = columns(windows, part, settings, covered=kept.unlearned)
        c.lenience[:] = lenience[part]
        weights = moves.autoregression(c)
        error = moves.residuals(c, weights)
        shift, means = _season_ago(windows, part, c, settings.season)
        trend, drifting = drifts.trend(c, floor, means)
        found = [
            drifts.dropout(kept.observed(c, part), windows.late[part], calm.LEAST_GAP, settings.min_coverage),
            drifts.flat_line(c, self._rate),
            moves.level(c, self._rate, floor, shift),
            moves.surprise(c, error, self._rate, floor),
            moves.rate_of_change(c, self._rate, floor),
            trend,
            moves.spread(c, error, self._rate, floor),
        ]
        if covered is not None:
            found[0].fired[covered[part, -calm.LEAST_GAP :].any(axis=1)] = False
        turn = np.flatnonzero(due[part])
        if len(turn) and c.y.shape[1] >= moves.LEAST:
            norms = calm.norms(c, turn, weights, found, self._rate)
            norms[drifting[turn]] = np.nan
            self._norms.keep(part[turn], windows.end // self.step_ms, norms, c.seen[turn, -1])
        memory = habits.Memory(windows, settings, self._rate, kept.unlearned)
        clocked = np.flatnonzero(self._norms.turn(windows.end // self.step_ms)[part])
        rhythms = rhythm(windows, part, c, clocked, settings.season)
        news = [*habits.news(found, error, c, memory, part), rhythms]
        for one in news[1:]:
            one.fired[self._holds.named[part]] = False
        return _Judged(part, c, news)

    def _forecast_scores(
        self, windows: Windows, forecasts: Forecasts | None, covered: Mask | None, hidden: Mask | None
    ) -> tuple[Floats32, Floats32]:
        """Normal scores, NaN where the slots just before were under maintenance, or a departure: the forecast has seen them."""
        n = len(windows)
        if forecasts is None or forecasts.issued_at + forecasts.step_ms != windows.end:
            return np.full(n, np.nan, np.float32), np.full(n, np.nan, np.float32)
        first = forecasts.values[:, 0, :]
        if forecasts.keys is not windows.keys and forecasts.keys != windows.keys:
            first = take_rows(first, forecasts.keys, windows.keys)
        score = normal_scores(windows.values[:, -1], first, forecasts.quantiles)
        score = np.where(windows.mask[:, -1], np.abs(score), np.nan).astype(np.float32)
        if covered is not None:
            score[covered[:, -1 - LAGS :].any(axis=1)] = np.nan
        if hidden is not None:
            score[hidden[:, -NAMED:].any(axis=1)] = np.nan
        return score, first[:, first.shape[1] // 2]

    def _learned(self, name: str, windows: Windows, answer: tuple[Floats32, Floats32]) -> _Learned:
        """Threshold of a score from its own trailing ring, never under the normal law's."""
        score, expected = answer
        tick = windows.end // self.step_ms
        history = self._rings[name].history(windows.keys, tick)
        self._rings[name].forget(self._holds.fresh, self._holds.ages(self._holds.fresh))
        newest = np.where(self._holds.held, np.float32(np.nan), score)
        if name == "model" and self.voices.choices:
            order = np.arange(tick - RING + 1, tick) % RING
            history, score = self.voices.speak(windows.keys, history[:, order], score)
        least = np.float32(-ndtri(self._rate / 2))
        threshold = np.full(len(score), np.inf, np.float32)
        high = np.flatnonzero(score > least * feedback.LEAST)
        known = np.isfinite(history[high])
        tail = tail_threshold(np.where(known, history[high], 0.0).astype(np.float32), self._rate)
        enough = known.sum(axis=1) >= _SUPPORT
        threshold[high[enough]] = np.maximum(tail, least)[enough]
        self._rings[name].put(tick, newest)
        return _Learned(name, np.nan_to_num(score, nan=0.0), threshold, expected)

    def _anomalies(self, windows: Windows, chunk: _Judged, shares: dict[str, Floats32]) -> list[Anomaly]:
        fired = np.stack([found.fired for found in chunk.found])
        rows = np.flatnonzero(fired.any(axis=0))
        first = fired[:, rows].argmax(axis=0)
        since = np.stack([found.since for found in chunk.found])[first, rows] if len(rows) else rows
        index = chunk.rows[rows]
        departed = _departures(windows, index, since, self.look_back)
        return [
            Anomaly(
                windows.keys[i],
                windows.end,
                float(found.score[row]),
                float(found.threshold[row]),
                _kind(found.family, float(found.actual[row] - found.expected[row])),
                self._evidence(windows.end, chunk, found, row)
                | {"departure": departure}
                | {name: round(float(share[i]), 4) for name, share in shares.items()}
                | self._chosen(windows.keys[i], found.family),
            )
            for i, row, found, departure in (
                (i, row, chunk.found[f], d)
                for i, row, f, d in zip(index.tolist(), rows.tolist(), first.tolist(), departed, strict=True)
            )
        ]

    def _evidence(self, end: int, chunk: _Judged, found: Found, row: int) -> dict[str, Any]:
        """Expected and actual (metric's unit), the effect (share of the usual range), since when, and who agrees."""
        centre, spread = float(chunk.columns.centre[row]), float(chunk.columns.spread[row])
        expected, actual, since = float(found.expected[row]), float(found.actual[row]), int(found.since[row])
        silent = np.isnan(actual)
        return {
            "families": [other.family for other in chunk.found if other.fired[row]],
            "expected": round(expected * spread + centre, 6),
            "actual": None if silent else round(actual * spread + centre, 6),
            "effect": None if silent else round(actual - expected, 4),
            "onset": end - since * self.step_ms,
            "duration_s": since * self.step_ms // 1000,
        }

    def _chosen(self, key: SeriesKey, family: str) -> dict[str, str]:
        """That the model, or the built-in residual in its stead, spoke by choice, and why; nothing where none was made."""
        pair, why = self.voices.heard_as(key)
        return {"spoke": str(pair), "why": why} if why and pair.scorer == family else {}


def _chunks(rows: Ints, size: int) -> list[Ints]:
    return [rows[at : at + size] for at in range(0, len(rows), size)]


def _fitting(windows: Windows) -> None:
    n, shape = len(windows.keys), windows.values.shape
    if len(shape) != 2 or shape[0] != n or windows.mask.shape != shape or windows.late.shape != (n,):
        raise ValueError(
            f"windows: {n} keys, values {shape}, mask {windows.mask.shape}, late {windows.late.shape}; "
            f"give values and mask of one shape [{n}, slots] and one late flag a key"
        )


def _departures(windows: Windows, rows: np.ndarray, since: np.ndarray, look_back: int) -> list[float]:
    """`causes.departures` of each row over the slots since its onset; one pass for each distinct length."""
    length = min(look_back, windows.values.shape[1])
    recent = np.clip(since, 1, max(length // 2, 1))
    size = np.zeros(len(rows))
    for slots in np.unique(recent).tolist() if length > 1 else ():
        own = recent == slots
        size[own] = departures(windows.values[rows[own], -length:], windows.mask[rows[own], -length:], slots)
    return [round(float(d), 4) for d in size]


def _kind(family: str, effect: float) -> AnomalyKind:
    named = {
        "dropout": AnomalyKind.DROPOUT,
        "flat": AnomalyKind.FLAT_LINE,
        "level": AnomalyKind.LEVEL_SHIFT,
        "trend": AnomalyKind.TREND,
        "ramp": AnomalyKind.TREND,
        "variance": AnomalyKind.VARIANCE,
        "rhythm": AnomalyKind.SEASONALITY,
        "model": AnomalyKind.MULTIVARIATE,
    }
    return named.get(family) or (AnomalyKind.SPIKE if effect > 0 else AnomalyKind.DIP)


def _season_ago(windows: Windows, part: Ints, c: Columns, season: int) -> tuple[Floats32 | None, Floats32 | None]:
    """Level difference and block means one season before, in the unit of ``c``; None when the window is too short."""
    width, size = windows.values.shape[1], drifts.block_size(c.y.shape[1])
    span = drifts.compared(c.y.shape[1])
    if not season or width < season + span:
        return None, None
    here = slice(width - season - span, width - season)
    seen = windows.mask[part, here]
    y = (windows.values[part, here] - c.centre[:, None]) / c.spread[:, None]
    y = np.where(seen, y, np.nan).astype(np.float32)
    unknown = seen.mean(axis=1) < 0.8
    y[np.isnan(y)] = 0.0
    recent = y[:, -moves.RECENT :].mean(axis=1)
    shift = recent - y[:, -moves.RECENT - moves.BEFORE : -moves.RECENT].mean(axis=1)
    means = drifts.blocks(y, size) if size else np.zeros((len(y), drifts.BLOCKS), np.float32)
    shift[unknown], means[unknown] = np.nan, np.nan
    return shift, means


def _effective(learned: _Learned, part: Ints, c: Columns, floor: float) -> Found:
    """A learned score's verdict on one chunk; nothing smaller than ``floor`` of the usual range counts."""
    score, threshold = learned.score[part], learned.threshold[part] * c.lenience
    middle = (learned.expected[part] - c.centre) / c.spread
    actual = c.y[:, -1]
    effect = np.where(np.isfinite(middle), np.abs(actual - middle), np.inf)
    fired = c.judged & (score > threshold) & (effect > floor)
    usual = np.where(np.isfinite(middle), middle, np.median(c.y[:, -9:-1], axis=1)).astype(np.float32)
    return Found(learned.name, fired, score, threshold, usual, actual, np.ones(len(actual), np.int64))


def _lost(judged: _Judged) -> np.ndarray:
    """Series that stopped coming, or fell to nothing though they usually are not: bool[n]."""
    c = judged.columns
    return np.asarray(judged.found[0].fired | (c.judged & calm.fallen(c.y, -c.centre / c.spread)))
