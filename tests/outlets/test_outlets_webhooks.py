"""Webhooks: signatures the official library verifies, addresses that may not be reached, and what each answer leads to."""

from __future__ import annotations

import base64
import ipaddress
import json
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from outlet_worlds import HookReceiver, tick, until
from standardwebhooks import Webhook as Verifier

from forecastle.errors import ConfigError, Denied, Transient
from forecastle.outlets import webhooks
from forecastle.outlets.cloudevents import Event
from forecastle.outlets.courier import Courier, Cursor, Retry
from forecastle.outlets.webhooks import Webhook, allowed
from forecastle.settings import WebhookSettings

SECRETS = {f"HOOK_{i}": "whsec_" + base64.b64encode(bytes([i]) * 32).decode() for i in (1, 2, 3)}
EVENT = Event("8f1c-opened", "forecastle.incident.opened", tick(1), "shop", {"severity": "critical", "cause": "zu viel, ünd"})
LOOPBACK = ("127.0.0.0/8",)


def hook(url: str, **changes: Any) -> Webhook:
    made = {"url": url, "secrets": ("HOOK_1",), "networks": LOOPBACK, "timeout_s": 5.0}
    rest = {name: changes.pop(name) for name in ("tls", "now") if name in changes}
    return Webhook(WebhookSettings.model_validate(made | changes), SECRETS, **rest)


def to(receiver: HookReceiver, path: str = "/hook?team=a", **changes: Any) -> Webhook:
    return hook(f"http://127.0.0.1:{receiver.port}{path}", **changes)


# --- what is sent ---------------------------------------------------------------------------------------------------


def test_the_official_library_verifies_what_is_sent(receiver: HookReceiver) -> None:
    to(receiver).send([EVENT])
    ((path, headers, body),) = receiver.got
    assert path == "/hook?team=a"
    payload = Verifier(SECRETS["HOOK_1"]).verify(body, headers)
    assert payload == {"type": EVENT.type, "timestamp": "2025-10-09T08:55:00.000Z", "data": EVENT.data}
    assert (headers["webhook-id"], headers["content-type"]) == (EVENT.id, "application/json")
    assert headers["host"] == f"127.0.0.1:{receiver.port}"


def test_a_changed_body_or_a_wrong_secret_does_not_verify(receiver: HookReceiver) -> None:
    from standardwebhooks import WebhookVerificationError

    to(receiver).send([EVENT])
    ((_, headers, body),) = receiver.got
    for secret, text in (("HOOK_1", body.replace(b"critical", b"info")), ("HOOK_2", body)):
        with pytest.raises(WebhookVerificationError):
            Verifier(SECRETS[secret]).verify(text, headers)


def test_while_a_secret_is_rotated_both_verify(receiver: HookReceiver) -> None:
    to(receiver, secrets=("HOOK_1", "HOOK_2")).send([EVENT])
    ((_, headers, body),) = receiver.got
    assert len(headers["webhook-signature"].split()) == 2
    assert Verifier(SECRETS["HOOK_1"]).verify(body, headers) == Verifier(SECRETS["HOOK_2"]).verify(body, headers)


def test_a_repeat_has_the_same_id_and_the_time_of_its_own_try(receiver: HookReceiver) -> None:
    times = iter([1_760_000_000.9, 1_760_000_300.1])
    one = to(receiver, now=lambda: next(times))
    one.send([EVENT])
    one.send([EVENT])
    headers = [headers for _, headers, _ in receiver.got]
    assert [h["webhook-timestamp"] for h in headers] == ["1760000000", "1760000300"]
    assert headers[0]["webhook-id"] == headers[1]["webhook-id"]
    assert headers[0]["webhook-signature"] != headers[1]["webhook-signature"]


# --- what an answer leads to ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 404, 429, 500, 503])
def test_a_failure_is_tried_again(receiver: HookReceiver, status: int) -> None:
    receiver.answers = [(status, {})]
    one = to(receiver)
    with pytest.raises(Transient, match=f"127.0.0.1 answered {status}"):
        one.send([EVENT])
    one.send([EVENT])


