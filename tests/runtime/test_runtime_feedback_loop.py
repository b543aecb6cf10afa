"""A worker with real rooms: its incidents are in the ledger, and what is said of them moves its thresholds, in replays too."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from forecastle.intake.memory import MemoryIntake
from forecastle.runtime.clocks import EventClock
from forecastle.runtime.config import load
from forecastle.runtime.feedback import INCIDENT, say
from forecastle.runtime.loop import Loop, Turned
from forecastle.runtime.wiring import furnish
from forecastle.settings import Settings
from forecastle.types import Anomaly

STEP = 60_000
START = 1_760_000_040_000 // STEP * STEP
SPIKES = (100, 130)
TICKS = 132


def settings(folder: Path) -> Settings:
    made = {
        "window": {"look_back": 120, "lateness_s": 0},
        "predict": {"model": "", "season": 60, "horizon": 5, "coverage_window": 20},
        "detect": {"model": "", "look_back": 120, "warmup": 60, "season": 0, "group_s": 300, "close_s": 300},
        "ledger": {"url": f"sqlite:///{folder}/ledger.db", "kill_file": ""},
        "runtime": {"health": str(folder / "health.json"), "clock": "event"},
    }
    path = folder / "worker.yaml"
    path.write_text(json.dumps(made), encoding="utf-8")
    return load([path], environment={})


def waves(first: int, last: int) -> Iterable[bytes]:
    noise = np.random.default_rng(1).normal(0, 2, TICKS)
    for i in range(first, last):
        value = 100 + 10 * np.sin(i * np.pi / 30) + noise[i] + (120 if i in SPIKES else 0)
        yield json.dumps({"workload": "shop", "metric": "latency", "at": START + i * STEP, "value": value}).encode()


@contextmanager
def played(chosen: Settings, last: int) -> Iterator[tuple[Loop, list[Anomaly]]]:
    """A worker that started afresh over the ledger, after every message before ``last``, and what it called anomalous."""
    loop = furnish(chosen, intake=MemoryIntake(waves(0, last), EventClock(START + last * STEP), per_poll=5))
    found: list[Anomaly] = []

    def note(turned: Turned) -> None:
        found.extend(turned.closed.anomalies)

    loop.listeners.append(note)
    try:
        loop.resume()
        while loop.turn(0.0):
            pass
        yield loop, found
    finally:
        loop.rooms.ledger.close()


def thresholds(found: list[Anomaly], spike: int) -> list[float]:
    return [a.threshold for a in found if a.at // STEP == START // STEP + spike]


def test_a_false_alarm_moves_the_threshold_of_the_next_one(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    (tmp_path / "told").mkdir()
    with played(settings(tmp_path / "plain"), TICKS) as (_, plain):
        pass
    chosen = settings(tmp_path / "told")
    with played(chosen, 120) as (loop, before):
        entry = loop.rooms.ledger.history(kinds=[INCIDENT])[-1]
        assert entry.body["series"][0][:2] == ["shop", "latency"]
        say(loop.rooms.ledger, entry.body["id"][:8], real=False, who="ann")
    with played(chosen, TICKS) as (loop, after):
        entries = [json.dumps(e.body, sort_keys=True) for e in loop.rooms.ledger.history(kinds=[INCIDENT])]
    first, second = SPIKES
    assert thresholds(plain, first)
    assert thresholds(plain, second)
    assert thresholds(before, first) == thresholds(plain, first), "what was judged before the word stays"
    assert thresholds(after, first) in ([], thresholds(plain, first)), "so it does when a restart judges it again"
    assert thresholds(after, second) == pytest.approx([1.25 * t for t in thresholds(plain, second)], rel=1e-6)
    assert len(set(entries)) == len(entries), "a restart records nothing twice"
    assert any(entry.body["id"] in text for text in entries)
