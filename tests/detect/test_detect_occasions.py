"""What was announced is no incident; what was not announced still is, on the very same day."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from detect_worlds import START, STEP, daily, windows

from forecastle.detect.engine import Detection
from forecastle.detect.occasions import announced as announced_of
from forecastle.runtime.occasions import announced
from forecastle.settings import DetectSettings
from forecastle.types import AnomalyKind, Demand, Event, Holidays, SeriesKey, Workload

SLOTS, TICKS = 2400, 200
BEGIN, END = 40, 140
"""Ticks of a play at which the campaign begins and ends."""
RATE, LATENCY = SeriesKey("shop", "rps", (("site", "eu"),)), SeriesKey("shop", "latency", ())


def campaign(factor, begin=BEGIN, end=END):
    return Event("sale", START + (begin - 1) * STEP, START + (end - 1) * STEP, factor)


def engine(*events, holidays=None):
    load = Workload("shop", (Demand(SeriesKey("shop", "rps", ()), 10.0),), ("pool",), events=events, holidays=holidays)
    detection = Detection(DetectSettings(), STEP)
    detection.occasions = announced({"shop": load})
    return detection


def played(detection, factors, name=RATE, ticks=TICKS, seed=3):
    """(tick, kind) of a daily series whose slots of the play are multiplied by ``factors`` float[ticks]."""
    values = daily(1, SLOTS + ticks, seed=seed)
    values[0, SLOTS - 1 : SLOTS - 1 + ticks] *= factors
    out = []
    for k in range(ticks):
        shown = windows(values[:, k : k + SLOTS].copy(), names=(name,), end=START + k * STEP)
        out += [(k, a.kind) for a in detection.detect(shown, None)]
    return out


def during(factor, begin=BEGIN, end=END):
    factors = np.ones(TICKS)
    factors[begin:end] = factor
    return factors


@pytest.mark.parametrize("factor", [3.0, 0.4])
def test_a_campaign_comes_and_goes_without_an_anomaly(factor):
    assert {k for k, _ in played(engine(), during(factor))} & {BEGIN, END}, "without the announcement both ends are news"
    assert played(engine(campaign(factor)), during(factor)) == []


def test_part_of_what_was_announced_and_a_little_early_is_no_news():
    assert played(engine(campaign(3.0)), during(2.0, begin=BEGIN - 5)) == []


def test_more_than_announced_is_told_at_once():
    told = played(engine(campaign(1.5)), during(4.0))
    assert told[0] == (BEGIN, AnomalyKind.SPIKE)


def test_an_outage_within_the_campaign_is_told_as_ever():
    factors = during(3.0)
    factors[90:110] = 0.3
    told = played(engine(campaign(3.0)), factors)
    assert told[0] == (90, AnomalyKind.DIP)


def test_a_fall_that_no_holiday_announced_this_deep_is_told():
    told = played(engine(campaign(0.6)), during(0.05))
    assert told[0] == (BEGIN, AnomalyKind.DIP)


def test_other_metrics_of_the_workload_are_judged_as_ever():
    told = played(engine(campaign(3.0)), during(3.0), name=LATENCY)
    assert told[0] == (BEGIN, AnomalyKind.SPIKE)


def test_a_day_of_rest_is_known_by_its_calendar_where_it_is_one():
    """22 November 2023 is Buss- und Bettag in Saxony alone; the play begins on its first minute there."""
    end = 1_700_607_600_000
    saxony, bavaria = (Holidays("DE", "Europe/Berlin", part, factor=0.4) for part in ("SN", "BY"))
    told = []
    for holidays in (saxony, bavaria):
        detection, values = engine(holidays=holidays), daily(1, SLOTS + 40, seed=3)
        values[0, SLOTS:] *= 0.4
        shown = [windows(values[:, k : k + SLOTS].copy(), names=(RATE,), end=end + k * STEP) for k in range(40)]
        told.append([a.kind for one in shown for a in detection.detect(one, None)])
    assert told[0] == []
    assert told[1][0] == AnomalyKind.DIP


def test_the_way_back_is_excused_again_one_season_later_and_no_other_fall():
    sale, season = campaign(3.0), 1440
    shown = windows(daily(1, SLOTS), names=(RATE,), end=sale.end + season * STEP)
    onset = shown.end - STEP
    assert announced_of(sale, onset, shown, season, (300.0, 100.0))
    assert not announced_of(sale, onset, shown, season, (300.0, 30.0))
    assert not announced_of(sale, onset, shown, 0, (300.0, 100.0))
    assert not announced_of(sale, sale.end + 300 * STEP, shown, season, (300.0, 100.0))
