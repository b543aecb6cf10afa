"""Traces from poll to outcome: well-formed, found by the plan's id, and never a reason for the loop to wait."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
from outlet_worlds import HookReceiver, action, outcome, plan, tick, turned, until
from test_outlets_listeners import settings, working

from forecastle.errors import ConfigError
from forecastle.outlets.traces import ORDER, Lap, TraceSender, request, spans, trace_id
from forecastle.runtime.stopwatch import Stopwatch
from forecastle.settings import Settings, TraceSettings
from forecastle.types import Status

T0 = 1_760_000_000_000_000_000


def laps(*plans: str) -> list[Lap]:
    """A lap of each kind, one after the other; act once for each of ``plans``."""
    found = [Lap(name, T0 + i * 1000, T0 + i * 1000 + 500) for i, name in enumerate(ORDER[:-1])]
    return found + [Lap("act", T0 + 9000 + i * 1000, T0 + 9500 + i * 1000, name) for i, name in enumerate(plans)]


def all_spans(made: Any) -> list[Any]:
    return [span for resource in made.resource_spans for scope in resource.scope_spans for span in scope.spans]


def attributes(thing: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in thing.attributes}


def a_request(number: int = 1) -> Any:
    made = plan(tick(number), action(tick(number)))
    return request(turned(tick(number), made), laps(made.id), "w")


# --- what a trace says ----------------------------------------------------------------------------------------------


def test_a_plan_is_a_trace_with_its_own_id() -> None:
    made = plan(tick(1), action(tick(1)))
    found = all_spans(request(turned(tick(1), made), laps(made.id), "w-0"))
    assert {span.trace_id.hex() for span in found} == {made.id}
    assert [span.name for span in found] == ["tick", *ORDER]


def test_every_span_has_the_root_as_parent_and_lies_within_it() -> None:
    root, *rest = all_spans(a_request())
    assert root.parent_span_id == b""
    assert all(span.parent_span_id == root.span_id for span in rest)
    assert all(
        root.start_time_unix_nano <= s.start_time_unix_nano < s.end_time_unix_nano <= root.end_time_unix_nano for s in rest
    )
    assert len({span.span_id for span in (root, *rest)}) == len(rest) + 1
    assert {len(span.span_id) for span in (root, *rest)} == {8}
    assert {span.kind for span in (root, *rest)} == {1}


def test_it_says_what_was_planned_and_by_whom() -> None:
    made = a_request()
    (resource,) = made.resource_spans
    assert attributes(resource.resource)["service.instance.id"] == "w"
    about = attributes(all_spans(made)[0])
    assert about["forecastle.tick"] == tick(1)
    assert (about["forecastle.actions"], about["forecastle.refusals"]) == (1, 0)
    assert (about["forecastle.domain"], about["forecastle.model"]) == ("acme/eu/", "mixer@0123456789abcdef")
    assert about["forecastle.resumed"] is False


def test_outcomes_are_events_of_the_act() -> None:
    grow = action(tick(1))
    made = plan(tick(1), grow)
    other = outcome(action(tick(1), "mail-ams"))
    act = all_spans(request(turned(tick(1), made, outcomes=(outcome(grow), other)), laps(made.id), "w"))[-1]
    (event,) = act.events
    assert attributes(event) == {
        "forecastle.action": grow.id,
        "forecastle.status": "APPLIED",
        "forecastle.kind": "scale",
        "forecastle.pool": "shop-fra",
    }
    assert act.status.code == 0


@pytest.mark.parametrize("status", [Status.FAILED, Status.UNVERIFIED])
def test_what_failed_or_is_not_known_makes_the_span_an_error(status: Status) -> None:
    grow = action(tick(1))
    made = plan(tick(1), grow)
    ended = replace(outcome(grow, status), detail="x" * 500)
    act = all_spans(request(turned(tick(1), made, outcomes=(ended,)), laps(made.id), "w"))[-1]
    assert act.status.code == 2
    assert act.status.message.startswith(f"shop-fra: {status}: xxx")
    assert len(act.status.message) == 200


@pytest.mark.parametrize("status", [Status.REFUSED, Status.ALREADY, Status.DRY_RUN])
def test_a_refusal_is_no_error(status: Status) -> None:
    grow = action(tick(1))
    made = plan(tick(1), grow)
    act = all_spans(request(turned(tick(1), made, outcomes=(outcome(grow, status),)), laps(made.id), "w"))[-1]
    assert act.status.code == 0


def test_plans_of_one_tick_share_its_work_and_not_their_acts() -> None:
    one, two = plan(tick(1), action(tick(1))), plan(tick(1), action(tick(1), "mail-ams"))
    found = all_spans(request(turned(tick(1), one, two), laps(one.id, two.id), "w"))
    for made in (one, two):
        own = [span for span in found if span.trace_id.hex() == made.id]
        assert [span.name for span in own] == ["tick", *ORDER]
    acts = [span for span in found if span.name == "act"]
    assert acts[0].end_time_unix_nano <= acts[1].start_time_unix_nano
    assert len({span.span_id for span in found}) == len(found)


def test_a_resumed_plan_goes_on_in_its_trace() -> None:
    made = plan(tick(1), action(tick(1)))
    first = all_spans(request(turned(tick(1), made), laps(made.id), "w"))
    again = all_spans(request(turned(tick(1), made, rebuilt=True), laps(made.id), "w"))
    assert {s.trace_id for s in first} == {s.trace_id for s in again}
    assert not {s.span_id for s in first} & {s.span_id for s in again}
    assert attributes(again[0])["forecastle.resumed"] is True


def test_without_laps_there_is_no_trace() -> None:
    assert spans(request(turned(tick(1), plan(tick(1))), [], "w")) == 0


@hypothesis(max_examples=40, deadline=None)
@given(st.one_of(st.text(max_size=40), st.text("0123456789abcdef", min_size=32, max_size=32), st.just("0" * 32)))
def test_any_plan_id_makes_a_valid_trace_id(name: str) -> None:
    found = trace_id(name)
    assert len(found) == 16
    assert any(found)
    assert found == trace_id(name)


# --- sending --------------------------------------------------------------------------------------------------------


@pytest.fixture
def make(receiver: HookReceiver) -> Iterator[Callable[..., TraceSender]]:
    with ExitStack() as opened:

        def one(environment: dict[str, str] | None = None, **changes: Any) -> TraceSender:
            made = {"endpoint": f"http://127.0.0.1:{receiver.port}/v1/traces", "timeout_s": 5.0} | changes
            sender = TraceSender(TraceSettings.model_validate(made), environment or {}, pause_s=0.01)
            opened.callback(sender.close)
            return sender

        yield one


def test_what_is_sent_is_otlp(make: Callable[..., TraceSender], receiver: HookReceiver) -> None:
    receiver.answers = [(200, {})]
    sender, made = make({"OTLP": "api-key=a%20b, tenant=x"}, headers="OTLP"), a_request()
    sender.offer(made)
    until(lambda: sender.delivered == 8)
    ((path, headers, body),) = receiver.got
    assert (path, headers["content-type"]) == ("/v1/traces", "application/x-protobuf")
    assert (headers["api-key"], headers["tenant"]) == ("a b", "x")
    assert ExportTraceServiceRequest.FromString(body) == made


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_busy_receiver_is_tried_again(make: Callable[..., TraceSender], receiver: HookReceiver, status: int) -> None:
    receiver.answers = [(status, {}), (status, {}), (200, {})]
    sender = make()
    sender.offer(a_request())
    until(lambda: sender.delivered == 8)
    assert len(receiver.got) == 3
    assert sender.dropped == 0


@pytest.mark.parametrize("status", [400, 401, 404, 500, 302])
def test_a_refusal_is_final_for_what_was_refused(make: Callable[..., TraceSender], receiver: HookReceiver, status: int) -> None:
    receiver.answers = [(status, {"location": "/elsewhere"}), (200, {})]
    sender = make()
    sender.offer(a_request(1))
    sender.offer(a_request(2))
    until(lambda: sender.delivered == 8)
    assert sender.dropped == 8
    assert [path for path, _, _ in receiver.got] == ["/v1/traces"] * 2


def test_tries_have_an_end(make: Callable[..., TraceSender], receiver: HookReceiver) -> None:
    receiver.answers = [(503, {})] * 10
    sender = make()
    sender.offer(a_request())
    until(lambda: sender.dropped == 8)
    assert len(receiver.got) == 4


def test_the_loop_never_waits_and_the_newest_are_kept(make: Callable[..., TraceSender], receiver: HookReceiver) -> None:
    """The receiver sleeps; a hundred ticks are offered meanwhile, of which ten have room."""
    receiver.delay_s, receiver.answers = 0.2, [(200, {})] * 200
    sender = make(pending=10)
    for number in range(100):
        sender.offer(a_request(number))
    assert len(receiver.got) <= 1
    receiver.delay_s = 0.0
    until(lambda: sender.delivered + sender.dropped == 800)
    assert sender.dropped >= 89 * 8
    assert attributes(all_spans(ExportTraceServiceRequest.FromString(receiver.got[-1][2]))[0])["forecastle.tick"] == tick(99)


def test_nobody_there_is_no_trouble(make: Callable[..., TraceSender]) -> None:
    sender = make(endpoint="http://127.0.0.1:1/v1/traces")
    sender.offer(a_request())
    until(lambda: sender.dropped == 8)


def test_spans_that_were_rejected_are_counted(make: Callable[..., TraceSender], monkeypatch: pytest.MonkeyPatch) -> None:
    sender = make()
    answer = ExportTraceServiceResponse()
    answer.partial_success.rejected_spans = 3
    monkeypatch.setattr(sender, "_post", lambda _: (200, answer.SerializeToString()))
    sender.offer(a_request())
    until(lambda: sender.delivered == 5)
    assert sender.dropped == 3
    monkeypatch.setattr(sender, "_post", lambda _: (200, b"\xff\xffhello"))
    sender.offer(a_request())
    until(lambda: sender.delivered == 13)


@pytest.mark.parametrize(
    ("endpoint", "headers", "said"),
    [
        ("127.0.0.1:4318", "", "is not an address"),
        ("http://127.0.0.1:4318", "", "is not an address"),
        ("grpc://127.0.0.1:4317/v1/traces", "", "is not an address"),
        ("http://me:pw@127.0.0.1/v1/traces", "", "is not an address"),
        ("http://collector:4318/v1/traces", "OTLP", "in the clear"),
        ("http://127.0.0.1:4318/v1/traces", "ABSENT", "ABSENT does not hold name=value"),
        ("http://127.0.0.1:4318/v1/traces", "BAD", "BAD does not hold name=value"),
        ("http://127.0.0.1:4318/v1/traces", "LINES", "LINES does not hold name=value"),
    ],
)
def test_a_wrong_setting_is_an_error_with_its_fix(endpoint: str, headers: str, said: str) -> None:
    environment = {"OTLP": "a=b", "BAD": "novalue", "LINES": "a=b%0d%0ax: y"}
    with pytest.raises(ConfigError, match=said):
        TraceSender(TraceSettings(endpoint=endpoint, headers=headers), environment)


def test_without_the_package_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.proto.collector.trace.v1", None)
    with pytest.raises(ConfigError, match=r"pip install 'forecastle\[stream\]'"):
        TraceSender(TraceSettings(endpoint="http://127.0.0.1:4318/v1/traces"), {})


# --- in the loop ----------------------------------------------------------------------------------------------------


def traced(folder: Path, receiver: HookReceiver) -> Settings:
    return settings(folder, traces={"endpoint": f"http://127.0.0.1:{receiver.port}/v1/traces"})


def received(receiver: HookReceiver) -> list[Any]:
    return [span for _, _, body in receiver.got for span in all_spans(ExportTraceServiceRequest.FromString(body))]


def test_each_decided_plan_of_a_loop_is_traced(tmp_path: Path, receiver: HookReceiver) -> None:
    receiver.answers = [(200, {})] * 1000
    with working(traced(tmp_path, receiver), 10) as loop:
        ledger = loop.rooms.ledger
        made = {p.id for number in range(9) for p in ledger.plans(tick(number), "w") or ()}
    found = received(receiver)
    assert made
    assert {span.trace_id.hex() for span in found} == made
    for name in made:
        own = {span.name: span for span in found if span.trace_id.hex() == name}
        assert set(own) == {"tick", *ORDER}
        order = [own[part].start_time_unix_nano for part in ORDER]
        assert order == sorted(order)
    applied = [attributes(e)["forecastle.status"] for s in found for e in s.events]
    assert "APPLIED" in applied


def test_a_restart_traces_no_history(tmp_path: Path, receiver: HookReceiver) -> None:
    receiver.answers = [(200, {})] * 1000
    with working(traced(tmp_path, receiver), 10):
        pass
    receiver.got.clear()
    with working(traced(tmp_path, receiver), 14):
        pass
    ticks = [attributes(span) for span in received(receiver) if span.name == "tick"]
    assert sorted({one["forecastle.tick"] for one in ticks if not one["forecastle.resumed"]}) == [tick(n) for n in range(9, 13)]
    assert {one["forecastle.tick"] for one in ticks if one["forecastle.resumed"]} <= {tick(8)}


def test_without_an_endpoint_no_room_is_wrapped(tmp_path: Path) -> None:
    with working(settings(tmp_path), 3) as loop:
        assert type(loop.rooms.intake).__name__ == "MemoryIntake"
        assert type(loop.rooms.store).__name__ == "WindowStore"


def test_decisions_are_the_same_with_a_watch_around_them(tmp_path: Path, receiver: HookReceiver) -> None:
    receiver.answers = [(200, {})] * 1000
    found = []
    for name, watched in (("a", True), ("b", False)):
        folder = tmp_path / name
        folder.mkdir()
        with working(traced(folder, receiver) if watched else settings(folder), 12) as loop:
            plans = [p for number in range(11) for p in loop.rooms.ledger.plans(tick(number), "w") or ()]
            found.append([(p.tick, p.recommended, [(a.pool, a.desired) for a in p.actions]) for p in plans])
    assert found[0] == found[1]


def test_a_call_that_fails_is_measured_and_still_fails() -> None:
    watch, times = Stopwatch(iter(range(100)).__next__), []

    def fail() -> None:
        times.append("called")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        watch._timed("poll", fail)()
    assert watch.take() == [Lap("poll", 0, 1)]


def test_what_ticks_of_one_poll_share_is_kept_for_the_next() -> None:
    watch = Stopwatch(iter(range(100)).__next__)
    for name in ("poll", "window", "predict"):
        watch._timed(name, lambda: None)()
    assert [lap.name for lap in watch.take()] == ["poll", "window", "predict"]
    assert [lap.name for lap in watch.take()] == ["poll", "window"]


def test_a_clock_that_jumps_back_makes_no_negative_lap() -> None:
    watch = Stopwatch(iter([10, 5]).__next__)
    watch._timed("poll", lambda: None)()
    assert watch.take() == [Lap("poll", 10, 10)]
