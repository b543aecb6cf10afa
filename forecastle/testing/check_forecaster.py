"""What everything that forecasts must pass: `check_forecaster(make)` runs every check on fresh forecasters.

::

    check_forecaster(lambda: Predictor(PredictSettings(model=""), 60_000))

A model that takes known inputs is given those of some of the example's series with ``almanac=occasions()``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from forecastle.ports import Forecaster
from forecastle.predict.known import KNOWN, Almanac
from forecastle.types import Demand, Event, Floats, Forecasts, SeriesKey, Windows, Workload

Make: TypeAlias = Callable[[], Forecaster]
STEP_MS = 60_000
END = 28_333_333 * STEP_MS
RELATIVE = 1e-3
"""Difference that the order of floating-point sums may make, relative to the window's largest value."""


def example(look_back: int, rows: int = 12, seed: int = 0, step_ms: int = STEP_MS) -> Windows:
    """Demand as fleets have it: daily waves, noise, gaps, a zero, a constant, a negative, a bursty and an unseen series."""
    rng = np.random.default_rng(seed)
    length = max(look_back, 64)
    at = np.arange(length)
    level = np.exp(rng.normal(4.0, 2.0, (rows, 1)))
    values = level * (1 + 0.5 * np.sin(at / 230 + 6 * rng.random((rows, 1)))) * rng.lognormal(0, 0.1, (rows, length))
    mask = rng.random((rows, length)) > 0.03
    values[0], values[1] = 0.0, 5.0
    values[2] -= 2 * level[2]
    values[3] = np.where(rng.random(length) < 0.02, 100.0, 0.0)
    mask[4], mask[5, :-1], mask[5, -1] = False, False, True
    keys = tuple(SeriesKey(f"workload-{i:02d}", "requests") for i in range(rows))
    no = np.zeros(rows, np.bool_)
    return Windows(keys, END, step_ms, np.where(mask, values, np.nan).astype(np.float32), mask, no, no)


def occasions(step_ms: int = STEP_MS) -> Almanac:
    """What is known beforehand of every other workload of `example`: events that are over, running and ahead."""
    loads = []
    for i in range(0, 12, 2):
        starts = ((-40, 0.5 + i / 4), (-3 - i, 2.0), (4 + i, 1.0 + i / 8))
        events = tuple(
            Event(f"event {k}", END + at * step_ms, END + (at + 8) * step_ms, factor) for k, (at, factor) in enumerate(starts)
        )
        name = f"workload-{i:02d}"
        loads.append(Workload(name, (Demand(SeriesKey(name, "requests"), 1.0),), (), events=events))
    return Almanac(loads, step_ms)


def check_forecaster(make: Make, *, step_ms: int = STEP_MS) -> None:
    """Run every check on the forecasters that ``make`` builds, all alike. Raises AssertionError that names what is broken."""
    for check in CHECKS:
        check(make, example(make().look_back, step_ms=step_ms))


def check_shape(make: Make, windows: Windows) -> None:
    """One row a window, in their order, for the horizon and quantiles it declares."""
    forecaster = make()
    answer = forecaster.forecast(windows)
    shape = len(windows), forecaster.horizon, len(forecaster.quantiles)
    assert answer.values.shape == shape, f"shape: values are {answer.values.shape}, declared are {shape}"
    assert answer.values.dtype == np.float32, f"shape: values are {answer.values.dtype}, not float32"
    assert answer.quantiles == forecaster.quantiles, "shape: answered other quantiles than declared"
    assert list(answer.quantiles) == sorted(set(answer.quantiles)), "shape: quantiles do not ascend"
    assert answer.keys == windows.keys, "shape: rows are not the windows' series, in their order"
    assert (answer.issued_at, answer.step_ms) == (windows.end, windows.step_ms), "shape: issued at another time or step"
    assert answer.fallback.shape == (len(windows),), "shape: fallback is not one flag a row"
    assert answer.model, "shape: the model has no name"


