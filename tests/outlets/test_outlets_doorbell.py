"""The doorbell over real sockets: what each kind of request is answered, and that nothing refused is heard."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from outlet_worlds import START, STOCK, tick
from standardwebhooks import Webhook as Signer

from forecastle.errors import ConfigError
from forecastle.outlets import serving
from forecastle.outlets.doorbell import Doorbell, serving_doorbell
from forecastle.outlets.signals import SignalBook
from forecastle.settings import DoorbellSettings

TOKEN = "t" * 40
SECRET = "whsec_" + base64.b64encode(b"s" * 32).decode()
ENVIRONMENT = {"TOKEN": TOKEN, "SECRET": SECRET, "PAIR": "alertmanager:" + "p" * 20}
BEARER = {"authorization": f"Bearer {TOKEN}"}
BOTH = {"tokens": ("TOKEN",), "basic": ("PAIR",), "secrets": ("SECRET",)}


def alert(status: str = "firing", fingerprint: str = "c0ffee", **labels: str) -> dict[str, Any]:
    named = {"alertname": "TooSlow", "workload": "shop", "site": "fra", "severity": "critical"} | labels
    return {
        "status": status,
        "labels": named,
        "annotations": {"summary": "p99 is 2 s"},
        "startsAt": "2025-10-09T08:54:00Z",
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "http://prometheus/graph",
        "fingerprint": fingerprint,
    }


def message(*alerts: dict[str, Any], **changes: Any) -> bytes:
    made = {"version": "4", "groupKey": "{}:{}", "truncatedAlerts": 0, "status": "firing", "receiver": "forecastle"}
    rest = {"groupLabels": {}, "commonLabels": {}, "commonAnnotations": {}, "externalURL": "http://am", "alerts": list(alerts)}
    return json.dumps(made | rest | changes).encode()


def raised(**changes: Any) -> bytes:
    data = {"workload": "mail", "alert": "Stuck", "severity": "warning", "summary": "no mail leaves"}
    kind = changes.pop("type", "signal.raised")
    return json.dumps({"type": kind, "timestamp": "2025-10-09T08:54:00Z", "data": data | changes}).encode()


def signed(body: bytes, ident: str = "msg_1", at_s: float | None = None) -> dict[str, str]:
    at = int(at_s or time.time())
    made = Signer(SECRET).sign(ident, datetime.fromtimestamp(at, UTC), body.decode())
    return {"webhook-id": ident, "webhook-timestamp": str(at), "webhook-signature": made}


class Door:
    """A doorbell with its book, and a way to it."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.book = SignalBook(folder / "signals.jsonl", STOCK, lambda: START)
        settings = DoorbellSettings.model_validate(BOTH | {"timeout_s": 5.0, "kinds": {"Too*": "trend"}} | changes)
        self.bell = Doorbell(settings, self.book, ENVIRONMENT)
        self.port = 0

    def send(
        self, path: str, body: bytes = b"", headers: dict[str, str] | None = None, method: str = "POST"
    ) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            text = answer.read()
            return answer.status, json.loads(text) if text else None
        finally:
            connection.close()

    def raw(self, text: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
            connection.sendall(text)
            got = b""
            while part := connection.recv(65_536):
                got += part
            return got

    def heard(self) -> list[str]:
        return [str(a.key) for a in self.book.heard(tick(1))]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Any]:
    with ExitStack() as opened:

        def one(**changes: Any) -> Door:
            made = Door(tmp_path, **changes)
            made.port = opened.enter_context(serving_doorbell(made.bell))
            return made

        yield one


@pytest.fixture
def door(make: Any) -> Door:
    return make()


# --- what is let in -------------------------------------------------------------------------------------------------


def test_a_firing_alert_is_heard_and_a_resolved_one_is_not_any_more(door: Door) -> None:
    assert door.send("/alertmanager", message(alert()), BEARER) == (200, {"accepted": 1, "ignored": {}})
    assert door.heard() == ['shop:alert/TooSlow{site="fra"}']
    assert door.book.heard(tick(1))[0].kind == "trend"
    assert door.send("/alertmanager", message(alert("resolved")), BEARER)[0] == 200
    assert door.heard() == []


def test_a_password_opens_too(door: Door) -> None:
    pair = base64.b64encode(ENVIRONMENT["PAIR"].encode()).decode()
    assert door.send("/alertmanager", message(alert()), {"authorization": f"Basic {pair}"})[0] == 200


def test_a_signed_webhook_raises_and_clears(door: Door) -> None:
    body = raised()
    assert door.send("/webhook", body, signed(body)) == (200, {"accepted": 1, "ignored": {}})
    assert door.heard() == ["mail:alert/Stuck"]
    body = raised(type="signal.cleared")
    assert door.send("/webhook", body, signed(body, "msg_2"))[0] == 200
    assert door.heard() == []


