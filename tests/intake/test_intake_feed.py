"""A producer that stays open: what it says was sent can be read, in order, at its event time."""

from collections.abc import Callable

import pytest

from forecastle.errors import BrokerUnavailable
from forecastle.intake.consumer import KafkaIntake
from forecastle.intake.feed import Feed
from forecastle.intake.publish import create_topics, encode_single
from forecastle.runtime.broker import LocalBroker
from forecastle.runtime.clocks import WallClock
from forecastle.settings import IntakeSettings
from forecastle.types import SeriesKey

KEY = SeriesKey("shop", "rate")
START = 1_760_000_040_000


def record(minute: int) -> tuple[str, int, bytes]:
    at = START + minute * 60_000
    return "shop", at, encode_single(KEY, at, float(minute))


@pytest.mark.broker
def test_everything_sent_tick_by_tick_arrives_in_order(broker: LocalBroker, topic_name: Callable[[str], str]) -> None:
    topic = topic_name("feed")
    settings = IntakeSettings(bootstrap=broker.bootstrap, topics=(topic,), codecs={topic: "json"}, group=topic, instance=topic)
    create_topics(settings, [topic], partitions=1)
    with Feed(settings, topic) as feed:
        assert feed.send(record(i) for i in range(100)) == 100
        assert feed.send([]) == 0
        assert feed.send([record(100)]) == 1
    intake = KafkaIntake(settings, WallClock())
    intake.start(0)
    values: list[float] = []
    try:
        for _ in range(60):
            values += intake.poll(1.0).value.tolist()
            if len(values) == 101:
                break
    finally:
        intake.close()
    assert values == [float(i) for i in range(101)]


def test_without_a_broker_it_says_so(free_port: int) -> None:
    settings = IntakeSettings(bootstrap=f"127.0.0.1:{free_port}")
    with pytest.raises(BrokerUnavailable, match="connecting to"), Feed(settings, "anywhere", connect_s=0.5):
        pass
