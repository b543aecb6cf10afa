"""What an agent must not forget: the orders it took, what came of them, how far it has read, and what it has yet to tell.

One SQLite file, synced at every commit: an order is in it before its effect and its answer after it, and an answer is there
until the link took it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec

from forecastle.clouds.edge_messages import Order
from forecastle.errors import StoreUnavailable
from forecastle.types import Observed

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS numbers (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
    """CREATE TABLE IF NOT EXISTS orders (token TEXT PRIMARY KEY, sequence INTEGER NOT NULL, body BLOB NOT NULL, before BLOB,
       answer BLOB, expires_at INTEGER NOT NULL)""",
    "CREATE TABLE IF NOT EXISTS letters (id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, value BLOB NOT NULL)",
)
MOST_REFUSED = 100
KEPT_MS = 7 * 86_400_000
_SEQUENCE, _NUMBER, _LATEST = "sequence", "number", "latest"


class Open(NamedTuple):
    """An order whose effect is not known yet, and the pool before it."""

    order: Order
    before: Observed | None


class AgentBook:
    """The agent's memory in ``path``. Every method raises StoreUnavailable: then nothing may be done."""

    def __init__(self, path: str) -> None:
        with self._translated():
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=10.0, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            for statement in _SCHEMA:
                self._db.execute(statement)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """One transaction: all of the block is kept, or nothing."""
        with self._translated():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def position(self, partition: int) -> int | None:
        """The offset that is read next, None before the first record."""
        return self._number(f"partition {partition}")

    def move(self, partition: int, offset: int) -> None:
        """The record at ``offset`` was dealt with; inside ``writing``."""
        self._set(f"partition {partition}", offset + 1)

    @property
    def sequence(self) -> int:
        """The largest number of an order that was taken."""
        return self._number(_SEQUENCE) or 0

    @property
    def latest(self) -> int:
        """The newest time (ms) at which control is known to have given an order: no clock here is behind it."""
        return self._number(_LATEST) or 0

    def next_number(self) -> int:
        """The number of the next message; inside ``writing``."""
        number = (self._number(_NUMBER) or 0) + 1
        self._set(_NUMBER, number)
        return number

    def take(self, order: Order, before: Observed | None) -> None:
        """The order is about to have its effect, or to be refused; inside ``writing``."""
        packed = msgspec.json.encode(before) if before is not None else None
        row = (order.token, order.sequence, msgspec.json.encode(order), packed, order.expires_at)
        self._db.execute("INSERT INTO orders (token, sequence, body, before, expires_at) VALUES (?, ?, ?, ?, ?)", row)

    def number(self, order: Order) -> None:
        """No order with this number or a smaller one is taken any more; inside ``writing``."""
        self._set(_SEQUENCE, max(order.sequence, self.sequence))
        self._set(_LATEST, max(order.issued_at, self.latest))

    def end(self, token: str, answer: bytes) -> None:
        """The order has ended and the answer is to be told; inside ``writing``."""
        self._db.execute("UPDATE orders SET answer = ? WHERE token = ?", (answer, token))
        self.tell("answer", answer)

    def taken(self, token: str) -> bool:
        """Whether an order with this token was taken."""
        with self._translated():
            return self._db.execute("SELECT 1 FROM orders WHERE token = ?", (token,)).fetchone() is not None

    def answer(self, token: str) -> bytes | None:
        """How the order ended; None while it has not."""
        with self._translated():
            row = self._db.execute("SELECT answer FROM orders WHERE token = ?", (token,)).fetchone()
        return bytes(row[0]) if row and row[0] is not None else None

    def unfinished(self) -> list[Open]:
        """Orders that were taken and have not ended, oldest first."""
        with self._translated():
            rows = self._db.execute("SELECT body, before FROM orders WHERE answer IS NULL ORDER BY sequence").fetchall()
        seen = [msgspec.json.decode(before, type=Observed) if before is not None else None for _, before in rows]
        return [Open(msgspec.json.decode(body, type=Order), known) for (body, _), known in zip(rows, seen, strict=True)]

    def tell(self, kind: str, value: bytes) -> None:
        """Queue a message; of ``sight`` only the newest is kept, of ``refused`` the newest 100; inside ``writing``."""
        if kind == "sight":
            self._db.execute("DELETE FROM letters WHERE kind = ?", (kind,))
        self._db.execute("INSERT INTO letters (kind, value) VALUES (?, ?)", (kind, value))
        if kind == "refused":
            kept = "SELECT id FROM letters WHERE kind = ? ORDER BY id DESC LIMIT ?"
            self._db.execute(f"DELETE FROM letters WHERE kind = ? AND id NOT IN ({kept})", (kind, kind, MOST_REFUSED))  # noqa: S608

    def letters(self, most: int = 100) -> list[tuple[int, bytes]]:
        """What is to be told, oldest first, by id."""
        with self._translated():
            rows = self._db.execute("SELECT id, value FROM letters ORDER BY id LIMIT ?", (most,)).fetchall()
        return [(int(number), bytes(value)) for number, value in rows]

    def told(self, numbers: list[int]) -> None:
        """The link has these."""
        with self.writing():
            self._db.executemany("DELETE FROM letters WHERE id = ?", [(number,) for number in numbers])

    def forget(self, now: int) -> None:
        """Drop what ended and expired a week ago; its number alone keeps it from being taken again."""
        with self.writing():
            self._db.execute("DELETE FROM orders WHERE answer IS NOT NULL AND expires_at < ?", (now - KEPT_MS,))

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._db.close()

    def _number(self, name: str) -> int | None:
        with self._translated():
            row = self._db.execute("SELECT value FROM numbers WHERE name = ?", (name,)).fetchone()
        return int(row[0]) if row else None

    def _set(self, name: str, value: int) -> None:
        self._db.execute("INSERT OR REPLACE INTO numbers VALUES (?, ?)", (name, value))

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.ProgrammingError:  # ours: used after close
            raise
        except (sqlite3.Error, OSError) as error:
            raise StoreUnavailable(f"the agent's memory: {type(error).__name__}: {error}") from error
