"""Settings of capacity models, occasions and objectives: what becomes of them, and what ``forecastle check`` says is wrong."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from forecastle.errors import ConfigError
from forecastle.runtime.config import load
from forecastle.runtime.inventory import check, inventory
from forecastle.runtime.records import inventory_digest
from forecastle.settings import Settings
from forecastle.types import Holidays, Objective, SeriesKey, Service, Usage, Workload

EVENT = {"name": "sale", "start": "2026-11-27T08:00", "end": "2026-11-27T20:00", "zone": "Europe/Berlin", "factor": 2.0}


def configured(demand: dict[str, Any] | None = None, **load_: Any) -> Settings:
    """A shop at one site; ``demand`` and the keywords are added to its settings."""
    shop = {
        "name": "shop",
        "demands": [{"metric": "rps", "per_replica": 40, **(demand or {})}],
        "pools": [{"name": "shop-fra", "site": "fra", "unit_price": 0.1}],
        **load_,
    }
    fleet = {"sites": [{"name": "fra", "provider": "aws", "region": "eu"}], "workloads": [shop]}
    return Settings.model_validate({"fleet": fleet, "clouds": {"sim": {"adapter": "forecastle.clouds.sim:open_cloud"}}})


def shop(demand: dict[str, Any] | None = None, **load_: Any) -> Workload:
    return inventory(configured(demand, **load_)).workloads["shop"]


def series(metric: str, **labels: str) -> SeriesKey:
    return SeriesKey("shop", metric, tuple(sorted(labels.items())))


# --- what becomes of it ---


def test_a_plain_demand_has_no_model() -> None:
    (demand,) = shop().demands
    assert (demand.usage, demand.service, demand.series) == (None, None, (series("rps"),))


def test_usage_names_its_two_series() -> None:
    usage = {"metric": "cpu", "replicas": "ready", "labels": {"site": "fra"}, "full": 100, "raise_limit": 1.5}
    (demand,) = shop({"usage": usage}).demands
    assert demand.usage == Usage(series("cpu", site="fra"), series("ready", site="fra"), 100.0, 1.5)
    assert demand.series == (series("rps"), series("cpu", site="fra"), series("ready", site="fra"))


def test_a_latency_target_becomes_a_queue() -> None:
    service = {"service_time_s": 0.1, "latency_target_s": 0.4, "percentile": 0.95, "wait": 0.3, "slots": 8}
    (demand,) = shop({"service": service}).demands
    assert demand.service == Service(0.1, 0.4, 0.95, 0.3, 8)


def test_an_objective_brings_the_series_of_its_budget() -> None:
    found = shop(slo={"name": "fast", "target": 0.99, "budgeting": "Timeslices", "budget_metric": "left"})
    assert found.slo == Objective("fast", 0.99, True, series("left"))
    assert found.series == {series("rps"), series("left")}
    assert shop(slo={"target": 0.9}).slo == Objective("", 0.9)


@pytest.mark.parametrize(("calendar", "country", "part"), [("DE", "DE", ""), ("DE-BY", "DE", "BY"), ("US-CA", "US", "CA")])
def test_a_calendar_is_a_country_and_perhaps_a_part(calendar: str, country: str, part: str) -> None:
    found = shop(holidays={"calendar": calendar, "zone": "Europe/Berlin", "factor": 1.5, "replicas": 4})
    assert found.holidays == Holidays(country, "Europe/Berlin", part, 1.5, 4)


@pytest.mark.parametrize(
    ("start", "zone", "fold", "utc"),
    [
        ("2026-11-27T08:00", "Europe/Berlin", 0, datetime(2026, 11, 27, 7, tzinfo=UTC)),
        ("2026-07-01T08:00", "Europe/Berlin", 0, datetime(2026, 7, 1, 6, tzinfo=UTC)),
        ("2026-10-25T02:30", "Europe/Berlin", 0, datetime(2026, 10, 25, 0, 30, tzinfo=UTC)),
        ("2026-10-25T02:30", "Europe/Berlin", 1, datetime(2026, 10, 25, 1, 30, tzinfo=UTC)),
        ("2026-03-29T02:30", "Europe/Berlin", 0, datetime(2026, 3, 29, 1, 30, tzinfo=UTC)),
        ("2026-11-27T08:00", "Asia/Kathmandu", 0, datetime(2026, 11, 27, 2, 15, tzinfo=UTC)),
        ("2026-11-27T08:00", "UTC", 1, datetime(2026, 11, 27, 8, tzinfo=UTC)),
    ],
)
def test_local_times_are_instants_also_where_clocks_change(start: str, zone: str, fold: int, utc: datetime) -> None:
    """02:30 happens twice on the last Sunday of October, and never on that of March: then it is as if nothing had changed."""
    event = EVENT | {"start": start, "end": "2027-01-01T00:00", "zone": zone, "fold": fold}
    (found,) = shop(events=[event]).events
    assert datetime.fromtimestamp(found.start / 1000, UTC) == utc
    assert (found.name, found.factor, found.replicas) == ("sale", 2.0, 0)


def test_any_of_it_dates_the_warm_up_anew() -> None:
    plain = inventory_digest(configured())
    changed = [
        configured(events=[EVENT]),
        configured(slo={"target": 0.9}),
        configured({"service": {"service_time_s": 1, "wait": 0.1}}),
    ]
    assert len({plain, *map(inventory_digest, changed)}) == 4


# --- what is wrong ---


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"events": [EVENT | {"zone": "Mars/Base"}]}, "event sale: zone 'Mars/Base' is no IANA time zone"),
        ({"events": [EVENT | {"end": "2026-11-27T08:00"}]}, "event sale: ends at 2026-11-27T08:00, not after its start"),
        ({"events": [EVENT | {"end": "2026-11-26T08:00"}]}, "not after its start; exchange them"),
        ({"events": [EVENT | {"replicas": 1001}]}, "1001 replicas are above max 1000; raise max"),
        ({"holidays": {"calendar": "XX", "zone": "Europe/Berlin"}}, "write a country such as DE"),
        ({"holidays": {"calendar": "DE-ZZ", "zone": "Europe/Berlin"}}, "write a country such as DE"),
        ({"holidays": {"calendar": "DE", "zone": "Berlin"}}, "holidays: zone 'Berlin' is no IANA time zone"),
    ],
)
def test_an_occasion_that_cannot_be_is_found_by_check(changes: dict[str, Any], says: str) -> None:
    (problem,) = check(configured(**changes))
    assert problem.startswith("workload shop: ")
    assert says in problem
    with pytest.raises(ConfigError, match="shop"):
        inventory(configured(**changes))


@pytest.mark.parametrize(
    "service",
    [{"service_time_s": 0.5, "latency_target_s": 0.4}, {"service_time_s": 0.2, "latency_target_s": 0.5, "percentile": 0.95}],
)
def test_a_latency_target_out_of_reach_is_found_by_check(service: dict[str, Any]) -> None:
    (problem,) = check(configured({"service": service}))
    assert "no number of replicas meets latency_target_s" in problem
    assert "raise the target" in problem


@pytest.mark.parametrize(
    ("yaml", "line", "says"),
    [
        ("usage: {metric: cpu}", 7, "replicas"),
        ("usage: {metric: cpu, replicas: ready, raise_limit: 0.5}", 7, "greater than or equal to 1"),
        ("service: {service_time_s: 0.1}", 7, "has no target; write latency_target_s: 0.3 or wait: 0.2"),
        ("service: {service_time_s: 0, wait: 0.1}", 7, "greater than 0"),
        ("service: {service_time_s: 1, wait: 1}", 7, "less than 1"),
        ("service: {service_time_s: 1, wait: 0.1, slots: 0}", 7, "greater than 0"),
        ("service: {service_time_s: 1, latency: 2}", 7, "known names"),
    ],
)
def test_a_model_that_makes_no_sense_is_refused_with_its_line(tmp_path: Path, yaml: str, line: int, says: str) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text(
        "fleet:\n  workloads:\n    - name: shop\n      demands:\n        - metric: rps\n          per_replica: 40\n"
        f"          {yaml}\n      pools: [{{name: a, site: fra, unit_price: 1}}]\n",
        encoding="utf-8",
    )
    with pytest.raises(ConfigError, match=f"{path.name}:{line}:") as error:
        load([path], environment={})
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"events": [EVENT | {"start": "2026-11-27T08:00+01:00"}]}, "leave their offset away"),
        ({"events": [EVENT | {"start": "friday"}]}, "datetime"),
        ({"events": [{k: v for k, v in EVENT.items() if k != "zone"}]}, "zone"),
        ({"events": [EVENT | {"factor": 0}]}, "greater than 0"),
        ({"events": [EVENT | {"fold": 2}]}, "0 or 1"),
        ({"holidays": {"calendar": "germany", "zone": "Europe/Berlin"}}, "pattern"),
        ({"slo": {"target": 1.0}}, "less than 1"),
        ({"slo": {"target": 0.9, "budgeting": "Guesses"}}, "Timeslices"),
    ],
)
def test_values_outside_their_range_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        configured(**changes)


def test_two_models_for_one_demand_are_refused() -> None:
    both = {"usage": {"metric": "cpu", "replicas": "ready"}, "service": {"service_time_s": 1, "wait": 0.1}}
    with pytest.raises(ValueError, match="write the metric twice: the largest need wins"):
        configured(both)


# --- the command ---

Command = Callable[..., subprocess.CompletedProcess[str]]
OPENSLO = """apiVersion: openslo/v1
kind: SLO
metadata: {name: fast}
spec:
  service: shop
  budgetingMethod: Occurrences
  objectives: [{target: 0.99}]
"""


def test_import_prints_what_a_workload_takes(forecastle: Command, tmp_path: Path) -> None:
    path = tmp_path / "slo.yaml"
    path.write_text(OPENSLO, encoding="utf-8")
    done = forecastle("slo", "import", str(path), "--budget-metric", "left")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == '# workload "shop"\nslo:\n  name: "fast"\n  target: 0.99\n  budget_metric: "left"\n'


def test_import_fails_with_file_line_and_fix(forecastle: Command, tmp_path: Path) -> None:
    path = tmp_path / "slo.yaml"
    path.write_text(OPENSLO.replace("0.99", "99"), encoding="utf-8")
    done = forecastle("slo", "import", str(path))
    assert done.returncode != 0
    assert done.stdout == ""
    assert f"{path}:7: target: 99 is not between 0 and 1; did you mean targetPercent?" in done.stderr
