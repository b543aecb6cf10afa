"""What a site refuses is counted at both ends, and the messages are those that the document describes."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from edge_worlds import OTHER, POOL, START, Edge
from ruamel.yaml import YAML

from forecastle.clouds.breaker import Breaker, Tripping
from forecastle.clouds.edge_messages import Answer, Order, Refused, Sight
from forecastle.errors import Conflict
from forecastle.outlets.alertmanager import CLEARED, RAISED, notification, webhook
from forecastle.runtime.cloud_reports import reports
from forecastle.runtime.edge import heartbeat, serve
from forecastle.runtime.health import HealthFile, problem, read
from forecastle.settings import AgentSettings, Settings
from forecastle.types import Status

DOCUMENT: dict[str, Any] = YAML(typ="safe").load(Path(__file__).parents[2] / "docs" / "reference" / "asyncapi.yaml")


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[Edge]:
    made = Edge(tmp_path)
    yield made
    made.agent.post.book.close()
    made.local.close()


def site(edge: Edge) -> Any:
    return reports({"ams": edge.cloud})["ams"].site


# --- at control -----------------------------------------------------------------------------------------------------


def test_what_the_agent_refuses_is_counted_by_reason(edge: Edge) -> None:
    edge.cloud.observe(POOL)
    edge.deliver(edge.order(key=OTHER), edge.order(key=OTHER), b"{", edge.order(site="elsewhere"))
    edge.deliver(edge.order(expires_at=START))
    edge.cloud.observe(POOL)
    assert site(edge).refused == {"bad_signature": 2, "not_json": 1, "other_site": 1, "expired": 1}
    assert site(edge).rejected == {}


def test_what_the_agent_s_adapter_refused_is_counted_by_its_error(edge: Edge) -> None:
    edge.cloud.observe(POOL)
    action = edge.action(5, expected=7)
    for _ in range(2):
        with pytest.raises(Conflict):
            edge.cloud.apply(action, POOL, token=action.id)
    assert site(edge).refused == {"Conflict": 1}, "the same answer once more is no other refusal"


def test_reports_that_are_not_believed_are_counted_apart(edge: Edge) -> None:
    edge.cloud.observe(POOL)
    edge.reports.log += [("ams", edge.order()), ("ams", b"x")]
    edge.cloud.observe(POOL)
    assert (site(edge).refused, site(edge).rejected) == ({}, {"wrong_kind": 1, "not_json": 1})


def test_the_age_of_a_report_grows_with_silence(edge: Edge) -> None:
    assert site(edge).age_s == float("inf"), "nothing was heard yet"
    edge.cloud.observe(POOL)
    edge.alive = False
    edge.wait(40)
    assert site(edge).age_s == 40.0


def test_layers_do_not_hide_a_site(edge: Edge) -> None:
    edge.cloud.observe(POOL)
    covered = Breaker(edge.cloud, Tripping(0.5, 10, 60, 30), time.monotonic)
    found = reports({"ams": covered, "local": edge.local})
    assert found["ams"].site is not None
    assert found["ams"].breaker == "closed"
    assert found["local"].site is None


# --- at the site ----------------------------------------------------------------------------------------------------


def beats(edge: Edge, folder: Path) -> Any:
    """One turn of the agent's process; what its heartbeat says while it works and afterwards."""
    path, stop, seen = folder / "agent.health.json", threading.Event(), []
    health = HealthFile(path, "agent of ams")
    turn = edge.agent.turn

    class Turning:
        refused = edge.agent.refused
        link = ""

        def turn(self, _timeout_s: float) -> None:
            if len(seen) == 2:
                stop.set()
            turn(0.0)
            self.link = edge.agent.link
            seen.append(read(path))

    serve(Turning(), health, stop, time.monotonic() + 30)  # type: ignore[arg-type]
    return [*seen[1:], read(path)]


def test_the_heartbeat_says_what_was_refused(edge: Edge, tmp_path: Path) -> None:
    edge.orders.log += [("ams", edge.order(key=OTHER)), ("ams", edge.order(expires_at=START)), ("ams", edge.order(99))]
    *_, last = beats(edge, tmp_path)
    assert last.refusals == {"bad_signature": 1, "expired": 1, "out_of_bounds": 1}
    assert (last.state, last.worker) == ("STOPPED", "agent of ams")
    assert edge.replicas() == 1


