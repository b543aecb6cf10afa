"""The network between us and the model registry fails, in the middle of a download too: the last good model stays."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_models
from tcp_proxy import FaultProxy

from forecastle.errors import RegistryUnavailable
from forecastle.predict.artifacts import cached, pointed
from forecastle.predict.pull import Puller
from forecastle.predict.registry import MlflowRegistry
from forecastle.settings import Settings


@pytest.fixture
def server(tmp_path: Path, free_port: int) -> Iterator[int]:
    """The port of a real MLflow server."""
    arguments = ["--backend-store-uri", f"sqlite:///{tmp_path}/server.db", "--artifacts-destination", str(tmp_path / "kept")]
    child = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", *arguments, "--port", str(free_port), "--workers", "1"],
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        ends = time.monotonic() + 90
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{free_port}/health", timeout=2):
                    break
            except OSError:
                if time.monotonic() > ends or child.poll() is not None:
                    pytest.fail("the MLflow server did not start")
                time.sleep(0.25)
        yield free_port
    finally:
        os.killpg(child.pid, 15)
        child.wait(120)


def publish(registry: MlflowRegistry, folder: Path, lift: float) -> str:
    """A new forecaster, at once the champion."""
    made = tiny_models.forecaster(folder / "new.onnx", lift=lift)
    version = registry.publish("forecaster", folder / "new.onnx", made, {})
    registry.promote("forecaster", version, "champion")
    return version


@pytest.mark.slow
def test_while_the_registry_is_away_the_last_good_digest_serves(
    server: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    direct, cache = MlflowRegistry(f"http://127.0.0.1:{server}"), tmp_path / "cache"
    first = publish(direct, tmp_path, 0.0)
    with FaultProxy(("127.0.0.1", server)) as proxy:
        said = {"model": "forecaster", "registry": f"http://{proxy.bootstrap}", "cache": str(cache)}
        settings = Settings.model_validate({"predict": said, "detect": {"model": ""}})
        puller = Puller(settings, MlflowRegistry(settings.predict.registry))
        start = proxy.passed
        puller.look()
        pulled = proxy.passed - start
        good = pointed(cache, "forecaster", "champion")
        assert good is not None
        assert good[0] == first
        second = publish(direct, tmp_path, 0.5)
        proxy.refuse()
        with pytest.raises(RegistryUnavailable):
            puller.look()
        assert (pointed(cache, "forecaster", "champion"), puller.served) == (good, {"forecaster": first})
        for part in (0.2, 0.6, 0.9):
            proxy.accept()
            proxy.cut_after(int(pulled * part))
            with pytest.raises(RegistryUnavailable):
                puller.look()
            assert pointed(cache, "forecaster", "champion") == good, f"cut after {part:.0%} of a pull"
            assert puller.refused == {}, "an outage is no fault of the model"
        assert cached(cache, "forecaster", *good).path.exists()
        assert len([path for path in (cache / "forecaster").iterdir() if path.is_dir()]) == 1, "no half of a model is kept"
        proxy.accept()
        puller.look()
        assert puller.served == {"forecaster": second}
        assert pointed(cache, "forecaster", "champion") != good
