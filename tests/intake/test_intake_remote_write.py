"""Bodies of Prometheus remote write: snappy outside, protobuf inside, NaN as silence, bombs refused unopened."""

from __future__ import annotations

import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from intake_worlds import NOW, STALE, Written, read, written

from forecastle.errors import Malformed
from forecastle.intake.codecs.remote_write import MAX_UNPACKED, messages, pack, unpack

# a request by hand, as protoc would write it: one series, {__name__="up", job="shop"}, value 1.5 at 1700000000000
BY_HAND = (
    b"\x0a\x2f"
    b"\x0a\x0e\x0a\x08__name__\x12\x02up"
    b"\x0a\x0b\x0a\x03job\x12\x04shop"
    b"\x12\x10\x09\x00\x00\x00\x00\x00\x00\xf8\x3f\x10\x80\xd0\x95\xff\xbc\x31"
)


def varint(number: int) -> bytes:
    out = b""
    while number >= 0x80:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def field(number: int, body: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(body)) + body


def test_a_request_written_by_hand_is_understood() -> None:
    found = read("remote_write", pack(BY_HAND))
    assert found.reasons == {}
    assert found.samples == [("shop:up", NOW, 1.5)]


def test_series_keep_their_order_and_samples() -> None:
    request = Written().add([(NOW, 1.0), (NOW + 1, 2.0)], zone="a").add([(NOW, 3.0)], job="mail")
    found = read("remote_write", request.block, written((NOW, 4.0), zone="a"))
    assert found.reasons == {}
    assert found.samples == [
        ('shop:requests{site="a"}', NOW, 1.0),
        ('shop:requests{site="a"}', NOW + 1, 2.0),
        ("mail:requests", NOW, 3.0),
        ('shop:requests{site="a"}', NOW, 4.0),
    ]
    assert found.decoded.record.tolist() == [0, 0, 0, 1]


def test_the_marker_of_a_series_that_ended_says_nothing() -> None:
    stale = struct.unpack("<d", STALE)[0]
    assert math.isnan(stale)
    assert STALE in Written().add([(NOW, stale)]).body
    found = read("remote_write", Written().add([(NOW - 1, 1.0), (NOW, stale)]).add([(NOW, stale)], job="gone").block)
    assert found.reasons == {}
    assert found.samples == [("shop:requests", NOW - 1, 1.0)]
    assert len(found.table) == 1, "a series that never had a value takes no place"


def test_a_quantile_of_nothing_does_not_cost_its_neighbours() -> None:
    request = Written().add([(NOW, math.nan)], quantile="0.5").add([(NOW, 2.0)])
    found = read("remote_write", request.block)
    assert (found.reasons, [value for _, _, value in found.samples]) == ({}, [2.0])


def test_labels_without_a_value_are_labels_that_are_not_there() -> None:
    found = read("remote_write", written(instance=""), written())
    assert [series for series, _, _ in found.samples] == ["shop:requests"] * 2


def test_metadata_exemplars_histograms_and_unknown_fields_are_left_out() -> None:
    series = BY_HAND[2:] + field(3, b"\x11" + struct.pack("<d", 9.0)) + field(4, b"\x0a\x01x") + field(9, b"new")
    metadata = field(3, b"\x08\x01" + field(2, b"up") + field(4, b"help"))
    found = read("remote_write", pack(field(1, series) + metadata + field(7, b"new")), pack(metadata), pack(b""))
    assert found.reasons == {}
    assert found.samples == [("shop:up", NOW, 1.5)]


def test_a_sample_without_a_value_is_zero_as_protobuf_has_it() -> None:
    series = BY_HAND[2:31] + field(2, b"\x10\x80\xd0\x95\xff\xbc\x31")
    assert [value for _, _, value in read("remote_write", pack(field(1, series))).samples] == [0.0]


def bare(*labels: tuple[bytes, bytes]) -> bytes:
    raw = [messages()["Label"](name=name, value=value).SerializeToString() for name, value in labels]
    request = messages()["WriteRequest"]()
    request.timeseries.add(labels=raw, samples=[messages()["Sample"](timestamp=NOW, value=1.0)])
    return pack(request.SerializeToString())


