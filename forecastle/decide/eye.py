"""Looking at one workload: from windows, forecasts and the fleet to the size that follows.

Here the inputs of sizing meet: what can be trusted of the demand, what a replica carries, how long its pools take to start,
which occasions are ahead and what the objective has left.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from forecastle.decide.capacity import capacity
from forecastle.decide.events import Ahead
from forecastle.decide.lag import Lag, lead_time_s
from forecastle.decide.offers import Need, allowed, fewest, order, reserve, room
from forecastle.decide.place import greedy
from forecastle.decide.sight import Known, Sight
from forecastle.decide.sizing import Metric, Policy, Size, Span, Terms, break_even_s
from forecastle.guards.context import Facts, GuardContext, View
from forecastle.settings import DecideSettings, GuardSettings
from forecastle.types import Domain, Forecasts, Foreknown, Inventory, SeriesKey, Situation, Windows, Workload

_FUZZ = 1e-9


@dataclass(frozen=True, slots=True)
class Eye:
    """One tick, indexed so that every workload can be looked at: ``rows`` of the windows, ``forecast_rows``, sites ``down``."""

    situation: Situation
    inventory: Inventory
    settings: DecideSettings
    guards: GuardSettings
    policy: Policy
    facts: Facts
    rows: Mapping[SeriesKey, int]
    forecast_rows: Mapping[SeriesKey, int]
    down: frozenset[str]
    lags: Mapping[str, Lag]

    def look(self, load: Workload) -> Sight:
        """The size that ``load`` should have, and everything the decision needs to judge actions on it."""
        windows, demanded = self.situation.windows, [self.rows.get(d.key) for d in load.demands]
        late = any(row is None or windows.late[row] for row in demanded)
        suspect = any(row is not None and bool(windows.suspect[row]) for row in demanded)
        bare = View(0, 0, 0, late, suspect, self._veto(load), self.down)
        context = self._context(bare)
        metrics, terms, known = self._inputs(load, context)
        sized, lacking = self._with_reserve(load, self.policy(load, metrics, terms), terms.ordered)
        entitled = max(sized.floor, min(terms.least, load.max))  # planned replicas are a minimum of their time, as hard as any
        view = View(entitled, sized.wanted, len(metrics), late, suspect, bare.vetoed, self.down, lacking)
        observed = self.situation.fleet.observed
        ready = sum(observed[p].ready for p in load.pools if p in observed and context.serves(p))
        dark_s = min((_silence_s(windows, row) for row in demanded if row is not None), default=math.inf)
        return Sight(
            load,
            view,
            sized,
            self._context(view),
            terms.ordered,
            ready,
            terms.price,
            dark_s,
            self._model(load),
            self.settings.reactive_utilization,
            known,
        )

    def _inputs(self, load: Workload, context: GuardContext) -> tuple[list[Metric], Terms, Known]:
        """What sizing is asked with, and what of it belongs into the evidence."""
        span, lead = self._span(load, context)
        ahead = Ahead.of(load, self.situation.tick, self.situation.windows.step_ms, self._steps(span))
        metrics = self._metrics(load, ahead, span)
        budget = self._budget_left(load)
        ordered = context.ordered(load.name)
        terms = Terms(
            ordered,
            self._marginal_price(load, context),
            span,
            self.settings.reactive_utilization,
            self.guards.tolerance,
            *ahead.least(span.last),
            1.0 if budget is None else budget,
            self._paid(load, context),
            self._spare(load, ordered),
        )
        known = Known(
            tuple((m.demand.key.metric, m.carries) for m in metrics),
            {pool: self.lags[pool] for pool in load.pools if pool in self.lags},
            lead,
            tuple(event.name for event in ahead.events),
            budget,
        )
        return metrics, terms, known

    def _span(self, load: Workload, context: GuardContext) -> tuple[Span, float]:
        """The steps that matter and the lead time in seconds, by what is learned of the pools in service."""
        step_ms = self.situation.windows.step_ms
        pools = [self.inventory.pools[name] for name in load.pools if context.serves(name)]
        lead = lead_time_s(load, (p.name for p in pools), self.lags, step_ms / 1000)
        dearest = max(pools, key=lambda p: (p.unit_price, p.name), default=None)
        worth = 0.0 if dearest is None else break_even_s(dearest.unit_price, load.move_price, dearest.startup_s)
        return Span.of(load, step_ms, self.guards, lead_time_s=lead, break_even_s=worth), lead

    def _steps(self, span: Span) -> int:
        """Steps ahead in which an occasion matters: as far as is forecast and looked, and at least until growth is used."""
        return max(span.last, min(span.look, int(self.situation.forecasts.values.shape[1])))

    def _budget_left(self, load: Workload) -> float | None:
        """Share of the error budget left as its series says; None without one that can be trusted."""
        windows = self.situation.windows
        row = self.rows.get(load.slo.budget) if load.slo is not None and load.slo.budget is not None else None
        if row is None or windows.late[row] or windows.suspect[row]:
            return None
        return _newest(windows, row)

    def _with_reserve(self, load: Workload, sized: Size, ordered: int) -> tuple[Size, int]:
        """As many more replicas as it takes for enough to be left when one failure domain is lost, and how many are lacking.

        What is held is held with its reserve.
        """
        if load.survive is None:
            return sized, 0
        total, keep = self._reserve(load, sized.wanted)
        wanted = min(max(total, ordered if sized.held else 0), load.max)
        lacking = max(0, min(fewest(keep, self._domains(load)), wanted) - ordered)
        if total == sized.wanted:
            return replace(sized, wanted=wanted, keep=keep), lacking
        return replace(sized, wanted=wanted, keep=keep, binding=f"the loss of any {load.survive} must be survived"), lacking

    def _reserve(self, load: Workload, replicas: int) -> tuple[int, int]:
        """(replicas, keep) with what surviving the loss of a domain takes beside ``replicas``."""
        return (replicas, 0) if load.survive is None else reserve(replicas, load.survive_share, self._domains(load))

    def _domains(self, load: Workload) -> int:
        """How many domains, of the level whose loss is to be survived, it may be in now."""
        open_ = [p for p in load.pools if allowed(self.inventory.pools[p], load, self.inventory)]
        level = load.survive or Domain.ZONE
        return len({self.inventory.domain(p, level) for p in open_ if self.inventory.pools[p].site not in self.down})

    def _spare(self, load: Workload, ordered: int) -> int:
        """How many of those ordered are the reserve of the others."""
        if load.survive is None:
            return 0
        share, domains = load.survive_share, self._domains(load)
        return ordered + 1 - bisect_right(range(ordered + 1), ordered, key=lambda n: reserve(n, share, domains)[0])

    def _context(self, view: View) -> GuardContext:
        tick, fleet = self.situation.tick, self.situation.fleet
        return GuardContext(tick, self.inventory, fleet, view, self.guards, facts=self.facts)

    def _metrics(self, load: Workload, ahead: Ahead, span: Span) -> list[Metric]:
        """The demand metrics that can be trusted now, with their forecasts and what a replica carries of them."""
        windows, found = self.situation.windows, []
        for demand in load.demands:
            row = self.rows.get(demand.key)
            if row is None or windows.late[row] or windows.suspect[row]:
                continue
            value = _newest(windows, row)
            if value is not None:
                quantiles, values = _forecast(self.situation.forecasts, self.forecast_rows.get(demand.key))
                steps, known = span.last if values is None else len(values), self._known(demand.key)
                factors = ahead.factors(steps, windows[row], known)
                values = None if values is None else (values * factors[:, None]).astype(np.float32)
                carries = capacity(demand, windows, self.rows, load.max)
                found.append(Metric(demand, value, quantiles, values, carries, float(factors[: span.last].max(initial=1.0))))
        return found

    def _known(self, key: SeriesKey) -> tuple[Foreknown, ...]:
        """What the forecast of a series was told of the future; nothing where the stand-in answered or none is there."""
        forecasts, row = self.situation.forecasts, self.forecast_rows.get(key)
        return () if row is None or forecasts.fallback[row] else forecasts.known

    def _veto(self, load: Workload) -> str:
        """What stands against a scale-in: a series above its limit, or one that cannot be seen."""
        windows = self.situation.windows
        for key, above in load.vetoes:
            row = self.rows.get(key)
            value = None if row is None or windows.late[row] else _newest(windows, row)
            if value is None:
                return f"{key.metric} is missing: it cannot be ruled out that the workload suffers"
            if value > above:
                return f"{key.metric} is {value:g}, above {above:g}"
        return ""

    def _marginal_price(self, load: Workload, context: GuardContext) -> float:
        """What the next replica costs per hour: the cheapest pool in service that has room, else the cheapest of all."""
        pools = [self.inventory.pools[name] for name in load.pools]
        observed = self.situation.fleet.observed
        open_ = [
            p.unit_price
            for p in pools
            if context.serves(p.name) and (p.name not in observed or observed[p.name].replicas < min(p.max, p.quota))
        ]
        return min(open_, default=min((p.unit_price for p in pools), default=0.0))

    def _paid(self, load: Workload, context: GuardContext) -> int:
        """How many replicas commitments pay for, as far as the rules of placement let all of them be used at once.

        Found by bisection: so many are placed, none beyond commitments and minimums, and nothing gives way.
        """
        pools = [self.inventory.pools[name] for name in load.pools if context.serves(name)]
        fits, most = 0, sum(min(p.committed, room(p)) for p in pools)
        while fits < most:
            n = (fits + most + 1) // 2
            total, keep = self._reserve(load, n)
            need = Need(load.name, total, 0, keep)
            wanted = order(need, self.inventory, self.situation.fleet, self.down, self.settings.move_h)
            found = greedy([wanted], self.inventory)
            beyond = any(n > max(wanted.pools[name].committed, wanted.low.get(name, 0)) for name, n in found.replicas.items())
            if found.notes or beyond:
                most = n - 1
            else:
                fits = n
        return fits

    def _model(self, load: Workload) -> str:
        forecasts = self.situation.forecasts
        row = next((self.forecast_rows[d.key] for d in load.demands if d.key in self.forecast_rows), None)
        if row is None:
            return ""
        return "seasonal-naive" if forecasts.fallback[row] else forecasts.model


def _newest(windows: Windows, row: int) -> float | None:
    """The newest observed value of a series, None when there is none."""
    seen = np.flatnonzero(windows.mask[row])
    return float(windows.values[row, seen[-1]]) if len(seen) else None


def _silence_s(windows: Windows, row: int) -> float:
    """Seconds since the newest observation, by slots; at least the whole window when there is none."""
    seen = np.flatnonzero(windows.mask[row])
    slots = windows.mask.shape[1] - 1 - int(seen[-1]) if len(seen) else windows.mask.shape[1]
    return float(slots * windows.step_ms) / 1000


def _forecast(forecasts: Forecasts, row: int | None) -> tuple[tuple[float, ...], Any]:
    return ((), None) if row is None else (forecasts.quantiles, forecasts.values[row])
