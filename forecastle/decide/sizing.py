"""How many ready replicas one workload should have: numbers in, a number and the reason for it out.

Three needs are computed for every demand metric that can be trusted, and the largest wins (``per_replica`` is what its
`Capacity` says; a queue answers for the expected and the insured demand, and for the present one beside the reactive rule):

* **reactive**: what Kubernetes' HPA would ask for on the newest measurement, ``ceil(demand / (per_replica * u_r))`` with
  ``u_r = reactive_utilization``; within the tolerance of what is ordered it asks for what is ordered. This is the floor.
* **expected**: ``ceil(median / (per_replica * u))`` with ``u = target_utilization``: at the demand we expect, replicas run
  at the utilization where latency is good. The headroom ``1 - u`` is for what happens *inside* a step (queueing, bursts).
* **insured**: ``ceil(quantile / per_replica)``: at the demand we insure against, replicas are just full. The quantile is for
  the forecast being wrong *between* steps.

The two headrooms overlap instead of multiplying: whoever is surprised by the quantile's demand runs full for a while, which
is what unmet demand is priced by, so ``quantile / (per_replica * u)`` would pay for the same spare replica twice.

Forecasts are read over a span, not at a point. An order given now serves after the lead time and has to last until the next
order can, a cool-down later: growth is sized by the path's maximum over ``[lead, lead + hold)``. What is there already is
kept while the maximum over ``[0, look)`` still asks for it, so that nothing is removed that is wanted again soon: within the
scale-in stabilization, or before having let it go would have paid for starting it again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from forecastle.decide.capacity import Capacity, replicas_for
from forecastle.settings import GuardSettings
from forecastle.types import Demand, Floats32, Objective, Workload

_FUZZ = 1e-6
"""Slack of a rounding: noise must not add a step."""
LOOK_LIMIT = 100_000
"""Steps of look-ahead that stand for all of them: a replica that costs nothing is never worth letting go."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One demand metric at a tick: ``value`` measured now, and its forecast ``values`` float32[h, q] (None: there is none).

    Only metrics that are fresh and not suspect belong here. ``capacity`` is what a replica carries (None: the demand's
    ``per_replica``); ``factor`` is what occasions ahead multiply ``value`` by where there is no forecast to multiply.
    """

    demand: Demand
    value: float
    quantiles: tuple[float, ...] = ()
    values: Floats32 | None = None
    capacity: Capacity | None = None
    factor: float = 1.0

    @property
    def carries(self) -> Capacity:
        """What a replica carries of it."""
        return self.capacity or Capacity(self.demand.per_replica)


@dataclass(frozen=True, slots=True)
class Span:
    """Steps of the forecast that matter: ``[first, last)`` for growth, ``[0, look)`` for keeping what is there."""

    first: int
    last: int
    look: int

    @classmethod
    def of(
        cls,
        load: Workload,
        step_ms: int,
        guards: GuardSettings,
        *,
        lead_time_s: float | None = None,
        break_even_s: float = 0.0,
    ) -> Span:
        """The span of a workload: its lead time, then the scale-out cool-down, then the scale-in stabilization once more.

        A learned ``lead_time_s`` takes the place of the configured one. It is looked ``break_even_s`` ahead at least.
        """
        step_s = step_ms / 1000
        first = math.floor((load.lead_time_s if lead_time_s is None else lead_time_s) / step_s + _FUZZ)
        last = first + max(1, math.ceil(guards.cooldown_up_s / step_s - _FUZZ))
        look = last + math.ceil(guards.stabilization_down_s / step_s - _FUZZ)
        worth = math.ceil(min(break_even_s / step_s, LOOK_LIMIT) - _FUZZ)
        return cls(first, last, max(look, worth))


@dataclass(frozen=True, slots=True)
class Size:
    """What a workload needs, in ready replicas, and the numbers behind it.

    ``floor`` is the reactive need, ``wanted`` the answer, ``forecast`` the need of the forecasts over the growth span and
    ``kept`` over the whole look-ahead (both None without one). ``binding`` says which rule decided and ``metric`` which metric;
    ``demand``, ``median`` and ``peak`` are that metric's present, expected and insured demand, in its unit.
    ``keep`` replicas must be left when a failure domain is lost. ``paid`` is how many replicas commitments pay for where that
    is why the quantile is the highest, else 0. ``held``: ``wanted`` is no need, but all that is ordered.
    """

    floor: int
    wanted: int
    forecast: int | None
    kept: int | None
    quantile: float
    binding: str
    metric: str = ""
    demand: float = 0.0
    median: float | None = None
    peak: float | None = None
    keep: int = 0
    paid: int = 0
    held: bool = False


@dataclass(frozen=True, slots=True)
class Terms:
    """What sizing depends on besides the workload and its demand.

    How many replicas are ``ordered``, the ``price`` per hour of the next one, the ``span`` of the forecast that matters, the
    reactive rule's utilization and the tolerance. ``least`` replicas are asked for by the occasion ``because``, and
    ``budget_left`` is the share of the error budget that is left. So many replicas as ``paid`` cost nothing more: commitments
    pay for them whether used or not. ``spare`` of those ordered are for the loss of a domain: they answer no demand, and are
    added to the size again.
    """

    ordered: int
    price: float
    span: Span
    reactive_utilization: float = 0.8
    tolerance: float = 0.1
    least: int = 0
    because: str = ""
    budget_left: float = 1.0
    paid: int = 0
    spare: int = 0

    @property
    def serving(self) -> int:
        """Replicas ordered to serve what is demanded."""
        return self.ordered - self.spare


class Policy(Protocol):
    """A sizing policy: pure, and it passes `forecastle.testing.check_policy`."""

    def __call__(self, load: Workload, metrics: Sequence[Metric], terms: Terms) -> Size:
        """Size ``load`` by those of its demand metrics that can be trusted."""


def critical_quantile(price: float, unmet_price: float) -> float:
    """The newsvendor's critical ratio, the quantile at which one more replica costs what it saves.

    A replica too few costs ``unmet_price - price`` an hour, one too many ``price``: (unmet_price - price) / unmet_price.
    Source: Arrow, Harris and Marschak, "Optimal inventory policy", Econometrica 19 (1951).
    """
    return max(0.0, 1.0 - price / unmet_price)


def insured_quantile(price: float, unmet_price: float, slo: Objective | None, budget_left: float) -> float:
    """The quantile to insure against: the prices', not below the target of good time slices, nearer to 1 as the budget goes.

    What is left uninsured shrinks in proportion to the error budget, which is to price unmet demand at
    ``unmet_price / budget_left``. Never decreasing as ``budget_left`` falls; 1 when it is gone.
    """
    level = critical_quantile(price, unmet_price)
    if slo is not None and slo.timeslices:
        level = max(level, slo.target)
    return 1.0 - (1.0 - level) * min(max(budget_left, 0.0), 1.0)


def break_even_s(price: float, move_price: float, startup_s: float) -> float:
    """Seconds a replica must stay away before having let it go has saved anything.

    Starting it again costs ``move_price`` and ``startup_s`` of paying ``price`` an hour for a replica that does not serve yet.
    """
    return math.inf if price <= 0 else startup_s + 3600.0 * move_price / price


def reactive(value: float, target: float, ordered: int, tolerance: float) -> int:
    """What the HPA's AverageValue rule asks for; within ``tolerance`` of ``ordered`` replicas it asks for those."""
    need = value / target
    if ordered and abs(need / ordered - 1.0) <= tolerance + _FUZZ:
        return ordered
    return replicas_for(need, 1.0)


