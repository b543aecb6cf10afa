"""A clock that runs ahead is told at /metrics, by source."""

from __future__ import annotations

from forecastle.outlets.metrics import Metrics, Vitals
from forecastle.settings import OutletSettings
from forecastle.types import Inventory


def leads(metrics: Metrics) -> dict[str, float]:
    families = [family for family in metrics.collect() if family.name == "forecastle_clock_skew_seconds"]
    assert len(families) == 1
    assert families[0].type == "gauge"
    return {sample.labels["source"]: sample.value for sample in families[0].samples}


def test_the_largest_lead_of_each_source_is_exported() -> None:
    told = {"metrics/0": 90.5, "metrics/1": 0.0}
    stock = Inventory({}, {}, {})
    metrics = Metrics(OutletSettings(), stock, vitals=lambda: Vitals("RUNNING"), lag=lambda: 0, skew=lambda: told)
    assert leads(metrics) == {"metrics/0": 90.5, "metrics/1": 0.0}


def test_an_intake_without_clocks_exports_none() -> None:
    metrics = Metrics(OutletSettings(), Inventory({}, {}, {}), vitals=lambda: Vitals("RUNNING"), lag=lambda: 0)
    assert leads(metrics) == {}
