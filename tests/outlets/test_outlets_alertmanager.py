"""With a real Alertmanager: it rings our doorbell, takes our alerts, and accepts the configuration we ship."""

from __future__ import annotations

import json
import socket
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from outlet_worlds import START, STOCK, incident, tick, turned, until
from ruamel.yaml import YAML

from forecastle.outlets.alerts import Alerts
from forecastle.outlets.doorbell import Doorbell, serving_doorbell
from forecastle.outlets.signals import SignalBook
from forecastle.settings import AlertSettings, DoorbellSettings

SHIPPED = Path(__file__).parents[2] / "deploy" / "alertmanager" / "alertmanager.yml"
TOKEN, PASSWORD = "t" * 40, "p" * 40
ENVIRONMENT = {"TOKEN": TOKEN, "PAIR": f"am:{PASSWORD}"}


@contextmanager
def alertmanager(binary: str, folder: Path, port: int, config: Any) -> Iterator[str]:
    """A running Alertmanager; yields its address."""
    path = folder / "alertmanager.yml"
    YAML(typ="safe").dump(config, path)
    command = [binary, f"--config.file={path}", f"--storage.path={folder / 'am'}", "--cluster.listen-address="]
    command.append(f"--web.listen-address=127.0.0.1:{port}")
    with (folder / "am.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        address = f"http://127.0.0.1:{port}"
        try:
            until(lambda: ready(address))
            yield address
        finally:
            process.terminate()
            process.wait(120)


def ready(address: str) -> bool:
    with suppress(OSError), urllib.request.urlopen(f"{address}/-/ready", timeout=30) as answer:
        return bool(answer.status == 200)
    return False


def known(address: str) -> list[dict[str, Any]]:
    """The alerts that are active at an Alertmanager."""
    with urllib.request.urlopen(f"{address}/api/v2/alerts?active=true", timeout=30) as answer:
        found: list[dict[str, Any]] = json.load(answer)
    return found


def fire(amtool: str, address: str, *labels: str, ended: bool = False) -> None:
    times = [f"--end={datetime.now(UTC).isoformat(timespec='seconds').replace('+00:00', 'Z')}"] if ended else []
    command = [amtool, "alert", "add", f"--alertmanager.url={address}", "--annotation=summary=p99 is 2 s", *times, *labels]
    subprocess.run(command, check=True, capture_output=True, timeout=120)


def shipped(port: int, folder: Path, login: dict[str, Any]) -> Any:
    """The configuration we ship, made impatient and pointed to a doorbell at ``port``."""
    config = YAML(typ="safe").load(SHIPPED)
    config["route"] |= {"group_wait": "50ms", "group_interval": "100ms", "repeat_interval": "1h"}
    (hook,) = next(one for one in config["receivers"] if one["name"] == "forecastle")["webhook_configs"]
    hook["url"] = f"http://127.0.0.1:{port}/alertmanager"
    hook["http_config"] = login
    return config


LABELS = ("alertname=TooSlow", "workload=shop", "site=fra", "severity=critical")


@pytest.mark.parametrize(
    "login",
    [
        {"authorization": {"credentials": TOKEN}},
        {"basic_auth": {"username": "am", "password": PASSWORD}},
    ],
    ids=["bearer", "basic"],
)
def test_it_rings_when_an_alert_fires_and_when_it_is_resolved(
    login: dict[str, Any], program: Callable[[str], str], tmp_path: Path, free_port: int
) -> None:
    binary, amtool = program("prometheus-alertmanager"), program("amtool")
    book = SignalBook(tmp_path / "signals.jsonl", STOCK, lambda: START)
    bell = Doorbell(DoorbellSettings(tokens=("TOKEN",), basic=("PAIR",)), book, ENVIRONMENT)
    with serving_doorbell(bell) as port, alertmanager(binary, tmp_path, free_port, shipped(port, tmp_path, login)) as address:
        fire(amtool, address, *LABELS)
        fire(amtool, address, "alertname=ForecastleOnHold", "workload=shop", "severity=critical")
        fire(amtool, address, "alertname=ForecastleIncident", "origin=forecastle", "workload=shop", "severity=critical")
        until(lambda: len(book.heard(tick(1))) == 1)
        (heard,) = book.heard(tick(1))
        assert str(heard.key) == 'shop:alert/TooSlow{site="fra"}'
        assert (heard.evidence["summary"], heard.evidence["severity"]) == ("p99 is 2 s", "critical")
        fire(amtool, address, *LABELS, ended=True)
        until(lambda: book.heard(tick(1)) == ())
        assert set(bell.answers) == {("/alertmanager", 200)}
        assert {json.loads(line)["alert"] for line in (tmp_path / "signals.jsonl").read_bytes().splitlines()} == {"TooSlow"}


def test_with_a_wrong_token_it_is_not_heard(program: Callable[[str], str], tmp_path: Path, free_port: int) -> None:
    binary, amtool = program("prometheus-alertmanager"), program("amtool")
    book = SignalBook(tmp_path / "signals.jsonl", STOCK, lambda: START)
    bell = Doorbell(DoorbellSettings(tokens=("TOKEN",)), book, ENVIRONMENT)
    login = {"authorization": {"credentials": "wrong"}}
    with serving_doorbell(bell) as port, alertmanager(binary, tmp_path, free_port, shipped(port, tmp_path, login)) as address:
        fire(amtool, address, *LABELS)
        until(lambda: bell.answers["/alertmanager", 401] > 0)
    assert book.heard(tick(1)) == ()
    assert set(bell.answers) == {("/alertmanager", 401)}


def test_it_takes_our_alert_and_ends_it_when_we_do(program: Callable[[str], str], tmp_path: Path, free_port: int) -> None:
    quiet = {"route": {"receiver": "people"}, "receivers": [{"name": "people"}]}
    with alertmanager(program("prometheus-alertmanager"), tmp_path, free_port, quiet) as address:
        alerts = Alerts(AlertSettings(urls=(address,), resend_s=30.0, generator_url="https://grafana/d/1"), {})
        alerts.listen(turned(tick(1), incidents=(incident(tick(1)),)))
        until(lambda: len(known(address)) == 1)
        (alert,) = known(address)
        assert alert["labels"] == {
            "alertname": "ForecastleIncident",
            "origin": "forecastle",
            "workload": "shop",
            "site": "fra",
            "severity": "warning",
        }
        assert alert["annotations"]["summary"] == "too many requests"
        assert alert["generatorURL"] == "https://grafana/d/1"
        assert (alert["status"]["state"], alerts.dropped) == ("active", 0)
        alerts.listen(turned(tick(2), incidents=(incident(tick(2)),)))
        alerts.listen(turned(tick(3)))
        until(lambda: known(address) == [])
        alerts.close()
        assert (alerts.delivered, alerts.dropped) == (2, 0)


def test_amtool_accepts_the_configuration_we_ship(program: Callable[[str], str]) -> None:
    command = [program("amtool"), "check-config", str(SHIPPED)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("labels", "receivers"),
    [
        (("alertname=TooSlow", "workload=shop"), "forecastle,people"),
        (("alertname=DiskFull", "instance=a"), "people"),
        (("alertname=ForecastleForecastOff", "workload=shop"), "people"),
        (("alertname=ForecastleIncident", "origin=forecastle", "workload=shop"), "people"),
        (("alertname=Other", "origin=forecastle", "workload=shop"), "people"),
    ],
)
def test_who_is_told_what(labels: tuple[str, ...], receivers: str, program: Callable[[str], str]) -> None:
    """What names a workload rings the doorbell and goes to people; what we say ourselves never comes back."""
    command = [program("amtool"), "config", "routes", "test", f"--config.file={SHIPPED}", *labels]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.strip() == receivers, done.stderr


def test_from_a_rule_of_prometheus_to_a_signal(program: Callable[[str], str], tmp_path: Path) -> None:
    """The whole way in: a rule fires in a real Prometheus, which tells a real Alertmanager, which rings."""
    own, am = another_port(), another_port()
    rule = {"alert": "TooSlow", "expr": "vector(2) > 1", "labels": {"workload": "shop", "site": "fra", "severity": "page"}}
    rule["annotations"] = {"summary": "p99 is {{ $value }} s"}
    YAML(typ="safe").dump({"groups": [{"name": "g", "rules": [rule]}]}, tmp_path / "rules.yml")
    config: dict[str, Any] = {"global": {"evaluation_interval": "1s"}, "rule_files": [str(tmp_path / "rules.yml")]}
    config["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{am}"]}]}]}
    YAML(typ="safe").dump(config, tmp_path / "prometheus.yml")
    command = [program("prometheus"), f"--config.file={tmp_path / 'prometheus.yml'}"]
    command += [f"--storage.tsdb.path={tmp_path / 'data'}", f"--web.listen-address=127.0.0.1:{own}"]
    command.append("--rules.alert.resend-delay=1s")  # it finds its Alertmanager only after the first try
    book = SignalBook(tmp_path / "signals.jsonl", STOCK, lambda: START)
    bell = Doorbell(DoorbellSettings(tokens=("TOKEN",)), book, ENVIRONMENT)
    login = {"authorization": {"credentials": TOKEN}}
    with (
        serving_doorbell(bell) as port,
        alertmanager(program("prometheus-alertmanager"), tmp_path, am, shipped(port, tmp_path, login)),
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log) as prometheus,
    ):
        try:
            until(lambda: len(book.heard(tick(1))) == 1)
        finally:
            prometheus.terminate()
            prometheus.wait(120)
    (heard,) = book.heard(tick(1))
    assert (heard.evidence["summary"], heard.evidence["severity"]) == ("p99 is 2 s", "critical")


