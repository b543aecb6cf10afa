"""What Prometheus is told: exact families, forecasts exported at now, a bounded number of series; real programs read it."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from outlet_worlds import DISK, MAIL, STOCK, action, busy, incident, outcome, plan, tick, turned
from prometheus_client.parser import text_string_to_metric_families
from ruamel.yaml import YAML

from forecastle.errors import ConfigError
from forecastle.guards.judge import ORDER
from forecastle.outlets.cloud_metrics import CloudReport, SiteReport
from forecastle.outlets.metrics import Delivery, Metrics, Vitals, serving_metrics
from forecastle.settings import OutletSettings
from forecastle.types import Drift, Inventory, Refusal, Severity, Status

DEPLOY = Path(__file__).parents[2] / "deploy"


class Worker:
    """What the outlet asks of a worker, and its clock."""

    def __init__(self, settings: OutletSettings | None = None, stock: Inventory = STOCK) -> None:
        self.vitals = Vitals("RUNNING", 1200, 3, 2, 4, 0.0)
        self.lag = 7
        self.now = 0.0
        self.deliveries = {"kafka": Delivery(4, 10, 1)}
        self.rings = {("/alertmanager", 200): 5, ("other", 404): 2}
        self.clouds = {
            "aws": CloudReport((0.1,), {("apply", "Crowded"): 3}, breaker="open", opened=2),
            "ams": CloudReport((0.1,), site=SiteReport({"expired": 4, "replayed": 1}, {"bad_signature": 7}, 12.5)),
        }
        self.metrics = Metrics(
            settings or OutletSettings(),
            stock,
            vitals=lambda: self.vitals,
            lag=lambda: self.lag,
            deliveries=lambda: self.deliveries,
            rings=lambda: self.rings,
            clouds=lambda: self.clouds,
            monotonic=lambda: self.now,
        )

    def samples(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        found = [s for family in self.metrics.collect() for s in family.samples]
        assert len({(s.name, tuple(sorted(s.labels.items()))) for s in found}) == len(found), "a series is exported twice"
        return {(s.name, tuple(sorted(s.labels.items()))): s.value for s in found}

    def value(self, name: str, **labels: str) -> float | None:
        return self.samples().get((name, tuple(sorted(labels.items()))))

    def named(self, name: str) -> dict[tuple[tuple[str, str], ...], float]:
        return {labels: value for (known, labels), value in self.samples().items() if known == name}


@pytest.fixture
def worker() -> Worker:
    return Worker()


@pytest.fixture
def served(worker: Worker, free_port: int) -> Iterator[tuple[Worker, int]]:
    settings = OutletSettings(metrics_port=free_port)
    with serving_metrics(worker.metrics, settings) as port:
        yield worker, port


def test_a_worker_that_has_not_closed_a_tick_tells_its_state_only(worker: Worker) -> None:
    worker.vitals = Vitals("HOLD", hold_s=42.5)
    assert worker.value("forecastle_worker_state", state="HOLD") == 1.0
    assert worker.value("forecastle_worker_state", state="RUNNING") == 0.0
    assert worker.value("forecastle_hold_seconds") == 42.5
    assert not worker.named("forecastle_forecast")
    assert not worker.named("forecastle_last_tick_timestamp_seconds")


def test_a_turn_is_counted(worker: Worker) -> None:
    worker.metrics.listen(busy(tick(1)))
    worker.metrics.listen(busy(tick(2)))
    assert worker.value("forecastle_ticks_total", phase="decided") == 2
    assert worker.value("forecastle_samples_total") == 1200
    assert worker.value("forecastle_dead_letters_total") == 2
    assert worker.value("forecastle_late_samples_total") == 4
    assert worker.value("forecastle_lag_records") == 7
    assert worker.value("forecastle_plans_total") == 2
    assert worker.value("forecastle_doorbell_requests_total", route="/alertmanager", status="200") == 5
    assert worker.value("forecastle_doorbell_requests_total", route="other", status="404") == 2
    assert worker.value("forecastle_actions_total", kind="scale", status="APPLIED") == 2
    assert worker.value("forecastle_refusals_total", guard="step_up") == 2
    assert worker.value("forecastle_anomalies_total", kind="spike") == 2
    assert worker.value("forecastle_forecast_rows_total", source="fallback") == 2
    assert worker.value("forecastle_forecast_rows_total", source="model") == 4
    assert worker.value("forecastle_last_tick_timestamp_seconds") == tick(2) / 1000
    assert worker.value("forecastle_model_info", model="mixer", version="0123456789ab") == 1
    assert worker.value("forecastle_doubtful_series", doubt="late") == 1
    assert worker.value("forecastle_doubtful_series", doubt="suspect") == 1


def test_drift_is_told_by_kind_and_its_share_where_it_was_judged(worker: Worker) -> None:
    worker.metrics.listen(busy(tick(1)))
    assert not worker.named("forecastle_drift"), "nothing is looked for without a model"
    drifts = Drift("error", True, 0.4, 50, 0.25, None, 2.0, 1.5), Drift("input", False, 0.0, 0, 0.25, None, 0.0, 4.0)
    turn = busy(tick(2))
    told = replace(turn.closed, forecasts=replace(turn.closed.forecasts, drift=drifts))
    worker.metrics.listen(replace(turn, closed=told))
    assert (worker.value("forecastle_drift", kind="error"), worker.value("forecastle_drift", kind="input")) == (1, 0)
    assert worker.value("forecastle_drifted_ratio", kind="error") == 0.4
    assert worker.value("forecastle_drifted_ratio", kind="input") is None


def test_forecasts_are_labelled_with_their_horizon_and_quantile_and_carry_no_timestamp(worker: Worker) -> None:
    worker.metrics.listen(busy(tick(1)))
    shop = {"workload": "shop", "metric": "rps", "series": 'site="fra"'}
    assert worker.value("forecastle_forecast", horizon="60", quantile="0.1", **shop) == 10
    assert worker.value("forecastle_forecast", horizon="300", quantile="0.5", **shop) == 51
    assert worker.value("forecastle_forecast", horizon="900", quantile="0.9", **shop) == 152
    assert (
        worker.value("forecastle_forecast", horizon="900", quantile="0.9", workload="mail", metric="queue", series="") == 1152
    )
    assert {dict(labels)["horizon"] for labels in worker.named("forecastle_forecast")} == {"60", "300", "900"}, "15 steps only"
    stamps = [s.timestamp for family in worker.metrics.collect() for s in family.samples]
    assert set(stamps) == {None}


def test_only_demand_is_forecast_to_the_outside_and_only_so_much_of_it() -> None:
    bounded = Worker(OutletSettings(metrics_series=1, horizons_s=(60, 61, 120), quantiles=(0.5, 0.42)))
    bounded.metrics.listen(busy(tick(1)))
    found = [dict(labels) for labels in bounded.named("forecastle_forecast")]
    assert {(one["workload"], one["metric"]) for one in found} == {("shop", "rps")}
    assert sorted((one["horizon"], one["quantile"]) for one in found) == [("120", "0.5"), ("60", "0.5")]
    assert DISK.metric not in str(bounded.samples())


def test_demand_that_was_not_measured_is_left_out(worker: Worker) -> None:
    from outlet_worlds import windows

    made = turned(tick(1))
    gap = replace(made, closed=replace(made.closed, windows=windows(tick(1), missing=(MAIL,))))
    worker.metrics.listen(gap)
    assert worker.named("forecastle_demand") == {
        (("metric", "rps"), ("series", 'site="fra"'), ("workload", "shop")): 300.0,
    }


def test_replicas_cost_and_incidents(worker: Worker) -> None:
    worker.metrics.listen(turned(tick(1), plan(tick(1)), incidents=(incident(tick(1), Severity.CRITICAL),)))
    pool = {"workload": "shop", "pool": "shop-fra", "site": "fra"}
    assert worker.value("forecastle_pool_desired_replicas", **pool) == 4
    assert worker.value("forecastle_pool_ready_replicas", **pool) == 3
    assert worker.value("forecastle_recommended_replicas", workload="shop") == 6
    assert worker.value("forecastle_cost_per_hour") == 4 * 0.5 + 2 * 0.25
    assert worker.value("forecastle_incidents_open", severity="critical") == 1
    assert worker.value("forecastle_incidents_open", severity="warning") == 0


def test_commitments_cost_whether_used_or_not() -> None:
    fra, mail = STOCK.pools["shop-fra"], STOCK.pools["mail-ams"]
    pools = {
        fra.name: replace(fra, committed=6, committed_price=0.3),
        mail.name: replace(mail, committed=1, committed_price=0.1),
    }
    worker = Worker(stock=replace(STOCK, pools=pools))
    worker.metrics.listen(turned(tick(1), plan(tick(1))))
    assert worker.value("forecastle_cost_per_hour") == pytest.approx(6 * 0.3 + 0.1 + 0.25)


def test_a_recommendation_stays_when_a_later_plan_is_silent_about_the_workload(worker: Worker) -> None:
    worker.metrics.listen(turned(tick(1), plan(tick(1))))
    worker.metrics.listen(turned(tick(2), plan(tick(2), recommended={"mail": 5})))
    assert worker.value("forecastle_recommended_replicas", workload="shop") == 6
    assert worker.value("forecastle_recommended_replicas", workload="mail") == 5


def test_a_rebuilt_turn_is_not_counted_again(worker: Worker) -> None:
    grow = action(tick(1))
    worker.metrics.listen(turned(tick(0), rebuilt=True, decided=False))
    worker.metrics.listen(turned(tick(1), plan(tick(1), grow), outcomes=(outcome(grow, Status.ALREADY),), rebuilt=True))
    assert worker.value("forecastle_ticks_total", phase="rebuilt") == 2
    assert not worker.named("forecastle_actions_total")
    assert worker.value("forecastle_recommended_replicas", workload="shop") == 6, "the recorded plan is still the newest"


def test_what_is_old_is_withdrawn_and_the_age_stays(worker: Worker) -> None:
    worker.metrics.listen(busy(tick(1)))
    worker.now = 301.0
    for family in (
        "forecastle_forecast",
        "forecastle_demand",
        "forecastle_recommended_replicas",
        "forecastle_pool_ready_replicas",
    ):
        assert not worker.named(family), family
    assert worker.value("forecastle_last_tick_timestamp_seconds") == tick(1) / 1000
    worker.metrics.listen(busy(tick(2)))
    assert worker.named("forecastle_forecast")


def test_names_follow_the_conventions(worker: Worker) -> None:
    worker.metrics.listen(busy(tick(1)))
    for family in worker.metrics.collect():
        assert family.name.startswith("forecastle_")
        assert family.documentation
        assert not re.search(r"(_ms|_minutes|_percent|milli)", family.name), family.name
        assert not (family.type == "gauge" and family.name.endswith("_total")), family.name


def test_the_page_is_read_by_the_official_parser(served: tuple[Worker, int]) -> None:
    worker, port = served
    worker.metrics.listen(busy(tick(1)))
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        text = answer.read().decode()
    read = {(s.name, tuple(sorted(s.labels.items()))): s.value for f in text_string_to_metric_families(text) for s in f.samples}
    assert read == worker.samples()


def test_a_taken_port_is_said_with_its_fix(served: tuple[Worker, int]) -> None:
    worker, port = served
    with (
        pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{port} .*choose a free port"),
        serving_metrics(worker.metrics, OutletSettings(metrics_port=port)),
    ):
        pass


def test_the_port_is_free_again_afterwards(worker: Worker, free_port: int) -> None:
    for _ in range(2):
        with serving_metrics(worker.metrics, OutletSettings(metrics_port=free_port)) as port:
            assert port == free_port


def test_promtool_has_only_the_quantile_label_of_a_gauge_to_say_something_about(
    served: tuple[Worker, int], program: Callable[[str], str]
) -> None:
    worker, port = served
    worker.metrics.listen(busy(tick(1)))
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        page = answer.read()
    checked = subprocess.run(
        [program("promtool"), "check", "metrics"], input=page, capture_output=True, check=False, timeout=120
    )
    said = (checked.stdout + checked.stderr).decode().splitlines()
    assert {line for line in said if "forecastle_forecast non-" not in line or '"quantile" label' not in line} == set()


@pytest.mark.parametrize("arguments", [("check", "config", "prometheus.yml"), ("test", "rules", "rules_test.yml")])
def test_promtool_accepts_configuration_and_rules(arguments: tuple[str, ...], program: Callable[[str], str]) -> None:
    command = [program("promtool"), *arguments]
    done = subprocess.run(command, cwd=DEPLOY / "prometheus", capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_rules_and_dashboards_ask_for_families_that_are_exported(worker: Worker) -> None:
    worker.metrics.listen(busy(tick(1)))
    exported = {name for name, _ in worker.samples()}
    rules = [r for g in YAML(typ="safe").load(DEPLOY / "prometheus" / "rules.yml")["groups"] for r in g["rules"]]
    panels = [p for path in (DEPLOY / "grafana" / "dashboards").glob("*.json") for p in json.loads(path.read_text())["panels"]]
    asked = [r["expr"] for r in rules] + [t["expr"] for panel in panels for t in panel["targets"] if "expr" in t]
    used = {name for expression in asked for name in re.findall(r"\bforecastle_\w+", expression)}
    assert used
    assert used <= exported
    recorded = {r["record"] for r in rules if "record" in r}
    assert {name for expression in asked for name in re.findall(r"\bforecastle:\w+:\w+", expression)} <= recorded


def test_panels_have_a_place_and_a_name_of_their_own() -> None:
    for path in (DEPLOY / "grafana" / "dashboards").glob("*.json"):
        panels = json.loads(path.read_text())["panels"]
        assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
        cells = [
            (x, y)
            for place in (panel["gridPos"] for panel in panels)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        ]
        assert len(set(cells)) == len(cells), f"{path.name}: panels overlap"
        assert max(x for x, _ in cells) < 24


@pytest.mark.parametrize("family", ["doorbell_requests", "cloud_breaker_state", "cloud_calls", "edge_refusals"])
def test_the_dashboard_shows_what_holds_us_back(family: str) -> None:
    text = (DEPLOY / "grafana" / "dashboards" / "forecastle-worker.json").read_text()
    assert f"forecastle_{family}" in text


def test_what_a_site_refuses_and_what_of_it_is_not_believed_is_told_apart(worker: Worker) -> None:
    assert worker.value("forecastle_edge_refusals_total", cloud="ams", reason="expired") == 4
    assert worker.value("forecastle_edge_refusals_total", cloud="ams", reason="bad_signature") is None
    assert worker.value("forecastle_edge_rejected_reports_total", cloud="ams", reason="bad_signature") == 7
    assert worker.named("forecastle_edge_report_age_seconds") == {(("cloud", "ams"),): 12.5}


def test_alerts_name_guards_that_exist() -> None:
    named = re.findall(r'guard="(\w+)"', (DEPLOY / "prometheus" / "rules.yml").read_text())
    assert named
    assert set(named) <= {guard.__name__ for guard in ORDER}


def test_a_guard_s_refusals_are_bounded_by_the_guards(worker: Worker) -> None:
    refusals = tuple(Refusal(guard.__name__, f"for reason {i}", "shop-fra", "shop") for i in range(5) for guard in ORDER)
    worker.metrics.listen(turned(tick(1), plan(tick(1), refusals=refusals)))
    assert len(worker.named("forecastle_refusals_total")) == len(ORDER)


def test_prometheus_scrapes_us(served: tuple[Worker, int], program: Callable[[str], str], tmp_path: Path) -> None:
    worker, port = served
    worker.metrics.listen(busy(tick(1)))
    own = another_port()
    (tmp_path / "prometheus.yml").write_text(
        "global: {scrape_interval: 1s, evaluation_interval: 1s}\n"
        f"rule_files: [{DEPLOY / 'prometheus' / 'rules.yml'}]\n"
        f"scrape_configs: [{{job_name: forecastle, static_configs: [{{targets: ['127.0.0.1:{port}']}}]}}]\n"
    )
    command = [
        program("prometheus"),
        f"--config.file={tmp_path / 'prometheus.yml'}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address=127.0.0.1:{own}",
    ]
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as prometheus:
        try:
            found = asked(own, 'forecastle_forecast{horizon="300",quantile="0.5",workload="shop"}')
            assert [(one["metric"]["series"], one["value"][1]) for one in found] == [('site="fra"', "51")]
            assert asked(own, "forecastle:pool_ready:ratio > 0.9")[0]["metric"]["pool"] == "mail-ams"
            assert asked(own, "up")[0]["value"][1] == "1"
        finally:
            prometheus.terminate()
            prometheus.wait(120)


def another_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def asked(port: int, query: str, patience_s: float = 40.0) -> list[dict[str, Any]]:
    """What Prometheus answers, once it has an answer."""
    import urllib.error
    import urllib.parse

    url = f"http://127.0.0.1:{port}/api/v1/query?query={urllib.parse.quote(query)}"
    ends = time.monotonic() + patience_s
    while time.monotonic() < ends:
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
            if result:
                return result
        except (urllib.error.URLError, OSError):
            pass
        time.sleep(0.2)
    raise AssertionError(f"{query}: no answer within {patience_s} s")
