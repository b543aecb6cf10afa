"""How good is a detector on what it has not seen? Run slot by slot over the tail of a history, as a worker would run it.

What it should find are incidents that people confirmed and anomalies made up in the tail; what it says on the tail as it was
are its alarms. Forecasts are not replayed, so the detector that reads them is silent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from scipy.special import ndtri

from flows import rolling
from flows.history import History
from flows.incidents import IncidentSpan
from flows.voices import residual, spoken
from flows.vus import vus_pr
from forecastle.detect.engine import RING, Detection
from forecastle.detect.groups import grouped
from forecastle.detect.injections import KINDS, inject
from forecastle.detect.onnx import OnnxScorer
from forecastle.detect.tails import DAY_MS, alarm_rate, tail_threshold
from forecastle.detect.voices import SPAN, VOICES, Voices
from forecastle.errors import ConfigError
from forecastle.ports import Artifact
from forecastle.runtime.batch_detect_events import onsets
from forecastle.settings import Settings
from forecastle.types import Floats, Floats32, Mask, Windows

LEAST_SLOTS = 72
"""Slots of a tail below which nothing is made up in it: too few for two anomalies and what is usual around them."""
MOST_GROUPS = 16
"""Workloads at a site, evenly spaced over the fleet, in which anomalies are made up."""
GRACE = 15
"""Slots after the end of an event in which an alarm still tells of it."""
WIDE = 10
"""Slots by which VUS-PR widens an event at most, half of them on each side."""
LABELLED = "confirmed by people"
_TOGETHER, _FIT, _SLOTS_EACH, _LEAST_EACH, _OF_EACH = 8, 2000, 120, 36, 4


@dataclass(frozen=True, slots=True)
class Event:
    """Slots [``first``, ``end``) of a tail in which the series ``rows`` went wrong; an alarm before ``until`` tells of it.

    ``kind`` is one of `forecastle.detect.injections.KINDS`, or `LABELLED`.
    """

    kind: str
    rows: tuple[int, ...]
    first: int
    end: int
    until: int


@dataclass(frozen=True, slots=True)
class Heard:
    """A detector over the last t slots of n series, [n, t] each: ``score`` float64, bool where it ``fired``.

    ``own``: where the learned model was among those that fired.
    """

    score: Floats
    fired: Mask
    own: Mask


Watch: TypeAlias = Callable[[History, int], Heard]
"""A detector over the slots of a history from a column on."""


@dataclass(frozen=True, slots=True)
class Finds:
    """Of ``events``: the share ``found``, the median ``delay_s`` of those, the mean ``vus_pr`` over series. None: of none."""

    events: int
    found: float | None
    delay_s: float | None
    vus_pr: float | None


def tail_of(settings: Settings, history: History, tail: float) -> int:
    """The first column of the last ``tail`` of a history. Raises ConfigError when it, or what is before it, is too short."""
    columns = int(history.values.shape[1])
    first = columns - round(columns * tail)
    least = max(settings.detect.warmup, SPAN)
    if columns - first < LEAST_SLOTS or first < least:
        raise ConfigError(
            f"the history has {columns} steps; its last {tail:.0%} must hold {LEAST_SLOTS} of them and the rest {least}, "
            "as detect.warmup asks; give a longer history"
        )
    return first


def sampled(history: History) -> History:
    """The series of up to `MOST_GROUPS` groups, evenly spaced."""
    groups = grouped(history.keys, _TOGETHER)
    chosen = groups[np.unique(np.linspace(0, len(groups) - 1, MOST_GROUPS).astype(int))].ravel()
    rows = np.sort(chosen[chosen >= 0])
    return replace(history, keys=tuple(history.keys[i] for i in rows.tolist()), values=history.values[rows])


def made_up(history: History, first: int) -> tuple[History, tuple[Event, ...]]:
    """The history with anomalies of all `KINDS` in turn from column ``first`` on, the same ones each time.

    A small one is told several times under other names of workloads, so that every kind comes about `_OF_EACH` times.
    """
    groups, kinds = [group[group >= 0] for group in grouped(history.keys, _TOGETHER)], list(KINDS)
    slots, n = history.values.shape[1] - first, len(history.keys)
    count = max(slots // _SLOTS_EACH, min(len(kinds), slots // _LEAST_EACH))
    rounds = -(-_OF_EACH * len(kinds) // (len(groups) * count))
    length, start = slots // count, max(first - _FIT, 0)
    keys = tuple(key._replace(workload=f"{key.workload} {turn}") for turn in range(rounds) for key in history.keys)
    values, events = np.tile(history.values, (rounds, 1)), []
    for serial in range(rounds * len(groups) * count):
        turn, rest = divmod(serial, len(groups) * count)
        rows, since = groups[rest // count], rest % count * length
        at = slice(first + since - start, first + since - start + length)
        clean = history.values[rows, start : start + at.stop].T.astype(np.float64)
        made, label = inject(clean, at.start, kinds[serial % len(kinds)], 1, serial)
        changed = ((made != clean) & np.isfinite(made) & label[:, None]).any(axis=0)
        if changed.any():
            values[turn * n + rows, start + at.start : start + at.stop] = made[at].T
            where = since + np.flatnonzero(label[at])
            there, end = tuple((turn * n + rows[changed]).tolist()), int(where[-1]) + 1
            events.append(Event(kinds[serial % len(kinds)], there, int(where[0]), end, min(end + GRACE, since + length)))
    return replace(history, keys=keys, values=values), tuple(events)


def confirmed(history: History, first: int, spans: Iterable[IncidentSpan]) -> tuple[Event, ...]:
    """The incidents that touch the slots from column ``first`` on."""
    columns = history.values.shape[1]
    begin = history.end - (columns - first) * history.step_ms
    events = []
    for span in spans:
        low = (span.start - begin) // history.step_ms
        end = min(max(-((begin - span.end) // history.step_ms), low + 1), columns - first)
        rows = tuple(i for i, key in enumerate(history.keys) if span.concerns(key))
        if rows and max(low, 0) < end:
            events.append(Event(LABELLED, rows, max(low, 0), end, end + GRACE))
    return tuple(events)


def served(settings: Settings, model: Artifact | None) -> Watch:
    """The detectors of a worker with a learned ``model``, or without. Raises ModelRefused when it cannot be loaded.

    The score is the model's as it is heard, where it is silent or missing the built-in residual's.
    """
    voices = Voices.of(model) if model else Voices({})
    scorer = OnnxScorer(model, threads=1) if model else None

    def watch(history: History, first: int) -> Heard:
        n, columns = history.values.shape
        kept = _Kept(scorer, history) if scorer else None
        detection = Detection(settings.detect, history.step_ms, kept)
        detection.voices = voices
        row = {key: i for i, key in enumerate(history.keys)}
        fired, own = np.zeros((2, n, columns - first), np.bool_)
        for column in range(max(first - RING, 0), columns):
            for told in detection.detect(rolling.windows(history, column, settings.window.look_back), None):
                if column >= first:
                    fired[row[told.key], column - first] = True
                    own[row[told.key], column - first] = "model" in told.evidence["families"]
        score = np.empty((n, columns - first))
        start = max(first - _FIT, 0)
        for i, key in enumerate(history.keys):
            values = history.values[i, start:].astype(np.float64)
            if kept is None:
                score[i] = residual(values, first - start)
            else:
                pair = voices.heard_as(key)[0]
                score[i] = spoken(kept.scores[i, first - SPAN + 1 :], values, first - start)[VOICES.index(pair)]
        return Heard(score, fired, own)

    return watch


class _Kept:
    """A scorer whose answers are kept by column: ``scores`` float32[n, columns], NaN where it was not asked."""

    def __init__(self, scorer: OnnxScorer, history: History) -> None:
        self.name, self._scorer, self._history = scorer.name, scorer, history
        self.scores = np.full(history.values.shape, np.nan, np.float32)

    def score(self, windows: Windows) -> tuple[Floats32, Floats32]:
        answer = self._scorer.score(windows)
        self.scores[:, -1 - (self._history.end - windows.end) // windows.step_ms] = answer[0]
        return answer


def z_score(settings: Settings) -> Watch:
    """Distance of each slot from the mean of the ``detect.look_back`` before it, in their deviations."""

    def watch(history: History, first: int) -> Heard:
        known = history.mask
        values = np.where(known, history.values, 0.0).astype(np.float64)
        usual = values[:, :first].sum(1) / np.maximum(known[:, :first].sum(1), 1)
        values -= usual[:, None] * known  # sums of small numbers lose no digits
        count, total, squares = (_before(part, settings.detect.look_back) for part in (known, values, np.square(values)))
        mean = total / np.maximum(count, 1)
        spread = np.sqrt(np.maximum(squares / np.maximum(count, 1) - np.square(mean), 0.0))
        score = np.where(known & (count > 1) & (spread > 0), np.abs(values - mean) / np.maximum(spread, 1e-12), 0.0)
        return _budgeted(settings, history, first, score)

    return watch


def _before(values: Floats | Mask, length: int) -> Floats:
    """Sums over up to ``length`` columns before each: float64[n, t]."""
    sums = np.pad(np.cumsum(values, axis=1, dtype=np.float64), ((0, 0), (1, 0)))
    at = np.arange(values.shape[1])
    return np.asarray(sums[:, at] - sums[:, np.maximum(at - length, 0)])


def chance(settings: Settings) -> Watch:
    """Scores that know nothing of the series: what everybody else must beat."""

    def watch(history: History, first: int) -> Heard:
        return _budgeted(settings, history, first, np.abs(np.random.default_rng(0).normal(size=history.values.shape)))

    return watch


def _budgeted(settings: Settings, history: History, first: int, score: Floats) -> Heard:
    """Alarms of a ``score`` [n, columns] by the worker's own rule for a learned one: its trailing tail and the budget."""
    rate = alarm_rate(settings.detect.budget, history.step_ms, 1)
    least, past = -ndtri(rate / 2), score.astype(np.float32)
    fired = np.zeros((len(score), score.shape[1] - first), np.bool_)
    for column in range(first, score.shape[1]):
        threshold = np.maximum(tail_threshold(past[:, max(column - RING, 0) : column], rate), least)
        fired[:, column - first] = score[:, column] > threshold
    return Heard(score[:, first:], fired & history.mask[:, first:], np.zeros_like(fired))


