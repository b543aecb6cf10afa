"""Open incidents as alerts in Alertmanager, which groups, silences and routes them to the people who are on call.

Alertmanager is told a state, not events: every open incident again and again until it is closed, each time with an end that
lies a few repeats ahead. A worker that dies stops repeating, and its alerts end by themselves. What Alertmanager told us is
not told back to it. What one fault made is one alert (`pages`).
"""

from __future__ import annotations

import http.client
import logging
import os
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import SplitResult, urlsplit

import msgspec

from forecastle.errors import ConfigError
from forecastle.outlets.pages import Page, Pages
from forecastle.outlets.turn import Turn
from forecastle.settings import AlertSettings
from forecastle.types import Incident, Severity

logger = logging.getLogger(__name__)

API = "/api/v2/alerts"
REPEATS = 4
"""So many repeats may be lost before an alert ends by itself."""
FAREWELLS = 3
"""How often the end of an alert is told."""
LONGEST_TEXT = 500
_SEVERITIES = list(Severity)


class Alerts:
    """A loop listener with a thread that tells every configured Alertmanager. Raises ConfigError for a wrong address.

    ``delivered`` counts alerts that were taken, ``dropped`` those that an Alertmanager refused, each time they are told.
    """

    def __init__(
        self,
        settings: AlertSettings,
        environment: Mapping[str, str] = os.environ,
        *,
        tls: ssl.SSLContext | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._settings, self._now = settings, now
        self._urls = [_checked(url, bool(settings.token)) for url in settings.urls]
        self._tls = tls or ssl.create_default_context()
        self._headers = {"content-type": "application/json"}
        if settings.token:
            self._headers["authorization"] = f"Bearer {_token(environment, settings.token)}"
        self._pages = Pages()
        self._open: dict[str, Incident] = {}
        self._ended: dict[str, tuple[Incident, float, int]] = {}
        self._changed, self._stopped = threading.Condition(), False
        self._news, self._untold = False, 0
        self.delivered = self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="alerts", daemon=True)
        self._thread.start()

    @property
    def pending(self) -> int:
        """Alerts whose newest state was not told to every Alertmanager yet."""
        return len(self._open) + len(self._ended) if self._news else self._untold

    def listen(self, turn: Turn) -> None:
        """Take in the open incidents of a turn. Never blocks. Turns that only rebuild the past are not told."""
        pages = self._pages.of(turn.closed.incidents)
        if turn.situation is None:
            return
        worth = _SEVERITIES.index(self._settings.severity)
        chosen = [p.incident for p in pages if _SEVERITIES.index(p.incident.severity) >= worth and not _echo(p)]
        now_open = {i.id: i for i in chosen[: self._settings.most]}
        with self._changed:
            gone = {name: (i, self._now(), FAREWELLS) for name, i in self._open.items() if name not in now_open}
            self._news = self._news or bool(gone) or _told(now_open) != _told(self._open)
            self._ended |= gone
            self._open = now_open
            if self._news:
                self._changed.notify()

    def close(self) -> None:
        """Stop telling; what is open ends by itself unless another worker goes on."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join(self._settings.timeout_s * len(self._urls) + 1)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._news or self._stopped, self._settings.resend_s)
                if self._stopped and not self._news:
                    return
                self._news = False
                alerts = self._alerts()
            if alerts:
                body = msgspec.json.encode(alerts)
                taken = [self._tell(url, body, len(alerts)) for url in self._urls]
                self._untold = 0 if all(taken) else len(alerts)
            if self._stopped:
                return

    def _alerts(self) -> list[dict[str, Any]]:
        """The state now; each end is told a few times and then forgotten."""
        ahead = self._now() + REPEATS * self._settings.resend_s
        found = [self._alert(incident, ahead) for incident in self._open.values()]
        for name, (incident, at, left) in list(self._ended.items()):
            if name in self._open or left == 0:
                del self._ended[name]
            else:
                self._ended[name] = (incident, at, left - 1)
                found.append(self._alert(incident, at))
        return found

    def _alert(self, incident: Incident, ends_s: float) -> dict[str, Any]:
        labels = {
            "alertname": "ForecastleIncident",
            "origin": "forecastle",
            "workload": incident.workload,
            "site": incident.site,
            "severity": incident.severity.value,
            "worker": self._settings.worker,
        }
        metrics = sorted({anomaly.key.metric for anomaly in incident.anomalies})
        annotations = {
            "summary": incident.cause[:LONGEST_TEXT],
            "description": f"{incident.signals} independent signals: {', '.join(metrics)}"[:LONGEST_TEXT],
            "incident": incident.id,
            "group": incident.group,
        }
        found: dict[str, Any] = {
            "labels": {name: value for name, value in labels.items() if value},
            "annotations": {name: value for name, value in annotations.items() if value},
            "startsAt": _moment(min(incident.opened_at / 1000, ends_s)),
            "endsAt": _moment(ends_s),
        }
        return found | ({"generatorURL": self._settings.generator_url} if self._settings.generator_url else {})

    def _tell(self, url: SplitResult, body: bytes, count: int) -> bool:
        connection = self._connection(url)
        try:
            connection.request("POST", url.path.rstrip("/") + API, body, self._headers)
            status = connection.getresponse().status
        except (OSError, http.client.HTTPException) as error:
            logger.warning("alerts: %s cannot be reached: %s: %s", url.hostname, type(error).__name__, error)
            return False
        finally:
            connection.close()
        if status == 200:
            self.delivered += count
        else:
            self.dropped += count
            logger.warning("alerts: %s answered %d", url.hostname, status)
        return status == 200

    def _connection(self, url: SplitResult) -> http.client.HTTPConnection:
        timeout_s = self._settings.timeout_s
        if url.scheme == "https":
            return http.client.HTTPSConnection(str(url.hostname), url.port, timeout=timeout_s, context=self._tls)
        return http.client.HTTPConnection(str(url.hostname), url.port, timeout=timeout_s)


def _told(incidents: Mapping[str, Incident]) -> Sequence[tuple[str, Severity, str]]:
    """What about them is worth telling at once."""
    return [(i.id, i.severity, i.cause) for i in incidents.values()]


def _echo(page: Page) -> bool:
    """Whether it consists of what others told us."""
    return all("witness" in anomaly.evidence for i in (page.incident, *page.others) for anomaly in i.anomalies)


def _moment(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _checked(text: str, secret: bool) -> SplitResult:
    url = urlsplit(text)
    if url.scheme not in {"http", "https"} or not url.hostname or url.username or url.query or url.fragment:
        raise ConfigError(f"outlets.alerts.urls: '{text}' is not an address such as https://alertmanager.example.org")
    if secret and url.scheme == "http" and url.hostname not in {"127.0.0.1", "::1", "localhost"}:
        raise ConfigError(f"outlets.alerts.token: would cross a network in the clear to '{text}'; write https://")
    return url


def _token(environment: Mapping[str, str], name: str) -> str:
    found = environment.get(name, "").strip()
    if not found or not found.isprintable():
        raise ConfigError(f"outlets.alerts.token: the environment variable {name} is empty or not printable; set it")
    return found
