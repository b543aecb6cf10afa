"""What leaves the workshop equals what was trained, or does not leave."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from training_worlds import END, TINY, waves

from features import plan_hash
from forecastle.errors import ModelRefused
from forecastle.types import SeriesKey
from models import reconstruct
from models.leave import export_forecaster
from models.patch_mixer import PatchMixer, build, export
from models.tail import detector_metrics, forecaster_metrics

Trained = tuple[PatchMixer, dict[str, Any]]


@pytest.fixture(scope="module")
def exported(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    path = tmp_path_factory.mktemp("export") / "deep" / "model.onnx"
    return path, export(trained[0], path, TINY)


def ask(path: Path, n: int, length: int = 120) -> np.ndarray:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    values = np.stack([np.roll(waves(1)[0], i)[:length] for i in range(n)])
    feed = {"values": values, "mask": np.ones_like(values), "end_minute": np.arange(n, dtype=np.int64)}
    return session.run(["quantiles"], feed)[0]


def test_the_manifest_says_what_serving_needs(exported: tuple[Path, dict[str, Any]]) -> None:
    path, manifest = exported
    assert {key: manifest[key] for key in ("kind", "look_back", "horizon", "step_ms", "inputs", "outputs")} == {
        "kind": "forecaster",
        "look_back": 120,
        "horizon": 10,
        "step_ms": 60_000,
        "inputs": ["values", "mask", "end_minute"],
        "outputs": ["quantiles"],
    }
    assert manifest["quantiles"] == [0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99]
    assert manifest["feature_hash"] == plan_hash(manifest["features"]) == "30ac3f4a1fb6fec0"
    assert not {"known", "static"} & set(manifest)
    assert 0 <= manifest["parity"] <= 1e-4
    json.dumps(manifest)
    assert [file.name for file in path.parent.iterdir()] == ["model.onnx"]


def test_the_file_answers_any_batch_like_the_model(exported: tuple[Path, dict[str, Any]], trained: Trained) -> None:
    for n in (1, 2, 5, 300):
        answer = ask(exported[0], n)
        assert answer.shape == (n, 10, 11)
        values = torch.from_numpy(np.stack([np.roll(waves(1)[0], i)[:120] for i in range(n)]))
        with torch.no_grad():
            wanted = trained[0](values, torch.ones_like(values), torch.arange(n))
        np.testing.assert_allclose(answer, wanted.numpy(), rtol=1e-4)


class Restless(torch.nn.Module):
    """Answers differently each time."""

    def forward(self, values: torch.Tensor, mask: torch.Tensor, end_minute: torch.Tensor) -> torch.Tensor:
        noise = torch.rand_like(values[:, :1, None].expand(-1, 10, 11))
        return (noise + end_minute[:, None, None] * 0 + mask[:, :1, None]).sort(2).values


class Crossing(torch.nn.Module):
    """Quantiles in falling order."""

    def forward(self, values: torch.Tensor, mask: torch.Tensor, end_minute: torch.Tensor) -> torch.Tensor:
        falling = torch.arange(11.0).flip(0).expand(10, 11)
        return (values * mask)[:, :1, None] + end_minute[:, None, None] * 0 + falling


@pytest.mark.parametrize(("module", "message"), [(Restless(), "differs from torch"), (Crossing(), "cross")])
def test_a_file_that_differs_or_crosses_is_refused(module: torch.nn.Module, message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match=message):
        export_forecaster(module, tmp_path / "model.onnx", build(TINY).cfg)


def test_a_model_that_has_diverged_is_refused(tmp_path: Path) -> None:
    broken = build(TINY)
    with torch.no_grad():
        broken.head.weight.fill_(float("nan"))
    with pytest.raises(ModelRefused, match="not finite"):
        export(broken, tmp_path / "model.onnx", TINY)


def test_the_tail_tells_a_good_model_from_an_untrained_one(exported: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    values = np.stack(waves())
    good = forecaster_metrics(*exported, values, END, 100)
    assert good["tail_mase_last"] < 0.6
    assert "tail_mase_season" not in good  # the window is shorter than a day
    assert 0.7 < good["tail_cover_90"] <= 1
    untrained = export(build(TINY), tmp_path / "model.onnx", TINY)
    poor = forecaster_metrics(tmp_path / "model.onnx", untrained, values, END, 100)
    assert good["tail_pinball"] < 0.8 * poor["tail_pinball"]
    values[:, -100:] = np.nan
    assert np.isnan(forecaster_metrics(*exported, values, END, 100)["tail_pinball"])


def test_the_tail_tells_a_good_detector_from_an_untrained_one(tmp_path: Path) -> None:
    keys = [SeriesKey("w", f"m{i}") for i in range(4)]
    values = np.stack(waves())
    cfg = {"look_back": 24, "channels": 4, "width": 16, "steps": 150}
    losses = []
    for name, module in (
        ("good", reconstruct.train(keys, values[:, :-100], np.isfinite(values[:, :-100]), cfg)),
        ("poor", reconstruct.build(cfg)),
    ):
        manifest = reconstruct.export(module, tmp_path / name)
        losses.append(detector_metrics(tmp_path / name, manifest, keys, values, 100)["tail_loss"])
    assert losses[0] < losses[1] - 0.2


def test_a_detector_has_a_deadline_too() -> None:
    keys = [SeriesKey("w", "m")]
    values = waves(1)[0][None]
    cfg = {"look_back": 24, "channels": 4, "width": 8, "steps": 10_000_000, "patience": 10_000_000}
    model = reconstruct.train(keys, values, np.isfinite(values), cfg, deadline_s=0.3)
    assert all(torch.isfinite(weight).all() for weight in model.state_dict().values())
