"""The worker around the loop: shifts that end, trouble that is waited out, and one role that has one holder at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from forecastle.errors import BrokerUnavailable, LedgerCorrupt, StoreUnavailable
from forecastle.runtime.health import HealthFile, Heartbeat, read
from forecastle.runtime.loop import Closed, Turned
from forecastle.runtime.worker import stopping, work
from forecastle.types import Anomaly, AnomalyKind, Drift, Forecasts, Incident, SeriesKey, Severity, Windows

STEP = 60_000
KEY = SeriesKey("shop", "rps")
HOLD_ROLE = """
import pathlib, sys, threading
from forecastle.runtime.worker import role
with role(pathlib.Path(sys.argv[1]), threading.Event()) as held:
    print("held" if held else "not held", flush=True)
    sys.stdin.read()
"""


def incident(severity: Severity, workload: str = "shop", site: str = "") -> Incident:
    return Incident(severity.value, workload, site, severity, 0, 0, (Anomaly(KEY, 0, 1, 1, AnomalyKind.DIP),), 1, "slow")


def closed(tick: int, *incidents: Incident, fallback: bool = False, drift: Sequence[Drift] = ()) -> Closed:
    none = np.zeros((1, 1), np.float32)
    flags = np.zeros(1, np.bool_)
    windows = Windows((KEY,), tick, STEP, none, none > 0, flags, flags)
    made = Forecasts((KEY,), tick, STEP, (0.5,), none[:, :, None], "mixer@1", np.array([fallback]), (), tuple(drift))
    return Closed(tick, windows, made, (), incidents)


class Turns:
    """What `work` needs of a loop; each turn is a step of the script, the last of which asks the worker to stop."""

    def __init__(self, *script: Callable[[Turns], None], stop: threading.Event, resume_fails: int = 0) -> None:
        self.script = list(script)
        self.stop = stop
        self.resume_fails = resume_fails
        self.listeners: list[Callable[[Turned], None]] = []
        self.last_tick = 0
        self.turns = 0
        self.resumed = 0
        self.rooms: Any = SimpleNamespace(store=[KEY])

    def resume(self) -> None:
        self.resumed += 1
        if self.resume_fails:
            self.resume_fails -= 1
            raise StoreUnavailable("no ledger", retry_after=0.0)

    def turn(self, _timeout_s: float) -> int:
        self.turns += 1
        if not self.script:
            self.stop.set()
            return 0
        self.script.pop(0)(self)
        return 5

    def tell(self, turned: Turned) -> None:
        self.last_tick = turned.closed.tick
        for listener in self.listeners:
            listener(turned)


def worked(tmp_path: Path, *script: Callable[[Turns], None], **changes: Any) -> tuple[Turns, list[Heartbeat]]:
    """Run a worker over the script; every heartbeat that was written after a step."""
    stop, path, beats = threading.Event(), tmp_path / "health.json", []

    def noting(step: Callable[[Turns], None]) -> Callable[[Turns], None]:
        def call(turns: Turns) -> None:
            try:
                step(turns)
            finally:
                beats.append(read(path))

        return call

    turns = Turns(*map(noting, script), stop=stop, resume_fails=changes.pop("resume_fails", 0))
    work(turns, HealthFile(path, "w"), stop, **changes)  # type: ignore[arg-type]
    beats.append(read(path))
    return turns, beats


def test_a_heartbeat_says_what_was_decided_last_and_what_is_wrong(tmp_path: Path) -> None:
    grave, site, calm = incident(Severity.CRITICAL), incident(Severity.WARNING, "", "fra"), incident(Severity.INFO)
    _, beats = worked(
        tmp_path,
        lambda t: t.tell(Turned(closed(STEP), rebuilt=True)),
        lambda t: t.tell(Turned(closed(2 * STEP, grave, site, calm))),
        lambda t: t.tell(Turned(closed(3 * STEP, fallback=True))),
    )
    assert [b.state for b in beats] == ["REBUILDING", "RUNNING", "RUNNING", "STOPPED"]
    assert [b.last_tick for b in beats] == [STEP, 2 * STEP, 3 * STEP, 3 * STEP]
    assert beats[1].incidents == {"critical": "critical shop: slow", "warning": "warning fra: slow"}
    assert [b.model for b in beats[:3]] == ["mixer@1", "mixer@1", "seasonal-naive"]
    assert beats[2].incidents == {}
    assert (beats[-1].samples, beats[-1].series) == (15, 1)


def test_a_heartbeat_says_what_drift_is_raised_of_the_model(tmp_path: Path) -> None:
    kinds = [Drift(kind, raised, 0.5, 10, 0.25, KEY, 7.25, 4.0) for kind, raised in (("error", True), ("input", False))]
    both = [kinds[0], replace(kinds[1], raised=True)]
    told = [closed(STEP), *(closed(tick * STEP, drift=drift) for tick, drift in ((2, kinds), (3, both), (4, kinds[1:])))]
    _, beats = worked(tmp_path, *(lambda t, one=one: t.tell(Turned(one)) for one in told))  # type: ignore[misc]
    words = "{} drift: 50% of 10 series are beyond 4 (limit 25%), worst shop:rps at 7.25"
    error, value = words.format("error"), words.format("input")
    assert [b.drift for b in beats[:4]] == [{}, {"mixer@1": error}, {"mixer@1": f"{error}; {value}"}, {}]


def fail(error: Exception) -> Callable[[Turns], None]:
    def step(_turns: Turns) -> None:
        raise error

    return step


def test_transient_trouble_is_held_and_then_goes_on(tmp_path: Path) -> None:
    away = BrokerUnavailable("broker away", retry_after=0.0)
    turns, beats = worked(tmp_path, fail(away), fail(away), lambda t: None, lambda t: None, resume_fails=2)
    assert turns.resumed == 3
    assert [b.state for b in beats[:3]] == ["REBUILDING", "HOLD", "HOLD"], "as written when the step began"
    assert beats[1].detail == "broker away"
    assert beats[1].hold_since == beats[2].hold_since > 0
    assert (beats[3].state, beats[3].detail, beats[3].hold_since) == ("RUNNING", "", 0)


def test_permanent_trouble_ends_the_worker(tmp_path: Path) -> None:
    with pytest.raises(LedgerCorrupt):
        worked(tmp_path, fail(LedgerCorrupt("chain broken")))


def test_a_shift_ends_by_itself(tmp_path: Path) -> None:
    turns, beats = worked(tmp_path, *[lambda t: None] * 1000, shift_s=0.0)
    assert turns.turns == 0
    assert beats[-1].state == "STOPPED"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_to_stop_and_handlers_come_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stopping() as stop:
        os.kill(os.getpid(), number)
        assert stop.wait(5)
    assert signal.getsignal(number) is before


def holder(lock: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLD_ROLE, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("end", ["kill", "close"])
def test_the_kernel_passes_a_role_on_however_its_holder_ends(tmp_path: Path, end: str) -> None:
    lock, order = tmp_path / "deep" / "role.lock", []
    first = holder(lock)
    assert first.stdout
    assert first.stdin
    assert first.stdout.readline() == "held\n"
    second = holder(lock)
    waiting = threading.Thread(target=lambda: order.append(second.stdout.readline() if second.stdout else ""))
    waiting.start()
    waiting.join(1.0)
    assert order == [], "one holder at a time"
    first.kill() if end == "kill" else first.stdin.close()
    waiting.join(30)
    assert order == ["held\n"]
    for child in (first, second):
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            pipe.close()  # type: ignore[union-attr]
