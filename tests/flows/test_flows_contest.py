"""A newcomer is measured beside the champion and takes its place at once only where nothing speaks against it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "predict"))
import tiny_models

from flows.contest import Exported, Fitted, enter, measure
from flows.history import History
from flows.recipes import Recipe
from forecastle.predict.known import Almanac
from forecastle.predict.registry import DirectoryRegistry
from forecastle.settings import Settings
from forecastle.types import SeriesKey

STEP = 60_000


class Arena:
    """A registry, a history that grows by ``growth`` a slot, and models that say the last value times 1 + lift."""

    def __init__(self, folder: Path, fleet: Mapping[str, Any] | None = None, **train: float) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.store = folder, DirectoryRegistry(folder / "registry")
        predict = {"registry": str(folder / "registry"), "cache": str(folder / "cache"), "season": 60}
        told = {"predict": predict, "window": {"look_back": 100}, "train": train, "fleet": fleet or {}}
        self.settings = Settings.model_validate(told)
        noise = np.random.default_rng(0).lognormal(0, 0.02, (1, 400))
        values = (100 * 1.005 ** np.arange(400)[None] * noise).astype(np.float32)
        self.history = History((SeriesKey("shop", "rps"),), values, 400 * STEP, STEP)

    def enter(self, loss: float, lift: float, **manifest: Any) -> dict[str, Any]:
        path = self.folder / f"{lift}.onnx"
        made = {**tiny_models.forecaster(path, lift=lift), **manifest}
        losses = {"1": 2.0}

        def measure(_: Path, told: Mapping[str, Any]) -> tuple[float, dict[str, float]]:
            mine = float(told.get("loss", losses["1"]))
            return mine, {"tail_pinball": mine}

        fitted = Fitted("forecaster", lambda _: {}, Recipe("forecaster", "a:b", "c:d", {}))
        exported = Exported(fitted, path, {**made, "loss": loss}, measure, self.history, 80)
        return enter(self.settings, exported, self.folder / "cache")

    def champion(self) -> str:
        return self.store.resolve("forecaster", "champion")


@pytest.mark.parametrize(("loss", "champion"), [(1.0, "2"), (1.979, "2"), (1.99, "1"), (3.0, "1"), (float("nan"), "1")])
def test_the_better_one_serves(tmp_path: Path, loss: float, champion: str) -> None:
    arena = Arena(tmp_path)
    assert arena.enter(2.0, 0.0)["promoted"]
    row = arena.enter(loss, 0.08)
    assert row["promoted"] is (champion == "2")
    asked = f"tail_pinball {loss:.4g} on the frozen tail is "
    assert [one.startswith(asked) for one in row["reasons"]] == ([] if row["promoted"] else [True])
    assert (row["champion"], row["champion_loss"]) == ("1", 2.0)
    assert arena.champion() == champion


def test_where_a_shadow_is_asked_for_the_newcomer_waits_but_the_first_does_not(tmp_path: Path) -> None:
    arena = Arena(tmp_path, shadow_h=24)
    assert arena.enter(2.0, 0.0)["promoted"], "nothing serves yet"
    row = arena.enter(1.0, 0.08)
    assert not row["promoted"]
    assert (row["version"], arena.champion()) == ("2", "1"), "it is registered, for promote to judge"
    assert row["reasons"] == ["it waits for its shadow (train.shadow_h); after that: forecastle models promote forecaster 2"]


def fleet(metric: str = "rps") -> dict[str, Any]:
    demands, pools = [{"metric": metric, "per_replica": 10}], [{"name": "p", "site": "fra", "unit_price": 1.0}]
    loads = [{"name": "shop", "demands": demands, "pools": pools, "unmet_price": 2.0, "max": 1_000_000}]
    return {"sites": [{"name": "fra", "provider": "a", "region": "b"}], "workloads": loads}


def test_a_better_newcomer_may_not_change_the_bill_beyond_bounds(tmp_path: Path) -> None:
    arena = Arena(tmp_path / "bound", fleet())
    assert arena.enter(2.0, 0.0)["promoted"]
    row = arena.enter(1.0, 0.4)
    assert not row["promoted"]
    assert len(row["reasons"]) == 1
    assert row["reasons"][0].startswith("on the frozen tail shop would be recommended ")
    assert row["notes"] == []
    free = Arena(tmp_path / "free", fleet(), max_capacity_change=1.0)
    free.enter(2.0, 0.0)
    assert free.enter(1.0, 0.4)["promoted"]


def test_a_better_newcomer_may_be_no_stranger(tmp_path: Path) -> None:
    arena = Arena(tmp_path, fleet(), max_capacity_change=10)
    arena.enter(2.0, 0.0)
    assert "differ from the champion's by" in arena.enter(1.0, 2.0)["reasons"][0]
    assert arena.champion() == "1"


def test_capacity_that_cannot_be_compared_is_said_so(tmp_path: Path) -> None:
    arena = Arena(tmp_path, fleet("other"))
    arena.enter(2.0, 0.0)
    row = arena.enter(1.0, 0.08)
    assert row["promoted"]
    assert row["notes"] == ["the change of recommended capacity was not checked: the history holds no demand of shop"]


def test_the_leaderboard_knows_the_better_of_the_two(tmp_path: Path) -> None:
    arena = Arena(tmp_path)
    first = arena.enter(2.0, 0.0)
    assert "crps_champion" not in first
    row = arena.enter(3.0, 0.08)
    assert row["crps_challenger"] < row["crps_champion"] < 2 * row["crps_last_value"]
    assert row["crps_seasonal_naive"] > 0
    assert arena.store.versions("forecaster")[0]["metrics"]["crps_challenger"] == pytest.approx(row["crps_challenger"])


def test_one_that_may_not_serve_has_no_place_on_it_and_is_registered_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    arena = Arena(tmp_path)
    with caplog.at_level(logging.WARNING):
        row = arena.enter(2.0, float("inf"))
    assert "forecaster: no leaderboard: " in caplog.text
    assert not [name for name in row if name.startswith("crps")]
    assert (row["version"], row["promoted"]) == ("1", False)
    assert "finite" in row["reasons"][0]


def test_a_champion_for_other_quantiles_gives_way(tmp_path: Path) -> None:
    arena = Arena(tmp_path)
    arena.enter(2.0, 0.0, quantiles=[0.5])
    row = arena.enter(9.0, 0.08)
    assert row["promoted"]
    assert "champion" not in row


def test_a_detector_is_judged_in_training_by_the_rule_of_promote(tmp_path: Path) -> None:
    arena = Arena(tmp_path)
    detect = arena.settings.detect.model_copy(update={"look_back": 100, "warmup": 60, "season": 0})
    arena.settings = arena.settings.model_copy(update={"detect": detect})
    keys = tuple(SeriesKey("shop", name) for name in ("cpu", "rps"))
    values = np.random.default_rng(0).normal(100, 1, (2, 400)).astype(np.float32)
    history = History(keys, values, 400 * STEP, STEP)

    def enter_detector(**options: float) -> dict[str, Any]:
        path = tmp_path / "detector.onnx"
        manifest = tiny_models.detector(path, **options)
        fitted = Fitted("detector", lambda _: {}, Recipe("detector", "a:b", "c:d", {}))
        made = Exported(fitted, path, manifest, measure("detector", history, 80, Almanac((), STEP)), history, 80)
        return enter(arena.settings, made, tmp_path / "cache")

    first = enter_detector(gain=0.0)
    assert first["promoted"], "nothing serves yet"
    assert enter_detector()["promoted"], "it misses less than one that says nothing"
    silent = enter_detector(gain=1e-9)
    assert not silent["promoted"]
    assert any("on the frozen tail it tells of none of " in reason for reason in silent["reasons"])
    assert arena.store.resolve("detector", "champion") == "2"
