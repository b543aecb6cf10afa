"""The forecaster of configs/models/forecaster.yaml as it is served: equal to torch, blind to company, masks and units."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from forecastle.ports import Artifact
from forecastle.predict.artifacts import sha256
from forecastle.predict.engine import Predictor
from forecastle.predict.naive import QUANTILES
from forecastle.predict.onnx import CHUNK, OnnxForecaster
from forecastle.settings import PredictSettings
from models.patch_mixer import PatchMixer, build, export

sys.path.insert(0, str(Path(__file__).parent))
import forecaster_worlds as worlds

CONFIG = Path(__file__).parents[2] / "configs" / "models" / "forecaster.yaml"
HOUR, DAY, WEEK = 60, 1440, 10_080
MIDDLE = QUANTILES.index(0.5)


@pytest.fixture(scope="module")
def torch_model() -> PatchMixer:
    """The default model with weights that let every input move the answer; fresh ones ignore most of them."""
    parameters = yaml.safe_load(CONFIG.read_text())["parameters"]
    model = build({**parameters, "seed": 0})
    torch.manual_seed(1)
    with torch.no_grad():
        for layer, size in ((model.head, 0.3), (model.gates, 0.3), (model.skip, 0.05)):
            layer.weight.normal_(0.0, size / layer.weight.shape[1] ** 0.5)
    return model.eval()


@pytest.fixture(scope="module")
def artifact(torch_model: PatchMixer, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    path = tmp_path_factory.mktemp("default") / "model.onnx"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    manifest = export(torch_model, path, yaml.safe_load(CONFIG.read_text())["parameters"])
    torch.set_num_threads(threads)
    return Artifact("forecaster", "1", path, sha256(path), manifest)


@pytest.fixture(scope="module")
def served(artifact: Artifact) -> OnnxForecaster:
    return OnnxForecaster(artifact, step_ms=worlds.STEP, horizon=30, quantiles=QUANTILES, threads=1)


def fleet(rows: int, seed: int = 0, columns: int = 1500) -> np.ndarray:
    """Demand of ``rows`` series whose levels span five decades."""
    rng = np.random.default_rng(seed)
    at = np.arange(columns)
    level = 10.0 ** rng.uniform(-1, 4, (rows, 1))
    return (level * (1.5 + np.sin(at / 229 + rng.uniform(0, 6, (rows, 1)))) * rng.lognormal(0, 0.1, (rows, columns))).astype(
        "f4"
    )


def gaps(values: np.ndarray, share: float = 0.1, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).random(values.shape) >= share


def sizes(values: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Largest observed value of each window [n, 1, 1]: what differences are relative to."""
    shown = np.abs(values if mask is None else np.where(mask, values, 0))
    return shown.max(axis=1)[:, None, None]


def torch_answer(model: PatchMixer, values: np.ndarray, mask: np.ndarray, minute: int) -> np.ndarray:
    with torch.no_grad():
        seen = torch.from_numpy(np.where(mask, values, 0).astype(np.float32))
        known = torch.from_numpy(mask.astype(np.float32))
        return model(seen, known, torch.full((len(values),), minute)).numpy()


