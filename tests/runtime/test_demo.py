"""`forecastle demo` as a newcomer runs it: as a process, to its end or interrupted, and what its summary claims."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from forecastle.ledger.store import SqlLedger
from forecastle.runtime.clocks import EventClock
from forecastle.runtime.demo import INTERRUPTED
from forecastle.runtime.demo_settings import WORKER, settings, sim_path
from forecastle.types import Kind, Status

BARE = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "prefect", "mlflow", "kafka", "pandas", "onnx", "opentelemetry"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
sys.argv = ["forecastle", *sys.argv[1:]]
from forecastle.cli import main
main()
"""
"""`forecastle` where only the wheel's own dependencies are installed."""
HASTY = """
import forecastle.runtime.demo_full as full
full.TRAIN_S = 8.0
from forecastle.cli import main
main()
"""
"""`forecastle` that trains for seconds instead of most of a minute."""
UNTRAINED = """
import forecastle.runtime.demo_full as full
from forecastle.runtime.demo_child import child
flow = full.flow
full.overrides = lambda options: {}
full.flow = lambda name, path, *more, **port: flow(name, "builtins:dict" if name == "train" else path, *more, **port)
full.pull = lambda paths, folder: child("pull", ["true"], folder, {})
from forecastle.cli import main
main()
"""
"""`forecastle` that starts the whole house but does not train: the stand-in serves."""


def command(out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "forecastle.cli", "demo", "--out", str(out), *more]


def doctored(how: str, out: Path, *more: str) -> list[str]:
    return [sys.executable, "-c", how, "demo", "--out", str(out), *more]


