"""The remote-write receiver: what a request becomes, every answer, and that an answer of 204 means that Kafka has it."""

from __future__ import annotations

import http.client
import json
import math
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from intake_worlds import NOW, Read, Written, read
from prometheus_worlds import Target, own, running

from forecastle.errors import ConfigError, Malformed
from forecastle.intake import receiver as subject
from forecastle.intake.codecs.remote_write import messages, pack
from forecastle.intake.consumer import KafkaIntake
from forecastle.intake.naming import Naming
from forecastle.intake.publish import create_topics
from forecastle.intake.receiver import Receiver, records
from forecastle.intake.receiver_http import PATH, receiving
from forecastle.runtime.broker import LocalBroker
from forecastle.runtime.clocks import WallClock
from forecastle.settings import IntakeSettings, ReceiveSettings

HEADS = {
    "Content-Encoding": "snappy",
    "Content-Type": "application/x-protobuf",
    "X-Prometheus-Remote-Write-Version": "0.1.0",
}


# --- what a request becomes ------------------------------------------------------------------------------------------


def cut(request: Written, **naming: tuple[str, ...]) -> list[tuple[str, int, Read]]:
    return [(key, at, read("remote_write", body)) for key, at, body in records(request.body, Naming(**naming), NOW)]


def test_a_request_is_cut_by_workload_and_loses_nothing() -> None:
    request = Written().add([(NOW - 5, 1.0)], zone="a").add([(NOW - 9, 2.0), (NOW - 7, 3.0)], job="mail").add([(NOW - 3, 4.0)])
    made = cut(request)
    assert [(key, at) for key, at, _ in made] == [("shop", NOW - 3), ("mail", NOW - 7)]
    assert [sample for _, _, found in made for sample in found.samples] == [
        ('shop:requests{site="a"}', NOW - 5, 1.0),
        ("shop:requests", NOW - 3, 4.0),
        ("mail:requests", NOW - 9, 2.0),
        ("mail:requests", NOW - 7, 3.0),
    ]


def test_the_key_follows_the_labels_that_name_the_workload() -> None:
    request = Written().add(app="front", job="k8s").add(job="k8s")
    assert [key for key, _, _ in cut(request, workload=("app", "job"))] == ["front", "k8s"]


def test_what_names_no_workload_goes_its_own_way_to_the_dead_letters() -> None:
    made = cut(Written().add().add(job=""))
    assert [key for key, _, _ in made] == ["shop", ""]
    assert [found.reasons for _, _, found in made] == [{}, {0: "no_workload"}]


def test_record_times_are_never_ahead_of_the_clock_nor_before_1970() -> None:
    """Brokers refuse records from the future: one broken clock would otherwise block its Prometheus for ever."""
    assert [at for _, at, _ in cut(Written().add([(NOW + 10**12, 1.0)]))] == [NOW]
    assert [at for _, at, _ in cut(Written().add([(-5, 1.0)]))] == [0]


def test_metadata_and_series_without_samples_make_no_record() -> None:
    assert records(b"", Naming(), NOW) == []
    assert Written().add([]).body
    assert cut(Written().add([])) == []
    request = Written()
    request.request.timeseries.add(labels=[])
    assert records(request.body, Naming(), NOW) == []


def test_a_large_request_becomes_several_records_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "MAX_RECORD", 200)
    request = Written()
    for i in range(20):
        request.add([(NOW - i, float(i))], path=f"/{i}")
    made = records(request.body, Naming(), NOW)
    assert len(made) > 5
    assert {key for key, _, _ in made} == {"shop"}
    assert [value for _, _, body in made for _, _, value in read("remote_write", body).samples] == [float(i) for i in range(20)]


def test_a_series_that_no_broker_would_take_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "MAX_PACKED", 30)
    with pytest.raises(Malformed, match="too_large"):
        records(Written().add().body, Naming(), NOW)


@pytest.mark.parametrize("body", [b"\xff", b"\x0a\x05\x0a", b"\x0a\x02\xff\xff", b"remote write"])
def test_what_is_no_request_is_refused(body: bytes) -> None:
    with pytest.raises(Malformed, match="not_protobuf"):
        records(body, Naming(), NOW)


