"""Which series the demo's fleet sends, and their messages: one message a workload and tick, columns inside.

A workload sends its demand, latency and errors as its front door sees them, and the same per site together with what its
processes say about themselves. The names are encoded once: a tick costs what its numbers cost.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from forecastle.runtime.world_metrics import DEMAND, ERRORS, LATENCY, MEMORY, PAUSES
from forecastle.types import Floats, Ints, Inventory, SeriesKey

FRONT = (DEMAND, LATENCY, ERRORS)
PER_SITE = (ERRORS, LATENCY, MEMORY, PAUSES)
CLOCK = SeriesKey("world", "clock")
"""A series whose samples lie just after a tick: it tells the watermark that everything of the tick has been sent."""
BATCH = 2_000


@dataclass(frozen=True, slots=True)
class Layout:
    """Rows of one workload's columns: ``keys`` and the pool each belongs to ('' for the front door)."""

    workload: str
    keys: tuple[SeriesKey, ...]
    pools: tuple[str, ...]
    names: bytes

    @classmethod
    def of(cls, workload: str, stock: Inventory) -> Layout:
        """The layout of a workload of ``stock``."""
        load = stock.workloads[workload]
        front = [(SeriesKey(workload, load.demands[0].key.metric if m == DEMAND else m), "") for m in FRONT]
        sited = [
            (SeriesKey(workload, metric, (("site", stock.pools[pool].site),)), pool)
            for pool in load.pools
            for metric in PER_SITE
        ]
        keys = tuple(key for key, _ in front + sited)
        return cls(workload, keys, tuple(pool for _, pool in front + sited), _names(keys))

    def message(self, at: int, values: Floats) -> bytes:
        """One tick as a ``json`` batch; rows whose value is NaN were not sent."""
        rows = np.flatnonzero(np.isfinite(values)).tolist()
        body = {"keys": msgspec.Raw(self.names), "key": rows, "at": [at] * len(rows), "value": values[rows].tolist()}
        return msgspec.json.encode(body)

    def messages(self, at: Ints, values: Floats) -> Iterator[tuple[int, bytes]]:
        """Many ticks, ``values`` float64[rows, t], as (record timestamp, message) of up to about `BATCH` samples."""
        ticks = max(BATCH // len(self.keys), 1)
        for start in range(0, len(at), ticks):
            part = values[:, start : start + ticks].T
            when, rows = np.nonzero(np.isfinite(part))
            stamps = at[start : start + ticks][when]
            body = {
                "keys": msgspec.Raw(self.names),
                "key": rows.tolist(),
                "at": stamps.tolist(),
                "value": part[when, rows].tolist(),
            }
            yield int(at[start : start + ticks][-1]), msgspec.json.encode(body)


def layouts(stock: Inventory) -> tuple[Layout, ...]:
    """One per workload, in the inventory's order."""
    return tuple(Layout.of(name, stock) for name in stock.workloads)


def joined(parts: Sequence[Layout]) -> Layout:
    """The whole fleet as one layout, for messages that hold many ticks: a partition's samples must come in order of time."""
    keys = tuple(key for part in parts for key in part.keys)
    return Layout("fleet", keys, tuple(pool for part in parts for pool in part.pools), _names(keys))


def clock_message(tick: int) -> bytes:
    """The sample that closes ``tick`` (ms)."""
    return msgspec.json.encode({"workload": CLOCK.workload, "metric": CLOCK.metric, "labels": {}, "at": tick + 1, "value": 1.0})


def _names(keys: Sequence[SeriesKey]) -> bytes:
    return json.dumps([{"workload": k.workload, "metric": k.metric, "labels": dict(k.labels)} for k in keys]).encode()
