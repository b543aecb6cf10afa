"""The benchmark's own measures: VUS-PR against vectors of the reference implementation, NAB's score by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.affiliation import affiliation
from benchmarks.nab_score import best_score, nab_score, probation, sigmoid
from flows.vus import events, period, softened, vus_pr

REFERENCE = {
    (0, 0): 0.0332490692,
    (0, 1): 0.0332490692,
    (0, 7): 0.0598729786,
    (0, 30): 0.1239276948,
    (1, 0): 0.6055396847,
    (1, 1): 0.6055396847,
    (1, 7): 0.5821348214,
    (1, 30): 0.6761376962,
    (2, 0): 0.0511317808,
    (2, 1): 0.0511317808,
    (2, 7): 0.0610603624,
    (2, 30): 0.1265366849,
    (3, 0): 0.5748207885,
    (3, 1): 0.5748207885,
    (3, 7): 0.5749846590,
    (3, 30): 0.5880971284,
    (4, 0): 0.1263174708,
    (4, 1): 0.1263174708,
    (4, 7): 0.1365192070,
    (4, 30): 0.1931252976,
    (5, 0): 0.6671899494,
    (5, 1): 0.6671899494,
    (5, 7): 0.6846592076,
    (5, 30): 0.7632388269,
    (6, 0): 0.0655878251,
    (6, 1): 0.0655878251,
    (6, 7): 0.0771609815,
    (6, 30): 0.1440299570,
    (7, 0): 0.5783197400,
    (7, 1): 0.5783197400,
    (7, 7): 0.5843212139,
    (7, 30): 0.6262834170,
}
"""(seed, window) -> VUS-PR of `case(seed)` by TSB-AD 1.5, RangeAUC_volume_opt with 250 thresholds."""


def case(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(150, 600))
    label = np.zeros(n, int)
    for _ in range(int(rng.integers(1, 5))):
        at = int(rng.integers(0, n - 5))
        label[at : at + int(rng.integers(1, 25))] = 1
    return label, np.round(rng.random(n) + label * 0.5 * (seed % 2), 1 if seed == 3 else 6)


@pytest.mark.parametrize(("seed", "window"), sorted(REFERENCE))
def test_vus_pr_equals_the_reference(seed, window):
    label, score = case(seed)
    assert vus_pr(label, score, window) == pytest.approx(REFERENCE[seed, window], abs=1e-9)


def test_vus_pr_of_perfect_and_reversed_scores():
    label = np.zeros(400)
    label[200:230] = 1
    assert vus_pr(label, softened(label, 20), 20) > 0.9
    assert vus_pr(label, -label, 20) < 0.15
    assert np.isnan(vus_pr(np.zeros(10), np.arange(10.0), 3))


def test_events_and_tolerance():
    assert events([1, 0, 1, 1, 0, 1]) == [(0, 0), (2, 3), (5, 5)]
    soft = softened(np.array([0, 0, 0, 1, 0, 0, 0.0]), 4)
    assert soft[3] == 1
    assert soft[2] == soft[4] == pytest.approx(np.sqrt(0.75))
    assert soft[1] == soft[5] == pytest.approx(np.sqrt(0.5))
    assert soft[0] == soft[6] == 0


def test_period_is_the_cycle():
    wave = np.sin(2 * np.pi * np.arange(3000) / 48)
    assert period(wave) == 48
    assert period(np.zeros(100)) == 125


def flags(rows, *on):
    out = np.zeros(rows, bool)
    out[list(on)] = True
    return out


WINDOW = [(400, 499)]


def test_nab_null_is_0_and_perfect_is_100():
    assert nab_score([(WINDOW, flags(1000))]) == 0
    assert nab_score([(WINDOW, flags(1000, 400))]) == pytest.approx(100)


def test_nab_by_hand():
    late = nab_score([(WINDOW, flags(1000, 450))])
    place = -(499 - 450 + 1) / 100
    by_hand = (2 / (1 + np.exp(5 * place)) - 1) / (2 / (1 + np.exp(-5.0)) - 1)
    assert late == pytest.approx(100 * (by_hand + 1) / 2)
    early = nab_score([(WINDOW, flags(1000, 300, 400))])
    assert early == pytest.approx(100 * (1 - 0.11 + 1) / 2)
    after = nab_score([(WINDOW, flags(1000, 400, 520))])
    assert after == pytest.approx(100 * (2 + 0.11 * float(sigmoid(21 / 99))) / 2)


def test_nab_probation_and_repeats_are_free():
    assert probation(1000) == 150
    assert probation(22_000) == 750
    assert nab_score([(WINDOW, flags(1000, 10, 400, 401, 499))]) == pytest.approx(100)


def test_best_threshold_is_found():
    score = np.zeros(1000)
    score[400], score[700] = 5.0, 3.0
    best, cut = best_score([(WINDOW, score)])
    assert best == pytest.approx(100)
    assert 3.0 < cut <= 5.0


def marked(n: int, *rows: int) -> np.ndarray:
    return np.isin(np.arange(n), rows)


@pytest.mark.parametrize(
    ("label", "alert", "precision", "recall"),
    [
        ((4, 5), (4, 5), 1.0, 1.0),
        ((4, 5), (), np.nan, 0.0),
        # distances of the ten rows to the event: 4 3 2 1 0 0 1 2 3 4; three rows are as far as row 8, or farther
        # rows no nearer to 4 than row 8 is: 0, 8, 9; to 5: 0, 1, 2, 8, 9
        ((4, 5), (8,), 4 / 10, (3 / 10 + 5 / 10) / 2),
        ((4, 5), (5,), 1.0, (9 / 10 + 1.0) / 2),
        ((0,), (9,), 1 / 10, 1 / 10),
        # two events own rows 0 to 4 and 5 to 9: the second has no alert
        ((2, 7), (2,), 1.0, 0.5),
        ((2, 7), (2, 9), (1.0 + 2 / 5) / 2, (1.0 + 2 / 5) / 2),
    ],
)
def test_affiliation_by_hand(label: tuple[int, ...], alert: tuple[int, ...], precision: float, recall: float) -> None:
    assert affiliation(marked(10, *label), marked(10, *alert)) == pytest.approx((precision, recall), nan_ok=True)


def test_alerts_drawn_at_random_are_affiliated_by_chance() -> None:
    rng = np.random.default_rng(0)
    found = [affiliation(marked(1000, *range(480, 520)), rng.random(1000) < 0.02)[0] for _ in range(200)]
    assert np.mean(found) == pytest.approx(0.5, abs=0.03)


def test_affiliation_without_events_is_unknown() -> None:
    assert np.isnan(affiliation(np.zeros(10), np.ones(10))).all()
