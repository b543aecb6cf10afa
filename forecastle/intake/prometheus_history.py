"""History out of Prometheus (or what answers like it: Thanos, Mimir, VictoriaMetrics) by ``/api/v1/query_range``.

A query gives at most 11,000 points a series, so a long range is asked for in pages; each page is judged by the same rules as
samples from Kafka. NaN is left out: it says that there was nothing to say.
"""

from __future__ import annotations

import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec
import numpy as np

from forecastle.errors import ConfigError, Denied, ForecastleError, Malformed, Permanent, Transient
from forecastle.intake.codecs.prometheus_json import NAME, number_in
from forecastle.intake.naming import Naming
from forecastle.intake.series import SeriesTable
from forecastle.types import Samples

MAX_POINTS = 11_000  # Prometheus's own limit, a series and query
MAX_ANSWER = 512 << 20  # bytes
MAX_SERIES = 50_000
OWNER = "workload"
ATTEMPTS = 4
PAUSE_S = 1.0
TIMEOUT_S = 120.0
Point = tuple[float, str]


class Stay(urllib.request.HTTPRedirectHandler):
    """A redirect would take the query, and the token, somewhere else."""

    def redirect_request(self, *_: object) -> None:
        """None follows."""


OPENER = urllib.request.build_opener(Stay)


class Series(msgspec.Struct):
    """One row of a matrix."""

    metric: dict[str, str]
    values: list[Point] = []


class Data(msgspec.Struct, rename={"kind": "resultType"}):
    """The result of a query."""

    kind: str
    result: msgspec.Raw


class Answer(msgspec.Struct):
    """What every endpoint answers with."""

    status: str
    data: Data | None = None
    error: str = ""


class Request(NamedTuple):
    """A range query: ``start`` to ``end`` (ms, both included) every ``step_ms``.

    ``name`` is the metric of a result that has none, and ``workload`` the one of all series; without it a label names each.
    """

    url: str
    query: str
    start: int
    end: int
    step_ms: int
    name: str = ""
    workload: str = ""
    token: str = ""


def pages(start: int, end: int, step_ms: int, points: int = MAX_POINTS) -> Iterator[tuple[int, int]]:
    """(first, last) instants in ms of each query, at most ``points`` apart, every instant of the grid in one of them."""
    for first in range(start, end + 1, points * step_ms):
        yield first, min(end, first + (points - 1) * step_ms)


def fetch(request: Request, naming: Naming, said: Callable[[int, int], None] | None = None) -> Samples:
    """All samples of the range, page by page; ``said(page, pages)`` follows it.

    Raises ConfigError for a query, URL or range that cannot be, Denied, Transient when the server stays away, and Malformed for
    a series that the intake would refuse.
    """
    _check(request)
    if request.workload:
        naming = naming._replace(workload=(OWNER,))
    table = SeriesTable(MAX_SERIES)
    number: list[int] = []
    at: list[int] = []
    value: list[float] = []
    start = -(-request.start // request.step_ms) * request.step_ms
    asked = list(pages(start, request.end, request.step_ms))
    for count, (first, last) in enumerate(asked, 1):
        for series in _page(request, first, last):
            points = [(round(when * 1000), found) for when, text in series.values if (found := number_in(text)) is not None]
            if points:
                number += [_number(series.metric, request, naming, table)] * len(points)
                at += [when for when, _ in points]
                value += [found for _, found in points]
        if said:
            said(count, len(asked))
    return _samples(table, number, at, value)


def _samples(table: SeriesTable, number: list[int], at: list[int], value: list[float]) -> Samples:
    times = np.array(at, np.int64)
    order = np.argsort(times, kind="stable")
    columns = np.array(number, np.int32)[order], times[order], np.array(value, np.float64)[order]
    return Samples(table.keys, *columns, np.zeros(len(order), np.int32))


def _number(labels: dict[str, str], request: Request, naming: Naming, table: SeriesTable) -> int:
    owned = {OWNER: request.workload} if request.workload else {}
    found = {name: text for name, text in labels.items() if name != NAME} | owned
    metric = request.name or labels.get(NAME, "")
    if not metric:
        raise ConfigError("the query's result has no metric name (it is an expression); give one with --name")
    try:
        return naming.number(table, metric, found.items())
    except Malformed as error:
        if error.reason == "no_workload":
            wanted = ", ".join(naming.workload)
            raise ConfigError(f"a series has none of the labels {wanted}; keep one in the query, or give --workload") from error
        raise


def _check(request: Request) -> None:
    parts = urllib.parse.urlsplit(request.url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"--url: '{request.url}' is no address; write http://127.0.0.1:9090")
    if request.step_ms < 1:
        raise ConfigError("--step: has to be positive; write 60s")
    if request.end < request.start:
        raise ConfigError("--to lies before --from; exchange them")


def _page(request: Request, first: int, last: int) -> list[Series]:
    form = {"query": request.query, "start": _seconds(first), "end": _seconds(last), "step": _seconds(request.step_ms)}
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _matrix(_post(request, urllib.parse.urlencode(form).encode()), request.query)
        except Transient as error:
            if attempt == ATTEMPTS:
                raise
            time.sleep(max(error.retry_after, PAUSE_S * 2 ** (attempt - 1)))
    raise AssertionError("unreachable")


def _post(request: Request, form: bytes) -> bytes:
    url = f"{request.url.rstrip('/')}/api/v1/query_range"
    heads = {"Authorization": f"Bearer {request.token}"} if request.token else {}
    asked = urllib.request.Request(url, form, heads)  # noqa: S310 - the scheme was checked
    try:
        with OPENER.open(asked, timeout=TIMEOUT_S) as answer:
            body: bytes = answer.read(MAX_ANSWER + 1)
    except urllib.error.HTTPError as error:
        with error:
            raise _refused(error, url) from error
    except (urllib.error.URLError, OSError) as error:
        raise Transient(f"{url}: {getattr(error, 'reason', error)}") from error
    if len(body) > MAX_ANSWER:
        raise ConfigError(f"{url}: an answer of more than {MAX_ANSWER} bytes; aggregate more, or take a larger --step")
    return body


def _refused(error: urllib.error.HTTPError, url: str) -> ForecastleError:
    """What an HTTP status means; Prometheus says why in the body."""
    text = error.read(4096).decode("utf-8", "replace").strip()
    try:
        text = msgspec.json.decode(text, type=Answer).error or text
    except msgspec.DecodeError:
        text = text[:200]
    if error.code in (401, 403):
        return Denied(f"{url}: {error.code} {text}; give the token by the variable that --token-env names")
    if error.code == 404:
        return ConfigError(f"{url}: 404; --url is the address before /api/v1")
    if error.code in (400, 422):
        return ConfigError(f"--query: {text}")
    if error.code in (408, 429) or error.code >= 500:
        return Transient(f"{url}: {error.code} {text}")
    return Permanent(f"{url}: {error.code} {text}")


def _matrix(body: bytes, query: str) -> list[Series]:
    try:
        answer = msgspec.json.decode(body, type=Answer)
        if answer.status != "success" or answer.data is None:
            raise Permanent(f"{query}: {answer.error or answer.status}")
        if answer.data.kind != "matrix":
            raise ConfigError(f"--query: gives a {answer.data.kind}; a series of numbers is needed")
        return msgspec.json.decode(answer.data.result, type=list[Series])
    except msgspec.DecodeError as error:
        raise Permanent(f"this is no answer of Prometheus ({error}); check --url") from error


def _seconds(ms: int) -> str:
    return f"{ms // 1000}.{ms % 1000:03d}"
