from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from forecastle.predict.gate import SLACK, Strikes, bounds, judge, tidy

sys.path.insert(0, str(Path(__file__).parent))
import forecaster_worlds as worlds


def answer(rows, scale=100.0):
    return np.tile(scale * worlds.SPREAD, (rows, worlds.HORIZON, 1)).astype(np.float32)


def test_bounds_are_of_what_was_observed():
    values = np.array([[1, 2, np.nan], [-3, 1, 1], [0, 0, 0], [np.nan] * 3, [5, 9e9, 5]], np.float32)
    mask = np.isfinite(values)
    mask[4, 1] = False
    limits = bounds(worlds.windows(values, mask))
    assert limits.largest.tolist() == [2, 3, 0, 0, 5]
    assert limits.signed.tolist() == [False, True, False, False, False]
    assert limits.blank.tolist() == [False, False, True, True, False]


BROKEN = {
    "not finite": lambda a: a.__setitem__((1, 2, 3), np.nan),
    "quantiles cross": lambda a: a.__setitem__(1, a[1, :, ::-1]),
    "beyond 10 times the window": lambda a: a.__setitem__((1, 0, -1), 1500.0),
    "negative": lambda a: a.__setitem__((1, slice(None), 0), -5.0),
}


@pytest.mark.parametrize("reason", BROKEN)
def test_only_the_row_that_is_wrong_is_refused_and_the_reason_is_told(reason):
    windows = worlds.windows(np.full((3, 20), 100.0))
    limits, given = bounds(windows), answer(3)
    assert not judge(given, limits, 10)[0].any()
    BROKEN[reason](given)
    refused, why = judge(given, limits, 10)
    assert refused.tolist() == [False, True, False]
    assert why == {reason: 1}


def test_infinity_is_not_finite_and_nothing_warns():
    given = answer(2)
    given[0] = np.inf
    refused, why = judge(given, bounds(worlds.windows(np.full((2, 5), 100.0))), 10)
    assert (refused.tolist(), why) == ([True, False], {"not finite": 1})


def test_a_series_with_negative_values_may_be_forecast_negative():
    limits = bounds(worlds.windows([[-100.0, 100.0], [100.0, 100.0]]))
    refused, _ = judge(-answer(2)[:, :, ::-1], limits, 10)
    assert refused.tolist() == [False, True]


def test_blank_rows_are_not_judged():
    given = answer(2)
    assert not judge(given, bounds(worlds.windows([[0.0, 0.0], [np.nan, np.nan]])), 10)[0].any()


def test_rounding_is_put_right_and_not_refused():
    given = answer(1, 1.0)
    given[0, 0, 0] = -0.5 * SLACK
    given[0, 1, 3] = given[0, 1, 2] - 0.5 * SLACK
    limits = bounds(worlds.windows(np.ones((1, 5))))
    assert not judge(given, limits, 10)[0].any()
    tidy(given, limits, 10)
    assert given.min() == 0
    assert (np.diff(given, axis=2) >= 0).all()


def test_what_was_stretched_beyond_bounds_is_cut():
    limits = bounds(worlds.windows([[1.0, 1.0], [-1.0, 0.0], [0.0, 0.0], [3e38, 1.0]]))
    cut = tidy(np.full((4, 1, 2), [-99, 3e38], np.float32), limits, 10)
    assert cut[:, 0].tolist() == [[0, 10], [-10, 10], [0, 0], [0, pytest.approx(3e38)]]


def test_three_strikes_in_a_row_and_not_before():
    strikes = Strikes(3)
    assert [strikes.tell(n, 100) for n in (50, 50, 10, 50, 11, 100)] == [False] * 5 + [True]
    assert not Strikes(3).tell(0, 0)
