"""The newer outlets on a real loop: opened by the configuration, counted at /metrics, closed with the shift."""

from __future__ import annotations

import http.client
import socket
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest
from outlet_worlds import HookReceiver
from test_outlets_listeners import page, settings, working

from forecastle.errors import ConfigError
from forecastle.settings import Settings

TOKEN = "t" * 40


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOOR_TOKEN", TOKEN)


@pytest.fixture
def ports() -> list[int]:
    """Three loopback ports that nobody listened on a moment ago."""
    probes = [socket.socket() for _ in range(3)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    found = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return found


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A certificate for localhost and its key; it is its own CA."""
    folder = tmp_path_factory.mktemp("tls")
    pair = str(folder / "tls.crt"), str(folder / "tls.key")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=front-proxy-client", "-addext", "subjectAltName=DNS:localhost", "-out", pair[0], "-keyout", pair[1]]
    subprocess.run([*command, *names], check=True, capture_output=True)
    return pair


def everything(folder: Path, ports: list[int], receiver: HookReceiver, pem: tuple[str, str], worker: str = "w") -> Settings:
    address = f"http://127.0.0.1:{receiver.port}"
    api = {"port": ports[2], "host": "127.0.0.1", "tls_cert": pem[0], "tls_key": pem[1], "client_ca": pem[0]}
    return settings(
        folder,
        worker,
        metrics_port=ports[0],
        doorbell={"port": ports[1], "tokens": ["DOOR_TOKEN"]},
        external_metrics=api,
        alerts={"urls": [address], "severity": "info"},
        traces={"endpoint": f"{address}/v1/traces"},
    )


def ring(port: int, secret: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", "/alertmanager", '{"version":"4","alerts":[]}', {"authorization": f"Bearer {secret}"})
    status = connection.getresponse().status
    connection.close()
    return status


def scaled(port: int, pem: tuple[str, str]) -> Any:
    context = ssl.create_default_context(cafile=pem[0])
    context.load_cert_chain(*pem)
    connection = http.client.HTTPSConnection("localhost", port, timeout=60, context=context)
    path = "/apis/external.metrics.k8s.io/v1beta1/namespaces/a/forecastle_recommended_replicas"
    connection.request("GET", path, headers={"x-remote-user": "hpa"})
    text = connection.getresponse().read().decode()
    connection.close()
    return text


def test_all_of_them_are_open_together_and_counted(
    tmp_path: Path, ports: list[int], receiver: HookReceiver, pem: tuple[str, str]
) -> None:
    receiver.answers = [(200, {})] * 1000
    with working(everything(tmp_path, ports, receiver, pem), 12) as loop:
        assert (ring(ports[1], TOKEN), ring(ports[1], "wrong")) == (200, 401)
        recommended = next(plan.recommended["shop"] for plan in loop.rooms.ledger.plans(loop.last_tick, "w") or ())
        assert f'"value":"{recommended}"' in scaled(ports[2], pem)
        text = page(ports[0])
        assert 'forecastle_doorbell_requests_total{route="/alertmanager",status="200"} 1.0' in text
        assert 'forecastle_doorbell_requests_total{route="/alertmanager",status="401"} 1.0' in text
        assert 'forecastle_outlet_events_total{outlet="traces",result="dropped"} 0.0' in text
        assert 'forecastle_outlet_pending_events{outlet="alertmanager"} ' in text
    assert any(path == "/v1/traces" for path, _, _ in receiver.got)
    for port in ports:
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", port), timeout=5).close()


def test_a_numbered_worker_moves_all_its_ports(
    tmp_path: Path, ports: list[int], receiver: HookReceiver, pem: tuple[str, str]
) -> None:
    receiver.answers = [(200, {})] * 1000
    with working(everything(tmp_path, [port - 3 for port in ports], receiver, pem, "w-3"), 3):
        assert ring(ports[1], TOKEN) == 200
        assert "forecastle_build_info" in page(ports[0])
        assert "ExternalMetricValueList" in scaled(ports[2], pem)


@pytest.mark.parametrize(
    ("outlets", "said"),
    [
        ({"doorbell": {"port": 1, "tokens": []}}, "nobody could ring"),
        ({"doorbell": {"port": 9, "host": "0.0.0.0", "tokens": ["DOOR_TOKEN"]}}, "in the clear"),
        ({"external_metrics": {"port": 9}}, r"external_metrics\.tls_cert"),
        ({"alerts": {"urls": ["alertmanager"]}}, r"alerts\.urls"),
        ({"traces": {"endpoint": "collector"}}, r"traces\.endpoint"),
        ({"webhooks": [{"url": "env:ABSENT", "form": "slack"}]}, "ABSENT is not set"),
    ],
)
def test_a_worker_with_a_wrong_outlet_does_not_start(tmp_path: Path, outlets: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said), working(settings(tmp_path, **outlets), 2):
        pass
