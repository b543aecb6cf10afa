"""The learned model's voice by metric: silent where the built-in residual ranks anomalies better, smoothed where that helps.

The choices travel in the model's manifest. A smoothed score is a function of the last `SPAN` ticks, so that a replay
repeats it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from forecastle.detect.selector import Choice, Pair, heard, of_family
from forecastle.errors import ModelRefused
from forecastle.ports import Artifact
from forecastle.types import Floats32, SeriesKey

SPAN, HALF_LIFE = 20, 5.0
"""Ticks that a smoothed score looks back, and its half-life."""
PLAIN, SILENT = Pair("model", "none"), Pair("residual", "none")
VOICES = (PLAIN, Pair("model", "held 5"), Pair("model", "mean 5"), SILENT)
"""How a model may be heard; the first is how it is heard where nothing was chosen."""
CHOICES = "choices"
"""Where a manifest holds them."""


def trailing(scores: Floats32, smoothing: str) -> Floats32:
    """``scores`` float32[n, t] smoothed along time: float32[n, t - SPAN + 1], the last column the newest; NaN is unknown.

    Columns whose own score is unknown stay so.
    """
    ages = np.arange(SPAN - 1, -1, -1, dtype=np.float32)
    weight = np.exp2(-ages / np.float32(HALF_LIFE))
    windows = np.lib.stride_tricks.sliding_window_view(scores, SPAN, axis=1)
    own = windows[:, :, -1]
    if smoothing == "none":
        return np.asarray(own, np.float32)
    known = np.isfinite(windows)
    values = np.where(known, windows, np.float32(0.0)) * weight
    if smoothing == "held 5":
        out = values.max(axis=2)
    else:
        out = values.sum(axis=2) / np.maximum((known * weight).sum(axis=2), np.float32(1e-6))
    return np.where(np.isfinite(own), out, np.float32(np.nan)).astype(np.float32)


class Voices:
    """How the model is heard for each series of a tick, by the first family in ``choices`` that its metric matches."""

    def __init__(self, choices: Mapping[str, Choice]) -> None:
        self.choices = choices
        self._keys: tuple[SeriesKey, ...] | None = None
        self._rows: dict[Pair, npt.NDArray[np.intp]] = {}

    @classmethod
    def of(cls, artifact: Artifact) -> Voices:
        """As ``artifact``'s manifest says. Raises ModelRefused when it says what no model can do."""
        choices = heard(artifact.manifest.get(CHOICES) or {}, str(artifact.path))
        strange = sorted({str(one.pair) for one in choices.values() if one.pair is not None and one.pair not in VOICES})
        if strange:
            raise ModelRefused(f"{artifact.path}: choices name {'; '.join(strange)}; train it again")
        return cls(choices)

    def heard_as(self, key: SeriesKey) -> tuple[Pair, str]:
        """How the model is heard for ``key``, and why ('' where nothing was chosen)."""
        found = of_family(self.choices, key.metric)
        return (found[1].pair or PLAIN, found[1].why) if found else (PLAIN, "")

    def speak(self, keys: tuple[SeriesKey, ...], past: Floats32, score: Floats32) -> tuple[Floats32, Floats32]:
        """(past, score) as heard: smoothed rows where smoothing was chosen, a score of 0 where the model is silent.

        ``past`` float32[n, t] are the scores of earlier ticks, oldest first, ``score`` float32[n] the newest.
        """
        rows = self._of(keys)
        if not rows:
            return past, score
        past, score = past.copy(), score.copy()
        for pair, there in rows.items():
            if pair == SILENT:
                score[there] = 0.0
                continue
            smoothed = trailing(np.column_stack([past[there], score[there]]), pair.smoothing)
            past[there] = np.nan
            past[there[:, None], np.arange(1 - smoothed.shape[1], 0)] = smoothed[:, :-1]
            score[there] = smoothed[:, -1]
        return past, score

    def _of(self, keys: tuple[SeriesKey, ...]) -> Mapping[Pair, npt.NDArray[np.intp]]:
        """Rows that are not heard plainly, by how they are heard."""
        if keys is not self._keys and keys != self._keys:
            self._rows = _grouped([self.heard_as(key)[0] for key in keys] if self.choices else [])
        self._keys = keys
        return self._rows


def _grouped(pairs: Sequence[Pair]) -> dict[Pair, npt.NDArray[np.intp]]:
    return {pair: np.array([i for i, one in enumerate(pairs) if one == pair], np.intp) for pair in VOICES[1:] if pair in pairs}
