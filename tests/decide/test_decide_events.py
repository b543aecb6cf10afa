"""Planned occasions and holidays: in time, by local clocks, not counted twice, and on record."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from datetime import datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from decide_worlds import NOW, RPS, STEP, fleet, load, plans, remembered, scalings, seen, situation, stock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forecastle import occasions
from forecastle.decide.events import Ahead
from forecastle.errors import ConfigError
from forecastle.occasions import check_calendar
from forecastle.settings import GuardSettings
from forecastle.types import Event, Foreknown, Holidays, Situation, Window

TEN = fleet(seen("shop-fra", 10), seen("shop-ams", 10))
QUICK = GuardSettings(cooldown_up_s=60, stabilization_down_s=60)
patient = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def event(starts: int, steps: int, factor: float = 1.0, replicas: int = 0, name: str = "sale") -> Event:
    """An occasion that starts ``starts`` steps from now."""
    return Event(name, NOW + starts * STEP, NOW + (starts + steps) * STEP, factor, replicas)


def window(*values: float, length: int = 30) -> Window:
    """Slots that end with ``values`` and had the first of them before."""
    course = np.array([values[0]] * (length - len(values)) + list(values), np.float32)
    return Window(RPS, NOW, STEP, course, np.isfinite(course))


def ahead(*found: Event, steps: int = 10) -> Ahead:
    return Ahead.of(load(events=found), NOW, STEP, steps)


def factors(*found: Event, steps: int = 6, now: Window | None = None) -> list[float]:
    return [round(float(f), 6) for f in ahead(*found, steps=steps).factors(steps, now or window(100.0))]


def ms(zone: str, *local: int) -> int:
    return int(datetime(*local, tzinfo=ZoneInfo(zone)).timestamp() * 1000)  # type: ignore[arg-type,misc]


# --- factors ---


def test_without_an_occasion_nothing_changes() -> None:
    assert factors() == [1.0] * 6
    assert ahead().least(10) == (0, "")


def test_an_occasion_covers_its_steps_and_no_other() -> None:
    assert factors(event(2, 2, 3.0)) == [1, 1, 3, 3, 1, 1]


def test_a_step_that_it_touches_is_covered() -> None:
    late = Event("late", NOW + 2 * STEP + 1, NOW + 3 * STEP, 2.0)
    brief = Event("brief", NOW + 4 * STEP + 10, NOW + 4 * STEP + 20, 5.0)
    assert factors(late, brief) == [1, 1, 2, 1, 5, 1]


def test_what_is_over_or_beyond_the_look_ahead_is_not_seen() -> None:
    assert ahead(event(-5, 5, 2.0), event(10, 5, 2.0)).events == ()
    assert len(ahead(event(-5, 6, 2.0), event(9, 5, 2.0)).events) == 2


def test_of_several_the_largest_factor_counts() -> None:
    assert factors(event(0, 4, 2.0), event(2, 4, 3.0), event(1, 2, 0.5)) == [2, 2, 3, 3, 3, 3]
    assert factors(event(0, 4, 0.5), event(2, 4, 0.8)) == [0.5, 0.5, 0.8, 0.8, 0.8, 0.8]


@pytest.mark.parametrize(("value", "rest"), [(100, 3.0), (150, 2.0), (300, 1.0), (900, 1.0), (20, 3.0)])
def test_what_has_come_already_is_not_applied_again(value: float, rest: float) -> None:
    """Begun three steps ago from a level of 100; the factor of 3 stands for 300, whatever part of it is there."""
    assert factors(event(-3, 20, 3.0), now=window(100.0, value, value, value))[0] == pytest.approx(rest)


def test_a_flash_crowd_that_is_late_is_still_expected() -> None:
    assert factors(event(-3, 20, 3.0), now=window(100.0)) == [3.0] * 6


def test_after_a_crowd_the_forecast_is_not_lowered() -> None:
    """Half of the factor has come: the rest is due until the end, then nothing is taken away."""
    assert factors(event(-3, 5, 4.0), now=window(100.0, 200.0, 200.0, 200.0)) == [2, 2, 1, 1, 1, 1]


def test_after_a_calm_the_forecast_is_raised_back() -> None:
    calm = window(100.0, 50.0, 50.0, 50.0)
    assert factors(event(-3, 5, 0.5), now=calm) == [1, 1, 2, 2, 2, 2]


def test_a_calm_that_does_not_come_lowers_no_further_than_planned() -> None:
    assert factors(event(-3, 5, 0.5), now=window(100.0)) == [0.5, 0.5, 1, 1, 1, 1]


@pytest.mark.parametrize(
    "unknown",
    [window(0.0, 80.0, 80.0, 80.0), window(np.nan, 80.0, 80.0, 80.0), window(80.0, length=3), window(np.nan)],
    ids=["was zero", "was not seen", "too short", "nothing"],
)
def test_without_a_level_before_it_all_of_it_has_come(unknown: Window) -> None:
    assert factors(event(-4, 20, 3.0), now=unknown) == [1.0] * 6


LEARNED = (Foreknown("event", math.log(0.5), math.log(3)),)


def test_what_the_model_was_told_of_and_has_learned_is_not_multiplied_again() -> None:
    found = ahead(event(0, 2, 3.0), event(2, 2, 4.0), event(4, 2, 0.4))
    assert found.factors(6, window(100.0)).tolist() == [3, 3, 4, 4, 0.4, 0.4]
    assert found.factors(6, window(100.0), LEARNED).tolist() == [1, 1, 4, 4, 0.4, 0.4]
    assert found.factors(6, window(100.0), (Foreknown("event"),)).tolist() == [3, 3, 4, 4, 0.4, 0.4]


def test_of_what_is_the_models_nothing_has_come_for_the_others() -> None:
    """A learned occasion runs and has tripled demand; the one of 4 that is not learned has not begun."""
    now = window(100.0, 300.0, 300.0, 300.0)
    assert ahead(event(-3, 5, 3.0), event(4, 2, 4.0)).factors(6, now, LEARNED).tolist() == [1, 1, 1, 1, 4, 4]


def test_a_holiday_is_the_models_when_all_that_tells_of_it_was_learned() -> None:
    day = ms(BERLIN, 2026, 4, 6)
    half = replace(GERMANY, factor=0.6)
    found = Ahead.of(load(holidays=half), day, 60 * STEP, 6)
    plain, now = [0.6] * 6, window(100.0)
    holiday, narrow = Foreknown("holiday", 0, 1), Foreknown("event", math.log(0.7), 0)
    assert found.factors(6, now).tolist() == plain
    assert found.factors(6, now, (holiday,)).tolist() == [1] * 6
    assert found.factors(6, now, LEARNED).tolist() == [1] * 6
    assert found.factors(6, now, (holiday, *LEARNED)).tolist() == [1] * 6
    assert found.factors(6, now, (holiday, narrow)).tolist() == plain
    assert found.factors(6, now, (Foreknown("holiday"), *LEARNED)).tolist() == plain


@pytest.mark.parametrize(("known", "fallback", "times"), [((), False, 3), (LEARNED, False, 1), (LEARNED, True, 3)])
def test_a_plan_multiplies_what_was_not_told_and_what_the_stand_in_said(
    known: tuple[Foreknown, ...], fallback: bool, times: int
) -> None:
    """Thrice as much is planned; the model that was told says that demand stays."""
    sale = stock(load(events=(event(0, 30, 3.0),)))
    now = situation(300, TEN)
    rows = np.full(len(now.forecasts), fallback)
    told = replace(now, forecasts=replace(now.forecasts, known=known, fallback=rows))
    wanted = plans(situation(300, TEN, expected=300 * times), stock(load()), QUICK)[0].recommended["shop"]
    assert plans(told, sale, QUICK)[0].recommended["shop"] == wanted


@given(
    st.lists(st.tuples(st.integers(-20, 20), st.integers(1, 20), st.floats(0.1, 10)), max_size=5),
    st.floats(0, 1e6),
    st.floats(0, 1e6),
)
@patient
def test_factors_are_finite_and_within_what_was_planned(
    planned: list[tuple[int, int, float]], before: float, now: float
) -> None:
    found = ahead(*(event(*one) for one in planned), steps=20).factors(20, window(before, now))
    assert np.isfinite(found).all()
    lowest = min([1.0, *(f for _, _, f in planned)])
    highest = max([1.0, *(f for _, _, f in planned)])
    assert lowest - 1e-9 <= found.min()
    assert found.max() <= highest / lowest + 1e-9


# --- in a plan ---


def wanted(*found: Event, demand: float = 640, at: Situation | None = None, **changes: object) -> int:
    inventory = stock(load(events=found, **changes))
    return plans(at or situation(demand, TEN), inventory, QUICK)[0].recommended["shop"]


def test_growth_is_ordered_the_lead_time_before_it_begins() -> None:
    """The lead time of three minutes and a cool-down of one: the fourth minute is the last that can be ordered for now."""
    assert [wanted(event(starts, 30, 2.0)) for starts in (3, 4, 5)] == [40, 20, 20]


def test_what_is_there_is_kept_for_an_occasion_further_ahead() -> None:
    idle = replace(situation(320, TEN))
    assert wanted(event(4, 30, 2.0), at=idle) == 20, "320 take 10, but the crowd comes before letting go would be safe"
    assert wanted(event(9, 30, 2.0), at=idle) == 10


def test_least_replicas_hold_from_the_lead_time_before_until_the_end() -> None:
    assert [wanted(event(starts, 6, replicas=33)) for starts in (4, 3, 0, -5, -6)] == [20, 33, 33, 33, 20]


def test_the_occasion_is_named_where_it_binds() -> None:
    (plan, *_) = plans(situation(640, TEN), stock(load(events=(event(1, 30, replicas=33, name="black friday"),))), QUICK)
    assert plan.evidence["shop"]["binding"] == "planned: black friday"
    assert plan.evidence["shop"]["occasions"] == ["black friday"]
    assert "Known ahead: black friday." in plan.reason


def test_an_occasion_that_does_not_bind_is_in_the_evidence_too() -> None:
    (plan, *_) = plans(situation(960, TEN), stock(load(events=(event(1, 30, replicas=3),))), QUICK)
    assert plan.evidence["shop"]["occasions"] == ["sale"]
    assert "planned" not in plan.evidence["shop"]["binding"]


def test_planned_replicas_are_a_minimum_no_tolerance_cuts() -> None:
    """Twenty are ordered and 21 planned: within the tolerance of a forecast, not of a promise."""
    promised = plans(situation(640, TEN), stock(load(events=(event(0, 30, replicas=21),))), QUICK)
    assert list(scalings(promised).values()) == [(10, 11)]
    expected = plans(situation(640, TEN, expected=672), stock(load()), QUICK)
    assert expected[0].recommended["shop"] == 21
    assert scalings(expected) == {}


def test_planned_replicas_are_ordered_although_demand_cannot_be_seen() -> None:
    dark = situation(640, TEN, late=[RPS])
    found = plans(dark, stock(load(events=(event(0, 30, replicas=24),))), QUICK)
    assert sum(to - before for before, to in scalings(found).values()) == 4
    assert scalings(plans(dark, stock(load()), QUICK)) == {}


def test_planned_replicas_are_not_told_as_what_the_reactive_rule_asks() -> None:
    (plan, *_) = plans(situation(640, TEN), stock(load(events=(event(0, 30, replicas=33),))), QUICK)
    assert (plan.evidence["shop"]["floor"], plan.evidence["shop"]["reactive"]) == (33, 20)
    assert "for which the reactive rule asks 20" in plan.reason


def test_what_is_planned_is_not_scaled_in_before_it_begins() -> None:
    idle = replace(TEN, recommendations=remembered(2))
    assert scalings(plans(situation(160, idle, expected=160), stock(load()), QUICK))
    assert scalings(plans(situation(160, idle, expected=160), stock(load(events=(event(3, 30, replicas=20),))), QUICK)) == {}


def test_the_workloads_maximum_has_the_last_word() -> None:
    assert wanted(event(0, 30, replicas=500), max=40) == 40


def test_a_small_factor_never_goes_below_the_reactive_floor() -> None:
    assert wanted(event(0, 60, 0.1)) == 20
    assert wanted(event(0, 60, 0.1), demand=320) == 10


def test_without_a_forecast_the_factor_is_applied_to_what_is_measured() -> None:
    blind = situation(640, TEN)
    broken = replace(blind, forecasts=replace(blind.forecasts, values=np.full_like(blind.forecasts.values, np.nan)))
    assert wanted(at=broken) == 20
    assert wanted(event(3, 30, 2.0), at=broken) == 40
    assert wanted(event(3, 30, 0.5), at=broken) == 20, "nothing is removed on a guess"
    (plan, *_) = plans(broken, stock(load(events=(event(3, 30, 2.0),))), QUICK)
    assert plan.evidence["shop"]["binding"] == "planned factor"


def test_without_trusted_demand_least_replicas_still_hold() -> None:
    dark = situation(640, TEN, late=[RPS])
    assert wanted(event(0, 30, replicas=33), at=dark) == 33
    assert wanted(event(0, 30, replicas=3), at=dark) == 20


@given(st.integers(-10, 10), st.floats(0.2, 5.0), st.integers(0, 60), st.floats(50, 1500), st.floats(1.0, 2.0))
@patient
def test_more_load_never_wants_less(starts: int, factor: float, replicas: int, demand: float, more: float) -> None:
    one = event(starts, 15, factor, replicas)
    assert wanted(one, demand=demand) <= wanted(one, demand=demand * more)


# --- holidays ---

BERLIN = "Europe/Berlin"
GERMANY = Holidays("DE", BERLIN, factor=2.0)


def holidays(known: Holidays, start: int, hours: int) -> list[tuple[str, int, int]]:
    found = Ahead.of(load(holidays=known), start, 3_600_000, hours).events
    return [(e.name, e.start, e.end) for e in found]


def test_a_holiday_is_a_local_day() -> None:
    (found,) = holidays(GERMANY, ms(BERLIN, 2026, 10, 2, 20), 24)
    assert found == ("German Unity Day", ms(BERLIN, 2026, 10, 3), ms(BERLIN, 2026, 10, 4))
    assert found[1] % 86_400_000 == 22 * 3_600_000, "midnight in Berlin, not in Greenwich"


def test_it_begins_and_ends_to_the_millisecond() -> None:
    start, end = ms(BERLIN, 2026, 10, 3), ms(BERLIN, 2026, 10, 4)
    assert holidays(GERMANY, start - 3_600_000, 1) == []
    assert len(holidays(GERMANY, start - 3_600_000 + 1, 1)) == 1
    assert len(holidays(GERMANY, end - 1, 1)) == 1
    assert holidays(GERMANY, end, 1) == []


def test_a_day_on_which_clocks_change_is_as_long_as_it_is() -> None:
    """Easter Sunday of 2024 had 23 hours in Berlin; it is a holiday in Brandenburg."""
    easter = [e for e in holidays(replace(GERMANY, subdivision="BB"), ms(BERLIN, 2024, 3, 31), 12) if "Sunday" in e[0]]
    ((_, start, end),) = easter
    assert (end - start) / 3_600_000 == 23


def test_the_part_of_the_country_matters() -> None:
    epiphany = ms(BERLIN, 2026, 1, 6)
    assert holidays(GERMANY, epiphany, 1) == []
    assert [name for name, _, _ in holidays(replace(GERMANY, subdivision="BY"), epiphany, 1)] == ["Epiphany"]


def test_the_turn_of_the_year_is_two_calendars() -> None:
    found = holidays(Holidays("US", "America/New_York"), ms("America/New_York", 2026, 12, 24), 24 * 9)
    assert [name for name, _, _ in found] == ["Christmas Day", "New Year's Day"]


def test_a_holiday_multiplies_the_forecast_like_any_occasion() -> None:
    eve = ms(BERLIN, 2026, 10, 3) - 3 * STEP
    found = Ahead.of(load(holidays=GERMANY), eve, STEP, 6)
    assert found.factors(6, window(100.0)).tolist() == [1, 1, 1, 2, 2, 2]
    assert Ahead.of(load(holidays=replace(GERMANY, replicas=7)), eve, STEP, 6).least(4) == (7, "planned: German Unity Day")


@pytest.mark.parametrize(("country", "part"), [("XX", ""), ("DE", "ZZ")])
def test_a_calendar_nobody_knows_is_an_error_that_says_what_to_write(country: str, part: str) -> None:
    with pytest.raises(ConfigError, match=r"write a country such as DE"):
        check_calendar(Holidays(country, BERLIN, part))


def test_a_missing_package_is_an_error_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    occasions._calendar.cache_clear()
    monkeypatch.setitem(sys.modules, "holidays", None)
    with pytest.raises(ConfigError, match=r"pip install 'forecastle\[holidays\]'"):
        check_calendar(GERMANY)


def test_a_workload_without_holidays_needs_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "holidays", None)
    assert plans(situation(640, TEN), stock(load(events=(event(1, 5, 2.0),))))
