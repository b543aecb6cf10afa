"""The door to the workshop: flows by import string, registries by URI, and a way back from a bad model."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forecastle.errors import ConfigError, NotFound
from forecastle.predict.registry import DirectoryRegistry, MlflowRegistry
from forecastle.runtime.workshop import registry, rollback, run_flow, settings_of
from forecastle.settings import Settings

ROOT = Path(__file__).parents[2]
Command = Callable[..., subprocess.CompletedProcess[str]]
CALLS: list[dict[str, Any]] = []


def plain_flow(**arguments: Any) -> str:
    CALLS.append(arguments)
    return "done"


async def async_flow(**arguments: Any) -> str:
    return plain_flow(**arguments)


def of(**predict: Any) -> Settings:
    return Settings.model_validate({"predict": predict})


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> str:
    """An import string's module that is this file."""
    CALLS.clear()
    monkeypatch.setitem(sys.modules, "a_workshop", sys.modules[__name__])
    return "a_workshop"


@pytest.mark.parametrize("name", ["plain_flow", "async_flow"])
def test_a_flow_runs_to_its_end_with_plain_settings(here: str, name: str) -> None:
    assert run_flow(f"{here}:{name}", of(model="m"), history="x.parquet") == "done"
    (given,) = CALLS
    assert given["history"] == "x.parquet"
    assert given["settings"]["predict"]["model"] == "m"
    json.dumps(given)


def test_a_flow_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        run_flow("nowhere.flows:train", Settings())


def test_secrets_stay_out_of_what_prefect_keeps(here: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings.model_validate({"intake": {"sasl_username": "u", "sasl_password": "hunter2"}})
    run_flow(f"{here}:plain_flow", settings)
    (given,) = CALLS
    assert "hunter2" not in json.dumps(given)
    assert "sasl_password" not in given["settings"]["intake"]
    assert settings_of(given["settings"], (), ()).intake.sasl_password is None
    monkeypatch.setenv("FORECASTLE_INTAKE__SASL_PASSWORD", "hunter2")
    assert settings_of(given["settings"], (), ()) == settings
    monkeypatch.setenv("FORECASTLE_INTAKE__SASL_PASSWORD", "other")
    assert settings_of({"intake": {"sasl_username": "u", "sasl_password": "hunter2"}}, (), ()) == settings


def test_a_flow_started_by_prefect_loads_its_own_settings(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("predict: {model: from-file}\n")
    assert settings_of(None, [str(tmp_path)], ["predict.alias=blue"]) == of(model="from-file", alias="blue")
    with pytest.raises(ConfigError, match="unknown name"):
        settings_of(None, [str(tmp_path)], ["predict.modle=x"])


@pytest.mark.parametrize(
    ("uri", "kind"),
    [("sqlite:///{}/mlflow.db", MlflowRegistry), ("http://127.0.0.1:1", MlflowRegistry), ("{}/folder", DirectoryRegistry)],
)
def test_the_uri_chooses_the_registry(tmp_path: Path, uri: str, kind: type) -> None:
    assert type(registry(of(registry=uri.format(tmp_path)))) is kind


def test_no_registry_says_which_setting() -> None:
    with pytest.raises(ConfigError, match=r"predict\.registry"):
        registry(of(registry=""))


def versions(folder: Path, *promoted: int) -> Settings:
    store = DirectoryRegistry(folder / "registry")
    (folder / "model.onnx").write_bytes(b"x")
    for _ in range(max(promoted)):
        store.publish("forecaster", folder / "model.onnx", {}, {})
    for number in promoted:
        store.promote("forecaster", str(number), "champion")
    return of(registry=str(folder / "registry"))


def test_rollback_goes_to_what_served_before(tmp_path: Path) -> None:
    settings = versions(tmp_path, 1, 3, 4)
    assert rollback(settings, "forecaster") == ("4", "3")
    assert rollback(settings, "forecaster") == ("3", "1")
    with pytest.raises(NotFound, match="nothing to roll back to"):
        rollback(settings, "forecaster")
    with pytest.raises(NotFound):
        rollback(settings, "nobody")


def test_the_command_line_rolls_back(forecastle: Command, tmp_path: Path) -> None:
    settings = versions(tmp_path, 1, 2)
    done = forecastle("models", "rollback", "forecaster", "--set", f"predict.registry={settings.predict.registry}", cwd=ROOT)
    assert done.stdout == "forecaster@champion: 2 -> 1\n", done.stderr


def test_the_command_line_lists_versions_and_what_is_missing(forecastle: Command, tmp_path: Path) -> None:
    settings = versions(tmp_path, 1, 2)
    done = forecastle("models", "list", "--set", f"predict.registry={settings.predict.registry}", cwd=ROOT)
    assert done.stdout.splitlines() == [
        "forecaster 2 (champion)  {}",
        "forecaster 1  {}",
        "detector: no version yet; 'forecastle train' registers one",
    ], done.stderr
