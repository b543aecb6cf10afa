"""What statsmodels fits leaves as parameters that the serving recursion answers with as statsmodels would."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.tsa.exponential_smoothing.ets import ETSModel
from statsmodels.tsa.forecasting.theta import ThetaModel
from statsmodels.tsa.seasonal import STL
from statsmodels.tsa.statespace.sarimax import SARIMAX

from forecastle.predict import arima
from forecastle.predict.arima import Arima, Arimas
from forecastle.predict.members import KINDS, Member
from forecastle.predict.smoothing import GRID, Rules, states
from forecastle.types import SeriesKey
from models.statistical import HARMONICS, NEWEST, fit, sarimax, shared

KEY = SeriesKey("w", "m")
STEPS = np.arange(1, 11)
SEASON, END = 24, 5_000_003


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    rng = np.random.default_rng(0)
    at = np.arange(400)
    return 100 + 20 * np.sin(2 * np.pi * at / SEASON) + np.cumsum(rng.normal(0, 0.5, 400)) + rng.normal(0, 1, 400)


@pytest.fixture(scope="module")
def members(values: np.ndarray) -> dict[str, Member]:
    return {one.kind: one for one in fit(KEY, values, END, SEASON)}


def served(one: Member, values: np.ndarray) -> np.ndarray:
    """The path that serving takes, with the season of ``one`` out and in again."""
    season = np.asarray(one.season or (0.0,))
    calm = values - season[(END + np.arange(1 - len(values), 1)) % len(season)]
    assert not isinstance(one.rule, Arima)
    rules = Rules.of([(*one.rule, KINDS[one.kind])])
    told = states(calm[None], np.ones((1, len(calm)), bool), rules, np.array([len(calm) - 1])).ahead(rules, STEPS)
    return told[0, 0] + season[(END + STEPS) % len(season)]


def damped(values: np.ndarray) -> np.ndarray:
    known = {"initialization_method": "known", "initial_level": values[0], "initial_trend": 0.0}
    return np.asarray(ETSModel(values, trend="add", damped_trend=True, **known).fit(disp=False).forecast(len(STEPS)))


def test_every_member_is_fitted(members: dict[str, Member]) -> None:
    assert set(members) == set(KINDS)
    assert all(Member.read(one.told()) == one for one in members.values())


def test_ets_is_statsmodels_own_forecast(members: dict[str, Member], values: np.ndarray) -> None:
    np.testing.assert_allclose(served(members["ets"], values), damped(values), rtol=1e-6)


def test_theta_is_statsmodels_own_forecast(members: dict[str, Member], values: np.ndarray) -> None:
    told = ThetaModel(values, deseasonalize=False).fit().forecast(len(STEPS))
    np.testing.assert_allclose(served(members["theta"], values), told, rtol=1e-6)


def test_stl_and_ets_repeat_the_newest_season(members: dict[str, Member], values: np.ndarray) -> None:
    one = members["stl_ets"]
    season = STL(values[-6 * SEASON :], period=SEASON).fit().seasonal[-SEASON:]
    slots = END + np.arange(1 - SEASON, 1)
    np.testing.assert_allclose(np.asarray(one.season)[slots % SEASON], season, rtol=1e-9)
    calm = values - np.asarray(one.season)[(END + np.arange(1 - len(values), 1)) % SEASON]
    told = damped(calm) + np.take(one.season, (END + STEPS) % len(one.season))
    np.testing.assert_allclose(served(one, values), told, rtol=1e-6)
    coming = 100 + 20 * np.sin(2 * np.pi * (399 + STEPS) / SEASON)
    assert np.corrcoef(served(one, values), coming)[0, 1] > 0.9


def test_only_the_newest_are_fitted_to() -> None:
    rng = np.random.default_rng(1)
    newest = 10 + rng.normal(0, 1, NEWEST)
    (one, *_), (two, *_) = (fit(KEY, np.append(before, newest), END, 0) for before in (np.zeros(0), np.full(500, 1e6)))
    assert one == two


@pytest.mark.parametrize("values", [np.full(200, 3.0), np.zeros(0), np.arange(5.0)])
def test_a_series_that_says_nothing_has_no_member(values: np.ndarray) -> None:
    assert fit(KEY, values, END, SEASON) == []


def test_a_short_history_has_no_season_taken_out(values: np.ndarray) -> None:
    assert [one.kind for one in fit(KEY, values[: 3 * SEASON - 1], END, SEASON)] == ["ets", "theta"]
    assert [one.kind for one in fit(KEY, values, END, 0)] == ["ets", "theta"]


def filtered(one: Member, values: np.ndarray, end: int = END) -> np.ndarray:
    """The path that serving takes for SARIMAX."""
    assert isinstance(one.rule, Arima)
    slots, rules, known = end + np.arange(1 - len(values), 1), Arimas.of([one.rule]), np.isfinite(values)
    calm = (values - np.take(one.season, slots % len(one.season)))[None]
    told = arima.states(calm, known[None], rules, np.array([len(values) - 1])).ahead(rules, STEPS)
    return told[0, 0] + np.take(one.season, (end + STEPS) % len(one.season))


def autoregressive(seed: int, width: int, ar: float, ma: float = 0.0) -> np.ndarray:
    shock, values = np.random.default_rng(seed).normal(0, 1, width), np.zeros(width)
    for i in range(1, width):
        values[i] = ar * values[i - 1] + shock[i] + ma * shock[i - 1]
    return values


def test_sarimax_with_harmonics_is_statsmodels_own_forecast() -> None:
    season, width = 30, 300
    rng, at = np.random.default_rng(5), np.arange(width)
    values = 1000 + 200 * np.sin(2 * np.pi * at / season) + 10 * autoregressive(6, width, 0.8)
    values[rng.random(width) < 0.1] = np.nan
    level, walk = sarimax(KEY, values, END, season)
    assert [one.kind for one in (level, walk)] == ["sarimax"] * 2
    assert [one.rule.difference for one in (level, walk)] == [0, 1]  # type: ignore[union-attr]
    assert all(len(one.season) == season and Member.read(one.told()) == one for one in (level, walk))
    past = values[-6 * season :]
    for one in (level, walk):
        rule = one.rule
        assert isinstance(rule, Arima)
        assert len(rule.ar) <= 2  # the season is too long for a lag of its own
        cycle = np.asarray(one.season)[(END + np.arange(1 - len(past), 1)) % season]
        order = (len(rule.ar), rule.difference, len(rule.ma))
        told = SARIMAX(past - cycle, order=order, use_exact_diffuse=True, concentrate_scale=True)
        coming = told.smooth([*rule.ar, *rule.ma]).forecast(len(STEPS)) + np.take(one.season, (END + STEPS) % len(one.season))
        np.testing.assert_allclose(filtered(one, past), coming, rtol=1e-6)
    said = filtered(level, values)
    assert np.abs(said - 1000 - 200 * np.sin(2 * np.pi * (width - 1 + STEPS) / season)).max() < 40


def test_the_season_of_sarimax_is_what_was_put_in() -> None:
    season, width = 36, 216
    slots = END + np.arange(1 - width, 1)
    values = 5 + 3 * np.cos(2 * np.pi * HARMONICS * slots / season) + 0.3 * autoregressive(7, width, 0.3)
    level, walk = sarimax(KEY, values, END, season)
    put = 3 * np.cos(2 * np.pi * HARMONICS * np.arange(season) / season)
    assert np.abs(np.asarray(level.season) - 5 - put).max() < 0.3
    assert np.corrcoef(walk.season, put)[0, 1] > 0.99


def test_the_coefficients_are_found_again() -> None:
    values = 50 + 4 * autoregressive(8, 900, 0.9, -0.5)
    level, walk = sarimax(KEY, values, END, 0)
    assert isinstance(level.rule, Arima)
    assert len(level.season) == 1
    assert level.season[0] == pytest.approx(50, abs=6)
    assert level.rule.ar[0] == pytest.approx(0.9, abs=0.15)
    assert level.rule.ma[0] == pytest.approx(-0.5, abs=0.15)
    assert isinstance(walk.rule, Arima)
    assert walk.rule.difference == 1


def test_a_short_season_that_changes_has_a_lag_of_its_own() -> None:
    season, width = 5, 200
    values, shock = np.zeros(width), np.random.default_rng(9).normal(0, 1, width)
    for i in range(season, width):
        values[i] = 0.9 * values[i - season] + shock[i]
    found = sarimax(KEY, values, END, season)
    assert isinstance(found[0].rule, Arima)
    assert len(found[0].rule.ar) >= season
    assert found[0].rule.ar[season - 1] == pytest.approx(0.9, abs=0.15)


@pytest.mark.parametrize("values", [np.full(200, 3.0), np.zeros(0), np.arange(5.0), np.full(300, np.nan)])
def test_a_series_that_says_nothing_has_no_sarimax(values: np.ndarray) -> None:
    assert sarimax(KEY, values, END, SEASON) == []


def test_the_others_share_a_grid() -> None:
    rng = np.random.default_rng(2)
    rows = np.stack([50 + rng.normal(0, 3, 300), 50 + np.cumsum(rng.normal(0, 3, 300))])
    keys = [SeriesKey("a", "m"), SeriesKey("b", "m")]
    calm, restless = shared(keys, rows, np.isfinite(rows), 6)
    assert (calm.key, restless.key) == (keys[0], keys[1])
    assert calm.rule[0] < restless.rule[0]
    assert {calm.rule[0], restless.rule[0]} <= set(GRID.alpha.tolist())
    assert all(Member.read(one.told()) == one for one in (calm, restless))
