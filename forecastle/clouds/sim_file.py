"""The simulated cloud's memory: one SQLite file that processes share, each through its own connection."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import RLock

import msgspec

from forecastle.clouds.sim_pool import SimPool
from forecastle.errors import CloudUnavailable, ConfigError
from forecastle.types import Action

BUSY_S = 10.0
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS pools (name TEXT PRIMARY KEY, state TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS orders (token TEXT PRIMARY KEY, pool TEXT, at INTEGER, kind TEXT, desired)",
)
_decode: Callable[[str], SimPool] = msgspec.json.Decoder(SimPool).decode


class SimFile:
    """Pools by name and the orders that were accepted, each token once. Several threads take turns.

    Every method raises CloudUnavailable when the file cannot be had within `BUSY_S` seconds, ConfigError when it is another
    kind of file.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._turn = RLock()  # the connection has one transaction at a time
        with self._translated():
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
            if self._db.execute("PRAGMA journal_mode").fetchone() != ("wal",):
                self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
        with self.writing():
            for statement in _SCHEMA:
                self._db.execute(statement)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """One transaction that nobody else writes during; nothing of it stays when the block raises."""
        with self._turn, self._translated():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def pool(self, name: str) -> SimPool | None:
        """The pool as it is now, None when there never was one."""
        with self._turn, self._translated():
            row = self._db.execute("SELECT state FROM pools WHERE name = ?", (name,)).fetchone()
            return _decode(row[0]) if row else None

    def pools(self) -> list[SimPool]:
        """Every pool there is, by name, at one moment."""
        with self._turn, self._translated():
            every = [_decode(state) for (state,) in self._db.execute("SELECT state FROM pools ORDER BY name")]
            return [pool for pool in every if not pool.removed_at]

    def save(self, pool: SimPool) -> None:
        """Keep the pool's new state; inside ``writing``."""
        self._db.execute("INSERT OR REPLACE INTO pools VALUES (?, ?)", (pool.name, msgspec.json.encode(pool).decode()))

    def used(self, token: str) -> bool:
        """Whether an order with this token was accepted."""
        return self._db.execute("SELECT 1 FROM orders WHERE token = ?", (token,)).fetchone() is not None

    def accept(self, token: str, action: Action, at: int) -> None:
        """Write the order down; inside ``writing``, with the effect."""
        row = (token, action.pool, at, action.kind.value, action.desired)
        self._db.execute("INSERT INTO orders VALUES (?, ?, ?, ?, ?)", row)

    def close(self) -> None:
        """Close the connection. Idempotent."""
        self._db.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.ProgrammingError:  # ours: used after close, or inside out
            raise
        except (sqlite3.OperationalError, OSError) as error:
            raise CloudUnavailable(f"sim cloud {self.path}: {error}") from error
        except (sqlite3.DatabaseError, msgspec.DecodeError) as error:
            raise ConfigError(f"sim cloud {self.path}: {error}; give `path` a file of its own") from error
