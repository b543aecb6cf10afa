"""The train flow from a file of samples to an alias, on a real Prefect server, a real MLflow store and a plain folder."""

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pyarrow as pa
import pytest
from click.testing import Result
from mlflow import MlflowClient
from pyarrow import parquet
from typer.testing import CliRunner

from flows.champion import admitted
from flows.history import gridded
from flows.recipes import recipe
from flows.tracking import EXPERIMENT
from flows.train import train
from forecastle.cli import app
from forecastle.errors import BrokerUnavailable, ConfigError
from forecastle.predict.registry import DirectoryRegistry, MlflowRegistry
from forecastle.settings import Settings, WindowSettings
from forecastle.types import Foreknown, Sample, Samples, SeriesKey
from forecastle.window.store import WindowStore

MINUTE = 60_000
pytestmark = [
    pytest.mark.usefixtures("prefect_server"),
    # SQLAlchemy about the tables of Prefect and MLflow
    pytest.mark.filterwarnings("ignore:Type object .* does not refer to an OperatorClass:DeprecationWarning"),
]
SLOTS = 900
TINY = {
    "look_back": 120,
    "horizon": 10,
    "season": 60,
    "smooth": 2,
    "recent": 20,
    "patch": 10,
    "coarse": 10,
    "coarse_patch": 4,
    "width": 8,
    "blocks": 1,
    "hidden": 16,
    "steps": 150,
    "batch": 64,
    "learning_rate": 5e-3,
    "check_every": 25,
}
SMALL = {"look_back": 24, "channels": 4, "width": 8, "steps": 40, "check_every": 20}


def wave(seed: int, slots: int = SLOTS) -> np.ndarray:
    rng = np.random.default_rng(seed)
    t = np.arange(slots)
    return 100 * (1 + 0.6 * np.sin(2 * np.pi * (t + 7 * seed) / 60)) + rng.normal(0, 3, slots)


@pytest.fixture
def history(tmp_path: Path) -> Path:
    """Two workloads with two metrics each, an hourly cycle, as ``forecastle publish`` reads them."""
    at = 1_700_000_040_000 // MINUTE * MINUTE + MINUTE * np.arange(SLOTS)
    names = [("shop", "rps"), ("shop", "latency"), ("cart", "rps"), ("cart", "latency")]
    table = pa.table(
        {
            "workload": [w for w, _ in names for _ in range(SLOTS)],
            "metric": [m for _, m in names for _ in range(SLOTS)],
            "timestamp": np.tile(at, len(names)),
            "value": np.concatenate([wave(i) for i in range(len(names))]),
        }
    )
    path = tmp_path / "history.parquet"
    parquet.write_table(table, path)
    return path


def settings(registry: str, detector: str = "", **more: object) -> dict[str, object]:
    return {"predict": {"registry": registry, "horizon": 10, "season": 60}, "detect": {"model": detector}, **more}


def run(registry: str, history: Path, steps: int = 150, detector: str = "", **more: object) -> dict[str, dict[str, object]]:
    parameters = {"forecaster": {**TINY, "steps": steps}, "detector": SMALL}
    return asyncio.run(train(settings=settings(registry, detector), history=str(history), parameters=parameters, **more))


def test_a_history_becomes_two_served_models_and_a_logged_run(tmp_path: Path, history: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    rows = run(uri, history, detector="detector")
    assert set(rows) == {"forecaster", "detector"}
    json.dumps(rows)
    assert all(row["promoted"] and row["parity"] <= 1e-4 for row in rows.values())
    assert rows["forecaster"]["tail_mase_last"] < 0.7
    assert 0.6 < rows["forecaster"]["tail_cover_90"] <= 1

    store = MlflowRegistry(uri)
    for name in rows:
        artifact = store.pull(name, store.resolve(name, "champion"), tmp_path / "cache")
        assert artifact.manifest["kind"] == name
        assert artifact.manifest["step_ms"] == MINUTE
        assert artifact.manifest["train"]["series"] == 4
    artifact = store.pull("forecaster", "1", tmp_path / "cache")
    session = ort.InferenceSession(str(artifact.path))
    window = wave(0)[-120:].astype(np.float32)[None]
    answer = session.run(None, {"values": window, "mask": np.ones_like(window), "end_minute": np.array([1], np.int64)})[0]
    assert answer.shape == (1, 10, 11)

    client = MlflowClient(uri)
    logged = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])
    run_of = {r.info.run_name: r for r in logged}
    assert run_of["forecaster"].data.params["horizon"] == "10"
    assert run_of["forecaster"].data.metrics["tail_pinball"] == pytest.approx(rows["forecaster"]["loss"])
    run_id = run_of["forecaster"].info.run_id
    curve = client.get_metric_history(run_id, "held_out_loss")
    assert [point.step for point in curve][:2] == [25, 50]

    assert {file.path for file in client.list_artifacts(run_id)} == {"quality.json", "leaderboard.json", "leaderboard.html"}
    board = json.loads(Path(client.download_artifacts(run_id, "leaderboard.json", str(tmp_path))).read_text("utf-8"))
    assert {row[board["columns"].index("model")] for row in board["data"]} == {"challenger", "seasonal naive", "last value"}
    assert run_of["forecaster"].data.metrics["crps_challenger"] < run_of["forecaster"].data.metrics["crps_last_value"]
    assert run_of["forecaster"].data.metrics["quality_left_out"] == 0
    named = run_of["forecaster"].data.params
    assert (named["data"], named["seed"]) == (artifact.manifest["train"]["data"], "0")
    assert named["feature_hash"] == artifact.manifest["feature_hash"]
    assert named["code"]


