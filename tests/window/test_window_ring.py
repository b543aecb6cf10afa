"""The ring keeps what time says, wherever its columns happen to wrap."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecastle.window.ring import FIRST_ROWS, Ring


def filled(columns: int, slots: range, rows: int = 2) -> Ring:
    """A ring in which row r holds ``1000 r + slot`` at each of ``slots``."""
    ring = Ring(columns)
    ring.grow(rows)
    for slot in slots:
        ring.advance(slot)
        ring.fill(slot, np.arange(rows), (1000 * np.arange(rows) + slot).astype(np.float32))
    return ring


@pytest.mark.parametrize("last", range(20, 31))
def test_reading_is_by_time_at_every_position_of_the_newest_column(last: int) -> None:
    values, mask = filled(5, range(10, last + 1)).read(np.array([0, 1]), 5)
    wanted = np.arange(last - 4, last + 1)
    assert mask.all()
    assert values.tolist() == [wanted.tolist(), (1000 + wanted).tolist()]


@pytest.mark.parametrize("last", range(20, 26))
@pytest.mark.parametrize("columns", [1, 2, 4, 5])
def test_fewer_columns_are_the_newest_across_the_wrap(last: int, columns: int) -> None:
    values, _ = filled(5, range(10, last + 1)).read(np.array([1]), columns)
    assert values[0].tolist() == [1000 + slot for slot in range(last - columns + 1, last + 1)]


def test_rows_are_answered_in_the_order_asked_for_and_as_copies() -> None:
    ring = filled(3, range(3), rows=3)
    values, mask = ring.read(np.array([2, 0, 2]), 3)
    assert values[:, -1].tolist() == [2002, 2, 2002]
    values[:], mask[:] = -1, False
    assert ring.read(np.array([0]), 3)[0].tolist() == [[0, 1, 2]]


def test_nothing_is_known_before_the_first_slot() -> None:
    ring = Ring(4)
    ring.grow(1)
    values, mask = ring.read(np.array([0]), 4)
    assert np.isnan(values).all()
    assert not mask.any()
    assert not ring.holds(0)


def test_skipped_slots_are_gaps_not_what_lay_there_a_round_before() -> None:
    ring = filled(4, range(4))
    ring.advance(6)
    values, mask = ring.read(np.array([0]), 4)
    assert mask[0].tolist() == [True, False, False, False]
    assert values[0, 0] == 3
    assert np.isnan(values[0, 1:]).all()


@pytest.mark.parametrize("jump", [4, 5, 400, 10**12])
def test_a_jump_of_the_whole_ring_or_more_leaves_nothing(jump: int) -> None:
    ring = filled(4, range(4))
    ring.advance(3 + jump)
    assert not ring.read(np.array([0, 1]), 4)[1].any()
    assert ring.newest == 3 + jump


def test_an_older_slot_never_turns_the_ring_back() -> None:
    ring = filled(4, range(8))
    ring.advance(5)
    assert ring.newest == 7
    assert ring.read(np.array([0]), 4)[0].tolist() == [[4, 5, 6, 7]]


def test_it_holds_exactly_its_columns() -> None:
    ring = filled(4, range(10))
    assert [slot for slot in range(15) if ring.holds(slot)] == [6, 7, 8, 9]


def test_what_was_folded_is_never_changed_and_only_gaps_are_filled() -> None:
    ring = filled(4, range(4), rows=1)
    ring.grow(2)
    ring.fill(2, np.array([0, 1]), np.array([99, 77], np.float32))
    values, mask = ring.read(np.array([0, 1]), 4)
    assert values[0].tolist() == [0, 1, 2, 3]
    assert mask[1].tolist() == [False, False, True, False]
    assert values[1, 2] == 77


def test_cleared_rows_are_all_gaps_and_their_neighbours_are_not() -> None:
    ring = filled(4, range(6), rows=3)
    ring.clear(np.array([1]))
    assert ring.read(np.arange(3), 4)[1].all(axis=1).tolist() == [True, False, True]


def test_growing_keeps_every_row_and_new_ones_are_gaps() -> None:
    ring = filled(3, range(5), rows=2)
    for rows in (FIRST_ROWS, FIRST_ROWS + 1, 3 * FIRST_ROWS):
        ring.grow(rows)
        values, mask = ring.read(np.arange(rows), 3)
        assert values[:2].tolist() == [[2, 3, 4], [1002, 1003, 1004]]
        assert not mask[2:].any()


def test_growing_to_fewer_rows_than_there_are_changes_nothing() -> None:
    ring = filled(3, range(5), rows=7)
    ring.grow(1)
    assert ring.read(np.arange(7), 3)[1].all()


def test_a_ring_of_one_column_holds_the_newest_only() -> None:
    ring = filled(1, range(3))
    assert ring.read(np.array([0]), 1)[0].tolist() == [[2]]
    assert not ring.holds(1)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 9), st.lists(st.tuples(st.integers(0, 12), st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_a_ring_is_a_dictionary_that_forgets(columns: int, steps: list[tuple[int, bool, bool]]) -> None:
    ring, kept, now = Ring(columns), {}, 0
    ring.grow(2)
    for ahead, *present in steps:
        now += ahead
        ring.advance(now)
        rows = np.flatnonzero(present)
        ring.fill(now, rows, np.full(len(rows), now, np.float32))
        kept |= {(int(row), now): float(now) for row in rows}
    values, mask = ring.read(np.array([0, 1]), columns)
    for row in (0, 1):
        for back in range(columns):
            wanted = kept.get((row, now - back))
            assert bool(mask[row, columns - 1 - back]) == (wanted is not None)
            assert wanted is None or values[row, columns - 1 - back] == wanted
