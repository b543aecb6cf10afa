"""One controller as a real process over files that others share: it carries out a plan, or ends what others left open.

``python worker_process.py HOLDER FOLDER recover|PLAN [POINT]``. At the named point (the ledger's ``fenced`` or ``approved``
about to be asked, or the cloud's ``apply`` done) the process stops itself with SIGSTOP, as a frozen virtual machine would.
Prints one line per outcome. ``FILE_LIMIT`` bounds the size of every file it may write, as a full disk does.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

from forecastle.clouds.sim import SimCloud
from forecastle.errors import StoreUnavailable
from forecastle.ledger.store import SqlLedger
from forecastle.runtime.clocks import WallClock
from forecastle.runtime.inventory import inventory
from forecastle.runtime.wiring import executor
from forecastle.settings import LedgerSettings, Settings

LEASE_S = 0.5


def configuration(folder: Path) -> Settings:
    """One pool, everything automatic, leases that run out quickly; the ledger and the cloud are files in ``folder``."""
    pool = {"name": "shop-fra", "site": "fra", "unit_price": 0.1, "min": 1, "max": 50, "startup_s": 0}
    load = {"name": "shop", "mode": "auto", "demands": [{"metric": "rps", "per_replica": 40}], "pools": [pool]}
    return Settings.model_validate(
        {
            "guards": {"warmup_s": 0},
            "act": {"lease_s": LEASE_S, "verify_s": 0.2},
            "ledger": {"url": f"sqlite:///{folder}/ledger.db", "witness": f"{folder}/witness", "kill_file": ""},
            "clouds": {"sim": {"adapter": "forecastle.clouds.sim:open_cloud", "options": {"path": f"{folder}/sim.db"}}},
            "fleet": {"sites": [{"name": "fra", "provider": "aws", "region": "eu"}], "workloads": [load]},
        }
    )


class Stopping:
    """A port whose process stops itself once, before (or ``after``) a call of ``point``."""

    def __init__(self, port: Any, point: str, *, after: bool = False) -> None:
        self._port, self._point, self._after = port, point, after

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._port, name)
        if name != self._point:
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            self._point = ""
            if not self._after:
                os.kill(os.getpid(), signal.SIGSTOP)
            result = found(*args, **kwargs)
            if self._after:
                os.kill(os.getpid(), signal.SIGSTOP)
            return result

        return call


def main(holder: str, folder: Path, what: str, point: str = "") -> int:
    settings, clock = configuration(folder), WallClock()
    ledger: Any = Stopping(SqlLedger(LedgerSettings(**settings.ledger.model_dump()), clock), point)
    cloud: Any = Stopping(SimCloud(clock=clock, path=f"{folder}/sim.db"), point, after=True)
    act = executor(settings, ledger, {"sim": cloud}, inventory(settings), clock, holder=holder)
    plan = None if what == "recover" else ledger.find_plan(what)
    if limit := os.environ.get("FILE_LIMIT"):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    try:
        outcomes = act.recover() if plan is None else act.execute(plan, None)
    except StoreUnavailable as error:
        print("STORE", error, flush=True)
        return 3
    for outcome in outcomes:
        print(outcome.status.value, outcome.detail, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:]))
