"""Challenger, champion and naive rules on the same folds; what a model was made of is named by hashes."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from flows.history import History
from flows.leaderboard import (
    CHALLENGER,
    CHAMPION,
    FOLDS,
    LAST,
    Leaderboard,
    code_version,
    data_fingerprint,
    last_value,
    leaderboard,
)
from flows.tracking import json_text, split
from forecastle.errors import ConfigError
from forecastle.predict.naive import QUANTILES
from forecastle.types import Floats32, SeriesKey, Windows

STEP, SLOTS, SEASON, HORIZON = 60_000, 400, 50, 5
SEEN: list[int] = []


def history() -> History:
    t = np.arange(SLOTS)
    values = np.stack([100 + 50 * np.sin(2 * np.pi * t / SEASON), 10 + np.random.default_rng(0).normal(0, 1, SLOTS).cumsum()])
    return History((SeriesKey("a", "m"), SeriesKey("b", "m")), values.astype(np.float32), SLOTS * STEP, STEP)


def oracle(error: float) -> Callable[[Windows], Floats32]:
    """Knows what comes, up to ``error``."""

    def answer(windows: Windows) -> Floats32:
        column = windows.end // STEP - 1
        SEEN.append(column)
        came = history().values[:, column + 1 : column + 1 + HORIZON] + error
        return np.repeat(came[:, :, None], len(QUANTILES), axis=2)

    return answer


def board(tail: int = 80, given: History | None = None, **more: Any) -> Leaderboard:
    answers = {CHAMPION: oracle(3.0), CHALLENGER: oracle(1.0), LAST: lambda w: last_value(w, HORIZON), **more}
    return leaderboard(given or history(), answers, tail=tail, horizon=HORIZON, season=SEASON, look_back=60)


def test_the_best_comes_first_and_everyone_stands_on_every_fold() -> None:
    found = board()
    assert list(found.mean())[:2] == [CHALLENGER, CHAMPION]
    assert sorted({(s.model, s.fold) for s in found.standings}) == [
        (model, fold) for model in (CHALLENGER, CHAMPION, LAST) for fold in range(1, FOLDS + 1)
    ]
    assert found.metrics()["crps_last_value"] == pytest.approx(found.mean()[LAST])
    assert found.mean()[CHAMPION] == pytest.approx(3 * found.mean()[CHALLENGER], rel=1e-3)


def test_folds_follow_each_other_within_the_tail() -> None:
    SEEN.clear()
    found = board()
    assert min(SEEN) >= SLOTS - 80 - 1
    assert max(SEEN) + HORIZON == SLOTS - 1
    ends = [s.end for s in found.standings if s.model == CHALLENGER]
    assert ends == sorted(ends)
    assert ends[-1] == SLOTS * STEP


def test_a_model_that_sees_further_is_judged_by_the_same_steps() -> None:
    def longer(windows: Windows) -> Floats32:
        return np.concatenate([oracle(1.0)(windows), np.full((2, 7, len(QUANTILES)), 1e9, np.float32)], axis=1)

    means = board(longer=longer).mean()
    assert means["longer"] == pytest.approx(means[CHALLENGER])


def test_a_fold_without_measurements_is_left_out_and_none_at_all_is_an_error() -> None:
    dark = history()
    dark.values[:, -25:] = np.nan
    assert {s.fold for s in board(given=dark).standings} == {1, 2, 3}
    dark.values[:, -81:] = np.nan
    with pytest.raises(ConfigError, match="nothing was measured in the frozen tail"):
        board(given=dark)


def test_a_tail_shorter_than_the_horizon_is_an_error() -> None:
    with pytest.raises(ConfigError, match="horizon of 5"):
        board(tail=4)


def test_a_short_tail_has_fewer_folds() -> None:
    assert {s.fold for s in board(tail=HORIZON + 1).standings} == {1, 2}


def test_the_page_stands_alone_and_names_everyone() -> None:
    page = board().page()
    assert all(name in page for name in (CHALLENGER, CHAMPION, LAST))
    assert not re.findall(r"(?:src|href)=[\"']https?://", page)


def test_the_table_has_a_row_for_each_model_and_fold() -> None:
    rows = board().table()
    assert len(rows) == 3 * FOLDS
    assert set(rows[0]) == {"model", "fold", "end", "crps", "wql", "mase"}


def test_the_last_value_is_the_newest_measured_one() -> None:
    values = np.array([[1, 2, 3], [4, 5, np.nan], [np.nan] * 3], np.float32)
    flags = np.zeros(3, np.bool_)
    keys = tuple(SeriesKey(name, "m") for name in "abc")
    answer = last_value(Windows(keys, 0, STEP, values, np.isfinite(values), flags, flags), 2)
    assert answer.shape == (3, 2, len(QUANTILES))
    assert answer[:, 0, 0].tolist() == answer[:, 1, -1].tolist() == [3, 5, 0]


@pytest.mark.parametrize(
    "change",
    [
        {"end": SLOTS * STEP + STEP},
        {"step_ms": 2 * STEP},
        {"keys": (SeriesKey("a", "m"), SeriesKey("b", "n"))},
        {"values": history().values[:, ::-1]},
        {"values": history().values[::-1]},
    ],
)
def test_the_fingerprint_of_the_data_changes_with_any_of_it(change: dict[str, Any]) -> None:
    assert data_fingerprint(replace(history(), **change)) != data_fingerprint(history())


def test_the_fingerprint_of_the_data_is_that_of_equal_data() -> None:
    one, other = history(), history()
    one.values[0, 3], other.values[0, 3] = np.nan, np.inf
    assert data_fingerprint(one) == data_fingerprint(other), "what is not measured is not part of it"
    assert re.fullmatch("[0-9a-f]{16}", data_fingerprint(one))


def test_the_code_is_named_by_its_commit() -> None:
    assert re.fullmatch(r"[0-9a-f]{7,}(-dirty)?|\S+-g[0-9a-f]+(-dirty)?|[\w.+-]+", code_version())


def test_without_git_the_package_names_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any, **__: Any) -> None:
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", missing)
    assert re.fullmatch(r"\d+\.\d+.*|unknown", code_version())


def test_a_table_is_told_by_columns_and_what_is_missing_is_null() -> None:
    told = split([{"a": 1, "b": float("nan")}, {"c": "x", "a": 2}])
    assert told == {"columns": ["a", "b", "c"], "data": [[1, pytest.approx(float("nan"), nan_ok=True), None], [2, None, "x"]]}
    assert json_text(told) == '{"columns": ["a", "b", "c"], "data": [[1, null, null], [2, null, "x"]]}'
