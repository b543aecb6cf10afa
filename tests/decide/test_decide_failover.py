"""What a tick asks of the traffic of lost and returned sites, what it leaves alone, and what it says about both."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from decide_worlds import (
    AMS,
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
    pool,
    refused,
    scalings,
    seen,
    situation,
    stock,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from forecastle.decide.explain import explain
from forecastle.decide.failover import settled
from forecastle.types import Action, Drained, Fleet, Incident, Inventory, Kind, Observed, Plan, SeriesKey, Status, Traffic

WEIGHTED = (Kind.DRAIN, Kind.SHIFT)
SAID = "ann: the provider says so"


def share(site: str, workload: str = "shop") -> Any:
    return replace(pool(site, workload), name=f"web-{workload}-{site}", unit_price=0.0, max=0, quota=0, traffic=True)


def world(*workloads: tuple[str, int], **changes: Any) -> Inventory:
    """Workloads with their priorities, each with replicas and a load balancer's share at both sites."""
    named = workloads or (("shop", 0),)
    loads = [load(n, traffic=(f"web-{n}-fra", f"web-{n}-ams"), priority=rank) for n, rank in named]
    return stock(*loads, pools=[share(site, n) for n, _ in named for site in ("fra", "ams")], **changes)


def web(site: str, weight: int | None, kind: Kind = Kind.DRAIN, workload: str = "shop", ready: int = 0) -> Observed:
    """A share as its load balancer tells it; nothing behind it is up unless said."""
    sent = None if weight is None else Traffic(weight, kind)
    return seen(f"web-{workload}-{site}", 2, ready, traffic=sent)


def state(fra: Observed | None = None, *more: Observed, ready: int = 10, down: tuple[str, ...] = (), **changes: Any) -> Fleet:
    """Ten replicas at each site, the share of fra as given."""
    shares = [one for one in (fra, web("ams", 100, ready=2), *more) if one is not None]
    told = {"down": frozenset(down), "reports": dict.fromkeys(down, SAID)}
    return fleet(seen("shop-fra", 10, ready), seen("shop-ams", 10), *shares, **told, **changes)


def decided(found: Fleet, inventory: Inventory | None = None, incidents: tuple[Incident, ...] = ()) -> tuple[Plan, ...]:
    return plans(situation(640, found, incidents=incidents), inventory or world())


def lost(site: str = "fra", **changes: Any) -> Incident:
    return incident(id=f"i-{site}", workload="*", site=site, cause=f"site {site}: 3 workloads silent together", **changes)


def text(found: tuple[Plan, ...]) -> str:
    return "\n".join(explain(plan) for plan in found)


# --- taken away ---


@pytest.mark.parametrize(("kind", "weight"), [(Kind.DRAIN, 100), (Kind.DRAIN, 40), (Kind.SHIFT, 33)])
def test_the_traffic_of_a_lost_site_goes_in_the_tick_that_replaces_its_load(kind: Kind, weight: int) -> None:
    found = decided(state(web("fra", weight, kind), down=("fra",)))
    (action,) = actions(found, *WEIGHTED)
    assert (action.kind, action.pool, action.desired, action.base) == (kind, "web-shop-fra", 0, weight)
    assert (action.expected, action.approval, action.deadline) == ("v1", "A", NOW + 300_000)
    assert action.reason == "fra is down (ann: the provider says so): its traffic is taken away"
    assert set(scalings(found)) == {"shop-ams"}
    assert {plan.domain: plan.approvals for plan in found if plan.actions} == {FRA: 0, AMS: 0}
    assert len({a.id for plan in found for a in plan.actions}) == 2


def test_the_same_loss_asks_for_the_same_action_at_the_same_tick_and_for_another_at_the_next() -> None:
    one, two = (actions(decided(state(web("fra", 100), down=("fra",))), Kind.DRAIN)[0] for _ in range(2))
    assert one == two
    assert replace(one, tick=NOW + STEP).id != one.id