def mentioning(out: Path) -> list[int]:
    """Processes that have the run's folder in their command line or environment."""
    found, needle = [], str(out).encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                if state != "Z" and needle in (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except (OSError, IndexError):
                continue
    return found


def wait_for(line: str, process: subprocess.Popen[str], patience_s: float = 120.0) -> str:
    """Read the process's output until a line contains ``line``."""
    assert process.stdout is not None
    seen, deadline = [], time.monotonic() + patience_s
    for text in process.stdout:
        seen.append(text)
        if line in text:
            return text
        assert time.monotonic() < deadline, "".join(seen)
    raise AssertionError(f"ended before '{line}': {''.join(seen)}")


# --- to the end -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def naive(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder and the output of one short naive demo, run with nothing but the wheel's dependencies."""
    out = tmp_path_factory.mktemp("demo") / "out"
    done = subprocess.run(
        [sys.executable, "-c", BARE, "demo", "--naive", "--days", "0.05", "--out", str(out)],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return out, done.stdout


@pytest.fixture(scope="module")
def summary(naive: tuple[Path, str]) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((naive[0] / "summary.json").read_text())
    return loaded


def ledger(out: Path) -> SqlLedger:
    return SqlLedger(settings((out / "demo.yaml",)).ledger, EventClock())


def test_it_plays_every_minute_with_the_stand_in_and_says_so(naive: tuple[Path, str], summary: dict[str, Any]) -> None:
    assert summary["ticks"] == 72
    assert summary["workloads"] >= 12
    assert summary["model"] == "seasonal-naive"
    assert "72 minutes played" in naive[1]
    assert "report.html" in naive[1]


def test_no_policy_beats_the_least_bill_and_the_oracle_leaves_nothing_unmet(summary: dict[str, Any]) -> None:
    scores = summary["scores"]
    assert scores["oracle"]["unmet"] == 0
    assert all(score["unmet"] >= 0 for score in scores.values())
    least = scores["least"]["bill"]
    assert all(score["bill"] >= least - 1e-6 for score in scores.values())
    assert scores["forecastle"]["cost"] > scores["oracle"]["cost"]
    assert scores["hpa"]["bill"] <= scores["hpa-usual"]["bill"]


def test_every_applied_action_of_the_ledger_is_an_order_of_the_cloud_and_the_other_way_round(
    naive: tuple[Path, str], summary: dict[str, Any]
) -> None:
    out = naive[0]
    book = ledger(out)
    applied = {o.action_id for o in book.outcomes() if o.status is Status.APPLIED and o.kind is not Kind.NOTIFY}
    with closing(sqlite3.connect(sim_path(out))) as db:
        orders = {token for (token,) in db.execute("SELECT token FROM orders")}
    assert applied
    assert applied == orders
    assert summary["orders"] == len(orders)
    assert sum(n for kind, n in summary["actions"].items() if kind != "notify") == len(orders)
    book.close()


def test_every_minute_was_decided_once_and_the_refusals_are_the_plans(naive: tuple[Path, str], summary: dict[str, Any]) -> None:
    book = ledger(naive[0])
    last = book.last_tick(WORKER) or 0
    plans = [book.plans(last - 60_000 * k, WORKER) for k in range(72)]
    assert all(plan is not None for plan in plans)
    assert book.plans(last - 60_000 * 72, WORKER) is None
    refused = sum(len(plan.refusals) for tick in plans for plan in tick or ())
    assert sum(summary["refusals"].values()) == refused
    book.close()


def test_troubles_are_found_after_they_began_and_healed_after_they_were_found(summary: dict[str, Any]) -> None:
    rows = {row["trouble"]: row for row in summary["troubles"]}
    outage = next(row for name, row in rows.items() if name.startswith("zone outage"))
    assert outage["found_min"] is not None
    assert 2 <= outage["found_min"] <= 6
    assert outage["healed_min"] is not None
    assert outage["healed_min"] >= outage["found_min"]
    leak = next(row for name, row in rows.items() if name.startswith("slow leak"))
    assert leak["healed_min"] is not None
    for row in rows.values():
        assert 0 <= row["unmet"] <= 1
    assert summary["incidents"]["about_planted"] <= summary["incidents"]["opened"]


def test_the_report_opens_offline_and_shows_every_workload(naive: tuple[Path, str], summary: dict[str, Any]) -> None:
    html = (naive[0] / "report.html").read_text("utf-8")
    assert "src=" not in html
    assert "href=" not in html
    for name in ("storefront", "checkout", "sessions"):
        assert f"<figcaption>{name}</figcaption>" in html
    for row in summary["troubles"]:
        assert row["trouble"] in html


def test_a_second_run_in_the_same_folder_starts_from_nothing_and_another_folder_is_left_alone(tmp_path: Path) -> None:
    from forecastle.runtime.demo_stage import fresh

    old = tmp_path / "demo"
    old.mkdir()
    (old / "demo.yaml").write_text("{}")
    (old / "ledger.db").write_text("of an earlier run")
    assert list(fresh(old).iterdir()) == []
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("precious")
    fresh(mine)
    assert (mine / "thesis.txt").read_text() == "precious"


# --- a recorded trace -----------------------------------------------------------------------------------------------


def trace(path: Path, days: float = 4.0) -> Path:
    import numpy as np
    import pyarrow as pa
    from pyarrow import parquet

    at = 1_700_000_040_000 + 60_000 * np.arange(round(days * 1440))
    hours = at / 3_600_000
    rng = np.random.default_rng(0)
    columns: dict[str, list[Any]] = {"series_id": [], "timestamp": [], "value": []}
    for name, phase in (("alpha", 0.0), ("beta", 6.0)):
        value = 1000 + 600 * np.sin((hours + phase) * np.pi / 12) + rng.normal(0, 10, len(at))
        columns["series_id"] += [name] * len(at)
        columns["timestamp"] += at.tolist()
        columns["value"] += value.tolist()
    stamps = pa.array(columns["timestamp"], pa.timestamp("ms"))
    parquet.write_table(pa.table({**columns, "timestamp": stamps}), path)
    return path


def test_a_trace_is_played_after_its_past_with_capacity_from_its_past(tmp_path: Path) -> None:
    out = tmp_path / "out"
    file = trace(tmp_path / "trace.parquet")
    done = subprocess.run(
        command(out, "--naive", "--days", "0.05", "--trace", str(file)),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads((out / "summary.json").read_text())
    assert summary["workloads"] == 2
    assert summary["ticks"] == 72
    assert summary["troubles"] == []
    assert summary["scores"]["forecastle"]["unmet"] < 0.01
    loaded = settings((out / "fleet.yaml", out / "demo.yaml"))
    assert {load.name for load in loaded.fleet.workloads} == {"alpha", "beta"}
    for load in loaded.fleet.workloads:
        assert load.demands[0].per_replica == pytest.approx(1600 / 60, rel=0.05)


def test_a_trace_that_is_too_short_is_refused_with_what_is_needed(
    forecastle: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    file = trace(tmp_path / "short.parquet", days=1.0)
    done = forecastle("demo", "--out", str(tmp_path / "out"), "--naive", "--trace", str(file))
    assert done.returncode == 2
    assert "two days of history" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_stretch_that_is_played_holds_the_steepest_rise_of_the_unseen_part() -> None:
    import numpy as np

    from forecastle.runtime.demo_trace import hardest

    values = np.ones((1, 10_000))
    values[0, 5_000:] = 3.0  # in the past: not to be played
    values[0, 9_000:] = 5.0
    start = hardest(values, 7_000, 300)
    assert 9_000 - 300 < start < 9_000
    assert hardest(values, 9_900, 100) == 9_900


# --- interrupted ----------------------------------------------------------------------------------------------------


def start(words: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_in_mid_play_ends_with_130(tmp_path: Path, number: signal.Signals) -> None:
    file = trace(tmp_path / "trace.parquet")
    with start(command(tmp_path / "out", "--naive", "--days", "1", "--trace", str(file))) as process:
        wait_for("windows are filled", process)
        time.sleep(1)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED
    assert "Traceback" not in errors
    assert "interrupted" in errors
    assert mentioning(tmp_path / "out") == []


def test_an_interrupt_while_services_start_leaves_no_process_behind(tmp_path: Path) -> None:
    with start(command(tmp_path / "out", "--days", "0.05")) as process:
        wait_for("Kafka at", process)
        assert len(mentioning(tmp_path / "out")) >= 3  # the demo, the broker, the keeper of Prefect
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=90)
    assert process.returncode == INTERRUPTED
    assert "Traceback" not in errors
    assert mentioning(tmp_path / "out") == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_interrupt_while_the_worker_runs_leaves_no_process_behind(tmp_path: Path) -> None:
    file = trace(tmp_path / "trace.parquet")
    with start(doctored(UNTRAINED, tmp_path / "out", "--days", "1", "--trace", str(file))) as process:
        wait_for("the Prefect flow stream runs the worker", process, 500)
        time.sleep(3)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=90)
    assert process.returncode == INTERRUPTED
    assert "Traceback" not in errors
    assert mentioning(tmp_path / "out") == []


# --- the whole house ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_full_demo_trains_registers_serves_and_acts(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = subprocess.run(doctored(HASTY, out, "--days", "0.05"), capture_output=True, text=True, timeout=850, check=False)
    assert done.returncode == 0, done.stderr
    summary = json.loads((out / "summary.json").read_text())
    assert summary["ticks"] == 72
    assert summary["model"].startswith("forecaster@")
    assert summary["orders"] > 0
    assert summary["scores"]["forecastle"]["bill"] >= summary["scores"]["least"]["bill"]
    with closing(sqlite3.connect(out / "mlflow.db")) as db:
        champions = {name for (name,) in db.execute("SELECT name FROM registered_model_aliases WHERE alias = 'champion'")}
    assert champions == {"forecaster", "detector"}
    with closing(sqlite3.connect(out / "prefect" / "prefect.db")) as db:
        flows = {name for (name,) in db.execute("SELECT name FROM flow")}
    assert {"train", "stream"} <= flows
    assert mentioning(out) == []
