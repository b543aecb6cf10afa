"""Tenants share sites and nothing else: whatever one does, another's pools, plans and evidence stay as they were, and nobody
grows where the law forbids it. Random fleets through the planner, and forged actions through the guards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
from decide_worlds import NOW, STEP, anomaly, fleet, forecasts, incident, playbook, pool, remembered, seen, windows
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from forecastle.decide.planner import decide
from forecastle.guards.context import GuardContext, View
from forecastle.guards.judge import judge
from forecastle.settings import DecideSettings, GuardSettings
from forecastle.types import (
    DISRUPTIVE,
    Action,
    Demand,
    Fleet,
    Incident,
    Inventory,
    Kind,
    Mode,
    Plan,
    SeriesKey,
    Severity,
    Site,
    Situation,
    Workload,
)

TENANTS = ("ant", "bee", "cat")
SITES = {
    "fra": Site("fra", "aws", "eu-central-1", "a", residency=frozenset({"EU"})),
    "ams": Site("ams", "gcp", "europe-west4", "b", residency=frozenset({"EU"})),
    "ohio": Site("ohio", "aws", "us-east-2", "a", residency=frozenset({"US"})),
    "attic": Site("attic", "own", "nowhere", "a"),
}
PLAYBOOKS = (playbook(Kind.RESTART), playbook(Kind.REPLACE, severity=Severity.CRITICAL))
patient = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@dataclass(frozen=True)
class Tenant:
    """One workload, how it is doing, and what is asked of it; ``mute``: its demand is late, suspect or fine."""

    load: Workload
    replicas: tuple[int, ...]
    sick: int
    demand: float
    mute: str
    incident: bool

    @property
    def key(self) -> SeriesKey:
        return SeriesKey(self.load.name, "rps")


@st.composite
def tenants(draw: st.DrawFn, name: str) -> Tenant:
    sites = draw(st.lists(st.sampled_from(sorted(SITES)), min_size=1, max_size=4, unique=True))
    residency = draw(st.sampled_from((frozenset[str](), frozenset({"EU"}), frozenset({"US"}), frozenset({"EU", "US"}))))
    load = Workload(
        name,
        (Demand(SeriesKey(name, "rps"), 40.0),),
        tuple(f"{name}-{site}" for site in sites),
        residency=residency,
        mode=draw(st.sampled_from((Mode.AUTO, Mode.AUTO, Mode.ADVISE, Mode.SHADOW))),
        priority=draw(st.integers(0, 3)),
    )
    replicas = tuple(draw(st.integers(0, 30)) for _ in sites)
    demand, sick = draw(st.floats(0, 4000)), draw(st.integers(0, 1))
    return Tenant(load, replicas, sick, demand, draw(st.sampled_from(("", "", "", "late", "suspect"))), draw(st.booleans()))


def inventory(found: Sequence[Tenant], *, playbooks: bool = True) -> Inventory:
    names = [name for one in found for name in one.load.pools]
    pools = {name: replace(pool(name.partition("-")[2], name.partition("-")[0]), max=40) for name in names}
    return Inventory(SITES, pools, {one.load.name: one.load for one in found}, PLAYBOOKS if playbooks else ())


def trouble(one: Tenant) -> Incident:
    raised = tuple(anomaly(metric, workload=one.load.name) for metric in ("latency", "errors"))
    return replace(incident(), id=f"i-{one.load.name}", workload=one.load.name, anomalies=raised, signals=2)


def state(found: Sequence[Tenant], down: frozenset[str] = frozenset()) -> Fleet:
    observed = [
        seen(name, replicas, max(0, replicas - one.sick), unhealthy=("r1",) if one.sick and replicas else ())
        for one in found
        for name, replicas in zip(one.load.pools, one.replicas, strict=True)
    ]
    memory = tuple(r for one in found for r in remembered(1, one.load.name))
    return replace(fleet(*observed), recommendations=memory, down=down, started_at=NOW - 600 * STEP)


def decided(found: Sequence[Tenant], *, healing: bool = True, down: frozenset[str] = frozenset()) -> tuple[Plan, ...]:
    now = {one.key: one.demand for one in found}
    late, suspect = ([one.key for one in found if one.mute == mute] for mute in ("late", "suspect"))
    incidents = tuple(trouble(one) for one in found if one.incident) if healing else ()
    told = Situation(NOW, windows(now, late=late, suspect=suspect), forecasts(now), incidents, state(found, down))
    return decide(told, inventory(found, playbooks=healing), DecideSettings(), GuardSettings())


def about(plans: Sequence[Plan], name: str) -> tuple[object, ...]:
    """What is wanted, granted and told about one workload. Removals take turns over the fleet: one domain at a time."""
    mine = [a for p in plans for a in p.actions if a.workload == name]
    grown = {(a.pool, a.desired) for a in mine if a.kind is Kind.SCALE and int(a.desired) > int(a.expected)}
    told = {(a.pool, a.replica, a.desired) for a in mine if a.kind is Kind.NOTIFY}
    sizing = [p.evidence[name] for p in plans if name in p.evidence][:1]
    return grown, told, sizing, {p.recommended[name] for p in plans if name in p.recommended}


fleets = st.tuples(*(tenants(name) for name in TENANTS))
outages = st.sampled_from((frozenset[str](), frozenset({"fra"}), frozenset({"fra", "ams"}), frozenset({"ohio"})))


@given(fleets, outages)
@patient
def test_a_plan_touches_and_mentions_only_what_belongs_together(found: tuple[Tenant, ...], down: frozenset[str]) -> None:
    owner = {name: one.load.name for one in found for name in one.load.pools}
    for plan in decided(found, down=down):
        for action in plan.actions:
            assert owner[action.pool] == action.workload
        for refusal in plan.refusals:
            assert not refusal.pool or not refusal.workload or owner[refusal.pool] == refusal.workload
        for name, numbers in plan.evidence.items():
            others = [other for other in owner if owner[other] != name]
            assert not [other for other in others if other in repr(numbers)], "evidence names nobody else's pools"


@given(fleets, outages)
@patient
def test_nothing_grows_outside_its_residency_whatever_fails(found: tuple[Tenant, ...], down: frozenset[str]) -> None:
    stock, fleet_now = inventory(found), state(found, down)
    for action in (a for p in decided(found, down=down) for a in p.actions if a.kind is Kind.SCALE):
        site, allowed = stock.sites[stock.pools[action.pool].site], stock.workloads[action.workload].residency
        if int(action.desired) > fleet_now.observed[action.pool].replicas:
            assert not allowed or site.residency & allowed, f"{action.pool} grows at {site.name}"
            assert site.name not in down


@given(fleets, tenants("cat"))
@patient
def test_a_noisy_neighbour_changes_nothing_for_the_others(found: tuple[Tenant, ...], noisy: Tenant) -> None:
    found, noisy = tuple(replace(one, sick=0) for one in found), replace(noisy, sick=0)  # panic is a matter of the whole domain
    calm, loud = decided(found, healing=False), decided((*found[:-1], noisy), healing=False)
    for one in found[:-1]:
        assert about(calm, one.load.name) == about(loud, one.load.name)


@given(fleets)
@patient
def test_a_neighbour_that_moves_out_changes_nothing_for_the_others(found: tuple[Tenant, ...]) -> None:
    found = tuple(replace(one, sick=0) for one in found)
    calm, alone = decided(found, healing=False), decided(found[:1], healing=False)
    assert about(calm, found[0].load.name) == about(alone, found[0].load.name)


@given(fleets)
@patient
def test_the_order_of_tenants_changes_nothing(found: tuple[Tenant, ...]) -> None:
    forth, back = decided(found, healing=False), decided(found[::-1], healing=False)
    for one in found:
        assert about(forth, one.load.name) == about(back, one.load.name)


@given(fleets)
@patient
def test_an_incident_heals_only_its_own_tenant(found: tuple[Tenant, ...]) -> None:
    sick = {one.load.name for one in found if one.incident}
    healed = {a.workload for p in decided(found) for a in p.actions if a.kind in DISRUPTIVE}
    assert healed <= sick


@given(fleets, st.sampled_from(sorted(Kind)), st.integers(0, 40))
@patient
def test_an_action_in_anothers_name_is_refused(found: tuple[Tenant, ...], kind: Kind, desired: int) -> None:
    """Tenant "ant" asks for something in a pool of "bee", with the best credentials there are."""
    ant, bee = (replace(one, load=replace(one.load, mode=Mode.AUTO)) for one in found[:2])
    name, replicas = bee.load.pools[0], bee.replicas[0]
    forged = Action(
        kind,
        ant.load.name,
        name,
        desired if kind is Kind.SCALE else "g1",
        replicas if kind is Kind.SCALE else "v1",
        NOW,
        NOW + 5 * STEP,
        signals=2,
    )
    view = View(floor=40, wanted=40, sources=2, late=False)
    verdict = judge(forged, GuardContext(NOW, inventory((ant, bee)), state((ant, bee)), view, GuardSettings(), granted=2))
    assert verdict.action is None
    assert [refusal.guard for refusal in verdict.refusals] == ["target"]
    assert f"belongs to {bee.load.name}" in verdict.refusals[0].why


@given(tenants("ant"), st.integers(1, 40))
@patient
def test_growth_outside_the_residency_is_refused_also_with_two_approvals(one: Tenant, more: int) -> None:
    one = replace(one, load=replace(one.load, mode=Mode.AUTO, residency=frozenset({"EU"})))
    outside = [i for i, name in enumerate(one.load.pools) if name.endswith(("-ohio", "-attic"))]
    assume(outside)
    for i in outside:
        before = one.replicas[i]
        action = Action(Kind.SCALE, "ant", one.load.pools[i], before + more, before, NOW, NOW + 5 * STEP)
        view = View(floor=1000, wanted=1000, sources=2, late=False)
        verdict = judge(action, GuardContext(NOW, inventory((one,)), state((one,)), view, GuardSettings(), granted=2))
        assert verdict.action is None
        assert "residency" in [refusal.guard for refusal in verdict.refusals]


@pytest.mark.parametrize("site", ["ohio", "attic"])
def test_when_only_a_forbidden_region_is_left_nothing_is_placed_there_and_it_is_said(site: str) -> None:
    load = Workload(
        "ant",
        (Demand(SeriesKey("ant", "rps"), 40.0),),
        ("ant-fra", f"ant-{site}"),
        residency=frozenset({"EU"}),
        mode=Mode.AUTO,
    )
    one = Tenant(load, (10, 0), 0, 1200.0, "", False)
    plans = decided((one,), down=frozenset({"fra"}))
    assert [a for p in plans for a in p.actions if a.kind is Kind.SCALE] == []
    (page,) = [a for p in plans for a in p.actions if a.replica == "not_placed"]
    assert (page.workload, page.kind) == ("ant", Kind.NOTIFY)
    assert "0 of " in str(page.desired)


def test_what_could_not_be_placed_is_told_to_its_own_tenant_only() -> None:
    """Two tenants are short, a third is well: two pages, each with one name in it."""
    found = [
        Tenant(
            Workload(name, (Demand(SeriesKey(name, "rps"), 40.0),), (f"{name}-{site}",), mode=Mode.AUTO),
            (1,),
            0,
            demand,
            "",
            False,
        )
        for name, site, demand in (("ant", "fra", 40.0), ("bee", "ams", 9000.0), ("cat", "ohio", 9000.0))
    ]
    told = {a.workload: str(a.desired) for p in decided(found) for a in p.actions if a.replica == "not_placed"}
    assert sorted(told) == ["bee", "cat"]
    for name, text in told.items():
        assert [other for other in TENANTS if f"{other}:" in text] == [name]
