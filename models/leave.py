"""How the forecaster leaves the workshop: one ONNX file, proved equal to torch before anything may serve it."""

from __future__ import annotations

import warnings
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from features import plan, plan_hash
from forecastle.errors import ModelRefused
from forecastle.predict.trial import inputs_of
from forecastle.types import Foreknown
from models.forecaster_config import ForecasterConfig

FEATURES = ("level", "day_phase", "week_day")
TOLERANCE = 1e-4
FLOOR = 1e-12
"""Answers below are 0 in any unit."""
Example = tuple[Tensor, ...]


def export_forecaster(module: nn.Module, path: Path, cfg: ForecasterConfig) -> dict[str, Any]:
    """Write ``module`` to ``path`` with a dynamic batch and no side files; returns the manifest.

    Raises ModelRefused when an answer of ONNX Runtime differs from torch's by more than 1e-4 of the larger of the answer
    and the window's largest value, is not finite, or crosses.
    """
    module = module.cpu().eval()
    batch, inputs = {0: torch.export.Dim.DYNAMIC}, inputs_of(asdict(cfg))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's exporter uses what torch deprecates
        program = torch.onnx.export(
            module,
            _plain(3, 0, cfg),
            dynamo=True,
            kwargs=_more(3, 0, cfg),
            dynamic_shapes=dict.fromkeys(inputs, batch),
            opset_version=18,
            verbose=False,
            input_names=inputs,
            output_names=["quantiles"],
        )
    if program is None:
        raise ModelRefused("torch returned no ONNX program")
    path.parent.mkdir(parents=True, exist_ok=True)
    program.save(str(path), external_data=False)
    return {
        "kind": "forecaster",
        "name": cfg.name,
        "look_back": cfg.look_back,
        "horizon": cfg.horizon,
        "step_ms": cfg.step_ms,
        "quantiles": list(cfg.quantiles),
        "inputs": inputs,
        "outputs": ["quantiles"],
        "features": [one["name"] for one in plan(FEATURES)],
        "feature_hash": plan_hash(FEATURES, cfg.known, cfg.static),
        **({"known": [asdict(Foreknown(name)) for name in cfg.known]} if cfg.known else {}),
        **({"static": list(cfg.static)} if cfg.static else {}),
        "parity": parity(module, path, cfg),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "train": {},
    }


def parity(module: nn.Module, path: Path, cfg: ForecasterConfig) -> float:
    """Largest relative difference between ``module`` and the file on plain and hostile windows. Raises ModelRefused."""
    import onnxruntime as ort

    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    worst = 0.0
    names = inputs_of(asdict(cfg))
    for example in (*(_plain(n, n, cfg) for n in (1, 2, 7, 256)), _hostile(cfg)):
        shown = (*example, *_more(len(example[0]), len(example[0]), cfg).values())
        with torch.no_grad():
            want = module(*shown).numpy()
        got = session.run(None, {name: part.numpy() for name, part in zip(names, shown, strict=True)})[0]
        if not np.isfinite(got).all() or (np.diff(got, axis=2) < 0).any():
            raise ModelRefused(f"{path}: answers are not finite or cross; train again, or with a smaller learning rate")
        size = (example[0] * example[1]).abs().amax(1).numpy()[:, None, None]
        gap = np.abs(want.astype(np.float64) - got) / np.maximum(np.maximum(np.abs(want), size), FLOOR)
        worst = max(worst, float(gap.max()))
    if not worst <= TOLERANCE:
        raise ModelRefused(f"{path}: ONNX differs from torch by {worst:.2e}; more than {TOLERANCE:g} is not served")
    return worst


def _plain(size: int, seed: int, cfg: ForecasterConfig) -> Example:
    rng = np.random.default_rng(seed)
    level = np.exp(rng.normal(3.0, 2.0, (size, 1)))
    wave = 1 + 0.5 * np.sin(np.arange(cfg.look_back) / 230 + rng.uniform(0, 6, (size, 1)))
    values = level * wave * rng.lognormal(0, 0.1, (size, cfg.look_back))
    mask = rng.random((size, cfg.look_back)) > 0.05
    minutes = rng.integers(0, 40_000_000, size)
    return _tensors(values, mask, minutes)


def _more(size: int, seed: int, cfg: ForecasterConfig) -> dict[str, Tensor]:
    """What a model is told beside the windows, where it asks for it: in every third window nothing, in the last too much."""
    rng = np.random.default_rng([seed, 1])
    busy = (np.arange(size) % 3 < 2)[:, None]
    length = cfg.look_back + cfg.horizon
    known = busy[:, :, None] * np.where(rng.random((size, length, len(cfg.known))) < 0.2, rng.normal(0, 1, (size, 1, 1)), 0)
    known[-1] *= 1e3
    told = {"known": known, "static": busy * (rng.random((size, len(cfg.static))) < 0.5)}
    return {name: torch.from_numpy(part.astype(np.float32)) for name, part in told.items() if part.shape[-1]}


def _hostile(cfg: ForecasterConfig) -> Example:
    rng = np.random.default_rng(7)
    length = cfg.look_back
    rows = [
        np.zeros(length),
        np.full(length, 5.0),
        np.full(length, 1e30),
        np.full(length, -1e30),
        np.full(length, 1e-30),
        rng.normal(0, 1e6, length),
        np.where(np.arange(length) == length - 1, 1e9, 1.0),
        np.where(rng.random(length) < 0.01, 1e4, 0.0),
        np.arange(length, dtype=float),
        1e6 + rng.normal(0, 1e-2, length),
    ]
    values = np.stack([*rows, *rows])
    mask = np.ones(values.shape, bool)
    mask[len(rows) :] = rng.random((len(rows), length)) > 0.9
    mask[len(rows)] = False
    mask[len(rows) + 1, :-1] = False
    return _tensors(values, mask, np.full(len(values), -1) * 1440 + np.arange(len(values)))


def _tensors(values: Any, mask: Any, minutes: Any) -> Example:
    return (
        torch.from_numpy(values.astype(np.float32)),
        torch.from_numpy(mask.astype(np.float32)),
        torch.from_numpy(minutes.astype(np.int64)),
    )
