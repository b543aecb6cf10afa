"""How long a worker takes from an empty process to its first plan, against a real local broker.

``python benchmarks/bench_start.py`` prints the time without and with a look-back to replay and writes
``benchmarks/results/start.json``. The bar is for the start alone; what the replay adds grows with the look-back and is told
as seconds and as messages per second. The same process that only imports and furnishes is measured beside it in every round.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from forecastle.intake.publish import create_topics
from forecastle.runtime.broker import LocalBroker
from forecastle.runtime.config import load
from forecastle.runtime.health import read

RESULTS = Path(__file__).parent / "results" / "start.json"
ROUNDS = 5
BAR_S = 5.0
STEP = 60_000
T0 = 1_760_000_040_000 // STEP * STEP
LOOK_BACK, SHORT = 2880, 5
WORKLOADS = 50
LIMIT_S = 120.0


def configuration(folder: Path, bootstrap: str, topic: str, ticks: int) -> Path:
    """A worker of a new group whose first tick to decide is the last one of ``ticks`` that closes."""
    names = [f"shop-{i:02d}" for i in range(WORKLOADS)]
    settings = {
        "intake": {
            "bootstrap": bootstrap,
            "topics": [topic],
            "codecs": {topic: "json"},
            "group": folder.name,
            "dead_letter_topic": f"{topic}.dead",
        },
        "window": {"lateness_s": 0},
        "predict": {"model": ""},
        "detect": {"model": ""},
        "ledger": {"url": f"sqlite:///{folder}/ledger.db", "kill_file": str(folder / "KILL")},
        "runtime": {
            "worker": "w",
            "clock": "event",
            "health": str(folder / "health.json"),
            "not_before": T0 + (ticks - 2) * STEP,
        },
        "clouds": {"sim": {"adapter": "forecastle.clouds.sim:open_cloud", "options": {"path": str(folder / "sim.db")}}},
        "fleet": {
            "sites": [{"name": "fra", "provider": "aws", "region": "eu-central-1"}],
            "workloads": [
                {
                    "name": name,
                    "demands": [{"metric": "rps", "per_replica": 40}],
                    "pools": [{"name": f"{name}-fra", "site": "fra", "unit_price": 0.1}],
                }
                for name in names
            ],
        },
    }
    folder.mkdir()
    path = folder / "config.yaml"
    path.write_text(json.dumps(settings), encoding="utf-8")
    return path


def messages(ticks: int) -> Iterator[tuple[int, bytes, bytes]]:
    """(event time, key, value): one demand per workload and minute."""
    for tick in range(ticks):
        at = T0 + tick * STEP
        for i in range(WORKLOADS):
            value = 400 + 300 * math.sin((tick + i) * math.tau / 1440)
            name = f"shop-{i:02d}"
            yield at, name.encode(), b'{"workload":"%s","metric":"rps","at":%d,"value":%.3f}' % (name.encode(), at, value)


def fill(config: Path, topic: str, ticks: int) -> int:
    """Make the topics and put the history on them; returns how many messages."""
    from kafka import KafkaProducer

    intake = load([config], environment={}).intake
    create_topics(intake, [topic, intake.dead_letter_topic], partitions=1)
    producer = KafkaProducer(bootstrap_servers=intake.bootstrap, acks=1, linger_ms=50, batch_size=1 << 19)
    count = 0
    for at, key, value in messages(ticks):
        producer.send(topic, value, key=key, timestamp_ms=at)
        count += 1
    producer.flush()
    producer.close()
    return count


@contextmanager
def worker(config: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A worker process that is gone when the block ends."""
    with (config.parent / "worker.log").open("wb") as log:
        running = subprocess.Popen(
            [sys.executable, "-m", "forecastle.cli", "run", "--config", str(config)], stdout=log, stderr=log
        )
    try:
        yield running
    finally:
        running.kill()
        running.wait()


def first_plan(config: Path, tick: int) -> float:
    """Seconds from the start of the process until its heartbeat says that ``tick`` was decided (plans recorded)."""
    health, begun = config.parent / "health.json", time.perf_counter()
    with worker(config) as running:
        while time.perf_counter() - begun < LIMIT_S and running.poll() is None:
            beat = read(health)
            if beat is not None and beat.last_tick >= tick:
                return time.perf_counter() - begun
            time.sleep(0.002)
    raise SystemExit(f"no plan: {read(health)}\n{(config.parent / 'worker.log').read_text()[-2000:]}")


def furnished(config: Path) -> float:
    """Seconds of a process that imports everything, reads the configuration and furnishes the rooms, and ends."""
    code = (
        "import sys, pathlib; from forecastle.runtime import config, wiring;"
        "wiring.furnish(config.load([pathlib.Path(sys.argv[1])]))"
    )
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", code, str(config)], check=True, capture_output=True)
    return time.perf_counter() - begun


def measure(folder: Path, bootstrap: str) -> dict[str, float | int]:
    """Medians over the rounds, each with a group and a ledger of its own; one unmeasured run writes the byte code."""
    sizes = {"short": SHORT, "full": LOOK_BACK}
    counts = {}
    for name, ticks in sizes.items():
        counts[name] = fill(configuration(folder / f"fill-{name}", bootstrap, name, ticks), name, ticks)
    taken: dict[str, list[float]] = {"short": [], "full": [], "furnish": []}
    for number in range(-1, ROUNDS):
        for name, ticks in sizes.items():
            config = configuration(folder / f"{name}-{number}", bootstrap, name, ticks)
            seconds = first_plan(config, T0 + (ticks - 2) * STEP)
            taken[name] += [seconds] if number >= 0 else []
        alone = furnished(configuration(folder / f"alone-{number}", bootstrap, "short", SHORT))
        taken["furnish"] += [alone] if number >= 0 else []
    start, full, furnish = (statistics.median(taken[name]) for name in ("short", "full", "furnish"))
    return {
        "first_plan_s": round(start, 3),
        "first_plan_worst_s": round(max(taken["short"]), 3),
        "bar_s": BAR_S,
        "furnish_s": round(furnish, 3),
        "with_replay_s": round(full, 3),
        "replay_s": round(full - start, 3),
        "replayed_messages": counts["full"],
        "replayed_messages_per_s": round(counts["full"] / max(full - start, 1e-9)),
        "workloads": WORKLOADS,
        "rounds": ROUNDS,
        "cores": os.cpu_count() or 1,
        "load_average": round(os.getloadavg()[0], 1),
    }


def main() -> None:
    """Measure, print, write."""
    with tempfile.TemporaryDirectory(prefix="forecastle-start-") as name, LocalBroker(Path(name) / "broker") as broker:
        result = measure(Path(name), broker.bootstrap)
    print(
        f"first plan after {result['first_plan_s']:.2f} s (bar: {BAR_S:.0f} s; imports and furnishing alone "
        f"{result['furnish_s']:.2f} s); with a look-back of {result['replayed_messages']:,} messages after "
        f"{result['with_replay_s']:.2f} s: "
        f"{result['replayed_messages_per_s']:,} messages/s replayed"
    )
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
