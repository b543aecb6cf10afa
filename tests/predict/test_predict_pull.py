"""Models reach the disk that serves them; the pointer never moves to one that may not serve."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tiny_models

from forecastle.errors import ConfigError, ModelRefused, RegistryUnavailable
from forecastle.ports import Artifact
from forecastle.predict.artifacts import cached, point, pointed
from forecastle.predict.pull import Puller, pull_once, watch
from forecastle.predict.registry import DirectoryRegistry
from forecastle.settings import Settings


class House:
    """A registry of tiny models and the settings that pull from it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.registry = DirectoryRegistry(folder / "registry")
        predict = {"registry": str(folder / "registry"), "cache": str(folder / "cache"), "poll_s": 0.01}
        self.settings = Settings.model_validate({"predict": predict})
        self.cache = folder / "cache"

    def publish(self, kind: str, *, promoted: bool = True, manifest: dict[str, Any] | None = None, **options: Any) -> str:
        """A new version of the forecaster or the detector, at once the champion."""
        path = self.folder / "new.onnx"
        made = getattr(tiny_models, kind)(path, **options)
        version = self.registry.publish(kind, path, {**made, **(manifest or {})}, {})
        if promoted:
            self.registry.promote(kind, version, "champion")
        return version

    def pointer(self, name: str) -> str | None:
        """Version that serves."""
        found = pointed(self.cache, name, "champion")
        return found[0] if found else None


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def until(call: Callable[[], object]) -> None:
    ends = time.monotonic() + 30
    while not call():
        assert time.monotonic() < ends, "waited 30 s"
        time.sleep(0.01)


@contextmanager
def watching(settings: Settings, registry: Any = None) -> Iterator[list[Puller]]:
    stop, ended = threading.Event(), []
    thread = threading.Thread(target=lambda: ended.append(watch(settings, stop, registry)))
    thread.start()
    try:
        yield ended
    finally:
        stop.set()
        thread.join(30)
    assert ended, "the watch ended by itself or with an error"


def test_both_models_of_the_settings_are_pulled(house: House) -> None:
    house.publish("forecaster")
    house.publish("forecaster", lift=0.5)
    house.publish("detector")
    assert pull_once(house.settings) == {"forecaster": "2", "detector": "1"}
    version, digest = pointed(house.cache, "forecaster", "champion") or ("", "")
    artifact = cached(house.cache, "forecaster", version, digest)
    assert artifact.manifest["kind"] == "forecaster"
    assert json.loads((house.cache / "forecaster" / "champion.json").read_text()) == {"version": "2", "sha256": digest}


def test_a_model_without_a_champion_is_left_out(house: House) -> None:
    house.publish("forecaster", promoted=False)
    house.publish("detector")
    assert pull_once(house.settings) == {"detector": "1"}
    assert house.pointer("forecaster") is None


def test_an_empty_name_is_not_pulled(house: House) -> None:
    house.publish("forecaster")
    house.publish("detector")
    settings = house.settings.model_copy(update={"detect": house.settings.detect.model_copy(update={"model": ""})})
    assert pull_once(settings) == {"forecaster": "1"}


def test_without_a_registry_the_fix_is_named() -> None:
    with pytest.raises(ConfigError, match=r"predict\.registry: is empty; set it"):
        pull_once(Settings())


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"manifest": {"kind": "detector"}}, "kind 'detector'"),
        ({"step_ms": 300_000}, "step_ms 300000"),
        ({"horizon": 3}, "horizon 3"),
        ({"manifest": {"horizon": 31}}, "31"),
        ({"lift": float("nan")}, "finite"),
    ],
)
def test_a_forecaster_that_may_not_serve_leaves_the_last_good_one(house: House, wrong: dict[str, Any], says: str) -> None:
    house.publish("forecaster")
    house.publish("detector")
    pull_once(house.settings)
    house.publish("forecaster", **{"lift": 0.1, **wrong})
    house.publish("detector", gain=2.0)
    with pytest.raises(ModelRefused, match=says):
        pull_once(house.settings)
    assert house.pointer("forecaster") == "1"
    assert house.pointer("detector") == "2", "one model's refusal holds up no other"


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08"])
def test_a_file_that_is_no_model_is_refused(house: House, content: bytes) -> None:
    for name in ("forecaster", "detector"):
        manifest = getattr(tiny_models, name)(house.folder / "good.onnx")
        (house.folder / "bad.onnx").write_bytes(content)
        house.registry.promote(name, house.registry.publish(name, house.folder / "bad.onnx", manifest, {}), "champion")
    puller = Puller(house.settings, house.registry)
    puller.look()
    assert "forecaster" in puller.refused
    assert house.pointer("forecaster") is None


def test_a_detector_must_be_one(house: House) -> None:
    house.publish("detector")
    pull_once(house.settings)
    house.publish("detector", gain=2.0, manifest={"kind": "forecaster"})
    with pytest.raises(ModelRefused, match=r"detect\.model"):
        pull_once(house.settings)
    assert house.pointer("detector") == "1"


def test_a_changed_file_is_refused_and_the_last_good_model_stays(house: House) -> None:
    house.publish("detector")
    pull_once(house.settings)
    house.publish("detector", gain=2.0)
    stored = house.folder / "registry" / "detector" / "versions" / "2" / "model.onnx"
    stored.write_bytes(stored.read_bytes() + b"x")
    with pytest.raises(ModelRefused, match="digest"):
        pull_once(house.settings)
    assert house.pointer("detector") == "1"


def test_rolling_back_moves_the_pointer_back(house: House) -> None:
    house.publish("detector")
    house.publish("detector", gain=2.0)
    puller = Puller(house.settings, house.registry)
    puller.look()
    assert house.pointer("detector") == "2"
    house.registry.promote("detector", "1", "champion")
    puller.look()
    assert house.pointer("detector") == "1"


