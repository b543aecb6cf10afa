"""What the fleet's metrics come to for a demand and a state of its pools: arrays in, arrays out.

Latency follows a queue, errors follow shed load and bad releases, memory follows load and age. The same functions make the
open-loop history and every step of the closed loop.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from forecastle.types import Floats

DEMAND = "requests_per_second"
LATENCY = "latency_p99_ms"
ERRORS = "error_rate"
MEMORY = "memory_bytes"
PAUSES = "gc_pause_ms"

TIMEOUT_MS = 5_000.0
"""Callers give up after this long: no measured latency is longer."""
MIB = float(1 << 20)
_TAIL = float(np.log(100.0))
_FULL = 0.995
_BASE_ERRORS = 0.001
_HEAP_MIB = 1536.0


@dataclass(frozen=True, slots=True)
class Traits:
    """What a workload's processes are like: ``service_ms`` mean, ``memory_mib`` idle, ``leak_mib_min`` while leaking."""

    service_ms: float
    memory_mib: float
    leak_mib_min: float = 1.2


def traits(name: str, seed: int) -> Traits:
    """Traits of workload ``name``, drawn from its name and ``seed``."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode()), 2])
    return Traits(service_ms=float(rng.uniform(25, 70)), memory_mib=float(rng.uniform(350, 600)))


def latency_p99(demand: Floats, capacity: Floats, ready: Floats, service_ms: Floats) -> Floats:
    """p99 in ms: three times the service time plus the 99th percentile of an M/M/c wait, never beyond the timeout.

    All arguments broadcast; the mean wait is Sakasegawa's approximation, rho^(sqrt(2(c+1)) - 1) / (c (1 - rho)) service times.
    """
    servers = np.maximum(ready, 1.0)
    rho = np.clip(demand / np.maximum(capacity, 1e-9), 0.0, _FULL)
    wait = service_ms * rho ** (np.sqrt(2.0 * (servers + 1.0)) - 1.0) / (servers * (1.0 - rho))
    full = demand >= _FULL * capacity
    return np.asarray(np.where(full, TIMEOUT_MS, np.minimum(3.0 * service_ms + _TAIL * wait, TIMEOUT_MS)))


def error_share(demand: Floats, capacity: Floats, faulty: Floats) -> Floats:
    """Expected share of failed requests: a little always, what is shed, and ``faulty`` (share failed by a bad release)."""
    shed = np.clip(1.0 - capacity / np.maximum(demand, 1e-9), 0.0, 1.0)
    return np.asarray(1.0 - (1.0 - _BASE_ERRORS) * (1.0 - shed) * (1.0 - faulty))


def measured_errors(share: Floats, demand: Floats, step_ms: int, rng: np.random.Generator) -> Floats:
    """The share as counted over one step: binomial."""
    requests = np.maximum(demand * step_ms / 1000.0, 1.0)
    return np.asarray(np.minimum(rng.poisson(share * requests) / requests, 1.0))


def memory(idle_mib: Floats, utilization: Floats, leaked_mib: Floats, rng: np.random.Generator) -> Floats:
    """Mean resident bytes per replica: idle, a working set that follows utilization, and what has leaked."""
    work = 1.0 + 0.05 * np.clip(utilization, 0.0, 1.2)
    return np.asarray((idle_mib * work * rng.normal(1.0, 0.025, np.shape(work)) + leaked_mib) * MIB)


def gc_pause(used_bytes: Floats, utilization: Floats, rng: np.random.Generator) -> Floats:
    """Mean pause in ms: grows with the share of the heap that is used."""
    share = np.clip(used_bytes / (_HEAP_MIB * MIB), 0.0, 0.98)
    pause = 8.0 + 3.0 * np.clip(utilization, 0.0, 1.2) + 40.0 * share**2 / (1.0 - share + 0.1)
    return np.asarray(pause * rng.lognormal(0.0, 0.1, np.shape(pause)))


def jitter(values: Floats, size: float, rng: np.random.Generator) -> Floats:
    """``values`` with lognormal measurement noise of relative ``size``."""
    return np.asarray(values * rng.lognormal(0.0, size, np.shape(values)))
