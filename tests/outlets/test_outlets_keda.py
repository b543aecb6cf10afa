"""KEDA's calls over a real gRPC channel: exact bytes, recommendations from memory, errors where KEDA should fall back."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from outlet_worlds import plan, tick, turned

from forecastle.errors import ConfigError
from forecastle.outlets import keda_messages as messages
from forecastle.outlets.board import Board
from forecastle.outlets.keda import serving_keda
from forecastle.settings import OutletSettings

RESPONSES = {
    "IsActive": messages.IsActiveResponse,
    "GetMetricSpec": messages.GetMetricSpecResponse,
    "GetMetrics": messages.GetMetricsResponse,
}


class Hand:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.at, self.seconds = tick(0), 0.0

    def now(self) -> int:
        return self.at

    def monotonic(self) -> float:
        return self.seconds


class Keda:
    """The client side, as KEDA's operator calls it."""

    def __init__(self, board: Board, clock: Hand, channel: grpc.Channel) -> None:
        self.board, self.clock, self.channel = board, clock, channel

    def call(self, method: str, request: Any) -> Any:
        path = f"/externalscaler.ExternalScaler/{method}"
        stub = self.channel.unary_unary(path, type(request).SerializeToString, RESPONSES[method].FromString)
        return stub(request, timeout=60)

    def refusal(self, method: str, request: Any) -> tuple[grpc.StatusCode, str]:
        with pytest.raises(grpc.RpcError) as caught:
            self.call(method, request)
        return caught.value.code(), caught.value.details()

    def tell(self, number: int, **recommended: int) -> None:
        self.clock.at = max(self.clock.at, tick(number))
        self.board.listen(turned(tick(number), plan(tick(number), recommended=recommended)))


def ref(name: str = "scaled", **metadata: str) -> Any:
    return messages.ScaledObjectRef(name=name, namespace="default", scalerMetadata=metadata)


def metrics(asked: Any, name: str = "") -> Any:
    return messages.GetMetricsRequest(scaledObjectRef=asked, metricName=name)


@pytest.fixture
def keda() -> Iterator[Keda]:
    clock = Hand()
    board = Board(clock, stale_s=300.0)
    with serving_keda(board, OutletSettings()) as port, grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Keda(board, clock, channel)


def test_the_recommended_replicas_are_what_the_hpa_arrives_at(keda: Keda) -> None:
    keda.tell(1, shop=7, mail=2)
    spec = keda.call("GetMetricSpec", ref(workload="shop")).metricSpecs
    assert [(one.metricName, one.targetSize, one.targetSizeFloat) for one in spec] == [("forecastle-shop", 1, 1.0)]
    values = keda.call("GetMetrics", metrics(ref(workload="shop"), "forecastle-shop")).metricValues
    assert [(one.metricName, one.metricValue, one.metricValueFloat) for one in values] == [("forecastle-shop", 7, 7.0)]
    assert keda.call("GetMetrics", metrics(ref("mail"))).metricValues[0].metricValueFloat == 2.0, "the name of the ScaledObject"


def test_a_newer_recommendation_is_told_and_silence_keeps_the_last_one(keda: Keda) -> None:
    keda.tell(1, shop=7)
    keda.tell(2, shop=9)
    keda.tell(3, mail=1)
    assert keda.call("GetMetrics", metrics(ref(workload="shop"))).metricValues[0].metricValueFloat == 9.0


def test_the_name_that_keda_rewrote_is_given_back(keda: Keda) -> None:
    keda.tell(1, **{"shop.v2": 3})
    (value,) = keda.call("GetMetrics", metrics(ref(workload="shop.v2"), "forecastle-shop-v2")).metricValues
    assert (value.metricName, value.metricValueFloat) == ("forecastle-shop-v2", 3.0)


@pytest.mark.parametrize(("replicas", "threshold", "active"), [(0, "", False), (1, "", True), (2, "2", False), (3, "2", True)])
def test_activation_is_strictly_above_the_threshold(keda: Keda, replicas: int, threshold: str, *, active: bool) -> None:
    keda.tell(1, shop=replicas)
    metadata = {"activationReplicas": threshold} if threshold else {}
    assert keda.call("IsActive", ref(workload="shop", **metadata)).result is active


def test_no_replicas_is_a_number_and_not_an_error(keda: Keda) -> None:
    keda.tell(1, shop=0)
    assert keda.call("GetMetrics", metrics(ref(workload="shop"))).metricValues[0].metricValueFloat == 0.0


@pytest.mark.parametrize("method", ["IsActive", "GetMetrics"])
def test_what_was_never_recommended_is_an_error_that_says_what_to_set(keda: Keda, method: str) -> None:
    keda.tell(1, shop=7)
    asked = ref(workload="shpo")
    code, said = keda.refusal(method, asked if method == "IsActive" else metrics(asked))
    assert code is grpc.StatusCode.NOT_FOUND
    assert "'shpo'" in said
    assert "metadata 'workload'" in said


