"""What the forecaster promises for any window: ordered, finite, unit-free, blind to what is masked and to its neighbours."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from training_worlds import TINY, waves

from features import day_phase, level, week_day
from models.patch_mixer import PatchMixer, build, calendar

LENGTH = TINY["look_back"]


def ask(model: torch.nn.Module, values: np.ndarray, mask: np.ndarray | None = None, minute: int = 1000) -> np.ndarray:
    values = np.atleast_2d(values).astype(np.float32)
    mask = np.ones_like(values) if mask is None else np.atleast_2d(mask).astype(np.float32)
    with torch.no_grad():
        answer = model(torch.from_numpy(values), torch.from_numpy(mask), torch.full((len(values),), minute))
    return answer.numpy()


def windows(n: int = 6) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.stack([np.roll(waves(4)[i % 4], 13 * i)[:LENGTH] * rng.uniform(0.5, 2) for i in range(n)])


@given(
    arrays(np.float32, LENGTH, elements=st.floats(-(2.0**99), 2.0**99, width=32)),
    arrays(np.bool_, LENGTH),
    st.integers(-(2**40), 2**40),
)
@settings(max_examples=60, deadline=None)
def test_any_window_gets_finite_ordered_quantiles(
    trained: tuple[PatchMixer, dict[str, object]], values: np.ndarray, mask: np.ndarray, minute: int
) -> None:
    answer = ask(trained[0], values, mask, minute)
    assert answer.shape == (1, 10, 11)
    assert np.isfinite(answer).all()
    assert (np.diff(answer, axis=2) >= 0).all()
    if (np.where(mask, values, 0) >= 0).all():
        assert (answer >= 0).all()


@pytest.mark.parametrize("value", [0.0, 5.0, -3.0, 1e-6, 1e30])
def test_a_constant_window_is_forecast_as_itself(trained: tuple[PatchMixer, dict[str, object]], value: float) -> None:
    answer = ask(trained[0], np.full(LENGTH, value))
    np.testing.assert_allclose(answer, value, rtol=0.05, atol=1e-12)


def test_no_observation_at_all_is_no_demand(trained: tuple[PatchMixer, dict[str, object]]) -> None:
    assert np.abs(ask(trained[0], np.full(LENGTH, 1e6), np.zeros(LENGTH))).max() < 1e-6


def test_what_lies_under_the_mask_is_never_read(trained: tuple[PatchMixer, dict[str, object]]) -> None:
    values, mask = windows(), np.random.default_rng(1).random((6, LENGTH)) > 0.3
    other = np.where(mask, values, np.nan)
    other[0, ~mask[0]] = 1e30
    np.testing.assert_array_equal(ask(trained[0], values, mask), ask(trained[0], other, mask))


def test_a_row_is_answered_the_same_alone_and_in_any_batch(trained: tuple[PatchMixer, dict[str, object]]) -> None:
    values = windows()
    together = ask(trained[0], values)
    alone = np.concatenate([ask(trained[0], row) for row in values])
    np.testing.assert_allclose(together, alone, rtol=1e-5)
    np.testing.assert_allclose(together[::-1], ask(trained[0], values[::-1]), rtol=1e-5)


@pytest.mark.parametrize("factor", [1e-3, 8.0, 1e6])
def test_the_unit_does_not_matter(trained: tuple[PatchMixer, dict[str, object]], factor: float) -> None:
    values = windows()
    np.testing.assert_allclose(ask(trained[0], factor * values), factor * ask(trained[0], values), rtol=1e-3)


def test_the_hour_matters(trained: tuple[PatchMixer, dict[str, object]]) -> None:
    night, noon = (ask(trained[0], windows(1), minute=minute) for minute in (0, 720))
    assert not np.allclose(night, noon, rtol=1e-6)


def test_gaps_at_the_end_fall_back_on_older_values(trained: tuple[PatchMixer, dict[str, object]]) -> None:
    values, mask = windows(1), np.ones((1, LENGTH))
    mask[:, -30:] = 0
    answer = ask(trained[0], values, mask)
    assert values.min() * 0.3 < answer[0, :, 5].min() < answer[0, :, 5].max() < values.max() * 2


def test_an_untrained_model_already_follows_the_season() -> None:
    """Half of the way from the last value to what an hour ago promised."""
    values = 100 + 50 * np.sin(2 * np.pi * np.arange(LENGTH + 10) / 60)
    median = ask(build({**TINY, "half_life": 0.5}).eval(), values[:LENGTH])[0, :, 5]
    future, last = values[LENGTH:], values[LENGTH - 1]
    assert np.abs(median - future).mean() < 0.8 * np.abs(last - future).mean()


def test_without_a_season_nothing_else_breaks() -> None:
    answer = ask(build({**TINY, "season": 0}).eval(), windows())
    assert np.isfinite(answer).all()


def test_the_graph_and_the_features_agree_on_the_calendar() -> None:
    minutes = np.r_[np.arange(-3000, 3000, 7), 29_500_000 + np.arange(0, 20_160, 11)].astype(np.int64)
    none = np.zeros((len(minutes), 0), np.float32)
    wanted = np.concatenate([one(none, none > 0, minutes) for one in (day_phase, week_day)], axis=1)
    np.testing.assert_allclose(calendar(torch.from_numpy(minutes)).numpy(), wanted, atol=2e-6)


def test_the_graph_and_the_features_agree_on_the_level() -> None:
    model = build({**TINY, "recent": 120})
    rng = np.random.default_rng(3)
    values, mask = rng.normal(50, 10, (20, LENGTH)).astype(np.float32), rng.random((20, LENGTH)) > 0.5
    mask[0, -100:] = False
    inside = model._level(torch.from_numpy(values * mask), torch.from_numpy(mask.astype(np.float32)))[0]
    np.testing.assert_allclose(inside.numpy(), level(values, mask, np.zeros(20, np.int64)), rtol=1e-5)


def test_the_default_model_is_small() -> None:
    assert 100_000 < sum(p.numel() for p in build({}).parameters()) < 300_000
