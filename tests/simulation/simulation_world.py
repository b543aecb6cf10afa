"""The world that is simulated: a small fleet, its demand as messages in a log, a clock, and what a run of it remembers.

Nothing in here is under test. What the world knows to be true (which demand there was, what the cloud really did) is what the
checks compare the production code with.
"""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from forecastle.runtime.inventory import inventory
from forecastle.settings import Settings
from forecastle.types import Inventory, SeriesKey

STEP = 60_000
START = 1_760_000_040_000 // STEP * STEP
HISTORY, PLAY, QUIET = 12, 18, 10
TICKS = HISTORY + PLAY + QUIET
PER_REPLICA = 40.0
REACTIVE = 0.8
STALE_S = 120.0
SHOP, MAIL = SeriesKey("shop", "rps"), SeriesKey("mail", "rps")
DEMANDS = {"shop": SHOP, "mail": MAIL}
GARBAGE = (
    b'{"workload":"shop","metric":"rps","at":%d,"value":1e999}',
    b'{"workload":"shop","metric":"rps","at":%d,"value":true}',
    b'{"workload":"shop","metric":"rps","at":%d,"at":1,"value":3}',
    b'{"workload":"shop","metric":"rps","at":%d,"value":"inf"}',
    b'\xff\xfe{"workload":"shop","at":%d}',
    b"[" * 2000 + b"%d",
    b'{"workload":"shop","metric":"rps","at":9%d000,"value":5}',
)
PLAYBOOKS: tuple[dict[str, Any], ...] = (
    {"name": "restart", "metric": "latency", "severity": "info", "action": "restart", "approval": "A"},
    {"name": "replace", "metric": "latency", "severity": "info", "action": "replace", "approval": "B"},
    {"name": "drain", "metric": "latency", "severity": "info", "action": "drain", "approval": "C"},
    {"name": "cordon", "metric": "latency", "severity": "info", "action": "cordon", "approval": "B"},
    {"name": "tell", "metric": "*", "severity": "info", "action": "notify"},
)


def tick(number: int) -> int:
    """Event time (ms) of the tick with this number."""
    return START + number * STEP


