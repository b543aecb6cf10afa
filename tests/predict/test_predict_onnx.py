from __future__ import annotations

import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from forecastle.errors import ModelRefused
from forecastle.ports import Artifact
from forecastle.predict import onnx as served
from forecastle.predict.naive import QUANTILES
from forecastle.predict.onnx import OnnxForecaster
from forecastle.predict.trial import attempt, external

sys.path.insert(0, str(Path(__file__).parent))
import forecaster_worlds as worlds


def artifact(tmp_path, proto, **changes):
    path = tmp_path / "model.onnx"
    path.write_bytes(proto if isinstance(proto, bytes) else proto.SerializeToString())
    return Artifact("forecaster", "1", path, "ab" * 32, worlds.manifest(**changes))


def load(tmp_path, proto=None, asked=worlds.HORIZON, **changes):
    made = artifact(tmp_path, worlds.model() if proto is None else proto, **changes)
    return OnnxForecaster(made, step_ms=worlds.STEP, horizon=asked, quantiles=QUANTILES)


def test_a_good_model_answers_every_row_in_chunks(tmp_path):
    model = load(tmp_path)
    assert (model.name, model.look_back) == ("forecaster@" + "ab" * 6, worlds.LOOK_BACK)
    values = worlds.waves(2 * served.CHUNK + 3)
    answer = model.infer(worlds.windows(values))
    largest = values[:, -worlds.LOOK_BACK :].max(axis=1)
    assert answer == pytest.approx(largest[:, None, None] * worlds.SPREAD * np.ones((1, worlds.HORIZON, 1)), rel=1e-6)


def test_gaps_are_zero_and_masked_and_short_windows_are_padded(tmp_path):
    model = load(tmp_path)
    values = worlds.waves(4)
    values[0, -10:] = np.nan
    mask = np.isfinite(values)
    mask[1, -5:] = False
    values[1, -5:] = 1e9
    answer = model.infer(worlds.windows(values, mask))
    assert np.isfinite(answer).all()
    assert answer[1].max() < 1e3
    short = model.infer(worlds.windows(values[:, -3:], mask[:, -3:]))
    assert short[2, 0, -1] == pytest.approx(values[2, -3:].max() * 1.1)


def test_a_longer_horizon_is_cut_to_what_is_asked(tmp_path):
    assert load(tmp_path, asked=2).infer(worlds.windows(worlds.waves(3))).shape == (3, 2, worlds.Q)


def test_a_run_that_was_given_up_stops(tmp_path):
    given_up = threading.Event()
    given_up.set()
    assert np.isnan(load(tmp_path).infer(worlds.windows(worlds.waves(3)), given_up)).all()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"kind": "detector"}, "kind 'detector'"),
        ({"step_ms": 10_000}, "the stream's step is 60000 ms"),
        ({"look_back": 0}, "look_back 0"),
        ({"look_back": True}, "look_back True"),
        ({"look_back": 10**9}, "look_back 1000000000"),
        ({"horizon": 3}, "at least 6 is needed"),
        ({"quantiles": [0.1, 0.5, 0.9]}, "train for these"),
        ({"inputs": ["values"]}, "inputs"),
        ({"outputs": ["mean"]}, "outputs"),
        ({"features": None}, "features None"),
        ({"feature_hash": "?"}, "feature_hash"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused_and_says_what_to_do(tmp_path, changes, says):
    with pytest.raises(ModelRefused, match=says):
        load(tmp_path, **changes)


def node(kind, inputs, out, **attributes):
    return helper.make_node(kind, inputs, [out], **attributes)


def endless():
    """Adds one, ten billion times."""
    body = helper.make_graph(
        [node("Identity", ["go_in"], "go_out"), node("Add", ["x_in", "x_in"], "x_out")],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_in", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x_in", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x_out", TensorProto.FLOAT, None),
        ],
    )
    loop = [
        worlds.const("times", np.array(10**10, np.int64)),
        worlds.const("go", np.array(True)),
        helper.make_node("Loop", ["times", "go", "scaled"], ["looped"], body=body),
    ]
    return worlds.model(after=loop, final="looped")


def greedy():
    """Asks for 40 GB."""
    big = [
        worlds.const("size", np.array([10_000, 1_000_000], np.int64)),
        node("ConstantOfShape", ["size"], "sea"),
        node("ReduceMax", ["sea"], "drop", keepdims=0),
        node("Add", ["scaled", "drop"], "wet"),
    ]
    return worlds.model(after=big, final="wet")


def whole_batch():
    """Each row is answered by the mean of all."""
    return worlds.model(before=[node("ReduceMean", ["last"], "shared", axes=[0], keepdims=1)], source="shared", final="spread",
                        after=[node("Mul", ["last", "zero"], "nothing"), node("Add", ["scaled", "nothing"], "spread")],
                        initializers=[numpy_helper.from_array(np.zeros((1, 1, 1), np.float32), "zero")])  # fmt: skip


BAD = {
    "answers float32": worlds.model(table=np.ones((worlds.HORIZON, 3))),
    "quantiles cross": worlds.model(table=np.tile(worlds.SPREAD[::-1], (worlds.HORIZON, 1))),
    "not finite": worlds.model(after=[node("Log", ["scaled"], "log")], final="log"),
    "alone and in a batch": whole_batch(),
    "has ": worlds.model(look_back=worlds.LOOK_BACK, final="scaled", after=[]),
    "trial run": worlds.model(look_back=7),
    "other files": worlds.external_model(),
    "is no ONNX model": b"\xff" * 100,
    "failed its trial": b"",
}
BAD["has "].graph.input[0].name = "x"
BAD["has "].graph.node[0].input[0] = "x"


@pytest.mark.parametrize("says", BAD)
def test_a_file_that_is_no_sound_forecaster_is_refused(tmp_path, says):
    with pytest.raises(ModelRefused, match=says):
        load(tmp_path, BAD[says])


def test_a_model_that_wants_more_memory_than_there_is_dies_elsewhere(tmp_path):
    with pytest.raises(ModelRefused, match="trial run"):
        load(tmp_path, greedy())


def test_a_model_that_never_ends_is_stopped(tmp_path):
    made = artifact(tmp_path, endless())
    with pytest.raises(ModelRefused, match="took more than 4 s"):
        attempt(made.path, made.manifest, wall_s=4)


def test_a_file_too_large_is_not_even_read(tmp_path, monkeypatch):
    monkeypatch.setattr(served, "MAX_BYTES", 100)
    with pytest.raises(ModelRefused, match="export a smaller model"):
        load(tmp_path)


def test_external_tensors_are_found_wherever_they_hide():
    assert not external(worlds.model().SerializeToString())
    assert external(worlds.external_model().SerializeToString())
    hidden = worlds.model()
    tensor = hidden.graph.node[2].attribute[0].t
    tensor.data_location = TensorProto.EXTERNAL
    assert external(hidden.SerializeToString())
    with pytest.raises(ValueError, match="no protobuf"):
        external(worlds.model().SerializeToString()[:-3])