def finds(heard: Heard, events: Sequence[Event], step_ms: int, others: Sequence[Event] = ()) -> Finds:
    """What ``heard`` says of ``events``: found by an alarm that begins in one of its series during it or within `GRACE` slots.

    VUS-PR is of each series, without the slots of ``others``, with labels widened by up to half of `WIDE` slots.
    """
    if not events:
        return Finds(0, None, None, None)
    begins = np.diff(heard.fired, axis=1, prepend=False) & heard.fired
    delays = []
    for event in events:
        during = begins[list(event.rows), event.first : event.until].any(axis=0)
        if during.any():
            delays.append(int(np.argmax(during)) * step_ms / 1000)
    label, hidden = _where(heard, events, 0), _where(heard, others, GRACE)
    rows = np.flatnonzero((label & ~hidden).any(axis=1)).tolist()
    areas = [vus_pr(label[row, ~hidden[row]], heard.score[row, ~hidden[row]], WIDE) for row in rows]
    delay = float(np.median(delays)) if delays else None
    return Finds(len(events), len(delays) / len(events), delay, float(np.mean(areas)) if areas else None)


def _where(heard: Heard, events: Iterable[Event], more: int) -> Mask:
    """The slots of ``events`` and ``more`` after each: bool[n, t]."""
    label = np.zeros(heard.score.shape, np.bool_)
    for event in events:
        label[list(event.rows), event.first : event.end + more] = True
    return label


