"""Points read by their heads are the points that the standard classes read, whatever the encoder and the order."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.metrics.v1.metrics_pb2 import MetricsData

from forecastle.intake.codecs import open_codec
from forecastle.intake.series import SeriesTable

AT = 1_760_000_000_000_000_000
FAR = 2_000_000_000_000


def message(points: list[dict[str, Any]], kind: str = "gauge") -> bytes:
    data = MetricsData()
    source = data.resource_metrics.add()
    source.resource.attributes.add(key="service.name").value.string_value = "shop"
    metric = source.scope_metrics.add().metrics.add(name="requests")
    for point in points:
        made = getattr(metric, kind).data_points.add(time_unix_nano=point["at"])
        if point.get("start"):
            made.start_time_unix_nano = point["start"]
        if point.get("value") is not None:
            setattr(made, "as_int" if isinstance(point["value"], int) else "as_double", point["value"])
        made.flags = point.get("flags", 0)
        if point.get("exemplar"):
            made.exemplars.add(time_unix_nano=point["at"], as_double=1.0)
        made.attributes.add(key="route").value.string_value = point["route"]
    return data.SerializeToString()


def read(codec: Any, table: SeriesTable, *messages: bytes) -> list[tuple[int, str, int, float]]:
    decoded = codec.decode(list(messages), FAR)
    assert not decoded.refused
    routes = [table.keys[number].label("route") for number in decoded.series]
    return list(zip(decoded.record.tolist(), routes, decoded.at.tolist(), decoded.value.tolist(), strict=True))


def told(number: int, points: list[dict[str, Any]]) -> list[tuple[int, str, int, float]]:
    """What the points say, worked out without the codec."""
    kept = [point for point in points if not (point["value"] is None and point["flags"] & 1)]
    return [(number, point["route"], point["at"] // 1_000_000, float(point["value"])) for point in kept]


POINT = st.fixed_dictionaries(
    {
        "at": st.integers(AT, AT + 10**12),
        "start": st.sampled_from([0, AT - 1]),
        "value": st.one_of(st.floats(-1e12, 1e12), st.integers(-(2**53), 2**53)),
        "flags": st.just(0),
        "exemplar": st.booleans(),
        "route": st.sampled_from(["a", "b", "longer/route"]),
    }
)
ABSENT = POINT.map(lambda point: {**point, "value": None, "flags": 1})


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.one_of(POINT, POINT, POINT, ABSENT), min_size=1, max_size=6), min_size=1, max_size=5))
def test_known_or_new_every_point_is_read_as_it_was_written(rounds):
    table = SeriesTable(100)
    codec = open_codec("otlp_proto", table)
    expected = [row for number, points in enumerate(rounds) for row in told(number, points)]
    messages = [message(points) for points in rounds]
    assert read(codec, table, *messages) == expected
    assert read(codec, table, *messages) == expected


@pytest.mark.parametrize("value", [2.5, 7, 0.0, 0, -1.5])
@pytest.mark.parametrize("start", [0, AT - 5])
@pytest.mark.parametrize("kind", ["gauge", "sum"])
def test_points_of_known_series_are_not_parsed(value, start, kind, monkeypatch):
    table = SeriesTable(100)
    codec = open_codec("otlp_proto", table)
    points = [{"at": AT + i * 10**9, "start": start, "value": value, "flags": 0, "route": "ab"[i % 2]} for i in range(4)]
    assert read(codec, table, message(points, kind)) == told(0, points)
    monkeypatch.setattr(codec, "_numbers", lambda *_: pytest.fail("a point of a known series was parsed"))
    later = [{**point, "at": point["at"] + 10**10} for point in points]
    assert read(codec, table, message(later, kind)) == told(0, later)


def test_exemplars_do_not_fill_the_cache():
    table = SeriesTable(100)
    codec = open_codec("otlp_proto", table)
    for i in range(50):
        read(codec, table, message([{"at": AT + i, "value": 1.0, "exemplar": True, "flags": 0, "route": "a"}]))
    (known,) = codec._known.values()
    assert not known.tails
    assert len(known.attributes) == 1


def field(number: int, kind: int, raw: bytes) -> bytes:
    return bytes([number << 3 | kind]) + raw


def hand_made(*points: bytes) -> bytes:
    """A message whose points are the given bytes, in an encoding that no protobuf library would choose."""
    data = MetricsData.FromString(message([]))
    raw = b"".join(field(1, 2, bytes([len(point)])) + point for point in points)
    metric = field(1, 2, bytes([8])) + b"requests" + field(5, 2, bytes([len(raw)])) + raw
    scope = field(2, 2, bytes([len(metric)])) + metric
    resource = field(1, 2, bytes([data.resource_metrics[0].resource.ByteSize()]))
    resource += data.resource_metrics[0].resource.SerializeToString()
    whole = resource + field(2, 2, bytes([len(scope)])) + scope
    return field(1, 2, bytes([len(whole)])) + whole


ROUTE = field(7, 2, b"\x0c") + b"\x0a\x05route\x12\x03\x0a\x01a"
TIME = field(3, 1, struct.pack("<Q", AT))


def double(value: float) -> bytes:
    return field(4, 1, struct.pack("<d", value))


def test_a_value_that_comes_again_behind_the_attributes_wins_always():
    table = SeriesTable(100)
    codec = open_codec("otlp_proto", table)
    plain, twice = TIME + double(1.0) + ROUTE, TIME + double(1.0) + ROUTE + double(2.0)
    for _ in range(3):
        rows = read(codec, table, hand_made(plain), hand_made(twice), hand_made(plain, twice))
        assert [row[3] for row in rows] == [1.0, 2.0, 1.0, 2.0]


def test_any_order_of_fields_is_read():
    table = SeriesTable(100)
    codec = open_codec("otlp_proto", table)
    for _ in range(3):
        rows = read(codec, table, hand_made(ROUTE + TIME + double(3.0)), hand_made(double(4.0) + ROUTE + TIME))
        assert [row[1:] for row in rows] == [("a", AT // 1_000_000, 3.0), ("a", AT // 1_000_000, 4.0)]


@pytest.mark.parametrize(
    ("point", "reason"),
    [
        (field(3, 1, struct.pack("<Q", 0)) + double(1.0) + ROUTE, "absurd_time"),
        (TIME + ROUTE, "no_value"),
        (TIME + double(float("nan")) + ROUTE, "not_finite"),
        (TIME + double(float("inf")) + ROUTE, "not_finite"),
        (TIME + double(1.0) + ROUTE[:-1], "not_protobuf"),
        (TIME[:-2], "not_protobuf"),
        (field(3, 1, struct.pack("<Q", 1 << 63)) + double(1.0) + ROUTE, "future"),
    ],
)
def test_a_bad_point_is_refused_known_series_or_not(point, reason):
    table = SeriesTable(100)
    codec = open_codec("otlp_proto", table)
    good = hand_made(TIME + double(1.0) + ROUTE)
    for _ in range(2):
        decoded = codec.decode([good, hand_made(point), good], FAR)
        assert [(refused.record, refused.reason) for refused in decoded.refused] == [(1, reason)]
        assert decoded.record.tolist() == [0, 2]


@pytest.mark.parametrize("kind", ["gauge", "sum", "histogram", "exponential_histogram", "summary"])
def test_a_name_that_is_not_utf8_is_refused_whatever_is_counted_under_it(kind):
    data = MetricsData()
    source = data.resource_metrics.add()
    source.resource.attributes.add(key="service.name").value.string_value = "shop"
    made = getattr(source.scope_metrics.add().metrics.add(name="took"), kind).data_points.add(time_unix_nano=AT)
    if kind in ("gauge", "sum"):
        made.as_double = 1.0
    good = data.SerializeToString()
    table = SeriesTable(100)
    decoded = open_codec("otlp_proto", table).decode([good, good.replace(b"took", b"\xf4ook"), good], FAR)
    assert [(refused.record, refused.reason) for refused in decoded.refused] == [(1, "bad_utf8")]
    assert set(decoded.record.tolist()) == {0, 2}
    assert all(key.metric.startswith("took") for key in table.keys)
