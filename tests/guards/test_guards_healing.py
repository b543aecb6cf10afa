"""Healing is rationed: quorum, panic, ejection, budgets, escalation, and the people who must agree."""

from __future__ import annotations

from dataclasses import replace

import pytest
from guard_worlds import NOW, context, fleet, fresh, heal, healed, inventory, pool, scale, seen

from forecastle.guards.approvals import approval_class, people_needed
from forecastle.guards.context import GuardContext
from forecastle.guards.judge import judge
from forecastle.settings import GuardSettings
from forecastle.types import DISRUPTIVE, Action, Kind, Mode, Status

FRA2 = pool("fra", name="shop-fra2")
CALM = fresh(0, 15)
DISRUPTING = sorted(DISRUPTIVE)


def world(fra: int = 10, ams: int = 10, *, sick: int = 0, sick_ams: int = 0, fra2: int = 10, **changes: object) -> GuardContext:
    """Two failure domains; the first one holds two pools."""
    load = changes.pop("load", {})
    granted = changes.pop("granted", None)
    accepted = changes.pop("accepted", ())
    settings = changes.pop("settings", {})
    found = fleet(
        seen(fra, unhealthy=tuple(f"r{i}" for i in range(sick))),
        seen(ams, name="shop-ams", unhealthy=tuple(f"r{i}" for i in range(sick_ams))),
        seen(fra2, name="shop-fra2"),
        **changes,
    )
    stock = inventory(pool(), pool("ams"), FRA2, load=load)
    return context(found, stock, CALM, GuardSettings(**settings), granted=granted, accepted=accepted)


def refused_by(action: Action, ctx: GuardContext) -> str:
    verdict = judge(action, ctx)
    assert (verdict.action is None) == bool(verdict.refusals)
    return verdict.refusals[-1].guard if verdict.refusals else ""


# --- quorum ---


@pytest.mark.parametrize("kind", DISRUPTING)
def test_whatever_disrupts_needs_two_independent_signals(kind: Kind) -> None:
    assert refused_by(heal(kind, signals=0), world()) == "quorum"
    assert refused_by(heal(kind, signals=1), world()) == "quorum"
    assert refused_by(heal(kind, signals=2), world()) == ""


def test_a_page_and_a_scaling_need_no_quorum() -> None:
    assert refused_by(heal(Kind.NOTIFY, signals=0), world()) == ""
    growing = replace(world(), view=fresh(0, 40))
    assert refused_by(replace(scale(12, 10), signals=0), growing) == ""


# --- panic ---


@pytest.mark.parametrize(("sick", "guard"), [(0, ""), (3, ""), (4, ""), (5, "panic"), (10, "panic")])
def test_more_than_a_fifth_of_a_domain_sick_is_a_sick_sensor(sick: int, guard: str) -> None:
    """The domain holds 20 replicas in two pools: exactly 20% is not yet a panic."""
    assert refused_by(heal(), world(sick=sick)) == guard


def test_a_panic_stops_healing_everywhere_and_nothing_else() -> None:
    panicked = world(sick=5)
    assert refused_by(heal(name="shop-ams"), panicked) == "panic"
    assert refused_by(heal(Kind.NOTIFY), panicked) == ""
    assert refused_by(scale(12, 10), replace(panicked, view=fresh(0, 40))) == ""


@pytest.mark.parametrize(("fra", "ams", "guard"), [(3, 2, "panic"), (3, 1, ""), (2, 2, ""), (1, 1, "")])
def test_two_domains_sick_at_once_are_a_sick_sensor(fra: int, ams: int, guard: str) -> None:
    """Each has more sick replicas than may heal at once: more than 2 of 20, more than 1 of 10."""
    assert refused_by(heal(), world(sick=fra, sick_ams=ams)) == guard


def test_one_sick_replica_is_no_panic_however_small_its_domain() -> None:
    assert refused_by(heal(), world(1, 20, sick=1, fra2=0)) == ""
    assert refused_by(heal(), world(2, 20, sick=2, fra2=0)) == "panic"


