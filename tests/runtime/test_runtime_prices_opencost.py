"""OpenCost's allocations as prices: against a real HTTP server that answers in the form OpenCost documents."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from price_worlds import POOL, SITE, at, write_fleet
from typer.testing import CliRunner

from forecastle.cli import app
from forecastle.decide.prices import Point
from forecastle.errors import CloudUnavailable, ConfigError, Denied, ForecastleError, Malformed
from forecastle.runtime.prices import read_book, shelf
from forecastle.runtime.prices_opencost import fetch, refresh_opencost, replica_hours, window_ms

NOW = at("2026-11-20T10:00")
HOUR = 3_600_000
PLACE = Point("aws", "ap-southeast-2", "", "")


def pod(controller: str, cost: float, minutes: float, name: str = "", kind: str = "deployment", **rest: Any) -> dict[str, Any]:
    """An allocation of one pod, with the fields of OpenCost's API description that matter and some that do not."""
    properties = {
        "cluster": "cluster-one",
        "node": "ip-192-168-20-42.ap-southeast-2.compute.internal",
        "controller": controller,
        "controllerKind": kind,
        "namespace": "shop",
        "pod": name or f"{controller}-75dc7dcc49-xdx5t",
        "providerID": "i-064548f89b9d35c11",
    }
    return {
        "name": properties["pod"],
        "properties": properties,
        "window": {"start": "2026-11-19T10:00:00Z", "end": "2026-11-20T10:00:00Z"},
        "start": "2026-11-19T10:00:00Z",
        "end": "2026-11-20T10:00:00Z",
        "minutes": minutes,
        "cpuCores": 0.02,
        "cpuCost": cost * 0.6,
        "ramCost": cost * 0.4,
        "pvs": None,
        "totalCost": cost,
        "totalEfficiency": 0.148938,
        "rawAllocationOnly": None,
    } | rest


IDLE = {"name": "__idle__", "properties": {"cluster": "cluster-one"}, "minutes": 1440.0, "totalCost": 9.9}


def said(*allocations: dict[str, Any]) -> dict[str, Any]:
    return {"code": 200, "status": "success", "data": [{one["name"]: one for one in allocations}]}


@dataclass
class OpenCost:
    """The server: its address, what it answers, what it was asked."""

    url: str = ""
    status: int = 200
    body: bytes = b""
    asked: list[str] = field(default_factory=list)

    def says(self, *allocations: dict[str, Any]) -> None:
        self.body = json.dumps(said(*allocations)).encode()


@pytest.fixture
def opencost() -> Iterator[OpenCost]:
    here = OpenCost()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            here.asked.append(self.path)
            self.send_response(here.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(here.body)))
            self.end_headers()
            self.wfile.write(here.body)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    here.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02), daemon=True)
    thread.start()
    yield here
    server.shutdown()
    thread.join()
    server.server_close()


# --- money per replica-hour -----------------------------------------------------------------------------------------


def test_the_price_is_the_money_of_all_pods_by_the_hours_of_all_pods() -> None:
    answer = said(
        pod("checkout", 0.24, 1440, "checkout-a"),
        pod("checkout", 0.02, 60, "checkout-b"),
        pod("mail", 0.004003, 376, "mail-0", "statefulset"),
    )
    assert replica_hours(answer) == {
        "shop/checkout": pytest.approx((0.26, 25.0)),
        "shop/mail": pytest.approx((0.004003, 376 / 60)),
    }


def test_what_has_no_replicas_that_can_be_scaled_has_no_price() -> None:
    answer = said(
        IDLE,
        {"name": "__unallocated__", "properties": {"cluster": "cluster-one"}, "minutes": 376.0, "totalCost": 0.055577},
        pod("node-exporter", 0.1, 1440, kind="daemonset"),
        pod("backup", 0.1, 30, kind="Job"),
        pod("", 0.1, 1440, "static-web"),
        pod("young", 0.0, 0.0),
    )
    assert replica_hours(answer) == {}


def test_steps_of_a_window_are_added_up() -> None:
    answer = said(pod("web", 0.1, 60))
    answer["data"] += [None, {}, {"web": pod("web", 0.3, 60)}]
    assert replica_hours(answer) == {"shop/web": pytest.approx((0.4, 2.0))}


