"""Three strikes in a worker move the alias in the registry back, by the process that has the right to: once, never blindly."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models

from forecastle.errors import NotFound, RegistryUnavailable
from forecastle.predict.artifacts import pointed
from forecastle.predict.dropped import DroppedModel, settle_dropped, tell_dropped, told_dropped
from forecastle.predict.engine import STAND_IN, Predictor
from forecastle.predict.pull import Puller
from forecastle.predict.registry import DirectoryRegistry, MlflowRegistry
from forecastle.settings import Settings
from forecastle.types import SeriesKey, Windows

WILD = 50.0
STEP = 60_000
pytestmark = pytest.mark.filterwarnings("ignore:Type object .* does not refer to an OperatorClass:DeprecationWarning")


class Site:
    """A registry, a process that pulls from it and a worker that serves what was pulled."""

    def __init__(self, folder: Path, kind: str) -> None:
        uri = f"sqlite:///{folder}/mlflow.db" if kind == "mlflow" else str(folder / "registry")
        self.registry = MlflowRegistry(uri) if kind == "mlflow" else DirectoryRegistry(folder / "registry")
        predict = {"registry": uri, "cache": str(folder / "cache"), "poll_s": 0.01, "strikes": 3, "timeout_s": 60}
        self.settings = Settings.model_validate({"predict": predict, "detect": {"model": ""}})
        self.cache, self.folder = folder / "cache", folder
        self.puller = Puller(self.settings, self.registry)
        self.now, self.tick = 0.0, 0
        self.worker = self.staffed()

    def staffed(self) -> Predictor:
        return Predictor(self.settings.predict, STEP, clock=lambda: self.now)

    def publish(self, lift: float) -> str:
        path = self.folder / "new.onnx"
        version = self.registry.publish("forecaster", path, tiny_models.forecaster(path, lift=lift), {})
        self.registry.promote("forecaster", version, "champion")
        return version

    def ticks(self, count: int) -> str:
        """Forecast ``count`` minutes; the model of the last."""
        model = ""
        for _ in range(count):
            self.now, self.tick = self.now + 31, self.tick + 1
            values = 100 + np.arange(20, dtype=np.float32)[None]
            flags = np.zeros(1, np.bool_)
            mask = np.ones(values.shape, np.bool_)
            windows = Windows((SeriesKey("shop", "rps"),), self.tick * STEP, STEP, values, mask, flags, flags)
            model = self.worker.forecast(windows).model
        return model

    def champion(self) -> str:
        return self.registry.resolve("forecaster", "champion")

    def served(self) -> str:
        found = pointed(self.cache, "forecaster", "champion")
        return found[0] if found else ""


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path, "folder")


@pytest.mark.parametrize("kind", ["folder", "mlflow"])
def test_three_strikes_move_the_alias_back(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    site = Site(tmp_path, kind)
    site.publish(0.0)
    site.puller.look()
    site.ticks(1)
    site.publish(WILD)
    site.puller.look()
    assert site.served() == "2"
    site.ticks(2)
    site.puller.look()
    assert site.champion() == "2", "two strikes are none"
    site.ticks(1)
    assert site.champion() == "2", "a worker asks no registry"
    with caplog.at_level(logging.WARNING):
        site.puller.look()
    assert (site.champion(), site.served()) == ("1", "1")
    assert "forecaster@champion: 2 -> 1, rolled back: 3 bad batches in a row" in caplog.text
    assert told_dropped(site.cache, "forecaster", "champion") is None
    assert site.ticks(1).startswith("forecaster@")


def test_a_person_who_promotes_it_again_is_not_overruled(site: Site) -> None:
    for lift in (0.0, WILD):
        site.publish(lift)
        site.puller.look()
    site.ticks(3)
    site.puller.look()
    site.registry.promote("forecaster", "2", "champion")
    for _ in range(3):
        site.puller.look()
    assert (site.champion(), site.served()) == ("2", "2")


def test_the_first_model_of_all_stays_where_it_is_and_the_stand_in_serves(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.publish(WILD)
    site.puller.look()
    with caplog.at_level(logging.WARNING):
        assert site.ticks(4) == STAND_IN
        site.puller.look()
        site.puller.look()
    assert site.champion() == "1"
    assert caplog.text.count("was dropped (3 bad batches in a row") == 1
    assert told_dropped(site.cache, "forecaster", "champion") is None, "there is nothing to try again"


def test_an_alias_that_has_moved_on_is_left_alone(site: Site) -> None:
    for lift in (0.0, WILD):
        site.publish(lift)
        site.puller.look()
    site.ticks(3)
    site.publish(0.1)
    site.puller.look()
    assert (site.champion(), site.served()) == ("3", "3")
    assert told_dropped(site.cache, "forecaster", "champion") is None


def test_two_bad_releases_in_a_row_are_both_taken_back(site: Site) -> None:
    for lift in (0.0, WILD, 2 * WILD):
        site.publish(lift)
    site.puller.look()
    site.ticks(3)
    site.puller.look()
    assert site.served() == "2"
    site.ticks(3)
    site.puller.look()
    assert site.served() == "1"
    assert site.ticks(1).startswith("forecaster@")


def test_a_second_worker_that_drops_it_later_takes_nothing_more_back(site: Site) -> None:
    for lift in (0.0, 0.1, WILD):
        site.publish(lift)
        site.puller.look()
    other = site.staffed()
    site.ticks(3)
    site.puller.look()
    assert site.champion() == "2"
    digest = json.loads((site.cache / "forecaster" / "champion.json").read_text())["sha256"]
    assert other.name == STAND_IN
    tell_dropped(site.cache, "forecaster", "champion", "f" * 64, "late")
    site.puller.look()
    assert site.champion() == "2"
    assert pointed(site.cache, "forecaster", "champion") == ("2", digest)


class Forbidden(DirectoryRegistry):
    """A registry in which this process may only read."""

    def rollback(self, name: str, alias: str) -> tuple[str, str]:
        raise RegistryUnavailable(f"{name}@{alias}: 403", retry_after=5)


def test_without_the_right_to_it_the_pull_goes_on_and_the_word_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    site = Site(tmp_path, "folder")
    site.puller = Puller(site.settings, Forbidden(tmp_path / "registry"))
    for lift in (0.0, WILD):
        site.publish(lift)
        site.puller.look()
    site.ticks(3)
    with caplog.at_level(logging.WARNING):
        site.puller.look()
    assert "is not rolled back yet: forecaster@champion: 403" in caplog.text
    assert site.champion() == "2"
    assert told_dropped(site.cache, "forecaster", "champion") is not None
    site.puller = Puller(site.settings, site.registry)
    site.puller.look()
    assert site.champion() == "1", "once the right is there, it is used"


def test_a_word_that_cannot_be_left_stops_no_forecast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(tmp_path, "folder")
    site.publish(WILD)
    site.puller.look()

    def full(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("forecastle.predict.shelf.tell_dropped", full)
    assert site.ticks(4) == STAND_IN


@pytest.mark.parametrize("text", ["", "{", "[]", '{"sha256": "a"}', "3"])
def test_what_is_no_word_is_ignored(tmp_path: Path, text: str) -> None:
    path = tmp_path / "forecaster" / "champion.dropped.json"
    path.parent.mkdir()
    path.write_text(text, "utf-8")
    assert told_dropped(tmp_path, "forecaster", "champion") is None


def test_the_last_word_counts_and_is_forgotten_once(tmp_path: Path) -> None:
    tell_dropped(tmp_path, "forecaster", "champion", "a", "first")
    tell_dropped(tmp_path, "forecaster", "champion", "b", "second")
    assert told_dropped(tmp_path, "forecaster", "champion") == DroppedModel("b", "second")
    settle_dropped(tmp_path, "forecaster", "champion")
    settle_dropped(tmp_path, "forecaster", "champion")
    assert told_dropped(tmp_path, "forecaster", "champion") is None


def test_a_name_that_is_a_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="cannot name a model"):
        tell_dropped(tmp_path, "../other", "champion", "a", "why")


def test_a_registry_without_the_model_says_so(tmp_path: Path) -> None:
    site = Site(tmp_path, "folder")
    tell_dropped(site.cache, "forecaster", "champion", "a" * 64, "why")
    site.puller.look()
    with pytest.raises(NotFound):
        site.champion()
