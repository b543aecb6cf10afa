"""Any order and repetition within the lateness is the same log; what is later than that is told and never applied."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecastle.settings import WindowSettings
from forecastle.types import Origin, Progress, Sample, Samples, SeriesKey, Windows
from forecastle.window.store import WindowStore
from forecastle.window.watermark import Watermark

STEP, LATENESS = 60_000, 90_000
T0 = 1_700_000_040_000
A, B, C = (SeriesKey("shop", name) for name in ("a", "b_total", "c"))
ONE, TWO = (Progress(frozenset(range(n)), frozenset()) for n in (1, 2))


def store(lateness_ms: int = LATENESS, look_back: int = 12, clock=lambda: 0.0, **more: float) -> WindowStore:
    settings = {"step_s": 60, "look_back": look_back, "lateness_s": lateness_ms / 1000, "flat_slots": 3} | more
    return WindowStore(WindowSettings(**settings), clock)


def sample(key: SeriesKey, at: int, value: float, partition: int = 0) -> Sample:
    return Sample(key, T0 + at, value, Origin("metrics", partition, 0))


def admitted(mark: Watermark, *at: int, partition: int = 0) -> list[bool]:
    return mark.admit(np.full(len(at), partition, np.int32), np.array(at, np.int64)).tolist()


def content(windows: Windows) -> tuple[object, ...]:
    return windows.keys, *(part.tobytes() for part in (windows.values, windows.mask, windows.late, windows.suspect))


def closing(windows: WindowStore, batches: list[list[Sample]], progress: Progress) -> tuple[dict[int, object], int]:
    """Every window by its tick when ``batches`` come one after another, and the number of samples that were too late."""
    closed, late = {}, 0
    for batch in batches:
        late += windows.append(Samples.of(*batch)).late
        closed |= {tick: content(windows.close(tick)) for tick in windows.due(progress)}
    return closed, late


rows = st.lists(
    st.tuples(st.sampled_from([A, B, C]), st.integers(1, 9 * STEP), st.integers(-50, 1000)), min_size=1, max_size=50
)


@settings(max_examples=150, deadline=None)
@given(rows, st.data())
def test_any_order_and_repetition_within_the_lateness_gives_the_same_windows(made: list, data: st.DataObject) -> None:
    """A sample may be delayed by up to the lateness behind newer ones and delivered again within it."""
    first, end = sample(A, 0, 1), sample(A, 30 * STEP, 0)
    samples = sorted((sample(*row) for row in made), key=lambda one: one.at)
    delays = st.lists(st.integers(0, LATENESS - 1), min_size=len(samples), max_size=len(samples))
    again = data.draw(st.lists(st.sampled_from(samples), max_size=20))
    arrivals = [*zip(samples, data.draw(delays), strict=True), *((one, LATENESS - 1) for one in again)]
    shuffled = [one for one, delay in sorted(arrivals, key=lambda pair: pair[0].at + pair[1])]
    cut = data.draw(st.integers(1, 10))
    polls = [shuffled[i : i + cut] for i in range(0, len(shuffled), cut)]
    plain = closing(store(), [[first], samples, [end]], ONE)
    mixed = closing(store(), [[first], *polls, [end]], ONE)
    assert plain[1] == mixed[1] == 0
    assert plain[0] == mixed[0]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10 * STEP), st.integers(0, 2)), min_size=1, max_size=60), st.data())
def test_lateness_is_decided_by_the_partition_alone_however_they_interleave(made: list, data: st.DataObject) -> None:
    lines = [[at for at, partition in made if partition == p] for p in range(3)]
    wanted = [admitted(Watermark(STEP, LATENESS, 30), *line, partition=p) if line else [] for p, line in enumerate(lines)]
    order = data.draw(st.permutations([p for p, line in enumerate(lines) for _ in line]))
    mark, read, found = Watermark(STEP, LATENESS, 30), [0, 0, 0], [[], [], []]
    for p in order:
        found[p] += admitted(mark, lines[p][read[p]], partition=p)
        read[p] += 1
    assert found == wanted


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10 * STEP), st.integers(0, 2)), min_size=1, max_size=40))
def test_a_batch_is_admitted_as_its_samples_one_by_one(made: list) -> None:
    at, partition = (np.array(column) for column in zip(*made, strict=True))
    single = Watermark(STEP, LATENESS, 30)
    one_by_one = [admitted(single, int(a), partition=int(p))[0] for a, p in made]
    assert Watermark(STEP, LATENESS, 30).admit(partition.astype(np.int32), at.astype(np.int64)).tolist() == one_by_one


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20 * STEP), st.integers(0, 1)), min_size=1, max_size=60))
def test_the_watermark_of_the_store_never_goes_back_and_ticks_ascend(made: list) -> None:
    windows, marks, ticks = store(), [], []
    for at, partition in made:
        windows.append(Samples.of(sample(A, at, 1.0, partition)))
        due = windows.due(TWO)
        ticks += due
        for tick in due:
            windows.skip(tick)
        if windows.watermark is not None:
            marks.append(windows.watermark)
            assert all(tick <= windows.watermark for tick in due)
    assert marks == sorted(marks)
    assert ticks == sorted(set(ticks))
    assert all(tick % STEP == 0 for tick in ticks)


@pytest.mark.parametrize(
    ("behind", "fine"), [(0, True), (LATENESS, True), (LATENESS + STEP - 1, True), (LATENESS + STEP, False), (10**9, False)]
)
def test_a_sample_is_late_when_its_slot_ended_more_than_the_lateness_ago(behind: int, fine: bool) -> None:
    mark, newest = Watermark(STEP, LATENESS, 30), T0 + 100 * STEP + LATENESS
    admitted(mark, newest)
    assert admitted(mark, newest - behind) == [fine]


def test_a_late_sample_moves_nothing_and_the_next_in_time_is_taken() -> None:
    windows = store(lateness_ms=0)
    assert closing(windows, [[sample(A, 10, 1), sample(A, 5 * STEP + 1, 2)]], ONE)[1] == 0
    before = windows.watermark
    assert windows.append(Samples.of(sample(A, STEP + 1, 500))).late == 1
    assert windows.due(ONE) == []
    assert windows.watermark == before
    assert windows.append(Samples.of(sample(A, 5 * STEP + 2, 4))).accepted == 1
    assert windows.late == 1


def test_no_lateness_at_all_closes_a_tick_with_the_first_sample_after_it() -> None:
    windows = store(lateness_ms=0)
    windows.append(Samples.of(sample(A, 10, 1), sample(A, STEP, 2)))
    assert windows.due(ONE) == [], "another sample of that very instant may follow"
    windows.append(Samples.of(sample(A, STEP + 1, 3)))
    assert windows.due(ONE) == [T0 + STEP]


def test_forgotten_partitions_hold_nothing_and_are_judged_anew() -> None:
    mark = Watermark(STEP, 0, 30)
    admitted(mark, 10 * STEP, partition=0)
    admitted(mark, 2 * STEP, partition=1)
    assert mark.joint(TWO, 0.0) == 2 * STEP - 1
    mark.forget(frozenset({1}))
    assert mark.known == {0}
    assert mark.joint(ONE, 0.0) == 10 * STEP - 1
    assert mark.joint(TWO, 0.0) is None
    assert admitted(mark, STEP, partition=1) == [True], "its old position does not make it late"


def test_origin_is_the_earliest_first_sample_of_those_left() -> None:
    mark = Watermark(STEP, 0, 30)
    assert mark.origin is None
    admitted(mark, 500, 100, partition=0)
    admitted(mark, 300, partition=1)
    assert mark.origin == 300
    mark.forget(frozenset({1}))
    assert mark.origin == 500


def test_silence_counts_from_when_a_partition_was_drained_not_from_its_last_sample() -> None:
    mark = Watermark(STEP, 0, 30.0)
    admitted(mark, 10 * STEP, partition=0)
    admitted(mark, STEP, partition=1)
    behind, drained = TWO, Progress(frozenset({0, 1}), frozenset({1}))
    assert mark.joint(behind, 0.0) == STEP - 1
    assert mark.joint(behind, 1000.0) == STEP - 1, "it has records to read: not idle, slow"
    assert mark.joint(drained, 1029.0) == STEP - 1
    assert mark.joint(drained, 1031.0) == 10 * STEP - 1
    admitted(mark, STEP + 5, partition=1)
    assert mark.joint(drained, 1032.0) == STEP + 4, "it speaks again and is waited for"


def test_when_all_are_idle_the_furthest_counts_and_none_that_never_spoke() -> None:
    mark = Watermark(STEP, 0, 5.0)
    silent = Progress(frozenset({0, 1, 2}), frozenset({0, 1, 2}))
    assert mark.joint(silent, 0.0) is None
    assert mark.joint(silent, 10.0) is None, "nothing was heard, nothing is over"
    admitted(mark, 7 * STEP, partition=0)
    admitted(mark, 3 * STEP, partition=1)
    assert mark.joint(silent, 11.0) == 3 * STEP - 1
    assert mark.joint(silent, 16.0) == 7 * STEP - 1


def test_without_a_partition_nothing_is_due() -> None:
    windows = store()
    windows.append(Samples.of(sample(A, 10, 1), sample(A, 9 * STEP, 1)))
    assert windows.due(Progress(frozenset(), frozenset())) == []


def test_dropping_partitions_takes_what_waits_of_them_too() -> None:
    windows = store()
    windows.append(Samples.of(sample(A, 10, 1, 0), sample(C, 20, 5, 1), sample(A, 8 * STEP, 1, 0), sample(C, 8 * STEP, 1, 1)))
    windows.drop_partitions([1])
    closed = {tick: windows.close(tick) for tick in windows.due(ONE)}
    assert closed
    assert all(one.keys == (A,) for one in closed.values())


def test_a_series_that_moved_away_and_back_begins_anew() -> None:
    windows = store(lateness_ms=0)
    closing(windows, [[sample(A, k * STEP, k, 0) for k in range(1, 5)] + [sample(C, 4 * STEP + 1, 1, 1)]], TWO)
    windows.drop_partitions([0])
    late = windows.append(Samples.of(sample(A, 6 * STEP, 60, 0), sample(A, 6 * STEP + 1, 0, 0), sample(C, 6 * STEP + 1, 1, 1)))
    assert late.late == 0
    for tick in windows.due(TWO):
        closed = windows.close(tick)
    assert closed.mask[closed.keys.index(A)].sum() == 1, "slots from before are gone, not mixed with those since"


def test_a_gap_within_the_look_back_is_masked_in_every_window_it_touches() -> None:
    windows = store(lateness_ms=0, look_back=4)
    present = [1, 2, 5, 6, 7]
    windows.append(Samples.of(*(sample(A, k * STEP, k) for k in present), sample(A, 8 * STEP + 1, 0)))
    for tick in windows.due(ONE):
        closed = windows.close(tick)
        last = (tick - T0) // STEP
        assert closed.mask[0].tolist() == [slot in present for slot in range(last - 3, last + 1)]
        assert np.array_equal(np.isnan(closed.values[0]), ~closed.mask[0])


def test_a_counter_that_restarts_is_suspect_for_the_tick_it_fell_in_and_trusted_after() -> None:
    windows = store(lateness_ms=0)
    counts = [100, 250, 420, 600, 780, 900, 5, 160, 300]
    windows.append(Samples.of(*(sample(B, k * STEP, v) for k, v in enumerate(counts, 1)), sample(B, 10 * STEP, 1)))
    found = [bool(windows.close(tick).suspect[0]) for tick in windows.due(ONE)]
    assert found == [False] * 6 + [True, False, False]


def test_a_gauge_that_falls_to_nothing_is_suspect_only_by_what_it_is_itself() -> None:
    windows = store(lateness_ms=0)
    steady = [sample(key, k * STEP, 100 + k % 3) for k in range(1, 9) for key in (A, C)]
    windows.append(Samples.of(*steady, sample(A, 9 * STEP, 0), sample(C, 9 * STEP, 101), sample(C, 9 * STEP + 1, 101)))
    for tick in windows.due(ONE):
        closed = windows.close(tick)
    assert dict(zip(closed.keys, closed.suspect.tolist(), strict=True)) == {A: True, C: False}


def test_suspicion_is_the_same_however_many_columns_are_asked_for() -> None:
    windows = store(lateness_ms=0, look_back=30)
    values = [100 + k % 4 for k in range(1, 27)] + [77] * 3
    windows.append(Samples.of(*(sample(A, k * STEP, v) for k, v in enumerate(values, 1)), sample(A, 29 * STEP + 1, 0)))
    for tick in windows.due(ONE):
        windows.skip(tick)
    assert [windows.windows(columns).suspect.tolist() for columns in (1, 2, 10, 30)] == [[True]] * 4


def test_more_columns_than_there_are_give_the_look_back() -> None:
    windows = store(look_back=6)
    windows.append(Samples.of(sample(A, 1, 1)))
    windows.skip(T0 + STEP)
    assert windows.windows(1000).values.shape == (1, 6)


def test_a_rebuilt_store_gives_the_same_bytes_though_series_came_in_another_order() -> None:
    samples = [sample(key, k * STEP + 7, 10 * k + i) for k in range(1, 9) for i, key in enumerate((C, A, B))]
    end = sample(A, 12 * STEP, 0)
    one, two = store(), store()
    first = closing(one, [[sample(A, 1, 1)], samples, [end]], ONE)[0]
    second = closing(two, [[sample(A, 1, 1)], sorted(samples, key=lambda s: (s.at, s.key)), [end]], ONE)[0]
    assert first == second
    assert len(one) == len(two) == 3


def test_a_table_of_keys_that_grows_or_changes_keeps_rows_apart() -> None:
    windows = store()
    windows.append(Samples.of(sample(A, 10, 1)))
    grown = Samples((A, C), *(np.array(part) for part in ([1, 0], [T0 + 20, T0 + 30], [5.0, 3.0], [0, 0])))
    other = Samples((C, B), *(np.array(part) for part in ([0, 1], [T0 + 40, T0 + 50], [7.0, 9.0], [0, 0])))
    windows.append(grown)
    windows.append(other)
    closed = windows.close(T0 + STEP)
    assert dict(zip(closed.keys, closed.values[:, -1].tolist(), strict=True)) == {A: 2.0, B: 9.0, C: 6.0}


@pytest.mark.parametrize("step", [1, 10, 3600])
def test_ticks_are_multiples_of_the_step_whatever_it_is(step: int) -> None:
    windows = store(lateness_ms=0, step_s=step)
    windows.append(Samples.of(*(sample(A, k * step * 1000 + 1, 1) for k in range(5))))
    due = windows.due(ONE)
    assert due
    assert all(tick % (step * 1000) == 0 for tick in due)
    assert np.diff(due).tolist() == [step * 1000] * (len(due) - 1)
