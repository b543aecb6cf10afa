"""Receivers that tests of outlets talk to, and the way to the turns they are told."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for outlet_worlds


@pytest.fixture
def receiver() -> Iterator[object]:
    """A receiver of webhooks on the loopback."""
    from outlet_worlds import HookReceiver

    made = HookReceiver()
    made.thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    made.thread.join()
