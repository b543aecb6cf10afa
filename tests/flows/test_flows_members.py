"""A statistical member takes a series over only where it won on most folds that training held out."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tiny_models

from flows import rolling
from flows.contest import Fitted
from flows.history import History
from flows.members import FOLDS, MemberRules, _important, _rounds, fold_losses, learn, wins
from flows.quality import Quality
from flows.recipes import Recipe, recipe
from flows.train import Lesson, export
from forecastle.errors import ConfigError
from forecastle.ports import Artifact
from forecastle.predict.artifacts import sha256
from forecastle.predict.known import Almanac
from forecastle.predict.members import Members
from forecastle.predict.naive import QUANTILES
from forecastle.predict.onnx import OnnxForecaster
from forecastle.types import SeriesKey

STEP = 60_000
RULES = MemberRules(important=1)
KEYS = tuple(SeriesKey(name, "rps") for name in ("calm", "restless", "dark", "alike"))


@pytest.fixture(scope="module")
def history() -> History:
    """A level under noise, a walk whose steps are as the network expects, one never measured, and a level again."""
    rng = np.random.default_rng(0)
    values = np.full((4, 700), np.nan)
    values[0] = 100 + rng.normal(0, 20, 700)
    values[1] = 1000 * np.exp(np.cumsum(rng.normal(0, 0.03, 700)))
    values[3] = 60 + rng.normal(0, 12, 700)
    values[3, 300:330] = np.nan
    return History(KEYS, values.astype(np.float32), 30_000_000 * STEP, STEP)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    """Repeats the last value, give or take five percent."""
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    return path, tiny_models.forecaster(path, look_back=120, horizon=6)


@pytest.fixture(scope="module")
def told(history: History, network: tuple[Path, dict[str, object]]) -> list[dict[str, object]]:
    path, manifest = network
    return learn(path, manifest, history, demand=[False] * 4, season=60, rules=RULES)


def test_the_calm_are_taken_over_and_the_restless_are_not(told: list[dict[str, object]]) -> None:
    assert [one["workload"] for one in told] == ["calm", "alike"]
    assert all(float(one["alpha"]) < 0.3 for one in told)  # type: ignore[arg-type]
    json.dumps(told, allow_nan=False)


def test_what_was_learned_lowers_the_loss_where_it_serves(
    told: list[dict[str, object]], history: History, network: tuple[Path, dict[str, object]]
) -> None:
    path, manifest = network
    at = rolling.origins(history, 6, tail=0.1, count=30)
    actual = rolling.actuals(history, at, 6)
    losses = []
    for members in ([], told):
        artifact = Artifact("forecaster", "1", path, sha256(path), {**manifest, "members": members})
        serving = OnnxForecaster(artifact, step_ms=STEP, horizon=6, quantiles=QUANTILES)
        losses.append(fold_losses(rolling.roll(history, at, serving.infer, 120), actual, np.asarray(QUANTILES)).mean(0))
    before, after = losses
    assert (after[[0, 3]] < 0.95 * before[[0, 3]]).all()
    assert after[1] == before[1]


def test_learning_twice_tells_the_same_and_the_folds_change_no_parameter(
    told: list[dict[str, object]], history: History, network: tuple[Path, dict[str, object]]
) -> None:
    path, manifest = network
    values = history.values.copy()
    values[:, -1] *= 1.01
    again = learn(path, manifest, replace(history, values=values), demand=[False] * 4, season=60, rules=RULES)
    assert again == told
    assert len(Members(again)) == 2


def test_a_history_too_short_for_a_fold_has_no_members(history: History, network: tuple[Path, dict[str, object]]) -> None:
    path, manifest = network
    short = replace(history, values=history.values[:, -50:])
    assert learn(path, manifest, short, demand=[False] * 4, season=60, rules=RULES) == []


def test_the_named_are_important_first_then_demand_then_what_is_large(history: History) -> None:
    assert _important(history, [False] * 4, MemberRules(important=2)) == [1, 0]
    assert _important(history, [False, False, False, True], MemberRules(important=2)) == [3, 1]
    assert _important(history, [False, False, False, True], MemberRules(important=3, named=["calm"])) == [0, 3, 1]
    assert _important(history, [False] * 4, MemberRules(important=0)) == []


def test_sarimax_is_tried_on_the_first_of_the_important_alone(history: History) -> None:
    short = replace(history, values=history.values[:, -200:])
    rounds = _rounds(short, [0, 1], 1, 0, 6)
    kinds = {i: [members[i].kind for members in rounds if i in members] for i in range(4)}
    assert kinds[0] == ["ets", "theta", "sarimax", "sarimax"]
    assert kinds[1] == ["ets", "theta"]
    assert kinds[2] == []
    assert len(kinds[3]) == 1
    assert [len(members) for members in _rounds(short, [], 0, 0, 6)] == [3]


def test_sarimax_takes_a_series_over_that_swings(network: tuple[Path, dict[str, object]]) -> None:
    """Nothing that smooths knows where a swing leads."""
    path, manifest = network
    rng, values = np.random.default_rng(1), np.zeros(600)
    for i in range(2, 600):
        values[i] = 1.7 * values[i - 1] - 0.95 * values[i - 2] + rng.normal(0, 1)
    values += 100
    values[200:210] = np.nan
    history = History((SeriesKey("swings", "rps"),), values[None].astype(np.float32), 30_000_000 * STEP, STEP)
    rules = MemberRules(important=1, sarimax=1)
    (told,) = learn(path, manifest, history, demand=[True], season=0, rules=rules)
    assert told["member"] == "sarimax"
    assert told["ar"] == pytest.approx([1.7, -0.95], abs=0.1)
    assert len(Members([told])) == 1


def test_a_member_wins_by_a_margin_on_most_folds_and_on_the_whole() -> None:
    network = np.ones((5, 6))
    member = np.full((5, 6), 0.9)
    member[0, 1] = 1.0  # four of five
    member[:2, 2] = 1.0  # three of five
    member[:, 3] = 0.96  # within the margin
    member[0, 4] = 1.4  # not on the whole
    member[0, 5] = np.nan
    assert wins(member, network, MemberRules()).tolist() == [True, True, False, False, False, False]
    assert not wins(network, network, MemberRules(margin=0.0)).any()


def test_losses_are_those_of_each_fold_and_series() -> None:
    actual = np.arange(10.0).reshape(10, 1, 1).repeat(2, axis=1).astype(np.float32)
    actual[:2, 1] = np.nan
    said = np.repeat(actual[..., None], 3, axis=3) + np.float32(2)
    found = fold_losses(said, actual, np.array([0.1, 0.5, 0.9]))
    assert found.shape == (FOLDS, 2)
    np.testing.assert_allclose(found[:, 0], 1.0)
    assert np.isnan(found[0, 1])
    np.testing.assert_allclose(found[1:, 1], 1.0)


def test_members_are_asked_for_by_the_recipe_alone(tmp_path: Path) -> None:
    assert recipe(["configs"], "forecaster").members is None
    (tmp_path / "models").mkdir()
    file = tmp_path / "models" / "forecaster.yaml"
    file.write_text("train: a:b\nexport: c:d\nmembers: {important: 3}\n", "utf-8")
    assert recipe([str(tmp_path)], "forecaster").members == MemberRules(important=3)
    file.write_text("train: a:b\nexport: c:d\nmembers: {sarimax: 2, named: [checkout]}\n", "utf-8")
    assert recipe([str(tmp_path)], "forecaster").members == MemberRules(sarimax=2, named=["checkout"])
    file.write_text("train: a:b\nexport: c:d\nmembers: {}\n", "utf-8")
    assert recipe([str(tmp_path)], "forecaster").members == MemberRules()


@pytest.mark.parametrize(
    "told",
    [
        "{few: 3}",
        "3",
        "{most: 0.5}",
        "{margin: 1}",
        "{important: -1}",
        "{margin: a}",
        "null",
        "{sarimax: 17}",
        "{sarimax: -1}",
        "{named: checkout}",
    ],
)
def test_rules_that_are_none_are_refused(tmp_path: Path, told: str) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "forecaster.yaml").write_text(f"train: a:b\nexport: c:d\nmembers: {told}\n", "utf-8")
    with pytest.raises(ConfigError, match="known are"):
        recipe([str(tmp_path)], "forecaster")


@pytest.mark.parametrize(("rules", "listed"), [(None, None), (RULES, ["calm", "alike"])])
def test_the_manifest_that_is_published_lists_them(
    tmp_path: Path, history: History, rules: MemberRules | None, listed: list[str] | None
) -> None:
    write = partial(tiny_models.forecaster, look_back=120, horizon=6)
    fitted = Fitted("forecaster", write, Recipe("forecaster", "a:b", "c:d", {"season": 60}, members=rules))
    lesson, almanac = Lesson(history, Quality(()), 0.0), Almanac((), history.step_ms)
    made = asyncio.run(export.fn(fitted, tmp_path, history, 40, lesson, almanac=almanac, demand=[False] * 4))
    told = made.manifest.get("members")
    assert (told and [one["workload"] for one in told]) == listed
