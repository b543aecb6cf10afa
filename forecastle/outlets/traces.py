"""What became of a tick as OpenTelemetry traces: one for each plan, from the poll that brought its samples to the outcomes.

A plan's id is its trace's id, so that whoever reads a plan in the ledger finds its trace, and a plan that is resumed after a
crash goes on in the trace it began. Spans are sent as OTLP over HTTP by a thread of their own: the loop leaves them in a queue
with an end, and never waits.
"""

from __future__ import annotations

import http.client
import logging
import os
import ssl
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

import forecastle
from forecastle.errors import ConfigError
from forecastle.outlets.turn import Turn
from forecastle.settings import TraceSettings
from forecastle.types import Outcome, Plan, Status, digest

logger = logging.getLogger(__name__)

ORDER = ("poll", "window", "predict", "detect", "decide", "ledger", "act")
_RETRIED = frozenset({429, 502, 503, 504})
_TRIES = 4
_BAD = frozenset({Status.FAILED, Status.UNVERIFIED})
_MOST_OUTCOMES = 100


class Lap(NamedTuple):
    """Work of the loop, from ``start`` to ``end`` (ns since the epoch). ``plan``: the id of the plan it was for, '' for all."""

    name: str
    start: int
    end: int
    plan: str = ""


def request(turn: Turn, laps: Iterable[Lap], worker: str) -> Any:
    """The ExportTraceServiceRequest of a decided turn: a trace for each of its plans."""
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

    made = trace_service_pb2.ExportTraceServiceRequest()
    scope = _scope(made, worker)
    found = sorted(laps, key=lambda lap: (lap.start, ORDER.index(lap.name)))
    for plan in turn.plans:
        own = [lap for lap in found if lap.plan in {"", plan.id}]
        if own:
            _trace(scope, turn, plan, own)
    return made


def _scope(made: Any, worker: str) -> Any:
    resource = made.resource_spans.add()
    about = {"service.name": "forecastle", "service.version": forecastle.__version__, "service.instance.id": worker}
    _describe(resource.resource.attributes, about)
    scope = resource.scope_spans.add()
    scope.scope.name, scope.scope.version = "forecastle", forecastle.__version__
    return scope


def _trace(scope: Any, turn: Turn, plan: Plan, laps: Sequence[Lap]) -> None:
    salt = "resumed" if turn.rebuilt else ""
    root = scope.spans.add(
        trace_id=trace_id(plan.id),
        span_id=_span_id(plan.id, "tick", salt),
        name="tick",
        kind=1,
        start_time_unix_nano=laps[0].start,
        end_time_unix_nano=max(lap.end for lap in laps),
    )
    about: dict[str, Any] = {
        "forecastle.plan.id": plan.id,
        "forecastle.tick": plan.tick,
        "forecastle.domain": plan.domain,
        "forecastle.actions": len(plan.actions),
        "forecastle.refusals": len(plan.refusals),
        "forecastle.model": turn.closed.forecasts.model,
        "forecastle.resumed": turn.rebuilt,
    }
    _describe(root.attributes, about)
    for lap in laps:
        span = scope.spans.add(
            trace_id=root.trace_id,
            span_id=_span_id(plan.id, lap.name, salt),
            parent_span_id=root.span_id,
            name=lap.name,
            kind=1,
            start_time_unix_nano=lap.start,
            end_time_unix_nano=lap.end,
        )
        if lap.name == "act":
            _outcomes(span, plan, turn.outcomes)


def _outcomes(span: Any, plan: Plan, outcomes: Iterable[Outcome]) -> None:
    """How the plan's actions ended, as events of the span; one that failed makes the span an error."""
    mine = {action.id for action in plan.actions}
    own = [outcome for outcome in outcomes if outcome.action_id in mine]
    for outcome in own[:_MOST_OUTCOMES]:
        event = span.events.add(name="outcome", time_unix_nano=span.end_time_unix_nano)
        about = {"action": outcome.action_id, "status": outcome.status.value, "kind": outcome.kind.value, "pool": outcome.pool}
        _describe(event.attributes, {f"forecastle.{name}": value for name, value in about.items()})
    bad = [outcome for outcome in own if outcome.status in _BAD]
    if bad:
        span.status.code = 2
        span.status.message = f"{bad[0].pool}: {bad[0].status}: {bad[0].detail}"[:200]


def trace_id(plan_id: str) -> bytes:
    """16 bytes; those that a plan's id writes in hexadecimal."""
    try:
        found = bytes.fromhex(plan_id)
    except ValueError:
        found = b""
    return found if len(found) == 16 and any(found) else bytes.fromhex(digest(plan_id))


def _span_id(*parts: str) -> bytes:
    return bytes.fromhex(digest("span", *parts))[:8]


def _describe(attributes: Any, about: Mapping[str, Any]) -> None:
    for name, value in about.items():
        one = attributes.add(key=name).value
        if isinstance(value, bool):
            one.bool_value = value
        elif isinstance(value, int):
            one.int_value = value
        else:
            one.string_value = str(value)


