"""Where the events of a recorded file begin, what they are called and shown with, by the rows up to the alert alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from forecastle.detect import trails
from forecastle.types import AnomalyKind, Floats, Ints, Mask

_NAMED = 3
"""Most columns that share the blame for a score."""
_SEASONAL = 0.5
"""Autocorrelation that makes a season."""
_WITH, _WITHOUT = 0.7, 0.3
"""Rank correlation with earlier seasons that is a rhythm, and below which it is lost."""
QUIET = 30
"""Rows after an event without another one of its sort."""
_RECENT, _BEFORE = 9, 69
"""Rows back to which an event is looked at, and those further back with which it is compared."""
_LEAST_GAP, _LEAST_FLAT, _LEAST_FLAT_OF_MANY = 2, 9, 19
"""Rows that a gap and a flat line have to outlast; one of many columns stands still more often."""


class Events:
    """The events of ``values`` float64[n, c] after ``train`` rows: where a column stops, and what an alert is about.

    ``parts`` float64[n, c] says what each column adds to the score; ``names`` [c].
    """

    def __init__(self, values: Floats, parts: Floats, names: list[str], train: int) -> None:
        self._values, self._names = values, names
        self._missing: Mask = ~np.isfinite(values)
        self._parts = np.where(self._missing, 0.0, parts)
        repeats = still(values, train)
        self._lasted = {AnomalyKind.DROPOUT: runs(self._missing), AnomalyKind.FLAT_LINE: runs(repeats) + 1}
        came = np.logical_or.accumulate(~self._missing)
        flat = begins(repeats, train, _LEAST_FLAT if len(names) == 1 else _LEAST_FLAT_OF_MANY)
        flat &= alerts(np.asarray(flat.any(axis=1)), QUIET)[:, None]
        self._stops = {
            AnomalyKind.DROPOUT: begins(self._missing & came, train, _LEAST_GAP),
            AnomalyKind.FLAT_LINE: flat,
        }
        self._y = trails.standardized(values[:, 0], train)
        self._usual = float(np.std(np.diff(self._y[:train]))) + 1e-9
        self._season = season(self._y[max(0, train - trails.FIT_ROWS) : train])

    def stops(self) -> Mask:
        """Rows bool[n] at which a gap or a flat line of some column has become longer than ever."""
        return np.asarray(np.hstack(list(self._stops.values())).any(axis=1))

    def explain(self, row: int) -> tuple[AnomalyKind, int, dict[str, Any]]:
        """What the alert at ``row`` is called, how many rows the event has lasted with this one, and its evidence."""
        for kind, columns in self._stops.items():
            stopped = np.flatnonzero(columns[row]).tolist()
            if stopped:
                shares = dict.fromkeys(stopped, 1.0 / len(stopped))
                return kind, int(self._lasted[kind][row, stopped].max()), self._figures(row, shares)
        if len(self._names) == 1:
            return self._single(row), self._departed(row, 0), self._figures(row, {0: 1.0})
        shares = self._loudest(row)
        figures, missing = self._figures(row, shares), np.flatnonzero(self._missing[row]).tolist()
        if missing:
            figures["missing"] = [self._names[c] for c in missing]
        return AnomalyKind.MULTIVARIATE, self._departed(row, next(iter(shares), 0)), figures

    def _departed(self, row: int, column: int) -> int:
        """Rows up to ``row`` that the ``column`` has been at least half as far from the expected as now, to the same side."""
        rows = self._values[max(0, row - _BEFORE) : row + 1, column]
        apart = rows - self._expected(row, column)
        return max(1, int(runs((apart * np.sign(apart[-1]) >= 0.5 * abs(apart[-1]))[:, None])[-1, 0]))

    def _expected(self, row: int, column: int) -> float:
        """Median of the rows before an event that may have begun `_RECENT` rows ago; NaN where nothing is known."""
        before = self._values[max(0, row - _BEFORE) : max(1, row - _RECENT), column]
        known = before[np.isfinite(before)]
        return float(np.median(known)) if len(known) else float("nan")

    def _figures(self, row: int, shares: dict[int, float]) -> dict[str, Any]:
        """Actual and expected, and of many columns the ``shares`` of those to blame."""
        actual = {self._names[c]: _rounded(self._values[row, c]) for c in shares}
        expected = {self._names[c]: _rounded(self._expected(row, c)) for c in shares}
        if len(self._names) == 1:
            return {"actual": actual[self._names[0]], "expected": expected[self._names[0]]}
        blamed = {self._names[c]: round(share, 3) for c, share in shares.items()}
        return {"columns": blamed, "actual": actual, "expected": expected}

    def _loudest(self, row: int) -> dict[int, float]:
        """The columns that speak loudest at a row, over the rows the score remembers, and their shares of the score."""
        loud = np.where(self._missing[row], 0.0, self._parts[max(0, row - _RECENT) : row + 1].mean(axis=0))
        first = [int(c) for c in np.argsort(-loud, kind="stable")[:_NAMED] if loud[c] > 0]
        total = float(loud.sum()) or 1.0
        return {c: float(loud[c]) / total for c in first}

    def _single(self, row: int) -> AnomalyKind:
        """What one series did at a row by the rows before it: the first kind that it is plainly, else the nearest."""
        y, usual = self._y, self._usual
        recent, before = y[max(0, row - _RECENT) : row + 1], y[max(0, row - _BEFORE) : max(1, row - _RECENT)]
        last = float(np.median(y[max(0, row - 8) : max(1, row)]))
        shift, spread = abs(float(np.median(recent) - np.median(before))), float(np.std(before))
        noise = float(np.std(np.diff(before))) + 0.1 * usual
        spiky = AnomalyKind.SPIKE if y[row] > last else AnomalyKind.DIP
        plainly = {
            spiky: abs(float(y[row]) - last) / max(4 * noise, 0.5 * shift),
            AnomalyKind.LEVEL_SHIFT: shift / (3 * spread + noise),
            AnomalyKind.VARIANCE: float(np.std(np.diff(y[max(0, row - 29) : row + 1]))) / usual - 1.0,
        }
        for kind, ratio in plainly.items():
            if ratio > 1.0:
                return kind
        if rhythm_lost(y[: row + 1], self._season):
            return AnomalyKind.SEASONALITY
        return AnomalyKind.TREND if shift > spread else max(plainly, key=lambda kind: plainly[kind])


def alerts(flags: Mask, quiet: int) -> Mask:
    """The first of ``flags`` bool[n], and each later one that is not within ``quiet`` rows of the alert before it."""
    out, last = np.zeros(len(flags), bool), -quiet - 1
    for row in np.flatnonzero(flags).tolist():
        if row - last > quiet:
            out[row], last = True, row
    return out


def onsets(flags: Mask, quiet: int) -> Mask:
    """The ``flags`` bool[n] with none in the ``quiet`` rows before."""
    rows, out = np.flatnonzero(flags), np.zeros(len(flags), bool)
    out[rows[np.diff(rows, prepend=-quiet - 1) > quiet]] = True
    return out


def season(y: Floats) -> int:
    """Rows of the season of ``y`` float64[n]: the first of the highest peaks of its autocorrelation up to n / 3.

    0: none, because it never swings back or no peak reaches `_SEASONAL`.
    """
    n, apart = len(y), y - y.mean()
    power = np.square(np.abs(np.fft.rfft(apart, 2 * n)))
    like = np.fft.irfft(power)[: n // 3 + 1] / np.arange(n, n - n // 3 - 1, -1)
    first = int(np.argmax(like < 0))
    if like[first] >= 0 or like[first:].max() < _SEASONAL * like[0]:
        return 0
    near = first + int(np.argmax(like[first:] >= 0.9 * like[first:].max()))
    return near + int(np.argmax(like[near : near + near // 4 + 1]))


def rhythm_lost(y: Floats, season: int) -> bool:
    """Whether ``y`` float64[n] kept the rhythm of its earlier seasons of as many rows, and since its departure no longer does.

    Of up to three seasons before the last two, the newest has a rank correlation of at least `_WITH` with the others. Since the
    first row of the last two that is far off it is below `_WITHOUT`, with or without the line through it, and as many rows are
    far off as a 24th of a season has.
    """
    earlier = min(3, len(y) // season - 2) if season else 0
    if earlier < 2:
        return False
    known, now = y[-(earlier + 2) * season : -2 * season].reshape(earlier, season), y[-2 * season :]
    newest, others, usual = known[-1], known[:-1].mean(axis=0), np.tile(known.mean(axis=0), 2)
    far = np.abs(now - usual) > 4 * np.std(newest - others)
    if far.sum() < max(5, season // 24) or _alike(newest, others) < _WITH:
        return False
    event = slice(int(np.argmax(far)), None)
    return max(_alike(now[event], usual[event]), _alike(_level(now[event]), _level(usual[event]))) < _WITHOUT


def _alike(one: Floats, other: Floats) -> float:
    """Rank correlation; ties in order of appearance."""
    ranks = [np.argsort(np.argsort(rows, kind="stable"), kind="stable").astype(np.float64) for rows in (one, other)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _level(rows: Floats) -> Floats:
    """What is left without the line of least squares."""
    at = np.arange(len(rows)) - (len(rows) - 1) / 2
    return np.asarray(rows - rows.mean() - at * (at @ rows) / (at @ at))


def runs(flags: Mask) -> Ints:
    """How many rows up to each have been true without a break: int[n, c] of ``flags`` bool[n, c]."""
    rows = np.arange(1, len(flags) + 1)[:, None]
    return np.asarray(rows - np.maximum.accumulate(np.where(flags, 0, rows), axis=0))


def begins(flags: Mask, train: int, least: int) -> Mask:
    """Rows bool[n, c] at which a stretch of ``flags`` has become longer than ``least`` and than any before it by half."""
    run, none = runs(flags), np.zeros_like(flags[:1])
    longest = np.maximum.accumulate(np.where(flags, 0, np.concatenate([none, run[:-1]])), axis=0)
    long = (run > np.maximum(1.5 * longest, least)) & flags
    long[:train] = False
    return np.asarray(long & ~np.concatenate([none, long[:-1]]))


def still(values: Floats, train: int) -> Mask:
    """Rows bool[n, c] of ``values`` that repeat the one before, in columns that seldom do."""
    known, same, none = np.isfinite(values), values[1:] == values[:-1], np.zeros_like(values[:1], bool)
    same &= known[1:]
    moves = (known[1:] & known[:-1] & ~same)[: train - 1].sum(axis=0) > same[: train - 1].sum(axis=0)
    return np.concatenate([none, same & moves])


def _rounded(value: float) -> float | None:
    return round(float(value), 6) if np.isfinite(value) else None
