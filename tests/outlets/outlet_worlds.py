"""Turns of a loop over two workloads at two sites, as listeners are told them, and a receiver of webhooks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from forecastle.runtime.loop import Closed, Turned
from forecastle.types import (
    Action,
    Anomaly,
    AnomalyKind,
    Demand,
    Fleet,
    Forecasts,
    Incident,
    Inventory,
    Kind,
    Observed,
    Outcome,
    Plan,
    Pool,
    Refusal,
    SeriesKey,
    Severity,
    Site,
    Situation,
    Status,
    Windows,
    Workload,
    digest,
)

STEP = 60_000
START = 1_760_000_040_000 // STEP * STEP
SHOP = SeriesKey("shop", "rps", (("site", "fra"),))
MAIL = SeriesKey("mail", "queue")
DISK = SeriesKey("shop", "disk")
KEYS = (SHOP, MAIL, DISK)
QUANTILES = (0.1, 0.5, 0.9, 0.99)
STOCK = Inventory(
    {"fra": Site("fra", "acme", "eu"), "ams": Site("ams", "acme", "nl")},
    {
        "shop-fra": Pool("shop-fra", "shop", "fra", "sim", 0.5),
        "mail-ams": Pool("mail-ams", "mail", "ams", "sim", 0.25),
    },
    {
        "shop": Workload("shop", (Demand(SHOP, 100.0),), ("shop-fra",)),
        "mail": Workload("mail", (Demand(MAIL, 10.0),), ("mail-ams",)),
    },
)


def tick(number: int) -> int:
    return START + number * STEP


def windows(at: int, *, missing: tuple[SeriesKey, ...] = ()) -> Windows:
    values = np.array([[1.0, 2.0, 300.0], [1.0, 2.0, 40.0], [1.0, 2.0, 5.0]], np.float32)
    mask = np.ones((3, 3), np.bool_)
    for key in missing:
        values[KEYS.index(key), -1], mask[KEYS.index(key), -1] = np.nan, False
    return Windows(KEYS, at, STEP, values, mask, np.array([False, True, False]), np.array([False, False, True]))


def forecasts(at: int, horizon: int = 15, model: str = "mixer@0123456789abcdef") -> Forecasts:
    """Row r, step k, quantile column c forecasts 1000 * r + 10 * (k + 1) + c."""
    rows, steps, columns = np.meshgrid(np.arange(3), np.arange(horizon), np.arange(4), indexing="ij")
    values = (1000 * rows + 10 * (steps + 1) + columns).astype(np.float32)
    return Forecasts(KEYS, at, STEP, QUANTILES, values, model, np.array([False, False, True]))


def anomaly(at: int, key: SeriesKey = SHOP, kind: AnomalyKind = AnomalyKind.SPIKE) -> Anomaly:
    return Anomaly(key, at, 7.5, 3.0, kind, {"expected": 100.0, "seen": np.float32(300.0)})


def incident(at: int, severity: Severity = Severity.WARNING, *, opened_at: int = START, closed: bool = False) -> Incident:
    name = digest("incident", "shop", "fra", opened_at)
    return Incident(name, "shop", "fra", severity, opened_at, at, (anomaly(at),), 2, "too many requests", closed)


def action(at: int, pool: str = "shop-fra", desired: int = 6) -> Action:
    return Action(Kind.SCALE, STOCK.pools[pool].workload, pool, desired, 4, at, at + 300_000)


def plan(at: int, *actions: Action, recommended: dict[str, int] | None = None, refusals: tuple[Refusal, ...] = ()) -> Plan:
    wanted = {"shop": 6, "mail": 2} if recommended is None else recommended
    ident = digest("plan", at, *(a.id for a in actions))
    return Plan(
        ident, at, "acme/eu/", actions, "more demand is coming", {"shop": {"need": 6}}, refusals, wanted, 3.5, at + 300_000
    )


def outcome(done: Action, status: Status = Status.APPLIED) -> Outcome:
    after = Observed(done.pool, int(done.desired), 4, done.tick, "v2")
    return Outcome(done.id, status, done.tick + 1500, done.pool, done.kind, done.workload, None, after, "read back")


def situation(at: int, incidents: tuple[Incident, ...] = ()) -> Situation:
    observed = {"shop-fra": Observed("shop-fra", 4, 3, at, "v1"), "mail-ams": Observed("mail-ams", 2, 2, at, "v1")}
    return Situation(at, windows(at), forecasts(at), incidents, Fleet(at, observed))


def turned(
    at: int,
    *plans: Plan,
    outcomes: tuple[Outcome, ...] = (),
    anomalies: tuple[Anomaly, ...] = (),
    incidents: tuple[Incident, ...] = (),
    rebuilt: bool = False,
    decided: bool = True,
) -> Turned:
    """One turn; with ``decided`` false it is history that only rebuilds windows."""
    closed = Closed(at, windows(at), forecasts(at), anomalies, incidents)
    return Turned(closed, situation(at, incidents) if decided else None, plans, outcomes, rebuilt)


def busy(at: int) -> Turned:
    """A turn in which something of everything happened."""
    grow = action(at)
    return turned(
        at,
        plan(at, grow, refusals=(Refusal("step_up", "too fast", "shop-fra", "shop"),)),
        outcomes=(outcome(grow),),
        anomalies=(anomaly(at),),
        incidents=(incident(at),),
    )


def until(true: Callable[[], bool], patience_s: float = 120.0) -> None:
    ends = time.monotonic() + patience_s
    while not true():
        assert time.monotonic() < ends, "it did not happen"
        time.sleep(0.005)


class HookReceiver:
    """A receiver that keeps what it gets and answers by the script, 204 beyond it."""

    def __init__(self, port: int = 0) -> None:
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.delay_s = 0.0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.got.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
                time.sleep(outer.delay_s)
                status, headers = outer.answers.pop(0) if outer.answers else (204, {})
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def port(self) -> int:
        return int(self.server.server_port)
