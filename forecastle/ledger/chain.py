"""The hash chain: whoever changes, removes or inserts an entry breaks every hash after it.

Someone who can rewrite the whole database can rewrite the whole chain. The witness, a file that receives the head after
each append and belongs on another machine's disk, is what they cannot rewrite.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypedDict

from sqlalchemy import Connection, select

from forecastle.errors import LedgerCorrupt, StoreUnavailable
from forecastle.ledger.codec import entry_hash
from forecastle.ledger.schema import entries

GENESIS = "0" * 64
Head = tuple[int, str]


def head(conn: Connection) -> Head:
    """Sequence number and hash of the last entry; (0, zeros) before the first."""
    row = conn.execute(select(entries.c.seq, entries.c.hash).order_by(entries.c.seq.desc()).limit(1)).one_or_none()
    return (row.seq, row.hash) if row is not None else (0, GENESIS)


class Row(TypedDict):
    """One row of ``entries``."""

    seq: int
    at: int
    kind: str
    body: str
    prev: str
    hash: str


def link(last: Head, at: int, kind: str, body: str) -> Row:
    """The entry that follows ``last``."""
    seq, previous = last[0] + 1, last[1]
    linked = entry_hash(previous, seq, at, kind, body)
    return {"seq": seq, "at": at, "kind": kind, "body": body, "prev": previous, "hash": linked}


class Witness:
    """The off-box file: a line ``seq hash`` per append. An empty path keeps no witness. Raises StoreUnavailable."""

    def __init__(self, path: str) -> None:
        self._path = Path(path) if path else None

    @property
    def kept(self) -> bool:
        """Whether there is one."""
        return self._path is not None

    def note(self, new: Head) -> None:
        """Append the head, durably. Called after a durable commit, so it may lag one crash behind, never lead."""
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a+b", buffering=0) as file:
                if file.tell() and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n":
                    file.write(b"\n")  # the last writer died in mid-line
                file.write(f"{new[0]} {new[1]}\n".encode())
                os.fsync(file.fileno())
        except OSError as error:
            raise StoreUnavailable(f"the witness {self._path} cannot be written: {error}; check ledger.witness") from error

    def heads(self) -> dict[int, str]:
        """Every head ever noted. Lines cut short by a crash are skipped; two hashes for one entry raise LedgerCorrupt."""
        if self._path is None or not self._path.exists():
            return {}
        found: dict[int, str] = {}
        for line in self._path.read_text(encoding="ascii", errors="replace").splitlines():
            seq, _, value = line.partition(" ")
            if seq.isdigit() and len(value) == len(GENESIS) and found.setdefault(int(seq), value) != value:
                raise LedgerCorrupt(f"the witness {self._path} saw two different entries {seq}: the ledger was rewritten")
        return found


def verify(conn: Connection, witness: Witness) -> int:
    """Recompute the chain and compare it with the witness. Returns the number of entries; raises LedgerCorrupt."""
    noted, previous, count = witness.heads(), GENESIS, 0
    with conn.execute(select(entries).order_by(entries.c.seq).execution_options(yield_per=2000)) as rows:
        for row in rows:
            count += 1
            if row.seq != count:
                raise LedgerCorrupt(f"entry {count} is missing from the ledger: stop acting and compare with a backup")
            if row.prev != previous or row.hash != entry_hash(previous, row.seq, row.at, row.kind, row.body):
                raise LedgerCorrupt(f"entry {count} was changed after it was written: stop acting and compare with a backup")
            if noted.get(count, row.hash) != row.hash:
                raise LedgerCorrupt(f"entry {count} is not the one the witness saw: the ledger was rewritten")
            previous = row.hash
    if noted and max(noted) > count:
        raise LedgerCorrupt(f"the witness saw entry {max(noted)} but the ledger ends at {count}: entries were cut off")
    return count
