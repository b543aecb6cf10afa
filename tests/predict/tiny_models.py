"""The smallest ONNX files that may serve: a forecaster that repeats the last value and a detector that dislikes change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from forecastle.predict.naive import QUANTILES

FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64


def forecaster(
    path: Path, *, lift: float = 0.0, look_back: int = 8, horizon: int = 30, step_ms: int = 60_000
) -> dict[str, Any]:
    """Write ``last * (1 + lift + spread)`` for every step; returns the manifest."""
    spread = (1 + lift + (np.array(QUANTILES) - 0.5) / 5).astype(np.float32)
    factors = np.broadcast_to(spread, (1, horizon, len(QUANTILES)))
    nodes = [
        helper.make_node("Mul", ["values", "mask"], ["known"]),
        helper.make_node("Slice", ["known", "minus_one", "end", "one"], ["last"]),
        helper.make_node("Unsqueeze", ["last", "two"], ["column"]),
        helper.make_node("Mul", ["column", "factors"], ["quantiles"]),
    ]
    numbers = {"minus_one": [-1], "end": [2**31], "one": [1], "two": [2]}
    tensors = {name: np.array(value, np.int64) for name, value in numbers.items()} | {"factors": np.ascontiguousarray(factors)}
    inputs = {"values": (FLOAT, ["n", look_back]), "mask": (FLOAT, ["n", look_back]), "end_minute": (INT, ["n"])}
    _write(path, nodes, tensors, inputs, {"quantiles": (FLOAT, ["n", horizon, len(QUANTILES)])})
    return {
        "kind": "forecaster",
        "name": "forecaster",
        "look_back": look_back,
        "horizon": horizon,
        "step_ms": step_ms,
        "quantiles": list(QUANTILES),
        "inputs": list(inputs),
        "outputs": ["quantiles"],
        "features": ["level"],
        "feature_hash": "0" * 16,
        "parity": 0.0,
        "created": "2026-01-01T00:00:00+00:00",
        "train": {},
    }


def detector(
    path: Path, *, gain: float = 1.0, look_back: int = 8, channels: int = 3, above: float | None = None
) -> dict[str, Any]:
    """Write score ``gain * |now - before|``, expected ``before``; returns the manifest.

    With ``above`` the score is what ``now`` exceeds it by, times ``gain``.
    """
    tensors = {"now_at": np.array(look_back - 1, np.int64), "before_at": np.array(look_back - 2, np.int64)}
    tensors |= {} if above is None else {"above": np.array(above, np.float32)}
    excess = [helper.make_node("Sub", ["now", "above"], ["over"]), helper.make_node("Relu", ["over"], ["size"])]
    change = [helper.make_node("Sub", ["now", "expected"], ["gap"]), helper.make_node("Abs", ["gap"], ["size"])]
    nodes = [
        helper.make_node("Gather", ["values", "now_at"], ["now"], axis=1),
        helper.make_node("Gather", ["values", "before_at"], ["expected"], axis=1),
        *(change if above is None else excess),
        helper.make_node("Mul", ["size", "gain"], ["score"]),
    ]
    inputs = {"values": (FLOAT, ["g", look_back, channels]), "mask": (FLOAT, ["g", look_back, channels])}
    outputs = {"score": (FLOAT, ["g", channels]), "expected": (FLOAT, ["g", channels])}
    _write(path, nodes, tensors | {"gain": np.array(gain, np.float32)}, inputs, outputs)
    return {
        "kind": "detector",
        "look_back": look_back,
        "channels": channels,
        "inputs": list(inputs),
        "outputs": list(outputs),
        "parity": 0.0,
    }


def greedy_detector(path: Path, size: int, *, look_back: int = 8, channels: int = 3) -> dict[str, Any]:
    """A detector whose score needs an array of ``size`` x ``size`` floats; returns the manifest."""
    manifest = detector(path, look_back=look_back, channels=channels)
    model = onnx.load(path)
    score = model.graph.node[-1]
    score.output[0] = "modest"
    shape = numpy_helper.from_array(np.array([size, size], np.int64), "shape")
    model.graph.initializer.append(shape)
    model.graph.node.extend(
        [
            helper.make_node("ConstantOfShape", ["shape"], ["huge"]),
            helper.make_node("ReduceSum", ["huge"], ["sum"], keepdims=0),
            helper.make_node("Add", ["modest", "sum"], ["score"]),
        ]
    )
    onnx.save(model, path)
    return manifest


def _write(path: Path, nodes: list[Any], tensors: dict[str, Any], inputs: dict[str, Any], outputs: dict[str, Any]) -> None:
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, *what) for name, what in inputs.items()],
        [helper.make_tensor_value_info(name, *what) for name, what in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