@pytest.mark.parametrize(("asked", "waits"), [("120", 120.0), ("999999", 3600.0), ("soon", 0.0), ("-1", 0.0), ("", 0.0)])
def test_the_receiver_may_ask_for_a_pause_that_is_bounded(receiver: HookReceiver, asked: str, waits: float) -> None:
    receiver.answers = [(503, {"retry-after": asked})]
    with pytest.raises(Transient) as caught:
        to(receiver).send([EVENT])
    assert caught.value.retry_after == waits


def test_a_redirect_is_not_followed(receiver: HookReceiver) -> None:
    receiver.answers = [(307, {"location": "http://169.254.169.254/latest/meta-data"})]
    with pytest.raises(Denied, match="307, a redirect"):
        to(receiver).send([EVENT])
    assert len(receiver.got) == 1


def test_gone_is_not_asked_again(receiver: HookReceiver) -> None:
    receiver.answers = [(410, {})]
    one = to(receiver)
    for _ in range(2):
        with pytest.raises(Denied, match=r"410 Gone; remove it from outlets\.webhooks"):
            one.send([EVENT])
    assert len(receiver.got) == 1


def test_a_receiver_that_does_not_answer_is_tried_again(receiver: HookReceiver) -> None:
    receiver.delay_s = 1.0
    with pytest.raises(Transient, match="TimeoutError") as caught:
        to(receiver, timeout_s=0.1).send([EVENT])
    assert caught.value.ambiguous


def test_nobody_there_is_tried_again(free_port: int) -> None:
    with pytest.raises(Transient, match="ConnectionRefusedError"):
        hook(f"http://127.0.0.1:{free_port}/").send([EVENT])


def test_an_answer_that_is_no_http_is_tried_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            taken, _ = server.accept()
            with taken:
                taken.recv(65536)
                taken.sendall(b"SSH-2.0-OpenSSH\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(Transient, match="BadStatusLine"):
            hook(f"http://127.0.0.1:{server.getsockname()[1]}/").send([EVENT])
        thread.join()


def test_through_a_courier_each_event_is_retried_by_itself(receiver: HookReceiver, tmp_path: Path) -> None:
    receiver.answers = [(204, {}), (500, {}), (500, {}), (204, {}), (410, {})]
    one = Courier("hook", to(receiver).send, Cursor(tmp_path / "cursor", 0), retry=Retry(0.01, 0.02, attempts=3), chunk=1)
    one.offer(1, [Event(name, EVENT.type, tick(1), "shop", {}) for name in "abc"])
    one.offer(2, [Event("d", EVENT.type, tick(2), "shop", {})])
    until(lambda: one.tick == 2)
    one.close()
    assert [headers["webhook-id"] for _, headers, _ in receiver.got] == ["a", "b", "b", "b", "c"]
    assert (one.delivered, one.dropped, one.tick) == (2, 2, 2)


# --- where it may go ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True),
        ("2606:2800:21f:cb07::1", True),
        ("127.0.0.1", False),
        ("10.0.0.1", False),
        ("172.16.5.4", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1", False),
        ("fd00::1", False),
        ("ff02::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:169.254.169.254", False),
        ("64:ff9b::a9fe:a9fe", False),
        ("64:ff9b:1::1", False),
        ("2002:7f00:1::", False),
        ("2001:0:1::1", False),
    ],
)
def test_only_public_addresses_are_connected_to(address: str, *, public: bool) -> None:
    assert allowed(ipaddress.ip_address(address), ()) is public


def test_a_named_network_is_allowed_and_no_other() -> None:
    networks = (ipaddress.ip_network("10.1.0.0/16"), ipaddress.ip_network("fd00:1::/32"))
    assert allowed(ipaddress.ip_address("10.1.2.3"), networks)
    assert allowed(ipaddress.ip_address("::ffff:10.1.2.3"), networks)
    assert allowed(ipaddress.ip_address("fd00:1::5"), networks)
    assert not allowed(ipaddress.ip_address("10.2.0.1"), networks)


def test_a_host_on_the_loopback_is_refused_without_a_connection(receiver: HookReceiver) -> None:
    with pytest.raises(Denied, match=r"127\.0\.0\.1, which is not public; .* 'networks'"):
        to(receiver, networks=()).send([EVENT])
    assert receiver.got == []