def test_the_most_important_go_first() -> None:
    names = [("news", 5), ("shop", 1), ("mail", 9)]
    more = [seen(f"{n}-{s}", 10) for n in ("mail", "news") for s in ("fra", "ams")]
    shares = [web("fra", 100, workload=n) for n in ("mail", "news")]
    found = situation(
        640,
        state(web("fra", 100), *more, *shares, down=("fra",)),
        others={SeriesKey("mail", "rps"): 640.0, SeriesKey("news", "rps"): 640.0},
    )
    drained = [a.workload for a in actions(plans(found, world(*names)), Kind.DRAIN)]
    assert drained == ["mail", "news", "shop"]


def test_a_ramp_is_asked_again_until_nothing_is_left() -> None:
    half = state(web("fra", 50, Kind.SHIFT), down=("fra",), drained={"web-shop-fra": Drained(80, 50)})
    (action,) = actions(decided(half), Kind.SHIFT)
    assert (action.desired, action.base) == (0, 80), "what there was before the first step is given back"
    done = state(web("fra", 0, Kind.SHIFT), down=("fra",), drained={"web-shop-fra": Drained(80, 0)})
    assert actions(decided(done), *WEIGHTED) == []


def test_after_a_drain_that_could_not_be_read_back_it_is_looked_at_again() -> None:
    unknown = {"web-shop-fra": Drained(100, None)}
    assert actions(decided(state(web("fra", 0), down=("fra",), drained=unknown)), *WEIGHTED) == []
    (again,) = actions(decided(state(web("fra", 100), down=("fra",), drained=unknown)), *WEIGHTED)
    assert (again.desired, again.base) == (0, 100)
    (back,) = actions(decided(state(web("fra", 0), drained=unknown)), *WEIGHTED)
    assert back.desired == 100


@pytest.mark.parametrize(
    ("fra", "drained", "says"),
    [
        (web("fra", 0), {}, "web-shop-fra is drained"),
        (web("fra", 30), {"web-shop-fra": Drained(100, 0)}, "somebody gave web-shop-fra 30 % since it was drained"),
        (web("fra", None), {}, "the traffic of web-shop-fra cannot be observed, so it stays as it is"),
        (None, {}, "the traffic of web-shop-fra cannot be observed, so it stays as it is"),
    ],
    ids=["drained already", "changed by hand", "no weight", "unobserved"],
)
def test_what_is_left_alone_is_said(fra: Observed | None, drained: dict[str, Drained], says: str) -> None:
    found = decided(state(fra, down=("fra",), drained=drained))
    assert actions(found, *WEIGHTED) == []
    assert f"Site fra is down (ann: the provider says so): of shop, {says}" in text(found)


def test_a_workload_without_any_traffic_weight_is_told_so() -> None:
    bare = replace(world(), workloads={"shop": load()})
    found = decided(state(down=("fra",)), bare)
    assert actions(found, *WEIGHTED) == []
    assert "of shop, its adapters there have no traffic weight, so nothing can be drained" in text(found)
    assert "Site" not in text(decided(state(), bare))


def test_many_workloads_of_a_lost_site_are_not_all_told() -> None:
    names = [(f"w{i}", 0) for i in range(6)]
    observed = [seen(f"{n}-{s}", 10) for n, _ in names for s in ("fra", "ams")]
    state_ = fleet(*observed, down=frozenset({"fra"}))
    found = plans(situation(640, state_, others={SeriesKey(n, "rps"): 640.0 for n, _ in names}), world(*names))
    growth = next(plan for plan in found if plan.domain == AMS)
    assert "Site fra is down (reported): of w0, " in growth.reason
    assert "; 3 more workloads alike." in growth.reason
    assert "of w3" not in growth.reason


# --- detected ---


def test_a_detected_loss_names_its_cause_and_brings_its_signals() -> None:
    found = decided(state(web("fra", 100)), incidents=(lost(signals=3),))
    (action,) = actions(found, Kind.DRAIN)
    assert action.signals == 3
    assert action.reason.startswith("fra is down (site fra: 3 workloads silent together)")


def test_what_still_serves_waits_for_two_people_unless_a_person_reported_it() -> None:
    up = web("fra", 100, ready=2)
    waiting = [plan for plan in decided(state(up), incidents=(lost(),)) if plan.domain == FRA]
    assert [plan.approvals for plan in waiting] == [2]
    assert "Waits for 2 people to approve it" in explain(waiting[0])
    assert [plan.approvals for plan in decided(state(up, down=("fra",)), incidents=(lost(),)) if plan.domain == FRA] == [0]


