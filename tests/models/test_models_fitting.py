"""Training: learns what there is, never from the future, the same for the same seed, and ends when it should."""

from typing import Any

import numpy as np
import pytest
import torch
from training_worlds import END, TINY, waves

from forecastle.errors import ConfigError
from models.patch_mixer import PatchMixer, train
from models.pinball import pinball, pinball_score
from models.windows import Panel, hide


def panel(**more: Any) -> Panel:
    return Panel.of(waves(), [END] * 4, TINY["look_back"], TINY["horizon"], 60_000, **more)


def median(model: PatchMixer, windows: Any) -> np.ndarray:
    with torch.no_grad():
        return model(*(torch.from_numpy(part) for part in windows[:3])).numpy()


def test_it_beats_the_last_value_and_the_season_on_the_unseen_tail(trained: tuple[PatchMixer, dict[str, Any]]) -> None:
    model, metrics = trained
    table = panel()
    batch = table.draw(np.random.default_rng(3), 400, (table.end - 100, table.end))
    answer, scale = median(model, batch), batch.scale[:, None]
    levels = model.cfg.quantiles
    exact = pinball_score(answer / scale[..., None], batch.target / scale, levels)
    for naive in (batch.values[:, -1:], batch.values[:, -60:-50]):
        guess = np.repeat(np.broadcast_to(naive, batch.target.shape)[..., None], 11, axis=2)
        assert exact < 0.6 * pinball_score(guess / scale[..., None], batch.target / scale, levels)
    inside = ((answer[..., 1] <= batch.target) & (batch.target <= answer[..., 9])).mean()
    assert 0.75 < inside < 0.99
    assert metrics["held_out_pinball"] == pytest.approx(min(held for _, _, held in metrics["curve"]))


def test_the_same_seed_gives_the_same_model_and_another_another() -> None:
    short = {**TINY, "steps": 20}
    series, ends = waves(2), [END, END]
    first, again, other = (train(short, series, ends, seed=seed, progress=False)[0] for seed in (5, 5, 6))
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name
    assert not torch.equal(first.place, other.place)


def test_a_deadline_ends_it() -> None:
    _, metrics = train({**TINY, "steps": 10_000_000}, waves(2), [END] * 2, deadline_s=0.5, progress=False)
    assert 0 < metrics["steps"] < 10_000_000
    assert metrics["curve"][-1][0] == metrics["steps"]


def test_patience_ends_it_and_the_best_weights_are_kept() -> None:
    wild = {**TINY, "steps": 5000, "learning_rate": 3.0, "check_every": 5, "patience": 2}
    model, metrics = train(wild, waves(2), [END] * 2, progress=False)
    assert metrics["steps"] < 5000
    assert np.isfinite(metrics["held_out_pinball"])
    assert all(torch.isfinite(weight).all() for weight in model.state_dict().values())


def test_the_bar_shows_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    train({**TINY, "steps": 2}, waves(1), [END])
    assert "training the forecaster" in capsys.readouterr().out


def test_gaps_and_young_series_train_too() -> None:
    old, young = waves(2)
    old[300:420] = np.nan
    old[::7] = np.nan
    model, metrics = train({**TINY, "steps": 30}, [old, young[-200:]], [END, END], progress=False)
    assert np.isfinite(metrics["held_out_pinball"])
    assert all(torch.isfinite(weight).all() for weight in model.state_dict().values())


@pytest.mark.parametrize(
    ("series", "ends", "message"),
    [
        ([np.ones(15, np.float32)], [END], "needs at least 50"),
        ([np.full(900, np.nan, np.float32)], [END], "needs at least 50"),
        ([], [], "at least one"),
        (waves(2), [END], "2 series and 1 end_minutes"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(series: list[np.ndarray], ends: list[int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        train(TINY, series, ends, progress=False)


def test_windows_end_where_they_say_and_targets_stay_within_their_span() -> None:
    table = panel()
    batch = table.draw(np.random.default_rng(0), 500, (600, 700))
    for values, target, minute, scale in zip(batch.values, batch.target, batch.end_minute, batch.scale, strict=True):
        row = int(np.flatnonzero(table.scale.astype(np.float32) == scale)[0])
        column = table.end - (END - int(minute))
        assert 600 <= column <= 700 - TINY["horizon"]
        np.testing.assert_array_equal(values, table.table[row, column - 120 : column])
        np.testing.assert_array_equal(target, table.table[row, column : column + 10])


def test_a_weighty_series_is_drawn_more_often() -> None:
    table = panel(weights=[3.0, 1.0, 1.0, 1.0])
    batch = table.draw(np.random.default_rng(0), 3000, (200, table.end))
    share = (batch.scale == np.float32(table.scale[0])).mean()
    assert share == pytest.approx(0.5, abs=0.05)


def test_a_span_without_room_for_a_target_is_refused() -> None:
    with pytest.raises(ConfigError, match="no window has its 10 target slots"):
        panel().draw(np.random.default_rng(0), 5, (600, 605))


def test_hiding_only_ever_hides() -> None:
    batch = panel().draw(np.random.default_rng(0), 300, (200, 900))
    hidden = hide(batch, np.random.default_rng(1), 0.5)
    assert (hidden.mask <= batch.mask).all()
    touched = (hidden.mask < batch.mask).any(1)
    assert 0.3 < touched.mean() < 0.7
    np.testing.assert_array_equal(hidden.values, batch.values * hidden.mask)
    np.testing.assert_array_equal(hidden.target, batch.target)


def test_pinball_by_hand_and_the_same_in_torch() -> None:
    forecast = np.array([[[1.0, 2.0, 4.0]]])
    assert pinball_score(forecast, np.array([[3.0]]), (0.1, 0.5, 0.9)) == pytest.approx((0.1 * 2 + 0.5 + 0.1) / 3)
    rng = np.random.default_rng(0)
    forecast, target = np.sort(rng.normal(size=(5, 4, 3)), axis=2), rng.normal(size=(5, 4))
    inside = pinball(torch.from_numpy(forecast), torch.from_numpy(target), torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64))
    assert pinball_score(forecast, target, (0.1, 0.5, 0.9)) == pytest.approx(float(inside.mean()))
    target[0] = np.nan
    assert pinball_score(forecast, target, (0.1, 0.5, 0.9)) == pytest.approx(float(inside[1:].mean()))
    assert np.isnan(pinball_score(forecast[:1], target[:1], (0.1, 0.5, 0.9)))


def test_pinball_is_least_at_the_quantile() -> None:
    sample = np.random.default_rng(0).exponential(size=(4000, 1))
    loss = [pinball_score(np.full((4000, 1, 1), guess), sample, (0.9,)) for guess in (1.8, -np.log(0.1), 2.8)]
    assert loss[1] < min(loss[0], loss[2])


def test_mixed_precision_is_for_gpus_alone() -> None:
    """On a CPU the same weights come out, bit for bit."""
    short = {**TINY, "steps": 5}
    plain, mixed = (train({**short, "mixed": on}, waves(2), [END] * 2, device="cpu", progress=False)[0] for on in (False, True))
    for name, weight in plain.state_dict().items():
        assert torch.equal(weight, mixed.state_dict()[name]), name


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_mixed_precision_learns_on_a_gpu() -> None:
    model, metrics = train({**TINY, "mixed": True}, waves(2), [END] * 2, device="cuda", progress=False)
    assert metrics["curve"][-1][2] < 0.7 * metrics["curve"][0][2]
    assert all(weight.dtype == torch.float32 for weight in model.state_dict().values())