# --- answers that need no broker --------------------------------------------------------------------------------------


def settings(bootstrap: str = "127.0.0.1:1", **receive: object) -> IntakeSettings:
    return IntakeSettings(bootstrap=bootstrap, receive=ReceiveSettings(**{"port": 0, **receive}))


@pytest.fixture(scope="module")
def lonely() -> Iterator[int]:
    """A receiver whose broker is not there."""
    with receiving(settings(token="s3cret", max_bytes=1000, max_unpacked_bytes=5000), WallClock()) as port:
        yield port


def post(port: int, body: bytes, path: str = PATH, **heads: str | None) -> tuple[int, str, http.client.HTTPMessage]:
    chosen = {**HEADS, "Authorization": "Bearer s3cret", **{k.replace("_", "-"): v for k, v in heads.items()}}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", path, body, {name: value for name, value in chosen.items() if value is not None})
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), answer.headers
    finally:
        connection.close()


ANSWERS = {
    "another path": ({"path": "/write"}, 404, "POST to /api/v1/write"),
    "no token": ({"Authorization": None}, 401, "bearer token"),
    "another token": ({"Authorization": "Bearer s3cret2"}, 401, "bearer token"),
    "another scheme": ({"Authorization": "Basic s3cret"}, 401, "bearer token"),
    "a token that is no ASCII": ({"Authorization": "Bearer s3crét"}, 401, "bearer token"),
    "remote write 2.0": (
        {"Content_Type": "application/x-protobuf;proto=io.prometheus.write.v2.Request"},
        415,
        "protobuf_message to prometheus.WriteRequest",
    ),
    "gzip": ({"Content_Encoding": "gzip"}, 415, "snappy"),
    "too large": ({"body": b"x" * 1001}, 413, "1001 bytes, 1000 are allowed"),
    "a bomb": ({"body": pack(b"\x00" * 5001)}, 413, "5001 bytes unpacked, 5000 are allowed"),
    "not packed": ({"body": b"\x05hello"}, 400, "not_snappy"),
    "nothing": ({"body": b""}, 400, "not_snappy"),
    "no request": ({"body": pack(b"\xff\xff")}, 400, "not_protobuf"),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_each_fault_has_an_answer_that_says_what_to_do(case: str, lonely: int) -> None:
    request, status, words = ANSWERS[case]
    found, text, heads = post(lonely, **{"body": Written().add().block, **request})  # type: ignore[arg-type]
    assert found == status
    assert words in text
    assert (heads["WWW-Authenticate"] == "Bearer") == (status == 401)
    assert heads["Retry-After"] is None, "Prometheus would send it again for ever"


def test_metadata_alone_is_thanked_for_without_a_broker(lonely: int) -> None:
    assert post(lonely, pack(b""))[:2] == (204, "")


def raw(port: int, text: bytes) -> bytes:
    """The answer to what is no proper HTTP."""
    with socket.create_connection(("127.0.0.1", port), 20) as plug:
        plug.sendall(text)
        found = b""
        with suppress(OSError):  # it may hang up at any time
            plug.shutdown(socket.SHUT_WR)
            while more := plug.recv(4096):
                found += more
        return found


@pytest.mark.parametrize(
    ("length", "status"),
    [
        (b"", b"411"),
        (b"Content-Length: -1", b"411"),
        (b"Content-Length: 1e3", b"411"),
        (b"Content-Length: " + b"9" * 5000, b"413"),
    ],
)
def test_a_length_that_is_none_is_not_waited_for(length: bytes, status: bytes, lonely: int) -> None:
    head = b"POST /api/v1/write HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer s3cret\r\n"
    assert raw(lonely, head + length + b"\r\n\r\n").startswith(b"HTTP/1.1 " + status)


def test_a_body_that_ends_early_is_refused(lonely: int) -> None:
    head = b"POST /api/v1/write HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer s3cret\r\nContent-Length: 50\r\n\r\n"
    assert b"400" in raw(lonely, head + b"short").split(b"\r\n")[0]


@pytest.mark.parametrize("text", [b"", b"\x16\x03\x01", b"GET", b"HELLO\r\n\r\n", b"\xff" * 100 + b"\r\n\r\n"])
def test_what_is_no_http_does_not_disturb_the_others(text: bytes, lonely: int) -> None:
    raw(lonely, text)
    assert post(lonely, pack(b""))[0] == 204


def test_probes_are_told_that_it_is_there(lonely: int) -> None:
    assert raw(lonely, b"GET /-/healthy HTTP/1.1\r\nConnection: close\r\n\r\n").startswith(b"HTTP/1.1 200")
    assert raw(lonely, b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n").startswith(b"HTTP/1.1 404")


def test_a_connection_serves_many_requests(lonely: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", lonely, timeout=30)
    connection.connect()
    first = connection.sock
    for _ in range(3):
        connection.request("POST", PATH, pack(b""), {**HEADS, "Authorization": "Bearer s3cret"})
        assert connection.getresponse().read() == b""
        assert connection.sock is first
    connection.close()


def test_without_a_broker_prometheus_is_asked_to_come_back(lonely: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "CONNECT_S", 0.3)
    status, text, heads = post(lonely, Written().add().block)
    assert (status, heads["Retry-After"]) == (503, "1")
    assert "connecting to 127.0.0.1:1" in text


def test_beyond_so_many_requests_at_a_time_the_next_is_asked_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "MAX_BUSY", 1)
    receiver = Receiver(settings(), WallClock())
    inside, go = threading.Event(), threading.Event()

    def slow(*_: object) -> list[tuple[str, int, bytes]]:
        inside.set()
        go.wait(20)
        return []

    monkeypatch.setattr(subject, "records", slow)
    thread = threading.Thread(target=receiver.write, args=(pack(b""),))
    thread.start()
    assert inside.wait(20)
    assert receiver.write(pack(b"")).status == 503
    go.set()
    thread.join()
    assert receiver.write(pack(b"")).status == 204
    receiver.close()


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "metrics.example.com"])
def test_beyond_the_loopback_a_token_is_demanded(host: str) -> None:
    with pytest.raises(ConfigError, match=r"intake\.receive\.token"), receiving(settings(host=host), WallClock()):
        pass