def test_two_sites_that_go_silent_at_once_are_not_emptied_and_somebody_is_told() -> None:
    found = decided(state(web("fra", 100)), incidents=(lost(), lost("ams")))
    assert actions(found, *WEIGHTED) == []
    assert {r for r in refused(found) if r[0] == "failover"} == {("failover", "web-shop-fra"), ("failover", "web-shop-ams")}
    pages = [a for a in actions(found, Kind.NOTIFY) if a.replica == "failover"]
    assert len(pages) == 2
    assert all("suspect the sensor" in str(page.desired) for page in pages)


@pytest.mark.parametrize("flaw", ["late", "suspect"])
def test_a_report_needs_no_demand_data_and_a_detection_does(flaw: str) -> None:
    for changes, emptied in (({"down": ("fra",)}, 1), ({}, 0)):
        found = situation(640, state(web("fra", 100), **changes), incidents=[lost()], **{flaw: [RPS]})
        assert len(actions(plans(found, world()), *WEIGHTED)) == emptied


def test_a_failover_leaves_scale_in_and_heals_elsewhere_their_turn() -> None:
    books = world(playbooks=[playbook(Kind.RESTART, approval="A")])
    found = plans(situation(320, state(web("fra", 100), down=("fra",)), incidents=[incident(site="ams")]), books)
    assert [a.pool for a in actions(found, Kind.RESTART)] == ["shop-ams"]
    assert [a.pool for a in actions(found, Kind.DRAIN)] == ["web-shop-fra"]


# --- given back ---


@pytest.mark.parametrize(
    ("fra", "taken", "desired"),
    [
        (web("fra", 0), Drained(100, 0), 100),
        (web("fra", 0), Drained(40, 0), 100),
        (web("fra", 0, Kind.SHIFT), Drained(33, 0), 33),
        (web("fra", 25, Kind.SHIFT), Drained(80, 25), 80),
    ],
    ids=["drain", "drain of a part", "shift", "half way back"],
)
def test_a_site_that_is_back_gets_what_it_had(fra: Observed, taken: Drained, desired: int) -> None:
    """A drain that ends gives back what was, whatever that was; a shift has to say it."""
    found = decided(state(fra, drained={"web-shop-fra": taken}))
    (action,) = actions(found, *WEIGHTED)
    assert (action.pool, action.desired, action.base) == ("web-shop-fra", desired, taken.base)
    assert action.reason == "fra is back: its traffic is given back"
    assert action.signals == 0
    assert [plan.approvals for plan in found if plan.domain == FRA] == [0]


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (state(web("fra", 0), ready=0, drained={"web-shop-fra": Drained(100, 0)}), "gets its traffic when something is ready"),
        (state(web("fra", 30), drained={"web-shop-fra": Drained(100, 0)}), "somebody gave web-shop-fra 30 %"),
        (state(web("fra", None), drained={"web-shop-fra": Drained(100, 0)}), "so it is given back later"),
        (state(None, drained={"web-shop-fra": Drained(100, 0)}), "so it is given back later"),
        (state(web("fra", 100), drained={"web-shop-fra": Drained(100, 0)}), ""),
        (state(web("fra", 0)), ""),
    ],
    ids=["nothing ready", "by hand", "in maintenance", "unobserved", "given back by hand", "drained by others"],
)
def test_what_is_not_given_back(found: Fleet, says: str) -> None:
    plans_ = decided(found)
    assert actions(plans_, *WEIGHTED) == []
    assert ("Site fra is back" in text(plans_)) is bool(says)
    assert says in text(plans_)


def test_what_is_settled_is_forgotten() -> None:
    kept, gone = Drained(100, 0), ("web-shop-fra",)

    def left(fra: Observed | None, **changes: Any) -> tuple[str, ...]:
        incidents = changes.pop("incidents", ())
        return settled(situation(640, state(fra, drained={"web-shop-fra": kept}, **changes), incidents=incidents), world())

    assert left(web("fra", 100)) == left(web("fra", 30)) == gone, "given back, or somebody else's"
    assert left(web("fra", 0)) == left(web("fra", None)) == left(None) == ()
    assert left(web("fra", 100), down=("fra",)) == left(web("fra", 100), incidents=(lost(),)) == ()
    assert settled(situation(640, state(drained={"gone": kept})), world()) == ()


