"""Windows are a function of the samples: of nothing else."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecastle.settings import WindowSettings
from forecastle.types import Origin, Progress, Sample, Samples, SeriesKey
from forecastle.window.store import WindowStore

STEP = 60_000
T0 = 1_700_000_040_000  # a multiple of the step
A, B, C = (SeriesKey("shop", name) for name in ("a", "b", "c"))
ONE = Progress(frozenset({0}), frozenset())


def store(look_back: int = 10, lateness_s: float = 5.0, clock=lambda: 0.0, **more) -> WindowStore:
    return WindowStore(
        WindowSettings(step_s=60, look_back=look_back, lateness_s=lateness_s, flat_slots=more.pop("flat_slots", 3), **more),
        clock,
    )


def sample(key: SeriesKey, at: int, value: float, partition: int = 0) -> Sample:
    return Sample(key, T0 + at, value, Origin("metrics", partition, 0))


def run(windows: WindowStore, *samples: Sample, progress: Progress = ONE):
    windows.append(Samples.of(*samples))
    return {tick: windows.close(tick) for tick in windows.due(progress)}


def test_a_slot_is_left_open_and_right_closed():
    closed = run(store(), sample(A, 1, 10), sample(A, STEP, 20), sample(A, STEP + 1, 99), sample(A, 2 * STEP + 5001, 1))
    assert list(closed) == [T0 + STEP, T0 + 2 * STEP]
    first, second = closed.values()
    assert first.values[0, -1] == 15.0
    assert second.values[0, -1] == 99.0
    assert second.values[0, -2] == 15.0
    assert not first.mask[0, :-1].any()
    assert np.isnan(first.values[0, :-1]).all()


def test_lateness_decides_when_a_tick_is_due():
    windows = store()
    assert run(windows, sample(A, 10, 1), sample(A, STEP + 5000, 1)) == {}
    assert list(run(windows, sample(A, STEP + 5001, 1))) == [T0 + STEP]


def test_too_late_is_recorded_not_applied():
    windows = store()
    run(windows, sample(A, 10, 1), sample(A, STEP + 5001, 2))
    appended = windows.append(Samples.of(sample(A, 20, 1000), sample(A, STEP + 2, 4)))
    assert (appended.accepted, appended.late) == (1, 1)
    assert windows.late == 1
    closed = run(windows, sample(A, 2 * STEP + 5001, 0))
    assert closed[T0 + 2 * STEP].values[0, -2:].tolist() == [1.0, 3.0]


def test_a_repeated_delivery_counts_once():
    windows = store()
    once = [sample(A, 10, 2), sample(A, 20, 4)]
    closed = run(windows, *once, *once, once[0], sample(A, STEP + 5001, 0))
    assert closed[T0 + STEP].values[0, -1] == 3.0
    assert windows.append(Samples.of(sample(A, STEP + 5002, 0))).duplicate == 3


def test_of_two_values_at_one_instant_the_larger_counts():
    for values in ([2, 8], [8, 2]):
        closed = run(store(), *(sample(A, 10, v) for v in values), sample(A, STEP + 5001, 0))
        assert closed[T0 + STEP].values[0, -1] == 8.0


def test_gaps_are_masked_and_old_slots_leave_the_ring():
    windows = store(look_back=4)
    closed = run(windows, sample(A, 1, 1), sample(A, 3 * STEP, 3), sample(A, 6 * STEP, 6), sample(A, 6 * STEP + 5001, 0))
    assert list(closed) == [T0 + k * STEP for k in range(1, 7)]
    last = closed[T0 + 6 * STEP]
    assert last.mask[0].tolist() == [True, False, False, True]
    assert last.values[0, [0, 3]].tolist() == [3.0, 6.0]


def test_fewer_columns_are_the_newest_ones():
    windows = store()
    windows.append(Samples.of(*(sample(A, k * STEP, k) for k in range(1, 9)), sample(A, 8 * STEP + 5001, 0)))
    for tick in windows.due(ONE):
        windows.skip(tick)
    full, few = windows.windows(), windows.windows(3)
    assert few.values.shape == (1, 3)
    assert few.values.tolist() == full.values[:, -3:].tolist() == [[6.0, 7.0, 8.0]]
    assert few.values.flags.c_contiguous


def test_rows_are_sorted_and_series_without_a_slot_are_left_out():
    windows = store(look_back=3)
    closed = run(windows, sample(C, 1, 1), sample(A, 2, 2), sample(B, 3, 3), sample(A, STEP + 5001, 2))
    assert closed[T0 + STEP].keys == (A, B, C)
    closed = run(windows, *(sample(A, k * STEP + 5001, 2) for k in range(2, 6)))
    assert closed[T0 + 3 * STEP].keys == (A, B, C)
    assert closed[T0 + 4 * STEP].keys == (A,)


def test_late_flags_follow_the_staleness_limit():
    windows = store(stale_s=120)
    closed = run(windows, sample(A, 1, 1), sample(B, 1, 1), *(sample(B, k * STEP + 5001, 1) for k in range(1, 5)))
    late = {tick: dict(zip(w.keys, w.late.tolist(), strict=True)) for tick, w in closed.items()}
    assert not late[T0 + 2 * STEP][A]
    assert late[T0 + 3 * STEP] == {A: True, B: False}


def test_the_slowest_partition_holds_the_watermark_until_it_is_idle_and_drained():
    now = [0.0]
    windows = store(clock=lambda: now[0], idle_s=30)
    both = Progress(frozenset({0, 1}), frozenset())
    drained = Progress(frozenset({0, 1}), frozenset({1}))
    windows.append(Samples.of(sample(A, 10, 1, 0), sample(B, 10, 1, 1), sample(A, 3 * STEP, 1, 0)))
    assert windows.due(both) == []
    now[0] = 100.0
    assert windows.due(both) == []
    assert windows.due(drained) == []
    now[0] = 131.0
    assert windows.due(drained) == [T0 + STEP, T0 + 2 * STEP]


def test_a_partition_that_has_not_shown_yet_holds_everything():
    windows = store()
    windows.append(Samples.of(sample(A, 10, 1, 0), sample(A, 5 * STEP, 1, 0)))
    assert windows.due(Progress(frozenset({0, 7}), frozenset())) == []
    assert windows.due(Progress(frozenset({0}), frozenset())) != []


def test_samples_of_a_partition_that_was_idle_fill_gaps_but_change_nothing():
    now = [0.0]
    windows = store(clock=lambda: now[0], idle_s=30)
    drained = Progress(frozenset({0, 1}), frozenset({1}))
    windows.append(Samples.of(sample(A, 10, 1, 0), sample(B, 10, 1, 1), sample(A, 3 * STEP, 1, 0)))
    windows.due(drained)
    now[0] = 31.0
    for tick in windows.due(drained):
        windows.close(tick)
    windows.append(Samples.of(sample(B, 20, 50, 1), sample(B, STEP + 10, 7, 1), sample(B, 4 * STEP, 1, 1)))
    windows.append(Samples.of(sample(A, 4 * STEP, 1, 0)))
    tick = windows.due(drained)[-1]
    closed = windows.close(tick)
    assert tick == T0 + 3 * STEP
    assert closed.values[list(closed.keys).index(B), -3:-1].tolist() == [1.0, 7.0]


def test_dropped_partitions_take_their_series_with_them():
    windows = store()
    both = Progress(frozenset({0, 1}), frozenset())
    rows = [sample(A, 10, 1, 0), sample(B, 10, 1, 1), sample(C, 10, 1, 0), sample(C, 20, 1, 1)]
    closed = run(windows, *rows, sample(A, STEP + 5001, 1, 0), sample(B, STEP + 5001, 1, 1), progress=both)
    assert closed[T0 + STEP].keys == (A, B, C)
    closed = run(windows, sample(A, 2 * STEP + 5001, 1, 0))
    assert closed[T0 + 2 * STEP].keys == (A, C)


def test_a_long_silence_is_skipped():
    windows = store(look_back=5)
    closed = run(windows, sample(A, 1, 1), sample(A, 1_000_000 * STEP, 2), sample(A, 1_000_000 * STEP + 5001, 2))
    assert len(closed) == 2
    assert closed[T0 + 1_000_000 * STEP].values[0, -1] == 2.0
    assert not closed[T0 + 1_000_000 * STEP].mask[0, :-1].any()


def test_a_closed_tick_cannot_be_closed_again():
    windows = store()
    with pytest.raises(ValueError, match="no tick"):
        windows.windows()
    windows.append(Samples.of(sample(A, 1, 1)))
    windows.close(T0 + STEP)
    with pytest.raises(ValueError, match="closed already"):
        windows.close(T0 + STEP)


def test_an_empty_batch_is_fine():
    windows = store()
    assert windows.append(Samples.of()).accepted == 0
    assert windows.due(ONE) == []


events = st.lists(
    st.tuples(st.sampled_from([A, B, C]), st.integers(0, 8 * STEP), st.floats(-1e6, 1e6, width=32), st.integers(0, 1)),
    min_size=1,
    max_size=60,
)


def outcome(batches: list[list[Sample]]):
    """Every window closed when the batches arrive one by one, and how many samples came too late."""
    windows = store(look_back=6, lateness_s=70)
    both = Progress(frozenset({0, 1}), frozenset())
    closed, late = {}, 0
    for batch in batches:
        late += windows.append(Samples.of(*batch)).late
        for tick in windows.due(both):
            w = windows.close(tick)
            closed[tick] = (w.keys, w.values.tobytes(), w.mask.tobytes(), w.late.tobytes(), w.suspect.tobytes())
    return closed, late


@settings(max_examples=200, deadline=None)
@given(events, st.lists(st.integers(0, 60), max_size=8))
def test_windows_do_not_depend_on_how_polls_cut_the_log(rows, cuts):
    samples = [sample(*row) for row in rows] + [sample(A, 20 * STEP, 0, 0), sample(A, 20 * STEP, 0, 1)]
    edges = sorted({0, len(samples), *(min(cut, len(samples)) for cut in cuts)})
    batches = [samples[a:b] for a, b in itertools.pairwise(edges)]
    whole, pieces = outcome([samples]), outcome(batches)
    assert whole[0].keys() == pieces[0].keys()
    assert whole == pieces


@settings(max_examples=200, deadline=None)
@given(events, st.randoms(use_true_random=False))
def test_folding_does_not_depend_on_order_or_repetition(rows, random):
    samples = [sample(key, at, value) for key, at, value, _ in rows]
    shuffled = samples + random.sample(samples, len(samples) // 2)
    random.shuffle(shuffled)
    made = []
    for order in (samples, shuffled):
        windows = store(look_back=20, lateness_s=3600)
        windows.append(Samples.of(*order))
        w = windows.close(T0 + 9 * STEP)
        made.append((w.keys, w.values.tobytes(), w.mask.tobytes()))
    assert made[0] == made[1]


@settings(max_examples=100, deadline=None)
@given(events)
def test_the_mean_is_the_mean(rows):
    windows = store(look_back=20, lateness_s=3600)
    windows.append(Samples.of(*(sample(key, at, value) for key, at, value, _ in rows)))
    w = windows.close(T0 + 9 * STEP)
    for i, key in enumerate(w.keys):
        for slot in range(20):
            end = T0 + 9 * STEP - (19 - slot) * STEP
            instants: dict[int, float] = {}
            for other, at, value, _ in rows:
                if other == key and end - STEP < T0 + at <= end:
                    instants[at] = max(value, instants.get(at, value))
            assert w.mask[i, slot] == bool(instants)
            if instants:
                assert w.values[i, slot] == pytest.approx(np.mean(list(instants.values())), rel=1e-5, abs=1e-3)


def test_thousands_of_series_and_growth_keep_their_own_values():
    windows = store(look_back=3)
    keys = [SeriesKey("w", f"m{i:04d}") for i in range(2000)]
    for k in range(3):
        part = keys[: 700 * (k + 1)]
        windows.append(Samples.of(*(sample(key, k * STEP + 1, i + k) for i, key in enumerate(part))))
    windows.append(Samples.of(sample(keys[0], 3 * STEP + 5001, 0)))
    for tick in windows.due(ONE):
        closed = windows.close(tick)
    assert len(closed) == 2000
    where = closed.keys.index(keys[650])
    assert closed.values[where].tolist() == [650.0, 651.0, 652.0]
    assert closed.mask[closed.keys.index(keys[1999])].tolist() == [False, False, True]
