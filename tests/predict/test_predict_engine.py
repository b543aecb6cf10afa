from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from forecastle.errors import ConfigError
from forecastle.predict.engine import STAND_IN, Predictor
from forecastle.predict.naive import QUANTILES, naive
from forecastle.predict.onnx import OnnxForecaster
from forecastle.settings import PredictSettings
from forecastle.testing.check_forecaster import check_forecaster

sys.path.insert(0, str(Path(__file__).parent))
import forecaster_worlds as worlds


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def predictor(cache, clock=None, **changes):
    settings = {"season": 96, "horizon": worlds.HORIZON, "timeout_s": 60.0, "cache": str(cache)} | changes
    return Predictor(PredictSettings(**settings), worlds.STEP, clock=clock or Clock())


def at(tick, values):
    return worlds.windows(values, end=worlds.END + tick * worlds.STEP)


def table(factor):
    return np.tile(worlds.SPREAD * factor, (worlds.HORIZON, 1))


GOOD, OTHER, WILD = worlds.model(), worlds.model(table=table(0.8)), worlds.model(table=table(50))
VALUES = worlds.waves(6)
LARGEST = VALUES[:, -worlds.LOOK_BACK :].max(axis=1)


def stand_in(values, mask=None):
    mask = np.isfinite(values) if mask is None else mask
    return naive(values, mask, season=96, horizon=worlds.HORIZON)


def test_without_a_model_seasonal_naive_serves_and_nothing_is_looked_for(tmp_path):
    serving = predictor(tmp_path / "none", model="")
    answer = serving.forecast(at(0, VALUES))
    assert (answer.model, answer.notes, answer.fallback.all()) == (STAND_IN, (), True)
    assert answer.values == pytest.approx(stand_in(VALUES), rel=1e-6)
    assert (answer.quantiles, answer.issued_at, answer[0].model) == (QUANTILES, worlds.END, STAND_IN)


def test_a_model_serves_under_its_name_and_digest(tmp_path):
    digest = worlds.put(tmp_path, GOOD)
    serving = predictor(tmp_path)
    answer = serving.forecast(at(0, VALUES))
    assert answer.model == serving.name == f"forecaster@{digest[:12]}"
    assert (answer.notes, answer.fallback.any(), serving.look_back) == ((), False, worlds.LOOK_BACK)
    assert answer.values == pytest.approx(LARGEST[:, None, None] * worlds.SPREAD * np.ones((1, worlds.HORIZON, 1)), rel=1e-5)


def test_a_served_model_passes_what_every_forecaster_must(tmp_path):
    worlds.put(tmp_path, GOOD)
    check_forecaster(lambda: predictor(tmp_path))


def test_the_model_is_swapped_when_the_pointer_moves_and_not_before_the_next_look(tmp_path):
    first, clock = worlds.put(tmp_path, GOOD), Clock()
    serving = predictor(tmp_path, clock, poll_s=30)
    serving.forecast(at(0, VALUES))
    second = worlds.put(tmp_path, OTHER, version="2")
    clock.now = 29
    assert first[:12] in serving.forecast(at(1, VALUES)).model
    clock.now = 31
    answer = serving.forecast(at(2, VALUES))
    assert (answer.model, answer.notes) == (f"forecaster@{second[:12]}", ())
    assert answer.values[0, 0, 5] == pytest.approx(0.8 * LARGEST[0])


def test_a_missing_pointer_is_told_and_found_once_it_is_there(tmp_path):
    clock = Clock()
    serving = predictor(tmp_path, clock)
    answer = serving.forecast(at(0, VALUES))
    assert answer.fallback.all()
    assert "python -m forecastle.runtime.pull" in answer.notes[0]
    worlds.put(tmp_path, GOOD)
    clock.now = 31
    assert not serving.forecast(at(1, VALUES)).fallback.any()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": "1"}', '{"version": "1", "sha256": "../../x"}'])
def test_a_broken_pointer_does_not_stop_the_model_that_serves(tmp_path, text):
    digest, clock = worlds.put(tmp_path, GOOD), Clock()
    serving = predictor(tmp_path, clock)
    serving.forecast(at(0, VALUES))
    (tmp_path / "forecaster" / "champion.json").write_text(text)
    clock.now = 31
    answer = serving.forecast(at(1, VALUES))
    assert digest[:12] in answer.model
    assert not answer.fallback.any()
    assert "champion.json" in answer.notes[0]


