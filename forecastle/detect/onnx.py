"""A learned detector served by ONNX Runtime: one batch per tick, one score per series.

The graph normalizes by itself; this only lays out channels and refuses what does not look like a detector of ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from forecastle.detect.groups import gather, grouped
from forecastle.errors import ModelRefused
from forecastle.ports import Artifact
from forecastle.types import Floats32, SeriesKey, Windows

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

INPUTS, OUTPUTS = ("values", "mask"), ("score", "expected")


class OnnxScorer:
    """Implements `forecastle.detect.engine.Scorer`. ``artifact.manifest`` gives ``look_back`` and ``channels``.

    Raises ModelRefused when the file cannot be loaded or has other inputs and outputs than a detector.
    """

    def __init__(self, artifact: Artifact, threads: int = 2) -> None:
        self.name = f"{artifact.name}@{artifact.sha256[:12]}"
        try:
            self.look_back = int(artifact.manifest["look_back"])
            self.channels = int(artifact.manifest["channels"])
        except (KeyError, TypeError, ValueError) as error:
            raise ModelRefused(f"{artifact.path}: the manifest lacks look_back or channels; export it again") from error
        self._session = _open(artifact, threads)
        self._keys: tuple[SeriesKey, ...] | None = None
        self._rows: npt.NDArray[np.intp] = np.zeros((0, self.channels), np.intp)

    def score(self, windows: Windows) -> tuple[Floats32, Floats32]:
        """(score, expected) float32[n]; NaN where the newest slot was not observed or the window is too short."""
        n = len(windows)
        score, expected = np.full(n, np.nan, np.float32), np.full(n, np.nan, np.float32)
        if windows.values.shape[1] < self.look_back or not n:
            return score, expected
        rows = self._layout(windows.keys)
        mask = gather(windows.mask[:, -self.look_back :].astype(np.float32), rows)
        values = gather(windows.values[:, -self.look_back :], rows)
        answer = self._session.run(list(OUTPUTS), {"values": values, "mask": mask})
        there = rows >= 0
        score[rows[there]], expected[rows[there]] = answer[0][there], answer[1][there]
        unknown = ~windows.mask[:, -1] | ~np.isfinite(score) | ~np.isfinite(expected)
        score[unknown], expected[unknown] = np.nan, np.nan
        return score, expected

    def _layout(self, keys: tuple[SeriesKey, ...]) -> npt.NDArray[np.intp]:
        if keys is not self._keys and keys != self._keys:
            self._rows = grouped(keys, self.channels)
        self._keys = keys
        return self._rows


def _open(artifact: Artifact, threads: int) -> InferenceSession:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads would burn the other rooms' CPU
    try:
        session = ort.InferenceSession(artifact.path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelRefused(f"{artifact.path}: ONNX Runtime cannot load it: {error}") from error
    names: tuple[Any, Any] = (
        tuple(i.name for i in session.get_inputs()),
        tuple(o.name for o in session.get_outputs()),
    )
    if names != (INPUTS, OUTPUTS):
        raise ModelRefused(f"{artifact.path}: has {names[0]} -> {names[1]}, a detector has {INPUTS} -> {OUTPUTS}")
    return session
