"""The invariants of the brakes, for whatever the world looks like."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

from guard_worlds import NOW, context, fleet, fresh, heal, healed, inventory, pool, remembered, scale, scaled, seen
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forecastle.guards.context import GuardContext
from forecastle.guards.judge import judge
from forecastle.types import DISRUPTIVE, Action, Kind, Outcome, Pool, Recommendation, Status

SITES = ("fra", "ams", "ohio")
counts = st.integers(0, 60)
patient = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""The machine may be busy: only results count."""
statuses = st.sampled_from([Status.APPLIED, Status.UNVERIFIED, Status.FAILED, Status.REFUSED])


@dataclass(frozen=True)
class World:
    """One judgement: the action asked for and the context it is asked in."""

    action: Action
    ctx: GuardContext

    @property
    def pool(self) -> Pool:
        return self.ctx.pool(self.action)

    @property
    def current(self) -> int:
        return self.ctx.current(self.action)

    def granted(self) -> int:
        """What the pool is asked to have after the judgement."""
        verdict = judge(self.action, self.ctx)
        return self.current if verdict.action is None else int(verdict.action.desired)


@st.composite
def pools(draw: st.DrawFn, site: str) -> Pool:
    low, high, quota = sorted(draw(st.tuples(st.integers(0, 5), counts, counts)))
    return pool(site, min=low, max=high, quota=quota, unit_price=draw(st.sampled_from([0.0, 0.1, 1.0])))


@st.composite
def histories(draw: st.DrawFn, name: str, now: int) -> list[Outcome]:
    """A few scalings of one pool, oldest first, the last of which left what is there now."""
    steps = draw(st.lists(st.tuples(counts, st.integers(0, 900), statuses), max_size=3))
    found, after = [], now
    for before, age, status in sorted(steps, key=lambda step: step[1]):
        found.append(scaled(before, after, age, name, status))
        after = before
    return found[::-1]


@st.composite
def worlds(draw: st.DrawFn) -> World:
    stock_pools = [draw(pools(site)) for site in SITES[: draw(st.integers(1, 3))]]
    observed = [seen(n := draw(counts), draw(st.integers(0, n)), p.name) for p in stock_pools]
    load = {
        "min": draw(st.integers(0, 5)),
        "max": draw(st.integers(5, 120)),
        "min_sites": draw(st.integers(1, 2)),
        "residency": draw(st.sampled_from([frozenset(), frozenset({"EU"})])),
        "budget_per_hour": draw(st.sampled_from([None, 3.0])),
    }
    outcomes = [o for state in observed for o in draw(histories(state.pool, state.replicas))]
    memory = draw(st.lists(counts, min_size=0, max_size=12))
    state = fleet(
        *observed,
        outcomes=tuple(sorted(outcomes, key=lambda o: o.at)),
        recommendations=tuple(Recommendation("shop", NOW - (len(memory) - i) * 60_000, n) for i, n in enumerate(memory)),
        down=draw(st.sampled_from([frozenset(), frozenset({"ams"})])),
    )
    floor = draw(counts)
    view = fresh(
        floor,
        max(floor, draw(counts)),
        sources=draw(st.integers(0, 2)),
        late=draw(st.booleans()),
        suspect=draw(st.booleans()),
        vetoed=draw(st.sampled_from(["", "errors"])),
    )
    asked = draw(counts)
    if draw(st.booleans()):  # mostly harmless, so that the brakes on what is allowed are reached too
        few = draw(st.integers(0, 10))
        view = fresh(few, few) if draw(st.booleans()) else fresh(floor, floor + 60)
        asked = 0 if view.wanted == few else 100
        memory = [draw(st.integers(0, 20))] * 12
        state = replace(state, recommendations=remembered(*memory), outcomes=(), down=frozenset())
    return World(scale(asked, observed[0].replicas), context(state, inventory(*stock_pools, load=load), view))


def ready(world: World, desired: int) -> int:
    """Ready replicas of the workload in service when the pool has ``desired`` ordered."""
    here = world.ctx.observed(world.action)
    assert here is not None
    mine = min(here.ready, desired) if world.ctx.serves(world.action.pool) else 0
    return mine + sum(count for _, _, count in world.ctx.others(world.action))


@given(worlds())
@patient
def test_the_grant_is_between_what_there_is_and_what_was_asked(world: World) -> None:
    low, high = sorted((world.current, int(world.action.desired)))
    assert low <= world.granted() <= high


@given(worlds())
@patient
def test_min_desired_max_quota(world: World) -> None:
    """A pool inside its limits stays inside; one outside moves towards them or not at all."""
    granted, most = world.granted(), min(world.pool.max, world.pool.quota)
    assert granted <= max(most, world.current)
    assert granted >= min(world.pool.min, world.current)
    if world.pool.min <= world.current <= most:
        assert world.pool.min <= granted <= world.pool.max <= world.pool.quota
    elsewhere = sum(replicas for _, replicas, _ in world.ctx.others(world.action))
    assert granted <= max(world.current, world.ctx.workload(world.action).max - elsewhere)


