"""Decisions on paper: a recorded run decides the same again, in any process; a changed configuration shows."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forecastle.errors import ConfigError, NotFound
from forecastle.intake.memory import MemoryIntake
from forecastle.ledger.store import SqlLedger
from forecastle.runtime.clocks import EventClock
from forecastle.runtime.config import load
from forecastle.runtime.loop import Loop, Turned
from forecastle.runtime.records import explain_plan, inventory_digest, plan_rows, read, recorder, replay_file
from forecastle.runtime.wiring import furnish
from forecastle.settings import Settings
from forecastle.types import Plan

STEP = 60_000
START = 1_760_000_040_000 // STEP * STEP
TICKS = 90


def message(tick: int, value: float) -> bytes:
    return json.dumps({"workload": "shop", "metric": "rps", "at": START + tick * STEP, "value": value}).encode()


def waves(ticks: int) -> MemoryIntake:
    """Requests per second of one workload, rising and falling once an hour."""
    values = [400 + 300 * math.sin(i * math.tau / 60) for i in range(ticks)]
    return MemoryIntake(map(message, range(ticks), values), EventClock(START + ticks * STEP), per_poll=7)


def configuration(folder: Path, **fleet: Any) -> Path:
    pools = [
        {"name": f"shop-{site}", "site": site, "unit_price": price, "max": 60}
        for site, price in (("fra", 0.1), ("ams", 0.09), ("zrh", 0.2))
    ]
    settings = {
        "window": {"look_back": 60, "lateness_s": 0},
        "predict": {"model": "", "season": 60, "horizon": 10, "coverage_window": 20},
        "detect": {"model": "", "look_back": 30, "warmup": 10, "season": 0},
        "guards": {"warmup_s": 0},
        "act": {"verify_s": 0},
        "ledger": {"url": f"sqlite:///{folder}/ledger.db", "kill_file": str(folder / "KILL")},
        "runtime": {"worker": "w", "clock": "event", "health": str(folder / "health.json")},
        "clouds": {"sim": {"adapter": "forecastle.clouds.sim:open_cloud", "options": {"path": str(folder / "sim.db")}}},
        "fleet": {
            "sites": [
                {"name": "fra", "provider": "aws", "region": "eu-central-1", "residency": ["EU", "DE", "EEA"]},
                {"name": "ams", "provider": "gcp", "region": "europe-west4", "residency": ["EU", "NL", "EEA"]},
                {"name": "zrh", "provider": "own", "region": "zurich", "residency": ["CH"]},
            ],
            "workloads": [
                {
                    "name": "shop",
                    "mode": "auto",
                    "min": 2,
                    "min_sites": 2,
                    "residency": ["EEA", "EU", "CH"],
                    "demands": [{"metric": "rps", "per_replica": 40}],
                    "pools": pools,
                }
            ],
        }
        | fleet,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.yaml"
    path.write_text(json.dumps(settings), encoding="utf-8")
    return path


def settings_of(path: Path) -> Settings:
    return load([path], environment={})


@contextmanager
def furnished(settings: Settings, intake: MemoryIntake) -> Iterator[Loop]:
    loop = furnish(settings, intake=intake)
    try:
        yield loop
    finally:
        for cloud in loop.rooms.clouds.values():
            cloud.close()
        loop.rooms.ledger.close()


def play(settings: Settings, record: Path, ticks: int = TICKS) -> list[Plan]:
    """Run the whole recording; returns the plans in order."""
    plans: list[Plan] = []
    with furnished(settings, waves(ticks)) as loop:
        loop.listeners += [recorder(record, inventory_digest(settings)), lambda turned: plans.extend(turned.plans)]
        loop.resume()
        while loop.turn(0.0):
            pass
    return plans


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[Plan]]:
    """(configuration, record, plans) of one run."""
    folder = tmp_path_factory.mktemp("run")
    config = configuration(folder)
    plans = play(settings_of(config), folder / "record.jsonl")
    assert len([a for plan in plans for a in plan.actions]) > 10, "the run was not idle"
    return config, folder / "record.jsonl", plans


def test_a_record_holds_what_was_seen_and_planned(recorded: tuple[Path, Path, list[Plan]]) -> None:
    _, record, plans = recorded
    found = list(read(record))
    assert [r.situation.tick for r in found] == [START + i * STEP for i in range(TICKS - 1)]
    assert [plan for r in found for plan in r.plans] == plans
    newest = found[-1].situation
    assert newest.windows.values.dtype == np.float32
    assert newest.windows.mask.dtype == np.bool_
    assert newest.windows.values[0, -1] == pytest.approx(400 + 300 * math.sin((TICKS - 2) * math.tau / 60), rel=1e-6)
    assert sorted(newest.fleet.observed) == ["shop-ams", "shop-fra", "shop-zrh"]


def test_a_replay_decides_the_same(recorded: tuple[Path, Path, list[Plan]]) -> None:
    config, record, _ = recorded
    assert replay_file(record, settings_of(config)) == (TICKS - 1, [])


@pytest.mark.parametrize("seed", ["0", "1", "2"])
def test_a_replay_decides_the_same_in_any_process(recorded: tuple[Path, Path, list[Plan]], seed: str) -> None:
    """Sets iterate in another order for every hash seed; neither plans nor the configuration's digest may notice."""
    config, record, _ = recorded
    code = (
        "import sys, pathlib; from forecastle.runtime.config import load; from forecastle.runtime import records as r;"
        "s = load([pathlib.Path(sys.argv[1])], environment={}); print(r.inventory_digest(s));"
        "print(*r.replay_file(pathlib.Path(sys.argv[2]), s))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    done = subprocess.run(
        [sys.executable, "-c", code, str(config), str(record)], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[:2] == [inventory_digest(settings_of(config)), f"{TICKS - 1} []"]


def test_a_changed_configuration_shows_as_different(recorded: tuple[Path, Path, list[Plan]]) -> None:
    config, record, _ = recorded
    plain = settings_of(config)
    slow = plain.model_copy(update={"guards": plain.guards.model_copy(update={"step_up_fraction": 0.0, "step_up_replicas": 1})})
    same, different = replay_file(record, slow)
    assert 0 < len(different) == TICKS - 1 - same
    assert "(recorded under another configuration)" in different[0]
    assert different[0].startswith("tick 17600")
    assert "; now [scale shop-" in "".join(different)


@pytest.mark.parametrize(
    "change",
    [
        lambda s: {"guards": s.guards.model_copy(update={"tolerance": 0.2})},
        lambda s: {"decide": s.decide.model_copy(update={"plan_ttl_s": 10.0})},
        lambda s: {"fleet": s.fleet.model_copy(update={"budget_per_hour": 5.0})},
        lambda s: {"playbooks": ({"name": "x"},)},
    ],
)
def test_the_digest_covers_what_a_decision_depends_on(recorded: tuple[Path, Path, list[Plan]], change: Any) -> None:
    plain = settings_of(recorded[0])
    if "playbooks" in change(plain):
        changed = Settings.model_validate(plain.model_dump() | {"playbooks": [{"name": "x"}]})
    else:
        changed = plain.model_copy(update=change(plain))
    assert inventory_digest(changed) != inventory_digest(plain)
    elsewhere = plain.model_copy(update={"runtime": plain.runtime.model_copy(update={"health": "other.json"})})
    assert inventory_digest(elsewhere) == inventory_digest(plain)


def test_a_restart_appends_and_repeats_nothing(tmp_path: Path) -> None:
    settings, record = settings_of(configuration(tmp_path)), tmp_path / "deep" / "record.jsonl"
    play(settings, record, 30)
    play(settings, record, 40)
    assert [r.situation.tick for r in read(record)] == [START + i * STEP for i in range(39)]
    assert replay_file(record, settings) == (39, [])


def test_a_restart_sees_what_an_undisturbed_run_sees(tmp_path: Path) -> None:
    """Calibration, the detectors' trailing scores and open incidents are the same, although most of the past is skipped."""
    rng, ticks = np.random.default_rng(5), 420
    wave = 400 + 300 * np.sin(np.arange(ticks) * math.tau / 60) + rng.normal(0, 20, ticks)
    wave[rng.choice(ticks, 20, replace=False)] += 250
    values = wave.tolist()

    def seen(folder: Path, *ends: int) -> dict[int, tuple[bytes, object, object]]:
        plain, found = settings_of(configuration(folder)), {}
        settings = plain.model_copy(update={"detect": plain.detect.model_copy(update={"budget": 100.0})})

        def note(turned: Turned) -> None:
            c = turned.closed
            if turned.situation is not None:
                found[c.tick] = (c.forecasts.values.tobytes(), c.anomalies, c.incidents)

        for end in ends:
            intake = MemoryIntake(map(message, range(end), values), EventClock(START + end * STEP), per_poll=7)
            with furnished(settings, intake) as loop:
                loop.listeners.append(note)
                loop.resume()
                while loop.turn(0.0):
                    pass
        return found

    calm, shaken = seen(tmp_path / "calm", ticks), seen(tmp_path / "shaken", 250, 300, ticks)
    assert calm.keys() == shaken.keys()
    assert [tick for tick in calm if calm[tick] != shaken[tick]] == []
    assert sum(bool(anomalies) for _, anomalies, _ in calm.values()) > 20


def test_a_torn_last_line_is_skipped(recorded: tuple[Path, Path, list[Plan]], tmp_path: Path) -> None:
    torn = tmp_path / "torn.jsonl"
    torn.write_bytes(recorded[1].read_bytes()[:-20])
    assert len(list(read(torn))) == TICKS - 2


def test_a_restart_after_a_crash_in_mid_line_appends_whole_lines(tmp_path: Path) -> None:
    settings, record = settings_of(configuration(tmp_path)), tmp_path / "record.jsonl"
    play(settings, record, 30)
    record.write_bytes(record.read_bytes()[:-20])
    play(settings, record, 40)
    assert [r.situation.tick for r in read(record)] == [START + i * STEP for i in range(39) if i != 28]


@pytest.mark.parametrize("line", [b"{", b"[1,2]", b'["x",{},[]]', b"\xff"])
def test_a_broken_line_is_named(recorded: tuple[Path, Path, list[Plan]], tmp_path: Path, line: bytes) -> None:
    broken = tmp_path / "broken.jsonl"
    first = recorded[1].read_bytes().split(b"\n", 1)[0]
    broken.write_bytes(first + b"\n" + line + b"\n")
    with pytest.raises(ConfigError, match=r"broken.jsonl:2: is not a recorded situation"):
        list(read(broken))


def test_a_missing_file_says_how_to_record_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="record one with 'forecastle run --record FILE'"):
        list(read(tmp_path / "none.jsonl"))


def test_plans_are_listed_and_explained_from_the_ledger(recorded: tuple[Path, Path, list[Plan]]) -> None:
    config, _, plans = recorded
    ledger = SqlLedger(settings_of(config).ledger, EventClock(START))
    try:
        rows = plan_rows(ledger, 5)
        assert [row["id"] for row in rows] == [plan.id for plan in plans[::-1][:5]]
        acted = next(plan for plan in plans if plan.actions)
        assert explain_plan(ledger, acted.id[:12]) == explain_plan(ledger, acted.id)
        assert f"scale {acted.actions[0].pool} from {acted.actions[0].expected}" in explain_plan(ledger, acted.id)
        with pytest.raises(NotFound, match="'forecastle plan' lists"):
            explain_plan(ledger, "nope")
    finally:
        ledger.close()
