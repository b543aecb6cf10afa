"""Small ONNX forecasters, good and hostile, made without torch; and windows to show them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from forecastle.predict.naive import QUANTILES
from forecastle.types import SeriesKey, Windows

STEP = 60_000
END = 28_000_000 * STEP
LOOK_BACK, HORIZON, Q = 32, 6, len(QUANTILES)
INPUTS = (("values", TensorProto.FLOAT), ("mask", TensorProto.FLOAT), ("end_minute", TensorProto.INT64))
SPREAD = np.linspace(0.9, 1.1, Q, dtype=np.float32)


def const(name, value):
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(value)))


def model(*, table=None, before=(), after=(), source="last", initializers=(), final="scaled", look_back=LOOK_BACK):
    """last observed-or-zero value x ``table`` [h, q]; ``before`` and ``after`` are nodes around it that make it hostile."""
    table = np.tile(SPREAD, (HORIZON, 1)) if table is None else np.asarray(table, np.float32)
    nodes = [
        helper.make_node("Mul", ["values", "mask"], ["seen"]),
        helper.make_node("ReduceMax", ["seen"], ["largest"], axes=[1], keepdims=1),
        const("axis", np.array([2], np.int64)),
        helper.make_node("Unsqueeze", ["largest", "axis"], ["last"]),
        *before,
        const("table", table[None]),
        helper.make_node("Mul", [source, "table"], ["scaled"]),
        *after,
        helper.make_node("Identity", [final], ["quantiles"]),
    ]
    inputs = [helper.make_tensor_value_info(n, t, ["n", look_back] if n != "end_minute" else ["n"]) for n, t in INPUTS]
    outputs = [helper.make_tensor_value_info("quantiles", TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "forecaster", inputs, outputs, list(initializers))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def manifest(**changes):
    return {
        "kind": "forecaster",
        "name": "forecaster",
        "look_back": LOOK_BACK,
        "horizon": HORIZON,
        "step_ms": STEP,
        "quantiles": list(QUANTILES),
        "inputs": [name for name, _ in INPUTS],
        "outputs": ["quantiles"],
        "features": ["level"],
        "feature_hash": "0123456789abcdef",
        "parity": 0.0,
        "created": "2026-01-01T00:00:00+00:00",
        "train": {},
    } | changes


def put(cache: Path, proto, alias="champion", version="1", **changes) -> str:
    """Lay a model into the cache and point the alias at it; returns its digest. ``proto`` may be bytes."""
    data = proto if isinstance(proto, bytes) else proto.SerializeToString()
    digest = hashlib.sha256(data).hexdigest()
    folder = cache / "forecaster" / digest
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(data)
    (folder / "manifest.json").write_text(json.dumps(manifest(**changes)))
    point(cache, digest, alias, version)
    return digest


def point(cache: Path, digest: str, alias="champion", version="1") -> None:
    (cache / "forecaster").mkdir(parents=True, exist_ok=True)
    (cache / "forecaster" / f"{alias}.json").write_text(json.dumps({"version": version, "sha256": digest}))


def windows(values, mask=None, end=END, keys=None, step=STEP) -> Windows:
    values = np.asarray(values, np.float32)
    n = len(values)
    mask = np.isfinite(values) if mask is None else mask
    no = np.zeros(n, bool)
    return Windows(keys or tuple(SeriesKey(f"w{i:04d}", "m") for i in range(n)), end, step, values, mask, no, no)


def waves(rows=8, columns=200, seed=0, noise=3.0):
    rng = np.random.default_rng(seed)
    at = np.arange(columns)
    return (100 + 40 * np.sin(2 * np.pi * (at / 96 + rng.random((rows, 1)))) + rng.normal(0, noise, (rows, columns))).astype(
        np.float32
    )


def external_model():
    """A model whose weights claim to lie in a file beside it."""
    tensor = numpy_helper.from_array(np.ones((1, 1, 1), np.float32), "elsewhere")
    onnx.external_data_helper.set_external_data(tensor, "/etc/passwd")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    return model(before=[helper.make_node("Mul", ["last", "elsewhere"], ["more"])], source="more", initializers=[tensor])
