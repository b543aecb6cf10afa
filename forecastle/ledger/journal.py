"""What every part of the ledger stands on: a transaction that changes state and says so in the chain, or does neither."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from sqlalchemy import Connection, insert

from forecastle.ledger import chain
from forecastle.ledger.codec import encode
from forecastle.ledger.database import Database
from forecastle.ledger.schema import entries
from forecastle.ports import Clock
from forecastle.settings import LedgerSettings


class Entries:
    """The chain as seen from inside one transaction. What was added is in the table from `flush` on."""

    def __init__(self, conn: Connection, now: int) -> None:
        self.conn = conn
        self.now = now
        self.head: chain.Head | None = None
        self._rows: list[chain.Row] = []

    def add(self, kind: str, body: str | dict[str, object], at: int | None = None) -> int:
        """Append one entry at ``at`` (ms; default: the transaction's time). Returns its sequence number."""
        text = body if isinstance(body, str) else encode(body)
        row = chain.link(self.head or chain.head(self.conn), self.now if at is None else at, kind, text)
        self._rows.append(row)
        self.head = row["seq"], row["hash"]
        return self.head[0]

    def flush(self) -> None:
        """Write what was added, all at once."""
        if self._rows:
            self.conn.execute(insert(entries), self._rows)
            self._rows = []


class Journal:
    """Database, witness and clock of one ledger. Raises StoreUnavailable when nothing can be recorded."""

    def __init__(self, settings: LedgerSettings, clock: Clock) -> None:
        self.settings = settings
        self.clock = clock
        self.database = Database(settings.url)
        self.witness = chain.Witness(settings.witness)
        self._mine = threading.local()  # .entries: of the group that this thread is in

    @contextmanager
    def together(self) -> Iterator[None]:
        """What this thread reads and writes inside is one durable transaction: all of it is recorded at the end, or nothing.

        A call that is refused inside (Conflict, Denied, NotFound) has written nothing and spoils nothing. Others wait for the
        end: do nothing slow inside.
        """
        with self.writing() as entries:
            self._mine.entries = entries
            try:
                yield
            finally:
                self._mine.entries = None

    def watching(self) -> AbstractContextManager[None]:
        """For many reads of this thread in a row, each of which has to see what others have committed until then."""
        return self.database.watching()

    @contextmanager
    def writing(self, *, durable: bool = True) -> Iterator[Entries]:
        """State changes and their entries, all or nothing; the witness learns the new head after the commit.

        With a witness all of it is durable: a head that the database can still lose would look like a ledger cut short.
        """
        durable = durable or self.witness.kept
        if (mine := getattr(self._mine, "entries", None)) is not None:
            yield mine
            return
        with self.database.write(durable=durable) as conn:
            entries = Entries(conn, self.clock.now())
            yield entries
            entries.flush()
        if entries.head is not None:
            self.witness.note(entries.head)

    def verify(self) -> int:
        """Recompute the whole chain and compare it with the witness. Returns its length; raises LedgerCorrupt."""
        with self.database.read() as conn:
            return chain.verify(conn, self.witness)

    def close(self) -> None:
        """Release the database. Idempotent."""
        self.database.close()
