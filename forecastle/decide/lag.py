"""How long a pool really takes from an order to ready replicas, learned from what its orders took.

A pool's `Pool.startup_s` is what someone believed when the configuration was written. Once enough orders were seen through,
their 90 % quantile takes its place: an order that is late once in ten is what sizing should count with, a mean would be late
half the time. It is a function of `Fleet.readied`, hence of the situation, and a replay learns the same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from forecastle.types import Fleet, Inventory, Workload

MIN_ORDERS = 8
"""Orders seen through before their lag is believed: with fewer the 90 % quantile is but the largest."""
NEWEST = 50
"""Orders that count; older ones tell of images and machines that are gone."""
QUANTILE = 0.9


@dataclass(frozen=True, slots=True)
class Lag:
    """Seconds from order to ready, learned from so many ``orders``."""

    seconds: float
    orders: int


def learned(fleet: Fleet) -> dict[str, Lag]:
    """The lag of every pool with enough orders, by name."""
    orders: dict[str, list[float]] = defaultdict(list)
    for one in fleet.readied:
        orders[one.pool].append(one.lag_s)
    newest = {pool: [lag for lag in lags if lag >= 0][-NEWEST:] for pool, lags in orders.items()}
    return {
        pool: Lag(float(np.quantile(lags, QUANTILE, method="higher")), len(lags))
        for pool, lags in newest.items()
        if len(lags) >= MIN_ORDERS
    }


def with_lags(inventory: Inventory, lags: Mapping[str, Lag]) -> Inventory:
    """``inventory`` whose pools start up as was learned; the same object when nothing was."""
    known = {name: lags[name].seconds for name in inventory.pools if name in lags}
    if not known:
        return inventory
    pools = {name: replace(p, startup_s=known[name]) if name in known else p for name, p in inventory.pools.items()}
    return replace(inventory, pools=pools)


def lead_time_s(load: Workload, pools: Iterable[str], lags: Mapping[str, Lag], step_s: float) -> float:
    """Seconds from a decision to ready capacity: the slowest of ``pools`` and one step until the order, as learned.

    While a pool is not learned yet, no less than what is configured.
    """
    names = tuple(pools)
    slowest = max((lags[name].seconds + step_s for name in names if name in lags), default=0.0)
    if names and all(name in lags for name in names):
        return slowest
    return max(slowest, load.lead_time_s)
