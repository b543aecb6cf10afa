"""Change windows: local hours, midnights, both sides of daylight saving, and what cannot be read is closed."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from guard_worlds import context, fleet, fresh, heal, inventory, pool, scale, seen

from forecastle.guards.windows import change_window, open_at, spans
from forecastle.runtime.inventory import contradictions
from forecastle.settings import ChangeWindow, GuardSettings, Settings

ALL = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def window(start: str = "22:00", end: str = "04:00", zone: str = "Europe/Berlin", **more: Any) -> ChangeWindow:
    return ChangeWindow(name="night", zone=zone, start=start, end=end, **({"days": ALL} | more))


def at(local: str, zone: str = "Europe/Berlin", fold: int = 0) -> int:
    return int(datetime.fromisoformat(local).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp() * 1000)


@pytest.mark.parametrize(
    ("local", "open_"),
    [
        ("2026-01-14T21:59", False),
        ("2026-01-14T22:00", True),
        ("2026-01-15T03:59", True),
        ("2026-01-15T04:00", False),
        ("2026-07-14T22:00", True),
    ],
)
def test_a_window_over_midnight_is_open_by_local_time_in_winter_and_summer(local: str, open_: bool) -> None:
    assert open_at(window(), at(local)) is open_


def test_the_day_is_the_one_on_which_it_starts() -> None:
    friday = window(days=("fri",))
    assert open_at(friday, at("2026-01-16T23:00"))
    assert open_at(friday, at("2026-01-17T03:00")), "Saturday morning belongs to Friday's window"
    assert not open_at(friday, at("2026-01-17T23:00"))


def test_a_time_that_happens_twice_is_meant_as_the_fold_says() -> None:
    twice = "2026-10-25T02:30"  # clocks go back from 03:00 to 02:00
    first, second = window("02:30", "02:45", fold=0), window("02:30", "02:45", fold=1)
    assert open_at(first, at(twice, fold=0))
    assert not open_at(first, at(twice, fold=1))
    assert open_at(second, at(twice, fold=1))
    assert not open_at(second, at(twice, fold=0))


def test_a_time_that_never_happens_is_read_as_if_the_clocks_stood_still() -> None:
    gap = window("02:15", "02:45")  # 29 March 2026: 02:00 to 03:00 does not exist
    assert open_at(gap, at("2026-03-29T03:20")), "02:20 without the change"
    assert not open_at(gap, at("2026-03-29T03:50"))


@pytest.mark.parametrize("kind", ["scale-in", "heal", "growth"])
def test_outside_its_window_a_workload_only_grows(kind: str) -> None:
    world = _world([window("00:00", "00:01", days=())])
    action = {"scale-in": scale(9, 10), "heal": heal(), "growth": scale(14, 10)}[kind]
    objection = change_window(action, world)
    assert (objection is None) is (kind == "growth")
    assert objection is None or "outside the change windows (night)" in objection.why


def test_windows_of_other_workloads_do_not_bind() -> None:
    assert change_window(scale(9, 10), _world([window(days=(), workloads={"mail"})])) is None
    assert change_window(scale(9, 10), _world([])) is None


def test_what_cannot_be_read_is_closed_and_check_says_so() -> None:
    broken = window(zone="Europe/Atlantis")
    objection = change_window(scale(9, 10), _world([broken]))
    assert objection is not None
    assert "'Europe/Atlantis' is no IANA time zone" in objection.why
    found = list(contradictions(Settings(guards=GuardSettings(windows=(broken.model_copy(update={"workloads": {"x"}}),)))))
    assert [line.partition(":")[2].strip()[:20] for line in found] == ["zone 'Europe/Atlanti", "workload 'x' is not "]


@pytest.mark.parametrize("text", ["9:00", "24:00", "22.30", "1350", ""])
def test_times_are_written_with_two_digits(text: str) -> None:
    with pytest.raises(ValueError, match="start"):
        window(start=text)


def _world(windows: list[ChangeWindow]):
    observed = {"shop-fra": seen(10)}
    settings = GuardSettings(windows=tuple(windows))
    return context(fleet(observed=observed), inventory(pool()), fresh(0, 5), settings)


def test_all_stretches_that_meet_a_time_are_found() -> None:
    night, day = window(), 86_400_000
    begin = at("2026-01-14T12:00")
    found = list(spans(night, begin, begin + 2 * day))
    assert found == [(at(f"2026-01-{d}T22:00"), at(f"2026-01-{d + 1}T04:00")) for d in (14, 15)]
    assert list(spans(night, at("2026-01-15T03:59"), at("2026-01-15T04:00"))) == found[:1]
    assert list(spans(night, at("2026-01-15T04:00"), at("2026-01-15T22:00"))) == []
