"""A batch whose beginning is known is judged, and read, exactly as one that is seen for the first time."""

from __future__ import annotations

import json
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecastle.intake.codecs import MAX_AT, Refused, open_codec
from forecastle.intake.codecs.json_heads import Heads, packed_floats, packed_ints
from forecastle.intake.publish import encode_batch
from forecastle.intake.series import SeriesTable
from forecastle.types import SeriesKey

FAR = MAX_AT
KEYS = [SeriesKey("shop", "rps", (("site", "a"),)), SeriesKey('q"uo],"at":[te', "m", (('],"at":[', '"at":['),))]
Judged = tuple[tuple[Refused, ...], list[tuple[SeriesKey, int, str]]]


def head(index: tuple[int, ...] = (0, 1, 0)) -> bytes:
    """A batch of `KEYS` up to its times."""
    n = len(index)
    whole = encode_batch(KEYS, np.array(index, np.int32), np.zeros(n, np.int64), np.zeros(n))
    return whole[: whole.rindex(b'"at":[') + len(b'"at":[')]


HEAD = head()
GOOD = HEAD + b'5,6,7],"value":[1.0,2.5,-3]}'


class World:
    """A codec and what it made of messages."""

    def __init__(self, *before: bytes) -> None:
        self.table = SeriesTable(10_000)
        self.codec = open_codec("json", self.table)
        if before:
            assert not self.codec.decode(list(before), FAR).refused

    def judge(self, value: bytes) -> Judged:
        decoded = self.codec.decode([value], FAR)
        columns = decoded.series.tolist(), decoded.at.tolist(), decoded.value.tolist()
        assert decoded.series.dtype == np.int32
        return decoded.refused, [(self.table.keys[k], at, repr(x)) for k, at, x in zip(*columns, strict=True)]


def same(value: bytes, *before: bytes) -> Judged:
    """The verdict on ``value``, which must not depend on what was read before."""
    knowing = World(*(before or (GOOD,)))
    found = knowing.judge(value)
    assert found == World().judge(value)
    assert found == knowing.judge(value), "nor on whether it was read before itself"
    return found


TIMES = (
    *("5,6,7", "5,5,5", "0,0,9007199254740992", "5", "", "5,6", "5,6,7,8", "5,5,5,5", "5,5,5,", "05,05,05", "-0,-0,-0"),
    *("-1,-1,-1", "1.5,1.5,1.5", "true,true,true", "null,5,5", "1e3,1e3,1e3", "9007199254740993,1,1", "9" * 30),
    *('"5","5","5"', "5, 5, 5", " 5,5,5 ", "[5],[5],[5]", '5,6,7],"value":[1,2,3],"at":[5,6,7'),
)
VALUES = (
    *("1,2,3", "1.5,-0,1E5", "1e-400,0.1,5e-324", "1,2", "1,2,3,4", "", "NaN,1,2", "Infinity,1,2", "1e999,1,2", "true,1,2"),
    *("null,1,2", '"1",2,3', "01,2,3", "+1,2,3", ".5,2,3", "1.,2,3", "1,2,3,", "9" * 5000 + ",1,2", " 1 ,2,3", "[1],2,3"),
    *("1,2,3],[4", '1,2,3],"value":[4,5,6'),
)
ENDS = (*("]}", "]} ", "]}\n", " ] } ", "]}}", "]", "}", "", ']},{"x":1}', '],"x":1}', '],"at":[5,6,7]}', '],"key":[0,1,0]}'),)


@pytest.mark.parametrize("end", ENDS)
def test_all_endings_of_a_known_beginning(end):
    for times, values, middle in product(TIMES, VALUES, ('],"value":[', '], "value":[', '],"valve":[')):
        if end != "]}" and times not in TIMES[:3] and values not in VALUES[:3]:
            continue
        same(HEAD + f"{times}{middle}{values}{end}".encode())


def test_a_known_beginning_is_not_parsed_again(monkeypatch):
    world = World(GOOD)
    monkeypatch.setattr(world.codec, "_columns", lambda *_: pytest.fail("a known beginning was parsed"))
    for times, values in product(("5,6,7", "5,5,5", "0,0,9007199254740992"), ("1,2,3", "1.5,-0.0,1E5")):
        refused, rows = world.judge(HEAD + f'{times}],"value":[{values}]}}'.encode())
        assert refused == ()
        assert [row[0] for row in rows] == [KEYS[0], KEYS[1], KEYS[0]]
        assert [row[1] for row in rows] == json.loads(f"[{times}]")
        assert [float(row[2]) for row in rows] == json.loads(f"[{values}]")


def test_every_byte_of_a_known_message_counts():
    """Any one byte left out, doubled or changed: the same verdict as for a reader who has seen nothing."""
    knowing, verdicts = World(GOOD), set()
    for at in range(len(GOOD)):
        changed = [GOOD[:at] + bytes([other]) + GOOD[at + 1 :] for other in b'0",]}\\ \x00\xff']
        for value in (GOOD[:at], GOOD[:at] + GOOD[at + 1 :], GOOD[:at] + GOOD[at : at + 1] + GOOD[at:], *changed):
            found = knowing.judge(value)
            assert found == World().judge(value)
            verdicts.update(refused.reason for refused in found[0])
    assert verdicts >= {"not_json", "bad_utf8", "ragged", "unknown_field", "wrong_type", "bad_index"}


