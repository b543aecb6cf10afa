"""One trained tiny forecaster for all tests that only look at one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from training_worlds import END, TINY, waves

from models.patch_mixer import PatchMixer, train


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def trained() -> tuple[PatchMixer, dict[str, Any]]:
    """Trained on all but the last 100 slots of `waves`, with its metrics."""
    return train(TINY, [w[:-100] for w in waves()], [END - 100] * 4, progress=False)
