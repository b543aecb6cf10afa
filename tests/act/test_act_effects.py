"""Clouds that throttle, time out, lie, do half of it or nothing: never a second effect, never an unknown called success."""

from __future__ import annotations

import pytest
from act_worlds import MINUTE, START, Step, World, plan, restart, scale

from forecastle.act.effect import Answer, verdict
from forecastle.act.readback import shows, untouched
from forecastle.errors import CloudUnavailable, Denied, QuotaExceeded
from forecastle.types import Action, Kind, Observed, Receipt, Status

THROTTLED = CloudUnavailable("429", retry_after=2.0)
TIMED_OUT = CloudUnavailable("no answer", retry_after=0.5, ambiguous=True)


def test_a_throttled_call_is_tried_again_after_the_time_it_asked_for(world: World) -> None:
    world.cloud.script.extend([Step(error=THROTTLED), Step(error=THROTTLED)])
    assert world.run(plan(scale())).status is Status.APPLIED
    assert world.sleeps == [2.0, 2.0]
    assert len(world.cloud.orders) == 1


def test_attempts_are_bounded(world: World) -> None:
    world.cloud.script.extend([Step(error=THROTTLED)] * 9)
    outcome = world.run(plan(scale()))
    assert (outcome.status, world.cloud.applied) == (Status.FAILED, 3)
    assert outcome.detail == "CloudUnavailable: 429; gave up after 3 attempts"
    assert world.sleeps == [2.0, 2.0]


def test_a_cloud_that_wants_long_peace_is_left_alone(world: World) -> None:
    world.cloud.script.append(Step(error=CloudUnavailable("429", retry_after=120)))
    outcome = world.run(plan(scale()))
    assert (outcome.status, world.cloud.applied, world.sleeps) == (Status.FAILED, 1, [])
    assert "not to be tried again for 120 s" in outcome.detail


@pytest.mark.parametrize("error", [TIMED_OUT, TimeoutError("socket"), KeyError("a bug of the adapter")])
def test_an_unanswered_effect_is_reconciled_with_the_same_token(world: World, error: Exception) -> None:
    world.cloud.script.append(Step(error=error, after=True))
    outcome = world.run(plan(scale()))
    assert outcome.status is Status.APPLIED, "it was ours, although the second answer said already"
    assert world.cloud.applied == 2
    assert len(world.cloud.orders) == 1


def test_an_effect_that_was_never_answered_but_is_seen_counts(world: World) -> None:
    world.cloud.script.extend([Step(error=TIMED_OUT, after=True), *[Step(error=TIMED_OUT)] * 5])
    outcome = world.run(plan(scale()))
    assert outcome.status is Status.APPLIED
    assert outcome.detail.startswith("seen although unanswered")


def test_an_effect_that_was_never_answered_nor_seen_stays_unknown(world: World) -> None:
    world.cloud.script.extend([Step(error=TIMED_OUT)] * 5)
    outcome = world.run(plan(scale()))
    assert outcome.status is Status.UNVERIFIED
    assert "asked for 5 replicas, 3 observed" in outcome.detail
    assert world.ledger.unfinished() == ()


def test_a_full_quota_fails_and_says_so(world: World) -> None:
    world.cloud.script.append(Step(error=QuotaExceeded("4 of 4 used")))
    outcome = world.run(plan(scale()))
    assert (outcome.status, outcome.detail) == (Status.FAILED, "QuotaExceeded: 4 of 4 used")
    assert world.cloud.applied == 1, "trying again cannot help"


def test_half_a_success_is_recorded_as_what_is_there(world: World) -> None:
    world.cloud.script.append(Step(error=QuotaExceeded("4 of 4 used"), replicas=4))
    outcome = world.run(plan(scale()))
    assert outcome.status is Status.UNVERIFIED, "something changed, which cool-downs must know"
    assert outcome.after is not None
    assert outcome.after.replicas == 4
    world.clock.advance(START + 2 * MINUTE)
    world.cloud.script.append(Step(replicas=6))
    outcome = world.run(plan(scale(expected=4, desired=8, tick=START + 2 * MINUTE), wanted=11))
    assert outcome.status is Status.UNVERIFIED
    assert outcome.detail == "the cloud says it is done; asked for 8 replicas, 6 observed"


def test_a_claim_without_a_change_is_not_believed(world: World) -> None:
    world.cloud.script.append(Step(effect=False))
    assert world.run(plan(scale())).status is Status.UNVERIFIED
    assert sum(world.sleeps) == pytest.approx(world.act.verify_s)


def test_a_restart_that_changes_nothing_is_not_believed(world: World) -> None:
    world.cloud.script.append(Step(effect=False))
    outcome = world.run(plan(restart()))
    assert (outcome.status, outcome.detail) == (
        Status.UNVERIFIED,
        "the cloud says it is done; asked for restart g1, no change observed",
    )


def test_a_slow_effect_is_waited_for(world: World) -> None:
    world.cloud.delay = 3
    assert world.run(plan(scale())).status is Status.APPLIED
    assert world.sleeps == [0.05, 0.1, 0.2]


