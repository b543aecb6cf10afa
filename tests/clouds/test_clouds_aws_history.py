"""History out of CloudWatch, as moto plays it: pages, the time of a period, and answers that are no data."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aws_front import REGION
from aws_worlds import World, world
from hypothesis import given
from hypothesis import strategies as st

from forecastle.clouds.aws_client import Access, Account
from forecastle.clouds.aws_history import MetricQuery, fetch
from forecastle.errors import CloudUnavailable, ConfigError, Denied
from forecastle.intake.publish import read_samples
from forecastle.types import SeriesKey

START = 1_760_000_040_000
MINUTE = 60_000
LOAD = {"LoadBalancer": "app/shop/1"}


@pytest.fixture(scope="module")
def aws() -> Iterator[World]:
    """Ten minutes of requests: minute i has i + 1 requests of one unit each at one balancer, and 100 at another."""
    with world() as made:
        cloudwatch = made.api("cloudwatch")
        for balancer, factor in (("app/shop/1", 1), ("app/mail/1", 100)):
            data = [
                {
                    "MetricName": "RequestCount",
                    "Dimensions": [{"Name": "LoadBalancer", "Value": balancer}],
                    "Timestamp": datetime.fromtimestamp((START + i * MINUTE) / 1000 + second, UTC),
                    "Value": float(factor * (i + 1)),
                    "Unit": "Count",
                }
                for i in range(10)
                for second in (5, 35)
            ]
            cloudwatch.put_metric_data(Namespace="Shop", MetricData=data)
        yield made


@pytest.fixture
def account(aws: World) -> Iterator[Account]:
    opened = Account(Access(REGION, endpoint_url=aws.front.url))
    yield opened
    opened.close()


def query(**changes: Any) -> MetricQuery:
    asked = {"namespace": "Shop", "metric": "RequestCount", "workload": "shop", "dimensions": LOAD}
    return MetricQuery(**asked | {"start": START, "end": START + 10 * MINUTE} | changes)


def test_every_period_is_a_sample_at_its_end(account: Account) -> None:
    samples = fetch(account.read, query(stat="Sum"))
    assert samples.keys == (SeriesKey("shop", "RequestCount", (("LoadBalancer", "app/shop/1"),)),)
    assert samples.at.tolist() == [START + (i + 1) * MINUTE for i in range(10)]
    assert samples.value.tolist() == [2.0 * (i + 1) for i in range(10)]


@pytest.mark.parametrize(("stat", "first"), [("Average", 1.0), ("Sum", 2.0), ("SampleCount", 2.0), ("Maximum", 1.0)])
def test_the_statistic_is_the_callers(stat: str, first: float, account: Account) -> None:
    assert fetch(account.read, query(stat=stat)).value[0] == first


def test_dimensions_tell_series_apart(account: Account) -> None:
    assert fetch(account.read, query(dimensions={"LoadBalancer": "app/mail/1"})).value[0] == 100.0
    assert len(fetch(account.read, query(dimensions={"LoadBalancer": "app/none/1"}))) == 0


def test_a_longer_period_gathers_more(account: Account) -> None:
    samples = fetch(account.read, query(stat="Sum", period_s=300))
    first = -(-START // 300_000) * 300_000
    assert samples.at.tolist()[0] == first + 300_000
    assert all(at % 300_000 == 0 for at in samples.at.tolist())


@pytest.mark.parametrize("points", [1, 3, 7, 10, 1000])
def test_pages_by_time_give_the_same(points: int, account: Account) -> None:
    whole, paged = fetch(account.read, query()), fetch(account.read, query(), points=points)
    assert paged.at.tolist() == whole.at.tolist()
    assert paged.value.tolist() == whole.value.tolist()


def test_a_period_that_is_not_over_is_left_out(account: Account) -> None:
    """What is known of it would be less than it will have been."""
    samples = fetch(account.read, query(start=START + 1, end=START + 3 * MINUTE - 1))
    assert samples.at.tolist() == [START + 2 * MINUTE]


def test_a_name_may_be_given(account: Account) -> None:
    assert fetch(account.read, query(name="requests")).keys[0].metric == "requests"


class Paging:
    """The account, by an AWS that hands its answers out in pieces, which moto never does."""

    def __init__(self, account: Account, size: int) -> None:
        self.account = account
        self.size = size
        self.requests = 0

    def read(self, service: str, operation: str, **asked: Any) -> dict[str, Any]:
        self.requests += 1
        token = int(asked.pop("NextToken", "0"))
        answer = self.account.read(service, operation, **asked)
        [result] = answer["MetricDataResults"]
        pieces = {name: result[name][token : token + self.size] for name in ("Timestamps", "Values")}
        more = token + self.size < len(result["Values"])
        answer["MetricDataResults"] = [{**result, **pieces, "StatusCode": "PartialData" if more else "Complete"}]
        return answer | ({"NextToken": str(token + self.size)} if more else {})


@pytest.mark.parametrize(("size", "requests"), [(1, 10), (3, 4), (5, 2), (10, 1), (100, 1)])
def test_tokens_are_followed_to_the_end(size: int, requests: int, account: Account) -> None:
    paging = Paging(account, size)
    assert fetch(paging.read, query()).value.tolist() == fetch(account.read, query()).value.tolist()
    assert paging.requests == requests


def said(status: str, *values: float) -> Any:
    stamps = [datetime.fromtimestamp((START + i * MINUTE) / 1000, UTC) for i in range(len(values))]
    result = {"Id": "demand", "Timestamps": stamps, "Values": list(values), "StatusCode": status}
    return lambda *_, **__: {"MetricDataResults": [result]}


def test_an_answer_that_is_no_data_does_not_look_like_none() -> None:
    with pytest.raises(Denied, match="cloudwatch:GetMetricData"):
        fetch(said("Forbidden"), query())
    with pytest.raises(CloudUnavailable, match="internal error"):
        fetch(said("InternalError"), query())


def test_values_that_are_no_numbers_are_left_out() -> None:
    assert fetch(said("Complete", 1.0, math.nan, math.inf, 2.0), query()).value.tolist() == [1.0, 2.0]


def test_refusals_and_outages_are_told_apart(aws: World, account: Account) -> None:
    try:
        aws.front.fault = lambda operation, body: "403 AccessDenied"
        with pytest.raises(Denied):
            fetch(account.read, query())
        aws.front.fault = lambda operation, body: "lost"
        with pytest.raises(CloudUnavailable):
            fetch(account.read, query())
    finally:
        aws.front.fault = lambda operation, body: ""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        *[({"period_s": period}, "period of CloudWatch") for period in (0, -60, 2, 59, 61, 90)],
        ({"end": START}, "exchange"),
        ({"workload": ""}, "--workload"),
    ],
)
def test_queries_that_cannot_be_are_refused_unsent(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        fetch(said("Complete"), query(**changes))


@given(st.integers(0, 200_000), st.integers(1, 2_000_000), st.integers(1, 9))
def test_requests_cover_the_range_once_and_never_more(start: int, length: int, points: int) -> None:
    asked: list[tuple[int, int]] = []

    def read(*_: str, **request: Any) -> dict[str, Any]:
        asked.append((round(request["StartTime"].timestamp() * 1000), round(request["EndTime"].timestamp() * 1000)))
        return {"MetricDataResults": []}

    fetch(read, query(start=start, end=start + length), points=points)
    covered = [at for first, last in asked for at in range(first, last, MINUTE)]
    assert covered == list(range(-(-start // MINUTE) * MINUTE, (start + length) // MINUTE * MINUTE, MINUTE))
    assert all(first < last <= first + points * MINUTE for first, last in asked)


def told(*arguments: str) -> tuple[int, str]:
    from typer.testing import CliRunner

    from forecastle.cli import app

    done = CliRunner().invoke(app, ["import", "cloudwatch", *arguments])
    return done.exit_code, f"{done.output}{done.exception or ''}"


def test_the_command_writes_a_history(aws: World, tmp_path: Path) -> None:
    out = tmp_path / "h.parquet"
    where = ["--region", REGION, "--endpoint-url", aws.front.url, "--workload", "shop", "--out", str(out)]
    moments = ["--from", "2025-10-09T08:54:00", "--to", "2025-10-09T09:04:00Z"]
    rest = ["--metric", "Shop:RequestCount", "--stat", "Sum", "--dimension", "LoadBalancer=app/shop/1"]
    code, text = told(*where, *moments, *rest)
    assert (code, "10 samples of 1 series" in text) == (0, True), text
    assert read_samples(out).value.tolist() == [2.0 * (i + 1) for i in range(10)]


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        (["--metric", "RequestCount"], "AWS/ApplicationELB:RequestCount"),
        (["--metric", ":RequestCount"], "AWS/ApplicationELB:RequestCount"),
        (["--metric", "Shop:"], "AWS/ApplicationELB:RequestCount"),
        (["--metric", "Shop:RequestCount", "--dimension", "LoadBalancer"], "no pair"),
        (["--metric", "Shop:Nothing"], "no samples"),
    ],
)
def test_the_command_says_what_to_write_instead(rest: list[str], words: str, aws: World, tmp_path: Path) -> None:
    where = ["--region", REGION, "--endpoint-url", aws.front.url, "--workload", "shop", "--out", str(tmp_path / "h.parquet")]
    code, text = told(*where, "--from", "2025-10-09T08:54:00", "--to", "2025-10-09T09:04:00", *rest)
    assert code != 0
    assert words in text
    assert not (tmp_path / "h.parquet").exists()