def local(slot: int) -> str:
    """The end of a slot of the history as a local time in UTC."""
    at = 1_700_000_040_000 // MINUTE * MINUTE + MINUTE * slot
    return datetime.fromtimestamp(at / 1000, UTC).strftime("%Y-%m-%dT%H:%M")


def test_the_fleets_occasions_are_learned_and_the_manifest_says_which(tmp_path: Path, history: Path) -> None:
    """Three sales within what training sees, one of them alone of its size, and one in the tail that the model is judged on."""
    planned = ((200, 2.0), (400, 2.0), (600, 5.0), (850, 2.0))
    sales = [
        {"name": "sale", "zone": "UTC", "factor": factor, "start": local(slot), "end": local(slot + 15)}
        for slot, factor in planned
    ]
    pool = {"name": "shop-fra", "site": "fra", "unit_price": 0.1}
    shop = {"name": "shop", "events": sales, "demands": [{"metric": "rps", "per_replica": 40}], "pools": [pool]}
    fleet = {"sites": [{"name": "fra", "provider": "aws", "region": "eu-central-1"}], "workloads": [shop]}
    given = settings(str(tmp_path / "registry"), fleet=fleet)
    asks = {**TINY, "steps": 5, "known": ["event"], "static": ["metric=rps"]}
    row = asyncio.run(train(settings=given, history=str(history), parameters={"forecaster": asks}))["forecaster"]
    assert row["promoted"], row["reasons"]
    assert not row["reasons"]
    artifact = DirectoryRegistry(tmp_path / "registry").pull("forecaster", "1", tmp_path / "cache")
    assert artifact.manifest["known"] == [{"name": "event", "low": 0.0, "high": pytest.approx(np.log(2))}]
    assert artifact.manifest["static"] == ["metric=rps"]
    assert artifact.manifest["inputs"] == ["values", "mask", "end_minute", "known", "static"]
    served = admitted(Settings.model_validate(given), artifact)
    assert served.known == (Foreknown("event", 0.0, pytest.approx(np.log(2))),)


def test_a_worse_model_is_registered_but_does_not_serve_and_a_better_one_does(tmp_path: Path, history: Path) -> None:
    folder = str(tmp_path / "registry")
    first = run(folder, history, steps=40)["forecaster"]
    worse = run(folder, history, steps=1)["forecaster"]
    assert not worse["promoted"]
    assert "is worse than the champion's" in worse["reasons"][0]
    assert worse["champion"] == first["version"] == "1"
    assert worse["loss"] > worse["champion_loss"] == pytest.approx(first["loss"])
    assert DirectoryRegistry(Path(folder)).resolve("forecaster", "champion") == "1"
    better = run(folder, history, steps=400)["forecaster"]
    assert better["promoted"]
    assert better["loss"] < first["loss"]
    assert DirectoryRegistry(Path(folder)).resolve("forecaster", "champion") == better["version"] == "3"


def test_a_champion_for_another_step_cannot_serve_and_gives_way(tmp_path: Path, history: Path) -> None:
    folder = str(tmp_path / "registry")
    run(folder, history, steps=40)
    parameters = {"forecaster": {**TINY, "steps": 1}}
    slower = settings(folder, window={"step_s": 120})
    rows = asyncio.run(train(settings=slower, history=str(history), parameters=parameters))
    assert set(rows) == {"forecaster"}
    assert rows["forecaster"]["promoted"]
    assert "champion" not in rows["forecaster"]


