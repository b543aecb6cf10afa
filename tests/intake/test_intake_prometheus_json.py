"""prometheus-kafka-adapter's messages: what becomes a sample, what says nothing, and what is refused by name."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from intake_worlds import NOW, adapter, read

from forecastle.errors import Malformed
from forecastle.intake.codecs.prometheus_json import number_in


def labels(**values: str) -> dict[str, str]:
    return {"__name__": "requests", "job": "shop", **values}


def test_a_sample_keeps_its_labels_but_for_the_workload_and_the_name() -> None:
    found = read("prometheus_json", adapter("12.5"))
    assert found.reasons == {}
    assert found.samples == [('shop:requests{instance="10.0.0.1:80"}', NOW, 12.5)]


def test_order_of_members_and_labels_makes_no_other_series() -> None:
    turned = (
        b'{"value":"2","name":"requests","labels":{"job":"shop","instance":"10.0.0.1:80"},"timestamp":"2023-11-14T22:13:20Z"}'
    )
    found = read("prometheus_json", adapter("1"), turned)
    assert [value for _, _, value in found.samples] == [1.0, 2.0]
    assert len(found.table) == 1


@pytest.mark.parametrize(
    ("stamp", "at"),
    [
        ("2023-11-14T22:13:20Z", NOW),
        ("2023-11-14T23:13:20+01:00", NOW),
        ("2023-11-14T22:13:20.25Z", NOW + 250),
        ("2023-11-14T22:13:20.0009Z", NOW),
        ("1970-01-01T00:00:00Z", 0),
    ],
)
def test_times_are_rfc_3339(stamp: str, at: int) -> None:
    assert [when for _, when, _ in read("prometheus_json", adapter(timestamp=stamp)).samples] == [at]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0.0),
        ("-0", 0.0),
        ("1", 1.0),
        ("+1", 1.0),
        ("1e3", 1000.0),
        ("1.5E-3", 0.0015),
        ("0.000001", 1e-6),
        (".5", 0.5),
        ("5.", 5.0),
    ],
)
def test_values_are_numbers_in_text(text: str, value: float) -> None:
    assert [found for _, _, found in read("prometheus_json", adapter(text)).samples] == [value]


def test_not_a_number_says_nothing_and_is_no_fault() -> None:
    found = read("prometheus_json", adapter("1"), adapter("NaN"), adapter("3"))
    assert found.reasons == {}
    assert found.decoded.record.tolist() == [0, 2]


FAULTS = {
    "infinity": (adapter("+Inf"), "not_finite"),
    "minus infinity": (adapter("-Inf"), "not_finite"),
    "infinity without a sign": (adapter("Inf"), "not_finite"),
    "1e999": (adapter("1e999"), "out_of_range"),
    "5,000 digits": (adapter("1" * 5000), "out_of_range"),
    "a word": (adapter("many"), "wrong_type"),
    "nothing for a value": (adapter(""), "wrong_type"),
    "another spelling of NaN": (adapter("nan"), "wrong_type"),
    "another spelling of infinity": (adapter("infinity"), "wrong_type"),
    "underscores": (adapter("1_000"), "wrong_type"),
    "blanks": (adapter(" 1"), "wrong_type"),
    "hexadecimal": (adapter("0x10"), "wrong_type"),
    "Arabic digits": (adapter("٣"), "wrong_type"),
    "a number that is no text": (adapter(value=1.5), "wrong_type"),
    "a boolean": (adapter(value=True), "wrong_type"),
    "null": (adapter(value=None), "wrong_type"),
    "a time without a zone": (adapter(timestamp="2023-11-14T22:13:20"), "wrong_type"),
    "a time in seconds": (adapter(timestamp=1_700_000_000), "wrong_type"),
    "a day that is none": (adapter(timestamp="2023-02-30T00:00:00Z"), "wrong_type"),
    "before 1970": (adapter(timestamp="1969-12-31T23:59:59Z"), "absurd_time"),
    "the future": (adapter(timestamp="2023-11-14T22:14:20.001Z"), "future"),
    "an unknown member": (adapter(unit="s"), "unknown_field"),
    "no name": (b'{"timestamp":"2023-11-14T22:13:20Z","value":"1","labels":{}}', "missing_field"),
    "no workload": (adapter(labels={"__name__": "requests"}), "no_workload"),
    "an empty workload": (adapter(labels=labels(job="")), "no_workload"),
    "an empty name": (adapter(name="", labels={"job": "shop"}), "empty_name"),
    "two names": (adapter(name="errors"), "name_mismatch"),
    "labels as a list": (adapter(labels=["job"]), "wrong_type"),
    "a label that is a number": (adapter(labels=labels() | {"code": 200}), "wrong_type"),
    "a long label": (adapter(labels=labels(path="x" * 1025)), "label_too_long"),
    "many labels": (adapter(labels=labels(**{f"l{i}": "x" for i in range(40)})), "too_many_labels"),
    "a repeated label": (adapter().replace(b'"job":"shop"', b'"job":"shop","job":"mail"'), "duplicate_key"),
    "a repeated member": (adapter().replace(b'"name":', b'"name":"requests","name":'), "duplicate_key"),
    "a repeated member, escaped": (adapter().replace(b'"name":', b'"n\\u0061me":"errors","name":'), "duplicate_key"),
    "bad UTF-8": (adapter().replace(b"10.0.0.1", b"10.\xff.0.1"), "bad_utf8"),
    "bad UTF-8 in the name": (adapter().replace(b'"name":"requests"', b'"name":"\xff"'), "bad_utf8"),
    "bad UTF-8 in a member said twice": (
        adapter().replace(b"10.0.0.1", b"10.\xff.0.1").replace(b'"name":', b'"value":"1","name":'),
        "bad_utf8",
    ),
    "deep labels": (adapter().replace(b'"shop"', b"[" * 100_000 + b"]" * 100_000), "too_deep"),
    "cut off": (adapter()[:-1], "not_json"),
    "two in one": (adapter() + adapter(), "not_json"),
    "a list": (b"[" + adapter() + b"]", "wrong_type"),
    "nothing": (b"", "empty"),
    "a tombstone": (None, "empty"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_refused_by_name_and_their_neighbours_live(fault: str) -> None:
    message, reason = FAULTS[fault]
    found = read("prometheus_json", adapter("1"), message, adapter("2"))
    assert found.reasons == {1: reason}
    assert [value for _, _, value in found.samples] == [1.0, 2.0]


def test_a_label_with_quotation_marks_is_no_repetition() -> None:
    found = read("prometheus_json", adapter(labels=labels(path='"a"')), adapter(labels=labels(path='"a"')))
    assert found.reasons == {}
    assert found.table.keys[0].label("path") == '"a"'


def test_spellings_of_the_same_labels_cannot_fill_the_memory() -> None:
    from forecastle.intake.codecs import open_codec
    from forecastle.intake.series import SeriesTable

    table = SeriesTable(1)
    codec = open_codec("prometheus_json", table)
    for start in range(0, 4000, 500):
        spelled = [b" " * n for n in range(start, start + 500)]
        values = [adapter().replace(b'"labels":{', b'"labels":{' + blanks) for blanks in spelled]
        assert codec.decode(values, NOW).refused == ()
    assert len(codec._known) <= 4 * 1 + 1024 + 500  # type: ignore[attr-defined]
    assert len(table) == 1


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_finite_number_comes_back(value: float) -> None:
    assert number_in(repr(value)) == value
    message = json.dumps({"timestamp": "2023-11-14T22:13:20Z", "value": repr(value), "name": "m", "labels": {"job": "j"}})
    assert read("prometheus_json", message.encode()).samples == [("j:m", NOW, value)]


@given(st.text(max_size=12))
def test_any_text_is_a_number_or_refused(text: str) -> None:
    reason, value = "", None
    try:
        value = number_in(text)
    except Malformed as error:
        reason = error.reason
    if reason:
        assert reason in {"wrong_type", "out_of_range", "not_finite"}
    else:
        assert text == "NaN" if value is None else value == float(text)