def test_a_link_that_is_down_is_a_hold(edge: Edge, tmp_path: Path) -> None:
    edge.orders.down = True
    first, *_ = beats(edge, tmp_path)
    assert (first.state, first.detail) == ("HOLD", "no connection")
    assert first.hold_since > 0
    edge.orders.down = False
    first, *_ = beats(edge, tmp_path)
    assert (first.state, first.detail, first.hold_since) == ("RUNNING", "", 0)


def test_an_order_that_is_obeyed_is_no_refusal(edge: Edge) -> None:
    edge.do(5)
    edge.deliver(edge.order(3))
    assert edge.agent.refused == {}


def test_the_heartbeat_is_beside_the_memory(tmp_path: Path) -> None:
    settings = Settings(agent=AgentSettings(site="ams", state=str(tmp_path / "deep" / "agent.db")))
    assert heartbeat(settings) == tmp_path / "deep" / "agent.health.json"
    assert "no heartbeat" in problem(heartbeat(settings), 60)


# --- the document ---------------------------------------------------------------------------------------------------


def schema(name: str) -> dict[str, Any]:
    return DOCUMENT["components"]["schemas"][name] | {"components": DOCUMENT["components"]}


def test_the_document_describes_what_travels(edge: Edge) -> None:
    edge.do(5)
    edge.deliver(b"{", edge.order(99), edge.order(2, expires_at=START))
    edge.wait(60)
    edge.agent.turn(0.0)
    values = [value for _, value in [*edge.orders.log, *edge.reports.log] if value != b"{"]
    kinds = set()
    for value in values:
        jsonschema.validate(json.loads(value), schema("sealed"))
        envelope = json.loads(value)
        kinds.add(envelope["kind"])
        jsonschema.validate(json.loads(envelope["body"]), schema(envelope["kind"]))
    assert kinds == {"order", "answer", "refused", "sight"}


@pytest.mark.parametrize("kind", [Order, Answer, Refused, Sight])
def test_the_document_names_every_field(kind: type) -> None:
    described = DOCUMENT["components"]["schemas"][kind.__name__.lower()]
    assert set(described["properties"]) == {field.name for field in msgspec.inspect.type_info(kind).fields}  # type: ignore[union-attr]
    assert set(described["required"]) == set(described["properties"])


def test_the_document_knows_every_reason_and_status() -> None:
    answer, refused = (DOCUMENT["components"]["schemas"][name]["properties"] for name in ("answer", "refused"))
    assert set(answer["status"]["enum"]) == {status.value for status in Status}
    told = Path(__file__).parents[2] / "docs" / "reference" / "clouds.md"
    for reason in (*answer["reason"]["enum"], *refused["reason"]["enum"]):
        assert not reason or f"`{reason}`" in told.read_text()


def test_what_the_document_lets_ring_is_heard() -> None:
    alert = {"status": "firing", "labels": {"alertname": "Slow", "workload": "shop"}, "fingerprint": "f1"}
    body = {"version": "4", "alerts": [alert], "receiver": "forecastle"}
    jsonschema.validate(body, schema("notification"))
    assert len(notification(json.dumps(body).encode(), {}, START, lambda _: "").signals) == 1
    for kind in (RAISED, CLEARED):
        rung = {
            "type": kind,
            "timestamp": "2026-11-01T00:00:00Z",
            "data": {"workload": "shop", "alert": "Slow", "kind": "spike"},
        }
        jsonschema.validate(rung, schema("signal"))
        assert len(webhook(json.dumps(rung).encode(), {}, START, lambda _: "").signals) == 1


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("notification", {"version": "3", "alerts": []}),
        ("notification", {"version": "4", "alerts": [{"status": "on", "labels": {}, "fingerprint": "f"}]}),
        ("signal", {"type": RAISED, "data": {"alert": "Slow"}}),
        ("signal", {"type": RAISED, "data": {"workload": "shop", "alert": "Slow", "kind": "odd"}}),
    ],
)
def test_what_the_document_forbids_is_refused(name: str, body: dict[str, Any]) -> None:
    from forecastle.errors import Malformed

    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(body, schema(name))
    with pytest.raises(Malformed):
        (notification if name == "notification" else webhook)(json.dumps(body).encode(), {}, START, lambda _: "")


def test_every_channel_has_an_operation_and_a_server() -> None:
    used = {operation["channel"]["$ref"].rpartition("/")[2] for operation in DOCUMENT["operations"].values()}
    assert used == set(DOCUMENT["channels"])
    assert {channel["address"] for channel in DOCUMENT["channels"].values()} >= {"/alertmanager", "/webhook"}
    agent = AgentSettings()
    assert {agent.orders_topic, agent.reports_topic} <= {channel["address"] for channel in DOCUMENT["channels"].values()}