def test_a_refused_model_leaves_the_last_good_one_and_is_not_tried_again(tmp_path, monkeypatch):
    good, clock = worlds.put(tmp_path, GOOD), Clock()
    serving = predictor(tmp_path, clock)
    serving.forecast(at(0, VALUES))
    bad = worlds.put(tmp_path, OTHER, step_ms=10_000)
    clock.now = 31
    tried = []
    plain = OnnxForecaster.__init__
    monkeypatch.setattr(OnnxForecaster, "__init__", lambda self, *a, **k: (tried.append(1), plain(self, *a, **k))[1])
    for tick in (1, 2, 3):
        answer = serving.forecast(at(tick, VALUES))
        assert good[:12] in answer.model
        assert f"forecaster@{bad[:12]} is refused" in answer.notes[0]
        assert "the stream's step is 60000 ms" in answer.notes[0]
        clock.now += 31
    assert len(tried) == 1
    worlds.point(tmp_path, good)
    assert serving.forecast(at(4, VALUES)).notes == ()


@pytest.mark.parametrize("harm", ["flip", "cut", "gone", "manifest"])
def test_files_that_were_damaged_are_not_served_until_they_are_whole(tmp_path, harm):
    digest, clock = worlds.put(tmp_path, GOOD), Clock()
    folder = tmp_path / "forecaster" / digest
    data = (folder / "model.onnx").read_bytes()
    if harm == "gone":
        (folder / "model.onnx").unlink()
    elif harm == "manifest":
        (folder / "manifest.json").write_text("{")
    else:
        (folder / "model.onnx").write_bytes(data[:50] if harm == "cut" else bytes([data[0] ^ 1]) + data[1:])
    serving = predictor(tmp_path, clock)
    answer = serving.forecast(at(0, VALUES))
    assert answer.fallback.all()
    assert digest in answer.notes[0]
    worlds.put(tmp_path, GOOD)
    clock.now = 31
    assert not serving.forecast(at(1, VALUES)).fallback.any()


def test_only_the_rows_that_fail_the_gate_fall_back(tmp_path):
    worlds.put(tmp_path, worlds.model(table=table(4)))
    serving = predictor(tmp_path, max_ratio=5)
    values = worlds.waves(40)
    values[7] = -values[7]
    answer = serving.forecast(at(0, values))
    assert np.flatnonzero(answer.fallback).tolist() == [7]
    assert answer.values[7] == pytest.approx(stand_in(values[7:8])[0], rel=1e-6)
    assert "1 quantiles cross" in answer.notes[0]
    assert (answer[7].model, answer[8].model) == (STAND_IN, answer.model)


def test_series_without_any_demand_are_the_stand_ins_and_no_strike(tmp_path):
    worlds.put(tmp_path, GOOD)
    serving = predictor(tmp_path)
    values = np.zeros((5, 100), np.float32)
    values[4] = np.nan
    for tick in range(5):
        answer = serving.forecast(at(tick, values))
        assert answer.model != STAND_IN
        assert answer.notes == ()
        assert not answer.values.any()


def test_three_bad_batches_bring_back_the_last_good_model(tmp_path):
    good, clock = worlds.put(tmp_path, GOOD), Clock()
    serving = predictor(tmp_path, clock)
    serving.forecast(at(0, VALUES))
    wild = worlds.put(tmp_path, WILD, version="2")
    clock.now = 31
    for tick in (1, 2, 3):
        answer = serving.forecast(at(tick, VALUES))
        assert wild[:12] in answer.model
        assert answer.fallback.all()
        assert answer.values.max() < 10 * VALUES.max()
    assert "forecastle models rollback forecaster to move the alias champion back" in answer.notes[1]
    clock.now = 62
    answer = serving.forecast(at(4, VALUES))
    assert good[:12] in answer.model
    assert not answer.fallback.any()
    assert f"forecaster@{wild[:12]} was dropped" in answer.notes[0]
    worlds.point(tmp_path, good)
    clock.now = 93
    assert serving.forecast(at(5, VALUES)).notes == ()


def test_without_a_last_good_model_seasonal_naive_takes_over(tmp_path):
    worlds.put(tmp_path, WILD)
    serving = predictor(tmp_path, strikes=2)
    assert [serving.forecast(at(t, VALUES)).model == STAND_IN for t in range(4)] == [False, False, True, True]


def test_a_good_batch_between_clears_the_strikes(tmp_path):
    worlds.put(tmp_path, worlds.model(table=table(4)))
    serving = predictor(tmp_path, strikes=2, max_ratio=5)
    for tick in range(6):
        values = -VALUES if tick % 2 else VALUES
        assert serving.forecast(at(tick, values)).model != STAND_IN


