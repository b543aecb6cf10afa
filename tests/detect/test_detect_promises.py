"""Severity as the workload's objective has it: raised where it is missed, held back where it is seen to be met."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from detect_worlds import START, STEP

from forecastle.detect.incidents import IncidentBook
from forecastle.settings import DetectSettings
from forecastle.types import Anomaly, AnomalyKind, Demand, Incident, Objective, SeriesKey, Severity, Windows, Workload

SETTINGS = DetectSettings(group_s=600, close_s=900)
RPS, P99, LEFT = (SeriesKey("shop", name, (("site", "eu"),)) for name in ("rps", "p99", "budget_left"))
SHOP = Workload("shop", (Demand(RPS, 1.0),), (), vetoes=((P99, 400.0),), slo=Objective("fast", 0.995, budget=LEFT))
SLOTS = 420


def windows(p99: float = 300.0, left: np.ndarray | float = 0.9, *, at: int = START, keys=(RPS, P99, LEFT), **marks) -> Windows:
    values = np.ones((3, SLOTS), np.float32)
    values[1], values[2] = p99, left
    late, suspect = (np.array([key in marks.get(name, ()) for key in keys]) for name in ("late", "suspect"))
    return Windows(keys, at, STEP, values, np.ones(values.shape, bool), late, suspect)


def weak(at: int = START, workload: str = "shop", metric: str = "rps", site: str = "eu", score: float = 2.0) -> Anomaly:
    evidence = {"families": ["residual"], "expected": 1.0, "actual": 2.0}
    return Anomaly(SeriesKey(workload, metric, (("site", site),)), at, score, 1.5, AnomalyKind.SPIKE, evidence)


STRONG = (weak(score=9.0), weak(metric="cpu"))


def judged(*found: Anomaly, seen: Windows | None = None, load: Workload = SHOP) -> Incident:
    (incident,) = IncidentBook(SETTINGS, {"shop": load}).update(found or (weak(),), START, seen)
    return incident


def burning(share: float, hours: float, left: float = 0.5) -> np.ndarray:
    """A budget of which ``share`` goes evenly in the last ``hours``, down to ``left``."""
    slots = int(hours * 60)
    return np.concatenate([np.full(SLOTS - slots - 1, left + share), np.linspace(left + share, left, slots + 1)])


def test_what_misses_its_objective_is_critical_and_says_by_how_much() -> None:
    assert judged().severity is Severity.INFO
    missed = judged(seen=windows(p99=1851.0))
    assert missed.severity is Severity.CRITICAL
    assert missed.cause == "rps spike: 2 where 1 was expected; objective fast (99.5%) missed: p99 1850, limit 400"


def test_what_meets_its_objective_is_a_warning_at_most() -> None:
    assert judged(*STRONG).severity is Severity.CRITICAL
    met = judged(*STRONG, seen=windows())
    assert met.severity is Severity.WARNING
    assert "; objective fast (99.5%) met: p99 300, limit 400, " in met.cause
    assert judged(seen=windows()).severity is Severity.INFO, "it raises nothing"


@pytest.mark.parametrize(
    ("left", "severity", "said"),
    [
        (burning(0.03, 1.0), Severity.CRITICAL, "missed: 0.03 of the error budget gone in 1 h, 0.5 left"),
        (burning(0.02, 1.0), Severity.CRITICAL, "missed: 0.02 of the error budget gone in 1 h, 0.5 left"),
        (burning(0.06, 6.0), Severity.CRITICAL, "missed: 0.06 of the error budget gone in 6 h, 0.5 left"),
        (burning(0.015, 1.0), Severity.INFO, "met: 0.015 of the error budget gone in 1 h, 0.5 left, p99 300, limit 400"),
        (burning(-0.3, 1.0), Severity.INFO, "met: p99 300, limit 400"),
    ],
)
def test_a_budget_that_goes_fast_is_a_missed_objective(left: np.ndarray, severity: Severity, said: str) -> None:
    found = judged(seen=windows(left=left))
    assert (found.severity, said in found.cause) == (severity, True), found.cause


def test_a_budget_that_is_gone_is_neither_met_nor_missed() -> None:
    spent = windows(left=-0.1)
    assert judged(seen=spent).severity is Severity.INFO
    assert judged(*STRONG, seen=spent).severity is Severity.CRITICAL
    assert "objective" not in judged(seen=spent).cause


@pytest.mark.parametrize(
    "seen", [windows(late=(P99,)), windows(late=(LEFT,)), windows(suspect=(LEFT,)), windows(keys=(RPS,) * 3)]
)
def test_what_cannot_be_seen_is_not_met(seen: Windows) -> None:
    found = judged(*STRONG, seen=seen)
    assert found.severity is Severity.CRITICAL
    assert "objective" not in found.cause


@pytest.mark.parametrize("load", [replace(SHOP, slo=None), replace(SHOP, name="other")])
def test_without_an_objective_all_is_as_ever(load: Workload) -> None:
    book, plain = IncidentBook(SETTINGS, {load.name: load}), IncidentBook(SETTINGS)
    for found in ((weak(),), STRONG):
        assert book.update(found, START, windows(p99=9999.0)) == plain.update(found, START)


def test_an_objective_without_a_series_changes_nothing() -> None:
    bare = replace(SHOP, vetoes=(), slo=Objective("fast", 0.99))
    assert judged(*STRONG, seen=windows(p99=9999.0), load=bare) == judged(*STRONG)


def test_a_site_is_judged_by_its_own_series() -> None:
    far = judged(weak(site="us"), seen=windows(p99=1851.0))
    assert far.severity is Severity.INFO
    everywhere = replace(SHOP, vetoes=((P99._replace(labels=()), 400.0),), slo=Objective("fast", 0.995))
    seen = windows(p99=1851.0, keys=(RPS, P99._replace(labels=()), LEFT))
    assert judged(weak(site="us"), seen=seen, load=everywhere).severity is Severity.CRITICAL


def test_at_its_limit_it_does_not_come_and_go() -> None:
    book, found = IncidentBook(SETTINGS, {"shop": SHOP}), []
    for minute in range(24):
        at, p99 = START + minute * STEP, 450.0 if minute % 2 == 0 and minute < 10 else 390.0
        (incident,) = book.update([weak(at)], at, windows(p99=p99, at=at))
        found.append((incident.severity, incident.cause.partition("; ")[2].partition(":")[0]))
    assert set(found[:19]) == {(Severity.CRITICAL, "objective fast (99.5%) missed")}
    assert set(found[19:]) == {(Severity.WARNING, "objective fast (99.5%) met")}
    assert "p99 390, limit 400" in incident.cause


def test_a_figure_is_told_anew_when_it_is_clearly_worse() -> None:
    book, told = IncidentBook(SETTINGS, {"shop": SHOP}), []
    for minute, p99 in enumerate((500.0, 510.0, 480.0, 600.0, 620.0, 450.0)):
        at = START + minute * STEP
        (incident,) = book.update([weak(at)], at, windows(p99=p99, at=at))
        told.append(incident.cause.rpartition("p99 ")[2].partition(",")[0])
    assert told == ["500", "500", "500", "600", "600", "600"]


def test_a_threat_is_held_back_by_no_objective() -> None:
    found = judged(weak(metric="auth_failures", score=9.0), weak(metric="cpu"), seen=windows())
    assert found.severity is Severity.CRITICAL


def test_the_word_of_others_is_believed_whatever_is_met() -> None:
    evidence = {"witness": "alert", "families": ["alert"], "severity": "critical", "summary": "x"}
    alert = Anomaly(SeriesKey("shop", "alert/Down", (("site", "eu"),)), START, 3.0, 1.0, AnomalyKind.SPIKE, evidence)
    assert judged(alert, weak(), seen=windows()).severity is Severity.CRITICAL


def test_a_silent_site_has_no_objective() -> None:
    lost = {"lost": 1.0, "site_lost": 1.0, "site_workloads": 5.0}
    site = replace(weak(), evidence={**weak().evidence, **lost})
    found = judged(site, seen=windows())
    assert (found.workload, found.severity) == ("*", Severity.CRITICAL)
