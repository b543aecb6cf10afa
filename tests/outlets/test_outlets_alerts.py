"""Incidents on their way to Alertmanager: what is told, how often, until when; and a receiver that is slow, away or says no."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime
from typing import Any

import pytest
from outlet_worlds import START, HookReceiver, anomaly, incident, tick, turned, until

from forecastle.errors import ConfigError
from forecastle.outlets.alerts import FAREWELLS, REPEATS, Alerts
from forecastle.outlets.signals import Signal
from forecastle.outlets.signals import anomaly as told_anomaly
from forecastle.settings import AlertSettings
from forecastle.types import AnomalyKind, Incident, Severity

NOW = tick(10) / 1000


@pytest.fixture
def make(receiver: HookReceiver) -> Iterator[Callable[..., Alerts]]:
    """Alerts that go to the receiver and are repeated only when a test says so."""
    receiver.answers = [(200, {})] * 1000
    with ExitStack() as opened:

        def one(environment: dict[str, str] | None = None, **changes: Any) -> Alerts:
            made = {"urls": (f"http://127.0.0.1:{receiver.port}",), "resend_s": 1000.0, "timeout_s": 5.0} | changes
            alerts = Alerts(AlertSettings.model_validate(made), environment or {}, now=lambda: NOW)
            opened.callback(alerts.close)
            return alerts

        yield one


def got(receiver: HookReceiver) -> list[list[dict[str, Any]]]:
    return [json.loads(body) for _, _, body in receiver.got]


def named(number: int, severity: Severity = Severity.WARNING) -> Incident:
    return Incident(f"id-{number}", f"shop-{number}", "fra", severity, START, tick(1), (anomaly(tick(1)),), 2, "cause")


def at_s(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def test_an_open_incident_is_told_with_bounded_labels(make: Callable[..., Alerts], receiver: HookReceiver) -> None:
    make(generator_url="https://grafana/d/1", worker="w-0").listen(turned(tick(1), incidents=(incident(tick(1)),)))
    until(lambda: len(receiver.got) == 1)
    ((path, headers, _),) = receiver.got
    assert (path, headers["content-type"]) == ("/api/v2/alerts", "application/json")
    ((alert,),) = got(receiver)
    assert alert["labels"] == {
        "alertname": "ForecastleIncident",
        "origin": "forecastle",
        "workload": "shop",
        "site": "fra",
        "severity": "warning",
        "worker": "w-0",
    }
    assert alert["annotations"]["summary"] == "too many requests"
    assert alert["annotations"]["description"] == "2 independent signals: rps"
    assert alert["generatorURL"] == "https://grafana/d/1"
    assert at_s(alert["startsAt"]) == START / 1000
    assert at_s(alert["endsAt"]) == NOW + REPEATS * 1000


def test_what_is_empty_is_left_out(make: Callable[..., Alerts], receiver: HookReceiver) -> None:
    bare = Incident("i", "shop", "", Severity.WARNING, START, tick(1), (anomaly(tick(1)),), 1)
    make().listen(turned(tick(1), incidents=(bare,)))
    until(lambda: len(receiver.got) == 1)
    ((alert,),) = got(receiver)
    assert set(alert["labels"]) == {"alertname", "origin", "workload", "severity"}
    assert "generatorURL" not in alert
    assert "summary" not in alert["annotations"]


def test_the_same_state_is_told_once_and_a_change_at_once(make: Callable[..., Alerts], receiver: HookReceiver) -> None:
    alerts = make()
    for number in range(1, 6):
        alerts.listen(turned(tick(number), incidents=(incident(tick(number)),)))
    until(lambda: len(receiver.got) == 1)
    alerts.listen(turned(tick(6), incidents=(incident(tick(6), Severity.CRITICAL),)))
    until(lambda: len(receiver.got) == 2)
    assert [one["labels"]["severity"] for (one,) in got(receiver)] == ["warning", "critical"]


def test_it_is_repeated_until_it_is_closed_and_its_end_a_few_times(make: Callable[..., Alerts], receiver: HookReceiver) -> None:
    alerts = make(resend_s=0.02)
    alerts.listen(turned(tick(1), incidents=(incident(tick(1)),)))
    until(lambda: len(receiver.got) >= 3)
    alerts.listen(turned(tick(2)))
    until(lambda: not alerts._open and not alerts._ended)
    ends = [at_s(one["endsAt"]) for (one,) in got(receiver)]
    assert ends[-FAREWELLS:] == [NOW] * FAREWELLS
    assert set(ends[:-FAREWELLS]) == {NOW + REPEATS * 0.02}
    count = len(receiver.got)
    alerts.close()
    assert len(receiver.got) == count


def test_one_that_opens_again_is_not_ended(make: Callable[..., Alerts], receiver: HookReceiver) -> None:
    alerts = make()
    alerts.listen(turned(tick(1), incidents=(incident(tick(1)),)))
    until(lambda: len(receiver.got) == 1)
    alerts.listen(turned(tick(2)))
    until(lambda: len(receiver.got) == 2)
    alerts.listen(turned(tick(3), incidents=(incident(tick(3)),)))
    until(lambda: len(receiver.got) == 3)
    assert [at_s(one["endsAt"]) > NOW for (one,) in got(receiver)] == [True, False, True]


def test_unimportant_ones_and_history_are_not_told(make: Callable[..., Alerts], receiver: HookReceiver) -> None:
    alerts = make()
    alerts.listen(turned(tick(1), incidents=(incident(tick(1)),), rebuilt=True, decided=False))
    alerts.listen(turned(tick(2), incidents=(named(1, Severity.INFO),)))
    alerts.listen(turned(tick(3), incidents=(named(2, Severity.CRITICAL),)))
    until(lambda: len(receiver.got) == 1)
    assert [one["labels"]["workload"] for one in got(receiver)[0]] == ["shop-2"]


def test_what_alertmanager_told_us_is_not_told_back(make: Callable[..., Alerts], receiver: HookReceiver) -> None:
    heard = told_anomaly(Signal("f", "TooSlow", "shop", "fra", Severity.CRITICAL, AnomalyKind.SPIKE, True, START), tick(1))
    echo = Incident("e", "shop", "fra", Severity.CRITICAL, START, tick(1), (heard,), 1, "alert/TooSlow")
    both = Incident("b", "mail", "fra", Severity.CRITICAL, START, tick(1), (heard, anomaly(tick(1))), 2, "both")
    make().listen(turned(tick(1), incidents=(echo, both)))
    until(lambda: len(receiver.got) == 1)
    assert [one["labels"]["workload"] for one in got(receiver)[0]] == ["mail"]


def test_their_number_is_bounded_and_the_oldest_win(make: Callable[..., Alerts], receiver: HookReceiver) -> None:
    alerts = make(most=3)
    alerts.listen(turned(tick(1), incidents=tuple(named(i) for i in range(10))))
    until(lambda: len(receiver.got) == 1)
    assert [one["labels"]["workload"] for one in got(receiver)[0]] == ["shop-0", "shop-1", "shop-2"]
    until(lambda: alerts.delivered == 3)
    assert alerts.pending == 0


def test_long_words_are_cut(make: Callable[..., Alerts], receiver: HookReceiver) -> None:
    long = Incident("i", "shop", "fra", Severity.WARNING, START, tick(1), (anomaly(tick(1)),), 1, "x" * 10_000)
    make().listen(turned(tick(1), incidents=(long,)))
    until(lambda: len(receiver.got) == 1)
    assert len(got(receiver)[0][0]["annotations"]["summary"]) == 500


def test_every_alertmanager_of_a_cluster_is_told(make: Callable[..., Alerts], receiver: HookReceiver) -> None:
    urls = (f"http://127.0.0.1:{receiver.port}/a/", "http://127.0.0.1:1/", f"http://127.0.0.1:{receiver.port}/b")
    alerts = make(urls=urls)
    alerts.listen(turned(tick(1), incidents=(incident(tick(1)),)))
    until(lambda: alerts.delivered == 2)
    assert [path for path, _, _ in receiver.got] == ["/a/api/v2/alerts", "/b/api/v2/alerts"]
    until(lambda: alerts.pending == 1)  # one of them did not hear it


@pytest.mark.parametrize("status", [400, 401, 500, 302])
def test_a_refusal_is_counted_and_the_next_repeat_tries_again(
    make: Callable[..., Alerts], receiver: HookReceiver, status: int
) -> None:
    receiver.answers.insert(0, (status, {"location": "http://127.0.0.1:1/"}))
    alerts = make(resend_s=0.02)
    alerts.listen(turned(tick(1), incidents=(incident(tick(1)),)))
    until(lambda: alerts.delivered >= 1)
    assert alerts.dropped == 1


def test_one_that_is_away_is_told_when_it_is_back(make: Callable[..., Alerts], receiver: HookReceiver, free_port: int) -> None:
    alerts = make(urls=(f"http://127.0.0.1:{free_port}",), resend_s=0.02)
    alerts.listen(turned(tick(1), incidents=(incident(tick(1)),)))
    late = HookReceiver(free_port)
    late.answers = [(200, {})] * 1000
    late.thread.start()
    try:
        until(lambda: alerts.delivered >= 1)
    finally:
        alerts.close()
        late.server.shutdown()
        late.server.server_close()
        late.thread.join()


def test_the_loop_never_waits(make: Callable[..., Alerts], receiver: HookReceiver) -> None:
    """The receiver is asleep while a hundred turns are told; it hears the last state, not each of them."""
    receiver.delay_s = 0.3
    alerts = make()
    for number in range(100):
        alerts.listen(turned(tick(number), incidents=(named(number),)))
    assert len(receiver.got) <= 1
    until(lambda: any(a["labels"]["workload"] == "shop-99" for told in got(receiver) for a in told))
    assert len(receiver.got) <= 3


def test_what_was_just_told_is_delivered_before_it_closes(make: Callable[..., Alerts], receiver: HookReceiver) -> None:
    alerts = make()
    alerts.listen(turned(tick(1), incidents=(incident(tick(1)),)))
    alerts.close()
    assert len(receiver.got) == 1


def test_the_token_is_sent_and_has_to_be_there(make: Callable[..., Alerts], receiver: HookReceiver) -> None:
    make({"AM": "secret-token\n"}, token="AM").listen(turned(tick(1), incidents=(incident(tick(1)),)))
    until(lambda: len(receiver.got) == 1)
    assert receiver.got[0][1]["authorization"] == "Bearer secret-token"
    for environment in ({}, {"AM": " "}, {"AM": "a\nb: c"}):
        with pytest.raises(ConfigError, match="variable AM is empty or not printable"):
            make(environment, token="AM")


@pytest.mark.parametrize(
    ("url", "token", "said"),
    [
        ("alertmanager:9093", "", "is not an address"),
        ("ftp://alertmanager", "", "is not an address"),
        ("http://", "", "is not an address"),
        ("http://user@alertmanager", "", "is not an address"),
        ("http://alertmanager/?a=b", "", "is not an address"),
        ("http://alertmanager:9093", "AM", "in the clear"),
    ],
)
def test_a_wrong_address_is_an_error_with_its_fix(url: str, token: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Alerts(AlertSettings(urls=(url,), token=token), {"AM": "x" * 20})


def test_a_certificate_that_is_not_trusted_is_not_talked_to(make: Callable[..., Alerts], receiver: HookReceiver) -> None:
    """TLS is spoken to a server that has none: nothing is sent in the clear."""
    alerts = make(urls=(f"https://127.0.0.1:{receiver.port}",), resend_s=0.02)
    assert alerts._tls.verify_mode is ssl.CERT_REQUIRED
    alerts.listen(turned(tick(1), incidents=(incident(tick(1)),)))
    alerts.close()
    assert receiver.got == []
    assert (alerts.delivered, alerts.dropped) == (0, 0)