def check_values(make: Make, windows: Windows) -> None:
    """Finite, in order, and never negative where the window is not."""
    values = make().forecast(windows).values
    assert np.isfinite(values).all(), f"values: not finite in rows {_rows(~np.isfinite(values))}"
    assert (np.diff(values, axis=2) >= 0).all(), f"values: quantiles cross in rows {_rows(np.diff(values, axis=2) < 0)}"
    unsigned = (np.where(windows.mask, windows.values, 0) >= 0).all(axis=1)
    assert (values[unsigned] >= 0).all(), "values: negative for a series that never was"


def check_mask(make: Make, windows: Windows) -> None:
    """What lies under a gap is never read."""
    plain = make().forecast(windows).values
    hidden = replace(windows, values=np.where(windows.mask, windows.values, np.float32(1e6)))
    assert np.array_equal(plain, make().forecast(hidden).values), "mask: values that were not observed change the answer"


def check_batch(make: Make, windows: Windows) -> None:
    """A series is answered alike alone, in company and in another order."""
    together = make().forecast(windows).values
    scale = _scale(windows)
    for i in range(len(windows)):
        alone = make().forecast(_take(windows, np.array([i]))).values[0]
        gap = float(np.abs(alone - together[i]).max()) / scale[i]
        assert gap <= RELATIVE, f"batch: {windows.keys[i]} alone differs by {gap:.2g} from the same in a batch"
    order = np.arange(len(windows))[::-1]
    turned = make().forecast(_take(windows, order)).values
    gap = float((np.abs(turned - together[order]).max(axis=(1, 2)) / scale[order]).max())
    assert gap <= RELATIVE, f"batch: the order of rows makes a difference of {gap:.2g}"


def check_empty(make: Make, windows: Windows) -> None:
    """No series, no rows, no error."""
    none = _take(windows, np.zeros(0, np.int64))
    assert len(make().forecast(none).values) == 0, "empty: rows out of nothing"


def check_repeatable(make: Make, windows: Windows) -> None:
    """The same ticks give the same bytes: a restart that repeats them is where it was."""
    one, two = (list(_ticks(make(), windows)) for _ in range(2))
    for tick, (a, b) in enumerate(zip(one, two, strict=True)):
        assert np.array_equal(a.values, b.values), f"repeatable: tick {tick} was answered differently the second time"


def check_untouched(make: Make, windows: Windows) -> None:
    """The windows are the caller's and stay as they are."""
    values, mask = windows.values.copy(), windows.mask.copy()
    make().forecast(windows)
    kept = np.array_equal(values, windows.values, equal_nan=True) and np.array_equal(mask, windows.mask)
    assert kept, "untouched: the windows were written to"


def check_known(make: Make, windows: Windows) -> None:
    """What it was told of the future has a name that others know and a range that holds 0."""
    known = make().forecast(windows).known
    names = [one.name for one in known]
    assert len(set(names)) == len(names), f"known: {names} name one twice"
    assert set(names) <= set(KNOWN), f"known: {names} are not all among {list(KNOWN)}"
    assert all(one.low <= 0 <= one.high for one in known), f"known: a range of {known} does not hold 0"


CHECKS: tuple[Callable[[Make, Windows], None], ...] = (
    check_shape,
    check_values,
    check_mask,
    check_batch,
    check_empty,
    check_repeatable,
    check_untouched,
    check_known,
)


def _ticks(forecaster: Forecaster, windows: Windows, count: int = 4) -> list[Forecasts]:
    """``count`` ticks; the window rolls on by one slot a tick."""
    answers = []
    for tick in range(count):
        rolled = replace(
            windows,
            end=windows.end + tick * windows.step_ms,
            values=np.roll(windows.values, -tick, axis=1),
            mask=np.roll(windows.mask, -tick, axis=1),
        )
        answers.append(forecaster.forecast(rolled))
    return answers


def _take(windows: Windows, rows: np.ndarray) -> Windows:
    keys = tuple(windows.keys[i] for i in rows)
    parts = (part[rows] for part in (windows.values, windows.mask, windows.late, windows.suspect))
    return Windows(keys, windows.end, windows.step_ms, *parts)


def _scale(windows: Windows) -> Floats:
    largest = np.abs(np.where(windows.mask, windows.values, 0)).max(axis=1).astype(np.float64)
    return np.where(largest > 0, largest, 1.0)


def _rows(found: np.ndarray) -> list[int]:
    return sorted({int(i) for i in np.argwhere(found)[:, 0]})
