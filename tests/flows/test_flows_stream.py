"""The stream flow with real workers, a real broker and a real Prefect: restarts, hand-overs, and news told once."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from flow_worlds import START, STEP, arrived, configuration, ledger_of, message, orders, settings_of

from flows.stream import Watch, command, stream, told_before
from forecastle.intake.publish import create_topics
from forecastle.runtime.broker import LocalBroker
from forecastle.runtime.health import Heartbeat, read

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.broker]


@pytest.fixture
def config(tmp_path: Path, broker: LocalBroker, topic_name: Callable[[str], str]) -> Path:
    topic, group = topic_name("stream"), topic_name("group")
    intake = {
        "bootstrap": broker.bootstrap,
        "topics": [topic],
        "codecs": {topic: "json"},
        "group": group,
        "dead_letter_topic": f"{topic}.dead",
    }
    made = configuration(tmp_path, intake=intake)
    create_topics(settings_of(made).intake, [topic, f"{topic}.dead"], partitions=1)
    return made


@asynccontextmanager
async def feeding(config: Path, every_s: float = 0.1) -> AsyncIterator[None]:
    """A minute of measurements every ``every_s``, from the past until the block ends."""
    from kafka import KafkaProducer

    intake = settings_of(config).intake
    producer = KafkaProducer(bootstrap_servers=intake.bootstrap)

    async def feed() -> None:
        tick = 0
        while True:
            producer.send(intake.topics[0], message(tick), key=b"shop", timestamp_ms=START + tick * STEP)
            tick += 1
            await asyncio.sleep(every_s)

    task = asyncio.create_task(feed())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.to_thread(producer.close)


async def beat(
    config: Path, what: str, wanted: Callable[[Heartbeat], bool], worker: str = "w", seconds: float = 90
) -> Heartbeat:
    """The first heartbeat of the worker that is as wanted."""
    path, ends = config.parent / f"{worker}.json", time.monotonic() + seconds
    while time.monotonic() < ends:
        found = read(path)
        if found is not None and wanted(found):
            return found
        await asyncio.sleep(0.05)
    pytest.fail(f"waited {seconds:.0f} s for {what}: {read(path)}")


def alive(not_pids: list[int], after: int) -> Callable[[Heartbeat], bool]:
    """A worker other than those, that has decided a tick later than ``after``."""
    return lambda b: b.pid not in not_pids and b.state == "RUNNING" and b.last_tick > after


def decided(config: Path, scope: str = "w") -> list[bool]:
    """For every tick up to the last one whether it was decided; the ledger's chain verifies."""
    ledger = ledger_of(config)
    try:
        ledger.verify()
        last = ledger.last_tick(scope)
        assert last is not None
        return [ledger.plans(tick, scope) is not None for tick in range(START, last + 1, STEP)]
    finally:
        ledger.close()


def test_a_killed_worker_is_restarted_and_no_tick_is_missed(config: Path) -> None:
    async def shift() -> dict[str, Any]:
        async with feeding(config):
            flow = asyncio.create_task(stream(configs=[str(config)], shift_s=300))
            pids: list[int] = []
            tick = 0
            for _ in range(2):
                seen = await beat(config, "progress", alive(pids, tick))
                pids.append(seen.pid)
                tick = seen.last_tick
                os.kill(seen.pid, signal.SIGKILL)
            last = await beat(config, "a third life", alive(pids, tick + 5 * STEP))
            os.kill(last.pid, signal.SIGTERM)
            return await flow

    assert asyncio.run(shift()) == {"w": 2}, "two deaths, and the end that was asked for is none"
    ticks = decided(config)
    assert len(ticks) > 10
    assert all(ticks)
    told = orders(config)
    assert len({token for token, _ in told}) == len(told) > 0
    assert read(config.parent / "w.json").state == "STOPPED"  # type: ignore[union-attr]


def test_the_next_shift_takes_over_without_a_gap(config: Path) -> None:
    async def shifts() -> tuple[dict[str, Any], dict[str, Any], set[int]]:
        async with feeding(config):
            first = asyncio.create_task(stream(configs=[str(config)], shift_s=20))
            one = await beat(config, "the first shift", lambda b: b.state == "RUNNING")
            second = asyncio.create_task(stream(configs=[str(config)], shift_s=300))
            ended = await first
            two = await beat(config, "the second", alive([one.pid], one.last_tick + 5 * STEP))
            os.kill(two.pid, signal.SIGTERM)
            return ended, await second, {one.pid, two.pid}

    first, second, pids = asyncio.run(shifts())
    assert (first, second) == ({"w": 0}, {"w": 0})
    assert len(pids) == 2
    ticks = decided(config)
    assert len(ticks) > 10
    assert all(ticks)
    told = orders(config)
    assert len({token for token, _ in told}) == len(told)


