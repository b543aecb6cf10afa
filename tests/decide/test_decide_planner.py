"""One tick end to end: from situations to plans, in every mode, with everything that was refused on record."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from decide_worlds import (
    AMS,
    FRA,
    LATENCY,
    NOW,
    RPS,
    STEP,
    actions,
    fleet,
    forecasts,
    incident,
    load,
    outcome,
    plans,
    playbook,
    pool,
    refused,
    remembered,
    scalings,
    seen,
    situation,
    stock,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forecastle.guards.context import View
from forecastle.types import Fleet, Kind, Mode, Plan, SeriesKey, Severity, Situation, Status

TEN = fleet(seen("shop-fra", 10), seen("shop-ams", 10))
"""20 replicas carry 640 at the target utilization of 0.8."""
IDLE = replace(TEN, recommendations=remembered(2))
patient = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""The machine may be busy: only results count."""


def test_growth_goes_to_the_cheapest_pool_in_one_plan_of_its_domain() -> None:
    cheap = stock(load(), pools=[pool("ams", unit_price=0.05)])
    found = plans(situation(640, TEN, expected=768), cheap)
    assert scalings(found) == {"shop-ams": (10, 14)}
    (plan,) = found
    assert (plan.domain, plan.tick, plan.expires_at, plan.approvals) == (AMS, NOW, NOW + 300_000, 0)
    assert plan.recommended == {"shop": 24}
    assert plan.cost == pytest.approx(10 * 0.1 + 14 * 0.05)
    assert plan.evidence["shop"]["wanted"] == 24
    assert View.of(plan.evidence["shop"]) == View(20, 24, 1, False, False)


def test_the_cost_of_a_plan_has_egress_in_it() -> None:
    sends = stock(load(egress_gb_h=0.5))
    sends = replace(sends, sites=sends.sites | {"ams": replace(sends.sites["ams"], egress_price=0.1)})
    (plan,) = plans(situation(640, TEN, expected=768), sends)
    assert scalings([plan]) == {"shop-fra": (10, 14)}, "nothing to pay for what is sent there"
    assert plan.cost == pytest.approx(24 * 0.1 + 10 * 0.05)
    assert "costs 2.9 per hour." in plan.reason


def test_a_ramp_is_cut_and_says_so() -> None:
    found = plans(situation(640, TEN, expected=3200), stock(load(sites=("fra", "ams"))))
    assert all(to - before <= 5 for before, to in scalings(found).values())
    assert {guard for guard, _ in refused(found)} == {"step_up"}


def test_what_is_well_is_left_alone_and_remembered() -> None:
    (plan,) = plans(situation(640, TEN))
    assert (plan.domain, plan.actions, plan.refusals) == ("", (), ())
    assert plan.recommended == {"shop": 20}
    assert "Workloads that have what they need, within the tolerance: 1" in plan.reason


def test_a_worker_that_sees_no_workload_plans_nothing() -> None:
    other = SeriesKey("blog", "rps")
    assert plans(replace(situation(1, TEN), windows=situation(1, TEN, others={other: 1.0}).windows), stock(load("mail"))) == ()


def test_only_workloads_that_are_seen_are_judged() -> None:
    both = stock(load(), load("blog"))
    (plan,) = plans(situation(640, TEN), both)
    assert plan.recommended == {"shop": 20}


def test_shrinking_is_in_one_domain_per_tick() -> None:
    found = plans(situation(160, IDLE, expected=160))
    assert scalings(found) == {"shop-fra": (10, 9)}
    assert refused(found) == {("step_down", "shop-fra"), ("one_domain", "shop-ams")}


def test_the_domain_that_waited_longest_shrinks_first() -> None:
    shrank = outcome(Kind.SCALE, "shop-ams", 700, before=seen("shop-ams", 11), after=seen("shop-ams", 10))
    found = plans(situation(160, replace(IDLE, outcomes=(shrank,))))
    assert list(scalings(found)) == ["shop-fra"]
    shrank = replace(shrank, pool="shop-fra")
    found = plans(situation(160, replace(IDLE, outcomes=(shrank,))))
    assert list(scalings(found)) == ["shop-ams"]


def test_a_domain_where_nothing_may_shrink_does_not_use_up_the_turn() -> None:
    held = replace(IDLE, held=frozenset({"fra"}))
    found = plans(situation(160, held))
    assert list(scalings(found)) == ["shop-ams"]
    assert ("hold", "shop-fra") in refused(found)


@pytest.mark.parametrize(("mode", "people", "acts"), [(Mode.SHADOW, 0, False), (Mode.ADVISE, 1, True), (Mode.AUTO, 0, True)])
def test_the_three_modes(mode: Mode, people: int, acts: bool) -> None:
    found = plans(situation(640, TEN, expected=768), stock(load(mode=mode)))
    assert bool(actions(found)) is acts
    assert {plan.approvals for plan in found} == {people}
    if mode is Mode.SHADOW:
        (why,) = [r.why for plan in found for r in plan.refusals if r.guard == "mode"]
        assert "would scale" in why
        assert found[0].recommended == {"shop": 24}, "shadow still recommends"


