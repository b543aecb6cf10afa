"""How a new detector is to be heard for each metric, tried on slots that it has not seen, with anomalies made up in them.

Its competitor is the built-in residual, which costs nothing: a model that ranks made-up anomalies of a metric worse is silent
there. The choices go into the manifest, where the worker finds them, and into the run's tables, where people do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flows.history import History
from forecastle.detect import trails
from forecastle.detect.groups import grouped
from forecastle.detect.injections import KINDS, inject
from forecastle.detect.onnx import OnnxScorer
from forecastle.detect.selector import Choice, choose, rank_score
from forecastle.detect.voices import PLAIN, SILENT, SPAN, VOICES, trailing
from forecastle.ports import Artifact
from forecastle.types import Floats, Floats32, SeriesKey, Windows

MOST_SLOTS, MOST_GROUPS = 600, 12
LEAST_SLOTS = 72
"""Slots of the tail below which nothing is tried: too few for two anomalies and what is usual around them."""
_FIT = 2000
_SLOTS_EACH = 120
OWN = {PLAIN.scorer: PLAIN.smoothing, SILENT.scorer: SILENT.smoothing}


def learn(artifact: Artifact, history: History, tail: int) -> dict[str, Choice]:
    """A choice for each metric from the newest slots of the last ``tail``; empty where the tail is too short.

    Incidents are cut out of ``history`` already, so what is found in it is what was put there.
    """
    scorer = OnnxScorer(artifact, threads=1)
    slots = min(tail, MOST_SLOTS, history.values.shape[1] - scorer.look_back - SPAN)
    if slots < LEAST_SLOTS:
        return {}
    groups = grouped(history.keys, scorer.channels)
    folds: dict[str, list[list[float]]] = {}
    for number in np.unique(np.linspace(0, len(groups) - 1, MOST_GROUPS).astype(int)).tolist():
        keys = tuple(history.keys[row] for row in groups[number] if row >= 0)
        values = history.values[groups[number][groups[number] >= 0], -(_FIT + slots) :].T.astype(np.float64)
        first, count = len(values) - slots, max(2, min(5, slots // _SLOTS_EACH))
        for turn, kind in enumerate(KINDS):
            made, label = inject(values, first, kind, count, number * len(KINDS) + turn)
            changed = (made != values) & np.isfinite(values) & label[:, None]
            scores = _scores(scorer, keys, made, first - SPAN + 1)
            for c in np.flatnonzero(changed.any(axis=0)).tolist():
                told = [rank_score(changed[first:, c], heard) for heard in spoken(scores[c], made[:, c], first)]
                folds.setdefault(keys[c].metric, []).append(told)
    return {
        metric: choose(np.array(told), [PLAIN] * len(told), VOICES, OWN, "made-up anomalies")
        for metric, told in sorted(folds.items())
    }


def table(choices: Mapping[str, Choice]) -> list[dict[str, Any]]:
    """A row for each metric, for people."""
    return [
        {"metric": metric, "speaks": str(one.pair or PLAIN), "why": one.why, **(one.scores or {})}
        for metric, one in choices.items()
    ]


def metrics(choices: Mapping[str, Choice]) -> dict[str, float]:
    """How many metrics were tried, and for how many of them the model is silent or smoothed."""
    heard = [one.pair or PLAIN for one in choices.values()]
    silent = sum(pair == SILENT for pair in heard)
    return {
        "voices": float(len(heard)),
        "voices_silent": float(silent),
        "voices_smoothed": float(sum(pair != PLAIN for pair in heard) - silent),
    }


def _scores(scorer: OnnxScorer, keys: Sequence[SeriesKey], values: Floats, start: int) -> Floats32:
    """The model's scores float32[c, slots] of ``values`` float64[t, c] from slot ``start``: a workload for each slot."""
    windows = np.lib.stride_tricks.sliding_window_view(values, scorer.look_back, axis=0)[start - scorer.look_back + 1 :]
    rows = windows.reshape(-1, scorer.look_back).astype(np.float32)
    mask, flags = np.isfinite(rows), np.zeros(len(rows), np.bool_)
    alone = tuple(key._replace(workload=f"{slot:06d}") for slot in range(len(windows)) for key in keys)
    score, _ = scorer.score(Windows(alone, 0, 1, np.nan_to_num(rows), mask, flags, flags))
    return np.ascontiguousarray(score.reshape(len(windows), len(keys)).T)


def spoken(score: Floats32, values: Floats, first: int) -> list[Floats]:
    """The scores float64[t - first] of each of `VOICES`, 0 where nothing was observed.

    ``score`` float32[t - first + SPAN - 1] is the model's own, ``values`` float64[t] the series.
    """
    own = [trailing(score[None, :], pair.smoothing)[0] for pair in VOICES if pair.scorer == PLAIN.scorer]
    return [np.nan_to_num(one).astype(np.float64) for one in (*own, residual(values, first))]


def residual(values: Floats, first: int) -> Floats:
    """The built-in residual float64[t - first] of ``values`` float64[t], fitted before slot ``first``; 0 in gaps."""
    told = trails.residual(trails.standardized(values, first), first)[first:]
    return np.where(np.isfinite(values[first:]), told, 0.0)