def test_a_second_try_is_welcome_and_a_replay_is_not(door: Door) -> None:
    body, now = raised(), time.time()
    first = signed(body, at_s=now - 10)
    assert door.send("/webhook", body, first)[0] == 200
    assert door.send("/webhook", body, signed(body, at_s=now)) == (200, {"accepted": 0, "ignored": {"repeat": 1}})
    assert door.send("/webhook", body, first)[0] == 401


def test_what_is_not_for_us_is_counted_and_the_rest_accepted(door: Door) -> None:
    many = [
        alert(),
        alert(fingerprint="2", workload="other"),
        alert(fingerprint="3", workload=""),
        alert(fingerprint="4", site="moon"),
        alert(fingerprint="5", origin="forecastle"),
        alert(fingerprint="6", alertname="ForecastleOnHold"),
    ]
    ignored = {"workload unknown": 1, "no workload": 1, "site unknown": 1, "echo": 2}
    assert door.send("/alertmanager", message(*many), BEARER) == (200, {"accepted": 1, "ignored": ignored})
    assert len(door.heard()) == 1


def test_a_webhook_of_another_type_is_passed_over(door: Door) -> None:
    body = raised(type="invoice.paid")
    assert door.send("/webhook", body, signed(body)) == (200, {"accepted": 0, "ignored": {"type unknown": 1}})


# --- what is not ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer " + "x" * 40}, {"authorization": TOKEN}])
def test_without_the_secret_alertmanager_is_nobody(door: Door, headers: dict[str, str]) -> None:
    assert door.send("/alertmanager", message(alert()), headers) == (401, {"error": "not authenticated"})
    assert door.heard() == []


@pytest.mark.parametrize("bend", ["forged", "stale", "unsigned", "other body", "bearer"])
def test_without_a_fitting_signature_a_webhook_is_nothing(door: Door, bend: str) -> None:
    body = raised()
    headers = {
        "forged": signed(body) | {"webhook-signature": "v1," + base64.b64encode(b"f" * 32).decode()},
        "stale": signed(body, at_s=time.time() - 400),
        "unsigned": {},
        "other body": signed(raised(workload="shop")),
        "bearer": BEARER,
    }[bend]
    assert door.send("/webhook", body, headers) == (401, {"error": "not authenticated"})
    assert door.heard() == []


@pytest.mark.parametrize("path", ["/", "/metrics", "/alertmanager/", "/alertmanager?x=1", "/webhook/../alertmanager"])
def test_other_paths_lead_nowhere(door: Door, path: str) -> None:
    assert door.send(path, message(alert()), BEARER)[0] == 404


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_other_methods_are_not_for_here(door: Door, method: str) -> None:
    assert door.send("/alertmanager", b"", BEARER, method)[0] == 405
    assert door.send("/nowhere", b"", BEARER, method)[0] == 404


def test_a_route_without_a_secret_does_not_exist(make: Any) -> None:
    only = make(secrets=())
    assert only.send("/webhook", raised(), signed(raised()))[0] == 404
    assert only.send("/alertmanager", message(alert()), BEARER)[0] == 200


def test_a_doorbell_without_any_secret_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nobody could ring"):
        Door(tmp_path, tokens=(), basic=(), secrets=())


DEEP = b'{"version":"4","alerts":' + b"[" * 40 + b"]" * 40 + b"}"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "not_json"),
        (b"nonsense", "not_json"),
        (b"\xff\xfe", "not_json"),
        (b'{"version":"4","alerts":[', "not_json"),
        (b"[]", "wrong_shape"),
        (b'{"version":"3","alerts":[]}', "wrong_shape"),
        (b'{"version":4,"alerts":[]}', "wrong_shape"),
        (b'{"version":"4"}', "wrong_shape"),
        (b'{"version":"4","alerts":[{"status":"firing"}]}', "wrong_shape"),
        (b'{"version":"4","alerts":[{"status":"on","labels":{},"fingerprint":"1"}]}', "wrong_shape"),
        (b'{"version":"4","alerts":[{"status":"firing","labels":{"a":1},"fingerprint":"1"}]}', "wrong_shape"),
        (DEEP, "too_deep"),
        (b"[" * 100_000, "too_deep"),
        (b'{"a":' * 100_000, "too_deep"),
    ],
)
def test_what_is_no_notification_is_a_bad_request(door: Door, body: bytes, said: str) -> None:
    status, answer = door.send("/alertmanager", body, BEARER)
    assert (status, answer["error"].partition(":")[0]) == (400, said)


def test_brackets_within_text_are_not_depth(door: Door) -> None:
    deep = alert(note='"' + "[{" * 500 + "\\")
    assert door.send("/alertmanager", message(deep), BEARER)[0] == 200


