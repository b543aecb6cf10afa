"""Where models are kept between training and serving: an MLflow server or database, or a plain folder.

What is registered is an ONNX file and a manifest, named by their digests: a registry that was broken into can offer a bad
model, but no code, and never a file that differs from the one that was published.
"""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forecastle.errors import ConfigError, ForecastleError, ModelRefused, NotFound, RegistryUnavailable
from forecastle.ports import Artifact
from forecastle.predict.artifacts import MANIFEST, MODEL, keep, plain, stage
from forecastle.predict.folder import REMEMBERED, DirectoryRegistry, earlier, row, time_text

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["QUIET", "DirectoryRegistry", "MlflowRegistry", "located", "open_registry"]

EXPERIMENT = "forecastle-models"
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
"""MLflow's own retries take minutes; whoever polls a registry tries again anyway. The environment's word wins."""
_OUTDATED = ("The ``noload`` loader strategy", "Type object .* does not refer to an OperatorClass")
"""What SQLAlchemy says about the tables of MLflow, and of Prefect in the same process."""
_MISSING = frozenset({"RESOURCE_DOES_NOT_EXIST", "NOT_FOUND", "INVALID_PARAMETER_VALUE"})


def open_registry(uri: str) -> DirectoryRegistry | MlflowRegistry:
    """The registry of ``predict.registry``: MLflow where it is a URI, else a folder. Raises ConfigError when it is empty."""
    if not uri:
        raise ConfigError("predict.registry: is empty; set it to an MLflow tracking URI or a folder of artifacts")
    return MlflowRegistry(uri) if "://" in uri else DirectoryRegistry(Path(uri))


