"""The conformance suite of detectors: the built-in one passes, and each way of being broken is named by its own check."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from detect_worlds import STEP, daily, keys, windows

from forecastle.detect.engine import Detection
from forecastle.settings import DetectSettings
from forecastle.testing import check_detector as suite
from forecastle.testing.check_detector import CHECKS, Make, check_detector, example
from forecastle.types import Anomaly, AnomalyKind, Floats32, Forecasts, Windows

LOOK_BACK = 128


class Plain:
    """The smallest detector that passes: the newest slot against the median and spread of its own past."""

    name = "plain"
    look_back = LOOK_BACK

    def detect(self, w: Windows, forecasts: Forecasts | None) -> tuple[Anomaly, ...]:
        if w.values.shape != w.mask.shape or w.values.shape[:1] != (len(w.keys),) or len(w.late) != len(w.keys):
            raise ValueError("windows do not fit")
        return tuple(a for i in range(len(w)) if (a := self.judge(w, i)) is not None)

    def judge(self, w: Windows, i: int) -> Anomaly | None:
        past = self.past(w, i)
        if not w.mask[i, -1] or len(past) < 20 or np.ptp(past) == 0:
            return None
        middle, spread = float(np.median(past)), float(np.ptp(past))
        score = abs(float(w.values[i, -1]) - middle) / spread
        kind = AnomalyKind.SPIKE if w.values[i, -1] > middle else AnomalyKind.DIP
        return Anomaly(w.keys[i], w.end, score, 2.0, kind, {"expected": middle}) if score > 2.0 else None

    def past(self, w: Windows, i: int) -> Floats32:
        return w.values[i, :-1][w.mask[i, :-1]]


class Silent(Plain):
    def judge(self, w: Windows, i: int) -> Anomaly | None:
        return None


class Upside(Plain):
    def judge(self, w: Windows, i: int) -> Anomaly | None:
        found = super().judge(w, i)
        return replace(found, kind=AnomalyKind.DIP) if found else None


class Nervous(Plain):
    """Calls a constant anomalous."""

    def judge(self, w: Windows, i: int) -> Anomaly | None:
        still = len(w.values[i]) and np.ptp(w.values[i]) == 0
        return Anomaly(w.keys[i], w.end, 1.0, 0.5, AnomalyKind.FLAT_LINE) if still else super().judge(w, i)


class Hasty(Plain):
    """Takes a gap for a fall to nothing."""

    def detect(self, w: Windows, forecasts: Forecasts | None) -> tuple[Anomaly, ...]:
        zeroed = np.where(w.mask, w.values, np.float32(0))
        filled = super().detect(replace(w, values=zeroed, mask=w.mask | w.mask.any(axis=1, keepdims=True)), forecasts)
        return tuple(filled)

    def past(self, w: Windows, i: int) -> Floats32:
        return w.values[i, :-1][w.values[i, :-1] > 0]


class Peeping(Plain):
    """Reads what lies under a gap."""

    def past(self, w: Windows, i: int) -> Floats32:
        return np.nan_to_num(w.values[i, :-1], nan=100.0)


class Prophet(Plain):
    """Reads the memory behind the window: the next slot, where there is one."""

    def judge(self, w: Windows, i: int) -> Anomaly | None:
        base = w.values.base
        found = super().judge(w, i)
        if found is None or not isinstance(base, np.ndarray) or base.shape[0] != len(w):
            return found
        return replace(found, evidence={"expected": float(np.nan_to_num(base[i, -1]))})

    def past(self, w: Windows, i: int) -> Floats32:
        return super().past(w, i) / np.float32(40)


class Crowd(Plain):
    """Compares a series with whichever came before it."""

    def judge(self, w: Windows, i: int) -> Anomaly | None:
        found = super().judge(w, i)
        return replace(found, score=found.score + i) if found else None


class Moody(Plain):
    """No two runs agree."""

    runs = 0

    def __init__(self) -> None:
        Moody.runs += 1

    def judge(self, w: Windows, i: int) -> Anomaly | None:
        found = super().judge(w, i)
        return replace(found, score=found.score + Moody.runs) if found else None


class Scribbler(Plain):
    def detect(self, w: Windows, forecasts: Forecasts | None) -> tuple[Anomaly, ...]:
        found = super().detect(w, forecasts)
        w.values[:, 0] = -1
        return found


class Inventor(Plain):
    """Speaks although nothing was asked."""

    def detect(self, w: Windows, forecasts: Forecasts | None) -> tuple[Anomaly, ...]:
        made = Anomaly(keys(1)[0], w.end, 2.0, 1.0, AnomalyKind.SPIKE)
        return super().detect(w, forecasts) if len(w) else (made,)


class Careless(Plain):
    """Answers about whatever fits."""

    def detect(self, w: Windows, forecasts: Forecasts | None) -> tuple[Anomaly, ...]:
        n = min(len(w.keys), len(w.values), len(w.mask))
        if w.values.ndim != 2 or w.values.shape[1] != w.mask.shape[1]:
            raise ValueError("windows do not fit")
        return tuple(a for i in range(n) if (a := self.judge(w, i)) is not None)


def changed(**changes: object) -> type[Plain]:
    class Changed(Plain):
        def judge(self, w: Windows, i: int) -> Anomaly | None:
            found = super().judge(w, i)
            return replace(found, **changes) if found else None

    return Changed


@pytest.mark.parametrize("look_back", [240, 720])
def test_the_built_in_detectors_pass(look_back: int) -> None:
    check_detector(lambda: Detection(DetectSettings(look_back=look_back), suite.STEP_MS))


def test_so_does_the_smallest_one() -> None:
    check_detector(Plain)


def test_every_promise_is_checked() -> None:
    named = {value for name, value in vars(suite).items() if name.startswith("check_") and name != "check_detector"}
    assert set(CHECKS) == named


BROKEN: list[tuple[type[Plain], str]] = [
    (Silent, "finds: silent"),
    (Upside, "finds: a rise"),
    (Nervous, "constant: a series that never moved"),
    (Hasty, "gap: a gap is called"),
    (Peeping, "mask: unobserved"),
    (Prophet, "causal: another future"),
    (Crowd, "order: the order"),
    (Moody, "repeatable: the same ticks"),
    (Scribbler, "untouched: the windows"),
    (Inventor, "empty: anomalies"),
    (Careless, "shapes: "),
    (changed(key=keys(1)[0]), "answers: .* is no series"),
    (changed(at=suite.END + 1), "answers: .* the windows end"),
    (changed(score=1.0), "answers: .* below its threshold"),
    (changed(score=float("nan")), "answers: .* no finite score"),
    (changed(threshold=float("-inf")), "answers: .* no finite score"),
]


@pytest.mark.parametrize(("broken", "why"), BROKEN, ids=[f"{kind.__name__}-{why[:8]}" for kind, why in BROKEN])
def test_a_broken_one_is_named(broken: type[Plain], why: str) -> None:
    check: Callable[[Make, Windows], None] = getattr(suite, f"check_{why.partition(':')[0]}")
    with pytest.raises(AssertionError, match=why):
        check(broken, example(LOOK_BACK))
    with pytest.raises((AssertionError, ValueError)):
        check_detector(broken)


@pytest.mark.parametrize("evidence", [{"at": {1, 2}}, {"expected": float("nan")}])
def test_evidence_has_to_travel(evidence: dict[str, object]) -> None:
    with pytest.raises((TypeError, ValueError)):
        suite.check_answers(changed(evidence=evidence), example(LOOK_BACK))


def test_the_example_is_what_it_says() -> None:
    w = example(LOOK_BACK)
    assert w.values.shape == (10, LOOK_BACK + suite.TICKS)
    assert w.values[0, -1] > w.values[0, :-1][w.mask[0, :-1]].max() + 200
    assert np.ptp(w.values[1]) == 0
    assert not w.mask[2].any()
    assert 0.9 < w.mask[3:].mean() < 1
    assert np.isnan(w.values[~w.mask]).all()
    assert np.array_equal(example(LOOK_BACK).values, w.values, equal_nan=True)


# --- what the built-in detectors say to arrays that do not fit ---


@pytest.mark.parametrize(
    "change",
    [
        lambda w: {"mask": w.mask[:, :-1]},
        lambda w: {"mask": w.mask[:-1]},
        lambda w: {"keys": w.keys[:-1]},
        lambda w: {"keys": (*w.keys, *w.keys)},
        lambda w: {"values": w.values.T, "mask": w.mask.T},
        lambda w: {"values": w.values.ravel(), "mask": w.mask.ravel()},
        lambda w: {"late": w.late[:-1]},
        lambda w: {"keys": ()},
    ],
)
def test_misfits_are_refused_with_what_to_give(change) -> None:
    fine = windows(daily(8, 200), names=keys(8))
    with pytest.raises(ValueError, match="give values and mask of one shape"):
        Detection(DetectSettings(), STEP).detect(replace(fine, **change(fine)), None)
