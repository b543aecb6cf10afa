"""What one workload looks like at a tick: the size it should have, and every number behind it for the plan's evidence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from forecastle.decide.capacity import Capacity
from forecastle.decide.lag import Lag
from forecastle.decide.sizing import Size
from forecastle.guards.context import GuardContext, View
from forecastle.types import Workload


@dataclass(frozen=True, slots=True)
class Known:
    """What sizing knew besides demand and forecast, for the plan's evidence.

    (metric, capacity) of the ``capacities``, the learned ``lags`` by pool, the ``lead_time_s`` used, the names of the
    ``occasions`` ahead and the share of the error ``budget`` left (None: no objective, or its budget cannot be seen).
    """

    capacities: tuple[tuple[str, Capacity], ...]
    lags: Mapping[str, Lag]
    lead_time_s: float
    occasions: tuple[str, ...]
    budget: float | None

    def evidence(self) -> dict[str, Any]:
        """JSON-able; only what differs from the plain configuration, besides the lead time."""
        told: dict[str, str] = {}
        for metric, c in self.capacities:
            text = f"{c.model}: {c.note}" if c.note else c.model
            if text != "fixed":
                told[metric] = f"{told[metric]}; {text}" if metric in told else text
        lags = {pool: {"p90_s": _short(lag.seconds), "orders": lag.orders} for pool, lag in sorted(self.lags.items())}
        found: dict[str, Any] = {
            "capacity": told,
            "startup": lags,
            "occasions": list(self.occasions),
        }
        return {name: value for name, value in found.items() if value} | (
            {} if self.budget is None else {"budget_left": _short(self.budget)}
        )


@dataclass(frozen=True, slots=True)
class Sight:
    """One workload at this tick. ``context`` is a guard context without grants; ``dark_s`` how long its demand is missing."""

    load: Workload
    view: View
    size: Size
    context: GuardContext
    ordered: int
    ready: int
    price: float
    dark_s: float
    model: str
    reactive_utilization: float
    known: Known

    @property
    def settled(self) -> bool:
        """Whether what is ordered is close enough to what is wanted, under neither floor nor minimum, and nothing amiss."""
        slack = self.context.settings.tolerance * self.ordered + 1e-9
        near = abs(self.size.wanted - self.ordered) <= slack
        return near and self.ordered >= max(self.view.floor, self.load.min) and not self.view.amiss

    def with_amiss(self, number: int) -> Sight:
        """The same with so many more replicas amiss."""
        view = replace(self.view, amiss=self.view.amiss + number)
        return replace(self, view=view, context=replace(self.context, view=view))

    def evidence(self) -> dict[str, Any]:
        """The numbers behind the sizing, JSON-able; `View.of` reads the guards' part back."""
        s = self.size
        return self.view.as_evidence() | {
            "ordered": self.ordered,
            "ready": self.ready,
            "reactive": s.floor,
            "forecast": s.forecast,
            "kept": s.kept,
            "binding": f"within tolerance of what is ordered ({s.binding})" if self.settled else s.binding,
            "metric": s.metric,
            "demand": _short(s.demand),
            "median": _short(s.median),
            "peak": _short(s.peak),
            "quantile": _short(s.quantile),
            "price": _short(self.price),
            "unmet_price": self.load.unmet_price,
            "per_replica": self._carries(),
            "utilization": self.load.target_utilization,
            "reactive_utilization": self.reactive_utilization,
            "lead_time_s": _short(self.known.lead_time_s),
            "model": self.model,
            **({"paid": s.paid} if s.paid else {}),
            **self.known.evidence(),
        }

    def in_short(self) -> dict[str, Any]:
        """The forecast, the quantile and what binds: the evidence about a workload to which nothing is done."""
        s = self.size
        told = {"ordered": self.ordered, "wanted": s.wanted, "binding": s.binding, "quantile": _short(s.quantile)}
        course = {"demand": _short(s.demand), "median": _short(s.median), "peak": _short(s.peak), "model": self.model}
        return told | (course if s.peak is not None else {"demand": _short(s.demand)})

    def _carries(self) -> float | None:
        """What a replica carries of the metric that binds; None when no one number says it."""
        found = {c.per_replica for metric, c in self.known.capacities if metric == self.size.metric}
        return found.pop() if len(found) == 1 else None


def _short(value: float | None) -> float | None:
    """Six significant digits: what a person reads and a ledger keeps."""
    return None if value is None else float(f"{value:.6g}")
