"""What people are told of one fault: one page, in the name of where it began, however many incidents it makes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from outlet_worlds import START, STEP, HookReceiver, tick, turned, until

from forecastle.detect.incidents import IncidentBook
from forecastle.outlets.alerts import Alerts
from forecastle.outlets.cloudevents import Event
from forecastle.outlets.courier import Courier, Cursor
from forecastle.outlets.events import CHANGED, CLOSED, OPENED, Teller
from forecastle.outlets.pages import Pages
from forecastle.outlets.signals import Signal
from forecastle.outlets.signals import anomaly as told_anomaly
from forecastle.outlets.slack import message
from forecastle.runtime.listeners import TOPIC, _tell
from forecastle.settings import AlertSettings, DetectSettings
from forecastle.types import Anomaly, AnomalyKind, Incident, SeriesKey, Severity

SETTINGS = DetectSettings(group_s=600, close_s=900, topology={"web": ("cart", "pay"), "cart": ("db",), "pay": ("db",)})


def anomaly(workload: str, minute: int = 0, *, size: float = 20.0, score: float = 2.0, onset: int | None = None) -> Anomaly:
    at = START + minute * STEP
    evidence = {
        "families": ["residual"],
        "expected": 1.0,
        "actual": 2.0,
        "departure": size,
        "onset": at if onset is None else onset,
    }
    return Anomaly(SeriesKey(workload, "latency", (("site", "fra"),)), at, score, 1.5, AnomalyKind.LEVEL_SHIFT, evidence)


def played(*minutes: tuple[int, tuple[Anomaly, ...]]) -> Iterator[tuple[int, tuple[Incident, ...]]]:
    """The open incidents of each of these minutes, as a worker's book has them."""
    book = IncidentBook(SETTINGS)
    for minute, found in minutes:
        yield minute, book.update(found, tick(minute))


def told(*minutes: tuple[int, tuple[Anomaly, ...]]) -> tuple[list[Event], list[Event]]:
    """(records, pages) of these minutes."""
    teller = Teller(0, lambda _tick: None)
    both = [teller.events(turned(tick(minute), incidents=found)) for minute, found in played(*minutes)]
    return [e for one in both for e in one.records], [e for one in both for e in one.pages]


CHAIN = (anomaly("web", size=60), anomaly("cart"), anomaly("pay"), anomaly("db", size=60))


def test_programs_read_every_incident_and_people_one_page() -> None:
    records, pages = told((0, CHAIN), (15, ()))
    assert [(e.type, e.subject) for e in records] == [
        (kind, name) for kind in (OPENED, CLOSED) for name in ("cart", "db", "pay", "web")
    ]
    assert [(e.type, e.subject) for e in pages] == [(OPENED, "db"), (CLOSED, "db")]
    assert pages[0].data["cause"].endswith("; in trouble with it: cart at fra, pay at fra, web at fra")
    assert pages[0].workloads == {"db", "web", "cart", "pay"}
    assert len({e.data["group"] for e in (*records, *pages)}) == 1
    assert {e.data["root"] for e in records} == {pages[0].data["id"]}
    assert "in trouble with it: cart at fra" in str(message(pages[0])["blocks"])


def test_what_is_alone_is_the_same_page_as_ever() -> None:
    records, pages = told((0, (anomaly("web"), anomaly("mail"))), (15, ()))
    assert records == pages
    assert [e.id.rpartition("-")[2] for e in pages] == ["opened", "opened", "closed", "closed"]


def test_the_worst_of_the_group_is_the_severity_of_the_page_and_its_rise_is_told() -> None:
    strong = replace(anomaly("web", 1, score=9.0), key=SeriesKey("web", "errors", (("site", "fra"),)))
    _, pages = told((0, CHAIN), (1, (*(replace(a, at=tick(1)) for a in CHAIN), strong)))
    assert [(e.type, e.subject, e.data["severity"]) for e in pages] == [
        (OPENED, "db", "info"),
        (CHANGED, "db", "critical"),
    ]


def test_the_page_of_a_victim_seen_first_ends_with_a_word_about_where_it_goes_on() -> None:
    _, pages = told((0, (anomaly("web"),)), (1, (anomaly("db", 1, size=90, onset=START - STEP),)), (16, ()))
    assert [(e.type, e.subject) for e in pages] == [(OPENED, "web"), (OPENED, "db"), (CLOSED, "web"), (CLOSED, "db")]
    assert pages[2].data["cause"].endswith(f"; told with incident {pages[1].data['id']} from now on")
    assert len({e.id for e in pages}) == 4


