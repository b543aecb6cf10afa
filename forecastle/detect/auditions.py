"""The scorers of recorded history compete for a family: on its labels where somebody gave some, else on made-up anomalies.

All happens within the training rows: scorers are fitted on the earlier ones and judged on the later ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from forecastle.detect import trails
from forecastle.detect.injections import KINDS, inject
from forecastle.detect.selector import SMOOTHINGS, Choice, Pair, choose, rank_score, smooth
from forecastle.errors import ConfigError
from forecastle.types import Floats, Mask

LONG = 8000
"""Training rows from which a plain autoregression outdoes shapes: enough cycles to know every minute's dynamics."""
OWN = {
    **dict.fromkeys([*trails.SINGLE, *trails.SEVERAL], "held 5"),
    "shape": "held 2%",
    "subspace": "mean 5",
    "residuals": "mean 5",
    "cross": "mean 5",
}
"""The smoothing that each scorer has unless another earns its place."""
NEWEST, LEAST = 8000, 120
"""Most training rows that are looked at, and the number below which nothing is tried."""
_FIT, _ROWS_EACH = 0.6, 120


class Recorded(NamedTuple):
    """One series: ``values`` float64[n, c], ``label`` bool[n] where there is one.

    ``train``: the leading rows that its scorers are fitted on; None: `_FIT` of them, the rest is judged.
    """

    values: Floats
    label: Mask | None = None
    train: int | None = None

    @property
    def fit(self) -> int:
        """Rows before the first that is judged."""
        return int(_FIT * len(self.values)) if self.train is None else self.train

    @property
    def labelled(self) -> bool:
        """Whether an event can be judged."""
        one = self.newest()
        return one.label is not None and bool(one.label[one.fit :].any())

    def newest(self) -> Recorded:
        """Its newest rows, `NEWEST` at most, unless it says which rows are fitted on."""
        if self.train is not None:
            return self
        return Recorded(self.values[-NEWEST:], None if self.label is None else self.label[-NEWEST:])


def rule(train: int, columns: int) -> Pair:
    """The rule of thumb by the number of columns and training rows."""
    scorer = "subspace" if columns > 1 else "residual" if train >= LONG else "shape"
    return Pair(scorer, OWN[scorer])


def candidates(columns: int) -> list[Pair]:
    """Every scorer for as many columns with every smoothing."""
    return [Pair(scorer, smoothing) for scorer in _scorers(columns) for smoothing in SMOOTHINGS]


def perform(values: Floats, train: int, pair: Pair, missing: Mask | None = None) -> tuple[Floats, Floats]:
    """(score float64[n], parts float64[n, c] of the columns in it before smoothing) of gap-free ``values`` float64[n, c].

    What is ``missing`` bool[n, c] counts as its column usually does in training, except in rows without any value.
    Raises ConfigError for a scorer or smoothing that is not known for as many columns.
    """
    parts = _parts(values, train, pair.scorer)
    if missing is not None and missing.any():
        parts = np.where(missing & ~missing.all(axis=1, keepdims=True), np.median(parts[:train], axis=0), parts)
    return smooth(parts.mean(axis=1), pair.smoothing, train), parts


def learn(family: Sequence[Recorded], seed: int = 0) -> Choice:
    """The choice for series that are alike, from their training rows alone.

    Series with an event among their later labels are judged on those; when there are none, all are on made-up anomalies, a
    fold for each kind. Raises ConfigError when the series have different numbers of columns.
    """
    columns = {one.values.shape[1] for one in family}
    if len(columns) != 1:
        raise ConfigError(f"a family of files with {sorted(columns)} columns; put those with one and those with many apart")
    pairs = candidates(columns.pop())
    labelled = [one for one in family if one.labelled]
    folds, usual = [], []
    for number, one in enumerate(labelled or family):
        if len(one.values) < LEAST:
            continue
        rows = _folds(one.newest(), pairs, None if labelled else seed + len(KINDS) * number)
        folds += rows
        usual += [rule(one.train or len(one.values), one.values.shape[1])] * len(rows)
    if not folds:
        return Choice(None, f"the rule of thumb: fewer than {LEAST} training rows")
    return choose(np.array(folds), usual, pairs, OWN, "labels" if labelled else "made-up anomalies")


def _folds(one: Recorded, pairs: Sequence[Pair], seed: int | None) -> list[list[float]]:
    """Rank scores of ``pairs``, a row for each fold: by the labels where ``seed`` is None."""
    if seed is None and one.label is not None:
        return [_ranked(one.values, one.label, one.fit, pairs)]
    count = max(2, min(5, (len(one.values) - one.fit) // _ROWS_EACH))
    made = (inject(one.values, one.fit, kind, count, (seed or 0) + turn) for turn, kind in enumerate(KINDS))
    return [_ranked(*values_and_label, one.fit, pairs) for values_and_label in made]


def _ranked(values: Floats, label: Mask, fit: int, pairs: Sequence[Pair]) -> list[float]:
    filled = trails.forward(values, fit)
    raw = {name: _parts(filled, fit, name).mean(axis=1) for name in dict.fromkeys(pair.scorer for pair in pairs)}
    later = label[fit:]
    return [rank_score(later, smooth(raw[pair.scorer], pair.smoothing, fit)[fit:]) for pair in pairs]


def _parts(values: Floats, train: int, scorer: str) -> Floats:
    known = _scorers(values.shape[1])
    if scorer not in known:
        raise ConfigError(f"scorer {scorer!r}: for {values.shape[1]} columns there are {', '.join(known)}")
    if values.shape[1] == 1:
        return known[scorer](trails.standardized(values[:, 0], train), train)[:, None]
    return known[scorer](values, train)


def _scorers(columns: int) -> trails.Scorers:
    return trails.SINGLE if columns == 1 else trails.SEVERAL