def test_a_constant_is_left_out_and_an_incident_is_hidden(tmp_path: Path, history: Path) -> None:
    table = parquet.read_table(history)
    at = table["timestamp"].to_numpy()[:SLOTS]
    flat = pa.table({"workload": ["flat"] * SLOTS, "metric": ["rps"] * SLOTS, "timestamp": at, "value": [7.0] * SLOTS})
    parquet.write_table(pa.concat_tables([table, flat]), history)
    incidents = tmp_path / "incidents.json"
    incidents.write_text(json.dumps([{"start": int(at[100]), "end": int(at[280]), "workload": "shop"}]), "utf-8")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    run(uri, history, steps=20, incidents=str(incidents))
    client = MlflowClient(uri)
    (logged,) = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])
    assert logged.data.metrics["quality_left_out"] == 1
    assert logged.data.metrics["incidents_hidden"] == pytest.approx(2 * 180 / (5 * SLOTS), abs=1e-3)
    told = json.loads(Path(client.download_artifacts(logged.info.run_id, "quality.json", str(tmp_path))).read_text("utf-8"))
    first = dict(zip(told["columns"], told["data"][0], strict=True))
    assert (first["series"], first["unusable"]) == ("flat:rps", "constant at 7")
    store = MlflowRegistry(uri)
    assert store.pull("forecaster", "1", tmp_path / "cache").manifest["train"]["series"] == 4


