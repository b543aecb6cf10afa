"""Whatever bytes arrive: each message becomes samples, silence or one refusal; no codec raises, none minds its neighbours."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from intake_worlds import GOOD, NOW, SKEW, Read, Written, adapter, line, read, telegraf

from forecastle.intake.codecs import CODECS, LABELLED, Refused
from forecastle.intake.codecs.remote_write import pack
from forecastle.intake.memory import MemoryIntake
from forecastle.intake.publish import encode_batch, encode_single, messages
from forecastle.intake.series import MAX_LABELS, MAX_NAME, MAX_VALUE
from forecastle.settings import IntakeSettings
from forecastle.types import Sample, Samples, SeriesKey

ALL = (*CODECS, *LABELLED)


def otlp() -> Any:
    from opentelemetry.proto.metrics.v1 import metrics_pb2

    data = metrics_pb2.MetricsData()
    resource = data.resource_metrics.add()
    resource.resource.attributes.add(key="service.name").value.string_value = "shop"
    metrics = resource.scope_metrics.add().metrics
    point = metrics.add(name="requests").gauge.data_points.add(time_unix_nano=NOW * 10**6, as_double=1.5)
    point.attributes.add(key="route").value.string_value = "/a"
    metrics.add(name="took").histogram.data_points.add(time_unix_nano=NOW * 10**6, count=3, sum=2.5)
    return data


def otlp_json() -> bytes:
    from google.protobuf.json_format import MessageToJson

    return MessageToJson(otlp()).encode()


KEY, OTHER = SeriesKey("shop", "rps", (("site", "a"),)), SeriesKey("mail", "rps")
COLUMNS = np.array([0, 1, 0], np.int32), np.array([1, 2, 3], np.int64), np.array([1.0, 2.5, -3.0])
VALID: dict[str, tuple[bytes, ...]] = {
    "json": (encode_single(KEY, NOW, 1.5), encode_batch((KEY, OTHER), *COLUMNS)),
    "otlp_proto": (otlp().SerializeToString(),),
    "otlp_json": (otlp_json(),),
    "prometheus_json": (adapter(), adapter("NaN"), adapter(labels={"job": "shop", "path": "/größe"})),
    "telegraf_json": (telegraf({"idle": 1, "state": "ok"}), b'{"metrics":[' + telegraf() + b"," + telegraf() + b"]}"),
    "influx": (line(), line('a=1,b=2i,c=3u,d="x, y"', head=r"di\ sk,workload=w,p=a\,b") + line()),
    "remote_write": (GOOD["remote_write"](), Written().add([(NOW, 1.0), (NOW - 1, 2.0)]).add(job="mail").block),
}
BODY = Written().add().add([(NOW, math.nan)], job="mail").body
"""What fuzzing may change before it is packed: a changed block is seldom a block."""


def judge(found: Read, count: int) -> None:
    """What holds of anything that a codec made of ``count`` messages."""
    decoded = found.decoded
    refused = [one.record for one in decoded.refused]
    assert refused == sorted(set(refused)), "refused once each, in order"
    assert set(refused) <= set(range(count))
    assert set(decoded.record.tolist()).isdisjoint(refused), "refused whole"
    assert (np.diff(decoded.record) >= 0).all(), "in order of arrival"
    assert len(decoded.record) == len(decoded.series) == len(decoded.at) == len(decoded.value)
    assert np.isfinite(decoded.value).all()
    assert ((decoded.at >= 0) & (decoded.at <= NOW + SKEW)).all()
    assert ((decoded.series >= 0) & (decoded.series < len(found.table))).all()
    assert all(one.reason.isidentifier() and len(one.detail) <= 300 for one in decoded.refused)
    for key in found.table.keys:
        assert key.workload.strip()
        assert key.metric.strip()
        assert max(len(key.workload), len(key.metric)) <= MAX_NAME
        assert len(key.labels) <= MAX_LABELS
        assert list(key.labels) == sorted(dict(key.labels).items())
        assert all(name and len(value) <= MAX_VALUE for name, value in key.labels)


# --- any bytes --------------------------------------------------------------------------------------------------------

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
)
junk = st.none() | st.binary(max_size=60) | st.builds(lambda value: json.dumps(value).encode(), values)


@pytest.mark.parametrize("codec", ALL)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_bytes_become_samples_or_a_refusal_and_never_an_exception(codec: str, data: st.DataObject) -> None:
    sent = data.draw(st.lists(junk | st.sampled_from(VALID[codec]), max_size=8))
    found = read(codec, *sent)
    judge(found, len(sent))
    assert all(i in found.reasons for i, value in enumerate(sent) if not value), "nothing is refused by name"
    assert not any(i in found.reasons for i, value in enumerate(sent) if value in VALID[codec]), "the valid ones live"


# --- mutations --------------------------------------------------------------------------------------------------------

position = st.integers(0, 1 << 16)
changes = st.one_of(
    st.tuples(st.just("flip"), position, st.integers(1, 255)),
    st.tuples(st.just("cut"), position, st.just(0)),
    st.tuples(
        st.just("insert"),
        position,
        st.sampled_from([0, 0x80, 0xFF, *b'",=\\{}\n -9']),
    ),
    st.tuples(st.just("delete"), position, st.integers(1, 4)),
    st.tuples(st.just("repeat"), position, st.integers(1, 30)),
)


def mutated(value: bytes, made: list[tuple[str, int, int]]) -> bytes:
    for how, where, what in made:
        if not value:
            return value
        at = where % len(value)
        if how == "flip":
            value = value[:at] + bytes([value[at] ^ what]) + value[at + 1 :]
        elif how == "cut":
            value = value[:at]
        elif how == "insert":
            value = value[:at] + bytes([what]) + value[at:]
        elif how == "delete":
            value = value[:at] + value[at + what :]
        else:
            value = value[: at + what] + value[at:]
    return value


@pytest.mark.parametrize("codec", ALL)
@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_mutations_of_valid_messages_leave_their_neighbours_alone(codec: str, data: st.DataObject) -> None:
    broken = mutated(data.draw(st.sampled_from(VALID[codec])), data.draw(st.lists(changes, min_size=1, max_size=3)))
    before, after = VALID[codec][0], VALID[codec][-1]
    found, alone = read(codec, before, broken, after), read(codec, broken)
    judge(found, 3)
    assert set(found.reasons) <= {1}
    assert found.reasons.get(1) == alone.reasons.get(0), "judged by itself"
    mine = found.decoded.record == 1
    assert found.decoded.at[mine].tolist() == alone.decoded.at.tolist()
    assert found.decoded.value[mine].tolist() == alone.decoded.value.tolist()


@settings(max_examples=200, deadline=None)
@given(st.lists(changes, min_size=1, max_size=3))
def test_mutations_inside_a_sound_block_are_read_or_refused(made: list[tuple[str, int, int]]) -> None:
    found = read("remote_write", GOOD["remote_write"](), pack(mutated(BODY, made)), GOOD["remote_write"]())
    judge(found, 3)
    assert set(found.reasons) <= {1}


@pytest.mark.parametrize("codec", ALL)
def test_no_beginning_of_a_message_is_mistaken_for_another(codec: str) -> None:
    """A message that was cut off is refused, unless what is left says something sound of its own."""
    for whole in VALID[codec]:
        pieces = [whole[:cut] for cut in range(len(whole))]
        found = read(codec, *pieces)
        judge(found, len(pieces))
        expected = {at: value for _, at, value in read(codec, whole).samples}
        survived = {at for _, at, _ in found.samples}
        if codec == "influx":  # a number that lost its last digits is a number still
            continue
        assert survived <= set(expected), "a time that nobody wrote"


# --- one by one, or together ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ALL)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_the_size_of_a_poll_changes_nothing(codec: str, data: st.DataObject) -> None:
    sent = data.draw(st.lists(st.binary(max_size=20) | st.sampled_from(VALID[codec]), max_size=10))
    size = data.draw(st.integers(1, 4))

    class Clock:
        def now(self) -> int:
            return NOW

        def monotonic(self) -> float:
            return 0.0

    def consumed(per_poll: int) -> tuple[list[tuple[SeriesKey, int, float]], list[Refused]]:
        intake = MemoryIntake(sent, Clock(), IntakeSettings(), codec=codec, per_poll=per_poll)
        rows: list[tuple[SeriesKey, int, float]] = []
        while True:
            samples = intake.poll()
            columns = samples.index.tolist(), samples.at.tolist(), samples.value.tolist()
            rows += [(samples.keys[k], at, value) for k, at, value in zip(*columns, strict=True)]
            if intake.progress().drained:
                return rows, intake.dead_letters

    assert consumed(size) == consumed(100)


# --- what publish writes ----------------------------------------------------------------------------------------------

name = st.text(min_size=1, max_size=6).filter(str.strip)
series = st.builds(
    lambda workload, metric, labels: SeriesKey(workload, metric, tuple(sorted(labels.items()))),
    name,
    name,
    st.dictionaries(st.text(min_size=1, max_size=4), st.text(max_size=4), max_size=3),
)
finite = st.floats(allow_nan=False, allow_infinity=False)
samples = st.lists(st.builds(Sample, series, st.integers(0, NOW), finite, st.none()), min_size=1, max_size=25)
Rows = list[tuple[SeriesKey, int, float]]


def rows(found: Read) -> Rows:
    columns = found.decoded.series.tolist(), found.decoded.at.tolist(), found.decoded.value.tolist()
    return [(found.table.keys[k], at, value) for k, at, value in zip(*columns, strict=True)]


@settings(max_examples=60, deadline=None)
@given(samples, st.integers(1, 8))
def test_what_publish_writes_comes_back_once_and_each_workload_in_order(sent: list[Sample], batch: int) -> None:
    made = list(messages(Samples.of(*sent), batch))
    found = read("json", *(body for _, _, body in made))
    assert found.reasons == {}
    assert sorted(rows(found)) == sorted((one.key, one.at, one.value) for one in sent)
    for workload in {one.key.workload for one in sent}:
        mine = [(one.key, one.at, one.value) for one in sent if one.key.workload == workload]
        assert [row for row in rows(found) if row[0].workload == workload] == mine


@settings(max_examples=60, deadline=None)
@given(samples, st.integers(1, 8))
def test_each_record_is_keyed_by_its_workload_and_stamped_with_its_newest_sample(sent: list[Sample], batch: int) -> None:
    for key, stamp, body in messages(Samples.of(*sent), batch):
        found = read("json", body)
        assert {row[0].workload for row in rows(found)} == {key.decode()}
        assert len(rows(found)) <= batch
        assert stamp == rows(found)[-1][1]


CELLS: dict[str, Callable[[float], bytes]] = {
    "prometheus_json": lambda value: adapter(repr(value)),
    "telegraf_json": lambda value: telegraf({"value": value}),
    "influx": lambda value: line(f"value={value!r}"),
    "remote_write": lambda value: Written().add([(NOW, value)]).block,
    "json": lambda value: encode_single(KEY, NOW, value),
}


@pytest.mark.parametrize("codec", CELLS)
@settings(max_examples=80, deadline=None)
@given(value=st.floats())
def test_every_number_of_64_bits_comes_back_or_is_refused(codec: str, value: float) -> None:
    if codec in ("telegraf_json", "json") and not math.isfinite(value):
        return  # cannot be written
    found = read(codec, CELLS[codec](value))
    if math.isfinite(value):
        assert [one for _, _, one in found.samples] == [value]
    elif math.isnan(value) and codec == "remote_write":
        assert (found.samples, found.reasons) == ([], {})
    else:
        assert found.samples == []
        assert found.reasons == {0: "not_finite" if codec == "remote_write" else "wrong_type"}


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(min_size=1, max_size=5), st.text(min_size=1, max_size=5), max_size=4), finite)
def test_formats_agree_on_what_was_measured(tags: dict[str, str], value: float) -> None:
    """The same measurement by four producers is one series with one value."""
    tags = {k: v for k, v in tags.items() if k not in ("workload", "service_name", "job", "zone", "region", "__name__")}
    owned = {**tags, "job": "shop"}
    found = [
        read("prometheus_json", adapter(repr(value), name="m", labels=owned)),
        read("telegraf_json", telegraf({"value": value}, name="m", tags=owned)),
        read("remote_write", Written().add([(NOW, value)], **{"__name__": "m", **owned}).block),
        read("json", encode_single(SeriesKey("shop", "m", tuple(sorted(tags.items()))), NOW, value)),
    ]
    assert [one.reasons for one in found] == [{}] * 4
    assert len({tuple(rows(one)) for one in found}) == 1
