from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from detect_worlds import START, STEP, daily, keys, windows

from forecastle.detect.engine import Detection
from forecastle.detect.incidents import IncidentBook, leading
from forecastle.settings import DetectSettings
from forecastle.types import Anomaly, AnomalyKind, SeriesKey, Severity

SETTINGS = DetectSettings(group_s=600, close_s=900)


def anomaly(workload="shop", metric="latency", at=START, site="eu", kind=AnomalyKind.SPIKE, score=2.0, **evidence):
    key = SeriesKey(workload, metric, (("site", site),) if site else ())
    return Anomaly(key, at, score, 1.5, kind, {"families": ["residual"], "expected": 1.0, "actual": 2.0, **evidence})


def test_one_workload_one_incident_with_a_stable_name():
    book = IncidentBook(SETTINGS)
    (first,) = book.update([anomaly(), anomaly(metric="errors")], START)
    (second,) = book.update([anomaly(at=START + STEP)], START + STEP)
    assert first.id == second.id
    assert (second.workload, second.site, second.opened_at) == ("shop", "eu", START)
    assert second.at == START + STEP
    assert second.signals == 2
    assert len(second.anomalies) == 2


def test_workloads_and_sites_are_apart():
    book = IncidentBook(SETTINGS)
    found = book.update([anomaly(), anomaly(workload="cart"), anomaly(site="us")], START)
    assert {(i.workload, i.site) for i in found} == {("shop", "eu"), ("cart", "eu"), ("shop", "us")}
    assert len({i.id for i in found}) == 3


def test_an_incident_closes_after_the_quiet_and_a_new_one_has_another_name():
    book = IncidentBook(SETTINGS)
    (first,) = book.update([anomaly()], START)
    assert book.update([], START + 899_000)[0].id == first.id
    assert book.update([], START + 900_000) == ()
    assert [i.id for i in book.closed] == [first.id]
    assert book.closed[0].closed
    (again,) = book.update([anomaly(at=START + 960_000)], START + 960_000)
    assert again.id != first.id
    assert book.closed == ()


def test_signals_count_metrics_or_unrelated_detectors():
    book = IncidentBook(SETTINGS)
    assert book.update([anomaly(families=["residual", "rate"])], START)[0].signals == 1
    assert book.update([anomaly(families=["residual", "forecast"])], START)[0].signals == 2


def test_old_anomalies_no_longer_vote():
    book = IncidentBook(SETTINGS)
    book.update([anomaly(metric="errors")], START)
    (later,) = book.update([anomaly(at=START + 660_000)], START + 660_000)
    assert later.signals == 1
    assert later.opened_at == START


def test_severity_grows_with_agreement_and_time():
    book = IncidentBook(SETTINGS)
    assert book.update([anomaly()], START)[0].severity is Severity.INFO
    book.update([anomaly(at=START + STEP)], START + STEP)
    assert book.update([anomaly(at=START + 2 * STEP)], START + 2 * STEP)[0].severity is Severity.WARNING
    strong = [anomaly(score=9.0, at=START + 3 * STEP), anomaly(metric="errors", at=START + 3 * STEP)]
    assert book.update(strong, START + 3 * STEP)[0].severity is Severity.CRITICAL


def test_the_cause_names_the_worst_kind_and_its_numbers():
    book = IncidentBook(SETTINGS)
    leak = anomaly(metric="memory", kind=AnomalyKind.TREND, expected=500.0, actual=900.0)
    (incident,) = book.update([anomaly(), leak], START)
    assert incident.cause == "memory trend: 900 where 500 was expected"


def site_world(lost_sites, *, zero=False):
    n, slots = 24, 1000
    values, mask = daily(n, slots), np.ones((n, slots), bool)
    names = keys(n, sites=3)
    rows = [i for i, key in enumerate(names) if key.label("site") in lost_sites]
    if zero:
        values[rows, -4:] = 0.0
    else:
        mask[rows, -4:] = False
    found = Detection(SETTINGS, STEP).detect(windows(values, mask, names=names), None)
    assert {a.key for a in found} == {names[i] for i in rows}
    return found


