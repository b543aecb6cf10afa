"""Messages for a chat: what each event says, and that text from outside stays text."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st
from outlet_worlds import HookReceiver, action, anomaly, incident, outcome, plan, tick

from forecastle.errors import ConfigError, Denied, Transient
from forecastle.outlets import events
from forecastle.outlets.cloudevents import Event
from forecastle.outlets.slack import escaped, message
from forecastle.outlets.webhooks import Webhook
from forecastle.settings import WebhookSettings
from forecastle.types import Refusal, Severity

LOOPBACK = ("127.0.0.0/8",)


def texts(event: Event) -> list[str]:
    """The text of each block, in order."""
    return [b["text"]["text"] if b["type"] == "section" else b["elements"][0]["text"] for b in message(event)["blocks"]]


def opened(**changes: Any) -> Event:
    made = events.incident_event(incident(tick(1)), events.OPENED, tick(1))
    return Event(made.id, made.type, made.at, made.subject, made.data | changes)


def test_an_incident_says_what_where_and_how_sure() -> None:
    head, body, context = texts(opened())
    assert head == ":large_orange_circle: *Incident opened: shop*"
    assert body.splitlines() == ["too many requests", "warning at fra, 2 independent signals"]
    assert context.startswith("forecastle.incident.opened  2025-10-09T08:55:00.000Z  ")


@pytest.mark.parametrize(
    ("kind", "severity", "mark"),
    [
        (events.OPENED, Severity.CRITICAL, ":red_circle: *Incident opened"),
        (events.CHANGED, Severity.INFO, ":large_blue_circle: *Incident changed"),
        (events.CLOSED, Severity.CRITICAL, ":white_check_mark: *Incident closed"),
    ],
)
def test_colour_is_severity_and_a_closed_one_is_green(kind: str, severity: Severity, mark: str) -> None:
    assert texts(events.incident_event(incident(tick(1), severity), kind, tick(1)))[0].startswith(mark)


def test_a_plan_lists_actions_and_refusals() -> None:
    refused = Refusal("step_up", "too fast", "shop-fra", "shop")
    made = next(iter(events.plan_events(plan(tick(1), action(tick(1)), refusals=(refused,)))))
    head, body, _ = texts(made)
    assert head == "*Plan: shop*"
    assert body.splitlines() == ["more demand is coming", "scale shop-fra: 4 \u2192 6", "refused by step_up: too fast"]


def test_a_plan_that_waits_for_people_says_so() -> None:
    made = next(iter(events.plan_events(plan(tick(1), action(tick(1))))))
    waiting = Event(made.id, made.type, made.at, made.subject, made.data | {"approvals": 2})
    assert f"waits for 2 approvals of plan {made.data['plan']}" in texts(waiting)[1]


def test_outcomes_and_anomalies() -> None:
    assert texts(events.outcome_event(outcome(action(tick(1)))))[1] == "scale shop-fra: APPLIED\nread back"
    assert texts(events.anomaly_event(anomaly(tick(1))))[1] == "rps spike: score 7.5, threshold 3"


def test_a_type_it_does_not_know_is_told_by_name() -> None:
    made = message(Event("1", "forecastle.other", tick(1), "shop", {}))
    assert made["text"] == "forecastle.other: shop"
    assert len(made["blocks"]) == 2


HOSTILE = "<!channel> <https://evil.example|click> & <@U123> &lt;"


def test_outside_text_can_neither_link_nor_call() -> None:
    shown = message(opened(cause=HOSTILE, site="<b>"))
    for text in (shown["text"], *texts(opened(cause=HOSTILE, site="<b>"))):
        assert "<" not in text
        assert ">" not in text
    assert "&lt;!channel&gt; &lt;https://evil.example|click&gt; &amp; &lt;@U123&gt; &amp;lt;" in shown["text"]


@hypothesis(max_examples=40, deadline=None)
@given(st.text(max_size=200))
def test_escaping_is_undone_by_reading_it(text: str) -> None:
    assert escaped(text).replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&") == text


@hypothesis(max_examples=40, deadline=None)
@given(st.text("<>&ab", min_size=500, max_size=5000))
def test_blocks_are_bounded_and_no_entity_is_cut(text: str) -> None:
    for shown in texts(opened(cause=text)):
        assert len(shown) <= 3000
        assert not re.sub(r"&(amp|lt|gt);", "", shown).count("&")


def test_lines_are_bounded() -> None:
    refusals = tuple(Refusal("g", f"why {i}", "shop-fra", "shop") for i in range(100))
    made = next(iter(events.plan_events(plan(tick(1), refusals=refusals))))
    assert len(texts(made)[1].splitlines()) == 20


def test_it_is_what_a_webhook_of_that_form_posts(receiver: HookReceiver) -> None:
    secret = f"http://127.0.0.1:{receiver.port}/services/T0/B0/secret"
    settings = WebhookSettings(url="env:SLACK_URL", form="slack", networks=LOOPBACK)
    Webhook(settings, {"SLACK_URL": secret}).send([opened()])
    ((path, headers, body),) = receiver.got
    assert path == "/services/T0/B0/secret"
    assert headers["content-type"] == "application/json"
    assert json.loads(body) == message(opened())


@pytest.mark.parametrize(("status", "error"), [(410, Denied), (429, Transient), (500, Transient), (302, Denied)])
def test_its_refusals_do_not_tell_the_address(receiver: HookReceiver, status: int, error: type[Exception]) -> None:
    receiver.answers.append((status, {"retry-after": "7"}))
    settings = WebhookSettings(url="env:SLACK_URL", form="slack", networks=LOOPBACK)
    hook = Webhook(settings, {"SLACK_URL": f"http://127.0.0.1:{receiver.port}/services/T0/B0/secret"})
    with pytest.raises(error) as caught:
        hook.send([opened()])
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ({}, "SLACK_URL is not set"),
        ({"SLACK_URL": "http://hooks.example.org/secret"}, "'env:SLACK_URL' would cross a network"),
        ({"SLACK_URL": "ftp://hooks.example.org/secret"}, "'env:SLACK_URL' is not an https address"),
        ({"SLACK_URL": "https://me:secret@hooks.example.org/"}, "'env:SLACK_URL' is not an https address"),
    ],
)
def test_a_wrong_address_is_named_by_its_variable(held: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        Webhook(WebhookSettings(url="env:SLACK_URL", form="slack"), held)
    assert "secret" not in str(caught.value)


def test_the_standard_form_needs_secrets() -> None:
    with pytest.raises(ConfigError, match=r"outlets\.webhooks\.secrets: is empty"):
        Webhook(WebhookSettings(url="https://hooks.example.org/"), {})
