"""Series get small numbers, so that the per-sample path handles integers and never builds or hashes a `SeriesKey`.

Every limit on names and labels is checked here, once per distinct series, whatever the wire format.
"""

from __future__ import annotations

from collections.abc import Iterable

from forecastle.errors import Malformed
from forecastle.types import SeriesKey

MAX_NAME = 256
MAX_LABELS = 32
MAX_VALUE = 1024
TENANT = "tenant"


class SeriesTable:
    """Append-only: number i is ``keys[i]`` for the life of the table.

    Each tenant (the label ``tenant``, none being one as well) may have ``max_series``, all of them together ``max_total``
    (default: as many). Beyond, new series are refused; those that are known go on.
    """

    def __init__(self, max_series: int, max_total: int | None = None) -> None:
        self.max_series = max_series
        self.max_total = max_series if max_total is None else max_total
        self._tenants: dict[str, int] = {}
        self._numbers: dict[SeriesKey, int] = {}
        self._keys: tuple[SeriesKey, ...] = ()

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def keys(self) -> tuple[SeriesKey, ...]:
        """All series in order of number; the same tuple object until a series is added."""
        if len(self._keys) != len(self._numbers):
            self._keys = tuple(self._numbers)
        return self._keys

    def number(self, workload: str, metric: str, labels: Iterable[tuple[str, str]] = ()) -> int:
        """Number of the series.

        Raises Malformed: ``empty_name``, ``name_too_long``, ``too_many_labels``, ``label_too_long``, ``duplicate_label`` or
        ``too_many_series``.
        """
        pairs = tuple(sorted(labels))
        key = SeriesKey(workload, metric, pairs)
        known = self._numbers.get(key)
        if known is not None:
            return known
        _check_names(workload, metric)
        _check_labels(pairs)
        self._admit(key.label(TENANT))
        self._numbers[key] = len(self._numbers)
        return len(self._numbers) - 1

    def _admit(self, tenant: str) -> None:
        mine = self._tenants.get(tenant, 0)
        if mine >= self.max_series:
            raise Malformed("too_many_series", f"tenant '{tenant[:100]}' has more than intake.max_series={self.max_series}")
        if len(self._numbers) >= self.max_total:
            raise Malformed("too_many_series", f"all tenants have more than intake.max_series_total={self.max_total}")
        self._tenants[tenant] = mine + 1


def _check_names(workload: str, metric: str) -> None:
    for what, name in (("workload", workload), ("metric", metric)):
        if not name or name.isspace():
            raise Malformed("empty_name", what)
        if len(name) > MAX_NAME:
            raise Malformed("name_too_long", f"{what} has {len(name)} characters, {MAX_NAME} are allowed")


def _check_labels(pairs: tuple[tuple[str, str], ...]) -> None:
    if len(pairs) > MAX_LABELS:
        raise Malformed("too_many_labels", f"{len(pairs)} labels, {MAX_LABELS} are allowed")
    if len({name for name, _ in pairs}) != len(pairs):
        raise Malformed("duplicate_label", ", ".join(name for name, _ in pairs)[:200])
    for name, value in pairs:
        if not name:
            raise Malformed("empty_name", "label")
        if len(name) > MAX_NAME or len(value) > MAX_VALUE:
            raise Malformed("label_too_long", name[:100])
