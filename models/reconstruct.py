"""A detector for the metrics of one workload: what should this one read, given its past and what the others read now?

Each channel is reconstructed from its own past and from the others, never from its own newest value, with a Laplace
scale learned beside it; the score is the error in that scale. Channels are exchangeable: one model serves any workload.
Normalization is part of the graph.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from forecastle.detect.groups import gather, grouped
from forecastle.types import SeriesKey

Batch = tuple[Tensor, Tensor]
History = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]
log = logging.getLogger(__name__)

DEFAULTS: dict[str, Any] = {
    "look_back": 64,
    "channels": 8,
    "width": 48,
    "steps": 600,
    "check_every": 50,
    "patience": 4,
    "batch": 128,
    "learning_rate": 2e-3,
    "drop_channel": 0.2,
    "seed": 0,
}
_CLIP = 8.0


class Reconstruct(nn.Module):
    """``values`` and ``mask`` float32[b, L, C] (mask 1: observed) -> ``score`` and ``expected`` float32[b, C]."""

    def __init__(self, look_back: int, channels: int, width: int) -> None:
        super().__init__()
        self.look_back, self.channels = look_back, channels
        self.past = nn.Sequential(nn.Linear(2 * (look_back - 1), width), nn.GELU(), nn.Linear(width, width))
        self.other = nn.Sequential(nn.Linear(width + 2, width), nn.GELU(), nn.Linear(width, width))
        self.head = nn.Sequential(nn.Linear(2 * width + 2, width), nn.GELU(), nn.Linear(width, 2))

    def forward(self, values: Tensor, mask: Tensor) -> Batch:
        """Score (0 where unseen) and expected value of the newest slot."""
        error, scale, middle = self.predict(values, mask)
        return (error.abs() / scale) * mask[:, -1], middle

    def predict(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normalized error and scale of the newest slot, and its expected value in the metric's unit: [b, C] each."""
        past, seen = values[:, :-1], mask[:, :-1]
        count = seen.sum(1).clamp(min=1.0)
        mean = (past * seen).sum(1) / count
        deviation = (past - mean.unsqueeze(1)) * seen
        std = ((deviation * deviation).sum(1) / count).sqrt() + 1e-3 * mean.abs() + 1e-6
        shown = ((deviation / std.unsqueeze(1)).clamp(-_CLIP, _CLIP)).transpose(1, 2)
        newest = (values[:, -1] - mean) / std
        now = mask[:, -1]
        own = self.past(torch.cat([shown, seen.transpose(1, 2)], dim=2))
        told = torch.stack([newest.clamp(-_CLIP, _CLIP) * now, now], dim=2)
        said = self.other(torch.cat([own, told], dim=2)) * now.unsqueeze(2)
        others = (now.sum(1, keepdim=True) - now).clamp(min=1.0)
        context = (said.sum(1, keepdim=True) - said) / others.unsqueeze(2)
        last = shown[:, :, -1]
        answer = self.head(torch.cat([own, context, last.unsqueeze(2), others.unsqueeze(2) / self.channels], dim=2))
        expected = last + answer[:, :, 0]
        scale = nn.functional.softplus(answer[:, :, 1]) + 0.02
        return newest - expected, scale, expected * std + mean


def build(cfg: Mapping[str, Any]) -> Reconstruct:
    """An untrained model; ``cfg`` overrides `DEFAULTS`, unknown keys are refused."""
    settings = _settings(cfg)
    torch.manual_seed(settings["seed"])
    return Reconstruct(settings["look_back"], settings["channels"], settings["width"])


def train(
    keys: Sequence[SeriesKey],
    values: npt.NDArray[np.float32],
    mask: npt.NDArray[np.bool_],
    cfg: Mapping[str, Any],
    device: str = "cpu",
    *,
    deadline_s: float | None = None,
) -> Reconstruct:
    """Fit on the history ``values`` float32[n, t] (``mask``: observed); the last fifth of time stops it early.

    ``deadline_s`` bounds the wall time. Raises ValueError when the history is shorter than two look-backs.
    """
    settings = _settings(cfg)
    length, rows = settings["look_back"], grouped(keys, settings["channels"])
    history = gather(np.where(mask, values, 0.0).astype(np.float32), rows), gather(mask.astype(np.float32), rows)
    span = values.shape[1]
    if span < 2 * length + 10:
        raise ValueError(f"history has {span} slots; a look-back of {length} needs at least {2 * length + 10}")
    split = max(length + 1, int(0.8 * span))
    ends = time.monotonic() + (deadline_s or float("inf"))
    return _fit(build(settings).to(device), history, (split, span), settings, device, ends=ends).cpu().eval()


