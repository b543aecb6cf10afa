"""Is the history fit to learn from? One row for each series, before minutes are spent on it.

What a forecaster can learn nothing from is named and left out, and flat lines of moving series are hidden as suspect; what is
merely odd is told and learned from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from flows.history import History
from forecastle.errors import ConfigError
from forecastle.types import Floats32, Ints, Mask, Samples

ASTRAY_MS = 35 * 86_400_000
"""A sample this much later than 99 % of all has a broken clock; on the grid it would push everything else out."""
SPARSE = 0.5
"""Share of slots without a sample, from first to last, from which a series counts as sparse."""
SHOWN = 5
MOVING, LONGER, CHANCE = 0.1, 1.5, 1e-6
"""A flat line is suspect in a series that moves in more than this share of its slots, when it is this many times as long as any
other, and where a series that moves as often would stand still for so long with less than this probability."""


@dataclass(frozen=True, slots=True)
class SeriesQuality:
    """One series. ``gaps`` is the share of slots without a sample since its first; runs are in slots, ``ahead_s`` in seconds.

    ``stuck`` counts the slots hidden as flat lines.

    ``unusable`` says why nothing can be learned from it ('' when something can), ``oddities`` what else is strange.
    """

    series: str
    samples: int
    duplicates: int
    gaps: float
    longest_gap: int
    longest_flat: int
    stuck: int
    astray: int
    ahead_s: float
    unusable: str
    oddities: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Quality:
    """Of a whole history: ``rows`` in the order of its keys."""

    rows: tuple[SeriesQuality, ...]

    @property
    def left_out(self) -> dict[str, str]:
        """Series -> why it is left out."""
        return {row.series: row.unusable for row in self.rows if row.unusable}

    @property
    def usable(self) -> Mask:
        """bool[n]."""
        return np.array([not row.unusable for row in self.rows], np.bool_)

    def metrics(self) -> dict[str, float]:
        """Counts and shares for a tracking server."""
        odd = Counter(oddity.split(":")[0] for row in self.rows for oddity in row.oddities)
        count = max(len(self.rows), 1)
        return {
            "quality_series": float(len(self.rows)),
            "quality_left_out": float(len(self.left_out)),
            "quality_gaps": sum(row.gaps for row in self.rows) / count,
            "quality_duplicates": float(sum(row.duplicates for row in self.rows)),
            "quality_stuck": float(sum(row.stuck for row in self.rows)),
            "quality_astray": float(sum(row.astray for row in self.rows)),
            **{f"quality_{name.replace(' ', '_')}": float(n) for name, n in sorted(odd.items())},
        }

    def table(self) -> list[dict[str, Any]]:
        """Plain rows, the worst first."""
        ordered = sorted(self.rows, key=lambda row: (not row.unusable, -len(row.oddities), row.series))
        return [{**asdict(row), "oddities": "; ".join(row.oddities)} for row in ordered]

    def text(self) -> str:
        """One line for the log."""
        shown = [f"{name} ({why})" for name, why in self.left_out.items()]
        more = f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""
        named = f"; left out: {', '.join(shown[:SHOWN])}{more}" if shown else ""
        hidden = sum(row.stuck for row in self.rows)
        flat = f"; {hidden} slots of flat lines hidden" if hidden else ""
        return f"{len(self.rows)} series, {sum(bool(row.oddities) for row in self.rows)} with oddities{flat}{named}"


def on_time(samples: Samples) -> Samples:
    """Without the samples whose clock was broken, see `ASTRAY_MS`."""
    kept = samples.at <= _latest(samples)
    if kept.all():
        return samples
    parts = (samples.index[kept], samples.at[kept], samples.value[kept], samples.partition[kept])
    return Samples(samples.keys, *parts)


@dataclass(frozen=True, slots=True)
class QualityLimits:
    """A series needs ``need`` observed slots to be learned from.

    ``flat_slots`` equal values in a row of a moving series are a flat line; a series whose newest sample is more than
    ``max_skew_s`` ahead of the median series' has a fast clock.
    """

    need: int
    flat_slots: int
    max_skew_s: float


def stuck(history: History, flat_slots: int) -> Mask:
    """bool[n, t]: slots of flat lines that no habit of their series explains, such as those of a dead sensor.

    These are at least ``flat_slots`` equal values in a row, gaps aside; see `MOVING`. A series that is constant by nature, or
    stands still every night, has none.
    """
    return np.array([_stuck(values, flat_slots) for values in history.values], np.bool_).reshape(history.values.shape)


def _stuck(values: Floats32, flat_slots: int) -> Mask:
    result = np.zeros(len(values), np.bool_)
    known = np.flatnonzero(np.isfinite(values))
    seen = values[known]
    starts = np.flatnonzero(np.concatenate([[len(seen) > 0], seen[1:] != seen[:-1]]))
    lengths = np.diff(np.append(starts, len(seen)))
    moves, rest = len(starts) - 1, len(seen)
    if moves <= MOVING * rest:
        return result
    order = np.argsort(-lengths, kind="stable")
    for run, other in zip(order.tolist(), order[1:].tolist(), strict=False):
        length = int(lengths[run])
        rest -= length
        likely = np.log(CHANCE) / np.log1p(-min(moves / max(rest, 1), 0.98))
        if length < flat_slots or length <= max(likely, LONGER * lengths[other] + 1):
            break
        result[known[starts[run] : starts[run] + length]] = True
    return result


def cleared(samples: Samples, history: History, limits: QualityLimits) -> tuple[History, Quality]:
    """``history`` with gaps where it is `stuck`, and the `survey` of it."""
    flat = stuck(history, limits.flat_slots)
    shown = replace(history, values=np.where(flat, np.float32(np.nan), history.values))
    return shown, survey(samples, history, flat, limits)


def survey(samples: Samples, history: History, flat: Mask, limits: QualityLimits) -> Quality:
    """Judge ``samples`` and the ``history`` made of them, of which `stuck` hides ``flat`` bool[n, t]."""
    late, rank = _latest(samples), {key: i for i, key in enumerate(samples.keys)}
    order = np.lexsort((samples.at, samples.index))
    index, at = samples.index[order], samples.at[order]
    cuts = np.searchsorted(index, np.arange(len(samples.keys) + 1))
    times = [at[cuts[rank[key]] : cuts[rank[key] + 1]] for key in history.keys]
    newest = np.array([int(own[own <= late].max(initial=0)) for own in times])
    middle = float(np.median(newest)) if len(newest) else 0.0
    rows = []
    for key, values, hidden, own, last in zip(history.keys, history.values, flat, times, newest.tolist(), strict=True):
        row = replace(_measured(str(key), values, own, late, (last - middle) / 1000), stuck=int(hidden.sum()))
        rows.append(_judged(row, values[~hidden], own, limits, history.step_ms))
    return Quality(tuple(rows))


def learnable(history: History, quality: Quality) -> History:
    """``history`` without what is unusable. Raises ConfigError, naming the reasons, when nothing is left."""
    if not quality.usable.any():
        raise ConfigError(f"no series can be learned from: {quality.text()}; give a longer history or fewer constants")
    keys = tuple(key for key, good in zip(history.keys, quality.usable.tolist(), strict=True) if good)
    return replace(history, keys=keys, values=history.values[quality.usable])


def _measured(name: str, values: np.ndarray, own: Ints, late: int, ahead_s: float) -> SeriesQuality:
    known = np.isfinite(values)
    begun = known[int(known.argmax()) :] if known.any() else known[:0]
    seen = values[known]
    return SeriesQuality(
        name,
        samples=len(own),
        duplicates=len(own) - len(np.unique(own)),
        gaps=float(1 - begun.mean()) if len(begun) else 1.0,
        longest_gap=_longest(~begun),
        longest_flat=_longest(seen[1:] == seen[:-1]) + 1 if len(seen) else 0,
        stuck=0,
        astray=int(np.count_nonzero(own > late)),
        ahead_s=ahead_s,
        unusable="",
        oddities=(),
    )


def _judged(row: SeriesQuality, values: np.ndarray, own: Ints, limits: QualityLimits, step_ms: int) -> SeriesQuality:
    seen = values[np.isfinite(values)]
    constant = len(seen) > 0 and bool((seen == seen[0]).all())
    unusable = (
        f"constant at {seen[0]:g}" if constant else f"{len(seen)} of {limits.need} slots" if len(seen) < limits.need else ""
    )
    pace = float(np.median(np.diff(np.unique(own)))) if len(np.unique(own)) > 1 else float(step_ms)
    told: Sequence[tuple[bool, str]] = (
        (row.duplicates > 0, f"duplicates: {row.duplicates} samples of a time that another has"),
        (row.gaps >= SPARSE, f"sparse: {row.gaps:.0%} of its slots are empty"),
        (
            not constant and row.longest_flat >= limits.flat_slots,
            f"flat line: {row.longest_flat} equal slots" + ", hidden" * (row.stuck > 0),
        ),
        (row.astray > 0, f"broken clock: {row.astray} samples far in the future, not used"),
        (row.ahead_s > limits.max_skew_s, f"fast clock: {row.ahead_s:.0f} s ahead of most series"),
        (pace > 1.5 * step_ms, f"slow pace: every {pace / 1000:g} s, slots are {step_ms / 1000:g} s"),
    )
    return replace(row, unusable=unusable, oddities=tuple(text for true, text in told if true))


def _latest(samples: Samples) -> int:
    if not len(samples):
        return 0
    ordered = np.partition(samples.at, (len(samples) - 1) * 99 // 100)
    return int(ordered[(len(samples) - 1) * 99 // 100]) + ASTRAY_MS


def _longest(flags: np.ndarray) -> int:
    """Length of the longest run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return int((edges[1::2] - edges[::2]).max(initial=0))
