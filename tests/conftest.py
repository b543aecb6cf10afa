"""Fixtures that every room may need: a real broker, and topic names nobody else uses."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from forecastle.runtime.broker import LocalBroker

_numbers = itertools.count()


@pytest.fixture(scope="session")
def broker() -> Iterator[LocalBroker]:
    """One Kafka broker for the whole session, on a free loopback port."""
    with tempfile.TemporaryDirectory(prefix="forecastle-broker-") as folder, LocalBroker(Path(folder)) as running:
        yield running


@pytest.fixture
def topic_name() -> Callable[[str], str]:
    """Makes topic and group names that no other test of this session uses."""
    return lambda stem: f"{stem}-{os.getpid()}-{next(_numbers)}"
