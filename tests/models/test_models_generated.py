"""Each kind of generated series is what its name says; their mix has all of them and is the same for the same seed."""

import numpy as np
import pytest

from forecastle.errors import ConfigError
from forecastle.predict.batch import lags, learned
from models import batch_pretrain, generated
from models.generated import KINDS, Grid

SHIPPED = [1.0101319449884518, 5.026589244656647, 1673.3655555555556, 57.85666666666667, 1.066670435524805, 1.766651088782494]
GRID = Grid(width=4000, season=240)
DAYS = Grid(width=15 * 288, step_ms=300_000)


def draw(name: str, count: int = 40, grid: Grid = GRID, seed: int = 0) -> np.ndarray:
    return KINDS[name](np.random.default_rng(seed), count, grid)


def lagged(values: np.ndarray, lag: int) -> np.ndarray:
    """Autocorrelation of each row around a mean of 0."""
    return (values[:, lag:] * values[:, :-lag]).mean(axis=1) / (values**2).mean(axis=1)


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_is_finite_and_the_same_for_the_same_seed(name: str) -> None:
    values = draw(name)
    assert values.shape == (40, 4000)
    assert np.isfinite(values).all()
    assert (values.std(axis=1) > 0).all()
    np.testing.assert_array_equal(values, draw(name))
    assert (values != draw(name, seed=1)).any()
    assert draw(name, count=0).shape == (0, 4000)


