"""Playbooks: which one answers, on what it acts, when it tries again, and when a human is told instead."""

from __future__ import annotations

from dataclasses import replace

import pytest
from decide_worlds import (
    FRA,
    NOW,
    RPS,
    STEP,
    actions,
    anomaly,
    fleet,
    incident,
    load,
    outcome,
    plans,
    playbook,
    refused,
    seen,
    situation,
    stock,
)

from forecastle.decide.heal import match
from forecastle.types import Action, AnomalyKind, Fleet, Incident, Kind, Plan, Playbook, Severity, Status

SICK = fleet(seen("shop-fra", 20, 19, unhealthy=("r7",)), seen("shop-ams", 20))
WELL = fleet(seen("shop-fra", 20), seen("shop-ams", 20))


def decided(state: Fleet, *books: Playbook, incidents: tuple[Incident, ...] = (incident(),)) -> tuple[Plan, ...]:
    return plans(situation(1280, state, incidents=incidents), stock(playbooks=books))


# --- which playbook ---


@pytest.mark.parametrize(
    ("book", "answers"),
    [
        (playbook(Kind.RESTART), True),
        (playbook(Kind.RESTART, metric="lat*"), True),
        (playbook(Kind.RESTART, metric="error*"), False),
        (playbook(Kind.RESTART, metric="LATENCY"), False),
        (playbook(Kind.RESTART, severity=Severity.CRITICAL), True),
        (playbook(Kind.RESTART, kinds=frozenset({AnomalyKind.SPIKE})), True),
        (playbook(Kind.RESTART, kinds=frozenset({AnomalyKind.DIP})), False),
    ],
)
def test_a_playbook_matches_metric_kind_and_severity(book: Playbook, answers: bool) -> None:
    assert (match(incident(), (book,)) is book) is answers


def test_a_lesser_incident_is_not_answered() -> None:
    book = playbook(Kind.RESTART, severity=Severity.CRITICAL)
    assert match(incident(severity=Severity.WARNING), (book,)) is None


def test_the_first_that_matches_answers() -> None:
    first, second = playbook(Kind.RESTART, name="first"), playbook(Kind.REPLACE, name="second")
    assert match(incident(), (playbook(Kind.DRAIN, metric="x"), first, second)) is first


@pytest.mark.parametrize("kind", sorted(Kind))
def test_a_dead_site_is_only_emptied_or_told_about(kind: Kind) -> None:
    found = match(incident(workload="*"), (playbook(kind),))
    assert (found is not None) is (kind in {Kind.NOTIFY, Kind.SHIFT, Kind.DRAIN, Kind.CORDON})


# --- on what ---


def test_sick_replicas_are_healed_one_by_one_and_their_own_signal_counts() -> None:
    (action,) = actions(decided(SICK, playbook(Kind.RESTART), incidents=(incident(signals=1),)))
    assert (action.target, action.signals, action.desired, action.expected) == ("shop-fra/r7", 2, str(NOW), "v1")
    assert action.reason == "restart-it: critical shop fra: latency spiked"


def test_without_a_sick_replica_the_pool_needs_its_own_quorum() -> None:
    (action,) = actions(decided(WELL, playbook(Kind.RESTART)))
    assert (action.target, action.signals) == ("shop-fra", 2)
    lonely = decided(WELL, playbook(Kind.RESTART), incidents=(incident(signals=1),))
    assert actions(lonely) == []
    assert refused(lonely) == {("quorum", "shop-fra")}


def test_no_signal_at_all_is_not_made_one_by_the_cloud() -> None:
    assert actions(decided(SICK, playbook(Kind.RESTART), incidents=(incident(signals=0),))) == []


@pytest.mark.parametrize(
    ("kind", "desired"),
    [
        (Kind.REPLACE, str(NOW)),
        (Kind.DRAIN, 0),
        (Kind.SHIFT, 0),
        (Kind.CORDON, "cordon-it: critical shop fra: latency spiked"),
    ],
)
def test_what_each_remedy_asks_for(kind: Kind, desired: object) -> None:
    (action,) = actions(decided(SICK, playbook(kind)))
    assert (action.desired, action.replica) == (desired, "r7" if kind is Kind.REPLACE else "")


def test_the_approval_class_of_the_playbook_is_asked_for() -> None:
    (plan,) = [p for p in decided(WELL, playbook(Kind.RESTART, approval="C")) if p.actions]
    assert (plan.approvals, plan.domain) == (2, FRA)
    (plan,) = [p for p in decided(WELL, playbook(Kind.RESTART, approval="A")) if p.actions]
    assert plan.approvals == 0


def test_an_incident_without_a_site_is_healed_in_one_domain_at_a_time() -> None:
    found = decided(WELL, playbook(Kind.RESTART), incidents=(incident(site=""),))
    assert [a.pool for a in actions(found, Kind.RESTART)] == ["shop-fra"]
    assert refused(found) == {("one_domain", "shop-ams")}


def test_the_most_severe_incident_is_answered_first() -> None:
    mild = incident(id="a", site="ams", severity=Severity.WARNING, opened_at=NOW - 900_000)
    found = decided(WELL, playbook(Kind.RESTART), incidents=(mild, incident(id="b")))
    assert [a.pool for a in actions(found, Kind.RESTART)] == ["shop-fra"]


