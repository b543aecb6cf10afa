"""A small fleet, a strict cloud and a real ledger for tests of the executor."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for act_worlds


@pytest.fixture
def world() -> Iterator[object]:
    """Three replicas at each of two sites, in auto mode."""
    from act_worlds import World

    with World() as made:
        yield made
