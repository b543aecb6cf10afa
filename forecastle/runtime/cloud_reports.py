"""What the layers over the adapters know, in the form that `/metrics` shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from forecastle.clouds.breaker import Breaker
from forecastle.clouds.edge import EdgeCloud
from forecastle.clouds.layer import Layer, layers
from forecastle.clouds.meter import BOUNDS_S, Metered
from forecastle.outlets.cloud_metrics import CloudReport, SiteReport
from forecastle.ports import Cloud


def reports(clouds: Mapping[str, Cloud]) -> dict[str, CloudReport]:
    """A report for each adapter by its name; empty for one without layers."""
    return {name: _report(cloud) for name, cloud in clouds.items()}


def _report(cloud: Cloud) -> CloudReport:
    report = CloudReport(BOUNDS_S)
    for layer in layers(cloud):
        if isinstance(layer, Metered):
            found = layer.figures
            timed = {name: (one.buckets, one.total_s) for name, one in found.latency.items()}
            report = replace(report, calls=found.calls, latency=timed)
        elif isinstance(layer, Breaker):
            report = replace(report, breaker=layer.state.value, opened=layer.opened)
    while isinstance(cloud, Layer):
        cloud = cloud.inner
    if isinstance(cloud, EdgeCloud):
        report = replace(report, site=SiteReport(dict(cloud.refused), dict(cloud.rejected), cloud.age_s()))
    return report
