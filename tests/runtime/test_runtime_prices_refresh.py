"""New versions of a price book: from AWS's price history, whole or not at all, and never over another version."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from price_worlds import M6I, POOL, at, write_book, write_fleet
from typer.testing import CliRunner

from forecastle.cli import app
from forecastle.clouds.aws_spot import SpotPrice
from forecastle.decide.prices import Commitment, Point, Price, Shelf, contradictions
from forecastle.errors import ConfigError, Conflict, Denied
from forecastle.runtime import prices_publish
from forecastle.runtime.prices import read_book, shelf
from forecastle.runtime.prices_aws import refresh_aws_spot, rows
from forecastle.runtime.prices_publish import Draft, instant, next_since, publish, text

REGION = "eu-central-1"
NOW = at("2026-11-20T10:00")
HOUR = 3_600_000
POINT = Point("aws", REGION, "", "m6i.large")


def draft(*prices: Price, since: int = NOW, as_of: int = NOW + HOUR, **more: str) -> Draft:
    return Draft(more.get("book", "spot"), more.get("currency", "USD"), since, as_of, prices)


def price(value: float, since: int = NOW, point: Point = POINT) -> Price:
    return Price(point, since, price=value)


# --- publishing -----------------------------------------------------------------------------------------------------


def test_versions_count_up_and_older_ones_stay_as_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "prices"
    first = publish(folder, draft(price(0.1)))
    assert first is not None
    before = first.read_bytes()
    second = publish(folder, draft(price(0.2, NOW + HOUR), since=NOW + HOUR, as_of=NOW + 2 * HOUR))
    assert second is not None
    assert [p.name for p in sorted(folder.iterdir())] == ["spot-0001.yaml", "spot-0002.yaml"]
    assert first.read_bytes() == before
    assert [shelf(folder).quote(POINT, t).price for t in (NOW, NOW + HOUR)] == [0.1, 0.2]  # type: ignore[union-attr]
    assert second.stat().st_mode & 0o777 == 0o644


def test_nothing_is_written_when_nothing_has_changed(tmp_path: Path) -> None:
    publish(tmp_path, draft(price(0.1), price(0.3, NOW + 5)))
    later = draft(price(0.3, NOW + HOUR), since=NOW + HOUR, as_of=NOW + 2 * HOUR)
    assert publish(tmp_path, later) is None
    assert publish(tmp_path, replace(later, prices=(price(0.1, NOW + HOUR),))) is not None, "the first price is not the last"


def test_a_price_that_moved_and_came_back_is_written(tmp_path: Path) -> None:
    publish(tmp_path, draft(price(0.1)))
    moved = draft(price(0.1, NOW + HOUR), price(0.5, NOW + HOUR + 1), price(0.1, NOW + HOUR + 2), since=NOW + HOUR)
    assert publish(tmp_path, moved) is not None


def test_a_sku_that_is_gone_is_a_change(tmp_path: Path) -> None:
    publish(tmp_path, draft(price(0.1), price(0.2, point=POINT._replace(sku="c7i"))))
    assert publish(tmp_path, draft(price(0.1, NOW + 1), since=NOW + 1)) is not None


def test_what_contradicts_another_book_is_not_written(tmp_path: Path) -> None:
    write_book(tmp_path, M6I, currency="EUR")
    with pytest.raises(ConfigError, match=r"spot-0001.yaml: is in USD, but .*list-1.yaml:3 in EUR|in EUR, but .* in USD"):
        publish(tmp_path, draft(price(0.1, point=POINT._replace(sku="c7i"))))
    with pytest.raises(ConfigError, match=r"is also said by book list"):
        publish(tmp_path, draft(price(0.1), currency="EUR"))
    assert [p.name for p in tmp_path.iterdir()] == ["list-1.yaml"]


def test_a_file_that_has_the_name_already_is_never_overwritten(tmp_path: Path) -> None:
    taken = write_book(tmp_path, M6I | {"sku": "c7i"}, name="spot-0001.yaml")
    before = taken.read_bytes()
    with pytest.raises(Conflict, match=r"spot-0001.yaml: exists already; another writer was faster"):
        publish(tmp_path, draft(price(0.1)))
    assert taken.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["spot-0001.yaml"], "nothing half-written is left"


def test_of_many_writers_one_wins_and_the_others_are_told(tmp_path: Path) -> None:
    barrier = threading.Barrier(6)

    def write(i: int) -> str:
        barrier.wait()
        try:
            found = publish(tmp_path, draft(price(0.1 + i)))
        except (Conflict, ConfigError) as error:
            return type(error).__name__
        return "won" if found else "same"

    with ThreadPoolExecutor(6) as pool:
        ends = list(pool.map(write, range(6)))
    assert ends.count("won") == len(list(tmp_path.iterdir())) == len(shelf(tmp_path).books) >= 1
    assert set(ends) <= {"won", "Conflict", "ConfigError"}


def test_a_writer_who_comes_after_the_folder_was_read_is_met_at_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def then_another_writes(folder: Path) -> Shelf:
        found = shelf(folder)
        monkeypatch.undo()
        assert publish(folder, draft(price(0.2))) == tmp_path / "spot-0001.yaml"
        return found

    monkeypatch.setattr(prices_publish, "shelf", then_another_writes)
    with pytest.raises(Conflict, match="another writer was faster"):
        publish(tmp_path, draft(price(0.1)))
    assert [book.prices[0].price for book in shelf(tmp_path).books] == [0.2]


def test_a_writer_that_dies_leaves_no_book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prices_publish.os, "fsync", dies)
    with pytest.raises(OSError, match="No space left"):
        publish(tmp_path, draft(price(0.1)))
    assert shelf(tmp_path).books == ()
    monkeypatch.undo()
    assert publish(tmp_path, draft(price(0.1))) == tmp_path / "spot-0001.yaml"


words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=12)
money = st.none() | st.floats(0, 1e6, allow_subnormal=False) | st.sampled_from([0.0, 1e-05, 1e16, 3.0])
points = st.builds(Point, words, words, st.just("") | words, words)
commitments = st.none() | st.builds(Commitment, st.integers(0, 99), st.floats(0, 9))
anything = st.builds(Price, points, st.integers(NOW, NOW + HOUR), money, money, money, commitments, money)


@settings(max_examples=40, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(st.lists(anything, min_size=1, max_size=4, unique_by=lambda p: (p.point, p.since)))
def test_whatever_a_book_says_is_read_back_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, said: list[Price]
) -> None:
    """Names of controllers come from a cluster: none of them may break the file, or become another field of it."""
    folder = tmp_path_factory.mktemp("books")
    wanted = draft(*said)
    try:
        path = publish(folder, wanted)
    except ConfigError:
        path = None
        book = prices_publish.Book("spot", 1, "USD", NOW, tuple(said), source="x")
        assert list(contradictions([book])), "only what contradicts itself is refused"
    if path is not None:
        found = read_book(path)
        assert tuple(replace(row, line=0) for row in found.prices) == wanted.prices
        assert (found.since, found.as_of, found.currency) == (wanted.since, wanted.as_of, "USD")


def test_a_name_cannot_leave_its_quotes(tmp_path: Path) -> None:
    nasty = POINT._replace(sku='x"}\nversion: 9\n- {sku: "y')
    path = publish(tmp_path, draft(price(0.1, point=nasty)))
    assert path is not None
    assert (read_book(path).version, read_book(path).prices[0].point) == (1, nasty)
    assert "version: 9\n" not in path.read_text()


def test_the_text_of_a_book_is_a_line_a_row() -> None:
    zoned = replace(price(0.25, NOW + 1500, POINT._replace(zone="a")), commitment=Commitment(2, 0.1), egress_price=0.09)
    book = prices_publish.Book("spot", 3, "USD", NOW, (price(1e-05), zoned), as_of=NOW + HOUR)
    assert text(book).splitlines() == [
        'book: "spot"',
        "version: 3",
        "currency: USD",
        "valid_from: 2026-11-20T10:00:00.000Z",
        "as_of: 2026-11-20T11:00:00.000Z",
        "prices:",
        '  - {sku: "m6i.large", provider: "aws", region: "eu-central-1", price_h: 1e-05}',
        (
            '  - {sku: "m6i.large", provider: "aws", region: "eu-central-1", zone: "a", valid_from: 2026-11-20T10:00:01.500Z, '
            "price_h: 0.25, egress_price: 0.09, commitment: {count: 2, price_h: 0.1}}"
        ),
    ]
    assert instant(NOW) == "2026-11-20T10:00:00.000Z"


def test_a_version_begins_where_the_knowledge_of_the_last_ended(tmp_path: Path) -> None:
    assert next_since(None, 5, 9) == 5
    known = read_book(write_book(tmp_path, M6I, as_of="2026-02-01T00:00:00Z"))
    assert next_since(known, 5, NOW) == at("2026-02-01")
    handwritten = replace(known, as_of=None)
    assert next_since(handwritten, 5, NOW) == NOW
    assert next_since(handwritten, 5, handwritten.since) == handwritten.since + 1, "never at the same time as the last"


# --- AWS ------------------------------------------------------------------------------------------------------------


def test_changes_become_rows_and_what_was_in_force_begins_with_the_book() -> None:
    def spot(zone: str, when: int, value: float, kind: str = "m6i.large") -> SpotPrice:
        return SpotPrice(f"{REGION}{zone}", kind, when, value)

    found = [
        spot("b", NOW + 5, 0.07),
        spot("a", NOW - HOUR, 0.04),
        spot("a", NOW - 2 * HOUR, 0.03),
        spot("a", NOW + 10, 0.04),
        spot("a", NOW + 20, 0.05),
        spot("a", NOW - HOUR, 0.09, "c7i"),
    ]
    made = [(row.point.sku, row.point.zone[-1], row.since - NOW, row.spot_price) for row in rows(found, REGION, NOW)]
    assert made == [
        ("c7i", "a", 0, 0.09),
        ("m6i.large", "a", 0, 0.04),
        ("m6i.large", "a", 20, 0.05),
        ("m6i.large", "b", 5, 0.07),
    ]


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    """A real EC2 endpoint, by moto."""
    from moto.server import ThreadedMotoServer

    keys = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_EC2_METADATA_DISABLED": "true"}
    before = {key: os.environ.get(key) for key in keys}
    os.environ.update(keys)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()
    for key, value in before.items():
        os.environ.pop(key) if value is None else os.environ.update({key: value})


def test_aws_tells_every_zone_and_a_second_look_changes_nothing(moto: str, tmp_path: Path) -> None:
    path = refresh_aws_spot(tmp_path, REGION, ["t3.micro"], now=NOW, days=2, endpoint_url=moto)
    assert path == tmp_path / "aws-spot-eu-central-1-0001.yaml"
    book = read_book(path)
    assert book.since == NOW - 48 * HOUR
    assert {row.point.zone for row in book.prices} >= {f"{REGION}a", f"{REGION}b"}
    assert {row.since for row in book.prices} == {book.since}
    quote = shelf(tmp_path).quote(Point("aws", REGION, "a", "t3.micro"), NOW)
    assert quote is not None
    assert quote.spot_price == 0.00001
    assert quote.price is None
    assert refresh_aws_spot(tmp_path, REGION, [], now=NOW + HOUR, endpoint_url=moto) is None


def test_the_command_writes_into_the_folder_of_the_settings(moto: str, tmp_path: Path) -> None:
    config = write_fleet(tmp_path, POOL | {"sku": "t3.micro", "spot": True})
    runner, asked = CliRunner(), ["--region", REGION, "--endpoint-url", moto, "--config", str(config)]
    done = runner.invoke(app, ["prices", "aws-spot", *asked, "--sku", "t3.micro"])
    assert (done.exit_code, done.output) == (0, f"{tmp_path}/prices/aws-spot-eu-central-1-0001.yaml\n")
    assert runner.invoke(app, ["prices", "aws-spot", *asked]).output == "no price has changed\n"
    checked = runner.invoke(app, ["check", "--config", str(config)])
    assert (checked.exit_code, checked.output) == (0, "ok: 1 workloads, 1 sites, 1 clouds\n")


def test_a_book_without_versions_needs_skus_and_known_ones(moto: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no book aws-spot-eu-central-1 yet; name the instance types"):
        refresh_aws_spot(tmp_path, REGION, [], now=NOW, endpoint_url=moto)
    with pytest.raises(ConfigError, match=r"AWS has no spot price of m6i.lrge in eu-central-1 \(Linux/UNIX\); correct --sku"):
        refresh_aws_spot(tmp_path, REGION, ["t3.micro", "m6i.lrge"], now=NOW, endpoint_url=moto)
    assert list(tmp_path.iterdir()) == []


Answer = Callable[[dict[str, list[str]]], tuple[int, str]]


@pytest.fixture
def ec2(moto: str) -> Iterator[tuple[str, dict[str, Answer], list[dict[str, list[str]]]]]:
    """An EC2 that answers as the test says: its address, where the answer is put, and what it was asked."""
    answers: dict[str, Answer] = {}
    asked: list[dict[str, list[str]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            asked.append(form)
            status, body = answers["now"](form)
            self.send_response(status)
            self.send_header("Content-Type", "text/xml")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", answers, asked
    server.shutdown()
    thread.join()
    server.server_close()


def history(*changes: tuple[str, str], token: str = "") -> str:
    items = "".join(
        f"<item><instanceType>m6i.large</instanceType><productDescription>Linux/UNIX</productDescription><spotPrice>{value}"
        f"</spotPrice><timestamp>{when}</timestamp><availabilityZone>{REGION}a</availabilityZone></item>"
        for when, value in changes
    )
    inner = f"<spotPriceHistorySet>{items}</spotPriceHistorySet><nextToken>{token}</nextToken>"
    return f'<DescribeSpotPriceHistoryResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">{inner}</DescribeSpotPriceHistoryResponse>'


def test_each_version_takes_up_where_the_last_left_off(
    ec2: tuple[str, dict[str, Answer], list[dict[str, list[str]]]], tmp_path: Path
) -> None:
    url, answers, asked = ec2
    first = history(("2026-11-20T04:00:00Z", "0.041"), ("2026-11-19T23:00:00Z", "0.040"), token="more")
    answers["now"] = lambda form: (200, history(("2026-11-20T08:00:00Z", "0.044")) if "NextToken" in form else first)
    assert refresh_aws_spot(tmp_path, REGION, ["m6i.large"], now=NOW, days=0.25, endpoint_url=url) is not None
    answers["now"] = lambda form: (200, history(("2026-11-20T08:00:00Z", "0.044"), ("2026-11-20T10:30:00Z", "0.050")))
    assert refresh_aws_spot(tmp_path, REGION, [], now=NOW + HOUR, endpoint_url=url) is not None
    point, books = POINT._replace(zone="a"), shelf(tmp_path)
    times = ["03:59", "04:00", "07:59", "08:00", "10:29", "10:30", "23:00"]
    found = [books.quote(point, at(f"2026-11-20T{time}")) for time in times]
    assert [q and q.spot_price for q in found] == [None, 0.041, 0.041, 0.044, 0.044, 0.05, 0.05]
    assert [form["StartTime"][0][:16] for form in asked] == ["2026-11-20T04:00", "2026-11-20T04:00", "2026-11-20T10:00"]
    assert asked[-1]["InstanceType.1"] == ["m6i.large"]


def test_what_aws_refuses_leaves_the_books_as_they_are(
    ec2: tuple[str, dict[str, Answer], list[dict[str, list[str]]]], tmp_path: Path
) -> None:
    url, answers, _ = ec2
    error = "<Error><Code>UnauthorizedOperation</Code><Message>no</Message></Error>"
    body = f"<Response><Errors>{error}</Errors><RequestID>1</RequestID></Response>"
    answers["now"] = lambda form: (403, body)
    with pytest.raises(Denied):
        refresh_aws_spot(tmp_path, REGION, ["m6i.large"], now=NOW, endpoint_url=url)
    assert list(tmp_path.iterdir()) == []


def test_a_long_silence_asks_no_further_back_than_aws_remembers(
    ec2: tuple[str, dict[str, Answer], list[dict[str, list[str]]]], tmp_path: Path
) -> None:
    url, answers, asked = ec2
    answers["now"] = lambda form: (200, history(("2026-08-01T00:00:00Z", "0.04")))
    refresh_aws_spot(tmp_path, REGION, ["m6i.large"], now=at("2026-01-02T00:00"), endpoint_url=url)
    answers["now"] = lambda form: (200, history(("2026-08-01T00:00:00Z", "0.05")))
    refresh_aws_spot(tmp_path, REGION, [], now=NOW, endpoint_url=url)
    assert asked[-1]["StartTime"][0][:10] == "2026-08-22", "90 days before"
