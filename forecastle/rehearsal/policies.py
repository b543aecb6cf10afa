"""The policies by name, as ``forecastle rehearse --policies`` takes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from forecastle.errors import ConfigError
from forecastle.rehearsal.aws import AwsPredictive, TargetTracking
from forecastle.rehearsal.bounds import Oracle, StaticPeak
from forecastle.rehearsal.forecastle import Forecastle
from forecastle.rehearsal.hpa import Hpa, HpaCpu
from forecastle.rehearsal.keda import Keda
from forecastle.rehearsal.naive import SeasonalNaive
from forecastle.rehearsal.phpa import Phpa
from forecastle.rehearsal.simulate import Policy

SHARES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
PRICES = (float("inf"), 2000.0, 500.0, 200.0, 100.0, 50.0, 20.0, 10.0, 5.0, 2.0, 1.5, 1.25, 1.1)

POLICIES: dict[str, Callable[[], Policy]] = {
    "static-peak": lambda: StaticPeak(SHARES),
    "hpa": Hpa,
    "hpa-cpu": HpaCpu,
    "keda": Keda,
    "target-tracking": TargetTracking,
    "aws-predictive": AwsPredictive,
    "phpa": Phpa,
    "seasonal-naive": SeasonalNaive,
    "forecastle": Forecastle,
    "oracle": lambda: Oracle(PRICES),
}


def policy_named(name: str, more: Mapping[str, Callable[[], Policy]] | None = None) -> Policy:
    """A fresh policy with its default sweep, of those here and ``more``. Raises ConfigError with the names there are."""
    every = POLICIES | dict(more or {})
    if name not in every:
        raise ConfigError(f"there is no policy '{name}'; choose from --policies {','.join(every)}")
    return every[name]()