def test_equal_names_in_two_namespaces_are_two_prices() -> None:
    other = pod("web", 0.5, 60, "web-other")
    other["properties"]["namespace"] = "stage"
    assert sorted(replica_hours(said(pod("web", 0.1, 60), other))) == ["shop/web", "stage/web"]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 50), st.floats(0, 1440)), min_size=1, max_size=12))
def test_no_money_and_no_hour_is_lost_or_invented(pods: list[tuple[str, float, float]]) -> None:
    answer = said(*(pod(name, cost, minutes, f"{name}-{i}") for i, (name, cost, minutes) in enumerate(pods)))
    found = replica_hours(answer)
    for name in {name for name, _, _ in pods}:
        hours = sum(minutes for other, _, minutes in pods if other == name) / 60
        assert (f"shop/{name}" in found) == (hours > 0)
        if hours > 0:
            assert found[f"shop/{name}"] == pytest.approx((sum(c for other, c, _ in pods if other == name), hours))


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ({"code": 500, "message": "no data from Prometheus"}, "has no list 'data': no data from Prometheus"),
        ([], "has no list 'data'; is that OpenCost's API"),
        ({"data": {"web": {}}}, "has no list 'data'"),
        ({"data": [{"web": 1}]}, "allocation web is no object"),
        (said(pod("web", 0.1, 60, totalCost=None)), "totalCost of web-75dc7dcc49-xdx5t is None, not a number from 0 on"),
        (said(pod("web", 0.1, 60, totalCost=-1.0)), "totalCost of .* is -1.0"),
        (said(pod("web", 0.1, 60, totalCost="0.1")), "totalCost of .* is '0.1'"),
        (said(pod("web", 0.1, float("nan"))), "minutes of .* is nan"),
        (said(pod("web", 0.1, True)), "minutes of .* is True"),
    ],
)
def test_an_answer_of_another_shape_is_refused(answer: Any, says: str) -> None:
    with pytest.raises(Malformed, match=says):
        replica_hours(answer)


# --- over HTTP ------------------------------------------------------------------------------------------------------


def test_a_book_is_made_of_what_opencost_says(opencost: OpenCost, tmp_path: Path) -> None:
    opencost.says(pod("checkout", 0.24, 1440), pod("mail", 0.1, 180), IDLE)
    path = refresh_opencost(tmp_path, opencost.url + "/", PLACE, now=NOW, window="12h", currency="AUD")
    assert path == tmp_path / "opencost-0001.yaml"
    book = read_book(path)
    assert (book.currency, book.since, book.as_of) == ("AUD", NOW - 12 * HOUR, NOW)
    assert [(row.point.sku, row.price) for row in book.prices] == [("shop/checkout", 0.01), ("shop/mail", 0.0333333)]
    asked = urlsplit(opencost.asked[0])
    assert asked.path == "/allocation"
    assert parse_qs(asked.query) == {"window": ["12h"], "aggregate": ["pod"], "accumulate": ["true"]}


def test_the_next_version_begins_where_the_last_one_ended(opencost: OpenCost, tmp_path: Path) -> None:
    opencost.says(pod("web", 0.1, 60))
    refresh_opencost(tmp_path, opencost.url, PLACE, now=NOW)
    assert refresh_opencost(tmp_path, opencost.url, PLACE, now=NOW + HOUR) is None, "nothing has changed"
    opencost.says(pod("web", 0.3, 60))
    assert refresh_opencost(tmp_path, opencost.url, PLACE, now=NOW + 2 * HOUR) is not None
    books, point = shelf(tmp_path), PLACE._replace(zone="a", sku="shop/web")
    assert [(q := books.quote(point, t)) and q.price for t in (NOW - 25 * HOUR, NOW - 1, NOW)] == [None, 0.1, 0.3]


def test_only_the_skus_asked_for_are_taken(opencost: OpenCost, tmp_path: Path) -> None:
    opencost.says(pod("web", 0.1, 60), pod("mail", 0.1, 60))
    path = refresh_opencost(tmp_path, opencost.url, PLACE, now=NOW, only=["shop/mail"])
    assert path is not None
    assert [row.point.sku for row in read_book(path).prices] == ["shop/mail"]
    with pytest.raises(ConfigError, match="no replicas of shop/wbe in the last 24h; known are shop/mail, shop/web"):
        refresh_opencost(tmp_path, opencost.url, PLACE, now=NOW, only=["shop/wbe"])


