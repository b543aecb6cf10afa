"""What others say joins what was measured: one witness, however much it says, and over once it says so no more."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from detect_worlds import START, STEP

from forecastle.detect.incidents import IncidentBook
from forecastle.settings import DetectSettings
from forecastle.types import Anomaly, AnomalyKind, SeriesKey, Severity

SETTINGS = DetectSettings(group_s=600, close_s=900)


def told(name="TooSlow", at=START, workload="shop", site="eu", severity="warning", kind=AnomalyKind.SPIKE, summary=""):
    key = SeriesKey(workload, f"alert/{name}", (("site", site),) if site else ())
    evidence = {"witness": "alert", "families": ["alert"], "severity": severity, "summary": summary}
    return Anomaly(key, at, 3.0, 1.0, kind, evidence)


def measured(metric="latency", at=START, workload="shop", site="eu", score=2.0):
    key = SeriesKey(workload, metric, (("site", site),) if site else ())
    return Anomaly(key, at, score, 1.5, AnomalyKind.SPIKE, {"families": ["residual"], "expected": 1.0, "actual": 2.0})


def test_one_alert_is_an_incident_with_one_signal():
    (incident,) = IncidentBook(SETTINGS).update([told()], START)
    assert (incident.workload, incident.site, incident.signals, incident.opened_at) == ("shop", "eu", 1, START)


@hypothesis(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from(list(AnomalyKind))), min_size=1, max_size=20))
def test_however_many_alerts_are_still_one_signal(alerts):
    (incident,) = IncidentBook(SETTINGS).update([told(name, kind=kind) for name, kind in alerts], START)
    assert incident.signals == 1


def test_an_alert_and_a_measurement_are_two():
    (incident,) = IncidentBook(SETTINGS).update([told(), told("TooManyErrors"), measured()], START)
    assert incident.signals == 2


def test_alerts_at_another_site_or_workload_are_another_incident():
    found = IncidentBook(SETTINGS).update([told(), measured(site="us"), told(workload="cart")], START)
    assert {(i.workload, i.site, i.signals) for i in found} == {("shop", "eu", 1), ("shop", "us", 1), ("cart", "eu", 1)}


def test_what_was_measured_long_before_goes_on_alone_when_the_witness_falls_silent():
    book, late = IncidentBook(SETTINGS), START + 14 * STEP
    book.update([measured()], START)
    (both,) = book.update([told(at=late)], late)
    (left,) = book.update([], late + 1)
    (alone,) = IncidentBook(SETTINGS).update([measured()], START)
    assert (both.id, both.at) == (left.id, late)
    assert (left.at, left.cause, [a.key.metric for a in left.anomalies]) == (START, alone.cause, ["latency"])
    assert book.update([], START + 15 * STEP) == ()


@pytest.mark.parametrize("severity", list(Severity))
def test_its_own_severity_is_believed(severity):
    (incident,) = IncidentBook(SETTINGS).update([told(severity=severity.value)], START)
    assert incident.severity is severity


def test_an_unimportant_alert_does_not_grow_by_standing():
    book = IncidentBook(SETTINGS)
    for i in range(10):
        (incident,) = book.update([told(at=START + i * STEP, severity="info")], START + i * STEP)
    assert incident.severity is Severity.INFO


def test_an_unimportant_alert_does_not_make_a_measured_trouble_less():
    book = IncidentBook(SETTINGS)
    found = book.update([told(severity="info"), measured(score=9.0)], START)
    assert found[0].severity is Severity.CRITICAL


def test_while_it_fires_the_incident_stays_the_same():
    book = IncidentBook(SETTINGS)
    names = {book.update([told(at=START + i * STEP)], START + i * STEP)[0].id for i in range(30)}
    assert len(names) == 1


def test_a_resolved_alert_closes_its_incident_at_once():
    book = IncidentBook(SETTINGS)
    (opened,) = book.update([told()], START)
    assert book.update([], START + STEP) == ()
    (closed,) = book.closed
    assert (closed.id, closed.closed, closed.at) == (opened.id, True, START + STEP)
    assert [a.key.metric for a in closed.anomalies] == ["alert/TooSlow"]
    assert book.update([], START + 2 * STEP) == ()
    assert book.closed == ()


def test_it_goes_on_while_another_alert_fires():
    book = IncidentBook(SETTINGS)
    (opened,) = book.update([told("a"), told("b")], START)
    (still,) = book.update([told("b", at=START + STEP)], START + STEP)
    assert still.id == opened.id
    assert [a.key.metric for a in still.anomalies] == ["alert/b"]


def test_what_was_measured_outlives_the_alert_and_loses_its_vote():
    book = IncidentBook(SETTINGS)
    (both,) = book.update([told(severity="critical"), measured()], START)
    (alone,) = book.update([], START + STEP)
    assert alone.id == both.id
    assert (both.signals, alone.signals) == (2, 1)
    assert (both.severity, alone.severity) == (Severity.CRITICAL, Severity.INFO)
    assert book.update([], START + 900_000) == ()


def test_the_cause_is_in_the_words_of_the_alert():
    (incident,) = IncidentBook(SETTINGS).update([told(summary="p99 is 2 s")], START)
    assert incident.cause == "alert/TooSlow: p99 is 2 s"
    (wordless,) = IncidentBook(SETTINGS).update([told(kind=AnomalyKind.LEVEL_SHIFT)], START)
    assert wordless.cause == "alert/TooSlow level shift"


def test_one_that_fires_again_is_a_new_incident():
    book = IncidentBook(SETTINGS)
    (first,) = book.update([told()], START)
    book.update([], START + STEP)
    (again,) = book.update([told(at=START + 2 * STEP)], START + 2 * STEP)
    assert again.id != first.id
    assert again.opened_at == START + 2 * STEP


def test_alerts_of_many_workloads_at_a_silent_site_stay_one_witness():
    """The site's own incident counts what was lost there; alerts about it add a single vote."""
    silent = {"lost": 1.0, "site_lost": 1.0, "site_workloads": 4.0, "families": ["dropout"]}
    lost = Anomaly(SeriesKey("shop", "rps", (("site", "eu"),)), START, 9.0, 1.0, AnomalyKind.DROPOUT, silent)
    alerts = [told(workload=name) for name in ("shop", "cart", "mail")]
    (incident,) = IncidentBook(SETTINGS).update([lost, *alerts], START)
    assert (incident.workload, incident.signals) == ("*", 2)
