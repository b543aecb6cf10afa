"""What OpenTelemetry's metrics mean to us, whichever encoding they came in.

workload = resource attribute ``service.name``; the label ``site`` = resource attribute ``site``, else
``cloud.availability_zone``, else ``cloud.region``; the label ``instance`` = ``service.instance.id`` (so that two instances are
two series, as Prometheus has it; drop the attribute in the Collector to aggregate). Other labels are the data point's
attributes. Gauges and sums keep their name; histograms and summaries give ``NAME_count`` and ``NAME_sum``. Points flagged
NO_RECORDED_VALUE say that there is nothing to say, and are left out. Fields we do not know are ignored, as OTLP demands of
receivers (https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding); a message is refused for anything else.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from forecastle.errors import Malformed
from forecastle.intake.series import SeriesTable

WORKLOAD = "service.name"
SITE = ("site", "cloud.availability_zone", "cloud.region")
INSTANCE = "service.instance.id"
NO_RECORDED_VALUE = 1
NS_PER_MS = 1_000_000


class Source(NamedTuple):
    """What a resource says: the workload and the labels that all its points carry."""

    workload: str
    labels: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, attributes: Iterable[tuple[str, str]]) -> Source:
        """From a resource's attributes. Raises Malformed ``no_workload`` or ``duplicate_label``."""
        found = unique(attributes)
        if not found.get(WORKLOAD):
            raise Malformed("no_workload", f"the resource has no attribute {WORKLOAD}")
        site = next((found[name] for name in SITE if found.get(name)), "")
        labels = (("site", site),) if site else ()
        return cls(found[WORKLOAD], labels + ((("instance", found[INSTANCE]),) if found.get(INSTANCE) else ()))

    def number(self, table: SeriesTable, metric: str, attributes: Iterable[tuple[str, str]]) -> int:
        """Number of the series of one data point; its own attributes win over the resource's."""
        return table.number(self.workload, metric, (dict(self.labels) | unique(attributes)).items())


def unique(attributes: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Attributes as a mapping. Raises Malformed ``duplicate_label``."""
    pairs = list(attributes)
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Malformed("duplicate_label", ", ".join(name for name, _ in pairs)[:200])
    return found


def ms(nanoseconds: int) -> int:
    """Milliseconds; Raises Malformed ``absurd_time`` for zero, which in OTLP means unknown."""
    if nanoseconds <= 0:
        raise Malformed("absurd_time", "timeUnixNano is missing or zero")
    return nanoseconds // NS_PER_MS
