"""A training run in MLflow: parameters, metrics, learning curve, tables and pages, beside the registry of the same server."""

from __future__ import annotations

import json
import math
import os
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from forecastle.predict.artifacts import plain
from forecastle.predict.registry import QUIET, located

EXPERIMENT = "forecastle-training"
_LONGEST = 500
_BATCH = 900
Curve: TypeAlias = Sequence[tuple[int, float, float]]
Table: TypeAlias = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What is told of a finished training. ``curve`` holds (step, training loss, held-out loss).

    ``tables`` become ``<name>.json`` in the form that MLflow shows as a table, ``pages`` (HTML) ``<name>.html``.
    """

    parameters: Mapping[str, Any]
    metrics: Mapping[str, float]
    curve: Curve = ()
    tables: Mapping[str, Table] = field(default_factory=dict)
    pages: Mapping[str, str] = field(default_factory=dict)


def log_run(uri: str, name: str, record: RunRecord) -> str:
    """Record a finished training run under the experiment ``forecastle-training``; returns the run's id.

    Raises mlflow's MlflowException when the server refuses, ConfigError for a URI that no registry has.
    """
    for key, value in QUIET.items():
        os.environ.setdefault(key, value)
    where, artifacts = located(uri)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The ``noload`` loader strategy", DeprecationWarning)  # in MLflow's own tables
        from mlflow import MlflowClient
        from mlflow.entities import Param

        client = MlflowClient(tracking_uri=where, registry_uri=where)
        found = client.get_experiment_by_name(EXPERIMENT)
        experiment = found.experiment_id if found else client.create_experiment(EXPERIMENT, artifact_location=artifacts)
        run = str(client.create_run(experiment, run_name=name).info.run_id)
        client.log_batch(run, params=[Param(key, str(value)[:_LONGEST]) for key, value in record.parameters.items()])
        _log_points(client, run, record)
        _log_files(client, run, record)
        client.set_terminated(run)
    return run


def _log_points(client: Any, run: str, record: RunRecord) -> None:
    from mlflow.entities import Metric

    now = time.time_ns() // 1_000_000
    points = [Metric(key, float(value), now, 0) for key, value in record.metrics.items()]
    for step, train, held in record.curve:
        points += [Metric("train_loss", train, now, step), Metric("held_out_loss", held, now, step)]
    for start in range(0, len(points), _BATCH):
        client.log_batch(run, metrics=points[start : start + _BATCH])


def _log_files(client: Any, run: str, record: RunRecord) -> None:
    """A table is told as MLflow's own ``log_table`` would, which needs pandas."""
    if record.tables:
        told = [{"path": f"{plain(name)}.json", "type": "table"} for name in record.tables]
        client.set_tag(run, "mlflow.loggedArtifacts", json_text(told))
    with tempfile.TemporaryDirectory() as folder:
        for name, rows in record.tables.items():
            (Path(folder) / f"{plain(name)}.json").write_text(json_text(split(rows)), "utf-8")
        for name, page in record.pages.items():
            (Path(folder) / f"{plain(name)}.html").write_text(page, "utf-8")
        if record.tables or record.pages:
            client.log_artifacts(run, folder)


def split(rows: Table) -> dict[str, list[Any]]:
    """``rows`` as columns and data, in the order in which the columns first appear; a cell that is missing is None."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return {"columns": columns, "data": [[row.get(key) for key in columns] for row in rows]}


def json_text(value: Any) -> str:
    """JSON with what is not finite as null, which every reader takes."""
    return json.dumps(_finite(value))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list | tuple) else value
