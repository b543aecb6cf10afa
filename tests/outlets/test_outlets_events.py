"""Events: what is told, under which ids, in which form, and that a receiver that was away misses nothing."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from outlet_worlds import MAIL, action, anomaly, busy, incident, outcome, plan, situation, tick, turned, until
from ruamel.yaml import YAML

from forecastle.errors import BrokerUnavailable, ConfigError, Denied, StoreUnavailable
from forecastle.outlets.cloudevents import Event, binary, encoded, structured
from forecastle.outlets.courier import Courier, Cursor, Retry
from forecastle.outlets.events import ANOMALY, CHANGED, CLOSED, OPENED, OUTCOME, PLAN, TYPES, Teller
from forecastle.outlets.topic import EventTopic
from forecastle.runtime.broker import LocalBroker
from forecastle.runtime.loop import Turned
from forecastle.settings import OutletSettings
from forecastle.types import Plan, Refusal, Severity, Status

DOCUMENT = Path(__file__).parents[2] / "docs" / "reference" / "asyncapi.yaml"
QUICK = Retry(first_s=0.01, longest_s=0.02)


def nothing(_tick: int) -> tuple[Plan, ...] | None:
    return None


def told(*turns: Turned, since: int = 0, recorded: Callable[[int], tuple[Plan, ...] | None] = nothing) -> list[Event]:
    teller = Teller(since, recorded)
    return [event for turn in turns for event in teller.events(turn).records]


# --- what is told ---------------------------------------------------------------------------------------------------


def test_a_busy_turn_tells_one_of_each() -> None:
    events = told(busy(tick(1)))
    assert [event.type for event in events] == [ANOMALY, OPENED, PLAN, OUTCOME]
    assert {event.subject for event in events} == {"shop"}
    assert len({event.id for event in events}) == 4
    assert all("." not in event.id for event in events), "a dot would end the id in a webhook's signature"


def test_the_same_thing_told_again_has_the_same_id() -> None:
    first, again = told(busy(tick(1)), busy(tick(2))), told(busy(tick(1)), busy(tick(2)))
    assert [event.id for event in first] == [event.id for event in again]
    assert len({event.id for event in first}) == len(first)


def test_a_plan_is_told_once_for_each_workload_it_names() -> None:
    at = tick(1)
    made = plan(at, action(at), action(at, "mail-ams", 3), refusals=(Refusal("step_up", "too fast", "shop-fra", "shop"),))
    mail, shop = told(turned(at, made))
    assert (mail.subject, shop.subject) == ("mail", "shop")
    assert [one["pool"] for one in shop.data["actions"]] == ["shop-fra"]
    assert (shop.data["recommended"], shop.data["evidence"]) == (6, {"need": 6})
    assert [one["guard"] for one in shop.data["refusals"]] == ["step_up"]
    assert (mail.data["refusals"], mail.data["plan"]) == ([], made.id)


def test_workloads_that_are_left_as_they_are_make_no_event() -> None:
    assert told(turned(tick(1), plan(tick(1)))) == []


def test_an_incident_is_told_at_its_turning_points_only() -> None:
    severities = [Severity.WARNING, Severity.WARNING, Severity.CRITICAL, Severity.CRITICAL, Severity.WARNING]
    turns = [turned(tick(i), incidents=(incident(tick(i), severity),)) for i, severity in enumerate(severities, 1)]
    events = told(*turns, turned(tick(6)), turned(tick(7)))
    assert [event.type for event in events] == [OPENED, CHANGED, CHANGED, CLOSED]
    assert [event.data["severity"] for event in events] == ["warning", "critical", "warning", "warning"]
    assert [event.data["closed"] for event in events] == [False, False, False, True]
    assert len({event.id for event in events}) == 4


def test_outcomes_of_another_process_are_told_too_and_each_once() -> None:
    here, there = outcome(action(tick(1))), outcome(action(tick(1), "mail-ams", 3), Status.FAILED)
    seen = turned(tick(2))
    fleet = replace(situation(tick(2)).fleet, outcomes=(here, there))
    seen = replace(seen, situation=replace(situation(tick(2)), fleet=fleet))
    events = told(turned(tick(1), outcomes=(here,)), turned(tick(1) + 1000), seen, seen)
    assert [(event.type, event.data["status"]) for event in events] == [(OUTCOME, "APPLIED"), (OUTCOME, "FAILED")]


def test_an_outcome_that_is_settled_later_is_told_again_under_another_id() -> None:
    unsure, sure = outcome(action(tick(1)), Status.UNVERIFIED), outcome(action(tick(1)), Status.APPLIED)
    events = told(turned(tick(1), outcomes=(unsure,)), turned(tick(2), outcomes=(sure,)))
    assert [event.data["status"] for event in events] == ["UNVERIFIED", "APPLIED"]
    assert events[0].id != events[1].id


# --- after a restart ------------------------------------------------------------------------------------------------


def test_what_was_told_is_not_told_again_and_what_was_not_comes_from_the_ledger() -> None:
    recorded = {tick(i): (plan(tick(i), action(tick(i))),) for i in range(1, 5)}
    history = [turned(tick(i), anomalies=(anomaly(tick(i)),), rebuilt=True, decided=False) for i in range(1, 5)]
    events = told(*history, since=tick(2), recorded=recorded.get)
    assert [(event.type, event.at) for event in events] == [(t, tick(i)) for i in (3, 4) for t in (ANOMALY, PLAN)]
    live = told(*(turned(tick(i), *recorded[tick(i)], anomalies=(anomaly(tick(i)),)) for i in (3, 4)))
    assert [event.id for event in events] == [event.id for event in live]


def test_an_incident_that_was_open_before_is_not_opened_again() -> None:
    history = [turned(tick(i), incidents=(incident(tick(i)),), rebuilt=True, decided=False) for i in (1, 2)]
    events = told(*history, turned(tick(3), incidents=(incident(tick(3)),)), turned(tick(4)), since=tick(2))
    assert [event.type for event in events] == [CLOSED]


def test_old_outcomes_in_the_fleet_are_known_already() -> None:
    old = outcome(action(tick(1)))
    seen = replace(situation(tick(5)), fleet=replace(situation(tick(5)).fleet, outcomes=(old,)))
    assert told(replace(turned(tick(5)), situation=seen), since=tick(4)) == []


def test_a_ledger_that_is_away_leaves_the_turn_to_be_told() -> None:
    def away(_tick: int) -> tuple[Plan, ...] | None:
        raise StoreUnavailable("no ledger")

    teller = Teller(0, away)
    history = turned(tick(1), incidents=(incident(tick(1)),), rebuilt=True, decided=False)
    with pytest.raises(StoreUnavailable):
        teller.events(history)
    teller._recorded = nothing
    assert [event.type for event in teller.events(history).records] == [OPENED]


# --- the form -------------------------------------------------------------------------------------------------------


@pytest.fixture
def document() -> dict[str, Any]:
    loaded: dict[str, Any] = YAML(typ="safe").load(DOCUMENT)
    return loaded


def every_type() -> list[Event]:
    """One of each type and more: all that the tests above make, with numbers that JSON does not have."""
    severities = [Severity.WARNING, Severity.CRITICAL]
    turns = [turned(tick(i), incidents=(incident(tick(i), severity),)) for i, severity in enumerate(severities, 2)]
    odd = replace(anomaly(tick(5), MAIL), score=float("inf"))
    return told(busy(tick(1)), *turns, turned(tick(5), anomalies=(odd,)))


def test_the_document_says_what_every_event_holds(document: dict[str, Any]) -> None:
    import jsonschema

    told = (message for message in document["components"]["messages"].values() if message["name"].startswith("forecastle."))
    messages = {message["name"]: message for message in told}
    assert set(messages) == set(TYPES)
    assert {event.type for event in every_type()} == set(TYPES)
    for event in every_type():
        schema = messages[event.type]["payload"] | {"components": document["components"]}
        jsonschema.validate(json.loads(encoded(event.data)), schema)
    headers = document["components"]["messageTraits"]["cloudEvent"]["headers"]
    for event in every_type():
        jsonschema.validate({name: value.decode() for name, value in binary(event, "/here").headers}, headers)


def test_the_document_s_references_lead_somewhere(document: dict[str, Any]) -> None:
    def references(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            yield from ([node["$ref"]] if "$ref" in node else ())
            node = list(node.values())
        if isinstance(node, list):
            for one in node:
                yield from references(one)

    found = set(references(document))
    assert found
    for reference in found:
        here = document
        for part in reference.removeprefix("#/").split("/"):
            here = here[part]


@pytest.mark.parametrize("form", [binary, structured])
def test_the_cloudevents_package_reads_what_we_write(form: Callable[[Event, str], Any]) -> None:
    from cloudevents.core.bindings.kafka import KafkaMessage, from_kafka_event

    for event in every_type():
        key, headers, value = form(event, "/forecastle/eu")
        read = from_kafka_event(KafkaMessage(headers=dict(headers), key=key, value=value))
        assert (read.get_id(), read.get_type(), read.get_source()) == (event.id, event.type, "/forecastle/eu")
        assert (read.get_subject(), read.get_extension("partitionkey")) == (event.subject, event.subject)
        assert round(read.get_time().timestamp() * 1000) == event.at
        assert read.get_data() == json.loads(encoded(event.data))


# --- the courier ----------------------------------------------------------------------------------------------------


class Receiver:
    """Takes events in; while it is away, every call fails."""

    def __init__(self) -> None:
        self.got: list[str] = []
        self.calls = 0
        self.away = threading.Event()
        self.refuses: set[str] = set()

    def send(self, events: Sequence[Event]) -> None:
        self.calls += 1
        if self.away.is_set():
            raise BrokerUnavailable("away", retry_after=0.0)
        if self.refuses & {event.id for event in events}:
            raise Denied("not this one")
        self.got += [event.id for event in events]


def event(name: str, kind: str = PLAN) -> Event:
    return Event(name, kind, tick(1), "shop", {})


def courier(receiver: Receiver, path: Path, start: int = 0, **changes: Any) -> Courier:
    return Courier("test", receiver.send, Cursor(path, start), **({"retry": QUICK} | changes))


def test_the_cursor_moves_only_after_delivery(tmp_path: Path) -> None:
    receiver = Receiver()
    receiver.away.set()
    one = courier(receiver, tmp_path / "cursor")
    one.offer(5, [event("a"), event("b")])
    until(lambda: receiver.calls > 3)
    assert (one.pending, one.tick, (tmp_path / "cursor").exists()) == (2, 0, False)
    receiver.away.clear()
    until(lambda: one.tick == 5)
    assert receiver.got == ["a", "b"]
    one.close()
    assert Cursor(tmp_path / "cursor", 0).tick == 5


def test_a_restart_tells_what_was_left(tmp_path: Path) -> None:
    receiver = Receiver()
    receiver.away.set()
    first = courier(receiver, tmp_path / "cursor")
    first.offer(1, [event("a")])
    first.close(patience_s=0.05)
    receiver.away.clear()
    second = courier(receiver, tmp_path / "cursor")
    assert second.tick == 0
    second.offer(1, [event("a")])
    second.offer(2, [event("b")])
    second.close()
    assert receiver.got == ["a", "b"]
    third = courier(receiver, tmp_path / "cursor")
    third.offer(2, [event("b")])
    third.close()
    assert receiver.got == ["a", "b"], "what it has is not told again"


def test_closing_does_not_wait_for_a_receiver_that_is_away(tmp_path: Path) -> None:
    receiver = Receiver()
    receiver.away.set()
    one = courier(receiver, tmp_path / "cursor", retry=Retry(3600.0, 3600.0))
    one.offer(1, [event("a")])
    one.close(patience_s=200.0)
    assert (receiver.calls, one.pending, one._thread.is_alive()) == (1, 1, False)


def test_what_finds_no_room_is_left_to_the_next_start(tmp_path: Path) -> None:
    receiver = Receiver()
    receiver.away.set()
    one = courier(receiver, tmp_path / "cursor", pending=2)
    one.offer(1, [event("a"), event("b")])
    one.offer(2, [event("c")])
    receiver.away.clear()
    until(lambda: receiver.got == ["a", "b"])
    one.offer(3, [event("d")])
    until(lambda: "d" in receiver.got)
    one.close()
    assert Cursor(tmp_path / "cursor", 0).tick < 2, "the tick that was left out is still to be told"


def test_a_tick_without_events_moves_the_cursor(tmp_path: Path) -> None:
    one = courier(Receiver(), tmp_path / "cursor")
    one.offer(7, [])
    until(lambda: one.tick == 7)
    one.close()


def test_only_the_wanted_types_are_delivered(tmp_path: Path) -> None:
    receiver = Receiver()
    one = courier(receiver, tmp_path / "cursor", types=("*.incident.*", PLAN))
    one.offer(1, [event("a", ANOMALY), event("b", OPENED), event("c", PLAN), event("d", OUTCOME)])
    one.close()
    assert receiver.got == ["b", "c"]


def test_a_refusal_for_good_drops_that_chunk_and_goes_on(tmp_path: Path) -> None:
    receiver = Receiver()
    receiver.refuses = {"b"}
    one = courier(receiver, tmp_path / "cursor", chunk=1)
    one.offer(1, [event("a"), event("b"), event("c")])
    until(lambda: one.tick == 1)
    one.close()
    assert (receiver.got, one.delivered, one.dropped, one.pending) == (["a", "c"], 2, 1, 0)


def test_attempts_may_be_bounded(tmp_path: Path) -> None:
    receiver = Receiver()
    receiver.away.set()
    one = courier(receiver, tmp_path / "cursor", retry=Retry(0.001, 0.002, attempts=3))
    one.offer(1, [event("a")])
    until(lambda: one.dropped == 1)
    one.close()
    assert receiver.calls == 3


def test_pauses_double_up_to_the_longest_with_some_jitter() -> None:
    retry = Retry(5.0, 300.0)
    for tries, most in ((1, 5.0), (2, 10.0), (4, 40.0), (20, 300.0), (2000, 300.0)):
        assert 0.75 * most <= retry.pause_s(tries) <= most


def test_a_cursor_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "cursor").write_text("yesterday")
    with pytest.raises(ConfigError, match=r"outlets\.cursors: .*cursor cannot be used"):
        Cursor(tmp_path / "cursor", 0)


# --- Kafka ----------------------------------------------------------------------------------------------------------


def read_all(broker: LocalBroker, topic: str, count: int) -> list[Any]:
    from kafka import KafkaConsumer, TopicPartition

    reader, found = KafkaConsumer(bootstrap_servers=broker.bootstrap), []
    parts = [TopicPartition(topic, number) for number in reader.partitions_for_topic(topic)]
    reader.assign(parts)
    reader.seek_to_beginning(*parts)
    give_up = time.monotonic() + 60
    while len(found) < count and time.monotonic() < give_up:
        found.extend(record for records in reader.poll(500).values() for record in records)
    reader.close()
    return found


@pytest.mark.broker
@pytest.mark.parametrize("mode", ["binary", "structured"])
def test_events_arrive_in_kafka_keyed_by_workload(
    broker: LocalBroker, topic_name: Callable[[str], str], tmp_path: Path, mode: str
) -> None:
    topic, events = topic_name("events"), every_type()
    settings = OutletSettings.model_validate({"events_topic": topic, "events_mode": mode})
    out = EventTopic(settings, {"bootstrap_servers": broker.bootstrap})
    one = Courier("kafka", out.send, Cursor(tmp_path / "cursor", 0))
    one.offer(tick(5), events)
    until(lambda: one.tick == tick(5), 60.0)
    one.close()
    out.close()
    records = read_all(broker, topic, len(events))
    assert sorted(record.key.decode() for record in records) == sorted(event.subject for event in events)
    if mode == "binary":
        idents = [dict(record.headers)["ce_id"].decode() for record in records]
    else:
        idents = [json.loads(record.value)["id"] for record in records]
    assert sorted(idents) == sorted(event.id for event in events)


def test_a_broker_that_is_not_there_is_tried_again(free_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forecastle.outlets.topic.TIMEOUT_S", 0.5)
    out = EventTopic(OutletSettings(events_topic="events"), {"bootstrap_servers": f"127.0.0.1:{free_port}"})
    with pytest.raises(BrokerUnavailable, match="events to events"):
        out.send([event("a")])
    out.close()