def test_a_promotion_in_the_ledger_overrides_the_configuration() -> None:
    promoted = replace(TEN, modes={"shop": Mode.AUTO})
    assert actions(plans(situation(640, promoted, expected=768), stock(load(mode=Mode.SHADOW))))
    demoted = replace(TEN, modes={"shop": Mode.SHADOW})
    assert not actions(plans(situation(640, demoted, expected=768)))


@pytest.mark.parametrize(
    ("state", "guard"),
    [
        (replace(TEN, killed="ann: stop"), "kill_switch"),
        (replace(TEN, held=frozenset({"shop"})), "hold"),
        (replace(TEN, in_flight=frozenset({"shop-fra", "shop-ams"})), "in_flight"),
        (replace(TEN, started_at=NOW), "warm_up"),
    ],
)
def test_every_refusal_is_recorded_with_its_guard_and_domain(state: Fleet, guard: str) -> None:
    found = plans(situation(640, state, expected=768))
    assert actions(found, Kind.SCALE) == []
    refusals = [r for plan in found for r in plan.refusals]
    assert {r.guard for r in refusals} == {guard}
    assert {r.workload for r in refusals} == {"shop"}
    assert found[-1].evidence["shop"]["wanted"] == 24, "the numbers are on record too"


def test_late_demand_neither_grows_nor_shrinks() -> None:
    found = plans(situation(6400, TEN, late=[RPS]))
    assert scalings(found) == {}
    assert found[-1].recommended == {"shop": 20}
    assert [a.replica for a in actions(found)] == ["data_dark"]


@pytest.mark.parametrize("demand", [0.0, 6400.0])
def test_suspect_demand_neither_grows_nor_shrinks(demand: float) -> None:
    assert scalings(plans(situation(demand, IDLE, suspect=[RPS]))) == {}


def test_a_second_source_may_still_ask_for_more() -> None:
    queue = SeriesKey("shop", "queue")
    two = load(demands=(load().demands[0], replace(load().demands[0], key=queue)))
    found = plans(situation(640, TEN, late=[RPS], others={queue: 1600.0}), stock(two))
    assert scalings(found)
    assert all(to > before for before, to in scalings(found).values())


@pytest.mark.parametrize(("latency", "late"), [(401.0, False), (50.0, True)])
def test_a_veto_series_that_is_high_or_gone_stops_the_scale_in(latency: float, late: bool) -> None:
    careful = stock(load(vetoes=((LATENCY, 400.0),)))
    now = situation(160, IDLE, others={LATENCY: latency}, late=[LATENCY] if late else [])
    found = plans(now, careful)
    assert scalings(found) == {}
    assert {guard for guard, _ in refused(found)} >= {"veto"}
    assert scalings(plans(situation(160, IDLE, others={LATENCY: 50.0}), careful))


def test_a_dead_site_is_drained_and_its_load_placed_elsewhere_in_the_same_tick() -> None:
    dead = replace(TEN, observed={"shop-fra": seen("shop-fra", 10, 0), "shop-ams": seen("shop-ams", 10)})
    gone = incident(workload="*", cause="fra is dark", signals=3)
    books = [playbook(Kind.DRAIN, metric="*", approval="A")]
    found = plans(situation(640, dead, incidents=[gone]), stock(playbooks=books))
    (drain,) = actions(found, Kind.DRAIN)
    assert (drain.pool, drain.desired, drain.approval) == ("shop-fra", 0, "A")
    assert scalings(found) == {"shop-ams": (10, 15)}, "as far as the ramp lets it grow"
    assert {plan.domain: [a.kind for a in plan.actions] for plan in found} == {AMS: [Kind.SCALE], FRA: [Kind.DRAIN]}
    assert ("step_up", "shop-ams") in refused(found)


def test_a_site_reported_down_is_replaced_without_a_playbook() -> None:
    found = plans(situation(640, replace(TEN, down=frozenset({"fra"}))))
    assert scalings(found) == {"shop-ams": (10, 15)}


def test_what_cannot_be_placed_is_told_to_a_human() -> None:
    small = stock(load(), pools=[pool("fra", max=10, quota=10), pool("ams", max=10, quota=10)])
    found = plans(situation(640, TEN, expected=1280), small)
    (page,) = actions(found, Kind.NOTIFY)
    assert page.replica == "not_placed"
    assert "not placed" in str(page.desired)


# --- determinism and structure ---


def shuffled(found: Situation) -> Situation:
    """The same facts in another order of insertion."""
    observed = dict(reversed(found.fleet.observed.items()))
    keys, order = found.windows.keys, list(range(len(found.windows.keys)))[::-1]
    w, f = found.windows, found.forecasts
    turned = replace(
        w,
        keys=tuple(keys[i] for i in order),
        values=w.values[order],
        mask=w.mask[order],
        late=w.late[order],
        suspect=w.suspect[order],
    )
    back = list(range(len(f.keys)))[::-1]
    turned_forecasts = replace(f, keys=tuple(f.keys[i] for i in back), values=f.values[back], fallback=f.fallback[back])
    incidents = tuple(reversed(found.incidents))
    return replace(
        found,
        windows=turned,
        forecasts=turned_forecasts,
        incidents=incidents,
        fleet=replace(found.fleet, observed=observed),
    )


