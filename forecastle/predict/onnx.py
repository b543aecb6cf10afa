"""A learned forecaster served by ONNX Runtime: admitted defensively, then run in chunks so that memory stays flat.

The graph scales, adds the calendar and restores units by itself; this lays out the batch and refuses what does not look like
a forecaster made for this stream.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from forecastle.errors import ConfigError, ModelRefused
from forecastle.ports import Artifact
from forecastle.predict.known import Almanac, check_columns, read_known, statics
from forecastle.predict.members import Members
from forecastle.predict.trial import OUTPUTS, attempt, external, inputs_of
from forecastle.types import Floats32, Foreknown, Mask, SeriesKey, Windows

MAX_BYTES = 256 << 20
MAX_LOOK_BACK = 100_000
CHUNK = 256
"""Rows per run: bounds the memory of intermediate tensors, and how long a run goes on after it was given up."""
THREADS = 2


class OnnxForecaster:
    """A session ready to serve. ``step_ms``, ``horizon`` and ``quantiles`` are what the stream asks for.

    A model may look further ahead than asked, not less far. On the series that its manifest lists under ``members`` a
    statistical member answers instead, unless the model is told of an occasion there. ``almanac`` tells it, where its manifest
    asks for ``known`` inputs. Raises ModelRefused when the file or its manifest must not serve.
    """

    def __init__(
        self,
        artifact: Artifact,
        *,
        step_ms: int,
        horizon: int,
        quantiles: tuple[float, ...],
        threads: int = THREADS,
        almanac: Almanac | None = None,
    ) -> None:
        check(artifact, step_ms=step_ms, horizon=horizon, quantiles=quantiles)
        self.known, self._static = _told(artifact, almanac)
        self._almanac, self._traits = almanac, (tuple[SeriesKey, ...](), np.zeros((0, len(self._static)), np.float32))
        self.digest = artifact.sha256
        self.name = f"{artifact.name}@{artifact.sha256[:12]}"
        self.look_back = int(artifact.manifest["look_back"])
        self.horizon = horizon
        self._shape = int(artifact.manifest["horizon"]), len(quantiles)
        self._quantiles, self._members = quantiles, Members(artifact.manifest.get("members", ()))
        data = _bytes(artifact.path)
        attempt(artifact.path, artifact.manifest)
        self._session = _open(artifact.path, data, threads)

    def infer(self, windows: Windows, given_up: threading.Event | None = None) -> Floats32:
        """Quantiles float32[n, horizon, q] as the model says them, unchecked. Windows that are too short count as unobserved.

        Stops between chunks, with what is there so far and NaN for the rest, once ``given_up`` is set.
        """
        answer = np.full((len(windows), self.horizon, self._shape[1]), np.nan, np.float32)
        more, told = self._more(windows)
        for first in range(0, len(windows), CHUNK):
            if given_up is not None and given_up.is_set():
                break
            rows = slice(first, first + CHUNK)
            values, mask = self._columns(windows.values[rows], windows.mask[rows])
            minutes = np.full(len(values), windows.end // 60_000, np.int64)
            feed = {"values": values, "mask": mask, "end_minute": minutes, **{name: of[rows] for name, of in more.items()}}
            quantiles = self._session.run(list(OUTPUTS), feed)[0]
            if quantiles.shape != (len(values), *self._shape):
                raise ModelRefused(f"{self.name}: answered {list(quantiles.shape)} to {len(values)} windows")
            answer[rows] = quantiles[:, : self.horizon]
        else:
            if self._members:
                self._members.replace(answer, windows, self._quantiles, but=told)
        return answer

    def _more(self, windows: Windows) -> tuple[dict[str, Any], Mask | None]:
        """What the model takes beside the windows, by rows, and which series are told of occasions (None: it takes none)."""
        more: dict[str, Any] = {}
        told = None
        if self.known and self._almanac is not None:
            more["known"] = self._almanac.at(self.known, windows.keys, windows.end, self.look_back, self._shape[0])
            told = more["known"].told
        if self._static:
            if self._traits[0] is not windows.keys:
                self._traits = windows.keys, statics(windows.keys, self._static)
            more["static"] = self._traits[1]
        return more, told

    def _columns(self, values: Floats32, mask: np.ndarray[Any, Any]) -> tuple[Floats32, Floats32]:
        """The newest look-back columns, zero where unobserved, padded in front."""
        known = mask[:, -self.look_back :] & np.isfinite(values[:, -self.look_back :])
        lack = self.look_back - known.shape[1]
        cells = np.where(known, values[:, -self.look_back :], np.float32(0))
        if lack > 0:
            cells, known = (np.pad(part, ((0, 0), (lack, 0))) for part in (cells, known))
        return cells, known.astype(np.float32)


def _told(artifact: Artifact, almanac: Almanac | None) -> tuple[tuple[Foreknown, ...], tuple[str, ...]]:
    """The known inputs and the conditions that the manifest asks for. Raises ModelRefused when they cannot be given here."""
    try:
        known, static = read_known(artifact.manifest), tuple(map(str, artifact.manifest.get("static", ())))
        check_columns([one.name for one in known], static)
    except ConfigError as error:
        raise ModelRefused(f"{artifact.path.parent}: its manifest asks for what is not served: {error}") from error
    if known and almanac is None:
        names = ", ".join(one.name for one in known)
        raise ModelRefused(
            f"{artifact.path.parent}: asks for the known inputs {names}, which nothing gives here; pass an almanac"
        )
    return known, tuple(static)


def check(artifact: Artifact, *, step_ms: int, horizon: int, quantiles: tuple[float, ...]) -> None:
    """Whether the manifest fits the stream. Raises ModelRefused with the first thing that does not."""
    manifest = artifact.manifest
    for found, fine, fix in _findings(manifest, step_ms, horizon, quantiles):
        if not fine:
            raise ModelRefused(f"{artifact.path.parent}: its manifest says {found}; {fix}")


def _findings(
    manifest: Mapping[str, Any], step_ms: int, horizon: int, quantiles: tuple[float, ...]
) -> list[tuple[str, bool, str]]:
    """(what the manifest says, whether that is right, what to do)."""
    get = manifest.get
    look_back, ahead, levels, names = get("look_back"), get("horizon"), get("quantiles"), get("features")
    wanted = inputs_of(manifest)
    return [
        (f"kind {get('kind')!r}", get("kind") == "forecaster", "name a forecaster in predict.model"),
        (f"step_ms {get('step_ms')!r}", get("step_ms") == step_ms, f"the stream's step is {step_ms} ms: train for that"),
        (f"look_back {look_back!r}", type(look_back) is int and 0 < look_back <= MAX_LOOK_BACK, "export it again"),
        (f"horizon {ahead!r}", type(ahead) is int and horizon <= ahead <= MAX_LOOK_BACK, f"at least {horizon} is needed"),
        (f"quantiles {levels!r}", levels == list(quantiles), f"{list(quantiles)} are served: train for these"),
        (f"inputs {get('inputs')!r}", get("inputs") == wanted, f"with its known and static columns they are {wanted}"),
        (f"outputs {get('outputs')!r}", get("outputs") == list(OUTPUTS), f"a forecaster has {list(OUTPUTS)}"),
        (f"features {names!r}", isinstance(names, list) and all(isinstance(n, str) for n in names), "export it again"),
        (
            f"feature_hash {get('feature_hash')!r}",
            re.fullmatch(r"[0-9a-f]{16,64}", str(get("feature_hash"))) is not None,
            "export it again",
        ),
    ]


def _bytes(path: Path) -> bytes:
    """The file, when it is of a size and kind to be tried."""
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ModelRefused(f"{path}: has {size >> 20} MiB, at most {MAX_BYTES >> 20} are served; export a smaller model")
    data = path.read_bytes()
    try:
        elsewhere = external(data)
    except ValueError as error:
        raise ModelRefused(f"{path}: is no ONNX model; export it again") from error
    if elsewhere:
        raise ModelRefused(f"{path}: keeps weights in other files; export with external_data=False")
    return data


def _open(path: Path, data: bytes, threads: int) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads would burn the other rooms' CPU
    try:
        return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelRefused(f"{path}: ONNX Runtime cannot load it: {error}") from error
