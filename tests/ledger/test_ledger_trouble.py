"""No record, no action: whatever is wrong with the store, the caller hears StoreUnavailable and what was recorded stays."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from ledger_worlds import START, action

from forecastle.errors import StoreUnavailable
from forecastle.ledger.store import SqlLedger
from forecastle.runtime.clocks import EventClock
from forecastle.settings import LedgerSettings

FILL = """
import json, resource, signal, sys
sys.path.insert(0, sys.argv[3])
from ledger_worlds import MINUTE, START, action, plan
from forecastle.errors import StoreUnavailable
from forecastle.ledger.store import SqlLedger
from forecastle.runtime.clocks import EventClock
from forecastle.settings import LedgerSettings

ledger = SqlLedger(LedgerSettings(url=sys.argv[1], kill_file="", witness=sys.argv[2]), EventClock(START))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, 1_500_000))
told = []
for i in range(5_000):
    wanted = action(pool=f"pool-{i}", reason="x" * 500)
    try:
        if ledger.intend(wanted, epoch=ledger.lease(wanted.target, "w", 60)):
            told.append(wanted.id)
    except StoreUnavailable as error:
        print(json.dumps([told, str(error)]))
        sys.exit(0)
sys.exit("the disk never filled up")
"""


def test_a_full_disk_stops_before_the_effect_and_loses_nothing(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    url, witness = f"sqlite:///{tmp_path}/ledger.db", str(tmp_path / "witness")
    command = [sys.executable, "-c", FILL, url, witness, str(request.path.parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    told, message = json.loads(done.stdout)
    assert "the ledger's database cannot record" in message
    ledger = SqlLedger(LedgerSettings(url=url, kill_file="", witness=witness), EventClock(START))
    assert len(told) > 10
    assert {intent.action.id for intent in ledger.unfinished()} == set(told)
    assert ledger.verify() == len(told)
    assert ledger.intend(action(), epoch=ledger.lease("shop-fra", "w", 60)), "with room again it goes on"
    ledger.close()


def test_a_place_that_cannot_be_written_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreUnavailable, match=r"check ledger\.url"):
        SqlLedger(LedgerSettings(url=f"sqlite:///{tmp_path}/file/ledger.db"), EventClock())


def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_bytes(b"this is not a database" * 100)
    with pytest.raises(StoreUnavailable):
        SqlLedger(LedgerSettings(url=f"sqlite:///{tmp_path}/ledger.db"), EventClock())


def test_a_database_that_cannot_be_reached_is_unavailable() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        with pytest.raises(StoreUnavailable):
            SqlLedger(LedgerSettings(url=f"postgresql://nobody@127.0.0.1:{port}/nothing"), EventClock())


def test_a_lost_connection_is_replaced(postgres: str) -> None:
    import psycopg

    ledger = SqlLedger(LedgerSettings(url=postgres, kill_file=""), EventClock(START))
    first = ledger.lease("lost-connection", "w", 60)
    with psycopg.connect(postgres, autocommit=True) as conn:
        conn.execute("select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid()")
    assert ledger.lease("lost-connection", "w", 60) == first + 1
    ledger.close()


def test_a_connection_lost_inside_a_transaction_records_nothing(postgres: str) -> None:
    import psycopg

    ledger = SqlLedger(LedgerSettings(url=postgres, kill_file=""), EventClock(START))
    before = ledger.verify()

    def interrupted() -> None:
        with ledger.writing() as entries:
            entries.add("test", {"half": "done"})
            with psycopg.connect(postgres, autocommit=True) as conn:
                conn.execute("select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid()")
            entries.add("test", {"other": "half"})

    with pytest.raises(StoreUnavailable):
        interrupted()
    assert ledger.verify() == before
    ledger.close()