def path(metric: Metric, level: float) -> Floats32 | None:
    """The forecast of ``metric`` at quantile ``level`` (clipped into what was forecast), float32[h]; None if not finite."""
    if metric.values is None or not len(metric.values):
        return None
    q = np.asarray(metric.quantiles)
    right = int(np.clip(np.searchsorted(q, level), min(1, len(q) - 1), len(q) - 1))
    left = max(right - 1, 0)
    share = float(np.clip((level - q[left]) / max(q[right] - q[left], 1e-12), 0.0, 1.0))
    below, above = metric.values[:, left], metric.values[:, right]
    if not (np.isfinite(below).all() and np.isfinite(above).all()):
        return None
    return np.maximum(below * (1.0 - share) + above * share, 0.0)


def size(load: Workload, metrics: Sequence[Metric], terms: Terms) -> Size:
    """Implements `Policy`. Without a trusted metric it holds what is ordered; without a forecast it only ever grows."""
    found = _sized(load, metrics, terms, insured_quantile(terms.price, load.unmet_price, load.slo, terms.budget_left))
    if terms.paid <= found.wanted:
        return found
    highest = _sized(load, metrics, terms, 1.0)
    if highest.wanted <= found.wanted:
        return found
    if highest.wanted > terms.paid:
        highest = replace(highest, wanted=terms.paid, binding="what commitments pay for")
    return replace(highest, paid=terms.paid)


