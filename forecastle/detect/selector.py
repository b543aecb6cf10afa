"""Which scorer speaks for a family of series, and how it is smoothed: one of them, never their average.

Measured, the single best beat any average, and which one is best differs between families of series. So candidates are
ranked on folds of a family's own training rows; the rule of thumb stays unless another wins by a margin on most folds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from forecastle.detect import trails
from forecastle.errors import ConfigError
from forecastle.types import Floats, Mask

SMOOTHINGS = ("none", "held 5", "held 20", "held 2%", "mean 5", "mean 20")
"""Trailing: the largest so far, decaying, or the exponential mean; half-lives in rows or as a share of the training rows."""
MARGIN, MOST = 0.05, 0.6
"""By how much in `rank_score`, and on what share of the folds, another candidate must win."""
TOLERANCE = 30


@dataclass(frozen=True, slots=True, order=True)
class Pair:
    """A scorer and one of `SMOOTHINGS`."""

    scorer: str
    smoothing: str

    def __str__(self) -> str:
        return f"{self.scorer}, {self.smoothing}"


@dataclass(frozen=True, slots=True)
class Choice:
    """Who speaks and why; ``pair`` None: the rule of thumb stays.

    ``usual`` and ``scores`` are the mean `rank_score` of the rule and of every candidate over ``folds`` folds.
    """

    pair: Pair | None
    why: str
    usual: float = 0.0
    scores: Mapping[str, float] | None = None
    folds: int = 0


def smooth(raw: Floats, smoothing: str, train: int) -> Floats:
    """``raw`` float64[n] after one of `SMOOTHINGS`. Raises ConfigError for another."""
    if smoothing not in SMOOTHINGS:
        raise ConfigError(f"smoothing {smoothing!r}: not among {', '.join(SMOOTHINGS)}")
    kind, _, size = smoothing.partition(" ")
    if kind == "none":
        return raw
    half_life = max(3.0, train * float(size[:-1]) / 100) if size.endswith("%") else float(size)
    return trails.held(raw, half_life) if kind == "held" else trails.smoothed(raw, half_life)


def rank_score(label: Mask, values: Floats, tolerance: int = TOLERANCE) -> float:
    """How well ``values`` [n] rank the events of ``label`` [n] above the rest: 0 to 1, NaN without events.

    Average precision with recall scaled by the share of events found, as in VUS-PR, averaged over events as they are and
    widened by half the ``tolerance`` (rows) on both sides.
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[0], label.astype(np.int8), [0]]))).reshape(-1, 2).tolist()
    if not edges:
        return float("nan")
    order = np.argsort(-values, kind="stable")
    ranked, count = values[order], np.arange(1, len(order) + 1)
    last = np.append(ranked[1:] < ranked[:-1], True)
    areas = []
    for reach in (0, tolerance // 2):
        wide, peaks = label.copy(), np.empty(len(edges))
        for i, (first, end) in enumerate(edges):
            around = slice(max(0, first - reach), end + reach)
            wide[around], peaks[i] = True, values[around].max()
        hits = np.cumsum(wide[order])
        found = np.searchsorted(np.sort(-peaks), -ranked, side="right") / len(peaks)
        recall = hits / hits[-1] * found
        areas.append(float(np.dot(np.diff(recall[last], prepend=0.0), (hits / count)[last])))
    return float(np.mean(areas))


def choose(folds: Floats, usual: Sequence[Pair], candidates: Sequence[Pair], own: Mapping[str, str], by: str) -> Choice:
    """The choice from ``folds`` [f, k], the `rank_score` of each of the k ``candidates``; ``usual``: each fold's rule of thumb.

    First the scorer, each with its ``own`` smoothing, then the smoothing: both stay unless `MARGIN` and `MOST` are passed.
    ``by`` tells what the folds were judged on.
    """
    index = {pair: i for i, pair in enumerate(candidates)}
    thumb = folds[np.arange(len(folds)), [index[pair] for pair in usual]]
    scores = {str(pair): round(float(mean), 4) for pair, mean in zip(candidates, folds.mean(axis=0), strict=True)}
    first = _better(folds, thumb, [i for pair, i in index.items() if own[pair.scorer] == pair.smoothing])
    held = candidates[first] if first is not None else usual[0]
    if first is None and len(set(usual)) > 1:
        second = None
    else:
        kept = thumb if first is None else folds[:, first]
        second = _better(folds, kept, [i for pair, i in index.items() if pair.scorer == held.scorer])
    best = second if second is not None else first
    seen = f"{len(folds)} {'fold' if len(folds) == 1 else 'folds'} of {by}"
    if best is None:
        why = f"the rule of thumb: no other is better by {MARGIN} on {MOST:.0%} of {seen}"
        return Choice(None, why, round(float(thumb.mean()), 4), scores, len(folds))
    wins = float((folds[:, best] > thumb).mean())
    why = f"{folds[:, best].mean():.3f}, the rule of thumb {thumb.mean():.3f} on {seen}; better on {wins:.0%}"
    return Choice(candidates[best], why, round(float(thumb.mean()), 4), scores, len(folds))


def _better(folds: Floats, than: Floats, among: Sequence[int]) -> int | None:
    able = [i for i in among if folds[:, i].mean() > than.mean() + MARGIN and (folds[:, i] > than).mean() >= MOST]
    return max(able, key=lambda i: float(folds[:, i].mean())) if able else None


def told(choices: Mapping[str, Choice]) -> dict[str, Any]:
    """``choices`` (a glob of names -> choice) as JSON would hold them."""
    return {family: asdict(choice) for family, choice in choices.items()}


def heard(told: Any, where: str) -> dict[str, Choice]:
    """The inverse of `told`. Raises ConfigError naming ``where`` when it is not what `told` makes."""
    try:
        return {
            str(family): Choice(**{**one, "pair": Pair(**one["pair"]) if one["pair"] is not None else None})
            for family, one in told.items()
        }
    except (AttributeError, KeyError, TypeError) as error:
        raise ConfigError(f"{where}: not a table of choices ({error}); let forecastle write it") from error


def read_choices(path: Path) -> dict[str, Choice]:
    """Choices from a JSON file. Raises ConfigError when there is none or it is not one."""
    try:
        return heard(json.loads(path.read_text("utf-8")), str(path))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error


def of_family(choices: Mapping[str, Choice], *names: str) -> tuple[str, Choice] | None:
    """The first family, in the order of ``choices``, whose glob matches one of ``names``."""
    matching = (one for one in choices.items() if any(fnmatchcase(name, one[0]) for name in names))
    return next(matching, None)