NAMED, OWNED = (b"__name__", b"up"), (b"job", b"shop")
FAULTS = {
    "infinity": (written((NOW, math.inf)), "not_finite"),
    "minus infinity": (written((NOW, 1.0), (NOW, -math.inf)), "not_finite"),
    "the future": (written((NOW + 60_001, 1.0)), "future"),
    "before 1970": (written((-1, 1.0)), "absurd_time"),
    "the least time": (written((-(1 << 63), 1.0)), "absurd_time"),
    "the last time": (written(((1 << 63) - 1, 1.0)), "future"),
    "no workload": (written(job=""), "no_workload"),
    "no labels": (bare(), "no_workload"),
    "no name": (bare(OWNED), "empty_name"),
    "an empty name": (bare((b"__name__", b""), OWNED), "empty_name"),
    "two names": (bare(NAMED, (b"__name__", b"down"), OWNED), "duplicate_label"),
    "the same name twice": (bare(NAMED, NAMED, OWNED), "duplicate_label"),
    "a repeated label": (bare(NAMED, OWNED, (b"a", b"1"), (b"a", b"2")), "duplicate_label"),
    "a nameless label": (bare(NAMED, OWNED, (b"", b"1")), "empty_name"),
    "a long label": (written(path="x" * 1025), "label_too_long"),
    "many labels": (written(**{f"l{i}": "x" for i in range(40)}), "too_many_labels"),
    "bad UTF-8": (bare(NAMED, (b"job", b"\xff")), "bad_utf8"),
    "one bad series among good ones": (Written().add().add(job="").add().block, "no_workload"),
    "not packed": (Written().add().body, "not_snappy"),
    "packed twice": (pack(written()), "not_protobuf"),
    "the framed kind of snappy": (b"\xff\x06\x00\x00sNaPpY" + b"\x00" * 20, "not_snappy"),
    "cut off": (written()[:-1], "not_snappy"),
    "more than it says": (written() + b"x", "not_snappy"),
    "no protobuf": (pack(b"\xff" * 40), "not_protobuf"),
    "a label that is none": (pack(field(1, field(1, b"\xff\xff") + field(2, b"\x10\x01"))), "not_protobuf"),
    "JSON": (pack(b'{"timeseries": []}'), "not_protobuf"),
    "a number for a value": (pack(field(1, field(2, b"\x08\x01\x10"))), "not_protobuf"),
    "nothing": (b"", "empty"),
    "a tombstone": (None, "empty"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_refused_by_name_and_their_neighbours_live(fault: str) -> None:
    message, reason = FAULTS[fault]
    found = read("remote_write", written((NOW, 1.0)), message, written((NOW, 2.0)))
    assert found.reasons == {1: reason}
    assert [value for _, _, value in found.samples] == [1.0, 2.0]


# --- the block --------------------------------------------------------------------------------------------------------


def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    bomb = pack(b"\x00" * (MAX_UNPACKED + 1))
    assert len(bomb) < MAX_UNPACKED // 15
    assert read("remote_write", bomb).reasons == {0: "too_large"}
    assert unpack(pack(b"\x00" * 1000), limit=1000) == b"\x00" * 1000
    with pytest.raises(Malformed, match="1001 bytes unpacked, 1000 are allowed"):
        unpack(pack(b"\x00" * 1001), limit=1000)


@pytest.mark.parametrize("size", [1 << 31, (1 << 32) - 1, 1 << 34])
def test_a_block_that_promises_gigabytes_is_not_believed(size: int) -> None:
    with pytest.raises(Malformed, match="too_large"):
        unpack(varint(size) + b"\x00")


@pytest.mark.parametrize(
    "block", [b"\x80", b"\x80\x80\x80\x80\x80", b"\x05\x00", b"\x05\x10hell", b"\x0a\x01\x05", b"\xff" * 9 + b"\x01"]
)
def test_a_block_that_is_none_is_said_to_be_none(block: bytes) -> None:
    with pytest.raises(Malformed, match=r"not_snappy|too_large"):
        unpack(block)


@given(st.binary(max_size=2000))
def test_blocks_come_back(body: bytes) -> None:
    assert unpack(pack(body)) == body


@given(st.binary(max_size=60))
def test_any_bytes_are_a_block_or_refused(block: bytes) -> None:
    try:
        body = unpack(block, limit=1 << 16)
    except Malformed as error:
        reason = error.reason
    else:
        reason = ""
        assert unpack(pack(body)) == body
    assert reason in {"", "not_snappy", "too_large"}


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["shop", "mail"]),
            st.lists(st.tuples(st.integers(0, NOW), st.floats(allow_nan=False, allow_infinity=False)), max_size=4),
        ),
        max_size=5,
    )
)
def test_whatever_prometheus_sends_arrives(sent: list[tuple[str, list[tuple[int, float]]]]) -> None:
    request = Written()
    for job, samples in sent:
        request.add(samples, job=job)
    found = read("remote_write", request.block)
    assert found.reasons == {}
    assert found.samples == [(f"{job}:requests", at, value) for job, samples in sent for at, value in samples]