def _sized(load: Workload, metrics: Sequence[Metric], terms: Terms, level: float) -> Size:
    """The size that insures against the quantile ``level`` (clipped into what was forecast)."""
    ordered = terms.serving
    for levels in {metric.quantiles for metric in metrics if metric.quantiles}:
        level = min(max(level, levels[0]), levels[-1])
    if not metrics:
        held = max(ordered, load.min, min(terms.least, load.max))
        why = terms.because if held > max(ordered, load.min) else "no trusted demand: hold"
        return Size(0, held, None, None, level, why, held=held == ordered)
    needs = [_needs(metric, load, level, terms) for metric in metrics]
    floor = max(need.floor for need in needs)
    forecasts = [need.forecast for need in needs if need.forecast is not None]
    kept = [need.kept for need in needs if need.kept is not None]
    out = max([floor, *forecasts])
    everywhere = len(kept) == len(needs)
    keep = max([floor, *kept]) if everywhere else max(floor, ordered)
    wanted = max(out, min(ordered, keep))
    lead = max(needs, key=lambda need: (need.forecast or 0, need.floor) if out > floor else (need.floor, need.forecast or 0))
    if wanted > out:
        binding = "look-ahead: wanted again soon" if everywhere else "no forecast: hold"
    else:
        binding = lead.binding if out > floor else "reactive floor"
    if terms.least > wanted:
        wanted, binding = terms.least, terms.because
    clamped = max(load.min, min(wanted, load.max))
    if clamped != wanted:
        binding = "the workload's minimum" if clamped > wanted else "the workload's maximum"
    return Size(
        floor,
        clamped,
        max(forecasts, default=None),
        max(kept, default=None),
        level,
        binding,
        lead.metric,
        lead.demand,
        lead.median,
        lead.peak,
        held=clamped == ordered and (wanted > out or not everywhere),
    )


def _needs(metric: Metric, load: Workload, level: float, terms: Terms) -> Size:
    """The needs of one metric; ``wanted`` and ``quantile`` as if it were the only one."""
    carries, span, share = metric.carries, terms.span, load.target_utilization
    floor = reactive(metric.value, carries.per_replica * terms.reactive_utilization, terms.serving, terms.tolerance)
    if carries.service is not None:
        floor = max(floor, carries.replicas(metric.value))
    name = metric.demand.key.metric
    median, insured = path(metric, 0.5), path(metric, level)
    if median is None or insured is None:
        planned = carries.replicas(metric.value * metric.factor, share) if metric.factor > 1 else None
        return Size(floor, max(floor, planned or 0), planned, None, level, "planned factor", name, metric.value)
    first = min(span.first, len(median) - 1)
    middle, peak = float(median[first : span.last].max()), float(insured[first : span.last].max())
    expected, full = carries.replicas(middle, share), carries.replicas(peak)
    kept = max(carries.replicas(float(median[: span.look].max()), share), carries.replicas(float(insured[: span.look].max())))
    binding = "forecast quantile" if full > expected else "expected utilization"
    if carries.service is not None:
        binding = "latency target"
    return Size(floor, max(floor, expected, full), max(expected, full), kept, level, binding, name, metric.value, middle, peak)