def test_a_root_that_is_over_stays_the_page_until_its_victims_are_well() -> None:
    last = (anomaly("web", 14),)
    _, pages = told((0, CHAIN[:1] + CHAIN[3:]), (14, last), (15, ()), (16, ()), (29, ()))
    assert [(e.type, e.subject) for e in pages if e.type != CHANGED] == [(OPENED, "db"), (CLOSED, "db")]
    assert [e.data["cause"].partition("; over itself, ")[2] for e in pages if e.type == CHANGED][-1] == (
        "still in trouble: web at fra"
    )


def test_many_victims_are_named_in_part() -> None:
    group = [
        Incident(f"i{n}", f"w{n}", "", Severity.WARNING, START, START, (), 1, "slow", group="g", root="i0") for n in range(9)
    ]
    (page,) = Pages().of(group)
    assert page.incident.cause == "slow; in trouble with it: w1, w2, w3, w4, w5 and 3 more"
    assert len(page.others) == 8


def test_a_root_that_nobody_saw_is_stood_in_for_by_the_oldest() -> None:
    pages = Pages()
    group = [
        Incident(f"i{n}", f"w{n}", "", Severity.WARNING, START, START, (), 1, "slow", group="g", root="gone") for n in (1, 2)
    ]
    assert [p.incident.id for _ in range(2) for p in pages.of(group)] == ["i1", "i1"]
    assert pages.of([]) == ()
    assert pages._roots == {}


def test_the_topic_gets_the_records_and_every_other_receiver_the_pages(tmp_path: Path) -> None:
    got: dict[str, list[str]] = {TOPIC: [], "webhook-0": []}
    couriers = {
        name: Courier(name, lambda events, to=name: got[to].extend(e.subject for e in events), Cursor(tmp_path / name, 0))
        for name in got
    }
    loop = SimpleNamespace(rooms=SimpleNamespace(ledger=SimpleNamespace(plans=lambda *_: None)), scope="w", listeners=[])
    _tell(couriers, loop)  # type: ignore[arg-type] - what it reads of a loop
    for minute, found in played((0, CHAIN)):
        loop.listeners[0](turned(tick(minute), incidents=found))
    for courier in couriers.values():
        courier.close()
    assert got == {TOPIC: ["cart", "db", "pay", "web"], "webhook-0": ["db"]}


@pytest.fixture
def alerts(receiver: HookReceiver) -> Iterator[Alerts]:
    receiver.answers = [(200, {})] * 100
    with ExitStack() as opened:
        one = Alerts(
            AlertSettings(urls=(f"http://127.0.0.1:{receiver.port}",), resend_s=1000.0, severity=Severity.INFO),
            {},
            now=lambda: tick(100) / 1000,
        )
        opened.callback(one.close)
        yield one


def test_alertmanager_is_told_of_the_root_alone(alerts: Alerts, receiver: HookReceiver) -> None:
    for minute, found in played((0, CHAIN)):
        alerts.listen(turned(tick(minute), incidents=found))
    until(lambda: len(receiver.got) == 1)
    (alert,) = json.loads(receiver.got[0][2])
    assert alert["labels"]["workload"] == "db"
    assert alert["annotations"]["summary"].endswith("in trouble with it: cart at fra, pay at fra, web at fra")
    assert len(alert["annotations"]["group"]) == 32


def test_a_root_seen_only_before_a_restart_is_known_after_it(alerts: Alerts, receiver: HookReceiver) -> None:
    minutes = ((0, CHAIN[:1] + CHAIN[3:]), (14, (anomaly("web", 14),)), (15, ()))
    for minute, found in played(*minutes):
        alerts.listen(turned(tick(minute), incidents=found, rebuilt=minute < 15, decided=minute >= 15))
    until(lambda: len(receiver.got) == 1)
    (alert,) = json.loads(receiver.got[0][2])
    assert alert["labels"]["workload"] == "db"
    assert "over itself, still in trouble: web at fra" in alert["annotations"]["summary"]


def test_an_echo_that_explains_what_was_measured_is_told(alerts: Alerts, receiver: HookReceiver) -> None:
    heard = told_anomaly(Signal("f", "Down", "db", "fra", Severity.CRITICAL, AnomalyKind.SPIKE, True, START), START)
    found = IncidentBook(SETTINGS).update([heard, anomaly("web", size=3.0)], START)
    assert {i.root for i in found} == {i.id for i in found if i.workload == "db"}
    alerts.listen(turned(tick(0), incidents=tuple(found)))
    until(lambda: len(receiver.got) == 1)
    assert [one["labels"]["workload"] for one in json.loads(receiver.got[0][2])] == ["db"]
