"""The parts of a batch forecast by what they promise: no look ahead, units that carry over, order, and shares that add up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecastle.predict.batch import blend, calibrate, lags, learned, naive
from forecastle.predict.batch.forecast import STOPS, inner_origins
from forecastle.predict.batch.net import Net
from forecastle.predict.batch.panel import Panel, forward, pinball

MINUTE, DAY = 60_000, 1440
NORMAL = np.asarray([-1.2816, -0.8416, -0.5244, -0.2533, 0, 0.2533, 0.5244, 0.8416, 1.2816])


def panel(rows: int = 4, width: int = 500, seed: int = 0, step_ms: int = 5 * MINUTE, holes: float = 0.0) -> Panel:
    rng = np.random.default_rng(seed)
    values = 50 + 20 * np.sin(np.arange(width) / 46 + rng.uniform(0, 6, (rows, 1))) + rng.normal(0, 2, (rows, width))
    values[rng.random(values.shape) < holes] = np.nan
    return Panel.of(values, 1_700_000_000_000, step_ms)


def shipped(count: int) -> Net:
    return Net.load(learned.PRETRAINED, count)


@pytest.mark.parametrize("horizon", [1, 5, 12, 60, 96])
def test_the_pretrained_network_never_crosses_and_is_finite(horizon: int) -> None:
    given = panel(holes=0.1)
    found = learned.predict(shipped(4), lags.view(given, 400), np.array([0, 3, 200, 499]), horizon)
    assert found.shape == (4, 4, horizon, 9)
    known = np.isfinite(found).all(axis=(2, 3))
    assert known[:, 1:].all()
    assert (np.diff(found[known], axis=-1) >= 0).all()


@pytest.mark.parametrize("factor", [2.0**-10, 1024.0])
def test_the_pretrained_network_knows_no_units(factor: float) -> None:
    given = panel()
    other = Panel.of(given.values * factor, given.start_ms, given.step_ms)
    origins = np.array([100, 300])
    one, two = (learned.predict(shipped(4), lags.view(part, 400), origins, 12) for part in (given, other))
    np.testing.assert_allclose(two / factor, one, rtol=1e-4, atol=1e-3)


def test_a_series_is_forecast_alike_alone_and_in_company() -> None:
    given, origins = panel(rows=6), np.array([250, 480])
    together = learned.predict(shipped(6), lags.view(given, 400), origins, 24)
    for row in range(6):
        one = Panel.of(given.values[row : row + 1], given.start_ms, given.step_ms)
        np.testing.assert_allclose(learned.predict(shipped(1), lags.view(one, 400), origins, 24)[0], together[row], rtol=1e-4)


def test_more_origins_than_a_chunk_are_the_same_as_few() -> None:
    given = panel(rows=2, width=6000)
    seen, net = lags.view(given, 5000), shipped(2)
    every = np.arange(500, 5900)
    whole = learned.predict(net, seen, every, 12)
    few = np.array([0, 4095, 4096, len(every) - 1])
    np.testing.assert_allclose(whole[:, few], learned.predict(net, seen, every[few], 12), rtol=1e-4)


def test_what_comes_after_an_origin_changes_neither_units_nor_answer() -> None:
    given, origin = panel(), 300
    later = given.values.copy()
    later[:, origin + 1 :] = 1e6
    for horizon in (3, 60):
        one, two = (
            learned.predict(
                shipped(4), lags.view(Panel.of(part, given.start_ms, given.step_ms), 250), np.array([origin]), horizon
            )
            for part in (given.values, later)
        )
        np.testing.assert_allclose(one, two, rtol=1e-6)


def test_before_the_first_measurement_nothing_is_said() -> None:
    values = panel().values.copy()
    values[1, :200] = np.nan
    found = learned.predict(shipped(4), lags.view(Panel.of(values, 0, 5 * MINUTE), 400), np.array([150, 250]), 6)
    assert np.isnan(found[1, 0]).all()
    assert np.isfinite(found[1, 1]).all()
    assert np.isfinite(found[[0, 2, 3]]).all()


@pytest.mark.parametrize("value", [0.0, 7.0, -3.0, 1e9])
def test_a_constant_stays_near_itself(value: float) -> None:
    given = Panel.of(np.full((2, 400), value), 0, 5 * MINUTE)
    found = learned.predict(shipped(2), lags.view(given, 300), np.array([350]), 12)
    assert np.abs(found - value).max() <= 1e-3 * abs(value) + 1e-6


def test_too_few_windows_leave_the_shipped_network_as_the_only_snapshot() -> None:
    given = panel(rows=1, width=60)
    nets = list(learned.snapshots(given, lags.view(given, 40), 40, 12, STOPS))
    assert len(nets) == 1
    assert nets[0].steps == 0


def test_training_twice_gives_the_same_network_and_another_seed_another() -> None:
    given = panel(rows=3)
    seen = lags.view(given, 450)

    def trained(seed: int) -> np.ndarray:
        *_, last = learned.snapshots(given, seen, 450, 6, (4, 8), seed=seed)
        return learned.predict(last, seen, np.array([470]), 6)

    assert np.array_equal(trained(0), trained(0))
    assert not np.array_equal(trained(0), trained(1))


def test_a_network_saved_and_loaded_forgets_single_series_only(tmp_path: Path) -> None:
    net = shipped(3)
    net.average[-1] = np.ones_like(net.average[-1])
    net.save(tmp_path / "net.npz")
    again = Net.load(tmp_path / "net.npz", 5)
    assert again.average[-1].shape == (6, 8)
    assert not again.average[-1].any()
    for one, two in zip(net.average[:-1], again.average[:-1], strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=9, max_size=9), st.floats(-1e6, 1e6))
def test_pinball_is_never_negative_and_zero_only_at_the_outcome(values: list[float], actual: float) -> None:
    loss = pinball(np.sort(np.asarray(values))[None], np.asarray([actual]))
    assert loss[0] >= 0
    assert pinball(np.full((1, 9), actual), np.asarray([actual]))[0] == 0


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 8), st.integers(0, 2**31))
def test_weights_are_shares_whatever_is_known(members: int, rows: int, horizon: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    losses = rng.lognormal(0, 3, (members, rows, 6, horizon))
    losses[rng.random(losses.shape) < 0.3] = np.nan
    weight = blend.weights(losses, blend.horizon_buckets(horizon))
    assert (weight >= 0).all()
    np.testing.assert_allclose(weight.sum(axis=0), 1.0)


def test_a_blend_lies_between_its_members_and_keeps_their_order() -> None:
    rng = np.random.default_rng(0)
    quantiles = np.sort(rng.normal(size=(3, 2, 4, 5, 9)), axis=-1)
    weight = rng.dirichlet(np.ones(3), (2, 5)).transpose(2, 0, 1)
    found = blend.mix(quantiles, weight)
    assert (found >= quantiles.min(axis=0) - 1e-12).all()
    assert (found <= quantiles.max(axis=0) + 1e-12).all()
    assert (np.diff(found, axis=-1) >= 0).all()


def test_a_blend_of_members_that_know_nothing_is_unknown() -> None:
    assert np.isnan(blend.mix(np.full((2, 1, 1, 3, 9), np.nan), np.full((2, 1, 3), 0.5))).all()


@pytest.mark.parametrize(
    "name", ["last-value", "level", "seasonal-daily", "shifted-daily", "seasonal-weekly", "shifted-weekly"]
)
@pytest.mark.parametrize("horizon", [1, 12, 300])
def test_naive_members_read_nothing_after_the_origin(name: str, horizon: int) -> None:
    given = panel(width=8 * DAY // 5 * 2)
    path, origins = naive.members(given)[name], np.array([10, 2000, 3000])
    later = given.values.copy()
    later[:, 3001:] = -1e9
    other = Panel.of(later, given.start_ms, given.step_ms)
    assert np.array_equal(path(given, origins, horizon), path(other, origins, horizon))
    assert path(given, origins, horizon).shape == (4, 3, horizon)


def test_a_step_that_divides_no_day_has_no_daily_member() -> None:
    assert list(naive.members(panel(width=5000, step_ms=7 * MINUTE))) == ["last-value", "level"]


def test_error_quantiles_follow_a_series_with_many_errors_and_the_file_for_one_with_none() -> None:
    errors = np.random.default_rng(0).normal(size=(3, 400, 2)) * np.array([1.0, 10.0, 1.0])[:, None, None]
    errors[2] = np.nan
    usual = naive.usual_size(errors)
    assert usual[2] == 1e-12
    found = naive.error_quantiles(errors, usual)
    np.testing.assert_allclose(found[1, :, [0, -1]], 10 * found[0, :, [0, -1]], rtol=0.15)
    np.testing.assert_allclose(found[0, :, -1], 1.28, atol=0.2)
    assert np.abs(found[2]).max() < 1e-10
    assert not naive.error_quantiles(np.full((2, 4, 3), np.nan), np.ones(2)).any()


def test_gaps_repeat_what_came_before_and_whole_rows_stay_as_they_are() -> None:
    values = np.array([[np.nan, 1, np.nan, np.nan, 4], [1, 2, 3, 4, 5], [np.nan] * 5])
    assert np.array_equal(forward(values), [[np.nan, 1, 1, 1, 4], [1, 2, 3, 4, 5], [np.nan] * 5], equal_nan=True)
    whole = np.ones((2, 3))
    assert forward(whole) is whole


@pytest.mark.parametrize(("rows", "horizon"), [(1, 1), (1, 60), (40, 12), (5000, 60)])
def test_validation_origins_leave_room_for_the_horizon(rows: int, horizon: int) -> None:
    past = Panel.of(np.zeros((rows, 900)), 0, MINUTE)
    inside = inner_origins(past, horizon)
    assert inside[-1] == 900 - 1 - horizon
    assert inside[0] >= 900 * 3 // 4 - horizon
    assert 0 < len(inside) <= 600
    assert (np.diff(inside) > 0).all()


def stream(width_then: float, width_now: float, seed: int = 0) -> float:
    """Coverage of calibrated bands that believe in 1 after outcomes of deviation ``width_then`` turned to ``width_now``."""
    rng = np.random.default_rng(seed)
    at = np.arange(0, 3000, 2)
    sigma = np.where(at < 1500, width_then, width_now)
    actual = rng.normal(size=(6, len(at), 4)) * sigma[:, None]
    promise = np.broadcast_to(NORMAL, (6, len(at), 4, 9))
    origins = np.arange(2600, 3000, 50)
    found = calibrate.stretched(np.broadcast_to(NORMAL, (6, len(origins), 4, 9)), origins, promise, at, actual)
    future = width_now * rng.normal(size=(400, *found.shape[:3]))
    return float(((future >= found[..., 0]) & (future <= found[..., -1])).mean())


@pytest.mark.parametrize(("then", "now"), [(1.0, 2.0), (2.0, 1.0), (0.5, 1.5), (2.5, 0.5), (1.0, 1.0)])
def test_batch_bands_reach_their_level_after_drift_in_either_direction(then: float, now: float) -> None:
    assert stream(then, now) == pytest.approx(0.8, abs=0.04)


def test_a_band_is_stretched_by_no_more_than_threefold() -> None:
    assert stream(1.0, 100.0) < 0.1
    assert stream(1.0, 0.001) == 1.0


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.floats(0, 1))
def test_calibration_keeps_order_and_the_median(seed: int, blank: float) -> None:
    rng = np.random.default_rng(seed)
    past, quantiles = (np.sort(rng.lognormal(0, 2, (3, n, 2, 9)), axis=-1) for n in (20, 5))
    actual = rng.lognormal(0, 3, (3, 20, 2))
    actual[rng.random(actual.shape) < blank] = np.nan
    found = calibrate.stretched(quantiles, np.arange(10, 60, 10), past, np.arange(0, 40, 2), actual)
    assert np.isfinite(found).all()
    assert (np.diff(found, axis=-1) >= -1e-9).all()
    assert np.array_equal(found[..., 4], quantiles[..., 4])


def test_each_series_is_stretched_by_what_it_needs() -> None:
    rng = np.random.default_rng(1)
    at = np.arange(0, 4000)
    actual = rng.normal(size=(2, len(at), 6)) * np.array([0.6, 2.0])[:, None, None]
    promise = np.broadcast_to(NORMAL, (2, len(at), 6, 9))
    found = calibrate.stretched(np.broadcast_to(NORMAL, (2, 1, 6, 9)), np.array([4000]), promise, at, actual)
    calm, wild = found[0, 0, 0, -1] / 1.28, found[1, 0, 0, -1] / 1.28
    assert calm < 1 < 1.4 < wild


@pytest.mark.parametrize("origin", [100, 160, 219])
def test_calibration_reads_no_outcome_after_its_origin(origin: int) -> None:
    rng = np.random.default_rng(3)
    at, horizon = np.arange(20, 220, 2), 8
    past = np.sort(rng.normal(size=(2, len(at), horizon, 9)), axis=-1)
    actual = rng.normal(size=(2, len(at), horizon))
    after = np.broadcast_to(at[:, None] + np.arange(1, horizon + 1) > origin, actual.shape)
    quantiles = np.sort(rng.normal(size=(2, 1, horizon, 9)), axis=-1)
    one, two, three = (
        calibrate.stretched(quantiles, np.array([origin]), past, at, outcome)
        for outcome in (actual, np.where(after, 1e6, actual), np.where(after, np.nan, actual))
    )
    assert np.array_equal(one, two)
    np.testing.assert_allclose(one, three)
    changed = actual.copy()
    changed[:, at < origin - horizon] = 50.0
    assert not np.array_equal(one, calibrate.stretched(quantiles, np.array([origin]), past, at, changed))
