"""How flat labels become a series: Prometheus, Telegraf and InfluxDB know no workloads, so some label has to name it.

The first label of ``workload`` that is there names the workload and is a label no longer. When there is no label ``site``, the
first of ``site`` that is there becomes it. Every other label stays. Labels without a value are labels that are not there.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from forecastle.errors import Malformed
from forecastle.intake.otlp import unique
from forecastle.intake.series import SeriesTable
from forecastle.settings import IntakeSettings

UNIT_NS = {"1s": 1_000_000_000, "1ms": 1_000_000, "1us": 1_000, "1ns": 1}
SITE = "site"


class Naming(NamedTuple):
    """Names of the labels that mean something, in order of preference, and the unit of Telegraf's JSON timestamps."""

    workload: tuple[str, ...] = ("workload", "service_name", "job")
    site: tuple[str, ...] = ("zone", "region")
    telegraf_unit: str = "1s"

    @classmethod
    def of(cls, settings: IntakeSettings) -> Naming:
        """As configured."""
        return cls(settings.workload_labels, settings.site_labels, settings.telegraf_unit)

    def split(self, pairs: Iterable[tuple[str, str]]) -> tuple[str, dict[str, str]]:
        """(workload, remaining labels). Raises Malformed ``duplicate_label`` or ``no_workload``."""
        labels = {name: value for name, value in unique(pairs).items() if value}
        owner = next((name for name in self.workload if name in labels), None)
        if owner is None:
            raise Malformed("no_workload", f"none of the labels {', '.join(self.workload)} of intake.workload_labels is there")
        workload = labels.pop(owner)
        place = next((name for name in self.site if name in labels), None)
        if SITE not in labels and place is not None:
            labels[SITE] = labels.pop(place)
        return workload, labels

    def number(self, table: SeriesTable, metric: str, pairs: Iterable[tuple[str, str]]) -> int:
        """Number of the series called ``metric`` with the labels ``pairs``; also raises what `SeriesTable.number` does."""
        workload, labels = self.split(pairs)
        return table.number(workload, metric, labels.items())
