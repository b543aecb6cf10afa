"""Words about incidents as thresholds: bounded, by the last word of each incident, heard by all detectors but silence's."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from detect_worlds import STEP, daily, keys, windows

from forecastle.detect.engine import Detection
from forecastle.detect.feedback import FALSE, LEAST, MOST, REAL, Verdict, dismissed, lenience
from forecastle.settings import DetectSettings
from forecastle.types import Anomaly, AnomalyKind, SeriesKey

A, B = SeriesKey("a", "m"), SeriesKey("b", "m")
VERDICTS = st.lists(
    st.builds(
        Verdict,
        st.sampled_from("pqrstuvw"),
        st.booleans(),
        st.integers(0, 10_000),
        st.sampled_from([frozenset({A}), frozenset({B}), frozenset({A, B})]),
    ),
    max_size=30,
    unique_by=lambda verdict: verdict.at,
)


def said(*words: bool) -> list[Verdict]:
    return [Verdict(f"i{i}", real, i, frozenset({A})) for i, real in enumerate(words)]


def found(values: np.ndarray, factor: float | None, *, mask: np.ndarray | None = None) -> tuple[Anomaly, ...]:
    detection = Detection(DetectSettings(), STEP)
    if factor is not None:
        detection.lenience = lambda _tick: {keys(8)[3]: factor}
    return detection.detect(windows(values, mask, names=keys(8)), None)


def spiked(size: float) -> np.ndarray:
    values = daily(8, 900)
    values[3, -1] += size
    return values


def test_nothing_said_changes_nothing() -> None:
    assert lenience([]) == {}


@pytest.mark.parametrize(
    ("words", "factor"),
    [
        ([False], FALSE),
        ([True], REAL),
        ([False, True], FALSE * REAL),
        ([False] * 4, MOST),
        ([False] * 50, MOST),
        ([True] * 50, LEAST),
        ([False] * 50 + [True], MOST * REAL),
        ([True] * 50 + [False], LEAST * FALSE),
    ],
)
def test_words_multiply_within_bounds(words: list[bool], factor: float) -> None:
    assert lenience(said(*words)) == {A: pytest.approx(factor)}


def test_the_last_word_on_an_incident_replaces_the_earlier() -> None:
    words = [Verdict("i", False, 1, frozenset({A})), Verdict("i", True, 2, frozenset({A, B}))]
    assert lenience(words) == {A: REAL, B: REAL}


def test_an_incident_is_dismissed_by_the_last_word_on_it() -> None:
    words = [
        Verdict("i", False, 1, frozenset({A})),
        Verdict("j", False, 3, frozenset({A, B})),
        Verdict("j", True, 4, frozenset({B})),
    ]
    assert dismissed(words[:2]) == {A: 3, B: 3}
    assert dismissed(words) == {A: 1}


def test_only_the_series_of_the_incident_are_concerned() -> None:
    words = [Verdict("i", False, 1, frozenset({A})), Verdict("j", True, 2, frozenset({B}))]
    assert lenience(words) == {A: FALSE, B: REAL}


@hypothesis(max_examples=60, deadline=None)
@given(VERDICTS, st.randoms())
def test_the_order_of_reading_is_irrelevant(verdicts: list[Verdict], random) -> None:
    mixed = list(verdicts)
    random.shuffle(mixed)
    assert lenience(mixed) == lenience(verdicts)


@hypothesis(max_examples=60, deadline=None)
@given(VERDICTS)
def test_no_words_take_a_threshold_out_of_bounds(verdicts: list[Verdict]) -> None:
    assert all(LEAST <= factor <= MOST for factor in lenience(verdicts).values())


def test_the_threshold_follows_to_the_bit() -> None:
    (plain,) = found(spiked(200), None)
    (raised,) = found(spiked(200), 2.0)
    assert raised.threshold == pytest.approx(2 * plain.threshold, rel=1e-6)
    assert (raised.score, raised.evidence["expected"]) == (plain.score, plain.evidence["expected"])


def test_an_alarm_between_the_thresholds_is_not_raised_again() -> None:
    (plain,) = found(spiked(200), None)
    size = next(s for s in np.arange(200, 5, -1.0) if all(a.score < 1.5 * a.threshold for a in found(spiked(s), None)))
    assert any(a.key == keys(8)[3] for a in found(spiked(size), None)), "the example has to alarm without a word"
    assert all(a.key != keys(8)[3] for a in found(spiked(size), 2.0))
    assert plain.score > 2 * plain.threshold, "and the plain one is beyond any bound"


def test_a_missed_size_is_found_after_real_ones() -> None:
    quiet = next(s for s in np.arange(200, 5, -1.0) if not found(spiked(s), None))
    assert any(a.key == keys(8)[3] for a in found(spiked(quiet), LEAST))


@pytest.mark.parametrize("factor", [LEAST, MOST])
def test_other_series_are_judged_as_ever(factor: float) -> None:
    values = daily(8, 900)
    values[5, -1] += 200
    assert found(values, factor) == found(values, None)


def test_silence_is_reported_as_early_as_ever() -> None:
    values, mask = daily(8, 900), np.ones((8, 900), bool)
    mask[3, -4:] = False
    assert [a.kind for a in found(values, MOST, mask=mask)] == [AnomalyKind.DROPOUT]
    assert found(values, MOST, mask=mask) == found(values, None, mask=mask)


def test_a_line_that_stands_still_has_to_do_so_longer() -> None:
    def first(factor: float | None) -> int:
        for slots in range(5, 60):
            values = daily(8, 900)
            values[3, -slots:] = values[3, -slots]
            if any(a.kind is AnomalyKind.FLAT_LINE for a in found(values, factor)):
                return slots
        return 60

    assert first(None) < first(2.0) < 60
