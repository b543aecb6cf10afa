"""What everything that detects must pass: `check_detector(make)` runs every check on fresh detectors.

::

    check_detector(lambda: Detection(DetectSettings(), 60_000))
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from forecastle.ports import Detector
from forecastle.types import Anomaly, AnomalyKind, Floats32, SeriesKey, Windows

Make: TypeAlias = Callable[[], Detector]
STEP_MS = 60_000
END = 28_333_333 * STEP_MS
TICKS = 6
_SICK, _CONSTANT, _SILENT, _STEADY = 0, 1, 2, 3
_JUMP = 400.0


def example(look_back: int, rows: int = 10, seed: int = 0, step_ms: int = STEP_MS) -> Windows:
    """Daily waves with noise, a few gaps and `TICKS` slots more than ``look_back``.

    Row 0 jumps in its newest slot, row 1 is constant, row 2 was never observed, row 3 and those after it are as ever.
    """
    rng = np.random.default_rng(seed)
    length = max(look_back, 64) + TICKS
    wave = 30 * np.sin(np.arange(length) / 230 + 6 * rng.random((rows, 1)))
    values = (100 + wave + rng.normal(0, 2, (rows, length))).astype(np.float32)
    mask = rng.random((rows, length)) > 0.005
    mask[:, -10:] = True
    values[_SICK, -1] += _JUMP
    values[_CONSTANT], mask[_CONSTANT] = 7.0, True
    mask[_SILENT] = False
    keys = tuple(SeriesKey(f"workload-{i:02d}", "latency", (("site", f"s{i % 2}"),)) for i in range(rows))
    no = np.zeros(rows, np.bool_)
    return Windows(keys, END, step_ms, np.where(mask, values, np.nan).astype(np.float32), mask, no, no)


def check_detector(make: Make, *, step_ms: int = STEP_MS) -> None:
    """Run every check on the detectors that ``make`` builds, all alike. Raises AssertionError that names what is broken."""
    for check in CHECKS:
        check(make, example(make().look_back, step_ms=step_ms))


def check_answers(make: Make, windows: Windows) -> None:
    """Anomalies are of the windows' series, at their end, above their threshold, with evidence that JSON can carry."""
    for anomaly in make().detect(windows, None):
        assert anomaly.key in windows.keys, f"answers: {anomaly.key} is no series of the windows"
        assert anomaly.at == windows.end, f"answers: {anomaly.key} at {anomaly.at}, the windows end at {windows.end}"
        assert np.isfinite([anomaly.score, anomaly.threshold]).all(), f"answers: {anomaly.key} has no finite score"
        assert anomaly.score > anomaly.threshold, f"answers: {anomaly.key} is an anomaly below its threshold"
        json.dumps(dict(anomaly.evidence), allow_nan=False)


def check_finds(make: Make, windows: Windows) -> None:
    """A jump of many times the usual range is found, and found to be a rise."""
    found = {a.key: a for a in make().detect(windows, None)}
    sick = found.get(windows.keys[_SICK])
    assert sick is not None, "finds: silent about a jump of ten times the usual range"
    assert sick.kind not in {AnomalyKind.DIP, AnomalyKind.DROPOUT, AnomalyKind.FLAT_LINE}, f"finds: a rise is a {sick.kind}"


def check_constant(make: Make, windows: Windows) -> None:
    """A series that never moved and one that never came are no news."""
    found = {a.key for tick in _ticks(make(), windows) for a in tick}
    assert windows.keys[_CONSTANT] not in found, "constant: a series that never moved is called anomalous"
    assert windows.keys[_SILENT] not in found, "constant: a series that was never observed is called anomalous"


def check_gap(make: Make, windows: Windows) -> None:
    """What is missing is no spike and no dip, neither while it is missing nor in the first slot after."""
    for slots in (slice(-8, None), slice(-8, -1)):
        mask, moved = windows.mask.copy(), {AnomalyKind.SPIKE, AnomalyKind.DIP, AnomalyKind.LEVEL_SHIFT}
        mask[_STEADY:, slots] = False
        holed = replace(windows, mask=mask, values=np.where(mask, windows.values, np.nan).astype(np.float32))
        wrong = [str(a.key) for a in make().detect(holed, None) if a.kind in moved and a.key in windows.keys[_STEADY:]]
        assert not wrong, f"gap: a gap is called a spike, dip or shift of {wrong}"


