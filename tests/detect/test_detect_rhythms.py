from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from detect_worlds import START, STEP, daily, keys, windows

from forecastle.detect.calm import EVERY
from forecastle.detect.columns import columns
from forecastle.detect.engine import Detection
from forecastle.detect.rhythms import rhythm
from forecastle.settings import DetectSettings
from forecastle.types import AnomalyKind

N, DAY = 150, 1440
SLOTS = 2 * DAY
AT = np.arange(SLOTS)


def fired(values, season=DAY, mask=None):
    """Share of the series whose rhythm broke."""
    shown = windows(values.astype(np.float32), mask, names=keys(len(values)))
    every = np.arange(len(values))
    c = columns(shown, every, DetectSettings())
    return rhythm(shown, every, c, every, season).fired.mean()


def wave(position, seed=0):
    """Daily waves of 60 and noise of 3 about ``position`` float[n, SLOTS] in days, phases spread."""
    rng = np.random.default_rng(seed)
    phase = rng.random((N, 1))
    return 100 + 30 * np.sin(2 * np.pi * (position / DAY + phase)) + rng.normal(0, 3, (N, SLOTS))


def began(ago):
    return SLOTS - ago <= AT


def doubled(ago):
    return wave(AT + np.maximum(AT - (SLOTS - ago), 0))


def shifted(ago):
    return wave(AT + 0.4 * DAY * began(ago))


@pytest.mark.parametrize("ago", [660, 720, 780])
@pytest.mark.parametrize("broken", [doubled, shifted])
def test_a_doubled_pace_and_a_shifted_phase_are_broken_rhythms(broken, ago):
    assert fired(broken(ago)) > 0.6


def ordinary():
    rng = np.random.default_rng(1)
    calm, at, size = daily(N, SLOTS, noise=4.0), rng.integers(DAY, SLOTS, (N, 1)), rng.normal(0, 60, (N, 1))
    lasting = (at <= AT) & (at + rng.integers(10, 400, (N, 1)) > AT)
    yield "daily", calm
    yield "noise", rng.normal(0, 1, (N, SLOTS))
    yield "walk", np.cumsum(rng.normal(0, 1, (N, SLOTS)), axis=1)
    yield "trend", calm + np.linspace(0, 1, SLOTS) * rng.normal(0, 200, (N, 1))
    yield "level", calm + size * (at <= AT)
    yield "level of noise", rng.normal(0, 3, (N, SLOTS)) + size * (at <= AT)
    yield "excursion", calm + size * lasting
    yield "leak", calm + np.maximum(AT - at, 0) * rng.normal(0, 0.2, (N, 1))
    yield "weekend", np.where(at <= AT, 100 + 0.2 * (calm - 100), calm)
    yield "nothing", np.where(at <= AT, 0, calm)
    yield "larger", np.where(at <= AT, 100 + 2 * (calm - 100), calm)
    yield "spiky", calm + 80 * (rng.random((N, SLOTS)) < 0.01)
    yield "hourly", 100 + 30 * np.sin(2 * np.pi * AT / 60 + 6 * rng.random((N, 1))) + rng.normal(0, 3, (N, SLOTS))
    yield "summer time", wave(AT + 60 * began(720))
    yield "constant", np.full((N, SLOTS), 5.0)


def test_ordinary_series_and_other_troubles_break_no_rhythm():
    assert {name: fired(values) for name, values in ordinary()} == dict.fromkeys((name for name, _ in ordinary()), 0)


def test_nothing_is_said_of_windows_shorter_than_two_seasons_or_with_holes():
    values = doubled(720)
    assert fired(values) > 0.9
    assert fired(values[:, 1:]) == 0
    assert fired(values, season=0) == 0
    mask = np.ones(values.shape, bool)
    mask[:, -300:-200] = False
    assert fired(values, mask=mask) == 0


def test_it_is_told_at_a_turn_with_what_it_is_and_the_same_by_a_worker_that_starts_over():
    values = np.concatenate([doubled(720)[:4], daily(4, SLOTS)]).astype(np.float32)
    shown = [np.roll(values, 0, axis=1)[:, :SLOTS]] * EVERY

    def told(ticks):
        engine = Detection(DetectSettings(), STEP)
        return {k: engine.detect(windows(shown[k].copy(), names=keys(8), end=START + k * STEP), None) for k in ticks}

    long, late = told(range(EVERY)), told(range(EVERY // 2, EVERY))
    assert late == {k: long[k] for k in late}
    found = [a for of in long.values() for a in of if a.kind is AnomalyKind.SEASONALITY]
    assert sorted(str(a.key) for a in found) == sorted(map(str, keys(8)[:4])), "once for each, at its turn"
    for anomaly in found:
        assert anomaly.evidence["families"] == ["rhythm"]
        assert abs(anomaly.evidence["actual"] - anomaly.evidence["expected"]) > 40
        assert anomaly.evidence["duration_s"] == 600 * 60
