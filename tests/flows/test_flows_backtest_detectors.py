"""A detector's backtest tells what it and its peers find, by kind, and how often they alarm for nothing."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from mlflow import MlflowClient
from pyarrow import parquet

sys.path.insert(0, str(Path(__file__).parents[1] / "predict"))
import tiny_models

from flows.backtest import backtest
from flows.backtest_detectors import labels_of
from flows.incidents import IncidentSpan
from flows.tracking import EXPERIMENT
from forecastle.detect.injections import KINDS
from forecastle.errors import ConfigError
from forecastle.ledger.store import SqlLedger
from forecastle.predict.registry import MlflowRegistry
from forecastle.runtime.clocks import EventClock
from forecastle.runtime.feedback import INCIDENT, say
from forecastle.settings import Settings

pytestmark = [
    pytest.mark.usefixtures("prefect_server"),
    # SQLAlchemy about the tables of Prefect and MLflow
    pytest.mark.filterwarnings("ignore:Type object .* does not refer to an OperatorClass:DeprecationWarning"),
]
STEP, SLOTS, END = 60_000, 400, 1_767_225_600_000
PEERS = ["built-in", "z-score", "chance"]


def noise(folder: Path) -> str:
    """Four series, of which shop's first is ten times as large for a quarter of an hour, half an hour before the end."""
    names = [("shop", "cpu"), ("shop", "rps"), ("api", "cpu"), ("api", "rps")]
    values = np.random.default_rng(0).normal(100, 1, (len(names), SLOTS))
    values[0, -30:-15] *= 10
    columns = {
        "workload": [workload for workload, _ in names for _ in range(SLOTS)],
        "metric": [metric for _, metric in names for _ in range(SLOTS)],
        "timestamp": np.tile(END - STEP * np.arange(SLOTS - 1, -1, -1), len(names)),
        "value": values.ravel(),
    }
    parquet.write_table(pa.table(columns), folder / "history.parquet")
    return str(folder / "history.parquet")


def settings(folder: Path, **predict: Any) -> dict[str, Any]:
    return {
        "predict": {"cache": str(folder / "cache"), **predict},
        "window": {"look_back": 150},
        "detect": {"look_back": 100, "warmup": 60, "season": 0},
        "ledger": {"url": f"sqlite:///{folder}/ledger.db", "kill_file": str(folder / "KILL")},
    }


def test_the_champion_is_judged_beside_its_peers_by_kind_and_against_what_people_confirmed(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    store = MlflowRegistry(uri)
    manifest = tiny_models.detector(tmp_path / "new.onnx")
    store.promote("detector", store.publish("detector", tmp_path / "new.onnx", manifest, {}), "champion")
    history, labels = noise(tmp_path), tmp_path / "labels.jsonl"
    row = {"start": END - 30 * STEP, "end": END - 15 * STEP, "workload": "shop"}
    labels.write_text(json.dumps(row), "utf-8")
    known = settings(tmp_path, registry=uri)
    told = asyncio.run(backtest(known, history, str(tmp_path / "out"), kind="detector", labels=str(labels)))
    assert json.loads((tmp_path / "out" / "metrics.json").read_text("utf-8")) == told
    assert list(told["models"]) == ["detector 1", *PEERS]
    assert (told["series"], told["slots"], told["budget"]) == (4, 80, 0.1)
    champion, built_in, _, chance = told["models"].values()
    assert min(champion["vus_pr"], built_in["vus_pr"]) > chance["vus_pr"] + 0.1
    assert champion["found"] >= built_in["found"] > 0, "it has the built-in detectors beside it"
    assert 0 <= champion["delay_s"] <= 600
    kinds = {row["kind"]: row["models"] for row in told["kinds"]}
    assert list(kinds) == ["confirmed by people", *KINDS]
    assert sum(kinds[kind]["built-in"]["events"] for kind in KINDS) == built_in["events"] >= 20
    real = kinds["confirmed by people"]["built-in"]
    assert (real["events"], real["found"]) == (1, 1.0)
    assert real["delay_s"] <= 60
    alone = asyncio.run(backtest(known | {"predict": {"registry": ""}}, history, str(tmp_path / "o2"), kind="detector"))
    assert list(alone["models"]) == PEERS
    assert alone["models"]["built-in"]["false_alarms"] > built_in["false_alarms"], "what nobody confirmed is a false alarm"
    assert [row["series"] for row in told["per_series"]] == ["api:cpu", "api:rps", "shop:cpu", "shop:rps"]
    noisy = alone["per_series"][2]["models"]["built-in"]["false_alarms"]
    assert noisy > 17, "one alarm in eighty minutes is eighteen a day"

    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    for text in ("detector 1", "confirmed by people", "False alarms by series", "<td>leak</td>", *PEERS):
        assert text in page
    client = MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])
    assert run.info.run_name == "backtest detector"
    assert run.data.metrics["vus_pr_detector_1"] == pytest.approx(champion["vus_pr"])
    assert run.data.metrics["false_alarms_built-in"] == built_in["false_alarms"]
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {"kinds.json", "per_series.json", "report.html"}
    table = json.loads(Path(client.download_artifacts(run.info.run_id, "kinds.json", str(tmp_path))).read_text("utf-8"))
    assert table["columns"] == ["kind", "model", "events", "found", "delay_s", "vus_pr"]
    assert len(table["data"]) == 4 * (1 + len(KINDS))


def test_labels_are_what_people_confirmed_in_the_ledger(tmp_path: Path) -> None:
    known = Settings.model_validate(settings(tmp_path))
    ledger = SqlLedger(known.ledger, EventClock(END))
    for name, load in (("aaa", "shop"), ("bbb", "api")):
        body = {"id": name, "workload": load, "site": "", "opened_at": END - 20 * STEP, "since": END - 30 * STEP}
        with ledger.writing() as entries:
            entries.add(INCIDENT, {**body, "at": END - 15 * STEP, "cause": "", "series": [[load, "cpu", {}]]}, END)
        say(ledger, name, real=load == "shop", who="ann")
    ledger.close()
    assert labels_of(known, "ledger") == (IncidentSpan(END - 30 * STEP, END - 15 * STEP, "shop", ""),)
    assert labels_of(known, "") == ()


def test_a_kind_that_no_model_has_and_a_history_that_is_too_short_are_refused(tmp_path: Path) -> None:
    history = noise(tmp_path)
    with pytest.raises(ConfigError, match="write forecaster or detector"):
        asyncio.run(backtest(settings(tmp_path), history, str(tmp_path / "out"), kind="poem"))
    with pytest.raises(ConfigError, match="must hold 72 of them"):
        asyncio.run(backtest(settings(tmp_path), history, str(tmp_path / "out"), kind="detector", tail=0.1))
    assert not (tmp_path / "out").exists()
