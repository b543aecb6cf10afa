"""Adapters from the configuration, each behind the brakes that are the same for every provider.

From the provider outwards: what it answers is counted and timed, a breaker leaves it alone while it mostly fails, the account's
rate has callers wait, a dry run keeps every effect away. The rate is within the breaker: who must not call waits for no token.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from forecastle.clouds.breaker import Breaker, Tripping
from forecastle.clouds.dry_run import DryRun
from forecastle.clouds.meter import Metered
from forecastle.clouds.rate import RateLimited, TokenBucket
from forecastle.errors import ConfigError
from forecastle.ports import Clock, Cloud
from forecastle.runtime.inventory import resolve
from forecastle.settings import CloudSettings, Settings


def clouds(settings: Settings, at: Clock, *, sleep: Callable[[float], None] = time.sleep) -> dict[str, Cloud]:
    """Every configured adapter, opened and behind its brakes. Raises ConfigError when one account is given two rates."""
    buckets, opened = _buckets(settings.clouds, at), dict[str, Cloud]()
    for name, chosen in settings.clouds.items():
        cloud: Cloud = Metered(resolve(chosen.adapter)(clock=at, **chosen.options), time.monotonic)
        if bucket := buckets.get(chosen.account or name):
            cloud = RateLimited(cloud, bucket, longest_wait_s=settings.act.timeout_s, sleep=sleep)
        if chosen.breaker_share is not None:
            tripping = Tripping(chosen.breaker_share, chosen.breaker_calls, chosen.breaker_window_s, chosen.breaker_open_s)
            cloud = Breaker(cloud, tripping, at.monotonic)
        opened[name] = DryRun(cloud) if chosen.dry_run else cloud
    return opened


def _buckets(chosen: dict[str, CloudSettings], at: Clock) -> dict[str, TokenBucket]:
    """One bucket for each account that has a rate."""
    rates: dict[str, tuple[float, int, str]] = {}
    for name, one in chosen.items():
        if one.rate_per_s is None:
            continue
        rate, burst, first = rates.setdefault(one.account or name, (one.rate_per_s, one.burst, name))
        if (rate, burst) != (one.rate_per_s, one.burst):
            raise ConfigError(
                f"clouds.{name}: rate_per_s and burst of account '{one.account}' differ from those in clouds.{first}; "
                "an account has one rate: write the same in both"
            )
    return {account: TokenBucket(rate, burst, at.monotonic) for account, (rate, burst, _) in rates.items()}
