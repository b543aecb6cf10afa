"""Events of a workload with a residency go only to receivers inside it; who does not say where it is hears nothing of them."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from outlet_worlds import STOCK, action, anomaly, incident, plan, tick

from forecastle.outlets.cloudevents import Event
from forecastle.outlets.courier import Courier, Cursor
from forecastle.outlets.events import OPENED, anomaly_event, incident_event, plan_events
from forecastle.outlets.residency import within
from forecastle.settings import OutletSettings, WebhookSettings
from forecastle.types import Inventory, SeriesKey, Severity

EU, SWISS = frozenset({"EU"}), frozenset({"EU", "CH"})


def stock(residency: frozenset[str]) -> Inventory:
    """The shop has a residency, the mail has none."""
    shop = replace(STOCK.workloads["shop"], residency=residency)
    return replace(STOCK, workloads=dict(STOCK.workloads) | {"shop": shop})


def event(subject: str, *workloads: str) -> Event:
    return Event("e1", OPENED, tick(1), subject, {}, frozenset(workloads))


@pytest.mark.parametrize(
    ("residency", "receiver", "heard"),
    [
        (EU, frozenset(), False),
        (EU, EU, True),
        (SWISS, EU, True),
        (EU, SWISS, False),
        (EU, frozenset({"US"}), False),
        (EU, frozenset({"EU", "US"}), False),
        (frozenset(), frozenset(), True),
        (frozenset(), frozenset({"US"}), True),
    ],
)
def test_every_place_of_the_receiver_must_be_allowed(
    residency: frozenset[str], receiver: frozenset[str], *, heard: bool
) -> None:
    assert within(stock(residency), receiver)(event("shop")) is heard


def test_a_workload_without_a_residency_is_told_to_anybody() -> None:
    assert within(stock(EU), frozenset())(event("mail"))
    assert within(stock(EU), frozenset({"US"}))(event("unknown"))


def test_what_speaks_of_several_is_judged_by_all_of_them() -> None:
    judge = within(stock(EU), frozenset())
    assert not judge(event("mail", "mail", "shop"))
    assert not judge(event("*", "shop"))
    assert judge(event("*", "mail"))


JURISDICTIONS = st.frozensets(st.sampled_from(["EU", "CH", "US"]))


@given(JURISDICTIONS, JURISDICTIONS, JURISDICTIONS)
def test_a_receiver_in_more_places_never_hears_more(
    residency: frozenset[str], few: frozenset[str], more: frozenset[str]
) -> None:
    judge, wider = within(stock(residency), few), within(stock(residency), few | more)
    if few and wider(event("shop")):
        assert judge(event("shop"))


def test_a_plan_says_of_whom_it_speaks() -> None:
    at = tick(1)
    made = plan(at, action(at), action(at, "mail-ams", 3), recommended={"mail": 3, "shop": 6})
    events = list(plan_events(made))
    assert [one.subject for one in events] == ["mail", "shop"]
    assert all(one.workloads >= {"mail", "shop"} for one in events), "the reason tells of both"
    assert not any(map(within(stock(EU), frozenset()), events))
    assert all(map(within(stock(EU), EU), events))


def test_an_incident_of_a_site_speaks_of_every_workload_in_it() -> None:
    one = replace(anomaly(tick(1)), key=SeriesKey("shop", "rps"))
    two = replace(anomaly(tick(1)), key=SeriesKey("mail", "rps"))
    wide = replace(incident(tick(1), Severity.CRITICAL), workload="*", anomalies=(two, one))
    told = incident_event(wide, OPENED, tick(1))
    assert told.workloads == {"*", "shop", "mail"}
    assert not within(stock(EU), frozenset())(told)


def test_an_anomaly_speaks_of_its_own_workload() -> None:
    judge = within(stock(EU), frozenset())
    assert not judge(anomaly_event(replace(anomaly(tick(1)), key=SeriesKey("shop", "rps"))))
    assert judge(anomaly_event(replace(anomaly(tick(1)), key=SeriesKey("mail", "rps"))))


def test_what_is_withheld_is_neither_sent_nor_kept_nor_in_the_way(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sent: list[str] = []
    courier = Courier(
        "webhook-0",
        lambda events: sent.extend(one.subject for one in events),
        Cursor(tmp_path / "cursor", 0),
        may_hear=within(stock(EU), frozenset()),
    )
    with caplog.at_level(logging.WARNING):
        for number in (1, 2):
            courier.offer(tick(number), [event("shop"), event("mail")])
    courier.close(30)
    assert sent == ["mail", "mail"]
    assert (courier.withheld, courier.delivered, courier.dropped) == (2, 2, 0)
    assert courier.tick == tick(2), "the cursor moves over what is withheld"
    assert [record.message for record in caplog.records] == [
        "outlet webhook-0: is not told of workloads with a residency that it has not; set its residency"
    ]


def test_receivers_declare_nothing_by_default() -> None:
    assert OutletSettings().events_residency == frozenset()
    assert WebhookSettings(url="https://example.org", secrets=("S",)).residency == frozenset()
