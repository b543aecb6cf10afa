"""Actions that are begun together: which may be, that each has its own fate, and that nothing outlives its lease."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
from act_worlds import FRA, MINUTE, START, Step, World, plan, restart, scale
from hypothesis import given
from hypothesis import strategies as st

from forecastle.act.parcels import parcels
from forecastle.errors import CloudUnavailable, Denied, StoreUnavailable
from forecastle.settings import ActSettings, GuardSettings
from forecastle.types import (
    DISRUPTIVE,
    Action,
    Demand,
    Inventory,
    Kind,
    Mode,
    Observed,
    Plan,
    Pool,
    SeriesKey,
    Site,
    Status,
    Workload,
)

WIDE = 8


def of(workload: str, kind: Kind = Kind.SCALE) -> Action:
    return Action(kind, workload, f"{workload}-pool", 5, 3, START, START + 5 * MINUTE)


@pytest.mark.parametrize(
    ("actions", "sizes"),
    [
        ([], []),
        ([of("a"), of("b"), of("c")], [2, 1]),
        ([of("a"), of("a"), of("b")], [1, 2]),
        ([of("a", Kind.RESTART), of("b"), of("c", Kind.DRAIN)], [2, 1]),
        ([of("a", Kind.NOTIFY), of("a")], [1, 1]),
    ],
)
def test_a_parcel_ends_where_the_next_must_see_its_outcome(actions: list[Action], sizes: list[int]) -> None:
    assert [len(parcel) for parcel in parcels(actions, 2)] == sizes


@given(
    st.lists(st.builds(of, st.sampled_from("abcd"), st.sampled_from((Kind.SCALE, Kind.RESTART, Kind.NOTIFY)))),
    st.integers(1, 4),
)
def test_parcels_keep_order_and_independence(actions: list[Action], most: int) -> None:
    found = list(parcels(actions, most))
    assert [action for parcel in found for action in parcel] == actions
    for parcel in found:
        assert 1 <= len(parcel) <= most
        assert len({action.workload for action in parcel}) == len(parcel)
        assert sum(action.kind in DISRUPTIVE for action in parcel) <= 1


@pytest.fixture
def wide(world: World) -> World:
    """Eight workloads of one pool each, three replicas in all of them."""
    names = [f"w{i}" for i in range(WIDE)]
    pools = {f"{n}-pool": Pool(f"{n}-pool", n, "fra", "fake", 0.1, min=1, max=20) for n in names}
    loads = {n: Workload(n, (Demand(SeriesKey(n, "rps"), 40.0),), (f"{n}-pool",), mode=Mode.AUTO) for n in names}
    world.inventory = Inventory({"fra": Site("fra", "aws", "eu-central-1")}, pools, loads)
    world.cloud.state = {name: Observed(name, 3, 3, START, "v1") for name in pools}
    return world


def whole(world: World, **rest: object) -> Plan:
    """Two more for every workload."""
    actions = [of(name) for name in world.inventory.workloads]
    one = plan(scale()).evidence["shop"]
    return plan(*actions, evidence=dict.fromkeys(world.inventory.workloads, one), **rest)


def kinds(world: World) -> list[str]:
    return [entry.kind for entry in reversed(world.ledger.history(limit=100))]


def test_a_parcel_is_intended_as_a_whole_before_its_first_effect(wide: World) -> None:
    outcomes = wide.executor().execute(whole(wide), None)
    assert [o.status for o in outcomes] == [Status.APPLIED] * WIDE
    assert kinds(wide) == ["intent"] * WIDE + ["outcome"] * WIDE
    assert wide.ledger.unfinished() == ()
    assert all(wide.ledger.lease(action.target, "other", 60) != 1 for action in whole(wide).actions), "leases are over"


def test_the_size_of_a_parcel_is_a_setting(wide: World) -> None:
    wide.act = ActSettings(parcel=3)
    wide.executor().execute(whole(wide), None)
    assert kinds(wide) == ["intent"] * 3 + ["outcome"] * 3 + ["intent"] * 3 + ["outcome"] * 3 + ["intent"] * 2 + ["outcome"] * 2


def test_each_of_a_parcel_has_its_own_fate(wide: World) -> None:
    wide.ledger.hold("w1", "debugging", "ann")
    wide.cloud.someone_else("w2-pool", 4)
    wide.ledger.lease("w3-pool", "other", 60)
    wide.cloud.script.extend([Step(), Step(error=Denied("no rights"))])
    outcomes = {o.workload: o for o in wide.executor().execute(whole(wide), None)}
    assert [o.status for o in outcomes.values()] == [
        Status.APPLIED,
        Status.REFUSED,
        Status.REFUSED,
        Status.REFUSED,
        Status.FAILED,
        *[Status.APPLIED] * 3,
    ]
    assert "hold: w1 is held by ann" in outcomes["w1"].detail
    assert "external_change" in outcomes["w2"].detail
    assert "leased to other" in outcomes["w3"].detail
    assert wide.ledger.unfinished() == ()


def test_a_kill_in_the_middle_of_a_parcel_stops_the_rest(wide: World) -> None:
    apply = wide.cloud.apply

    def killing(action: Action, pool: Pool, *, token: str) -> object:
        if wide.cloud.applied == 2:
            wide.ledger.kill("enough", "ann")
        return apply(action, pool, token=token)

    wide.cloud.apply = killing  # type: ignore[method-assign, assignment]
    outcomes = wide.executor().execute(whole(wide), None)
    assert [o.status for o in outcomes] == [Status.APPLIED] * 3 + [Status.REFUSED] * 5
    assert all("kill switch: enough" in o.detail for o in outcomes[3:])
    assert wide.cloud.applied == 3


def test_the_budget_of_the_fleet_counts_what_the_same_parcel_spends(wide: World) -> None:
    wide.inventory = replace(wide.inventory, budget_per_hour=0.1 * (3 * WIDE + 5))
    outcomes = wide.executor().execute(whole(wide), None)
    assert [o.status for o in outcomes] == [Status.APPLIED] * 2 + [Status.REFUSED] * 6
    assert "budget of the fleet" in outcomes[-1].detail


def test_a_store_that_goes_away_between_effects_leaves_intents_that_end_once(wide: World) -> None:
    fenced, calls = wide.ledger.fenced, []

    def failing(target: str, epoch: int) -> bool:
        calls.append(target)
        if len(calls) == 4:
            raise StoreUnavailable("gone")
        return fenced(target, epoch)

    wide.ledger.fenced = failing  # type: ignore[method-assign]
    with pytest.raises(StoreUnavailable):
        wide.executor().execute(whole(wide), None)
    assert (len(wide.ledger.unfinished()), wide.cloud.applied) == (WIDE, 3)
    outcomes = wide.executor().execute(whole(wide), None)
    assert [o.status for o in outcomes] == [Status.APPLIED] * WIDE
    assert len(wide.cloud.orders) == WIDE


def test_all_of_a_parcel_is_waited_for_together(wide: World) -> None:
    wide.cloud.delay = 2
    outcomes = wide.executor().execute(whole(wide), None)
    assert {o.status for o in outcomes} == {Status.APPLIED}
    assert wide.sleeps == [0.05, 0.1]


def test_a_slow_parcel_renews_its_leases(wide: World) -> None:
    def slowly() -> None:
        wide.clock.advance(wide.clock.now() + 8_000)

    wide.on_sleep = slowly
    busy = [Step(error=CloudUnavailable("429", retry_after=8.0)), Step()]
    wide.cloud.script.extend(busy * WIDE)
    outcomes = wide.executor().execute(whole(wide), None)
    assert [o.status for o in outcomes] == [Status.APPLIED] * WIDE, "64 s in all, on leases of 60 s"
    assert "takeover" in kinds(wide)


def test_what_another_worker_took_over_meanwhile_is_left_to_it(wide: World) -> None:
    last = of(f"w{WIDE - 1}")

    def stolen() -> None:
        wide.on_sleep = lambda: None
        wide.clock.advance(wide.clock.now() + 61_000)
        wide.ledger.intend(last, epoch=wide.ledger.lease(last.target, "other", 600))

    wide.on_sleep = stolen
    wide.cloud.script.append(Step(error=CloudUnavailable("429", retry_after=1.0)))
    outcomes = wide.executor().execute(whole(wide), None)
    assert (outcomes[0].status, outcomes[-1].status) == (Status.REFUSED, Status.REFUSED)
    assert "fenced" in outcomes[0].detail
    assert "leased to other" in outcomes[-1].detail
    assert [i.action for i in wide.ledger.unfinished()] == [last]
    assert len(wide.cloud.orders) == WIDE - 2


def test_two_heals_of_a_plan_do_not_share_a_parcel(world: World) -> None:
    world.guards = GuardSettings(heals_per_domain_h=1)
    outcomes = world.executor().execute(plan(restart(), restart("shop-ams")), None)
    assert outcomes[0].status is Status.APPLIED
    assert world.ledger.take(f"heals/{FRA}") == f"heals/{FRA}"


def test_effects_of_an_adapter_with_safe_threads_are_told_at_once(wide: World, tmp_path: object) -> None:
    wide.parallel = {"fake": 4}
    together, lock, apply = threading.Barrier(4, timeout=120), threading.Lock(), wide.cloud.apply
    forbidden = threading.Lock()

    def meeting(action: Action, pool: Pool, *, token: str) -> object:
        together.wait()
        with lock:
            return apply(action, pool, token=token)

    wide.cloud.apply = meeting  # type: ignore[method-assign, assignment]
    fenced, killed, held = wide.ledger.fenced, wide.ledger.killed, wide.ledger.held

    def one_at_a_time(call: object) -> object:
        def locked(*args: object) -> object:
            with forbidden:  # the memory database has one connection
                return call(*args)  # type: ignore[operator]

        return locked

    wide.ledger.fenced, wide.ledger.killed, wide.ledger.held = map(one_at_a_time, (fenced, killed, held))  # type: ignore
    outcomes = wide.executor().execute(whole(wide), None)
    assert [(o.workload, o.status) for o in outcomes] == [(f"w{i}", Status.APPLIED) for i in range(WIDE)]