# --- and playbooks ---


def test_a_playbook_that_empties_lost_sites_leaves_to_failover_what_has_a_weight() -> None:
    drain = world(playbooks=[playbook(Kind.DRAIN, approval="A")])
    where = lost(anomalies=(anomaly(),))
    both = decided(state(web("fra", 100)), drain, incidents=(where,))
    assert [(a.pool, a.base) for a in actions(both, Kind.DRAIN)] == [("web-shop-fra", 100), ("shop-fra", None)]
    assert not [r for plan in both for r in plan.refusals if r.guard == "in_flight"]


def test_a_playbook_that_drains_reaches_the_load_balancer() -> None:
    drain = world(playbooks=[playbook(Kind.DRAIN, approval="A")])
    found = decided(state(web("fra", 100)), drain, incidents=(incident(signals=2),))
    touched = {a.pool for a in actions(found, Kind.DRAIN)} | {p for g, p in refused(found) if g in {"ejection", "heal_budget"}}
    assert touched == {"shop-fra", "web-shop-fra"}
    restart = world(playbooks=[playbook(Kind.RESTART, approval="A")])
    found = decided(state(web("fra", 100)), restart, incidents=(incident(signals=2),))
    assert [a.pool for a in actions(found, Kind.RESTART)] == ["shop-fra"], "a load balancer's servers are not ours to restart"


def test_failovers_are_no_attempts_at_healing() -> None:
    past = tuple(outcome(Kind.DRAIN, "shop-fra", age, Status.APPLIED, base=100) for age in (600, 900, 1200))
    found = decided(state(outcomes=past), world(playbooks=[playbook(Kind.RESTART)]), incidents=(incident(),))
    assert actions(found, Kind.RESTART)


# --- whatever happens ---

TAKEN = st.builds(Drained, st.just(100), st.sampled_from([0, 30]))
SHARES = st.one_of(st.none(), st.builds(Traffic, st.sampled_from([0, 30, 100]), st.sampled_from(WEIGHTED)))


@settings(max_examples=60, deadline=None)
@given(
    st.fixed_dictionaries({"fra": SHARES, "ams": SHARES}),
    st.dictionaries(st.sampled_from(["web-shop-fra", "web-shop-ams"]), TAKEN),
    st.frozensets(st.sampled_from(["fra", "ams"])),
    st.lists(st.sampled_from(["fra", "ams"]), unique=True),
    st.integers(0, 10),
)
def test_traffic_only_leaves_what_is_down_and_only_returns_to_what_is_not(
    shares: dict[str, Traffic | None], drained: dict[str, Drained], reported: frozenset[str], silent: list[str], ready: int
) -> None:
    observed = [seen(f"web-shop-{site}", 2, 2, traffic=sent) for site, sent in shares.items()]
    found = fleet(seen("shop-fra", 10, ready), seen("shop-ams", 10, ready), *observed, down=reported, drained=drained)
    given_ = situation(640, found, incidents=[lost(site) for site in silent])
    made = plans(given_, world())
    assert made == plans(given_, world()), "a replay decides the same"
    sent: list[Action] = actions(made, *WEIGHTED)
    for action in sent:
        site, weight = action.pool.rpartition("-")[2], found.observed[action.pool].traffic
        assert weight is not None
        assert action.kind is weight.kind
        assert (action.desired == 0) is (site in reported | set(silent))
        assert action.desired != 0 or weight.weight > 0, "what is drained is not drained again"
        assert action.desired == 0 or (action.pool in drained and ready > 0)
        assert site in reported or site not in silent or len(set(silent) - reported) == 1
    assert len({a.pool for a in sent}) == len(sent)
    assert not {site for pool_ in scalings(made) for site in [pool_.rpartition("-")[2]]} & (reported | set(silent))
    assert all(len({world().domain(a.pool) for a in plan.actions}) <= 1 for plan in made)
