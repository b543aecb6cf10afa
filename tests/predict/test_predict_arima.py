"""The filter over all series at once says what statsmodels' SARIMAX says about each, with gaps and without."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.tsa.statespace.sarimax import SARIMAX

from forecastle.predict.arima import LEAST_SHARE, MOST_LAGS, Arima, Arimas, states

STEPS = np.arange(1, 13)
WIDTH = 240
MODELS = {
    "ar": ((1, 0, 0), (0, 0, 0, 0), [0.95]),
    "nearly a walk": ((1, 0, 0), (0, 0, 0, 0), [0.99999]),
    "arma": ((2, 0, 1), (0, 0, 0, 0), [0.5, 0.3, 0.4]),
    "walk": ((0, 1, 0), (0, 0, 0, 0), []),
    "smoothed walk": ((0, 1, 1), (0, 0, 0, 0), [-0.98]),
    "arima": ((2, 1, 1), (0, 0, 0, 0), [0.4, -0.3, -0.7]),
    "season": ((1, 0, 1), (1, 0, 1, 12), [0.5, 0.3, 0.6, 0.2]),
    "walk with a season": ((1, 1, 1), (1, 0, 1, 12), [0.2, -0.6, 0.8, -0.3]),
}


def series(rows: int, gaps: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = 50 + np.cumsum(rng.normal(0, 1, (rows, WIDTH)), axis=1) + rng.normal(0, 2, (rows, WIDTH))
    values[rng.random(values.shape) < gaps] = np.nan
    if gaps:
        values[:, :3], values[:, 100:120], values[:, -4:] = np.nan, np.nan, np.nan
    return values


def of_statsmodels(name: str, values: np.ndarray, exact: bool = True) -> tuple[Arima, object]:
    order, seasonal, told = MODELS[name]
    model = SARIMAX(values, order=order, seasonal_order=seasonal, concentrate_scale=True, use_exact_diffuse=exact)
    result = model.smooth(told)
    ar, ma = -result.polynomial_reduced_ar[1:], result.polynomial_reduced_ma[1:]
    return Arima(tuple(ar.tolist()), tuple(ma.tolist()), order[1]), result


def followed(values: np.ndarray, rows: list[Arima], at: np.ndarray, steps: np.ndarray = STEPS) -> np.ndarray:
    rules = Arimas.of(rows)
    return states(values, np.isfinite(values), rules, at).ahead(rules, steps)


@pytest.mark.parametrize("gaps", [0.0, 0.3])
def test_forecasts_are_those_of_statsmodels_all_models_in_one_batch(gaps: float) -> None:
    values = series(len(MODELS), gaps)
    rows, results = zip(*(of_statsmodels(name, row) for name, row in zip(MODELS, values, strict=True)), strict=True)
    for one in rows:
        one.check()
    said = followed(values, list(rows), np.array([WIDTH - 1]))[:, 0]
    np.testing.assert_allclose(said, [result.forecast(12) for result in results], rtol=1e-8)


@pytest.mark.parametrize("gaps", [0.0, 0.3])
def test_so_is_what_is_said_one_step_ahead_all_along(gaps: float) -> None:
    values = series(len(MODELS), gaps, seed=1)
    rows, results = zip(*(of_statsmodels(name, row) for name, row in zip(MODELS, values, strict=True)), strict=True)
    said = followed(values, list(rows), np.arange(WIDTH - 1), np.array([1]))[:, :, 0]
    first = int(np.isfinite(values).argmax(axis=1).max()) + 1
    told = np.stack([result.predict(first + 1, WIDTH - 1) for result in results])
    np.testing.assert_allclose(said[:, first:], told, rtol=1e-7, atol=1e-7)


def test_an_approximate_diffuse_start_makes_no_difference_that_matters() -> None:
    values = series(1, 0.1)
    row, result = of_statsmodels("arima", values[0], exact=False)
    said = followed(values, [row], np.array([WIDTH - 1]))[0, 0]
    np.testing.assert_allclose(said, result.forecast(12), rtol=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 60), st.booleans())
def test_a_row_is_forecast_alike_alone_and_in_company_and_from_a_shorter_past(seed: int, width: int, whole: bool) -> None:
    rng = np.random.default_rng(seed)
    values = series(3, 0.0 if whole else 0.4, seed)[:, -width:]
    rows = [Arima((0.6, 0.2), (0.3,), 0), Arima((), (-0.8, 0.1), 1), Arima((0.5, 0.0, 0.0, 0.2), (), 1)]
    at = np.unique(rng.integers(0, width, 4))
    together = followed(values, rows, at)
    for i, row in enumerate(rows):
        np.testing.assert_allclose(followed(values[i : i + 1], [row], at)[0], together[i], rtol=1e-9, atol=1e-9)
    origin = int(at[0]) + 1
    past = followed(values[:, :origin], rows, at[:1])
    np.testing.assert_allclose(past[:, 0], together[:, 0], rtol=1e-9, atol=1e-9)


def test_covariances_that_settled_are_taken_up_again_after_a_gap() -> None:
    values = series(1, 0.0)
    values[0, 200:205] = np.nan
    row, result = of_statsmodels("arma", values[0])
    said = followed(values, [row], np.arange(WIDTH - 1), np.array([1]))[0, :, 0]
    np.testing.assert_allclose(said[1:], result.predict(2, WIDTH - 1), rtol=1e-8)


def test_before_the_first_measurement_nothing_is_said() -> None:
    values = np.full((2, 6), np.nan)
    values[0, 3:] = 5.0
    said = followed(values, [Arima((), (), 1), Arima((0.5,), (), 0)], np.array([2, 3, 5]))
    assert np.isnan(said[0, 0]).all()
    assert (said[0, 1:] == 5.0).all()
    assert np.isnan(said[1]).all()


@pytest.mark.parametrize(
    ("one", "why"),
    [
        (Arima((1.0,), (), 0), "stationary"),
        (Arima((0.5, 0.6), (), 0), "stationary"),
        (Arima((-1.2,), (), 1), "stationary"),
        (Arima((1 - LEAST_SHARE / 4,), (), 0), "stationary"),
        (Arima((float("nan"),), (), 0), "stationary"),
        (Arima((1e300, 0.1), (), 0), "stationary"),
        (Arima((), (1.0,), 0), "invertible"),
        (Arima((), (0.3, -1.4), 1), "invertible"),
        (Arima((), (float("inf"),), 0), "invertible"),
        (Arima((0.5,), (), 2), "difference"),
        (Arima((0.0,) * (MOST_LAGS + 1), (), 0), "lags"),
    ],
)
def test_what_would_run_away_is_refused(one: Arima, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        one.check()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1.5, 1.5), min_size=1, max_size=6))
def test_stationary_is_what_has_its_roots_outside_the_unit_circle(ar: list[float]) -> None:
    largest = np.abs(np.roots([1.0, *(-value for value in ar)])).max(initial=0.0)
    try:
        Arima(tuple(ar), (), 0).check()
    except ValueError:
        assert largest > 0.97
    else:
        assert largest < 1
