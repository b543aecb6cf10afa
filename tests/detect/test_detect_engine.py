from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.special import ndtri

sys.path.insert(0, str(Path(__file__).parent))
from detect_worlds import START, STEP, daily, keys, windows

from forecastle.detect.columns import columns
from forecastle.detect.drifts import compared
from forecastle.detect.engine import RING, Detection, _season_ago
from forecastle.detect.foresight import ScoreRing, normal_scores
from forecastle.detect.tails import alarm_rate, tail_threshold
from forecastle.settings import DetectSettings
from forecastle.types import AnomalyKind, Forecasts

SETTINGS = DetectSettings()
N, SLOTS = 24, 2400
VICTIM = 7


def verdicts(values, mask=None, settings=SETTINGS):
    return {a.key: a for a in Detection(settings, STEP).detect(windows(values, mask), None)}


def victim(values, mask=None):
    found = verdicts(values, mask)
    assert set(found) == {keys(N)[VICTIM]}, "only the series that was tampered with may alarm"
    return found[keys(N)[VICTIM]]


def test_an_ordinary_fleet_is_quiet():
    assert verdicts(daily(N, SLOTS)) == {}


def test_spike_and_dip_are_named_and_explained():
    for size, kind in ((60, AnomalyKind.SPIKE), (-60, AnomalyKind.DIP)):
        values = daily(N, SLOTS)
        before = float(values[VICTIM, -1])
        values[VICTIM, -1] += size
        anomaly = victim(values)
        assert anomaly.kind is kind
        assert anomaly.score > anomaly.threshold
        assert anomaly.evidence["actual"] == pytest.approx(before + size, rel=1e-4)
        assert anomaly.evidence["expected"] == pytest.approx(before, abs=8)
        assert "residual" in anomaly.evidence["families"]


def test_the_slot_after_a_spike_is_no_anomaly():
    values = daily(N, SLOTS)
    values[VICTIM, -2] += 60
    assert verdicts(values) == {}


def test_a_small_departure_of_a_quiet_series_is_no_incident():
    values = daily(N, SLOTS, noise=0.01)
    values[VICTIM, -1] += 2
    assert verdicts(values) == {}


def test_level_shift_with_its_duration():
    values = daily(N, SLOTS)
    values[VICTIM, -12:] += 50
    anomaly = victim(values)
    assert anomaly.kind is AnomalyKind.LEVEL_SHIFT
    assert anomaly.evidence["actual"] - anomaly.evidence["expected"] == pytest.approx(50, abs=12)
    assert anomaly.evidence["onset"] < START


def test_a_shift_that_repeats_every_day_is_the_cycle():
    values = daily(N, SLOTS)
    values[VICTIM, -12:] += 50
    values[VICTIM, -1440 - 12 : -1440 + 60] += 50
    assert all(a.kind is not AnomalyKind.LEVEL_SHIFT for a in verdicts(values).values())


def test_a_slow_leak_is_a_trend_and_a_morning_is_not():
    values = daily(N, SLOTS)
    values[VICTIM] = 500 + np.random.default_rng(1).normal(0, 3, SLOTS)
    values[VICTIM, -600:] += np.linspace(0, 120, 600)
    anomaly = victim(values)
    assert anomaly.kind is AnomalyKind.TREND
    assert anomaly.evidence["duration_s"] >= 6 * 3600


def test_a_leak_is_seen_before_a_day_has_passed():
    values = daily(N, 800)
    values[VICTIM] = 500 + np.random.default_rng(1).normal(0, 2, 800) + np.linspace(0, 150, 800)
    assert verdicts(values)[keys(N)[VICTIM]].kind is AnomalyKind.TREND


def test_growing_noise_is_a_variance_change():
    values = daily(N, SLOTS)
    values[VICTIM, -30:] += np.random.default_rng(3).choice([-9.0, 9.0], 30) * np.linspace(0.8, 1.2, 30)
    found = verdicts(values)
    assert set(found) == {keys(N)[VICTIM]}
    assert "variance" in found[keys(N)[VICTIM]].evidence["families"]


