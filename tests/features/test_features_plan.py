"""Every registered feature: never looks ahead, says the same in batch and in the stream, reads nothing it may not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features import FEATURES, Feature, feature, plan, plan_hash, rolled
from forecastle.errors import ConfigError

SLOTS = 300
ALL = pytest.mark.parametrize("one", FEATURES.values(), ids=FEATURES)


def series(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    values = rng.normal(50, 10, SLOTS).astype(np.float32)
    return values, rng.random(SLOTS) > 0.1, 29_000_000 + np.arange(SLOTS, dtype=np.int64)


def windows(one: Feature, n: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    shape = (n, one.look_back + 40)
    return rng.normal(50, 10, shape).astype(np.float32), rng.random(shape) > 0.1, np.arange(n, dtype=np.int64) * 1000


@ALL
def test_the_future_changes_nothing(one: Feature) -> None:
    values, mask, minutes = series()
    before = rolled(one, values, mask, minutes)
    for cut in (1, 150, 299):
        changed, hidden = values.copy(), mask.copy()
        changed[cut:], hidden[cut:] = 1e6, True
        np.testing.assert_array_equal(rolled(one, changed, hidden, minutes)[:cut], before[:cut])


@ALL
def test_batch_and_stream_agree(one: Feature) -> None:
    """The training table and the newest window alone give the same numbers, bit by bit."""
    values, mask, minutes = series()
    batch = rolled(one, values, mask, minutes)
    for slot in range(one.look_back, SLOTS, 37):
        window = slice(slot + 1 - max(one.look_back, 1), slot + 1)
        stream = one(values[None, window], mask[None, window], minutes[slot : slot + 1])
        np.testing.assert_array_equal(stream[0], batch[slot])


@ALL
def test_rows_do_not_know_each_other(one: Feature) -> None:
    values, mask, minutes = windows(one)
    together = one(values, mask, minutes)
    alone = np.concatenate([one(values[i : i + 1], mask[i : i + 1], minutes[i : i + 1]) for i in range(len(values))])
    np.testing.assert_allclose(together, alone, rtol=1e-6)


@ALL
def test_only_the_declared_look_back_and_only_what_was_observed_is_read(one: Feature) -> None:
    values, mask, minutes = windows(one)
    wanted = one(values, mask, minutes)
    older = values.shape[1] - one.look_back
    other, seen = values.copy(), mask.copy()
    other[:, :older], seen[:, :older] = 1e9, True
    other[~seen] = np.nan
    np.testing.assert_array_equal(one(other, seen, minutes), wanted)


@ALL
def test_nothing_observed_is_finite(one: Feature) -> None:
    values, mask, minutes = windows(one)
    answer = one(values, np.zeros_like(mask), minutes)
    assert answer.dtype == np.float32
    assert answer.ndim == 2
    assert np.isfinite(answer).all()


@pytest.mark.parametrize("one", [one for one in FEATURES.values() if one.look_back], ids=lambda one: one.name)
def test_a_window_that_is_too_short_is_refused(one: Feature) -> None:
    short = np.zeros((1, one.look_back - 1), np.float32)
    with pytest.raises(ConfigError, match=f"looks {one.look_back} slots back"):
        one(short, short > 0, np.zeros(1, np.int64))


def test_level_follows_the_newest_and_survives_a_gap() -> None:
    values = np.r_[np.zeros(110), np.full(10, 8.0)].astype(np.float32)[None]
    mask = np.ones(values.shape, bool)
    minute = np.zeros(1, np.int64)
    assert FEATURES["level"](values, mask, minute)[0, 0] == pytest.approx(8 * (1 - 0.5 ** (10 / 3)), rel=1e-3)
    mask[:, 110:] = False
    assert FEATURES["level"](values + 3, mask, minute)[0, 0] == pytest.approx(3)


@given(st.floats(-1e3, 1e3, width=32), st.floats(-10, 10, width=32), st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_slope_and_mean_of_a_line_with_gaps(start: float, step: float, seed: int) -> None:
    values = (start + step * np.arange(60)).astype(np.float32)[None]
    mask = np.random.default_rng(seed).random((1, 60)) > 0.5
    mask[0, [3, 50]] = True
    minute = np.zeros(1, np.int64)
    assert FEATURES["slope"](values, mask, minute)[0, 0] == pytest.approx(step, abs=1e-3 + 1e-4 * abs(start))
    assert FEATURES["rolling_mean"](values, mask, minute)[0, 0] == pytest.approx(values[mask].mean(), rel=1e-4, abs=1e-2)


@pytest.mark.parametrize(
    ("when", "day", "minute"),
    [
        ("1970-01-01T00:00", 3, 0),  # a Thursday
        ("2026-11-30T00:00", 0, 0),  # a Monday
        ("2026-11-29T23:59", 6, 1439),
        ("2024-02-29T12:30", 3, 750),
        ("1969-12-31T23:59", 2, 1439),
    ],
)
def test_the_calendar_knows_the_calendar(when: str, day: int, minute: int) -> None:
    minutes = np.array([when], "datetime64[m]").astype(np.int64)
    none = np.zeros((1, 0), np.float32)
    weekday = FEATURES["week_day"](none, none > 0, minutes)
    assert weekday.argmax() == day
    assert weekday.sum() == 1
    angle = 2 * np.pi * minute / 1440
    phase = FEATURES["day_phase"](none, none > 0, minutes)[0]
    np.testing.assert_allclose(phase, [np.sin(angle), np.cos(angle), np.sin(2 * angle), np.cos(2 * angle)], atol=1e-6)


def test_the_plan_hash_is_stable_and_sees_every_change(monkeypatch: pytest.MonkeyPatch) -> None:
    assert plan(["level", "week_day"]) == [{"name": "level", "look_back": 120}, {"name": "week_day", "look_back": 0}]
    first = plan_hash(["level", "week_day"])
    assert first == plan_hash(["level", "week_day"])
    assert first != plan_hash(["week_day", "level"])
    assert first != plan_hash(["level"])
    monkeypatch.setitem(FEATURES, "level", Feature("level", 121, FEATURES["level"].compute))
    assert first != plan_hash(["level", "week_day"])


def test_unknown_and_doubled_names_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"unknown features \['nobody'\]"):
        plan(["nobody"])

    def level(values: np.ndarray, mask: np.ndarray, end_minute: np.ndarray) -> np.ndarray:
        return values

    with pytest.raises(ConfigError, match="level: the name is taken"):
        feature(look_back=1)(level)
