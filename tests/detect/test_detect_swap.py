"""The learned detector follows its pointer between ticks, and whatever it is or does, detection goes on."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "predict"))
import tiny_models
from detect_worlds import START, STEP, daily, windows

from forecastle.detect.engine import Detection
from forecastle.detect.selector import Choice, Pair, told
from forecastle.detect.swap import SwappingDetection
from forecastle.detect.trial import attempt
from forecastle.errors import ModelRefused
from forecastle.predict.artifacts import cached, point, pointed
from forecastle.predict.registry import DirectoryRegistry
from forecastle.runtime.wiring import detection
from forecastle.settings import DetectSettings, Settings


class Rig:
    """A registry, a cache and a detection that looks whenever ``now`` has moved by 30 s."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.cache, self.now = folder, folder / "cache", 0.0
        self.registry = DirectoryRegistry(folder / "registry")
        self.looks = 0
        settings = DetectSettings(look_back=240, warmup=30)
        self.detection = SwappingDetection(settings, STEP, self._pointed, self._fetch, poll_s=30, clock=lambda: self.now)
        self.tick = 0

    def _pointed(self) -> tuple[str, str] | None:
        self.looks += 1
        return pointed(self.cache, "detector", "champion")

    def _fetch(self, version: str, digest: str) -> Any:
        return cached(self.cache, "detector", version, digest)

    def serve(self, *, manifest: dict[str, Any] | None = None, **options: Any) -> str:
        """Point the cache at a new model; returns the name it would have."""
        path = self.folder / "new.onnx"
        made = tiny_models.detector(path, **options)
        version = self.registry.publish("detector", path, {**made, **(manifest or {})}, {})
        artifact = self.registry.pull("detector", version, self.cache)
        point(self.cache, "detector", "champion", artifact)
        return f"detector@{artifact.sha256[:12]}"

    def turn(self, *, later: float = 30.0, values: np.ndarray | None = None) -> tuple:
        """One tick ``later`` seconds on."""
        self.now += later
        self.tick += 1
        shown = daily(4, 240, seed=self.tick) if values is None else values
        return self.detection.detect(windows(shown, end=START + self.tick * STEP), None)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def test_without_a_pointer_the_built_in_detectors_work_alone(rig: Rig) -> None:
    calm = daily(4, 240)
    broken = calm.copy()
    broken[1, -1] = 0.0
    alone = Detection(rig.detection.settings, STEP).detect(windows(broken), None)
    rig.now += 30
    assert rig.detection.detect(windows(broken), None) == alone
    assert [a.key.workload for a in alone] == ["w0"]
    assert rig.detection.name == "built-in"


def test_a_model_is_taken_up_and_exchanged_between_ticks(rig: Rig) -> None:
    rig.turn()
    first = rig.serve(gain=1.0)
    rig.turn(later=10)
    assert rig.detection.name == "built-in", "not looked for before poll_s is over"
    rig.turn(later=20)
    assert rig.detection.name == f"built-in+{first}"
    second = rig.serve(gain=2.0)
    rig.turn()
    assert rig.detection.name == f"built-in+{second}" != f"built-in+{first}"
    assert rig.looks == 3


def test_the_model_sees_what_it_is_shown(rig: Rig) -> None:
    rig.serve(gain=5.0)
    values = daily(4, 240, noise=0.5)
    for _ in range(40):
        rig.turn(values=values)
    values = values.copy()
    values[2, -1] += 200
    found = rig.turn(values=values)
    assert ["model" in a.evidence["families"] for a in found if a.key.workload == "w1"] == [True]


def test_thresholds_start_afresh_with_another_model(rig: Rig) -> None:
    rig.serve(gain=1.0)
    values = daily(4, 240, noise=0.5)
    for _ in range(40):
        rig.turn(values=values)
    rig.serve(gain=1000.0)
    shouted = [a for _ in range(10) for a in rig.turn(values=values) if "model" in a.evidence["families"]]
    assert shouted == [], "scores a thousand times larger are not judged by the old model's tail"


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"manifest": {"channels": "many"}}, "manifest lacks"),
        ({"manifest": {"look_back": 9}}, "trial run"),
        ({"gain": float("nan")}, "no finite answer"),
    ],
)
def test_a_model_that_may_not_serve_leaves_the_last_good_one(rig: Rig, wrong: dict, says: str) -> None:
    good = rig.serve()
    rig.turn()
    bad = rig.serve(**{"gain": 3.0, **wrong})
    rig.turn()
    rig.turn()
    assert rig.detection.name == f"built-in+{good}"
    (digest, why), *others = rig.detection.refused.items()
    assert (others, bad.endswith(digest[:12])) == ([], True)
    assert says in why
    better = rig.serve(gain=4.0)
    rig.turn()
    assert rig.detection.name == f"built-in+{better}"