def another_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_the_stack_joins_prometheus_alertmanager_and_the_worker() -> None:
    """Addresses, ports and secrets of compose.yaml fit the configurations that are mounted."""
    root = SHIPPED.parents[2]
    services = YAML(typ="safe").load(root / "compose.yaml")["services"]
    worker, manager = services["worker"], services["alertmanager"]
    listens = next(word.rpartition(":")[2] for word in manager["command"] if word.startswith("--web.listen-address="))
    assert worker["network_mode"] == manager["network_mode"] == "service:kafka"
    told = YAML(typ="safe").load(root / "deploy" / "prometheus" / "prometheus.yml")["alerting"]["alertmanagers"]
    assert told == [{"static_configs": [{"targets": [f"kafka:{listens}"]}]}]
    given = worker["environment"]
    assert json.loads(given["FORECASTLE_OUTLETS__ALERTS__URLS"]) == [f"http://127.0.0.1:{listens}"]
    hook = next(r for r in YAML(typ="safe").load(SHIPPED)["receivers"] if r["name"] == "forecastle")["webhook_configs"][0]
    assert hook["url"] == f"http://127.0.0.1:{given['FORECASTLE_OUTLETS__DOORBELL__PORT']}/alertmanager"
    (secret,) = manager["secrets"]
    assert secret["target"] == hook["http_config"]["authorization"]["credentials_file"]
    (token,) = json.loads(given["FORECASTLE_OUTLETS__DOORBELL__TOKENS"])
    assert given[token].startswith(f"${{{token}:?")
    taken = [line for line in services["kafka"]["environment"]["KAFKA_LISTENERS"].split(",") if line.endswith(f":{listens}")]
    assert taken == []
