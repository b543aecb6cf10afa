"""Who is told about each turn besides the ledger: opens the outlets that the configuration switches on, and closes them."""

from __future__ import annotations

import re
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from forecastle.errors import ConfigError
from forecastle.runtime.health import HealthFile
from forecastle.runtime.loop import Loop, Turned
from forecastle.settings import IntakeSettings, OutletSettings, Settings
from forecastle.types import digest

if TYPE_CHECKING:
    from forecastle.outlets.board import Board
    from forecastle.outlets.courier import Courier, Cursor


TOPIC = "kafka"
"""Name of the courier to the topic of events, which programs read; the others tell people."""


class Delivering(Protocol):
    """An outlet with a queue, as its figures are read."""

    @property
    def pending(self) -> int: ...  # noqa: D102 - said by the class

    delivered: int
    dropped: int


class Told(NamedTuple):
    """What is measured of a worker besides its turns; the outlets that open later are added to it."""

    health: HealthFile
    delivering: dict[str, Delivering]
    rings: Counter[tuple[str, int]]


@contextmanager
def listening(settings: Settings, loop: Loop, health: HealthFile) -> Iterator[None]:
    """Attach the configured outlets to ``loop`` while inside. Raises ConfigError for an outlet that cannot be opened."""
    chosen = _beside(settings.outlets, settings.runtime.worker)
    with ExitStack() as opened:
        couriers = _couriers(chosen, settings.intake, loop, opened)
        if couriers:
            _tell(couriers, loop)
        delivering: dict[str, Delivering] = dict(couriers)
        rings: Counter[tuple[str, int]] = Counter()
        if chosen.metrics_port is not None:
            _metrics(chosen, loop, Told(health, delivering, rings), opened)
        if chosen.keda_port is not None or chosen.external_metrics.port is not None:
            _advising(chosen, loop, opened)
        if chosen.traces.endpoint:
            delivering["traces"] = _traces(chosen, loop, opened)
        if chosen.alerts.urls:
            delivering["alertmanager"] = _alerts(chosen, loop, opened)
        if chosen.doorbell.port is not None:
            _doorbell(chosen, loop, rings, opened)
        yield


def _beside(outlets: OutletSettings, worker: str) -> OutletSettings:
    """Ports for this worker: the number its name ends in is added, so that the workers of one machine do not meet."""
    number = re.search(r"-(\d+)$", worker)
    ports = {name: getattr(outlets, name) for name in ("metrics_port", "keda_port")}
    moved: dict[str, Any] = {name: port + int(number[1]) for name, port in ports.items() if number and port is not None}
    for name in ("doorbell", "external_metrics"):
        one = getattr(outlets, name)
        if number and one.port is not None:
            moved[name] = one.model_copy(update={"port": one.port + int(number[1])})
    return outlets.model_copy(update=moved)


def _metrics(settings: OutletSettings, loop: Loop, told: Told, opened: ExitStack) -> None:
    from forecastle.outlets.metrics import Delivery, Metrics, Vitals, serving_metrics
    from forecastle.runtime.cloud_reports import reports

    rooms = loop.rooms

    def vitals() -> Vitals:
        beat = told.health.beat
        hold_s = time.time() - beat.hold_since / 1000 if beat.state == "HOLD" else 0.0
        refused = getattr(rooms.intake, "dead_lettered", 0)
        return Vitals(beat.state, beat.samples, beat.series, refused, rooms.store.late, hold_s)

    def lag() -> int:
        return sum(rooms.intake.progress().lag.values())

    def skew() -> Mapping[str, float]:
        return rooms.intake.progress().skew_s

    def deliveries() -> dict[str, Delivery]:
        return {name: Delivery(one.pending, one.delivered, one.dropped) for name, one in told.delivering.items()}

    metrics = Metrics(
        settings,
        rooms.inventory,
        vitals=vitals,
        lag=lag,
        skew=skew,
        deliveries=deliveries,
        clouds=partial(reports, rooms.clouds),
        rings=told.rings.copy,
    )
    opened.enter_context(serving_metrics(metrics, settings))
    loop.listeners.append(metrics.listen)


def _advising(settings: OutletSettings, loop: Loop, opened: ExitStack) -> None:
    """Those that answer from the board with the newest recommendations."""
    from forecastle.outlets.board import Board

    board = Board(loop.rooms.clock, settings.stale_s)
    if settings.keda_port is not None:
        _keda(settings, board, opened)
    if settings.external_metrics.port is not None:
        from forecastle.outlets.external_metrics import Catalogue, serving_external_metrics

        catalogue = Catalogue(board, loop.rooms.inventory, settings)
        opened.enter_context(serving_external_metrics(catalogue, settings.external_metrics))
        loop.listeners.append(catalogue.listen)
    loop.listeners.append(board.listen)