def test_the_metric_is_named_before_anything_is_recommended(keda: Keda) -> None:
    assert keda.call("GetMetricSpec", ref(workload="shop")).metricSpecs[0].metricName == "forecastle-shop"


def test_an_old_recommendation_is_an_error_so_that_keda_falls_back(keda: Keda) -> None:
    keda.tell(1, shop=7)
    keda.clock.seconds = 301.0  # the worker has told nothing for that long
    assert keda.refusal("GetMetrics", metrics(ref(workload="shop")))[0] is grpc.StatusCode.UNAVAILABLE
    keda.tell(6, shop=7)
    assert keda.call("GetMetrics", metrics(ref(workload="shop"))).metricValues


def test_a_worker_that_is_catching_up_is_not_believed(keda: Keda) -> None:
    keda.clock.at = tick(60)
    keda.tell(1, shop=7)
    code, said = keda.refusal("IsActive", ref(workload="shop"))
    assert code is grpc.StatusCode.UNAVAILABLE
    assert "3540 s old" in said


def test_a_threshold_that_is_no_number_is_refused(keda: Keda) -> None:
    keda.tell(1, shop=7)
    code, said = keda.refusal("IsActive", ref(workload="shop", activationReplicas="many"))
    assert (code, "'many' is not a number" in said) == (grpc.StatusCode.INVALID_ARGUMENT, True)


def test_metadata_of_keda_itself_is_ignored(keda: Keda) -> None:
    keda.tell(1, shop=7)
    assert keda.call("IsActive", ref(workload="shop", scalerAddress="forecastle:9465", caCert="x")).result


def test_a_stream_tells_the_state_and_then_its_changes_only(keda: Keda) -> None:
    path = "/externalscaler.ExternalScaler/StreamIsActive"
    stub = keda.channel.unary_stream(path, messages.ScaledObjectRef.SerializeToString, messages.IsActiveResponse.FromString)
    stream = stub(ref(workload="shop"), timeout=30)
    keda.tell(1, shop=0)
    assert next(stream).result is False
    keda.tell(2, shop=0)
    keda.tell(3, shop=4)
    assert next(stream).result is True
    keda.tell(4, shop=5)
    keda.tell(5, shop=0)
    assert next(stream).result is False
    stream.cancel()


def specs(keda: Keda, asked: Any) -> Any:
    path = "/externalscaler.ExternalScaler/StreamMetricSpec"
    respond = messages.GetMetricSpecResponse.FromString
    return keda.channel.unary_stream(path, messages.ScaledObjectRef.SerializeToString, respond)(asked, timeout=30)


@pytest.mark.parametrize("asked", [ref(workload="shop"), ref("mail"), ref(workload="never-recommended")])
def test_streamed_metric_specs_are_those_that_are_asked_for(keda: Keda, asked: Any) -> None:
    keda.tell(1, shop=7)
    stream = specs(keda, asked)
    told = next(stream)
    assert told == keda.call("GetMetricSpec", asked)
    assert len(told.metricSpecs) == 1, "KEDA keeps an empty list as the truth"
    stream.cancel()


def test_a_stream_of_metric_specs_tells_once_and_stays_open(keda: Keda) -> None:
    keda.tell(1, shop=7)
    stream, told, over = specs(keda, ref(workload="shop")), [], threading.Event()

    def read() -> None:
        with pytest.raises(grpc.RpcError):
            told.extend(stream)
        over.set()

    reader = threading.Thread(target=read)
    reader.start()
    state = keda.channel.unary_stream(
        "/externalscaler.ExternalScaler/StreamIsActive",
        messages.ScaledObjectRef.SerializeToString,
        messages.IsActiveResponse.FromString,
    )(ref(workload="shop"), timeout=30)
    for number, replicas in enumerate((7, 0, 9), 2):
        keda.tell(number, shop=replicas)
    states = [next(state).result]
    while states[-1] is False:
        states.append(next(state).result)
    assert not over.is_set(), "an end would have KEDA ask again and again"
    stream.cancel()
    state.cancel()
    reader.join(10)
    assert len(told) <= 1
    assert stream.code() is grpc.StatusCode.CANCELLED


def test_open_streams_do_not_hold_up_the_end_of_the_server() -> None:
    board = Board(Hand(), stale_s=300.0)
    with serving_keda(board, OutletSettings()) as port, grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        keda = Keda(board, Hand(), channel)
        streams = [specs(keda, ref(workload=f"w{i}")) for i in range(3)]
        assert [next(stream).metricSpecs[0].metricName for stream in streams] == [f"forecastle-w{i}" for i in range(3)]
    assert not any(thread.name == "keda" for thread in threading.enumerate())
    assert board.watchers == []