@pytest.mark.parametrize("quiet", [incident(closed=True), incident(workload="other"), incident(site="ohio")])
def test_closed_and_foreign_incidents_are_not_answered(quiet: Incident) -> None:
    assert actions(decided(WELL, playbook(Kind.RESTART), incidents=(quiet,))) == []


# --- rollback ---


def test_a_rollback_names_the_release_before() -> None:
    deploy = outcome(Kind.SCALE, "shop-fra", 4000, before=seen("shop-fra", 20, release="r0"), after=seen("shop-fra", 20))
    (action,) = actions(decided(replace(WELL, outcomes=(deploy,)), playbook(Kind.ROLLBACK)), Kind.ROLLBACK)
    assert action.desired == "r0"


def test_without_a_known_release_a_human_is_told() -> None:
    (page,) = actions(decided(WELL, playbook(Kind.ROLLBACK)))
    assert (page.kind, page.pool, page.replica) == (Kind.NOTIFY, "shop-fra", "i1")
    assert "no earlier release of shop-fra is known" in str(page.desired)


def test_a_release_that_was_rolled_back_is_never_rolled_back_to() -> None:
    """r1 was bad and left for r0; when r0 is in trouble later, going "back" to r1 would bring the trouble back."""
    back = outcome(Kind.ROLLBACK, "shop-fra", 40_000, before=seen("shop-fra", 20, release="bad"), after=seen("shop-fra", 20))
    found = decided(replace(WELL, outcomes=(back,)), playbook(Kind.ROLLBACK))
    assert actions(found, Kind.ROLLBACK) == []
    assert any("no earlier release of shop-fra is known" in str(page.desired) for page in actions(found))


# --- again ---


def opened(minutes: int, *anomalies_at: int) -> Incident:
    """An incident opened so long ago, with anomalies so many seconds ago."""
    found = tuple(anomaly(at=NOW - age * 1000) for age in anomalies_at)
    return incident(opened_at=NOW - minutes * 60_000, anomalies=found)


@pytest.mark.parametrize(
    ("healed_s", "newest_s", "again"),
    [(100, 0, False), (361, 2, False), (361, 0, True), (420, 0, True), (420, 300, False)],
)
def test_a_remedy_gets_its_time_and_is_tried_again_only_on_fresh_trouble(healed_s: int, newest_s: int, again: bool) -> None:
    """Five minutes to settle on top of a start-up time of one."""
    state = replace(WELL, outcomes=(outcome(Kind.RESTART, "shop-fra", healed_s),))
    found = decided(state, playbook(Kind.RESTART), incidents=(opened(10, 600, newest_s),))
    assert bool(actions(found, Kind.RESTART)) is again


def test_what_was_done_before_the_incident_was_not_done_for_it() -> None:
    state = replace(WELL, outcomes=(outcome(Kind.RESTART, "shop-fra", 700),))
    assert actions(decided(state, playbook(Kind.RESTART), incidents=(opened(10, 0),)), Kind.RESTART)


@pytest.mark.parametrize("status", [Status.REFUSED, Status.DRY_RUN])
def test_what_was_refused_was_not_tried(status: Status) -> None:
    state = replace(WELL, outcomes=(outcome(Kind.RESTART, "shop-fra", 100, status),))
    assert actions(decided(state, playbook(Kind.RESTART), incidents=(opened(10, 0),)), Kind.RESTART)


def test_after_two_attempts_a_human_is_paged() -> None:
    past = tuple(outcome(Kind.RESTART, "shop-fra", age) for age in (1200, 600))
    found = decided(replace(WELL, outcomes=past), playbook(Kind.RESTART), incidents=(opened(25, 0),))
    assert actions(found, Kind.RESTART) == []
    (page,) = actions(found, Kind.NOTIFY)
    assert page.replica == "escalation"
    assert "2 attempts on shop-fra" in str(page.desired)


# --- panic and trust ---


def test_a_panic_is_on_record_and_paged_even_when_nothing_is_asked() -> None:
    mad = fleet(seen("shop-fra", 20, 10, unhealthy=tuple(f"r{i}" for i in range(10))), seen("shop-ams", 20))
    found = decided(mad, incidents=())
    assert ("panic", "shop-fra") in refused(found)
    (page,) = actions(found, Kind.NOTIFY)
    assert "10 of 20 replicas in aws/eu-central-1/a are sick at once" in str(page.desired)
    assert actions(decided(mad, playbook(Kind.RESTART)), Kind.RESTART) == []


@pytest.mark.parametrize("flaw", ["late", "suspect"])
def test_nothing_is_healed_on_data_that_cannot_be_trusted(flaw: str) -> None:
    found = plans(
        situation(1280, SICK, incidents=[incident()], **{flaw: [RPS]}),
        stock(load(), playbooks=[playbook(Kind.RESTART)]),
    )
    assert actions(found, Kind.RESTART) == []
    assert {g for g, _ in refused(found)} == {"missing_data" if flaw == "late" else "suspect_data"}


def test_the_same_heal_of_the_same_tick_is_the_same_action() -> None:
    one, two = (actions(decided(SICK, playbook(Kind.RESTART)))[0] for _ in range(2))
    assert one == two
    later = Action(Kind.RESTART, "shop", "shop-fra", "x", "v1", NOW + STEP, 0, "r7")
    assert one.id != later.id
