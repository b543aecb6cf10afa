"""One fault, many incidents: which belong together by the call graph and time, where they began, and what keeps them stable."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from detect_worlds import START, STEP

from forecastle.detect.incidents import IncidentBook
from forecastle.settings import DetectSettings
from forecastle.types import Anomaly, AnomalyKind, Demand, Incident, SeriesKey, Workload

SHOP = {"web": ("cart", "pay"), "cart": ("db",), "pay": ("db",), "mail": ("smtp",)}
SETTINGS = DetectSettings(group_s=600, close_s=900, topology=SHOP)


def anomaly(
    workload: str, minute: int = 0, site: str = "eu", metric: str = "latency", size: float = 20.0, **evidence
) -> Anomaly:
    at = START + minute * STEP
    known = {"families": ["residual"], "expected": 1.0, "actual": 2.0, "departure": size, "onset": at}
    key = SeriesKey(workload, metric, (("site", site),) if site else ())
    return Anomaly(key, at, 2.0, 1.5, AnomalyKind.SPIKE, {**known, **evidence})


def play(book: IncidentBook, *found: Anomaly, minute: int = 0) -> dict[str, Incident]:
    return {i.workload: i for i in book.update(found, START + minute * STEP)}


def roots(found: dict[str, Incident]) -> set[str]:
    """Workloads of the roots of all groups, and of what is told for itself."""
    names = {i.id: i.workload for i in found.values()}
    return {names.get(i.root or i.id, "over") for i in found.values()}


def test_one_fault_in_a_chain_is_one_group_that_began_at_its_end() -> None:
    found = play(IncidentBook(SETTINGS), anomaly("web", size=60), anomaly("cart"), anomaly("pay"), anomaly("db"))
    assert len(found) == 4, "what is healed stays apart"
    assert len({i.group for i in found.values()}) == 1
    assert {i.root for i in found.values()} == {found["db"].id}


def test_without_a_call_graph_nothing_is_grouped() -> None:
    found = play(IncidentBook(DetectSettings()), anomaly("web"), anomaly("db"))
    assert {(i.group, i.root) for i in found.values()} == {("", "")}


def test_what_does_not_call_the_other_is_told_for_itself() -> None:
    found = play(IncidentBook(SETTINGS), anomaly("cart"), anomaly("pay"), anomaly("mail"), anomaly("unknown"))
    assert {(i.group, i.root) for i in found.values()} == {("", "")}


def test_two_faults_in_two_chains_are_two_groups() -> None:
    found = play(IncidentBook(SETTINGS), *(anomaly(name) for name in ("web", "db", "mail", "smtp")))
    assert found["web"].group == found["db"].group != found["mail"].group == found["smtp"].group
    assert roots(found) == {"db", "smtp"}


def test_one_workload_at_two_sites_is_one_fault_if_the_call_graph_names_it() -> None:
    known = IncidentBook(SETTINGS).update([anomaly("db"), anomaly("db", site="us")], START)
    assert len({i.group for i in known} - {""}) == 1
    assert len({i.root for i in known}) == 1
    foreign = IncidentBook(SETTINGS).update([anomaly("x"), anomaly("x", site="us")], START)
    assert {i.group for i in foreign} == {""}


def test_a_victim_seen_first_makes_way_for_the_cause() -> None:
    book = IncidentBook(SETTINGS)
    assert play(book, anomaly("web"))["web"].root == ""
    found = play(book, anomaly("db", 1, size=90, onset=START), minute=1)
    assert roots(found) == {"db"}
    again = play(book, anomaly("web", 2, size=5000.0, metric="errors"), anomaly("web", 2, size=5000.0), minute=2)
    assert roots(again) == {"db"}, "a root moves down the calls only"
    assert {i.group for i in again.values()} == {i.group for i in found.values()}


def test_trouble_long_before_is_not_explained_by_what_it_calls() -> None:
    book = IncidentBook(SETTINGS)
    for minute in range(0, 30, 5):
        play(book, anomaly("web", minute), minute=minute)
    found = play(book, anomaly("web", 30), anomaly("db", 30), minute=30)
    assert roots(found) == {"web", "db"}
    assert {i.group for i in found.values()} == {""}


def test_trouble_long_after_is_explained_while_what_it_calls_is_in_trouble() -> None:
    book = IncidentBook(SETTINGS)
    for minute in range(0, 30, 5):
        play(book, anomaly("db", minute), minute=minute)
    assert roots(play(book, anomaly("web", 30), minute=30)) == {"db"}


@pytest.mark.parametrize(("minutes", "group"), [(10, 1), (11, 0)])
def test_what_does_not_meet_in_time_is_apart(minutes: int, group: int) -> None:
    book = IncidentBook(SETTINGS)
    play(book, anomaly("db"))
    found = play(book, anomaly("web", minutes), minute=minutes)
    assert len({i.group for i in found.values()} - {""}) == group


def test_a_root_that_is_over_stays_the_root_of_what_it_left_behind() -> None:
    book = IncidentBook(SETTINGS)
    first = play(book, anomaly("web", size=60), anomaly("db"))
    for minute in range(1, 15):
        play(book, anomaly("web", minute), minute=minute)
    (web,) = play(book, anomaly("web", 15), minute=15).values()
    assert [i.workload for i in book.closed] == ["db"]
    assert (web.group, web.root) == (first["db"].group, first["db"].id)
    assert (book.closed[0].group, book.closed[0].root) == (web.group, web.root)
    back = play(book, anomaly("db", 16, size=90), minute=16)
    assert back["db"].group == web.group or back["db"].group == ""


def test_a_group_that_is_over_is_forgotten() -> None:
    book = IncidentBook(SETTINGS)
    play(book, anomaly("web"), anomaly("db"))
    assert book._roots
    assert play(book, minute=15) == {}
    assert book._roots == {}
    later = play(book, anomaly("web", 16), minute=16)
    assert later["web"].group == ""


def test_a_threat_and_a_silent_site_keep_their_own_page() -> None:
    threat = play(IncidentBook(SETTINGS), anomaly("web"), anomaly("db", metric="auth_failures"))
    assert {(i.group, i.root) for i in threat.values()} == {("", "")}
    lost = {"lost": 1.0, "site_lost": 1.0, "site_workloads": 5.0}
    site = IncidentBook(SETTINGS).update([anomaly("db", site="us", **lost), anomaly("web"), anomaly("db")], START)
    assert {i.group == "" for i in site if i.workload == "*"} == {True}
    assert len({i.group for i in site if i.workload != "*"}) == 1


def test_what_turns_out_to_be_a_threat_leaves_its_group() -> None:
    book = IncidentBook(SETTINGS)
    assert roots(play(book, anomaly("web"), anomaly("cart"), anomaly("db"))) == {"db"}
    found = play(book, anomaly("db", 1, metric="auth_failures"), anomaly("web", 1), anomaly("cart", 1), minute=1)
    assert found["db"].group == ""
    assert found["web"].group == found["cart"].group != ""
    assert roots(found) == {"db", "cart"}


def test_workloads_of_different_residency_are_told_apart() -> None:
    loads = {
        name: Workload(name, (Demand(SeriesKey(name, "rps"), 1.0),), (), residency=frozenset(where))
        for name, where in (("web", ()), ("cart", ("EU",)), ("db", ("EU",)))
    }
    found = play(IncidentBook(SETTINGS, loads), anomaly("web"), anomaly("cart"), anomaly("db"))
    assert roots(found) == {"web", "db"}
    assert found["web"].group == ""


def test_groups_that_meet_become_the_older_one() -> None:
    book = IncidentBook(DetectSettings(group_s=600, close_s=900, topology={"a": ("b",), "c": ("d",), "b": ("d",)}))
    one = play(book, anomaly("a"), anomaly("b"))
    two = play(book, anomaly("c", 1), minute=1)
    assert two["c"].group == ""
    both = play(book, anomaly("d", 2, size=90.0), minute=2)
    assert {i.group for i in both.values()} == {one["a"].group}
    assert roots(both) == {"d"}


WORKLOADS = st.sampled_from(["web", "cart", "pay", "db", "mail"])
TICKS = st.lists(st.lists(st.tuples(WORKLOADS, st.sampled_from(["eu", "us"]), st.integers(3, 99)), max_size=5), max_size=20)


@hypothesis(max_examples=40, deadline=None)
@given(TICKS, st.randoms(use_true_random=False))
def test_groups_do_not_depend_on_the_order_and_every_root_is_one_of_its_group(ticks, random) -> None:
    one, other, known = IncidentBook(SETTINGS), IncidentBook(SETTINGS), {}
    for minute, told in enumerate(ticks):
        found = list({(w, s): anomaly(w, 3 * minute, s, size=float(size)) for w, s, size in told}.values())
        shuffled = found.copy()
        random.shuffle(shuffled)
        at = START + 3 * minute * STEP
        left, right = one.update(found, at), other.update(shuffled, at)
        assert [(i.id, i.group, i.root, i.cause) for i in left] == [(i.id, i.group, i.root, i.cause) for i in right]
        known |= {i.id: i.group for i in left}
        assert all(known[i.root] == i.group or i.root not in {x.id for x in left} for i in left if i.group)
        assert all(bool(i.group) == bool(i.root) for i in left)


def test_a_replay_that_reaches_the_opening_repeats_the_groups() -> None:
    rng, names = np.random.default_rng(3), ("web", "cart", "pay", "db")
    ticks = {
        minute: [anomaly(names[rng.integers(4)], minute, size=float(rng.integers(3, 90)))] if minute % 50 < 20 else []
        for minute in range(300)
    }
    whole, part, grouped = IncidentBook(SETTINGS), IncidentBook(SETTINGS), 0
    for minute, found in ticks.items():
        expected = whole.update(found, START + minute * STEP)
        grouped += any(i.group for i in expected)
        if minute >= 100:
            assert part.update(found, START + minute * STEP) == expected
    assert grouped > 50
