"""What statsmodels fits leaves as parameters that the serving recursion answers with as statsmodels would."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.tsa.exponential_smoothing.ets import ETSModel
from statsmodels.tsa.forecasting.theta import ThetaModel
from statsmodels.tsa.seasonal import STL

from forecastle.predict.members import KINDS, Member
from forecastle.predict.smoothing import GRID, Rules, states
from forecastle.types import SeriesKey
from models.statistical import NEWEST, fit, shared

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
    told = damped(calm) + np.take(one.season, END + STEPS, mode="wrap")
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


def test_the_others_share_a_grid() -> None:
    rng = np.random.default_rng(2)
    rows = np.stack([50 + rng.normal(0, 3, 300), 50 + np.cumsum(rng.normal(0, 3, 300))])
    keys = [SeriesKey("a", "m"), SeriesKey("b", "m")]
    calm, restless = shared(keys, rows, np.isfinite(rows), 6)
    assert (calm.key, restless.key) == (keys[0], keys[1])
    assert calm.rule[0] < restless.rule[0]
    assert {calm.rule[0], restless.rule[0]} <= set(GRID.alpha.tolist())
    assert all(Member.read(one.told()) == one for one in (calm, restless))