def test_a_taken_port_is_said_with_its_fix(lonely: int) -> None:
    with pytest.raises(ConfigError, match=rf":{lonely} .*choose a free port"), receiving(settings(port=lonely), WallClock()):
        pass


def test_a_certificate_that_is_none_is_said_and_the_port_is_free_again(tmp_path: Path, free_port: int) -> None:
    (tmp_path / "cert.pem").write_text("no certificate")
    chosen = settings(port=free_port, tls_cert=str(tmp_path / "cert.pem"))
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"intake\.receive\.tls_cert"), receiving(chosen, WallClock()):
            pass


def test_the_token_is_told_to_nobody() -> None:
    chosen = settings(token="s3cret")
    assert "s3cret" not in f"{chosen!r} {chosen.model_dump_json()}"


def test_with_a_certificate_it_speaks_tls_alone(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True)
    with receiving(settings(tls_cert=str(cert), tls_key=str(key)), WallClock()) as port:
        trust = ssl.create_default_context(cafile=str(cert))
        for _ in range(2):
            with socket.create_connection(("127.0.0.1", port), 20):
                pass  # one that never greets holds nobody up
            connection = http.client.HTTPSConnection("localhost", port, timeout=30, context=trust)
            connection.request("POST", PATH, pack(b""), HEADS)
            assert connection.getresponse().status == 204
            connection.close()
        assert not raw(port, b"GET /-/healthy HTTP/1.1\r\n\r\n").startswith(b"HTTP")


# --- with a broker ----------------------------------------------------------------------------------------------------


def consumed(config: IntakeSettings, enough: Callable[[list[tuple[str, int, float]]], bool]) -> list[tuple[str, int, float]]:
    """(series, ms, value) of all samples of the topics, once they are enough."""
    intake = KafkaIntake(config, WallClock())
    intake.start(0)
    found: list[tuple[str, int, float]] = []
    ends = time.monotonic() + 60
    try:
        while time.monotonic() < ends:
            samples = intake.poll(0.3)
            columns = samples.index.tolist(), samples.at.tolist(), samples.value.tolist()
            found += [(str(samples.keys[k]), at, value) for k, at, value in zip(*columns, strict=True)]
            if enough(found):
                return found
    finally:
        intake.close()
    raise AssertionError(f"not enough after 60 s: {found[:20]}")


