"""The memory of the windows: one float32 and one bit-sized flag per series and slot, in a ring that never moves its data.

10,000 series x 2,016 slots are 101 MB here; a dictionary of lists would be forty times that. Rows grow geometrically.
"""

from __future__ import annotations

import numpy as np

from forecastle.types import Floats32, Ints, Mask

FIRST_ROWS = 256


class Ring:
    """``columns`` slots for each of a growing number of rows. A slot is a step number (event time // step)."""

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.newest: int | None = None
        self._values: Floats32 = np.empty((0, columns), np.float32)
        self._mask: Mask = np.zeros((0, columns), np.bool_)

    def grow(self, rows: int) -> None:
        """Make room for ``rows`` rows; new ones are all gaps."""
        have = len(self._mask)
        if rows <= have:
            return
        capacity = max(rows, have + have // 2, FIRST_ROWS)
        values = np.empty((capacity, self.columns), np.float32)  # pages stay untouched, and unpaid for, until written
        values[:have] = self._values
        self._values = values
        mask = np.zeros((capacity, self.columns), np.bool_)
        mask[:have] = self._mask
        self._mask = mask

    def advance(self, slot: int) -> None:
        """Open ``slot`` as the newest; slots that fall out are cleared."""
        if self.newest is None or slot - self.newest >= self.columns:
            self._mask[:] = False
        else:
            for passed in range(self.newest + 1, slot + 1):
                self._mask[:, passed % self.columns] = False
        self.newest = slot if self.newest is None else max(slot, self.newest)

    def holds(self, slot: int) -> bool:
        """Whether ``slot`` is within the ring now."""
        return self.newest is not None and self.newest - self.columns < slot <= self.newest

    def fill(self, slot: int, rows: Ints, values: Floats32) -> None:
        """Write ``values`` of ``rows`` where the slot is still a gap; what was folded once is never changed."""
        column = slot % self.columns
        free = ~self._mask[rows, column]
        self._values[rows[free], column] = values[free]
        self._mask[rows[free], column] = True

    def clear(self, rows: Ints) -> None:
        """Make all slots of ``rows`` gaps."""
        self._mask[rows] = False

    def read(self, rows: Ints, columns: int) -> tuple[Floats32, Mask]:
        """The newest ``columns`` slots of ``rows`` by time, copied once: float32[n, columns] with NaN in the gaps, bool."""
        newest = -1 if self.newest is None else self.newest
        values = np.empty((len(rows), columns), np.float32)
        mask = np.empty((len(rows), columns), np.bool_)
        start = (newest - columns + 1) % self.columns
        first = min(columns, self.columns - start)
        values[:, :first] = self._values[rows, start : start + first]
        mask[:, :first] = self._mask[rows, start : start + first]
        if first < columns:
            values[:, first:] = self._values[rows, : columns - first]
            mask[:, first:] = self._mask[rows, : columns - first]
        np.copyto(values, np.float32(np.nan), where=~mask)
        return values, mask