def test_a_bad_webhook_may_be_mended_under_the_same_id(door: Door) -> None:
    bad = b'{"type":"signal.raised","data":{"workload":5}}'
    assert door.send("/webhook", bad, signed(bad))[0] == 400
    body = raised()
    assert door.send("/webhook", body, signed(body))[0] == 200


def test_one_bad_alert_spoils_the_message_and_none_is_heard(door: Door) -> None:
    assert door.send("/alertmanager", message(alert(), {"status": "firing"}), BEARER)[0] == 400
    assert door.heard() == []


# --- requests that would wear us out --------------------------------------------------------------------------------


def post(*headers: str, path: str = "/alertmanager", body: bytes = b"") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "host: x", f"authorization: Bearer {TOKEN}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (("content-length: 2000",), 413),
        (("content-length: 99999999999999999999999",), 413),
        (("content-length: -1",), 400),
        (("content-length: +5",), 400),
        (("content-length: 0x10",), 400),
        ((), 411),
        (("content-length: 5", "content-length: 6"), 411),
        (("transfer-encoding: chunked",), 411),
        (("content-length: 5", "transfer-encoding: chunked"), 411),
    ],
)
def test_bodies_are_bounded_before_they_are_read(make: Any, headers: tuple[str, ...], status: int) -> None:
    door = make(max_body=1000)
    assert door.raw(post(*headers)).startswith(f"HTTP/1.1 {status} ".encode())


def test_a_body_as_large_as_allowed_is_read(make: Any) -> None:
    body = message(alert())
    door = make(max_body=len(body))
    assert door.send("/alertmanager", body, BEARER)[0] == 200
    assert door.send("/alertmanager", body + b" ", BEARER)[0] == 413


def test_a_stranger_is_turned_away_before_the_body(door: Door) -> None:
    """It never comes, and nobody waits for it."""
    text = post("content-length: 500").replace(TOKEN.encode(), b"wrong")
    with socket.create_connection(("127.0.0.1", door.port), timeout=60) as connection:
        connection.sendall(text)
        assert connection.recv(65_536).startswith(b"HTTP/1.1 401 ")


def test_the_answer_to_a_large_refused_body_arrives(door: Door) -> None:
    text = post("content-length: 900000", body=b"x" * 900_000).replace(TOKEN.encode(), b"wrong")
    assert door.raw(text).startswith(b"HTTP/1.1 401 ")


