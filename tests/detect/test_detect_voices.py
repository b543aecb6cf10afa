"""How the learned model is heard: plainly, smoothed, or not at all, as its manifest says for each metric."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from detect_worlds import START, STEP, daily, keys, windows

from forecastle.detect.engine import RING, Detection
from forecastle.detect.selector import Choice, Pair, told
from forecastle.detect.voices import HALF_LIFE, PLAIN, SILENT, SPAN, VOICES, Voices, trailing
from forecastle.errors import ConfigError, ModelRefused
from forecastle.ports import Artifact
from forecastle.settings import DetectSettings

HELD, MEAN = VOICES[1], VOICES[2]


def artifact(choices: object) -> Artifact:
    return Artifact("detector", "1", Path("model.onnx"), "0" * 64, {} if choices is None else {"choices": choices})


# --- smoothing ------------------------------------------------------------------------------------------------------


def test_smoothing_matches_its_definition() -> None:
    scores = np.abs(np.random.default_rng(0).normal(size=(3, 50))).astype(np.float32)
    weight = 0.5 ** (np.arange(SPAN)[::-1] / HALF_LIFE)
    last = scores[:, -SPAN:]
    assert trailing(scores, "held 5")[:, -1] == pytest.approx((last * weight).max(axis=1), rel=1e-5)
    assert trailing(scores, "mean 5")[:, -1] == pytest.approx((last * weight).sum(axis=1) / weight.sum(), rel=1e-5)
    assert np.array_equal(trailing(scores, "none"), scores[:, SPAN - 1 :])


@pytest.mark.parametrize("smoothing", ["none", "held 5", "mean 5"])
def test_smoothing_is_causal_and_unknown_stays_unknown(smoothing: str) -> None:
    scores = np.abs(np.random.default_rng(1).normal(size=(2, 60))).astype(np.float32)
    scores[0, 30], scores[1, :] = np.nan, np.nan
    whole = trailing(scores, smoothing)
    assert whole.shape == (2, 60 - SPAN + 1)
    assert np.isnan(whole[0, 30 - SPAN + 1])
    assert np.isfinite(np.delete(whole[0], 30 - SPAN + 1)).all()
    assert np.isnan(whole[1]).all()
    assert np.array_equal(whole[:, :10], trailing(scores[:, : SPAN + 9], smoothing), equal_nan=True)


# --- the voices -----------------------------------------------------------------------------------------------------


def test_the_manifest_names_the_voice_of_each_metric() -> None:
    choices = {"m0": Choice(HELD, "it won"), "m1": Choice(None, "stays"), "m*": Choice(SILENT, "it lost")}
    voices = Voices.of(artifact(told(choices)))
    assert [voices.heard_as(key) for key in keys(4, metrics=4)] == [
        (HELD, "it won"),
        (PLAIN, "stays"),
        (SILENT, "it lost"),
        (SILENT, "it lost"),
    ]
    assert Voices.of(artifact(None)).heard_as(keys(1)[0]) == (PLAIN, "")


def test_a_voice_that_no_model_has_is_refused() -> None:
    with pytest.raises(ModelRefused, match="choices name shape, none"):
        Voices.of(artifact(told({"*": Choice(Pair("shape", "none"), "")})))
    with pytest.raises(ConfigError, match=r"model\.onnx"):
        Voices.of(artifact({"*": 3}))


def test_rows_are_smoothed_silenced_or_left_alone() -> None:
    names = keys(4, sites=1, metrics=4)
    voices = Voices({"m1": Choice(HELD, "a"), "m2": Choice(SILENT, "b"), "m3": Choice(MEAN, "c")})
    past = np.abs(np.random.default_rng(2).normal(size=(4, RING - 1))).astype(np.float32)
    score = np.array([1.0, 2.0, 3.0, 4.0], np.float32)
    before = past.copy()
    spoken_past, spoken = voices.speak(names, past, score)
    assert np.array_equal(past, before), "the ring keeps what the model said"
    assert (spoken[0], spoken[2]) == (1.0, 0.0)
    whole = np.column_stack([past, score])
    for row, pair in ((1, HELD), (3, MEAN)):
        smoothed = trailing(whole[row : row + 1], pair.smoothing)[0]
        assert spoken[row] == smoothed[-1]
        assert np.array_equal(spoken_past[row, SPAN - 1 :], smoothed[:-1])
        assert np.isnan(spoken_past[row, : SPAN - 1]).all()
    assert np.array_equal(spoken_past[0], past[0])


def test_without_choices_nothing_is_touched() -> None:
    past, score = np.zeros((2, RING - 1), np.float32), np.ones(2, np.float32)
    spoken = Voices({}).speak(keys(2), past, score)
    assert spoken[0] is past
    assert spoken[1] is score


# --- in the engine --------------------------------------------------------------------------------------------------


class Told:
    """A model whose score of every tick is given: small, but at ``loud`` ticks."""

    name = "told"

    def __init__(self, loud: dict[int, float]) -> None:
        self.loud, self.tick = loud, 0

    def score(self, shown):
        self.tick += 1
        noise = np.random.default_rng(self.tick).random(len(shown)).astype(np.float32)
        return noise + np.float32(self.loud.get(self.tick, 0.0)), np.full(len(shown), np.nan, np.float32)


def played(choices: dict[str, Choice], loud: dict[int, float], ticks: int = 60, first: int = 1) -> list[list]:
    """Anomalies of each tick on calm data; the model speaks as ``loud`` tells."""
    scorer = Told(loud)
    scorer.tick = first - 1
    detection = Detection(DetectSettings(look_back=240, warmup=30), STEP, scorer)
    detection.voices = Voices(choices)
    calm = daily(2, 240 + ticks)
    return [
        list(detection.detect(windows(calm[:, tick : 240 + tick], end=START + tick * STEP), None))
        for tick in range(first, ticks)
    ]


def by_model(anomalies: list[list]) -> list[int]:
    return [tick for tick, found in enumerate(anomalies, 1) if any("model" in a.evidence["families"] for a in found)]


def test_a_silent_model_is_not_heard_and_a_plain_one_is() -> None:
    loud = {50: 30.0}
    assert by_model(played({}, loud)) == [50]
    assert by_model(played({"*": Choice(None, "stays")}, loud)) == [50]
    assert by_model(played({"*": Choice(SILENT, "it lost")}, loud)) == []


def test_held_alarms_last_and_evidence_says_who_spoke_and_why() -> None:
    anomalies = played({"*": Choice(HELD, "it won")}, {50: 200.0})
    heard = by_model(anomalies)
    assert heard[:2] == [50, 51]
    evidence = anomalies[49][0].evidence
    assert (evidence["spoke"], evidence["why"]) == ("model, held 5", "it won")
    assert "spoke" not in played({}, {50: 200.0})[49][0].evidence


def test_a_mean_asks_for_more_than_one_loud_tick() -> None:
    mean = {"*": Choice(MEAN, "it won")}
    assert by_model(played(mean, {50: 15.0})) == []
    assert by_model(played(mean, dict.fromkeys(range(48, 56), 15.0)))


def test_where_the_model_is_silent_the_residual_says_that_it_speaks_instead() -> None:
    detection = Detection(DetectSettings(look_back=240, warmup=30), STEP, Told({}))
    detection.voices = Voices({"*": Choice(SILENT, "it lost")})
    broken = daily(2, 240)
    broken[0, -1] += 60.0
    (found,) = detection.detect(windows(broken), None)
    assert "residual" in found.evidence["families"]
    assert (found.evidence["spoke"], found.evidence["why"]) == ("residual, none", "it lost")


def test_a_replay_of_the_ring_repeats_the_verdict() -> None:
    loud = {RING + 5: 40.0, RING + 6: 40.0}
    choices = {"*": Choice(HELD, "it won")}
    whole, again = played(choices, loud, RING + 12), played(choices, loud, RING + 12, first=8)
    assert whole[-5:] == again[-5:]
    assert any(whole[-8:])
