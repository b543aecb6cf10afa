"""Whatever a model says, what leaves the gate is finite, ordered, bounded and of the right sign; the rest is counted."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from forecastle.errors import ModelRefused
from forecastle.ports import Artifact
from forecastle.predict.artifacts import sha256
from forecastle.predict.gate import SLACK, STRIKE_SHARE, Strikes, bounds, judge, tidy
from forecastle.predict.naive import QUANTILES
from forecastle.predict.onnx import OnnxForecaster
from forecastle.predict.trial import wrong

sys.path.insert(0, str(Path(__file__).parent))
import forecaster_worlds as worlds

ROWS, RATIO = 4, 10.0


def answer(scale: float = 100.0) -> np.ndarray:
    return np.tile(scale * worlds.SPREAD, (ROWS, worlds.HORIZON, 1)).astype(np.float32)


def limits(scale: float = 100.0):
    return bounds(worlds.windows(np.full((ROWS, 20), scale)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [(0, 0, 0), (1, worlds.HORIZON - 1, worlds.Q - 1), (2, 3, 5)])
def test_one_cell_that_is_no_number_refuses_its_row(value: float, where: tuple[int, int, int]) -> None:
    given = answer()
    given[where] = value
    refused, why = judge(given, limits(), RATIO)
    assert np.flatnonzero(refused).tolist() == [where[0]]
    assert why == {"not finite": 1}


@pytest.mark.parametrize(("factor", "fine"), [(1.0, True), (9.0, True), (10 / 1.1 - 1e-3, True), (9.2, False), (1e9, False)])
def test_ten_times_the_window_is_the_limit_whatever_the_unit(factor: float, fine: bool) -> None:
    for scale in (1e-6, 1.0, 1e12):
        refused, why = judge(answer(scale * factor), limits(scale), RATIO)
        assert (not refused.any()) == fine
        assert fine or why == {"beyond 10 times the window": ROWS}


@pytest.mark.parametrize("size", [0.5, 2.0])
def test_slack_decides_between_rounding_and_a_fault(size: float) -> None:
    given = answer()
    given[0, :, 0] = -size * SLACK * 100
    given[1, :, 4] = given[1, :, 3] - size * SLACK * 100
    refused, why = judge(given, limits(), RATIO)
    assert refused.tolist() == [size > 1, size > 1, False, False]
    assert why == ({"negative": 1, "quantiles cross": 1} if size > 1 else {})


def test_a_row_that_is_wrong_in_many_ways_is_counted_once() -> None:
    given = answer()
    given[0] = -1e9 * worlds.SPREAD
    given[0, 0, 0] = np.nan
    refused, why = judge(given, limits(), RATIO)
    assert refused.sum() == sum(why.values()) == 1


@pytest.mark.parametrize("masked", [True, False])
def test_a_value_under_the_mask_does_not_widen_the_bounds(masked: bool) -> None:
    values = np.full((ROWS, 20), 100.0, np.float32)
    values[:, 5] = 1e6
    mask = np.ones(values.shape, bool)
    mask[:, 5] = not masked
    refused, _ = judge(answer(5e4), bounds(worlds.windows(values, mask)), RATIO)
    assert refused.all() == masked


def test_nan_that_is_marked_as_observed_does_not_open_the_gate() -> None:
    values = np.full((ROWS, 20), 100.0, np.float32)
    values[0, 3], values[1, 3] = np.nan, np.inf
    found = bounds(worlds.windows(values, np.ones(values.shape, bool)))
    assert np.isfinite(found.largest).all()
    assert judge(answer(1e9), found, RATIO)[0][2:].all()


@pytest.mark.parametrize("rows", [0, 1])
def test_an_empty_batch_is_judged_and_tidied(rows: int) -> None:
    few = bounds(worlds.windows(np.full((rows, 5), 100.0)))
    refused, why = judge(answer()[:rows], few, RATIO)
    assert refused.tolist() == [False] * rows
    assert not why
    assert tidy(answer()[:rows], few, RATIO).shape == (rows, worlds.HORIZON, worlds.Q)


numbers = st.floats(width=32, allow_nan=True, allow_infinity=True)


@settings(max_examples=150, deadline=None)
@given(arrays(np.float32, (3, 2, 4), elements=numbers), arrays(np.float32, (3, 5), elements=numbers), arrays(bool, (3, 5)))
def test_rows_that_pass_are_put_within_bounds_and_others_never_pass(
    said: np.ndarray, values: np.ndarray, mask: np.ndarray
) -> None:
    found = bounds(worlds.windows(values, mask & np.isfinite(values)))
    refused, why = judge(said.copy(), found, RATIO)
    assert sum(why.values()) == refused.sum()
    assert not refused[found.blank].any()
    finite = np.isfinite(said).all(axis=(1, 2))
    assert refused[~finite & ~found.blank].all()
    passed = ~refused & finite
    out = tidy(np.where(passed[:, None, None], said, np.float32(0)), found, RATIO)
    assert np.isfinite(out).all()
    assert (np.diff(out, axis=2) >= 0).all()
    assert (np.abs(out).max(axis=(1, 2)) <= RATIO * found.largest * (1 + 1e-6)).all()
    assert (out[~found.signed] >= 0).all()
    kept = passed & ~found.blank
    room = SLACK * found.largest[kept] * 4 + 1e-6 * RATIO * found.largest[kept]
    assert (np.abs(out[kept].astype(np.float64) - said[kept]).max(axis=(1, 2), initial=0.0) <= room).all()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 100), max_size=30), st.integers(1, 4))
def test_a_model_goes_when_so_many_in_a_row_failed_and_never_else(refused: list[int], allowed: int) -> None:
    strikes, run = Strikes(allowed), 0
    for count in refused:
        run = run + 1 if count > STRIKE_SHARE * 100 else 0
        assert strikes.tell(count, 100) == (run >= allowed)


class Scripted:
    """A session that answers ``values`` shaped as told, to judge what a trial run finds."""

    def __init__(self, answer_of, inputs=("values", "mask", "end_minute"), outputs=("quantiles",)) -> None:
        self.answer_of, self.inputs, self.outputs = answer_of, inputs, outputs

    def get_inputs(self):
        return [type("Node", (), {"name": name}) for name in self.inputs]

    def get_outputs(self):
        return [type("Node", (), {"name": name}) for name in self.outputs]

    def run(self, names, feed):
        return [self.answer_of(feed["values"])]


def flat(values: np.ndarray, horizon: int = 3, q: int = 2) -> np.ndarray:
    return np.repeat(np.repeat(values.max(axis=1)[:, None, None], horizon, 1), q, 2).astype(np.float32)


TRIALS = {
    "": flat,
    "its manifest says": lambda v: flat(v, horizon=2),
    "answers float64": lambda v: flat(v).astype(np.float64),
    "[8, 3, 3]": lambda v: flat(v, q=3),
    "[7, 3, 2]": lambda v: flat(v)[:-1],
    "not finite": lambda v: np.where(flat(v) == 0, np.float32(np.inf), flat(v)),
    "quantiles cross": lambda v: flat(v) * np.array([1.1, 0.9], np.float32),
    "alone and in a batch": lambda v: flat(v) + np.float32(len(v)),
}


@pytest.mark.parametrize("says", TRIALS)
def test_the_trial_names_what_is_wrong_with_an_answer(says: str) -> None:
    found = wrong(Scripted(TRIALS[says]), 16, 3, 2)
    assert (found == "") if not says else (says in found)


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [(("values",), ("quantiles",)), (("mask", "values", "end_minute"), ("quantiles",)), (("values", "mask", "end_minute"), ())],
)
def test_the_trial_wants_the_inputs_and_outputs_by_name_and_order(inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
    assert "a forecaster with its manifest has" in wrong(Scripted(flat, inputs, outputs), 16, 3, 2)


def test_rounding_between_alone_and_batch_is_no_fault() -> None:
    assert wrong(Scripted(lambda v: flat(v) * np.float32(1 + 1e-5 * len(v))), 16, 3, 2) == ""


def test_an_answer_of_another_shape_than_tried_is_refused_when_it_happens(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(worlds.model().SerializeToString())
    made = Artifact("forecaster", "1", path, sha256(path), worlds.manifest())
    served = OnnxForecaster(made, step_ms=worlds.STEP, horizon=worlds.HORIZON, quantiles=QUANTILES, threads=1)
    served._session = Scripted(lambda v: flat(v, horizon=2, q=worlds.Q))
    with pytest.raises(ModelRefused, match=r"answered \[3, 2, 11\] to 3 windows"):
        served.infer(worlds.windows(worlds.waves(3)))


@pytest.mark.parametrize("ratio", [1.0, 2.5, 10.0])
def test_what_calibration_stretched_is_cut_to_the_very_bound(ratio: float) -> None:
    wild = np.tile(np.array([-1e9, 5.0, 1e9], np.float32), (ROWS, 2, 1))
    assert tidy(wild, limits(100.0), ratio).tolist() == [[[0.0, 5.0, 100.0 * ratio]] * 2] * ROWS