def test_a_site_that_goes_silent_is_one_incident():
    for zero in (False, True):
        (incident,) = IncidentBook(SETTINGS).update(site_world({"s1"}, zero=zero), START)
        assert (incident.workload, incident.site) == ("*", "s1")
        assert incident.severity is Severity.CRITICAL
        assert incident.signals >= 2
        assert "s1" in incident.cause


def test_a_fleet_that_goes_silent_is_a_sensor_nobody_heals():
    (incident,) = IncidentBook(SETTINGS).update(site_world({"s0", "s1", "s2"}), START)
    assert (incident.workload, incident.site, incident.signals) == ("*", "", 0)
    assert "sensor" in incident.cause


def test_one_lost_workload_is_its_own_incident():
    n, slots = 24, 1000
    values, mask = daily(n, slots), np.ones((n, slots), bool)
    mask[5, -4:] = False
    names = keys(n, sites=3)
    (incident,) = IncidentBook(SETTINGS).update(
        Detection(SETTINGS, STEP).detect(windows(values, mask, names=names), None), START
    )
    assert incident.workload == names[5].workload
    assert incident.anomalies[0].kind is AnomalyKind.DROPOUT


def test_stragglers_of_a_lost_site_join_its_incident():
    book = IncidentBook(SETTINGS)
    book.update(site_world({"s1"}), START)
    found = book.update([anomaly(workload="w3", site="s1", at=START + STEP)], START + STEP)
    assert [(i.workload, i.site) for i in found] == [("*", "s1")]


def test_a_replay_that_reaches_the_opening_repeats_the_incidents():
    rng = np.random.default_rng(0)
    events = {
        START + k * STEP: [
            anomaly(f"w{rng.integers(4)}", f"m{rng.integers(3)}", START + k * STEP, f"s{rng.integers(2)}")
            for _ in range(rng.integers(0, 3) if k % 40 < 15 else 0)
        ]
        for k in range(200)
    }
    whole, part = IncidentBook(SETTINGS), IncidentBook(SETTINGS)
    for at, found in events.items():
        expected = whole.update(found, at)
        if at >= START + 80 * STEP:
            assert part.update(found, at) == expected


def test_a_level_outranks_the_spike_it_began_with_and_a_return_outranks_both():
    book = IncidentBook(SETTINGS)
    assert book.update([anomaly()], START)[0].cause.startswith("latency spike")
    later = START + 10 * STEP
    (settled,) = book.update([anomaly(at=later, kind=AnomalyKind.LEVEL_SHIFT)], later)
    assert settled.cause.startswith("latency level shift")
    over = START + 20 * STEP
    (back,) = book.update([anomaly(at=over, kind=AnomalyKind.DIP, families=["excursion"])], over)
    assert back.id == settled.id
    assert back.cause.startswith("latency dip")
    assert leading(back.anomalies).kind is AnomalyKind.DIP


def test_what_is_no_departure_is_not_settled_by_a_return():
    flat = anomaly(kind=AnomalyKind.FLAT_LINE)
    back = anomaly(at=START + STEP, families=["excursion"])
    assert leading([flat, back]) is flat
    assert (
        leading([anomaly(kind=AnomalyKind.TREND), anomaly(metric="errors", families=["excursion"])]).kind is AnomalyKind.TREND
    )
    again = anomaly(at=START + 2 * STEP, kind=AnomalyKind.LEVEL_SHIFT)
    assert leading([back, again]) is again


def test_a_return_neither_opens_an_incident_nor_keeps_one_open():
    book = IncidentBook(SETTINGS)
    assert book.update([anomaly(families=["excursion"])], START) == ()
    book.update([anomaly()], START)
    (going,) = book.update([anomaly(at=START + 840_000, families=["excursion"])], START + 840_000)
    assert going.at == START
    assert book.update([], START + 900_000) == ()
    assert len(book.closed) == 1


def test_the_name_is_kept_when_what_gave_it_is_no_longer_recent():
    book = IncidentBook(SETTINGS)
    book.update([anomaly(kind=AnomalyKind.LEVEL_SHIFT)], START)
    late = START + 840_000
    (incident,) = book.update([anomaly(at=late, kind=AnomalyKind.VARIANCE)], late)
    assert incident.cause.startswith("latency level shift")
    assert incident.signals == 1
    assert [a.kind for a in incident.anomalies] == [AnomalyKind.VARIANCE, AnomalyKind.LEVEL_SHIFT]