def names(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Makes the resolver give these addresses, one list per question. Returns the hosts that were asked for."""
    left, asked, real = list(answers), [], socket.getaddrinfo

    def resolve(host: str, port: int, *args: Any, **kwargs: Any) -> Any:
        try:
            ipaddress.ip_address(host)
        except ValueError:
            asked.append(host)
            found = left.pop(0)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]
        return real(host, port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return asked


def test_one_forbidden_address_among_public_ones_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    names(monkeypatch, ["93.184.215.14", "169.254.169.254"])
    with pytest.raises(Denied, match=r"hooks\.example is at 169\.254\.169\.254"):
        hook("https://hooks.example/in", networks=()).send([EVENT])


def test_a_name_that_is_not_found_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(Transient, match=r"hooks\.example: cannot be looked up"):
        hook("https://hooks.example/in").send([EVENT])


@pytest.fixture
def tls_receiver(receiver: HookReceiver, tmp_path: Path) -> tuple[HookReceiver, ssl.SSLContext]:
    """The receiver with a certificate for hooks.example, and a context that trusts it."""
    pem, key = tmp_path / "hook.pem", tmp_path / "hook.key"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=hooks.example"]
    command += ["-addext", "subjectAltName=DNS:hooks.example", "-keyout", str(key), "-out", str(pem)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, key)
    receiver.server.socket = context.wrap_socket(receiver.server.socket, server_side=True)
    return receiver, ssl.create_default_context(cafile=str(pem))


def test_the_connection_goes_to_the_checked_address_under_the_name(
    tls_receiver: tuple[HookReceiver, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second answer of the resolver would lead elsewhere: it is never asked for."""
    receiver, trust = tls_receiver
    asked = names(monkeypatch, ["127.0.0.1"], ["169.254.169.254"])
    hook(f"https://hooks.example:{receiver.port}/in", tls=trust).send([EVENT])
    ((path, headers, _),) = receiver.got
    assert (path, headers["host"], asked) == ("/in", f"hooks.example:{receiver.port}", ["hooks.example"])


def test_a_certificate_of_another_name_is_refused(
    tls_receiver: tuple[HookReceiver, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver, trust = tls_receiver
    names(monkeypatch, ["127.0.0.1"])
    with pytest.raises(Transient, match="SSLCertVerificationError"):
        hook(f"https://other.example:{receiver.port}/in", tls=trust).send([EVENT])
    assert receiver.got == []


def test_proxies_of_the_environment_are_not_used(
    receiver: HookReceiver, monkeypatch: pytest.MonkeyPatch, free_port: int
) -> None:
    for name in ("http_proxy", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port}")
    to(receiver).send([EVENT])
    assert len(receiver.got) == 1


# --- what is configured ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example/in",
        "ftp://hooks.example",
        "https://",
        "https://me:pw@hooks.example/",
        "https://hooks.example/#x",
        "hook",
    ],
)
def test_an_address_that_will_not_do_is_refused_at_once(url: str) -> None:
    with pytest.raises(ConfigError, match=r"outlets\.webhooks\.url: "):
        hook(url)


@pytest.mark.parametrize("secret", ["", "secret", "whsec_", "whsec_short", "whsec_" + "A" * 8, "whsec_!" + "A" * 43])
def test_a_secret_that_will_not_do_is_refused_and_not_shown(secret: str) -> None:
    settings = WebhookSettings(url="https://hooks.example", secrets=("MINE",))
    with pytest.raises(ConfigError, match=r"MINE does not hold whsec_ .*openssl rand") as caught:
        Webhook(settings, {"MINE": secret})
    assert len(secret) < 8 or secret not in str(caught.value)


def test_a_network_that_is_none_is_said() -> None:
    with pytest.raises(ConfigError, match=r"outlets\.webhooks\.networks: .*10\.1\.0\.0/16"):
        hook("https://hooks.example", networks=("10.1.0.5/16",))


def test_pauses_are_those_of_the_specification() -> None:
    pace: Callable[[WebhookSettings], Retry] = webhooks.retry
    made = pace(WebhookSettings(url="https://hooks.example", secrets=("HOOK_1",), attempts=4))
    assert (made.first_s, made.longest_s, made.attempts) == (5.0, 300.0, 4)


def test_the_body_is_json_that_a_reader_of_any_language_understands(receiver: HookReceiver) -> None:
    to(receiver).send([EVENT])
    assert json.loads(receiver.got[0][2].decode("utf-8"))["data"]["cause"] == "zu viel, ünd"