def check_mask(make: Make, windows: Windows) -> None:
    """What lies under a gap is never read."""
    hidden = replace(windows, values=np.where(windows.mask, windows.values, np.float32(1e6)))
    assert _bits(make().detect(windows, None)) == _bits(make().detect(hidden, None)), "mask: unobserved values were read"


def check_causal(make: Make, windows: Windows) -> None:
    """What comes after a tick does not change it, to the bit: cut off, or another future in the same memory."""
    whole = [_bits(tick) for tick in _ticks(make(), windows)]
    for upto in (1, TICKS // 2):
        cut = [_bits(tick) for tick in _ticks(make(), windows, upto)]
        assert cut == whole[:upto], f"causal: cut off after {upto} ticks they were judged differently"
    future = windows.values.copy()
    future[:, -1] = 1e6
    other = [_bits(tick) for tick in _ticks(make(), replace(windows, values=future), TICKS - 1)]
    assert other == whole[: TICKS - 1], "causal: another future changed the past"


def check_order(make: Make, windows: Windows) -> None:
    """The order of series is irrelevant."""
    turned = _take(windows, np.arange(len(windows))[::-1])
    plain, mirrored = (sorted(_bits(make().detect(w, None))) for w in (windows, turned))
    assert plain == mirrored, "order: the order of series changes the verdicts"


def check_repeatable(make: Make, windows: Windows) -> None:
    """The same ticks give the same anomalies: a restart that repeats them is where it was."""
    one, two = ([_bits(tick) for tick in _ticks(make(), windows)] for _ in range(2))
    assert one == two, "repeatable: the same ticks were judged differently the second time"


def check_untouched(make: Make, windows: Windows) -> None:
    """The windows are the caller's and stay as they are."""
    values, mask = windows.values.copy(), windows.mask.copy()
    make().detect(windows, None)
    kept = np.array_equal(values, windows.values, equal_nan=True) and np.array_equal(mask, windows.mask)
    assert kept, "untouched: the windows were written to"


def check_empty(make: Make, windows: Windows) -> None:
    """No series, no anomalies, no error."""
    assert make().detect(_take(windows, np.zeros(0, np.int64)), None) == (), "empty: anomalies out of nothing"


def check_shapes(make: Make, windows: Windows) -> None:
    """Arrays that do not fit each other are refused; an answer would be about the wrong series."""
    wrong = {
        "a mask of fewer slots": replace(windows, mask=windows.mask[:, 1:]),
        "a mask of fewer series": replace(windows, mask=windows.mask[1:]),
        "fewer keys than rows": replace(windows, keys=windows.keys[1:]),
        "one axis": replace(windows, values=windows.values[0], mask=windows.mask[0]),
        "too few late flags": replace(windows, late=windows.late[1:]),
    }
    for name, bad in wrong.items():
        try:
            make().detect(bad, None)
        except ValueError:
            continue
        raise AssertionError(f"shapes: {name} is not refused with a ValueError")


CHECKS: tuple[Callable[[Make, Windows], None], ...] = (
    check_answers,
    check_finds,
    check_constant,
    check_gap,
    check_mask,
    check_causal,
    check_order,
    check_repeatable,
    check_untouched,
    check_empty,
    check_shapes,
)


def _ticks(detector: Detector, windows: Windows, count: int = TICKS) -> list[tuple[Anomaly, ...]]:
    """The last `TICKS` ticks of the windows, or the first ``count`` of these: each is a view that ends one slot later."""
    length, answers = windows.values.shape[1] - TICKS, []
    for tick in range(count):
        slots = slice(tick + 1, tick + 1 + length)
        end = windows.end - (TICKS - 1 - tick) * windows.step_ms
        view = replace(windows, end=end, values=windows.values[:, slots], mask=windows.mask[:, slots])
        answers.append(detector.detect(view, None))
    return answers


def _bits(anomalies: tuple[Anomaly, ...]) -> list[str]:
    """Each anomaly in full; floats by their exact representation."""
    return [
        repr((str(a.key), a.at, a.kind.value, a.score.hex(), a.threshold.hex(), sorted(a.evidence.items()))) for a in anomalies
    ]


def _take(windows: Windows, rows: np.ndarray) -> Windows:
    keys = tuple(windows.keys[i] for i in rows)
    values: Floats32 = windows.values[rows]
    return Windows(keys, windows.end, windows.step_ms, values, windows.mask[rows], windows.late[rows], windows.suspect[rows])
