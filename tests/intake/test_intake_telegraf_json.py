"""Telegraf's JSON: fields become series, texts are descriptions, units are settings, faults have names."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from intake_worlds import NOW, read, telegraf

from forecastle.intake.naming import Naming

SECONDS = NOW // 1000


def metrics(*ones: bytes) -> bytes:
    return b'{"metrics":[' + b",".join(one.strip() for one in ones) + b"]}"


def test_each_numeric_field_is_a_series_named_after_both() -> None:
    found = read("telegraf_json", telegraf({"usage_idle": 91.5, "usage_user": 8}))
    assert found.reasons == {}
    assert found.samples == [
        ('shop:cpu_usage_idle{host="a"}', NOW, 91.5),
        ('shop:cpu_usage_user{host="a"}', NOW, 8.0),
    ]


def test_a_field_called_value_lends_the_series_no_suffix() -> None:
    assert read("telegraf_json", telegraf({"value": 3})).samples == [('shop:cpu{host="a"}', NOW, 3.0)]


def test_a_batch_is_as_good_as_its_metrics() -> None:
    one, two = telegraf({"idle": 1}), telegraf({"idle": 2}, tags={"host": "b", "workload": "mail"})
    together, apart = read("telegraf_json", metrics(one, two)), read("telegraf_json", one, two)
    assert together.samples == apart.samples
    assert together.decoded.record.tolist() == [0, 0]
    spaced = b' { \n "metrics" : [' + one + b"] } "
    assert read("telegraf_json", spaced).samples == apart.samples[:1]


def test_an_empty_batch_says_nothing() -> None:
    found = read("telegraf_json", metrics())
    assert (found.samples, found.reasons) == ([], {})


def test_a_batch_is_refused_whole() -> None:
    found = read("telegraf_json", metrics(telegraf(), telegraf({"idle": True})), telegraf())
    assert found.reasons == {0: "wrong_type"}
    assert found.decoded.record.tolist() == [1]


def test_texts_are_descriptions_and_give_no_sample() -> None:
    found = read("telegraf_json", telegraf({"state": "running", "pid": 7}), telegraf({"state": "running"}))
    assert found.samples == [('shop:cpu_pid{host="a"}', NOW, 7.0)]
    assert found.reasons == {1: "no_value"}


@pytest.mark.parametrize(
    ("unit", "written"),
    [("1s", SECONDS), ("1ms", NOW), ("1us", NOW * 1000), ("1ns", NOW * 1_000_000)],
)
def test_the_unit_of_times_is_a_setting(unit: str, written: int) -> None:
    found = read("telegraf_json", telegraf(timestamp=written), naming=Naming(telegraf_unit=unit))
    assert [at for _, at, _ in found.samples] == [NOW]


def test_a_unit_that_is_not_the_producers_is_noticed() -> None:
    assert read("telegraf_json", telegraf(timestamp=NOW)).reasons == {0: "future"}


def test_times_finer_than_a_millisecond_are_cut_off() -> None:
    found = read("telegraf_json", telegraf(timestamp=NOW * 1_000_000 + 999_999), naming=Naming(telegraf_unit="1ns"))
    assert [at for _, at, _ in found.samples] == [NOW]


def raw(value: bytes, at: bytes = b"1700000000") -> bytes:
    return b'{"fields":{"idle":' + value + b'},"name":"cpu","tags":{"workload":"shop"},"timestamp":' + at + b"}"


FAULTS = {
    "NaN": (raw(b"NaN"), "not_json"),
    "infinity": (raw(b"Infinity"), "not_json"),
    "1e999": (raw(b"1e999"), "out_of_range"),
    "5,000 digits": (raw(b"1" * 5000), "out_of_range"),
    "a boolean": (raw(b"true"), "wrong_type"),
    "null": (raw(b"null"), "wrong_type"),
    "a list": (raw(b"[1]"), "wrong_type"),
    "a time with a fraction": (raw(b"1", b"1.5"), "wrong_type"),
    "a time in text": (raw(b"1", b'"1700000000"'), "wrong_type"),
    "a boolean time": (raw(b"1", b"true"), "wrong_type"),
    "a time before 1970": (raw(b"1", b"-1"), "out_of_range"),
    "a time of 5,000 digits": (raw(b"1", b"1" * 5000), "out_of_range"),
    "a time of 19 digits": (raw(b"1", b"9" * 18), "out_of_range"),
    "a time of 25 digits": (raw(b"1", b"9" * 25), "out_of_range"),
    "the future": (telegraf(timestamp=SECONDS + 61), "future"),
    "no fields": (telegraf({}), "no_value"),
    "fields as a list": (telegraf(fields=[1]), "wrong_type"),
    "an empty field name": (telegraf({"": 1}), "empty_name"),
    "an empty name": (telegraf(name=""), "empty_name"),
    "a name that is a number": (telegraf(name=1), "wrong_type"),
    "a tag that is a number": (telegraf(tags={"workload": 1}), "wrong_type"),
    "no workload": (telegraf(tags={"host": "a"}), "no_workload"),
    "no tags": (b'{"fields":{"a":1},"name":"cpu","timestamp":1}', "no_workload"),
    "no time": (b'{"fields":{"a":1},"name":"cpu","tags":{"workload":"w"}}', "missing_field"),
    "an unknown member": (telegraf(unit="s"), "unknown_field"),
    "a long name": (telegraf(name="m" * 300), "name_too_long"),
    "a long tag": (telegraf(tags={"workload": "w", "a": "x" * 1025}), "label_too_long"),
    "a repeated field": (telegraf().replace(b'"usage_idle":', b'"usage_idle":1,"usage_idle":'), "duplicate_key"),
    "a repeated tag": (telegraf().replace(b'"host":"a"', b'"host":"a","host":"b"'), "duplicate_key"),
    "a repeated tag, escaped": (telegraf().replace(b'"host":"a"', b'"host":"a","\\u0068ost":"b"'), "duplicate_key"),
    "repeated metrics": (b'{"metrics":[],"metrics":[]}', "duplicate_key"),
    "metrics and more": (b'{"metrics":[],"name":"cpu"}', "unknown_field"),
    "metrics that are no list": (b'{"metrics":{}}', "wrong_type"),
    "a metric that is none": (b'{"metrics":[1]}', "wrong_type"),
    "bad UTF-8": (telegraf().replace(b'"cpu"', b'"\xff"'), "bad_utf8"),
    "bad UTF-8 in a tag": (telegraf().replace(b'"shop"', b'"\xff"'), "bad_utf8"),
    "deep": (raw(b"[" * 100_000 + b"]" * 100_000), "wrong_type"),
    "deep tags": (telegraf().replace(b'"shop"', b"[" * 100_000 + b"]" * 100_000), "too_deep"),
    "cut off": (telegraf()[:-3], "not_json"),
    "two in one": (telegraf() + telegraf(), "not_json"),
    "a batch without its envelope": (b"[" + telegraf() + b"]", "wrong_type"),
    "line protocol": (b"cpu,workload=shop idle=1 1", "not_json"),
    "nothing": (b"", "empty"),
    "a tombstone": (None, "empty"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_refused_by_name_and_their_neighbours_live(fault: str) -> None:
    message, reason = FAULTS[fault]
    found = read("telegraf_json", telegraf(), message, telegraf({"value": 2}))
    assert found.reasons == {1: reason}
    assert [value for _, _, value in found.samples] == [91.5, 2.0]


def test_a_time_beyond_64_bits_of_milliseconds_is_refused_in_every_unit() -> None:
    for unit in ("1s", "1ms", "1us", "1ns"):
        found = read("telegraf_json", raw(b"1", str((1 << 63) - 1).encode()), naming=Naming(telegraf_unit=unit))
        assert found.reasons == {0: "out_of_range" if unit == "1s" else "future"}


fields = st.dictionaries(
    st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=6),
    st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(1 << 53), 1 << 53),
    min_size=1,
    max_size=5,
)


@given(fields, st.integers(0, SECONDS))
def test_whatever_telegraf_measured_arrives(measured: dict[str, float], at: int) -> None:
    message = json.dumps({"fields": measured, "name": "m", "tags": {"workload": "w"}, "timestamp": at}).encode()
    found = read("telegraf_json", message)
    assert found.reasons == {}
    expected = {f"w:m_{name}" if name != "value" else "w:m": float(value) for name, value in measured.items()}
    assert {series: value for series, _, value in found.samples} == expected
    assert {when for _, when, _ in found.samples} == {at * 1000}