def test_who_asks_before_sending_is_told_to_go_on(door: Door) -> None:
    body = message(alert())
    with socket.create_connection(("127.0.0.1", door.port), timeout=60) as connection:
        connection.sendall(post(f"content-length: {len(body)}", "expect: 100-continue"))
        assert connection.recv(65_536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200 ")
    assert len(door.heard()) == 1


def test_a_body_that_never_comes_times_out(make: Any) -> None:
    door = make(timeout_s=0.3)
    with socket.create_connection(("127.0.0.1", door.port), timeout=60) as connection:
        connection.sendall(post("content-length: 500", body=b"{"))
        assert connection.recv(65_536).startswith(b"HTTP/1.1 408 ")


def test_a_body_that_trickles_times_out_as_well(make: Any) -> None:
    """Each byte comes in time; all of them don't."""
    door = make(timeout_s=0.5)
    with socket.create_connection(("127.0.0.1", door.port), timeout=0.1) as connection:
        connection.sendall(post("content-length: 500"))
        got = b""
        for _ in range(100):
            try:
                connection.sendall(b" ")
                got = connection.recv(65_536)
                break
            except TimeoutError:
                continue
        assert got.startswith(b"HTTP/1.1 408 ")


def test_headers_that_trickle_end_in_silence(make: Any) -> None:
    door = make(timeout_s=0.3)
    assert door.raw(b"POST /alertmanager HTTP/1.1\r\nx-") == b""


def test_a_body_that_ends_early_is_a_bad_request(door: Door) -> None:
    with socket.create_connection(("127.0.0.1", door.port), timeout=60) as connection:
        connection.sendall(post("content-length: 500", body=b"{}"))
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(65_536).startswith(b"HTTP/1.1 400 ")


def test_who_comes_while_too_many_are_inside_is_turned_away(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "MOST_AT_ONCE", 2)
    door = make()
    with ExitStack() as opened:
        for _ in range(2):
            opened.enter_context(socket.create_connection(("127.0.0.1", door.port), timeout=60))
        with pytest.raises((OSError, http.client.HTTPException)):
            door.send("/alertmanager", message(alert()), BEARER)
    assert door.heard() == []


def test_what_cannot_be_kept_is_not_acknowledged(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    body = raised()
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        assert door.send("/alertmanager", message(alert()), BEARER) == (503, {"error": "try again later"})
        assert door.send("/webhook", body, signed(body))[0] == 503
    assert door.heard() == []
    assert door.send("/webhook", body, signed(body))[0] == 200


def test_many_at_once_are_all_heard(door: Door) -> None:
    statuses: list[int] = []

    def ring(number: int) -> None:
        body = message(alert(fingerprint=str(number), alertname=f"A{number}"))
        statuses.append(door.send("/alertmanager", body, BEARER)[0])

    threads = [threading.Thread(target=ring, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 16
    assert len(door.heard()) == 16


def test_one_replay_among_simultaneous_ones_gets_in(door: Door) -> None:
    body, statuses = raised(), []
    headers = signed(body)
    threads = [threading.Thread(target=lambda: statuses.append(door.send("/webhook", body, headers)[0])) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200] + [401] * 7


# --- text from outside ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("two\nlines\r\n", "two lines"),
        ("\x1b[31mred\x07", "[31mred"),
        ("evil\u202egnp.exe", "evil gnp.exe"),
        ("x" * 5000, "x" * 200),
        ("", ""),
    ],
)
def test_words_of_others_are_one_bounded_printable_line(door: Door, text: str, kept: str) -> None:
    made = alert()
    made["annotations"] = {"summary": text}
    assert door.send("/alertmanager", message(made), BEARER)[0] == 200
    assert door.book.heard(tick(1))[0].evidence["summary"] == kept


@pytest.mark.parametrize(
    ("label", "meant"),
    [
        ("critical", "critical"),
        ("PAGE", "critical"),
        ("warning", "warning"),
        ("info", "info"),
        ("none", "info"),
        ("odd", "warning"),
    ],
)
def test_severities_by_their_customary_names(door: Door, label: str, meant: str) -> None:
    door.send("/alertmanager", message(alert(severity=label)), BEARER)
    assert door.book.heard(tick(1))[0].evidence["severity"] == meant


@pytest.mark.parametrize(("name", "kind"), [("TooSlow", "trend"), ("Other", "level_shift")])
def test_the_kind_comes_from_the_name(door: Door, name: str, kind: str) -> None:
    door.send("/alertmanager", message(alert(alertname=name)), BEARER)
    assert door.book.heard(tick(1))[0].kind == kind


def test_labels_cannot_pretend_to_be_evidence(door: Door) -> None:
    """Evidence such as the lost share of a site decides what is healed; it is never taken from outside."""
    door.send("/alertmanager", message(alert(lost="1.0", site_lost="1.0", fleet_lost="1.0", witness="another")), BEARER)
    evidence = door.book.heard(tick(1))[0].evidence
    assert evidence["witness"] == "alert"
    assert not {"lost", "site_lost", "fleet_lost"} & set(evidence)


# --- the address ----------------------------------------------------------------------------------------------------


def test_secrets_do_not_cross_a_network_in_the_clear(tmp_path: Path) -> None:
    door = Door(tmp_path, host="0.0.0.0")
    with pytest.raises(ConfigError, match="in the clear"), serving_doorbell(door.bell):
        pass


def test_a_port_in_use_is_an_error_that_names_it(door: Door, tmp_path: Path) -> None:
    second = Door(tmp_path, port=door.port)
    with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{door.port}"), serving_doorbell(second.bell):
        pass


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("tls")
    pair = str(folder / "tls.crt"), str(folder / "tls.key")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-out", pair[0], "-keyout", pair[1]]
    subprocess.run([*command, *names], check=True, capture_output=True)
    return pair


def test_tls_is_spoken_and_a_client_that_says_nothing_keeps_nobody_out(make: Any, certificate: tuple[str, str]) -> None:
    door = make(tls_cert=certificate[0], tls_key=certificate[1])
    context = ssl.create_default_context(cafile=certificate[0])
    with socket.create_connection(("127.0.0.1", door.port), timeout=60):  # never begins its handshake
        connection = http.client.HTTPSConnection("localhost", door.port, timeout=60, context=context)
        connection.request("POST", "/alertmanager", message(alert()), BEARER)
        assert connection.getresponse().status == 200
        connection.close()
    assert len(door.heard()) == 1


def test_a_certificate_that_is_none_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "bad.pem").write_text("nothing")
    door = Door(tmp_path, tls_cert=str(tmp_path / "bad.pem"))
    with pytest.raises(ConfigError, match="tls_cert"), serving_doorbell(door.bell):
        pass


def test_answers_are_counted_by_route_and_status(door: Door) -> None:
    door.send("/alertmanager", message(alert()), BEARER)
    door.send("/alertmanager", b"", {})
    door.send("/x" * 50, b"", {})
    assert dict(door.bell.answers) == {("/alertmanager", 200): 1, ("/alertmanager", 401): 1, ("other", 404): 1}
