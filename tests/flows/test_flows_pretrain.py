"""The pretrain flow from a seed to a model that serves a fleet without history, and that a later training starts from."""

import asyncio
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from training_worlds import TINY as LESSON

from flows.pretrain import lessons_of, pretrain
from flows.train import train
from forecastle.errors import ConfigError
from forecastle.predict.artifacts import sha256
from forecastle.predict.engine import Predictor
from forecastle.predict.pull import Puller
from forecastle.predict.registry import DirectoryRegistry
from forecastle.settings import Settings
from forecastle.types import SeriesKey, Windows
from models.generated import Grid

MINUTE = 60_000
pytestmark = [
    pytest.mark.usefixtures("prefect_server"),
    # SQLAlchemy about the tables of Prefect
    pytest.mark.filterwarnings("ignore:Type object .* does not refer to an OperatorClass:DeprecationWarning"),
]
TINY = {name: value for name, value in LESSON.items() if name not in {"steps", "check_every"}}
LOADS = ("shop", "cart")


def wave(seed: int, slots: int) -> np.ndarray:
    t = np.arange(slots)
    noise = np.random.default_rng(seed).normal(0, 3, slots)
    return 100 * (1 + 0.6 * np.sin(2 * np.pi * (t + 7 * seed) / 60)) + noise


def recorded(path: Path, slots: int = 600) -> str:
    at = 1_700_000_040_000 // MINUTE * MINUTE + MINUTE * np.arange(slots)
    names = [name for name in LOADS for _ in range(slots)]
    values = np.concatenate([wave(i, slots) for i in range(2)])
    table = {"workload": names, "metric": ["rps"] * len(names), "timestamp": np.tile(at, 2), "value": values}
    parquet.write_table(pa.table(table), path)
    return str(path)


def settings(folder: Path, registry: str = "registry") -> Settings:
    where = str(folder / registry) if registry else ""
    predict = {"registry": where, "cache": str(folder / "cache"), "horizon": 10, "season": 60, "timeout_s": 60}
    return Settings.model_validate({"predict": predict, "detect": {"model": ""}, "train": {"work": str(folder / "work")}})


def run(known: Settings, out: Path, steps: int = 40, **more: object) -> dict[str, object]:
    given = {"out": str(out), "series": 24, "steps": steps, "parameters": TINY, **more}
    return asyncio.run(pretrain(settings=known.model_dump(mode="json"), **given))


def windows(rows: int = 3) -> Windows:
    values = np.stack([wave(i, 120) for i in range(rows)]).astype(np.float32)
    keys, none = tuple(SeriesKey(f"new{i}", "rps") for i in range(rows)), np.zeros(rows, np.bool_)
    return Windows(keys, 1_700_000_040_000 // MINUTE * MINUTE, MINUTE, values, np.ones(values.shape, np.bool_), none, none)


@pytest.fixture(scope="module")
def pretrained(prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    """A folder with a registry and the model in ``out``, and what the flow said."""
    folder = tmp_path_factory.mktemp("pretrained")
    return folder, run(settings(folder), folder / "out", steps=150)


def test_a_fleet_without_champion_or_history_is_served_by_what_was_pretrained(
    pretrained: tuple[Path, dict[str, object]],
) -> None:
    folder, row = pretrained
    known, out, store = settings(folder), folder / "out", DirectoryRegistry(folder / "registry")
    cold = Predictor(known.predict, MINUTE).forecast(windows())
    assert (cold.model, cold.fallback.all()) == ("seasonal-naive", True)

    json.dumps(row)
    assert (row["version"], row["promoted"], row["generated"], row["recorded"], row["steps"]) == ("1", True, 24, 0, 150.0)
    assert row["parity"] <= 1e-4
    assert 0.6 < row["zero_shot_cover_90"] < 1
    assert sorted(path.name for path in out.iterdir()) == ["manifest.json", "model.onnx", "weights.npz"]

    Puller(known, store).look()
    warm = Predictor(known.predict, MINUTE).forecast(windows())
    assert warm.model == f"forecaster@{sha256(out / 'model.onnx')[:12]}"
    assert not warm.fallback.any()
    artifact = store.pull("forecaster", "1", folder / "cache")
    assert artifact.manifest["pretrained"] is True
    assert artifact.manifest == json.loads((out / "manifest.json").read_bytes())
    assert artifact.manifest["train"]["zero_shot_pinball"] == row["zero_shot_pinball"]


def test_a_champion_stays_whatever_is_pretrained_after_it(pretrained: tuple[Path, dict[str, object]], tmp_path: Path) -> None:
    folder, first = pretrained
    again = run(settings(folder), tmp_path, steps=2, seed=1, history=[recorded(tmp_path / "history.parquet")])
    assert not again["promoted"]
    assert (again["version"], again["champion"], again["recorded"]) == ("2", "1", 2)
    assert again["zero_shot_pinball"] != first["zero_shot_pinball"]
    assert DirectoryRegistry(folder / "registry").resolve("forecaster", "champion") == "1"


def test_the_train_flow_goes_on_from_the_weights(pretrained: tuple[Path, dict[str, object]], tmp_path: Path) -> None:
    known, history = settings(tmp_path).model_dump(mode="json"), recorded(tmp_path / "history.parquet")

    def trained(init: str) -> dict[str, object]:
        parameters = {"forecaster": {**TINY, "steps": 2, "check_every": 1, "init": init}}
        return asyncio.run(train(settings=known, history=history, parameters=parameters))["forecaster"]

    cold, tuned = trained(""), trained(str(pretrained[0] / "out" / "weights.npz"))
    assert tuned["loss"] < 0.9 * cold["loss"]


def test_half_of_what_is_seen_is_recorded_and_its_newest_tenth_is_not(tmp_path: Path) -> None:
    history = recorded(tmp_path / "history.parquet")
    lessons = lessons_of(settings(tmp_path), Grid(960, season=60), 24, 0, [history])
    assert [len(one) for one in lessons.series] == [960] * 24 + [540] * 2
    seen = [len(one) * weight for one, weight in zip(lessons.series, lessons.weights, strict=True)]
    assert sum(seen[:24]) == pytest.approx(sum(seen[24:]))
    np.testing.assert_allclose(lessons.series[-1], wave(0, 600)[:540], rtol=1e-6)  # shop after cart
    assert lessons.end_minutes[-1] - lessons.end_minutes[0] == (1_700_000_040_000 // MINUTE + 539) - 28_401_120


def test_without_a_registry_the_files_are_all_and_a_budget_ends_it(tmp_path: Path) -> None:
    row = run(settings(tmp_path, registry=""), tmp_path / "out", steps=10_000_000, budget_s=0.5)
    assert 0 < row["steps"] < 10_000_000
    assert "version" not in row
    assert (tmp_path / "out" / "model.onnx").stat().st_size > 1000


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"device": "tpu"}, "device 'tpu' is not here; choose auto, cpu"),
        ({"history": ["none.parquet"]}, "none.parquet: cannot be read"),
        ({"parameters": {**TINY, "horizon": 5}}, "horizon 5 is shorter"),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(tmp_path: Path, more: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(settings(tmp_path), tmp_path / "out", **more)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "registry").exists()


def test_without_a_forecaster_there_is_nothing_to_pretrain(tmp_path: Path) -> None:
    known = settings(tmp_path)
    known = known.model_copy(update={"predict": known.predict.model_copy(update={"model": ""})})
    with pytest.raises(ConfigError, match=r"predict\.model is empty"):
        run(known, tmp_path / "out")
