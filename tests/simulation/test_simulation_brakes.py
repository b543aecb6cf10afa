"""Brakes removed singly and in pairs: each is missed by a scene of its own, or is named here with the one that covers for it.

A scene is a plan being carried out while something goes wrong. With everything in place no scene breaks a promise. A brake
is *missed* when without it some scene breaks one. Brakes that are never missed alone are redundant: the reason says what
stands behind them, and of every two redundant ones that cover for each other the pair is missed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from itertools import combinations

import pytest
from simulation_stage import NOW, Stage, heal, scale, staged

from forecastle.guards.judge import ORDER
from forecastle.types import Kind, Mode

Scene = Callable[[Stage], None]


def killed_before(stage: Stage) -> None:
    stage.world.operator.killed = True
    stage.world.ledger.kill("drill", "ada")
    stage.execute("a", stage.plan(scale(14)))


def killed_after_the_intent(stage: Stage) -> None:
    def kill() -> None:
        stage.world.operator.killed = True
        stage.world.ledger.kill("drill", "ada")

    stage.when("a", "watching", kill)
    stage.execute("a", stage.plan(scale(14)))


def held_before(stage: Stage) -> None:
    stage.world.operator.held.add("shop-fra")
    stage.world.ledger.hold("shop-fra", "looking", "ada")
    stage.execute("a", stage.plan(scale(14)))


def held_after_the_intent(stage: Stage) -> None:
    def hold() -> None:
        stage.world.operator.held.add("shop")
        stage.world.ledger.hold("shop", "looking", "ada")

    stage.when("a", "watching", hold)
    stage.execute("a", stage.plan(scale(14)))


def stopped_and_recovered_by_another(stage: Stage) -> None:
    """The zombie: stopped with its intent durable, past its lease; the other ends its intent; then it goes on."""

    def meanwhile() -> None:
        stage.world.clock.sleep(45)
        stage.actors["b"].act.recover()

    stage.when("a", "fenced", meanwhile)
    stage.execute("a", stage.plan(scale(14)))


def stopped_while_another_plans(stage: Stage) -> None:
    """As before, but the other has a plan of its own for the same target."""

    def meanwhile() -> None:
        stage.world.clock.sleep(45)
        stage.execute("b", stage.plan(scale(15, at=NOW + 1)))

    stage.when("a", "fenced", meanwhile)
    stage.execute("a", stage.plan(scale(14)))


def two_at_once(stage: Stage) -> None:
    """Another controller comes by while one is between intent and effect, within its lease."""
    stage.when("a", "fenced", lambda: stage.execute("b", stage.plan(scale(15, at=NOW + 1))))
    stage.execute("a", stage.plan(scale(14)))


def the_same_plan_twice(stage: Stage) -> None:
    made = stage.plan(heal())
    stage.execute("a", made)
    stage.execute("b", made)


def a_human_changed_it(stage: Stage) -> None:
    made = stage.plan(scale(14))
    stage.world.truth.world.provision(stage.world.stock.pools["shop-fra"], 13, NOW - 600_000)
    stage.execute("a", made)


def too_late(stage: Stage) -> None:
    made = stage.plan(scale(14))
    stage.world.clock.sleep(200)
    stage.execute("a", made)


def a_slow_store_until_it_is_too_late(stage: Stage) -> None:
    """The lease still holds when the store answers, but the deadline has passed meanwhile."""
    stage.world.clock.at = NOW + 148_000
    stage.when("a", "fenced", lambda: stage.world.clock.sleep(5))
    stage.execute("a", stage.plan(scale(14)))


def nobody_approved(stage: Stage) -> None:
    stage.execute("a", stage.plan(heal(Kind.DRAIN, approval="C"), people=2))


def advise_since_the_plan(stage: Stage) -> None:
    made = stage.plan(scale(14))
    stage.world.operator.modes["shop"] = Mode.ADVISE
    stage.world.ledger.promote_mode("shop", Mode.ADVISE, "ada")
    stage.execute("a", made)


def shadow_since_the_plan(stage: Stage) -> None:
    made = stage.plan(scale(14))
    stage.world.operator.modes["shop"] = Mode.SHADOW
    stage.world.ledger.promote_mode("shop", Mode.SHADOW, "ada")
    stage.execute("a", made)


def healing_again_and_again(stage: Stage) -> None:
    """Three heals in one domain within the hour, on pools that each were healed but once or twice."""
    for i, pool in enumerate(("shop-fra", "mail-fra", "shop-fra", "mail-fra", "shop-fra")):
        stage.world.clock.sleep(70)
        version = stage.world.truth.cloud.observe(stage.world.stock.pools[pool]).version
        at = NOW + 60_000 * i
        stage.execute("a", stage.plan(heal(pool=pool, at=at, expected=version)))


def one_signal(stage: Stage) -> None:
    stage.execute("a", stage.plan(heal(signals=1)))


def in_the_dark(stage: Stage) -> None:
    stage.remember(20)
    for slot in range(12):
        stage.world.demand.folded = {k: v for k, v in stage.world.demand.folded.items() if k[1] < slot}
        break
    stage.execute("a", stage.plan(scale(11), wanted=20, late=True))


def on_forged_data(stage: Stage) -> None:
    stage.remember(20)
    stage.world.demand.odd |= {("shop", slot) for slot in range(30)}
    stage.execute("a", stage.plan(scale(11), wanted=20, suspect=True))


def below_the_floor(stage: Stage) -> None:
    stage.remember(5)
    stage.world.demand.folded = dict.fromkeys(stage.world.demand.folded, 36 * 32.0)
    stage.execute("a", stage.plan(scale(11), wanted=5, floor=24))


def beyond_the_maximum(stage: Stage) -> None:
    stage.world.truth.world.provision(stage.world.stock.pools["shop-fra"], 23, NOW - 600_000)
    stage.execute("a", stage.plan(scale(26, 23), wanted=60))


def a_great_leap(stage: Stage) -> None:
    stage.execute("a", stage.plan(scale(24), wanted=60))


def a_great_fall(stage: Stage) -> None:
    stage.remember(2)
    stage.world.demand.folded = dict.fromkeys(stage.world.demand.folded, 40.0)
    stage.execute("a", stage.plan(scale(6), wanted=2))


def falling_again(stage: Stage) -> None:
    stage.remember(2)
    stage.world.demand.folded = dict.fromkeys(stage.world.demand.folded, 40.0)
    stage.execute("a", stage.plan(scale(11), wanted=2))
    stage.world.clock.sleep(130)
    at = NOW + 120_000
    stage.world.demand.folded = {(k, s + 3): 40.0 for k, s in stage.world.demand.folded}
    stage.execute("a", stage.plan(scale(10, 11, at=at), wanted=2))


def outside_the_residency(stage: Stage) -> None:
    stage.execute("a", stage.plan(scale(3, 0, pool="shop-zrh"), wanted=60))


def somebody_elses_pool(stage: Stage) -> None:
    stage.execute("a", stage.plan(scale(14, pool="mail-fra", workload="shop")))


def changed_by_a_human_meanwhile(stage: Stage) -> None:
    def edit() -> None:
        stage.world.truth.world.provision(stage.world.stock.pools["shop-fra"], 13, NOW - 600_000)

    stage.when("a", "fenced", edit)
    stage.execute("a", stage.plan(scale(14)))


def an_answer_is_lost(stage: Stage) -> None:
    stage.lose_the_answer("a")
    stage.execute("a", stage.plan(heal()))
    stage.world.checks.expect(len(stage.world.truth.effects) == 1, "one effect", stage.world.truth.effects)


MISSED: dict[str, Scene] = {
    "answer killed": killed_after_the_intent,
    "answer held": held_after_the_intent,
    "answer fenced": stopped_and_recovered_by_another,
    "answer approved": nobody_approved,
    "conditional write": changed_by_a_human_meanwhile,
    "guard target": somebody_elses_pool,
    "guard residency": outside_the_residency,
    "guard missing_data": in_the_dark,
    "guard suspect_data": on_forged_data,
    "guard floor": below_the_floor,
    "guard quorum": one_signal,
    "guard cool_down": falling_again,
    "guard step_down": a_great_fall,
    "guard step_up": a_great_leap,
    "guard limits": beyond_the_maximum,
    "guard mode": shadow_since_the_plan,
    "guard approval": advise_since_the_plan,
}
"""Brakes that nothing covers for, and the scene that shows it."""
IN_FLIGHT = frozenset({"guard in_flight", "look one_in_flight", "index one_in_flight"})
REDUNDANT: dict[str, tuple[Scene, Collection[str], str]] = {
    "guard kill_switch": (killed_before, ("answer killed",), "the same switch is read afresh before every request"),
    "guard hold": (held_before, ("answer held",), "the same holds are read afresh before every request"),
    "guard heal_budget": (healing_again_and_again, ("answer take",), "the durable bucket counts the same heals"),
    "answer take": (healing_again_and_again, ("guard heal_budget",), "the guard counts the same heals by their outcomes"),
    "guard in_flight": (
        stopped_while_another_plans,
        IN_FLIGHT - {"guard in_flight"},
        "the ledger takes one open intent a target",
    ),
    "look one_in_flight": (stopped_while_another_plans, IN_FLIGHT - {"look one_in_flight"}, "guard and index say so too"),
    "index one_in_flight": (stopped_while_another_plans, IN_FLIGHT - {"index one_in_flight"}, "both look for it before"),
    "lease": (two_at_once, IN_FLIGHT, "the open intent stops the second controller too"),
    "guard external_change": (a_human_changed_it, ("conditional write",), "the cloud refuses a broken expectation itself"),
    "token": (an_answer_is_lost, ("conditional write", "absolute"), "the expectation is broken, and what is asked for is so"),
    "absolute": (an_answer_is_lost, ("conditional write", "token"), "the token was used, and the expectation is broken"),
}
"""Brakes that are not missed alone: the scene, what covers for them there, and why. Without all of those it is missed."""
UNHARMED = {
    "answer endings": "asked again for what has ended, the intent itself says no",
    "guard deadline": "the gate compares the deadline with the clock itself before every request",
}
"""Brakes that spare work but whose cover cannot be taken away from outside."""
ELSEWHERE = {
    "change_window",
    "unknown_state",
    "inventory_jump",
    "site_down",
    "panic",
    "panic_clear",
    "one_domain",
    "ejection",
    "failover",
}
ELSEWHERE |= {"escalation", "tolerance", "veto", "stabilization", "spread", "money", "warm_up"}
"""Guards whose promise is about a decision and not about one effect: tests/guards removes them, singly and in pairs."""
SCENES = tuple(
    dict.fromkeys(
        [
            *MISSED.values(),
            *(scene for scene, *_ in REDUNDANT.values()),
            too_late,
            the_same_plan_twice,
            a_slow_store_until_it_is_too_late,
        ]
    )
)


def broken(scene: Scene, *without: str) -> list[str]:
    with pytest.MonkeyPatch.context() as patch, staged(frozenset(without), patch) as stage:
        scene(stage)
        return stage.broken


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_with_every_brake_no_scene_breaks_a_promise(scene: Scene) -> None:
    assert broken(scene) == []


@pytest.mark.parametrize("brake", MISSED)
def test_a_brake_that_nothing_covers_for_is_missed(brake: str) -> None:
    assert broken(MISSED[brake], brake) != []


@pytest.mark.parametrize("brake", REDUNDANT)
def test_a_redundant_brake_is_missed_when_its_covers_are_gone_too(brake: str) -> None:
    scene, covers, why = REDUNDANT[brake]
    assert broken(scene, brake) == [], why
    assert broken(scene, brake, *covers) != []


@pytest.mark.parametrize("brake", UNHARMED)
def test_what_only_spares_work_is_never_missed(brake: str) -> None:
    assert [scene.__name__ for scene in (too_late, the_same_plan_twice) if broken(scene, brake)] == []


@pytest.mark.parametrize("brake", MISSED)
def test_no_second_missing_brake_hides_that_the_first_is_missed(brake: str) -> None:
    """Pairs: taking away another one as well never repairs the first."""
    others = [other for other in (*MISSED, *REDUNDANT, *UNHARMED) if other != brake]
    assert [other for other in others if not broken(MISSED[brake], brake, other)] == []


def test_pairs_of_redundant_brakes_are_missed_exactly_where_they_cover_for_each_other() -> None:
    alone = {frozenset((brake, *covers)) for brake, (_, covers, _) in REDUNDANT.items() if len(covers) == 1}
    for pair in combinations(REDUNDANT, 2):
        scenes = {REDUNDANT[brake][0] for brake in pair}
        missed = any(broken(scene, *pair) for scene in scenes)
        assert missed == (frozenset(pair) in alone), pair


def test_every_guard_is_in_one_of_the_tables() -> None:
    here = {name.removeprefix("guard ") for name in (*MISSED, *REDUNDANT, *UNHARMED) if name.startswith("guard ")}
    assert here | ELSEWHERE == {guard.__name__ for guard in ORDER}
    assert not here & ELSEWHERE