def test_each_worker_has_a_role_of_its_own(config: Path) -> None:
    line = command([str(config)], ["window.step_s=30"], "w-1", shift_s=60.0)
    assert line[1:4] == ["-m", "forecastle.cli", "run"]
    assert line[line.index("--config") + 1] == str(config)
    given = [line[i + 1] for i, word in enumerate(line) if word == "--set"]
    assert given == [
        "window.step_s=30",
        "runtime.worker=w-1",
        "intake.instance=w-1",
        f"runtime.health={config.parent / 'w-1.json'}",
    ]
    assert line[-2:] == ["--shift-s", "60.0"]


def test_a_worker_that_cannot_start_is_tried_again_until_the_shift_ends(config: Path, tmp_path: Path) -> None:
    broken = configuration(tmp_path / "broken", clouds={"sim": {"adapter": "forecastle.clouds.none:open_cloud"}})
    result = asyncio.run(stream(configs=[str(broken)], shift_s=8))
    assert result["w"] >= 1
    assert read(tmp_path / "broken" / "w.json") is None, "it never came to life"


# --- news ---


def news(**changes: Any) -> Heartbeat:
    return Heartbeat(worker="w", pid=1, state="RUNNING", beat_at=1, **changes)


OPENED, DRIFTED = "forecastle.incident.opened", "forecastle.drift.detected"


def test_each_incident_is_told_once() -> None:
    watch = Watch("news")
    assert watch.look(None) == []
    assert watch.look(news()) == []
    slow = news(incidents={"i1": "critical shop: slow"})
    assert watch.look(slow) == [OPENED]
    assert watch.look(slow) == []
    both = news(incidents={"i1": "critical shop: slow and wrong", "i2": "warning blog: late"})
    assert watch.look(both) == [OPENED]
    assert watch.look(news()) == []
    assert watch.look(slow) == [OPENED], "closed, then back: news again"


def test_the_drift_of_a_model_is_told_once_whoever_sees_it() -> None:
    drifting: dict[str, set[str]] = {}
    one, two = Watch("w-0", drifting), Watch("w-1", drifting)
    calm, drifted = news(), news(drift={"mixer@1": "error drift: 40% of 10 series"})
    assert one.look(calm) == []
    assert one.look(drifted) == [DRIFTED]
    assert [watch.look(beat) for watch in (one, two) for beat in (drifted, drifted)] == [[]] * 4
    assert one.look(news(drift={"mixer@1": "error drift: 50% of 10 series; input drift: 30% of 10"})) == []
    assert one.look(calm) == []
    assert one.look(drifted) == [], "the other worker still says so"
    assert one.look(news(drift={"mixer@2": "input drift: 40% of 10 series"})) == [DRIFTED], "another model"
    assert one.look(calm) == two.look(calm) == []
    assert drifting == {}
    assert two.look(drifted) == [DRIFTED], "over, then back: news again"


@pytest.mark.parametrize("state", ["STARTING", "REBUILDING", "HOLD", "STOPPED"])
def test_a_worker_that_does_not_decide_neither_raises_drift_nor_ends_it(state: str) -> None:
    watch, drifted = Watch("w"), news(drift={"mixer@1": "error drift: 40% of 10 series"})
    assert watch.look(replace(drifted, state=state)) == []
    assert watch.look(drifted) == [DRIFTED]
    assert watch.look(replace(news(), state=state)) == []
    assert watch.look(drifted) == [], "a restart is no news"


def test_the_next_shift_does_not_tell_the_same_drift_again() -> None:
    drifted = news(drift={"mixer@1": "error drift: 40% of 10 series"})
    next_shift = Watch("w", told_before([drifted, None]))
    assert next_shift.look(drifted) == []
    assert next_shift.look(news()) == []
    assert next_shift.look(drifted) == [DRIFTED]


def test_what_is_told_reaches_the_server_once() -> None:
    watch = Watch("reaching")
    for _ in range(3):
        watch.look(news(incidents={"i7": "critical shop: slow"}))

    (event,) = asyncio.run(arrived("forecastle.incident.opened", "reaching"))
    assert event["payload"] == {"incident": "i7", "summary": "critical shop: slow"}
    assert event["resource"]["prefect.resource.id"] == "forecastle.worker.reaching"
