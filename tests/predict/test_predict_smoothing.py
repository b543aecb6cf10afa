"""The recursion over all series at once says what statsmodels says about each."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.tsa.exponential_smoothing.ets import ETSModel
from statsmodels.tsa.forecasting.theta import ThetaModel
from statsmodels.tsa.holtwinters import Holt, SimpleExpSmoothing

from forecastle.predict.smoothing import GRID, Rules, chosen, states

STEPS = np.arange(1, 13)


def series(rows: int, width: int = 120, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return 50 + np.cumsum(rng.normal(0, 1, (rows, width)), axis=1) + rng.normal(0, 2, (rows, width))


def forecast(values: np.ndarray, rules: Rules, known: np.ndarray | None = None) -> np.ndarray:
    """From the last column: [n, k]."""
    seen = np.ones(values.shape, bool) if known is None else known
    return states(values, seen, rules, np.array([values.shape[1] - 1])).ahead(rules, STEPS)[:, 0]


def test_a_damped_trend_is_that_of_statsmodels() -> None:
    values = series(6)
    rules = Rules.of(
        [(0.1, 0.05, 0.9, 0), (0.5, 0.2, 0.98, 0), (0.9, 0.9, 0.8, 0), (1, 0, 1, 0), (0.3, 0.3, 1, 0), (0.7, 0.01, 0.95, 0)]
    )
    said = forecast(values, rules)
    for row, (alpha, beta, phi, _) in enumerate(zip(*rules, strict=True)):
        holt = Holt(
            values[row], damped_trend=True, initialization_method="known", initial_level=values[row, 0], initial_trend=0.0
        )
        told = holt.fit(smoothing_level=alpha, smoothing_trend=beta / alpha, damping_trend=phi, optimized=False).forecast(12)
        np.testing.assert_allclose(said[row], told, rtol=1e-6)


def test_parameters_that_statsmodels_fitted_are_carried_over() -> None:
    values = series(3, seed=4)
    fitted, told = [], []
    for row in values:
        model = ETSModel(
            row, trend="add", damped_trend=True, initialization_method="known", initial_level=row[0], initial_trend=0.0
        )
        result = model.fit(disp=False)
        alpha, beta, phi = (
            float(result.params[model.param_names.index(name)])
            for name in ("smoothing_level", "smoothing_trend", "damping_trend")
        )
        fitted.append((alpha, beta, phi, 0.0))
        told.append(result.forecast(12))
    np.testing.assert_allclose(forecast(values, Rules.of(fitted)), told, rtol=1e-6)


@pytest.mark.parametrize("alpha", [0.05, 0.5, 1.0])
def test_without_a_trend_it_is_simple_smoothing(alpha: float) -> None:
    values = series(4, seed=1)
    said = forecast(values, Rules.of([(alpha, 0.0, 1.0, 0.0)] * 4))
    for row, one in enumerate(values):
        simple = SimpleExpSmoothing(one, initialization_method="known", initial_level=one[0])
        told = simple.fit(smoothing_level=alpha, optimized=False).forecast(12)
        np.testing.assert_allclose(said[row], told, rtol=1e-6)


def test_theta_is_that_of_statsmodels() -> None:
    values = series(5, seed=2) + np.linspace(0, 30, 120)
    results = [ThetaModel(row, deseasonalize=False).fit() for row in values]
    rules = Rules.of([(float(result.params["alpha"]), 0.0, 1.0, 0.5) for result in results])
    np.testing.assert_allclose(forecast(values, rules), [result.forecast(12) for result in results], rtol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 60))
def test_a_row_is_forecast_alike_alone_and_in_company_and_from_a_shorter_past(seed: int, rows: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    values, known = series(rows, width, seed), rng.random((rows, width)) > 0.3
    rules = GRID.take(rng.integers(0, len(GRID.alpha), rows))
    at = np.unique(rng.integers(0, width, 4))
    together = states(values, known, rules, at).ahead(rules, STEPS)
    for row in range(rows):
        one = rules.take(np.array([row]))
        alone = states(values[row : row + 1], known[row : row + 1], one, at).ahead(one, STEPS)
        np.testing.assert_allclose(alone[0], together[row], rtol=1e-9)
    origin = int(at[0]) + 1
    past = states(values[:, :origin], known[:, :origin], rules, at[:1]).ahead(rules, STEPS)
    np.testing.assert_allclose(past[:, 0], together[:, 0], rtol=1e-9, atol=1e-6)


def test_a_gap_moves_the_trend_on_and_corrects_nothing() -> None:
    values, known = np.array([[10.0, 12.0, 999.0, 999.0]]), np.array([[True, True, False, False]])
    rules = Rules.of([(0.5, 0.5, 0.9, 0.0)])
    state = states(values, known, rules, np.array([1, 3]))
    assert state.level[0, 0] == 11.0
    assert state.trend[0, 0] == 1.0
    assert state.trend[0, 1] == pytest.approx(0.81)
    assert state.level[0, 1] == pytest.approx(11.0 + 0.9 + 0.81)


def test_before_the_first_measurement_nothing_is_said() -> None:
    values, known = np.full((2, 6), 5.0), np.zeros((2, 6), bool)
    known[0, 3:] = True
    said = states(values, known, GRID.take(np.array([0, 1])), np.array([2, 3, 5])).ahead(GRID.take(np.array([0, 1])), STEPS)
    assert np.isnan(said[0, 0]).all()
    assert (said[0, 1:] == 5.0).all()
    assert np.isnan(said[1]).all()


def test_units_carry_over() -> None:
    values, at = series(3, seed=5), np.array([60, 119])
    rules = GRID.take(np.array([0, 1, 12]))
    seen = np.ones(values.shape, bool)
    one = states(values, seen, rules, at).ahead(rules, STEPS)
    two = states(values * 1000 - 7000, seen, rules, at).ahead(rules, STEPS)
    np.testing.assert_allclose(two, one * 1000 - 7000, rtol=1e-8)


def test_the_grid_is_chosen_from_by_what_would_have_erred_least() -> None:
    rng = np.random.default_rng(3)
    noise = 50 + rng.normal(0, 5, 600)
    walk = 50 + np.cumsum(rng.normal(0, 5, 600))
    values = np.stack([noise, walk, np.full(600, 3.0)])
    rules = chosen(values, np.ones(values.shape, bool), np.arange(100, 580, 5), np.array([1, 4]))
    assert rules.alpha[0] <= 0.1
    assert rules.alpha[1] >= 0.6
    assert np.isin(rules.alpha, GRID.alpha).all()
    alone = chosen(values[1:2], np.ones((1, 600), bool), np.arange(100, 580, 5), np.array([1, 4]))
    assert [part[0] for part in alone] == [part[1] for part in rules]