def test_the_panic_share_is_exact_where_floats_are_not() -> None:
    wide = {"panic_fraction": 0.29, "large_fraction": 1.0}
    assert 0.29 * 100 < 29
    assert refused_by(heal(), world(100, 0, sick=29, fra2=0, settings=wide)) == ""
    assert refused_by(heal(), world(100, 0, sick=30, fra2=0, settings=wide)) == "panic"


@pytest.mark.parametrize(("age_s", "guard"), [(0, "panic_clear"), (299, "panic_clear"), (300, ""), (-30, "panic_clear")])
def test_healing_resumes_after_five_healthy_minutes(age_s: int, guard: str) -> None:
    ctx = world(panicked_at=NOW - age_s * 1000)
    assert refused_by(heal(), ctx) == guard
    assert refused_by(heal(Kind.NOTIFY), ctx) == ""


# --- ejection and domains ---


@pytest.mark.parametrize(("size", "cap"), [(1, 1), (10, 1), (19, 1), (20, 2), (29, 2), (30, 3), (100, 3)])
def test_at_most_a_tenth_of_a_domain_heals_at_once(size: int, cap: int) -> None:
    """max(1, floor(10%)); the budget of three an hour caps what the tenth of a large domain would allow."""
    ctx = world(size, 10, fra2=0)
    granted: list[Action] = []
    while True:
        action = heal(replica=f"r{len(granted)}")
        guard = refused_by(action, replace(ctx, accepted=tuple(granted)))
        if guard:
            break
        granted.append(action)
    assert (len(granted), guard) == (cap, "ejection" if size < 100 else "heal_budget")


def test_unfinished_actions_of_the_domain_count_as_healing() -> None:
    assert refused_by(heal(), world(in_flight=frozenset({"shop-fra2"}), fra2=9)) == "ejection"
    assert refused_by(heal(), world(in_flight=frozenset({"shop-ams"}))) == ""
    assert refused_by(heal(), world(in_flight=frozenset({"gone"}))) == ""


@pytest.mark.parametrize(("age_s", "guard"), [(0, "ejection"), (59, "ejection"), (60, "")])
def test_what_was_healed_counts_until_it_has_started(age_s: int, guard: str) -> None:
    assert refused_by(heal(), world(fra2=9, outcomes=(healed(age_s, "shop-fra2"),))) == guard


def test_disruptions_stay_in_one_domain_per_tick() -> None:
    assert refused_by(heal(), world(accepted=(heal(name="shop-ams"),))) == "one_domain"
    assert refused_by(heal(), world(accepted=(heal(name="shop-fra2"),))) == "", "20 replicas: two may heal"
    assert refused_by(heal(), world(accepted=(heal(Kind.NOTIFY, "shop-ams"), scale(12, 10, "shop-ams")))) == ""


# --- budgets ---


@pytest.mark.parametrize(("heals", "age_s", "guard"), [(2, 3599, ""), (3, 3599, "heal_budget"), (9, 3600, "")])
def test_three_heals_an_hour_in_one_domain(heals: int, age_s: float, guard: str) -> None:
    past = tuple(healed(age_s - i * 0.001, "shop-fra2") for i in range(heals))
    if age_s == 3600:
        past = tuple(healed(age_s + i, "shop-fra2") for i in range(heals))
    assert refused_by(heal(), world(outcomes=past)) == guard


def test_twenty_heals_an_hour_in_the_fleet() -> None:
    nineteen = tuple(healed(1000 + i, "shop-ams") for i in range(19))
    assert refused_by(heal(), world(outcomes=nineteen)) == ""
    assert refused_by(heal(), world(outcomes=(*nineteen, healed(999, "shop-ams")))) == "heal_budget"
    assert refused_by(heal(), world(outcomes=nineteen, accepted=(heal(name="shop-fra2"),))) == "heal_budget"


@pytest.mark.parametrize("status", [Status.REFUSED, Status.DRY_RUN, Status.ALREADY])
def test_what_was_not_attempted_spends_nothing(status: Status) -> None:
    past = tuple(healed(1000 + i, "shop-fra2", status=status) for i in range(5))
    assert refused_by(heal(name="shop-fra2"), world(outcomes=past)) == ""


