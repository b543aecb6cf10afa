"""How the providers answer, as Prometheus reads it: calls by result, their latency, and whether a breaker keeps us away."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

BREAKER_STATES = ("closed", "open", "half_open")


@dataclass(frozen=True, slots=True)
class SiteReport:
    """A site that is driven by its agent: what it ``refused`` and what of it is not believed (``rejected``), by reason.

    ``age_s`` is how long ago it last reported, infinite when it never did.
    """

    refused: Mapping[str, int]
    rejected: Mapping[str, int]
    age_s: float


@dataclass(frozen=True, slots=True)
class CloudReport:
    """One adapter since the start. ``calls`` by (operation, result); ``breaker`` its state, '' without one.

    ``latency`` by operation: how many calls took up to each of ``bounds_s`` seconds (each call in one bucket, the last has no
    bound), and the sum of the seconds. ``opened`` counts how often the breaker opened; ``site`` is there for one with an agent.
    """

    bounds_s: tuple[float, ...]
    calls: Mapping[tuple[str, str], int] = field(default_factory=dict)
    latency: Mapping[str, tuple[tuple[int, ...], float]] = field(default_factory=dict)
    breaker: str = ""
    opened: int = 0
    site: SiteReport | None = None


def cloud_families(reports: Mapping[str, CloudReport]) -> Iterator[Metric]:
    """The families of all adapters, by their names in the configuration."""
    calls = CounterMetricFamily(
        "forecastle_cloud_calls", "Requests to a provider, by result", labels=["cloud", "operation", "result"]
    )
    latency = HistogramMetricFamily(
        "forecastle_cloud_call_seconds", "Time a provider took to answer", labels=["cloud", "operation"]
    )
    state = GaugeMetricFamily("forecastle_cloud_breaker_state", "1 for the state of the breaker", labels=["cloud", "state"])
    opened = CounterMetricFamily("forecastle_cloud_breaker_opened", "How often the breaker opened", labels=["cloud"])
    for name, report in sorted(reports.items()):
        for (operation, result), count in sorted(report.calls.items()):
            calls.add_metric([name, operation, result], count)
        for operation, (buckets, total_s) in sorted(report.latency.items()):
            bounds = [*(f"{bound:g}" for bound in report.bounds_s), "+Inf"]
            cumulative = list(zip(bounds, map(float, accumulate(buckets)), strict=True))
            latency.add_metric([name, operation], cumulative, total_s)
        if report.breaker:
            for one in BREAKER_STATES:
                state.add_metric([name, one], float(one == report.breaker))
            opened.add_metric([name], report.opened)
    yield from (calls, latency, state, opened)
    yield from _site_families({name: one.site for name, one in sorted(reports.items()) if one.site is not None})


def _site_families(sites: Mapping[str, SiteReport]) -> Iterator[Metric]:
    refused = CounterMetricFamily(
        "forecastle_edge_refusals", "What the agent of a site told that it refused", labels=["cloud", "reason"]
    )
    rejected = CounterMetricFamily(
        "forecastle_edge_rejected_reports", "Reports of a site that are not believed", labels=["cloud", "reason"]
    )
    age = GaugeMetricFamily("forecastle_edge_report_age_seconds", "Age of a site's newest report", labels=["cloud"])
    for name, site in sites.items():
        for family, counts in ((refused, site.refused), (rejected, site.rejected)):
            for reason, count in sorted(counts.items()):
                family.add_metric([name, reason], count)
        age.add_metric([name], site.age_s)
    yield from (refused, rejected, age)
