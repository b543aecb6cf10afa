"""Variants of a model are trained in processes of their own, as they would be alone, and the best of them goes on."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows import fan_out
from flows.fan_out import HELD_OUT, Trained, Training, best, table, train_all
from flows.recipes import Recipe, recipe
from forecastle.errors import ConfigError

TRAINERS = """
import os
def told(parameters, series, end_minutes, *, seed, deadline_s, weights):
    if parameters.get("die"):
        os._exit(9)
    if parameters.get("wrong"):
        raise ValueError("wrong")
    facts = {"pid": os.getpid(), "seed": seed, "slots": len(series[0]), "ends": end_minutes, "deadline": deadline_s}
    return facts, {"held_out_pinball": parameters["loss"], "curve": [(1, 2.0, 3.0)], "weight": sum(weights)}
def meets(parameters, series, end_minutes, *, seed, deadline_s, weights, checkpoint):
    with open(parameters["meeting"], "w" if seed else "r"):  # a FIFO opens when its other end does
        facts = {"pid": os.getpid(), "checkpoint": str(checkpoint), "sum": float(sum(map(sum, series)))}
    return facts, {"held_out_pinball": 1.0}
def resumed(parameters, series, end_minutes, *, seed, deadline_s, weights, checkpoint):
    return str(checkpoint), {}
"""


@pytest.fixture
def trainers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module that children can import too."""
    name = "fan_out_trainers"
    (tmp_path / f"{name}.py").write_text(TRAINERS, "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.delitem(sys.modules, name, raising=False)
    return name


def training(trainers: str, at: Path = Path("c.npz"), function: str = "told", **parameters: Any) -> Training:
    values = np.ones((2, 5), np.float32)
    return Training(f"{trainers}:{function}", {"loss": 1.0, **parameters}, values, 7, [1.0, 2.0], 3.0, at)


def test_two_processes_train_two_variants_in_their_order(trainers: str) -> None:
    trained = train_all([training(trainers, loss=2.0, seed=4), training(trainers, loss=1.0)], at_once=2)
    assert [one.parameters["loss"] for one in trained] == [2.0, 1.0]
    assert os.getpid() not in {one.module["pid"] for one in trained}
    facts = {key: value for key, value in trained[0].module.items() if key != "pid"}
    assert facts == {"seed": 4, "slots": 5, "ends": [7, 7], "deadline": 3.0}
    assert trained[0].metrics["weight"] == 3.0


@pytest.mark.parametrize(("count", "at_once"), [(1, 4), (3, 1)])
def test_one_at_a_time_needs_no_process(trainers: str, count: int, at_once: int) -> None:
    trained = train_all([training(trainers)] * count, at_once=at_once)
    assert [one.module["pid"] for one in trained] == [os.getpid()] * count


def test_what_a_trainer_raises_is_raised(trainers: str) -> None:
    with pytest.raises(ValueError, match="wrong"):
        train_all([training(trainers), training(trainers, wrong=True)], at_once=2)


def test_a_process_that_dies_names_the_setting(trainers: str) -> None:
    with pytest.raises(ConfigError, match=r"lower train\.fan_out=2"):
        train_all([training(trainers), training(trainers, die=True)], at_once=2)


def test_a_trainer_that_can_resume_is_told_where(trainers: str, tmp_path: Path) -> None:
    (one,) = train_all([training(trainers, tmp_path / "mine.npz", "resumed")], at_once=1)
    assert one.module == str(tmp_path / "mine.npz")


def test_ray_is_asked_for_by_name(trainers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'forecastle\[ray\]', or set train\.executor=processes"):
        train_all([training(trainers)], at_once=1, executor="ray")


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    found = pytest.importorskip("ray", reason="pip install -c constraints.txt -e '.[ray]' to run it")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    yield found
    found.shutdown()


@pytest.mark.slow
def test_two_workers_of_ray_train_at_once(ray: Any, trainers: str, tmp_path: Path) -> None:
    os.mkfifo(fifo := tmp_path / "meeting")
    pair = [training(trainers, tmp_path / f"{i}.npz", "meets", meeting=str(fifo), seed=i) for i in (1, 0)]
    trained = train_all(pair, at_once=2, executor="ray")
    assert [one.parameters["seed"] for one in trained] == [1, 0]
    assert len({os.getpid(), *(one.module["pid"] for one in trained)}) == 3
    assert [one.module["checkpoint"] for one in trained] == [str(tmp_path / "1.npz"), str(tmp_path / "0.npz")]
    assert [one.module["sum"] for one in trained] == [10.0, 10.0]
    assert best(trained) is trained[0]
    assert not ray.is_initialized()


@pytest.mark.slow
def test_a_cluster_that_is_there_is_used_and_left_running(ray: Any, trainers: str) -> None:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    with pytest.raises(ValueError, match="wrong"):
        train_all([training(trainers), training(trainers, wrong=True)], at_once=2, executor="ray")
    with pytest.raises(ConfigError, match=r"lower train\.fan_out=2"):
        train_all([training(trainers), training(trainers, die=True)], at_once=2, executor="ray")
    assert ray.is_initialized()


def trained(**metrics: float) -> Trained:
    return Trained({"width": metrics.get("width", 1), "seed": 0}, None, {**metrics, "curve": []})


def test_the_least_loss_wins_and_a_trainer_without_one_loses() -> None:
    made = [trained(), trained(**{HELD_OUT: 2.0}), trained(**{HELD_OUT: 1.0}), trained(**{HELD_OUT: 1.0})]
    assert best(made) is made[2]
    assert best(made[:1]) is made[0]


def test_the_table_shows_where_they_differ() -> None:
    rows = table([trained(width=8, loss=1.0), trained(width=16, loss=0.5)])
    assert rows == [{"width": 8.0, "loss": 1.0}, {"width": 16.0, "loss": 0.5}]


def test_a_recipe_lists_its_rivals_its_own_parameters_first(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    path = tmp_path / "models" / "forecaster.yaml"
    path.write_text("train: a:b\nexport: c:d\nparameters: {width: 8, seed: 1}\nvariants: [{width: 16}, {seed: 2}]\n", "utf-8")
    made = recipe([str(tmp_path)], "forecaster", steps=9)
    assert made.rivals(1) == [{"width": 8, "seed": 1, "steps": 9}]
    assert [(one["width"], one["seed"], one["steps"]) for one in made.rivals(9)] == [(8, 1, 9), (16, 1, 9), (8, 2, 9)]
    assert len(made.rivals(2)) == 2
    assert Recipe("f", "a:b", "c:d", {"x": 1}).rivals(4) == [{"x": 1}]


@pytest.mark.parametrize("variants", ["3", "[1]", "{a: 1}"])
def test_variants_that_are_none_are_refused(tmp_path: Path, variants: str) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "forecaster.yaml").write_text(f"train: a:b\nexport: c:d\nvariants: {variants}\n", "utf-8")
    with pytest.raises(ConfigError, match="write a list of mappings"):
        recipe([str(tmp_path)], "forecaster")


def test_the_cores_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "99")
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    fan_out._share_cores(2)
    assert os.environ["OMP_NUM_THREADS"] == "4"
    fan_out._share_cores(100)
    assert os.environ["OMP_NUM_THREADS"] == "1"
