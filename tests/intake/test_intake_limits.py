"""What bounds the intake: series per tenant and of all, and clocks that run ahead."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from intake_worlds import GOOD, NOW, SKEW, Written, adapter, line, read, telegraf

from forecastle.errors import Malformed
from forecastle.intake.codecs import LABELLED, open_codec
from forecastle.intake.consumer import KafkaIntake
from forecastle.intake.memory import MemoryIntake
from forecastle.intake.naming import Naming
from forecastle.intake.publish import create_topics
from forecastle.intake.series import SeriesTable
from forecastle.intake.skew import SPAN_S, Skew
from forecastle.runtime.broker import LocalBroker
from forecastle.settings import IntakeSettings
from forecastle.types import SeriesKey


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.ms = NOW
        self.s = 0.0

    def now(self) -> int:
        return self.ms

    def monotonic(self) -> float:
        return self.s


# --- tenants ----------------------------------------------------------------------------------------------------------


def fill(table: SeriesTable, tenant: str, count: int) -> int:
    """Ask for ``count`` series of ``tenant``; returns how many were had."""
    had, reasons = 0, set()
    for i in range(count):
        try:
            table.number("w", f"m{i}", [("tenant", tenant)] if tenant else [])
        except Malformed as error:
            reasons.add(error.reason)
        else:
            had += 1
    assert reasons <= {"too_many_series"}
    return had


def test_a_tenant_that_explodes_takes_nothing_from_the_others() -> None:
    table = SeriesTable(10, 100)
    assert fill(table, "greedy", 1000) == 10
    assert fill(table, "modest", 5) == 5
    assert fill(table, "", 20) == 10, "those without a label are a tenant as well"
    assert len(table) == 25


def test_series_that_are_known_go_on_whoever_is_full() -> None:
    table = SeriesTable(2, 3)
    first = table.number("w", "m", [("tenant", "a")])
    fill(table, "a", 10)
    fill(table, "b", 10)
    assert table.number("w", "m", [("tenant", "a")]) == first
    assert len(table) == 3


def test_tenants_that_explode_in_number_are_bounded_too() -> None:
    table = SeriesTable(10, 100)
    assert sum(fill(table, f"t{i}", 10) for i in range(1000)) == 100
    assert len(table._tenants) <= 100


def test_the_refusal_says_whose_limit_it_was() -> None:
    table = SeriesTable(1, 2)
    table.number("w", "m", [("tenant", "a")])
    with pytest.raises(Malformed, match=r"tenant 'a' has more than intake\.max_series=1"):
        table.number("w", "n", [("tenant", "a")])
    table.number("w", "m", [("tenant", "b")])
    with pytest.raises(Malformed, match=r"all tenants have more than intake\.max_series_total=2"):
        table.number("w", "m", [("tenant", "c")])


def test_a_refused_series_does_not_count() -> None:
    table = SeriesTable(2)
    for bad in (("", "m"), ("w", " "), ("w", "m" * 300)):
        with pytest.raises(Malformed):
            table.number(*bad, [("tenant", "a")])
    assert fill(table, "a", 5) == 2


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 6)), max_size=60), st.integers(1, 5), st.integers(1, 12))
def test_no_order_of_arrival_gets_past_the_limits(asked: list[tuple[str, int]], each: int, total: int) -> None:
    table = SeriesTable(each, total)
    numbers: dict[tuple[str, int], int] = {}
    for tenant, metric in asked:
        try:
            number = table.number("w", f"m{metric}", [("tenant", tenant)])
        except Malformed:
            assert (tenant, metric) not in numbers, "a known series was refused"
        else:
            assert numbers.setdefault((tenant, metric), number) == number
    counts = Counter(tenant for tenant, _ in numbers)
    assert max(counts.values(), default=0) <= each
    assert len(numbers) == len(table) <= total
    assert sorted(numbers.values()) == list(range(len(table)))
    assert all(table.keys[number].label("tenant") == tenant for (tenant, _), number in numbers.items())


MANY: dict[str, Callable[[int], bytes]] = {
    "prometheus_json": lambda i: adapter(name=f"m{i}", labels={"job": "w", "tenant": "a"}),
    "telegraf_json": lambda i: telegraf(name=f"m{i}", tags={"workload": "w", "tenant": "a"}),
    "influx": lambda i: line(head=f"m{i},workload=w,tenant=a"),
    "remote_write": lambda i: Written().add(__name__=f"m{i}", tenant="a").block,
}


@pytest.mark.parametrize("codec", MANY)
def test_every_format_counts_its_tenants(codec: str) -> None:
    table = SeriesTable(5, 8)
    opened = open_codec(codec, table)
    decoded = opened.decode([MANY[codec](i) for i in range(20)], NOW)
    assert len(table) == 5
    assert [refused.record for refused in decoded.refused] == list(range(5, 20))
    assert {refused.reason for refused in decoded.refused} == {"too_many_series"}
    assert opened.decode([MANY[codec](0), GOOD[codec]()], NOW).refused == (), "the other tenant, and what is known"


@pytest.mark.parametrize("codec", MANY)
def test_what_is_remembered_of_refused_series_is_bounded(codec: str) -> None:
    table = SeriesTable(1)
    opened = open_codec(codec, table)
    for start in range(0, 3000, 500):
        opened.decode([MANY[codec](i) for i in range(start, start + 500)], NOW)
    assert len(opened._known) <= 1  # type: ignore[attr-defined]


def test_the_settings_bound_the_intake() -> None:
    single = [json.dumps({"workload": f"w{i}", "metric": "m", "at": 1, "value": 1}).encode() for i in range(9)]
    intake = MemoryIntake(single, Clock(), IntakeSettings(max_series=5, max_series_total=3))
    assert len(intake.poll().keys) == 3
    assert [refused.reason for refused in intake.dead_letters] == ["too_many_series"] * 6


# --- naming -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", LABELLED)
def test_no_workload_is_said_with_the_labels_that_were_looked_for(codec: str) -> None:
    found = read(codec, GOOD[codec](), naming=Naming(workload=("app", "service")))
    assert found.reasons == {0: "no_workload"}
    assert "app, service of intake.workload_labels" in found.decoded.refused[0].detail


@pytest.mark.parametrize(
    ("labels", "workload", "rest"),
    [
        ({"job": "j"}, "j", {}),
        ({"job": "j", "workload": "w"}, "w", {"job": "j"}),
        ({"job": "j", "workload": ""}, "j", {}),
        ({"job": "j", "service_name": "s", "workload": "w"}, "w", {"job": "j", "service_name": "s"}),
        ({"job": "j", "zone": "z"}, "j", {"site": "z"}),
        ({"job": "j", "region": "r"}, "j", {"site": "r"}),
        ({"job": "j", "zone": "z", "region": "r"}, "j", {"site": "z", "region": "r"}),
        ({"job": "j", "zone": "", "region": "r"}, "j", {"site": "r"}),
        ({"job": "j", "zone": "z", "site": "s"}, "j", {"site": "s", "zone": "z"}),
        ({"job": "j", "zone": "z", "site": ""}, "j", {"site": "z"}),
        ({"job": "j", "a": ""}, "j", {}),
    ],
)
def test_labels_that_mean_something(labels: dict[str, str], workload: str, rest: dict[str, str]) -> None:
    assert Naming().split(labels.items()) == (workload, rest)


@pytest.mark.parametrize("labels", [{}, {"a": "b"}, {"job": ""}, {"Job": "j"}])
def test_labels_that_name_nobody(labels: dict[str, str]) -> None:
    with pytest.raises(Malformed, match="no_workload"):
        Naming().split(labels.items())


def test_the_settings_name_the_labels() -> None:
    chosen = IntakeSettings(workload_labels=("app",), site_labels=("dc",), telegraf_unit="1ms")
    naming = Naming.of(chosen)
    assert naming == Naming(("app",), ("dc",), "1ms")
    intake = MemoryIntake([telegraf(tags={"app": "w", "dc": "d"}, timestamp=NOW)], Clock(), chosen, codec="telegraf_json")
    assert intake.poll().keys == (SeriesKey("w", "cpu_usage_idle", (("site", "d"),)),)


labels = st.dictionaries(st.sampled_from(["workload", "job", "site", "zone", "region", "a"]), st.sampled_from(["", "x", "y"]))


@given(labels)
def test_a_label_is_moved_or_stays_but_is_never_lost(given_labels: dict[str, str]) -> None:
    there = sorted(value for value in given_labels.values() if value)
    try:
        workload, rest = Naming().split(given_labels.items())
    except Malformed:
        assert not given_labels.get("workload")
        assert not given_labels.get("job")
    else:
        assert sorted([workload, *rest.values()]) == there


# --- clocks -----------------------------------------------------------------------------------------------------------


def test_the_largest_lead_of_each_source_is_kept() -> None:
    skew = Skew()
    for source, lead in (("a/0", 5_000), ("a/0", 90_000), ("a/0", 10), ("b/1", 1), ("c/0", -7_000)):
        skew.note(source, lead, 1.0)
    assert skew.largest_s(1.0) == {"a/0": 90.0, "b/1": 0.001, "c/0": 0.0}


def test_a_clock_that_was_set_right_is_forgotten_after_a_while() -> None:
    skew = Skew()
    skew.note("a/0", 90_000, 0.0)
    skew.note("a/0", 10, SPAN_S)
    assert skew.largest_s(SPAN_S + 1) == {"a/0": 90.0}
    skew.note("a/0", 10, 2 * SPAN_S + 1)
    assert skew.largest_s(2 * SPAN_S + 1) == {"a/0": 0.01}


def test_a_source_that_is_gone_is_forgotten() -> None:
    skew = Skew()
    skew.note("a/0", 90_000, 0.0)
    assert skew.largest_s(2 * SPAN_S) == {}


@example([("a", 1, 0.0), ("a", 0, 102.0), ("a", 0, 99.0)])
@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(-1000, 1000), st.floats(0, 400)), max_size=30))
def test_no_lead_of_the_last_span_is_missed_and_none_is_kept_beyond_two(noted: list[tuple[str, int, float]]) -> None:
    skew, now = Skew(100.0), 0.0
    history: list[tuple[str, int, float]] = []
    for source, lead, pause in noted:
        now += pause
        skew.note(source, lead, now)
        history.append((source, lead, now))
    told = skew.largest_s(now)
    for source in "ab":
        young = [max(lead, 0) for name, lead, at in history if name == source and now - at < 100]
        known = [max(lead, 0) for name, lead, at in history if name == source and now - at <= 200]
        assert told.get(source, -1) >= max(young, default=-1) / (1000 if young else 1)
        assert told.get(source, 0) <= max(known, default=0) / 1000


@pytest.mark.parametrize("codec", LABELLED)
def test_the_lead_of_what_was_refused_is_known(codec: str) -> None:
    ahead = NOW + 10 * SKEW
    message = {
        "prometheus_json": lambda: adapter(timestamp="2023-11-14T22:23:20Z"),
        "telegraf_json": lambda: telegraf(timestamp=ahead // 1000),
        "influx": lambda: line(at=f"{ahead}000000"),
        "remote_write": lambda: Written().add([(NOW, 1.0), (ahead, 1.0)]).block,
    }[codec]()
    found = read(codec, GOOD[codec](), message)
    assert found.reasons == {1: "future"}
    assert found.decoded.newest == ahead
    assert read(codec, GOOD[codec]()).decoded.newest == NOW
    assert read(codec, b"").decoded.newest == -1


@pytest.mark.parametrize(("lead_ms", "accepted"), [(-1, True), (0, True), (60_000, True), (60_001, False), (10**9, False)])
def test_a_minute_ahead_is_let_in_and_more_is_not(lead_ms: int, accepted: bool) -> None:
    message = json.dumps({"workload": "w", "metric": "m", "at": NOW + lead_ms, "value": 1}).encode()
    intake = MemoryIntake([message], Clock())
    assert len(intake.poll()) == accepted
    assert [refused.reason for refused in intake.dead_letters] == ([] if accepted else ["future"])
    assert intake.progress().skew_s == {"memory/0": max(lead_ms, 0) / 1000}


def test_an_intake_that_read_nothing_knows_of_no_clock() -> None:
    intake = MemoryIntake([b"bad"], Clock())
    intake.poll()
    assert intake.progress().skew_s == {}


@pytest.mark.broker
def test_each_partition_has_its_own_skew_and_its_future_is_dead_lettered(
    broker: LocalBroker, topic_name: Callable[[str], str]
) -> None:
    from kafka import KafkaProducer

    from forecastle.intake.connection import options

    topic = topic_name("skew")
    config = IntakeSettings(
        bootstrap=broker.bootstrap, topics=(topic,), codecs={topic: "json"}, group=topic, dead_letter_topic=f"{topic}-dead"
    )
    create_topics(config, [topic], partitions=2)
    create_topics(config, [config.dead_letter_topic], partitions=1)
    producer = KafkaProducer(**options(config), acks="all")
    for partition, lead in ((0, -1000), (0, 30_000), (1, 3_600_000), (1, 0)):
        body = json.dumps({"workload": f"w{partition}", "metric": "m", "at": NOW + lead, "value": lead}).encode()
        producer.send(topic, body, partition=partition, timestamp_ms=NOW)
    producer.flush()
    producer.close()
    clock = Clock()
    intake = KafkaIntake(config, clock)
    intake.start(0)
    values: list[float] = []
    ends = time.monotonic() + 60
    try:
        while len(values) < 3:
            assert time.monotonic() < ends
            values += intake.poll(0.2).value.tolist()
        assert sorted(values) == [-1000.0, 0.0, 30_000.0]
        assert intake.dead_lettered == 1
        assert intake.progress().skew_s == {f"{topic}/0": 30.0, f"{topic}/1": 3600.0}
        clock.s += 2 * SPAN_S
        assert intake.progress().skew_s == {}
    finally:
        intake.close()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, NOW + 10 * SKEW), min_size=1, max_size=20))
def test_what_is_let_in_and_what_is_refused_is_all_there_was(times: list[int]) -> None:
    values = [json.dumps({"workload": "w", "metric": "m", "at": at, "value": 1}).encode() for at in times]
    intake = MemoryIntake(values, Clock(), per_poll=7)
    accepted: list[int] = []
    while intake.position < len(values):
        accepted += intake.poll().at.tolist()
    assert accepted == [at for at in times if at <= NOW + SKEW]
    assert [refused.record for refused in intake.dead_letters] == [i for i, at in enumerate(times) if at > NOW + SKEW]
