"""What a person's word may empty, what a detection may, and that neither is healing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from guard_worlds import NOW, context, fleet, fresh, heal, healed, inventory, pool, seen
from hypothesis import given, settings
from hypothesis import strategies as st

from forecastle.guards.approvals import approval_class, people_needed
from forecastle.guards.context import Facts, GuardContext, View
from forecastle.guards.judge import judge
from forecastle.settings import GuardSettings
from forecastle.types import Action, Kind, Mode, Outcome, Status, Traffic

FRA = frozenset({"fra"})
NEVER = {"name": "never", "zone": "UTC", "days": [], "start": "00:00", "end": "01:00"}


def emptying(name: str = "shop-fra", **changes: Any) -> Action:
    return heal(Kind.DRAIN, name, **({"desired": 0, "base": 100, "approval": "A"} | changes))


def giving(**changes: Any) -> Action:
    return emptying(desired=100, **changes)


def world(
    ready: int = 10,
    *,
    reported: frozenset[str] = frozenset(),
    detected: frozenset[str] = frozenset(),
    view: View | None = None,
    settings: dict[str, Any] | None = None,
    load: dict[str, Any] | None = None,
    accepted: tuple[Action, ...] = (),
    weight: int = 100,
    granted: int | None = None,
    unhealthy: tuple[str, ...] = (),
    **changes: Any,
) -> GuardContext:
    """The shop with 10 replicas at fra, of which ``ready`` are, and 10 at ams."""
    here = replace(seen(10, ready, unhealthy=unhealthy), traffic=Traffic(weight, Kind.DRAIN))
    state = fleet(here, seen(10, name="shop-ams"), down=reported, **changes)
    stock = inventory(pool(), pool("ams"), load=load)
    look = replace(view or fresh(5, 10), down=reported | detected)
    return context(state, stock, look, GuardSettings(**(settings or {})), accepted=accepted, granted=granted)


def objections(action: Action, ctx: GuardContext) -> list[str]:
    verdict = judge(action, ctx)
    assert (verdict.action is None) is bool(verdict.refusals)
    return [refusal.guard for refusal in verdict.refusals]


def began(age_s: float, after: int | None = 0, base: int | None = 100, status: Status = Status.APPLIED) -> Outcome:
    """The pool was at its whole weight, and then at ``after``."""
    states = [None if w is None else replace(seen(10), traffic=Traffic(w, Kind.DRAIN)) for w in (100, after)]
    at = NOW - int(age_s * 1000)
    return Outcome(f"f{age_s}", status, at, "shop-fra", Kind.DRAIN, "shop", states[0], states[1], base=base)


SICK = tuple(f"r{i}" for i in range(10))
WORSE: dict[str, dict[str, Any]] = {
    "no signal": {},
    "late data": {"view": replace(fresh(5, 10), late=True)},
    "suspect data": {"view": replace(fresh(5, 10), suspect=True)},
    "all sick": {"unhealthy": SICK, "ready": 0},
    "after a panic": {"panicked_at": NOW - 1000},
    "another domain healed": {"accepted": (heal(name="shop-ams"),)},
    "budget spent": {"settings": {"heals_per_domain_h": 0, "heals_global_h": 0}},
    "healed in vain": {"outcomes": (healed(100), healed(200), healed(300))},
    "emptied twice": {"outcomes": (began(100), began(200))},
    "no window open": {"settings": {"windows": [NEVER]}},
    "two sites": {"reported": frozenset({"fra", "ams"})},
}


@pytest.mark.parametrize("name", WORSE)
def test_a_persons_word_empties_a_whole_site_whatever_limits_healing(name: str) -> None:
    """The report stands for the signals; what would stop a heal of the same pool does not stop this."""
    ctx = world(**({"reported": FRA} | WORSE[name]))
    assert objections(emptying(signals=0), ctx) == []
    assert people_needed(emptying(signals=0), ctx) == 0


@pytest.mark.parametrize(
    ("changes", "guard"),
    [
        ({"killed": "stop"}, "kill_switch"),
        ({"held": frozenset({"shop"})}, "hold"),
        ({"held": FRA}, "hold"),
        ({"in_flight": frozenset({"shop-fra"})}, "in_flight"),
        ({"started_at": NOW}, "warm_up"),
        ({"load": {"mode": Mode.SHADOW}}, "mode"),
    ],
)
def test_a_persons_word_is_no_way_around_other_persons(changes: dict[str, Any], guard: str) -> None:
    assert objections(emptying(), world(reported=FRA, **changes)) == [guard]


def test_what_somebody_changed_or_what_is_too_late_is_left() -> None:
    assert objections(emptying(expected="v0"), world(reported=FRA)) == ["external_change"]
    assert objections(emptying(deadline=NOW - 1), world(reported=FRA)) == ["deadline"]


# --- detected ---


def test_a_detection_empties_what_its_cloud_no_longer_calls_ready() -> None:
    ctx = world(0, detected=FRA)
    assert objections(emptying(), ctx) == []
    assert approval_class(emptying(), ctx) == "A"


@pytest.mark.parametrize(("ready", "asked"), [(0, "A"), (1, "A"), (2, "A"), (3, "C"), (10, "C")])
def test_what_is_still_ready_counts_against_a_detection_and_not_against_a_person(ready: int, asked: str) -> None:
    """Ten are ready elsewhere: two of twelve are below a fifth, three of thirteen above."""
    assert approval_class(emptying(), world(ready, detected=FRA)) == asked
    assert approval_class(emptying(), world(ready, reported=FRA)) == "A"
    assert approval_class(giving(), world(ready)) == "A"


def test_at_the_effect_the_two_people_must_have_agreed() -> None:
    for granted, says in ((0, ["approval"]), (1, ["approval"]), (2, [])):
        assert objections(emptying(), world(10, detected=FRA, granted=granted)) == says


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"view": replace(fresh(5, 10), late=True)}, "late or suspect: a person must report the site"),
        ({"view": replace(fresh(5, 10), suspect=True)}, "late or suspect: a person must report the site"),
        ({"detected": frozenset({"fra", "ams"})}, "aws/eu-central-1/a and gcp/europe-west4/b seem down at once"),
        ({"outcomes": (began(100), began(900))}, "emptied 2 times in 1800 s: a human is needed"),
        ({"outcomes": (began(100, None, status=Status.UNVERIFIED), began(900))}, "emptied 2 times"),
    ],
)
def test_what_makes_a_detection_too_little(changes: dict[str, Any], says: str) -> None:
    (refusal,) = judge(emptying(), world(0, **({"detected": FRA} | changes))).refusals
    assert refusal.guard == "failover"
    assert says in refusal.why


def test_a_detection_needs_its_quorum() -> None:
    assert objections(emptying(signals=1), world(0, detected=FRA)) == ["failover"]
    assert objections(emptying(signals=1), world(0, detected=FRA, settings={"quorum": 1})) == []


def test_a_site_that_was_reported_does_not_make_a_detected_one_doubtful() -> None:
    assert objections(emptying(), world(0, detected=FRA, reported=frozenset({"ohio"}))) == []


@pytest.mark.parametrize(
    "past",
    [
        (began(100), began(1900)),
        (began(100), began(200, status=Status.FAILED)),
        (began(100), began(200, base=None)),
        (began(100), began(200, base=60)),
    ],
    ids=["long ago", "failed", "no failover", "a step in the middle"],
)
def test_only_failovers_that_began_lately_count_as_attempts(past: tuple[Outcome, ...]) -> None:
    assert objections(emptying(), world(0, detected=FRA, outcomes=past)) == []


def test_a_ramp_that_has_begun_is_finished() -> None:
    ctx = world(0, detected=FRA, outcomes=(began(100, 75), began(900)), weight=75)
    assert objections(emptying(), ctx) == []


# --- given back ---


def test_traffic_is_given_back_to_a_site_that_is_not_down_and_to_no_other() -> None:
    assert objections(giving(signals=0), world()) == []
    for ctx in (world(reported=FRA), world(detected=FRA)):
        assert objections(giving(), ctx) == ["failover"]
    assert objections(emptying(), world()) == ["failover"], "and nothing is emptied that is not down"


def test_nothing_is_sent_outside_the_residency() -> None:
    abroad = {"residency": frozenset({"US"})}
    assert objections(giving(), world(load=abroad)) == ["residency"]
    assert objections(emptying(), world(reported=FRA, load=abroad)) == [], "leaving is always allowed"


# --- and healing ---


def test_a_failover_uses_up_no_budget_of_healing() -> None:
    many = tuple(began(age) for age in (10, 20, 30, 40))
    ctx = world(outcomes=many, accepted=(emptying("shop-ams"),))
    assert ctx.facts.heals == ()
    assert objections(heal(Kind.RESTART, replica="r1"), ctx) == []


def test_a_load_balancers_share_is_no_capacity() -> None:
    share = replace(pool(), name="web-fra", traffic=True, unit_price=5.0)
    stock = inventory(pool(), pool("ams"))
    load = replace(stock.workloads["shop"], traffic=("web-fra", "web-ams"))
    shares = {"web-fra": share, "web-ams": replace(share, name="web-ams", site="ams")}
    stock = replace(stock, pools=stock.pools | shares, workloads={"shop": load})
    sick = ("fra1", "fra2")
    state = fleet(seen(10), seen(2, 2, name="web-fra", unhealthy=sick), seen(2, 2, name="web-ams"))
    facts = Facts.of(state, stock, GuardSettings())
    assert (facts.replicas, facts.cost) == ({"aws/eu-central-1/a": 10}, pytest.approx(1.0))
    assert facts.sick == {"aws/eu-central-1/a": 0}
    ctx = context(state, stock, fresh(5, 10))
    assert ctx.ordered("shop") == 10
    assert [p.name for p, _, _ in ctx.others(emptying("web-fra"))] == ["web-ams"]
    detected = replace(ctx, view=replace(ctx.view, down=FRA))
    assert approval_class(emptying("web-fra"), detected) == "C", "two of four servers are up"


@settings(deadline=None)
@given(st.integers(0, 10), st.booleans(), st.booleans(), st.booleans(), st.integers(0, 4), st.sampled_from([0, 100]))
def test_whatever_is_known_a_report_never_empties_less_than_a_detection(
    ready: int, late: bool, suspect: bool, elsewhere: bool, signals: int, desired: int
) -> None:
    view = replace(fresh(5, 10), late=late, suspect=suspect)
    also = frozenset({"ams"}) if elsewhere else frozenset()
    action = emptying(signals=signals, desired=desired)
    found = world(ready, detected=FRA | also, view=view)
    told = world(ready, detected=FRA | also, reported=FRA, view=view)
    assert len(objections(action, told)) <= len(objections(action, found))
    assert people_needed(action, told) <= people_needed(action, found)