def test_an_empty_cluster_makes_no_book(opencost: OpenCost, tmp_path: Path) -> None:
    opencost.says(IDLE)
    with pytest.raises(ConfigError, match="no replicas in the last 24h; give it a longer --window"):
        refresh_opencost(tmp_path, opencost.url, PLACE, now=NOW)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("status", "body", "error", "says"),
    [
        (401, b"", Denied, "401; let the proxy before OpenCost pass"),
        (403, b"no", Denied, "403 no"),
        (404, b"404 page not found", ConfigError, "404 page not found; correct --url"),
        (400, b"bad window", ConfigError, "400 bad window"),
        (429, b"slow down", CloudUnavailable, "429 slow down"),
        (503, b"starting", CloudUnavailable, "503 starting"),
        (200, b"<html>OpenCost UI</html>", Malformed, "is that OpenCost's API, not its pages"),
        (200, b'{"data": [', Malformed, "opencost_json"),
        (200, b"", Malformed, "opencost_json"),
    ],
)
def test_every_refusal_says_what_to_do(
    opencost: OpenCost, tmp_path: Path, status: int, body: bytes, error: type[ForecastleError], says: str
) -> None:
    opencost.status, opencost.body = status, body
    with pytest.raises(error, match=says):
        refresh_opencost(tmp_path, opencost.url, PLACE, now=NOW)
    assert list(tmp_path.iterdir()) == []


def test_an_answer_without_end_is_not_read_to_its_end(opencost: OpenCost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forecastle.runtime.prices_opencost.MAX_BYTES", 100)
    opencost.says(pod("web", 0.1, 60))
    with pytest.raises(Malformed, match=r"opencost_too_large.*shorter --window"):
        fetch(opencost.url, "24h", 5.0)


def test_nobody_there_is_a_reason_to_try_again(free_port: int) -> None:
    with pytest.raises(CloudUnavailable, match=r"Connection refused.*kubectl port-forward"):
        fetch(f"http://127.0.0.1:{free_port}", "24h", 5.0)


def test_a_server_that_says_nothing_is_left() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(CloudUnavailable, match="timed out"):
        fetch(f"http://127.0.0.1:{silent.getsockname()[1]}", "24h", 0.1)


@pytest.mark.parametrize("url", ["localhost:9003", "file:///etc/passwd", "ftp://opencost", "/allocation", ""])
def test_other_addresses_are_never_opened(url: str) -> None:
    with pytest.raises(ConfigError, match="is no address of OpenCost's API; write http://localhost:9003"):
        fetch(url, "24h", 1.0)


@pytest.mark.parametrize(("window", "ms"), [("30m", HOUR // 2), ("12h", 12 * HOUR), ("7d", 168 * HOUR)])
def test_windows_are_durations(window: str, ms: int) -> None:
    assert window_ms(window) == ms


@pytest.mark.parametrize("window", ["", "0h", "7", "week", "1h&aggregate=cluster", "7d ", "-1d", "999999d"])
def test_other_windows_are_refused_before_anything_is_asked(opencost: OpenCost, tmp_path: Path, window: str) -> None:
    with pytest.raises(ConfigError, match="write 30m, 12h or 7d"):
        refresh_opencost(tmp_path, opencost.url, PLACE, now=NOW, window=window)
    assert opencost.asked == []


def test_the_command_prices_a_pool_by_namespace_and_controller(opencost: OpenCost, tmp_path: Path) -> None:
    opencost.says(pod("checkout", 0.24, 1440))
    config = write_fleet(tmp_path, POOL | {"sku": "shop/checkout"})
    asked = ["--provider", SITE["provider"], "--region", SITE["region"], "--config", str(config)]
    runner = CliRunner()
    done = runner.invoke(app, ["prices", "opencost", "--url", opencost.url, *asked])
    assert (done.exit_code, done.output) == (0, f"{tmp_path}/prices/opencost-0001.yaml\n")
    assert runner.invoke(app, ["prices", "opencost", "--url", opencost.url, *asked]).output == "no price has changed\n"
    assert runner.invoke(app, ["check", "--config", str(config)]).exit_code == 0
