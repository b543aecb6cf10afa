from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from detect_worlds import START, STEP, daily, keys, windows

from forecastle.detect.calm import EVERY, Norms
from forecastle.detect.engine import Detection
from forecastle.settings import DetectSettings
from forecastle.types import AnomalyKind

N, SLOTS, TICKS = 20, 2200, 130
TROUBLES = {
    "spike": {AnomalyKind.SPIKE},
    "dip": {AnomalyKind.DIP},
    "excursion": {AnomalyKind.SPIKE},
    "level": {AnomalyKind.LEVEL_SHIFT},
    "leak": {AnomalyKind.TREND},
    "ramp": {AnomalyKind.TREND},
    "noise": {AnomalyKind.VARIANCE},
    "flat": {AnomalyKind.FLAT_LINE},
    "silence": {AnomalyKind.DROPOUT},
    "loss": {AnomalyKind.DIP},
}


class Everybody(Detection):
    """Judges every series at every tick."""

    def _near(self, windows, rows, lenience):
        return np.ones(len(rows), bool)


class Counting(Detection):
    """Counts whom it judges."""

    asked = 0

    def _judge(self, windows, part, *rest):
        self.asked += len(part)
        return super()._judge(windows, part, *rest)


def world(seed):
    """A fleet whose first rows each meet one of `TROUBLES` within the last `TICKS` slots."""
    rng = np.random.default_rng(seed)
    values = daily(N, SLOTS + TICKS, seed=seed, noise=2.0)
    mask = rng.random(values.shape) > 0.004
    at = dict(zip(TROUBLES, SLOTS + 40 + rng.integers(0, 30, len(TROUBLES)), strict=True))
    row = {name: values[i] for i, name in enumerate(TROUBLES)}
    row["spike"][at["spike"]] += 60
    row["dip"][at["dip"]] -= 60
    row["excursion"][at["excursion"] : at["excursion"] + 25] += 60
    row["level"][at["level"] :] += 50
    row["leak"] += 0.24 * np.maximum(np.arange(SLOTS + TICKS) - at["leak"] + 500, 0)
    row["ramp"] += 2.2 * np.clip(np.arange(SLOTS + TICKS) - at["ramp"], 0, 40)
    row["noise"][at["noise"] :] += rng.normal(0, 14, SLOTS + TICKS - at["noise"])
    row["flat"][at["flat"] :] = row["flat"][at["flat"]]
    row["loss"][at["loss"] :] = 0
    mask[:, SLOTS + 40 :][:, :30] = True
    mask[list(TROUBLES).index("silence"), at["silence"] :] = False
    return values, mask


def played(detection, values, mask, ticks=range(TICKS)):
    """Anomalies by tick."""
    out = {}
    for k in ticks:
        then = slice(k, k + SLOTS)
        shown = windows(values[:, then].copy(), mask[:, then].copy(), names=keys(N), end=START + k * STEP)
        out[k] = detection.detect(shown, None)
    return out


@pytest.mark.parametrize("seed", [0, 1])
def test_nobody_who_would_alarm_is_passed_over(seed):
    values, mask = world(seed)
    some, every = Counting(DetectSettings(), STEP), Everybody(DetectSettings(), STEP)
    found, wanted = played(some, values, mask), played(every, values, mask)
    assert found == wanted
    assert some.asked < 0.5 * N * TICKS
    kinds = [{a.kind for of in wanted.values() for a in of if a.key == key} for key in keys(N)]
    missed = [name for kind, (name, kinds_of) in zip(kinds, TROUBLES.items(), strict=False) if not kind & kinds_of]
    assert len(missed) <= 3, f"the world must trouble somebody: no {missed}"


def test_an_ordinary_fleet_is_seldom_judged():
    values = daily(N, SLOTS + TICKS, noise=3.0)
    engine = Counting(DetectSettings(), STEP)
    played(engine, values, np.ones(values.shape, bool))
    turns = N * (1 + TICKS / EVERY)
    assert turns * 0.9 < engine.asked < turns * 2


def test_a_worker_that_starts_over_passes_over_the_same_series():
    values, mask = world(3)
    last = TICKS - 1
    engine, fresh = Counting(DetectSettings(), STEP), Counting(DetectSettings(), STEP)
    long = played(engine, values, mask)
    short = played(fresh, values, mask, range(last - 2 * EVERY, TICKS))
    assert {k: short[k] for k in range(last - EVERY, TICKS)} == {k: long[k] for k in range(last - EVERY, TICKS)}
    assert (engine._norms._kept == fresh._norms._kept)[np.isfinite(engine._norms._kept)].all()
    assert engine._norms._at.tolist() == fresh._norms._at.tolist()


def test_norms_follow_their_series():
    norms, names = Norms(), keys(4)
    assert norms.due(names, 1000).all()
    kept = np.arange(4 * norms._kept.shape[1], dtype=np.float32).reshape(4, -1)
    norms.keep(np.arange(4), 1000, kept, np.ones(4, bool))
    others = (names[2], keys(5)[4], names[0])
    due = norms.due(others, 1001)
    assert due[1], "a series that is new"
    assert norms._kept[[0, 2]].tolist() == kept[[2, 0]].tolist()
    assert norms.due(others, 1000).all(), "norms of the future"
    assert norms.due(others, 1000 + EVERY).all(), "norms too old"


def test_a_sample_that_was_missing_at_a_turn_puts_it_off_by_a_tick():
    values = daily(N, SLOTS + 12, noise=3.0)
    mask = np.ones(values.shape, bool)
    mask[:, SLOTS - 1] = False
    engine = Counting(DetectSettings(), STEP)
    played(engine, values, mask, range(2))
    assert engine.asked == 2 * N
    played(engine, values, mask, range(2, 12))
    assert engine.asked < 3 * N


def test_turns_are_spread_over_the_ticks():
    norms, names = Norms(), keys(3000)
    norms.due(names, 0)
    norms.keep(np.arange(3000), 0, norms._kept, np.ones(3000, bool))
    due = [int(norms.due(names, k).sum()) for k in range(1, EVERY)]
    assert max(due) < 3 * 3000 / EVERY
    assert sum(due) > 3000 * 0.9


def test_words_of_people_make_the_look_sharper():
    values = daily(N, SLOTS + 6, noise=1.0)
    mask = np.ones(values.shape, bool)
    engine = Counting(DetectSettings(), STEP)
    played(engine, values, mask, range(5))
    kept = engine._norms
    limit = float(kept._kept[3, 2] * kept._kept[3, 1])
    values[3, SLOTS + 4] += 0.75 * limit
    shown = windows(values[:, 5 : 5 + SLOTS].copy(), names=keys(N), end=START + 5 * STEP)
    plain, strict = (kept.near(shown, np.arange(N), np.full(N, f, np.float32)) for f in (1.2, 0.7))
    assert not plain[3]
    assert strict[3]


@pytest.mark.parametrize(("look_back", "slots"), [(720, 300), (720, 40), (60, 60), (60, 400), (12, 12), (12, 400)])
def test_what_is_too_short_for_a_look_is_judged(look_back, slots):
    values = daily(N, slots + 70)
    engine = Counting(DetectSettings(look_back=look_back, warmup=min(10, look_back)), STEP)
    for k in range(70):
        engine.detect(windows(values[:, k : k + slots].copy(), end=START + k * STEP, names=keys(N)), None)
    assert engine.asked == 70 * N
