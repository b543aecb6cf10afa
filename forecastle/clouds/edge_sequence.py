"""The numbers of the orders for one site: each larger than any before, whatever becomes of the process or of its clock."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from forecastle.errors import CloudUnavailable, ConfigError


class Sequence:
    """A counter in the file ``path``, shared by processes. It starts at the time of day, so that a lost file does no harm."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)

    def next(self, now: int) -> int:
        """The next number, durable before it is used. Raises CloudUnavailable, or ConfigError for a file of somebody else."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with os.fdopen(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600), "r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                number = max(int(file.read() or 0) + 1, now)
                file.seek(0)
                file.write(f"{number:020d}\n")  # always as long, so that it is replaced in one piece
                file.flush()
                os.fsync(file.fileno())
        except ValueError:
            raise ConfigError(f"edge: {self._path} holds no number; give `sequence` a file of its own") from None
        except OSError as error:
            raise CloudUnavailable(f"edge: cannot number an order in {self._path}: {error.strerror}") from error
        return number
