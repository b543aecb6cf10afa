"""A new detector is tried on made-up anomalies before the worker listens to it."""

import asyncio
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from mlflow import MlflowClient
from pyarrow import parquet

sys.path.insert(0, str(Path(__file__).parents[1] / "predict"))
import tiny_models

from flows.history import History
from flows.tracking import EXPERIMENT
from flows.train import train
from flows.voices import LEAST_SLOTS, learn, metrics, table
from forecastle.detect.selector import Choice, heard, told
from forecastle.detect.voices import CHOICES, PLAIN, SILENT, VOICES, Voices
from forecastle.ports import Artifact
from forecastle.predict.artifacts import sha256
from forecastle.predict.registry import MlflowRegistry
from forecastle.types import SeriesKey

MINUTE, SLOTS, TAIL = 60_000, 900, 240


def artifact(folder: Path, gain: float) -> Artifact:
    path = folder / "model.onnx"
    manifest = tiny_models.detector(path, gain=gain, channels=2)
    return Artifact("detector", "1", path, sha256(path), manifest)


def history(metrics: tuple[str, ...] = ("rps", "cpu"), slots: int = SLOTS, noise: float = 1.0) -> History:
    rng, at = np.random.default_rng(0), np.arange(slots)
    keys = tuple(SeriesKey(workload, metric) for workload in ("cart", "shop") for metric in sorted(metrics))
    values = 100 + 30 * np.sin(2 * np.pi * at / 60) + rng.normal(0, noise, (len(keys), slots))
    return History(keys, values.astype(np.float32), slots * MINUTE, MINUTE)


def test_a_model_that_says_nothing_is_silent_where_the_residual_finds_more(tmp_path: Path) -> None:
    choices = learn(artifact(tmp_path, 0.0), history(), TAIL)
    assert set(choices) == {"cpu", "rps"}
    for choice in choices.values():
        assert choice.pair == SILENT
        assert choice.scores is not None
        assert set(choice.scores) == {str(voice) for voice in VOICES}
        assert choice.scores["residual, none"] > choice.usual + 0.1
        assert "folds of made-up anomalies" in choice.why


def test_a_model_that_finds_as_much_keeps_its_voice(tmp_path: Path) -> None:
    """Where the newest change is as surprising as any autoregression could say, the model is not silenced."""
    rng = np.random.default_rng(1)
    walk = history(("rps",), noise=0.0)
    steps = rng.normal(0, 1, walk.values.shape).cumsum(axis=1).astype(np.float32)
    choices = learn(artifact(tmp_path, 1.0), History(walk.keys, 100 + steps, walk.end, MINUTE), TAIL)
    assert choices["rps"].pair != SILENT


def test_the_same_history_makes_the_same_choice_and_it_survives_the_manifest(tmp_path: Path) -> None:
    made = artifact(tmp_path, 1.0)
    choices = learn(made, history(), TAIL)
    assert learn(made, history(), TAIL) == choices
    assert heard(told(choices), "manifest") == choices
    made.manifest["choices"] = told(choices)
    assert Voices.of(made).heard_as(SeriesKey("cart", "rps"))[0] == (choices["rps"].pair or PLAIN)


def test_people_read_a_row_for_each_metric(tmp_path: Path) -> None:
    rows = table(learn(artifact(tmp_path, 0.0), history(), TAIL))
    assert [row["metric"] for row in rows] == ["cpu", "rps"]
    assert all(row["speaks"] == "residual, none" and row["why"] for row in rows)
    assert all(0 <= row["model, held 5"] <= 1 for row in rows)


def test_a_run_counts_who_is_silent_and_who_is_smoothed() -> None:
    choices = {"a": Choice(None, ""), "b": Choice(SILENT, ""), "c": Choice(VOICES[1], ""), "d": Choice(PLAIN, "")}
    assert metrics(choices) == {"voices": 4.0, "voices_silent": 1.0, "voices_smoothed": 1.0}
    assert metrics({}) == {"voices": 0.0, "voices_silent": 0.0, "voices_smoothed": 0.0}


@pytest.mark.parametrize(("slots", "tail"), [(SLOTS, LEAST_SLOTS - 1), (LEAST_SLOTS + 20, TAIL)])
def test_too_little_unseen_history_chooses_nothing(tmp_path: Path, slots: int, tail: int) -> None:
    assert learn(artifact(tmp_path, 1.0), history(slots=slots), tail) == {}


def test_gaps_and_series_that_were_never_heard_in_the_tail_are_survived(tmp_path: Path) -> None:
    some = history()
    some.values[0, 700:] = np.nan
    some.values[1, 720:730] = np.nan
    choices = learn(artifact(tmp_path, 1.0), some, TAIL)
    assert set(choices) == {"cpu", "rps"}
    assert all(np.isfinite(list((one.scores or {}).values())).all() for one in choices.values())


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.filterwarnings("ignore:Type object .* does not refer to an OperatorClass:DeprecationWarning")  # Prefect's tables
def test_the_train_flow_puts_the_voices_into_the_manifest_and_into_the_run(tmp_path: Path) -> None:
    some = history()
    at = np.arange(SLOTS) * MINUTE + 1_700_000_040_000
    table = pa.table(
        {
            "workload": [key.workload for key in some.keys for _ in range(SLOTS)],
            "metric": [key.metric for key in some.keys for _ in range(SLOTS)],
            "timestamp": np.tile(at, len(some.keys)),
            "value": some.values.reshape(-1).astype(float),
        }
    )
    parquet.write_table(table, tmp_path / "history.parquet")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    rows = asyncio.run(
        train(
            settings={"predict": {"registry": uri, "model": ""}, "detect": {"model": "detector"}},
            history=str(tmp_path / "history.parquet"),
            parameters={"detector": {"look_back": 24, "channels": 4, "width": 8, "steps": 40, "check_every": 20}},
        )
    )
    assert set(rows) == {"detector"}
    served = MlflowRegistry(uri).pull("detector", "1", tmp_path / "cache")
    choices = heard(served.manifest[CHOICES], "manifest")
    assert set(choices) == {"cpu", "rps"}
    assert Voices.of(served).choices == choices
    client = MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])
    assert run.data.metrics["voices"] == 2
    assert run.data.metrics["voices_silent"] == sum(one.pair == SILENT for one in choices.values())
    told = json.loads(Path(client.download_artifacts(run.info.run_id, "voices.json", str(tmp_path))).read_text("utf-8"))
    assert [row[told["columns"].index("metric")] for row in told["data"]] == ["cpu", "rps"]
