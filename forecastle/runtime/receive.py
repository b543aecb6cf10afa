"""`forecastle receive`: the remote-write receiver as a process that ends well, by signal or by time."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable

from forecastle.intake.publish import create_topics
from forecastle.intake.receiver_http import PATH, receiving
from forecastle.runtime.clocks import WallClock
from forecastle.settings import Settings


def receive(settings: Settings, for_s: float | None, announce: Callable[[str], None]) -> None:
    """Make the topic and receive until SIGTERM, SIGINT or ``for_s`` seconds have passed; ``announce`` gets the URL to write to.

    Raises ConfigError or BrokerUnavailable.
    """
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    chosen = settings.intake.receive
    create_topics(settings.intake, [chosen.topic])
    with receiving(settings.intake, WallClock()) as port:
        scheme = "https" if chosen.tls_cert else "http"
        host = f"[{chosen.host}]" if ":" in chosen.host else chosen.host
        announce(f"{scheme}://{host}:{port}{PATH}")
        ended.wait(for_s)
