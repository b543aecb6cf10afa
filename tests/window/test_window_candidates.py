"""Judging only the series whose newest two slots are odd gives the verdicts of judging all of them, bit for bit."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecastle.settings import WindowSettings
from forecastle.types import Floats32, Mask, Progress, Samples, SeriesKey
from forecastle.window.store import WindowStore
from forecastle.window.suspect import HISTORY, candidates, suspects

STEP = 60_000
T0 = 1_700_000_040_000
F32 = np.float32
EDGES = [
    0.0, -0.0, 1.0, -1.0, 10.0, 100.0, 0.1, 1e-45, 3e38, -3e38,
    *(float(np.nextafter(F32(level), F32(towards))) for level in (0.1, 1, 10, 100) for towards in (0, 1e9)),
]  # fmt: skip


def selected(values: Floats32, mask: Mask, counter: Mask, *, jump: float, flat_slots: int) -> tuple[Mask, Mask]:
    """Verdicts of the candidates alone, and the candidates."""
    odd = candidates(values[:, -2:], mask[:, -2:], counter, jump=jump)
    found = np.zeros(len(values), np.bool_)
    found[odd] = suspects(values[odd], mask[odd], counter[odd], jump=jump, flat_slots=flat_slots)
    return found, odd


def agree(values: Floats32, counter: Mask, *, jump: float = 10.0, flat_slots: int = 2) -> tuple[Mask, Mask]:
    mask = ~np.isnan(values)
    with np.errstate(over="ignore"):
        everyone = suspects(values, mask, counter, jump=jump, flat_slots=flat_slots)
        found, odd = selected(values, mask, counter, jump=jump, flat_slots=flat_slots)
    assert np.array_equal(found, everyone)
    return everyone, odd


@pytest.mark.parametrize("palette", [(np.nan, 0.0, 1.0, 8.0), (0.0, 1.0, 10.0, 10.5), (np.nan, -1.0, 9.0, 200.0)])
@pytest.mark.parametrize("counter", [False, True])
@pytest.mark.parametrize("flat_slots", [2, 3])
def test_all_short_series_of_four_levels(palette, counter, flat_slots):
    values = np.array(list(itertools.product(palette, repeat=7)), F32)
    verdicts, odd = agree(values, np.full(len(values), counter), flat_slots=flat_slots)
    assert verdicts.any()
    assert not odd.all()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("jump", [0.5, 1.0, 3.3, 10.0])
def test_series_of_edges_gaps_and_repetition(seed, jump):
    rng = np.random.default_rng(seed)
    n, width = 6000, int(rng.integers(2, 40))
    values = rng.choice(np.array(EDGES, F32), (n, width))
    wild = rng.random((n, width)) < 0.3
    values[wild] = (rng.standard_normal(wild.sum()) * 10.0 ** rng.integers(-6, 6, wild.sum())).astype(F32)
    values[rng.random((n, width)) < rng.choice([0, 0.02, 0.3], (n, 1))] = np.nan
    still = rng.integers(0, width, n)  # from here on the series repeats itself
    values = np.where(np.arange(width) > still[:, None], values[np.arange(n), still][:, None], values)
    moved = rng.random(n) < 0.7
    values[moved, -1] = rng.choice(np.array(EDGES, F32), moved.sum())
    verdicts, _ = agree(values, rng.random(n) < 0.2, jump=jump, flat_slots=int(rng.integers(2, 7)))
    assert width < 7 or verdicts.any()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_series_of_any_numbers(data):
    width = data.draw(st.integers(2, 14))
    number = st.floats(width=32) | st.sampled_from(EDGES)
    rows = data.draw(st.lists(st.lists(number, min_size=width, max_size=width), min_size=1, max_size=6))
    values, n = np.array(rows, F32), len(rows)
    mask = np.array(data.draw(st.lists(st.lists(st.booleans(), min_size=width, max_size=width), min_size=n, max_size=n)))
    counter = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    values[~mask] = np.nan
    jump = data.draw(st.floats(0.1, 100))
    with np.errstate(all="ignore"):  # infinities and NaN in the window: what an overflow leaves behind
        everyone = suspects(values, mask, counter, jump=jump, flat_slots=2)
        found, _ = selected(values, mask, counter, jump=jump, flat_slots=2)
    assert np.array_equal(found, everyone)


@pytest.mark.parametrize("seed", range(4))
def test_a_verdict_does_not_depend_on_the_other_series(seed):
    """The level before is a sum of floats: its rounding must not change with what else is summed."""
    rng = np.random.default_rng(seed)
    values = (np.abs(rng.standard_normal((400, 240))) * 10.0 ** rng.integers(-20, 20, (400, 240))).astype(F32)
    typical = values.sum(axis=1, dtype=np.float64)
    for part in (slice(7, 8), slice(0, 400, 3), slice(211, 213)):
        assert np.array_equal(values[part].copy().sum(axis=1, dtype=np.float64), typical[part])


def test_ordinary_series_are_no_candidates():
    rng = np.random.default_rng(1)
    values = (100 + rng.normal(0, 5, (500, 2))).astype(F32)
    mask, plain = np.ones((500, 2), np.bool_), np.zeros(500, np.bool_)
    assert not candidates(values, mask, plain, jump=10.0).any()
    assert candidates(values, mask, ~plain, jump=10.0).tolist() == (values[:, 1] < values[:, 0]).tolist()
    mask[3, 0] = mask[5, 1] = False
    assert np.flatnonzero(candidates(values, mask, plain, jump=10.0)).tolist() == [3, 5]


# --- in the store -----------------------------------------------------------------------------------------------------


def stream(seed: int, series: int, slots: int) -> tuple[tuple[SeriesKey, ...], Floats32]:
    """Series of every kind: noise, whole numbers, zeros, counters, gaps, flat ends, jumps."""
    rng = np.random.default_rng(seed)
    keys = tuple(SeriesKey(f"w{i:03d}", "served_total" if i % 7 == 3 else "load") for i in range(series))
    values = 100 + rng.normal(0, 5, (series, slots))
    values[::5] = rng.integers(0, 4, values[::5].shape)
    values[3::7] = np.cumsum(np.abs(values[3::7]), axis=1)
    odd = rng.random((series, slots))
    values[odd < 0.03] = 0
    values[(odd > 0.03) & (odd < 0.05)] *= 30
    values[(odd > 0.05) & (odd < 0.12)] = np.nan
    for row in range(0, series, 4):
        begin = int(rng.integers(0, slots))
        values[row, begin : begin + 8] = values[row, begin]
    return keys, values.astype(F32)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("look_back", "columns"), [(40, 3), (40, None), (12, 12), (2, 1), (1, 1)])
def test_windows_carry_the_verdicts_on_their_whole_history(seed, look_back, columns):
    rules = WindowSettings(look_back=look_back, lateness_s=0, flat_slots=4)
    store = WindowStore(rules)
    keys, told = stream(seed, 60, 70)
    counter = np.array([key.metric.endswith("_total") for key in keys])
    seen = 0
    for slot in range(told.shape[1]):
        (here,) = np.nonzero(~np.isnan(told[:, slot]))
        at, none = np.full(len(here), T0 + slot * STEP), np.zeros(len(here), np.int32)
        store.append(Samples(keys, here.astype(np.int32), at, told[here, slot].astype(np.float64), none))
        for tick in store.due(Progress(frozenset({0}), frozenset(), lag={0: 1})):
            windows = store.close(tick, columns)
            last = (tick - T0) // STEP
            history = np.full((len(keys), min(look_back, HISTORY * 4)), np.nan, F32)
            known = told[:, max(0, last + 1 - history.shape[1]) : last + 1]
            history[:, history.shape[1] - known.shape[1] :] = known
            rows = np.array([keys.index(key) for key in windows.keys])
            mask = ~np.isnan(history[rows])
            expected = suspects(history[rows], mask, counter[rows], jump=rules.jump, flat_slots=4)
            assert windows.suspect.tolist() == expected.tolist()
            seen += int(expected.sum())
    assert (seen > 20) == (look_back > 1)
