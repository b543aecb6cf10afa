"""Laps are measured around the rooms, also of work that fails, and what ticks of one poll share stays for all of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from forecastle.runtime.stopwatch import Stopwatch


class Room:
    """Says what it was called with; fails when told."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.size = 7

    def __len__(self) -> int:
        return self.size

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any) -> tuple[Any, ...]:
            if self.error is not None:
                raise self.error
            return (name, *args)

        return call


class Ticking:
    """A clock that moves ten nanoseconds at each look."""

    def __init__(self) -> None:
        self.at = 0

    def __call__(self) -> int:
        self.at += 10
        return self.at


@pytest.fixture
def house() -> tuple[Stopwatch, Any, Room]:
    room = Room()
    rooms = SimpleNamespace(
        intake=room,
        store=room,
        predictor=room,
        detection=room,
        ledger=room,
        decide=lambda situation: ("decide", situation),
        execute=lambda plan, situation: ("execute", plan.id, situation),
    )
    watch = Stopwatch(Ticking())
    watch.watch(rooms)  # type: ignore[arg-type]
    return watch, rooms, room


def test_every_room_answers_as_before_and_leaves_a_lap(house: tuple[Stopwatch, Any, Room]) -> None:
    watch, rooms, _ = house
    assert rooms.intake.poll(0.5) == ("poll", 0.5)
    assert rooms.store.append("s") == ("append", "s")
    assert rooms.predictor.forecast("w") == ("forecast", "w")
    assert rooms.detection.detect("w", None) == ("detect", "w", None)
    assert rooms.decide("x") == ("decide", "x")
    assert rooms.ledger.record(1, "w", ()) == ("record", 1, "w", ())
    assert rooms.execute(SimpleNamespace(id="p1"), "x") == ("execute", "p1", "x")
    laps = watch.take()
    assert [(lap.name, lap.plan) for lap in laps] == [
        ("poll", ""),
        ("window", ""),
        ("predict", ""),
        ("detect", ""),
        ("decide", ""),
        ("ledger", ""),
        ("act", "p1"),
    ]
    assert all(lap.end - lap.start == 10 for lap in laps)
    assert [lap.start for lap in laps] == sorted(lap.start for lap in laps)


def test_what_is_not_watched_is_reached_all_the_same(house: tuple[Stopwatch, Any, Room]) -> None:
    watch, rooms, room = house
    assert rooms.store.close(5) == ("close", 5)
    assert rooms.intake.commit() == ("commit",)
    assert len(rooms.store) == room.size
    assert watch.take() == []


def test_ticks_of_one_poll_share_it_and_have_their_own_rest(house: tuple[Stopwatch, Any, Room]) -> None:
    watch, rooms, _ = house
    rooms.intake.poll(0.1)
    rooms.store.append("s")
    rooms.decide("first")
    assert [lap.name for lap in watch.take()] == ["poll", "window", "decide"]
    rooms.decide("second")
    assert [lap.name for lap in watch.take()] == ["poll", "window", "decide"]
    rooms.intake.poll(0.1)
    (poll, window) = watch.take()
    assert poll.start > window.start, "the newest poll"


def test_plans_of_one_tick_have_a_lap_each(house: tuple[Stopwatch, Any, Room]) -> None:
    watch, rooms, _ = house
    for name in ("p1", "p2", "p1"):
        rooms.execute(SimpleNamespace(id=name), "x")
    assert sorted(lap.plan for lap in watch.take()) == ["p1", "p2"]


def test_work_that_fails_is_measured_and_its_error_is_the_callers(house: tuple[Stopwatch, Any, Room]) -> None:
    watch, rooms, room = house
    room.error = ConnectionError("away")
    with pytest.raises(ConnectionError, match="away"):
        rooms.intake.poll(0.1)
    assert [(lap.name, lap.end - lap.start) for lap in watch.take()] == [("poll", 10)]


def test_a_clock_that_steps_back_makes_no_negative_lap() -> None:
    times = iter((100, 40))
    watch, room = Stopwatch(lambda: next(times)), Room()
    rooms = SimpleNamespace(
        intake=room, store=room, predictor=room, detection=room, ledger=room, decide=lambda _: 1, execute=lambda *_: 2
    )
    watch.watch(rooms)  # type: ignore[arg-type]
    rooms.decide("x")
    assert [(lap.start, lap.end) for lap in watch.take()] == [(100, 100)]