def test_a_line_that_stopped_moving():
    values = daily(N, SLOTS)
    values[VICTIM, -20:] = values[VICTIM, -20]
    assert victim(values).kind is AnomalyKind.FLAT_LINE


def test_a_constant_series_may_stay_constant():
    values = daily(N, SLOTS)
    values[VICTIM] = 5.0
    assert verdicts(values) == {}


def test_a_gap_is_a_dropout_never_a_spike():
    values, mask = daily(N, SLOTS), np.ones((N, SLOTS), bool)
    mask[VICTIM, -5:] = False
    anomaly = victim(values, mask)
    assert anomaly.kind is AnomalyKind.DROPOUT
    assert anomaly.score == 5
    assert anomaly.evidence["actual"] is None
    assert anomaly.evidence["duration_s"] == 300
    back = np.roll(mask, -2, axis=1)
    back[:, -2:] = True
    assert verdicts(values, back) == {}, "the first samples after a gap are no spike"


def test_a_series_with_a_habit_of_gaps_is_not_a_dropout_each_time():
    values, mask = daily(N, SLOTS), np.ones((N, SLOTS), bool)
    mask[VICTIM] = np.arange(SLOTS)[::-1] % 9 >= 3
    w = windows(values, mask)
    w.late[:] = False
    loose = DetectSettings(min_coverage=0.5)
    assert Detection(loose, STEP).detect(w, None) == ()
    mask[VICTIM, -7:] = False
    (anomaly,) = Detection(loose, STEP).detect(windows(values, mask), None)
    assert anomaly.kind is AnomalyKind.DROPOUT


def test_young_and_thin_series_are_not_judged():
    values, mask = daily(N, SLOTS), np.ones((N, SLOTS), bool)
    mask[VICTIM, :-60] = False
    values[VICTIM, -1] += 200
    assert verdicts(values, mask) == {}
    thin = np.random.default_rng(0).random((N, SLOTS)) < 0.6
    thin[:, -1] = True
    values = daily(N, SLOTS)
    values[:, -1] += 200
    assert verdicts(values, thin) == {}
    assert len(verdicts(values)) == N


def test_young_series_old_enough_are_judged():
    values, mask = daily(N, SLOTS), np.ones((N, SLOTS), bool)
    mask[VICTIM, :-200] = False
    values[VICTIM, -1] += 90
    assert victim(values, mask).kind is AnomalyKind.SPIKE


def test_scale_and_offset_change_nothing():
    values = daily(N, SLOTS)
    values[VICTIM, -1] += 60
    plain = victim(values)
    scaled = victim(values * 4096.0)
    assert scaled.kind is plain.kind
    assert scaled.score == pytest.approx(plain.score, rel=1e-3)


def test_nothing_before_the_look_back_matters_and_nothing_is_remembered():
    values = daily(N, SLOTS)
    values[VICTIM, -1] += 60
    other = values.copy()
    other[:, : SLOTS - 1440 - 720] = -1e6
    assert verdicts(values) == verdicts(other)
    engine = Detection(SETTINGS, STEP)
    engine.detect(windows(daily(N, SLOTS, seed=9), end=START - STEP), None)
    again = engine.detect(windows(values), None)
    assert again == tuple(verdicts(values).values())


def test_detection_is_the_same_alone_and_in_company():
    values = daily(600, 800)
    values[[3, 520], -1] += 80
    together = Detection(SETTINGS, STEP).detect(windows(values), None)
    names = keys(600)
    for i in (3, 520):
        alone = Detection(SETTINGS, STEP).detect(windows(values[i : i + 1], names=(names[i],)), None)
        both = [a for a in together if a.key == names[i]]
        assert alone[0].kind is both[0].kind
        assert alone[0].score == pytest.approx(both[0].score, rel=1e-5)


# --- the serving forecast -------------------------------------------------------------------------------------------

QUANTILES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)


