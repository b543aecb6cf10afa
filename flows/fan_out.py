"""Several configurations of a model trained at once, each in a process of its own; the best on the held-out tail goes on."""

from __future__ import annotations

import inspect
import multiprocessing
import os
import pickle
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from forecastle.errors import ConfigError
from forecastle.runtime.inventory import resolve
from forecastle.types import Floats32

HELD_OUT = "held_out_pinball"


@dataclass(frozen=True, slots=True)
class Training:
    """One configuration and what it learns from: ``values`` float32[n, t] that end at ``end_minute``, ``weights`` [n].

    ``train`` is the import string of a trainer, see docs/how-to/add-a-model.md; one that takes a ``checkpoint`` goes on from
    that file when it was killed. ``told`` is what a trainer that takes ``known`` or ``static`` is given of them, see
    `flows.beside`.
    """

    train: str
    parameters: Mapping[str, Any]
    values: Floats32
    end_minute: int
    weights: Sequence[float]
    deadline_s: float | None
    checkpoint: Path
    told: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Trained:
    """A module and its metrics, with the ``parameters`` it was trained with."""

    parameters: Mapping[str, Any]
    module: Any
    metrics: Mapping[str, Any]


def train_one(given: Training) -> Trained:
    """Train in this process. Raises what the trainer raises."""
    fit = resolve(given.train)
    resumable = {"checkpoint": given.checkpoint} if "checkpoint" in inspect.signature(fit).parameters else {}
    module, metrics = fit(
        given.parameters,
        list(given.values),
        [given.end_minute] * len(given.values),
        seed=int(given.parameters.get("seed", 0)),
        deadline_s=given.deadline_s,
        weights=list(given.weights),
        **resumable,
        **given.told,
    )
    return Trained(given.parameters, module, metrics)


def train_all(trainings: Sequence[Training], *, at_once: int, executor: str = "processes") -> list[Trained]:
    """All of them, ``at_once`` at a time, in their order.

    Raises what a trainer raises, and ConfigError when a process dies or ray is asked for and not installed.
    """
    if executor == "ray":
        return _by_ray(trainings, at_once)
    if at_once == 1 or len(trainings) == 1:
        return [train_one(given) for given in trainings]
    count = min(at_once, len(trainings))
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(count, context, initializer=_share_cores, initargs=(count,)) as pool:
            return [pickle.loads(told) for told in pool.map(_packed, trainings)]  # noqa: S301 - from our own children
    except BrokenProcessPool as error:
        raise ConfigError(f"a training process died, perhaps for want of memory; lower train.fan_out={at_once}") from error


def best(trained: Sequence[Trained]) -> Trained:
    """The one whose loss on the held-out tail is least; the first when the trainer tells none."""
    return min(trained, key=lambda one: float(one.metrics.get(HELD_OUT, float("inf"))))


def table(trained: Sequence[Trained]) -> list[dict[str, Any]]:
    """A row for each configuration: where it differs from the others, and its metrics."""
    names = sorted({name for one in trained for name in one.parameters})
    differ = [name for name in names if len({repr(one.parameters.get(name)) for one in trained}) > 1]
    return [
        {
            **{name: one.parameters.get(name) for name in differ},
            **{name: float(value) for name, value in one.metrics.items() if name != "curve"},
        }
        for one in trained
    ]


def _packed(given: Training) -> bytes:
    """As bytes: torch's own way to hand tensors over needs the child to live on."""
    return pickle.dumps(train_one(given))


def _share_cores(count: int) -> None:
    os.environ["OMP_NUM_THREADS"] = str(max((os.cpu_count() or 1) // count, 1))


def _by_ray(trainings: Sequence[Training], at_once: int) -> list[Trained]:
    """Over the cluster of RAY_ADDRESS, else over ``at_once`` workers of our own, which end with it.

    A worker that dies is replaced once, and its training goes on from its checkpoint.
    """
    try:
        ray: Any = import_module("ray")
    except ImportError as error:
        raise ConfigError(
            "train.executor: ray is not installed; pip install 'forecastle[ray]', or set train.executor=processes"
        ) from error
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers about the cluster
    mine = not ray.is_initialized()
    local = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": at_once, "include_dashboard": False}
    if mine:
        ray.init(log_to_driver=False, **local)
    try:
        remote = ray.remote(max_retries=1)(_packed)
        told = ray.get([remote.remote(given) for given in trainings])
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as error:
        raise ConfigError(f"a training process died, perhaps for want of memory; lower train.fan_out={at_once}") from error
    finally:
        if mine:
            ray.shutdown()
    return [pickle.loads(one) for one in told]  # noqa: S301 - from our own workers