def in_kafka(bootstrap: str, topic_name: Callable[[str], str], **receive: object) -> IntakeSettings:
    topic = topic_name("remote-write")
    made = settings(bootstrap, topic=topic, **receive).model_copy(
        update={
            "topics": (topic,),
            "codecs": {topic: "remote_write"},
            "group": topic,
            "instance": topic,
            "dead_letter_topic": f"{topic}-dead",
        }
    )
    create_topics(made, [topic, made.dead_letter_topic], partitions=2)
    return made


@pytest.mark.broker
def test_what_was_answered_204_is_what_the_consumer_reads(broker: LocalBroker, topic_name: Callable[[str], str]) -> None:
    config = in_kafka(broker.bootstrap, topic_name)
    sent = [(f"{job}:requests", NOW + i, float(i)) for i in range(30) for job in ("shop", "mail")]
    with receiving(config, WallClock()) as port:
        for i in range(30):
            request = Written().add([(NOW + i, float(i))]).add([(NOW + i, float(i))], job="mail")
            assert post(port, request.block)[0] == 204
    found = consumed(config, lambda found: len(found) >= len(sent))
    assert sorted(found) == sorted(sent)
    for job in ("shop", "mail"):
        values = [value for series, _, value in found if series.startswith(job)]
        assert values == sorted(values), "a workload's samples keep their order"