def forecast_for(w, centre, width=4.0, names=None):
    z = ndtri(np.array(QUANTILES))
    first = (centre[:, None] + width * z[None, :]).astype(np.float32)
    return Forecasts(names or w.keys, w.end - STEP, STEP, QUANTILES, first[:, None, :], "m@1", np.zeros(len(first), bool))


def test_normal_scores_invert_a_normal_forecast():
    first = (10 + 2 * ndtri(np.array(QUANTILES)))[None, :].repeat(5, 0).astype(np.float32)
    actual = np.array([10, 12, 7, 18, -10], np.float32)
    assert normal_scores(actual, first, QUANTILES) == pytest.approx([0, 1, -1.5, 4, -10], abs=0.06)
    assert np.isnan(normal_scores(np.array([np.nan], np.float32), first[:1], QUANTILES))


def run_forecasts(engine, ticks, *, surprise_at=None, start=0):
    out = {}
    values = daily(N, SLOTS + ticks, noise=4.0)
    for k in range(start, ticks):
        part = values[:, k : k + SLOTS].copy()
        w = windows(part, end=START + k * STEP)
        centre = part[:, -1] + np.random.default_rng(k).normal(0, 4, N).astype(np.float32)
        if k == surprise_at:
            centre[VICTIM] -= 60
        out[k] = engine.detect(w, forecast_for(w, centre))
    return out


def test_a_forecast_that_missed_by_far_is_reported_after_its_warm_up():
    out = run_forecasts(Detection(SETTINGS, STEP), 60, surprise_at=59)
    assert [a.key for a in out[59]] == [keys(N)[VICTIM]]
    anomaly = out[59][0]
    assert anomaly.kind is AnomalyKind.SPIKE
    assert anomaly.evidence["families"] == ["forecast"]
    assert anomaly.evidence["actual"] - anomaly.evidence["expected"] == pytest.approx(60, abs=20)
    assert run_forecasts(Detection(SETTINGS, STEP), 6, surprise_at=5)[5] == ()


def test_replaying_the_ring_rebuilds_it_bit_for_bit():
    ticks = RING + 25
    long = run_forecasts(Detection(SETTINGS, STEP), ticks, surprise_at=ticks - 1)
    replayed = run_forecasts(Detection(SETTINGS, STEP), ticks, surprise_at=ticks - 1, start=ticks - 1 - RING)
    assert long[ticks - 1] == replayed[ticks - 1] != ()


def test_a_forecast_for_another_tick_is_not_used():
    engine = Detection(SETTINGS, STEP)
    run_forecasts(engine, 50)
    w = windows(daily(N, SLOTS), end=START + 50 * STEP)
    stale = forecast_for(windows(daily(N, SLOTS), end=START), np.full(N, -1e5))
    assert engine.detect(w, stale) == ()


def test_ring_follows_keys_and_forgets_skipped_ticks():
    names = keys(4)
    ring = ScoreRing(8)
    ring.history(names[:2], 10)
    ring.put(10, np.array([1, 2], np.float32))
    history = ring.history((names[3], names[1]), 11)
    assert np.isnan(history[0]).all()
    assert history[1, 10 % 8] == 2
    assert np.isnan(ring.history((names[3], names[1]), 40)).all()


def test_forecast_rows_are_matched_by_key():
    engine = Detection(SETTINGS, STEP)
    run_forecasts(engine, 59)
    values = daily(N, SLOTS + 60, noise=4.0)[:, 59 : 59 + SLOTS]
    w = windows(values, end=START + 59 * STEP)
    backwards = forecast_for(w, values[::-1, -1], names=w.keys[::-1])
    assert engine.detect(w, backwards) == ()


# --- thresholds -----------------------------------------------------------------------------------------------------


def test_the_threshold_is_passed_about_as_often_as_asked():
    rng = np.random.default_rng(0)
    history = np.abs(rng.normal(size=(400, 700))).astype(np.float32)
    threshold = tail_threshold(history, 1e-3)
    passed = (np.abs(rng.normal(size=(400, 2000))) > threshold[:, None]).mean()
    assert 1e-5 < passed < 1e-3


