"""Every message becomes samples or a refusal with a stable reason; no codec ever raises."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.metrics.v1 import metrics_pb2

from forecastle.errors import ConfigError
from forecastle.intake.codecs import open_codec
from forecastle.intake.series import SeriesTable
from forecastle.types import SeriesKey

NOW = 1_700_000_000_000
CODECS = ("json", "otlp_proto", "otlp_json")


def decode(codec: str, *values: bytes | None, max_series: int = 100):
    table = SeriesTable(max_series)
    return open_codec(codec, table).decode(values, NOW + 60_000), table


def reasons(codec: str, *values: bytes | None, **more) -> dict[int, str]:
    return {refused.record: refused.reason for refused in decode(codec, *values, **more)[0].refused}


def single(**changes) -> bytes:
    return json.dumps({"workload": "w", "metric": "m", "labels": {"site": "a"}, "at": NOW, "value": 1.5} | changes).encode()


def raw(value: bytes = b"1", at: bytes = b"1", more: bytes = b"") -> bytes:
    return b'{"workload":"w","metric":"m","at":' + at + b',"value":' + value + more + b"}"


def batch(**changes) -> bytes:
    keys = [{"workload": "w", "metric": "m"}, {"workload": "w", "metric": "n", "labels": {"a": "b"}}]
    return json.dumps({"keys": keys, "key": [0, 1, 0], "at": [1, 2, 3], "value": [1, 2.5, 3]} | changes).encode()


def test_single_samples_keep_their_order_and_series():
    decoded, table = decode("json", single(), single(value=2, metric="n"), single(at=7, value=-3), raw(b"4"))
    assert decoded.refused == ()
    assert decoded.record.tolist() == [0, 1, 2, 3]
    assert decoded.value.tolist() == [1.5, 2.0, -3.0, 4.0]
    assert decoded.at.tolist() == [NOW, NOW, 7, 1]
    site = (("site", "a"),)
    assert table.keys == (SeriesKey("w", "m", site), SeriesKey("w", "n", site), SeriesKey("w", "m"))
    assert decoded.series.tolist() == [0, 1, 0, 2]


def test_batches_and_singles_mix():
    decoded, table = decode("json", single(), batch(), single(), b" " + batch().replace(b", ", b",\n"))
    assert decoded.refused == ()
    assert decoded.record.tolist() == [0, 1, 1, 1, 2, 3, 3, 3]
    assert decoded.value.tolist() == [1.5, 1, 2.5, 3, 1.5, 1, 2.5, 3]
    assert [table.keys[i].metric for i in decoded.series] == ["m", "m", "n", "m", "m", "m", "n", "m"]


def test_label_order_and_spelling_do_not_make_another_series():
    one = b'{"workload":"w","metric":"m","labels":{"a":"1","b":"2"},"at":1,"value":1}'
    two = b'{"workload":"w","metric":"m","labels":{ "b":"2", "\\u0061":"1"},"at":1,"value":1}'
    decoded, table = decode("json", one, two)
    assert decoded.series.tolist() == [0, 0]
    assert len(table) == 1


FAULTS = {
    "nan": (raw(b"NaN"), "not_json"),
    "infinity": (raw(b"Infinity"), "not_json"),
    "1e999": (raw(b"1e999"), "out_of_range"),
    "minus 1e999": (raw(b"-1e999"), "out_of_range"),
    "inf as text": (raw(b'"inf"'), "wrong_type"),
    "boolean": (raw(b"true"), "wrong_type"),
    "null": (raw(b"null"), "wrong_type"),
    "boolean time": (raw(at=b"true"), "wrong_type"),
    "fractional time": (raw(at=b"1.5"), "wrong_type"),
    "5,000-digit value": (raw(b"1" * 5000), "out_of_range"),
    "5,000-digit time": (raw(at=b"1" * 5000), "out_of_range"),
    "25-digit time": (raw(at=b"1" * 25), "out_of_range"),
    "negative time": (raw(at=b"-1"), "out_of_range"),
    "100k-deep array": (raw(b"[" * 100_000 + b"]" * 100_000), "wrong_type"),
    "100k-deep labels": (raw(more=b',"labels":' + b"[" * 100_000 + b"]" * 100_000), "too_deep"),
    "bad UTF-8": (b'{"workload":"\xff","metric":"m","at":1,"value":1}', "bad_utf8"),
    "bad UTF-8 in a label": (raw(more=b',"labels":{"a":"\xff"}'), "bad_utf8"),
    "unknown field": (raw(more=b',"unit":"s"'), "unknown_field"),
    "missing field": (b'{"workload":"w","metric":"m","at":1}', "missing_field"),
    "repeated value": (raw(more=b',"value":2'), "duplicate_key"),
    "repeated key, spelled differently": (raw(more=b',"v\\u0061lue":2'), "duplicate_key"),
    "repeated label": (raw(more=b',"labels":{"a":"1","a":"2"}'), "duplicate_key"),
    "repeated labels": (raw(more=b',"labels":{"a":"1"},"labels":{}'), "duplicate_key"),
    "future": (raw(at=str(NOW + 60_001).encode()), "future"),
    "empty workload": (single(workload=""), "empty_name"),
    "blank metric": (single(metric="  "), "empty_name"),
    "long metric": (single(metric="m" * 257), "name_too_long"),
    "many labels": (single(labels={str(i): "x" for i in range(33)}), "too_many_labels"),
    "long label": (single(labels={"a": "x" * 1025}), "label_too_long"),
    "label of another type": (single(labels={"a": 1}), "wrong_type"),
    "labels null": (single(labels=None), "wrong_type"),
    "nothing": (b"", "empty"),
    "tombstone": (None, "empty"),
    "not an object": (b"[]", "wrong_type"),
    "two objects": (raw() + b"," + raw(), "not_json"),
    "cut off": (raw()[:-1], "not_json"),
    "ragged batch": (batch(at=[1, 2]), "ragged"),
    "index out of range": (batch(key=[0, 1, 2]), "bad_index"),
    "negative index": (batch(key=[0, -1, 0]), "bad_index"),
    "huge index": (batch(key=[0, 10**25, 0]), "bad_index"),
    "one future sample": (batch(at=[1, 2, NOW * 2]), "future"),
    "boolean in a batch": (batch(value=[1, True, 2]), "wrong_type"),
    "repeated column": (batch()[:-1] + b', "at": [4, 5, 6]}', "duplicate_key"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_refused_by_name_and_their_neighbours_live(fault):
    value, reason = FAULTS[fault]
    decoded, _ = decode("json", single(), value, single(value=9))
    assert [(r.record, r.reason) for r in decoded.refused] == [(1, reason)]
    assert decoded.record.tolist() == [0, 2]
    assert decoded.value.tolist() == [1.5, 9.0]


def test_two_messages_cannot_merge_into_one():
    head, tail = b'{"workload":"w","metric":"m"', b'"at":1,"value":1},' + raw()
    assert reasons("json", head, tail) == {0: "not_json", 1: "not_json"} or len(reasons("json", head, tail)) == 2
    half, rest = b'{"workload":"a}', b'{","metric":"m","at":1,"value":1}'
    assert set(reasons("json", half, rest, raw() + b"," + raw())) == {0, 1, 2}
    assert set(reasons("json", raw(more=b',"labels":[{}')[:-1], b"{}]}")) == {0, 1}
    assert set(reasons("json", raw() + b",\n" + raw(), b'{"workload":"w","metric":"m"')) == {0, 1}


def test_escaped_quotes_are_no_repetition():
    decoded, table = decode("json", single(workload='a"b', labels={'c"d': '"'}), single(workload='a"b', labels={'c"d': '"'}))
    assert decoded.refused == ()
    assert table.keys == (SeriesKey('a"b', "m", (('c"d', '"'),)),)


def test_a_cardinality_explosion_leaves_existing_series_alone():
    values = [single(metric=f"m{i}") for i in range(50)]
    decoded, table = decode("json", *values, single(metric="m0"), max_series=10)
    assert len(table) == 10
    assert len(decoded.refused) == 40
    assert {r.reason for r in decoded.refused} == {"too_many_series"}
    assert decoded.record.tolist() == [*range(10), 50]


def test_spelling_variations_cannot_fill_the_memory():
    table = SeriesTable(1)
    codec = open_codec("json", table)
    for start in range(0, 4000, 500):
        values = [raw(more=b',"labels":{' + b" " * n + b"}") for n in range(start, start + 500)]
        assert codec.decode(values, NOW).refused == ()
    assert len(codec._aliases) <= 4 * 1 + 1024 + 500
    assert len(table) == 1


# --- OTLP ------------------------------------------------------------------------------------------------------------


def otlp(value: float | int | None = 2.5, at: int = NOW, service: str | None = "shop", **attributes):
    data = metrics_pb2.MetricsData()
    resource = data.resource_metrics.add()
    for name, text in {"service.name": service, "cloud.availability_zone": "eu-1a", "cloud.region": "eu-1"}.items():
        if text is not None:
            resource.resource.attributes.add(key=name).value.string_value = text
    metric = resource.scope_metrics.add().metrics.add(name="requests")
    point = metric.gauge.data_points.add(time_unix_nano=at * 1_000_000)
    if isinstance(value, int):
        point.as_int = value
    elif value is not None:
        point.as_double = value
    for name, text in attributes.items():
        point.attributes.add(key=name).value.string_value = text
    return data, metric, point


def as_json(data) -> bytes:
    from google.protobuf.json_format import MessageToJson

    return MessageToJson(data).encode()


def both(data) -> list[tuple[str, bytes]]:
    return [("otlp_proto", data.SerializeToString()), ("otlp_json", as_json(data))]


def test_otlp_gauges_carry_workload_site_and_attributes():
    for codec, value in both(otlp(route="/a")[0]):
        decoded, table = decode(codec, value, value)
        assert decoded.refused == ()
        assert decoded.value.tolist() == [2.5, 2.5]
        assert decoded.at.tolist() == [NOW, NOW]
        assert table.keys == (SeriesKey("shop", "requests", (("route", "/a"), ("site", "eu-1a"))),)


@pytest.mark.parametrize("value", [0.0, 0, 7, -7, 1 << 40, -2.25])
def test_otlp_numbers_of_both_kinds(value):
    for codec, message in both(otlp(value)[0]):
        assert decode(codec, message)[0].value.tolist() == [value]


def test_otlp_sums_histograms_and_summaries():
    data, metric, _ = otlp()
    metric.ClearField("gauge")
    scope = data.resource_metrics[0].scope_metrics[0]
    metric.sum.is_monotonic = True
    metric.sum.data_points.add(time_unix_nano=NOW * 10**6, as_int=5)
    scope.metrics.add(name="h").histogram.data_points.add(time_unix_nano=NOW * 10**6, count=4, sum=1.5, bucket_counts=[4])
    scope.metrics.add(name="e").exponential_histogram.data_points.add(time_unix_nano=NOW * 10**6, count=3)
    scope.metrics.add(name="s").summary.data_points.add(time_unix_nano=NOW * 10**6, count=2, sum=9.0)
    for codec, message in both(data):
        decoded, table = decode(codec, message)
        found = {table.keys[s].metric: v for s, v in zip(decoded.series, decoded.value.tolist(), strict=True)}
        assert found["requests"] == 5
        assert (found["h_count"], found["h_sum"], found["e_count"]) == (4, 1.5, 3)
        assert (found["s_count"], found["s_sum"]) == (2, 9)


def test_otlp_points_without_a_recorded_value_say_nothing():
    data, _, point = otlp(None)
    assert [reasons(codec, message) for codec, message in both(data)] == [{0: "no_value"}] * 2
    point.flags = 1
    for codec, message in both(data):
        decoded, _ = decode(codec, message)
        assert decoded.refused == ()
        assert len(decoded.at) == 0


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"service": None}, "no_workload"),
        ({"service": ""}, "no_workload"),
        ({"at": NOW + 60_001}, "future"),
        ({"at": 0}, "absurd_time"),
        ({"long": "x" * 1025}, "label_too_long"),
    ],
)
def test_otlp_faults(arguments, reason):
    good = otlp()[0]
    for (codec, bad), (_, fine) in zip(both(otlp(**arguments)[0]), both(good), strict=True):
        decoded, _ = decode(codec, fine, bad, fine)
        assert [(r.record, r.reason) for r in decoded.refused] == [(1, reason)]
        assert decoded.record.tolist() == [0, 2]


def test_otlp_not_a_number():
    for value in (float("nan"), float("inf"), float("-inf")):
        proto, text = both(otlp(value)[0])
        assert reasons(*proto) == {0: "not_finite"}
        assert reasons(*text) == {0: "wrong_type"}


def test_otlp_repeated_attributes_and_keys():
    data, _, point = otlp(a="1")
    point.attributes.add(key="a").value.string_value = "2"
    assert [reasons(codec, message) for codec, message in both(data)] == [{0: "duplicate_label"}] * 2
    text = as_json(otlp()[0])
    assert reasons("otlp_json", text.replace(b'"asDouble": 2.5', b'"asDouble": 2.5, "asDouble": 3')) == {0: "duplicate_key"}


def test_otlp_attribute_values_become_text():
    data, _, point = otlp()
    point.attributes.add(key="i").value.int_value = 404
    point.attributes.add(key="b").value.bool_value = True
    point.attributes.add(key="l").value.array_value.values.add().string_value = "x"
    for codec, message in both(data):
        labels = dict(decode(codec, message)[1].keys[0].labels)
        assert (labels["i"], labels["b"], labels["l"]) == ("404", "true", "x")


def test_what_the_collector_writes_as_json():
    message = (
        b'{"resourceMetrics":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"cart"}},'
        b'{"key":"site","value":{"stringValue":"edge-1"}}]},"scopeMetrics":[{"scope":{"name":"otelcol"},"metrics":['
        b'{"name":"http.requests","unit":"1","sum":{"dataPoints":[{"attributes":[],"startTimeUnixNano":"1699999990000000000",'
        b'"timeUnixNano":"1700000000000000000","asInt":"42"}],"aggregationTemporality":2,"isMonotonic":true}}]}],'
        b'"schemaUrl":"https://opentelemetry.io/schemas/1.27.0"}]}'
    )
    decoded, table = decode("otlp_json", message)
    assert table.keys == (SeriesKey("cart", "http.requests", (("site", "edge-1"),)),)
    assert (decoded.at.tolist(), decoded.value.tolist()) == ([NOW], [42.0])


@pytest.mark.parametrize("text", ["12a", "1_0", "", "+1", "٣", "1" * 5000])
def test_otlp_json_integers_are_digits(text):
    message = as_json(otlp()[0]).replace(
        b'"timeUnixNano": "1700000000000000000"', json.dumps({"timeUnixNano": text})[1:-1].encode()
    )
    assert reasons("otlp_json", message)[0] in ("wrong_type", "out_of_range")


def test_an_unknown_codec_names_the_known_ones():
    with pytest.raises(ConfigError, match="json, otlp_proto, otlp_json"):
        open_codec("xml", SeriesTable(1))


# --- properties ------------------------------------------------------------------------------------------------------

junk = st.one_of(
    st.none(),
    st.binary(max_size=80),
    st.sampled_from([value for value, _ in FAULTS.values() if value is None or len(value) < 2000]),
    st.builds(lambda v: json.dumps(v).encode(), st.recursive(st.none() | st.booleans() | st.text(max_size=5), st.lists)),
    st.builds(single, value=st.floats(-1e300, 1e300), at=st.integers(0, NOW)),
    st.builds(
        single,
        workload=st.text(max_size=8),
        labels=st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=3),
    ),
    st.just(batch()),
)
chopped = st.builds(
    lambda value, cut: value[: cut % (len(value) + 1)],
    st.just(batch()) | st.just(otlp()[0].SerializeToString()),
    st.integers(0, 500),
)


@pytest.mark.parametrize("codec", CODECS)
@settings(max_examples=60, deadline=None)
@given(st.lists(junk | chopped, max_size=12))
def test_no_codec_raises_and_every_message_ends_up_once(codec, values):
    decoded, table = decode(codec, *values)
    refused = {r.record for r in decoded.refused}
    accepted = set(decoded.record.tolist())
    assert refused.isdisjoint(accepted)
    assert len(refused) == len(decoded.refused)
    if codec == "json":
        assert refused | accepted == set(range(len(values)))
    assert all(r.reason.isidentifier() for r in decoded.refused)
    assert (decoded.series < len(table)).all()
    assert (decoded.record[1:] >= decoded.record[:-1]).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(junk, min_size=1, max_size=12))
def test_a_message_is_judged_by_itself(values):
    together, table = decode("json", *values)
    for i, value in enumerate(values):
        alone, own = decode("json", value)
        mine = together.record == i
        assert [r.reason for r in together.refused if r.record == i] == [r.reason for r in alone.refused]
        assert together.value[mine].tolist() == alone.value.tolist()
        assert [table.keys[s] for s in together.series[mine]] == [own.keys[s] for s in alone.series]
