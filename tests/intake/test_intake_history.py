"""History out of a real Prometheus: every point of a long range once, and errors that say what to write instead."""

from __future__ import annotations

import json
import math
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_worlds import running

from forecastle.errors import ConfigError, Denied, Malformed, Permanent, Transient
from forecastle.intake import prometheus_history as subject
from forecastle.intake.archive import write_history
from forecastle.intake.naming import Naming
from forecastle.intake.prometheus_history import MAX_POINTS, Request, fetch, pages
from forecastle.intake.publish import read_samples
from forecastle.types import Sample, Samples, SeriesKey

START = 1_700_000_000_000
POINTS = MAX_POINTS + 1500
END = START + (POINTS - 1) * 1000


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory, program: Callable[[str], str]) -> Iterator[str]:
    """A Prometheus that has recorded three and a half hours, a point a second; skipped where there is none."""
    prometheus, promtool = program("prometheus"), program("promtool")
    folder = tmp_path_factory.mktemp("prometheus")
    with (folder / "history.om").open("w") as text:
        text.write("# TYPE requests gauge\n")
        for job, factor in (("shop", 1), ("mail", 10)):
            text.writelines(f'requests{{job="{job}",zone="a"}} {factor * i} {START // 1000 + i}\n' for i in range(POINTS))
        text.write("# TYPE seldom gauge\n")
        text.writelines(f'seldom{{job="shop"}} {value} {START // 1000 + i}\n' for i, value in enumerate(("1", "NaN", "3")))
        text.write("# TYPE broken gauge\n")
        text.write(f'broken{{job="shop"}} +Inf {START // 1000}\n# EOF\n')
    command = [promtool, "tsdb", "create-blocks-from", "openmetrics", str(folder / "history.om"), str(folder / "data")]
    subprocess.run(command, check=True, capture_output=True)
    with running(prometheus, folder, "{}", "--storage.tsdb.retention.time=100y") as url:
        yield url


def asked(url: str, query: str = "requests", **changes: Any) -> Request:
    return Request(**{"url": url, "query": query, "start": START, "end": END, "step_ms": 1000} | changes)


def test_a_range_longer_than_one_query_gives_every_point_once(recorded: str) -> None:
    told: list[tuple[int, int]] = []
    samples = fetch(asked(recorded), Naming(), lambda page, of: told.append((page, of)))
    assert told == [(1, 2), (2, 2)]
    assert samples.keys == (SeriesKey("mail", "requests", (("site", "a"),)), SeriesKey("shop", "requests", (("site", "a"),)))
    assert (np.diff(samples.at) >= 0).all()
    for number, factor in ((0, 10), (1, 1)):
        mine = samples.index == number
        assert samples.at[mine].tolist() == list(range(START, END + 1, 1000))
        assert samples.value[mine].tolist() == [float(factor * i) for i in range(POINTS)]