@pytest.mark.parametrize("size", [2_000_000, 60_000])
def test_a_model_that_takes_the_process_down_takes_only_the_trial_down(rig: Rig, size: int) -> None:
    """Arrays of 14 TB and of 14 GB: more than there is, and more than a trial may have."""
    good = rig.serve()
    rig.turn()
    path = rig.folder / "greedy.onnx"
    artifact = rig.registry.pull(
        "detector", rig.registry.publish("detector", path, tiny_models.greedy_detector(path, size), {}), rig.cache
    )
    point(rig.cache, "detector", "champion", artifact)
    rig.turn()
    assert rig.detection.name == f"built-in+{good}"
    assert "trial run" in rig.detection.refused[artifact.sha256]


def test_a_trial_that_does_not_end_is_ended(rig: Rig) -> None:
    rig.serve()
    version, digest = pointed(rig.cache, "detector", "champion") or ("", "")
    with pytest.raises(ModelRefused, match="more than"):
        attempt(cached(rig.cache, "detector", version, digest), wall_s=0.01)


def test_a_file_that_comes_late_is_taken_when_it_is_there(rig: Rig) -> None:
    good = rig.serve()
    (model,) = rig.cache.rglob("model.onnx")
    hidden = model.rename(model.with_suffix(".away"))
    rig.turn()
    assert rig.detection.name == "built-in"
    hidden.rename(model)
    rig.turn()
    assert rig.detection.name == f"built-in+{good}"


def test_a_torn_or_vanished_pointer_changes_nothing(rig: Rig) -> None:
    good = rig.serve()
    rig.turn()
    pointer = rig.cache / "detector" / "champion.json"
    pointer.write_text("{")
    rig.turn()
    assert rig.detection.name == f"built-in+{good}"
    pointer.unlink()
    rig.turn()
    assert rig.detection.name == f"built-in+{good}"


def test_a_model_that_fails_later_is_dropped_and_the_tick_goes_on(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.serve()
    rig.turn()

    class Failing:
        """A session whose runs fail, as ONNX Runtime's do when memory is short."""

        def run(self, *_: object) -> None:
            raise RuntimeError("bad allocation")

    watched: Any = rig.detection.scorer
    watched._scorer._session = Failing()
    broken = daily(4, 240)
    broken[1, -1] = 0.0
    assert rig.turn(values=broken), "the built-in detectors answer"
    assert rig.detection.name == "built-in"
    assert "bad allocation" in caplog.text
    rig.turn()
    assert rig.detection.name == "built-in", "it is not taken up again"


def test_the_worker_follows_the_cache_of_its_settings(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    good = rig.serve()
    settings = Settings.model_validate({"predict": {"cache": str(rig.cache)}})
    worker = detection(settings, STEP)
    assert worker.detect(windows(daily(2, 300)), None) == ()
    assert worker.name == f"built-in+{good}"
    none = detection(Settings.model_validate({"detect": {"model": ""}, "predict": {"cache": str(rig.cache)}}), STEP)
    none.detect(windows(daily(2, 300)), None)
    assert none.name == "built-in"


def test_the_manifest_s_choices_are_taken_up_with_the_model_and_dropped_with_it(rig: Rig) -> None:
    choice = Choice(Pair("residual", "none"), "it ranks better")
    rig.serve(manifest={"choices": told({"m*": choice})})
    rig.turn()
    assert rig.detection.voices.choices == {"m*": choice}
    rig.serve(gain=2.0)
    rig.turn()
    assert rig.detection.voices.choices == {}


@pytest.mark.parametrize("choices", [{"m*": 3}, told({"m*": Choice(Pair("oracle", "none"), "")})])
def test_choices_that_make_no_sense_are_a_refusal_and_detection_goes_on(rig: Rig, choices: Any) -> None:
    rig.serve(manifest={"choices": choices})
    rig.turn()
    assert rig.detection.name == "built-in"
    assert any("choices" in why for why in rig.detection.refused.values())
