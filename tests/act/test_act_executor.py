"""From a plan to its outcome: what is refused before the effect, and that each accepted action happens once and is recorded."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from act_worlds import FRA, MINUTE, START, Step, World, plan, restart, scale, stock

from forecastle.errors import Conflict, StoreUnavailable
from forecastle.settings import GuardSettings
from forecastle.types import Fleet, Kind, Mode, Receipt, Situation, Status


def kinds(world: World) -> list[str]:
    return [entry.kind for entry in reversed(world.ledger.history())]


def test_a_scaling_is_intended_applied_read_back_and_recorded(world: World) -> None:
    outcome = world.run(plan(scale()))
    assert outcome.status is Status.APPLIED
    assert outcome.before is not None
    assert outcome.after is not None
    assert (outcome.before.replicas, outcome.after.replicas) == (3, 5)
    assert world.cloud.orders == [(scale().id, "shop-fra")]
    assert kinds(world) == ["intent", "outcome"]
    assert world.ledger.ended(scale().id) == outcome


def test_executing_again_tells_how_it_ended_and_does_nothing(world: World) -> None:
    first = world.run(plan(scale()))
    assert world.run(plan(scale())) == first
    assert world.cloud.applied == 1
    assert kinds(world) == ["intent", "outcome"]


def test_each_action_of_a_plan_has_its_outcome_in_order(world: World) -> None:
    outcomes = world.executor().execute(plan(scale("shop-fra"), scale("shop-ams", desired=4), wanted=9), None)
    assert [(o.pool, o.status) for o in outcomes] == [("shop-fra", Status.APPLIED), ("shop-ams", Status.APPLIED)]


def test_a_plan_without_actions_asks_nothing(world: World) -> None:
    assert world.executor().execute(plan(), None) == ()
    assert kinds(world) == []


def test_the_situation_supplies_what_the_ledger_cannot_know(world: World) -> None:
    seen = {pool: world.cloud.state[pool] for pool in world.inventory.pools}
    young = Fleet(START, seen, started_at=START - MINUTE)
    situation = Situation(START, None, None, (), young)  # type: ignore[arg-type]
    (outcome,) = world.executor().execute(plan(scale()), situation)
    assert outcome.status is Status.REFUSED
    assert "warm_up" in outcome.detail
    dead = Fleet(START, seen, down=frozenset({"fra"}))
    (outcome,) = world.executor().execute(plan(scale()), Situation(START, None, None, (), dead))  # type: ignore[arg-type]
    assert "site_down" in outcome.detail


# --- refused before the effect ----------------------------------------------------------------------------------------


def refused(world: World, reason: str, *actions: object) -> None:
    outcome = world.run(plan(*(actions or (scale(),))))  # type: ignore[arg-type]
    assert (outcome.status, world.cloud.orders, world.cloud.applied) == (Status.REFUSED, [], 0)
    assert reason in outcome.detail
    assert world.ledger.unfinished() == ()
    assert kinds(world)[-1] == "outcome"


def test_shadow_is_never_an_effect(world: World) -> None:
    world.inventory = stock(Mode.SHADOW)
    refused(world, "mode: shadow: would scale shop-fra 3 -> 5")


def test_a_promoted_mode_counts(world: World) -> None:
    world.ledger.promote_mode("shop", Mode.SHADOW, "ann")
    refused(world, "mode")


def test_the_kill_switch_refuses(world: World) -> None:
    world.ledger.kill("the dashboards lie", "ann")
    refused(world, "kill switch: the dashboards lie (ann)")


@pytest.mark.parametrize("target", ["shop", "shop-fra", "fra", FRA])
def test_a_hold_on_any_of_its_names_refuses(world: World, target: str) -> None:
    world.ledger.hold(target, "debugging", "ann")
    refused(world, f"hold: {target} is held by ann: debugging")


def test_a_passed_deadline_refuses(world: World) -> None:
    world.clock.advance(START + 5 * MINUTE + 1)
    refused(world, "deadline")


def test_the_deadline_itself_is_in_time(world: World) -> None:
    world.clock.advance(START + 5 * MINUTE)
    assert world.run(plan(scale())).status is Status.APPLIED


def test_a_human_edit_is_yielded_to(world: World) -> None:
    world.cloud.someone_else("shop-fra", 4)
    refused(world, "external_change: expected 3, found 4")


def test_what_cannot_be_observed_is_not_touched(world: World) -> None:
    del world.cloud.state["shop-fra"]
    refused(world, "unknown_state")


def test_a_smaller_grant_is_planned_again_not_applied(world: World) -> None:
    world.inventory = stock(most=4)
    refused(world, "limits: the maximum of shop-fra is 4")


def test_an_adapter_without_the_capability_is_not_asked(world: World) -> None:
    refused(world, "adapter 'fake' cannot shift", scale(kind=Kind.SHIFT, desired=0, signals=2))


def test_an_unknown_pool_is_an_error(world: World) -> None:
    refused(world, "target", scale("nowhere"))


def test_another_workers_lease_refuses_and_leaves_it_alone(world: World) -> None:
    epoch = world.ledger.lease("shop-fra", "other", 60)
    refused(world, "lease: shop-fra is leased to other")
    assert not world.ledger.fenced("shop-fra", epoch)


def test_another_action_in_flight_refuses(world: World) -> None:
    earlier = scale(tick=START - MINUTE)
    epoch = world.ledger.lease("shop-fra", "w", 60)
    world.ledger.intend(earlier, epoch=epoch)
    outcome = world.run(plan(scale()))
    assert (outcome.status, world.cloud.applied) == (Status.REFUSED, 0)
    assert "in_flight" in outcome.detail
    assert [i.action for i in world.ledger.unfinished()] == [earlier]


def test_the_durable_budget_of_heals_decides_at_the_effect(world: World) -> None:
    world.ledger.allow(f"heals/{FRA}", 3, 3)
    world.ledger.take(f"heals/{FRA}", 3)
    refused(world, f"budget: 'heals/{FRA}' has no heal left", restart())
    assert world.ledger.lease("shop-fra", "other", 60), "the lease was handed back"


def test_a_heal_takes_from_both_budgets(world: World) -> None:
    assert world.run(plan(restart())).status is Status.APPLIED
    assert [world.ledger.take(f"heals/{FRA}") for _ in range(3)] == ["", "", f"heals/{FRA}"]
    assert world.ledger.take("heals", world.guards.heals_global_h - 1 + 0.5) == "heals"


def test_a_budget_of_zero_denies(world: World) -> None:
    world.guards = GuardSettings(heals_per_domain_h=0)
    refused(world, "heal_budget", restart())


def test_the_kill_switch_thrown_after_the_guards_still_stops_the_effect(world: World) -> None:
    lease_all = world.ledger.lease_all

    def leasing(targets: Sequence[str], holder: str, ttl_s: float) -> dict[str, int | Conflict]:
        world.ledger.kill("now", "ann")
        return lease_all(targets, holder, ttl_s)

    world.ledger.lease_all = leasing  # type: ignore[method-assign]
    outcome = world.run(plan(scale()))
    assert (outcome.status, world.cloud.applied) == (Status.REFUSED, 0)
    assert "kill switch: now (ann)" in outcome.detail
    assert world.ledger.unfinished() == ()
    assert world.ledger.ended(scale().id) == outcome


# --- people -----------------------------------------------------------------------------------------------------------


def test_a_plan_that_needs_people_is_asked_for_once_and_waits(world: World) -> None:
    wanted = plan(restart(approval="B"), approvals=1)
    world.ledger.record(START, "w", [wanted])
    assert world.executor().execute(wanted, None) == ()
    assert world.executor().execute(wanted, None) == ()
    assert kinds(world) == ["tick", "request"]
    world.ledger.approve(wanted.id, "ann")
    (outcome,) = world.executor().execute(wanted, None)
    assert outcome.status is Status.APPLIED


def test_too_few_people_are_none(world: World) -> None:
    wanted = plan(restart(approval="C"), approvals=2)
    world.ledger.record(START, "w", [wanted])
    world.executor().execute(wanted, None)
    world.ledger.approve(wanted.id, "ann")
    assert world.executor().execute(wanted, None) == ()
    assert world.cloud.applied == 0


def test_an_approval_for_less_than_the_guards_want_refuses(world: World) -> None:
    wanted = plan(restart(approval="C"), approvals=1)
    world.ledger.record(START, "w", [wanted])
    world.executor().execute(wanted, None)
    world.ledger.approve(wanted.id, "ann")
    (outcome,) = world.executor().execute(wanted, None)
    assert (outcome.status, world.cloud.applied) == (Status.REFUSED, 0)
    assert "approval" in outcome.detail


def test_nobody_is_asked_about_an_expired_plan(world: World) -> None:
    world.clock.advance(START + 5 * MINUTE)
    assert world.executor().execute(plan(restart(), approvals=1), None) == ()
    assert kinds(world) == []


def test_a_page_is_recorded_without_any_cloud(world: World) -> None:
    page = scale(kind=Kind.NOTIFY, desired="look at this", expected="")
    del world.cloud.state["shop-fra"]
    outcome = world.run(plan(page))
    assert (outcome.status, world.cloud.applied) == (Status.APPLIED, 0)
    assert kinds(world) == ["intent", "outcome"]


# --- what the cloud says ----------------------------------------------------------------------------------------------


def test_a_conflict_is_an_external_change(world: World) -> None:
    world.cloud.script.append(Step(error=Conflict("expected 3, found 4")))
    outcome = world.run(plan(scale()))
    assert outcome.status is Status.REFUSED
    assert outcome.detail.startswith("EXTERNAL_CHANGE")
    assert world.ledger.ended(scale().id) == outcome


def test_a_dry_run_says_so(world: World) -> None:
    world.cloud.script.append(Step(receipt=Receipt(scale().id, False, "would scale", dry_run=True)))
    outcome = world.run(plan(scale()))
    assert (outcome.status, outcome.detail) == (Status.DRY_RUN, "would scale")
    assert world.sleeps == []


def test_what_is_true_already_is_already(world: World) -> None:
    world.cloud.script.append(Step(receipt=Receipt(restart().id, already=True)))
    assert world.run(plan(restart())).status is Status.ALREADY
    world.cloud.script.append(Step(receipt=Receipt(scale().id, already=True)))
    outcome = world.run(plan(scale(tick=START)))
    assert outcome.status is Status.UNVERIFIED, "a replica count can be checked, and it is not there"


def test_a_store_that_cannot_record_the_intent_prevents_the_effect(world: World) -> None:
    def failing(*_: object, **__: object) -> bool:
        raise StoreUnavailable("disk full")

    world.ledger.intend_all = failing  # type: ignore[method-assign]
    with pytest.raises(StoreUnavailable):
        world.executor().execute(plan(scale()), None)
    assert world.cloud.applied == 0