class MlflowRegistry:
    """MLflow behind ``uri``: ``http(s)://host:port`` or ``sqlite:///file.db``.

    Beside a SQLite file the artifacts lie in ``mlartifacts``; a server keeps them itself. A version's source is a run of the
    experiment ``forecastle-models`` that holds both files; its tags carry the digests and the metrics.
    """

    def __init__(self, uri: str) -> None:
        self.uri, self._artifacts = located(uri)
        self._opened: MlflowClient | None = None

    def resolve(self, name: str, alias: str) -> str:
        """Version the alias points at. Raises NotFound or RegistryUnavailable."""
        with self._asking(f"{name}@{alias}") as client:
            return str(client.get_model_version_by_alias(plain(name), plain(alias)).version)

    def pull(self, name: str, version: str, into: Path) -> Artifact:
        """Download to ``into/<name>/<sha256>`` unless it is there. Raises NotFound, RegistryUnavailable or ModelRefused."""
        with self._asking(f"{name} version {version}") as client:
            found = client.get_model_version(plain(name), version)

        def fetch(folder: Path) -> None:
            from mlflow.artifacts import download_artifacts

            with self._asking(f"{name} version {version}: its files"):
                for file in (MODEL, MANIFEST):
                    download_artifacts(artifact_uri=f"{found.source}/{file}", dst_path=str(folder), tracking_uri=self.uri)

        return keep(into, name, version, found.tags, fetch)

    def promote(self, name: str, version: str, alias: str) -> str:
        """Point the alias at the version; returns the one before ('' if none). Raises NotFound or RegistryUnavailable."""
        try:
            before = self.resolve(name, alias)
        except NotFound:
            before = ""
        with self._asking(f"{name} version {version}") as client:
            history = self._history(client, name, alias)
            client.set_registered_model_alias(plain(name), plain(alias), version)
            self._remember(client, name, alias, [*history, version])
        return before

    def rollback(self, name: str, alias: str) -> tuple[str, str]:
        """Point the alias back at what it pointed at before; returns (from, to). Raises NotFound or RegistryUnavailable."""
        now = self.resolve(name, alias)
        with self._asking(f"{name}@{alias}") as client:
            kept = earlier(f"{name}@{alias}", self._history(client, name, alias), now)
            client.set_registered_model_alias(plain(name), plain(alias), kept[-1])
            self._remember(client, name, alias, kept)
        return now, kept[-1]

    def versions(self, name: str) -> list[dict[str, Any]]:
        """Newest first: version, aliases, metrics, created (ISO 8601, UTC). Raises NotFound or RegistryUnavailable."""
        with self._asking(name) as client:
            pointed = {alias: str(v) for alias, v in client.get_registered_model(plain(name)).aliases.items()}
            found = sorted(client.search_model_versions(f"name='{name}'"), key=lambda v: int(v.version), reverse=True)
        created = [time_text(datetime.fromtimestamp(v.creation_timestamp / 1000, UTC)) for v in found]
        return [row(str(v.version), pointed, v.tags, at) for v, at in zip(found, created, strict=True)]

    def publish(self, name: str, onnx_path: Path, manifest: Mapping[str, Any], metrics: Mapping[str, float]) -> str:
        """Add a version; returns its number. Raises RegistryUnavailable, or ConfigError for a name that is no file name."""
        plain(name)
        with tempfile.TemporaryDirectory() as staged:
            tags = stage(Path(staged), onnx_path, manifest, metrics)
            with self._asking(name) as client:
                run = client.create_run(self._experiment(client), run_name=name).info
                for file in (MODEL, MANIFEST):
                    client.log_artifact(run.run_id, str(Path(staged) / file))
                for key, value in tags["metrics"].items():
                    client.log_metric(run.run_id, key, value)
                client.set_terminated(run.run_id)
                with _unless_there():
                    client.create_registered_model(name)
                source, kept = str(run.artifact_uri), {**tags, "metrics": json.dumps(tags["metrics"])}
                made = client.create_model_version(name, source, run.run_id, kept, await_creation_for=0)
        return str(made.version)

    def _history(self, client: MlflowClient, name: str, alias: str) -> list[str]:
        return str(client.get_registered_model(plain(name)).tags.get(f"history.{plain(alias)}", "")).split()

    def _remember(self, client: MlflowClient, name: str, alias: str, history: Sequence[str]) -> None:
        client.set_registered_model_tag(name, f"history.{alias}", " ".join(history[-REMEMBERED:]))

    def _experiment(self, client: MlflowClient) -> str:
        found = client.get_experiment_by_name(EXPERIMENT)
        if found is None:
            with _unless_there():
                client.create_experiment(EXPERIMENT, artifact_location=self._artifacts)
            return self._experiment(client)
        return str(found.experiment_id)

    @contextmanager
    def _asking(self, what: str) -> Iterator[MlflowClient]:
        """A client whose failures are ours."""
        for key, value in QUIET.items():
            os.environ.setdefault(key, value)
        with warnings.catch_warnings():
            for text in _OUTDATED:
                warnings.filterwarnings("ignore", text, DeprecationWarning)
            try:
                from mlflow import MlflowClient

                if self._opened is None:
                    self._opened = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
                yield self._opened
            except (ForecastleError, ImportError):
                raise
            except Exception as error:
                raise self._translated(what, error) from error

    def _translated(self, what: str, error: Exception) -> Exception:
        code = getattr(error, "error_code", "")
        if code in _MISSING:
            return NotFound(f"{what}: not in the registry {self.uri}; see 'forecastle models list'")
        if isinstance(error, FileNotFoundError) or "404 Client Error" in str(error):
            return ModelRefused(f"{what}: missing in the registry {self.uri}; publish the model again")
        reason = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
        return RegistryUnavailable(f"{self.uri}: {what}: {reason}; check predict.registry and that MLflow runs", retry_after=5)


def located(uri: str) -> tuple[str, str | None]:
    """The tracking URI with an absolute path, and where its artifacts go (None: the server knows)."""
    if uri.startswith(("http://", "https://")):
        return uri, None
    if not uri.startswith("sqlite:///"):
        raise ConfigError(
            f"predict.registry: {uri!r} is not supported; write http(s)://host:port, sqlite:///file.db or a folder"
        )
    path = Path(uri.removeprefix("sqlite:///")).absolute()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"predict.registry: {path.parent} cannot be made ({error.strerror}); name another file") from error
    return f"sqlite:///{path}", (path.parent / "mlartifacts").as_uri()


@contextmanager
def _unless_there() -> Iterator[None]:
    """Another process that made the same thing first is no failure."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