def test_a_slow_model_costs_the_timeout_and_is_not_dropped_for_it(tmp_path, monkeypatch):
    worlds.put(tmp_path, GOOD)
    serving = predictor(tmp_path, timeout_s=0.05)
    release, plain = threading.Event(), OnnxForecaster.infer
    monkeypatch.setattr(OnnxForecaster, "infer", lambda self, w, g=None: (release.wait(30), plain(self, w, g))[1])
    first = serving.forecast(at(0, VALUES))
    assert first.fallback.all()
    assert "took more than 0.05 s" in first.notes[0]
    assert first.values == pytest.approx(stand_in(VALUES), rel=1e-6)
    for _ in range(serving.settings.strikes + 1):
        assert "an earlier batch still runs" in serving.forecast(at(1, VALUES)).notes[0]
    release.set()
    while serving._runner._thread.is_alive():
        time.sleep(0.01)
    monkeypatch.setattr(serving._runner, "_timeout_s", 60.0)
    assert not serving.forecast(at(2, VALUES)).fallback.any()


def test_a_model_that_raises_is_answered_for(tmp_path, monkeypatch):
    worlds.put(tmp_path, GOOD)
    serving = predictor(tmp_path)
    monkeypatch.setattr(OnnxForecaster, "infer", lambda self, w, g=None: 1 / 0)
    answer = serving.forecast(at(0, VALUES))
    assert answer.fallback.all()
    assert "ZeroDivisionError" in answer.notes[0]
    serving.forecast(at(1, VALUES))
    assert "was dropped (3 bad batches in a row, the last: ZeroDivisionError" in serving.forecast(at(2, VALUES)).notes[1]


def test_a_model_that_breaks_on_large_batches_only_is_answered_for(tmp_path):
    """Its trial has eight rows; Reshape to a fixed batch would do the same."""
    limit = [
        worlds.const("many", np.array([9], np.int64)),
        helper.make_node("Shape", ["largest"], ["shape"], start=0, end=1),
        helper.make_node("Div", ["shape", "many"], ["ninths"]),
        worlds.const("none", np.array([0, 0, 0], np.int64)),
        worlds.const("one", np.array([1, 1], np.int64)),
        helper.make_node("Concat", ["ninths", "one"], ["cut"], axis=0),
        helper.make_node("Mul", ["cut", "keep"], ["start"]),
        helper.make_node("Slice", ["scaled", "start", "end"], ["rest"]),
        worlds.const("keep", np.array([1, 0, 0], np.int64)),
        worlds.const("end", np.array([2**31, 2**31, 2**31], np.int64)),
    ]
    limit = [*limit[-2:], *limit[:-2]]
    worlds.put(tmp_path, worlds.model(after=limit, final="rest"))
    serving = predictor(tmp_path)
    assert not serving.forecast(at(0, worlds.waves(8))).fallback.any()
    answer = serving.forecast(at(1, worlds.waves(9)))
    assert answer.fallback.all()
    assert "answered [8, 6, 11] to 9 windows" in answer.notes[0]


def test_served_quantiles_learn_from_what_came(tmp_path):
    worlds.put(tmp_path, worlds.model(table=np.tile(np.linspace(0.999, 1.001, worlds.Q) / 1.207, (worlds.HORIZON, 1))))
    serving = predictor(tmp_path, coverage_window=80)
    values = (100 + np.random.default_rng(0).normal(0, 10, (60, 300))).astype(np.float32)
    inside = []
    for tick in range(150):
        answer = serving.forecast(at(tick, values[:, tick : tick + 100]))
        truth = values[:, tick + 100]
        inside.append(((truth >= answer.values[:, 0, 2]) & (truth <= answer.values[:, 0, 8])).mean())
    assert np.mean(inside[:5]) < 0.1
    assert np.mean(inside[-30:]) > 0.5
    assert (np.diff(answer.values, axis=2) >= 0).all()


def test_a_restart_that_repeats_the_last_ticks_answers_the_same(tmp_path):
    worlds.put(tmp_path, GOOD)
    values = worlds.waves(5, 400)
    whole, late = (predictor(tmp_path, coverage_window=40) for _ in range(2))
    for tick in range(150):
        window = at(tick, values[:, tick : tick + 100])
        one = whole.forecast(window)
        if tick >= 150 - 42:
            two = late.forecast(window)
    assert np.array_equal(one.values, two.values)


def test_the_largest_numbers_there_are_neither_warn_nor_become_infinite(tmp_path):
    worlds.put(tmp_path, GOOD)
    values = np.where(np.random.default_rng(0).random((4, 160)) < 0.5, np.float32(3e38), np.float32(1e38))
    values[2:] *= np.where(np.random.default_rng(1).random((2, 160)) < 0.5, np.float32(-1), np.float32(1))
    for settings in ({"model": ""}, {}):
        serving = predictor(tmp_path, **settings)
        for tick in range(60):
            answer = serving.forecast(at(tick, values[:, tick : tick + 100]))
            assert np.isfinite(answer.values).all()
            assert (np.diff(answer.values.astype(np.float64), axis=2) >= 0).all()