def test_a_denied_permission_fails_without_another_try(world: World) -> None:
    world.cloud.script.append(Step(error=Denied("no rights on shop-fra")))
    assert world.run(plan(scale())).status is Status.FAILED
    assert world.cloud.applied == 1


def test_one_targets_trouble_is_not_the_others(world: World) -> None:
    world.cloud.script.append(Step(error=Denied("no rights")))
    outcomes = world.executor().execute(plan(scale("shop-fra"), scale("shop-ams"), wanted=10), None)
    assert [o.status for o in outcomes] == [Status.FAILED, Status.APPLIED]


@pytest.mark.parametrize("how", ["kill", "hold", "deadline"])
def test_whatever_stops_effects_stops_the_next_attempt_too(world: World, how: str) -> None:
    stops = {
        "kill": lambda: world.ledger.kill("stop", "ann"),
        "hold": lambda: world.ledger.hold("shop", "stop", "ann"),
        "deadline": lambda: world.clock.advance(START + 6 * MINUTE),
    }
    world.on_sleep = stops[how]
    world.cloud.script.extend([Step(error=THROTTLED)] * 3)
    outcome = world.run(plan(scale()))
    assert (outcome.status, world.cloud.applied) == (Status.REFUSED, 1)
    assert how in outcome.detail


def test_a_fenced_worker_makes_no_more_attempts_and_records_nothing(world: World) -> None:
    def taken_over() -> None:
        world.clock.advance(START + 2 * MINUTE)
        epoch = world.ledger.lease("shop-fra", "other", 60)
        world.ledger.intend(scale(), epoch=epoch)

    world.on_sleep = taken_over
    world.cloud.script.append(Step(error=THROTTLED))
    outcome = world.run(plan(scale()))
    assert (outcome.status, world.cloud.applied) == (Status.REFUSED, 1)
    assert "fenced: epoch 1 no longer holds shop-fra" in outcome.detail
    (intent,) = world.ledger.unfinished()
    assert intent.epoch == 2, "it is the other worker's to conclude"


# --- the judgement itself ---------------------------------------------------------------------------------------------

SEEN = {n: Observed("shop-fra", n, n, START, f"v{n}") for n in (3, 4, 5)}


def answer(status: Status, *, doubt: bool = False) -> Answer:
    return Answer(None, status, "said", doubt)


def receipt(already: bool, *, doubt: bool = False) -> Answer:
    return Answer(Receipt(scale().id, already), Status.APPLIED, doubt=doubt)


@pytest.mark.parametrize(
    ("given", "seen", "reopened", "expected"),
    [
        (receipt(False), 5, False, Status.APPLIED),
        (receipt(True), 5, False, Status.ALREADY),
        (receipt(True), 5, True, Status.APPLIED),
        (receipt(True, doubt=True), 5, False, Status.APPLIED),
        (receipt(False), 3, False, Status.UNVERIFIED),
        (receipt(True), 3, True, Status.UNVERIFIED),
        (receipt(False), None, False, Status.UNVERIFIED),
        (answer(Status.REFUSED), 3, False, Status.REFUSED),
        (answer(Status.REFUSED), 4, False, Status.REFUSED),
        (answer(Status.REFUSED), 3, True, Status.REFUSED),
        (answer(Status.REFUSED), 5, True, Status.APPLIED),
        (answer(Status.REFUSED), 4, True, Status.UNVERIFIED),
        (answer(Status.REFUSED), None, True, Status.UNVERIFIED),
        (answer(Status.REFUSED, doubt=True), 3, False, Status.UNVERIFIED),
        (answer(Status.FAILED), 3, False, Status.FAILED),
        (answer(Status.FAILED), 4, False, Status.UNVERIFIED),
        (answer(Status.FAILED), None, False, Status.FAILED),
        (answer(Status.FAILED, doubt=True), 3, False, Status.UNVERIFIED),
        (answer(Status.FAILED, doubt=True), 5, False, Status.APPLIED),
        (answer(Status.FAILED, doubt=True), None, False, Status.UNVERIFIED),
    ],
)
def test_unknown_is_not_success(given: Answer, seen: int | None, reopened: bool, expected: Status) -> None:
    status, _ = verdict(scale(), given, SEEN[seen] if seen else None, reopened=reopened)
    assert status is expected


def test_what_shows_depends_on_the_kind() -> None:
    before, after = SEEN[3], Observed("shop-fra", 3, 2, START, "v9", release="r7")
    rollback = Action(Kind.ROLLBACK, "shop", "shop-fra", "r7", "v3", START, START)
    assert shows(rollback, after)
    assert not shows(rollback, Observed("shop-fra", 3, 3, START, "v9", release="r8"))
    assert shows(Action(Kind.RESTART, "shop", "shop-fra", "g", "v3", START, START), after)
    assert untouched(rollback, before)
    assert not shows(Action(Kind.CORDON, "shop", "shop-fra", "why", "v3", START, START), before)
