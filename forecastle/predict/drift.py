"""Whether the model still knows the fleet it serves: its errors beside two naive rules, its input beside the window's past.

Two kinds of drift are looked for at each tick. *Error*: a series has drifted when, over the last ``drift_window`` ticks, the
model's absolute errors sum to more than ``drift_error`` times those of the better of two rules on the same slots, the last
value and the value a season ago. Noise that makes everyone worse is no drift. *Input*: it has when the newest ``drift_window``
slots lie further outside the range of the window's earlier ones, in level or in change from slot to slot, than
``drift_input`` times the size of its usual movement. Levels are medians of means, so that single outliers count little.

One series is detection's affair. The fleet has drifted when more than ``drift_share`` of the judged series have, at each of
``drift_hold`` ticks in a row; the end is when that was not so for twice as long. Too few judged series say nothing. All of it
is a function of the last `memory` ticks and their windows, so that a restart finds it again; sums are kept by parts of the
window and never subtracted from, so that it finds the very same.
"""

from __future__ import annotations

import logging
import zlib
from collections import deque
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from forecastle.predict.calibrate import moved, places
from forecastle.predict.naive import LARGEST
from forecastle.settings import PredictSettings
from forecastle.types import Drift, Floats, Floats32, Ints, Mask, SeriesKey, Windows

log = logging.getLogger(__name__)

PARTS = 8
"""Parts of the window of errors that come and go whole."""
GRAINS = 12
"""Means of which a level is the median."""
LEAST = 0.25
"""Share of the fleet that must be judged for a word about the fleet."""
ERROR_FLOOR, INPUT_FLOOR = 0.01, 0.1
"""What naive errors and usual movement are taken to be at least, relative to the level."""
Due: TypeAlias = Sequence[tuple[int, Floats32]]
"""(steps, median [n]) of what was forecast that many steps ago for the newest slot; NaN: not by the model, or not at all."""


def memory(settings: PredictSettings) -> int:
    """Past ticks that a verdict depends on beyond their windows; without a model there is none."""
    if not settings.model:
        return 0
    return settings.horizon + settings.drift_window + _turns(settings) + 3 * settings.drift_hold


def _turns(settings: PredictSettings) -> int:
    """Ticks in which the input of every series is looked at once, each series at its own."""
    return settings.drift_window // 2


class Drifts:
    """State of the stream of the model ``name``: `observe` once a tick, in order; `reset` when another one serves."""

    def __init__(self, settings: PredictSettings, step_ms: int) -> None:
        self._settings = settings
        self._errors, self._inputs = _Errors(settings, step_ms), _Inputs(settings)
        self._keys: tuple[SeriesKey, ...] = ()
        self.reset("")

    def reset(self, name: str) -> None:
        """Forget everything: the model ``name`` answers from now on."""
        self._name, hold = name, self._settings.drift_hold
        self._errors.parts.clear()
        self._inputs.scores = np.full(len(self._keys), np.nan)
        self._held = {"error": _Held(hold), "input": _Held(hold)}

    def observe(self, windows: Windows, due: Due) -> tuple[Drift, ...]:
        """The fleet's error and input drift at this tick, raised or not. Where one begins and ends is logged."""
        self._align(windows.keys)
        self._errors.add(windows, due)
        self._inputs.look(windows)
        settings = self._settings
        return (
            self._judged("error", self._errors.scores(), settings.drift_error),
            self._judged("input", self._inputs.scores, settings.drift_input),
        )

    def _judged(self, kind: str, scores: Floats, most: float) -> Drift:
        known = np.isfinite(scores)
        judged, limit = int(np.count_nonzero(known)), self._settings.drift_share
        enough = judged > 0 and judged >= LEAST * len(scores)
        share = float(np.count_nonzero(scores > most)) / judged if enough else 0.0
        held = self._held[kind]
        before, raised = held.raised, held.tell(share > limit)
        worst = int(np.argmax(np.where(known, scores, -np.inf))) if judged else None
        key, score = (None, 0.0) if worst is None else (self._keys[worst], float(scores[worst]))
        drift = Drift(kind, raised, share, judged if enough else 0, limit, key, score, most)
        if raised != before:
            log.log(
                logging.WARNING if raised else logging.INFO, "%s %s %s", self._name, "has" if raised else "no longer has", drift
            )
        return drift

    def _align(self, keys: tuple[SeriesKey, ...]) -> None:
        """Rows follow their series when series come and go."""
        if keys is self._keys or keys == self._keys:
            return
        rows = places(self._keys, keys)
        self._keys = keys
        self._errors.parts = deque((at, moved(part, rows, 0.0)) for at, part in self._errors.parts)
        self._inputs.scores = moved(self._inputs.scores, rows, np.nan)
        self._inputs.hashes = np.array([zlib.crc32(str(key).encode()) for key in keys], np.int64)


