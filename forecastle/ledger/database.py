"""One way to a transaction, on SQLite and on PostgreSQL, whose failure always means the same: no record, so no action.

Writers are serialised across processes (SQLite's write lock, an advisory lock in PostgreSQL), because each entry's hash
needs the one before it. ``durable`` transactions reach the disk before they return; the others survive the death of the
process but the last of them may be lost with the machine, and are repeated from the log.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Table, create_engine, event, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import StaticPool

from forecastle.errors import ConfigError, StoreUnavailable
from forecastle.ledger.schema import metadata

APPEND_LOCK = 0x666F7265  # the advisory lock's key: 'fore'
WAIT_S = 10
_TURN = f"""select set_config('lock_timeout', '{{wait_ms}}', true),
 set_config('idle_in_transaction_session_timeout', '{{wait_ms}}', true), pg_advisory_xact_lock({APPEND_LOCK})"""
"""A writer waits no longer for its turn, and one that stands still inside its own loses it: nobody is stopped for ever."""


class Database:
    """The engine behind the ledger. Raises StoreUnavailable whenever the database cannot do what was asked."""

    def __init__(self, url: str) -> None:
        self._engine = _engine(url)
        self._sqlite = self._engine.dialect.name == "sqlite"
        self._mine = threading.local()  # .conn: this thread's transaction inside `write`; .watch: its connection in `watching`
        with self.write() as conn:
            metadata.create_all(conn)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that changes nothing and waits for nobody; inside a `write` of this thread it is that one."""
        if (mine := getattr(self._mine, "conn", None) or getattr(self._mine, "watch", None)) is not None:
            with _available():
                yield mine
            return
        with _available(), self._engine.connect() as conn:
            yield conn

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Spares the reads of this thread inside their transactions; each of them still sees all that is committed by then."""
        if self._sqlite:  # there a transaction costs nothing, and its end is what shows the next read what is new
            yield
            return
        with _available(), self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
            self._mine.watch = conn
            try:
                yield
            finally:
                self._mine.watch = None

    @contextmanager
    def write(self, *, durable: bool = True) -> Iterator[Connection]:
        """The only writer's transaction: commits at the end, rolls back on any error. IntegrityError passes through."""
        with _available(), self._engine.connect() as conn:
            if self._sqlite:
                conn.execution_options(forecastle_write="FULL" if durable else "NORMAL")  # changes conn itself
            with conn.begin():
                if not self._sqlite:
                    conn.exec_driver_sql(_TURN.format(wait_ms=WAIT_S * 1000))
                    if not durable:
                        conn.exec_driver_sql("set local synchronous_commit = off")
                self._mine.conn = conn
                try:
                    yield conn
                finally:
                    self._mine.conn = None

    def close(self) -> None:
        """Release the connections. Idempotent."""
        self._engine.dispose()


def inserting(conn: Connection, table: Table) -> sqlite.Insert | postgresql.Insert:
    """An INSERT that can say what to do on a conflict; both databases say it alike."""
    return sqlite.insert(table) if conn.dialect.name == "sqlite" else postgresql.insert(table)


@contextmanager
def _available() -> Iterator[None]:
    try:
        yield
    except IntegrityError:
        raise
    except (DBAPIError, PoolTimeout, OSError) as error:
        raise StoreUnavailable(f"the ledger's database cannot record: {error}; check ledger.url and the disk") from error


def _engine(url: str) -> Engine:
    try:
        parsed = make_url(url)
    except Exception as error:
        raise ConfigError(f"ledger.url: {url!r} is no SQLAlchemy URL; write sqlite:///folder/ledger.db") from error
    if parsed.get_backend_name() == "sqlite":
        return _sqlite_engine(parsed)
    if parsed.get_backend_name() == "postgresql":
        if "+" not in parsed.drivername:
            parsed = parsed.set(drivername="postgresql+psycopg")
        return create_engine(parsed, pool_pre_ping=True, pool_timeout=WAIT_S, connect_args=_patience())
    raise ConfigError(f"ledger.url: {parsed.get_backend_name()} is not supported; use sqlite or postgresql")


def _patience() -> dict[str, int]:
    """Connection parameters by which a server that vanished without a word is missed in seconds instead of hours."""
    lost_ms = 3 * WAIT_S * 1000
    silence = {"keepalives_idle": WAIT_S, "keepalives_interval": WAIT_S, "keepalives_count": 2, "tcp_user_timeout": lost_ms}
    return {"connect_timeout": WAIT_S, **silence}


def _sqlite_engine(url: URL) -> Engine:
    memory = url.database in (None, "", ":memory:")
    if memory:
        engine = create_engine(url, poolclass=StaticPool, connect_args={"check_same_thread": False})
    else:
        with _available():
            Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(url, connect_args={"timeout": WAIT_S})

    @event.listens_for(engine, "connect")
    def opened(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # transactions begin where we say, not where the driver guesses
        connection.execute("pragma journal_mode = wal")

    @event.listens_for(engine, "begin")
    def begins(conn: Connection) -> None:
        level = conn.get_execution_options().get("forecastle_write")
        if level is not None:
            conn.exec_driver_sql(f"pragma synchronous = {level}")
        conn.exec_driver_sql("begin immediate" if level is not None else "begin")

    return engine
