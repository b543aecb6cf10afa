"""History on disk: the long parquet that `forecastle train`, `forecast`, `rehearse` and `publish` read."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np

from forecastle.errors import ConfigError
from forecastle.types import Samples


def write_history(samples: Samples, path: Path) -> int:
    """Write ``samples`` by time and series; returns how many. Raises ConfigError where ``path`` cannot be written.

    Columns: ``timestamp`` (UTC, ms), ``value``, ``workload``, ``metric``, ``labels`` (JSON text) and ``series_id``, the series
    as one text. The file is replaced whole or not at all.
    """
    import pyarrow as pa
    from pyarrow import parquet

    keys = samples.keys
    names = [str(key) for key in keys]
    rank = np.argsort(np.argsort(np.array(names, object), kind="stable"))
    order = np.lexsort((rank[samples.index], samples.at))
    index = pa.array(samples.index[order], pa.int32())

    def column(texts: list[str]) -> pa.Array:
        return pa.DictionaryArray.from_arrays(index, pa.array(texts, pa.string()))

    table = pa.table(
        {
            "timestamp": pa.array(samples.at[order], pa.timestamp("ms", "UTC")),
            "value": pa.array(samples.value[order], pa.float64()),
            "workload": column([key.workload for key in keys]),
            "metric": column([key.metric for key in keys]),
            "labels": column([msgspec.json.encode(dict(key.labels)).decode() for key in keys]),
            "series_id": column(names),
        }
    )
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(table, draft, compression="zstd")
        draft.replace(path)
    except OSError as error:
        with suppress(OSError):
            draft.unlink()
        raise ConfigError(f"{path}: cannot be written ({error.strerror or error}); choose another --out") from error
    return len(samples)