def test_a_past_outage_raises_the_threshold_only_a_little():
    rng = np.random.default_rng(0)
    history = np.abs(rng.normal(size=(50, 700))).astype(np.float32)
    spoiled = history.copy()
    spoiled[:, 300:305] = 500.0
    ratio = tail_threshold(spoiled, 1e-4) / tail_threshold(history, 1e-4)
    assert (ratio < 3).all()


def test_alarm_rate_shares_the_budget():
    assert alarm_rate(0.1, 60_000, 5) == pytest.approx(0.1 / 1440 / 5)
    assert tail_threshold(np.zeros((2, 3), np.float32), 0.01).tolist() == [np.inf, np.inf]


def test_false_alarms_stay_within_the_budget_on_clean_series():
    n, ticks = 60, 240
    values = daily(n, SLOTS + ticks, seed=11, noise=5.0)
    engine, last, episodes = Detection(SETTINGS, STEP), {}, 0
    for k in range(ticks):
        for anomaly in engine.detect(windows(values[:, k : k + SLOTS], end=START + k * STEP), None):
            episodes += k - last.get(anomaly.key, -99) > 15
            last[anomaly.key] = k
    days = n * ticks / 1440
    assert episodes <= np.ceil(SETTINGS.budget * days * 2)


def test_columns_fill_gaps_with_the_value_before():
    values = daily(3, 400)
    mask = np.ones((3, 400), bool)
    mask[1, 100:103] = False
    mask[2, :150] = False
    c = columns(windows(values, mask, names=keys(3)), slice(0, 3), SETTINGS)
    assert c.y[1, 100:103] == pytest.approx(np.repeat(c.y[1, 99], 3))
    assert not c.sound[1, 100:108].any()
    assert c.sound[1, 108]
    assert c.age.tolist() == [400, 400, 250]
    assert c.y[2, 149] == pytest.approx(c.y[2, 151])
    assert np.isfinite(c.y).all()
    assert c.value(c.y[:, -1]) == pytest.approx(values[:, -1], rel=1e-4)


def test_no_series_no_verdict():
    assert Detection(SETTINGS, STEP).detect(windows(np.zeros((0, 100), np.float32), names=()), None) == ()


# --- settings that would switch something off ------------------------------------------------------------------------


def test_a_warm_up_longer_than_the_look_back_is_refused():
    with pytest.raises(ValidationError, match="no series would ever be judged; write warmup: 100 or less"):
        DetectSettings(look_back=100, warmup=101)
    assert DetectSettings(look_back=100, warmup=100).warmup == 100


def test_without_a_season_all_that_the_window_holds_is_remembered():
    values, none = daily(N, SLOTS), DetectSettings(season=0)
    assert verdicts(values, settings=none) == {}
    values[VICTIM, -1] += 60
    assert set(verdicts(values, settings=none)) == {keys(N)[VICTIM]}
    values[VICTIM, 100] += 60
    assert verdicts(values, settings=none) == {}, "it has happened before"
    assert set(verdicts(values)) == {keys(N)[VICTIM]}, "longer ago than a season and a look-back"
    level = daily(N, SLOTS)
    level[VICTIM, -12:] += 50
    assert [a.kind for a in verdicts(level, settings=none).values()] == [AnomalyKind.LEVEL_SHIFT]


@pytest.mark.parametrize("look_back", [24, 130, 720])
def test_the_season_ago_is_compared_from_the_length_on_that_the_check_asks_for(look_back):
    settings = DetectSettings(look_back=look_back, warmup=10)
    for more, there in ((-1, False), (0, True)):
        shown = windows(daily(1, 1440 + compared(look_back) + more), names=keys(1))
        shift, means = _season_ago(shown, np.arange(1), columns(shown, np.arange(1), settings), settings.season)
        assert [shift is not None, means is not None] == [there, there]