@pytest.mark.parametrize("rows", [1, 2, 7, 256])
def test_served_answers_are_torchs(torch_model: PatchMixer, served: OnnxForecaster, rows: int) -> None:
    values = fleet(rows, seed=rows)
    mask = gaps(values)
    answer = served.infer(worlds.windows(values, mask))
    wanted = torch_answer(torch_model, values, mask, worlds.END // 60_000)
    assert answer.shape == (rows, 30, len(QUANTILES))
    assert (np.abs(answer - wanted) / sizes(values, mask)).max() < 1e-4


def test_the_last_row_of_a_chunk_and_the_first_of_the_next_are_theirs(torch_model: PatchMixer, served: OnnxForecaster) -> None:
    values = fleet(CHUNK + 1, seed=5)
    mask = gaps(values)
    answer = served.infer(worlds.windows(values, mask))[CHUNK - 1 :]
    wanted = torch_answer(torch_model, values[CHUNK - 1 :], mask[CHUNK - 1 :], worlds.END // 60_000)
    assert (np.abs(answer - wanted) / sizes(values[CHUNK - 1 :], mask[CHUNK - 1 :])).max() < 1e-4


@pytest.mark.parametrize("rows", [2, 7, 64])
def test_a_series_is_answered_alike_alone_and_in_company(served: OnnxForecaster, rows: int) -> None:
    values = fleet(rows, seed=11)
    together = served.infer(worlds.windows(values))
    for i in range(0, rows, max(1, rows // 7)):
        alone = served.infer(worlds.windows(values[i : i + 1]))
        assert (np.abs(alone - together[i]) / sizes(values[i : i + 1])).max() < 1e-5


def test_giants_beside_it_do_not_cost_a_small_series_its_digits(served: OnnxForecaster) -> None:
    small = fleet(1, seed=2) / fleet(1, seed=2).max()
    beside = served.infer(worlds.windows(np.concatenate([small, fleet(3, seed=4) * 1e12])))[0]
    assert np.abs(beside - served.infer(worlds.windows(small))[0]).max() < 1e-5


@pytest.mark.parametrize("hidden", [0.0, 1e9, -1e9, np.nan, np.inf])
def test_values_that_were_not_observed_never_matter(served: OnnxForecaster, hidden: float) -> None:
    values = fleet(5, seed=6)
    mask = gaps(values, 0.3)
    mask[1, -200:] = False
    mask[2, :1200] = False
    plain = served.infer(worlds.windows(values, mask))
    other = np.where(mask, values, np.float32(hidden))
    assert np.array_equal(served.infer(worlds.windows(other, mask)), plain)


def test_nan_counts_as_unobserved_even_where_the_mask_says_otherwise(served: OnnxForecaster) -> None:
    values = fleet(2, seed=6)
    mask = gaps(values, 0.3)
    holes = np.where(mask, values, np.float32(np.nan))
    assert np.array_equal(served.infer(worlds.windows(holes, np.ones_like(mask))), served.infer(worlds.windows(values, mask)))


def test_a_gap_is_not_a_zero(served: OnnxForecaster) -> None:
    values = fleet(3, seed=8)
    mask = np.ones(values.shape, bool)
    mask[:, -30:] = False
    zeros = np.where(mask, values, np.float32(0))
    unknown, known = served.infer(worlds.windows(values, mask)), served.infer(worlds.windows(zeros, np.ones_like(mask)))
    assert (unknown[:, :, MIDDLE].mean(axis=1) > 2 * known[:, :, MIDDLE].mean(axis=1)).all()


def test_the_calendar_is_used_and_repeats_after_a_week(served: OnnxForecaster) -> None:
    windows = worlds.windows(fleet(4, seed=9))

    def moved(minutes: int) -> np.ndarray:
        return served.infer(replace(windows, end=windows.end + minutes * 60_000))

    now, scale = moved(0), sizes(windows.values)
    for weeks in (1, -3, 52):
        assert (np.abs(moved(weeks * WEEK) - now) / scale).max() < 1e-5
    for minutes in (6 * HOUR, 12 * HOUR, DAY, 3 * DAY):
        assert (np.abs(moved(minutes) - now) / scale).max() > 1e-4, f"{minutes} minutes later nothing changes"


def test_time_within_a_minute_changes_nothing(served: OnnxForecaster) -> None:
    windows = worlds.windows(fleet(2, seed=9))
    assert np.array_equal(served.infer(replace(windows, end=windows.end + 59_999)), served.infer(windows))


@pytest.mark.parametrize("factor", [2.0**-20, 0.125, 1024.0, 2.0**40])
def test_a_unit_is_only_a_unit(served: OnnxForecaster, factor: float) -> None:
    values = fleet(6, seed=10)
    mask = gaps(values)
    plain = served.infer(worlds.windows(values, mask))
    other = served.infer(worlds.windows(values * np.float32(factor), mask))
    assert (np.abs(other / factor - plain) / sizes(values, mask)).max() < 1e-5


def test_a_series_turned_negative_may_be_forecast_so_and_a_positive_one_never(served: OnnxForecaster) -> None:
    values = fleet(8, seed=12)
    values[:, -40:] *= np.linspace(1, 0, 40, dtype=np.float32)
    assert (served.infer(worlds.windows(values)) >= 0).all()
    assert (served.infer(worlds.windows(-values))[:, 0, 0] < 0).any()


def hostile(kind: str) -> np.ndarray:
    rng = np.random.default_rng(0)
    made = {
        "zeros": np.zeros(1500),
        "constant": np.full(1500, 7.0),
        "spike": np.where(np.arange(1500) == 1499, 1e9, 1.0),
        "rare": np.where(rng.random(1500) < 0.01, 1e4, 0.0),
        "walk": rng.normal(0, 1, 1500).cumsum(),
        "ramp": np.arange(1500.0),
        "tiny": rng.lognormal(0, 1, 1500) * 1e-30,
        "huge": rng.lognormal(0, 1, 1500) * 1e30,
    }
    return made[kind].astype(np.float32)[None]


@pytest.mark.parametrize("kind", ["zeros", "constant", "spike", "rare", "walk", "ramp", "tiny", "huge"])
@pytest.mark.parametrize("observed", [1.0, 0.5, 0.01])
def test_quantiles_are_finite_and_never_cross(served: OnnxForecaster, kind: str, observed: float) -> None:
    values = hostile(kind)
    answer = served.infer(worlds.windows(values, gaps(values, 1 - observed, seed=1)))
    assert np.isfinite(answer).all()
    assert (np.diff(answer, axis=2) >= 0).all()


def test_a_window_longer_than_the_look_back_is_read_from_its_end(served: OnnxForecaster) -> None:
    values = fleet(3, seed=13, columns=2880)
    assert np.array_equal(served.infer(worlds.windows(values)), served.infer(worlds.windows(values[:, -1500:])))


def test_a_shorter_horizon_is_the_first_part_of_the_longer(artifact: Artifact, served: OnnxForecaster) -> None:
    windows = worlds.windows(fleet(3, seed=14))
    short = OnnxForecaster(artifact, step_ms=worlds.STEP, horizon=7, quantiles=QUANTILES, threads=1)
    assert np.array_equal(short.infer(windows), served.infer(windows)[:, :7])


def test_the_default_model_serves_every_row_without_the_stand_in(artifact: Artifact, tmp_path: Path) -> None:
    worlds.put(tmp_path, artifact.path.read_bytes(), **artifact.manifest)
    predictor = Predictor(PredictSettings(cache=str(tmp_path), timeout_s=60, max_ratio=100), worlds.STEP)
    answer = predictor.forecast(worlds.windows(fleet(9, seed=15)))
    assert answer.model == f"forecaster@{artifact.sha256[:12]}"
    assert (answer.notes, answer.fallback.any()) == ((), False)
    assert (np.diff(answer.values, axis=2) >= 0).all()
