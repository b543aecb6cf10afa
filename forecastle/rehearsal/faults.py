"""The rehearsals of trouble: what each policy does when the metric, the cloud or the forecast itself fails.

The world's faults strike at the worst moment there is, the steepest rise of the test span; the forecast's last for all of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from forecastle.rehearsal.forecastle import Forecastle
from forecastle.rehearsal.hpa import Hpa
from forecastle.rehearsal.simulate import Policy, PoolModel, Retries, Timeline, Trouble, simulate
from forecastle.rehearsal.trace import STEP_S, Demand
from forecastle.types import Floats, Mask

FAULT_S = 1800
"""How long the metric is gone, start-ups hang, or half of the replicas are."""
_HOUR = 3600 // STEP_S
PRICE = 20.0
"""The price of unmet demand that our policy is set to: the default of a workload."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One fault under one policy: what it left unmet (share of the demand), what it cost, and what it said about it."""

    fault: str
    policy: str
    knob: str
    unmet_share: float
    cost: float
    notes: tuple[str, ...]


def trials(demand: Demand, pool: PoolModel, ours: Forecastle) -> tuple[Trial, ...]:
    """Every fault under our policy, which is taught and has its plan, and under the HPA at a target of 0.7."""
    hpa, ours = Hpa((0.7,)), replace(ours, kept=(f"{PRICE:g}",))
    out = []
    for name, trouble in world_faults(demand, pool).items():
        for policy in (ours, hpa):
            blind = trouble is not None and trouble.blind.any() and isinstance(policy, Forecastle)
            out += _trial(name, replace(ours, planned=None) if blind else policy, demand, pool, trouble)
    level = float(demand.value[: demand.first].mean())
    for name, distort in forecast_faults(level).items():
        out += _trial(name, replace(ours, distort=distort), demand, pool, None)
    return tuple(out)


def world_faults(demand: Demand, pool: PoolModel) -> dict[str, Trouble | None]:
    """What goes wrong around the steepest rise; ``none`` for comparison."""
    steps = FAULT_S // STEP_S
    begin = min(max(steepest_rise(demand, steps), demand.first + pool.lead_steps + 1), len(demand) - 1)
    struck = np.zeros(len(demand), bool)
    struck[begin : begin + steps] = True
    quiet = np.zeros(len(demand), bool)
    return {
        "none": None,
        "metric gap": Trouble(struck, quiet, quiet),
        "stuck start-ups": Trouble(quiet, struck, quiet),
        "failed capacity": Trouble(quiet, quiet, struck),
        "retry storm": Trouble(quiet, quiet, struck, Retries()),
    }


def forecast_faults(level: float) -> dict[str, Callable[[Floats], Floats]]:
    """The forecast made wrong: ``level`` whatever comes, ten times too large, not a number."""
    return {
        "forecast constant": lambda capacity: np.full_like(capacity, level),
        "forecast 10x": lambda capacity: capacity * 10.0,
        "forecast NaN": lambda capacity: np.full_like(capacity, np.nan),
    }


def steepest_rise(demand: Demand, steps: int) -> int:
    """Step of the test span after which the demand grows most within ``steps``."""
    value = demand.value[demand.first :]
    if len(value) <= steps:
        return demand.first
    return demand.first + int(np.argmax(value[steps:] - value[:-steps]))


def _trial(fault: str, policy: Policy, demand: Demand, pool: PoolModel, trouble: Trouble | None) -> list[Trial]:
    line = simulate(policy, demand, pool, trouble)
    struck = None if trouble is None else trouble.struck[demand.first :]
    return [_row(fault, line, k, struck) for k in range(len(line.knobs))]


def _row(fault: str, line: Timeline, k: int, struck: Mask | None) -> Trial:
    notes = line.notes if struck is None else (account(line, k, struck), *line.notes)
    return Trial(fault, line.policy, line.knobs[k], float(line.unmet_share[k]), float(line.total_cost[k]), notes)


def account(line: Timeline, k: int, struck: Mask) -> str:
    """What the column ``k`` did from the beginning of a fault, ``struck`` bool[T], until an hour after its end, in words."""
    begin, end = (int(at) for at in np.flatnonzero(struck)[[0, -1]])
    span = slice(begin, end + 1 + _HOUR)
    ordered, short = line.desired[span, k], np.flatnonzero(line.unmet[span, k] > 0)
    text = f"{line.desired[max(begin - 1, 0), k]} replicas before it, {ordered.min()} to {ordered.max()} until an hour after it"
    if line.offered is not None:
        text += f"; up to {float((line.offered[span, k] / np.maximum(line.demand[span], 1e-12)).max()):.2f} x the demand came"
    if not len(short):
        return f"{text}; all was served"
    minutes = (int(short[-1]) - (end - begin)) * STEP_S / 60.0
    over = f"until {minutes:.2f} min after its end" if minutes > 0 else "over before its end"
    return f"{text}; short for {len(short) * STEP_S / 60.0:.2f} min, {over}"
