"""Prometheus reads what the worker does and foresees, in base units and with a bounded number of series.

A forecast is exported *now*, with the ``horizon`` in seconds as a label: Prometheus accepts a sample stamped an hour ahead, and
then rejects the present ones. Numbers that a stopped worker would leave standing are withdrawn after ``stale_s``.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

import forecastle
from forecastle.errors import ConfigError
from forecastle.outlets.cloud_metrics import CloudReport, cloud_families
from forecastle.outlets.turn import Turn
from forecastle.settings import OutletSettings
from forecastle.types import Forecasts, Inventory, SeriesKey, Severity, Situation

Row = TypeVar("Row", bound=tuple[str, ...])
STATES = ("STARTING", "REBUILDING", "RUNNING", "HOLD", "STOPPED")


@dataclass(frozen=True, slots=True)
class Vitals:
    """The worker between ticks: totals since its start, ``hold_s`` seconds of the present HOLD (0: none)."""

    state: str = "STARTING"
    samples: int = 0
    series: int = 0
    dead_letters: int = 0
    late: int = 0
    hold_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Delivery:
    """How an outlet with a queue is doing: events waiting, and totals of those delivered and given up."""

    pending: int
    delivered: int
    dropped: int


@dataclass(slots=True)
class _Totals:
    ticks: Counter[str] = field(default_factory=Counter)
    actions: Counter[tuple[str, str]] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    anomalies: Counter[str] = field(default_factory=Counter)
    rows: Counter[str] = field(default_factory=Counter)
    plans: int = 0


class Metrics(Collector):
    """A loop listener that Prometheus scrapes. `listen` is called by the loop, `collect` by the server's threads.

    ``vitals``, ``deliveries`` and ``clouds`` are asked at each scrape and must not block; the loop asks ``lag`` and ``skew``.
    """

    def __init__(
        self,
        settings: OutletSettings,
        stock: Inventory,
        *,
        vitals: Callable[[], Vitals],
        lag: Callable[[], int],
        skew: Callable[[], Mapping[str, float]] = dict,
        deliveries: Callable[[], dict[str, Delivery]] = dict,
        clouds: Callable[[], dict[str, CloudReport]] = dict,
        rings: Callable[[], Mapping[tuple[str, int], int]] = dict,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings, self._stock = settings, stock
        self._vitals, self._lag_now, self._deliveries, self._clouds = vitals, lag, deliveries, clouds
        self._monotonic, self._rings = monotonic, rings
        demands = [demand.key for load in stock.workloads.values() for demand in load.demands]
        self._demands = dict.fromkeys(demands[: settings.metrics_series])
        self._totals = _Totals()
        self._turn: Turn | None = None
        self._told_at = 0.0
        self._lag = 0
        self._skew, self._skew_now = skew(), skew
        self._wanted: dict[str, int] = {}

    def listen(self, turn: Turn) -> None:
        """Count a turn and keep its newest numbers."""
        totals = self._totals
        totals.ticks["rebuilt" if turn.rebuilt else "decided"] += 1
        self._lag, self._skew = self._lag_now(), self._skew_now()
        if not turn.rebuilt:
            self._count(turn)
        for plan in turn.plans:
            self._wanted.update(plan.recommended)
        self._turn, self._told_at = turn, self._monotonic()

    def _count(self, turn: Turn) -> None:
        totals, forecasts = self._totals, turn.closed.forecasts
        totals.plans += len(turn.plans)
        totals.actions.update((o.kind.value, o.status.value) for o in turn.outcomes)
        totals.refusals.update(refusal.guard for plan in turn.plans for refusal in plan.refusals)
        totals.anomalies.update(anomaly.kind.value for anomaly in turn.closed.anomalies)
        fallback = int(forecasts.fallback.sum())
        totals.rows.update(fallback=fallback, model=len(forecasts) - fallback)

    def collect(self) -> Iterable[Metric]:
        """Every family, as prometheus_client asks for them."""
        turn = self._turn
        yield InfoMetricFamily("forecastle_build", "Version of Forecastle", {"version": forecastle.__version__})
        yield from self._worker()
        yield from self._counters()
        yield from cloud_families(self._clouds())
        if turn is not None:
            yield from _tick(turn)
            if turn.situation is not None and self._monotonic() - self._told_at <= self._settings.stale_s:
                yield from self._foreseen(turn.closed.forecasts)
                yield self._demand(turn)
                yield from self._replicas(turn.situation)

    def _worker(self) -> Iterator[Metric]:
        vitals = self._vitals()
        states = {(state,): float(state == vitals.state) for state in STATES}
        yield _gauge("forecastle_worker_state", "1 for the state the worker is in", ["state"], states)
        yield _counter("forecastle_samples", "Samples taken in", [], {(): vitals.samples})
        yield _gauge("forecastle_series", "Series with a window", [], {(): vitals.series})
        yield _counter("forecastle_dead_letters", "Records refused and dead-lettered", [], {(): vitals.dead_letters})
        yield _counter("forecastle_late_samples", "Samples that came too late to count", [], {(): vitals.late})
        yield _gauge("forecastle_hold_seconds", "Age of the present HOLD; 0 when there is none", [], {(): vitals.hold_s})
        yield _gauge("forecastle_lag_records", "Records not read yet, all partitions, at the last tick", [], {(): self._lag})
        ahead = {(source,): lead for source, lead in self._skew.items()}
        yield _gauge("forecastle_clock_skew_seconds", "Largest lead of a source's clock over ours, lately", ["source"], ahead)
        found = self._deliveries()
        pending = {(name,): one.pending for name, one in found.items()}
        yield _gauge("forecastle_outlet_pending_events", "Events waiting to be delivered", ["outlet"], pending)
        told = {(name, how): getattr(one, how) for name, one in found.items() for how in ("delivered", "dropped")}
        rung = {(route, str(status)): count for (route, status), count in self._rings().items()}
        yield _counter("forecastle_doorbell_requests", "Requests at the doorbell", ["route", "status"], rung)
        yield _counter("forecastle_outlet_events", "Events delivered, or dropped at last", ["outlet", "result"], told)

    def _counters(self) -> Iterator[Metric]:
        totals = self._totals
        yield _counter("forecastle_ticks", "Ticks closed", ["phase"], _flat(totals.ticks))
        yield _counter("forecastle_plans", "Plans made", [], {(): totals.plans})
        yield _counter("forecastle_actions", "Actions concluded", ["kind", "status"], totals.actions)
        yield _counter("forecastle_refusals", "Actions refused or clamped", ["guard"], _flat(totals.refusals))
        yield _counter("forecastle_anomalies", "Anomalies found", ["kind"], _flat(totals.anomalies))
        yield _counter("forecastle_forecast_rows", "Series forecast, by who answered", ["source"], _flat(totals.rows))

    def _foreseen(self, forecasts: Forecasts) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            "forecastle_forecast",
            "Demand forecast now for `horizon` seconds ahead, in the unit of the metric",
            labels=["workload", "metric", "series", "horizon", "quantile"],
        )
        steps, columns = self._corner(forecasts)
        for row, key in enumerate(forecasts.keys):
            if key in self._demands:
                for step in steps:
                    horizon = _number((step + 1) * forecasts.step_ms / 1000)
                    for column in columns:
                        labels = [*_series(key), horizon, _number(forecasts.quantiles[column])]
                        family.add_metric(labels, float(forecasts.values[row, step, column]))
        yield family

    def _corner(self, forecasts: Forecasts) -> tuple[list[int], list[int]]:
        """Steps and quantile columns that the settings ask for and the forecast has."""
        wanted = {round(s * 1000 / forecasts.step_ms) - 1 for s in self._settings.horizons_s}
        steps = sorted(step for step in wanted if 0 <= step < forecasts.values.shape[1])
        columns = [i for i, q in enumerate(forecasts.quantiles) if any(abs(q - w) < 1e-9 for w in self._settings.quantiles)]
        return steps, columns

    def _demand(self, turn: Turn) -> Metric:
        windows = turn.closed.windows
        seen = {_series(k): windows.values[i, -1] for i, k in enumerate(windows.keys) if k in self._demands}
        finite = {labels: float(value) for labels, value in seen.items() if np.isfinite(value)}
        return _gauge("forecastle_demand", "Demand measured in the last step", ["workload", "metric", "series"], finite)

    def _replicas(self, situation: Situation) -> Iterator[Metric]:
        pools = self._stock.pools
        seen = [(p, one) for name, one in situation.fleet.observed.items() if (p := pools.get(name)) and not p.traffic]
        labels = ["workload", "pool", "site"]
        desired = {(p.workload, p.name, p.site): one.replicas for p, one in seen}
        ready = {(p.workload, p.name, p.site): one.ready for p, one in seen}
        yield _gauge("forecastle_pool_desired_replicas", "Replicas the cloud was asked for", labels, desired)
        yield _gauge("forecastle_pool_ready_replicas", "Replicas that serve", labels, ready)
        wanted = {(name,): count for name, count in self._wanted.items() if name in self._stock.workloads}
        yield _gauge("forecastle_recommended_replicas", "Replicas wanted, before guards", ["workload"], wanted)
        cost = sum(p.cost(one.replicas) for p, one in seen)
        text = "Money an hour of the desired replicas and of all that is committed, in the pools' currency"
        yield _gauge("forecastle_cost_per_hour", text, [], {(): cost})


def _tick(turn: Turn) -> Iterator[Metric]:
    closed = turn.closed
    yield _gauge("forecastle_last_tick_timestamp_seconds", "Event time of the newest tick", [], {(): closed.tick / 1000})
    open_now = Counter(i.severity for i in closed.incidents if not i.closed)
    severities = {(severity.value,): open_now[severity] for severity in Severity}
    yield _gauge("forecastle_incidents_open", "Open incidents", ["severity"], severities)
    doubts = {("late",): int(closed.windows.late.sum()), ("suspect",): int(closed.windows.suspect.sum())}
    yield _gauge("forecastle_doubtful_series", "Series that are late or not to be trusted", ["doubt"], doubts)
    name, _, version = closed.forecasts.model.partition("@")
    model = {"model": name, "version": version[:12]}
    yield InfoMetricFamily("forecastle_model", "The forecasting model in service", model)
    drift = closed.forecasts.drift
    raised = {(one.kind,): float(one.raised) for one in drift}
    yield _gauge("forecastle_drift", "1 while the model in service has drifted", ["kind"], raised)
    shares = {(one.kind,): one.share for one in drift if one.judged}
    yield _gauge("forecastle_drifted_ratio", "Share of the judged series that have drifted", ["kind"], shares)


def _gauge(name: str, text: str, labels: list[str], values: Mapping[Row, float]) -> Metric:
    return _filled(GaugeMetricFamily(name, text, labels=labels), values)


def _counter(name: str, text: str, labels: list[str], values: Mapping[Row, float]) -> Metric:
    return _filled(CounterMetricFamily(name, text, labels=labels), values)


def _filled(family: GaugeMetricFamily | CounterMetricFamily, values: Mapping[Row, float]) -> Metric:
    for row, value in values.items():
        family.add_metric(list(row), value)
    return family


def _flat(counts: Counter[str]) -> dict[tuple[str], int]:
    return {(name,): count for name, count in counts.items()}


def _series(key: SeriesKey) -> tuple[str, str, str]:
    return key.workload, key.metric, ",".join(f'{name}="{value}"' for name, value in key.labels)


def _number(value: float) -> str:
    return f"{value:g}" if abs(value) < 1e6 else f"{value:.0f}"


@contextmanager
def serving_metrics(metrics: Metrics, settings: OutletSettings) -> Iterator[int]:
    """Serve ``metrics`` at ``/metrics`` while inside; yields the port. Raises ConfigError when the address cannot be had."""
    registry = CollectorRegistry()
    registry.register(metrics)
    host, port = settings.metrics_host, settings.metrics_port or 0
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise ConfigError(
            f"outlets.metrics_port: cannot listen on {host}:{port} ({error.strerror}); choose a free port"
        ) from error
    try:
        yield int(server.server_port)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