def test_another_registry_with_the_same_numbers_is_not_mistaken(house: House) -> None:
    house.publish("detector")
    pull_once(house.settings)
    before = pointed(house.cache, "detector", "champion")
    other = House(house.folder / "other")
    other.publish("detector", gain=3.0)
    pull_once(house.settings, other.registry)
    after = pointed(house.cache, "detector", "champion")
    assert before is not None
    assert after is not None
    assert (before[0], after[0]) == ("1", "1")
    assert before[1] != after[1]


def test_a_torn_pointer_is_written_anew(house: House) -> None:
    house.publish("detector")
    pull_once(house.settings)
    (house.cache / "detector" / "champion.json").write_text('{"version": "1", "sha2')
    with pytest.raises(ModelRefused, match="pull again"):
        house.pointer("detector")
    assert pull_once(house.settings) == {"detector": "1"}
    assert house.pointer("detector") == "1"


@pytest.mark.parametrize("text", ["[]", '{"version": "1"}', '{"version": "1", "sha256": "../../etc"}', "null"])
def test_a_pointer_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "champion.json").write_text(text)
    with pytest.raises(ModelRefused, match="pull again"):
        pointed(tmp_path, "m", "champion")


def test_a_cached_file_that_was_changed_is_refused(house: House) -> None:
    house.publish("detector")
    pull_once(house.settings)
    version, digest = pointed(house.cache, "detector", "champion") or ("", "")
    path = house.cache / "detector" / digest / "model.onnx"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ModelRefused, match="not what its name says"):
        cached(house.cache, "detector", version, digest)
    assert pull_once(house.settings) == {"detector": "1"}, "pulling repairs it"
    assert cached(house.cache, "detector", version, digest).path == path
    with pytest.raises(ModelRefused, match="cannot be read"):
        cached(house.cache, "detector", version, "0" * 64)


def test_the_watch_follows_refuses_once_and_goes_on(house: House, caplog: pytest.LogCaptureFixture) -> None:
    house.publish("detector")
    with watching(house.settings) as ended:
        until(lambda: house.pointer("detector") == "1")
        house.publish("detector", gain=2.0, manifest={"kind": "poem"})
        until(lambda: "poem" in caplog.text)
        house.publish("detector", gain=3.0)
        until(lambda: house.pointer("detector") == "3")
    assert caplog.text.count("poem") == 1, "a refused version is not tried at every look"
    assert ended[0].served == {"detector": "3"}
    assert not ended[0].refused


class Outage:
    """A registry that is away for the first looks."""

    def __init__(self, inner: DirectoryRegistry, looks: int) -> None:
        self.inner, self.looks = inner, looks
        self.promote, self.versions = inner.promote, inner.versions

    def resolve(self, name: str, alias: str) -> str:
        self.looks -= 1
        if self.looks >= 0:
            raise RegistryUnavailable("away")
        return self.inner.resolve(name, alias)

    def pull(self, name: str, version: str, into: Path) -> Artifact:
        return self.inner.pull(name, version, into)


def test_the_watch_outlives_an_outage(house: House, caplog: pytest.LogCaptureFixture) -> None:
    house.publish("detector")
    with watching(house.settings, Outage(house.registry, 3)):
        until(lambda: house.pointer("detector") == "1")
    assert caplog.text.count("serving the last good models: away") == 3
    with pytest.raises(RegistryUnavailable):
        pull_once(house.settings, Outage(house.registry, 1))


def test_the_pointer_is_whole_at_every_moment(house: House, tmp_path: Path) -> None:
    house.publish("detector")
    artifact = house.registry.pull("detector", "1", house.cache)
    stop, bad = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            try:
                pointed(house.cache, "detector", "champion")
            except ModelRefused as error:
                bad.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(100):
        point(house.cache, "detector", "champion", artifact)
    stop.set()
    reader.join(10)
    assert bad == []
    assert [p.name for p in (house.cache / "detector").glob("*.json")] == ["champion.json"], "no staged file is left"


def command(house: House, *arguments: str) -> list[str]:
    settings = [f"predict.registry={house.folder / 'registry'}", f"predict.cache={house.cache}", "predict.poll_s=0.05"]
    flags = [part for one in settings for part in ("--set", one)]
    return [sys.executable, "-m", "forecastle.runtime.pull", *flags, *arguments]


def test_the_command_prints_what_serves(house: House) -> None:
    house.publish("detector")
    done = subprocess.run(command(house), capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "detector 1\n"), done.stderr


def test_the_command_names_what_is_wrong(house: House) -> None:
    house.publish("detector", manifest={"kind": "poem"})
    done = subprocess.run(command(house), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("ModelRefused:")
    empty = subprocess.run(
        command(house, "--set", "predict.registry="), capture_output=True, text=True, timeout=60, check=False
    )
    assert (empty.returncode, empty.stdout) == (2, "")
    assert "predict.registry: is empty" in empty.stderr


def test_a_signal_ends_the_watch(house: House) -> None:
    house.publish("detector")
    child = subprocess.Popen(command(house, "--watch"), stderr=subprocess.PIPE, text=True)
    try:
        until(lambda: house.pointer("detector") == "1")
        house.publish("detector", gain=2.0)
        until(lambda: house.pointer("detector") == "2")
        child.send_signal(signal.SIGTERM)
        _, told = child.communicate(timeout=30)
    finally:
        child.kill()
        child.wait()
    assert child.returncode == 0
    assert "detector@champion: 1 -> 2" in told


def test_the_module_without_settings_names_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "forecastle.predict.pull"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "forecastle.runtime.pull" in done.stderr
