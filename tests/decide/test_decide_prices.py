"""Price books: which row of which version is in force, what two of them may not both say."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecastle.decide.prices import FIELDS, Book, Commitment, Point, Price, Quote, Shelf, contradictions, same_zone

AWS = Point("aws", "eu-central-1", "", "m6i.large")
ZONE_A = AWS._replace(zone="a")
ZONE_B = AWS._replace(zone="b")
LATE = 1 << 40


def book(*rows: Price, name: str = "list", version: int = 1, since: int = 0, **more: Any) -> Book:
    return Book(name, version, more.pop("currency", "USD"), since, rows, source=f"{name}-{version}.yaml", **more)


def row(point: Point = AWS, since: int = 0, line: int = 9, **said: Any) -> Price:
    return Price(point, since, line=line, **said)


# --- which price is in force ----------------------------------------------------------------------------------------


def test_a_quote_names_the_book_and_leaves_open_what_nobody_says() -> None:
    shelf = Shelf((book(row(price=0.1)),))
    assert shelf.quote(AWS, 5) == Quote(("list@1",), price=0.1)
    assert shelf.currency == "USD"


@pytest.mark.parametrize(
    "point",
    [AWS._replace(sku="m6i"), AWS._replace(region="eu-central-2"), AWS._replace(provider="gcp"), AWS._replace(sku="M6I.large")],
)
def test_another_point_has_no_price(point: Point) -> None:
    assert Shelf((book(row(price=0.1)),)).quote(point, 5) is None


def test_nothing_is_in_force_before_the_first_version_or_without_books() -> None:
    shelf = Shelf((book(row(since=10, price=0.1), since=10),))
    assert shelf.quote(AWS, 9) is None
    assert shelf.quote(AWS, 10) is not None
    assert Shelf().quote(AWS, 10) is None
    assert Shelf().currency == ""


def test_a_version_is_in_force_from_its_first_millisecond_to_its_successors() -> None:
    shelf = Shelf((book(row(price=0.1)), book(row(since=100, price=0.2), version=2, since=100)))
    assert [shelf.quote(AWS, at).price for at in (99, 100)] == [0.1, 0.2]  # type: ignore[union-attr]


def test_a_version_is_complete_in_itself_so_a_sku_left_out_has_no_price_any_more() -> None:
    shelf = Shelf((book(row(price=0.1)), book(row(AWS._replace(sku="c7i"), 100, price=0.2), version=2, since=100)))
    assert shelf.quote(AWS, 99) is not None
    assert shelf.quote(AWS, 100) is None


def test_a_version_that_ended_brings_no_older_one_back() -> None:
    shelf = Shelf((book(row(price=0.1)), book(row(since=100, price=0.2), version=2, since=100, until=200)))
    assert shelf.quote(AWS, 199) == Quote(("list@2",), price=0.2)
    assert shelf.quote(AWS, 200) is None


def test_the_zone_says_what_it_says_and_the_region_the_rest() -> None:
    rows = (
        row(price=0.1, spot_price=0.05, interruptions_h=0.01, egress_price=0.09, commitment=Commitment(2, 0.06)),
        row(ZONE_A, spot_price=0.03),
    )
    shelf = Shelf((book(*rows),))
    assert shelf.quote(ZONE_A, 1) == Quote(("list@1",), 0.1, 0.03, 0.01, Commitment(2, 0.06), 0.09)
    assert shelf.quote(ZONE_B, 1) == Quote(("list@1",), 0.1, 0.05, 0.01, Commitment(2, 0.06), 0.09)
    assert shelf.quote(AWS, 1) == shelf.quote(ZONE_B, 1), "a site without a zone gets the region's"


def test_the_newest_row_wins_for_each_field_of_its_own() -> None:
    rows = (row(ZONE_A, 0, price=0.1, spot_price=0.05), row(ZONE_A, 50, spot_price=0.02), row(ZONE_A, 80, spot_price=0.04))
    shelf = Shelf((book(*rows[::-1]),))
    found = [shelf.quote(ZONE_A, at) for at in (49, 50, 79, 80)]
    assert [(q.price, q.spot_price) for q in found if q] == [(0.1, 0.05), (0.1, 0.02), (0.1, 0.02), (0.1, 0.04)]


def test_two_books_may_say_different_things_of_one_point() -> None:
    books = (book(row(price=0.1)), book(row(ZONE_A, spot_price=0.03), name="spot", version=7))
    assert list(contradictions(books)) == []
    assert Shelf(books).quote(ZONE_A, 1) == Quote(("list@1", "spot@7"), price=0.1, spot_price=0.03)


def test_a_price_of_nothing_is_a_price() -> None:
    rows = (row(price=0.1, interruptions_h=1.0), row(ZONE_A, price=0.0, interruptions_h=0.0))
    assert Shelf((book(*rows),)).quote(ZONE_A, 1) == Quote(("list@1",), price=0.0, interruptions_h=0.0)


@pytest.mark.parametrize(
    ("region", "a", "b", "same"),
    [
        ("eu-central-1", "a", "eu-central-1a", True),
        ("eu-central-1", "eu-central-1a", "eu-central-1a", True),
        ("europe-west4", "b", "europe-west4-b", True),
        ("eu-central-1", "a", "eu-central-1b", False),
        ("eu-central-1", "", "eu-central-1a", False),
        ("eu-central-1", "euc1-az2", "euc1-az2", True),
        ("westeurope", "1", "2", False),
    ],
)
def test_zones_are_the_same_however_they_are_spelled(region: str, a: str, b: str, same: bool) -> None:
    assert same_zone(region, a, b) is same_zone(region, b, a) is same


def test_points_are_those_that_have_begun() -> None:
    shelf = Shelf((book(row(price=0.1), row(ZONE_A, 10, spot_price=0.1)), book(row(since=5, price=1), version=2, since=99)))
    assert shelf.points(9) == [AWS]
    assert shelf.points(10) == [AWS, ZONE_A]
    assert [str(p) for p in shelf.points(10)] == ["m6i.large in aws/eu-central-1", "m6i.large in aws/eu-central-1/a"]


@st.composite
def histories(draw: st.DrawFn) -> Shelf:
    """A book of some versions with rows of two zones and the region at random times."""
    starts = sorted(draw(st.sets(st.integers(0, 60), min_size=1, max_size=4)))
    versions = []
    for number, since in enumerate(starts, 1):
        times = draw(
            st.lists(st.tuples(st.sampled_from([AWS, ZONE_A, ZONE_B]), st.integers(since, 80)), unique=True, max_size=5)
        )
        rows = [
            row(point, at, price=draw(st.floats(0, 9)), spot_price=draw(st.none() | st.floats(0, 9))) for point, at in times
        ]
        until = draw(st.none() | st.integers(since + 1, 90)) if number == len(starts) else None
        versions.append(book(*rows, version=number, since=since, until=until))
    return Shelf(tuple(draw(st.permutations(versions))))


@settings(max_examples=80, deadline=None)
@given(histories(), st.sampled_from([AWS, ZONE_A, ZONE_B]))
def test_between_two_changes_the_price_stands_still(shelf: Shelf, point: Point) -> None:
    times = [0, *shelf.changes(point, 0, 100), 100]
    for start, end in pairwise(times):
        quotes = {shelf.quote(point, at) for at in (start, (start + end) // 2, end - 1)}
        assert len(quotes) == 1, (start, end, quotes)


@settings(max_examples=80, deadline=None)
@given(histories(), st.integers(0, 100))
def test_what_a_quote_says_is_said_by_a_row_that_has_begun(shelf: Shelf, at: int) -> None:
    assert list(contradictions(shelf.books)) == []
    quote = shelf.quote(ZONE_A, at)
    rows = [r for b in shelf.in_force(at) for r in b.prices if r.since <= at and r.point in (AWS, ZONE_A)]
    if quote is None:
        assert rows == []
    else:
        assert all(getattr(quote, name) in {getattr(r, name) for r in rows} | {None} for name in FIELDS)
        assert quote.price is not None, "every row here has a price"


def test_changes_are_inside_and_ascending() -> None:
    shelf = Shelf((book(row(price=1), row(ZONE_A, 30, price=2), until=80), book(row(ZONE_B, 20, spot_price=2), name="x")))
    assert shelf.changes(ZONE_A, 0, 100) == [30, 80], "zone b is another matter"
    assert shelf.changes(ZONE_B, 0, 100) == [20, 80]
    assert shelf.changes(ZONE_A, 30, 80) == []
    assert shelf.changes(AWS._replace(sku="c7i"), 0, 100) == [80], "a version's end may be the end of any price"


# --- what contradicts itself ----------------------------------------------------------------------------------------


def lines(**numbers: int) -> dict[str, Any]:
    return {"lines": numbers}


@pytest.mark.parametrize(
    ("books", "says"),
    [
        (
            [
                book(row(price=1), **lines(currency=3)),
                book(row(spot_price=1), name="spot", currency="EUR", **lines(currency=4)),
            ],
            "spot-1.yaml:4: is in EUR, but list-1.yaml:3 in USD; convert one of them: prices are compared and added",
        ),
        (
            [book(row(price=1), until=0, **lines(valid_until=5))],
            "list-1.yaml:5: is not after valid_from; exchange them",
        ),
        (
            [book(row(since=5, price=1, line=8), since=6)],
            "list-1.yaml:8: m6i.large in aws/eu-central-1 begins before its book; move valid_from of the book or of the row",
        ),
        (
            [book(row(price=1, line=8), row(price=2, line=9))],
            (
                "list-1.yaml:9: price of m6i.large in aws/eu-central-1 is said already at list-1.yaml:8 for the same time; "
                "keep one, or give this row a later valid_from"
            ),
        ),
        (
            [book(row(ZONE_A, spot_price=1, line=8), row(AWS._replace(zone="eu-central-1a"), spot_price=2, line=9))],
            (
                "list-1.yaml:9: spot_price of m6i.large in aws/eu-central-1/eu-central-1a is said already at list-1.yaml:8 for "
                "the same time; keep one, or give this row a later valid_from"
            ),
        ),
        (
            [
                book(row(price=1), **lines(version=2)),
                replace(book(row(since=9, price=1), since=9, **lines(version=3)), source="b.yaml"),
            ],
            "b.yaml:3: list version 1 is in list-1.yaml:2 already; count on",
        ),
        (
            [book(row(since=9, price=1), since=9, **lines(valid_from=4)), book(row(since=9, price=1), version=2, since=9)],
            "list-2.yaml: list version 2 begins no later than version 1 (list-1.yaml:4); give it a later valid_from",
        ),
        (
            [book(row(price=1), until=20, **lines(valid_until=4)), book(row(since=9, price=1), version=2, since=9)],
            (
                "list-2.yaml: list version 2 begins before version 1 ends (list-1.yaml:4); leave valid_until away, "
                "a new version ends the one before"
            ),
        ),
        (
            [book(row(price=1, line=7)), book(row(since=5, price=2, line=6), name="more", since=5)],
            (
                "more-1.yaml:6: price of m6i.large in aws/eu-central-1 is also said by book list (list-1.yaml:7) for the same "
                "time; take it out of one of the two"
            ),
        ),
    ],
    ids=["currency", "until", "early", "twice", "spelling", "version", "order", "overlap", "books"],
)
def test_contradictions_name_file_line_and_fix(books: list[Book], says: str) -> None:
    assert list(contradictions(books)) == [says]


def test_books_that_follow_each_other_do_not_overlap() -> None:
    old = book(row(price=1), until=50)
    new = book(row(since=50, price=2), name="new", since=50)
    assert list(contradictions([old, new])) == []
    assert list(contradictions([new, replace(old, until=51)])) != []


def test_a_book_that_gave_a_point_up_leaves_it_to_others() -> None:
    other = AWS._replace(sku="c7i")
    gone = [book(row(price=1)), book(row(other, 50, price=1), version=2, since=50)]
    taker = book(row(since=50, price=2), name="taker", since=50)
    assert list(contradictions([*gone, taker])) == []
    assert Shelf((*gone, taker)).quote(AWS, 60) == Quote(("taker@1",), price=2)


def test_every_contradiction_is_told() -> None:
    books = [
        book(row(price=1), row(price=1, line=10), row(ZONE_A, spot_price=1), row(ZONE_A, spot_price=1, line=12)),
        book(row(since=0, price=1), version=2, since=0, currency="EUR", until=LATE),
    ]
    found = list(contradictions(books))
    assert len(found) == 4, found
    assert any(":12: spot_price" in line for line in found)
