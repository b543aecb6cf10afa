"""InfluxDB's line protocol: its escapes, its kinds of numbers, and lines that are none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from intake_worlds import NOW, line, read

NS = f"{NOW}000000"


def test_each_numeric_field_is_a_series_named_after_both() -> None:
    found = read("influx", line("usage_idle=91.5,usage_user=8i,value=7u"))
    assert found.reasons == {}
    assert found.samples == [
        ('shop:cpu_usage_idle{host="a"}', NOW, 91.5),
        ('shop:cpu_usage_user{host="a"}', NOW, 8.0),
        ('shop:cpu{host="a"}', NOW, 7.0),
    ]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[("1", 1.0), ("-1", -1.0), ("+1", 1.0), ("1.", 1.0), (".5", 0.5), ("-.5", -0.5), ("1.25", 1.25)],
        *[("1e3", 1000.0), ("1E+3", 1000.0), ("1.5e-3", 0.0015), ("0i", 0.0), ("-7i", -7.0), ("7u", 7.0)],
        *[("9223372036854775807i", 2.0**63), ("-9223372036854775808i", -(2.0**63)), ("18446744073709551615u", 2.0**64)],
    ],
)
def test_numbers_of_every_kind(text: str, value: float) -> None:
    assert [found for _, _, found in read("influx", line(f"x={text}")).samples] == [value]


def test_a_message_of_many_lines_with_comments_and_blank_ones() -> None:
    text = b"# made by telegraf\n\n" + line("a=1") + b"\r\n" + line("a=2").replace(b"\n", b"\r\n") + b"# the end"
    found = read("influx", text, line("a=3").strip())
    assert found.reasons == {}
    assert [value for _, _, value in found.samples] == [1.0, 2.0, 3.0]
    assert found.decoded.record.tolist() == [0, 0, 1]


def test_a_message_of_comments_says_nothing() -> None:
    found = read("influx", b"# nothing\n")
    assert (found.samples, found.reasons) == ([], {})


@pytest.mark.parametrize(
    ("written", "metric", "labels"),
    [
        (r"disk\ io,workload=w", "disk io_x", {}),
        (r"disk\,io,workload=w", "disk,io_x", {}),
        ("disk=io,workload=w", "disk=io_x", {}),
        (r"disk\=io,workload=w", "disk=io_x", {}),
        (r"disk,workload=w,path=/a\ b", "disk_x", {"path": "/a b"}),
        (r"disk,workload=w,path=a\,b", "disk_x", {"path": "a,b"}),
        (r"disk,workload=w,path=a\=b", "disk_x", {"path": "a=b"}),
        (r"disk,workload=w,the\ path=a", "disk_x", {"the path": "a"}),
        (r"disk,workload=w,a\,b\=c=d", "disk_x", {"a,b=c": "d"}),
        (r"disk,workload=w,path=C:\temp", "disk_x", {"path": r"C:\temp"}),
        (r"disk,workload=w,path=C:\\temp", "disk_x", {"path": r"C:\\temp"}),
        (r"disk,workload=w,path=a\\,b", "disk_x", {"path": r"a\,b"}),
        ('disk,workload=w,path="a"', "disk_x", {"path": '"a"'}),
        ("disk,workload=w,path=größe☃", "disk_x", {"path": "größe☃"}),
        (r"\disk,workload=w", r"\disk_x", {}),
    ],
)
def test_escapes_in_names_and_tags(written: str, metric: str, labels: dict[str, str]) -> None:
    found = read("influx", line("x=1", head=written))
    assert found.reasons == {}
    assert (found.table.keys[0].workload, found.table.keys[0].metric) == ("w", metric)
    assert dict(found.table.keys[0].labels) == labels


@pytest.mark.parametrize(
    ("written", "metric"),
    [(r"a\ b=1", "cpu_a b"), (r"a\,b=1", "cpu_a,b"), (r"a\=b=1", "cpu_a=b"), (r"a\b=1", r"cpu_a\b")],
)
def test_escapes_in_field_names(written: str, metric: str) -> None:
    assert [key.metric for key in read("influx", line(written)).table.keys] == [metric]


@pytest.mark.parametrize(
    "text",
    ['"running"', '""', '"a, b=2"', r'"say \"no\" to it"', r'"back\\"', '"one\ntwo"', r'"a\nb"', '"#"'],
)
def test_texts_are_skipped_whatever_is_in_them(text: str) -> None:
    found = read("influx", line(f"state={text},x=1") + line(f"x=2,state={text}"))
    assert found.reasons == {}
    assert [(series, value) for series, _, value in found.samples] == [
        ('shop:cpu_x{host="a"}', 1.0),
        ('shop:cpu_x{host="a"}', 2.0),
    ]


def test_a_line_of_texts_alone_has_no_value() -> None:
    assert read("influx", line('uptime="3 days"')).reasons == {0: "no_value"}


def test_tags_in_any_order_are_one_series() -> None:
    found = read("influx", line("x=1", head="cpu,host=a,workload=w"), line("x=2", head="cpu,workload=w,host=a"))
    assert [series for series, _, _ in found.samples] == ['w:cpu_x{host="a"}'] * 2


@pytest.mark.parametrize(("written", "at"), [("0", 0), ("1", 0), ("999999", 0), ("1000000", 1), (NS, NOW)])
def test_times_are_nanoseconds(written: str, at: int) -> None:
    assert [when for _, when, _ in read("influx", line("x=1", at=written)).samples] == [at]


FAULTS = {
    "true": (line("x=true"), "wrong_type"),
    "t": (line("x=t"), "wrong_type"),
    "FALSE": (line("x=FALSE"), "wrong_type"),
    "a boolean beside a number": (line("x=1,up=T"), "wrong_type"),
    "NaN": (line("x=NaN"), "wrong_type"),
    "infinity": (line("x=+Inf"), "wrong_type"),
    "1e999": (line("x=1e999"), "out_of_range"),
    "minus 1e999": (line("x=-1e999"), "out_of_range"),
    "5,000 digits": (line("x=" + "1" * 5000), "out_of_range"),
    "an integer of 5,000 digits": (line("x=" + "1" * 5000 + "i"), "out_of_range"),
    "an integer of 25 digits": (line("x=" + "1" * 25 + "i"), "wrong_type"),
    "an integer of 65 bits": (line("x=9223372036854775808i"), "out_of_range"),
    "an unsigned integer of 65 bits": (line("x=18446744073709551616u"), "out_of_range"),
    "a negative unsigned integer": (line("x=-1u"), "out_of_range"),
    "a fraction as integer": (line("x=1.5i"), "wrong_type"),
    "an integer with an exponent": (line("x=1e3i"), "wrong_type"),
    "underscores": (line("x=1_000"), "wrong_type"),
    "hexadecimal": (line("x=0x10"), "wrong_type"),
    "Arabic digits": (line("x=٣"), "wrong_type"),
    "an exponent without digits": (line("x=1e"), "wrong_type"),
    "a point alone": (line("x=."), "wrong_type"),
    "no value": (line("x="), "not_influx"),
    "no value before the next": (line("x=,y=1"), "not_influx"),
    "no equals sign": (line("x"), "not_influx"),
    "no field name": (line("=1"), "empty_name"),
    "a comma at the end": (line("x=1,"), "not_influx"),
    "two commas": (line("x=1,,y=2"), "not_influx"),
    "a text that is not closed": (line('x="abc'), "not_influx"),
    "a text that goes on": (line('x="abc"d'), "missing_field"),
    "a quotation mark in a number": (line('x=1"2"'), "missing_field"),
    "a repeated field": (line("x=1,x=2"), "duplicate_key"),
    "a repeated text": (line('s="a",s="b",x=1'), "duplicate_key"),
    "a repeated tag": (line(head="cpu,workload=w,a=1,a=2"), "duplicate_label"),
    "an empty tag": (line(head="cpu,workload=w,a="), "empty_name"),
    "a nameless tag": (line(head="cpu,workload=w,=a"), "empty_name"),
    "a tag without a value": (line(head="cpu,workload=w,a"), "not_influx"),
    "a tag with two equals signs": (line(head="cpu,workload=w,a=b=c"), "not_influx"),
    "a comma after the tags": (line(head="cpu,workload=w,"), "not_influx"),
    "no measurement": (line(head=",workload=w"), "empty_name"),
    "a blank first": (b" " + line(), "not_influx"),
    "no workload": (line(head="cpu,host=a"), "no_workload"),
    "a long tag": (line(head="cpu,workload=w,a=" + "x" * 1025), "label_too_long"),
    "a long measurement": (line(head="m" * 300 + ",workload=w"), "name_too_long"),
    "no time": (b"cpu,workload=w x=1\n", "missing_field"),
    "a time that is none": (line(at="now"), "missing_field"),
    "a time with a fraction": (line(at="1.5"), "not_influx"),
    "a time with a sign": (line(at="+1"), "missing_field"),
    "a time before 1970": (line(at="-1000000"), "absurd_time"),
    "a time of 65 bits": (line(at="9223372036854775808"), "out_of_range"),
    "a time of 5,000 digits": (line(at="1" * 5000), "not_influx"),
    "two times": (line(at="1 2"), "not_influx"),
    "two blanks": (b"cpu,workload=w  x=1 1", "not_influx"),
    "the future": (line(at=f"{NOW + 60_001}000000"), "future"),
    "one bad line among good ones": (line() + line("x=") + line(), "not_influx"),
    "JSON": (b'{"fields": {"x": 1}}', "not_influx"),
    "bad UTF-8": (b"cpu,workload=\xff x=1 1", "bad_utf8"),
    "white space": (b" \r\n\t", "empty"),
    "nothing": (b"", "empty"),
    "a tombstone": (None, "empty"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_refused_by_name_and_their_neighbours_live(fault: str) -> None:
    message, reason = FAULTS[fault]
    found = read("influx", line("x=1"), message, line("x=2"))
    assert found.reasons == {1: reason}
    assert [value for _, _, value in found.samples] == [1.0, 2.0]


@pytest.mark.parametrize(
    "hostile",
    [
        b"\\" * 300_000,
        b"\\ " * 150_000,
        b"cpu," + b"a=" * 100_000,
        b"cpu,workload=w x=" + b'"\\"' * 100_000,
        b"cpu,workload=w " + b"x," * 100_000,
        b"cpu,workload=w x=" + b"1" * 300_000,
        b"#" * 300_000 + b"\n" + b"," * 1000,
    ],
)
def test_a_hostile_line_is_read_once_and_refused(hostile: bytes) -> None:
    """Were any pattern to go back over what it has read, this would take hours and not end in time."""
    assert set(read("influx", hostile).reasons) == {0}


# --- whatever a producer may write comes back -------------------------------------------------------------------------

name = st.text(st.characters(codec="utf-8", exclude_characters="\x00\r\n\\#"), min_size=1, max_size=8).filter(str.strip)
number = st.floats(allow_nan=False, allow_infinity=False)


def escaped(text: str) -> str:
    """As Telegraf's serializer escapes names and tags."""
    for mark in ", =":
        text = text.replace(mark, "\\" + mark)
    return text


