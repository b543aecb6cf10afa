"""What counts as data that must not be trusted, and what must not."""

from __future__ import annotations

import numpy as np
import pytest

from forecastle.window.suspect import suspects

RNG = np.random.default_rng(7)


def judge(*rows, counter: bool = False, flat_slots: int = 6) -> list[bool]:
    values = np.array(rows, np.float32)
    mask = ~np.isnan(values)
    return suspects(values, mask, np.full(len(rows), counter), jump=10.0, flat_slots=flat_slots).tolist()


def moving(n: int = 40, level: float = 100.0) -> list[float]:
    return (level + RNG.normal(0, 5, n)).tolist()


def test_ordinary_data_is_trusted():
    wave = (100 + 80 * np.sin(np.arange(48) / 4)).tolist()
    assert judge(wave) == [False]
    assert judge(moving()) == [False]


def test_a_sudden_zero_is_suspect_as_long_as_it_stands():
    assert judge([*moving(), 0]) == [True]
    assert judge([*moving(), 0, 0, 0, 0]) == [True]
    assert judge([*moving(), 0, 0, 90]) == [False]


def test_zeros_of_a_series_that_is_often_zero_are_trusted():
    assert judge([0, 3, 0, 1, 0, 2, 0, 0, 4, 0, 1, 0] * 3) == [False]


def test_a_level_that_fades_to_zero_is_trusted():
    assert judge([*moving(), 80, 60, 40, 20, 9, 4, 2, 1, 0]) == [False]


@pytest.mark.parametrize(("last", "expected"), [(1500, True), (500, False), (5, True), (20, False)])
def test_more_than_tenfold_in_one_step(last, expected):
    assert judge([*moving(), last]) == [expected]


def test_the_step_after_a_jump_is_judged_by_itself():
    assert judge([*moving(), 2000, 2050]) == [False]


def test_noise_around_nothing_is_no_jump():
    assert judge([0.1, 0.2, 1.5, 0.1, 0.9, 0.3, 0.2, 0.1, 1.4]) == [False]


def test_a_flat_line_in_a_moving_series():
    assert judge([*moving(), *[77.0] * 6]) == [True]
    assert judge([*moving(), *[77.0] * 5]) == [False]


def test_a_series_that_is_always_flat_is_trusted():
    assert judge([3.0] * 48) == [False]
    assert judge([3.0] * 20 + [4.0] * 28) == [False]


def test_a_counter_may_only_grow():
    grows = np.cumsum(np.abs(RNG.normal(1000, 300, 40))).tolist()
    assert judge(grows, counter=True) == [False]
    assert judge([*grows, 5.0], counter=True) == [True]
    assert judge([*grows, grows[-1]], counter=True) == [False]


def test_gaps_are_stepped_over():
    gap = [np.nan] * 3
    assert judge([*moving(), *gap, 0]) == [True]
    assert judge([*moving(), 0, *gap]) == [True]
    assert judge([np.nan] * 40) == [False]
    assert judge([*gap, 5, *gap]) == [False]


def test_no_series_and_one_slot():
    none = suspects(np.empty((0, 5), np.float32), np.empty((0, 5), np.bool_), np.empty(0, np.bool_), jump=10, flat_slots=3)
    assert none.tolist() == []
    assert judge([1.0], [0.0]) == [False, False]
