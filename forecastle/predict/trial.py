"""A model file is tried where it can do no harm before it may serve: without side files, in a process with hard limits.

An ONNX graph carries no code, but it can name other files, ask for more memory than there is, never end, or crash the
runtime's C++. ``python -m forecastle.predict.trial`` is the process that would die instead of the worker.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from forecastle.errors import ModelRefused
from forecastle.types import Floats32

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

INPUTS, OUTPUTS = ("values", "mask", "end_minute"), ("quantiles",)
MORE = ("known", "static")
"""Inputs of a model that asks for them, each listed in the manifest under its name."""
MEMORY_BYTES = 4 << 30
CPU_S = 60
WALL_S = 90.0
TOLERANCE = 1e-3
"""Difference, relative to the largest answer, that a row may show when it is answered alone instead of in a batch."""

# field numbers of onnx.proto that lead to a tensor, per message
_NESTED = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_EXTERNAL = (13, 14)  # TensorProto.external_data and .data_location


def external(data: bytes) -> bool:
    """Whether any tensor of a serialized ONNX model lies in another file. Raises ValueError when it is no such model."""
    waiting = [("model", memoryview(data))]
    while waiting:
        kind, part = waiting.pop()
        for number, content in _fields(part):
            if kind == "tensor" and number in _EXTERNAL and content != 0:
                return True
            nested = _NESTED[kind].get(number)
            if nested and isinstance(content, memoryview):
                waiting.append((nested, content))
    return False


def _fields(part: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(number, varint or bytes) of every field of a protobuf message."""
    at = 0
    while at < len(part):
        tag, at = _varint(part, at)
        if tag & 7 == 0:
            value, at = _varint(part, at)
            yield tag >> 3, value
            continue
        size = {1: 8, 5: 4}.get(tag & 7)
        if tag & 7 == 2:
            size, at = _varint(part, at)
        if size is None or at + size > len(part):
            raise ValueError("no protobuf message")
        yield tag >> 3, part[at : at + size]
        at += size


def _varint(part: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(part):
            break
        byte, at = part[at], at + 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("no protobuf message")


def attempt(path: Path, manifest: Mapping[str, Any], wall_s: float = WALL_S) -> None:
    """Load and run the model in a process of its own. Raises ModelRefused with what it died of or answered wrongly."""
    shape = {key: manifest[key] for key in ("look_back", "horizon")} | {"q": len(manifest["quantiles"])}
    shape |= {key: len(manifest.get(key, ())) for key in MORE}
    job = json.dumps({"path": str(path.resolve()), **shape})
    env = {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", __name__]
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(  # noqa: S603 - our own interpreter and module
                command, input=job, cwd=folder, env=env, capture_output=True, text=True, timeout=wall_s, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise ModelRefused(f"{path}: its trial run took more than {wall_s:g} s; export a smaller model") from error
    if done.returncode:
        said = (done.stdout.strip() or done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]
        raise ModelRefused(f"{path}: failed its trial run: {said[:300]}")


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))


def inputs_of(manifest: Mapping[str, Any]) -> list[str]:
    """Names of the tensors that a model with this manifest takes, in order."""
    return [*INPUTS, *(name for name in MORE if manifest.get(name))]


def _windows(look_back: int, horizon: int, known: int, static: int) -> dict[str, np.ndarray[Any, Any]]:
    """Eight windows: ordinary ones with and without gaps, a constant, zeros, one slot observed, none observed.

    Half of them are told of occasions and of what they are.
    """
    rng = np.random.default_rng(0)
    at = np.arange(look_back)
    wave = 100 + 50 * np.sin(at / 230 + rng.random((4, 1)) * 6) + rng.normal(0, 5, (4, look_back))
    flat = np.repeat([[7.0], [0.0], [3.0], [3.0]], look_back, axis=1)
    values = np.abs(np.concatenate([wave, flat]))
    mask = np.ones((8, look_back))
    mask[2:4] = rng.random((2, look_back)) > 0.2
    mask[6, :-1], mask[7] = 0.0, 0.0
    minutes = 28_000_000 + 777 * np.arange(8)
    feed = {"values": (values * mask).astype(np.float32), "mask": mask.astype(np.float32), "end_minute": minutes}
    half = np.arange(8) % 2
    occasions = half[:, None, None] * (rng.random((8, look_back + horizon, known)) < 0.3)
    traits = half[:, None] * (rng.random((8, static)) < 0.5)
    more = {"known": occasions.astype(np.float32), "static": traits.astype(np.float32)}
    return feed | {name: told for name, told in more.items() if told.size}


def wrong(session: Any, look_back: int, horizon: int, q: int, *, known: int = 0, static: int = 0) -> str:
    """What is wrong with the answers of an ONNX Runtime session; '' when nothing is.

    ``known`` and ``static`` are how many columns of these the model takes.
    """
    names = tuple(i.name for i in session.get_inputs()), tuple(o.name for o in session.get_outputs())
    feed = _windows(look_back, horizon, known, static)
    if names != (tuple(feed), OUTPUTS):
        return f"has {names[0]} -> {names[1]}, a forecaster with its manifest has {tuple(feed)} -> {OUTPUTS}"
    answer: Floats32 = np.asarray(session.run(list(OUTPUTS), feed)[0])
    if answer.shape != (8, horizon, q) or answer.dtype != np.float32:
        return f"answers {answer.dtype}{list(answer.shape)} to 8 windows; its manifest says float32[8, {horizon}, {q}]"
    if not np.isfinite(answer).all():
        return "answers are not finite"
    size = float(np.abs(answer).max()) or 1.0
    if float(np.diff(answer, axis=2).min(initial=0.0)) < -1e-5 * size:
        return "quantiles cross"
    alone = np.concatenate([session.run(list(OUTPUTS), {k: v[i : i + 1] for k, v in feed.items()})[0] for i in range(8)])
    if alone.shape != answer.shape or float(np.abs(alone - answer).max()) > TOLERANCE * size:
        return "a window is answered differently alone and in a batch"
    return ""


def main() -> int:
    """The limited process: a job in JSON on stdin, 0 when the model may serve, else a line on stdout that says why not."""
    job = json.load(sys.stdin)
    _limit()
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(Path(job.pop("path")).read_bytes(), options, providers=["CPUExecutionProvider"])
        problem = wrong(session, **job)
    except Exception as error:  # noqa: BLE001 - whatever the file provokes is the finding
        problem = f"{type(error).__name__}: {error}"
    sys.stdout.write(problem.replace("\n", " "))
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main())