def _keda(settings: OutletSettings, board: Board, opened: ExitStack) -> None:
    try:
        from forecastle.outlets.keda import serving_keda
    except ImportError as error:
        raise ConfigError(f"outlets.keda_port: needs a package ({error}); pip install 'forecastle[keda]'") from error
    opened.enter_context(serving_keda(board, settings))


def _traces(settings: OutletSettings, loop: Loop, opened: ExitStack) -> Delivering:
    from forecastle.outlets.traces import TraceSender, request
    from forecastle.runtime.stopwatch import Stopwatch

    sender, stopwatch = TraceSender(settings.traces), Stopwatch()
    opened.callback(sender.close)
    stopwatch.watch(loop.rooms)

    def listen(turned: Turned) -> None:
        laps = stopwatch.take()
        if turned.situation is not None and turned.plans:
            sender.offer(request(turned, laps, loop.scope))

    loop.listeners.append(listen)
    return sender


def _alerts(settings: OutletSettings, loop: Loop, opened: ExitStack) -> Delivering:
    from forecastle.outlets.alerts import Alerts

    alerts = Alerts(settings.alerts)
    opened.callback(alerts.close)
    loop.listeners.append(alerts.listen)
    return alerts


def _doorbell(settings: OutletSettings, loop: Loop, rings: Counter[tuple[str, int]], opened: ExitStack) -> None:
    """Let others ring, and the loop hear it from its next tick on."""
    from forecastle.outlets.doorbell import Doorbell, serving_doorbell
    from forecastle.outlets.signals import SignalBook

    rooms, chosen = loop.rooms, settings.doorbell
    past_ms = (loop.rebuild_ticks + 1) * loop.step_ms
    path = Path(settings.cursors) / f"{loop.scope}-signals.jsonl"
    book = SignalBook(path, rooms.inventory, rooms.clock.now, hold_s=chosen.hold_s, keep_ms=past_ms)
    opened.enter_context(serving_doorbell(Doorbell(chosen, book, answers=rings)))
    rooms.hear = book.heard


def _couriers(settings: OutletSettings, intake: IntakeSettings, loop: Loop, opened: ExitStack) -> dict[str, Courier]:
    """One for each receiver of events, by its name in metrics and logs."""
    from forecastle.outlets.residency import within

    couriers: dict[str, Courier] = {}
    if settings.events_topic:
        from forecastle.intake.connection import options
        from forecastle.outlets.courier import Courier
        from forecastle.outlets.topic import EventTopic

        topic = EventTopic(settings, options(intake))
        opened.callback(topic.close)
        cursor = _cursor(settings, loop, f"topic-{settings.events_topic}")
        heard = within(loop.rooms.inventory, settings.events_residency)
        couriers[TOPIC] = Courier(
            TOPIC, topic.send, cursor, types=settings.events_types, may_hear=heard, pending=settings.pending
        )
    for number, receiver in enumerate(settings.webhooks):
        from forecastle.outlets.courier import Courier
        from forecastle.outlets.webhooks import Webhook, retry

        name, hook = f"webhook-{number}", Webhook(receiver)
        cursor = _cursor(settings, loop, f"webhook-{digest(receiver.url)}")
        pace = retry(receiver)
        heard = within(loop.rooms.inventory, receiver.residency)
        couriers[name] = Courier(
            name, hook.send, cursor, types=receiver.types, may_hear=heard, retry=pace, chunk=1, pending=settings.pending
        )
    for courier in couriers.values():
        opened.callback(courier.close)
    return couriers


def _cursor(settings: OutletSettings, loop: Loop, name: str) -> Cursor:
    """How far this worker told ``name``. A receiver that is new starts with the last decided tick."""
    from forecastle.outlets.courier import Cursor

    start = (loop.rooms.ledger.last_tick(loop.scope) or 0) - 1
    return Cursor(Path(settings.cursors) / f"{loop.scope}-{name}", start)


def _tell(couriers: dict[str, Courier], loop: Loop) -> None:
    from forecastle.outlets.events import Teller

    since = min(courier.tick for courier in couriers.values())
    teller = Teller(since, lambda tick: loop.rooms.ledger.plans(tick, loop.scope))

    untold: deque[Turned] = deque()

    def listen(turned: Turned) -> None:
        untold.append(turned)
        while untold:  # more than one after the ledger was away
            told = teller.events(untold[0])
            for name, courier in couriers.items():
                courier.offer(untold[0].closed.tick, told.records if name == TOPIC else told.pages)
            untold.popleft()

    loop.listeners.append(listen)