@pytest.mark.broker
def test_many_senders_at_once_lose_nothing(broker: LocalBroker, topic_name: Callable[[str], str]) -> None:
    config = in_kafka(broker.bootstrap, topic_name)
    answers: list[int] = []

    def send(sender: int) -> None:
        for i in range(10):
            request = Written().add([(NOW + i, float(i))], job=f"w{sender}")
            answers.append(post(port, request.block)[0])

    with receiving(config, WallClock()) as port:
        threads = [threading.Thread(target=send, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert answers == [204] * 80
    found = consumed(config, lambda found: len(found) >= 80)
    assert sorted(found) == sorted((f"w{n}:requests", NOW + i, float(i)) for n in range(8) for i in range(10))


@pytest.mark.broker
def test_samples_that_make_no_sense_are_the_consumers_to_refuse(broker: LocalBroker, topic_name: Callable[[str], str]) -> None:
    config = in_kafka(broker.bootstrap, topic_name)
    with receiving(config, WallClock()) as port:
        assert post(port, Written().add([(NOW, math.inf)], job="bad").add([(NOW, 1.0)], job="good").block)[0] == 204
        assert post(port, Written().add([(NOW + 10**12, 1.0)], job="ahead").block)[0] == 204
        assert post(port, Written().add([(NOW, 2.0)], job="good").block)[0] == 204
    assert consumed(config, lambda found: len(found) >= 2) == [("good:requests", NOW, 1.0), ("good:requests", NOW, 2.0)]


@pytest.mark.broker
def test_while_the_broker_is_away_nothing_is_acknowledged_and_afterwards_all_is_there(
    tmp_path: Path, topic_name: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, free_port: int
) -> None:
    monkeypatch.setattr(subject, "SEND_S", 1.0)
    with LocalBroker(tmp_path, free_port) as kafka:
        config = in_kafka(kafka.bootstrap, topic_name)
        with receiving(config, WallClock()) as port:
            assert post(port, Written().add([(NOW, 0.0)]).block)[0] == 204
            kafka.stop()
            status, _, heads = post(port, Written().add([(NOW + 1, 1.0)]).block)
            assert (status, heads["Retry-After"]) == (503, "1")
            kafka.start()
            ends = time.monotonic() + 60
            while post(port, Written().add([(NOW + 1, 1.0)]).block)[0] != 204:  # as Prometheus does
                assert time.monotonic() < ends
                time.sleep(0.2)
        found = consumed(config, lambda found: len({value for _, _, value in found}) == 2)
        assert set(found) == {("shop:requests", NOW, 0.0), ("shop:requests", NOW + 1, 1.0)}


TARGET = """# TYPE requests gauge
requests{code="200"} 12.5
requests{code="500"} NaN
# TYPE scrapes_total counter
scrapes_total SCRAPES
"""


@contextmanager
def prometheus(program: Callable[[str], str], folder: Path, target: Target, port: int, token: str) -> Iterator[str]:
    config = {
        "global": {"scrape_interval": "200ms", "external_labels": {"zone": "eu-1a"}},
        "scrape_configs": [{"job_name": "shop", "static_configs": [{"targets": [f"127.0.0.1:{target.port}"]}]}],
        "remote_write": [
            {
                "url": f"http://127.0.0.1:{port}{PATH}",
                "authorization": {"credentials": token},
                "queue_config": {"batch_send_deadline": "200ms"},
                "metadata_config": {"send_interval": "1s"},  # requests without samples
            }
        ],
    }
    with running(program("prometheus"), folder, json.dumps(config)) as url:
        yield url


@pytest.mark.broker
def test_a_real_prometheus_sends_again_until_kafka_has_it_and_our_consumer_reads_each_scrape_once(
    tmp_path: Path,
    topic_name: Callable[[str], str],
    program: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
    free_port: int,
) -> None:
    monkeypatch.setattr(subject, "CONNECT_S", 0.5)
    (tmp_path / "kafka").mkdir()
    with LocalBroker(tmp_path / "kafka", free_port) as kafka, Target(TARGET) as target:
        config = in_kafka(kafka.bootstrap, topic_name, token="s3cret")
        kafka.stop()
        with receiving(config, WallClock()) as port, prometheus(program, tmp_path, target, port, "s3cret") as url:
            ends = time.monotonic() + 60
            while target.scrapes < 3 or not own(url, "prometheus_remote_storage_samples_retried_total"):
                assert time.monotonic() < ends
                time.sleep(0.2)
            missed = target.scrapes
            kafka.start()
            counted = f'shop:scrapes_total{{instance="127.0.0.1:{target.port}",site="eu-1a"}}'
            found = consumed(config, lambda found: sum(series == counted for series, _, _ in found) > missed)
            assert own(url, "prometheus_remote_storage_samples_failed_total") == 0
            assert own(url, "prometheus_remote_storage_samples_dropped_total") == 0
    scrapes = [(at, value) for series, at, value in found if series == counted]
    assert [value for _, value in scrapes] == [float(i + 1) for i in range(len(scrapes))], "each scrape once and in order"
    assert [at for at, _ in scrapes] == sorted({at for at, _ in scrapes})
    gauges = {series: value for series, _, value in found if series.startswith("shop:requests")}
    assert gauges == {f'shop:requests{{code="200",instance="127.0.0.1:{target.port}",site="eu-1a"}}': 12.5}
    assert {series.partition(":")[0] for series, _, _ in found} == {"shop"}


@pytest.mark.broker
def test_the_command_says_where_it_receives_and_ends_by_signal(broker: LocalBroker, topic_name: Callable[[str], str]) -> None:
    import os
    import signal
    import sys

    topic = topic_name("command")
    flags = [f"intake.bootstrap={broker.bootstrap}", "intake.receive.port=0", f"intake.receive.topic={topic}"]
    command = [sys.executable, "-m", "forecastle.cli", "receive", *(part for flag in flags for part in ("--set", flag))]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd="/", env={**os.environ, "PYTHONUNBUFFERED": "1"}
    ) as process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            assert said.startswith("receiving at http://127.0.0.1:")
            port = int(said.split(":")[-1].partition("/")[0])
            assert post(port, Written().add().block)[0] == 204
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()


def test_the_parts_that_are_copied_are_what_a_parser_of_the_whole_would_have_found() -> None:
    request = Written().add(zone="a").add(job="mail")
    bodies = [subject.unpack(body) for _, _, body in records(request.body, Naming(), NOW)]
    series = [one for body in bodies for one in messages()["WriteRequest"].FromString(body).timeseries]
    assert series == list(request.request.timeseries)
