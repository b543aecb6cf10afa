"""Weights in a file: what pretraining leaves behind, and what a training with ``init`` starts from.

The file is a checkpoint of `models.checkpoint` without an optimizer: plain arrays, never code.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from forecastle.errors import ConfigError
from models.checkpoint import UNREADABLE, TrainingState, read, save


def write_weights(path: Path, model: nn.Module, facts: Mapping[str, Any]) -> None:
    """The weights of ``model`` with JSON-able ``facts`` about them."""
    save(path, TrainingState(dict(facts), model.state_dict(), {}, {}))


def start_from(path: Path, model: nn.Module) -> None:
    """Give ``model`` the weights at ``path``, of a checkpoint those that were best.

    What a model derives from its configuration (its buffers) stays its own. Raises ConfigError, and changes nothing, when the
    file cannot be read or is of a model of another shape.
    """
    try:
        state = read(path)
    except UNREADABLE as error:
        raise ConfigError(
            f"init: {path}: holds no weights ({error}); 'forecastle pretrain' writes such a file, init: '' does without"
        ) from error
    given, own = state.kept or state.weights, dict(model.named_parameters())
    wrong = [
        f"{name} is {list(given[name].shape) if name in given else 'missing'}, needed is {list(one.shape)}"
        for name, one in own.items()
        if name not in given or given[name].shape != one.shape
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ConfigError(
            f"init: {path}: is of another shape: {'; '.join(wrong[:3])}{more}; "
            "pretrain with the parameters of this file, or init: '' to do without"
        )
    if not all(torch.isfinite(given[name]).all() for name in own):
        raise ConfigError(f"init: {path}: holds weights that are not finite; pretrain again, or init: '' to do without")
    with torch.no_grad():
        for name, one in own.items():
            one.copy_(given[name])