class _Held:
    """Raised once told so ``hold`` times in a row, over when that was not so for twice as long: bounded memory, no flapping."""

    def __init__(self, hold: int) -> None:
        self._hold, self._run, self._since = hold, 0, 2 * hold

    @property
    def raised(self) -> bool:
        return self._since < 2 * self._hold

    def tell(self, beyond: bool) -> bool:
        self._run = self._run + 1 if beyond else 0
        self._since = 0 if self._run >= self._hold else self._since + 1
        return self.raised


class _Errors:
    """Sums over the window, by parts [n, 5]: errors of the model, of the two rules, levels, and ticks that had any."""

    def __init__(self, settings: PredictSettings, step_ms: int) -> None:
        self.parts: deque[tuple[int, Floats]] = deque()
        self._window, self._season = settings.drift_window, settings.season
        self._part_ms = -(-settings.drift_window // PARTS) * step_ms

    def add(self, windows: Windows, due: Due) -> None:
        """Count what was forecast for the newest slot, where it was observed and is trusted."""
        number = windows.end // self._part_ms
        while self.parts and self.parts[0][0] <= number - PARTS:
            self.parts.popleft()
        if not self.parts or self.parts[-1][0] != number:
            self.parts.append((number, np.zeros((len(windows), 5))))
        sums = self.parts[-1][1]
        actual = _slot(windows, 0)
        actual[windows.suspect] = np.nan
        any_told = np.zeros(len(windows), np.bool_)
        for steps, middle in due:
            last, season = _slot(windows, steps), _slot(windows, self._season * -(-steps // self._season))
            rules = last, np.where(np.isnan(season), last, season)
            told = np.isfinite(actual) & np.isfinite(middle) & np.isfinite(last)
            rivals: tuple[Floats | Floats32, ...] = (middle, *rules, np.zeros_like(actual))
            for column, said in enumerate(rivals):
                sums[:, column] += np.where(told, np.abs(actual - said), 0.0)
            any_told |= told
        sums[:, 4] += any_told

    def scores(self) -> Floats:
        """The model's errors over those of the better rule, float64[n]; NaN where less than half of the window had any."""
        model, last, season, level, ticks = np.sum([part for _, part in self.parts], axis=0).T
        rule = np.minimum(last, season) + ERROR_FLOOR * level
        judged = (rule > 0) & (2 * ticks >= self._window)
        scores: Floats = np.divide(model, rule, out=np.full(len(rule), np.nan), where=judged)
        return scores


class _Inputs:
    """How far each series was out of its range at its last turn: ``scores`` float64[n]; turns follow from ``hashes`` [n]."""

    def __init__(self, settings: PredictSettings) -> None:
        self.scores: Floats = np.zeros(0)
        self.hashes = np.zeros(0, np.int64)
        self._every = _turns(settings)
        self._window, self._season = settings.drift_window, settings.season

    def look(self, windows: Windows) -> None:
        """Judge the series whose turn it is; those that are not to be trusted now have no score."""
        rows = np.flatnonzero((self.hashes + windows.end // windows.step_ms) % self._every == 0)
        if len(rows):
            found = departures(windows.values[rows], windows.mask[rows], window=self._window, season=self._season)
            self.scores[rows] = np.where(windows.suspect[rows], np.nan, found)


def departures(values: Floats32, mask: Mask, *, window: int, season: int) -> Floats:
    """How far the newest ``window`` slots of float32[n, L] are out of the range of the earlier ones, float64[n].

    In units of the mean distance of earlier levels from their middle, of usual change from slot to slot, or of a tenth of the
    level, whichever is largest. NaN without a newest level, and until earlier ones are known for a whole ``season``.
    """
    grain = max(1, window // GRAINS)
    count = values.shape[1] // (grain * GRAINS)
    if count < 2:
        return np.full(len(values), np.nan)
    newest = slice(values.shape[1] - count * GRAINS * grain, None)
    known = mask[:, newest] & np.isfinite(values[:, newest])
    cells = np.clip(np.where(known, values[:, newest], np.float32(0)), -LARGEST, LARGEST)
    paired, change = np.zeros_like(known), np.zeros_like(cells)
    paired[:, 1:], change[:, 1:] = known[:, 1:] & known[:, :-1], np.abs(np.diff(cells, axis=1))
    level, rough = (_blocks(part, there, count, grain) for part, there in ((cells, known), (change, paired)))
    return _outside(level, rough, max(2, -(-season // (grain * GRAINS))))


def _outside(level: Floats, rough: Floats, season: int) -> Floats:
    """Of levels and changes [n, block], how far the last block is out of the range of the others, ``season`` of which are one.

    Every part of the season must be known once: a night is no range.
    """
    now, past, before = level[:, -1], level[:, :-1], rough[:, :-1]
    known, count = np.isfinite(past), np.count_nonzero(np.isfinite(past), axis=1)
    low, high = np.min(past, axis=1, where=known, initial=np.inf), np.max(past, axis=1, where=known, initial=-np.inf)
    more = np.nan_to_num(rough[:, -1] - np.max(before, axis=1, where=np.isfinite(before), initial=0.0))
    size = _mean(np.abs(past - _median(past, 1)[:, None]), count)
    usual = np.nan_to_num(_median(before, 1))
    lack = -known.shape[1] % season
    parts: Mask = np.pad(known, ((0, 0), (lack, 0))).reshape(len(known), -1, season)
    judged = np.isfinite(now) & np.all(np.any(parts, axis=1), axis=1)
    unit = np.maximum(np.maximum(size, usual), INPUT_FLOOR * _mean(np.abs(past), count))
    out = np.maximum(np.maximum(low - now, now - high), np.maximum(more, 0.0))
    found: Floats = np.divide(out, unit, out=np.full(len(now), np.nan), where=judged & (unit > 0))
    return found


def _blocks(cells: Floats32, known: Mask, count: int, grain: int) -> Floats:
    """The median of the means of every block, float64[n, count]; NaN where less than half is known."""
    total, there = np.zeros((2, len(cells), count * GRAINS))
    for first in range(grain):  # faster than a sum along a short axis
        total += cells[:, first::grain] * known[:, first::grain]
        there += known[:, first::grain]
    means = np.divide(total, there, out=np.full(there.shape, np.nan), where=2 * there >= grain)
    return _median(means.reshape(-1, count, GRAINS), GRAINS // 2)


def _median(x: Floats, least: int) -> Floats:
    """Along the last axis, of what is known there; NaN where fewer than ``least`` are."""
    ordered, count = np.sort(x, axis=-1), np.count_nonzero(np.isfinite(x), axis=-1)
    middle = np.stack([np.maximum(count - 1, 0) // 2, count // 2], axis=-1)
    found: Floats = np.take_along_axis(ordered, np.minimum(middle, x.shape[-1] - 1), -1).mean(axis=-1)
    found[count < least] = np.nan
    return found


def _mean(x: Floats, count: Ints) -> Floats:
    """Of the ``count`` [n] known of each row, 0 of none."""
    mean: Floats = np.nansum(x, axis=1) / np.maximum(count, 1)
    return mean


def _slot(windows: Windows, ago: int) -> Floats:
    """What was measured ``ago`` slots before the newest, float64[n]; NaN where nothing was."""
    length = windows.values.shape[1]
    if ago >= length:
        return np.full(len(windows), np.nan)
    column = length - 1 - ago
    return np.where(windows.mask[:, column], windows.values[:, column], np.nan).astype(np.float64)
