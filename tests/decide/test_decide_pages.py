"""A human is told once per subject, again while it lasts, and can read why a plan was made."""

from __future__ import annotations

from dataclasses import replace

import pytest
from decide_worlds import (
    COLUMNS,
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
    remembered,
    seen,
    situation,
    stock,
)

from forecastle.decide.explain import explain
from forecastle.types import Action, Fleet, Kind, Mode, Outcome, Plan, Situation, Status, Windows

TEN = fleet(seen("shop-fra", 10), seen("shop-ams", 10))
BOOKS = [playbook(Kind.NOTIFY)]


def told(minutes: int, *, pool: str = "shop-fra", subject: str = "i1", late_ms: int = 0, status: Status = Status.APPLIED):
    """The outcome of a page decided so many ticks ago and delivered ``late_ms`` after its tick."""
    page = Action(Kind.NOTIFY, "shop", pool, "words", "", NOW - minutes * STEP, NOW, subject)
    return replace(outcome(Kind.NOTIFY, pool, 0, status), action_id=page.id, at=page.tick + late_ms)


def paged(state: Fleet, **changes: object) -> list[Action]:
    found = situation(640, state, incidents=[incident(opened_at=NOW - 7_200_000, **changes)])
    return actions(plans(found, stock(playbooks=BOOKS)), Kind.NOTIFY)


def test_an_incident_is_told_once_however_long_it_lasts() -> None:
    (page,) = paged(TEN)
    assert (page.pool, page.replica, page.expected) == ("shop-fra", "i1", "")
    assert page.desired == "notify-it: critical shop fra: latency spiked"
    for minutes in (1, 5, 90):
        assert paged(replace(TEN, outcomes=(told(minutes),))) == []


@pytest.mark.parametrize("late_ms", [0, 1, 59_999, 60_000, 299_999])
def test_a_page_delivered_late_was_still_delivered(late_ms: int) -> None:
    assert paged(replace(TEN, outcomes=(told(10, late_ms=late_ms),))) == []


@pytest.mark.parametrize(
    "other",
    [
        told(5, subject="i2"),
        told(5, pool="shop-ams"),
        told(5, status=Status.FAILED),
        told(5, status=Status.REFUSED),
        told(121),
    ],
)
def test_another_page_a_failed_one_or_an_older_one_does_not_count(other: object) -> None:
    assert len(paged(replace(TEN, outcomes=(other,)))) == 1


def test_another_incident_is_another_page() -> None:
    state = replace(TEN, outcomes=(told(5),))
    assert [p.replica for p in paged(state, id="i2")] == ["i2"]


def dark(slots: int) -> Situation:
    """Demand unseen for so many minutes."""
    found = situation(640, TEN, late=[RPS])
    mask = found.windows.mask.copy()
    mask[:, COLUMNS - 10 :] = True
    mask[:, COLUMNS - slots :] = False
    w = found.windows
    return replace(found, windows=Windows(w.keys, w.end, w.step_ms, w.values, mask, w.late, w.suspect))


@pytest.mark.parametrize(("slots", "pages"), [(5, 0), (6, 1)])
def test_more_than_five_dark_minutes_are_paged(slots: int, pages: int) -> None:
    found = actions(plans(dark(slots)), Kind.NOTIFY)
    assert len(found) == pages
    assert all(str(p.desired) == "DATA_DARK: no demand of shop for 360 s" for p in found)


@pytest.mark.parametrize(("minutes", "pages"), [(60, 0), (61, 1)])
def test_darkness_is_told_again_every_hour(minutes: int, pages: int) -> None:
    before = told(minutes, subject="data_dark")
    found = dark(6)
    again = replace(found, fleet=replace(found.fleet, outcomes=(before,)))
    assert len(actions(plans(again), Kind.NOTIFY)) == pages


@pytest.mark.parametrize(("budget", "cut"), [(2.2, True), (2.6, False)])
def test_a_budget_that_cuts_the_reactive_floor_is_paged_with_the_remedy(budget: float, cut: bool) -> None:
    """25 replicas are asked for by the reactive rule and 30 by the forecast; a replica costs 0.1."""
    tight = stock(load(budget_per_hour=budget))
    found = plans(situation(800, TEN, expected=960), tight)
    pages = [page for page in actions(found, Kind.NOTIFY) if page.replica == "money"]
    assert len(pages) == cut
    for page in pages:
        assert "the budget pays for 22 replicas of shop, and the reactive rule asks for 25" in str(page.desired)
        assert "what would change that: a larger budget_per_hour, its own or the fleet's" in str(page.desired)
        assert any(str(page.desired) in plan.reason for plan in found)
    before = told(30, subject="money")
    again = plans(situation(800, replace(TEN, outcomes=(before,)), expected=960), tight)
    assert "money" not in {page.replica for page in actions(again, Kind.NOTIFY)}, "once an hour"


