"""A simulated provider in a file of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for cloud_worlds


@pytest.fixture
def opening(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Opens the provider of a name with the faults given; the same name is the same provider."""
    from cloud_worlds import START, Sim

    from forecastle.clouds.sim import open_cloud
    from forecastle.clouds.sim_world import SimWorld
    from forecastle.runtime.clocks import EventClock

    opened: list[Sim] = []

    def open_sim(provider: str = "sim", **options: float) -> Sim:
        clock, path = EventClock(START), str(tmp_path / "deep" / f"{provider}.db")
        opened.append(Sim(open_cloud(clock=clock, path=path, **options), SimWorld(path), clock, path))
        return opened[-1]

    yield open_sim
    for sim in opened:
        sim.cloud.close()
        sim.world.close()


@pytest.fixture
def sim(opening: Callable[..., Any]) -> Any:
    """A provider without faults."""
    return opening()
