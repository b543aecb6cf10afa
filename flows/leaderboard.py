"""Challenger, champion and the naive rules on the same folds of the frozen tail: the table a person looks at first."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from flows import rolling
from flows.history import History
from forecastle.errors import ConfigError
from forecastle.outlets.page import Page
from forecastle.predict.naive import QUANTILES
from forecastle.types import Floats32, Windows

CHALLENGER, CHAMPION, SEASONAL, LAST = "challenger", "champion", "seasonal naive", "last value"
FOLDS, PER_FOLD = 4, 6


@dataclass(frozen=True, slots=True)
class Standing:
    """One model on one fold; ``fold`` counts from 1, the oldest first. Errors in units of `rolling.scale`."""

    model: str
    fold: int
    end: int
    score: rolling.Score


@dataclass(frozen=True, slots=True)
class Leaderboard:
    """All models on all folds."""

    standings: tuple[Standing, ...]

    def mean(self) -> dict[str, float]:
        """CRPS of each model over the folds, the best first."""
        told: dict[str, list[float]] = {}
        for one in self.standings:
            told.setdefault(one.model, []).append(one.score.crps)
        means = {model: float(np.mean(values)) for model, values in told.items()}
        return dict(sorted(means.items(), key=lambda item: item[1]))

    def metrics(self) -> dict[str, float]:
        """``crps_<model>`` for a tracking server."""
        return {f"crps_{model.replace(' ', '_')}": value for model, value in self.mean().items()}

    def table(self) -> list[dict[str, Any]]:
        """A row for each model and fold."""
        return [{"model": s.model, "fold": s.fold, "end": s.end, **s.score.metrics()} for s in self.standings]

    def page(self) -> str:
        """The table and CRPS by fold, as one HTML file without links."""
        means = self.mean()
        page = Page("Leaderboard", "Rolling folds of the frozen tail, which no model has learned from")
        page.figures({f"CRPS, {model}": value for model, value in means.items()})
        page.text(
            "CRPS and MASE are in units of repeating the season: below 1 is better than that. WQL is a share of the demand."
        )
        lines = {model: ([float(s.fold) for s in self._of(model)], [s.score.crps for s in self._of(model)]) for model in means}
        page.curves("CRPS by fold", lines, "fold", "CRPS")
        rows = [list(row.values()) for row in self.table()]
        page.table(["model", "fold", "end", "CRPS", "WQL", "MASE"], rows)
        return page.html()

    def _of(self, model: str) -> list[Standing]:
        return [one for one in self.standings if one.model == model]


def leaderboard(
    history: History, answers: Mapping[str, rolling.Answer], *, tail: int, horizon: int, season: int, look_back: int
) -> Leaderboard:
    """Every one of ``answers`` over the last ``tail`` slots, in up to `FOLDS` folds one after the other.

    A fold in which nothing was measured is left out. Raises ConfigError when the tail is shorter than the horizon.
    """
    share = tail / history.values.shape[1]
    at = rolling.origins(history, horizon, tail=share, count=FOLDS * PER_FOLD)
    size = rolling.scale(history, int(at[0]), season)
    standings = []
    for number, fold in enumerate(np.array_split(at, min(FOLDS, len(at))), 1):
        actual = rolling.actuals(history, fold, horizon)
        if not np.isfinite(actual).any():
            continue
        end = history.end - (history.values.shape[1] - 1 - int(fold[-1]) - horizon) * history.step_ms
        for model, answer in answers.items():
            said = rolling.roll(history, fold, answer, look_back)[:, :, :horizon]
            standings.append(Standing(model, number, end, rolling.score(said, actual, size, QUANTILES)))
    if not standings:
        raise ConfigError("nothing was measured in the frozen tail; give a longer history")
    return Leaderboard(tuple(standings))


def last_value(windows: Windows, horizon: int) -> Floats32:
    """The newest measured value for every step and quantile: float32[n, h, q], 0 where nothing was measured."""
    newest = windows.mask.shape[1] - 1 - windows.mask[:, ::-1].argmax(1)
    values = np.where(windows.mask.any(1), windows.values[np.arange(len(newest)), newest], 0.0).astype(np.float32)
    return np.ascontiguousarray(np.broadcast_to(values[:, None, None], (len(values), horizon, len(QUANTILES))))


def data_fingerprint(history: History) -> str:
    """Of the series' names, grid and values: 16 hex digits that tell whether two models learned from the same."""
    digest = hashlib.sha256(f"{history.end} {history.step_ms} {history.values.shape}".encode())
    for key in history.keys:
        digest.update(f"{key}\n".encode())
    digest.update(np.where(history.mask, history.values, np.float32(np.nan)).astype("<f4").tobytes())
    return digest.hexdigest()[:16]


def code_version() -> str:
    """The commit of the checkout, with ``-dirty`` when it was changed; else the version of the installed package."""
    here = Path(__file__).parent
    try:
        command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12"]
        told = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)  # noqa: S603 - fixed words
        return told.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        try:
            return version("forecastle")
        except PackageNotFoundError:
            return "unknown"