def test_pages_go_out_in_shadow_and_during_a_hold_but_not_past_the_kill_switch() -> None:
    found = situation(640, TEN, incidents=[incident()])
    assert actions(plans(found, stock(load(mode=Mode.SHADOW), playbooks=BOOKS)), Kind.NOTIFY)
    held = replace(found, fleet=replace(TEN, held=frozenset({"shop"})))
    assert actions(plans(held, stock(playbooks=BOOKS)), Kind.NOTIFY)
    killed = replace(found, fleet=replace(TEN, killed="stop"))
    assert not actions(plans(killed, stock(playbooks=BOOKS)), Kind.NOTIFY)


# --- explaining ---


def text(found: tuple[Plan, ...]) -> str:
    assert found
    return explain(found[0])


def test_a_plan_tells_the_numbers_it_was_made_from() -> None:
    words = text(plans(situation(640, TEN, expected=768)))
    assert words.startswith(f"Plan {plans(situation(640, TEN, expected=768))[0].id} of 2025-10-09T08:54:00+00:00 in ")
    for part in (
        "shop wants 24 ready replicas and has 20 ordered, 20 ready",
        "What binds is: expected utilization",
        "rps is 640, for which the reactive rule asks 20",
        "model@1 expects 768 after the lead time of 180 s",
        "a replica-hour costs 0.1, one missing 20",
        "One fewer would do below expected demand of 736, one more is needed above 768",
        "- scale shop-ams from 10 to 14",
        "Nothing was refused.",
    ):
        assert part in words, words


def test_a_refusal_is_told_with_its_guard() -> None:
    words = text(plans(situation(640, TEN, expected=768), stock(load(mode=Mode.SHADOW))))
    assert "- no action" in words
    assert "- mode (shop-ams): shadow: would scale" in words


def test_a_plan_that_waits_for_people_says_for_how_many_and_how_long() -> None:
    words = text(plans(situation(640, TEN, expected=768), stock(load(mode=Mode.ADVISE))))
    assert "Waits for 1 people to approve it, 300 s long." in words


@pytest.mark.parametrize(
    ("demand", "expected", "words"),
    [
        (800.0, 100.0, "One fewer would do below demand of 768, one more is needed above 800"),
        (100.0, 160.0, "One fewer would do below expected demand of 128, one more is needed above 160"),
    ],
)
def test_what_would_change_the_answer(demand: float, expected: float, words: str) -> None:
    idle = replace(TEN, recommendations=remembered(2))
    assert words in text(plans(situation(demand, idle, expected=expected)))


def test_without_a_forecast_it_says_that_it_may_not_shrink() -> None:
    found = situation(1000, TEN)
    broken = replace(found, forecasts=replace(found.forecasts, values=found.forecasts.values * float("nan")))
    assert "there is no usable forecast, so it may grow but not shrink" in text(plans(broken))


def test_heals_and_pages_are_told_in_words() -> None:
    found = plans(situation(640, TEN, incidents=[incident()]), stock(playbooks=[playbook(Kind.RESTART)]))
    assert "restart shop-fra (" in text(found)
    found = plans(situation(640, TEN, incidents=[incident()]), stock(playbooks=BOOKS))
    assert "tell a human about shop-fra (i1)" in text(found)


def faults(*names: str, outcomes: tuple[Outcome, ...] = (), **books: Kind) -> list[str]:
    """Subjects of the pages about incidents of one fault that began with ``i1``; ``books`` are playbooks other than telling."""
    found = [
        incident(id=name, group="g", root="i1", anomalies=(anomaly(metric=f"of_{name}"),), opened_at=NOW - n * STEP)
        for n, name in enumerate(names)
    ]
    answers = [playbook(books.get(name, Kind.NOTIFY), metric=f"of_{name}") for name in names]
    made = plans(situation(640, replace(TEN, outcomes=outcomes), incidents=found), stock(playbooks=answers))
    return [page.replica for page in actions(made, Kind.NOTIFY)]


def test_of_one_fault_the_incident_where_it_began_is_told() -> None:
    assert faults("i3", "i1", "i2") == ["i1"]


def test_of_one_fault_whose_beginning_is_told_to_nobody_the_first_is() -> None:
    assert faults("i3", "i2") == ["i2"], "the older one"
    assert faults("i1", "i2", i1=Kind.RESTART) == ["i2"]


def test_what_a_fault_left_behind_is_no_news_once_people_know_of_it() -> None:
    assert faults("i2", outcomes=(told(30),)) == []
    assert faults("i2", outcomes=(told(30, status=Status.FAILED),)) == ["i2"]
