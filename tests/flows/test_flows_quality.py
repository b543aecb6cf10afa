"""What a history lacks is told before it is learned from, and what nothing can be learned from is left out by name."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.history import History, gridded
from flows.quality import ASTRAY_MS, Quality, QualityLimits, SeriesQuality, learnable, on_time, stuck, survey
from forecastle.errors import ConfigError
from forecastle.types import Sample, Samples, SeriesKey

STEP = 60_000
START = 1_700_000_040_000 // STEP * STEP
KEY = SeriesKey("shop", "rps")


def samples(values: dict[str, list[tuple[int, float]]]) -> Samples:
    """Of each metric (slot, value)."""
    found = [
        Sample(SeriesKey("shop", name), START + slot * STEP, value) for name, told in values.items() for slot, value in told
    ]
    return Samples.of(*sorted(found, key=lambda sample: sample.at))


def steady(slots: int = 60, first: int = 0) -> list[tuple[int, float]]:
    return [(slot, float(10 + slot % 7)) for slot in range(first, first + slots)]


def surveyed(given: Samples, need: int = 20, flat: int = 10) -> tuple[Quality, History]:
    history = gridded(on_time(given), STEP)
    return survey(given, history, stuck(history, flat), QualityLimits(need, flat, 60)), history


def row(quality: Quality, metric: str = "rps") -> SeriesQuality:
    return next(one for one in quality.rows if one.series == f"shop:{metric}")


def test_a_healthy_series_has_nothing_against_it() -> None:
    quality, _ = surveyed(samples({"rps": steady()}))
    assert row(quality) == SeriesQuality("shop:rps", 60, 0, 0.0, 0, 1, 0, 0, 0.0, "", ())
    assert quality.left_out == {}
    assert quality.text() == "1 series, 0 with oddities"


def test_a_constant_is_left_out_and_a_flat_line_in_a_moving_series_is_told() -> None:
    dead = [(slot, 5.0 if 20 <= slot < 45 else float(slot)) for slot in range(60)]
    quality, history = surveyed(samples({"constant": [(s, 3.0) for s in range(60)], "stuck": dead, "fine": steady()}))
    assert quality.left_out == {"shop:constant": "constant at 3"}
    assert row(quality, "stuck").oddities == ("flat line: 25 equal slots, hidden",)
    assert row(quality, "stuck").stuck == quality.metrics()["quality_stuck"] == 25
    assert quality.text().startswith("3 series, 1 with oddities; 25 slots of flat lines hidden; left out: ")
    assert row(quality, "constant").oddities == (), "a constant is no flat line besides"
    assert learnable(history, quality).keys == (SeriesKey("shop", "fine"), SeriesKey("shop", "stuck"))


def grid(*series: np.ndarray) -> History:
    keys = tuple(SeriesKey(f"w{i}", "rps") for i in range(len(series)))
    return History(keys, np.array(series, np.float32), START, STEP)


def moving(slots: int = 3000, seed: int = 0) -> np.ndarray:
    return 100 + np.random.default_rng(seed).normal(0, 5, slots)


def test_a_dead_half_of_a_moving_series_is_hidden_and_what_is_constant_by_nature_is_not() -> None:
    dead, flickering = moving(), moving()
    dead[700:2200], flickering[700:2200] = 0.0, 0.0
    flickering[1000:1010] = np.nan
    constant, shy = np.full(3000, 7.0), np.zeros(3000)
    shy[::97] = 3.0
    flat = stuck(grid(dead, flickering, constant, shy, moving(seed=1)), 30)
    assert np.flatnonzero(flat[0]).tolist() == list(range(700, 2200))
    assert np.flatnonzero(flat[1]).tolist() == [*range(700, 1000), *range(1010, 2200)], "a gap does not end it"
    assert not flat[2:].any()


def test_what_a_series_does_every_night_is_its_habit() -> None:
    nights, rounded = moving(), np.round(moving() / 10)
    at = np.arange(3000)
    nights[at % 500 < 200] = 0.0
    assert not stuck(grid(nights, rounded), 30).any()
    nights[1200:2400] = 0.0
    assert np.flatnonzero(stuck(grid(nights), 30)[0]).tolist() == list(range(1000, 2400)), "longer than any night"


@pytest.mark.parametrize(("length", "hidden"), [(29, 0), (30, 30)])
def test_a_short_flat_line_is_none(length: int, hidden: int) -> None:
    series = moving(400)
    series[100 : 100 + length] = series[100]
    assert stuck(grid(series), 30).sum() == hidden


def test_what_is_hidden_does_not_count_as_learnable() -> None:
    given = samples({"rps": [(slot, 0.0 if slot >= 30 else float(slot)) for slot in range(60)]})
    assert row(surveyed(given, need=40)[0]).unusable == "30 of 40 slots"


@pytest.mark.parametrize(("slots", "unusable"), [(19, "19 of 20 slots"), (20, "")])
def test_a_series_must_have_enough_to_learn_from(slots: int, unusable: str) -> None:
    quality, _ = surveyed(samples({"rps": steady(slots), "fine": steady()}))
    assert row(quality).unusable == unusable


def test_gaps_are_counted_from_where_a_series_begins() -> None:
    young = [one for one in steady(40, first=20) if not 30 <= one[0] < 40]
    quality, _ = surveyed(samples({"rps": young, "old": steady()}))
    assert row(quality).gaps == pytest.approx(10 / 40)
    assert row(quality).longest_gap == 10
    assert row(quality, "old").longest_gap == 0


def test_a_series_that_ended_has_its_end_as_a_gap() -> None:
    quality, _ = surveyed(samples({"rps": steady(25), "old": steady()}))
    assert (row(quality).longest_gap, row(quality).oddities) == (35, ("sparse: 58% of its slots are empty",))


def test_samples_of_one_time_are_duplicates_and_those_of_one_slot_are_not() -> None:
    twice = Samples.of(
        *(Sample(KEY, START + slot * STEP - 1000 * (slot % 2), 1.0 * slot) for slot in range(30) for _ in range(2))
    )
    assert row(surveyed(twice)[0]).duplicates == 30
    close = Samples.of(*(Sample(KEY, START + slot * 20_000, float(slot % 5)) for slot in range(90)))
    assert row(surveyed(close)[0]).duplicates == 0


def test_one_sample_from_the_next_century_does_not_push_the_history_out() -> None:
    given = samples({"rps": [*steady(), (ASTRAY_MS // STEP + 600, 1.0)], "fine": steady()})
    quality, history = surveyed(given)
    assert history.values.shape == (2, 60)
    assert row(quality).astray == 1
    assert row(quality).oddities == ("broken clock: 1 samples far in the future, not used",)
    assert quality.metrics()["quality_astray"] == 1
    assert gridded(given, STEP).values.shape[1] > 10_000, "without the check the grid would reach there"


def test_a_clock_that_runs_ahead_is_told() -> None:
    quality, _ = surveyed(samples({"a": steady(), "b": steady(), "rps": steady(60, first=5)}))
    assert row(quality).oddities == ("fast clock: 300 s ahead of most series",)
    assert row(quality, "a").oddities == ()


def test_a_scrape_slower_than_the_slots_is_told() -> None:
    slow = [(5 * slot, float(slot % 4)) for slot in range(30)]
    assert "slow pace: every 300 s, slots are 60 s" in row(surveyed(samples({"rps": slow}))[0]).oddities


def test_nothing_left_is_an_error_that_names_the_reasons() -> None:
    quality, history = surveyed(samples({"rps": [(s, 1.0) for s in range(60)], "short": steady(3)}))
    with pytest.raises(ConfigError, match=r"shop:rps \(constant at 1\).*shop:short \(3 of 20 slots\)"):
        learnable(history, quality)


def test_the_table_begins_with_the_worst_and_the_text_does_not_grow_with_the_fleet() -> None:
    many = {f"m{i:02}": [(s, float(i)) for s in range(60)] for i in range(9)}
    quality, _ = surveyed(samples({**many, "fine": steady()}))
    assert [one["series"] for one in quality.table()][-1] == "shop:fine"
    assert quality.text().endswith("and 4 more")
    metrics = quality.metrics()
    assert (metrics["quality_series"], metrics["quality_left_out"]) == (10, 9)


def test_odd_kinds_are_counted_by_name() -> None:
    quality, _ = surveyed(samples({"a": steady(), "b": steady(), "rps": steady(60, first=5), "s": steady(25)}))
    assert {k: v for k, v in quality.metrics().items() if "clock" in k or "sparse" in k} == {
        "quality_fast_clock": 1.0,
        "quality_sparse": 1.0,
    }


@given(st.lists(st.tuples(st.integers(0, 80), st.floats(-5, 5)), min_size=1, max_size=120))
def test_the_numbers_of_any_history_are_consistent(told: list[tuple[int, float]]) -> None:
    given = samples({"rps": told})
    quality, history = surveyed(given)
    one = row(quality)
    assert one.samples == len(told)
    assert one.duplicates == len(told) - len({slot for slot, _ in told})
    assert 0 <= one.gaps < 1
    assert one.longest_gap <= history.values.shape[1] - 2 or one.longest_gap == 0
    assert 1 <= one.longest_flat <= len({slot for slot, _ in told})
    assert all(np.isfinite(value) for value in quality.metrics().values())
