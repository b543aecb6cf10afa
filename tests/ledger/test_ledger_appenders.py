"""Several processes append at once, and some are killed in the middle: there is one chain, and its witness agrees."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from ledger_worlds import START

from forecastle.errors import StoreUnavailable
from forecastle.ledger.store import SqlLedger
from forecastle.runtime.clocks import EventClock
from forecastle.settings import LedgerSettings

APPEND = """
import sys
from forecastle.ledger.store import SqlLedger
from forecastle.runtime.clocks import EventClock
from forecastle.settings import LedgerSettings

url, witness, name, times = sys.argv[1:]
ledger = SqlLedger(LedgerSettings(url=url, kill_file="", witness=witness), EventClock(1_760_000_040_000))
print("ready", flush=True)
sys.stdin.readline()
for i in range(int(times)):
    with ledger.together():
        ledger.hold(f"{name}-{i}", "first", name)
        ledger.hold(f"{name}-{i}", "second", name)
    print(i, flush=True)
"""


def appender(url: str, witness: Path, name: str, times: int) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", APPEND, url, str(witness), name, str(times)]
    return subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def go(child: subprocess.Popen[str]) -> None:
    assert child.stdin
    child.stdin.write("go\n")
    child.stdin.flush()


def opened(url: str, witness: Path) -> SqlLedger:
    return SqlLedger(LedgerSettings(url=url, kill_file="", witness=str(witness)), EventClock(START))


def test_processes_that_append_at_once_make_one_chain(url: str, tmp_path: Path) -> None:
    """Two run to their end; a third is killed while it writes. What it was told is recorded, and nothing half."""
    witness = tmp_path / "witness"
    ledger = opened(url, witness)
    children = [appender(url, witness, name, times) for name, times in (("a", 20), ("b", 20), ("c", 100_000))]
    for child in children:
        assert child.stdout
        assert child.stdout.readline() == "ready\n"
    for child in children:
        go(child)
    told = -1
    for _ in range(5):
        assert children[2].stdout
        told = int(children[2].stdout.readline())
    children[2].kill()
    rest, _ = children[2].communicate()
    told = max([told, *(int(line) for line in rest.split("\n")[:-1])])
    for child in children[:2]:
        child.communicate(timeout=60)
    assert [child.returncode for child in children] == [0, 0, -9]
    entries = ledger.history(limit=100_000)
    assert ledger.verify() == len(entries)
    by_name: dict[str, list[str]] = {"a": [], "b": [], "c": []}
    for entry in reversed(entries):
        by_name[entry.body["who"]].append(f"{entry.body['target']} {entry.body['reason']}")
    for name, found in by_name.items():
        times = len(found) // 2
        assert found == [f"{name}-{i} {reason}" for i in range(times) for reason in ("first", "second")], "pairs, in order"
    assert (len(by_name["a"]), len(by_name["b"])) == (40, 40)
    assert len(by_name["c"]) // 2 >= told + 1, "what it was told is recorded"
    ledger.hold("shop", "afterwards", "ann")
    assert ledger.verify() == len(entries) + 1
    ledger.close()


def test_a_witness_on_a_full_disk_stops_before_the_effect(tmp_path: Path) -> None:
    ledger = opened(f"sqlite:///{tmp_path}/ledger.db", Path("/dev/full"))
    with pytest.raises(StoreUnavailable, match=r"No space left.*check ledger\.witness"):
        ledger.hold("shop", "looking", "ann")
    ledger.close()


def test_a_database_that_became_read_only_is_unavailable_and_still_read(tmp_path: Path) -> None:
    url, witness = f"sqlite:///{tmp_path}/ledger.db", tmp_path / "witness"
    before = opened(url, witness)
    before.hold("shop", "looking", "ann")
    with before.database._engine.connect() as conn:
        conn.exec_driver_sql("pragma query_only = on")
    with pytest.raises(StoreUnavailable, match=r"(?s)readonly.*check ledger\.url and the disk"):
        before.hold("api", "looking", "ann")
    with pytest.raises(StoreUnavailable):
        before.lease("shop-fra", "w", 60)
    assert before.held("shop").startswith("shop is held"), "human control can be read"
    assert before.verify() == 1
    before.close()


def test_an_error_in_the_database_takes_back_what_is_not_in_the_chain_too(tmp_path: Path) -> None:
    """Entry and state are one transaction: an entry that cannot be written leaves no hold behind."""
    ledger = opened(f"sqlite:///{tmp_path}/ledger.db", tmp_path / "witness")
    ledger.hold("shop", "looking", "ann")
    with ledger.database.write() as conn:
        conn.exec_driver_sql("create trigger no before insert on entries begin select raise(fail, 'disk I/O error'); end")
    with pytest.raises(Exception, match="disk I/O error"):
        ledger.hold("api", "looking", "ann")
    assert ledger.held("api") == ""
    with pytest.raises(Exception, match="disk I/O error"):
        ledger.release("shop", "ann")
    assert ledger.held("shop")
    assert ledger.verify() == 1
    assert (tmp_path / "witness").read_text().count("\n") == 1
    ledger.close()
