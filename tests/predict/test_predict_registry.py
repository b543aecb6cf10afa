"""Both registries keep the same promises; MLflow's are kept by a real database and by a real server."""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from forecastle.errors import ConfigError, ModelRefused, NotFound, RegistryUnavailable
from forecastle.predict.registry import DirectoryRegistry, MlflowRegistry

MANIFEST = {"kind": "forecaster", "look_back": 8, "step_ms": 60000}
Kept = DirectoryRegistry | MlflowRegistry
OPENERS = {
    "directory": lambda folder: DirectoryRegistry(folder / "registry"),
    "sqlite": lambda folder: MlflowRegistry(f"sqlite:///{folder}/mlflow.db"),
}


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables: making them takes seconds, copying them does not."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    with pytest.raises(NotFound):
        MlflowRegistry(f"sqlite:///{path}").resolve("m", "champion")
    return path


@pytest.fixture(params=sorted(OPENERS))
def registry(request: pytest.FixtureRequest, tmp_path: Path, database: Path) -> Kept:
    shutil.copy(database, tmp_path / "mlflow.db")
    return OPENERS[request.param](tmp_path)


@pytest.fixture
def onnx(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(content: bytes = b"model") -> Path:
        path = tmp_path / "exported.onnx"
        path.write_bytes(content)
        return path

    return write


def files_of(registry: Kept, tmp_path: Path, file: str) -> list[Path]:
    """Where the registry keeps its copies of ``file``."""
    return sorted((tmp_path / ("registry" if isinstance(registry, DirectoryRegistry) else "mlartifacts")).rglob(file))


def life_of_a_model(registry: Kept, tmp_path: Path, onnx: Callable[[bytes], Path]) -> None:
    """Publish, promote, pull and list, as the serving path and the workshop do."""
    first = registry.publish("shop.forecaster", onnx(b"one"), MANIFEST, {"crps": 2.5})
    second = registry.publish("shop.forecaster", onnx(b"two"), {**MANIFEST, "look_back": 9}, {"crps": 2.0, "mase": 0.5})
    assert (first, second) == ("1", "2")
    assert registry.promote("shop.forecaster", first, "champion") == ""
    assert registry.promote("shop.forecaster", second, "champion") == "1"
    assert registry.promote("shop.forecaster", first, "fallback") == ""
    assert registry.resolve("shop.forecaster", "champion") == "2"
    pulled = registry.pull("shop.forecaster", "2", tmp_path / "cache")
    assert pulled.path.read_bytes() == b"two"
    assert pulled.path == tmp_path / "cache" / "shop.forecaster" / pulled.sha256 / "model.onnx"
    assert pulled.manifest["look_back"] == 9
    assert json.loads(pulled.path.with_name("manifest.json").read_text())["look_back"] == 9
    newest, oldest = registry.versions("shop.forecaster")
    assert (newest["version"], newest["aliases"], newest["metrics"]) == ("2", ["champion"], {"crps": 2.0, "mase": 0.5})
    assert (oldest["version"], oldest["aliases"], oldest["metrics"]) == ("1", ["fallback"], {"crps": 2.5})
    assert newest["created"] >= oldest["created"] >= "2020"
    assert newest["sha256"] == pulled.sha256


def test_a_model_is_published_promoted_pulled_and_listed(registry: Kept, tmp_path: Path, onnx: Callable) -> None:
    life_of_a_model(registry, tmp_path, onnx)


def test_a_second_process_sees_the_same_registry(
    registry: Kept, tmp_path: Path, onnx: Callable, request: pytest.FixtureRequest
) -> None:
    registry.publish("m", onnx(), MANIFEST, {})
    again = OPENERS[request.node.callspec.params["registry"]](tmp_path)
    again.promote("m", "1", "champion")
    assert registry.resolve("m", "champion") == "1"
    assert registry.publish("m", onnx(b"more"), MANIFEST, {}) == "2"
    assert [row["version"] for row in again.versions("m")] == ["2", "1"]


@pytest.mark.parametrize(
    ("what", "ask"),
    [
        ("alias", lambda r, into: r.resolve("m", "champion")),
        ("name", lambda r, into: r.resolve("other", "champion")),
        ("versions", lambda r, into: r.versions("other")),
        ("version", lambda r, into: r.pull("m", "7", into)),
        ("version name", lambda r, into: r.pull("m", "latest", into)),
        ("model", lambda r, into: r.pull("other", "1", into)),
        ("target", lambda r, into: r.promote("m", "7", "champion")),
        ("target's name", lambda r, into: r.promote("other", "1", "champion")),
    ],
)
def test_what_does_not_exist_is_not_found(
    registry: Kept, tmp_path: Path, onnx: Callable, what: str, ask: Callable[[Kept, Path], object]
) -> None:
    registry.publish("m", onnx(), MANIFEST, {})
    with pytest.raises(NotFound, match="models list"):
        ask(registry, tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("model.onnx"))


def test_an_empty_registry_has_no_model(registry: Kept) -> None:
    with pytest.raises(NotFound):
        registry.resolve("m", "champion")
    with pytest.raises(NotFound):
        registry.versions("m")


def test_a_failed_promotion_leaves_the_alias(registry: Kept, onnx: Callable) -> None:
    registry.publish("m", onnx(), MANIFEST, {})
    registry.promote("m", "1", "champion")
    with pytest.raises(NotFound):
        registry.promote("m", "2", "champion")
    assert registry.resolve("m", "champion") == "1"


def test_rolling_back_retraces_the_promotions_not_the_numbers(registry: Kept, onnx: Callable) -> None:
    for content in (b"1", b"2", b"3", b"4"):
        registry.publish("m", onnx(content), MANIFEST, {})
    with pytest.raises(NotFound):
        registry.rollback("m", "champion")
    for version in ("1", "3", "4"):
        registry.promote("m", version, "champion")
    registry.promote("m", "4", "champion")
    registry.promote("m", "2", "other")
    assert registry.rollback("m", "champion") == ("4", "3"), "version 2 never served"
    assert registry.rollback("m", "champion") == ("3", "1")
    with pytest.raises(NotFound, match="nothing to roll back to"):
        registry.rollback("m", "champion")
    assert (registry.resolve("m", "champion"), registry.resolve("m", "other")) == ("1", "2")
    registry.promote("m", "4", "champion")
    assert registry.rollback("m", "champion") == ("4", "1")
    assert [row["aliases"] for row in registry.versions("m")] == [[], [], ["other"], ["champion"]]


@pytest.mark.parametrize("file", ["model.onnx", "manifest.json"])
def test_a_file_that_was_changed_is_refused(registry: Kept, tmp_path: Path, onnx: Callable, file: str) -> None:
    registry.publish("m", onnx(), MANIFEST, {})
    (stored,) = files_of(registry, tmp_path, file)
    stored.write_bytes(stored.read_bytes() + b" ")
    with pytest.raises(ModelRefused, match="digest"):
        registry.pull("m", "1", tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()], "nothing refused stays in the cache"


def test_a_file_that_is_gone_is_no_outage(registry: Kept, tmp_path: Path, onnx: Callable) -> None:
    registry.publish("m", onnx(), MANIFEST, {})
    files_of(registry, tmp_path, "model.onnx")[0].unlink()
    with pytest.raises((ModelRefused, NotFound)):
        registry.pull("m", "1", tmp_path / "cache")


def test_a_model_is_downloaded_once(registry: Kept, tmp_path: Path, onnx: Callable) -> None:
    registry.publish("m", onnx(), MANIFEST, {})
    first = registry.pull("m", "1", tmp_path / "cache")
    stored = files_of(registry, tmp_path, "model.onnx")[0]
    stored.unlink()
    assert registry.pull("m", "1", tmp_path / "cache") == first, "the copy that is here is enough"


def test_a_damaged_copy_is_fetched_again(registry: Kept, tmp_path: Path, onnx: Callable) -> None:
    registry.publish("m", onnx(), MANIFEST, {})
    pulled = registry.pull("m", "1", tmp_path / "cache")
    pulled.path.write_bytes(b"half a mod")
    assert registry.pull("m", "1", tmp_path / "cache").path.read_bytes() == b"model"


def test_one_file_with_two_manifests_stays_two_versions(registry: Kept, tmp_path: Path, onnx: Callable) -> None:
    registry.publish("m", onnx(), MANIFEST, {})
    registry.publish("m", onnx(), {**MANIFEST, "step_ms": 300_000}, {})
    assert registry.pull("m", "1", tmp_path / "cache").manifest["step_ms"] == 60_000
    assert registry.pull("m", "2", tmp_path / "cache").manifest["step_ms"] == 300_000


@pytest.mark.parametrize("name", ["../escape", "a/b", "", ".hidden", "a b"])
def test_a_name_that_is_no_file_name_is_refused(registry: Kept, onnx: Callable, name: str) -> None:
    with pytest.raises(ConfigError, match="letters"):
        registry.publish(name, onnx(), MANIFEST, {})
    with pytest.raises(ConfigError, match="letters"):
        registry.resolve("m", name)


def test_two_publishers_get_two_numbers(tmp_path: Path, onnx: Callable) -> None:
    path = onnx()
    with ThreadPoolExecutor(4) as pool:
        numbers = list(pool.map(lambda _: DirectoryRegistry(tmp_path / "r").publish("m", path, MANIFEST, {}), range(12)))
    assert sorted(map(int, numbers)) == list(range(1, 13))


def test_an_export_that_is_missing_says_so(registry: Kept, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        registry.publish("m", tmp_path / "nowhere.onnx", MANIFEST, {})


def test_a_half_written_version_is_invisible(tmp_path: Path, onnx: Callable) -> None:
    registry = DirectoryRegistry(tmp_path / "r")
    registry.publish("m", onnx(), MANIFEST, {})
    (tmp_path / "r" / "m" / "versions" / ".new-dead").mkdir()
    assert [row["version"] for row in registry.versions("m")] == ["1"]


def test_a_folder_that_cannot_be_read_is_an_outage(tmp_path: Path, onnx: Callable) -> None:
    blocked = tmp_path / "registry"
    blocked.write_text("not a folder")
    with pytest.raises(RegistryUnavailable, match="check the folder"):
        DirectoryRegistry(blocked).resolve("m", "champion")
    with pytest.raises(RegistryUnavailable):
        DirectoryRegistry(blocked).publish("m", onnx(), MANIFEST, {})


def test_a_database_that_is_none_is_an_outage(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"this is no SQLite file at all" * 100)
    with pytest.raises(RegistryUnavailable, match=r"mlflow\.db"):
        MlflowRegistry(f"sqlite:///{tmp_path}/mlflow.db").resolve("m", "champion")


def test_a_server_that_is_away_is_an_outage(free_port: int, tmp_path: Path, onnx: Callable) -> None:
    registry = MlflowRegistry(f"http://127.0.0.1:{free_port}")
    for ask in (lambda: registry.resolve("m", "champion"), lambda: registry.publish("m", onnx(), MANIFEST, {})):
        with pytest.raises(RegistryUnavailable, match=r"predict\.registry") as caught:
            ask()
        assert caught.value.retry_after > 0


@pytest.mark.parametrize("uri", ["file:///tmp/mlruns", "databricks://me", "postgresql://db/mlflow"])
def test_a_store_we_do_not_speak_is_refused(uri: str) -> None:
    with pytest.raises(ConfigError, match="sqlite:///file"):
        MlflowRegistry(uri)


def test_a_version_published_by_other_means_is_refused(tmp_path: Path, onnx: Callable, database: Path) -> None:
    from mlflow import MlflowClient

    shutil.copy(database, tmp_path / "mlflow.db")
    registry = MlflowRegistry(f"sqlite:///{tmp_path}/mlflow.db")
    registry.publish("m", onnx(), MANIFEST, {})
    client = MlflowClient(tracking_uri=registry.uri, registry_uri=registry.uri)
    client.create_model_version("m", source=(tmp_path / "anything").as_uri())
    with pytest.raises(ModelRefused, match="no digests"):
        registry.pull("m", "2", tmp_path / "cache")
    client.set_model_version_tag("m", "1", "sha256", "../../../etc")
    with pytest.raises(ModelRefused, match="no digests"):
        registry.pull("m", "1", tmp_path / "cache")


def test_artifacts_lie_beside_the_database_wherever_the_process_runs(
    tmp_path: Path, onnx: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    exported = onnx()
    monkeypatch.chdir(tmp_path / "here")
    MlflowRegistry("sqlite:///state/mlflow.db").publish("m", exported, MANIFEST, {})
    monkeypatch.chdir(tmp_path / "there")
    registry = MlflowRegistry(f"sqlite:///{tmp_path}/here/state/mlflow.db")
    assert registry.pull("m", "1", tmp_path / "cache").path.read_bytes() == b"model"
    assert list((tmp_path / "here" / "state" / "mlartifacts").rglob("model.onnx"))
    assert not list((tmp_path / "there").rglob("*")), "nothing is written elsewhere"


@pytest.fixture
def server(tmp_path: Path, free_port: int) -> Iterator[str]:
    """A real MLflow server on a free port."""
    arguments = ["--backend-store-uri", f"sqlite:///{tmp_path}/server.db", "--artifacts-destination", str(tmp_path / "kept")]
    child = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", *arguments, "--port", str(free_port), "--workers", "1"],
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    uri = f"http://127.0.0.1:{free_port}"
    try:
        ends = time.monotonic() + 90
        while True:
            try:
                with urllib.request.urlopen(f"{uri}/health", timeout=2):
                    break
            except OSError:
                if time.monotonic() > ends or child.poll() is not None:
                    pytest.fail("the MLflow server did not start")
                time.sleep(0.25)
        yield uri
    finally:
        os.killpg(child.pid, 15)
        child.wait(20)


def test_a_real_server_keeps_the_same_promises(server: str, tmp_path: Path, onnx: Callable) -> None:
    registry = MlflowRegistry(server)
    life_of_a_model(registry, tmp_path, onnx)
    for ask in (
        lambda: registry.resolve("m", "champion"),
        lambda: registry.resolve("shop.forecaster", "nobody"),
        lambda: registry.pull("shop.forecaster", "9", tmp_path / "cache"),
        lambda: registry.versions("m"),
    ):
        with pytest.raises(NotFound):
            ask()
    assert registry.rollback("shop.forecaster", "champion") == ("2", "1")
    assert registry.resolve("shop.forecaster", "champion") == "1"
    stored = next(path for path in (tmp_path / "kept").rglob("model.onnx") if path.read_bytes() == b"one")
    stored.write_bytes(b"evil")
    with pytest.raises(ModelRefused, match="digest"):
        registry.pull("shop.forecaster", "1", tmp_path / "cache")
    stored.unlink()
    with pytest.raises((ModelRefused, NotFound)):
        registry.pull("shop.forecaster", "1", tmp_path / "cache")
