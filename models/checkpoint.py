"""A training that was killed goes on where it was: its whole state in one file of plain arrays, replaced in one step.

The file is npz without pickled objects: what is read back can hold numbers and text, never code.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)
_FACTS = "facts"
UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)
"""What reading a file that is no checkpoint raises."""


@dataclass(frozen=True, slots=True)
class TrainingState:
    """``facts`` is JSON-able; ``weights`` are the newest, ``kept`` the best so far, ``moments`` the optimizer's."""

    facts: dict[str, Any]
    weights: dict[str, Tensor]
    kept: dict[str, Tensor]
    moments: dict[str, Tensor]


def fingerprint(*parts: npt.NDArray[Any] | Mapping[str, Any]) -> str:
    """What a checkpoint belongs to: 16 hex digits of the data and the configuration."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype}{part.shape}".encode())
            digest.update(np.ascontiguousarray(part).tobytes())
        else:
            digest.update(json.dumps(dict(part), sort_keys=True, default=list).encode())
    return digest.hexdigest()[:16]


def save(path: Path, state: TrainingState) -> None:
    """Write ``state``; a reader or a crash sees the old file or the new one."""
    arrays = {_FACTS: np.frombuffer(json.dumps(state.facts).encode(), np.uint8)}
    for kind in ("weights", "kept", "moments"):
        arrays |= {f"{kind}/{name}": value.detach().cpu().numpy() for name, value in getattr(state, kind).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with draft.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def restore(path: Path, belongs_to: str) -> TrainingState | None:
    """The state at ``path``; None when there is none, it cannot be read, or it is of another ``fingerprint``."""
    try:
        state = read(path)
    except FileNotFoundError:
        return None
    except UNREADABLE as error:
        log.warning("%s: is no checkpoint (%s); training starts anew", path, error)
        return None
    if state.facts.get("fingerprint") != belongs_to:
        log.warning("%s: is of other data or parameters; training starts anew", path)
        return None
    return state


def read(path: Path) -> TrainingState:
    """The state at ``path``, whatever it belongs to. Raises one of `UNREADABLE`."""
    with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
        facts = json.loads(file[_FACTS].tobytes())
        return TrainingState(facts, **{kind: _tensors(file, f"{kind}/") for kind in ("weights", "kept", "moments")})


def moments(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The optimizer's state as tensors named ``parameter/key``."""
    return {
        f"{name}/{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def set_moments(optimizer: torch.optim.Optimizer, model: nn.Module, told: Mapping[str, Tensor]) -> None:
    """The reverse of `moments`, on the device of each parameter; the step count stays where the optimizer keeps it."""
    for name, parameter in model.named_parameters():
        own = {key.removeprefix(f"{name}/"): value for key, value in told.items() if key.rpartition("/")[0] == name}
        if own:
            optimizer.state[parameter] = {
                key: value.clone() if key == "step" else value.to(parameter.device) for key, value in own.items()
            }


def _tensors(file: Any, prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): torch.from_numpy(file[name].copy()) for name in file.files if name.startswith(prefix)}