def number(at: int) -> int:
    """Number of the slot that ``at`` (ms) is in."""
    return -(-(at - START) // STEP)


@lru_cache(maxsize=32)
def settings(playbook: int, mode: str, budget: float | None) -> Settings:
    """One of the few configurations that seeds choose from; periods are fractions of their defaults, so that runs are short."""
    sites = [
        {"name": "fra", "provider": "aws", "region": "eu-central-1", "zone": "a", "residency": ["EU"]},
        {"name": "ams", "provider": "gcp", "region": "europe-west4", "zone": "b", "residency": ["EU"]},
        {"name": "zrh", "provider": "own", "region": "zurich", "residency": ["CH"]},
    ]
    shop = [
        {"name": "shop-fra", "site": "fra", "unit_price": 0.1, "min": 1, "max": 24, "quota": 26, "startup_s": 60},
        {"name": "shop-ams", "site": "ams", "unit_price": 0.12, "min": 1, "max": 20, "quota": 20, "startup_s": 60},
        {"name": "shop-zrh", "site": "zrh", "unit_price": 0.01, "max": 20, "quota": 20},
    ]
    mail = [{"name": "mail-fra", "site": "fra", "unit_price": 0.1, "min": 1, "max": 16, "quota": 16, "startup_s": 60}]
    load: dict[str, Any] = {"mode": mode, "lead_time_s": 120, "min": 2}
    return Settings.model_validate(
        {
            "window": {"look_back": 40, "lateness_s": 0, "stale_s": STALE_S, "flat_slots": 10},
            "predict": {"model": "", "season": 40, "horizon": 8, "coverage_window": 12},
            "detect": {
                "model": "",
                "look_back": 24,
                "warmup": 8,
                "season": 0,
                "budget": 200,
                "group_s": 180,
                "close_s": 180,
                "adopt_s": 600,
            },
            "decide": {"plan_ttl_s": 150, "heal_settle_s": 60},
            "guards": {
                "step_down_s": 120,
                "stabilization_down_s": 240,
                "cooldown_up_s": 120,
                "cooldown_down_s": 180,
                "dark_s": 150,
                "panic_clear_s": 120,
                "warmup_s": 120,
                "escalation_s": 300,
                "heals_per_domain_h": 2,
            },
            "act": {"verify_s": 2, "lease_s": 40},
            "runtime": {"worker": "w", "not_before": tick(HISTORY)},
            "clouds": {"sim": {"adapter": "forecastle.clouds.sim:open_cloud", "options": {"path": "unused"}}},
            "playbooks": [PLAYBOOKS[playbook]],
            "fleet": {
                "sites": sites,
                "workloads": [
                    load
                    | {
                        "name": "shop",
                        "pools": shop,
                        "residency": ["EU"],
                        "demands": [{"metric": "rps", "per_replica": PER_REPLICA}],
                        "vetoes": [{"metric": "errors", "above": 50}],
                        "budget_per_hour": budget,
                    },
                    load | {"name": "mail", "pools": mail, "demands": [{"metric": "rps", "per_replica": PER_REPLICA}]},
                ],
            },
        }
    )


@lru_cache(maxsize=32)
def stock(of: tuple[int, str, float | None]) -> Inventory:
    """The inventory of `settings` with these arguments."""
    return inventory(settings(*of))


class SimClock:
    """One clock for everybody; it only moves when the simulation or a sleeper moves it."""

    def __init__(self, at: int) -> None:
        self.at = at

    def now(self) -> int:
        """Milliseconds since the epoch."""
        return self.at

    def monotonic(self) -> float:
        """Seconds of the same clock."""
        return self.at / 1000.0

    def advance(self, at: int) -> None:
        """A wall clock waits for no tick."""

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.at += round(seconds * 1000)


class Log:
    """The topic: values that only grow. Every reader keeps its own place and may come back for what was added since."""

    def __init__(self) -> None:
        self.values: list[bytes] = []
        self.refused = 0

    def reader(self) -> Iterator[bytes]:
        """Messages from the first one on."""
        return _Reader(self.values)


class _Reader:
    def __init__(self, values: list[bytes]) -> None:
        self._values = values
        self._at = 0

    def __iter__(self) -> _Reader:
        return self

    def __next__(self) -> bytes:
        if self._at >= len(self._values):
            raise StopIteration
        self._at += 1
        return self._values[self._at - 1]


@dataclass
class Demand:
    """Writes the log, faults included, and keeps what a perfect reader would have folded from it.

    ``folded`` maps (key, slot) to its value; ``odd`` are the (workload, slot) whose value was forged to a zero or a tenfold.
    """

    rng: random.Random
    faults: frozenset[str]
    log: Log
    sometimes: Counter[str]
    folded: dict[tuple[SeriesKey, int], float] = field(default_factory=dict)
    odd: set[tuple[str, int]] = field(default_factory=set)
    forged: set[tuple[str, float]] = field(default_factory=set)
    gap_until: int = 0
    sick: set[str] = field(default_factory=set)
    held_back: list[tuple[int, bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.phase, self.swing = self.rng.uniform(0, math.tau), self.rng.uniform(60, 260)
        self.surge = HISTORY + self.rng.randrange(4, PLAY) if self.rng.random() < 0.6 else TICKS
        self.fall = HISTORY + self.rng.randrange(0, 8) if self.rng.random() < 0.5 else TICKS

    def true(self, workload: str, slot: int) -> float:
        """Requests per second that users really send in ``slot``."""
        wave = self.swing * math.sin(self.phase + slot * math.tau / 30)
        level = 420.0 + (250.0 if slot >= self.surge else 0.0) - (240.0 if slot >= self.fall else 0.0)
        scale = 1.0 if workload == "shop" else 0.45
        return scale * max(30.0, level + wave) + (slot * 7919 % 13) * 1.5

    def write(self, slot: int, *, quiet: bool) -> None:
        """Append the messages of ``slot``, with this seed's faults unless ``quiet``."""
        faults = frozenset() if quiet else self.faults
        rows = list(self._rows(slot, faults))
        if "reorder" in faults:
            self.rng.shuffle(rows)
        late = "late" in faults and self.rng.random() < 0.2
        for place, (key, value) in enumerate(rows):
            if slot < self.gap_until and key.metric == "rps":
                continue
            self._send(key, slot, value)
            if "duplicate" in faults and self.rng.random() < 0.3:
                self._send(key, slot, value if self.rng.random() < 0.5 else value * 1.2)
                self.sometimes["a sample delivered twice"] += 1
            if late and place == 0:
                self.held_back.append((slot + 3, message(key, tick(slot) - 20_001, 9_999.0)))
        for due, value in [entry for entry in self.held_back if entry[0] <= slot]:
            self.log.values.append(value)
            self.held_back.remove((due, value))
            self.sometimes["a sample too late"] += 1
        if "garbage" in faults and self.rng.random() < 0.4:
            self.log.values.append(self.rng.choice(GARBAGE) % tick(slot))
            self.log.refused += 1
            self.sometimes["a message refused"] += 1

    def _rows(self, slot: int, faults: frozenset[str]) -> Iterator[tuple[SeriesKey, float]]:
        if "gap" in faults and slot > HISTORY and slot >= self.gap_until and self.rng.random() < 0.08:
            self.gap_until = slot + self.rng.randrange(1, 6)
            self.sometimes["a gap in the data"] += 1
        for workload, key in DEMANDS.items():
            value = self.true(workload, slot)
            if "forged" in faults and slot > HISTORY and self.rng.random() < 0.08 and slot >= self.gap_until:
                value = self._forged(workload, slot, value)
            yield key, value
        for site in ("ams", "fra"):
            bad = any(pool.endswith(site) for pool in self.sick)
            for metric, usual in (("latency", 80.0), ("errors", 2.0)):
                noise = (slot * 104729 % 17) * usual / 100
                for workload in ("shop", "mail") if site == "fra" else ("shop",):
                    hurt = bad and f"{workload}-{site}" in self.sick
                    yield SeriesKey(workload, metric, (("site", site),)), usual * (9.0 if hurt else 1.0) + noise
        yield SeriesKey("shop", "errors"), 2.0 + slot % 3

    def _forged(self, workload: str, slot: int, value: float) -> float:
        """A zero or a tenfold, each once a run: in a window this short the second zero is no news any more."""
        left = sorted({0.0, 30.0} - {factor for name, factor in self.forged if name == workload})
        if not left or (workload, slot - 1) in self.odd:
            return value
        factor = self.rng.choice(left)
        self.forged.add((workload, factor))
        self.odd.add((workload, slot))
        self.sometimes["forged demand"] += 1
        return value * factor

    def _send(self, key: SeriesKey, slot: int, value: float) -> None:
        self.log.values.append(message(key, tick(slot) - 20_000, value))
        self.folded[key, slot] = max(value, self.folded.get((key, slot), -math.inf))


def message(key: SeriesKey, at: int, value: float) -> bytes:
    """One measurement as the topic carries it."""
    body = {"workload": key.workload, "metric": key.metric, "at": at, "value": value, "labels": dict(key.labels)}
    return json.dumps(body).encode()
