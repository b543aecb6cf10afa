"""The services of the full demo, all on loopback, all in the run's folder: a Kafka broker, Prefect on SQLite, flows."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from forecastle.runtime.demo_child import Child, child


def free_port() -> int:
    """A loopback TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(folder: Path, port: int) -> dict[str, str]:
    """What flows need to find the Prefect server at ``port``; no telemetry, nothing in the home folder, quiet logs."""
    return {
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_ENABLED": "true",
        "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
        "PREFECT_LOGGING_LEVEL": "WARNING",
        "DO_NOT_TRACK": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "OMP_NUM_THREADS": "1",
    }


@contextmanager
def prefect(folder: Path, port: int) -> Iterator[Child]:
    """A Prefect server, which takes some seconds to answer: flows wait for it themselves."""
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with child("prefect", command, folder, environment(folder, port)) as server:
        yield server


def flow(name: str, path: str, arguments: Mapping[str, Any], folder: Path, *, port: int) -> AbstractContextManager[Child]:
    """The flow ``module:name`` in a process of its own, talking to the Prefect server at ``port``."""
    command = [sys.executable, "-m", "forecastle.runtime.demo_flow", path, json.dumps(arguments)]
    return child(name, command, folder, environment(folder, port))


def pull(paths: Sequence[Path], folder: Path) -> AbstractContextManager[Child]:
    """`forecastle pull`, once."""
    configs = [part for path in paths for part in ("--config", str(path))]
    command = [sys.executable, "-m", "forecastle.runtime.pull", *configs]
    return child("pull", command, folder, {"MLFLOW_DISABLE_TELEMETRY": "true"})