def test_a_repeated_or_later_column_is_seen_behind_a_known_beginning():
    assert same(GOOD[:-1] + b',"at":[8,9,10]}')[0][0].reason == "duplicate_key"
    assert same(GOOD[:-1] + b',"value":[8,9,10]}')[0][0].reason == "duplicate_key"
    assert same(GOOD[:-1] + b',"unit":"s"}')[0][0].reason == "unknown_field"
    repeated = HEAD[:-6] + b'"at":[5,6,7],"at":['
    assert same(repeated + b'5,6,7],"value":[1,2,3]}', GOOD)[0][0].reason == "duplicate_key"


@pytest.mark.parametrize(
    "message",
    [
        json.dumps(json.loads(GOOD)).encode(),
        json.dumps(dict(reversed(json.loads(GOOD).items()))).encode(),
        json.dumps(dict(reversed(json.loads(GOOD).items())), separators=(",", ":")).encode(),
        b"\n" + GOOD,
        head(()) + b'],"value":[]}',
    ],
)
def test_other_spellings_are_read_the_long_way(message):
    refused, rows = same(message, GOOD, message)
    assert refused == ()
    assert len(rows) in (0, 3)


def test_one_producer_cannot_speak_for_another():
    """Beginnings of the same length and the same first bytes."""
    other = GOOD.replace(b'"site":"a"', b'"site":"b"')
    long = [GOOD.replace(b'"shop"', b'"' + b"s" * 200 + last + b'"') for last in (b"x", b"y")]
    world = World()
    for message in (GOOD, other, *long) * 3:
        assert world.judge(message) == World().judge(message)
    swapped = head((1, 0, 1)) + GOOD[len(HEAD) :]
    assert len(swapped) == len(GOOD)
    assert [row[0] for row in same(swapped)[1]] == [KEYS[1], KEYS[0], KEYS[1]]


number = st.integers(0, 9) | st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([(0,), (0, 1), (1, 0), (0, 1, 0), (1,) * 5]),
            st.integers(0, 1 << 42),
            st.booleans(),
            st.lists(number, min_size=5, max_size=5),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_what_producers_write_is_read_together_as_it_is_read_alone(sent):
    messages, expected = [], []
    for record, (index, at, uniform, values) in enumerate(sent):
        times = [at if uniform else at + i for i in range(len(index))]
        n = len(index)
        messages.append(encode_batch(KEYS, np.array(index, np.int32), np.array(times), np.array(values[:n], np.float64)))
        expected += [(record, KEYS[i], time, float(x)) for i, time, x in zip(index, times, values, strict=False)]
    world = World()
    for _ in range(2):
        decoded = world.codec.decode(messages, FAR)
        columns = decoded.record.tolist(), decoded.series.tolist(), decoded.at.tolist(), decoded.value.tolist()
        found = [(record, world.table.keys[k], at, x) for record, k, at, x in zip(*columns, strict=True)]
        assert decoded.refused == ()
        assert found == expected


def test_a_refused_sample_behind_a_known_beginning_takes_its_whole_message():
    world = World(GOOD)
    late = HEAD + b'5,6,%d],"value":[1,2,3]}' % (FAR // 2)
    decoded = world.codec.decode([GOOD, late, GOOD], FAR // 4)
    assert [(one.record, one.reason) for one in decoded.refused] == [(1, "future")]
    assert decoded.record.tolist() == [0, 0, 0, 2, 2, 2]


def test_what_is_remembered_is_bounded():
    heads = Heads(limit=3 * len(GOOD))
    kept = []
    for i in range(60):
        message = GOOD.replace(b'"shop"', b'"shop%02d"' % i)
        heads.learn(message, np.array([i, 1, i], np.int32))
        found = heads.columns(message)
        assert found is not None
        assert found[0].tolist() == [i, 1, i]
        assert heads._size == sum(known.size for known in heads._known.values()) <= 3 * len(GOOD)
        kept.append(len(heads._known))
        heads.learn(message, np.array([i, 1, i], np.int32))
    assert max(kept) > 1
    heads.learn(GOOD + b" " * 4 * len(GOOD), np.zeros(3, np.int32))
    heads.learn(b'{"keys":[],"key":[],"at":[],"value":[]}', np.zeros(0, np.int32))
    heads.learn(b"nothing of the kind", np.zeros(3, np.int32))
    heads.clear()
    assert heads.columns(GOOD) is None
    heads.learn(b"x" * 4 * len(GOOD) + GOOD, np.zeros(3, np.int32))
    assert not heads._known


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats()), st.lists(st.integers(-(1 << 63), (1 << 63) - 1)))
def test_packed_columns_are_the_columns(floats, ints):
    assert packed_floats(floats).tobytes() == np.array(floats, np.float64).tobytes()
    assert packed_ints(ints).tolist() == ints
    assert (packed_floats(floats).dtype, packed_ints(ints).dtype) == (np.float64, np.int64)