def test_one_query_of_so_many_points_is_what_prometheus_refuses(recorded: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is Prometheus's: were it larger, pages would be too small; were it smaller, every import would fail."""
    monkeypatch.setattr(subject, "pages", lambda start, end, step: [(start, start + (MAX_POINTS - 1) * step)])
    assert len(fetch(asked(recorded), Naming())) == 2 * MAX_POINTS
    monkeypatch.setattr(subject, "pages", lambda start, end, step: [(start, start + (MAX_POINTS + 1) * step)])
    with pytest.raises(ConfigError, match="exceeded maximum resolution"):
        fetch(asked(recorded), Naming())


def test_points_lie_on_the_grid_of_the_step(recorded: str) -> None:
    samples = fetch(asked(recorded, start=START + 1, end=START + 180_000, step_ms=60_000), Naming())
    first = -(-START // 60_000) * 60_000
    assert sorted(set(samples.at.tolist())) == [first, first + 60_000, first + 120_000]


def test_an_expression_needs_a_name_and_a_workload(recorded: str) -> None:
    with pytest.raises(ConfigError, match="--name"):
        fetch(asked(recorded, "sum(requests)", workload="all"), Naming())
    with pytest.raises(ConfigError, match=r"workload, service_name, job.*--workload"):
        fetch(asked(recorded, "sum(requests)", name="requests"), Naming())
    samples = fetch(asked(recorded, "sum(requests)", name="requests", workload="all", end=START + 2000), Naming())
    assert samples.keys == (SeriesKey("all", "requests"),)
    assert samples.value.tolist() == [0.0, 11.0, 22.0]


def test_a_workload_that_is_given_leaves_every_label(recorded: str) -> None:
    samples = fetch(asked(recorded, 'requests{job="shop"}', workload="front", end=START), Naming(workload=("job",)))
    assert samples.keys == (SeriesKey("front", "requests", (("job", "shop"), ("site", "a"))),)


def test_what_is_not_a_number_is_left_out_and_infinity_is_refused(recorded: str) -> None:
    samples = fetch(asked(recorded, "seldom", end=START + 2000), Naming())
    assert (samples.at.tolist(), samples.value.tolist()) == ([START, START + 2000], [1.0, 3.0])
    with pytest.raises(Malformed, match="not_finite"):
        fetch(asked(recorded, "broken", end=START), Naming())


def test_a_query_without_an_answer_is_an_empty_history(recorded: str) -> None:
    assert len(fetch(asked(recorded, "nothing"), Naming())) == 0


def test_a_query_that_does_not_parse_is_said_in_prometheus_words(recorded: str) -> None:
    with pytest.raises(ConfigError, match=r"--query: .*parse error"):
        fetch(asked(recorded, "sum(("), Naming())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"url": "file:///etc/passwd"}, "http://127.0.0.1:9090"),
        ({"url": "127.0.0.1:9090"}, "http://127.0.0.1:9090"),
        ({"url": ""}, "http://127.0.0.1:9090"),
        ({"step_ms": 0}, "--step"),
        ({"end": START - 1}, "exchange"),
    ],
)
def test_requests_that_cannot_be_are_refused_unsent(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        fetch(asked("http://127.0.0.1:1")._replace(**changes), Naming())


# --- servers that misbehave -------------------------------------------------------------------------------------------


@contextmanager
def answering(*answers: tuple[int, bytes]) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A server that gives one answer after the other, the last for ever; yields its URL and the heads it received."""
    heads: list[dict[str, str]] = []

    class Page(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            status, body = answers[min(len(heads), len(answers) - 1)]
            heads.append(dict(self.headers))
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", body.decode())
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", heads
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def matrix(*values: tuple[float, str], kind: str = "matrix") -> bytes:
    result = [{"metric": {"__name__": "m", "job": "j"}, "values": values}]
    return json.dumps({"status": "success", "data": {"resultType": kind, "result": result}}).encode()


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "PAUSE_S", 0.0)
    monkeypatch.setattr(subject.time, "sleep", lambda _: None)


GOOD = (200, matrix((START / 1000, "1.5")))


def small(url: str, **changes: Any) -> Request:
    return asked(url, end=START + 1000, **changes)


@pytest.mark.parametrize("trouble", [(500, b"oops"), (503, b""), (429, b"slow down"), (408, b"")])
def test_a_server_in_trouble_is_asked_again(trouble: tuple[int, bytes]) -> None:
    with answering(trouble, trouble, GOOD) as (url, heads):
        assert fetch(small(url), Naming()).value.tolist() == [1.5]
        assert len(heads) == 3


def test_a_server_that_stays_in_trouble_is_given_up() -> None:
    with answering((503, b"away")) as (url, heads):
        with pytest.raises(Transient, match="503 away"):
            fetch(small(url), Naming())
        assert len(heads) == subject.ATTEMPTS


def test_nobody_home_is_said(free_port: int) -> None:
    with pytest.raises(Transient, match=f"127.0.0.1:{free_port}"):
        fetch(small(f"http://127.0.0.1:{free_port}"), Naming())


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        ((401, b""), Denied, "--token-env"),
        ((403, b"no"), Denied, "403 no"),
        ((404, b""), ConfigError, "before /api/v1"),
        ((400, b'{"status":"error","error":"bad step"}'), ConfigError, "--query: bad step"),
        ((422, b"<html>"), ConfigError, "<html>"),
        ((302, b"http://127.0.0.1:1/elsewhere"), Permanent, "302"),
        ((405, b""), Permanent, "405"),
        ((200, b"<html>"), Permanent, "no answer of Prometheus"),
        ((200, b"\xff"), Permanent, "no answer of Prometheus"),
        ((200, b"{}"), Permanent, "no answer of Prometheus"),
        ((200, b'{"status":"error","error":"busy"}'), Permanent, "busy"),
        ((200, b'{"status":"success"}'), Permanent, "success"),
        ((200, matrix(kind="vector")), ConfigError, "vector"),
        ((200, b'{"status":"success","data":{"resultType":"string","result":[1,"x"]}}'), ConfigError, "string"),
        ((200, matrix((1.0, "many"))), Malformed, "wrong_type"),
        ((200, matrix((1.0, "1e999"))), Malformed, "out_of_range"),
    ],
)
def test_other_answers_are_said_at_once(answer: tuple[int, bytes], kind: type[Exception], words: str) -> None:
    with answering(answer) as (url, heads):
        with pytest.raises(kind, match=words):
            fetch(small(url), Naming())
        assert len(heads) == 1, "trying again cannot help"


def test_a_token_goes_to_the_address_and_nowhere_else() -> None:
    with answering(GOOD) as (elsewhere, stolen), answering((307, f"{elsewhere}/api/v1/query_range".encode())) as (url, heads):
        with pytest.raises(Permanent, match="307"):
            fetch(small(url, token="s3cret"), Naming())
        assert heads[0]["Authorization"] == "Bearer s3cret"
        assert stolen == []


def test_an_answer_beyond_the_limit_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "MAX_ANSWER", 10)
    with answering(GOOD) as (url, _), pytest.raises(ConfigError, match="larger --step"):
        fetch(small(url), Naming())


def test_more_series_than_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "MAX_SERIES", 1)
    rows = [{"metric": {"__name__": f"m{i}", "job": "j"}, "values": [(1.0, "1")]} for i in range(2)]
    body = json.dumps({"status": "success", "data": {"resultType": "matrix", "result": rows}}).encode()
    with answering((200, body)) as (url, _), pytest.raises(Malformed, match="too_many_series"):
        fetch(small(url), Naming())


# --- pages ------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 10**6), st.integers(0, 1000), st.integers(1, 200), st.integers(1, 60))
def test_pages_cover_every_instant_of_the_grid_once(start: int, length: int, step: int, points: int) -> None:
    found = list(pages(start, start + length, step, points))
    assert len(found) == -(-(length // step + 1) // points)
    instants = [at for first, last in found for at in range(first, last + 1, step)]
    assert instants == list(range(start, start + length + 1, step))
    assert all(len(range(first, last + 1, step)) <= points for first, last in found)


# --- the file ---------------------------------------------------------------------------------------------------------

text = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=6)
series = st.builds(
    lambda workload, metric, labels: SeriesKey(workload, metric, tuple(sorted(labels.items()))),
    text,
    text,
    st.dictionaries(text, text, max_size=2),
)
finite = st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.builds(Sample, series, st.integers(0, 4 * 10**12), finite, st.none()), max_size=12))
def test_what_is_written_is_what_publish_and_train_read(tmp_path_factory: pytest.TempPathFactory, rows: list[Sample]) -> None:
    path = tmp_path_factory.getbasetemp() / "round-trip.parquet"
    assert write_history(Samples.of(*rows), path) == len(rows)
    back = read_samples(path)
    found = [(back.keys[k], at, value) for k, at, value in zip(back.index, back.at.tolist(), back.value.tolist(), strict=True)]
    assert sorted(found) == sorted((row.key, row.at, row.value) for row in rows)
    assert (np.diff(back.at) >= 0).all()


def test_the_file_has_the_columns_of_every_command(tmp_path: Path) -> None:
    from pyarrow import parquet

    key = SeriesKey("shop", "rps", (("site", "a"),))
    write_history(Samples.of(Sample(key, START, 1.0)), tmp_path / "deep" / "h.parquet")
    table = parquet.read_table(tmp_path / "deep" / "h.parquet")
    assert table.column_names == ["timestamp", "value", "workload", "metric", "labels", "series_id"]
    assert [str(column[0].as_py()) for column in table.columns[2:]] == ["shop", "rps", '{"site":"a"}', 'shop:rps{site="a"}']
    assert table["timestamp"][0].as_py().timestamp() * 1000 == START


def test_models_learn_from_what_was_imported(tmp_path: Path) -> None:
    from flows.history import read_history
    from forecastle.settings import Settings

    key = SeriesKey("shop", "rps", (("site", "a"),))
    write_history(Samples.of(*(Sample(key, START + i * 60_000, float(i)) for i in range(5))), tmp_path / "h.parquet")
    history = read_history(Settings(), str(tmp_path / "h.parquet"))
    assert history.keys == (key,)
    assert [v for v in history.values[0].tolist() if not math.isnan(v)] == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_a_path_that_cannot_be_written_is_said_and_nothing_is_left_behind(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    samples = Samples.of(Sample(SeriesKey("w", "m"), START, 1.0))
    with pytest.raises(ConfigError, match="--out"):
        write_history(samples, tmp_path / "file" / "h.parquet")
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(ConfigError, match="--out"):
        write_history(samples, tmp_path / "folder.parquet")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.parquet"]


# --- the command ------------------------------------------------------------------------------------------------------


def told(*arguments: str) -> tuple[int, str]:
    from typer.testing import CliRunner

    from forecastle.cli import app

    done = CliRunner().invoke(app, ["import", "prometheus", *arguments])
    return done.exit_code, f"{done.output}{done.exception or ''}"


def test_the_command_writes_a_history(recorded: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    moments = ["--from", "2023-11-14T22:13:20", "--to", "2023-11-14T23:13:20+0100"]
    code, said = told("--url", recorded, "--query", "requests", *moments, "--step", "1s", "--out", "h.parquet")
    assert (code, "h.parquet: 2 samples of 2 series" in said) == (0, True), said
    assert read_samples(Path("h.parquet")).at.tolist() == [START, START]


def test_the_command_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NO_TOKEN", raising=False)
    rest = ["--query", "m", "--from", "2023-11-14", "--to", "2023-11-15", "--out", "h.parquet"]
    with answering((200, matrix())) as (url, heads):
        assert "--from and --to" in told("--url", url, *rest)[1]
        assert "NO_TOKEN is empty" in told("--url", url, *rest, "--token-env", "NO_TOKEN")[1]
        monkeypatch.setenv("A_TOKEN", "s3cret")
        told("--url", url, *rest, "--token-env", "A_TOKEN")
        assert heads[-1]["Authorization"] == "Bearer s3cret"
    assert not (tmp_path / "h.parquet").exists()


def test_moments_are_utc_unless_they_say_otherwise() -> None:
    from datetime import UTC, datetime, timedelta, timezone

    from forecastle.runtime.imports import epoch_ms

    assert epoch_ms(datetime(2023, 11, 14, 22, 13, 20)) == START  # noqa: DTZ001 - that is what is tested
    assert epoch_ms(datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)) == START
    assert epoch_ms(datetime(2023, 11, 15, 0, 13, 20, tzinfo=timezone(timedelta(hours=2)))) == START
    assert abs(epoch_ms(None) - datetime.now(UTC).timestamp() * 1000) < 60_000
