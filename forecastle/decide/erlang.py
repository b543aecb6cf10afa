"""Waiting in an M/M/c queue: how many servers a latency target takes.

Arrivals are Poisson, service times exponential, one queue feeds all servers first come, first served. That is pessimistic for
steadier services and optimistic for burstier ones, and needs nothing but the load and a service time.

Sources: Erlang (1917); Gross, Shortle, Thompson and Harris, "Fundamentals of Queueing Theory", 4th ed., 2.3; the recursion on
Erlang B never overflows, unlike the sums of the textbook formula.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from forecastle.types import Floats, Service

_FUZZ = 1e-6
"""Relative slack of a load: float32 noise must not order a server."""


def erlang_b(servers: int, load: npt.ArrayLike) -> Floats:
    """Probability that all of ``servers`` are busy when nobody waits; ``load`` in erlangs (arrival rate x service time).

    Same shape as ``load``. B(0) = 1, B(n) = a B(n-1) / (n + a B(n-1)).
    """
    a = np.asarray(load, np.float64)
    blocked = np.ones_like(a)
    for n in range(1, servers + 1):
        blocked = a * blocked / (n + a * blocked)
    return blocked


def erlang_c(servers: int, load: npt.ArrayLike) -> Floats:
    """Probability to wait at ``servers`` with ``load`` in erlangs, same shape as ``load``; 1 where the queue has no end."""
    a = np.asarray(load, np.float64)
    blocked = erlang_b(servers, a)
    stable = a < servers
    free = np.where(stable, servers - a * (1.0 - blocked), 1.0)
    return np.where(stable, servers * blocked / free, 1.0)


def mean_response(servers: int, load: float, waiting: float, service_s: float) -> float:
    """Mean seconds from arrival to the end of service; infinite when the queue has no end."""
    return service_s * (1.0 + waiting / (servers - load)) if load < servers else math.inf


def slower_than(seconds: float, servers: int, load: float, waiting: float, service_s: float) -> float:
    """Probability that a response takes longer than ``seconds``."""
    if load >= servers:
        return 1.0
    t, gap = seconds / service_s, servers - load - 1.0
    # the sum of both exponential terms over the gap has a limit where the gap closes
    queued = t * math.exp(-t) if abs(gap * t) < 1e-6 else (math.exp(-t) - math.exp(-t * (1.0 + gap))) / gap
    return min(1.0, math.exp(-t) + waiting * queued)


def keeps(service: Service, servers: int, load: float, waiting: float) -> bool:
    """Whether ``servers`` with ``load`` erlangs (less than ``servers``) keep the targets; ``waiting`` is their Erlang C."""
    if service.wait is not None and waiting > service.wait:
        return False
    if service.latency_s is None:
        return True
    if service.quantile is None:
        return mean_response(servers, load, waiting, service.service_s) <= service.latency_s
    return slower_than(service.latency_s, servers, load, waiting, service.service_s) <= 1.0 - service.quantile


def reachable(service: Service) -> bool:
    """Whether any number of servers keeps the targets: a request that never waits must be fast enough."""
    if service.latency_s is None:
        return True
    alone = service.service_s * (1.0 if service.quantile is None else -math.log1p(-service.quantile))
    return alone < service.latency_s


def servers_for(load: float, service: Service, most: int) -> int:
    """Fewest servers that keep the targets at ``load`` erlangs; ``most + 1`` when ``most`` do not suffice."""
    if load <= 0.0:
        return 0
    a = load * (1.0 - _FUZZ)
    blocked = 1.0
    for n in range(1, most + 1):
        blocked = a * blocked / (n + a * blocked)
        if n > a and keeps(service, n, a, n * blocked / (n - a * (1.0 - blocked))):
            return n
    return most + 1