class TraceSender:
    """Sends requests to an OTLP/HTTP endpoint. ``delivered`` and ``dropped`` count spans.

    Raises ConfigError for an endpoint or headers that will not do, or without the package.
    """

    def __init__(
        self,
        settings: TraceSettings,
        environment: Mapping[str, str] = os.environ,
        *,
        tls: ssl.SSLContext | None = None,
        pause_s: float = 1.0,
    ) -> None:
        try:
            from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
        except ImportError as error:
            raise ConfigError(f"outlets.traces: needs a package ({error}); pip install 'forecastle[stream]'") from error
        self._answer: Callable[[bytes], Any] = trace_service_pb2.ExportTraceServiceResponse.FromString
        self._settings, self._pause_s = settings, pause_s
        self._url = _checked(settings.endpoint, bool(settings.headers))
        self._headers = {"content-type": "application/x-protobuf"} | _headers(settings.headers, environment)
        self._tls = tls or ssl.create_default_context()
        self._queue: deque[Any] = deque()
        self._woken, self._stop = threading.Condition(), threading.Event()
        self.delivered = self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()

    @property
    def pending(self) -> int:
        """Ticks whose traces wait."""
        return len(self._queue)

    def offer(self, made: Any) -> None:
        """Queue a request. When the queue is full the oldest one is dropped. Never blocks."""
        with self._woken:
            if len(self._queue) >= self._settings.pending:
                self.dropped += spans(self._queue.popleft())
            self._queue.append(made)
            self._woken.notify()

    def close(self, patience_s: float = 2.0) -> None:
        """Send what waits for ``patience_s`` more seconds; the rest is dropped."""
        with self._woken:
            self._woken.wait_for(lambda: not self._queue, patience_s)
            self._stop.set()
            self._woken.notify_all()
        self._thread.join(patience_s)

    def _run(self) -> None:
        while True:
            with self._woken:
                self._woken.wait_for(lambda: bool(self._queue) or self._stop.is_set())
                if self._stop.is_set():
                    return
                made = self._queue[0]
            refused = self._deliver(made)
            with self._woken:
                if self._queue and self._queue[0] is made:
                    self._queue.popleft()
                    self.dropped += refused
                    self.delivered += spans(made) - refused
                self._woken.notify_all()

    def _deliver(self, made: Any) -> int:
        """Try a few times. Returns how many spans were not taken."""
        body, why = made.SerializeToString(), ""
        for tries in range(_TRIES):
            if tries and self._stop.wait(self._pause_s * 2.0 ** (tries - 1)):
                break
            try:
                status, answer = self._post(body)
            except (OSError, http.client.HTTPException) as error:
                why = f"{type(error).__name__}: {error}"
                continue
            if status == 200:
                return self._rejected(answer)
            why = f"answered {status}"
            if status not in _RETRIED:
                break
        logger.warning("traces: %s: %s; %d spans are dropped", self._url.hostname, why, spans(made))
        return spans(made)

    def _rejected(self, answer: bytes) -> int:
        try:
            partial = self._answer(answer).partial_success
        except Exception:  # noqa: BLE001 - the parser's errors have no common name, and 200 is what counts
            return 0
        if partial.rejected_spans:
            logger.warning("traces: %s rejected %d spans", self._url.hostname, partial.rejected_spans)
        return int(partial.rejected_spans)

    def _post(self, body: bytes) -> tuple[int, bytes]:
        host, timeout_s = str(self._url.hostname), self._settings.timeout_s
        if self._url.scheme == "https":
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                host, self._url.port, timeout=timeout_s, context=self._tls
            )
        else:
            connection = http.client.HTTPConnection(host, self._url.port, timeout=timeout_s)
        try:
            connection.request("POST", self._url.path, body, self._headers)
            answer = connection.getresponse()
            return answer.status, answer.read(65_536)
        finally:
            connection.close()


def spans(made: Any) -> int:
    """How many spans a request carries."""
    return sum(len(scope.spans) for resource in made.resource_spans for scope in resource.scope_spans)


def _checked(text: str, secret: bool) -> SplitResult:
    url = urlsplit(text)
    if url.scheme not in {"http", "https"} or not url.hostname or url.username or url.query or url.fragment or not url.path:
        raise ConfigError(f"outlets.traces.endpoint: '{text}' is not an address such as http://127.0.0.1:4318/v1/traces")
    if secret and url.scheme == "http" and url.hostname not in {"127.0.0.1", "::1", "localhost"}:
        raise ConfigError(f"outlets.traces.headers: would cross a network in the clear to '{text}'; write https://")
    return url


def _headers(name: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Headers in the form of OTEL_EXPORTER_OTLP_HEADERS: ``name=value,name=value``, values percent-encoded."""
    if not name:
        return {}
    pairs = [pair.partition("=") for pair in environment.get(name, "").split(",") if pair.strip()]
    found = {key.strip().lower(): unquote(value.strip()) for key, _, value in pairs}
    if not found or not all(key and value and key.isascii() and value.isprintable() for key, value in found.items()):
        raise ConfigError(f"outlets.traces.headers: the environment variable {name} does not hold name=value,name=value")
    return found
