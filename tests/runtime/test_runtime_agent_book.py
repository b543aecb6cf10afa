"""What an agent remembers survives its process, all of a step or nothing of it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from forecastle.clouds.edge_messages import Order
from forecastle.errors import StoreUnavailable
from forecastle.runtime.agent_book import KEPT_MS, MOST_REFUSED, AgentBook
from forecastle.types import Action, Kind, Observed

NOW = 1_760_000_040_000
SEEN = Observed("shop-ams", 1, 1, NOW, "v1", "r1", ("a",))


def order(token: str, sequence: int = 1) -> Order:
    action = Action(Kind.SCALE, "shop", "shop-ams", 5, 1, NOW, NOW + 1000)
    return Order("ams", sequence, token, NOW + sequence, NOW + 1000, action)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "deep" / "agent.db")


def test_a_fresh_book_knows_nothing(path: str) -> None:
    with closing(AgentBook(path)) as book:
        assert (book.position(0), book.sequence, book.latest, book.letters(), book.unfinished()) == (None, 0, 0, [], [])
        assert not book.taken("t")


def test_an_open_order_is_there_for_the_next_process(path: str) -> None:
    with closing(AgentBook(path)) as book, book.writing():
        book.number(order("t", 7))
        book.take(order("t", 7), SEEN)
        book.move(3, 41)
    with closing(AgentBook(path)) as book:
        (found,) = book.unfinished()
        assert found == (order("t", 7), SEEN)
        assert (book.position(3), book.sequence, book.latest, book.taken("t")) == (42, 7, NOW + 7, True)
        assert book.answer("t") is None


def test_an_order_of_a_pool_that_could_not_be_seen(path: str) -> None:
    with closing(AgentBook(path)) as book:
        with book.writing():
            book.take(order("t"), None)
        assert book.unfinished()[0].before is None


def test_an_answer_ends_the_order_and_waits_to_be_told(path: str) -> None:
    with closing(AgentBook(path)) as book:
        with book.writing():
            book.take(order("t"), SEEN)
        with book.writing():
            book.end("t", b"answer")
        assert (book.unfinished(), book.answer("t"), [value for _, value in book.letters()]) == ([], b"answer", [b"answer"])


def cut_off(book: AgentBook) -> None:
    with book.writing():
        book.number(order("t"))
        book.take(order("t"), SEEN)
        book.move(0, 1)
        book.tell("sight", b"x")
        raise KeyboardInterrupt


def test_a_step_that_fails_leaves_nothing_behind(path: str) -> None:
    with closing(AgentBook(path)) as book:
        with pytest.raises(KeyboardInterrupt):
            cut_off(book)
        assert (book.position(0), book.sequence, book.letters(), book.taken("t")) == (None, 0, [], False)


def test_a_token_is_taken_once(path: str) -> None:
    with closing(AgentBook(path)) as book:
        with book.writing():
            book.take(order("t"), SEEN)
        with pytest.raises(StoreUnavailable), book.writing():
            book.take(order("t", 2), SEEN)


def test_numbers_of_orders_and_times_never_fall(path: str) -> None:
    with closing(AgentBook(path)) as book, book.writing():
        book.number(order("a", 9))
        book.number(order("b", 2))
        assert (book.sequence, book.latest) == (9, NOW + 9)


def test_messages_are_numbered_over_restarts(path: str) -> None:
    numbers = []
    for _ in range(3):
        with closing(AgentBook(path)) as book, book.writing():
            numbers.append(book.next_number())
    assert numbers == [1, 2, 3]


def test_of_sights_the_newest_is_told_and_of_answers_all(path: str) -> None:
    with closing(AgentBook(path)) as book:
        for number in range(3):
            with book.writing():
                book.tell("sight", f"s{number}".encode())
                book.tell("answer", f"a{number}".encode())
        assert [value for _, value in book.letters()] == [b"a0", b"a1", b"s2", b"a2"]


def test_refusals_do_not_push_answers_out(path: str) -> None:
    with closing(AgentBook(path)) as book:
        with book.writing():
            book.tell("answer", b"a")
            for number in range(MOST_REFUSED + 3):
                book.tell("refused", str(number).encode())
        told = [value for _, value in book.letters(1000)]
        assert (told[0], told[1], len(told)) == (b"a", b"3", MOST_REFUSED + 1)


def test_what_was_told_is_dropped_and_the_rest_stays(path: str) -> None:
    with closing(AgentBook(path)) as book:
        with book.writing():
            for word in (b"a", b"b", b"c"):
                book.tell("answer", word)
        book.told([number for number, _ in book.letters(2)])
        assert [value for _, value in book.letters()] == [b"c"]


def test_only_what_ended_long_ago_is_forgotten(path: str) -> None:
    with closing(AgentBook(path)) as book:
        with book.writing():
            book.take(order("ended"), SEEN)
            book.take(order("open", 2), SEEN)
            book.end("ended", b"x")
        book.forget(NOW + 1000 + KEPT_MS)
        assert book.taken("ended")
        book.forget(NOW + 1001 + KEPT_MS)
        assert (book.taken("ended"), book.taken("open")) == (False, True)


def test_a_file_that_is_no_book(tmp_path: Path) -> None:
    path = tmp_path / "agent.db"
    path.write_text("not a database, and long enough to be read as one " * 50)
    with pytest.raises(StoreUnavailable, match="the agent's memory: DatabaseError"):
        AgentBook(str(path))


def test_every_commit_is_synced(path: str) -> None:
    with closing(AgentBook(path)) as book:
        assert book._db.execute("PRAGMA synchronous").fetchone() == (2,)
        assert book._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_book_that_somebody_else_writes_to_is_unavailable(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(AgentBook(path)) as book, closing(sqlite3.connect(path, isolation_level=None)) as other:
        book._db.execute("PRAGMA busy_timeout = 10")
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="locked"), book.writing():
            pytest.fail("it is not ours to write")
