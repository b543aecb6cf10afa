"""The network between us and the ledger fails at every point of a record: no record, no action, and never half of one."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from act_worlds import START, World, plan, scale
from tcp_proxy import FaultProxy

from forecastle.errors import StoreUnavailable
from forecastle.ledger import database
from forecastle.ledger.store import SqlLedger
from forecastle.runtime.clocks import EventClock
from forecastle.settings import LedgerSettings
from forecastle.types import Observed, Plan, Status

HOUR = 3_600_000
_schemas = itertools.count()
OpenLedger = Callable[..., SqlLedger]


@pytest.fixture
def proxy(postgres_socket: str) -> Iterator[FaultProxy]:
    with FaultProxy(postgres_socket) as running:
        yield running


@pytest.fixture
def schema(postgres_socket: str) -> str:
    """An empty schema of the server."""
    import psycopg

    name = f"f{next(_schemas)}"
    with psycopg.connect(f"host={postgres_socket.rpartition('/')[0]} user=postgres", autocommit=True) as conn:
        conn.execute(f"create schema {name}")
    return name


@pytest.fixture
def open_ledger(proxy: FaultProxy, schema: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenLedger]:
    """Opens ledgers over the proxy; they wait one second at most."""
    monkeypatch.setattr(database, "WAIT_S", 1)
    opened: list[SqlLedger] = []

    def make(clock: EventClock | None = None) -> SqlLedger:
        url = f"postgresql://postgres@127.0.0.1:{proxy.port}/postgres?options=-csearch_path%3D{schema}"
        opened.append(SqlLedger(LedgerSettings(url=url, kill_file=""), clock or EventClock(START)))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


@pytest.fixture
def world(open_ledger: OpenLedger) -> World:
    """A cloud that counts, and an executor whose ledger is behind the proxy."""
    made = World()
    made.ledger.close()
    made.ledger = open_ledger(made.clock)
    return made


def effects(world: World) -> int:
    return world.cloud.applied


def test_while_the_ledger_is_away_nothing_is_done(world: World, proxy: FaultProxy) -> None:
    proxy.refuse()
    with pytest.raises(StoreUnavailable, match=r"check ledger\.url"):
        world.run(plan(scale()))
    with pytest.raises(StoreUnavailable):
        world.executor().recover()
    assert effects(world) == 0
    proxy.accept()
    assert world.run(plan(scale())).status is Status.APPLIED
    assert effects(world) == 1
    assert world.ledger.verify() == 2


def an_hour_later(world: World) -> Plan:
    """A plan that nothing of the past forbids."""
    world.clock.advance(world.clock.now() + 2 * HOUR)
    now = world.clock.now()
    world.cloud.state["shop-fra"] = Observed("shop-fra", 3, 3, now, f"v{now}")
    return plan(scale(tick=now), id=f"p{now}", tick=now, expires_at=now + HOUR)


def test_a_cut_anywhere_in_an_execution_never_acts_unrecorded_and_never_twice(world: World, proxy: FaultProxy) -> None:
    """The answers of one whole execution are cut after a tenth of their bytes, two tenths, and so on."""
    before = proxy.passed
    assert world.run(an_hour_later(world)).status is Status.APPLIED
    answered = proxy.passed - before
    interrupted = 0
    for tenth in range(1, 10):
        wanted, orders = an_hour_later(world), len(world.cloud.orders)
        proxy.cut_after(answered * tenth // 10)
        try:
            world.run(wanted)
        except StoreUnavailable:
            interrupted += 1
        proxy.accept()
        intended = {intent.action.id for intent in world.ledger.unfinished()}
        acted = {token for token, _ in world.cloud.orders[orders:]}
        assert acted <= intended | set(world.ledger.endings(list(acted))), "the intent is durable before the effect"
        assert world.run(wanted).status in {Status.APPLIED, Status.ALREADY}
        assert len(world.cloud.orders) == orders + 1, "once"
        assert world.ledger.unfinished() == ()
    assert interrupted > 3, "the cuts were felt"
    kinds = [entry.kind for entry in world.ledger.history()]
    assert (kinds.count("intent"), kinds.count("outcome")) == (10, 10)
    world.ledger.verify()


def test_a_commit_whose_answer_is_lost_is_either_recorded_or_not(open_ledger: OpenLedger, proxy: FaultProxy) -> None:
    ledger = open_ledger()
    ledger.hold("first", "looking", "ann")
    before = proxy.passed
    ledger.hold("second", "looking", "ann")
    answered = proxy.passed - before
    told, tried = {"first", "second"}, {"first", "second"}
    for twelfth in range(13):
        name = f"t{twelfth}"
        tried.add(name)
        proxy.cut_after(answered * twelfth // 12)
        try:
            ledger.hold(name, "looking", "ann")
        except StoreUnavailable:
            pass
        else:
            told.add(name)
        proxy.accept()
        held = {one for one in tried if ledger.held(one)}
        assert told <= held <= tried
        assert ledger.verify() == len(held), "an entry for each that holds, none for one that does not"
        told = held


def test_a_worker_that_stands_still_inside_a_transaction_stops_nobody_for_ever(open_ledger: OpenLedger) -> None:
    still, other = open_ledger(), open_ledger()
    entered, go_on, ended = threading.Event(), threading.Event(), list[Any]()

    def stand_still() -> None:
        try:
            with still.together():
                still.hold("half", "done", "ann")
                entered.set()
                go_on.wait(30)
                still.hold("other", "half", "ann")
        except StoreUnavailable as error:
            ended.append(error)

    thread = threading.Thread(target=stand_still)
    thread.start()
    assert entered.wait(30)
    try:
        until(lambda: works(lambda: other.hold("shop", "meanwhile", "bob")))
    finally:
        go_on.set()
        thread.join(30)
    assert len(ended) == 1, "the one that stood still hears that its transaction is over"
    assert (other.held("half"), other.held("other")) == ("", "")
    assert other.verify() == 1


def test_a_writer_waits_for_its_turn_but_not_for_ever(open_ledger: OpenLedger, postgres_socket: str) -> None:
    import psycopg

    ledger = open_ledger()
    with psycopg.connect(f"host={postgres_socket.rpartition('/')[0]} user=postgres") as conn:
        conn.execute(f"select pg_advisory_xact_lock({database.APPEND_LOCK})")
        assert ledger.killed() == "", "reading waits for nobody"
        with pytest.raises(StoreUnavailable, match="lock timeout"):
            ledger.hold("shop", "meanwhile", "bob")
    ledger.hold("shop", "afterwards", "bob")
    assert ledger.verify() == 1


def works(call: Callable[[], object]) -> bool:
    try:
        call()
    except StoreUnavailable:
        return False
    return True


def until(true: Callable[[], bool], limit_s: float = 120.0) -> None:
    ends = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < ends, f"not true in {limit_s} s"
        time.sleep(0.02)


def test_a_server_that_vanished_without_a_word_is_missed_soon(open_ledger: OpenLedger) -> None:
    """No packet can be dropped here, so this asks the kernel what it was told to do when nobody acknowledges."""
    ledger = open_ledger()
    with ledger.database.read() as conn:
        raw: Any = conn.connection.dbapi_connection
        with socket.socket(fileno=socket.dup(raw.pgconn.socket)) as wire:
            assert wire.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            silent = wire.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
            silent += wire.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) * wire.getsockopt(
                socket.IPPROTO_TCP, socket.TCP_KEEPCNT
            )
            assert silent <= 60, "seconds until a peer that says nothing is dead"
            assert 0 < wire.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) <= 60_000


def test_a_new_connection_into_silence_gives_up(
    open_ledger: OpenLedger, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "WAIT_S", 2)  # libpq waits two seconds at least
    proxy.go_silent()
    with pytest.raises(StoreUnavailable, match=r"check ledger\.url"):
        open_ledger()
    proxy.cut()
    proxy.accept()
    assert open_ledger().verify() == 0