def _fit(
    model: Reconstruct, history: History, until: tuple[int, int], settings: Mapping[str, Any], device: str, *, ends: float
) -> Reconstruct:
    rng, (split, span), length = np.random.default_rng(settings["seed"]), until, model.look_back
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings["learning_rate"], weight_decay=1e-4)
    held = _draw(history, (split, span), 512, length, np.random.default_rng(1))
    best, kept, strikes = float("inf"), _weights(model), 0
    for step in range(1, settings["steps"] + 1):
        batch = _draw(history, (length, split), settings["batch"], length, rng, drop=settings["drop_channel"])
        loss = _loss(model, batch, device)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        over = step == settings["steps"] or time.monotonic() > ends
        if step % settings["check_every"] and not over:
            continue
        with torch.no_grad():
            held_loss = _loss(model, held, device).item()
        log.info("detector step %d: loss %.4f, held out %.4f", step, loss.item(), held_loss)
        if held_loss < best - 1e-4:
            best, kept, strikes = held_loss, _weights(model), 0
        else:
            strikes += 1
        if over or strikes >= settings["patience"]:
            break
    model.load_state_dict(kept)
    return model


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def export(module: Reconstruct, path: Path) -> dict[str, Any]:
    """Write ONNX with a dynamic batch to ``path``, prove it equals torch at batches 1, 2, 7, 256, return the manifest.

    Raises ValueError when an output differs by more than 1e-4 (relative to 1 or its size).
    """
    module = module.cpu().eval()
    example = _example(module, 3, 0)
    batch = torch.export.Dim.DYNAMIC
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's exporter uses what torch deprecates
        program = torch.onnx.export(
            module,
            example,
            dynamo=True,
            dynamic_shapes=({0: batch}, {0: batch}),
            opset_version=18,
            verbose=False,
            input_names=["values", "mask"],
            output_names=["score", "expected"],
        )
    if program is None:
        raise ValueError("torch returned no ONNX program")
    program.save(str(path), external_data=False)
    return {
        "kind": "detector",
        "look_back": module.look_back,
        "channels": module.channels,
        "inputs": ["values", "mask"],
        "outputs": ["score", "expected"],
        "parity": _parity(module, path),
    }


def _parity(module: Reconstruct, path: Path) -> float:
    import onnxruntime as ort

    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    worst = 0.0
    for size in (1, 2, 7, 256):
        values, mask = _example(module, size, size)
        with torch.no_grad():
            wanted = module(values, mask)
        given = session.run(None, {"values": values.numpy(), "mask": mask.numpy()})
        for want, got in zip(wanted, given, strict=True):
            gap = np.abs(want.numpy() - got) / np.maximum(np.abs(want.numpy()), 1.0)
            worst = max(worst, float(gap.max()))
    if not worst <= 1e-4:
        raise ValueError(f"{path}: ONNX differs from torch by {worst:.2e}; more than 1e-4 is not served")
    return worst


def _example(module: Reconstruct, size: int, seed: int) -> Batch:
    rng = np.random.default_rng(seed)
    shape = size, module.look_back, module.channels
    values = rng.normal(50.0, 10.0, shape).astype(np.float32)
    mask = (rng.random(shape) > 0.05).astype(np.float32)
    return torch.from_numpy(values * mask), torch.from_numpy(mask)


def _draw(
    history: History,
    between: tuple[int, int],
    size: int,
    length: int,
    rng: np.random.Generator,
    *,
    drop: float = 0.0,
) -> Batch:
    """Random windows ending in ``between`` (slots): float32[size, length, C] each; channels go unseen with ``drop``."""
    groups = rng.integers(0, len(history[0]), size)
    ends = rng.integers(between[0], between[1], size) + 1
    at = np.maximum(ends[:, None] - length, 0) + np.arange(length)
    values, mask = (part[groups[:, None], np.minimum(at, part.shape[1] - 1)] for part in history)
    if drop:
        mask = mask * (rng.random((size, 1, mask.shape[2])) >= drop)
    return torch.from_numpy(values.astype(np.float32)), torch.from_numpy(mask.astype(np.float32))


def _loss(model: Reconstruct, batch: Batch, device: str) -> Tensor:
    """Laplace negative log-likelihood of the newest slot, errors clipped so that one outage cannot steer it."""
    values, mask = (part.to(device) for part in batch)
    error, scale, _ = model.predict(values, mask)
    weight = mask[:, -1] * (mask[:, :-1].mean(1) > 0.5)
    size = error.abs().clamp(max=20.0)
    return ((size / scale + scale.log()) * weight).sum() / weight.sum().clamp(min=1.0)


def _settings(cfg: Mapping[str, Any]) -> dict[str, Any]:
    unknown = set(cfg) - set(DEFAULTS)
    if unknown:
        raise ValueError(f"unknown keys {sorted(unknown)}; known are {sorted(DEFAULTS)}")
    return {**DEFAULTS, **cfg}