@given(name, st.dictionaries(name, name, max_size=3), st.dictionaries(name, number, min_size=1, max_size=3))
def test_names_tags_and_fields_come_back(measurement: str, tags: dict[str, str], fields: dict[str, float]) -> None:
    tags = {key: value for key, value in tags.items() if key not in ("workload", "service_name", "job", "zone", "region")}
    head = escaped(measurement) + "".join(f",{escaped(k)}={escaped(v)}" for k, v in {**tags, "workload": "w"}.items())
    body = ",".join(f"{escaped(k)}={v!r}" for k, v in fields.items())
    found = read("influx", line(body, head=head))
    assert found.reasons == {}
    expected = {measurement if k == "value" else f"{measurement}_{k}": v for k, v in fields.items()}
    assert {found.table.keys[s].metric: v for s, v in zip(found.decoded.series, found.decoded.value, strict=True)} == expected
    assert {key.labels for key in found.table.keys} == {tuple(sorted(tags.items()))}


@given(st.text(alphabet='ab1,= "\\\ni\r#.-', max_size=40))
def test_any_arrangement_of_its_marks_is_read_or_refused(text: str) -> None:
    found = read("influx", text.encode(), line("x=2"))
    assert set(found.reasons) <= {0}
    assert [value for _, _, value in found.samples][-1] == 2.0
