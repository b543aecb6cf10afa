"""History out of CloudWatch by ``GetMetricData``, in pages; needs the permission ``cloudwatch:GetMetricData``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import isfinite
from typing import Any

from forecastle.errors import CloudUnavailable, ConfigError, Denied
from forecastle.types import Sample, Samples, SeriesKey

MAX_POINTS = 100_800  # CloudWatch's own limit for an answer
ID = "demand"
Read = Callable[..., dict[str, Any]]


@dataclass(frozen=True, slots=True)
class MetricQuery:
    """One metric, aggregated by ``stat`` over periods of ``period_s`` seconds (1, 5, 10, 30 or a multiple of 60)."""

    namespace: str
    metric: str
    start: int
    end: int
    workload: str
    period_s: int = 60
    stat: str = "Average"
    dimensions: Mapping[str, str] = field(default_factory=dict)
    name: str = ""

    @property
    def key(self) -> SeriesKey:
        """The series it becomes; its labels are the dimensions."""
        return SeriesKey(self.workload, self.name or self.metric, tuple(sorted(self.dimensions.items())))


def fetch(read: Read, query: MetricQuery, *, points: int = MAX_POINTS) -> Samples:
    """All samples whose period lies in ``[query.start, query.end)`` (ms), oldest first.

    ``read`` is `Account.read`. CloudWatch names a period by its beginning; a sample here has the time of its end, since it was
    not known before. Raises ConfigError for a query that cannot be, Denied, or CloudUnavailable.
    """
    _check(query)
    step = query.period_s * 1000
    found: dict[int, float] = {}
    start = -(-query.start // step) * step
    for first in range(start, query.end - step + 1, points * step):
        last = min(query.end // step * step, first + points * step)
        for at, value in _page(read, query, first, last):
            if first <= at < last and isfinite(value):
                found[at + step] = value
    return Samples.of(*(Sample(query.key, at, value) for at, value in sorted(found.items())))


def _page(read: Read, query: MetricQuery, first: int, last: int) -> Iterator[tuple[int, float]]:
    asked: dict[str, Any] = {
        "MetricDataQueries": [{"Id": ID, "MetricStat": _stat(query), "ReturnData": True}],
        "StartTime": datetime.fromtimestamp(first / 1000, UTC),
        "EndTime": datetime.fromtimestamp(last / 1000, UTC),
        "ScanBy": "TimestampAscending",
    }
    while True:
        answer = read("cloudwatch", "get_metric_data", **asked)
        for result in answer["MetricDataResults"]:
            _judge(result, query)
            for stamp, value in zip(result["Timestamps"], result["Values"], strict=True):
                yield round(stamp.timestamp() * 1000), float(value)
        if not answer.get("NextToken"):
            return
        asked["NextToken"] = answer["NextToken"]


def _stat(query: MetricQuery) -> dict[str, Any]:
    dimensions = [{"Name": name, "Value": value} for name, value in sorted(query.dimensions.items())]
    metric = {"Namespace": query.namespace, "MetricName": query.metric, "Dimensions": dimensions}
    return {"Metric": metric, "Period": query.period_s, "Stat": query.stat}


def _judge(result: dict[str, Any], query: MetricQuery) -> None:
    """Complete and PartialData go on; anything else must not look like a metric without data."""
    status = result.get("StatusCode", "Complete")
    if status == "Forbidden":
        raise Denied(f"cloudwatch {query.namespace}/{query.metric}: forbidden; allow cloudwatch:GetMetricData")
    if status == "InternalError":
        raise CloudUnavailable(f"cloudwatch {query.namespace}/{query.metric}: internal error; try again")


def _check(query: MetricQuery) -> None:
    if query.period_s not in (1, 5, 10, 30) and (query.period_s < 60 or query.period_s % 60):
        raise ConfigError(f"--step: {query.period_s} s is no period of CloudWatch; write 1, 5, 10, 30 or a multiple of 60")
    if query.end <= query.start:
        raise ConfigError("--to lies before --from; exchange them")
    if not query.workload:
        raise ConfigError("--workload: name the workload that the metric is of")
