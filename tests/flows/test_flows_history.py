"""History from the topics is what was published, under a group that leaves no trace on the worker's."""

from collections.abc import Callable

import numpy as np
import pytest

from flows.history import gridded, read_history, read_topics
from forecastle.errors import BrokerUnavailable, ConfigError
from forecastle.intake.publish import create_topics, publish
from forecastle.runtime.broker import LocalBroker
from forecastle.settings import IntakeSettings, Settings
from forecastle.types import Sample, Samples, SeriesKey

MINUTE = 60_000
START = 1_700_000_040_000


def configured(bootstrap: str, topic: str) -> Settings:
    intake = IntakeSettings(
        bootstrap=bootstrap, topics=(topic,), codecs={topic: "json"}, dead_letter_topic=f"{topic}-dead", group=topic
    )
    return Settings(intake=intake)


def published() -> Samples:
    keys = [SeriesKey("shop", "rps"), SeriesKey("cart", "rps", (("site", "eu"),))]
    return Samples.of(*(Sample(key, START + k * MINUTE, float(k + i)) for k in range(200) for i, key in enumerate(keys)))


@pytest.mark.broker
def test_the_topics_are_read_to_their_end_as_often_as_asked(broker: LocalBroker, topic_name: Callable[[str], str]) -> None:
    settings = configured(broker.bootstrap, topic_name("history"))
    samples = published()
    publish(samples, settings.intake, topic=settings.intake.topics[0], batch=50)
    wanted = gridded(samples, MINUTE)
    for _ in range(2):
        history = read_history(settings, None)
        assert history.keys == wanted.keys
        assert history.end == wanted.end
        np.testing.assert_array_equal(history.values, wanted.values)


@pytest.mark.broker
def test_empty_topics_are_nothing_to_learn_from(broker: LocalBroker, topic_name: Callable[[str], str]) -> None:
    settings = configured(broker.bootstrap, topic_name("empty"))
    create_topics(settings.intake, settings.intake.topics)
    assert len(read_topics(settings)) == 0
    with pytest.raises(ConfigError, match="no samples to learn from"):
        read_history(settings, None)


def test_no_broker_is_said_so(free_port: int, topic_name: Callable[[str], str]) -> None:
    with pytest.raises(BrokerUnavailable):
        read_topics(configured(f"127.0.0.1:{free_port}", topic_name("nobody")))


def test_only_the_newest_weeks_are_kept() -> None:
    key, old = SeriesKey("w", "m"), SeriesKey("w", "old")
    days = [Sample(key, START + day * 86_400_000, float(day)) for day in range(50)]
    history = gridded(Samples.of(Sample(old, START, 1.0), *days), 3_600_000)
    assert history.keys == (key,)
    assert history.values.shape == (1, 35 * 24)
    assert history.mask.sum() == 35
    assert history.before(24).end == history.end - 24 * 3_600_000
