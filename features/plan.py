"""Features by name, each with the look-back it declares, and the hash by which a model says which ones it was trained on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from forecastle.errors import ConfigError
from forecastle.types import Floats32, Ints, Mask

Compute: TypeAlias = Callable[[Floats32, Mask, Ints], Floats32]


@dataclass(frozen=True, slots=True)
class Feature:
    """A function of the newest ``look_back`` slots of a window; calling it hands it those slots and no others."""

    name: str
    look_back: int
    compute: Compute

    def __call__(self, values: Floats32, mask: Mask, end_minute: Ints) -> Floats32:
        """float32[n, k] of windows [n, L] that end at ``end_minute`` [n]. Raises ConfigError when L < ``look_back``."""
        if values.shape[1] < self.look_back:
            raise ConfigError(f"feature {self.name} looks {self.look_back} slots back; the window has {values.shape[1]}")
        start = values.shape[1] - self.look_back
        known = mask[:, start:]
        return self.compute(np.where(known, values[:, start:], np.float32(0)), known, end_minute)


FEATURES: dict[str, Feature] = {}


def feature(*, look_back: int) -> Callable[[Compute], Feature]:
    """Register a function as a feature under its name. Raises ConfigError when the name is taken."""

    def register(compute: Compute) -> Feature:
        if look_back < 0 or compute.__name__ in FEATURES:
            raise ConfigError(f"feature {compute.__name__}: the name is taken or the look-back {look_back} is negative")
        return FEATURES.setdefault(compute.__name__, Feature(compute.__name__, look_back, compute))

    return register


def plan(names: Sequence[str]) -> list[dict[str, str | int]]:
    """Name and look-back of each. Raises ConfigError for a name nobody registered."""
    missing = sorted(set(names) - set(FEATURES))
    if missing:
        raise ConfigError(f"unknown features {missing}; there are {sorted(FEATURES)}")
    return [{"name": name, "look_back": FEATURES[name].look_back} for name in names]


def plan_hash(names: Sequence[str], known: Sequence[str] = (), static: Sequence[str] = ()) -> str:
    """Hash of the plan: it changes with a name, the order, a look-back or a column told beside the window. 16 hex digits."""
    told: list[Any] = [*plan(names)]
    told += [{"name": name, "kind": kind} for kind, more in (("known", known), ("static", static)) for name in more]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def rolled(one: Feature, values: Floats32, mask: Mask, end_minute: Ints) -> Floats32:
    """The feature at every slot of a series as it was known then: float32[t, k] from ``values`` and ``mask`` [t].

    ``end_minute`` int64[t] is the end of each slot. Slots before the series begins count as unobserved.
    """
    back = max(one.look_back, 1)
    windows = np.lib.stride_tricks.sliding_window_view(np.concatenate([np.zeros(back - 1, np.float32), values]), back)
    known = np.lib.stride_tricks.sliding_window_view(np.concatenate([np.zeros(back - 1, bool), mask]), back)
    return one(windows, known, end_minute)