def test_many_streams_need_no_threads(keda: Keda) -> None:
    path = "/externalscaler.ExternalScaler/StreamIsActive"
    stub = keda.channel.unary_stream(path, messages.ScaledObjectRef.SerializeToString, messages.IsActiveResponse.FromString)
    keda.tell(1, shop=1)
    before = [t for t in threading.enumerate() if t.name == "keda"]
    streams = [stub(ref(f"s{i}", workload="shop"), timeout=60) for i in range(200)]
    assert all(next(stream).result for stream in streams)
    assert [t for t in threading.enumerate() if t.name == "keda"] == before
    for stream in streams:
        stream.cancel()


def test_the_bytes_are_those_of_the_protocol(keda: Keda) -> None:
    """Written by hand from the field numbers, so that a mistake in our declaration cannot hide behind itself."""
    keda.tell(1, shop=7)
    asked = b"\x0a\x01s" + b"\x12\x01n" + b"\x1a\x10" + b"\x0a\x08workload" + b"\x12\x04shop"
    raw = {m: keda.channel.unary_unary(f"/externalscaler.ExternalScaler/{m}") for m in RESPONSES}
    assert raw["IsActive"](asked, timeout=60) == b"\x08\x01"
    name, one = b"\x0a\x0fforecastle-shop", b"\x19\x00\x00\x00\x00\x00\x00\xf0\x3f"
    assert raw["GetMetricSpec"](asked, timeout=60) == b"\x0a\x1c" + name + b"\x10\x01" + one
    streamed = keda.channel.unary_stream("/externalscaler.ExternalScaler/StreamMetricSpec")(asked, timeout=60)
    assert next(streamed) == b"\x0a\x1c" + name + b"\x10\x01" + one
    streamed.cancel()
    request = b"\x0a" + bytes([len(asked)]) + asked + b"\x12\x01m"
    assert (
        raw["GetMetrics"](request, timeout=60)
        == b"\x0a\x0e" + b"\x0a\x01m" + b"\x10\x07" + b"\x19\x00\x00\x00\x00\x00\x00\x1c\x40"
    )


def test_a_call_we_do_not_have_is_unimplemented(keda: Keda) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        keda.channel.unary_unary("/externalscaler.ExternalScaler/StreamMetrics")(b"", timeout=60)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_taken_port_is_said_with_its_fix() -> None:
    board = Board(Hand(), 300.0)
    with serving_keda(board, OutletSettings()) as port:
        settings = OutletSettings(keda_port=port)
        with (
            pytest.raises(ConfigError, match=rf"keda_port: cannot listen on 127\.0\.0\.1:{port}"),
            serving_keda(board, settings),
        ):
            pass
    assert board.watchers == []


def test_a_certificate_that_is_not_there_is_said(tmp_path: Path) -> None:
    settings = OutletSettings(keda_tls_cert=str(tmp_path / "none.pem"), keda_tls_key=str(tmp_path / "none.key"))
    with pytest.raises(ConfigError, match=r"none\.\w+ cannot be read"), serving_keda(Board(Hand(), 300.0), settings):
        pass


@pytest.fixture
def certificate(tmp_path: Path) -> Callable[[str], tuple[Path, Path]]:
    """Makes a self-signed certificate: (certificate, key)."""

    def make(name: str) -> tuple[Path, Path]:
        pem, key = tmp_path / f"{name}.pem", tmp_path / f"{name}.key"
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", f"/CN={name}"]
        command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key), "-out", str(pem)]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        return pem, key

    return make


def test_with_a_ca_only_its_clients_are_answered(certificate: Callable[[str], tuple[Path, Path]]) -> None:
    (server, server_key), (client, client_key) = certificate("server"), certificate("client")
    settings = OutletSettings(keda_tls_cert=str(server), keda_tls_key=str(server_key), keda_tls_ca=str(client))
    board = Board(Hand(), 300.0)
    board.listen(turned(tick(0), plan(tick(0), recommended={"shop": 3})))
    known = grpc.ssl_channel_credentials(server.read_bytes(), client_key.read_bytes(), client.read_bytes())
    stranger = grpc.ssl_channel_credentials(server.read_bytes())
    with serving_keda(board, settings) as port:
        with grpc.secure_channel(f"localhost:{port}", known) as channel:
            assert Keda(board, Hand(), channel).call("IsActive", ref(workload="shop")).result
        with grpc.secure_channel(f"localhost:{port}", stranger) as channel:
            assert Keda(board, Hand(), channel).refusal("IsActive", ref(workload="shop"))[0] is grpc.StatusCode.UNAVAILABLE