def test_a_budget_ends_training_early(tmp_path: Path, history: Path) -> None:
    rows = run(str(tmp_path / "registry"), history, steps=10_000_000, budget_s=1.5)
    assert rows["forecaster"]["promoted"]
    versions = DirectoryRegistry(tmp_path / "registry").pull("forecaster", "1", tmp_path / "cache").manifest["train"]
    assert 1 <= versions["steps"] < 10_000_000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"predict": {"registry": ""}}, "predict.registry"),
        ({"window": {"look_back": 100}}, "window.look_back=120"),
        ({"predict": {"registry": "here", "horizon": 30}}, "predict.horizon=30"),
    ],
)
def test_what_could_not_serve_is_refused_before_training(
    tmp_path: Path, history: Path, change: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        asyncio.run(
            train(settings={**settings(str(tmp_path)), **change}, history=str(history), parameters={"forecaster": TINY})
        )


def test_an_unreadable_history_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.parquet"):
        run(str(tmp_path), tmp_path / "nowhere.parquet")


def test_a_recipe_comes_from_the_last_folder_that_has_one(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "forecaster.yaml").write_text("train: a:b\nexport: c:d\nparameters: {horizon: 7}\n")
    mine = recipe([str(tmp_path)], "forecaster", width=9)
    assert (mine.train, mine.parameters) == ("a:b", {"horizon": 7, "width": 9})
    later = tmp_path / "later"
    (later / "models").mkdir(parents=True)
    (later / "mine.yaml").write_text("{}\n")
    (later / "models" / "forecaster.yaml").write_text("train: e:f\nexport: c:d\n")
    assert recipe([str(tmp_path), str(later)], "forecaster").train == "e:f"
    assert recipe([str(later), str(tmp_path)], "forecaster").train == "a:b"
    assert recipe([str(tmp_path), str(later / "mine.yaml")], "forecaster").train == "e:f", "models lie beside a file too"
    assert recipe([str(tmp_path)], "detector").train == "models.reconstruct:train"
    with pytest.raises(ConfigError, match="no model configuration 'other'"):
        recipe([str(tmp_path)], "other")
    (tmp_path / "models" / "forecaster.yaml").write_text("train: a:b\n")
    with pytest.raises(ConfigError, match="lacks export"):
        recipe([str(tmp_path)], "forecaster")


def test_a_season_written_for_another_step_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "models" / "forecaster.yaml"
    path.parent.mkdir()

    def read(parameters: str, **changes: int) -> int:
        path.write_text(f"train: a:b\nexport: c:d\nparameters: {parameters}\n")
        return int(recipe([str(tmp_path)], "forecaster", **changes).parameters["season"])

    with pytest.raises(ConfigError, match=r"season 1440 is 5 days long at window.step_s=300; write season: 288 for a day"):
        read("{step_ms: 60000, season: 1440}", step_ms=300_000)
    with pytest.raises(ConfigError, match=r"season 60 is 0\.0417 days long at window.step_s=60; .* or step_ms: 60000"):
        read("{season: 60}", step_ms=60_000)
    assert read("{step_ms: 60000, season: 288}", step_ms=300_000) == 288
    assert read("{season: 2016}", step_ms=300_000) == 2016, "a week"
    assert read("{step_ms: 60000, season: 60}", step_ms=60_000) == 60, "the file says so"
    assert read("{step_ms: 60000, season: 1440}", step_ms=300_000, season=12) == 12, "the caller says so"
    assert read("{step_ms: 60000, season: 0}", step_ms=300_000) == 0


def command(*words: str) -> Result:
    return CliRunner().invoke(app, ["train", *words])


def test_the_command_line_has_recipes_from_the_configuration_it_is_given(tmp_path: Path, history: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "base.yaml").write_text("detect: {model: ''}\npredict: {horizon: 10, season: 60}\n")
    parameters = {**TINY, "step_ms": MINUTE, "steps": 2}
    recipe = {"train": "models.patch_mixer:train", "export": "models.patch_mixer:export", "parameters": parameters}
    (tmp_path / "models" / "forecaster.yaml").write_text(json.dumps(recipe))
    registry = tmp_path / "registry"
    done = command("--history", str(history), "--config", str(tmp_path), "--set", f"predict.registry={registry}")
    assert done.exit_code == 0, done.output
    assert DirectoryRegistry(registry).pull("forecaster", "1", tmp_path / "cache").manifest["look_back"] == TINY["look_back"]


def test_the_command_line_keeps_the_password_of_kafka(tmp_path: Path, free_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORECASTLE_INTAKE__SASL_PASSWORD", "hunter2")
    kafka = {"bootstrap": f"127.0.0.1:{free_port}", "security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN"}
    told = {**{f"intake.{name}": value for name, value in kafka.items()}, "intake.sasl_username": "u"}
    flags = [word for name, value in told.items() for word in ("--set", f"{name}={value}")]
    done = command(*flags, "--set", f"predict.registry={tmp_path}")
    assert isinstance(done.exception, BrokerUnavailable), "it went as far as asking the broker"


def test_the_grid_is_the_windows_grid() -> None:
    """A slot ends at a multiple of the step and holds what came after the slot before it; several samples are averaged."""
    a, b = SeriesKey("w", "b"), SeriesKey("w", "a")
    grid = gridded(
        Samples.of(Sample(a, MINUTE, 1.0), Sample(a, MINUTE + 1, 2.0), Sample(a, 2 * MINUTE, 4.0), Sample(b, 3 * MINUTE, 9.0)),
        MINUTE,
    )
    assert grid.keys == (b, a)
    assert grid.end == 3 * MINUTE
    np.testing.assert_array_equal(grid.values, np.array([[np.nan, np.nan, 9], [1, 3, np.nan]], np.float32))


def test_what_is_delivered_twice_counts_once_as_in_the_windows() -> None:
    key, other = SeriesKey("w", "m"), SeriesKey("w", "n")
    given = [Sample(key, MINUTE, 4.0), Sample(key, MINUTE - 1, 1.0), Sample(other, MINUTE, 7.0)]
    again = [Sample(key, MINUTE, 4.0), Sample(key, MINUTE, 3.0)]
    np.testing.assert_array_equal(gridded(Samples.of(*given, *again), MINUTE).values, np.array([[2.5], [7.0]], np.float32))
    store = WindowStore(WindowSettings(step_s=60, look_back=2))
    store.append(Samples.of(*given, *again))
    np.testing.assert_array_equal(store.close(MINUTE, 1).values, np.array([[2.5], [7.0]], np.float32))


def test_incidents_are_cut_out_and_the_rest_stays() -> None:
    key = SeriesKey("w", "m")
    grid = gridded(Samples.of(*(Sample(key, k * MINUTE, float(k)) for k in range(1, 11))), MINUTE)
    cut = grid.without([(4 * MINUTE, 6 * MINUTE)])
    np.testing.assert_array_equal(np.flatnonzero(~cut.mask[0]), [4, 5])
    assert grid.mask.all()
    with pytest.raises(ConfigError, match="before the start"):
        grid.without([(2, 1)])


def test_settings_and_flags_load_when_no_mapping_is_given(tmp_path: Path, history: Path) -> None:
    flags = [f"predict.registry={tmp_path / 'registry'}", "predict.horizon=10", "detect.model="]
    rows = asyncio.run(train(configs=(), flags=flags, history=str(history), parameters={"forecaster": {**TINY, "steps": 2}}))
    assert rows["forecaster"]["version"] == "1"
    assert Settings().predict.alias == "champion"
