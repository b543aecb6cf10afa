"""The Kubernetes HPA's arithmetic, as pure functions.

Source: kubernetes ``pkg/controller/podautoscaler/replica_calculator.go`` and ``horizontal.go`` (autoscaling/v2), defaults
of ``pkg/apis/autoscaling/v2/defaults.go``: sync 15 s, tolerance 0.1, CPU initialization 300 s, initial readiness delay
30 s, down-stabilization 300 s. A peer that is weaker than the original proves nothing, so the order of the steps, the
truncations and the comparisons are the original's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

TOLERANCE = 0.1
CPU_INITIALIZATION_S = 300.0
READINESS_DELAY_S = 30.0


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod at a sync. Times are seconds before now; ``sample`` is None when the metrics API has none for it.

    ``request`` is the pod's resource request (utilization only). ``started_s`` is the age since the pod started,
    ``changed_s`` since its Ready condition last changed, ``sampled_s`` the age of the sample and ``window_s`` the span it
    averages.
    """

    sample: float | None
    request: float = 0.0
    ready: bool = True
    pending: bool = False
    gone: bool = False
    started_s: float = 1e9
    changed_s: float = 1e9
    sampled_s: float = 0.0
    window_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far the ratio may be from 1 without a change; both ends hold."""

    down: float = TOLERANCE
    up: float = TOLERANCE

    def holds(self, ratio: float) -> bool:
        """``1 - down <= ratio <= 1 + up``."""
        return 1.0 - self.down <= ratio <= 1.0 + self.up


def utilization_replicas(current: int, pods: Sequence[Pod], target: float, tolerance: Tolerance | None = None) -> int:
    """Replicas for a Resource metric with ``averageUtilization`` target in percent. Raises ValueError without any sample."""
    ready, unready, missing, _ = group(pods, cpu=True)
    measured = [pods[i] for i in ready]
    requests = sum(pod.request for pod in measured)
    if not measured or requests <= 0:
        raise ValueError("no ready pod has both a sample and a request: the HPA cannot compute a utilization")
    everyone = {i: pods[i].sample or 0.0 for i in ready}

    def ratio(samples: dict[int, float]) -> float:
        use = sum(samples.values())
        return int(100.0 * use / sum(pods[i].request for i in samples)) / target

    def fill(index: int, *, up: bool) -> float:
        return 0.0 if up else max(100.0, target) / 100.0 * pods[index].request

    return _settle(current, everyone, (unready, missing), _Measure(ratio, fill), tolerance or Tolerance())


def per_pod_replicas(current: int, pods: Sequence[Pod], target: float, tolerance: Tolerance | None = None) -> int:
    """Replicas for a Pods metric with AverageValue ``target``; readiness is ignored, Pending pods are unready."""
    ready, unready, missing, _ = group(pods, cpu=False)
    if not ready:
        raise ValueError("no pod has a sample: the HPA cannot compute an average")
    everyone = {i: pods[i].sample or 0.0 for i in ready}

    def ratio(samples: dict[int, float]) -> float:
        return sum(samples.values()) / len(samples) / target

    def fill(index: int, *, up: bool) -> float:  # noqa: ARG001 - a raw target is the same for every pod
        return 0.0 if up else target

    return _settle(current, everyone, (unready, missing), _Measure(ratio, fill), tolerance or Tolerance())


def group(pods: Sequence[Pod], *, cpu: bool) -> tuple[list[int], set[int], set[int], set[int]]:
    """Indices of ready, unready, missing and ignored pods."""
    ready: list[int] = []
    unready: set[int] = set()
    missing: set[int] = set()
    ignored: set[int] = set()
    for i, pod in enumerate(pods):
        if pod.gone:
            ignored.add(i)
        elif pod.pending:
            unready.add(i)
        elif pod.sample is None:
            missing.add(i)
        elif cpu and _initializing(pod):
            unready.add(i)
        else:
            ready.append(i)
    return ready, unready, missing, ignored


def _initializing(pod: Pod) -> bool:
    if pod.started_s < CPU_INITIALIZATION_S:
        return not pod.ready or pod.changed_s - pod.sampled_s < pod.window_s
    return not pod.ready and pod.started_s - pod.changed_s < READINESS_DELAY_S


class _Fill(Protocol):
    def __call__(self, index: int, *, up: bool) -> float: ...


@dataclass(frozen=True, slots=True)
class _Measure:
    """How a metric turns samples into a ratio to its target, and what stands in for a pod without a sample."""

    ratio: Callable[[dict[int, float]], float]
    fill: _Fill


def _settle(
    current: int, samples: dict[int, float], rest: tuple[set[int], set[int]], measure: _Measure, tolerance: Tolerance
) -> int:
    """Steps 4 and 5 of the calculator: decide on what is measured, else on what is assumed about the ``rest``."""
    unready, missing = rest
    fill = measure.fill
    ratio = measure.ratio(samples)
    count = len(samples)
    if not missing and not (unready and ratio > 1.0):
        return current if tolerance.holds(ratio) else math.ceil(ratio * count)
    assumed = dict(samples)
    if ratio < 1.0:
        assumed |= {i: fill(i, up=False) for i in missing}
    elif ratio > 1.0:
        assumed |= {i: fill(i, up=True) for i in missing}
    if ratio > 1.0:
        assumed |= dict.fromkeys(unready, 0.0)
    again = measure.ratio(assumed)
    if tolerance.holds(again) or (ratio < 1.0 < again) or (ratio > 1.0 > again):
        return current
    wanted = math.ceil(again * len(assumed))
    if (again < 1.0 and wanted > current) or (again > 1.0 and wanted < current):
        return current
    return wanted


def average_value_replicas(current: int, value: float, target: float, tolerance: Tolerance | None = None) -> int:
    """Replicas for an Object or External metric with AverageValue: the metric's total over the target per replica."""
    if current <= 0:
        return math.ceil(value / target)
    ratio = value / (target * current)
    return current if (tolerance or Tolerance()).holds(ratio) else math.ceil(value / target)


