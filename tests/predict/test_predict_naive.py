from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecastle.predict.engine import Predictor
from forecastle.predict.naive import BLOCK, QUANTILES, naive
from forecastle.settings import PredictSettings
from forecastle.testing.check_forecaster import check_forecaster

sys.path.insert(0, str(Path(__file__).parent))
import forecaster_worlds as worlds

MEDIAN = QUANTILES.index(0.5)


def seen(values):
    return np.ones(values.shape, bool)


def test_the_stand_in_passes_what_every_forecaster_must():
    check_forecaster(lambda: Predictor(PredictSettings(model="", season=48, horizon=12), 60_000))


def test_a_steady_cycle_is_continued_exactly():
    values = np.tile(np.array([10, 20, 40, 20], np.float32), 50)[None]
    answer = naive(values, seen(values), season=4, horizon=6)[0]
    assert answer[:, MEDIAN] == pytest.approx([10, 20, 40, 20, 10, 20])
    assert answer == pytest.approx(np.repeat(answer[:, [MEDIAN]], len(QUANTILES), axis=1))


def test_a_busier_day_keeps_the_shape_of_the_day_before():
    at = np.arange(96 * 3)
    shape = 100 + 60 * np.sin(2 * np.pi * at / 96)
    busy = np.where(at >= 96 * 2 - 40, 1.5, 1.0)
    values = (shape * busy).astype(np.float32)[None]
    cut = 96 * 2
    answer = naive(values[:, :cut], seen(values[:, :cut]), season=96, horizon=24)[0, :, MEDIAN]
    yesterday = values[0, cut - 96 : cut - 72]
    truth = values[0, cut : cut + 24]
    assert np.abs(answer - truth).mean() < 0.25 * np.abs(yesterday - truth).mean()


def test_without_a_season_the_last_level_stays_and_doubt_grows():
    rng = np.random.default_rng(0)
    values = (1000 + rng.normal(0, 5, (20, 300)).cumsum(axis=1)).astype(np.float32)
    answer = naive(values, seen(values), season=1440, horizon=30)
    assert np.abs(answer[:, 0, MEDIAN] - values[:, -1]).max() < 25
    width = answer[:, :, -2] - answer[:, :, 1]
    assert (width[:, -1] > 2 * width[:, 0]).mean() > 0.9


def test_a_masked_season_leaves_the_last_value():
    values = worlds.waves(4, 192, noise=0)
    mask = seen(values)
    mask[:, :150] = False
    answer = naive(values, mask, season=96, horizon=4)
    assert answer[:, 0, MEDIAN] == pytest.approx(values[:, -1], rel=0.1)


def test_quantiles_come_from_the_errors_of_each_series():
    calm, wild = worlds.waves(30, 2000, noise=1), worlds.waves(30, 2000, noise=10)
    values = np.concatenate([calm, wild])
    answer = naive(values[:, :-12], seen(values[:, :-12]), season=96, horizon=12)
    width = (answer[:, :, 8] - answer[:, :, 2]).mean(axis=1)
    assert width[30:].mean() > 4 * width[:30].mean()
    below = (values[:, None, -12:].transpose(0, 2, 1) <= answer).mean(axis=(0, 1))
    assert below == pytest.approx(QUANTILES, abs=0.1)


def test_errors_that_lean_to_one_side_make_quantiles_that_do():
    rng = np.random.default_rng(1)
    values = np.where(rng.random((40, 600)) < 0.15, 200.0, 100.0).astype(np.float32)
    values[:, -1] = 100.0
    answer = naive(values, seen(values), season=1440, horizon=3)
    up, down = answer[:, 0, -1] - answer[:, 0, MEDIAN], answer[:, 0, MEDIAN] - answer[:, 0, 0]
    assert up.mean() > 1.5 * down.mean()


def test_a_series_just_begun_is_given_room():
    answer = naive(np.array([[50.0]], np.float32), np.array([[True]]), season=24, horizon=9)[0]
    assert answer[:, MEDIAN] == pytest.approx(50)
    assert answer[0, -1] > 60
    assert answer[-1, -1] - 50 == pytest.approx(3 * (answer[0, -1] - 50), rel=1e-4)


def test_a_series_never_seen_is_zero_and_nan_under_the_mask_is_not_read():
    values = np.full((2, 50), np.nan, np.float32)
    values[1, ::2] = 8.0
    answer = naive(values, np.isfinite(values), season=10, horizon=5)
    assert not answer[0].any()
    assert answer[1, :, MEDIAN] == pytest.approx(8.0)


def test_blocks_do_not_matter():
    values = worlds.waves(BLOCK + 5)
    mask = np.random.default_rng(0).random(values.shape) > 0.2
    whole = naive(values, mask, season=96, horizon=7)
    assert np.array_equal(whole[BLOCK:], naive(values[BLOCK:], mask[BLOCK:], season=96, horizon=7))


def test_a_horizon_beyond_the_season_goes_round_again():
    values = np.tile(np.array([1, 2, 3, 4, 5, 6], np.float32), 20)[None]
    answer = naive(values, seen(values), season=6, horizon=15)[0, :, MEDIAN]
    assert answer == pytest.approx(np.tile([1, 2, 3, 4, 5, 6], 3)[:15])


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.lists(st.floats(width=32, allow_nan=True, allow_infinity=True), min_size=40, max_size=40), min_size=1, max_size=4
    ),
    hidden=st.integers(0, 2**40 - 1),
    season=st.sampled_from([1, 7, 24, 1440]),
    horizon=st.sampled_from([1, 2, 30]),
)
def test_whatever_comes_the_answer_is_finite_ordered_and_of_its_sign(rows, hidden, season, horizon):
    values = np.array(rows, np.float32)
    mask = np.tile(np.array([(hidden >> i) & 1 for i in range(40)], bool), (len(rows), 1))
    answer = naive(values, mask, season=season, horizon=horizon)
    assert answer.shape == (len(rows), horizon, len(QUANTILES))
    assert np.isfinite(answer).all()
    assert (np.diff(answer, axis=2) >= 0).all()
    unsigned = (np.where(mask & np.isfinite(values), values, 0) >= 0).all(axis=1)
    assert (answer[unsigned] >= 0).all()
