"""Every guard earns its place: in a world where it refuses, taking it out of the order changes what happens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from guard_worlds import NOW, context, fleet, fresh, heal, healed, inventory, pool, remembered, scale, scaled, seen

from forecastle.guards import judge as bench
from forecastle.guards.context import GuardContext, View
from forecastle.settings import GuardSettings
from forecastle.types import Action, Kind, Mode

MORE, LESS = fresh(0, 30), fresh(0, 5)
Case = Callable[[], tuple[Action, GuardContext]]


def ctx(view: View, *, load: Any = None, fra: Any = None, granted: int | None = None, accepted: Any = (), **changes: Any):
    """A pool of 10 in one domain and one of 5 in another; the named part differs from the healthy world."""
    settings = GuardSettings(**changes.pop("settings", {}))
    observed = {"shop-fra": seen(10), "shop-ams": seen(5, name="shop-ams")} | changes.pop("observed", {})
    found = replace(fleet(**changes), observed={name: o for name, o in observed.items() if o is not None})
    return context(
        found, inventory(pool(**(fra or {})), pool("ams"), load=load), view, settings, granted=granted, accepted=accepted
    )


CASES: dict[str, Case] = {
    "target": lambda: (scale(14, 10), ctx(MORE, fra={"target": {"group": "*"}})),
    "deadline": lambda: (replace(scale(14, 10), deadline=NOW - 1), ctx(MORE)),
    "kill_switch": lambda: (scale(14, 10), ctx(MORE, killed="stop")),
    "hold": lambda: (scale(14, 10), ctx(MORE, held=frozenset({"shop"}))),
    "change_window": lambda: (
        scale(9, 10),
        ctx(LESS, settings={"windows": [{"name": "never", "zone": "UTC", "days": [], "start": "00:00", "end": "01:00"}]}),
    ),
    "unknown_state": lambda: (scale(4, 0), ctx(MORE, observed={"shop-fra": None}, settings={"inventory_jump_fraction": 1.0})),
    "external_change": lambda: (scale(14, 9), ctx(MORE)),
    "in_flight": lambda: (scale(14, 10), ctx(MORE, in_flight=frozenset({"shop-fra"}))),
    "inventory_jump": lambda: (scale(14, 10), ctx(MORE, outcomes=(scaled(30, 30, 900),))),
    "site_down": lambda: (scale(14, 10), ctx(MORE, down=frozenset({"fra"}))),
    "residency": lambda: (scale(14, 10), ctx(MORE, load={"residency": frozenset({"US"})})),
    "missing_data": lambda: (scale(9, 10), ctx(replace(LESS, late=True))),
    "suspect_data": lambda: (scale(9, 10), ctx(replace(LESS, suspect=True))),
    "quorum": lambda: (heal(signals=1), ctx(LESS)),
    "panic": lambda: (heal(), ctx(LESS, observed={"shop-fra": seen(10, unhealthy=("a", "b", "c"))})),
    "panic_clear": lambda: (heal(), ctx(LESS, panicked_at=NOW - 1000)),
    "one_domain": lambda: (heal(), ctx(LESS, accepted=(heal(name="shop-ams"),))),
    "ejection": lambda: (heal(replica="b"), ctx(LESS, accepted=(heal(replica="a"),))),
    "heal_budget": lambda: (heal(), ctx(LESS, settings={"heals_per_domain_h": 1}, outcomes=(healed(1900),))),
    "escalation": lambda: (heal(), ctx(LESS, outcomes=(healed(100), healed(1700)))),
    "failover": lambda: (heal(Kind.DRAIN, desired=0, base=100, approval="A"), ctx(LESS)),
    "tolerance": lambda: (scale(11, 10), ctx(fresh(0, 16))),
    "veto": lambda: (scale(9, 10), ctx(replace(LESS, vetoed="errors"))),
    "stabilization": lambda: (scale(9, 10), ctx(LESS, recommendations=remembered(*[15] * 10))),
    "cool_down": lambda: (scale(14, 10), ctx(MORE, outcomes=(scaled(8, 10, 100),))),
    "floor": lambda: (scale(9, 10), ctx(fresh(15, 13))),
    "spread": lambda: (
        scale(0, 3),
        ctx(fresh(0, 2), observed={"shop-fra": seen(3)}, load={"min_sites": 2, "min": 0}, settings={"step_down_fraction": 1.0}),
    ),
    "step_down": lambda: (scale(5, 10), ctx(LESS)),
    "step_up": lambda: (scale(30, 10), ctx(fresh(0, 60))),
    "limits": lambda: (scale(14, 10), ctx(MORE, fra={"max": 12})),
    "money": lambda: (scale(14, 10), ctx(MORE, load={"budget_per_hour": 1.6})),
    "warm_up": lambda: (scale(14, 10), ctx(MORE, started_at=NOW)),
    "mode": lambda: (scale(14, 10), ctx(MORE, load={"mode": Mode.SHADOW})),
    "approval": lambda: (heal(Kind.DRAIN), ctx(LESS, granted=1)),
}


@pytest.mark.parametrize("guard", [guard.__name__ for guard in bench.ORDER])
def test_without_this_guard_something_else_happens(guard: str, monkeypatch: pytest.MonkeyPatch) -> None:
    action, world = CASES[guard]()
    guarded = bench.judge(action, world)
    assert guard in [refusal.guard for refusal in guarded.refusals]
    monkeypatch.setattr(bench, "ORDER", tuple(g for g in bench.ORDER if g.__name__ != guard))
    bare = bench.judge(action, world)
    assert bare.action is not None, f"{[r.guard for r in bare.refusals]} cover for {guard}"
    assert bare.action != guarded.action


@pytest.mark.parametrize("guard", [guard.__name__ for guard in bench.ORDER])
def test_no_second_missing_guard_hides_that_this_one_is_missing(guard: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pairs: with any other guard gone too, more happens than with all in place. None repairs another's absence."""
    action, world = CASES[guard]()
    guarded, order = bench.judge(action, world), bench.ORDER
    hidden = []
    for other in (g.__name__ for g in order if g.__name__ != guard):
        monkeypatch.setattr(bench, "ORDER", tuple(g for g in order if g.__name__ not in {guard, other}))
        if bench.judge(action, world).action in (None, guarded.action):
            hidden.append(other)
    assert hidden == []