def value_replicas(current: int, ready: int, value: float, target: float, tolerance: Tolerance | None = None) -> int:
    """Replicas for an Object or External metric with a plain Value target."""
    ratio = value / target
    if current <= 0:
        return math.ceil(ratio)
    return current if (tolerance or Tolerance()).holds(ratio) else math.ceil(ratio * ready)


def combine(current: int, proposals: Sequence[int | None]) -> int:
    """Several metrics: the largest proposal wins; None is a metric that failed, and then nothing scales down."""
    known = [p for p in proposals if p is not None]
    if not known:
        return current
    largest = max(known)
    return max(largest, current) if len(known) < len(proposals) else largest


class Select(StrEnum):
    """Which of several scaling policies counts."""

    MAX = "Max"
    MIN = "Min"
    DISABLED = "Disabled"


@dataclass(frozen=True, slots=True)
class Rate:
    """One scaling policy: at most ``value`` pods, or percent, per ``period_s``."""

    value: int
    percent: bool
    period_s: float = 15.0


@dataclass(frozen=True, slots=True)
class Rules:
    """One direction of ``behavior``."""

    window_s: float
    rates: tuple[Rate, ...]
    select: Select = Select.MAX


UP = Rules(0.0, (Rate(4, percent=False), Rate(100, percent=True)))
DOWN = Rules(300.0, (Rate(100, percent=True),))
"""Defaults of ``behavior``: up at once by the larger of 4 pods and 100 %, down after 300 s without a limit."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What the controller remembers, as (seconds before now, number): recommendations, replicas added, replicas removed."""

    recommendations: tuple[tuple[float, int], ...] = ()
    added: tuple[tuple[float, int], ...] = ()
    removed: tuple[tuple[float, int], ...] = ()


def behave(current: int, desired: int, memory: Memory, up: Rules = UP, down: Rules = DOWN) -> int:
    """``desired`` after stabilization and rate limits when ``behavior`` is set."""
    highest, lowest = desired, desired
    for age, wanted in memory.recommendations:
        lowest = min(lowest, wanted) if age < up.window_s else lowest
        highest = max(highest, wanted) if age < down.window_s else highest
    stable = min(max(current, lowest), highest)
    if stable > current:
        return min(stable, max(_limit(current, memory, up, 1), current))
    if stable < current:
        return max(stable, min(_limit(current, memory, down, -1), current))
    return stable


def behave_default(current: int, desired: int, memory: Memory, window_s: float = 300.0) -> int:
    """``desired`` when ``behavior`` is unset: the window's largest recommendation, at most ``max(2 * current, 4)``."""
    stable = max([desired, *(wanted for age, wanted in memory.recommendations if age < window_s)])
    return min(stable, max(2 * current, 4))


def _limit(current: int, memory: Memory, rules: Rules, sign: int) -> int:
    """Furthest replica count the rates allow; a rate's base is what there was when its period began."""
    if rules.select is Select.DISABLED:
        return current
    limits = []
    for rate in rules.rates:
        added = sum(n for age, n in memory.added if age < rate.period_s)
        removed = sum(n for age, n in memory.removed if age < rate.period_s)
        base = current - added + removed
        if not rate.percent:
            limits.append(base + sign * rate.value)
        elif sign > 0:
            limits.append(math.ceil(base * (1 + rate.value / 100.0)))
        else:
            limits.append(int(base * (1 - rate.value / 100.0)))
    furthest = max if (rules.select is Select.MAX) == (sign > 0) else min
    return furthest(limits)