def encoded(found: tuple[Plan, ...]) -> bytes:
    return msgspec.json.encode(found)


BOTH = stock(load(), load("blog"), playbooks=[playbook(Kind.RESTART), playbook(Kind.DRAIN, metric="*")])
BLOG = SeriesKey("blog", "rps")


@st.composite
def situations(draw: st.DrawFn) -> Situation:
    """Two workloads at two sites, with any load, history, trouble and human will."""
    counts = st.integers(0, 40)
    names = ["shop-fra", "shop-ams", "blog-fra", "blog-ams"]
    observed = []
    for name in draw(st.lists(st.sampled_from(names), unique=True, min_size=1)):
        n = draw(counts)
        sick = tuple(f"r{i}" for i in range(draw(st.integers(0, min(n, 3)))))
        observed.append(seen(name, n, draw(st.integers(0, n)), unhealthy=sick))
    outcomes = [
        outcome(kind, name, age, status, before=seen(name, a), after=seen(name, b))
        for kind, name, age, status, a, b in draw(
            st.lists(
                st.tuples(
                    st.sampled_from([Kind.SCALE, Kind.RESTART, Kind.NOTIFY]),
                    st.sampled_from(names),
                    st.integers(0, 4000),
                    st.sampled_from(Status),
                    counts,
                    counts,
                ),
                max_size=4,
            )
        )
    ]
    state = fleet(
        *observed,
        outcomes=tuple(sorted(outcomes, key=lambda o: o.at)),
        recommendations=(*remembered(draw(counts)), *remembered(draw(counts), "blog")),
        down=draw(st.sampled_from([frozenset(), frozenset({"ams"})])),
        held=draw(st.sampled_from([frozenset(), frozenset({"blog"})])),
        modes=draw(st.sampled_from([{}, {"shop": Mode.ADVISE}])),
        panicked_at=draw(st.sampled_from([0, NOW - STEP])),
    )
    incidents = [
        incident(
            id=f"i{i}",
            workload=name,
            site=draw(st.sampled_from(["fra", "ams", ""])),
            signals=draw(st.integers(1, 3)),
            severity=draw(st.sampled_from(Severity)),
        )
        for i, name in enumerate(draw(st.lists(st.sampled_from(["shop", "blog", "*"]), max_size=2, unique=True)))
    ]
    demand = st.floats(0, 3000)
    return situation(
        draw(demand),
        state,
        expected=draw(demand),
        incidents=incidents,
        others={BLOG: draw(demand)},
        late=draw(st.sampled_from([[], [RPS]])),
        suspect=draw(st.sampled_from([[], [BLOG]])),
    )


@given(situations())
@patient
def test_the_same_situation_gives_the_same_bytes_whatever_its_order(found: Situation) -> None:
    assert encoded(plans(found, BOTH)) == encoded(plans(found, BOTH)) == encoded(plans(shuffled(found), BOTH))


@given(situations())
@patient
def test_the_invariants_of_a_tick(found: Situation) -> None:
    decided = plans(found, BOTH)
    granted = actions(decided)
    for plan in decided:
        assert {BOTH.domain(a.pool) for a in plan.actions} <= {plan.domain}, "one failure domain per plan"
        assert all(a.deadline == plan.expires_at and a.tick == found.tick for a in plan.actions)
        assert {a.workload for a in plan.actions} <= set(plan.evidence)
    taking = [a for a in granted if a.kind is not Kind.NOTIFY and (a.kind is not Kind.SCALE or a.desired < a.expected)]
    assert len({BOTH.domain(a.pool) for a in taking}) <= 1, "what takes something away is in one domain per tick"
    assert len({a.id for a in granted}) == len(granted)
    assert len({plan.id for plan in decided}) == len(decided)
    said = [name for plan in decided for name in plan.recommended]
    assert set(said) == {"shop", "blog"}, "every workload is recommended something"
    for a in granted:
        if a.kind is Kind.SCALE:
            assert found.fleet.observed[a.pool].replicas == a.expected
            assert 0 <= a.desired <= 100
        if a.workload == "blog":
            assert a.kind is Kind.NOTIFY or "blog" not in found.fleet.held


@given(situations(), st.floats(1.0, 2.0))
@patient
def test_more_load_never_lowers_what_is_recommended(found: Situation, factor: float) -> None:
    w, f = found.windows, found.forecasts
    more = replace(found, windows=replace(w, values=w.values * factor), forecasts=replace(f, values=f.values * factor))
    before = {name: n for plan in plans(found, BOTH) for name, n in plan.recommended.items()}
    after = {name: n for plan in plans(more, BOTH) for name, n in plan.recommended.items()}
    assert all(after[name] >= n for name, n in before.items())


def test_forecasts_of_unknown_series_change_nothing() -> None:
    plain = situation(640, TEN, expected=768)
    more = replace(plain, forecasts=forecasts({RPS: 768, SeriesKey("ghost", "rps"): 1e9}))
    assert encoded(plans(plain)) == encoded(plans(more))