@pytest.mark.parametrize(
    ("pair", "case"),
    [
        ("late and suspect", lambda: (scale(9, 10), ctx(replace(LESS, late=True, suspect=True)))),
        ("killed and held", lambda: (scale(14, 10), ctx(MORE, killed="stop", held=frozenset({"shop"})))),
        ("panic and quorum", lambda: (heal(signals=1), ctx(LESS, observed={"shop-fra": seen(10, unhealthy=("a", "b", "c"))}))),
        ("shadow and warm-up", lambda: (scale(14, 10), ctx(MORE, load={"mode": Mode.SHADOW}, started_at=NOW))),
        ("escalation and budget", lambda: (heal(), ctx(LESS, outcomes=(healed(100), healed(800), healed(1700))))),
    ],
)
def test_where_two_brakes_meet_one_alone_is_enough(pair: str, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Either guard of the pair stops the action without the other; only without both does it happen."""
    action, world = case()
    order = bench.ORDER
    enough = {g.__name__ for g in order if g(action, world) is not None}
    assert len(enough) == 2, pair
    assert bench.judge(action, world).action is None
    for one in enough:
        monkeypatch.setattr(bench, "ORDER", tuple(g for g in order if g.__name__ != one))
        assert bench.judge(action, world).action is None, f"{enough - {one}} alone"
    monkeypatch.setattr(bench, "ORDER", tuple(g for g in order if g.__name__ not in enough))
    assert bench.judge(action, world).action is not None


def test_there_is_a_case_for_every_guard_and_no_other() -> None:
    assert set(CASES) == {guard.__name__ for guard in bench.ORDER}