@pytest.mark.parametrize("status", [Status.FAILED, Status.UNVERIFIED, Status.APPLIED])
def test_an_unknown_or_failed_heal_spends_like_a_done_one(status: Status) -> None:
    past = tuple(healed(2000 + i, "shop-fra2", status=status) for i in range(3))
    assert refused_by(heal(), world(outcomes=past)) == "heal_budget"


# --- escalation ---


@pytest.mark.parametrize(("second_s", "guard"), [(1799, "escalation"), (1800, "")])
def test_two_attempts_in_half_an_hour_then_a_human(second_s: int, guard: str) -> None:
    past = (healed(second_s, kind=Kind.REPLACE), healed(900, kind=Kind.ROLLBACK))
    assert refused_by(heal(), world(outcomes=past)) == guard
    assert refused_by(heal(name="shop-fra2"), world(outcomes=past)) == "", "another target has its own attempts"


@pytest.mark.parametrize(("oldest_h", "guard"), [(23.9, "escalation"), (24.0, "")])
def test_the_third_same_symptom_in_a_day_goes_to_a_human(oldest_h: float, guard: str) -> None:
    past = (healed(oldest_h * 3600), healed(7200))
    assert refused_by(heal(), world(outcomes=past)) == guard
    assert refused_by(heal(Kind.REPLACE), world(outcomes=past)) == "", "another remedy is another symptom"


# --- people ---


@pytest.mark.parametrize(
    ("kind", "asked", "expected"),
    [
        (Kind.RESTART, "", "B"),
        (Kind.RESTART, "A", "A"),
        (Kind.REPLACE, "C", "C"),
        (Kind.SHIFT, "", "C"),
        (Kind.DRAIN, "", "C"),
        (Kind.SHIFT, "B", "C"),
        (Kind.CORDON, "A", "C"),
        (Kind.QUARANTINE, "B", "C"),
        (Kind.NOTIFY, "C", "A"),
        (Kind.SCALE, "C", "A"),
    ],
)
def test_the_class_is_the_playbooks_unless_much_capacity_goes_at_once(kind: Kind, asked: str, expected: str) -> None:
    """A third of the workload is in the pool: whatever takes all of it out needs two people."""
    assert approval_class(heal(kind, approval=asked), world()) == expected


@pytest.mark.parametrize(("here", "elsewhere", "expected"), [(4, 16, "A"), (5, 16, "C"), (1, 0, "A"), (2, 0, "C")])
def test_a_large_share_is_more_than_a_fifth_and_more_than_one_replica(here: int, elsewhere: int, expected: str) -> None:
    ctx = world(here, elsewhere, fra2=0)
    assert approval_class(heal(Kind.DRAIN, approval="A"), ctx) == expected
    assert approval_class(heal(Kind.DRAIN, approval="A", replica="r1"), ctx) == "A"


def test_emptying_a_dead_site_takes_nothing_out_that_still_serves() -> None:
    dead = world(down=frozenset({"fra"}))
    assert approval_class(heal(Kind.DRAIN, approval="A"), dead) == "A"


@pytest.mark.parametrize(
    ("kind", "mode", "people"),
    [
        (Kind.RESTART, Mode.AUTO, 1),
        (Kind.DRAIN, Mode.AUTO, 2),
        (Kind.SCALE, Mode.AUTO, 0),
        (Kind.SCALE, Mode.ADVISE, 1),
        (Kind.DRAIN, Mode.ADVISE, 2),
        (Kind.NOTIFY, Mode.ADVISE, 0),
    ],
)
def test_how_many_people_must_agree(kind: Kind, mode: Mode, people: int) -> None:
    assert people_needed(heal(kind), world(load={"mode": mode})) == people


def test_at_the_effect_the_people_must_have_agreed() -> None:
    assert refused_by(heal(), world(granted=None)) == "", "nobody can have been asked while planning"
    assert refused_by(heal(), world(granted=0)) == "approval"
    assert refused_by(heal(), world(granted=1)) == ""
    assert refused_by(heal(Kind.DRAIN), world(granted=1)) == "approval"
    assert refused_by(heal(Kind.DRAIN), world(granted=2)) == ""
