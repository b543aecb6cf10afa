"""Signals of an attack: marked by their metric, a threat for as long as the incident is open, and never restarted."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from detect_worlds import START, STEP

from forecastle.decide.heal import match
from forecastle.detect.incidents import IncidentBook
from forecastle.detect.threats import marked, threatening
from forecastle.settings import DetectSettings
from forecastle.types import Anomaly, AnomalyKind, Incident, Kind, Playbook, SeriesKey, Severity

SETTINGS = DetectSettings(group_s=600, close_s=1800, threats=("*auth*fail*", "*egress*"))


def anomaly(metric: str = "auth_failures", at: int = START, score: float = 9.0, **evidence) -> Anomaly:
    known = {"families": ["residual"], "expected": 1.0, "actual": 50.0, **evidence}
    return Anomaly(SeriesKey("shop", metric, (("site", "eu"),)), at, score, 1.5, AnomalyKind.SPIKE, known)


def incident(*found: Anomaly, book: IncidentBook | None = None) -> Incident:
    (opened,) = (book or IncidentBook(SETTINGS)).update(found, max(a.at for a in found))
    return opened


def playbook(action: Kind, **changes) -> Playbook:
    known = {"name": action.value, "metric": "*", "kinds": frozenset(), "severity": Severity.INFO, "action": action}
    return Playbook(**(known | changes))


@pytest.mark.parametrize(
    ("metric", "glob"),
    [
        ("auth_failures", "*auth*fail*"),
        ("AuthFailures", "*auth*fail*"),
        ("nginx_auth_requests_failed_total", "*auth*fail*"),
        ("pod_egress_bytes", "*egress*"),
        ("author_count", ""),
        ("latency", ""),
        ("failed_auth", ""),
    ],
)
def test_the_metric_makes_it_a_threat(metric: str, glob: str) -> None:
    found = marked(anomaly(metric), SETTINGS.threats)
    assert found.evidence.get("threat", "") == glob
    assert threatening(found) is bool(glob)


def test_a_mark_changes_nothing_else() -> None:
    plain = anomaly()
    found = marked(plain, SETTINGS.threats)
    assert {k: v for k, v in found.evidence.items() if k != "threat"} == plain.evidence
    assert (found.key, found.at, found.score, found.kind) == (plain.key, plain.at, plain.score, plain.kind)
    assert "threat" not in plain.evidence


def test_no_globs_no_threats() -> None:
    assert marked(anomaly(), ()) == anomaly()
    (opened,) = IncidentBook(DetectSettings(threats=())).update([anomaly()], START)
    assert not opened.cause.startswith("possible threat")


@pytest.mark.parametrize("metric", ["http_auth_failures", "login_failed_total", "requests_forbidden", "iam_new_principals"])
def test_what_counts_by_default(metric: str) -> None:
    (opened,) = IncidentBook(DetectSettings()).update([anomaly(metric)], START)
    assert threatening(opened.anomalies[0])


def test_the_cause_says_so_even_beside_something_larger() -> None:
    opened = incident(anomaly("latency", score=90.0), anomaly())
    assert opened.cause.startswith("possible threat: auth_failures spike: 50 where 1 was expected")


def test_others_words_about_it_are_a_threat_too() -> None:
    told = anomaly("alert/AuthFailures", witness="alert", severity="critical", summary="1200 failed logins")
    assert incident(told).cause == "possible threat: alert/AuthFailures: 1200 failed logins"


@pytest.mark.parametrize("action", [Kind.RESTART, Kind.REPLACE, Kind.ROLLBACK, Kind.DRAIN, Kind.SHIFT, Kind.CORDON])
def test_a_threat_is_not_healed(action: Kind) -> None:
    assert match(incident(anomaly("latency")), (playbook(action),)) is not None
    assert match(incident(anomaly()), (playbook(action),)) is None
    assert match(incident(anomaly(), anomaly("latency")), (playbook(action, metric="latency"),)) is None


@pytest.mark.parametrize("action", [Kind.NOTIFY, Kind.QUARANTINE])
def test_a_threat_is_told_or_quarantined(action: Kind) -> None:
    books = playbook(Kind.RESTART), playbook(action)
    found = match(incident(anomaly()), books)
    assert found is books[1]


def test_it_stays_a_threat_while_the_incident_is_open() -> None:
    book = IncidentBook(SETTINGS)
    incident(anomaly(), book=book)
    for minute in range(1, 31):
        later = incident(anomaly("latency", at=START + minute * STEP), book=book)
    assert later.opened_at == START
    assert match(later, (playbook(Kind.RESTART),)) is None


def test_however_much_else_is_wrong() -> None:
    book = IncidentBook(SETTINGS)
    incident(anomaly(), book=book)
    at = START + 15 * STEP
    later = incident(*(anomaly(f"m{i}", at=at) for i in range(200)), book=book)
    assert any(threatening(a) for a in later.anomalies)
    assert len(later.anomalies) <= 64


def test_an_old_threat_is_no_fresh_signal() -> None:
    book = IncidentBook(SETTINGS)
    incident(anomaly(), book=book)
    later = incident(anomaly("latency", at=START + 15 * STEP), book=book)
    assert later.signals == 1


def test_the_next_incident_is_judged_afresh() -> None:
    book = IncidentBook(SETTINGS)
    incident(anomaly(), book=book)
    assert book.update([], START + 1_800_000) == ()
    later = incident(anomaly("latency", at=START + 1_860_000), book=book)
    assert match(later, (playbook(Kind.RESTART),)) is not None
