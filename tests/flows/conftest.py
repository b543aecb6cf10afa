"""One Prefect server for all tests that run flows in their own process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prefect.testing.utilities import prefect_test_harness


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A real server with a database of its own."""
    with prefect_test_harness(server_startup_timeout=120):
        yield
