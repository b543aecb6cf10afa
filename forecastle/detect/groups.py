"""Which series are judged together: the metrics of one workload at one site, in fixed-size groups.

Training and serving lay out channels with the same function, so they cannot differ.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from forecastle.types import SeriesKey


def grouped(keys: Sequence[SeriesKey], channels: int) -> npt.NDArray[np.intp]:
    """Rows of ``keys`` as groups int[g, channels] by workload and site, -1 where a group is not full.

    Within a group by metric, then labels; more series than ``channels`` make several groups.
    """
    order = sorted(range(len(keys)), key=lambda i: (keys[i].workload, keys[i].label("site"), keys[i].metric, keys[i].labels))
    groups: list[list[int]] = []
    owner: tuple[str, str] | None = None
    for i in order:
        place = keys[i].workload, keys[i].label("site")
        if place != owner or len(groups[-1]) == channels:
            groups.append([])
            owner = place
        groups[-1].append(i)
    rows = np.full((len(groups), channels), -1, np.intp)
    for g, members in enumerate(groups):
        rows[g, : len(members)] = members
    return rows


def gather(values: npt.NDArray[np.float32], rows: npt.NDArray[np.intp]) -> npt.NDArray[np.float32]:
    """``values`` float32[n, t] as float32[g, t, channels]; zero where there is no series or no number."""
    taken = np.nan_to_num(values[np.maximum(rows, 0)], nan=0.0, posinf=0.0, neginf=0.0)
    taken[rows < 0] = 0.0
    return np.ascontiguousarray(taken.transpose(0, 2, 1), np.float32)