def test_series_come_and_go_between_ticks(tmp_path):
    worlds.put(tmp_path, GOOD)
    serving = predictor(tmp_path)
    for tick, rows in enumerate((6, 2, 0, 6)):
        answer = serving.forecast(at(tick, VALUES[:rows]))
        assert answer.values.shape == (rows, worlds.HORIZON, worlds.Q)


def test_a_name_that_is_a_path_is_refused_at_once(tmp_path):
    with pytest.raises(ConfigError, match="cannot name a model"):
        predictor(tmp_path, model="../x")


def test_serving_a_model_imports_no_training_library(tmp_path):
    worlds.put(tmp_path, GOOD)
    code = (
        "import sys, numpy as np\n"
        "from forecastle.predict.engine import Predictor\n"
        "from forecastle.settings import PredictSettings\n"
        "from forecastle.types import SeriesKey, Windows\n"
        f"p = Predictor(PredictSettings(cache={str(tmp_path)!r}, horizon={worlds.HORIZON}, timeout_s=60), {worlds.STEP})\n"
        "v, no = np.ones((1, 50), np.float32), np.zeros(1, bool)\n"
        f"f = p.forecast(Windows((SeriesKey('w', 'm'),), {worlds.END}, {worlds.STEP}, v, v > 0, no, no))\n"
        "import json\n"
        "print(json.dumps([f.model, sorted({m.split('.')[0] for m in sys.modules})]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    model, loaded = json.loads(done.stdout)
    assert model.startswith("forecaster@")
    assert not set(loaded) & {"torch", "mlflow", "prefect", "pandas", "onnx", "statsmodels"}


# --- the conformance suite itself: each check catches the forecaster it is for ------------------------------------------


class Twisted:
    """Seasonal naive with one thing done to its answer (and its window)."""

    def __init__(self, twist):
        self._inner = Predictor(PredictSettings(model="", season=48, horizon=6), 60_000)
        self._twist, self._calls = twist, 0
        self.name, self.look_back, self.horizon, self.quantiles = "twisted", 1, 6, QUANTILES

    def forecast(self, windows):
        self._calls += 1
        answer = self._inner.forecast(windows)
        twisted = self._twist(answer, windows, self._calls)
        return answer if twisted is None else twisted


def values(change):
    return lambda answer, windows, call: replace(answer, values=change(answer.values.copy(), windows, call))


def put(array, where, value):
    if len(array):
        array[where] = value
    return array


def soil(answer, windows, call):
    windows.values[:1, :1] = 17.0


WRONG = {
    "shape: values are": values(lambda v, w, c: v[:, :-1]),
    "shape: values are float64": values(lambda v, w, c: v.astype(float)),
    "shape: answered other quantiles": lambda a, w, c: replace(a, quantiles=(0.5,)),
    "shape: rows": lambda a, w, c: replace(a, keys=a.keys[::-1]),
    "shape: issued": lambda a, w, c: replace(a, issued_at=a.issued_at + 1),
    "shape: fallback": lambda a, w, c: replace(a, fallback=a.fallback[1:]),
    "shape: the model": lambda a, w, c: replace(a, model=""),
    "values: not finite": values(lambda v, w, c: put(v, (0, 0, 0), np.inf)),
    "values: quantiles cross": values(lambda v, w, c: v[:, :, ::-1].copy()),
    "values: negative": values(lambda v, w, c: v - 2 * np.abs(v).max(initial=1)),
    "mask": values(lambda v, w, c: v + np.nan_to_num(np.where(w.mask, 0, w.values)).max(initial=0) % 97),
    "batch: workload": values(lambda v, w, c: v + v.mean(axis=0, keepdims=True) if len(v) else v),
    "batch: the order": values(
        lambda v, w, c: put(v, (slice(0, 1),), v[:1] + 1e5) if len(v) > 1 and w.keys[0] > w.keys[1] else v
    ),
    "empty": lambda a, w, c: None if len(w) else replace(a, values=np.zeros((1, 6, 11), np.float32)),
    "repeatable": values(lambda v, w, c: v + np.float32(np.random.default_rng().random()) if c > 1 else v),
    "untouched": soil,
}


@pytest.mark.parametrize("says", WRONG)
def test_each_check_catches_the_forecaster_it_is_for(says):
    with pytest.raises(AssertionError, match=f"^{says}"):
        check_forecaster(lambda: Twisted(WRONG[says]))
    check_forecaster(lambda: Twisted(lambda a, w, c: None))