@given(worlds())
@patient
def test_a_scale_in_leaves_the_fresh_reactive_floor_ready(world: World) -> None:
    granted = world.granted()
    if granted < world.current:
        assert ready(world, granted) >= max(world.ctx.view.floor, world.ctx.view.wanted, world.ctx.workload(world.action).min)


@given(worlds())
@patient
def test_no_decrease_on_late_or_suspect_data_or_against_a_veto(world: World) -> None:
    view = world.ctx.view
    if view.late or view.suspect or view.vetoed:
        assert world.granted() >= world.current


@given(worlds(), st.sampled_from(sorted(DISRUPTIVE)))
@patient
def test_no_heal_on_late_or_suspect_data(world: World, kind: Kind) -> None:
    view = world.ctx.view
    if view.late or view.suspect:
        assert judge(heal(kind), world.ctx).action is None


@given(worlds())
@patient
def test_percentages_round_down(world: World) -> None:
    """Exact arithmetic on both ramps, over everything that happened within their periods."""
    changes = [
        (o, (o.after.replicas if o.after else world.current) - o.before.replicas)
        for o in world.ctx.facts.changed.get(world.action.pool, ())
        if o.before is not None
    ]
    granted, current = world.granted(), world.current
    removed = sum(max(0, -delta) for o, delta in changes if world.ctx.age_s(o.at) < 300)
    base = current + removed
    if granted < current:
        share = Fraction(1, 10) * base
        assert removed + current - granted <= share or (base >= 3 and removed + current - granted <= 1)
    added = sum(max(0, delta) for o, delta in changes if world.ctx.age_s(o.at) < 60)
    if granted > current:
        assert added + granted - current <= max(4, Fraction(1, 2) * (current - added))


@given(worlds())
@patient
def test_judging_what_is_left_again_changes_nothing(world: World) -> None:
    verdict = judge(world.action, world.ctx)
    if verdict.action is not None:
        again = judge(verdict.action, world.ctx)
        assert (again.action, again.refusals) == (verdict.action, ())


@given(worlds(), st.integers(1, 20))
@patient
def test_a_higher_floor_never_grants_less(world: World, more: int) -> None:
    view = world.ctx.view
    higher = replace(view, floor=view.floor + more, wanted=max(view.wanted, view.floor + more))
    assert World(world.action, replace(world.ctx, view=higher)).granted() >= world.granted()


@given(worlds())
@patient
def test_nothing_grows_outside_the_residency_or_at_a_dead_site(world: World) -> None:
    if not world.ctx.serves(world.action.pool):
        assert world.granted() <= world.current


@given(worlds())
@patient
def test_money_is_never_overspent(world: World) -> None:
    budget = world.ctx.workload(world.action).budget_per_hour
    granted = world.granted()
    if budget is not None and granted > world.current and world.pool.unit_price:
        others = sum(replicas * p.unit_price for p, replicas, _ in world.ctx.others(world.action))
        assert others + granted * world.pool.unit_price <= budget + 1e-6


@given(worlds(), st.sampled_from(["killed", "held"]), st.sampled_from(sorted(DISRUPTIVE)))
@patient
def test_kill_switch_and_hold_mean_zero_effects(world: World, switch: str, kind: Kind) -> None:
    change = {"killed": "stop"} if switch == "killed" else {"held": frozenset({"shop"})}
    stopped = replace(world.ctx, fleet=replace(world.ctx.fleet, **change))
    assert judge(world.action, stopped).action is None
    assert judge(heal(kind), stopped).action is None


@given(st.lists(st.tuples(st.integers(0, 7200), st.sampled_from(SITES[:2]), st.sampled_from(sorted(DISRUPTIVE))), max_size=8))
@patient
def test_a_tick_heals_at_most_a_tenth_and_within_the_budgets(past: list[tuple[int, str, Kind]]) -> None:
    stock = inventory(pool(), pool("ams"))
    outcomes = tuple(healed(age, f"shop-{site}", kind) for age, site, kind in sorted(past, reverse=True))
    ctx = context(fleet(seen(30), seen(30, name="shop-ams"), outcomes=outcomes), stock, fresh(0, 60))
    granted: list[Action] = []
    for site in SITES[:2]:
        for i in range(5):
            verdict = judge(heal(name=f"shop-{site}", replica=f"r{i}"), replace(ctx, accepted=tuple(granted)))
            granted += [verdict.action] if verdict.action else []
    assert len(granted) <= 3
    assert len({a.pool for a in granted}) <= 1
    for site in SITES[:2]:
        recent = sum(1 for age, where, _ in past if where == site and age < 3600)
        assert recent >= 3 or recent + sum(1 for a in granted if a.pool == f"shop-{site}") <= 3
