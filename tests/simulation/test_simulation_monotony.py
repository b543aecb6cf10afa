"""Metamorphic tests of deciding: what is known of two decisions without knowing either."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "decide"))

from decide_worlds import AMS, NOW, RPS, STEP, fleet, load, outcome, plans, scalings, seen, situation, stock

from forecastle.settings import ChangeWindow, GuardSettings
from forecastle.types import Fleet, Kind, Observed, Plan, Recommendation, Situation

DAY = 86_400_000
patient = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
replicas = st.integers(0, 40)


@st.composite
def fleets(draw: st.DrawFn) -> Fleet:
    """Two pools, some ready, with a memory of what was wanted and perhaps a change a while ago."""
    ordered = {name: draw(replicas) for name in ("shop-fra", "shop-ams")}
    observed = [seen(name, n, draw(st.integers(0, n))) for name, n in ordered.items()]
    wanted = draw(st.lists(st.integers(1, 40), min_size=12, max_size=12))
    memory = tuple(Recommendation("shop", NOW - (12 - i) * STEP, n) for i, n in enumerate(wanted))
    past = []
    if draw(st.booleans()):
        n, name = draw(replicas), draw(st.sampled_from(sorted(ordered)))
        before, after = seen(name, n), seen(name, ordered[name])
        past.append(outcome(Kind.SCALE, name, draw(st.integers(1, 1500)), before=before, after=after))
    return fleet(*observed, recommendations=memory, outcomes=tuple(past))


def total(found: tuple[Plan, ...], state: Fleet) -> int:
    """Replicas of the shop after the plans."""
    changed = scalings(found)
    return sum(changed.get(name, (0, o.replicas))[1] for name, o in state.observed.items())


@given(fleets(), st.floats(1, 1200), st.floats(0, 800))
@patient
def test_more_load_never_lowers_what_is_wanted(state: Fleet, demand: float, more: float) -> None:
    less, greater = (plans(situation(value, state)) for value in (demand, demand + more))
    assert greater[0].recommended["shop"] >= less[0].recommended["shop"]


@given(fleets(), st.floats(1, 1200), st.floats(0, 800))
@patient
def test_more_load_never_leaves_fewer_replicas(state: Fleet, demand: float, more: float) -> None:
    less, greater = (plans(situation(value, state)) for value in (demand, demand + more))
    assert total(greater, state) >= total(less, state)


@given(fleets(), st.floats(1, 1200), st.floats(0, 800))
@patient
def test_a_higher_forecast_never_leaves_fewer_replicas(state: Fleet, demand: float, more: float) -> None:
    low = plans(situation(demand, state, expected=demand))
    high = plans(situation(demand, state, expected=demand + more))
    assert high[0].recommended["shop"] >= low[0].recommended["shop"]
    assert total(high, state) >= total(low, state)


def reordered(found: Situation) -> Situation:
    """Every mapping and every row the other way round; what is ordered by time stays so."""
    back = slice(None, None, -1)
    w, f, state = found.windows, found.forecasts, found.fleet
    windows = replace(
        w, keys=w.keys[back], values=w.values[back], mask=w.mask[back], late=w.late[back], suspect=w.suspect[back]
    )
    forecasts = replace(f, keys=f.keys[back], values=f.values[back], fallback=f.fallback[back])
    observed: Mapping[str, Observed] = dict(reversed(list(state.observed.items())))
    return replace(found, windows=windows, forecasts=forecasts, fleet=replace(state, observed=observed))


@given(fleets(), st.floats(1, 1200), st.floats(0, 500))
@patient
def test_the_order_of_the_input_changes_nothing(state: Fleet, demand: float, latency: float) -> None:
    inventory = stock(load(vetoes=((RPS._replace(metric="latency"), 400.0),)))
    found = situation(demand, state, others={RPS._replace(metric="latency"): latency})
    assert plans(reordered(found), inventory) == plans(found, inventory)


@given(fleets(), st.floats(1, 1200))
@patient
def test_deciding_again_decides_the_same(state: Fleet, demand: float) -> None:
    found = situation(demand, state)
    assert plans(found) == plans(found)


@given(fleets(), st.floats(1, 1200), st.integers(1, 3))
@patient
def test_what_is_remembered_twice_counts_once(state: Fleet, demand: float, times: int) -> None:
    """A recommendation of the same tick, heard of again, is no other one."""
    again = replace(state, recommendations=tuple(r for r in state.recommendations for _ in range(times)))
    assert plans(situation(demand, again)) == plans(situation(demand, state))


def shifted(found: Situation, by: int) -> Situation:
    """The same situation ``by`` ms later."""
    state = found.fleet
    moved = replace(
        state,
        at=state.at + by,
        observed={name: replace(o, at=o.at + by) for name, o in state.observed.items()},
        outcomes=tuple(replace(o, at=o.at + by) for o in state.outcomes),
        recommendations=tuple(replace(r, at=r.at + by) for r in state.recommendations),
        started_at=state.started_at + by if state.started_at else 0,
    )
    return Situation(
        found.tick + by,
        replace(found.windows, end=found.windows.end + by),
        replace(found.forecasts, issued_at=found.forecasts.issued_at + by),
        (),
        moved,
    )


def timeless(found: tuple[Plan, ...]) -> list[tuple[Any, ...]]:
    """The plans without what names or dates them."""
    return [
        (
            p.domain,
            tuple((a.kind, a.pool, a.desired, a.expected, a.deadline - a.tick, a.reason) for a in p.actions),
            p.evidence,
            p.refusals,
            p.recommended,
            round(p.cost, 9),
        )
        for p in found
    ]


@given(fleets(), st.floats(1, 1200), st.integers(1, 400))
@patient
def test_whole_days_later_the_plan_is_the_same(state: Fleet, demand: float, days: int) -> None:
    found = situation(demand, state)
    assert timeless(plans(shifted(found, days * DAY))) == timeless(plans(found))


@pytest.mark.parametrize("days", [1, 5, 6, 7, 14])
def test_a_change_window_is_the_only_calendar(days: int) -> None:
    """With a window of UTC weekdays, the same holds for days that are alike to it."""
    guards = GuardSettings(windows=(ChangeWindow(name="week", zone="UTC", start="00:00", end="00:00"),))
    found = situation(200.0, fleet(seen("shop-fra", 20), seen("shop-ams", 20)))
    now, then = (timeless(plans(s, guards=guards)) for s in (found, shifted(found, days * DAY)))
    weekday = int(np.datetime64(NOW, "ms").astype("datetime64[D]").astype(int) + 3) % 7
    both_open = weekday < 5 and (weekday + days) % 7 < 5
    assert (now == then) == (both_open or (weekday >= 5 and (weekday + days) % 7 >= 5))


def test_the_worlds_of_this_file_do_something() -> None:
    grown = plans(situation(900.0, fleet(seen("shop-fra", 5), seen("shop-ams", 5))))
    shrunk = plans(situation(200.0, fleet(seen("shop-fra", 20), seen("shop-ams", 20))))
    assert scalings(grown)
    assert any(new < old for old, new in scalings(shrunk).values())
    assert {p.domain for p in (*grown, *shrunk)} & {AMS}
