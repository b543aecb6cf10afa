"""Whoever writes to Kafka ends its producer when the broker goes silent: an error of ours, no thread left, nothing late."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tcp_proxy import FaultProxy

from forecastle.errors import BrokerUnavailable
from forecastle.intake.connection import options
from forecastle.intake.dead_letters import DeadLetters, Letter
from forecastle.intake.publish import create_topics
from forecastle.outlets import topic as events
from forecastle.outlets.cloudevents import Event
from forecastle.outlets.site_topic import SiteWriter
from forecastle.outlets.topic import EventTopic
from forecastle.runtime.broker import LocalBroker
from forecastle.settings import IntakeSettings, OutletSettings
from forecastle.types import Origin

pytestmark = pytest.mark.broker


@pytest.fixture
def proxy(broker: LocalBroker) -> Iterator[FaultProxy]:
    with FaultProxy(("127.0.0.1", broker.port), swap=True) as running:
        yield running


@pytest.fixture
def reached(proxy: FaultProxy, topic_name: Callable[[str], str]) -> IntakeSettings:
    """Settings of one topic, by way of the proxy."""
    topic = topic_name("out")
    made = IntakeSettings(bootstrap=proxy.bootstrap, topics=("m",), codecs={"m": "json"}, dead_letter_topic=topic)
    create_topics(made, [topic], partitions=1)
    return made


def dead_letters(settings: IntakeSettings) -> tuple[Any, Callable[[int], None]]:
    writer = DeadLetters(settings, timeout_s=0.5)
    return writer, lambda i: writer.send([Letter(Origin("m", 0, i), "not_json", "", b"bad", 0)])


def site_orders(settings: IntakeSettings) -> tuple[Any, Callable[[int], None]]:
    writer = SiteWriter(settings.dead_letter_topic, options(settings), timeout_s=0.5)
    return writer, lambda i: writer.send("fra", [b"order %d" % i])


def cloud_events(settings: IntakeSettings) -> tuple[Any, Callable[[int], None]]:
    writer = EventTopic(OutletSettings(events_topic=settings.dead_letter_topic), options(settings))
    return writer, lambda i: writer.send([Event(f"{i}", "io.forecastle.plan.made", 1_760_000_000_000, "shop", {"n": i})])


def senders() -> list[str]:
    """Threads of Kafka producers."""
    return [thread.name for thread in threading.enumerate() if "kafka-python-producer" in thread.name]


def records(settings: IntakeSettings, broker: LocalBroker) -> int:
    """How many records the topic has, asked without the proxy."""
    from kafka import KafkaConsumer, TopicPartition

    reader = KafkaConsumer(**options(settings.model_copy(update={"bootstrap": broker.bootstrap})))
    part = TopicPartition(settings.dead_letter_topic, 0)
    end: int = reader.end_offsets([part])[part]
    reader.close()
    return end


@pytest.mark.parametrize("open_writer", [dead_letters, site_orders, cloud_events])
def test_a_writer_whose_broker_goes_silent_ends_its_producer_and_sends_again(
    open_writer: Callable[[IntakeSettings], tuple[Any, Callable[[int], None]]],
    reached: IntakeSettings,
    proxy: FaultProxy,
    broker: LocalBroker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(events, "TIMEOUT_S", 0.5)
    before = len(senders())
    writer, send = open_writer(reached)
    send(0)
    assert records(reached, broker) == 1
    for _ in range(2):
        proxy.go_silent()
        with pytest.raises(BrokerUnavailable):
            send(1)
        assert len(senders()) == before, "no thread goes on sending"
    proxy.cut()
    proxy.accept()
    lost = records(reached, broker)
    send(1)
    assert records(reached, broker) == lost + 1
    writer.close()
    writer.close()
    assert len(senders()) == before
