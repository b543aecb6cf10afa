"""Pretrained weights: of use to a fleet never seen, a better start than random ones, and refused where they do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_worlds import END, TINY, waves

from forecastle.errors import ConfigError
from models import generated
from models.checkpoint import TrainingState, save
from models.patch_mixer import PatchMixer, build, train
from models.pinball import pinball_score
from models.weights import start_from, write_weights
from models.windows import Panel

MODEL = {**TINY, "width": 16, "hidden": 32, "steps": 200, "check_every": 50}
GRID = generated.Grid(width=960, season=60)


@pytest.fixture(scope="session")
def pretrained() -> PatchMixer:
    """Trained for some seconds on nothing but generated series."""
    series = generated.series(np.random.default_rng(0), 128, GRID)
    return train(MODEL, list(series), [GRID.end_minute] * len(series), progress=False)[0]


@pytest.fixture
def weights(pretrained: PatchMixer, tmp_path: Path) -> str:
    path = tmp_path / "weights.npz"
    write_weights(path, pretrained, {"seed": 0})
    return str(path)


def loss(answer: np.ndarray, batch: Any, levels: tuple[float, ...]) -> float:
    """In units of each series' usual change, large errors of single series bounded."""
    scale = batch.scale[:, None]
    rows = [pinball_score(a[None] / s, t[None] / s, levels) for a, t, s in zip(answer, batch.target, scale, strict=True)]
    return float(np.minimum(rows, 5.0).mean())


def test_it_beats_the_last_value_on_generated_series_it_never_saw(pretrained: PatchMixer) -> None:
    series = generated.series(np.random.default_rng(99), 100, GRID)
    panel = Panel.of(list(series), [GRID.end_minute] * 100, MODEL["look_back"], MODEL["horizon"], 60_000)
    batch = panel.draw(np.random.default_rng(1), 1000, (MODEL["look_back"], panel.end))
    levels = pretrained.cfg.quantiles
    with torch.no_grad():
        answer = pretrained(*(torch.from_numpy(part) for part in batch[:3])).numpy()
        untrained = build(MODEL).eval()(*(torch.from_numpy(part) for part in batch[:3])).numpy()
    last = np.repeat(np.broadcast_to(batch.values[:, -1:], batch.target.shape)[..., None], len(levels), axis=2)
    assert loss(answer, batch, levels) < 0.6 * loss(last, batch, levels)
    assert loss(answer, batch, levels) < 0.9 * loss(untrained, batch, levels)


def test_from_them_a_small_fleet_is_learned_better_in_the_same_time(weights: str) -> None:
    short = {**MODEL, "steps": 15, "check_every": 5}
    fleet, ends = waves(3, slots=400), [END] * 3
    held = {init: train({**short, "init": init}, fleet, ends, progress=False)[1]["held_out_pinball"] for init in ("", weights)}
    assert held[weights] < 0.8 * held[""]


def test_they_arrive_whole_and_what_follows_from_the_configuration_stays(pretrained: PatchMixer, weights: str) -> None:
    other = build({**MODEL, "half_life": 9.0, "seed": 5})
    before = other.weights.clone()
    start_from(Path(weights), other)
    assert torch.equal(other.weights, before)
    assert not torch.equal(other.weights, pretrained.weights)
    for name, parameter in pretrained.named_parameters():
        assert torch.equal(parameter, other.get_parameter(name)), name


def test_of_a_checkpoint_the_best_weights_are_taken(pretrained: PatchMixer, tmp_path: Path) -> None:
    kept = {name: value + 1 for name, value in pretrained.state_dict().items()}
    save(tmp_path / "half.npz", TrainingState({}, pretrained.state_dict(), kept, {}))
    model = build(MODEL)
    start_from(tmp_path / "half.npz", model)
    assert torch.equal(model.place, kept["place"])


def test_weights_of_another_shape_are_refused_and_nothing_is_changed(weights: str) -> None:
    with pytest.raises(ConfigError, match=r"place is \[\d+, 16\], needed is \[\d+, 8\].* and \d+ more; pretrain with the"):
        train({**TINY, "init": weights}, waves(2), [END] * 2, progress=False)
    model = build(TINY)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ConfigError):
        start_from(Path(weights), model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_files_that_hold_no_weights_are_refused(tmp_path: Path, pretrained: PatchMixer) -> None:
    (tmp_path / "text.npz").write_text("no", "utf-8")
    np.savez(tmp_path / "other.npz", a=np.ones(3))
    for name in ("missing.npz", "text.npz", "other.npz"):
        with pytest.raises(ConfigError, match=r"holds no weights .*; 'forecastle pretrain' writes"):
            start_from(tmp_path / name, build(MODEL))
    broken = {name: torch.full_like(value, float("nan")) for name, value in pretrained.state_dict().items()}
    save(tmp_path / "nan.npz", TrainingState({}, broken, {}, {}))
    with pytest.raises(ConfigError, match="not finite"):
        start_from(tmp_path / "nan.npz", build(MODEL))
    save(tmp_path / "empty.npz", TrainingState({}, {}, {}, {}))
    with pytest.raises(ConfigError, match="is missing"):
        start_from(tmp_path / "empty.npz", build(MODEL))


def test_a_device_that_is_not_here_is_refused() -> None:
    with pytest.raises(ConfigError, match="device 'tpu' is not here; choose auto, cpu"):
        train(TINY, waves(2), [END] * 2, device="tpu", progress=False)