def test_cycles_repeat_the_main_cycle_and_are_lower_at_the_weekend() -> None:
    values = draw("cycles", grid=DAYS)
    assert (values > 0).all()
    day = 288
    weekday = (DAYS.minutes() // 1440 + 3) % 7
    midweek = np.flatnonzero((weekday[day:] == 3) & (weekday[:-day] == 2)) + day  # far from any weekend
    np.testing.assert_allclose(values[:, midweek], values[:, midweek - day], rtol=1e-9)
    saturday, wednesday = (np.flatnonzero(weekday == one)[day // 3 : day // 3 + 5] for one in (5, 2))
    assert (values[:, saturday] < values[:, wednesday]).all(axis=1).mean() > 0.5  # already or still Saturday in that zone
    assert (np.ptp(values[:, midweek], axis=1) > 0.01).all()


def test_a_season_of_its_own_is_the_cycle() -> None:
    """No weekend is near: the half day ends at noon of a Thursday."""
    values = draw("cycles", grid=Grid(width=720, season=240, end_minute=28_395_360 + 720))
    np.testing.assert_allclose(values[:, 240:], values[:, :-240], rtol=1e-9)


def test_trends_are_straight_but_for_a_few_bends() -> None:
    values = draw("trends")
    bends = np.abs(np.diff(values, 2, axis=1)) > 1e-9
    assert 1 <= bends.sum(axis=1).mean() < 20
    np.testing.assert_allclose(np.ptp(values, axis=1), 1.0)


def test_level_shifts_are_constant_between_their_jumps() -> None:
    jumps = np.diff(draw("level_shifts"), axis=1) != 0
    assert (jumps.sum(axis=1) >= 1).all()
    assert 5 < jumps.sum(axis=1).mean() < 40


def test_a_flash_crowd_rises_in_its_slots_and_decays_with_its_time_constant() -> None:
    shape = generated.surge(np.array([[5.0]]), np.array([[20.0]]), 200)[0]
    assert (np.diff(shape[:6]) > 0).all()
    assert shape.argmax() == 5
    assert shape[5] == 1
    np.testing.assert_allclose(shape[25], np.exp(-1.0))
    assert (np.diff(shape[5:]) < 0).all()


def test_flash_crowds_are_rare_rise_fast_and_leave_slowly() -> None:
    values = draw("flash_crowds")
    assert (values >= 0).all()
    assert (np.median(values, axis=1) < 0.25 * values.max(axis=1)).all()
    steepest = np.diff(values, axis=1)
    assert (steepest.max(axis=1) > -steepest.min(axis=1)).mean() > 0.7  # comes faster than it leaves


def test_batch_jobs_run_on_schedule() -> None:
    values = draw("batch_jobs")
    assert set(np.unique(values)) == {0.0, 1.0}
    assert ((values.mean(axis=1) > 0.01) & (values.mean(axis=1) < 0.31)).all()
    on_time = [(values[:, period:] == values[:, :-period]).all(axis=1) for period in (240, 60, 10)]
    assert np.logical_or.reduce(on_time).all()
    assert all(np.count_nonzero(one) for one in on_time)


def test_counters_never_fall_but_to_zero() -> None:
    values = draw("counters")
    falls = np.diff(values, axis=1) < 0
    assert (values[:, 1:][falls] == 0).all()
    assert (values == np.round(values)).all()
    assert 0 < falls.sum(axis=1).mean() < 20
    assert (values.max(axis=1) > 50).all()


def test_zero_inflated_series_are_mostly_zero() -> None:
    values = draw("zero_inflated")
    share = (values == 0).mean(axis=1)
    assert (share > 0.55).all()
    assert (share < 1).all()
    assert (values >= 0).all()
    whole = (values == np.round(values)).all(axis=1)
    assert 0.2 < whole.mean() < 0.8


@pytest.mark.parametrize("length", [4.0, 25.0])
def test_a_gaussian_process_has_the_correlation_length_asked_for(length: float) -> None:
    lag, rng = np.arange(2001.0), np.random.default_rng(0)
    at = int(length)
    for kernel, wanted in ((generated.exponential, np.exp(-1.0)), (generated.squared_exponential, np.exp(-0.5))):
        values = generated.gaussian(rng, np.repeat(kernel(lag, np.float64(length))[None], 200, axis=0))
        assert values.std() == pytest.approx(1.0, abs=0.05)
        assert lagged(values, at).mean() == pytest.approx(wanted, abs=0.05)
        assert abs(lagged(values, 20 * at).mean()) < 0.05


def test_a_recurring_process_comes_again_after_its_period() -> None:
    lag = np.arange(2001.0)
    kernel = generated.recurring(lag, 50.0, np.float64(0.7)) * generated.squared_exponential(lag, 300.0)
    values = generated.gaussian(np.random.default_rng(0), np.repeat(kernel[None], 200, axis=0))
    assert lagged(values, 50).mean() > 0.9
    assert lagged(values, 25).mean() < 0.2


def test_mixes_of_gaussian_processes_have_a_variance_of_one_and_many_lengths() -> None:
    values = draw("gaussian_processes", count=300)
    assert (values**2).mean() == pytest.approx(1.0, abs=0.1)
    near = lagged(values, 5)
    assert near.min() < 0.5
    assert near.max() > 0.95


def test_the_mix_is_never_negative_has_counters_and_zeros_and_is_the_same_for_the_same_seed() -> None:
    values = generated.series(np.random.default_rng(3), 200, GRID)
    assert values.shape == (200, 4000)
    assert values.dtype == np.float32
    assert np.isfinite(values).all()
    assert (values >= 0).all()
    falls = np.diff(values, axis=1) < 0
    counting = (np.where(falls, values[:, 1:], 0) == 0).all(axis=1) & (values.max(axis=1) > 0)
    assert 0.01 < counting.mean() < 0.12
    assert 0.05 < ((values == 0).mean(axis=1) > 0.55).mean() < 0.25
    np.testing.assert_array_equal(values, generated.series(np.random.default_rng(3), 200, GRID))


def test_a_grid_without_room_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 16 slots"):
        Grid(width=3)


def test_batch_pretraining_may_draw_from_the_catalogue() -> None:
    made = batch_pretrain.GENERATORS["models.generated"](np.random.default_rng(0), 30, 900, 1_800_000)
    assert made.values.shape == (30, 900)
    assert made.step_ms == 1_800_000
    assert len(learned.drawable(made, lags.view(made, 900), 900, 12).at) > 500


def test_the_recipe_of_the_shipped_batch_network_makes_the_series_that_it_made() -> None:
    made = batch_pretrain.GENERATORS["shipped"](np.random.default_rng(0), 6, 900, 1_800_000)
    np.testing.assert_allclose(made.values.mean(axis=1), SHIPPED, rtol=1e-6)