def alarms(settings: Settings, heard: Heard, events: Sequence[Event], step_ms: int) -> Mask:
    """Where an alarm begins, bool[n, t], that tells of none of ``events``: the first after ``detect.close_s`` of quiet."""
    quiet = round(settings.detect.close_s * 1000 / step_ms)
    begins = np.zeros_like(heard.fired)
    for row, fired in enumerate(heard.fired):
        begins[row] = onsets(fired, quiet)
    return begins & ~_where(heard, events, GRACE)


def days(history: History, first: int, row: int | slice = slice(None)) -> float:
    """Days of measured slots from column ``first`` on, over all series or one ``row``."""
    return float(history.mask[row, first:].sum() * history.step_ms / DAY_MS)


def agreement(one: Mask, other: Mask) -> float | None:
    """Share of the alarms [n, t] of two detectors that the other raised too, within `GRACE` slots; None without alarms."""
    total = int(one.sum() + other.sum())
    return float((one & _near(other)).sum() + (other & _near(one)).sum()) / total if total else None


def _near(alarm: Mask) -> Mask:
    wide = np.pad(alarm, ((0, 0), (GRACE, GRACE)))
    return np.asarray(np.lib.stride_tricks.sliding_window_view(wide, 2 * GRACE + 1, axis=1).any(axis=2))
